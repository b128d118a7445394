//! Which document has a value of a unique index, in the shard of the value; and fences against late claims, in the shard of the document.
//!
//! `store | 0x06 | database u32 | bucket u32 | index u32 | hash, 32 bytes` in the state column: a [`Reservation`].
//! `store | 0x07 | database u32 | bucket u32 | slot u8`: the index of the last fence for documents whose key hashes to the slot.

use document::index::ValueHash;

use crate::error::Result;
use crate::machine::Replica;
use crate::machine::outcome::Reservation;

/// Whose a value is, if anybody's. May wait for a disk.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode. Those of the engine.
pub fn get(
    _replica: &Replica,
    _database: u32,
    _bucket: u32,
    _index: u32,
    _value: &ValueHash,
) -> Result<Option<Reservation>> {
    todo!()
}
