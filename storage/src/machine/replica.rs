//! One replica's applied state: which store holds it, how far it is, and the machine that moves it on.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard, RwLock};
use proto::ShardId;

use super::kept_rows::{Keeper, Owner};
use super::{Applied, Entry, KeptRows, Machine, ReplicaView, Transaction};
use crate::engine::{Batch, Cached, Column, Engine};
use crate::error::{Error, Result};
use crate::ids::StoreId;
use crate::keys;
use crate::tables::applied;

/// The applied state of one replica of one shard. Reads come from any thread; [`Self::apply`] and [`Self::switch_store`] take turns.
///
/// Invariants:
/// - [`Self::applied`] is that of [`Self::store`], and never ahead of what readers see.
/// - Within a store it only moves forward.
pub struct Replica {
    engine: Arc<dyn Engine>,
    machine: Arc<dyn Machine>,
    shard: ShardId,
    /// Of what is kept for it; `None`: the engine keeps nothing.
    owner: Option<Owner>,
    current: RwLock<Current>,
    /// Held while the state moves.
    moving: Mutex<()>,
    /// Chain hashes at the last multiples of [`POINT_EVERY`], oldest first.
    points: Mutex<VecDeque<ChainPoint>>,
    damage: Damage,
}

/// The first damage that a read or an apply met in the current store.
#[derive(Default)]
pub(super) struct Damage(Mutex<Option<String>>);

impl Damage {
    /// Gives `result` back, after noting what it says of the stored bytes.
    pub(super) fn noted<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(Error::Corrupt { what }) = &result {
            self.0.lock().get_or_insert_with(|| what.clone());
        }
        result
    }
}

/// A chain hash is remembered at every index that this divides: the same ones on all replicas, however they batch.
const POINT_EVERY: u64 = 64;
/// Points that are remembered: replicas up to 4,096 entries apart can be compared.
const POINTS_MAX: usize = 64;

/// The chain hash of a replica at one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainPoint {
    /// The entry.
    pub index: u64,
    /// The hash up to it, see [`super::Applied::chain`].
    pub chain: u128,
}

#[derive(Clone)]
struct Current {
    store: StoreId,
    applied: Applied,
}

impl Replica {
    /// The replica of `shard` whose state is in `store`; an empty store is one that has applied nothing.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: the applied row does not decode. Otherwise those of the engine and of [`Machine::applied`].
    pub fn open(
        engine: Arc<dyn Engine>,
        machine: Arc<dyn Machine>,
        shard: ShardId,
        store: StoreId,
    ) -> Result<Arc<Self>> {
        let applied = applied::get(&*engine, store)?;
        machine.applied(&ReplicaView::lazy(&*engine, store))?;
        let current = RwLock::new(Current { store, applied });
        let owner = engine.kept_rows().map(KeptRows::owner);
        Ok(Arc::new(Self {
            engine,
            machine,
            shard,
            owner,
            current,
            moving: Mutex::new(()),
            points: Mutex::default(),
            damage: Damage::default(),
        }))
    }

    /// How far the state is, as readers see it.
    pub fn applied(&self) -> Applied {
        self.current.read().applied.clone()
    }

    /// How far the state would be after a crash now. The log may be purged up to this id, and no further.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: the applied row does not decode. Otherwise those of the engine.
    pub fn flushed_applied(&self) -> Result<Applied> {
        applied::get_persisted(&*self.engine, self.store())
    }

    /// The store that holds the state now.
    pub fn store(&self) -> StoreId {
        self.current.read().store
    }

    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// [`apply_together`] for this replica alone.
    ///
    /// # Errors
    /// Those of [`apply_together`].
    pub fn apply(&self, entries: Vec<Entry>) -> Result<Vec<Bytes>> {
        apply_together([(self, entries)])
            .pop()
            .unwrap_or(Ok(Vec::new()))
    }

