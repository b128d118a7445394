//! Documents and the tombstones that keep the last version of deleted ones.
//!
//! A row is laid out by hand, so that a reader gets the body as a slice of it and parses nothing. Integers are little endian.
//!
//! | bytes | live document | tombstone |
//! |---|---|---|
//! | 0 | format, 1 | format, 1 |
//! | 1 | flags: 2 has an ACL, 4 has hidden members, 8 expires, 16 has a lifetime | flags: 1, 2 the document had an ACL |
//! | 2–9 | version | version of the delete |
//! | 10–21 | position of its change event: index u64, ordinal u32 | the same |
//! | 22–29 | created, µs | T of the delete, µs |
//! | 30–37 | updated, µs | – |
//! | then | if it expires: the moment that is shown i64, due T u64, both µs | – |
//! | then | if it has a lifetime in web caches: mean time between writes u32, lifetime u32, both ms | – |
//! | then | the ACL, if any (`tables::acl`); hidden members, if any: varint length and bytes | the ACL that it had, if any |
//! | to the end | the JSON that is served | – |
//!
//! Reads by anyone but apply do not see tombstones.

use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use document::acl::Acl;

use super::acl;
use crate::codec::{Reader, put_bytes};
use crate::engine::{Cached, Column, Direction};
use crate::error::Result;
use crate::keys::{ChangeKey, DocumentKey, prefix_end};
use crate::machine::lifetime::Lifetime;
use crate::machine::{Replica, ReplicaView, Transaction};

const FORMAT: u8 = 1;
const TOMBSTONE: u8 = 1;
const HAS_ACL: u8 = 2;
const HAS_HIDDEN: u8 = 4;
const EXPIRES: u8 = 8;
const HAS_LIFETIME: u8 = 16;
/// Flags of a live row.
const LIVE_FLAGS: u8 = HAS_ACL | HAS_HIDDEN | EXPIRES | HAS_LIFETIME;
/// Bytes of a live row in front of what varies in length.
const HEADER_BYTES: usize = 38;
/// Bytes of an expiry.
const EXPIRY_BYTES: usize = 16;
/// Bytes of a lifetime.
const LIFETIME_BYTES: usize = 8;
const WHAT: &str = "document row";

/// A live document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Counts the accepted writes of this id, from 1.
    pub version: u64,
    /// Time of the insert, microseconds since 1970.
    pub created_us: u64,
    /// Time of the last write, microseconds since 1970.
    pub updated_us: u64,
    /// When it expires; `None`: never.
    pub expiry: Option<Expiry>,
    /// How long web caches may keep this version; `None`: it was written without a cache policy.
    pub lifetime: Option<Lifetime>,
    /// Who may read and write it; `None`: everybody.
    pub acl: Option<Acl>,
    /// Members that are never served, JSON object text.
    pub hidden: Option<Bytes>,
    /// The complete JSON, as it is served. A slice of the stored row.
    pub body: Bytes,
}

/// When a document expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The moment as it was asked for and is shown, microseconds since 1970.
    pub at_us: i64,
    /// The same in the shard's T, which is what counts, microseconds.
    pub due_us: u64,
}

/// What memory knows of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachedRecord {
    /// It exists.
    Found(Record),
    /// It does not.
    Absent,
    /// Ask [`get`], on a thread that may wait for a disk.
    NeedsDisk,
}

/// What lies under a document's key, as apply sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A document.
    Live {
        /// The document.
        record: Record,
        /// Its change event.
        position: ChangeKey,
    },
    /// A deleted one.
    Tombstone(Tombstone),
}

/// What is left of a deleted document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The version that the delete took: a new insert continues behind it.
    pub version: u64,
    /// The shard's T at the delete, microseconds.
    pub deleted_us: u64,
    /// The change event of the delete.
    pub position: ChangeKey,
    /// Who could read and write what was deleted; `None`: everybody.
    pub acl: Option<Acl>,
}

