//! What web caches may hold old copies of, and until when.
//!
//! Each change of something that may have been handed out with a lifetime leaves a row at the place of its event, in the batch of the
//! change: what it is, and the lifetime of what it superseded. From time to time a **mark** says that everything up to an index was known
//! to be committed at a T. A copy of the superseded version was handed out before the change was committed, so it has run out once T is
//! past the first mark that covers the change, and that lifetime, and [`pad`](horizon_us). Before there is such a mark the row is **open**,
//! and counts as stale.
//!
//! Invariants:
//! - a key is stale until the last of the rows that name it has run out: rows are never overwritten, so a short lifetime does not hide an
//!   older, longer one;
//! - rows leave in the order of their places, each when it has run out, by entries that the leader proposes. The order makes some stay
//!   longer than they count; whoever reads them asks [`horizon_us`];
//! - everything here follows from the log, so replicas at one index say the same, and snapshots carry it.
//!
//! *Refused*: a row for each key with the end of its staleness, as a sorted pair of tables. It costs a write of a cached document two reads
//! and five rows where this costs one row, and closing open rows would cost every entry a look.

use std::ops::{Bound, ControlFlow};

use bincode::{Decode, Encode};
use bytes::Bytes;
use document::bloom::Hashes;

use crate::codec::{self, Record};
use crate::engine::Column;
use crate::error::Result;
use crate::keys::{ChangeKey, StaleKey, StaleMarkKey, prefix_end};
use crate::machine::{ReplicaView, Stale, Transaction};

/// The least T between two marks, microseconds. Marks that are further apart only keep keys stale longer.
const MARK_EVERY_US: u64 = 200_000;

/// Why something is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaleRow {
    /// Id of the database.
    pub database: u32,
    /// Id of the bucket.
    pub bucket: u32,
    /// How long caches may have been told to keep what was superseded, milliseconds.
    pub lifetime_ms: u32,
    /// The document; `None`: every document of the bucket.
    pub document: Option<Hashes>,
}

#[derive(Encode, Decode)]
struct StoredRow {
    database: u32,
    bucket: u32,
    lifetime_ms: u32,
    document: Option<([u8; 4], [u8; 4])>,
}

impl Record for StoredRow {
    const FORMAT: u8 = 1;
    const WHAT: &'static str = "stale row";
}

#[derive(Encode, Decode)]
struct StoredMark(u64);

impl Record for StoredMark {
    const FORMAT: u8 = 1;
    const WHAT: &'static str = "stale mark";
}

/// A mark: everything up to the index was known to be committed at this T.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Log index.
    pub index: u64,
    /// The shard's T, microseconds.
    pub time_us: u64,
}

/// A part of the rows and marks of a shard, as of one view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// In order.
    pub rows: Vec<(ChangeKey, StaleRow)>,
    /// All marks behind the wanted one, unless rows are left out.
    pub marks: Vec<Mark>,
    /// Rows up to here were removed: they have run out.
    pub expired: ChangeKey,
    /// The shard's T, microseconds.
    pub time_us: u64,
    /// The applied index.
    pub index: u64,
    /// There are more rows. Marks come with the last part.
    pub more: bool,
}

/// T from which on no cache holds what a row is about, microseconds: its lifetime behind the mark that covers it, one second for what was
/// rounded, and a thousandth for clocks that run apart.
pub fn horizon_us(mark: Mark, lifetime_ms: u32) -> u64 {
    let lifetime_us = u64::from(lifetime_ms) * 1_000;
    mark.time_us + lifetime_us + 1_000_000 + lifetime_us / 1_000
}

/// Rows behind `after`, `page` at most, and the marks behind the index `marked`. May wait for a disk.
///
/// # Errors
/// [`crate::Error::Corrupt`]: a row does not decode. Those of the engine.
pub fn read(view: &ReplicaView<'_>, after: ChangeKey, marked: u64, page: usize) -> Result<Part> {
    let applied = view.applied()?;
    let mut part = Part {
        expired: applied.stale.expired,
        time_us: applied.time_us,
        index: applied.id.map_or(0, |id| id.index),
        ..Part::default()
    };
    if applied.stale.last > after {
        let end = prefix_end(&StaleKey::prefix());
        let from = StaleKey(after.max(part.expired)).encode();
        let from = Bound::Excluded(&from[..]);
        for pair in view.scan(Column::State, from, end.as_ref().map(Vec::as_slice)) {
            let (key, value) = pair?;
            if part.rows.len() >= page {
                part.more = true;
                return Ok(part);
            }
            part.rows.push((StaleKey::decode(&key)?.0, decode(&value)?));
        }
    }
    if applied.stale.marked > marked {
        let end = prefix_end(&StaleMarkKey::prefix());
        let from = StaleMarkKey { index: marked }.encode();
        let from = Bound::Excluded(&from[..]);
        for pair in view.scan(Column::State, from, end.as_ref().map(Vec::as_slice)) {
            let (key, value) = pair?;
            part.marks.push(decode_mark(&key, &value)?);
        }
    }
    Ok(part)
}

