//! What this node can prove about the age of its replicas.
//!
//! A **proof** is (send time, index): whatever anyone was told before the send time lies at or below the index. So a replica that has
//! applied the index is no older than the send time, however late the proof itself arrived. It is made by asking the shard's leader: the
//! send time is read off this node's own monotonic clock before the question leaves, and the leader answers how long ago a quorum last
//! confirmed it, by the send time of that round, with an index that it has applied in its own term.
//!
//! Appends and heartbeats are not taken as proof on arrival: they may have waited in a socket while this process stood still, and a
//! leader that a majority has left behind goes on sending them. No wall clock is looked at, and no clock of one node is compared with
//! that of another: only lengths of time cross.
//!
//! Lacks: asking, which is the job `evidence`'s.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use proto::{NodeId, ShardId};
use storage::machine::Replica;
use tokio::sync::{Notify, watch};

use crate::ports::Groups;

/// Proofs that wait until their index is applied here. A replica that lags more rounds keeps the oldest, which it reaches first.
const PROOFS_MAX: usize = 32;
/// How long a node that declines to lead is believed without saying so again: longer than a drain.
const DECLINED_FOR: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Proof {
    sent: Instant,
    index: u64,
}

/// Proofs for all shards, and what else nodes tell each other with them.
pub(crate) struct Evidence {
    groups: Arc<dyn Groups>,
    proofs: RwLock<HashMap<ShardId, VecDeque<Proof>>>,
    /// Where the clock of `metadata_us` begins.
    start: Instant,
    /// The newest moment that was proven for the metadata, in microseconds; 0: none. Asked for by every request, so it has a place of
    /// its own. What is proven stays so: what a node knows of the metadata never goes back, also when its replica is renewed.
    metadata_us: AtomicU64,
    /// Highest index of a write that this node has acknowledged, by shard.
    acknowledged: RwLock<HashMap<ShardId, AtomicU64>>,
    /// Nodes that do not want to lead, and when they said so.
    declining: Mutex<HashMap<NodeId, Instant>>,
    /// This node does not want to lead.
    declines: AtomicBool,
    /// Bumped by each round of questions.
    rounds: watch::Sender<u64>,
    /// Asks for a round now.
    wanted: Notify,
}

impl Evidence {
    pub(crate) fn new(groups: Arc<dyn Groups>) -> Evidence {
        Evidence {
            groups,
            proofs: RwLock::default(),
            start: Instant::now(),
            metadata_us: AtomicU64::new(0),
            acknowledged: RwLock::default(),
            declining: Mutex::default(),
            declines: AtomicBool::default(),
            rounds: watch::Sender::new(0),
            wanted: Notify::new(),
        }
    }

    /// How old the applied state of a local replica may be at most; `None`: nothing is known.
    pub(crate) fn age(&self, shard: ShardId, replica: &Replica) -> Option<Duration> {
        // Before the proofs: what is applied later than it is looked at only makes the state younger.
        let applied = replica.applied().id.map_or(0, |id| id.index);
        let proven = self.proven(shard, applied).map(|sent| sent.elapsed());
        let own = self.groups.confirmed(shard);
        let own = own
            .filter(|own| own.index <= applied)
            .map(|confirmed| confirmed.age);
        match (proven, own) {
            (Some(proven), Some(own)) => Some(proven.min(own)),
            (proven, own) => proven.or(own),
        }
    }

    /// The send time of the newest proof that `applied` satisfies.
    fn proven(&self, shard: ShardId, applied: u64) -> Option<Instant> {
        let proofs = self.proofs.read();
        let newest = proofs
            .get(&shard)?
            .iter()
            .rev()
            .find(|proof| proof.index <= applied)?;
        Some(newest.sent)
    }

