//! What a machine reads and writes while it applies: the engine with an overlay of what this batch has changed so far.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use super::chain::Chain;
use super::kept_rows::Keeper;
use super::{Applied, ChangeLog, Entry, Machine, Payload, Stale};
use crate::engine::memory::is_range;
use crate::engine::{Batch, Column, Engine};
use crate::error::{Error, Result};
use crate::ids::{LogId, StoreId};
use crate::keys::{self, ChangeKey};
use crate::tables::applied;

/// Reads and writes of one store while a batch of entries is applied. Keys are without store id.
///
/// Invariants:
/// - A read gives what the last write of this transaction to the key left, else what the engine has.
/// - Nothing reaches the engine before all entries are through, and then all of it at once.
/// - What the chain hash covers is every write that was not rolled back, in order.
pub struct Transaction<'a> {
    engine: &'a dyn Engine,
    kept: Keeper<'a>,
    store: StoreId,
    /// Where the store stands, with the entries applied so far.
    applied: Applied,
    /// By column, then key with store id: rows read or written so far.
    rows: [BTreeMap<Bytes, Row>; Column::ALL.len()],
    /// Writes of the entry at hand, in order.
    staged: Vec<Staged>,
    /// Where keys are put together for reads.
    scratch: Vec<u8>,
}

/// A row as this transaction sees it. `None`: absent.
#[derive(Clone)]
struct Row {
    value: Option<Bytes>,
    /// Whether it differs from the engine's, as opposed to only having been read.
    is_written: bool,
}

struct Staged {
    column: Column,
    /// With store id.
    key: Bytes,
    value: Option<Bytes>,
    /// What the overlay held before, to roll back to.
    previous: Option<Row>,
}

/// A place among the writes of an entry, see [`Transaction::rollback`].
#[derive(Clone, Copy, Debug)]
pub struct Savepoint(usize);

