//! One group's log: its state in memory, and the handle that consensus calls.

use std::sync::Arc;

use super::layout::{self, Kind};
use super::sizes::Sizes;
use super::tail::{Budget, Tail};
use super::writer::{Request, Write, Writer};
use super::{Done, Inner, LogEntry, LogScrubbed, LogSize, LogState, database, scrub};
use crate::error::{Error, Result};
use crate::ids::{LogId, StoreId, Vote};
use parking_lot::Mutex;

/// What memory knows of a log. The truth: the database follows it in the order of the calls.
pub(super) struct Group {
    store: StoreId,
    state: Mutex<State>,
}

struct State {
    log: LogState,
    /// Index of the first entry, or of the first one to come.
    first: u64,
    tail: Tail,
    sizes: Sizes,
    /// Appends so far; numbers them.
    appends: u64,
    /// Truncations and purges so far: a disk read that overlapped one is done again.
    removals: u64,
}

impl Group {
    pub(super) fn new(
        store: StoreId,
        log: LogState,
        first: u64,
        sizes: Sizes,
        tails: Arc<Budget>,
    ) -> Self {
        let state = State {
            log,
            first,
            tail: Tail::new(tails),
            sizes,
            appends: 0,
            removals: 0,
        };
        Self {
            store,
            state: Mutex::new(state),
        }
    }

    pub(super) fn store(&self) -> StoreId {
        self.store
    }

    /// Append `number` and all before it are in the database.
    pub(super) fn written(&self, number: u64) {
        self.state.lock().tail.written(number);
    }

    /// See [`GroupLog::read`]. Begins again if entries were removed meanwhile: what it has may be of a log that is no more.
    fn read(
        &self,
        writer: &Writer,
        from: u64,
        to_exclusive: u64,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>> {
        let mut read = Read {
            entries: Vec::new(),
            bytes: 0,
            bytes_max,
        };
        let (mut next, mut removals) = (from, None);
        loop {
            let disk = {
                let state = self.state.lock();
                if removals != Some(state.removals) {
                    removals = Some(state.removals);
                    read = Read {
                        entries: Vec::new(),
                        bytes: 0,
                        bytes_max,
                    };
                    next = from.max(state.first);
                }
                let to = to_exclusive.min(state.end());
                let memory = state.tail.first().unwrap_or_else(|| state.end());
                if next >= to.min(memory) {
                    read.take_tail(&state, next, to);
                    return Ok(read.entries);
                }
                next..to.min(memory)
            };
            let before = read.entries.len();
            let (db, ring, store) = (writer.db(), writer.ring(), self.store);
            let result = database::read(db, ring, store, disk.start, disk.end, |entry| {
                read.take(entry)
            });
            if removals != Some(self.state.lock().removals) {
                continue;
            }
            result?;
            next += (read.entries.len() - before) as u64;
            if next < disk.end {
                return Ok(read.entries);
            }
        }
    }

    /// See [`GroupLog::id_at`].
    fn id_at(&self, writer: &Writer, index: u64) -> Result<Option<LogId>> {
        {
            let state = self.state.lock();
            let known = state.tail.get(index).map(|entry| entry.id);
            let ends = [state.log.purged, state.log.last]
                .into_iter()
                .flatten()
                .find(|id| id.index == index);
            if let Some(id) = known.or(ends) {
                return Ok(Some(id));
            }
        }
        Ok(self
            .read(writer, index, index.saturating_add(1), 0)?
            .first()
            .map(|entry| entry.id))
    }

    /// The log of an installed snapshot: everything up to `upto` is purged, and all of the log if it does not hold that entry, since
    /// what follows another entry at that index cannot be what was committed. `rows` are written in the same synced batch.
    pub(super) fn install(
        &self,
        writer: &Writer,
        upto: LogId,
        mut rows: Vec<Write>,
        done: Done,
    ) -> Result<()> {
        writer.wait_for_space()?;
        let holds = self.id_at(writer, upto.index)? == Some(upto);
        let mut state = self.state.lock();
        let ahead = state
            .log
            .purged
            .is_none_or(|purged| purged.index < upto.index);
        if ahead && !holds {
            rows.extend(delete_entries(self.store, state.first, state.end()));
        }
        if ahead {
            rows.extend(purge_rows(self.store, state.first, upto));
        }
        writer.push(Request::durable(rows, done))?;
        if ahead && !holds {
            state.truncate_after(None);
        }
        if ahead {
            state.purge(upto);
        }
        Ok(())
    }
}

impl State {
    /// Index of the next entry; `None` if the log may begin anywhere.
    fn expected(&self) -> Option<u64> {
        self.log.last.map(|last| last.index.saturating_add(1))
    }

    fn end(&self) -> u64 {
        database::next(self.log.last)
    }

