//! Keys of what unique indexes need, in [`crate::engine::Column::State`]: `store | 0x06 | database u32 | bucket u32 | index u32 | hash,
//! 32 bytes` for whose a value is, `store | 0x07 | database u32 | bucket u32 | slot u8` for the last fence of a slot of document keys.

use document::index::ValueHash;

use super::{KeyKind, begin, open};
use crate::error::Result;

/// Key of a value's reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReservationKey {
    /// Id of the database.
    pub database: u32,
    /// Id of the bucket in it.
    pub bucket: u32,
    /// Id of the index in the database.
    pub index: u32,
    /// Hash of the value.
    pub value: ValueHash,
}

impl ReservationKey {
    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        let mut key = Self::prefix(self.database, self.bucket, self.index);
        key.extend_from_slice(&self.value);
        key
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &[u8]) -> Result<Self> {
        let mut reader = open(KeyKind::Reservation, "reservation key", key)?;
        let (database, bucket, index) = (reader.u32_be()?, reader.u32_be()?, reader.u32_be()?);
        let value = reader
            .rest()
            .try_into()
            .map_err(|_| reader.corrupt("not a hash of 32 bytes"))?;
        Ok(Self {
            database,
            bucket,
            index,
            value,
        })
    }

    /// What the keys of all reservations of an index begin with.
    pub fn prefix(database: u32, bucket: u32, index: u32) -> Vec<u8> {
        let mut key = begin(KeyKind::Reservation, 12 + size_of::<ValueHash>());
        for id in [database, bucket, index] {
            key.extend_from_slice(&id.to_be_bytes());
        }
        key
    }
}

/// Key of a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FenceKey {
    /// Id of the database.
    pub database: u32,
    /// Id of the bucket in it.
    pub bucket: u32,
    /// See [`FenceKey::slot_of`].
    pub slot: u8,
}

impl FenceKey {
    /// Slots of a bucket.
    pub const SLOTS: usize = 1 << u8::BITS;

    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        let mut key = Self::prefix(self.database, self.bucket);
        key.push(self.slot);
        key
    }

    /// What the keys of all fences of a bucket begin with.
    pub fn prefix(database: u32, bucket: u32) -> Vec<u8> {
        let mut key = begin(KeyKind::Fence, 9);
        key.extend_from_slice(&database.to_be_bytes());
        key.extend_from_slice(&bucket.to_be_bytes());
        key
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &[u8]) -> Result<Self> {
        let mut reader = open(KeyKind::Fence, "fence key", key)?;
        let decoded = Self {
            database: reader.u32_be()?,
            bucket: reader.u32_be()?,
            slot: reader.u8()?,
        };
        reader.finish()?;
        Ok(decoded)
    }

    /// The slot that a document's fences are in: the low byte of the XXH3-64 of its key. On disk for ever.
    pub fn slot_of(key: &str) -> u8 {
        xxhash_rust::xxh3::xxh3_64(key.as_bytes()) as u8
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use proptest::prelude::*;

    use super::*;
    use crate::keys::prefix_end;

    fn reservations() -> impl Strategy<Value = ReservationKey> {
        let id = prop_oneof![0..3u32, any::<u32>()];
        ([id.clone(), id.clone(), id], any::<ValueHash>()).prop_map(
            |([database, bucket, index], value)| ReservationKey {
                database,
                bucket,
                index,
                value,
            },
        )
    }

    fn fences() -> impl Strategy<Value = FenceKey> {
        let id = prop_oneof![0..3u32, any::<u32>()];
        ([id.clone(), id], any::<u8>()).prop_map(|([database, bucket], slot)| FenceKey {
            database,
            bucket,
            slot,
        })
    }

    #[test]
    fn slots_never_move() {
        assert_eq!(
            ["", "a", "ä/{t}"].map(FenceKey::slot_of),
            [0xc2, 0x1f, 0x2b]
        );
    }

    proptest! {
        #[test]
        fn reservations_round_trip(key in reservations()) {
            prop_assert_eq!(ReservationKey::decode(&key.encode()).expect("decodes"), key);
        }

        #[test]
        fn reservation_byte_order_is_logical_order(a in reservations(), b in reservations()) {
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }

        #[test]
        fn the_reservations_of_an_index_are_one_range(a in reservations(), b in reservations()) {
            let prefix = ReservationKey::prefix(a.database, a.bucket, a.index);
            let Bound::Excluded(end) = prefix_end(&prefix) else { panic!("a kind is never 0xff") };
            let is_same = (a.database, a.bucket, a.index) == (b.database, b.bucket, b.index);
            prop_assert_eq!(b.encode() >= prefix && b.encode() < end, is_same);
        }

        #[test]
        fn fences_round_trip(key in fences()) {
            prop_assert_eq!(FenceKey::decode(&key.encode()).expect("decodes"), key);
        }

        #[test]
        fn fence_byte_order_is_logical_order(a in fences(), b in fences()) {
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }
    }
}
