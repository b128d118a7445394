//! One shard's stale keys, exactly: what its rows and marks up to one applied index say.
//!
//! Invariants:
//! - a key is here from its first row on until T is past the latest end that any of its rows has; rows without a mark have none yet;
//! - two nodes that know a shard up to the same index hold the same keys, in whatever parts they came;
//! - at most [`KEYS_MAX`] keys and rows: beyond that whole buckets are stale in the place of their keys.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use document::bloom::Hashes;
use storage::keys::ChangeKey;
use storage::tables::stale::{Part, StaleRow, horizon_us};

use crate::forward::FollowStale;

/// Keys, and rows without a mark, that are known one by one: some 50 MiB in the worst case, far more than any filter is good for.
const KEYS_MAX: usize = 1 << 20;

/// What is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    database: u32,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum What {
    Document(Hashes),
    /// Every document of the bucket.
    Bucket(u32),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ShardTable {
    /// The applied index that all of this is of.
    index: u64,
    /// The shard's T there, microseconds.
    time_us: u64,
    /// The last row that is known.
    last: ChangeKey,
    /// The index of the last mark that is known.
    marked: u64,
    /// Rows that no mark covers yet, in order.
    open: VecDeque<(ChangeKey, StaleRow)>,
    /// Until which T a place is stale, microseconds.
    until_us: HashMap<Place, u64>,
    /// Monotonic time: whatever was acknowledged before it is in here. `None`: nobody has proven anything.
    as_of: Option<Duration>,
}

impl ShardTable {
    /// What is to be asked for next.
    pub(super) fn question(&self) -> FollowStale {
        FollowStale {
            after_index: self.last.index,
            after_ordinal: self.last.ordinal,
            marked: self.marked,
            applied: self.index,
        }
    }

    /// The applied index that all of this is of.
    pub(super) fn index(&self) -> u64 {
        self.index
    }

    /// See the field.
    pub(super) fn as_of(&self) -> Option<Duration> {
        self.as_of
    }

    /// Keys and rows that are known.
    pub(super) fn len(&self) -> usize {
        self.open.len() + self.until_us.len()
    }

    /// Takes in the answer to [`Self::question`]. One of an earlier state says nothing new; false then.
    pub(super) fn take(&mut self, part: Part) -> bool {
        if part.index < self.index {
            return false;
        }
        for (at, row) in part.rows {
            self.last = self.last.max(at);
            self.open_row(at, row);
        }
        for mark in part.marks {
            while let Some((_, row)) = self.open.pop_front_if(|(at, _)| at.index <= mark.index) {
                let until = self.until_us.entry(place(&row)).or_default();
                *until = horizon_us(mark, row.lifetime_ms).max(*until);
            }
            self.marked = self.marked.max(mark.index);
        }
        while self
            .open
            .pop_front_if(|(at, _)| *at <= part.expired)
            .is_some()
        {}
        self.time_us = self.time_us.max(part.time_us);
        // With more to come this is not yet the state at that index.
        if !part.more {
            self.index = part.index;
        }
        true
    }

    /// A part that was read no earlier than this has been taken in as a whole.
    pub(super) fn confirm(&mut self, as_of: Duration) {
        self.as_of = self.as_of.max(Some(as_of));
    }

    fn open_row(&mut self, at: ChangeKey, mut row: StaleRow) {
        if self.len() >= KEYS_MAX {
            row.document = None;
            if let Some((last_at, last)) = self.open.back_mut()
                && place(last) == place(&row)
            {
                *last_at = at;
                last.lifetime_ms = last.lifetime_ms.max(row.lifetime_ms);
                return;
            }
        }
        self.open.push_back((at, row));
    }

    /// Forgets what is stale no more.
    pub(super) fn drop_over(&mut self) {
        let now_us = self.time_us;
        self.until_us.retain(|_, until_us| *until_us > now_us);
    }

    /// See [`super::StaleKeys::next_over_us`].
    pub(super) fn next_over_us(&self) -> Option<u64> {
        self.until_us.values().min().copied()
    }

    /// Adds the stale documents of a database to `into`, some of them twice. False: whole buckets are stale.
    pub(super) fn collect(&self, database: u32, into: &mut Vec<Hashes>) -> bool {
        let open = self.open.iter().map(|(_, row)| place(row));
        let over = |until_us: &u64| *until_us <= self.time_us;
        let closed = self.until_us.iter().filter(|(_, until)| !over(until));
        let mut all = open.chain(closed.map(|(place, _)| *place));
        all.all(|place| match place.what {
            _ if place.database != database => true,
            What::Document(hashes) => {
                into.push(hashes);
                true
            }
            What::Bucket(_) => false,
        })
    }
}

