//! Every key and value of the log database, byte by byte. All integers are big-endian.
//!
//! ```text
//! key    store id u64 | kind u8 | suffix
//! value  crc32 u32    | fields            the checksum covers key and fields
//!
//! store  kind              suffix                    fields
//! > 0    01 vote                                     term u64 | replica u64 | committed u8
//! > 0    02 committed                                log id
//! > 0    03 purged                                   log id
//! > 0    10 entry          index u64                 term u64 | leader u64 | encoded `proto::log::Entry`
//! 0      01 format                                   version u32
//! 0      02 node id                                  u64
//! 0      03 cluster id                               UTF-8
//! 0      04 next store                               u64
//! 0      05 sealed                                   nothing: bytes of entries, and the data, are sealed (`seal`)
//! 0      10 replica        shard u32 | replica u64   log store u64 | data store u64 | receiving store u64, 0: none
//! 0      11 dropping       store u64
//!
//! log id = term u64 | leader u64 | index u64
//! ```
//!
//! Where entries are sealed, `encoded entry` is: sealed by the node's data key for this key of the row. Everything else says
//! nothing of what is stored, and lies open.
//!
//! The checksum covers the key, so that a value under a wrong key is noticed as well as a changed one.

use bytes::Bytes;
use proto::{ReplicaId, ShardId};

use super::LogEntry;
use crate::error::{Error, Result};
use crate::ids::{LogId, StoreId, Vote};
use crate::seal::{Ring, Scope};

/// Kinds of rows below a log's store id.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Vote = 0x01,
    Committed = 0x02,
    Purged = 0x03,
    Entry = 0x10,
}

/// Kinds of rows of the directory, below store id 0.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    Format = 0x01,
    NodeId = 0x02,
    ClusterId = 0x03,
    NextStore = 0x04,
    Sealed = 0x05,
    Replica = 0x10,
    Dropping = 0x11,
}

/// The store id of the directory itself.
pub(super) const DIRECTORY: StoreId = StoreId(0);
/// Store id and kind.
pub(super) const HEAD: usize = StoreId::LEN + 1;
const CRC: usize = size_of::<u32>();

/// Key of a row that a log has once.
pub(super) fn state_key(store: StoreId, kind: Kind) -> Vec<u8> {
    key(store, kind as u8, &[])
}

/// Key of the entry at `index`.
pub(super) fn entry_key(store: StoreId, index: u64) -> Vec<u8> {
    key(store, Kind::Entry as u8, &index.to_be_bytes())
}

/// Key of a directory row.
pub(super) fn row_key(row: Row, suffix: &[u8]) -> Vec<u8> {
    key(DIRECTORY, row as u8, suffix)
}

fn key(store: StoreId, kind: u8, suffix: &[u8]) -> Vec<u8> {
    [&store.prefix()[..], &[kind], suffix].concat()
}

/// Suffix of a replica's row.
pub(super) fn replica_suffix(shard: ShardId, replica: ReplicaId) -> Vec<u8> {
    [&shard.0.to_be_bytes()[..], &replica.0.to_be_bytes()].concat()
}

/// `fields` with the checksum before them.
pub(super) fn seal(key: &[u8], fields: &[&[u8]]) -> Vec<u8> {
    let mut value = Vec::with_capacity(CRC + fields.iter().map(|field| field.len()).sum::<usize>());
    value.extend_from_slice(&[0; CRC]);
    for field in fields {
        value.extend_from_slice(field);
    }
    let sum = checksum(key, &value[CRC..]);
    value[..CRC].copy_from_slice(&sum);
    value
}

/// The fields of a stored value.
///
/// # Errors
/// [`Error::Corrupt`]: the checksum differs; names store and kind, or index of an entry.
pub(super) fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8]> {
    match value.split_first_chunk::<CRC>() {
        Some((sum, fields)) if *sum == checksum(key, fields) => Ok(fields),
        _ => Err(corrupt(key, "fails its checksum")),
    }
}

fn checksum(key: &[u8], fields: &[u8]) -> [u8; CRC] {
    let mut hash = crc32fast::Hasher::new();
    hash.update(key);
    hash.update(fields);
    hash.finalize().to_be_bytes()
}

/// [`Error::Corrupt`] for the row at `key`.
pub(super) fn corrupt(key: &[u8], what: &str) -> Error {
    let mut fields = Fields(key);
    let store = fields.u64().unwrap_or_default();
    let kind = fields.u8().unwrap_or_default();
    match fields.u64() {
        Some(index) if store != DIRECTORY.0 => {
            Error::corrupt(format!("log of store {store}: entry {index} {what}"))
        }
        _ => Error::corrupt(format!(
            "log database: row of kind {kind:#04x} of store {store} {what}"
        )),
    }
}

