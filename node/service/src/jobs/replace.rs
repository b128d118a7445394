//! Carries replacements of replicas out, one step of a shard at a time.
//!
//! The metadata names what is wanted, the shard's group how far it is; the leader of the shard does the next step. Whatever crashes,
//! the next leader sees the same two and goes on.
//!
//! The node of a new replica hears of it by following the metadata. One whose own replica of the metadata is to be renewed may have
//! lost it, so the metadata leader tells it, before anything is sent there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::{Replacement, Step};
use futures::future::join_all;
use proto::ShardId;
use tokio_util::sync::CancellationToken;

use crate::Core;
use crate::error::{Error, Result};
use crate::ports::PortError;

/// Between two steps of a shard.
const INTERVAL: Duration = Duration::from_millis(250);
/// A step that takes longer is given up, and found half done by the next look.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// The job.
pub struct Replace {
    core: Arc<Core>,
}

impl Replace {
    pub(super) fn new(core: Arc<Core>) -> Replace {
        Replace { core }
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.step_all() => {}
            }
        }
    }

    /// One step of each shard that is led here and has something to do.
    pub(crate) async fn step_all(&self) {
        let state = self.core.metadata.current();
        let led = state.replacements.iter().filter_map(|(shard, under_way)| {
            let replacement = (*under_way)?;
            self.core
                .groups
                .is_leader(*shard)
                .then_some((*shard, replacement))
        });
        let steps = led.map(|(shard, replacement)| async move {
            if let Err(error) = self.step(shard, replacement).await {
                tracing::warn!(%shard, %error, "replacing a replica: this step is tried again");
            }
        });
        join_all(steps).await;
    }

    async fn step(&self, shard: ShardId, replacement: Replacement) -> Result<()> {
        let groups = &self.core.groups;
        let Some(members) = groups.members(shard) else {
            return Ok(());
        };
        let step = replacement.next_step(&members, |node| self.core.is_alive(node));
        let (old, new) = (replacement.old.replica, replacement.new);
        if step != Step::Wait {
            tracing::info!(%shard, %old, new = %new.replica, ?step, "replacing a replica");
        }
        let done = match step {
            Step::Wait => return Ok(()),
            Step::HandOver(to) => groups.transfer_leader(shard, to),
            Step::AddLearner => {
                if shard.is_meta() {
                    self.tell(replacement).await?;
                }
                groups.add_learner(shard, new.replica, new.node)
            }
            Step::ChangeVoters(voters) => groups.change_voters(shard, voters),
            Step::Confirm => {
                let deadline = Instant::now() + STEP_TIMEOUT;
                return self.core.confirm_replaced(shard, old, deadline).await;
            }
        };
        match tokio::time::timeout(STEP_TIMEOUT, done).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(PortError(reason))) => Err(Error::unavailable(reason)),
            Err(_) => Err(Error::unavailable("it took too long")),
        }
    }

    /// Has a node open its new replica of the metadata, in the place of the old one.
    async fn tell(&self, replacement: Replacement) -> Result<()> {
        let state = self.core.metadata.current();
        let Replacement { old, new } = replacement;
        let Some(node) = state.nodes.get(&new.node) else {
            return Ok(());
        };
        let nodes: Vec<_> = state
            .nodes
            .iter()
            .map(|(id, node)| node.to_command(*id))
            .collect();
        let joined = self.core.members.join(
            &node.peer_address,
            &state.cluster_id,
            new.replica,
            Some(old.replica),
            &nodes,
            Instant::now() + STEP_TIMEOUT,
        );
        joined
            .await
            .map_err(|PortError(reason)| Error::unavailable(reason))
    }
}
