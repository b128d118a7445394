//! `store | 0x11 | database u32 | bucket u32 | index u32 | value | encoded key` in [`crate::engine::Column::Documents`]: an entry of an
//! index.
//!
//! Value and key of the document are one place here: only the index knows where its values end ([`crate::tables::indexes`]). The key is
//! percent-encoded as in the document's id, so that entries with equal values lie in the order of ids.

use super::{KeyKind, begin, open};
use crate::error::Result;

/// Key of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexEntryKey<'a> {
    /// Id of the database.
    pub database: u32,
    /// Id of the bucket in it.
    pub bucket: u32,
    /// Id of the index in the database.
    pub index: u32,
    /// The value, then the encoded key of the document.
    pub place: &'a [u8],
}

impl<'a> IndexEntryKey<'a> {
    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        let mut key = Self::begin(self.database, self.bucket, self.index, self.place.len());
        key.extend_from_slice(self.place);
        key
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &'a [u8]) -> Result<Self> {
        let mut reader = open(KeyKind::IndexEntry, "index entry key", key)?;
        Ok(Self {
            database: reader.u32_be()?,
            bucket: reader.u32_be()?,
            index: reader.u32_be()?,
            place: reader.rest(),
        })
    }

    /// What the keys of all entries of an index begin with.
    pub fn prefix(database: u32, bucket: u32, index: u32) -> Vec<u8> {
        Self::begin(database, bucket, index, 0)
    }

    fn begin(database: u32, bucket: u32, index: u32, place_bytes: usize) -> Vec<u8> {
        let mut key = begin(KeyKind::IndexEntry, 12 + place_bytes);
        for id in [database, bucket, index] {
            key.extend_from_slice(&id.to_be_bytes());
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use proptest::prelude::*;

    use super::*;
    use crate::keys::{DocumentKey, prefix_end};

    type Parts = ([u32; 3], Vec<u8>);

    fn parts() -> impl Strategy<Value = Parts> {
        let id = prop_oneof![0..3u32, any::<u32>()];
        ([id.clone(), id.clone(), id], any::<Vec<u8>>())
    }

    fn key((ids, place): &Parts) -> IndexEntryKey<'_> {
        let [database, bucket, index] = *ids;
        IndexEntryKey {
            database,
            bucket,
            index,
            place,
        }
    }

    proptest! {
        #[test]
        fn round_trips(parts in parts()) {
            let key = key(&parts);
            let bytes = key.encode();
            prop_assert_eq!(IndexEntryKey::decode(&bytes).expect("decodes"), key);
        }

        #[test]
        fn byte_order_is_logical_order(a in parts(), b in parts()) {
            prop_assert_eq!(key(&a).encode().cmp(&key(&b).encode()), key(&a).cmp(&key(&b)));
        }

        #[test]
        fn an_index_is_one_range(a in parts(), b in parts()) {
            let [database, bucket, index] = a.0;
            let prefix = IndexEntryKey::prefix(database, bucket, index);
            let Bound::Excluded(end) = prefix_end(&prefix) else { panic!("a kind is never 0xff") };
            let (own, other) = (key(&a).encode(), key(&b).encode());
            prop_assert!(own >= prefix && own < end);
            prop_assert_eq!(other >= prefix && other < end, a.0 == b.0);
        }

        /// A walk over the documents of a bucket, or of all buckets, never meets an entry.
        #[test]
        fn entries_lie_behind_all_documents(a in parts(), database: u32, bucket: u32, text: String) {
            let document = DocumentKey { database, bucket, key: &text }.encode();
            prop_assert!(document < key(&a).encode());
            let Bound::Excluded(end) = prefix_end(&DocumentKey::prefix(database, bucket)) else { panic!("a kind is never 0xff") };
            prop_assert!(end <= key(&a).encode());
        }
    }
}
