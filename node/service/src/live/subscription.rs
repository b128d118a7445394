//! One subscription: what its reader is told, out of its queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use document::acl::Principal;
use document::query::{Filter, Sort};
use document::schema::Operation as Right;
use metrics::counter;
use proto::ErrorCode;

use super::event::{Event, Side, subject};
use super::queue::{Delivery, Next, Queue};
use super::registry::Watcher;
use super::tails::{Open, Registration};
use super::window::{Item, Move, Section, Step, Window};
use super::{LiveFrame, LiveMatch, LiveRequest, MatchType};
use crate::Core;
use crate::auth::policy::check_class;
use crate::context::{Context, Document};
use crate::documents::Session;
use crate::error::{Error, Result};
use crate::forward::{self, Hit};
use crate::metrics::LIVE_RENEWALS;
use crate::query::SnapshotRequest;

/// Between two looks at the reader's session.
const BEAT: Duration = Duration::from_secs(1);
/// Time for a look, and for a result that is asked for anew.
const LOOK_TIME: Duration = Duration::from_secs(5);

/// A real-time query. Dropping it ends it.
pub struct LiveQuery {
    core: Arc<Core>,
    ctx: Context,
    request: LiveRequest,
    session: Session,
    session_seen: Instant,
    asked: Asked,
    queue: Arc<Queue>,
    registration: Registration,
    state: State,
    ready: VecDeque<LiveFrame>,
    /// What is known of the result does not hold any more.
    is_stale: bool,
    is_over: bool,
    _open: Open,
}

/// What the texts of the request mean, for this reader.
struct Asked {
    database: u32,
    bucket: u32,
    filter: Filter,
    order: Sort,
    reader: Principal,
    /// Another one may read the texts, and the class's rights, otherwise.
    schema_version: u64,
}

/// What is known of the result.
enum State {
    /// Nothing: each change is judged by its own two sides.
    Unknown,
    /// What it is.
    Known {
        window: Window,
        /// Changes of each shard up to here are in it.
        indexes: Vec<u64>,
    },
}

impl LiveQuery {
    /// See [`crate::Service::subscribe`].
    pub(crate) async fn open(
        core: Arc<Core>,
        ctx: &Context,
        request: LiveRequest,
    ) -> Result<LiveQuery> {
        request.check(core.options.limits.live_window_max)?;
        let open = core.live.open()?;
        let session = Box::pin(core.begin(ctx, &[&request.bucket])).await?;
        let asked = Asked::new(&core, ctx, &session, &request)?;
        let queue = Queue::new(core.options.limits.live_changes_max);
        // Before the result is read, so that what is written from then on is not missed.
        let registration = core.live.register(asked.watcher(&queue))?;
        core.live.ready(session.state.shards, ctx.deadline).await?;
        let mut live = LiveQuery {
            core,
            ctx: ctx.clone(),
            request,
            session,
            session_seen: Instant::now(),
            asked,
            queue,
            registration,
            state: State::Unknown,
            ready: VecDeque::new(),
            is_stale: false,
            is_over: false,
            _open: open,
        };
        if live.request.initial || live.request.has_window() {
            live.begin(ctx.deadline).await?;
        }
        Ok(live)
    }

    /// The next frame; waits for it.
    ///
    /// Cancel-safe: nothing is lost with a dropped future but the time that it took.
    ///
    /// # Errors
    /// Those of opening it: the session is over, the class is dropped or not for the reader any more, this node cannot tell.
    /// `QueryNotSupported`: the result has become too large. `TooManyRequests`: changes were missed because the reader is slow, and there
    /// is no result to begin with again. It is over then.
    pub async fn next(&mut self) -> Result<LiveFrame> {
        if self.is_over {
            return Err(Error::unavailable("the real-time query is over"));
        }
        let frame = self.advance().await;
        self.is_over = frame.is_err();
        frame
    }