fn place(row: &StaleRow) -> Place {
    Place {
        database: row.database,
        what: match row.document {
            Some(hashes) => What::Document(hashes),
            None => What::Bucket(row.bucket),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use storage::tables::stale::Mark;

    use super::*;

    fn at(index: u64) -> ChangeKey {
        ChangeKey { index, ordinal: 0 }
    }

    fn row(index: u64, key: u32, lifetime_ms: u32) -> (ChangeKey, StaleRow) {
        let row = StaleRow {
            database: 1,
            bucket: 1,
            lifetime_ms,
            document: Some(Hashes { h1: key, h2: 0 }),
        };
        (at(index), row)
    }

    fn mark(index: u64, time_us: u64) -> Mark {
        Mark { index, time_us }
    }

    fn keys(table: &ShardTable) -> Vec<u32> {
        let mut found = Vec::new();
        assert!(table.collect(1, &mut found));
        let mut keys: Vec<u32> = found.iter().map(|hashes| hashes.h1).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    #[test]
    fn a_key_stays_for_the_longest_of_its_rows() {
        let mut table = ShardTable::default();
        let first = Part {
            rows: vec![row(1, 7, 600_000), row(2, 7, 1_000)],
            marks: vec![mark(2, 0)],
            index: 3,
            ..Part::default()
        };
        assert!(table.take(first));
        let at_time = |time_us, index| Part {
            time_us,
            index,
            ..Part::default()
        };
        assert!(table.take(at_time(601_599_999, 4)));
        assert_eq!(keys(&table), [7]);
        assert!(table.take(at_time(601_600_000, 5)));
        assert!(keys(&table).is_empty());
    }

    #[test]
    fn an_earlier_state_takes_nothing_back() {
        let mut table = ShardTable::default();
        let now = Part {
            rows: vec![row(5, 7, 1_000)],
            index: 6,
            ..Part::default()
        };
        assert!(table.take(now));
        assert!(!table.take(Part {
            index: 4,
            ..Part::default()
        }));
        assert_eq!((keys(&table), table.index()), (vec![7], 6));
    }

    #[test]
    fn rows_that_were_removed_unseen_are_over() {
        let mut table = ShardTable::default();
        let open = Part {
            rows: vec![row(1, 7, 1_000), row(4, 8, 1_000)],
            index: 4,
            ..Part::default()
        };
        assert!(table.take(open));
        // The mark of the first one went with its row.
        let later = Part {
            expired: at(3),
            index: 9,
            ..Part::default()
        };
        assert!(table.take(later));
        assert_eq!(keys(&table), [8]);
    }

    #[test]
    fn other_databases_and_whole_buckets_are_told_apart() {
        let mut table = ShardTable::default();
        let (place, document) = row(1, 7, 1_000);
        let whole = StaleRow {
            database: 2,
            document: None,
            ..document
        };
        let part = Part {
            rows: vec![(place, document), (at(2), whole)],
            index: 2,
            ..Part::default()
        };
        assert!(table.take(part));
        assert_eq!(keys(&table), [7]);
        assert!(!table.collect(2, &mut Vec::new()));
    }

    proptest! {
        /// In one part or in many: the same keys.
        #[test]
        fn the_way_it_comes_does_not_matter(
            rows in prop::collection::vec((0..5u32, 0..50_000u32), 1..30),
            marks in prop::collection::vec((1..30u64, 1..20_000_000u64), 0..6),
            cut in 0..30usize,
            end_us in 0..80_000_000u64,
        ) {
            let all = rows.len() as u64;
            let rows: Vec<_> = (1..).zip(rows).map(|(at, (key, ms))| row(at, key, ms)).collect();
            let mut marks: Vec<Mark> = marks.into_iter().map(|(index, at)| mark(index.min(all), at)).collect();
            marks.sort_by_key(|mark| (mark.index, mark.time_us));
            marks.dedup_by_key(|mark| mark.index);
            let mut time_us = 0;
            for mark in &mut marks {
                time_us += mark.time_us;
                mark.time_us = time_us;
            }
            let (mut whole, mut pieces) = (ShardTable::default(), ShardTable::default());
            let last = Part { rows: rows.clone(), marks: marks.clone(), time_us: end_us, index: all + 1, ..Part::default() };
            whole.take(last);
            let cut = cut.min(rows.len());
            // What was marked by then.
            let early = marks.partition_point(|mark| mark.index < cut as u64);
            let first = Part { rows: rows[..cut].to_vec(), marks: marks[..early].to_vec(), index: cut as u64, ..Part::default() };
            pieces.take(first);
            let second = Part { rows: rows[cut..].to_vec(), marks: marks[early..].to_vec(), time_us: end_us, index: all + 1, ..Part::default() };
            pieces.take(second);
            prop_assert_eq!(keys(&whole), keys(&pieces));
        }
    }
}
