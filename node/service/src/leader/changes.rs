//! What changed in a shard behind a place, as one reader may see it: from the change log, and where that does not reach back far enough,
//! from the documents.
//!
//! Read from the replica here as far as it is; no barrier is taken, since a feed sees what is applied. All replicas have the same log, so a
//! reader goes on at any of them: one that is behind the reader has nothing new for it yet.
//!
//! | part | owns |
//! |---|---|
//! | `judge` | which events a reader sees, and as what |
//! | `walk` | pages over the documents |
//! | `progressed` | waiting until more is applied |
//!
//! Invariants:
//! - A page is gapless: what lies between two cursors was told, or is not for this reader.
//! - A walk goes on only where all is applied that was when it began.

mod judge;
mod progressed;
mod walk;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use document::acl::Principal;
use proto::ShardId;
use proto::log::{Watermark, command};
use storage::machine::{Replica, ReplicaView};
use storage::tables::change_log::{self, Met};

pub(super) use self::judge::{Judge, Verdict};
pub(crate) use self::progressed::Progressed;
use super::near::index;
use super::{Shards, find_database};
use crate::error::{Error, Result};
use crate::forward::{Answer, Change, Changes, ChangesPage, Cursor, Failure, PageEnd, Request};

/// Events or documents between two looks at the clock.
const CHECK_ROWS: usize = 64;
/// A page ends after so long, so that readers take turns.
const SLICE: Duration = Duration::from_millis(100);
/// A watermark younger than this needs no other.
const WATERMARK_AGE_US: u64 = 500_000;
/// The most events of a page, whatever is asked for.
const EVENTS_MAX: usize = 10_000;
/// The most bytes, likewise.
const BYTES_MAX: usize = 1024 * 1024;

impl Shards {
    /// A page of changes, with an event if one comes in the time that the caller has.
    pub(crate) async fn changes(
        &self,
        request: &Request,
        changes: &Changes,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let replica = self.replica(request.shard)?;
        let until = deadline.min(Instant::now() + Duration::from_micros(changes.wait_us));
        let Some(mut cursor) = changes.cursor.clone() else {
            let cursor = Cursor::behind(index(&replica));
            return Ok(Answer::Changes(ended(cursor, PageEnd::AtEnd)));
        };
        if let Some(walk) = &cursor.walk
            && !self
                .progressed
                .reach(request.shard, walk.upto, deadline)
                .await
        {
            return Err(Failure::Busy(Error::unavailable(
                "the replica here is behind the one where the walk began",
            )));
        }
        loop {
            let seen = index(&replica);
            let page = self.changes_page(&replica, request, changes, cursor, deadline);
            let page = page.await?;
            let is_empty = page.events.is_empty() && page.end == PageEnd::AtEnd as i32;
            if !is_empty || !self.progressed.reach(request.shard, seen + 1, until).await {
                return Ok(Answer::Changes(page));
            }
            cursor = page.cursor.unwrap_or_default();
        }
    }

    async fn changes_page(
        &self,
        replica: &Arc<Replica>,
        request: &Request,
        changes: &Changes,
        cursor: Cursor,
        deadline: Instant,
    ) -> Result<ChangesPage, Failure> {
        let judge = self.judge(request, &changes.database, &changes.bucket, &changes.filter)?;
        let replica = Arc::clone(replica);
        let page = Page::new(changes.events_max, changes.bytes_max);
        let read = move || {
            let view = replica.view();
            match cursor.walk {
                Some(_) => walk::read(&view, &judge, cursor, page),
                None => read_log(&view, &judge, cursor, page),
            }
        };
        let page = self.log_reads.run(deadline, read).await?;
        page.ok_or_else(|| {
            Failure::Busy(Error::unavailable(
                "the metadata of this node does not know a bucket yet",
            ))
        })
    }

    pub(super) fn judge(
        &self,
        request: &Request,
        database: &str,
        bucket: &str,
        filter: &[u8],
    ) -> Result<Judge> {
        let state = self.metadata.current();
        let database = find_database(&state, database)?;
        Judge::new(database, bucket, filter, &request.principal, &self.layouts)
    }

    /// Whether a feed like this can be told to the caller.
    ///
    /// # Errors
    /// `BucketNotFound`, `PermissionDenied`, and those of the filter.
    pub(crate) fn check_feed(
        &self,
        principal: &Principal,
        database: &str,
        bucket: &str,
        filter: &[u8],
    ) -> Result<()> {
        let state = self.metadata.current();
        let database = find_database(&state, database)?;
        Judge::new(database, bucket, filter, principal, &self.layouts).map(|_| ())
    }

    /// Whether the replica here was told lately how far its shard is: if it has nothing new then, there is nothing new.
    pub(crate) fn hears(&self, shard: ShardId, age_max: Duration) -> bool {
        let replica = self.groups.replica(shard);
        let age = replica.and_then(|replica| self.evidence.age(shard, &replica));
        age.is_some_and(|age| age <= age_max)
    }

