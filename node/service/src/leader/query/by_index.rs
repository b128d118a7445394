//! Carrying out plans that do not walk through all documents: documents under known keys, and documents that indexes name.
//!
//! An entry of an index is a hint: filter and rights are asked again of each document, but where a plan is exact and everybody may read
//! the document, which is enough to count it.
//!
//! In the order of keys the keys are gathered first, the smallest [`KEYS_HELD`] of them, and the documents then taken as in a scan; so a
//! page ends where it is full, and tokens mean the same whatever the plan was.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::time::Instant;

use bytes::Bytes;
use document::index::IndexAccess;
use document::query::SortKey;
use storage::engine::Direction;
use storage::machine::ReplicaView;
use storage::tables::documents::{self, Row};
use storage::tables::indexes::{self, BucketIndex, IndexEntry};

use super::planned::Planned;
use super::top::Top;
use super::{SLICE, Walk};
use crate::error::Result;

/// Keys that one walk holds at most: above the usual limit of what it may look at, and some megabytes.
const KEYS_HELD: usize = 200_000;

/// Keys of documents, ascending and each once; the smallest of all that were offered.
struct Keys {
    /// With whether the document certainly belongs to the result.
    held: BTreeMap<Box<str>, bool>,
    is_cut: bool,
}

impl Keys {
    fn insert(&mut self, key: &str, is_certain: bool) {
        if self.held.len() >= KEYS_HELD {
            self.is_cut = true;
            match self.held.last_key_value() {
                Some((last, _)) if *key < **last => self.held.pop_last(),
                _ => return,
            };
        }
        self.held.insert(key.into(), is_certain);
    }
}

impl Walk {
    /// Results or their count in the order of keys, out of indexes.
    pub(super) fn take_by_index(
        &mut self,
        view: &ReplicaView<'_>,
        planned: &Planned,
        accesses: &[IndexAccess],
        after: Option<&str>,
    ) -> Result<()> {
        let is_exact = planned.plan.is_exact && self.count_only;
        let is_wanted = |key: &str| after.is_none_or(|after| key > after);
        if let [access] = accesses
            && self.count_only
            && !access.is_multiple
        {
            return self.visit_keys(view, planned, access, |walk, key, is_public| {
                if !is_wanted(key) {
                    return Ok(());
                }
                // Only what is certain to match and may be read by everybody is believed unseen.
                let is_found = (is_exact && is_public)
                    || walk.fetch(view, key, Walk::is_match)?.unwrap_or_default();
                walk.found.count += u64::from(is_found);
                Ok(())
            });
        }
        let mut keys = Keys {
            held: BTreeMap::new(),
            is_cut: false,
        };
        for access in accesses {
            self.visit_keys(view, planned, access, |_, key, is_public| {
                if is_wanted(key) {
                    keys.insert(key, is_exact && is_public);
                }
                Ok(())
            })?;
        }
        let rest = keys.held.last_key_value().filter(|_| keys.is_cut);
        let rest = rest.map(|(last, _)| Bytes::copy_from_slice(last.as_bytes()));
        let held = keys.held.iter();
        self.take_keys(view, held.map(|(key, is_certain)| (&**key, *is_certain)))?;
        self.found.rest = self.found.rest.take().or(rest);
        Ok(())
    }

    /// Results or their count out of these keys, ascending, each with whether it is certain to belong to the result of a count.
    pub(super) fn take_keys<'k>(
        &mut self,
        view: &ReplicaView<'_>,
        keys: impl Iterator<Item = (&'k str, bool)>,
    ) -> Result<()> {
        let slice_end = Instant::now() + SLICE;
        for (key, is_certain) in keys {
            if is_certain {
                self.found.count += 1;
                continue;
            }
            let taken = self.fetch(view, key, |walk, row| {
                walk.take_in_key_order(row, slice_end)
            })?;
            if taken.is_some_and(|taken| taken.is_break()) {
                break;
            }
        }
        Ok(())
    }

