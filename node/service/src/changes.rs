//! Feeds: what changes in a database, shard by shard as it is applied, for as long as a client reads.
//!
//! A [`Feed`] asks each shard for a page of changes (`leader::changes`), at this node's own replica where there is one that keeps up, else
//! at the shard's leader, else at whoever has one. It asks for the next page of a shard when the client took the last, so a slow client
//! costs one page a shard and reads from the disk later; reads of all feeds take turns in one pool.
//!
//! | part | owns |
//! |---|---|
//! | `token` | resume tokens |
//! | `ask` | getting a page, and the versions of a document |
//! | `begin` | where a feed begins, and through whose eyes it sees |
//!
//! What a client may rely on:
//! - Of each document the changes come in the order of their versions, each at least once. Repetitions have the id of the first time.
//! - The token of a frame covers it and everything before. A feed that is opened with it goes on behind it, whatever happened since: from
//!   the log; where that is gone, by the latest state of what changed; and where that cannot be told, by [`Frame::Resync`] and everything.
//! - At least every second there is a frame.
//! - Rights are judged as of each page by what the caller may do then, and the session is looked at every second.
//!
//! Lacks: an order over several shards, unless it is asked for, and then not while a walk stands in for the log.

mod ask;
mod begin;
mod token;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::state::Database;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use metrics::{counter, gauge};
use proto::{ErrorCode, ShardId};
use tokio::sync::OwnedSemaphorePermit;

use self::ask::Got;
pub(crate) use self::ask::{NEAR_AGE, elsewhere, first_behind};
pub(crate) use self::begin::{Following, Reader, begins, check};
pub(crate) use self::token::{ConsumerMark, Resumed, decode_of as decode_token, scope};
use crate::Core;
use crate::context::Context;
use crate::documents::Session;
use crate::error::{Error, Result};
use crate::forward::{Change, Changes, Cursor, PageEnd};
use crate::metrics::{FEED_EVENTS, FEEDS_OPEN};

/// The longest time between two frames, and between two looks at the caller's session.
const BEAT: Duration = Duration::from_secs(1);
/// How long a shard waits for an event before it says that there is none.
const WAIT: Duration = Duration::from_secs(1);
/// Time for looking at a session, and for the first answers of the shards.
const LOOK_TIME: Duration = Duration::from_secs(5);
/// A page is never asked to be smaller: below, round trips cost more than memory.
const PAGE_BYTES_MIN: usize = 16 * 1024;
/// Events of one page.
const PAGE_EVENTS: u64 = 1_000;
/// Pause before a shard that did not answer is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// Where a feed begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// Behind what is applied now.
    #[default]
    Now,
    /// At the oldest event that is kept, with the latest state of what changed before.
    Oldest,
    /// With everything as it is.
    Snapshot,
    /// Where an earlier feed was.
    Token(String),
    /// Where a durable consumer is, which says what is told, too.
    Consumer {
        /// Its name.
        name: String,
        /// A token that it was given: behind it instead.
        from: Option<String>,
    },
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedRequest {
    /// Only this bucket; `None`: all that the caller may query.
    pub bucket: Option<String>,
    /// Only documents that match, JSON text; empty: all. With a bucket alone.
    pub filter: Bytes,
    /// Where to begin.
    pub start: Start,
    /// All events in the order of their times, at the price of waiting for the slowest shard.
    pub by_time: bool,
}

/// An event of a feed.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedEvent {
    /// The shard; with index and ordinal of the change it names the event.
    pub shard: ShardId,
    /// What happened.
    pub change: Change,
}

impl FeedEvent {
    /// Names the event: the same whenever and wherever it is told.
    pub fn id(&self) -> String {
        let Change { index, ordinal, .. } = self.change;
        format!("{}-{index}-{ordinal}", self.shard.0)
    }
}

/// What a feed says.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// Something changed.
    Events {
        /// Of one shard in its order, or of all in that of time. Never empty.
        events: Vec<FeedEvent>,
        /// Behind them.
        token: String,
    },
    /// Nothing for this feed, but it is further.
    Progress {
        /// Behind everything that was told.
        token: String,
        /// All that was written up to this time is told, in microseconds since 1970; 0: not known yet.
        watermark_us: u64,
    },
    /// What the client has must be forgotten: from here on everything is told as it is.
    Resync {
        /// For people.
        reason: &'static str,
        /// In front of everything.
        token: String,
    },
    /// Everything was told as it was; what follows are changes.
    Live {
        /// Behind it.
        token: String,
    },
}

