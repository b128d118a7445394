//! Which plan a query gets in this shard, and with which indexes.
//!
//! The shard decides by the view that it will read: an index counts only if the view's bucket has it and the view says that it is complete
//! here. So a replica that lags never reads an index that is kept up no more, and one that is further along needs no word from the metadata.

use std::sync::Arc;

use document::index::{self, Access, Candidate, IndexAccess, Plan, Range, Statistics};
use document::query::{Filter, Sort};
use storage::machine::ReplicaView;
use storage::tables::estimates::{self, Effort};
use storage::tables::indexes::{BucketIndex, IndexEntry, ReadIndexes};

use super::known::{Known, Place};
use crate::error::{Error, Result};

/// Entries and documents that are counted one by one before sizes are believed. Counted entries are kept, so that a walk over so few reads
/// them once.
pub(super) const EXACT_MAX: u64 = 512;

/// A plan and the indexes that it may name.
pub(super) struct Planned {
    pub(super) plan: Plan,
    pub(super) known: Arc<ReadIndexes>,
    seen: Vec<Seen>,
}

/// All entries of some ranges, as they were counted.
struct Seen {
    index: u32,
    ranges: Vec<Range>,
    /// Decoded keys in the order of the entries, and whether everybody may read the document.
    keys: Vec<(Box<str>, bool)>,
}

impl Planned {
    /// Chooses. `wanted`: documents that are wanted from the first on; 0: only their number. `examined_max`: entries and documents that may
    /// be looked at; without a limit, what only an index answers is scanned for if there is none.
    ///
    /// # Errors
    /// `QueryNotSupported`: a filter about places without an index for it.
    pub(super) fn choose(
        view: &ReplicaView<'_>,
        known: &Known,
        place: Place,
        (filter, order): (&Filter, &Sort),
        wanted: Option<u64>,
        examined_max: Option<u64>,
    ) -> Result<Planned> {
        let read = known.indexes(view, place)?;
        let indexes = read.indexes().iter();
        let candidates: Vec<Candidate> = indexes
            .map(|index| Candidate {
                id: index.id,
                index: index.index.clone(),
            })
            .collect();
        let mut sizes = Sizes {
            view,
            known,
            place,
            examined_max,
            indexes: read.indexes(),
            seen: Vec::new(),
            failed: None,
        };
        let plan = match index::plan(filter, order, wanted, &candidates, &mut sizes) {
            Err(document::query::Error::Unsupported(_)) if examined_max.is_none() => Plan {
                access: Access::Scan,
                estimated: sizes.documents(),
                is_exact: false,
                refused: Vec::new(),
            },
            plan => plan?,
        };
        let Sizes { failed, seen, .. } = sizes;
        match failed {
            Some(error) => Err(error),
            None => Ok(Planned {
                plan,
                known: read,
                seen,
            }),
        }
    }

    /// The keys of all entries that an access reads, in the order of the index, and whether everybody may read the document; `None`: they were too
    /// many to be looked at before the walk.
    pub(super) fn seen(&self, access: &IndexAccess) -> Option<&[(Box<str>, bool)]> {
        let is_it = |seen: &&Seen| seen.index == access.id && seen.ranges == access.ranges;
        self.seen.iter().find(is_it).map(|seen| &*seen.keys)
    }

    /// The index that an access names.
    ///
    /// # Errors
    /// `Internal`: there is none.
    pub(super) fn index(&self, access: &IndexAccess) -> Result<&BucketIndex> {
        let mut named = self
            .known
            .indexes()
            .iter()
            .filter(|index| index.id == access.id);
        named
            .next()
            .ok_or_else(|| Error::internal(&"a plan names an index that was not offered"))
    }
}

/// What the store can tell about sizes.
struct Sizes<'v, 'r> {
    view: &'v ReplicaView<'r>,
    known: &'v Known,
    place: Place,
    examined_max: Option<u64>,
    indexes: &'v [BucketIndex],
    seen: Vec<Seen>,
    /// The first failure: the plan is worth nothing then.
    failed: Option<Error>,
}

impl Sizes<'_, '_> {
    fn sized(&mut self, size: storage::error::Result<u64>) -> u64 {
        size.unwrap_or_else(|error| {
            self.failed.get_or_insert_with(|| error.into());
            0
        })
    }

    /// Counts entries over ranges and keeps the first [`EXACT_MAX`]: all of them, if there are no more.
    fn count(
        &self,
        index: u32,
        ranges: &[Range],
        enough: u64,
        keys: &mut Vec<(Box<str>, bool)>,
    ) -> storage::error::Result<u64> {
        let Some(index) = self.indexes.iter().find(|kept| kept.id == index) else {
            return Ok(0);
        };
        let Place {
            database, bucket, ..
        } = self.place;
        let mut entries: u64 = 0;
        for range in ranges {
            let effort = Effort {
                exact_max: EXACT_MAX.saturating_sub(entries),
                enough: enough.saturating_sub(entries),
            };
            let each = &mut |entry: IndexEntry<'_>| {
                keys.push((entry.key.into(), entry.is_public));
                Ok(())
            };
            let size = estimates::entries(self.view, database, bucket, index, range, effort, each)?;
            entries = entries.saturating_add(size);
            if entries > enough.max(EXACT_MAX) {
                break;
            }
        }
        Ok(entries)
    }
}

impl Statistics for Sizes<'_, '_> {
    fn documents(&mut self) -> u64 {
        if let Some(documents) = self.known.documents(self.place) {
            return documents;
        }
        let Place {
            database, bucket, ..
        } = self.place;
        let effort = Effort::exact(EXACT_MAX);
        let size = estimates::documents(self.view, database, bucket, effort);
        let documents = self.sized(size);
        self.known.set_documents(self.place, documents);
        documents
    }

    fn entries(&mut self, index: u32, ranges: &[Range], enough: u64) -> u64 {
        let mut keys = Vec::new();
        let size = self.count(index, ranges, enough, &mut keys);
        let entries = self.sized(size);
        if entries == keys.len() as u64 {
            let ranges = ranges.to_vec();
            self.seen.push(Seen {
                index,
                ranges,
                keys,
            });
        }
        entries
    }

    fn examined_max(&mut self) -> u64 {
        self.examined_max.unwrap_or(u64::MAX)
    }
}