    /// Offers what indexes name to the first of an order.
    pub(super) fn offer_by_index(
        &mut self,
        view: &ReplicaView<'_>,
        planned: &Planned,
        accesses: &[IndexAccess],
        after: Option<&SortKey>,
        top: &mut Top,
    ) -> Result<()> {
        // A document counts where it comes first, which in the order of an index is where it belongs.
        let mut seen = HashSet::new();
        let is_repeating = accesses.len() > 1 || accesses.iter().any(|access| access.is_multiple);
        for access in accesses {
            let index = planned.index(access)?;
            let mut access = access.clone();
            if let Some(after) = after {
                access.resume(&index.index, after);
            }
            // The last value that must be walked through: what has another one comes behind everything that is kept.
            let mut last: Option<Vec<u8>> = None;
            self.visit_entries(view, index, &access, |walk, entry| {
                let place = access
                    .order
                    .map(|order| index.index.tie(entry.value, order.components));
                let is_by_id = access.order.is_some_and(|order| order.by_id);
                if last.is_some() && (is_by_id || last.as_deref() != place) {
                    top.cut();
                    return Ok(ControlFlow::Break(()));
                }
                if !is_repeating || seen.insert(Box::<str>::from(entry.key)) {
                    walk.fetch(view, entry.key, |walk, row| walk.offer(row, after, top))?;
                    if last.is_none() && top.is_settled() {
                        last = place.map(<[u8]>::to_vec);
                    }
                }
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(())
    }

    fn is_match(&mut self, row: Row<'_>) -> Result<bool> {
        Ok(self.matches(&row)?.is_some())
    }

    /// Shows the document under a key to `each`, if it is there.
    pub(super) fn fetch<T>(
        &mut self,
        view: &ReplicaView<'_>,
        key: &str,
        each: impl FnOnce(&mut Walk, Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        self.pass()?;
        self.count_row()?;
        let (database, bucket) = (self.database, self.bucket);
        documents::look_up(view, database, bucket, key, |row| each(self, row))?.transpose()
    }

    /// Shows the key of each entry of an access and whether everybody may read the document, within the limits of time and rows.
    fn visit_keys(
        &mut self,
        view: &ReplicaView<'_>,
        planned: &Planned,
        access: &IndexAccess,
        mut each: impl FnMut(&mut Walk, &str, bool) -> Result<()>,
    ) -> Result<()> {
        if let Some(seen) = planned.seen(access) {
            for (key, is_public) in seen {
                self.pass()?;
                self.count_entry()?;
                each(self, key, *is_public)?;
            }
            return Ok(());
        }
        let index = planned.index(access)?;
        self.visit_entries(view, index, access, |walk, entry| {
            each(walk, entry.key, entry.is_public)?;
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Shows the entries of an index in the order of the access, within the limits of time and rows.
    fn visit_entries(
        &mut self,
        view: &ReplicaView<'_>,
        index: &BucketIndex,
        access: &IndexAccess,
        mut each: impl FnMut(&mut Walk, IndexEntry<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let (database, bucket) = (self.database, self.bucket);
        let is_backward = access.order.is_some_and(|order| order.backward);
        let direction = match is_backward {
            true => Direction::Backward,
            false => Direction::Forward,
        };
        let ranges = access.ranges.len();
        for at in 0..ranges {
            let at = if is_backward { ranges - 1 - at } else { at };
            let range = &access.ranges[at];
            let mut ended = Ok(ControlFlow::Continue(()));
            indexes::visit(
                view,
                database,
                bucket,
                index,
                range,
                direction,
                &mut |entry| {
                    let next = self.pass().and_then(|()| {
                        self.count_entry()?;
                        each(self, entry)
                    });
                    let is_over = !matches!(next, Ok(ControlFlow::Continue(())));
                    ended = next;
                    Ok(match is_over {
                        true => ControlFlow::Break(()),
                        false => ControlFlow::Continue(()),
                    })
                },
            )?;
            if ended?.is_break() {
                break;
            }
        }
        Ok(())
    }
}
