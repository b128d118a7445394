//! The change log: one event for each effect on a document, with what it looked like afterwards.
//!
//! An event lies at (index, ordinal): the log index of its entry, and its place among the events of that entry. The row is laid out by
//! hand like that of a document, so that feeds slice the body out. Integers are little endian; "sized" is a varint length and bytes.
//!
//! | bytes | content |
//! |---|---|
//! | 0 | format, 1 |
//! | 1 | operation: 1 insert, 2 update, 3 delete, 4 new rules of the bucket |
//! | 2 | flags: 1 has an ACL, 2 has a before side, 4 the before side has an ACL, 8 by expiry, 16 has T, 32 the before side has its body, 64 follows a delete, 128 has a lifetime |
//! | 3–10 | time, µs |
//! | 11–18 | database u32, bucket u32 |
//! | 19–26 | version |
//! | then | T u64, µs, if it has one; sized key; sized id of the acting user, empty for nobody |
//! | then | the ACL after the change, if any (`tables::acl`) |
//! | then | the before side, if any: version u64, index u64 and ordinal u32 of its own event, its ACL, if any, its sized body, if it has it |
//! | then | index u64 and ordinal u32 of the delete that an insert follows, if it follows one |
//! | then | how long web caches may have been told to keep what the change superseded u32, ms, if it has that |
//! | to the end | the JSON after the change, as it is served; empty for a delete |
//!
//! Events leave in their order, by entries that the leader proposes (`machine::changes`). What is left begins behind
//! [`crate::machine::ChangeLog::trimmed`], and the row of an event that supersedes a version from before that holds that version's body.
//! An event of new rules has the name of the bucket as its key, and the rules' version.

use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use document::acl::Acl;

use super::acl;
use crate::codec::{Reader, put_bytes};
use crate::engine::{Column, Direction};
use crate::error::Result;
use crate::keys::{ChangeKey, prefix_end};
use crate::machine::{ChangeLog, ReplicaView, Transaction};

const FORMAT: u8 = 1;
const HAS_ACL: u8 = 1;
const HAS_BEFORE: u8 = 2;
const HAS_BEFORE_ACL: u8 = 4;
const BY_EXPIRY: u8 = 8;
const HAS_T: u8 = 16;
const HAS_BEFORE_BODY: u8 = 32;
const FOLLOWS_DELETE: u8 = 64;
const HAS_LIFETIME: u8 = 128;
/// Bytes of a row in front of what varies in length.
const HEADER_BYTES: usize = 27;
const WHAT: &str = "change event";

/// What happened to a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    /// It was not there, or deleted.
    Insert = 1,
    /// It was replaced.
    Update = 2,
    /// It was removed.
    Delete = 3,
    /// No document: the bucket has new rules, or is dropped.
    Rules = 4,
}

impl Operation {
    fn of(byte: u8) -> Option<Self> {
        [Self::Insert, Self::Update, Self::Delete, Self::Rules]
            .into_iter()
            .find(|&operation| operation as u8 == byte)
    }
}

/// A change event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeEvent {
    /// The shard's T at the write, microseconds; 0: written before events had it.
    pub logged_us: u64,
    /// Time of the write, microseconds since 1970; it rises within a shard.
    pub time_us: u64,
    /// Id of the database.
    pub database: u32,
    /// Id of the bucket.
    pub bucket: u32,
    /// Key of the document.
    pub key: String,
    /// What happened.
    pub operation: Operation,
    /// The version that the write took.
    pub version: u64,
    /// The ACL afterwards; `None`: public, or a delete.
    pub acl: Option<Acl>,
    /// The JSON afterwards, as it is served; empty for a delete. A slice of the stored row.
    pub body: Bytes,
    /// What was there before; `None` for an insert.
    pub before: Option<Before>,
    /// The event of the delete that an insert follows, if there was one.
    pub deleted_at: Option<ChangeKey>,
    /// How long web caches may have been told to keep what the change superseded, milliseconds; 0: not at all.
    pub lifetime_ms: u32,
    /// Id of the acting user; empty: nobody was logged in.
    pub user: String,
    /// A delete that nobody asked for: the document had expired.
    pub by_expiry: bool,
}

/// What a change replaced or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// Its version.
    pub version: u64,
    /// Its ACL; `None`: public.
    pub acl: Option<Acl>,
    /// Its own event, which holds its body.
    pub position: ChangeKey,
    /// Its body, if that event was gone already.
    pub body: Option<Bytes>,
}