    /// Notes a proof.
    pub(crate) fn record(&self, shard: ShardId, sent: Instant, index: u64) {
        let applied = self.groups.replica(shard);
        let applied = applied
            .and_then(|replica| replica.applied().id)
            .map_or(0, |id| id.index);
        let mut all = self.proofs.write();
        let proofs = all.entry(shard).or_default();
        if proofs.back().is_some_and(|last| last.sent >= sent) {
            return;
        }
        // Only the newest of those that are satisfied says anything.
        while proofs.get(1).is_some_and(|next| next.index <= applied) {
            proofs.pop_front();
        }
        if proofs.len() >= PROOFS_MAX {
            proofs.pop_back();
        }
        proofs.push_back(Proof { sent, index });
    }

    /// Notes that this node has told a client of a write.
    pub(crate) fn acknowledge(&self, shard: ShardId, index: u64) {
        if let Some(known) = self.acknowledged.read().get(&shard) {
            known.fetch_max(index, Ordering::Relaxed);
            return;
        }
        let mut all = self.acknowledged.write();
        all.entry(shard)
            .or_default()
            .fetch_max(index, Ordering::Relaxed);
    }

    /// The highest index of a write that this node has told a client of.
    pub(crate) fn acknowledged(&self, shard: ShardId) -> u64 {
        let all = self.acknowledged.read();
        all.get(&shard)
            .map_or(0, |known| known.load(Ordering::Relaxed))
    }

    /// Whether the local copy of the metadata is at most `age_max` old.
    pub(crate) fn is_metadata_within(&self, age_max: Duration) -> bool {
        let now = self.start.elapsed();
        let proven = self.metadata_us.load(Ordering::Relaxed);
        if proven > 0 && now.saturating_sub(Duration::from_micros(proven)) <= age_max {
            return true;
        }
        let replica = self.groups.replica(ShardId::META);
        let Some(age) = replica.and_then(|replica| self.age(ShardId::META, &replica)) else {
            return false;
        };
        let proven = now.saturating_sub(age).as_micros();
        let proven = u64::try_from(proven).unwrap_or(0);
        self.metadata_us.fetch_max(proven, Ordering::Relaxed);
        age <= age_max
    }

    /// Waits until it is, for rounds that are asked for at once.
    pub(crate) async fn metadata_within(&self, age_max: Duration, until: Instant) -> bool {
        let mut rounds = self.rounds.subscribe();
        loop {
            if self.is_metadata_within(age_max) {
                return true;
            }
            self.wanted.notify_one();
            let round = tokio::time::timeout_at(until.into(), rounds.changed()).await;
            if !matches!(round, Ok(Ok(()))) {
                return self.is_metadata_within(age_max);
            }
        }
    }

    /// Returns when somebody wants a round.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Asks for a round and waits until one has ended that began after the call, at most until the deadline.
    pub(crate) async fn round(&self, until: Instant) {
        let mut rounds = self.rounds.subscribe();
        // The one that may be under way has begun before.
        for _ in 0..2 {
            self.wanted.notify_one();
            let _ = tokio::time::timeout_at(until.into(), rounds.changed()).await;
        }
    }

    /// A round has ended.
    pub(crate) fn asked(&self) {
        self.rounds.send_modify(|rounds| *rounds += 1);
    }

    /// Whether this node wants to lead; told to the others with the next round.
    pub(crate) fn set_declines(&self, declines: bool) {
        self.declines.store(declines, Ordering::Relaxed);
    }

    /// Whether this node does not want to lead.
    pub(crate) fn declines(&self) -> bool {
        self.declines.load(Ordering::Relaxed)
    }

    /// Whether others should not hand it shards: it does not want to lead, or could take no writes if it did.
    pub(crate) fn is_unfit(&self) -> bool {
        self.declines() || self.groups.no_room().is_some()
    }

    /// Notes what another node said about itself.
    pub(crate) fn note_declines(&self, node: NodeId, declines: bool) {
        let mut declining = self.declining.lock();
        if declines {
            declining.insert(node, Instant::now());
        } else {
            declining.remove(&node);
        }
    }

    /// Whether a node lately said that it does not want to lead.
    pub(crate) fn is_declining(&self, node: NodeId) -> bool {
        let declining = self.declining.lock();
        declining
            .get(&node)
            .is_some_and(|since| since.elapsed() < DECLINED_FOR)
    }
}
