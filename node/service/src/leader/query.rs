//! A query's part in one shard: a plan, and carrying it out with filter, rights, order and limits evaluated where the documents lie.
//!
//! Nothing is copied of a document before it is known to be part of the answer.
//!
//! Two kinds of walk, whatever the plan:
//! - In the order of keys, which is that of the store, results and counts are taken as they come. Such a walk pauses when it has enough
//!   or has run for [`SLICE`], and goes on behind the last key when it is asked again.
//! - In any other order the first few are kept in [`top::Top`]. They are known at the end of the walk, or as soon as an index that has the
//!   order has nothing more to offer; the next page walks again.
//!
//! | part | owns |
//! |---|---|
//! | `planned` | which plan, with which indexes |
//! | `known` | what is remembered of buckets between queries |
//! | `many` | one query of several shards |
//! | `by_index` | documents that keys and indexes name |
//! | `by_reader` | those that the caller may read |
//! | `explain` | what a shard says about its plan, and counting plans |
//! | `readable` `top` | the object ACL as a predicate; the first few of an order |
//!
//! Invariants:
//! - A page is a gapless part of the shard's results, or an error.
//! - The result does not depend on the plan.

mod by_index;
mod by_reader;
mod explain;
mod known;
mod many;
mod planned;
mod readable;
mod top;

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use document::body::envelope;
use document::index::{Access, IndexAccess};
use document::query::{Filter, Limits, Sort, SortKey, Subject};
use document::schema::Operation;
use proto::{ErrorCode, ShardId};
use storage::machine::{Replica, ReplicaView};
use storage::tables::documents::{self, Row};

pub(super) use self::by_reader::cheaper_references;
pub(super) use self::explain::PlanMeter;
pub(super) use self::known::Known;
use self::known::Place;
use self::planned::Planned;
use self::readable::Readable;
use self::top::Top;
use super::near::{index, see};
use super::readers::Readers;
use super::{Shards, find_bucket, find_database};
use crate::auth::grant::Grant;
use crate::error::{Error, Result};
use crate::forward::{Answer, Failure, Found, Hit, Query, Request};

/// Rows between two looks at the clock and at whether anybody still waits.
const CHECK_ROWS: u64 = 128;
/// A walk that can go on where it stopped stops after this long: well within one try of a request.
const SLICE: Duration = Duration::from_millis(500);

impl Shards {
    /// A query behind a read barrier.
    pub(super) async fn query_behind_barrier(
        &self,
        request: &Request,
        query: &Query,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let replica = self.replica(request.shard)?;
        let mut answer = self.query(request, query, true, deadline).await?;
        see(&mut answer, &replica, Some(0));
        Ok(answer)
    }

    /// A query behind a barrier, or of the replica as it is.
    pub(super) async fn query(
        &self,
        request: &Request,
        query: &Query,
        barrier: bool,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let asked = self.ask(request, query, deadline)?;
        let replica = self.replica(request.shard)?;
        if barrier {
            self.barrier(request.shard, deadline).await?;
        }
        let walk = asked.walk(request.shard, &replica, query);
        let run = move || walk.run(&replica);
        let walked = self.walks.run(deadline, run).await?;
        Ok(Answer::Found(self.walked(walked)))
    }

    /// What a query asks of each shard here, read once.
    fn ask(&self, request: &Request, query: &Query, deadline: Instant) -> Result<Asked, Failure> {
        let (filter, order) = self.parse_query(query)?;
        let state = self.metadata.current();
        let database = find_database(&state, &query.database)?;
        let caller = &request.principal;
        let grant = Grant::of_caller(database, &query.bucket, Operation::Query, caller)?;
        Ok(Asked {
            known: Arc::clone(&self.known),
            database: grant.database(),
            bucket: grant.bucket(),
            filter,
            order,
            grant: grant.into_owned(),
            readers: Arc::clone(&self.readers),
            cap: self.limits.query_rows_max,
            is_unlimited: query.allow_scan && caller.is_admin(),
            deadline,
            abandon: Abandon(Arc::default()),
        })
    }

    /// What a walk found, counted and signed.
    fn walked(&self, (kind, mut found): Walked) -> Found {
        self.plans.count(kind, found.examined);
        if let Some(explanation) = &mut found.explanation {
            explanation.node = self.node.0;
        }
        found
    }

