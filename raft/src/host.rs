//! All Raft groups of one node: open, propose, prove reads, hand over, stop.
//!
//! Invariants: a group is opened once per replica id; what is refused with `NotLeader`, `NoGroup`, `Overloaded` or
//! `Stopping` was never appended. Lacks: placement and who should lead, which are the metadata's and the jobs'.

mod chains;
mod damage;
mod evidence;
mod filled;
mod gathering;
mod group;
mod purge;
mod serve;
mod snapshots;
mod standing;
mod ticks;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::Config;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::impls::ProgressResponder;
use parking_lot::RwLock;
use proto::{NodeId, ReplicaId, ShardId};
use storage::machine::Replica;
use storage::raft_log::{GroupLog, Logs};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use self::chains::Quarantine;
use self::group::Group;
use self::ticks::Ticks;
use crate::applier::Applier;
use crate::beats::Beats;
use crate::error::{Error, ProposeError, ReadError, Result};
use crate::options::Options;
use crate::pool::Pool;
use crate::transport::Transport;
use crate::type_config::{Command, Member};
use crate::votes::Votes;

pub use self::chains::{Divergence, Verdict};
pub use self::evidence::Confirmed;
pub(crate) use self::gathering::turn;
pub use self::group::{GroupStatus, Leader, MemberStatus, Role};

/// How long a stopping group may take to finish what it holds.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What a host is built from.
pub struct HostParts {
    /// This node.
    pub node: NodeId,
    /// Timing and bounds of every group.
    pub options: Options,
    /// The node's log database.
    pub logs: Logs,
    /// Threads that apply.
    pub applier: Applier,
    /// Threads for snapshots.
    pub pool: Pool,
    /// The way to the other nodes.
    pub transport: Arc<dyn Transport>,
    /// Outgoing snapshots are written below it; on the data directory's file system.
    pub send_dir: PathBuf,
}

/// The groups of this node. Cheap to clone.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    node: NodeId,
    options: Options,
    config: Arc<Config>,
    logs: Logs,
    applier: Applier,
    pool: Pool,
    transport: Arc<dyn Transport>,
    beats: Beats,
    votes: Votes,
    send_dir: PathBuf,
    groups: RwLock<HashMap<ShardId, Arc<Group>>>,
    /// Whether the replicas of this node stand for election.
    electable: AtomicBool,
    /// Whether the log disk stalls, see [`Host::set_stalled`].
    stalled: AtomicBool,
    /// Bytes of proposals that may still be taken, of all groups.
    bytes: Semaphore,
    quarantine: Quarantine,
    /// Bumped when a group opens or closes.
    opened: watch::Sender<u64>,
}

impl Host {
    /// In a runtime: a task of the host keeps its groups' time.
    ///
    /// # Errors
    /// [`Error::Options`]: an option breaks a rule.
    pub fn new(parts: HostParts) -> Result<Self> {
        let config = parts.options.validate()?;
        let heartbeat = parts.options.heartbeat;
        let inner = Inner {
            node: parts.node,
            bytes: Semaphore::new(parts.options.proposal_bytes_in_flight_max),
            electable: AtomicBool::new(true),
            stalled: AtomicBool::new(false),
            options: parts.options,
            config,
            logs: parts.logs,
            applier: parts.applier,
            pool: parts.pool,
            beats: Beats::new(Arc::clone(&parts.transport), heartbeat),
            votes: Votes::new(Arc::clone(&parts.transport), heartbeat),
            transport: parts.transport,
            send_dir: parts.send_dir,
            groups: RwLock::default(),
            quarantine: Quarantine::default(),
            opened: watch::Sender::new(0),
        };
        let inner = Arc::new(inner);
        tokio::spawn(Ticks::new(Arc::downgrade(&inner), heartbeat).run());
        Ok(Self { inner })
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.inner.node
    }

