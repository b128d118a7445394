//! The key catalogue: every kind of key on disk with its byte layout, and one codec file for each.
//!
//! A key on disk is the node-local store id, the byte of its kind, then fields of fixed width in big endian, and at most one text or run of
//! bytes, which comes last and reaches to the end of the key. So byte order is the order of the fields, and all that belongs to one store, one kind,
//! one database or one bucket is one range. Everything above the engine works with keys **without** store id: they are the same on every
//! replica, and the chain hash is taken over them.
//!
//! Invariants, property-tested in each codec file:
//! - decoding an encoded key gives the same key, and decoding never panics;
//! - the order of encoded keys is the order of the decoded ones.
//!
//! Bytes of kinds are never given a second meaning. A retired kind stays in [`KeyKind`] with the reason.
//!
//! This is the data database. The rows of the log database, which no state machine ever sees, are listed in `raft_log/layout.rs`.

pub mod applied;
pub mod audit;
pub mod bucket;
pub mod change;
pub mod consumer;
pub mod document;
pub mod expiry;
pub mod idempotency;
pub mod index_entry;
pub mod index_progress;
pub mod metadata;
pub mod reader_entry;
pub mod reservation;
pub mod rights;
pub mod stale;
pub mod usage;

use std::fmt;
use std::ops::Bound;

use crate::engine::Column;
use crate::error::{Error, Result};
use crate::ids::StoreId;

pub use applied::AppliedKey;
pub use audit::{AuditHeadKey, AuditKey};
pub use bucket::BucketKey;
pub use change::ChangeKey;
pub use consumer::ConsumerKey;
pub use document::DocumentKey;
pub use expiry::ExpiryKey;
pub use idempotency::{IdempotencyAgeKey, IdempotencyKey, IdempotencyUsageKey};
pub use index_entry::IndexEntryKey;
pub use index_progress::IndexProgressKey;
pub use metadata::MetadataKey;
pub use reader_entry::ReaderEntryKey;
pub use reservation::{FenceKey, ReservationKey};
pub use rights::{RightsKey, SessionEndKey};
pub use stale::{StaleKey, StaleMarkKey};
pub use usage::UsageKey;

/// Every kind of key of the data database: its byte, its column and what follows the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum KeyKind {
    /// State, `store | 0x01`: the applied id with everything that moves along with it ([`crate::tables::applied`]).
    Applied = 0x01,
    /// State, `store | 0x02 | database u32 | bucket u32`: what apply knows of a bucket ([`crate::tables::buckets`]).
    Bucket = 0x02,
    /// State, `store | 0x03 | scope u128`: the outcome of a request with an idempotency key ([`crate::tables::idempotency`]).
    Idempotency = 0x03,
    /// State, `store | 0x04 | created T u64 | scope u128`: the same records by age.
    IdempotencyAge = 0x04,
    /// State, `store | 0x05`: the bytes that idempotency records take.
    IdempotencyUsage = 0x05,
    /// State, `store | 0x06 | database u32 | bucket u32 | index u32 | hash, 32 bytes`: to which document a value of a unique index
    /// belongs ([`crate::tables::reservations`]).
    Reservation = 0x06,
    /// State, `store | 0x07 | database u32 | bucket u32 | slot u8`: the last fence against claims of documents of the slot.
    Fence = 0x07,
    /// State, `store | 0x08 | name`: a row of the cluster metadata (crate `cluster`); only in the metadata group.
    Metadata = 0x08,
    /// State, `store | 0x09 | due T u64 | database u32 | bucket u32 | key`: a document that expires ([`crate::tables::expiry`]).
    Expiry = 0x09,
    /// State, `store | 0x0A | database u32 | bucket u32 | index u32`: how far the building of an index is, or its removal
    /// ([`crate::tables::indexes`]).
    IndexProgress = 0x0a,
    /// Documents, `store | 0x10 | database u32 | bucket u32 | key`: a document or its tombstone ([`crate::tables::documents`]).
    Document = 0x10,
    /// Documents, `store | 0x11 | database u32 | bucket u32 | index u32 | value | encoded key`: an entry of an index
    /// ([`crate::tables::indexes`]).
    IndexEntry = 0x11,
    /// State, `store | 0x12 | database u32 | …`: which roles changed and whose sessions ended ([`crate::tables::rights`]).
    Rights = 0x12,
    /// State, `store | 0x13 | database u32 | key`: a user whose sessions are to be ended.
    SessionEnd = 0x13,
    /// State, `store | 0x14 | sequence u64`: a record of the audit log ([`crate::tables::audit`]).
    Audit = 0x14,
    /// State, `store | 0x15`: how far the audit log is.
    AuditHead = 0x15,
    /// State, `store | 0x16 | database u32`: what the database's documents take ([`crate::tables::usage`]).
    Usage = 0x16,
    /// Documents, `store | 0x17 | database u32 | bucket u32 | reader u64 | key`: a document under a reference that may read it
    /// ([`crate::tables::readers`]).
    ReaderEntry = 0x17,
    /// Changes, `store | 0x20 | index u64 | ordinal u32`: a change event ([`crate::tables::change_log`]).
    Change = 0x20,
    /// State, `store | 0x22 | consumer u64`: how far a durable consumer is (crate `cluster`); only in the metadata group.
    Consumer = 0x22,
    /// State, `store | 0x40 | index u64 | ordinal u32`: what a web cache may hold an old copy of ([`crate::tables::stale`]).
    Stale = 0x40,
    /// State, `store | 0x41 | index u64`: T when everything up to the index was known to be committed.
    StaleMark = 0x41,
}

