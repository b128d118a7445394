//! Reads of the local replica without its leader, if it is far and fresh enough.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::ShardId;
use storage::machine::Replica;

use super::{Shards, not_leader};
use crate::error::Error;
use crate::forward::{Answer, Failure, Near, Operation, QueryPart, Request, Seen};

/// How long a replica may need to reach a position before somebody else is asked. A follower hears of a commit with the next append or
/// heartbeat, so most positions are reached within it.
const CATCH_UP: Duration = Duration::from_millis(200);

impl Shards {
    /// Answers a read from the replica here.
    ///
    /// # Errors
    /// `Busy` if it is too far behind; `NotLeader` without a replica.
    pub(crate) async fn near(
        &self,
        request: &Request,
        near: Near,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let shard = request.shard;
        let until = deadline.min(Instant::now() + CATCH_UP);
        self.catch_up(request.metadata_version, until).await?;
        if let Operation::Queries(queries) = &request.operation {
            return Box::pin(self.queries(request, queries, Some(near), deadline)).await;
        }
        let (replica, age_us) = self.qualified(shard, near, until).await?;
        let mut answer = match &request.operation {
            Operation::Get(get) => self.get_applied(&replica, request, get, deadline).await?,
            Operation::Scan(scan) => self.page(request, scan, false, deadline).await?,
            Operation::Query(query) => self.query(request, query, false, deadline).await?,
            Operation::Changes(changes) => self.changes(request, changes, deadline).await?,
            Operation::Tail(tail) => self.tail(shard, tail, deadline).await?,
            Operation::FollowStale(follow) => self.stale_part(shard, follow, deadline).await?,
            Operation::Write(_)
            | Operation::Update(_)
            | Operation::Queries(_)
            | Operation::FindUser(_)
            | Operation::SetBuckets(_)
            | Operation::ChangeSchema(_)
            | Operation::ChangeIndexes(_)
            | Operation::IndexProgress(_)
            | Operation::MetadataVersion(_)
            | Operation::InitCluster(_)
            | Operation::AnnounceNode(_)
            | Operation::Replicas(_)
            | Operation::Command(_)
            | Operation::FindHolder(_)
            | Operation::CheckHolds(_)
            | Operation::UniquePage(_)
            | Operation::FollowRights(_)
            | Operation::RotateSigningKey(_)
            | Operation::Govern(_)
            | Operation::ReadAudit(_)
            | Operation::Watermark(_)
            | Operation::History(_)
            | Operation::ReadConsumers(_)
            | Operation::AckConsumer(_)
            | Operation::Probe(_) => {
                return Err(Error::bad_request("only reads have a level").into());
            }
        };
        see(&mut answer, &replica, age_us);
        Ok(answer)
    }

    /// The replica of a shard here, if it is far and fresh enough, and how old it is at most, in microseconds.
    ///
    /// # Errors
    /// As [`Self::near`].
    async fn qualified(
        &self,
        shard: ShardId,
        near: Near,
        until: Instant,
    ) -> Result<(Arc<Replica>, Option<u64>), Failure> {
        let Some(replica) = self.groups.replica(shard) else {
            let leader = self.groups.leader(shard);
            return Err(not_leader(leader.map(|leader| leader.node)));
        };
        if index(&replica) < near.at_least
            && !self.groups.reaches(shard, near.at_least, until).await
        {
            return Err(behind("the replica here has not reached the position yet"));
        }
        let age = self.evidence.age(shard, &replica);
        let age_us = age.map(|age| u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
        if near
            .age_us_max
            .is_some_and(|max| age_us.is_none_or(|age| age > max))
        {
            return Err(behind("the replica here cannot prove that it is so fresh"));
        }
        Ok((replica, age_us))
    }

    /// The replica of a part of a query, as fresh as it must be, and how old it is at most: behind a barrier, or without one as `near` says.
    ///
    /// # Errors
    /// As [`Self::near`], and those of the barrier.
    pub(super) async fn fresh(
        &self,
        part: &QueryPart,
        near: Option<Near>,
        deadline: Instant,
    ) -> Result<(Arc<Replica>, Option<u64>), Failure> {
        let shard = ShardId(part.shard);
        let Some(near) = near else {
            let replica = self.replica(shard)?;
            self.barrier(shard, deadline).await?;
            return Ok((replica, Some(0)));
        };
        // One that has just come holds nothing yet, which says nothing about the shard.
        let holds = |replica: &Arc<Replica>| replica.applied().id.is_some();
        if self
            .groups
            .replica(shard)
            .is_none_or(|replica| !holds(&replica))
        {
            return Err(behind("the replica here holds nothing yet"));
        }
        let near = Near {
            at_least: part.at_least,
            ..near
        };
        let until = deadline.min(Instant::now() + CATCH_UP);
        self.qualified(shard, near, until).await
    }
}

/// Adds to an answer how far the replica is that it was read from. After the read: what was read lies at or below it.
pub(super) fn see(answer: &mut Answer, replica: &Arc<Replica>, age_us: Option<u64>) {
    let seen = Some(seen(replica, age_us));
    match answer {
        Answer::Record(record) => record.seen = seen,
        Answer::Page(page) => page.seen = seen,
        Answer::Found(found) => found.seen = seen,
        Answer::Stale(part) => part.seen = seen,
        Answer::Written(_)
        | Answer::Replies(_)
        | Answer::Version(_)
        | Answer::Done(_)
        | Answer::Outcome(_)
        | Answer::Holder(_)
        | Answer::Holding(_)
        | Answer::Values(_)
        | Answer::IndexesComplete(_)
        | Answer::Rights(_)
        | Answer::AuditPage(_)
        | Answer::Changes(_)
        | Answer::Consumers(_)
        | Answer::Tail(_)
        | Answer::Proofs(_) => {}
    }
}

/// How far a replica is that something was just read from.
pub(super) fn seen(replica: &Replica, age_us: Option<u64>) -> Seen {
    Seen {
        index: index(replica),
        age_us,
    }
}

/// How far a replica is.
pub(super) fn index(replica: &Replica) -> u64 {
    replica.applied().id.map_or(0, |id| id.index)
}

fn behind(message: &str) -> Failure {
    Failure::Busy(Error::unavailable(message))
}
