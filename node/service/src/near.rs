//! Reads that need not ask the leader: `bounded`, as old as their evidence allows, and `local`, as old as the replica is.
//!
//! The asked node serves them itself if it holds a replica that qualifies. If not, the leader is asked for a linearizable answer, which
//! is fresher than what was wanted; and where no leader answers, every other replica. So they go on without a quorum for as long as
//! anybody can prove enough.

use std::time::{Duration, Instant};

use cluster::state::ClusterState;
use proto::{ErrorCode, NodeId, ShardId};

use crate::Core;
use crate::context::{Consistency, Freshness, Served};
use crate::error::{Error, Result};
use crate::forward::{Answer, Failure, Near, Probe, Proof, Proofs, Request, Seen};
use crate::position::Position;

/// How long the leader is asked before the other replicas are: longer than a failover.
const LEADER_TRY: Duration = Duration::from_millis(2_500);
/// How long one other replica may take.
const HOLDER_TRY: Duration = Duration::from_millis(500);

impl Core {
    /// Gets a read answered as freshly as the caller wants it; gives the level that the answer has.
    ///
    /// # Errors
    /// What the read itself refuses; `Unavailable` if nobody can give it so fresh.
    pub(crate) async fn read(
        &self,
        state: &ClusterState,
        mut request: Request,
        freshness: &Freshness,
        deadline: Instant,
    ) -> Result<(Answer, Consistency)> {
        let shard = request.shard;
        check_positions(state, freshness)?;
        let Some(near) = self.near(shard, freshness) else {
            let answer = self.route(state, &request, deadline).await?;
            return Ok((answer, Consistency::Linearizable));
        };
        request.near = Some(near);
        let level = freshness.consistency;
        let holds = self.holds_state(shard);
        let first = if holds {
            Some(self.shards.near(&request, near, deadline).await)
        } else {
            self.ask_holders(state, &request, deadline).await
        };
        match first {
            Some(Ok(answer)) => return Ok((answer, level)),
            Some(Err(Failure::Refused(error))) => return Err(error),
            Some(Err(_)) | None => {}
        }
        request.near = None;
        let until = if holds {
            deadline.min(Instant::now() + LEADER_TRY)
        } else {
            deadline
        };
        let unavailable = match self.route(state, &request, until).await {
            Ok(answer) => return Ok((answer, Consistency::Linearizable)),
            Err(error) if error.code == ErrorCode::Unavailable => error,
            Err(error) => return Err(error),
        };
        request.near = Some(near);
        if holds && let Some(answer) = self.ask_holders(state, &request, deadline).await {
            match answer {
                Ok(answer) => return Ok((answer, level)),
                Err(Failure::Refused(error)) => return Err(error),
                Err(_) => {}
            }
        }
        Err(Error::unavailable(match level {
            Consistency::Bounded(age_max) => format!(
                "no replica of shard {shard} can prove a state of the last {} ms, and its leader does not answer ({})",
                age_max.as_millis(),
                unavailable.message
            ),
            Consistency::Linearizable | Consistency::Local => unavailable.message,
        }))
    }

    /// What a replica must be able to say of itself to answer so freshly; `None`: the leader is asked.
    pub(crate) fn near(&self, shard: ShardId, freshness: &Freshness) -> Option<Near> {
        let age_max = match freshness.consistency {
            // Whatever position the caller has seen was acknowledged before this read began.
            Consistency::Linearizable => return None,
            Consistency::Bounded(age_max) => Some(age_max),
            Consistency::Local => None,
        };
        Some(Near {
            age_us_max: age_max.map(|age| u64::try_from(age.as_micros()).unwrap_or(u64::MAX)),
            // A node never shows less than what it has acknowledged itself.
            at_least: freshness
                .index_in(shard)
                .max(self.evidence.acknowledged(shard)),
        })
    }

    /// Who is to be asked first for a read that need not go to the leader: this node if it holds anything, else another holder.
    pub(crate) fn nearest(&self, state: &ClusterState, shard: ShardId) -> Option<NodeId> {
        if self.holds_state(shard) {
            return Some(self.options.node);
        }
        self.other_holders(state, shard).first().copied()
    }