/// A feed. Dropping it ends it.
pub struct Feed {
    core: Arc<Core>,
    ctx: Context,
    request: FeedRequest,
    session: Session,
    session_seen: Instant,
    reader: Reader,
    /// The consumer that it is for, with the events that it was told.
    consumer: Option<ConsumerMark>,
    parts: Vec<Part>,
    asked: FuturesUnordered<BoxFuture<'static, (usize, Heard)>>,
    nudges: FuturesUnordered<BoxFuture<'static, ()>>,
    ready: VecDeque<Frame>,
    beat_at: Instant,
    in_snapshot: bool,
    is_over: bool,
    _open: Open,
}

/// One shard of a feed.
struct Part {
    shard: ShardId,
    /// Up to here pages were taken.
    read: Cursor,
    /// Up to here the client was told.
    told: Cursor,
    /// What lies between the two.
    held: VecDeque<Change>,
    /// Every event up to this time was taken.
    known_us: u64,
    is_asked: bool,
    /// The replica here had nothing behind this index: no page is asked for before it has.
    quiet: Option<u64>,
}

/// What comes of asking a shard.
enum Heard {
    Page(Result<Got>),
    /// A shard that was quiet has something new.
    More,
}

/// A place among the open feeds.
struct Open {
    _permit: OwnedSemaphorePermit,
}

impl Drop for Open {
    fn drop(&mut self) {
        gauge!(FEEDS_OPEN).decrement(1);
    }
}

impl Feed {
    /// See [`crate::Service::feed`].
    pub(crate) async fn open(
        core: Arc<Core>,
        ctx: &Context,
        reader: Reader,
        mut request: FeedRequest,
    ) -> Result<Feed> {
        let permit = Arc::clone(&core.feeds).try_acquire_owned().map_err(|_| {
            let message = "too many feeds are open at this node";
            Error::new(ErrorCode::TooManyRequests, message)
                .with_retry_after(crate::limits::RETRY_AFTER)
        })?;
        gauge!(FEEDS_OPEN).increment(1);
        let open = Open { _permit: permit };
        let following = Following::of(&core, ctx, reader, &mut request).await?;
        let bucket = request.bucket.as_deref();
        let session = reader.session(&core, ctx, bucket.as_slice()).await?;
        check(&core, ctx, &session, &request)?;
        let shards = session.state.shards;
        let (resumed, consumer) = match following {
            Some(following) => (following.begins, Some(following.mark)),
            None => (begins(&core, ctx, &session, &request).await?, None),
        };
        let (cursors, resync) = match resumed {
            Resumed::At(cursors) => (cursors, false),
            Resumed::Resync => (vec![Cursor::default(); shards as usize], true),
        };
        let parts = (1..).map(ShardId).zip(cursors).map(|(shard, cursor)| Part {
            shard,
            read: cursor.clone(),
            told: cursor,
            held: VecDeque::new(),
            known_us: 0,
            is_asked: false,
            quiet: None,
        });
        let mut feed = Feed {
            core,
            ctx: ctx.clone(),
            session_seen: Instant::now(),
            parts: parts.collect(),
            asked: FuturesUnordered::new(),
            nudges: FuturesUnordered::new(),
            ready: VecDeque::new(),
            beat_at: Instant::now() + BEAT,
            in_snapshot: false,
            is_over: false,
            session,
            reader,
            consumer,
            request,
            _open: open,
        };
        feed.in_snapshot = feed.parts.iter().any(|part| part.read.is_in_snapshot());
        if resync {
            feed.resync("the token is from before the cluster's data was restored or cut anew");
        }
        Ok(feed)
    }

    /// The next frame; waits for it, but not longer than a second.
    ///
    /// Cancel-safe: nothing is lost with a dropped future.
    ///
    /// # Errors
    /// Those of opening it: the session is over, the bucket is dropped or not for the caller any more, or this node cannot tell. The feed
    /// is over then; another one goes on behind the last token.
    pub async fn next(&mut self) -> Result<Frame> {
        if self.is_over {
            return Err(Error::unavailable("the feed is over"));
        }
        let frame = self.advance().await;
        self.is_over = frame.is_err();
        if let Ok(Frame::Events { events, .. }) = &frame {
            counter!(FEED_EVENTS).increment(events.len() as u64);
        }
        frame
    }