    /// The filter, and the order of its results; an empty order is that of keys.
    ///
    /// # Errors
    /// Those of the texts.
    pub(crate) fn parse_query(&self, query: &Query) -> Result<(Filter, Sort)> {
        let state = self.metadata.current();
        let database = find_database(&state, &query.database)?;
        let bucket = find_bucket(database, &query.bucket)?;
        let layout = self.layouts.get(database, bucket)?;
        let limits = Limits::default();
        let filter = Filter::parse(&query.filter, &layout, &limits)?;
        let sort = Sort::parse(&query.sort, &layout, &limits)?;
        let order = filter.order(sort);
        Ok((filter, order))
    }
}

/// What a query asks of all shards here. Its walks end soon after it is dropped.
struct Asked {
    known: Arc<Known>,
    database: u32,
    bucket: u32,
    filter: Filter,
    order: Sort,
    grant: Grant<'static>,
    readers: Arc<Readers>,
    /// Documents that may be looked at in each shard, over all pages.
    cap: usize,
    is_unlimited: bool,
    deadline: Instant,
    abandon: Abandon,
}

impl Asked {
    /// The walk through one shard, as far as its replica is now.
    fn walk(&self, shard: ShardId, replica: &Replica, query: &Query) -> Walk {
        Walk {
            shard,
            known: Arc::clone(&self.known),
            database: self.database,
            bucket: self.bucket,
            filter: self.filter.clone(),
            order: self.order.clone(),
            after: query.after.clone(),
            applied: index(replica),
            wanted_readers: Arc::clone(&self.readers),
            count_only: query.count_only,
            documents_max: usize::try_from(query.documents_max).unwrap_or(usize::MAX),
            share: usize::try_from(query.share).unwrap_or(usize::MAX),
            bytes_max: usize::try_from(query.bytes_max).unwrap_or(usize::MAX),
            rows_max: if self.is_unlimited {
                u64::MAX
            } else {
                (self.cap as u64).saturating_sub(query.examined)
            },
            readable: Readable::new(self.grant.clone()),
            cap: self.cap,
            deadline: self.deadline,
            abandoned: Arc::clone(&self.abandon.0),
            is_unlimited: self.is_unlimited,
            explain: query.explain,
            tell_index: query.tell_index,
            kind: "",
            rows: 0,
            entries: 0,
            found: Found::default(),
            bytes: 0,
        }
    }
}