    /// Starts the group of one replica over its log and applied state; a no-op if it runs already.
    ///
    /// A fresh replica stays passive until [`Self::initialize`] or until a leader finds it.
    ///
    /// # Errors
    /// [`Error::Storage`] or [`Error::Stopped`]: the stored state cannot be recovered; nothing runs.
    pub async fn open_group(
        &self,
        shard: ShardId,
        replica: ReplicaId,
        machine: Arc<Replica>,
        log: GroupLog,
    ) -> Result<()> {
        if self
            .group(shard)
            .is_some_and(|group| group.replica_id() == replica)
        {
            return Ok(());
        }
        let group = Group::open(&self.inner, shard, replica, machine, log).await?;
        {
            let mut groups = self.inner.groups.write();
            let electable = self.inner.electable.load(Ordering::Relaxed);
            group.raft().runtime_config().elect(electable);
            groups.insert(shard, group);
        }
        self.inner.opened.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Gives a pristine group its first membership. Safe to call on several members with the same `members`, and
    /// again after it took effect.
    ///
    /// # Errors
    /// [`Error::NoGroup`], [`Error::Stopped`].
    pub async fn initialize(
        &self,
        shard: ShardId,
        members: &BTreeMap<ReplicaId, NodeId>,
    ) -> Result<()> {
        let group = self.group(shard).ok_or(Error::NoGroup(shard))?;
        let members: BTreeMap<u64, Member> = members
            .iter()
            .map(|(replica, node)| (replica.0, Member { node: *node }))
            .collect();
        match group.raft().initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(error)) => Err(Error::Refused(error.to_string())),
            Err(RaftError::Fatal(fatal)) => Err(Error::Stopped {
                shard,
                cause: fatal.to_string(),
            }),
        }
    }

    /// Appends a command and waits until it is applied here; gives the state machine's reply.
    ///
    /// Dropping the future does not undo it. Waits no longer than `deadline`.
    ///
    /// # Errors
    /// [`ProposeError::Unknown`]: it may be applied, now or later. Any other: it was never appended.
    pub async fn propose(
        &self,
        shard: ShardId,
        command: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, ProposeError> {
        let group = self.sound(shard).ok_or(ProposeError::NoGroup)?;
        if self.is_stalled() {
            return Err(ProposeError::NotLeader { hint: None });
        }
        let Ok(_permit) = group.permits().try_acquire() else {
            return Err(ProposeError::Overloaded);
        };
        // Held until the outcome is known or given up: so long the entry is in memory, here and on its way to the followers.
        let Some(_bytes) = u32::try_from(command.len())
            .ok()
            .and_then(|bytes| self.inner.bytes.try_acquire_many(bytes).ok())
        else {
            return Err(ProposeError::Overloaded);
        };
        let _waits = self.inner.beats.wait(group.waiting());
        let _write = group.writes().begin();
        let (responder, outcome) = ProgressResponder::complete_only();
        group.propose(Command::proposed(command), responder);
        match tokio::time::timeout_at(deadline, outcome).await {
            Ok(Ok(Ok(response))) => Ok(response.data.0),
            Ok(Ok(Err(ClientWriteError::ForwardToLeader(to)))) => Err(ProposeError::NotLeader {
                hint: to.leader_node.map(|member| member.node),
            }),
            // Whatever helper also matches `LogEntryDiscarded` as a forward: it was appended, so it is unknown. The group has stopped if
            // the responder was dropped, and may have taken it before.
            Ok(Ok(Err(_)) | Err(_)) | Err(_) => Err(ProposeError::Unknown),
        }
    }

    /// Returns once this leader has proven, after the call began, that it leads, and has applied all that was
    /// committed before: a read of the replica is then linearizable.
    ///
    /// # Errors
    /// Any: nothing was proven.
    pub async fn read_barrier(&self, shard: ShardId, deadline: Instant) -> Result<(), ReadError> {
        let group = self.sound(shard).ok_or(ReadError::NoGroup)?;
        if self.is_stalled() {
            return Err(ReadError::NotLeader { hint: None });
        }
        group.prove(deadline).await
    }

    /// The applied state of this node's replica of a shard; none of one that is quarantined.
    pub fn replica(&self, shard: ShardId) -> Option<Arc<Replica>> {
        self.sound(shard).map(|group| Arc::clone(group.machine()))
    }

    /// Whether this node leads the shard, as far as it knows.
    pub fn is_leader(&self, shard: ShardId) -> bool {
        self.leader(shard)
            .is_some_and(|leader| leader.node == self.inner.node)
            && self.sound(shard).is_some()
    }

    /// Who leads the shard, as far as this node knows; `None` without a replica here, or during an election.
    pub fn leader(&self, shard: ShardId) -> Option<Leader> {
        let leader = self.group(shard)?.leader();
        leader.filter(|leader| leader.node != self.inner.node || !self.is_stalled())
    }

    /// Waits until another leader than `seen` is known, or the deadline; gives who leads then.
    pub async fn leader_changed(
        &self,
        shard: ShardId,
        seen: Option<Leader>,
        deadline: Instant,
    ) -> Option<Leader> {
        let Some(group) = self.group(shard) else {
            tokio::time::sleep_until(deadline).await;
            return None;
        };
        let mut leaders = group.watch_leader();
        let change = leaders.wait_for(|leader| leader.is_some() && *leader != seen);
        match tokio::time::timeout_at(deadline, change).await {
            Ok(Ok(leader)) => *leader,
            Ok(Err(_)) | Err(_) => self.leader(shard),
        }
    }

    /// The highest log index that this replica knows to be committed; 0: none, or no replica here.
    pub fn commit_index(&self, shard: ShardId) -> u64 {
        self.group(shard).map_or(0, |group| group.commit_index())
    }

    /// How the group of a shard stands, seen from here.
    pub fn status(&self, shard: ShardId) -> Option<GroupStatus> {
        self.group(shard).map(|group| group.status())
    }

    /// The shards that have a replica here.
    pub fn shards(&self) -> Vec<ShardId> {
        let mut shards: Vec<_> = self.inner.groups.read().keys().copied().collect();
        shards.sort_unstable();
        shards
    }

    /// Changes each time a group opens or closes.
    pub fn watch_groups(&self) -> watch::Receiver<u64> {
        self.inner.opened.subscribe()
    }

    /// Hands leadership of a shard that this node leads to another voter. Returns when the request is on its way;
    /// the election event tells the outcome.
    ///
    /// # Errors
    /// [`Error::NoGroup`], [`Error::Stopped`].
    pub async fn transfer_leader(&self, shard: ShardId, to: ReplicaId) -> Result<()> {
        let group = self.group(shard).ok_or(Error::NoGroup(shard))?;
        let asked = group.raft().trigger().transfer_leader(to.0).await;
        asked.map_err(|fatal| Error::Stopped {
            shard,
            cause: fatal.to_string(),
        })
    }

    /// Adds a member without a vote to a group that this node leads. Returns when the change is committed.
    ///
    /// # Errors
    /// [`Error::NoGroup`]. [`Error::Refused`]: not the leader, or another change is under way.
    pub async fn add_learner(
        &self,
        shard: ShardId,
        replica: ReplicaId,
        node: NodeId,
    ) -> Result<()> {
        let group = self.group(shard).ok_or(Error::NoGroup(shard))?;
        let added = group
            .raft()
            .add_learner(replica.0, Member { node }, false)
            .await;
        added
            .map(|_| ())
            .map_err(|error| Error::Refused(error.to_string()))
    }

    /// Makes members the voters of a group that this node leads, and drops all other members: one joint step, which a repetition
    /// finishes if it was left half done. Returns when it is committed.
    ///
    /// # Errors
    /// [`Error::NoGroup`]. [`Error::Refused`]: not the leader, one of them is no member, or another change is under way.
    pub async fn change_voters(&self, shard: ShardId, voters: BTreeSet<ReplicaId>) -> Result<()> {
        let group = self.group(shard).ok_or(Error::NoGroup(shard))?;
        let voters: BTreeSet<u64> = voters.into_iter().map(|replica| replica.0).collect();
        let changed = group.raft().change_membership(voters, false).await;
        changed
            .map(|_| ())
            .map_err(|error| Error::Refused(error.to_string()))
    }

    /// Stops one group; what it holds on disk stays.
    pub async fn stop_group(&self, shard: ShardId) {
        let group = self.inner.groups.write().remove(&shard);
        if let Some(group) = group {
            self.inner.opened.send_modify(|count| *count += 1);
            stop(&group).await;
        }
    }

    /// Stops all groups. Proposals under way end as unknown.
    pub async fn shutdown(&self) {
        let groups: Vec<_> = self
            .inner
            .groups
            .write()
            .drain()
            .map(|(_, group)| group)
            .collect();
        self.inner.opened.send_modify(|count| *count += 1);
        futures::future::join_all(groups.iter().map(|group| stop(group))).await;
    }

    fn group(&self, shard: ShardId) -> Option<Arc<Group>> {
        self.inner.groups.read().get(&shard).cloned()
    }
}

#[cfg(test)]
impl Host {
    /// openraft's handle, for tests that disturb a group.
    pub(crate) fn raft(&self, shard: ShardId) -> group::RaftHandle {
        self.group(shard).expect("a group").raft().clone()
    }
}

async fn stop(group: &Group) {
    match tokio::time::timeout(STOP_TIMEOUT, group.raft().shutdown()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(shard = %group.shard(), %error, "group did not stop cleanly")
        }
        Err(_) => tracing::warn!(shard = %group.shard(), "group did not stop in time"),
    }
}
