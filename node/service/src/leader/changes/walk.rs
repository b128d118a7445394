//! Telling from the documents what the change log has no more: the latest state of what changed behind a cursor, deletes by their
//! tombstones; or, as a snapshot, the state of everything.
//!
//! A walk goes over the buckets in the order of ids and keys. What changes while it is on the way is left to the log: it tells nothing
//! that is younger than its beginning, so no version comes after a newer one. If the log is trimmed past its beginning before it ends,
//! another walk follows.

use std::ops::{Bound, ControlFlow};

use storage::keys::ChangeKey;
use storage::machine::ReplicaView;
use storage::tables::documents::{self, Entry};

use super::judge::Judge;
use super::{Page, ended};
use crate::error::Result;
use crate::forward::{ChangesPage, Cursor, PageEnd, Walk};

/// A page of a walk; never `None`, which the log says of buckets that it does not know.
pub(super) fn read(
    view: &ReplicaView<'_>,
    judge: &Judge,
    cursor: Cursor,
    mut page: Page,
) -> Result<Option<ChangesPage>> {
    let mut walk = cursor.walk.clone().unwrap_or_default();
    if walk.upto == 0 {
        walk.upto = view.applied()?.id.map_or(0, |id| id.index);
    }
    let since = match walk.is_snapshot {
        true => ChangeKey::default(),
        false => cursor.position(),
    };
    let first = walk.bucket;
    for (id, name) in judge.buckets_from(first) {
        let from = match walk.after.as_str() {
            after if id == first && !after.is_empty() => Bound::Excluded(after.to_owned()),
            _ => Bound::Unbounded,
        };
        let (mut stopped, mut failed, mut is_untellable) = (false, None, false);
        let mut last = String::new();
        let from = from.as_ref().map(String::as_str);
        documents::visit_changed(
            view,
            judge.database(),
            id,
            from,
            since,
            &mut |key, entry| {
                if page.is_full() {
                    stopped = true;
                    return Ok(ControlFlow::Break(()));
                }
                last.clear();
                last.push_str(key);
                let Some(entry) = entry.filter(|entry| is_told(entry, &walk)) else {
                    return Ok(ControlFlow::Continue(()));
                };
                match judge.entry(name, key, entry) {
                    Ok(Some(change)) if walk.is_snapshot && change.body.is_empty() => {}
                    Ok(Some(change)) => page.push(change),
                    Ok(None) => is_untellable = !walk.is_snapshot,
                    Err(error) => failed = Some(error),
                }
                let is_over = is_untellable || failed.is_some();
                Ok(match is_over {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                })
            },
        )?;
        if let Some(error) = failed {
            return Err(error);
        }
        if is_untellable {
            return Ok(Some(ended(cursor, PageEnd::Untellable)));
        }
        if stopped {
            let after = match last.is_empty() && id == first {
                true => walk.after,
                false => last,
            };
            let walk = Walk {
                bucket: id,
                after,
                ..walk
            };
            let cursor = Cursor {
                walk: Some(walk),
                ..cursor
            };
            return Ok(Some(page.end(cursor, PageEnd::More)));
        }
    }
    Ok(Some(page.end(Cursor::behind(walk.upto), PageEnd::More)))
}

/// Whether the walk tells of it: it was there when the walk began, and a snapshot has no deletes.
fn is_told(entry: &Entry, walk: &Walk) -> bool {
    match entry {
        Entry::Live { position, .. } => position.index <= walk.upto,
        Entry::Tombstone(tombstone) => !walk.is_snapshot && tombstone.position.index <= walk.upto,
    }
}
