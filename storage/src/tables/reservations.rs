//! Which document has a value of a unique index, in the shard of the value; and fences against late claims, in the shard of the document.
//!
//! `store | 0x06 | database u32 | bucket u32 | index u32 | hash, 32 bytes` in the state column: a [`Reservation`].
//! `store | 0x07 | database u32 | bucket u32 | slot u8`: the index of the last fence for documents whose key hashes to the slot.

use bincode::{Decode, Encode};
use document::index::ValueHash;

use crate::codec::{self, Record};
use crate::engine::Column;
use crate::error::Result;
use crate::keys::{FenceKey, ReservationKey};
use crate::machine::outcome::Reservation;
use crate::machine::{Replica, Transaction};

/// The index of the last fence of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct FenceRow(pub(crate) u64);

impl Record for FenceRow {
    const FORMAT: u8 = 1;
    const WHAT: &'static str = "fence row";
}

/// Whose a value is, if anybody's. May wait for a disk.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode. Those of the engine.
pub fn get(
    replica: &Replica,
    database: u32,
    bucket: u32,
    index: u32,
    value: &ValueHash,
) -> Result<Option<Reservation>> {
    let key = ReservationKey {
        database,
        bucket,
        index,
        value: *value,
    };
    let row = replica.get(Column::State, &key.encode())?;
    row.map(|row| codec::decode(&row)).transpose()
}

/// As [`get`], for apply.
pub(crate) fn held(tx: &mut Transaction<'_>, key: ReservationKey) -> Result<Option<Reservation>> {
    let row = tx.get(Column::State, &key.encode())?;
    row.map(|row| codec::decode(&row)).transpose()
}

/// Stores whose a value is.
pub(crate) fn put(
    tx: &mut Transaction<'_>,
    key: ReservationKey,
    reservation: &Reservation,
) -> Result<()> {
    tx.put(Column::State, &key.encode(), codec::encode(reservation)?);
    Ok(())
}

/// Makes a value nobody's.
pub(crate) fn remove(tx: &mut Transaction<'_>, key: ReservationKey) {
    tx.delete(Column::State, &key.encode());
}

/// The index of the last fence of a slot; 0: there was none.
pub(crate) fn fence(tx: &mut Transaction<'_>, key: FenceKey) -> Result<u64> {
    let row = tx.get(Column::State, &key.encode())?;
    let row: Option<FenceRow> = row.map(|row| codec::decode(&row)).transpose()?;
    Ok(row.map_or(0, |FenceRow(index)| index))
}

/// Stores the index of a fence.
pub(crate) fn set_fence(tx: &mut Transaction<'_>, key: FenceKey, index: u64) -> Result<()> {
    tx.put(
        Column::State,
        &key.encode(),
        codec::encode(&FenceRow(index))?,
    );
    Ok(())
}

/// Removes the fences of a bucket that takes no more writes.
pub(crate) fn remove_fences(tx: &mut Transaction<'_>, database: u32, bucket: u32) -> Result<()> {
    let prefix = FenceKey::prefix(database, bucket);
    for (key, _) in tx.scan_prefix(Column::State, &prefix, FenceKey::SLOTS)? {
        tx.delete(Column::State, &key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reservations_round_trip(owner: String, reserved: u64, confirmed: bool) {
            let row = Reservation { owner, reserved, confirmed };
            let bytes = codec::encode(&row).expect("encodes");
            prop_assert_eq!(codec::decode::<Reservation>(&bytes).expect("decodes"), row);
        }

        #[test]
        fn fences_round_trip(index: u64) {
            let bytes = codec::encode(&FenceRow(index)).expect("encodes");
            prop_assert_eq!(codec::decode::<FenceRow>(&bytes).expect("decodes"), FenceRow(index));
        }

        #[test]
        fn any_bytes_decode_or_are_corrupt(bytes: Vec<u8>) {
            let errors = [
                codec::decode::<Reservation>(&bytes).err(),
                codec::decode::<FenceRow>(&bytes).err(),
            ];
            for error in errors.into_iter().flatten() {
                let is_corrupt = matches!(error, crate::Error::Corrupt { .. });
                prop_assert!(is_corrupt);
            }
        }
    }
}