    /// The token behind what [`Self::next`] gave last.
    pub fn token(&self) -> String {
        let cursors = self.parts.iter().map(|part| part.told.clone());
        let bucket = self.request.bucket.as_deref().unwrap_or("");
        let scope = scope(bucket, &self.request.filter);
        match find(&self.session, &self.ctx) {
            Ok(database) => {
                let state = &self.session.state;
                token::encode_for(state, database, scope, cursors.collect(), self.consumer)
            }
            // The session was begun with the database.
            Err(_) => String::new(),
        }
    }

    async fn advance(&mut self) -> Result<Frame> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                self.beat_at = Instant::now() + BEAT;
                return Ok(frame);
            }
            if self.session_seen.elapsed() >= BEAT {
                // Boxed: it is large, and a feed that waits should not be.
                Box::pin(self.look()).await?;
            }
            self.ask();
            tokio::select! {
                biased;
                Some((at, heard)) = self.asked.next() => match heard {
                    Heard::Page(page) => self.take(at, page)?,
                    Heard::More => self.wake(at),
                },
                Some(()) = self.nudges.next() => {}
                () = tokio::time::sleep_until(self.beat_at.into()) => self.beat(),
            }
        }
    }

    /// Who asks, what that means as of now, and whether what is waited for can still come.
    async fn look(&mut self) -> Result<()> {
        let ctx = Context {
            deadline: Instant::now() + LOOK_TIME,
            ..self.ctx.clone()
        };
        let bucket = self.request.bucket.as_deref();
        let reader = self.reader;
        self.session = reader.session(&self.core, &ctx, bucket.as_slice()).await?;
        self.session_seen = Instant::now();
        if let Some(mark) = self.consumer {
            mark.check(find(&self.session, &self.ctx)?, &self.session.state)?;
        }
        let shards = &self.core.shards;
        let is_deaf = |part: &Part| part.quiet.is_some() && !shards.hears(part.shard, NEAR_AGE);
        let deaf: Vec<bool> = self.parts.iter().map(is_deaf).collect();
        if deaf.contains(&true) {
            // A replica that nobody sends anything any more would never wake its reader.
            self.asked = FuturesUnordered::new();
            for (part, is_deaf) in self.parts.iter_mut().zip(deaf) {
                part.is_asked = false;
                part.quiet = part.quiet.filter(|_| !is_deaf);
            }
        }
        Ok(())
    }

    fn wake(&mut self, at: usize) {
        let part = &mut self.parts[at];
        part.is_asked = false;
        part.quiet = None;
    }

    /// Asks every shard whose page is used up for the next, or waits for it to have something.
    fn ask(&mut self) {
        let Ok(database) = find(&self.session, &self.ctx) else {
            return;
        };
        let shards = self.session.state.shards;
        for (at, part) in self.parts.iter_mut().enumerate() {
            if part.is_asked || !part.held.is_empty() {
                continue;
            }
            part.is_asked = true;
            if let Some(index) = part.quiet {
                let more = self.core.shards.more(part.shard, index);
                self.asked.push(Box::pin(async move {
                    more.await;
                    (at, Heard::More)
                }));
                continue;
            }
            let cursor = Some(part.read.clone());
            let changes = changes(&self.core, &database.name, &self.request, cursor, shards);
            let page = ask::page(Arc::clone(&self.core), &self.session, part.shard, changes);
            self.asked
                .push(Box::pin(async move { (at, Heard::Page(page.await)) }));
        }
    }

    fn take(&mut self, at: usize, got: Result<Got>) -> Result<()> {
        let Got { page, is_here } = match got {
            Ok(got) => got,
            Err(error) if error.code == ErrorCode::Unavailable => {
                // Another leader will come; the client keeps its place meanwhile.
                let pause = tokio::time::sleep(PAUSE);
                self.asked.push(Box::pin(async move {
                    pause.await;
                    (at, Heard::More)
                }));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let part = &mut self.parts[at];
        part.is_asked = false;
        let mut is_at_end = false;
        match PageEnd::try_from(page.end).unwrap_or(PageEnd::More) {
            PageEnd::Untellable => {
                self.resync("the log is gone, and not all that changed since may be told");
                return Ok(());
            }
            PageEnd::Trimmed => {
                part.read = part.read.walking(false);
                part.told = part.read.clone();
                return Ok(());
            }
            PageEnd::More => {}
            PageEnd::AtEnd => is_at_end = true,
        }
        let is_walk = part.read.walk.is_some();
        part.read = page.cursor.unwrap_or_else(|| part.read.clone());
        part.quiet = Some(part.read.index).filter(|_| is_here && is_at_end);
        part.known_us = part.known_us.max(page.known_us);
        if self.request.by_time && !is_walk {
            part.held.extend(page.events);
            if part.held.is_empty() {
                part.told = part.read.clone();
            }
            self.merge();
        } else {
            part.told = part.read.clone();
            let shard = part.shard;
            let events = page.events.into_iter();
            self.tell(events.map(|change| FeedEvent { shard, change }).collect());
        }
        let is_snapshot = self.parts.iter().any(|part| part.read.is_in_snapshot());
        if std::mem::replace(&mut self.in_snapshot, is_snapshot) && !is_snapshot {
            let token = self.token();
            self.ready.push_back(Frame::Live { token });
        }
        Ok(())
    }

    /// Tells what no shard can come before any more, in the order of time.
    fn merge(&mut self) {
        let known_us = self.known_us();
        let mut events = Vec::new();
        while (events.len() as u64) < PAGE_EVENTS {
            let firsts = self.parts.iter_mut();
            let firsts = firsts.filter_map(|part| Some((part.held.front()?.time_us, part)));
            let Some((time_us, part)) = firsts.min_by_key(|(time_us, part)| (*time_us, part.shard))
            else {
                break;
            };
            if time_us > known_us {
                break;
            }
            let Some(change) = part.held.pop_front() else {
                break;
            };
            part.told = match part.held.is_empty() {
                true => part.read.clone(),
                false => Cursor::at(storage::keys::ChangeKey {
                    index: change.index,
                    ordinal: change.ordinal,
                }),
            };
            let shard = part.shard;
            events.push(FeedEvent { shard, change });
        }
        self.tell(events);
    }

    fn tell(&mut self, events: Vec<FeedEvent>) {
        if !events.is_empty() {
            if let Some(mark) = &mut self.consumer {
                mark.events += events.len() as u64;
            }
            let token = self.token();
            self.ready.push_back(Frame::Events { events, token });
        }
    }

    /// Every event up to this time was taken.
    fn known_us(&self) -> u64 {
        let known = self.parts.iter().map(|part| part.known_us);
        known.min().unwrap_or_default()
    }

    /// Up to this time everything was told.
    fn watermark_us(&self) -> u64 {
        let held = self.parts.iter().filter_map(|part| part.held.front());
        let before = held.map(|change| change.time_us.saturating_sub(1)).min();
        self.known_us().min(before.unwrap_or(u64::MAX))
    }

    /// A second without an event.
    fn beat(&mut self) {
        if self.request.by_time {
            self.merge();
            self.nudge();
        }
        if self.ready.is_empty() {
            let (token, watermark_us) = (self.token(), self.watermark_us());
            self.ready.push_back(Frame::Progress {
                token,
                watermark_us,
            });
        }
    }

    /// Has shards that wrote nothing lately say so, as the order of time waits for them.
    fn nudge(&mut self) {
        if !self.nudges.is_empty() {
            return;
        }
        for part in self.parts.iter().filter(|part| part.held.is_empty()) {
            let nudge = ask::nudge(Arc::clone(&self.core), &self.session, part.shard);
            self.nudges.push(Box::pin(nudge));
        }
    }

    /// Begins again with everything.
    fn resync(&mut self, reason: &'static str) {
        self.asked = FuturesUnordered::new();
        for part in &mut self.parts {
            part.read = part.read.walking(true);
            part.told = part.read.clone();
            part.held.clear();
            part.is_asked = false;
            part.quiet = None;
        }
        self.in_snapshot = true;
        self.ready.clear();
        let token = self.token();
        self.ready.push_back(Frame::Resync { reason, token });
    }
}

fn find<'s>(session: &'s Session, ctx: &Context) -> Result<&'s Database> {
    let database = session.state.database(&ctx.database);
    database.ok_or_else(|| Error::database_not_found(&ctx.database))
}

/// What a shard is asked.
fn changes(
    core: &Core,
    database: &str,
    request: &FeedRequest,
    cursor: Option<Cursor>,
    shards: u32,
) -> Changes {
    let held_bytes = core.options.limits.feed_bytes_max;
    Changes {
        database: database.to_owned(),
        bucket: request.bucket.clone().unwrap_or_default(),
        filter: request.filter.clone(),
        cursor,
        events_max: PAGE_EVENTS,
        bytes_max: (held_bytes / shards.max(1) as usize).max(PAGE_BYTES_MIN) as u64,
        wait_us: u64::try_from(WAIT.as_micros()).unwrap_or(u64::MAX),
    }
}