    /// Until the replica here may have applied more than `index`.
    pub(crate) fn more(&self, shard: ShardId, index: u64) -> impl Future<Output = ()> + use<> {
        let progressed = Arc::clone(&self.progressed);
        async move { progressed.pass(shard, index).await }
    }

    /// Puts the time of now into the log, unless a write did so lately.
    pub(super) async fn watermark(
        &self,
        shard: ShardId,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let replica = self.replica(shard)?;
        let logged_us = replica.applied().last_stamp_us;
        if logged_us.saturating_add(WATERMARK_AGE_US) <= self.clock.wall_us() {
            let operation = command::Operation::Watermark(Watermark {});
            let command = self.command(shard, &replica, operation);
            self.propose(shard, &command, deadline).await?;
        }
        Ok(Answer::Done(true))
    }
}

/// The events behind the cursor. `None`: the first one is of a bucket that is not known here.
fn read_log(
    view: &ReplicaView<'_>,
    judge: &Judge,
    cursor: Cursor,
    mut page: Page,
) -> Result<Option<ChangesPage>> {
    let applied = view.applied()?;
    let mut last = cursor.position();
    if last < applied.changes.trimmed {
        return Ok(Some(ended(cursor, PageEnd::Trimmed)));
    }
    let first = last;
    let mut stopped = Ok(Stop::AtEnd);
    let wanted = |database, bucket| judge.wants(database, bucket);
    change_log::visit(view, last, wanted, &mut |position, met| {
        if page.is_full() {
            stopped = Ok(Stop::Full);
            return Ok(ControlFlow::Break(()));
        }
        let time_us = match met {
            Met::Other(time_us) => time_us,
            Met::Event(event) => {
                let time_us = event.time_us;
                match judge.event(view, position, event) {
                    Ok(Verdict::Shown(change)) => page.push(change),
                    Ok(Verdict::Hidden) => {}
                    Ok(Verdict::Unknown) => {
                        stopped = Ok(Stop::Unknown);
                        return Ok(ControlFlow::Break(()));
                    }
                    Err(error) => {
                        stopped = Err(error);
                        return Ok(ControlFlow::Break(()));
                    }
                }
                time_us
            }
        };
        last = position;
        page.known_us = time_us;
        Ok(ControlFlow::Continue(()))
    })?;
    match stopped? {
        Stop::AtEnd => {}
        Stop::Unknown if last == first => return Ok(None),
        Stop::Unknown | Stop::Full => {
            return Ok(Some(page.end(Cursor::at(last), PageEnd::More)));
        }
    }
    page.known_us = page.known_us.max(applied.last_stamp_us);
    let end = Cursor::behind(applied.id.map_or(0, |id| id.index));
    let cursor = if end.position() > last {
        end
    } else {
        Cursor::at(last)
    };
    Ok(Some(page.end(cursor, PageEnd::AtEnd)))
}

/// Why a page has no further event.
enum Stop {
    /// There is none.
    AtEnd,
    /// It has enough.
    Full,
    /// The next one is of a bucket that is not known here.
    Unknown,
}

/// A page that is being filled.
struct Page {
    events: Vec<Change>,
    bytes: usize,
    rows: usize,
    known_us: u64,
    events_max: usize,
    bytes_max: usize,
    slice_end: Instant,
}

impl Page {
    fn new(events_max: u64, bytes_max: u64) -> Page {
        let limit = |asked, max| usize::try_from(asked).unwrap_or(max).clamp(1, max);
        Page {
            events: Vec::new(),
            bytes: 0,
            rows: 0,
            known_us: 0,
            events_max: limit(events_max, EVENTS_MAX),
            bytes_max: limit(bytes_max, BYTES_MAX),
            slice_end: Instant::now() + SLICE,
        }
    }

    /// Whether the page ends before the next row; called for each.
    fn is_full(&mut self) -> bool {
        self.rows += 1;
        self.events.len() >= self.events_max
            || self.bytes >= self.bytes_max
            || self.rows.is_multiple_of(CHECK_ROWS) && Instant::now() >= self.slice_end
    }

    fn push(&mut self, change: Change) {
        self.bytes += change.bytes();
        self.events.push(change);
    }

    fn end(self, cursor: Cursor, end: PageEnd) -> ChangesPage {
        ChangesPage {
            events: self.events,
            cursor: Some(cursor),
            end: end as i32,
            known_us: self.known_us,
        }
    }
}

/// A page without events.
fn ended(cursor: Cursor, end: PageEnd) -> ChangesPage {
    ChangesPage {
        events: Vec::new(),
        cursor: Some(cursor),
        end: end as i32,
        known_us: 0,
    }
}
