//! State machines: a committed entry goes in, one batch of effects and a reply come out.
//!
//! Rules that hold for every machine, and that replicas agree because of:
//! - **Pure.** Effects and reply follow from the stored state and the entry alone: no clock, no randomness, nothing that differs between
//!   nodes. Times come with the entry.
//! - **One batch.** All effects of a call of [`apply_together`] and the applied rows that cover them are one write of the engine: after a
//!   crash a store holds exactly the entries up to its applied id, and each entry once.
//! - **Later entries see earlier ones**, also within one batch ([`Transaction`]), and the result does not depend on where batches end.
//! - **Two failures.** A rejection is part of the reply, decided alike on every replica. Anything else is an `Err` and stops the shard:
//!   nothing of the batch was written. There is no third.
//! - **The chain hash** covers each entry's effects in order, so two replicas at one applied id either hold the same or can tell that they
//!   do not.
//!
//! There are two machines: [`documents`] here, and the cluster metadata in the crate `cluster`.
//!
//! Lacks: threads and queues (the crate `raft` calls in, one thread at a time for a replica), and durability: the engine flushes when it
//! will, and the log is kept until it has.

mod chain;
mod changes;
mod clearing;
pub mod documents;
pub mod expiry;
mod idempotency;
mod indexes;
mod kept_rows;
pub mod lifetime;
pub mod outcome;
mod readers;
mod replica;
mod rights;
mod stale;
mod transaction;
mod unique;
pub mod update;
mod view;
mod write;

#[cfg(test)]
mod tests;

use bytes::Bytes;

use crate::error::Result;
use crate::ids::LogId;
use crate::keys::ChangeKey;

pub use changes::CHANGES_PAGE_MAX;
pub use clearing::CLEAR_PAGE_MAX;
pub use expiry::EXPIRY_PAGE_MAX;
pub use idempotency::{IDEMPOTENCY_BYTES_MAX, IDEMPOTENCY_KEPT_US_MIN, IDEMPOTENCY_PAGE_MAX};
pub use indexes::{BACKFILL_PAGE_MAX, PURGE_PAGE_MAX};
pub use kept_rows::KeptRows;
pub use replica::{ChainPoint, Replica, apply_together};
pub use rights::FORGET_PAGE_MAX;
pub use stale::STALE_PAGE_MAX;
pub use transaction::{Savepoint, Transaction};
pub use view::ReplicaView;

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: the first entry of a new leader.
    Blank,
    /// A command to the machine, encoded.
    Command(Bytes),
    /// A change of the group's members, encoded `proto::log::Membership`; kept for the consensus layer and not looked into.
    Membership(Bytes),
}

/// A committed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the log.
    pub id: LogId,
    /// What it carries.
    pub payload: Payload,
}

/// How far a store is, and all that moves along with it. Part of the same batch as the effects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last applied entry; `None`: none ever.
    pub id: Option<LogId>,
    /// The last applied membership: id of its entry, and the encoded `proto::log::Membership`.
    pub membership: Option<(Option<LogId>, Bytes)>,
    /// Hash over the effects of all entries so far, see [`Machine`].
    pub chain: u128,
    /// T, the shard's time for lifetimes and ages, microseconds: advanced by ticks, never back, never faster than real time.
    pub time_us: u64,
    /// The time that the last write was given, microseconds since 1970; the next one is later.
    pub last_stamp_us: u64,
    /// What the change log holds.
    pub changes: ChangeLog,
    /// What is known of stale keys.
    pub stale: Stale,
}

/// Where the rows and marks of stale keys begin and end ([`crate::tables::stale`]). Alike on all replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stale {
    /// The last row that was written, also if its entry was rejected afterwards.
    pub last: ChangeKey,
    /// The last row that was removed; every later one is there.
    pub expired: ChangeKey,
    /// The index of the last mark.
    pub marked: u64,
    /// Its T, microseconds.
    pub marked_us: u64,
}

/// What the change log of a shard holds. Alike on all replicas, like all that is applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangeLog {
    /// The last event that was removed for its age or for room; every later one is there. The zero position: none was.
    pub trimmed: ChangeKey,
    /// Bytes of keys and rows of all events that are there.
    pub bytes: u64,
}

/// What turns commands into effects.
pub trait Machine: Send + Sync + 'static {
    /// Applies one command: reads through `tx`, puts its effects into `tx`, returns the reply. A rejection is a reply, without effects.
    ///
    /// # Errors
    /// Whatever is no rejection: a command that does not decode, a corrupt row, a failing disk. Stops the shard; the effects of the
    /// whole batch are dropped.
    fn apply(&self, tx: &mut Transaction<'_>, id: LogId, command: &Bytes) -> Result<Bytes>;

    /// Told what is there now: once when a replica opens or switches its store, then after each batch, when it is visible and before
    /// its replies are given out. On the thread that applies.
    ///
    /// # Errors
    /// Stops the shard.
    fn applied(&self, _view: &ReplicaView<'_>) -> Result<()> {
        Ok(())
    }
}