/// An event to store.
pub(crate) struct NewEvent<'a> {
    pub(crate) logged_us: u64,
    pub(crate) time_us: u64,
    pub(crate) database: u32,
    pub(crate) bucket: u32,
    pub(crate) key: &'a str,
    pub(crate) operation: Operation,
    pub(crate) version: u64,
    pub(crate) acl: Option<&'a Acl>,
    pub(crate) body: &'a [u8],
    pub(crate) before: Option<NewBefore<'a>>,
    pub(crate) deleted_at: Option<ChangeKey>,
    pub(crate) lifetime_ms: u32,
    pub(crate) user: &'a str,
    pub(crate) by_expiry: bool,
}

/// See [`Before`].
#[derive(Clone, Copy)]
pub(crate) struct NewBefore<'a> {
    pub(crate) version: u64,
    pub(crate) acl: Option<&'a Acl>,
    pub(crate) position: ChangeKey,
    pub(crate) body: Option<&'a Bytes>,
}

/// What a change log holds, for the driver that ages it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all events.
    pub bytes: u64,
    /// T of the oldest event, microseconds; `None`: there is no event.
    pub oldest_us: Option<u64>,
}

/// What the change log of a shard holds. May wait for a disk.
///
/// # Errors
/// [`crate::Error::Corrupt`]: a row does not decode.
pub fn usage(view: &ReplicaView<'_>) -> Result<Usage> {
    let ChangeLog { trimmed, bytes } = view.applied()?.changes;
    let oldest = scan(view, Bound::Excluded(trimmed)).next().transpose()?;
    Ok(Usage {
        bytes,
        oldest_us: oldest.map(|(_, event)| event.logged_us),
    })
}

/// One event; `None`: it was trimmed, or never was. May wait for a disk.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode.
pub fn get(view: &ReplicaView<'_>, position: ChangeKey) -> Result<Option<ChangeEvent>> {
    let row = view.get(Column::Changes, &position.encode())?;
    row.map(|row| decode(&row)).transpose()
}

/// T of a stored event, microseconds; 0: it has none.
pub(crate) fn logged_us(row: &[u8]) -> Result<u64> {
    let mut reader = Reader::new(WHAT, row);
    let head = reader.take(HEADER_BYTES)?;
    match head[2] & HAS_T {
        0 => Ok(0),
        _ => reader.u64_le(),
    }
}

/// The events of a shard in order, from `from` on. May wait for a disk at each step; bounding the walk is the caller's part. After an
/// error it ends.
pub fn scan<'v>(
    view: &'v ReplicaView<'_>,
    from: Bound<ChangeKey>,
) -> Box<dyn Iterator<Item = Result<(ChangeKey, ChangeEvent)>> + Send + 'v> {
    let prefix = ChangeKey::prefix();
    let end = prefix_end(&prefix);
    let start = match from {
        Bound::Included(key) => Bound::Included(key.encode()),
        Bound::Excluded(key) => Bound::Excluded(key.encode()),
        Bound::Unbounded => Bound::Included(prefix),
    };
    let rows = view.scan(
        Column::Changes,
        start.as_ref().map(Vec::as_slice),
        end.as_ref().map(Vec::as_slice),
    );
    Box::new(
        rows.map(|row| row.and_then(|(key, row)| Ok((ChangeKey::decode(&key)?, decode(&row)?)))),
    )
}

/// An event that a walk met.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, at once taken apart: a box would cost more than the room"
)]
pub enum Met {
    /// One of a bucket that is wanted.
    Event(ChangeEvent),
    /// Another one, of this time in microseconds since 1970.
    Other(u64),
}

/// Shows the events behind `after` in their order to `each`, until it breaks; decodes and copies those alone whose bucket, given by the
/// ids of database and bucket, is `wanted`. May wait for a disk at each step.
///
/// # Errors
/// [`crate::Error::Corrupt`]: a row does not decode. Those of `each`.
pub fn visit(
    view: &ReplicaView<'_>,
    after: ChangeKey,
    wanted: impl Fn(u32, u32) -> bool,
    each: &mut dyn FnMut(ChangeKey, Met) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let start = after.encode();
    let end = prefix_end(&ChangeKey::prefix());
    view.visit(
        Column::Changes,
        Bound::Excluded(&start),
        end.as_ref().map(Vec::as_slice),
        Direction::Forward,
        &mut |key, row| {
            let (time_us, database, bucket) = place(row)?;
            let met = match wanted(database, bucket) {
                true => Met::Event(decode(&Bytes::copy_from_slice(row))?),
                false => Met::Other(time_us),
            };
            each(ChangeKey::decode(key)?, met)
        },
    )
}

