//! The audit log of a shard: records of what its entries did that matters to security, written in the same batch as what they did.
//!
//! A record's row is a format byte (1), its hash, and its text ([`crate::audit`]). The head row says where the chain stands, and where it
//! begins since old records were removed. A chain that was never written to has no rows.

use std::ops::Bound;

use bincode::{Decode, Encode};
use bytes::Bytes;

use crate::audit::{BEGINNING, Checker, Hash, Record, link};
use crate::codec::{self, Reader};
use crate::engine::Column;
use crate::error::Result;
use crate::keys::{AuditHeadKey, AuditKey, prefix_end};
use crate::machine::{ReplicaView, Transaction};

const FORMAT: u8 = 1;

/// Records that one entry removes, at most.
pub const EXPIRE_PAGE_MAX: usize = 1_000;

/// Where a chain stands.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Head {
    /// The place of the last record; 0: there was none.
    pub last: u64,
    /// Its hash.
    pub hash: Hash,
    /// The place of the last record that was removed for its age; 0: none was.
    pub removed: u64,
    /// Its hash, which the first one that is left is linked to.
    pub removed_hash: Hash,
    /// Bytes of all texts that are left.
    pub bytes: u64,
}

impl codec::Record for Head {
    const FORMAT: u8 = 1;
    const WHAT: &'static str = "audit head";
}

impl Default for Head {
    fn default() -> Self {
        Self {
            last: 0,
            hash: BEGINNING,
            removed: 0,
            removed_hash: BEGINNING,
            bytes: 0,
        }
    }
}

impl Head {
    /// A checker of what is left of the chain.
    pub fn checker(&self) -> Checker {
        Checker::behind(self.removed, self.removed_hash)
    }
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its hash.
    pub hash: Hash,
    /// Its JSON text.
    pub text: Bytes,
}

/// Adds a record; its place is given here.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the head does not decode. Those of the engine.
pub fn append(tx: &mut Transaction<'_>, record: Record) -> Result<()> {
    let mut head = read_head(tx.get(Column::State, &AuditHeadKey.encode())?)?;
    head.last += 1;
    let sequence = head.last;
    let text = Record { sequence, ..record }.text();
    head.hash = link(&head.hash, text.as_bytes());
    head.bytes += text.len() as u64;
    let mut row = Vec::with_capacity(1 + head.hash.len() + text.len());
    row.push(FORMAT);
    row.extend_from_slice(&head.hash);
    row.extend_from_slice(text.as_bytes());
    tx.put(Column::State, &AuditKey { sequence }.encode(), row.into());
    put_head(tx, &head)
}

/// Removes the oldest records, at most [`EXPIRE_PAGE_MAX`]: those that are older than `kept_us` at `now_us`, and those past `bytes_max`.
///
/// # Errors
/// [`crate::Error::Corrupt`]: a row does not decode. Those of the engine.
pub fn expire(tx: &mut Transaction<'_>, now_us: u64, kept_us: u64, bytes_max: u64) -> Result<()> {
    let mut head = read_head(tx.get(Column::State, &AuditHeadKey.encode())?)?;
    let mut is_changed = false;
    for (key, value) in tx.scan_prefix(Column::State, &AuditKey::prefix(), EXPIRE_PAGE_MAX)? {
        let row = decode(&value)?;
        if head.bytes <= bytes_max && time_of(&row)?.saturating_add(kept_us) > now_us {
            break;
        }
        head.removed = AuditKey::decode(&key)?.sequence;
        head.removed_hash = row.hash;
        head.bytes = head.bytes.saturating_sub(row.text.len() as u64);
        tx.delete(Column::State, &key);
        is_changed = true;
    }
    if is_changed {
        put_head(tx, &head)?;
    }
    Ok(())
}

/// Whether [`expire`] would remove something.
///
/// # Errors
/// As there.
pub fn is_due(view: &ReplicaView<'_>, now_us: u64, kept_us: u64, bytes_max: u64) -> Result<bool> {
    if head(view)?.bytes > bytes_max {
        return Ok(true);
    }
    let first = page(view, 0, 1, usize::MAX)?;
    let due = |row: &Row| Ok(time_of(row)?.saturating_add(kept_us) <= now_us);
    first.first().map_or(Ok(false), due)
}

/// Where the chain stands.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode. Those of the engine.
pub fn head(view: &ReplicaView<'_>) -> Result<Head> {
    read_head(view.get(Column::State, &AuditHeadKey.encode())?)
}

/// The records behind a place, in order: at most `rows_max`, and none more once `bytes_max` of texts are there.
///
/// # Errors
/// [`crate::Error::Corrupt`]: a row does not decode. Those of the engine.
pub fn page(
    view: &ReplicaView<'_>,
    after: u64,
    rows_max: usize,
    bytes_max: usize,
) -> Result<Vec<Row>> {
    let from = AuditKey { sequence: after }.encode();
    let to = prefix_end(&AuditKey::prefix());
    let pairs = view.scan(
        Column::State,
        Bound::Excluded(&from[..]),
        to.as_ref().map(Vec::as_slice),
    );
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for pair in pairs {
        if rows.len() >= rows_max || bytes >= bytes_max {
            break;
        }
        let row = decode(&pair?.1)?;
        bytes += row.text.len();
        rows.push(row);
    }
    Ok(rows)
}

pub(crate) fn decode(value: &Bytes) -> Result<Row> {
    let mut reader = Reader::new("audit row", value);
    if reader.u8()? != FORMAT {
        return Err(reader.corrupt("unknown format"));
    }
    let hash = reader.take(BEGINNING.len())?;
    let hash = hash.try_into().map_err(|_| reader.corrupt("cut short"))?;
    let text = value.slice(reader.position()..);
    Ok(Row { hash, text })
}

fn time_of(row: &Row) -> Result<u64> {
    let record: Record = serde_json::from_slice(&row.text)
        .map_err(|error| crate::Error::corrupt(format!("audit row: {error}")))?;
    Ok(record.time_us)
}

pub(crate) fn read_head(row: Option<Bytes>) -> Result<Head> {
    row.map_or_else(|| Ok(Head::default()), |row| codec::decode(&row))
}

fn put_head(tx: &mut Transaction<'_>, head: &Head) -> Result<()> {
    tx.put(Column::State, &AuditHeadKey.encode(), codec::encode(head)?);
    Ok(())
}