/// Tells a walk that its caller is gone, when dropped.
struct Abandon(Arc<AtomicBool>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The kind of a plan, and what was found.
type Walked = (&'static str, Found);

/// One walk over a bucket.
struct Walk {
    shard: ShardId,
    known: Arc<Known>,
    database: u32,
    bucket: u32,
    filter: Filter,
    order: Sort,
    after: Option<Bytes>,
    /// How far the replica is.
    applied: u64,
    /// Told where entries of readers would have helped.
    wanted_readers: Arc<Readers>,
    count_only: bool,
    documents_max: usize,
    /// Enough documents where an index gives their order; 0: all of `documents_max`.
    share: usize,
    bytes_max: usize,
    /// Documents that this walk may still look at.
    rows_max: u64,
    /// The same over all pages, as it is configured.
    cap: usize,
    readable: Readable,
    deadline: Instant,
    abandoned: Arc<AtomicBool>,
    is_unlimited: bool,
    explain: bool,
    tell_index: bool,
    /// Of the plan.
    kind: &'static str,
    /// Entries of indexes that were looked at.
    entries: u64,
    /// Rows and tombstones passed so far.
    rows: u64,
    found: Found,
    bytes: usize,
}

impl Walk {
    fn run(self, replica: &Replica) -> Result<Walked> {
        let began = Instant::now();
        let view = replica.view();
        let planned = self.plan(&view)?;
        self.carry_out(&view, &planned, began)
    }

    fn plan(&self, view: &ReplicaView<'_>) -> Result<Planned> {
        let wanted = match self.count_only {
            true => Some(0),
            false => Some(self.documents_max as u64).filter(|_| self.documents_max < usize::MAX),
        };
        Planned::choose(
            view,
            &self.known,
            self.place(),
            (&self.filter, &self.order),
            wanted,
            Some(self.rows_max).filter(|_| !self.is_unlimited),
        )
    }

    fn place(&self) -> Place {
        Place {
            shard: self.shard,
            database: self.database,
            bucket: self.bucket,
            applied: self.applied,
        }
    }

    fn carry_out(
        mut self,
        view: &ReplicaView<'_>,
        planned: &Planned,
        began: Instant,
    ) -> Result<Walked> {
        let by_reader = self.readers_instead(view, planned)?;
        self.kind = match by_reader {
            Some(_) => by_reader::KIND,
            None => explain::kind(&planned.plan.access),
        };
        if self.count_only || self.order.is_empty() {
            self.run_in_key_order(view, planned, by_reader.is_some())?;
        } else {
            self.run_in_order(view, planned, by_reader.is_some())?;
        }
        self.want_readers(view)?;
        if self.tell_index {
            self.found.index = view.applied()?.id.map_or(0, |id| id.index);
        }
        if self.explain {
            let mut explanation = explain::describe(planned)?;
            if let Some(entries) = by_reader {
                Walk::describe_readers(&mut explanation, entries);
            }
            explanation.entries = self.entries;
            explanation.documents = self.found.examined - self.entries;
            explanation.returned = self.found.hits.len() as u64 + self.found.count;
            explanation.micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            explanation.has_more = self.found.rest.is_some();
            self.found.explanation = Some(explanation);
            self.found.hits.clear();
        }
        Ok((self.kind, self.found))
    }

    fn run_in_key_order(
        &mut self,
        view: &ReplicaView<'_>,
        planned: &Planned,
        by_reader: bool,
    ) -> Result<()> {
        let (database, bucket) = (self.database, self.bucket);
        let after = self.after.take();
        let after = match after.as_deref().map(std::str::from_utf8) {
            None => None,
            Some(Ok(key)) => Some(key),
            Some(Err(_)) => return Err(Error::bad_request("malformed continuation")),
        };
        match &planned.plan.access {
            _ if by_reader => self.take_by_reader(view, after),
            Access::Scan => {
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                let slice_end = Instant::now() + SLICE;
                self.visit(view, database, bucket, from, |walk, row| {
                    walk.take_in_key_order(row, slice_end)
                })
            }
            Access::Keys(keys) => {
                let keys = keys.iter().map(String::as_str);
                let wanted = keys.filter(|key| after.is_none_or(|after| *key > after));
                self.take_keys(view, wanted.map(|key| (key, false)))
            }
            Access::Index(access) => {
                self.take_by_index(view, planned, std::slice::from_ref(access), after)
            }
            Access::Union(accesses) => self.take_by_index(view, planned, accesses, after),
        }
    }

    fn run_in_order(
        &mut self,
        view: &ReplicaView<'_>,
        planned: &Planned,
        by_reader: bool,
    ) -> Result<()> {
        let (database, bucket) = (self.database, self.bucket);
        let is_ordered = |access: &IndexAccess| access.order.is_some_and(|order| order.is_whole);
        let documents_max = match &planned.plan.access {
            _ if by_reader => self.documents_max,
            // The next page goes on where this one ends.
            Access::Index(access) if is_ordered(access) && self.share > 0 => {
                self.share.min(self.documents_max)
            }
            Access::Index(_) | Access::Scan | Access::Keys(_) | Access::Union(_) => {
                self.documents_max
            }
        };
        let mut top = Top::new(documents_max, self.bytes_max);
        let after = self.after.take();
        let after = after.as_deref().map(SortKey::from_bytes);
        let after = after.as_ref();
        match &planned.plan.access {
            _ if by_reader => self.offer_by_reader(view, after, &mut top)?,
            Access::Scan => self.visit(view, database, bucket, Bound::Unbounded, |walk, row| {
                walk.offer(row, after, &mut top)
            })?,
            Access::Keys(keys) => {
                for key in keys {
                    self.fetch(view, key, |walk, row| walk.offer(row, after, &mut top))?;
                }
            }
            Access::Index(access) => {
                let accesses = std::slice::from_ref(access);
                self.offer_by_index(view, planned, accesses, after, &mut top)?;
            }
            Access::Union(accesses) => {
                self.offer_by_index(view, planned, accesses, after, &mut top)?;
            }
        }
        let (hits, is_cut) = top.into_sorted();
        self.found.rest = hits.last().filter(|_| is_cut).map(|hit| hit.sort.clone());
        self.found.hits = hits;
        Ok(())
    }

    /// Shows the documents to `each`, within the limits of time and rows.
    fn visit(
        &mut self,
        view: &ReplicaView<'_>,
        database: u32,
        bucket: u32,
        from: Bound<&str>,
        mut each: impl FnMut(&mut Walk, Row<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut refusal = None;
        documents::visit(view, database, bucket, from, &mut |row| {
            let next = self.pass().and_then(|()| match row {
                Some(row) => {
                    self.count_row()?;
                    each(self, row)
                }
                None => Ok(ControlFlow::Continue(())),
            });
            Ok(next.unwrap_or_else(|error| {
                refusal = Some(error);
                ControlFlow::Break(())
            }))
        })?;
        refusal.map_or(Ok(()), Err)
    }

    /// Before each row.
    fn pass(&mut self) -> Result<()> {
        self.rows += 1;
        if !self.rows.is_multiple_of(CHECK_ROWS) {
            return Ok(());
        }
        if self.abandoned.load(Ordering::Relaxed) {
            return Err(Error::unavailable("nobody waits for this query any more"));
        }
        if Instant::now() >= self.deadline {
            return Err(Error::unavailable(
                "a shard could not walk through the bucket in time: narrow the query, or ask for it in the order of keys, page by page",
            ));
        }
        Ok(())
    }

    fn count_entry(&mut self) -> Result<()> {
        self.entries += 1;
        self.count_row()
    }

    /// Before each document and entry.
    fn count_row(&mut self) -> Result<()> {
        self.found.examined += 1;
        if self.found.examined <= self.rows_max {
            return Ok(());
        }
        let message = format!(
            "the query looks at more than {} documents in one shard: it needs an index, or fewer results; admins may ask for it as it is with allowScan=true",
            self.cap
        );
        Err(Error::new(ErrorCode::QueryNotSupported, message))
    }

    fn take_in_key_order(&mut self, row: Row<'_>, slice_end: Instant) -> Result<ControlFlow<()>> {
        if self.matches(&row)?.is_some() {
            if self.count_only {
                self.found.count += 1;
            } else {
                let hit = hit(&row, Bytes::new());
                self.bytes += hit.bytes();
                self.found.hits.push(hit);
            }
        }
        let is_full = !self.count_only
            && (self.found.hits.len() >= self.documents_max || self.bytes >= self.bytes_max);
        let is_late = self.rows.is_multiple_of(CHECK_ROWS) && Instant::now() >= slice_end;
        if is_full || is_late {
            self.found.rest = Some(Bytes::copy_from_slice(row.key.as_bytes()));
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    }

    fn offer(
        &mut self,
        row: Row<'_>,
        after: Option<&SortKey>,
        top: &mut Top,
    ) -> Result<ControlFlow<()>> {
        if let Some(subject) = self.matches(&row)? {
            let key = self.order.key(&subject);
            if after.is_none_or(|after| key > *after) && top.wants(key.as_bytes()) {
                top.insert(hit(&row, Bytes::copy_from_slice(key.as_bytes())));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The document as the filter sees it, if it belongs to the result.
    fn matches<'a>(&mut self, row: &Row<'a>) -> Result<Option<Subject<'a>>> {
        if !self.readable.may_read(row)? {
            return Ok(None);
        }
        let Some(parts) = envelope(row.body) else {
            let cause = format!("document {:?} is not stored in normal form", row.key);
            return Err(Error::internal(&cause).with_effect(proto::Effect::None));
        };
        let subject = Subject {
            id: parts.id,
            version: row.version,
            created_us: to_signed(row.created_us),
            updated_us: to_signed(row.updated_us),
            fields: parts.fields,
        };
        Ok(self.filter.matches(&subject).then_some(subject))
    }
}

fn hit(row: &Row<'_>, sort: Bytes) -> Hit {
    Hit {
        key: row.key.to_owned(),
        version: row.version,
        body: Bytes::copy_from_slice(row.body),
        sort,
    }
}

fn to_signed(us: u64) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}
