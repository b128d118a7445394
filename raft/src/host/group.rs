//! One group: openraft's handle with what the node needs to know of it at once, without asking it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use openraft::async_runtime::WatchReceiver as _;
use openraft::metrics::RaftServerMetrics;
use openraft::{Raft, ServerState};
use proto::{NodeId, ReplicaId, ShardId};
use storage::machine::Replica;
use storage::raft_log::{GroupLog, LogSize};
use tokio::sync::{Mutex, Semaphore, watch};

use super::Inner;
use super::gathering::{Proposals, Reads};
use super::ticks::{Heard, Ticking};
use crate::beats::{Beats, Waiting};
use crate::commits::{self, Writes};
use crate::error::{Error, Result};
use crate::log_store::LogStore;
use crate::network::Factory;
use crate::state_machine::{Recording, StateMachine};
use crate::type_config::TypeConfig;
use crate::votes::Votes;

pub(crate) type RaftHandle = Raft<TypeConfig, StateMachine>;

/// Who leads a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The leading replica.
    pub replica: ReplicaId,
    /// The node that holds it.
    pub node: NodeId,
    /// The term of its election.
    pub term: u64,
}

/// What a replica does in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Proposes and replicates.
    Leader,
    /// Votes and follows.
    Follower,
    /// Stands for election.
    Candidate,
    /// Follows without a vote.
    Learner,
}

/// One member of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// The node that holds the replica.
    pub node: NodeId,
    /// Whether it votes.
    pub voter: bool,
    /// The highest log index known to be on its disk; on the leader only.
    pub matched: Option<u64>,
}

/// How a group stands, seen from one of its replicas.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// This node's replica.
    pub replica: ReplicaId,
    /// What it does.
    pub role: Role,
    /// Current term.
    pub term: u64,
    /// Who leads.
    pub leader: Option<Leader>,
    /// Highest log index on this disk or on its way there.
    pub last: u64,
    /// Highest index known committed.
    pub committed: u64,
    /// Highest index applied.
    pub applied: u64,
    /// Highest purged index.
    pub purged: u64,
    /// How much the log holds.
    pub log: LogSize,
    /// Whether two sets of voters are in force.
    pub is_joint: bool,
    /// All members by replica id.
    pub members: BTreeMap<ReplicaId, MemberStatus>,
    /// Why the group does not run any more, if it does not.
    pub stopped: Option<String>,
}

/// One replica's group on this node.
pub(crate) struct Group {
    shard: ShardId,
    replica: ReplicaId,
    raft: RaftHandle,
    machine: Arc<Replica>,
    log: GroupLog,
    permits: Semaphore,
    /// Held while a position is recorded.
    recording: Mutex<()>,
    leader: Arc<watch::Sender<Option<Leader>>>,
    heard: Heard,
    ticking: Ticking,
    waiting: Arc<Waiting>,
    writes: Arc<Writes>,
    beats: Beats,
    votes: Votes,
    proposals: Proposals,
    reads: Reads,
    /// Known to hold its shard's state.
    filled: AtomicBool,
}

impl Group {
    pub(super) async fn open(
        host: &Inner,
        shard: ShardId,
        replica: ReplicaId,
        machine: Arc<Replica>,
        log: GroupLog,
    ) -> Result<Arc<Self>> {
        let waiting = Arc::new(Waiting::default());
        let writes = Arc::new(Writes::default());
        let network = Factory {
            shard,
            beats: host.beats.clone(),
            waiting: Arc::clone(&waiting),
            writes: Arc::clone(&writes),
            commit_window: host.options.heartbeat / commits::WINDOW_PART,
            transport: Arc::clone(&host.transport),
            pool: host.pool.clone(),
            send_dir: host.send_dir.clone(),
        };
        let state_machine = StateMachine::new(
            Arc::clone(&machine),
            host.logs.clone(),
            host.applier.clone(),
            host.pool.clone(),
            host.send_dir.clone(),
            Recording::AsIs,
        );
        let raft = Raft::new(
            replica.0,
            Arc::clone(&host.config),
            network,
            LogStore::new(log.clone()),
            state_machine,
        )
        .await
        .map_err(|fatal| Error::Stopped {
            shard,
            cause: fatal.to_string(),
        })?;
        let leader = Arc::new(watch::Sender::new(None));
        tokio::spawn(follow_leader(shard, raft.clone(), Arc::clone(&leader)));
        let permits = Semaphore::new(host.options.proposals_in_flight_max);
        Ok(Arc::new(Self {
            shard,
            replica,
            raft,
            machine,
            log,
            permits,
            recording: Mutex::new(()),
            leader,
            heard: Heard::never(),
            ticking: Ticking::on(),
            waiting,
            writes,
            beats: host.beats.clone(),
            votes: host.votes.clone(),
            proposals: Proposals::default(),
            reads: Reads::default(),
            filled: AtomicBool::new(false),
        }))
    }