/// Time of a row, and the ids of its database and bucket.
fn place(row: &[u8]) -> Result<(u64, u32, u32)> {
    let mut reader = Reader::new(WHAT, row);
    if reader.u8()? != FORMAT {
        return Err(reader.corrupt("unknown format"));
    }
    // Operation and flags.
    reader.take(2)?;
    Ok((reader.u64_le()?, reader.u32_le()?, reader.u32_le()?))
}

/// Stores an event.
pub(crate) fn put(tx: &mut Transaction<'_>, position: ChangeKey, event: &NewEvent<'_>) {
    tx.put(Column::Changes, &position.encode(), encode(event).into());
}

fn encode(event: &NewEvent<'_>) -> Vec<u8> {
    let before_bytes = event
        .before
        .and_then(|before| before.body)
        .map_or(0, Bytes::len);
    // Two ACLs of a few rules find room behind what is counted; a longer one makes the row grow.
    let acl_bytes =
        if event.acl.is_some() || event.before.is_some_and(|before| before.acl.is_some()) {
            160
        } else {
            0
        };
    let mut row = Vec::with_capacity(
        HEADER_BYTES
            + 64
            + event.key.len()
            + event.user.len()
            + acl_bytes
            + before_bytes
            + event.body.len(),
    );
    let flags = event.acl.map_or(0, |_| HAS_ACL)
        | event.before.map_or(0, |before| {
            HAS_BEFORE
                | before.acl.map_or(0, |_| HAS_BEFORE_ACL)
                | before.body.map_or(0, |_| HAS_BEFORE_BODY)
        })
        | event.deleted_at.map_or(0, |_| FOLLOWS_DELETE)
        | HAS_T
        | if event.by_expiry { BY_EXPIRY } else { 0 }
        | if event.lifetime_ms > 0 {
            HAS_LIFETIME
        } else {
            0
        };
    row.extend_from_slice(&[FORMAT, event.operation as u8, flags]);
    row.extend_from_slice(&event.time_us.to_le_bytes());
    row.extend_from_slice(&event.database.to_le_bytes());
    row.extend_from_slice(&event.bucket.to_le_bytes());
    row.extend_from_slice(&event.version.to_le_bytes());
    row.extend_from_slice(&event.logged_us.to_le_bytes());
    put_bytes(&mut row, event.key.as_bytes());
    put_bytes(&mut row, event.user.as_bytes());
    if let Some(acl) = event.acl {
        acl::put(&mut row, acl);
    }
    if let Some(before) = event.before {
        row.extend_from_slice(&before.version.to_le_bytes());
        row.extend_from_slice(&before.position.index.to_le_bytes());
        row.extend_from_slice(&before.position.ordinal.to_le_bytes());
        if let Some(acl) = before.acl {
            acl::put(&mut row, acl);
        }
        if let Some(body) = before.body {
            put_bytes(&mut row, body);
        }
    }
    if let Some(position) = event.deleted_at {
        row.extend_from_slice(&position.index.to_le_bytes());
        row.extend_from_slice(&position.ordinal.to_le_bytes());
    }
    if event.lifetime_ms > 0 {
        row.extend_from_slice(&event.lifetime_ms.to_le_bytes());
    }
    row.extend_from_slice(event.body);
    row
}

pub(crate) fn decode(row: &Bytes) -> Result<ChangeEvent> {
    let mut reader = Reader::new(WHAT, row);
    if reader.u8()? != FORMAT {
        return Err(reader.corrupt("unknown format"));
    }
    let operation =
        Operation::of(reader.u8()?).ok_or_else(|| reader.corrupt("unknown operation"))?;
    let flags = reader.u8()?;
    Ok(ChangeEvent {
        time_us: reader.u64_le()?,
        database: reader.u32_le()?,
        bucket: reader.u32_le()?,
        operation,
        version: reader.u64_le()?,
        logged_us: match flags & HAS_T {
            0 => 0,
            _ => reader.u64_le()?,
        },
        key: reader.text()?.to_owned(),
        user: reader.text()?.to_owned(),
        by_expiry: flags & BY_EXPIRY != 0,
        acl: if flags & HAS_ACL != 0 {
            Some(acl::read(&mut reader)?)
        } else {
            None
        },
        before: if flags & HAS_BEFORE != 0 {
            Some(decode_before(&mut reader, flags, row)?)
        } else {
            None
        },
        deleted_at: match flags & FOLLOWS_DELETE {
            0 => None,
            _ => Some(decode_position(&mut reader)?),
        },
        lifetime_ms: match flags & HAS_LIFETIME {
            0 => 0,
            _ => reader.u32_le()?,
        },
        body: row.slice(reader.position()..),
    })
}

