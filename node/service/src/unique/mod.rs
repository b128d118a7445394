//! Values of unique indexes: reserved in the shard of the value before a document with it is written.

use std::sync::Arc;
use std::time::Instant;

use cluster::state::{ClusterState, Database, IndexInfo};
use proto::ShardId;

use crate::Core;
use crate::error::Result;

/// Two documents that have the same value of an index that should become unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Keys of the two documents.
    pub(crate) keys: [String; 2],
}

impl Core {
    /// Takes the documents of one shard into a unique index that is being built, page by page, each after its values are reserved. Goes on
    /// where an earlier call stopped.
    ///
    /// # Errors
    /// A shard did not answer in time: call again.
    pub(crate) async fn backfill_unique(
        &self,
        _state: &Arc<ClusterState>,
        _database: &Database,
        _index: &IndexInfo,
        _shard: ShardId,
        _deadline: Instant,
    ) -> Result<std::result::Result<(), Violation>> {
        todo!()
    }
}