/// Fields of a log id.
pub(super) fn log_id_fields(id: LogId) -> Vec<u8> {
    [
        id.term.to_be_bytes(),
        id.leader.to_be_bytes(),
        id.index.to_be_bytes(),
    ]
    .concat()
}

/// Fields of a vote.
pub(super) fn vote_fields(vote: Vote) -> Vec<u8> {
    [
        &vote.term.to_be_bytes()[..],
        &vote.replica.to_be_bytes(),
        &[u8::from(vote.committed)],
    ]
    .concat()
}

/// The stored value of an entry under `key`; with a ring, its bytes are sealed.
pub(super) fn entry_value(key: &[u8], entry: &LogEntry, ring: Option<&Ring>) -> Result<Vec<u8>> {
    let sealed = ring
        .map(|ring| ring.seal(Scope::Node, key, &entry.bytes))
        .transpose()?;
    Ok(seal(
        key,
        &[
            &entry.id.term.to_be_bytes(),
            &entry.id.leader.to_be_bytes(),
            sealed.as_deref().unwrap_or(&entry.bytes),
        ],
    ))
}

/// What an entry's bytes are stored as, sealed or not; without looking whether that is whole.
pub(super) fn entry_stored(value: &[u8]) -> &[u8] {
    value.get(CRC + 2 * size_of::<u64>()..).unwrap_or_default()
}

/// Length of what an entry's bytes are stored as, by its stored value; without looking whether that is whole.
pub(super) fn entry_bytes(value: &[u8]) -> u64 {
    (value.len() as u64).saturating_sub((CRC + 2 * size_of::<u64>()) as u64)
}

/// The index in an entry's key.
pub(super) fn entry_index(key: &[u8]) -> Result<u64> {
    Fields(key.get(HEAD..).unwrap_or_default())
        .last_u64()
        .ok_or_else(|| corrupt(key, "has a key of another length"))
}

/// The entry that was stored under `key`.
pub(super) fn decode_entry(key: &[u8], value: &[u8], ring: Option<&Ring>) -> Result<LogEntry> {
    let (id, stored) = decode_stored(key, value)?;
    let stored = Bytes::copy_from_slice(stored);
    let bytes = match ring {
        None => stored,
        Some(ring) => ring
            .state()
            .open(key, stored)
            .map_err(|error| corrupt(key, &format!("does not open: {error}")))?,
    };
    Ok(LogEntry { id, bytes })
}

/// The id of the entry that was stored under `key`.
pub(super) fn decode_entry_id(key: &[u8], value: &[u8]) -> Result<LogId> {
    Ok(decode_stored(key, value)?.0)
}

fn decode_stored<'v>(key: &[u8], value: &'v [u8]) -> Result<(LogId, &'v [u8])> {
    let index = entry_index(key)?;
    let mut fields = Fields(unseal(key, value)?);
    let ids = fields.u64().and_then(|term| Some((term, fields.u64()?)));
    let (term, leader) = ids.ok_or_else(|| corrupt(key, "is too short"))?;
    let id = LogId {
        term,
        leader,
        index,
    };
    Ok((id, fields.0))
}

/// A log id in the row at `key`.
pub(super) fn decode_log_id(key: &[u8], value: &[u8]) -> Result<LogId> {
    let mut fields = Fields(unseal(key, value)?);
    let id = fields.u64().and_then(|term| {
        Some(LogId {
            term,
            leader: fields.u64()?,
            index: fields.last_u64()?,
        })
    });
    id.ok_or_else(|| corrupt(key, "does not hold a log id"))
}

/// A vote in the row at `key`.
pub(super) fn decode_vote(key: &[u8], value: &[u8]) -> Result<Vote> {
    let mut fields = Fields(unseal(key, value)?);
    let vote = fields.u64().and_then(|term| {
        Some(Vote {
            term,
            replica: fields.u64()?,
            committed: fields.u8()? != 0,
        })
    });
    vote.filter(|_| fields.0.is_empty())
        .ok_or_else(|| corrupt(key, "does not hold a vote"))
}

/// Reads fields from the front.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|bytes| bytes[0])
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    /// The last field: nothing may follow it.
    pub(super) fn last_u64(&mut self) -> Option<u64> {
        self.u64().filter(|_| self.0.is_empty())
    }
}
