//! What a shard applied behind a place, with both sides of each change: for the real-time queries of a node, which judge for themselves
//! who may see it.

use std::ops::Bound;
use std::time::{Duration, Instant};

use proto::ShardId;
use storage::keys::ChangeKey;
use storage::machine::ReplicaView;
use storage::tables::change_log;

use super::Shards;
use super::near::index;
use crate::changes::NEAR_AGE;
use crate::error::Result;
use crate::forward::{Answer, Failure, Tail, TailPage};
use crate::live::event::Event;

/// Events of one page.
const EVENTS_MAX: usize = 1_000;
/// A page ends at the event that reaches this many bytes.
const BYTES_MAX: usize = 1024 * 1024;

/// A page of what a shard applied.
pub(crate) struct Tailed {
    /// In the order of the log.
    pub(crate) events: Vec<Event>,
    /// Everything up to here was told, or is about no document that is wanted.
    pub(crate) cursor: ChangeKey,
    /// The log does not reach back to where the page should begin: nothing was told.
    pub(crate) is_trimmed: bool,
    /// Nothing is behind it.
    is_at_end: bool,
}

impl Tailed {
    pub(crate) fn new(events: Vec<Event>, cursor: ChangeKey, is_trimmed: bool) -> Tailed {
        Tailed {
            events,
            cursor,
            is_trimmed,
            is_at_end: true,
        }
    }
}

impl Shards {
    /// Whether the replica here is one that keeps up.
    pub(crate) fn is_fresh(&self, shard: ShardId) -> bool {
        let replica = self.groups.replica(shard);
        let age = replica.and_then(|replica| self.evidence.age(shard, &replica));
        age.is_some_and(|age| age <= NEAR_AGE)
    }

    /// A page for another node, which judges for itself what it wants.
    pub(super) async fn tail(
        &self,
        shard: ShardId,
        tail: &Tail,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let wait = Duration::from_micros(tail.wait_us);
        let page = self.tail_here(shard, tail.after(), wait, |_, _| true, deadline);
        Ok(Answer::Tail(TailPage::from(page.await?)))
    }

    /// A page of what the replica here applied behind a place (`None`: behind everything, at once and empty), with an event if one comes
    /// while the caller waits. Of other buckets than `wanted` nothing is told.
    ///
    /// # Errors
    /// `NotLeader`: there is no replica.
    pub(crate) async fn tail_here(
        &self,
        shard: ShardId,
        after: Option<ChangeKey>,
        wait: Duration,
        wanted: impl Fn(u32, u32) -> bool + Clone + Send + 'static,
        deadline: Instant,
    ) -> Result<Tailed, Failure> {
        let replica = self.replica(shard)?;
        let until = deadline.min(Instant::now() + wait);
        let Some(mut after) = after else {
            return Ok(Tailed::new(Vec::new(), behind(index(&replica)), false));
        };
        loop {
            let seen = index(&replica);
            let (replica, wanted) = (replica.clone(), wanted.clone());
            let read = move || page(&replica.view(), shard, after, &wanted);
            let page = self.log_reads.run(deadline, read).await?;
            let is_empty = page.events.is_empty() && page.is_at_end && !page.is_trimmed;
            if !is_empty || !self.progressed.reach(shard, seen + 1, until).await {
                return Ok(page);
            }
            after = page.cursor;
        }
    }
}

fn page(
    view: &ReplicaView<'_>,
    shard: ShardId,
    after: ChangeKey,
    wanted: &impl Fn(u32, u32) -> bool,
) -> Result<Tailed> {
    let applied = view.applied()?;
    if after < applied.changes.trimmed {
        return Ok(Tailed::new(Vec::new(), after, true));
    }
    let mut page = Tailed::new(Vec::new(), after, false);
    let mut bytes = 0;
    for row in change_log::scan(view, Bound::Excluded(after)) {
        let (position, event) = row?;
        if page.events.len() >= EVENTS_MAX || bytes >= BYTES_MAX {
            page.is_at_end = false;
            return Ok(page);
        }
        page.cursor = position;
        if wanted(event.database, event.bucket)
            && let Some(event) = Event::read(view, shard, position, event)?
        {
            bytes += event.bytes();
            page.events.push(event);
        }
    }
    let end = behind(applied.id.map_or(0, |id| id.index));
    page.cursor = page.cursor.max(end);
    Ok(page)
}

/// Behind everything of the entries up to `index`.
fn behind(index: u64) -> ChangeKey {
    ChangeKey {
        index,
        ordinal: u32::MAX,
    }
}