/// The document as of the last applied entry, if memory has it. Does not wait for a disk: fit for an async thread.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode.
pub fn get_cached(
    replica: &Replica,
    database: u32,
    bucket: u32,
    key: &str,
) -> Result<CachedRecord> {
    Ok(
        match replica.get_cached(
            Column::Documents,
            &DocumentKey {
                database,
                bucket,
                key,
            }
            .encode(),
        )? {
            Cached::Found(row) => decode(&row)?
                .live()
                .map_or(CachedRecord::Absent, CachedRecord::Found),
            Cached::Absent => CachedRecord::Absent,
            Cached::NeedsDisk => CachedRecord::NeedsDisk,
        },
    )
}

/// The document as of the last applied entry. May wait for a disk.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode.
pub fn get(replica: &Replica, database: u32, bucket: u32, key: &str) -> Result<Option<Record>> {
    match replica.get(
        Column::Documents,
        &DocumentKey {
            database,
            bucket,
            key,
        }
        .encode(),
    )? {
        Some(row) => Ok(decode(&row)?.live()),
        None => Ok(None),
    }
}

/// The document as a view shows it. May wait for a disk.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode.
pub fn get_at(
    view: &ReplicaView<'_>,
    database: u32,
    bucket: u32,
    key: &str,
) -> Result<Option<Record>> {
    let key = DocumentKey {
        database,
        bucket,
        key,
    };
    match view.get(Column::Documents, &key.encode())? {
        Some(row) => Ok(decode(&row)?.live()),
        None => Ok(None),
    }
}

/// The documents of a bucket in the order of their keys, from `from` on. May wait for a disk at each step; bounding the walk is the
/// caller's part. After an error it ends.
pub fn scan<'v>(
    view: &'v ReplicaView<'_>,
    database: u32,
    bucket: u32,
    from: Bound<&str>,
) -> Box<dyn Iterator<Item = Result<(String, Record)>> + Send + 'v> {
    let (start, end) = range(database, bucket, from);
    let rows = view.scan(
        Column::Documents,
        start.as_ref().map(Vec::as_slice),
        end.as_ref().map(Vec::as_slice),
    );
    Box::new(rows.filter_map(|row| {
        let document = row.and_then(|(key, row)| {
            let live = decode(&row)?.live();
            live.map(|record| Ok((DocumentKey::decode(&key)?.key.to_owned(), record)))
                .transpose()
        });
        document.transpose()
    }))
}

/// A live document as it lies in the store, looked at and not copied.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Decoded key.
    pub key: &'a str,
    /// Counts the accepted writes of this id, from 1.
    pub version: u64,
    /// Time of the insert, microseconds since 1970.
    pub created_us: u64,
    /// Time of the last write, microseconds since 1970.
    pub updated_us: u64,
    /// The ACL in its stored form, for [`Row::acl`]; `None`: everybody may. Equal bytes are equal rules.
    pub acl: Option<&'a [u8]>,
    /// The complete JSON, as it is served.
    pub body: &'a [u8],
}

impl Row<'_> {
    /// Who may read and write it; `None`: everybody.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: the rules do not decode.
    pub fn acl(&self) -> Result<Option<Acl>> {
        self.acl
            .map(|bytes| acl::read(&mut Reader::new(WHAT, bytes)))
            .transpose()
    }
}