    /// Decides what the entries do, and adds it to `batch`; on an error it adds nothing.
    fn stage(&self, entries: Vec<Entry>, batch: &mut Batch) -> Result<Staged<'_>> {
        let moving = self.moving.lock();
        let Current { store, applied } = self.current.read().clone();
        let mut tx = Transaction::new(&*self.engine, self.keeper(), store, applied);
        let mut replies = Vec::with_capacity(entries.len());
        let mut points = Vec::new();
        for entry in entries {
            let index = entry.id.index;
            replies.push(tx.apply(&*self.machine, entry)?);
            if index.is_multiple_of(POINT_EVERY) {
                let chain = tx.chain();
                points.push(ChainPoint { index, chain });
            }
        }
        let (effects, applied) = tx.into_batch()?;
        let written = self.keeper().take_out(&effects);
        batch.append(effects);
        Ok(Staged {
            replica: self,
            _moving: moving,
            store,
            applied,
            points,
            replies,
            written,
        })
    }

    /// Goes over to another store, which a snapshot was installed into, and to what is applied there.
    ///
    /// # Errors
    /// As [`Self::open`]. The replica stays where it was, unless [`Machine::applied`] failed.
    pub fn switch_store(&self, store: StoreId) -> Result<()> {
        let _moving = self.moving.lock();
        let applied = applied::get(&*self.engine, store)?;
        *self.current.write() = Current { store, applied };
        self.points.lock().clear();
        *self.damage.0.lock() = None;
        self.machine
            .applied(&ReplicaView::lazy(&*self.engine, store))
    }

    /// The first damage that anybody met in the stored state, if somebody has. What met it failed; the rest may be as bad.
    pub fn damage(&self) -> Option<String> {
        self.damage.0.lock().clone()
    }

    /// Chain hashes at recent indexes, to be compared with those of other replicas: at common ones they are equal.
    pub fn chain_points(&self) -> Vec<ChainPoint> {
        let mut points: Vec<_> = self.points.lock().iter().copied().collect();
        let applied = self.applied();
        let now = applied.id.map(|id| ChainPoint {
            index: id.index,
            chain: applied.chain,
        });
        points.extend(now.filter(|now| points.last().is_none_or(|last| last.index < now.index)));
        points
    }

    fn keeper(&self) -> Keeper<'_> {
        Keeper::new(self.engine.kept_rows(), self.owner)
    }

    fn remember(&self, new: Vec<ChainPoint>) {
        if new.is_empty() {
            return;
        }
        let mut points = self.points.lock();
        points.extend(new);
        let excess = points.len().saturating_sub(POINTS_MAX);
        points.drain(..excess);
    }

    /// The newest value of a key without store id; `None`: absent. May wait for a disk.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>> {
        self.in_store(|store| {
            self.damage
                .noted(self.engine.get(column, &keys::with_store(store, key)))
        })
    }

    /// As [`Self::get`], if memory can tell. Does not wait for a disk: fit for an async thread.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn get_cached(&self, column: Column, key: &[u8]) -> Result<Cached> {
        self.in_store(|store| {
            let key = keys::with_store(store, key);
            match self.keeper().get(&key) {
                Some(row) => Ok(Cached::Found(row)),
                None => self.damage.noted(self.engine.get_cached(column, &key)),
            }
        })
    }

    /// An unchanging view of the state as it is now.
    pub fn view(&self) -> ReplicaView<'_> {
        self.in_store(|store| ReplicaView::new(&*self.engine, store, &self.damage))
    }

    /// Reads from the current store, and once more if another took its place meanwhile: the old one may have been emptied under the
    /// read, and would show documents as absent.
    fn in_store<T>(&self, read: impl Fn(StoreId) -> T) -> T {
        let mut store = self.store();
        loop {
            let found = read(store);
            let now = self.store();
            if now == store {
                return found;
            }
            store = now;
        }
    }
}

/// Entries of one replica that are decided and not yet written. Holds the replica in place.
struct Staged<'r> {
    replica: &'r Replica,
    _moving: MutexGuard<'r, ()>,
    store: StoreId,
    applied: Applied,
    points: Vec<ChainPoint>,
    replies: Vec<Bytes>,
    /// Rows to keep, keys with store id.
    written: Vec<(Bytes, Bytes)>,
}

impl Staged<'_> {
    /// Lets readers see how far the replica is, now that it is written; gives the replies.
    fn publish(self) -> Result<Vec<Bytes>> {
        let keeper = self.replica.keeper();
        for (key, row) in &self.written {
            keeper.put(key, row);
        }
        // Whoever waits for this index finds its rows, kept or not.
        self.replica.current.write().applied = self.applied;
        self.replica.remember(self.points);
        self.replica
            .machine
            .applied(&ReplicaView::lazy(&*self.replica.engine, self.store))?;
        Ok(self.replies)
    }
}

/// Applies committed entries of several replicas of one engine, each replica's in order, as **one** write: a batch costs the engine
/// much the same whether it holds one shard's effects or ten's. Answers in the order of `work`, with a reply for each entry; those of
/// blank and membership entries are empty. Visible on return, durable once the engine has flushed.
///
/// Indexes must rise, from above the applied one; gaps are not looked for. The caller bounds the batch, and names no replica twice.
///
/// # Errors
/// Of each replica apart. [`Error::Corrupt`]: an entry at or below the applied index, a command that does not decode, or a row that
/// does not; nothing of this replica was written. Those of the engine, for all alike, and of [`Machine::applied`]: it may have been
/// written. Stop the shard.
pub fn apply_together<'r>(
    work: impl IntoIterator<Item = (&'r Replica, Vec<Entry>)>,
) -> Vec<Result<Vec<Bytes>>> {
    let mut batch = Batch::new();
    let mut engine = None;
    let staged: Vec<_> = work
        .into_iter()
        .map(|(replica, entries)| {
            engine.get_or_insert(&replica.engine);
            replica.damage.noted(replica.stage(entries, &mut batch))
        })
        .collect();
    let written = match engine {
        Some(engine) if !batch.is_empty() => engine.write(batch),
        _ => Ok(()),
    };
    let publish = |staged: Result<Staged<'_>>| match &written {
        Ok(()) => staged?.publish(),
        Err(error) => Err(staged
            .err()
            .unwrap_or_else(|| Error::Engine(error.to_string()))),
    };
    staged.into_iter().map(publish).collect()
}