    fn append(&mut self, entries: &[LogEntry], number: u64) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return;
        };
        if self.log.last.is_none() {
            self.first = first.id.index;
        }
        self.log.last = Some(last.id);
        for entry in entries {
            self.sizes.push(entry.id.index, entry.bytes.len() as u64);
        }
        self.tail.extend(entries, number);
    }

    fn truncate_after(&mut self, last: Option<LogId>) {
        self.tail.truncate_after(last);
        self.sizes.truncate(database::next(last));
        self.log.last = last.max(self.log.purged);
        self.removals += 1;
    }

    fn purge(&mut self, upto: LogId) {
        self.tail.purge(upto.index);
        self.sizes.purge(upto.index.saturating_add(1));
        self.log.purged = Some(upto);
        self.first = self.first.max(upto.index.saturating_add(1));
        if self.log.last.is_none_or(|last| last.index <= upto.index) {
            self.log.last = Some(upto);
        }
        self.removals += 1;
    }
}

/// Rows of a purge of `first..=upto.index`.
fn purge_rows(store: StoreId, first: u64, upto: LogId) -> Vec<Write> {
    let key = layout::state_key(store, Kind::Purged);
    let value = layout::seal(&key, &[&layout::log_id_fields(upto)]);
    let mut rows = vec![Write::Put(key, value)];
    rows.extend(delete_entries(store, first, upto.index.saturating_add(1)));
    rows
}

/// Removes the entries of `from..to`; RocksDB takes a range that ends before it starts for a failed write.
fn delete_entries(store: StoreId, from: u64, to: u64) -> Option<Write> {
    (from < to)
        .then(|| Write::DeleteRange(layout::entry_key(store, from), layout::entry_key(store, to)))
}

/// The log of one store. Cheap to clone; all clones are the same log. See the module above for order and durability.
#[derive(Clone)]
pub struct GroupLog {
    inner: Arc<Inner>,
    group: Arc<Group>,
}

impl GroupLog {
    pub(super) fn new(inner: Arc<Inner>, group: Arc<Group>) -> Self {
        Self { inner, group }
    }

    /// The store that this log lies under.
    pub fn store(&self) -> StoreId {
        self.group.store
    }

    /// Index of the first entry that is held, or of the next one if none is.
    pub fn first(&self) -> u64 {
        self.group.state.lock().first
    }

    /// Where the log stands, from memory.
    pub fn state(&self) -> LogState {
        self.group.state.lock().log
    }

    /// How much it holds, from memory.
    pub fn size(&self) -> LogSize {
        let state = self.group.state.lock();
        LogSize {
            entries: state.end().saturating_sub(state.first),
            bytes: state.sizes.bytes(),
        }
    }

    /// The index up to which the log must be purged so that little more than `keep` stays, by bytes and by entries; from memory.
    /// `None`: no more is there.
    pub fn purge_point(&self, keep: LogSize) -> Option<u64> {
        let state = self.group.state.lock();
        let next = state
            .sizes
            .purge_point(keep.bytes)
            .max(state.end().saturating_sub(keep.entries));
        (next > state.first).then(|| next - 1)
    }

    /// Appends `entries`, contiguous and right after the last one; an empty log may begin at any index. Readers see them on return;
    /// `done` is called once they are on disk.
    ///
    /// Blocks only while more waits for the disk than the bound of the queue ([`writer`](super)); a disk that syncs is never that far
    /// behind.
    ///
    /// # Errors
    /// [`Error::Gap`]: nothing was taken. [`Error::LogFailed`], [`Error::Closed`]: likewise. After an error `done` is never called.
    ///
    /// Source: Raft paper, 5.3; openraft docs, `protocol/io_ordering`.
    pub fn append(&self, entries: Vec<LogEntry>, done: Done) -> Result<()> {
        self.inner.writer.wait_for_space()?;
        let mut state = self.group.state.lock();
        self.check_contiguous(&state, &entries)?;
        let number = state.appends + 1;
        let append = Some((Arc::clone(&self.group), number, entries.clone()));
        self.inner.writer.push(Request {
            append,
            rows: Vec::new(),
            done: Some(done),
        })?;
        state.appends = number;
        state.append(&entries, number);
        Ok(())
    }

    fn check_contiguous(&self, state: &State, entries: &[LogEntry]) -> Result<()> {
        let Some(first) = entries.first() else {
            return Ok(());
        };
        let mut expected = state.expected().unwrap_or(first.id.index);
        for entry in entries {
            if entry.id.index != expected {
                return Err(Error::Gap {
                    store: self.group.store,
                    expected,
                    found: entry.id.index,
                });
            }
            expected = expected.saturating_add(1);
        }
        Ok(())
    }