impl KeyKind {
    /// All kinds in the order of their bytes.
    pub const ALL: [Self; 22] = [
        Self::Applied,
        Self::Bucket,
        Self::Idempotency,
        Self::IdempotencyAge,
        Self::IdempotencyUsage,
        Self::Reservation,
        Self::Fence,
        Self::Metadata,
        Self::Expiry,
        Self::IndexProgress,
        Self::Document,
        Self::IndexEntry,
        Self::Rights,
        Self::SessionEnd,
        Self::Audit,
        Self::AuditHead,
        Self::Usage,
        Self::ReaderEntry,
        Self::Change,
        Self::Consumer,
        Self::Stale,
        Self::StaleMark,
    ];

    /// The column that holds keys of this kind.
    pub fn column(self) -> Column {
        match self {
            Self::Applied
            | Self::Bucket
            | Self::Idempotency
            | Self::IdempotencyAge
            | Self::IdempotencyUsage
            | Self::Reservation
            | Self::Fence
            | Self::Metadata
            | Self::Expiry
            | Self::IndexProgress
            | Self::Rights
            | Self::SessionEnd
            | Self::Audit
            | Self::AuditHead
            | Self::Usage
            | Self::Consumer
            | Self::Stale
            | Self::StaleMark => Column::State,
            Self::Document | Self::IndexEntry | Self::ReaderEntry => Column::Documents,
            Self::Change => Column::Changes,
        }
    }

    /// The kind of a key without store id; `None` for a byte that no kind has.
    pub fn of(key: &[u8]) -> Option<Self> {
        let byte = *key.first()?;
        Self::ALL.into_iter().find(|&kind| kind as u8 == byte)
    }
}

