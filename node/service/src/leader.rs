//! What the leader of a shard does with a request: validate, pre-check, stamp, propose, or read behind a barrier.
//!
//! Runs on the node that leads, called directly by that node's own requests and by [`crate::forward`] for those of others. It trusts
//! the principal that the asked node authenticated, and resolves names again with its own copy of the metadata, which it lets catch up
//! with the asked node's first.
//!
//! Invariants:
//! - Nothing is proposed that was not validated under the bucket version that it is stamped with.
//! - A refusal on grounds of stored state is decided behind a read barrier, or by apply; never on state that may be stale.
//! - The accepting path of a write takes no barrier: apply checks everything again.

mod changes;
mod claims;
mod history;
pub(crate) mod indexes;
mod layouts;
mod near;
mod per_schema;
mod prepare;
mod query;
mod read;
pub(crate) mod readers;
mod refusal;
mod rights;
mod stale;
mod tail;
mod ticks;
mod unique;
mod update;
mod write;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cluster::state::{BucketInfo, ClusterState, Database};
use prost::Message as _;
use proto::{NodeId, ShardId};
use storage::machine::Replica;
use storage::machine::outcome::Outcome;

use self::changes::Progressed;
use self::indexes::Indexes;
use self::layouts::Layouts;
pub(crate) use self::tail::Tailed;
use self::ticks::Ticks;
use crate::Ports;
use crate::clock::Clock;
use crate::consumers::Desk;
use crate::error::{Error, Result};
use crate::evidence::Evidence;
use crate::forward::{Answer, Failure, Operation, Request};
use crate::limits::Limits;
use crate::metadata::Metadata;
use crate::near::stale_rights;
use crate::ports::{Groups, ProposeError, ReadError};
use crate::reads::ReadPool;
use crate::rights::Ends;
use crate::unique::Unique;

/// The leader's side of all shards that this node leads.
pub(crate) struct Shards {
    limits: Limits,
    groups: Arc<dyn Groups>,
    clock: Arc<dyn Clock>,
    metadata: Metadata,
    evidence: Arc<Evidence>,
    reads: ReadPool,
    /// For queries: long walks must not keep reads of single documents waiting.
    walks: ReadPool,
    plans: query::PlanMeter,
    known: Arc<query::Known>,
    layouts: Layouts,
    pub(crate) indexes: Indexes,
    unique: Arc<Unique>,
    pub(crate) readers: Arc<readers::Readers>,
    ends: Arc<Ends>,
    ticks: Ticks,
    /// For feeds: they have threads of their own, so that they keep no request waiting.
    log_reads: ReadPool,
    progressed: Arc<Progressed>,
    /// What this node knows of consumers as the leader of the metadata.
    pub(crate) consumers: Arc<Desk>,
    /// This node, for what answers say of themselves.
    node: NodeId,
}

impl Shards {
    pub(crate) fn new(
        node: NodeId,
        limits: &Limits,
        ports: &Ports,
        metadata: Metadata,
        evidence: Arc<Evidence>,
        unique: Arc<Unique>,
        ends: Arc<Ends>,
    ) -> Shards {
        let (groups, clock) = (Arc::clone(&ports.groups), Arc::clone(&ports.clock));
        Shards {
            reads: ReadPool::new(limits.disk_reads_max),
            walks: ReadPool::new(limits.query_walks_max),
            plans: query::PlanMeter::default(),
            known: Arc::default(),
            limits: limits.clone(),
            ticks: Ticks::new(Arc::clone(&clock)),
            log_reads: ReadPool::new(limits.feed_reads_max),
            progressed: Progressed::new(Arc::clone(&groups)),
            groups,
            clock,
            metadata,
            evidence,
            layouts: Layouts::default(),
            indexes: Indexes::default(),
            unique,
            readers: Arc::default(),
            ends,
            consumers: Arc::default(),
            node,
        }
    }