    /// Saves a vote; it is durable when `done` is called, and after every append before it.
    ///
    /// # Errors
    /// [`Error::LogFailed`], [`Error::Closed`]: it was not taken, `done` is never called.
    pub fn save_vote(&self, vote: Vote, done: Done) -> Result<()> {
        self.inner.writer.wait_for_space()?;
        let mut state = self.group.state.lock();
        let key = layout::state_key(self.group.store, Kind::Vote);
        let value = layout::seal(&key, &[&layout::vote_fields(vote)]);
        self.inner
            .writer
            .push(Request::durable(vec![Write::Put(key, value)], done))?;
        state.log.vote = Some(vote);
        Ok(())
    }

    /// Notes the committed point. It reaches the disk with the next batch of any group; until then a crash forgets it.
    pub fn save_committed(&self, id: Option<LogId>) {
        let mut state = self.group.state.lock();
        if state.log.committed != id {
            state.log.committed = id;
            self.inner.writer.set_committed(self.group.store, id);
        }
    }

    /// Drops all entries after `last`, or all there are. Visible on return; after a crash they may be back unless a later append of any
    /// group is durable.
    ///
    /// # Errors
    /// [`Error::LogFailed`], [`Error::Closed`]: nothing was dropped.
    pub fn truncate_after(&self, last: Option<LogId>) -> Result<()> {
        self.inner.writer.wait_for_space()?;
        let mut state = self.group.state.lock();
        let (from, end) = (database::next(last).max(state.first), state.end());
        if from >= end {
            return Ok(());
        }
        self.inner.writer.push(Request::rows(
            delete_entries(self.group.store, from, end)
                .into_iter()
                .collect(),
        ))?;
        state.truncate_after(last);
        Ok(())
    }

    /// Drops all entries up to and with `upto`, and remembers it as the purge point. It may lie past the last entry: the log then goes
    /// on after it. Visible on return; after a crash the entries may be back.
    ///
    /// A point below the current one changes nothing.
    ///
    /// # Errors
    /// [`Error::LogFailed`], [`Error::Closed`]: nothing was dropped.
    pub fn purge(&self, upto: LogId) -> Result<()> {
        self.inner.writer.wait_for_space()?;
        let mut state = self.group.state.lock();
        if state
            .log
            .purged
            .is_some_and(|purged| upto.index <= purged.index)
        {
            return Ok(());
        }
        self.inner.writer.push(Request::rows(purge_rows(
            self.group.store,
            state.first,
            upto,
        )))?;
        state.purge(upto);
        Ok(())
    }

    /// Entries of `from..to_exclusive` that the log holds, in order: as many as fit into `bytes_max`, but at least one if there is any.
    /// From memory where they are recent, else from disk.
    ///
    /// # Errors
    /// [`Error::Corrupt`]: an entry is missing or changed; names store and index.
    pub fn read(&self, from: u64, to_exclusive: u64, bytes_max: usize) -> Result<Vec<LogEntry>> {
        self.group
            .read(&self.inner.writer, from, to_exclusive, bytes_max)
    }

    /// Reads about `bytes_max` bytes of what is on disk, from the entry at `from` on or, with `None`, from the first; what is still
    /// only in memory is not part of it.
    ///
    /// # Errors
    /// As [`GroupLog::read`].
    pub fn scrub(&self, from: Option<u64>, bytes_max: usize) -> Result<LogScrubbed> {
        let look = || {
            let state = self.group.state.lock();
            (state.first, state.removals)
        };
        let mut has_failed = false;
        loop {
            let (first, removals) = look();
            let at = from.map_or(first, |from| from.max(first));
            let (writer, store) = (&self.inner.writer, self.group.store);
            let (db, ring) = (writer.db(), writer.ring());
            let scrubbed = scrub::piece(db, ring, store, at, from.is_none(), bytes_max);
            // A purge or truncation that went on meanwhile looks like a hole; one that was decided before is perhaps only written now.
            let is_quiet = look().1 == removals;
            if scrubbed.is_ok() || (is_quiet && has_failed) {
                return scrubbed;
            }
            has_failed |= is_quiet;
        }
    }

    /// The id at `index`, the purge point's too. `None` before it and past the end.
    ///
    /// # Errors
    /// As [`GroupLog::read`].
    pub fn id_at(&self, index: u64) -> Result<Option<LogId>> {
        self.group.id_at(&self.inner.writer, index)
    }
}

/// A read in progress.
struct Read {
    entries: Vec<LogEntry>,
    bytes: usize,
    bytes_max: usize,
}

impl Read {
    /// Takes an entry; `false` if it is one too many.
    fn take(&mut self, entry: LogEntry) -> bool {
        let bytes = self.bytes.saturating_add(entry.bytes.len());
        if bytes > self.bytes_max && !self.entries.is_empty() {
            return false;
        }
        self.bytes = bytes;
        self.entries.push(entry);
        true
    }

    fn take_tail(&mut self, state: &State, from: u64, to: u64) {
        for entry in state.tail.from(from) {
            if entry.id.index >= to || !self.take(entry.clone()) {
                return;
            }
        }
    }
}
