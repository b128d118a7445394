//! The newest entries of one log, in memory.
//!
//! Invariants:
//! - Contiguous indexes, ending at the log's last entry; empty, or a suffix of the log.
//! - Holds every entry that is not written yet: only written ones are evicted, oldest first, so what is missing here can be read from
//!   the database.

use std::collections::VecDeque;

use super::LogEntry;
use crate::ids::LogId;

/// Memory of an entry beside its bytes, roughly.
const ENTRY_OVERHEAD: usize = 96;

#[derive(Debug)]
struct Slot {
    entry: LogEntry,
    /// Number of the append that brought it.
    append: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tail {
    slots: VecDeque<Slot>,
    bytes: usize,
    bytes_max: usize,
    /// All appends up to this number are in the database.
    written: u64,
}

impl Tail {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            slots: VecDeque::new(),
            bytes: 0,
            bytes_max,
            written: 0,
        }
    }

    /// Index of the oldest entry held.
    pub(super) fn first(&self) -> Option<u64> {
        self.slots.front().map(|slot| slot.entry.id.index)
    }

    pub(super) fn get(&self, index: u64) -> Option<&LogEntry> {
        let offset = index.checked_sub(self.first()?)?;
        self.slots
            .get(usize::try_from(offset).ok()?)
            .map(|slot| &slot.entry)
    }

    /// Entries from `from` up, none if that one is not held.
    pub(super) fn from(&self, from: u64) -> impl Iterator<Item = &LogEntry> {
        let offset = self
            .first()
            .and_then(|first| from.checked_sub(first))
            .and_then(|offset| usize::try_from(offset).ok());
        let start = offset.unwrap_or(self.slots.len()).min(self.slots.len());
        self.slots.range(start..).map(|slot| &slot.entry)
    }

    /// Adds the entries of append number `append`, which continue the log.
    pub(super) fn extend(&mut self, entries: &[LogEntry], append: u64) {
        for entry in entries {
            self.bytes += cost(entry);
            self.slots.push_back(Slot {
                entry: entry.clone(),
                append,
            });
        }
        self.evict();
    }

    /// Notes that all appends up to number `append` are in the database.
    pub(super) fn written(&mut self, append: u64) {
        self.written = self.written.max(append);
        self.evict();
    }

    /// Drops entries past `last`.
    pub(super) fn truncate_after(&mut self, last: Option<LogId>) {
        while let Some(slot) = self
            .slots
            .pop_back_if(|slot| last.is_none_or(|last| slot.entry.id.index > last.index))
        {
            self.bytes -= cost(&slot.entry);
        }
    }

    /// Drops entries up to `index`.
    pub(super) fn purge(&mut self, index: u64) {
        while let Some(slot) = self.slots.pop_front_if(|slot| slot.entry.id.index <= index) {
            self.bytes -= cost(&slot.entry);
        }
    }

    fn evict(&mut self) {
        while self.bytes > self.bytes_max {
            let Some(slot) = self.slots.pop_front_if(|slot| slot.append <= self.written) else {
                return;
            };
            self.bytes -= cost(&slot.entry);
        }
    }
}

fn cost(entry: &LogEntry) -> usize {
    entry.bytes.len() + ENTRY_OVERHEAD
}