    /// Carries out a request for a shard that this node leads.
    pub(crate) async fn execute(
        &self,
        request: &Request,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        self.catch_up(request.metadata_version, deadline).await?;
        let age_max = self.limits.metadata_age_max;
        if request.operation.needs_rights() && !self.evidence.is_metadata_within(age_max) {
            return Err(Failure::Busy(stale_rights(age_max)));
        }
        match &request.operation {
            Operation::Write(writes) | Operation::Update(writes) => {
                self.write(request, writes, deadline).await
            }
            Operation::Get(get) => self.get(request, get, deadline).await,
            Operation::Scan(scan) => Box::pin(self.scan(request, scan, deadline)).await,
            Operation::Query(query) => {
                Box::pin(self.query_behind_barrier(request, query, deadline)).await
            }
            Operation::Queries(queries) => {
                Box::pin(self.queries(request, queries, None, deadline)).await
            }
            Operation::FindUser(find) => Box::pin(self.find_user(request, find, deadline)).await,
            Operation::SetBuckets(buckets) => {
                Box::pin(self.set_buckets(request.shard, buckets, deadline)).await
            }
            Operation::ChangeSchema(change) => {
                Box::pin(self.change_schema(request, change, deadline)).await
            }
            Operation::ChangeIndexes(change) => {
                Box::pin(self.change_indexes(request, change, deadline)).await
            }
            Operation::IndexProgress(asked) => {
                Box::pin(self.index_progress(request.shard, asked, deadline)).await
            }
            Operation::InitCluster(command) => {
                Box::pin(self.init_metadata(command, deadline)).await
            }
            Operation::AnnounceNode(command) => {
                Box::pin(self.announce_node(command, deadline)).await
            }
            Operation::Replicas(command) => Box::pin(self.change_replicas(command, deadline)).await,
            Operation::MetadataVersion(_) => Box::pin(self.metadata_version(deadline)).await,
            Operation::Command(command) => {
                Box::pin(self.internal_command(request.shard, command, deadline)).await
            }
            Operation::FindHolder(value) => {
                Box::pin(self.find_holder(request.shard, value, deadline)).await
            }
            Operation::CheckHolds(holds) => {
                Box::pin(self.check_holds(request, holds, deadline)).await
            }
            Operation::UniquePage(page) => {
                Box::pin(self.unique_page(request.shard, *page, deadline)).await
            }
            Operation::FollowRights(follow) => {
                Box::pin(self.follow_rights(request.shard, follow, deadline)).await
            }
            Operation::RotateSigningKey(command) => {
                Box::pin(self.rotate_signing_key(command, deadline)).await
            }
            Operation::Govern(command) => Box::pin(self.govern(command, deadline)).await,
            Operation::ReadAudit(asked) => {
                Box::pin(self.read_audit(request.shard, *asked, deadline)).await
            }
            Operation::Changes(changes) => Box::pin(self.changes(request, changes, deadline)).await,
            Operation::Watermark(_) => Box::pin(self.watermark(request.shard, deadline)).await,
            Operation::Tail(tail) => Box::pin(self.tail(request.shard, tail, deadline)).await,
            Operation::FollowStale(follow) => {
                self.barrier(request.shard, deadline).await?;
                let mut answer = self.stale_part(request.shard, follow, deadline).await?;
                near::see(&mut answer, &self.replica(request.shard)?, Some(0));
                Ok(answer)
            }
            Operation::History(history) => Box::pin(self.history(request, history, deadline)).await,
            Operation::ReadConsumers(asked) => Box::pin(self.read_consumers(asked, deadline)).await,
            Operation::AckConsumer(ack) => self.ack_consumer(ack),
            // Answered before it comes here: no shard's leader is asked.
            Operation::Probe(_) => Err(Error::bad_request("a probe is for no shard").into()),
        }
    }

    /// Waits until this node's metadata is as new as the asked node's.
    async fn catch_up(&self, version: u64, deadline: Instant) -> Result<(), Failure> {
        if self.metadata.current().version >= version {
            return Ok(());
        }
        let newer = self
            .metadata
            .wait(deadline, |state| state.version >= version)
            .await;
        let behind = || {
            Failure::Busy(Error::unavailable(
                "the metadata of the shard's leader is behind",
            ))
        };
        newer.map(|_| ()).ok_or_else(behind)
    }

    /// The version of the metadata once everything committed so far is applied here.
    async fn metadata_version(&self, deadline: Instant) -> Result<Answer, Failure> {
        self.barrier(ShardId::META, deadline).await?;
        Ok(Answer::Version(self.metadata.current().version))
    }

    /// The applied state that this node leads.
    fn replica(&self, shard: ShardId) -> Result<Arc<Replica>, Failure> {
        self.groups
            .replica(shard)
            .ok_or(Failure::NotLeader { hint: None })
    }

    /// The applied state here, if there is any.
    pub(crate) fn replica_of(&self, shard: ShardId) -> Option<Arc<Replica>> {
        self.groups.replica(shard)
    }