/// A decoded key of any kind. Displayed as golden scripts and tools show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// See [`KeyKind::Applied`].
    Applied(AppliedKey),
    /// See [`KeyKind::Bucket`].
    Bucket(BucketKey),
    /// See [`KeyKind::Idempotency`].
    Idempotency(IdempotencyKey),
    /// See [`KeyKind::IdempotencyAge`].
    IdempotencyAge(IdempotencyAgeKey),
    /// See [`KeyKind::IdempotencyUsage`].
    IdempotencyUsage(IdempotencyUsageKey),
    /// See [`KeyKind::Reservation`].
    Reservation(ReservationKey),
    /// See [`KeyKind::Fence`].
    Fence(FenceKey),
    /// See [`KeyKind::Metadata`].
    Metadata(MetadataKey<'a>),
    /// See [`KeyKind::Expiry`].
    Expiry(ExpiryKey<'a>),
    /// See [`KeyKind::IndexProgress`].
    IndexProgress(IndexProgressKey),
    /// See [`KeyKind::Document`].
    Document(DocumentKey<'a>),
    /// See [`KeyKind::IndexEntry`].
    IndexEntry(IndexEntryKey<'a>),
    /// See [`KeyKind::Rights`].
    Rights(RightsKey<'a>),
    /// See [`KeyKind::SessionEnd`].
    SessionEnd(SessionEndKey<'a>),
    /// See [`KeyKind::ReaderEntry`].
    ReaderEntry(ReaderEntryKey<'a>),
    /// See [`KeyKind::Audit`].
    Audit(AuditKey),
    /// See [`KeyKind::AuditHead`].
    AuditHead(AuditHeadKey),
    /// See [`KeyKind::Usage`].
    Usage(UsageKey),
    /// See [`KeyKind::Change`].
    Change(ChangeKey),
    /// See [`KeyKind::Consumer`].
    Consumer(ConsumerKey),
    /// See [`KeyKind::Stale`].
    Stale(StaleKey),
    /// See [`KeyKind::StaleMark`].
    StaleMark(StaleMarkKey),
}

impl<'a> Key<'a> {
    /// Decodes a key without store id, of whatever kind it is.
    ///
    /// # Errors
    /// [`Error::Corrupt`]: no such kind, or not the layout of its kind.
    pub fn decode(key: &'a [u8]) -> Result<Key<'a>> {
        let kind = KeyKind::of(key)
            .ok_or_else(|| Error::corrupt(format!("key of unknown kind {:02x?}", key.first())))?;
        Ok(match kind {
            KeyKind::Applied => Key::Applied(AppliedKey::decode(key)?),
            KeyKind::Bucket => Key::Bucket(BucketKey::decode(key)?),
            KeyKind::Idempotency => Key::Idempotency(IdempotencyKey::decode(key)?),
            KeyKind::IdempotencyAge => Key::IdempotencyAge(IdempotencyAgeKey::decode(key)?),
            KeyKind::IdempotencyUsage => Key::IdempotencyUsage(IdempotencyUsageKey::decode(key)?),
            KeyKind::Reservation => Key::Reservation(ReservationKey::decode(key)?),
            KeyKind::Fence => Key::Fence(FenceKey::decode(key)?),
            KeyKind::Metadata => Key::Metadata(MetadataKey::decode(key)?),
            KeyKind::Expiry => Key::Expiry(ExpiryKey::decode(key)?),
            KeyKind::IndexProgress => Key::IndexProgress(IndexProgressKey::decode(key)?),
            KeyKind::Document => Key::Document(DocumentKey::decode(key)?),
            KeyKind::IndexEntry => Key::IndexEntry(IndexEntryKey::decode(key)?),
            KeyKind::Rights => Key::Rights(RightsKey::decode(key)?),
            KeyKind::SessionEnd => Key::SessionEnd(SessionEndKey::decode(key)?),
            KeyKind::ReaderEntry => Key::ReaderEntry(ReaderEntryKey::decode(key)?),
            KeyKind::Audit => Key::Audit(AuditKey::decode(key)?),
            KeyKind::AuditHead => Key::AuditHead(AuditHeadKey::decode(key)?),
            KeyKind::Usage => Key::Usage(UsageKey::decode(key)?),
            KeyKind::Change => Key::Change(ChangeKey::decode(key)?),
            KeyKind::Consumer => Key::Consumer(ConsumerKey::decode(key)?),
            KeyKind::Stale => Key::Stale(StaleKey::decode(key)?),
            KeyKind::StaleMark => Key::StaleMark(StaleMarkKey::decode(key)?),
        })
    }
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Applied(AppliedKey) => f.write_str("applied"),
            Self::Bucket(key) => write!(f, "bucket {}/{}", key.database, key.bucket),
            Self::Idempotency(key) => write!(f, "idempotency {:032x}", key.scope),
            Self::IdempotencyAge(key) => {
                write!(f, "idempotency_age {}/{:032x}", key.created_us, key.scope)
            }
            Self::IdempotencyUsage(IdempotencyUsageKey) => f.write_str("idempotency_usage"),
            Self::Reservation(key) => {
                write!(
                    f,
                    "reservation {}/{}/{} ",
                    key.database, key.bucket, key.index
                )?;
                key.value
                    .iter()
                    .try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Fence(key) => write!(f, "fence {}/{}/{}", key.database, key.bucket, key.slot),
            Self::Metadata(key) => write!(f, "metadata {:?}", key.name),
            Self::Expiry(key) => {
                let (due, database, bucket) = (key.due_us, key.database, key.bucket);
                write!(f, "expiry T{due} {database}/{bucket}/{:?}", key.key)
            }
            Self::IndexProgress(key) => {
                write!(
                    f,
                    "index_progress {}/{}/{}",
                    key.database, key.bucket, key.index
                )
            }
            Self::Document(key) => {
                write!(f, "document {}/{}/{:?}", key.database, key.bucket, key.key)
            }
            Self::IndexEntry(key) => {
                let (database, bucket, index) = (key.database, key.bucket, key.index);
                write!(
                    f,
                    "entry {database}/{bucket}/{index}/{}",
                    key.place.escape_ascii()
                )
            }
            Self::Rights(key) => key.fmt(f),
            Self::SessionEnd(key) => {
                write!(f, "session_end {}/{:?}", key.database, key.user)
            }
            Self::ReaderEntry(key) => {
                let (database, bucket, reader) = (key.database, key.bucket, key.reader);
                write!(f, "reader {database}/{bucket}/{reader:016x} {:?}", key.key)
            }
            Self::Audit(key) => write!(f, "audit {}", key.sequence),
            Self::AuditHead(AuditHeadKey) => f.write_str("audit_head"),
            Self::Usage(key) => write!(f, "usage {}", key.database),
            Self::Change(key) => write!(f, "change {}.{}", key.index, key.ordinal),
            Self::Consumer(key) => write!(f, "consumer {}", key.consumer),
            Self::Stale(StaleKey(at)) => write!(f, "stale {}.{}", at.index, at.ordinal),
            Self::StaleMark(key) => write!(f, "stale_mark {}", key.index),
        }
    }
}

/// `key`, which has no store id, as it lies on disk in `store`.
pub fn with_store(store: StoreId, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(StoreId::LEN + key.len());
    full.extend_from_slice(&store.prefix());
    full.extend_from_slice(key);
    full
}

/// The store of a key on disk, and the key without it.
///
/// # Errors
/// [`Error::Corrupt`]: shorter than a store id.
pub fn split_store(full: &[u8]) -> Result<(StoreId, &[u8])> {
    let (store, key) = full
        .split_first_chunk::<{ StoreId::LEN }>()
        .ok_or_else(|| Error::corrupt("key shorter than a store id"))?;
    Ok((StoreId(u64::from_be_bytes(*store)), key))
}

/// The end of the range of keys that begin with `prefix`: exclusive, or none for a prefix of `0xff` alone.
pub fn prefix_end(prefix: &[u8]) -> Bound<Vec<u8>> {
    match prefix.iter().rposition(|&byte| byte != 0xff) {
        None => Bound::Unbounded,
        Some(at) => {
            let mut end = prefix[..=at].to_vec();
            end[at] += 1;
            Bound::Excluded(end)
        }
    }
}

/// A buffer for a key of `kind` with room for `bytes` more.
fn begin(kind: KeyKind, bytes: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + bytes);
    key.push(kind as u8);
    key
}

/// A reader behind the kind byte of `key`, which must be `kind`'s.
fn open<'a>(kind: KeyKind, what: &'static str, key: &'a [u8]) -> Result<crate::codec::Reader<'a>> {
    let mut reader = crate::codec::Reader::new(what, key);
    if reader.u8()? != kind as u8 {
        return Err(reader.corrupt("another kind"));
    }
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn kinds_are_unique_and_sorted() {
        let bytes: Vec<u8> = KeyKind::ALL.iter().map(|&kind| kind as u8).collect();
        assert!(bytes.is_sorted_by(|a, b| a < b), "{bytes:02x?}");
    }

    #[test]
    fn every_kind_is_decoded_through_the_catalogue() {
        for (key, kind, shown) in [
            (AppliedKey.encode(), KeyKind::Applied, "applied"),
            (
                BucketKey {
                    database: 1,
                    bucket: 7,
                }
                .encode(),
                KeyKind::Bucket,
                "bucket 1/7",
            ),
            (
                IdempotencyKey { scope: 0xab }.encode(),
                KeyKind::Idempotency,
                "idempotency 000000000000000000000000000000ab",
            ),
            (
                IdempotencyAgeKey {
                    created_us: 5,
                    scope: 0xab,
                }
                .encode(),
                KeyKind::IdempotencyAge,
                "idempotency_age 5/000000000000000000000000000000ab",
            ),
            (
                IdempotencyUsageKey.encode(),
                KeyKind::IdempotencyUsage,
                "idempotency_usage",
            ),
            (
                ReservationKey {
                    database: 1,
                    bucket: 7,
                    index: 3,
                    value: [0xab; 32],
                }
                .encode(),
                KeyKind::Reservation,
                "reservation 1/7/3 abababababababababababababababababababababababababababababababab",
            ),
            (
                FenceKey {
                    database: 1,
                    bucket: 7,
                    slot: 200,
                }
                .encode(),
                KeyKind::Fence,
                "fence 1/7/200",
            ),
            (
                MetadataKey { name: "cluster" }.encode(),
                KeyKind::Metadata,
                "metadata \"cluster\"",
            ),
            (
                ExpiryKey {
                    due_us: 5,
                    database: 1,
                    bucket: 7,
                    key: "a",
                }
                .encode(),
                KeyKind::Expiry,
                "expiry T5 1/7/\"a\"",
            ),
            (
                IndexProgressKey {
                    database: 1,
                    bucket: 7,
                    index: 3,
                }
                .encode(),
                KeyKind::IndexProgress,
                "index_progress 1/7/3",
            ),
            (
                DocumentKey {
                    database: 1,
                    bucket: 7,
                    key: "a",
                }
                .encode(),
                KeyKind::Document,
                "document 1/7/\"a\"",
            ),
            (
                IndexEntryKey {
                    database: 1,
                    bucket: 7,
                    index: 3,
                    place: b"\x10\x00a%20b",
                }
                .encode(),
                KeyKind::IndexEntry,
                "entry 1/7/3/\\x10\\x00a%20b",
            ),
            (AuditKey { sequence: 4 }.encode(), KeyKind::Audit, "audit 4"),
            (AuditHeadKey.encode(), KeyKind::AuditHead, "audit_head"),
            (UsageKey { database: 1 }.encode(), KeyKind::Usage, "usage 1"),
            (
                RightsKey::Order {
                    database: 1,
                    index: 5,
                    subject: rights::Subject::User("a"),
                }
                .encode(),
                KeyKind::Rights,
                "rights 1 at 5 user \"a\"",
            ),
            (
                SessionEndKey {
                    database: 1,
                    user: "a",
                }
                .encode(),
                KeyKind::SessionEnd,
                "session_end 1/\"a\"",
            ),
            (
                ReaderEntryKey {
                    database: 1,
                    bucket: 7,
                    reader: 0xab,
                    key: "a b",
                }
                .encode(),
                KeyKind::ReaderEntry,
                "reader 1/7/00000000000000ab \"a b\"",
            ),
            (
                ChangeKey {
                    index: 12,
                    ordinal: 1,
                }
                .encode(),
                KeyKind::Change,
                "change 12.1",
            ),
            (
                ConsumerKey { consumer: 9 }.encode(),
                KeyKind::Consumer,
                "consumer 9",
            ),
            (
                StaleKey(ChangeKey {
                    index: 12,
                    ordinal: 1,
                })
                .encode(),
                KeyKind::Stale,
                "stale 12.1",
            ),
            (
                StaleMarkKey { index: 12 }.encode(),
                KeyKind::StaleMark,
                "stale_mark 12",
            ),
        ] {
            assert_eq!(KeyKind::of(&key), Some(kind));
            assert_eq!(Key::decode(&key).expect("decodes").to_string(), shown);
        }
        assert!(matches!(Key::decode(&[0xee]), Err(Error::Corrupt { .. })));
        assert!(matches!(Key::decode(&[]), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn a_prefix_of_full_bytes_has_no_end() {
        assert_eq!(prefix_end(&[0xff, 0xff]), Bound::Unbounded);
        assert_eq!(prefix_end(&[]), Bound::Unbounded);
        assert_eq!(prefix_end(&[1, 0xff]), Bound::Excluded(vec![2]));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_corrupt(bytes: Vec<u8>) {
            if let Err(error) = Key::decode(&bytes) {
                let is_corrupt = matches!(error, Error::Corrupt { .. });
                prop_assert!(is_corrupt);
            }
        }

        #[test]
        fn stores_come_off_again(store: u64, key: Vec<u8>) {
            let full = with_store(StoreId(store), &key);
            let (StoreId(found), rest) = split_store(&full).expect("long enough");
            prop_assert_eq!((found, rest), (store, &key[..]));
        }

        #[test]
        fn a_prefix_ends_behind_all_its_keys(prefix in proptest::collection::vec(any::<u8>(), 1..5), rest: Vec<u8>, other: Vec<u8>) {
            let key = [&prefix[..], &rest].concat();
            if let Bound::Excluded(end) = prefix_end(&prefix) {
                prop_assert!(key < end);
                prop_assert!(other < prefix || other.starts_with(&prefix) || other >= end);
            }
        }
    }
}