impl<'a> Transaction<'a> {
    pub(super) fn new(
        engine: &'a dyn Engine,
        kept: Keeper<'a>,
        store: StoreId,
        applied: Applied,
    ) -> Self {
        Self {
            engine,
            kept,
            store,
            applied,
            rows: Default::default(),
            staged: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// The value of a key; `None`: absent. Remembered until the batch ends.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn get(&mut self, column: Column, key: &[u8]) -> Result<Option<Bytes>> {
        self.scratch.clear();
        self.scratch.extend_from_slice(&self.store.prefix());
        self.scratch.extend_from_slice(key);
        let rows = &mut self.rows[column as usize];
        if let Some(row) = rows.get(self.scratch.as_slice()) {
            return Ok(row.value.clone());
        }
        let kept = self.kept.get(&self.scratch);
        let key = Bytes::copy_from_slice(&self.scratch);
        let value = match kept {
            Some(value) => {
                #[cfg(debug_assertions)]
                check_kept(self.engine, column, &key, &value);
                Some(value)
            }
            None => {
                let value = self.engine.get(column, &key)?;
                if let Some(value) = &value {
                    self.kept.put(&key, value);
                }
                value
            }
        };
        rows.insert(
            key,
            Row {
                value: value.clone(),
                is_written: false,
            },
        );
        Ok(value)
    }

    /// Sets a value.
    pub fn put(&mut self, column: Column, key: &[u8], value: Bytes) {
        self.write(column, key, Some(value));
    }

    /// Removes a key. An effect also where there is none.
    pub fn delete(&mut self, column: Column, key: &[u8]) {
        self.write(column, key, None);
    }

    /// The first `limit` pairs whose keys begin with `prefix`, in order.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn scan_prefix(
        &mut self,
        column: Column,
        prefix: &[u8],
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>> {
        let to = keys::prefix_end(prefix);
        let to = to.as_ref().map(Vec::as_slice);
        let mut pairs = Vec::new();
        if limit == 0 {
            return Ok(pairs);
        }
        self.visit(column, Bound::Included(prefix), to, &mut |key, value| {
            pairs.push((key, value));
            Ok(if pairs.len() < limit {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        })?;
        Ok(pairs)
    }

    /// Hands each pair of a range of keys to `each`, ascending, until `each` breaks.
    ///
    /// # Errors
    /// Those of the engine, and the first of `each`.
    pub fn visit(
        &self,
        column: Column,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        each: &mut dyn FnMut(Bytes, Bytes) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let full = |key: &[u8]| keys::with_store(self.store, key);
        let from = match from {
            Bound::Unbounded => Bound::Included(full(&[])),
            bound => bound.map(full),
        };
        let to = match to {
            Bound::Unbounded => Bound::Excluded(self.store.end().to_vec()),
            bound => bound.map(full),
        };
        let range = (
            from.as_ref().map(Vec::as_slice),
            to.as_ref().map(Vec::as_slice),
        );
        if !is_range(range.0, range.1) {
            return Ok(());
        }
        let view = self.engine.view();
        let stored = view.scan(column, range.0, range.1);
        let written = self.rows[column as usize]
            .range::<[u8], _>(range)
            .filter(|(_, row)| row.is_written);
        let merged = Merge {
            stored: stored.peekable(),
            written: written.peekable(),
        };
        for pair in merged {
            let (key, value) = pair?;
            if each(key.slice(StoreId::LEN..), value)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The chain hash up to the entry applied last.
    pub(super) fn chain(&self) -> u128 {
        self.applied.chain
    }

    /// T, the shard's time for lifetimes and ages, microseconds.
    pub fn time_us(&self) -> u64 {
        self.applied.time_us
    }

    /// Advances T to `time_us`, never back.
    pub fn advance_time(&mut self, time_us: u64) {
        self.applied.time_us = self.applied.time_us.max(time_us);
    }

    /// The time that a write stamped `stamp_us` by its leader is given: that, or just behind the last write. Microseconds since 1970.
    pub fn next_stamp(&self, stamp_us: u64) -> u64 {
        stamp_us.max(self.applied.last_stamp_us.saturating_add(1))
    }

    /// Notes that a write was given the time `stamp_us`, so that the next one is later.
    pub fn set_stamp(&mut self, stamp_us: u64) {
        self.applied.last_stamp_us = self.applied.last_stamp_us.max(stamp_us);
    }

    /// What the change log holds; without the events of this entry.
    pub(super) fn changes(&self) -> ChangeLog {
        self.applied.changes
    }

    /// Notes that the events up to `last`, `bytes` in all, were removed. What is noted is not rolled back.
    pub(super) fn note_trimmed(&mut self, last: ChangeKey, bytes: u64) {
        let changes = &mut self.applied.changes;
        changes.trimmed = changes.trimmed.max(last);
        changes.bytes = changes.bytes.saturating_sub(bytes);
    }

    /// Where the rows of stale keys begin and end.
    pub(crate) fn stale(&self) -> Stale {
        self.applied.stale
    }

    /// Changes that. What is noted is not rolled back.
    pub(crate) fn note_stale(&mut self, note: impl FnOnce(&mut Stale)) {
        note(&mut self.applied.stale);
    }

    /// Marks a place among the writes of this entry.
    pub fn savepoint(&self) -> Savepoint {
        Savepoint(self.staged.len())
    }

    /// Undoes the writes since `savepoint`, which must be of this entry. Times stay.
    pub fn rollback(&mut self, savepoint: Savepoint) {
        for undone in self
            .staged
            .drain(savepoint.0.min(self.staged.len())..)
            .rev()
        {
            let rows = &mut self.rows[undone.column as usize];
            match undone.previous {
                Some(row) => rows.insert(undone.key, row),
                None => rows.remove(&undone.key),
            };
        }
    }

    /// The writes of this entry so far, in order, keys without store id; no value: removed.
    pub fn effects(&self) -> impl Iterator<Item = (Column, &[u8], Option<&Bytes>)> {
        self.staged.iter().map(|staged| {
            (
                staged.column,
                &staged.key[StoreId::LEN..],
                staged.value.as_ref(),
            )
        })
    }

    fn write(&mut self, column: Column, key: &[u8], value: Option<Bytes>) {
        let key = Bytes::from(keys::with_store(self.store, key));
        let row = Row {
            value: value.clone(),
            is_written: true,
        };
        let previous = self.rows[column as usize].insert(key.clone(), row);
        self.staged.push(Staged {
            column,
            key,
            value,
            previous,
        });
    }

    /// Applies one entry and moves the applied state behind it.
    pub(super) fn apply(&mut self, machine: &dyn Machine, entry: Entry) -> Result<Bytes> {
        if let Some(applied) = self
            .applied
            .id
            .filter(|applied| entry.id.index <= applied.index)
        {
            return Err(Error::corrupt(format!(
                "log: entry {} comes after {applied}, which was applied",
                entry.id
            )));
        }
        let (reply, membership) = match entry.payload {
            Payload::Blank => (Bytes::new(), None),
            Payload::Membership(bytes) => (Bytes::new(), Some(bytes)),
            Payload::Command(command) => (machine.apply(self, entry.id, &command)?, None),
        };
        self.finish(entry.id, membership);
        Ok(reply)
    }

    fn finish(&mut self, id: LogId, membership: Option<Bytes>) {
        let mut chain = Chain::begin(id, &self.applied);
        if let Some(bytes) = &membership {
            chain.membership(bytes);
        }
        for (column, key, value) in self.effects() {
            chain.effect(column, key, value.map(|value| &value[..]));
        }
        self.applied.chain = chain.finish();
        // Events are never overwritten, so each put is a new one.
        let new = self
            .effects()
            .filter(|(column, ..)| *column == Column::Changes);
        let new = new.filter_map(|(_, key, value)| Some((key.len() + value?.len()) as u64));
        let new_bytes: u64 = new.sum();
        self.applied.changes.bytes += new_bytes;
        self.applied.id = Some(id);
        if let Some(bytes) = membership {
            self.applied.membership = Some((Some(id), bytes));
        }
        self.staged.clear();
    }

    /// All effects and the applied row as one batch, and where the store stands once that is written.
    pub(super) fn into_batch(self) -> Result<(Batch, Applied)> {
        let mut batch = Batch::new();
        for (column, rows) in Column::ALL.into_iter().zip(self.rows) {
            for (key, row) in rows.into_iter().filter(|(_, row)| row.is_written) {
                match row.value {
                    Some(value) => batch.put(column, key, value),
                    None => batch.delete(column, key),
                }
            }
        }
        batch.put(
            Column::State,
            applied::full_key(self.store),
            applied::encode(&self.applied)?,
        );
        Ok((batch, self.applied))
    }
}

/// A kept row is what the engine has, unless that cannot be read.
#[cfg(debug_assertions)]
fn check_kept(engine: &dyn Engine, column: Column, key: &[u8], kept: &Bytes) {
    if let Ok(stored) = engine.get(column, key) {
        assert_eq!(stored.as_ref(), Some(kept), "kept row of {key:02x?}");
    }
}

/// Stored and overlaid rows in one order; an overlaid one hides the stored one of its key.
struct Merge<S: Iterator, W: Iterator> {
    stored: Peekable<S>,
    written: Peekable<W>,
}

impl<'r, S, W> Iterator for Merge<S, W>
where
    S: Iterator<Item = Result<(Bytes, Bytes)>>,
    W: Iterator<Item = (&'r Bytes, &'r Row)>,
{
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((key, row)) = self.written.peek().copied() else {
                return self.stored.next();
            };
            match self.stored.peek() {
                Some(Err(_)) => return self.stored.next(),
                Some(Ok((stored, _))) if stored < key => return self.stored.next(),
                Some(Ok((stored, _))) if stored == key => {
                    self.stored.next();
                }
                Some(Ok(_)) | None => {}
            }
            self.written.next();
            if let Some(value) = &row.value {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    }
}