fn decode_before(reader: &mut Reader<'_>, flags: u8, row: &Bytes) -> Result<Before> {
    Ok(Before {
        version: reader.u64_le()?,
        position: decode_position(reader)?,
        acl: if flags & HAS_BEFORE_ACL != 0 {
            Some(acl::read(reader)?)
        } else {
            None
        },
        body: if flags & HAS_BEFORE_BODY != 0 {
            Some(row.slice_ref(reader.sized()?))
        } else {
            None
        },
    })
}

fn decode_position(reader: &mut Reader<'_>) -> Result<ChangeKey> {
    Ok(ChangeKey {
        index: reader.u64_le()?,
        ordinal: reader.u32_le()?,
    })
}

#[cfg(test)]
mod tests {
    use document::acl::{Access, Rules};
    use proptest::prelude::*;

    use super::*;

    fn acls() -> impl Strategy<Value = Option<Acl>> {
        proptest::option::of("[a-z]{1,9}".prop_map(|user| Acl {
            read: Rules::new().with(&format!("/db/User/{user}"), Access::Deny),
            write: Rules::new(),
        }))
    }

    fn befores() -> impl Strategy<Value = Option<Before>> {
        let body = proptest::option::of(any::<Vec<u8>>().prop_map(Bytes::from));
        proptest::option::of((any::<(u64, u64, u32)>(), acls(), body).prop_map(
            |((version, index, ordinal), acl, body)| Before {
                version,
                acl,
                position: ChangeKey { index, ordinal },
                body,
            },
        ))
    }

    fn events() -> impl Strategy<Value = ChangeEvent> {
        let operation = prop_oneof![
            Just(Operation::Insert),
            Just(Operation::Update),
            Just(Operation::Delete),
            Just(Operation::Rules)
        ];
        (
            any::<(u64, u32, u32, u64)>(),
            any::<(String, String, Vec<u8>)>(),
            operation,
            acls(),
            befores(),
            any::<(bool, u64, Option<(u64, u32)>, u32)>(),
        )
            .prop_map(
                |(
                    (time_us, database, bucket, version),
                    (key, user, body),
                    operation,
                    acl,
                    before,
                    (by_expiry, logged_us, deleted_at, lifetime_ms),
                )| ChangeEvent {
                    logged_us,
                    deleted_at: deleted_at.map(|(index, ordinal)| ChangeKey { index, ordinal }),
                    time_us,
                    database,
                    bucket,
                    key,
                    operation,
                    version,
                    acl,
                    body: body.into(),
                    before,
                    lifetime_ms,
                    user,
                    by_expiry,
                },
            )
    }

    fn row_of(event: &ChangeEvent) -> Bytes {
        encode(&NewEvent {
            logged_us: event.logged_us,
            deleted_at: event.deleted_at,
            time_us: event.time_us,
            database: event.database,
            bucket: event.bucket,
            key: &event.key,
            operation: event.operation,
            version: event.version,
            acl: event.acl.as_ref(),
            body: &event.body,
            before: event.before.as_ref().map(|before| NewBefore {
                version: before.version,
                acl: before.acl.as_ref(),
                position: before.position,
                body: before.body.as_ref(),
            }),
            lifetime_ms: event.lifetime_ms,
            user: &event.user,
            by_expiry: event.by_expiry,
        })
        .into()
    }

    proptest! {
        #[test]
        fn events_round_trip(event in events()) {
            let row = row_of(&event);
            prop_assert_eq!(logged_us(&row).expect("reads"), event.logged_us);
            prop_assert_eq!(place(&row).expect("reads"), (event.time_us, event.database, event.bucket));
            prop_assert_eq!(decode(&row).expect("decodes"), event);
        }

        #[test]
        fn any_bytes_decode_or_are_corrupt(start in (0..3u8, 0..6u8, any::<u8>()), bytes: Vec<u8>) {
            let row = Bytes::from([&[start.0, start.1, start.2], &bytes[..]].concat());
            if let Err(error) = decode(&row) {
                let is_corrupt = matches!(error, crate::Error::Corrupt { .. });
                prop_assert!(is_corrupt);
            }
        }
    }
}