/// Shows each document of a bucket to `each` in the order of their keys, from `from` on and without copying it, until `each` breaks. May
/// wait for a disk at each step. `None` stands for a tombstone, so that a walk over many of them can be ended too.
///
/// # Errors
/// [`crate::Error::Corrupt`]: a row does not decode. Those of the engine, and the first of `each`.
pub fn visit(
    view: &ReplicaView<'_>,
    database: u32,
    bucket: u32,
    from: Bound<&str>,
    each: &mut dyn FnMut(Option<Row<'_>>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let (start, end) = range(database, bucket, from);
    view.visit(
        Column::Documents,
        start.as_ref().map(Vec::as_slice),
        end.as_ref().map(Vec::as_slice),
        Direction::Forward,
        &mut |key, row| each(look(key, row)?),
    )
}

/// What a walk over changes hands each key and what changed to. `Break` ends the walk.
pub type ChangedVisitor<'a> = dyn FnMut(&str, Option<Entry>) -> Result<ControlFlow<()>> + 'a;

/// Shows what changed in a bucket behind `since`, deletes too, in the order of keys from `from` on, until `each` breaks. `None` stands for
/// what has not changed, so that a walk over much of that can be ended too. May wait for a disk at each step.
///
/// # Errors
/// [`crate::Error::Corrupt`]: a row does not decode. Those of the engine, and the first of `each`.
pub fn visit_changed(
    view: &ReplicaView<'_>,
    database: u32,
    bucket: u32,
    from: Bound<&str>,
    since: ChangeKey,
    each: &mut ChangedVisitor<'_>,
) -> Result<()> {
    let (start, end) = range(database, bucket, from);
    view.visit(
        Column::Documents,
        start.as_ref().map(Vec::as_slice),
        end.as_ref().map(Vec::as_slice),
        Direction::Forward,
        &mut |key, row| {
            let mut reader = Reader::new(WHAT, row);
            // Format, flags and version.
            reader.take(10)?;
            let position = ChangeKey {
                index: reader.u64_le()?,
                ordinal: reader.u32_le()?,
            };
            let entry = match position > since {
                true => Some(decode(&Bytes::copy_from_slice(row))?),
                false => None,
            };
            each(DocumentKey::decode(key)?.key, entry)
        },
    )
}

/// What a walk of apply hands each decoded key and its row, for [`decode`]. `Break` ends the walk.
pub(crate) type RowVisitor<'a> = dyn FnMut(&str, &Bytes) -> Result<ControlFlow<()>> + 'a;

/// Shows what lies behind the key `after` in a bucket, tombstones too, in the order of keys; behind an empty one everything.
///
/// # Errors
/// [`crate::Error::Corrupt`]: a key does not decode. Those of the engine, and the first of `each`.
pub(crate) fn visit_behind(
    tx: &Transaction<'_>,
    database: u32,
    bucket: u32,
    after: &str,
    each: &mut RowVisitor<'_>,
) -> Result<()> {
    let from = match after {
        "" => Bound::Unbounded,
        after => Bound::Excluded(after),
    };
    let (start, end) = range(database, bucket, from);
    tx.visit(
        Column::Documents,
        start.as_ref().map(Vec::as_slice),
        end.as_ref().map(Vec::as_slice),
        &mut |key, row| each(DocumentKey::decode(&key)?.key, &row),
    )
}

/// What lies under a document's key, deleted or not. May wait for a disk.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode. Those of the engine.
pub fn entry(
    view: &ReplicaView<'_>,
    database: u32,
    bucket: u32,
    key: &str,
) -> Result<Option<Entry>> {
    let key = DocumentKey {
        database,
        bucket,
        key,
    }
    .encode();
    let row = view.get(Column::Documents, &key)?;
    row.map(|row| decode(&row)).transpose()
}

/// Shows the document under a key to `each` without copying it, if it is live. May wait for a disk.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode. Those of the engine.
pub fn look_up<T>(
    view: &ReplicaView<'_>,
    database: u32,
    bucket: u32,
    key: &str,
    each: impl FnOnce(Row<'_>) -> T,
) -> Result<Option<T>> {
    let key = DocumentKey {
        database,
        bucket,
        key,
    }
    .encode();
    let Some(row) = view.get(Column::Documents, &key)? else {
        return Ok(None);
    };
    Ok(look(&key, &row)?.map(each))
}

/// The keys of a bucket from `from` on.
fn range(database: u32, bucket: u32, from: Bound<&str>) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let prefix = DocumentKey::prefix(database, bucket);
    let encode = |key| {
        DocumentKey {
            database,
            bucket,
            key,
        }
        .encode()
    };
    let end = prefix_end(&prefix);
    let start = match from {
        Bound::Included(key) => Bound::Included(encode(key)),
        Bound::Excluded(key) => Bound::Excluded(encode(key)),
        Bound::Unbounded => Bound::Included(prefix),
    };
    (start, end)
}

/// The parts of a row; `None`: a tombstone.
fn look<'a>(key: &'a [u8], row: &'a [u8]) -> Result<Option<Row<'a>>> {
    let mut reader = Reader::new(WHAT, row);
    if reader.u8()? != FORMAT {
        return Err(reader.corrupt("unknown format"));
    }
    let flags = reader.u8()?;
    if flags & TOMBSTONE != 0 {
        return Ok(None);
    }
    if flags & !LIVE_FLAGS != 0 {
        return Err(reader.corrupt("unknown flags"));
    }
    let version = reader.u64_le()?;
    // The position of its change event.
    reader.take(12)?;
    let (created_us, updated_us) = (reader.u64_le()?, reader.u64_le()?);
    read_expiry(&mut reader, flags)?;
    read_lifetime(&mut reader, flags)?;
    let acl = if flags & HAS_ACL != 0 {
        let start = reader.position();
        acl::skip(&mut reader)?;
        Some(&row[start..reader.position()])
    } else {
        None
    };
    if flags & HAS_HIDDEN != 0 {
        reader.sized()?;
    }
    Ok(Some(Row {
        key: DocumentKey::decode(key)?.key,
        version,
        created_us,
        updated_us,
        acl,
        body: reader.rest(),
    }))
}

/// What lies under a document's key, tombstones too.
pub(crate) fn get_entry(tx: &mut Transaction<'_>, key: &[u8]) -> Result<Option<Entry>> {
    tx.get(Column::Documents, key)?
        .map(|row| decode(&row))
        .transpose()
}

/// A live document to store.
pub(crate) struct NewRecord<'a> {
    pub(crate) version: u64,
    pub(crate) position: ChangeKey,
    pub(crate) created_us: u64,
    pub(crate) updated_us: u64,
    pub(crate) expiry: Option<Expiry>,
    pub(crate) lifetime: Option<Lifetime>,
    pub(crate) acl: Option<&'a Acl>,
    pub(crate) hidden: Option<&'a [u8]>,
    pub(crate) body: &'a [u8],
}

