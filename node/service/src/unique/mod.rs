//! Values of unique indexes: no two documents of a bucket have the same one, in whatever shards they lie.
//!
//! # The protocol
//!
//! The shard of a value (by [`Value::shard`]) has a row for it: the **reservation**, with its owner, a document's key, and with
//! `reserved`, the index of the entry that made or renewed it last. The shard of a document has **fence slots**: log indexes, by a hash of
//! the key. A write of a document goes like this at the leader of its shard:
//!
//! 1. `prepared` = the index that the shard has applied here, before anything is reserved. The values that the document will have and does
//!    not have are foreseen.
//! 2. Each of them is reserved in its shard ([`ReserveValue`]): it becomes the document's if it was nobody's or the document's already, and
//!    `reserved` is the index of this entry in both cases. If it is another document's, that one is **met** (below).
//! 3. The write is proposed with its **claims**: `prepared` and the values. Apply refuses it (`Unclaimed`) unless each value of the new
//!    document is held by the stored one, or is claimed and `prepared` is not below the document's fence slot. Refused, it starts over.
//! 4. The reservations are confirmed, and the values that the document gave up are settled, both in the background: losing that is
//!    harmless. So are the values of a write that failed.
//!
//! **Meeting** the owner A of a reservation that was seen with `reserved` = r:
//! (a) a linearizable read says that A holds the value: it is taken. Else
//! (b) [`FenceClaims`] in A's shard: the slot of A becomes the index f of this entry, and the answer says whether A holds the value as of f.
//! If so, it is taken. Else [`ReleaseValue`] with r deletes the reservation, unless `reserved` is not r any more. Then the value is
//! reserved anew.
//! **Settling** a value is meeting its own document.
//!
//! # Why no two documents have one value
//!
//! It is enough that (I) whenever a document A holds a value, the reservation of the value is A's, since a row has one owner.
//! A comes to hold the value only by a write w with a claim on it, whose reserve entry was applied before w was proposed. From that entry
//! on the reservation is A's until it is released: nobody else is given what has an owner. So (I) can only fail by a release with
//! `reserved` = r that takes effect while A holds the value, or before w does. Its sender saw r, then had a fence f applied in A's
//! shard whose answer was that A does not hold the value as of f. So w is not below f, unless a write between w and f gave the value up
//! again, and then there is nothing to show. Let w be above f:
//! - w was prepared below f: apply refuses it, since the slot is at least f.
//! - w was prepared at or above f: its values were reserved after f was applied, so after r was seen. The reserve entry of w therefore
//!   comes behind the entry r in the log of the value's shard, and rewrote `reserved`. The release before it is harmless: the reserve
//!   entry finds the value free, or another's, and then w is not proposed. The release behind it finds another `reserved` and does
//!   nothing.
//!
//! No clock occurs. Repeated and late entries are harmless: a reserve entry that comes late leaves at worst a reservation whose document
//! does not hold the value, or renews one that stands; a late release or confirmation compares `reserved`; a late fence makes
//! claims start over; a late write is judged by its `prepared`.
//!
//! **Building.** While an index is being built, every write from the entry on that told the shard of the index obeys (3). Documents of
//! before are read behind a barrier page by page, their values are reserved as above, and only then the page is taken into the index. So
//! each document that holds a value when the index is complete has it reserved, and (I) holds. Two documents that have one value at
//! the same time make the building fail.
//!
//! # Why it ends
//!
//! Two writes that want the same values could void each other's claims again and again. Whoever meets a reservation that is not confirmed
//! first gives its owner time to write ([`reserving`]), more each time, and a write that was refused as unclaimed pauses for a
//! random time. Both are about speed alone.
//!
//! Nobody waits in a circle. A write waits for commands and questions at other leaders; those wait for consensus and disks and for no other
//! request (`leader/unique.rs`). Places are the other way to wait: a write holds a place among the forwarded requests of its node while it
//! waits, and those commands need places too. But at most [`RESERVING_MAX`] writes of a node wait so, far fewer than there are
//! places; others are refused as busy, which gives their places back, and a command without a place is refused and tried again. Permits for
//! proposals and for reads of the disk are never held while one waits for another node.
//!
//! | part | owns |
//! |---|---|
//! | `value` | [`Value`] and [`Taking`]: what is reserved, and for whom |
//! | `held` | [`Held`]: what one write has reserved, and what becomes of it however the write ends |
//! | `reserving` | reserving and meeting |
//! | `settling` | the work in the background |
//! | `building` | taking what is stored into a new unique index |
//!
//! Foreseeing the values of a write is the leader's (`leader/claims.rs`).
//!
//! Lacks: a swap. A value that one write of a batch gives up and another takes is taken until the batch is applied, and the batch is refused.
//!
//! [`ReserveValue`]: proto::log::ReserveValue
//! [`FenceClaims`]: proto::log::FenceClaims
//! [`ReleaseValue`]: proto::log::ReleaseValue

mod building;
mod held;
mod reserving;
mod settling;
mod value;

use std::sync::{Arc, Weak};

use tokio::sync::Semaphore;

pub(crate) use self::held::Held;
pub(crate) use self::reserving::Denied;
pub(crate) use self::value::{Taking, Value};

use self::settling::Queue;
use crate::Core;

/// Writes of one node that wait for reservations at the same time; more are refused as busy. Well below the forwarded requests that a
/// node answers at once (8,192): see the module.
const RESERVING_MAX: usize = 1_024;

/// The protocol's side of one node.
pub(crate) struct Unique {
    /// Not counted: the core owns this.
    core: Weak<Core>,
    reserving: Semaphore,
    queue: Queue,
}

impl Unique {
    pub(crate) fn new(core: Weak<Core>) -> Arc<Unique> {
        Arc::new(Unique {
            core,
            reserving: Semaphore::new(RESERVING_MAX),
            queue: Queue::default(),
        })
    }
}