    /// The other live holders of a replica, the leader first.
    fn other_holders(&self, state: &ClusterState, shard: ShardId) -> Vec<NodeId> {
        let leader = self.router.leader(shard);
        let holders = state.assignments(shard).iter();
        let mut holders: Vec<NodeId> = holders
            .map(|holder| holder.node)
            .filter(|node| *node != self.options.node && self.is_alive(*node))
            .collect();
        holders.sort_by_key(|node| Some(*node) != leader);
        holders
    }

    /// Whether a replica here holds the shard's state. One that has just come does not, and what it lacks says nothing about the shard.
    pub(crate) fn holds_state(&self, shard: ShardId) -> bool {
        self.groups.is_filled(shard)
    }

    /// Asks the other holders of a replica, the leader first. `None`: there is none, or none answered.
    pub(crate) async fn ask_holders(
        &self,
        state: &ClusterState,
        request: &Request,
        deadline: Instant,
    ) -> Option<Result<Answer, Failure>> {
        for node in self.other_holders(state, request.shard) {
            let until = deadline.min(Instant::now() + HOLDER_TRY);
            match Box::pin(self.router.send(node, request, until)).await {
                answer @ (Ok(_) | Err(Failure::Refused(_))) => return Some(answer),
                Err(Failure::NotLeader { .. } | Failure::Busy(_) | Failure::Unknown) => {}
            }
        }
        None
    }

    /// Whether rights may be judged by this node's metadata: it must be confirmed lately enough for the level that the caller wants.
    ///
    /// Who asks for older state gets older rights with it: the ACL of a document is as old as the document.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(crate) async fn check_rights(
        &self,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<()> {
        let age_max = self.options.limits.metadata_age_max;
        let age_max = match consistency {
            Consistency::Linearizable => age_max,
            Consistency::Bounded(bound) => age_max.max(bound),
            Consistency::Local => return Ok(()),
        };
        if self.evidence.is_metadata_within(age_max) {
            return Ok(());
        }
        let until = deadline.min(Instant::now() + RIGHTS_WAIT);
        if self.evidence.metadata_within(age_max, until).await {
            return Ok(());
        }
        Err(stale_rights(age_max))
    }

    /// What this node can prove as a leader to the node that asks.
    pub(crate) fn answer_probe(&self, probe: &Probe) -> Answer {
        self.evidence
            .note_declines(NodeId(probe.node), probe.declines);
        let proofs = probe.shards.iter().filter_map(|shard| {
            let confirmed = self.groups.confirmed(ShardId(*shard))?;
            Some(Proof {
                shard: *shard,
                index: confirmed.index,
                age_us: u64::try_from(confirmed.age.as_micros()).ok()?,
            })
        });
        Answer::Proofs(Proofs {
            proofs: proofs.collect(),
        })
    }
}

/// How long a request waits for younger metadata: a node that stood still needs one question.
const RIGHTS_WAIT: Duration = Duration::from_secs(1);

/// The refusal of a node whose metadata nobody confirms.
pub(crate) fn stale_rights(age_max: Duration) -> Error {
    Error::unavailable(format!(
        "this node has not heard from the leader of the metadata for more than {} ms, so it cannot judge rights",
        age_max.as_millis()
    ))
}

/// # Errors
/// `BadRequest`: a position of no shard of this cluster.
pub(crate) fn check_positions(state: &ClusterState, freshness: &Freshness) -> Result<()> {
    let is_known = |position: &Position| (1..=state.shards).contains(&position.shard.0);
    if freshness.at_least.iter().all(is_known) {
        return Ok(());
    }
    Err(Error::bad_request(
        "a position is not one of this cluster: send it as an answer gave it",
    ))
}

impl Served {
    /// What an answer says of itself; `None`: it came from a release that does not.
    pub(crate) fn of(
        shard: ShardId,
        seen: Option<Seen>,
        consistency: Consistency,
    ) -> Option<Served> {
        let seen = seen?;
        Some(Served {
            position: Position {
                shard,
                index: seen.index,
            },
            consistency,
            age: seen.age_us.map(Duration::from_micros),
        })
    }
}