    async fn advance(&mut self) -> Result<LiveFrame> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Ok(frame);
            }
            if self.session_seen.elapsed() >= BEAT {
                self.look().await?;
                continue;
            }
            if self.is_stale
                || matches!(&self.state, State::Known { window, .. } if window.is_short())
            {
                self.renew().await?;
                continue;
            }
            let look_at = self.session_seen + BEAT;
            tokio::select! {
                biased;
                next = self.queue.next() => match next {
                    Next::Change(delivery) => self.take(&delivery)?,
                    Next::Missed => self.catch_up()?,
                },
                () = tokio::time::sleep_until(look_at.into()) => {}
            }
        }
    }

    /// Who reads, and what that means, as of now.
    async fn look(&mut self) -> Result<()> {
        let ctx = self.context();
        let session = Box::pin(self.core.begin(&ctx, &[&self.request.bucket])).await?;
        let is_same = self.asked.is_current(&ctx, &session);
        self.session = session;
        self.session_seen = Instant::now();
        if !is_same {
            let asked = Asked::new(&self.core, &ctx, &self.session, &self.request)?;
            self.registration.replace(asked.watcher(&self.queue))?;
            self.asked = asked;
            self.is_stale = true;
        }
        Ok(())
    }

    /// Changes were missed.
    fn catch_up(&mut self) -> Result<()> {
        if matches!(self.state, State::Unknown) {
            let message = "changes were missed: they came faster than they were read";
            return Err(Error::new(ErrorCode::TooManyRequests, message));
        }
        self.queue.restart();
        self.is_stale = true;
        Ok(())
    }

    /// Reads the result and tells it.
    async fn begin(&mut self, deadline: Instant) -> Result<()> {
        let (held, is_complete, indexes) = self.result(deadline).await?;
        let section = self.request.section();
        let window = Window::new(section, held, is_complete);
        if self.request.initial {
            let shown = window.shown().iter();
            let bucket = &self.request.bucket;
            let documents = shown.map(|item| Document {
                bucket: bucket.clone(),
                key: item.key.to_string(),
                version: item.version,
                body: item.body.clone(),
                served: None,
                keep: None,
            });
            self.ready.push_back(LiveFrame::Result {
                documents: documents.collect(),
                time_us: self.core.clock.wall_us(),
            });
        }
        let window = match section.is_whole() {
            true => window.without_bodies(),
            false => window,
        };
        self.state = State::Known { window, indexes };
        Ok(())
    }

    /// Reads the result again and tells what is different.
    async fn renew(&mut self) -> Result<()> {
        if matches!(self.state, State::Unknown) {
            self.is_stale = false;
            return Ok(());
        }
        counter!(LIVE_RENEWALS).increment(1);
        let deadline = Instant::now() + LOOK_TIME;
        let shards = self.session.state.shards;
        self.core.live.ready(shards, deadline).await?;
        let read = self.result(deadline).await?;
        self.is_stale = false;
        let State::Known { window, indexes } = &mut self.state else {
            return Ok(());
        };
        let held: Vec<Item>;
        let is_complete: bool;
        (held, is_complete, *indexes) = read;
        let steps = window.replace(held, is_complete);
        if self.request.section().is_whole() {
            window.forget_bodies();
        }
        let time_us = self.core.clock.wall_us();
        self.tell(steps, time_us);
        Ok(())
    }

    async fn result(&self, deadline: Instant) -> Result<(Vec<Item>, bool, Vec<u64>)> {
        let section = self.request.section();
        let results_max = self.core.options.limits.query_results_max;
        let (documents_max, documents_min) = match section.is_whole() {
            true => (results_max, usize::MAX),
            false => (section.held_max().min(results_max), section.end()),
        };
        let (database, _) = self.session.find(&self.ctx, &self.request.bucket)?;
        let request = SnapshotRequest {
            database: &database.name,
            bucket: &self.request.bucket,
            filter: &self.request.filter,
            sort: &self.request.sort,
            documents_max,
            documents_min,
        };
        let snapshot = self.core.snapshot(&self.session, request, deadline).await?;
        let held = snapshot.hits.into_iter().map(item).collect();
        Ok((held, snapshot.is_complete, snapshot.indexes))
    }

    fn take(&mut self, delivery: &Delivery) -> Result<()> {
        let event = &*delivery.event;
        let bucket = &self.request.bucket;
        match &mut self.state {
            State::Unknown => {
                let was = matches!(delivery.was, Side::Match | Side::Unknown);
                let match_type = match (was, delivery.is == Side::Match) {
                    (false, _) => MatchType::Add,
                    (true, true) => MatchType::Change,
                    (true, false) => MatchType::Remove,
                };
                let found = LiveMatch {
                    match_type,
                    operation: event.operation,
                    time_us: event.time_us,
                    bucket: bucket.clone(),
                    key: event.key.clone(),
                    body: delivery.body(),
                    index: None,
                };
                self.offer(found);
            }
            State::Known { window, indexes } => {
                let at = (event.shard.0 as usize).saturating_sub(1);
                if indexes.get(at).is_some_and(|seen| event.index <= *seen) {
                    return Ok(());
                }
                let is_whole = self.request.section().is_whole();
                let now =
                    (delivery.is == Side::Match).then(|| place(event, &self.asked.order, is_whole));
                let mut steps = window.apply(&event.key, now.flatten(), event.operation);
                let len = window.len();
                for step in steps.iter_mut().filter(|step| *step.key == *event.key) {
                    step.body = delivery.body();
                }
                self.tell(steps, event.time_us);
                let results_max = self.core.options.limits.query_results_max;
                if len > results_max {
                    let message = format!(
                        "the result has grown beyond {results_max} documents: ask for fewer with a limit"
                    );
                    return Err(Error::new(ErrorCode::QueryNotSupported, message));
                }
            }
        }
        Ok(())
    }

    fn tell(&mut self, steps: Vec<Step>, time_us: u64) {
        for step in steps {
            let (match_type, index) = match step.step {
                Move::Out => (MatchType::Remove, -1),
                Move::In(at) => (MatchType::Add, signed(at)),
                Move::Stay(at) => (MatchType::Change, signed(at)),
                Move::To(at) => (MatchType::ChangeIndex, signed(at)),
            };
            self.offer(LiveMatch {
                match_type,
                operation: step.operation,
                time_us,
                bucket: self.request.bucket.clone(),
                key: step.key.to_string(),
                body: step.body,
                index: Some(index).filter(|_| self.request.is_ordered()),
            });
        }
    }

    /// Tells it if it is wanted.
    fn offer(&mut self, mut found: LiveMatch) {
        let wanted = &self.request.match_types;
        let is_wanted = |match_type| wanted.contains(&match_type);
        if !wanted.is_empty() && !is_wanted(found.match_type) {
            if found.match_type == MatchType::Remove || !is_wanted(MatchType::Match) {
                return;
            }
            found.match_type = MatchType::Match;
        }
        let operations = &self.request.operations;
        if operations.is_empty() || operations.contains(&found.operation) {
            self.ready.push_back(LiveFrame::Match(found));
        }
    }

    fn context(&self) -> Context {
        Context {
            deadline: Instant::now() + LOOK_TIME,
            ..self.ctx.clone()
        }
    }
}

