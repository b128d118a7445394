//! Asks the leaders of all shards with a replica here how far they are, see `crate::evidence`: one question per node and round, for all
//! shards that it leads. Costs the leaders no round of their own: they tell when a quorum last answered their heartbeats.
//!
//! The question also says whether the asking node should lead.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use document::acl::Principal;
use futures::future::join_all;
use proto::{NodeId, ShardId};
use tokio_util::sync::CancellationToken;

use crate::Core;
use crate::forward::{Answer, Operation, Probe, Request, decode_reply};

/// Between two rounds. With the age of a leader's own confirmation (a heartbeat and its answer) evidence stays well below a second.
const INTERVAL: Duration = Duration::from_millis(400);
/// Rounds that are asked for come no closer than this.
const INTERVAL_MIN: Duration = Duration::from_millis(50);
/// A node that answers later is asked again anyway.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// The job.
pub struct Evidence {
    core: Arc<Core>,
}

impl Evidence {
    pub(super) fn new(core: Arc<Core>) -> Evidence {
        Evidence { core }
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let next = Instant::now() + INTERVAL_MIN;
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.round() => {}
            }
            self.core.evidence.asked();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
                () = self.core.evidence.wanted() => tokio::time::sleep_until(next.into()).await,
            }
        }
    }

    /// Notes what this node confirms itself, and asks the others.
    async fn round(&self) {
        let core = &self.core;
        let mut questions: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
        for shard in core.groups.shards() {
            if let Some(own) = core.groups.confirmed(shard) {
                // Noted, since a leader that steps down forgets it.
                if let Some(sent) = Instant::now().checked_sub(own.age) {
                    core.evidence.record(shard, sent, own.index);
                }
            } else if let Some(leader) = core.router.leader(shard)
                && leader != core.options.node
            {
                questions.entry(leader).or_default().push(shard.0);
            }
        }
        // Whoever should not lead tells everybody; whoever may again is heard of by the nodes that it asks.
        if core.evidence.is_unfit() {
            let state = core.metadata.current();
            let others = state
                .nodes
                .keys()
                .filter(|node| **node != core.options.node);
            others.for_each(|node| {
                questions.entry(*node).or_default();
            });
        }
        let asked = questions
            .into_iter()
            .map(|(node, shards)| self.ask(node, shards));
        join_all(asked).await;
    }

    async fn ask(&self, node: NodeId, shards: Vec<u32>) {
        let core = &self.core;
        let request = Request {
            shard: ShardId::META,
            principal: Principal::root(),
            idempotency_key: None,
            metadata_version: 0,
            near: None,
            operation: Operation::Probe(Probe {
                node: core.options.node.0,
                declines: core.evidence.is_unfit(),
                shards,
            }),
        };
        // Before it leaves: that is the moment which the answer proves something about.
        let sent = Instant::now();
        let deadline = sent + ANSWER_TIME;
        let reply = core
            .forward
            .forward(node, request.encode(deadline), deadline)
            .await;
        let Ok(Ok(Answer::Proofs(proofs))) = reply.map(decode_reply) else {
            return;
        };
        for proof in proofs.proofs {
            if let Some(sent) = sent.checked_sub(Duration::from_micros(proof.age_us)) {
                core.evidence
                    .record(ShardId(proof.shard), sent, proof.index);
            }
        }
    }
}