    pub(super) fn shard(&self) -> ShardId {
        self.shard
    }

    pub(super) fn replica_id(&self) -> ReplicaId {
        self.replica
    }

    pub(super) fn raft(&self) -> &RaftHandle {
        &self.raft
    }

    pub(super) fn machine(&self) -> &Arc<Replica> {
        &self.machine
    }

    pub(super) fn log(&self) -> &GroupLog {
        &self.log
    }

    pub(super) fn recording(&self) -> &Mutex<()> {
        &self.recording
    }

    pub(super) fn permits(&self) -> &Semaphore {
        &self.permits
    }

    pub(super) fn leader(&self) -> Option<Leader> {
        *self.leader.borrow()
    }

    pub(super) fn watch_leader(&self) -> watch::Receiver<Option<Leader>> {
        self.leader.subscribe()
    }

    pub(super) fn heard(&self) -> &Heard {
        &self.heard
    }

    pub(super) fn ticking(&self) -> &Ticking {
        &self.ticking
    }

    pub(super) fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    pub(super) fn beats(&self) -> &Beats {
        &self.beats
    }

    pub(super) fn votes(&self) -> &Votes {
        &self.votes
    }

    pub(super) fn proposals(&self) -> &Proposals {
        &self.proposals
    }

    pub(super) fn reads(&self) -> &Reads {
        &self.reads
    }

    pub(super) fn filled(&self) -> &AtomicBool {
        &self.filled
    }

    /// Its writes under way.
    pub(super) fn writes(&self) -> &Writes {
        &self.writes
    }

    pub(super) fn commit_index(&self) -> u64 {
        self.log.state().committed.map_or(0, |id| id.index)
    }

    pub(super) fn status(&self) -> GroupStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: Vec<_> = membership.voter_ids().collect();
        let members = membership
            .nodes()
            .map(|(replica, member)| {
                let matched = metrics
                    .replication
                    .as_ref()
                    .and_then(|all| all.get(replica)?.as_ref().map(|id| id.index));
                let status = MemberStatus {
                    node: member.node,
                    voter: voters.contains(replica),
                    matched,
                };
                (ReplicaId(*replica), status)
            })
            .collect();
        GroupStatus {
            replica: self.replica,
            role: match metrics.state {
                ServerState::Leader => Role::Leader,
                ServerState::Candidate => Role::Candidate,
                ServerState::Learner => Role::Learner,
                ServerState::Follower | ServerState::Shutdown => Role::Follower,
            },
            term: metrics.current_term,
            leader: self.leader(),
            last: metrics.last_log_index.unwrap_or(0),
            committed: self.commit_index(),
            applied: self.machine.applied().id.map_or(0, |id| id.index),
            purged: metrics.purged.map_or(0, |id| id.index),
            log: self.log.size(),
            is_joint: membership.get_joint_config().len() > 1,
            members,
            stopped: metrics
                .running_state
                .as_ref()
                .err()
                .map(ToString::to_string),
        }
    }
}

/// Who leads, as openraft's metrics tell it.
fn leader_in(metrics: &RaftServerMetrics<TypeConfig>) -> Option<Leader> {
    let replica = metrics.current_leader?;
    let node = metrics
        .membership_config
        .membership()
        .get_node(&replica)?
        .node;
    Some(Leader {
        replica: ReplicaId(replica),
        node,
        term: metrics.vote.leader_id.term,
    })
}

/// Publishes who leads, as openraft's metrics tell it, until the group stops.
async fn follow_leader(
    shard: ShardId,
    raft: RaftHandle,
    leaders: Arc<watch::Sender<Option<Leader>>>,
) {
    let mut metrics = raft.server_metrics();
    drop(raft);
    loop {
        let leader = leader_in(&metrics.borrow_and_update());
        let changed = leaders.send_if_modified(|known| {
            let changed = *known != leader;
            *known = leader;
            changed
        });
        if changed {
            match leader {
                Some(leader) => {
                    tracing::debug!(%shard, node = %leader.node, term = leader.term, "leader known");
                }
                None => tracing::debug!(%shard, "no leader"),
            }
        }
        if metrics.changed().await.is_err() {
            leaders.send_replace(None);
            return;
        }
    }
}
