//! Commands to document shards that no client sends: the work on indexes and on the values of unique ones.

use std::sync::Arc;
use std::time::Instant;

use cluster::state::ClusterState;
use proto::ShardId;
use proto::log::command;
use storage::machine::outcome::Outcome;

use crate::Core;
use crate::error::Result;

impl Core {
    /// Proposes a command to a shard, through its leader, and gives what it led to. All of these commands may be repeated, and are, until
    /// the deadline.
    ///
    /// # Errors
    /// `Unavailable`: no answer in time; it may have taken effect.
    pub(crate) async fn command(
        &self,
        _state: &Arc<ClusterState>,
        _shard: ShardId,
        _operation: command::Operation,
        _deadline: Instant,
    ) -> Result<Outcome> {
        todo!()
    }
}
