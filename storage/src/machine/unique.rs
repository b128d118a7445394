//! Reservations of values of unique indexes, in the shard of the value, and fences, in the shard of the document.
//!
//! A reservation says to which document a value belongs, and which entry said so last. Each time it is reserved, also by its own document,
//! that entry changes; confirming and releasing name the entry that they mean and do nothing if it is another one by now. So a release that was
//! decided on what somebody saw never takes away what was reserved since.
//!
//! A fence voids the claims of all writes of a document that were prepared before it (`machine::write`, `indexes`): after it, the answer
//! whether the document holds the value cannot be made untrue by a late write. Fences are per slot of keys, 256 in a bucket: their number
//! does not grow, and a fence that hits the claims of another document only makes its leader start over. The protocol as a whole, and why it
//! is right, is with the service that runs it.
//!
//! All of them are refused where the shard's bucket does not list the index: a shard that has not heard of it cannot tell what a document
//! holds, and one that has heard of its end must not keep reservations that no purge would find.

use document::index::ValueHash;
use proto::log::{ConfirmValue, FenceClaims, ReleaseValue, ReserveValue, UniqueValue};

use super::Transaction;
use super::indexes::{find, rejected, subject};
use super::outcome::{Outcome, Reservation};
use crate::error::{Error, Result};
use crate::keys::{DocumentKey, FenceKey, ReservationKey};
use crate::tables::documents::{self, Entry};
use crate::tables::reservations;

/// Makes a value the asking document's, unless it is another one's.
///
/// # Errors
/// [`Error::Corrupt`]: a row or the command does not decode.
pub(super) fn reserve(
    tx: &mut Transaction<'_>,
    at: u64,
    command: &ReserveValue,
) -> Result<Outcome> {
    let key = key(command.value.as_ref())?;
    if let Err(rejection) = find(tx, key.database, key.bucket, key.index)? {
        return Ok(rejected(rejection));
    }
    let held = reservations::held(tx, key)?;
    if let Some(holder) = held.filter(|held| held.owner != command.owner) {
        let is_own = false;
        return Ok(Outcome::Reserved { holder, is_own });
    }
    let holder = Reservation {
        owner: command.owner.clone(),
        reserved: at,
        // Another write has it in mind, whatever became of the one before.
        confirmed: false,
    };
    reservations::put(tx, key, &holder)?;
    let is_own = true;
    Ok(Outcome::Reserved { holder, is_own })
}

/// Notes that a write with the value took effect.
///
/// # Errors
/// [`Error::Corrupt`]: a row or the command does not decode.
pub(super) fn confirm(tx: &mut Transaction<'_>, command: &ConfirmValue) -> Result<Outcome> {
    let key = key(command.value.as_ref())?;
    let held = reservations::held(tx, key)?;
    if let Some(held) = held.filter(|held| held.reserved == command.reserved && !held.confirmed) {
        let confirmed = true;
        reservations::put(tx, key, &Reservation { confirmed, ..held })?;
    }
    Ok(Outcome::Done)
}

/// Makes a value nobody's.
///
/// # Errors
/// [`Error::Corrupt`]: a row or the command does not decode.
pub(super) fn release(tx: &mut Transaction<'_>, command: &ReleaseValue) -> Result<Outcome> {
    let key = key(command.value.as_ref())?;
    let held = reservations::held(tx, key)?;
    if held.is_some_and(|held| held.reserved == command.reserved) {
        reservations::remove(tx, key);
    }
    Ok(Outcome::Done)
}

/// Voids the claims of a document that were prepared before this entry, and tells whether it holds the value.
///
/// # Errors
/// [`Error::Corrupt`]: a row or the command does not decode.
pub(super) fn fence(tx: &mut Transaction<'_>, at: u64, command: &FenceClaims) -> Result<Outcome> {
    let ReservationKey {
        database,
        bucket,
        index,
        value,
    } = key(command.value.as_ref())?;
    let index = match find(tx, database, bucket, index)? {
        Ok(index) => index,
        Err(rejection) => return Ok(rejected(rejection)),
    };
    let slot = FenceKey {
        database,
        bucket,
        slot: FenceKey::slot_of(&command.owner),
    };
    reservations::set_fence(tx, slot, at)?;
    let document = DocumentKey {
        database,
        bucket,
        key: &command.owner,
    };
    let holds = match documents::get_entry(tx, &document.encode())? {
        Some(Entry::Live { record, .. }) => {
            let held = index.unique_values(&subject(&record)?).unwrap_or_default();
            held.binary_search(&value).is_ok()
        }
        Some(Entry::Tombstone(_)) | None => false,
    };
    Ok(Outcome::Fenced { holds })
}

fn key(value: Option<&UniqueValue>) -> Result<ReservationKey> {
    let value = value.ok_or_else(|| Error::corrupt("command: no value"))?;
    let hash = ValueHash::try_from(&value.value[..]).map_err(|_| {
        let length = value.value.len();
        Error::corrupt(format!("command: hash of {length} bytes"))
    })?;
    Ok(ReservationKey {
        database: value.database,
        bucket: value.bucket,
        index: value.index,
        value: hash,
    })
}
