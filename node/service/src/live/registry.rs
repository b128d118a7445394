//! The subscriptions of a node by what their filters ask for, so that a change finds those that it may concern without asking each.
//!
//! Of each bucket, filters are kept under the values that what they match must have in one path ([`document::index::anchors`]): single
//! values in a table, ranges in [`Intervals`]. A change is looked up by the values of both of its sides, and each filter that it finds is
//! then asked itself. Filters without such values are asked every time; so a bucket may have only so many of them.
//!
//! Invariant, property-tested: the same subscriptions are told as if each filter was asked.

use std::collections::HashMap;
use std::sync::Arc;

use document::acl::Principal;
use document::index::{Anchor, Range, anchors};
use document::query::{Filter, Subject};
use proto::ErrorCode;

use super::event::{Before, Event, Side};
use super::intervals::Intervals;
use super::queue::{Delivery, Queue};
use crate::error::{Error, Result};

/// Names a watcher of this node.
pub(crate) type WatcherId = u64;

/// Who wants to hear of changes of a bucket.
#[derive(Clone)]
pub(crate) struct Watcher {
    /// The database.
    pub(crate) database: u32,
    /// The bucket.
    pub(crate) bucket: u32,
    /// What must match before or afterwards.
    pub(crate) filter: Filter,
    /// Who must be allowed to read it.
    pub(crate) reader: Principal,
    /// Where deliveries go.
    pub(crate) queue: Arc<Queue>,
}

/// All watchers.
pub(crate) struct Registry {
    buckets: HashMap<(u32, u32), Bucket>,
    next: WatcherId,
    /// Watchers of one bucket whose filters must be asked every time.
    unanchored_max: usize,
}

/// Those of one bucket.
#[derive(Default)]
struct Bucket {
    watchers: HashMap<WatcherId, Watcher>,
    /// By the bytes of the index that gives the values of the path.
    lines: HashMap<Vec<u8>, Line>,
    unanchored: Vec<WatcherId>,
}

/// Filters that are kept under values of one path.
struct Line {
    /// Any of them: they differ in ranges.
    anchor: Anchor,
    points: HashMap<Vec<u8>, Vec<WatcherId>>,
    ranges: Intervals<WatcherId>,
}

impl Registry {
    pub(crate) fn new(unanchored_max: usize) -> Registry {
        Registry {
            buckets: HashMap::new(),
            next: 0,
            unanchored_max,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Whether somebody wants to hear of changes of this bucket.
    pub(crate) fn wants(&self, database: u32, bucket: u32) -> bool {
        self.buckets.contains_key(&(database, bucket))
    }

    /// # Errors
    /// `TooManyRequests`: the filter must be asked for every change, and the bucket has enough of these.
    pub(crate) fn add(&mut self, watcher: Watcher) -> Result<WatcherId> {
        let anchors = anchors(&watcher.filter);
        let place = (watcher.database, watcher.bucket);
        let unanchored = self.buckets.get(&place).map_or(0, Bucket::unanchored);
        if anchors.is_none() && unanchored >= self.unanchored_max {
            let message = format!(
                "{unanchored} queries of the bucket are open at this node that no value leads to: compare a field with one, or with a range"
            );
            let error = Error::new(ErrorCode::TooManyRequests, message);
            return Err(error.with_retry_after(crate::limits::RETRY_AFTER));
        }
        let bucket = self.buckets.entry(place).or_default();
        let id = self.next;
        self.next += 1;
        match anchors {
            Some(anchors) => anchors
                .into_iter()
                .for_each(|anchor| bucket.anchor(anchor, id)),
            None => bucket.unanchored.push(id),
        }
        bucket.watchers.insert(id, watcher);
        Ok(id)
    }

    pub(crate) fn remove(&mut self, place: (u32, u32), id: WatcherId) {
        let Some(bucket) = self.buckets.get_mut(&place) else {
            return;
        };
        if let Some(watcher) = bucket.watchers.remove(&id) {
            match anchors(&watcher.filter) {
                Some(anchors) => anchors.iter().for_each(|anchor| bucket.lift(anchor, id)),
                None => bucket.unanchored.retain(|other| *other != id),
            }
        }
        if bucket.watchers.is_empty() {
            self.buckets.remove(&place);
        }
    }

    /// Puts the change into the queues of those whom it concerns: one of its sides matches and may be read.
    pub(crate) fn tell(&self, event: &Arc<Event>) {
        let Some(bucket) = self.buckets.get(&(event.database, event.bucket)) else {
            return;
        };
        for id in bucket.candidates(event) {
            if let Some(watcher) = bucket.watchers.get(&id) {
                watcher.tell(event);
            }
        }
    }

    /// Tells everybody that changes were missed.
    pub(crate) fn miss(&self) {
        let buckets = self.buckets.values();
        let watchers = buckets.flat_map(|bucket| bucket.watchers.values());
        watchers.for_each(|watcher| watcher.queue.miss());
    }
}

impl Watcher {
    fn tell(&self, event: &Arc<Event>) {
        let was = event.was(&self.filter, &self.reader);
        let is = event.is(&self.filter, &self.reader);
        if matches!(was, Side::Match | Side::Unknown) || is == Side::Match {
            self.queue.push(Delivery {
                event: Arc::clone(event),
                was,
                is,
            });
        }
    }
}

impl Bucket {
    fn unanchored(&self) -> usize {
        self.unanchored.len()
    }

    fn anchor(&mut self, anchor: Anchor, id: WatcherId) {
        let line = self.lines.entry(anchor.index.to_bytes());
        let line = line.or_insert_with(|| Line {
            anchor: anchor.clone(),
            points: HashMap::new(),
            ranges: Intervals::default(),
        });
        for range in anchor.ranges {
            match anchor.is_points {
                true => line.points.entry(range.from).or_default().push(id),
                false => line.ranges.insert(range, id),
            }
        }
    }

    fn lift(&mut self, anchor: &Anchor, id: WatcherId) {
        let name = anchor.index.to_bytes();
        let Some(line) = self.lines.get_mut(&name) else {
            return;
        };
        for range in &anchor.ranges {
            line.lift(range, anchor.is_points, id);
        }
        if line.points.is_empty() && line.ranges.is_empty() {
            self.lines.remove(&name);
        }
    }

    /// Whom the change may concern, each once.
    fn candidates(&self, event: &Event) -> Vec<WatcherId> {
        let before = match &event.before {
            Before::Nothing => None,
            Before::Known(image) => Some(image),
            // It had some value or other.
            Before::Trimmed(_) => return self.watchers.keys().copied().collect(),
        };
        let mut found = self.unanchored.clone();
        for image in before.into_iter().chain(&event.after) {
            if let Some(subject) = image.subject() {
                for line in self.lines.values() {
                    line.find(&subject, &mut found);
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl Line {
    fn lift(&mut self, range: &Range, is_point: bool, id: WatcherId) {
        if !is_point {
            self.ranges.remove(range, id);
            return;
        }
        if let Some(ids) = self.points.get_mut(&range.from) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.points.remove(&range.from);
            }
        }
    }

    /// Adds those that are kept under a value of the document.
    fn find(&self, subject: &Subject<'_>, found: &mut Vec<WatcherId>) {
        let Ok(values) = self.anchor.index.values(subject) else {
            // More values than anybody lists: all it could be.
            found.extend(self.points.values().flatten());
            self.ranges.all(&mut |id| found.push(id));
            return;
        };
        for value in values {
            found.extend(self.points.get(&value).into_iter().flatten());
            self.ranges.holding(&value, &mut |id| found.push(id));
        }
    }
}

#[cfg(test)]
mod tests;