impl Asked {
    /// # Errors
    /// `PermissionDenied`, and those of the texts.
    fn new(core: &Core, ctx: &Context, session: &Session, request: &LiveRequest) -> Result<Asked> {
        let (database, bucket) = session.find(ctx, &request.bucket)?;
        check_class(database, &bucket.name, Right::Query, &session.principal)?;
        let (filter, order) = core.shards.parse_query(&forward::Query {
            database: database.name.clone(),
            bucket: request.bucket.clone(),
            filter: request.filter.clone(),
            sort: request.sort.clone(),
            ..forward::Query::default()
        })?;
        Ok(Asked {
            database: database.id,
            bucket: bucket.id,
            filter,
            order,
            reader: session.principal.clone(),
            schema_version: database.schema_version,
        })
    }

    /// Whether the same would come of it now.
    fn is_current(&self, ctx: &Context, session: &Session) -> bool {
        let database = session.state.database(&ctx.database);
        let schema_version = database.map(|database| database.schema_version);
        schema_version == Some(self.schema_version) && session.principal == self.reader
    }

    fn watcher(&self, queue: &Arc<Queue>) -> Watcher {
        Watcher {
            database: self.database,
            bucket: self.bucket,
            filter: self.filter.clone(),
            reader: self.reader.clone(),
            queue: Arc::clone(queue),
        }
    }
}

impl LiveRequest {
    /// # Errors
    /// `BadRequest`, `QueryNotSupported`.
    fn check(&self, window_max: usize) -> Result<()> {
        if !self.match_types.is_empty() && !self.operations.is_empty() {
            return Err(Error::bad_request(
                "either matchTypes or operations can be chosen, not both",
            ));
        }
        if self.limit == Some(0) {
            return Err(Error::bad_request("limit must be at least 1"));
        }
        let end = self.offset.saturating_add(self.limit.unwrap_or(0));
        if end > window_max {
            let message = format!("offset and limit together are at most {window_max}, not {end}");
            return Err(Error::new(ErrorCode::QueryNotSupported, message));
        }
        Ok(())
    }

    fn section(&self) -> Section {
        Section {
            offset: self.offset,
            limit: self.limit,
        }
    }

    /// Whether the order is a part of the result.
    fn is_ordered(&self) -> bool {
        !matches!(self.sort.trim_ascii(), [] | b"{}")
    }

    /// Whether changes depend on more than the document that changes.
    fn has_window(&self) -> bool {
        self.is_ordered() || !self.section().is_whole()
    }
}

impl Delivery {
    /// The document as the reader may see it now; empty: there is none.
    fn body(&self) -> Bytes {
        match (self.is, &self.event.after) {
            (Side::Match | Side::Other, Some(image)) => image.body.clone(),
            _ => Bytes::new(),
        }
    }
}

/// Where a document that matches stands; `None`: it is not in the stored form.
fn place(event: &Event, order: &Sort, is_whole: bool) -> Option<Item> {
    let image = event.after.as_ref()?;
    let place = match order.is_empty() {
        true => Bytes::copy_from_slice(event.key.as_bytes()),
        false => {
            Bytes::copy_from_slice(order.key(&subject(&image.body, image.version)?).as_bytes())
        }
    };
    Some(Item {
        place,
        key: event.key.as_str().into(),
        version: image.version,
        body: match is_whole {
            true => Bytes::new(),
            // The image may be a part of a page that would be held with it.
            false => Bytes::copy_from_slice(&image.body),
        },
    })
}

fn item(hit: Hit) -> Item {
    Item {
        place: Bytes::copy_from_slice(hit.place()),
        key: hit.key.into(),
        version: hit.version,
        body: hit.body,
    }
}

fn signed(at: usize) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}