/// Stores a document and returns its body as a slice of the row.
pub(crate) fn put(tx: &mut Transaction<'_>, key: &[u8], record: &NewRecord<'_>) -> Bytes {
    let row = Bytes::from(encode(record));
    let body = row.slice(row.len() - record.body.len()..);
    tx.put(Column::Documents, key, row);
    body
}

/// Stores a tombstone.
pub(crate) fn put_tombstone(tx: &mut Transaction<'_>, key: &[u8], tombstone: &Tombstone) {
    tx.put(Column::Documents, key, encode_tombstone(tombstone).into());
}

impl Entry {
    /// The document, unless it is deleted.
    fn live(self) -> Option<Record> {
        match self {
            Self::Live { record, .. } => Some(record),
            Self::Tombstone(_) => None,
        }
    }
}

fn put_header(row: &mut Vec<u8>, flags: u8, version: u64, position: ChangeKey) {
    row.extend_from_slice(&[FORMAT, flags]);
    row.extend_from_slice(&version.to_le_bytes());
    row.extend_from_slice(&position.index.to_le_bytes());
    row.extend_from_slice(&position.ordinal.to_le_bytes());
}

fn encode(record: &NewRecord<'_>) -> Vec<u8> {
    let hidden_bytes = record.hidden.map_or(0, |hidden| hidden.len() + 10);
    // A rule takes some 30 bytes; the body, which is most of it, is counted exactly.
    let acl_bytes = record.acl.map_or(0, |acl| {
        2 + 40 * (acl.read.iter().count() + acl.write.iter().count())
    });
    let expiry_bytes = record.expiry.map_or(0, |_| EXPIRY_BYTES);
    let lifetime_bytes = record.lifetime.map_or(0, |_| LIFETIME_BYTES);
    let fixed_bytes = HEADER_BYTES + expiry_bytes + lifetime_bytes;
    let mut row = Vec::with_capacity(fixed_bytes + acl_bytes + hidden_bytes + record.body.len());
    let flags = record.acl.map_or(0, |_| HAS_ACL)
        | record.hidden.map_or(0, |_| HAS_HIDDEN)
        | record.expiry.map_or(0, |_| EXPIRES)
        | record.lifetime.map_or(0, |_| HAS_LIFETIME);
    put_header(&mut row, flags, record.version, record.position);
    row.extend_from_slice(&record.created_us.to_le_bytes());
    row.extend_from_slice(&record.updated_us.to_le_bytes());
    if let Some(expiry) = record.expiry {
        row.extend_from_slice(&expiry.at_us.to_le_bytes());
        row.extend_from_slice(&expiry.due_us.to_le_bytes());
    }
    if let Some(lifetime) = record.lifetime {
        row.extend_from_slice(&lifetime.interval_ms.to_le_bytes());
        row.extend_from_slice(&lifetime.ttl_ms.to_le_bytes());
    }
    if let Some(acl) = record.acl {
        acl::put(&mut row, acl);
    }
    if let Some(hidden) = record.hidden {
        put_bytes(&mut row, hidden);
    }
    row.extend_from_slice(record.body);
    row
}

