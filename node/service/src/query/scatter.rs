//! Pages of all shards, and their merge.
//!
//! Each shard has at most one page here. The next document of the result is known as soon as every shard that may have more shows its
//! next one; a shard whose page is used up is asked again before the merge goes on.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use proto::ShardId;

use super::Reads;
use crate::context::Served;
use crate::error::Result;
use crate::forward::{self, Found, Hit};

/// What the pages of all shards of a query may hold together.
pub(super) const HELD_BYTES: usize = 4 * 1024 * 1024;
/// A page of a shard is never asked to be smaller: below, round trips cost more than memory.
const PAGE_BYTES_MIN: usize = 16 * 1024;
/// Documents that a shard is asked for at least, in the order of keys: shards are never exactly alike.
const PAGE_DOCUMENTS_MIN: u64 = 16;

/// A query of all shards.
pub(super) struct Scatter {
    /// What each shard is asked, but for the place.
    template: forward::Query,
    /// Results come in the order of keys, so that a shard goes on where it stopped.
    in_key_order: bool,
    parts: Vec<Part>,
    /// The next place of each part that has one.
    next: BinaryHeap<Reverse<(Bytes, usize)>>,
    /// No part is open.
    is_settled: bool,
    /// The longest that a shard took for a page.
    slowest: Duration,
}

/// One shard's part.
struct Part {
    shard: ShardId,
    hits: VecDeque<Hit>,
    rest: Rest,
    /// Pages that it gave.
    pages: u32,
    /// Documents that it has looked at, where that adds up over pages.
    examined: u64,
    served: Option<Served>,
}

/// What a shard has behind its page.
enum Rest {
    /// What lies behind this place; `None`: everything.
    Behind(Option<Bytes>),
    Nothing,
}

impl Part {
    /// Whether it must be asked before the merge can go on.
    fn is_open(&self) -> bool {
        self.hits.is_empty() && matches!(self.rest, Rest::Behind(_))
    }
}

impl Scatter {
    pub(super) fn new(
        shards: u32,
        template: forward::Query,
        in_key_order: bool,
        after: Option<Bytes>,
    ) -> Scatter {
        let part = |shard| Part {
            shard: ShardId(shard),
            hits: VecDeque::new(),
            rest: Rest::Behind(after.clone()),
            pages: 0,
            examined: 0,
            served: None,
        };
        Scatter {
            template,
            in_key_order,
            parts: (1..=shards).map(part).collect(),
            next: BinaryHeap::new(),
            is_settled: false,
            slowest: Duration::ZERO,
        }
    }

    /// What each shard is asked first.
    pub(super) fn questions(&self, wanted: Option<u64>) -> Vec<(ShardId, forward::Query)> {
        let parts = self.parts.iter().enumerate();
        parts
            .map(|(at, part)| (part.shard, self.question(at, wanted)))
            .collect()
    }

    /// Asks every shard that must be asked before [`Self::pop`] can tell what comes next. `wanted` documents are still to come.
    ///
    /// # Errors
    /// The first of any shard.
    pub(super) async fn fill(&mut self, reads: &Reads<'_>, wanted: Option<u64>) -> Result<()> {
        while !self.is_settled {
            let open = (0..self.parts.len()).filter(|&at| self.parts[at].is_open());
            let open: Vec<usize> = open.collect();
            self.is_settled = open.is_empty();
            let question = |&at: &usize| (self.parts[at].shard, self.question(at, wanted));
            let questions: Vec<_> = open.iter().map(question).collect();
            for (at, page) in open.into_iter().zip(reads.pages(&questions).await?) {
                self.slowest = self.slowest.max(page.took);
                self.take(at, page.found, page.served);
            }
        }
        Ok(())
    }

    /// What a shard is asked now.
    fn question(&self, at: usize, wanted: Option<u64>) -> forward::Query {
        let part = &self.parts[at];
        let shards = self.parts.len();
        let after = match &part.rest {
            Rest::Behind(place) => place.clone(),
            Rest::Nothing => None,
        };
        let (documents_max, share) = match wanted {
            None => (u64::MAX, 0),
            // A shard can go on where it stopped, so it is asked for its share first.
            Some(wanted) if self.in_key_order => {
                let share = wanted.saturating_mul(2) / shards as u64;
                (share.max(PAGE_DOCUMENTS_MIN).min(wanted), 0)
            }
            // Only the shard knows whether it can.
            Some(wanted) => (wanted, share(wanted, shards, part.pages)),
        };
        forward::Query {
            after,
            documents_max,
            share,
            bytes_max: (HELD_BYTES / shards).max(PAGE_BYTES_MIN) as u64,
            examined: part.examined,
            ..self.template.clone()
        }
    }

    fn take(&mut self, at: usize, found: Found, served: Option<Served>) {
        let part = &mut self.parts[at];
        if self.in_key_order {
            part.examined += found.examined;
        }
        part.pages += 1;
        part.served = served.or(part.served);
        part.rest = found
            .rest
            .map_or(Rest::Nothing, |place| Rest::Behind(Some(place)));
        part.hits = found.hits.into();
        self.show(at);
    }

    /// Puts a part's next document into the race.
    fn show(&mut self, at: usize) {
        if let Some(hit) = self.parts[at].hits.front() {
            let place = Bytes::copy_from_slice(hit.place());
            self.next.push(Reverse((place, at)));
        }
    }

    /// The next document of the result. Right only while no part is open.
    pub(super) fn pop(&mut self) -> Option<Hit> {
        let Reverse((_, at)) = self.next.pop()?;
        let hit = self.parts[at].hits.pop_front();
        self.show(at);
        self.is_settled &= !self.parts[at].is_open();
        hit
    }

    /// Whether something may come behind what was popped. Exact while no part is open.
    pub(super) fn has_more(&self) -> bool {
        let has_more = |part: &Part| !part.hits.is_empty() || matches!(part.rest, Rest::Behind(_));
        self.parts.iter().any(has_more)
    }

    /// The longest that a shard took for a page since this was asked last.
    pub(super) fn take_slowest(&mut self) -> Duration {
        std::mem::take(&mut self.slowest)
    }

    /// How each shard was read.
    pub(super) fn served(&self) -> Vec<Served> {
        self.parts.iter().filter_map(|part| part.served).collect()
    }
}

/// How many of the first `wanted` documents a shard is likely to have at most: what falls to it on average and twice the usual scatter. So
/// few shards are asked again; those that are have more than their share, and are asked for twice as many each time.
fn share(wanted: u64, shards: usize, pages: u32) -> u64 {
    let average = wanted.div_ceil(shards as u64);
    let likely = average.saturating_add(average.isqrt().saturating_mul(2));
    let factor = 1_u64.checked_shl(pages).unwrap_or(u64::MAX);
    likely.saturating_mul(factor).clamp(1, wanted.max(1))
}