/// Whether an entry at the T `now_us` would help: it would leave a mark that rows wait for, or the first one has run out. May wait for a disk.
///
/// # Errors
/// [`crate::Error::Corrupt`]: a row does not decode. Those of the engine.
pub fn is_due(view: &ReplicaView<'_>, now_us: u64) -> Result<bool> {
    let stale = view.applied()?.stale;
    if stale.last <= stale.expired {
        return Ok(false);
    }
    if is_mark_due(stale, now_us) {
        return Ok(true);
    }
    let Some((place, row)) = read(view, stale.expired, u64::MAX, 1)?.rows.pop() else {
        return Ok(false);
    };
    let from = StaleMarkKey { index: place.index }.encode();
    let end = prefix_end(&StaleMarkKey::prefix());
    let to = end.as_ref().map(Vec::as_slice);
    let mut marks = view.scan(Column::State, Bound::Included(&from), to);
    let Some((key, value)) = marks.next().transpose()? else {
        return Ok(false);
    };
    let mark = decode_mark(&key, &value)?;
    Ok(horizon_us(mark, row.lifetime_ms) <= now_us)
}

/// Notes that cached copies became stale.
pub(crate) fn put(tx: &mut Transaction<'_>, at: ChangeKey, row: &StaleRow) -> Result<()> {
    let document = row
        .document
        .map(|hashes| (hashes.h1.to_le_bytes(), hashes.h2.to_le_bytes()));
    let stored = StoredRow {
        database: row.database,
        bucket: row.bucket,
        lifetime_ms: row.lifetime_ms,
        document,
    };
    tx.put(
        Column::State,
        &StaleKey(at).encode(),
        codec::encode(&stored)?,
    );
    tx.note_stale(|stale| stale.last = stale.last.max(at));
    Ok(())
}

/// Leaves a mark at the T of an entry, whose proposer knew that everything up to `committed` was; not where it would say little that is new.
pub(crate) fn mark(tx: &mut Transaction<'_>, committed: u64) -> Result<()> {
    let time_us = tx.time_us();
    if committed <= tx.stale().marked || !is_mark_due(tx.stale(), time_us) {
        return Ok(());
    }
    let key = StaleMarkKey { index: committed };
    tx.put(
        Column::State,
        &key.encode(),
        codec::encode(&StoredMark(time_us))?,
    );
    tx.note_stale(|stale| (stale.marked, stale.marked_us) = (committed, time_us));
    Ok(())
}

/// Whether rows wait for a mark, and the last one is long enough ago.
fn is_mark_due(stale: Stale, now_us: u64) -> bool {
    stale.last.index > stale.marked && now_us >= stale.marked_us.saturating_add(MARK_EVERY_US)
}

/// Removes rows from the beginning that have run out in T, `page` at most, and the marks that no row needs any more.
pub(crate) fn expire(tx: &mut Transaction<'_>, page: usize) -> Result<()> {
    let now_us = tx.time_us();
    let (mut gone, mut kept, mut mark) = (None, None, None);
    for (key, value) in first_rows(tx, page)? {
        let place = StaleKey::decode(&key)?.0;
        if mark.is_none_or(|mark: Mark| mark.index < place.index) {
            mark = first_mark(tx, place.index)?;
        }
        let row = decode(&value)?;
        if mark.is_none_or(|mark| horizon_us(mark, row.lifetime_ms) > now_us) {
            kept = Some(place.index);
            break;
        }
        tx.delete(Column::State, &key);
        gone = Some(place);
    }
    let Some(gone) = gone else {
        return Ok(());
    };
    tx.note_stale(|stale| stale.expired = stale.expired.max(gone));
    // Behind a full page there may be rows that need the marks from the last removed one on.
    let needed = kept.unwrap_or(gone.index);
    for (key, value) in tx.scan_prefix(Column::State, &StaleMarkKey::prefix(), page)? {
        if decode_mark(&key, &value)?.index >= needed {
            break;
        }
        tx.delete(Column::State, &key);
    }
    Ok(())
}

/// The first rows that are left, `page` at most. The walk begins behind what was removed.
fn first_rows(tx: &Transaction<'_>, page: usize) -> Result<Vec<(Bytes, Bytes)>> {
    let from = StaleKey(tx.stale().expired).encode();
    let end = prefix_end(&StaleKey::prefix());
    let (from, to) = (Bound::Excluded(&from[..]), end.as_ref().map(Vec::as_slice));
    let mut rows = Vec::new();
    tx.visit(Column::State, from, to, &mut |key, value| {
        if rows.len() >= page {
            return Ok(ControlFlow::Break(()));
        }
        rows.push((key, value));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(rows)
}

/// The first mark that covers an index.
fn first_mark(tx: &Transaction<'_>, index: u64) -> Result<Option<Mark>> {
    let from = StaleMarkKey { index }.encode();
    let end = prefix_end(&StaleMarkKey::prefix());
    let (from, to) = (Bound::Included(&from[..]), end.as_ref().map(Vec::as_slice));
    let mut found = None;
    tx.visit(Column::State, from, to, &mut |key, value| {
        found = Some(decode_mark(&key, &value)?);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

/// Reads the row of a stale key.
pub(crate) fn decode(value: &Bytes) -> Result<StaleRow> {
    let stored: StoredRow = codec::decode(value)?;
    let document = stored.document.map(|(h1, h2)| Hashes {
        h1: u32::from_le_bytes(h1),
        h2: u32::from_le_bytes(h2),
    });
    Ok(StaleRow {
        database: stored.database,
        bucket: stored.bucket,
        lifetime_ms: stored.lifetime_ms,
        document,
    })
}

/// Reads a mark.
pub(crate) fn decode_mark(key: &[u8], value: &Bytes) -> Result<Mark> {
    let StoredMark(time_us) = codec::decode(value)?;
    let index = StaleMarkKey::decode(key)?.index;
    Ok(Mark { index, time_us })
}