fn encode_tombstone(tombstone: &Tombstone) -> Vec<u8> {
    let mut row = Vec::with_capacity(HEADER_BYTES);
    let flags = TOMBSTONE | tombstone.acl.as_ref().map_or(0, |_| HAS_ACL);
    put_header(&mut row, flags, tombstone.version, tombstone.position);
    row.extend_from_slice(&tombstone.deleted_us.to_le_bytes());
    if let Some(acl) = &tombstone.acl {
        acl::put(&mut row, acl);
    }
    row
}

pub(crate) fn decode(row: &Bytes) -> Result<Entry> {
    let mut reader = Reader::new(WHAT, row);
    if reader.u8()? != FORMAT {
        return Err(reader.corrupt("unknown format"));
    }
    let flags = reader.u8()?;
    let version = reader.u64_le()?;
    let position = ChangeKey {
        index: reader.u64_le()?,
        ordinal: reader.u32_le()?,
    };
    if flags & TOMBSTONE != 0 {
        if flags & !(TOMBSTONE | HAS_ACL) != 0 {
            return Err(reader.corrupt("unknown flags"));
        }
        let deleted_us = reader.u64_le()?;
        let acl = if flags & HAS_ACL != 0 {
            Some(acl::read(&mut reader)?)
        } else {
            None
        };
        reader.finish()?;
        return Ok(Entry::Tombstone(Tombstone {
            version,
            deleted_us,
            position,
            acl,
        }));
    }
    if flags & !LIVE_FLAGS != 0 {
        return Err(reader.corrupt("unknown flags"));
    }
    let (created_us, updated_us) = (reader.u64_le()?, reader.u64_le()?);
    let expiry = read_expiry(&mut reader, flags)?;
    let lifetime = read_lifetime(&mut reader, flags)?;
    let acl = if flags & HAS_ACL != 0 {
        Some(acl::read(&mut reader)?)
    } else {
        None
    };
    let hidden = if flags & HAS_HIDDEN != 0 {
        Some(row.slice_ref(reader.sized()?))
    } else {
        None
    };
    let body = row.slice(reader.position()..);
    Ok(Entry::Live {
        record: Record {
            version,
            created_us,
            updated_us,
            expiry,
            lifetime,
            acl,
            hidden,
            body,
        },
        position,
    })
}

fn read_expiry(reader: &mut Reader<'_>, flags: u8) -> Result<Option<Expiry>> {
    if flags & EXPIRES == 0 {
        return Ok(None);
    }
    let at_us = reader.u64_le()?.cast_signed();
    let due_us = reader.u64_le()?;
    Ok(Some(Expiry { at_us, due_us }))
}

fn read_lifetime(reader: &mut Reader<'_>, flags: u8) -> Result<Option<Lifetime>> {
    if flags & HAS_LIFETIME == 0 {
        return Ok(None);
    }
    let (interval_ms, ttl_ms) = (reader.u32_le()?, reader.u32_le()?);
    Ok(Some(Lifetime {
        interval_ms,
        ttl_ms,
    }))
}