    /// Makes the applied state here current, if this node still leads.
    pub(crate) async fn barrier(&self, shard: ShardId, deadline: Instant) -> Result<(), Failure> {
        Ok(self.groups.read_barrier(shard, deadline).await?)
    }

    /// Proposes an encoded command; gives the encoded reply.
    pub(crate) async fn propose_raw(
        &self,
        shard: ShardId,
        command: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, Failure> {
        Ok(self.groups.propose(shard, command, deadline).await?)
    }

    /// The metadata as applied here.
    pub(crate) fn metadata_now(&self) -> Arc<ClusterState> {
        self.metadata.current()
    }

    /// Wall time for stamps.
    pub(crate) fn now_us(&self) -> u64 {
        self.clock.wall_us()
    }

    /// Proposes a command to a document shard.
    pub(crate) async fn propose(
        &self,
        shard: ShardId,
        command: &proto::log::Command,
        deadline: Instant,
    ) -> Result<Outcome, Failure> {
        let reply = self
            .propose_raw(shard, command.encode_to_vec().into(), deadline)
            .await?;
        // The command is applied; only its reply is unreadable.
        Outcome::decode(&reply).map_err(|error| {
            tracing::error!(%error, %shard, "reply of the state machine does not decode");
            Failure::Unknown
        })
    }

    /// Runs a read that may wait for a disk, in the bounded pool.
    pub(crate) async fn read<T, F>(&self, deadline: Instant, read: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        self.reads.run(deadline, read).await
    }

    async fn set_buckets(
        &self,
        shard: ShardId,
        buckets: &Bytes,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let Ok(buckets) = proto::log::SetBuckets::decode(buckets.clone()) else {
            return Err(Error::bad_request("malformed buckets").into());
        };
        let replica = self.replica(shard)?;
        let operation = proto::log::command::Operation::SetBuckets(buckets);
        let command = self.command(shard, &replica, operation);
        self.propose(shard, &command, deadline).await?;
        Ok(Answer::Done(true))
    }

    /// A command with time and tick of now.
    pub(crate) fn command(
        &self,
        shard: ShardId,
        replica: &Replica,
        operation: proto::log::command::Operation,
    ) -> proto::log::Command {
        let committed = self.groups.commit_index(shard);
        proto::log::Command {
            tick: Some(self.tick(shard, replica, committed)),
            stamp_us: self.clock.wall_us(),
            operation: Some(operation),
        }
    }

    /// The shard's T, as close as it can be told now: what a tick would make it.
    pub(crate) fn time_us(&self, shard: ShardId, replica: &Replica) -> u64 {
        let tick = self.tick(shard, replica, 0);
        tick.base_us.saturating_add(tick.elapsed_us)
    }

    fn tick(&self, shard: ShardId, replica: &Replica, committed: u64) -> proto::log::Tick {
        let leader = self.groups.leader(shard);
        let term = leader.map_or(0, |leader| leader.term);
        self.ticks.tick(shard, replica, term, committed)
    }
}

/// The database of a request; the asked node found it, so only a drop in between can have removed it.
pub(crate) fn find_database<'a>(state: &'a ClusterState, name: &str) -> Result<&'a Database> {
    state
        .database(name)
        .ok_or_else(|| Error::database_not_found(name))
}

/// A bucket of a database, by name.
pub(crate) fn find_bucket<'a>(database: &'a Database, name: &str) -> Result<&'a BucketInfo> {
    database
        .buckets
        .get(name)
        .ok_or_else(|| Error::bucket_not_found(name))
}

impl From<ProposeError> for Failure {
    fn from(error: ProposeError) -> Failure {
        match error {
            ProposeError::NotLeader { hint } => not_leader(hint),
            ProposeError::NoGroup => not_leader(None),
            ProposeError::Overloaded | ProposeError::Stopping => {
                Failure::Busy(Error::unavailable(error.to_string()))
            }
            ProposeError::Unknown => Failure::Unknown,
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        match error {
            ReadError::NotLeader { hint } => not_leader(hint),
            ReadError::NoGroup => not_leader(None),
            ReadError::NoQuorum | ReadError::Overloaded => {
                Failure::Busy(Error::unavailable(error.to_string()))
            }
        }
    }
}

fn not_leader(hint: Option<NodeId>) -> Failure {
    Failure::NotLeader { hint }
}