#[cfg(test)]
mod tests {
    use document::acl::{Access, Rules};
    use proptest::prelude::*;

    use super::*;

    fn positions() -> impl Strategy<Value = ChangeKey> {
        any::<(u64, u32)>().prop_map(|(index, ordinal)| ChangeKey { index, ordinal })
    }

    fn acls() -> impl Strategy<Value = Option<Acl>> {
        proptest::option::of("[a-z]{1,9}".prop_map(|user| Acl {
            read: Rules::new(),
            write: Rules::new().with(&format!("/db/User/{user}"), Access::Allow),
        }))
    }

    fn bytes() -> impl Strategy<Value = Bytes> {
        any::<Vec<u8>>().prop_map(Bytes::from)
    }

    fn records() -> impl Strategy<Value = Record> {
        (
            any::<(u64, u64, u64)>(),
            proptest::option::of(
                any::<(i64, u64)>().prop_map(|(at_us, due_us)| Expiry { at_us, due_us }),
            ),
            proptest::option::of(
                any::<(u32, u32)>().prop_map(|(interval_ms, ttl_ms)| Lifetime {
                    interval_ms,
                    ttl_ms,
                }),
            ),
            acls(),
            proptest::option::of(bytes()),
            bytes(),
        )
            .prop_map(
                |((version, created_us, updated_us), expiry, lifetime, acl, hidden, body)| Record {
                    version,
                    created_us,
                    updated_us,
                    expiry,
                    lifetime,
                    acl,
                    hidden,
                    body,
                },
            )
    }

    fn row_of(record: &Record, position: ChangeKey) -> Bytes {
        encode(&NewRecord {
            version: record.version,
            position,
            created_us: record.created_us,
            updated_us: record.updated_us,
            expiry: record.expiry,
            lifetime: record.lifetime,
            acl: record.acl.as_ref(),
            hidden: record.hidden.as_deref(),
            body: &record.body,
        })
        .into()
    }

    proptest! {
        #[test]
        fn documents_round_trip(record in records(), position in positions()) {
            let row = row_of(&record, position);
            prop_assert_eq!(decode(&row).expect("decodes"), Entry::Live { record, position });
        }

        #[test]
        fn looking_shows_what_decoding_copies(record in records(), position in positions()) {
            let row = row_of(&record, position);
            let key = DocumentKey { database: 1, bucket: 2, key: "k" }.encode();
            let seen = look(&key, &row).expect("decodes").expect("live");
            prop_assert_eq!(seen.key, "k");
            prop_assert_eq!(
                (seen.version, seen.created_us, seen.updated_us),
                (record.version, record.created_us, record.updated_us)
            );
            prop_assert_eq!(seen.body, &record.body[..]);
            prop_assert_eq!(seen.acl().expect("decodes"), record.acl);
        }

        #[test]
        fn a_body_is_a_slice_of_its_row(record in records(), position in positions()) {
            let row = row_of(&record, position);
            let body = decode(&row).expect("decodes").live().expect("live").body;
            if !body.is_empty() {
                prop_assert_eq!(body.as_ptr_range().end, row.as_ptr_range().end);
            }
        }

        #[test]
        fn tombstones_round_trip(version: u64, deleted_us: u64, position in positions(), acl in acls()) {
            let tombstone = Tombstone { version, deleted_us, position, acl };
            let row = Bytes::from(encode_tombstone(&tombstone));
            prop_assert_eq!(decode(&row).expect("decodes"), Entry::Tombstone(tombstone));
        }

        #[test]
        fn any_bytes_decode_or_are_corrupt(format in 0..3u8, flags in 0..33u8, bytes: Vec<u8>) {
            let row = Bytes::from([&[format, flags], &bytes[..]].concat());
            let key = DocumentKey { database: 1, bucket: 2, key: "k" }.encode();
            for error in [decode(&row).err(), look(&key, &row).err()].into_iter().flatten() {
                let is_corrupt = matches!(error, crate::Error::Corrupt { .. });
                prop_assert!(is_corrupt);
            }
        }
    }
}
