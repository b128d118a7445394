//! Queries over all shards of a bucket: scattered to the shards' leaders, gathered in one order.
//!
//! Each shard filters, judges rights, sorts and cuts where its documents lie (`leader::query`); the asked node merges their pages. Results
//! come in the order that was asked for, ties by id; without one in the order of keys; with `$nearSphere` from near to far. So a result
//! does not depend on the node that was asked, and a page token is nothing but the place of the last document.
//!
//! | part | owns |
//! |---|---|
//! | `scatter` | pages of all shards and their merge |
//! | `reads` | pages of several shards at a time, one request to each node |
//! | `token` | page tokens |
//! | `snapshot` | the beginning of a result, for what goes on from it |
//! | `explain` | how each shard finds its part, for people |
//!
//! Invariants:
//! - A shard that cannot answer fails the query. A result never lacks a part of the bucket without saying so.
//! - Memory: pages of all shards together within [`scatter::HELD_BYTES`], give or take a document a shard, and the result within its limit.
//! - Nothing runs on once the caller is gone, also at other nodes: they are told.
//!
//! Each shard has a plan of its own (`leader::query`); results, their order and tokens do not depend on it.
//!
//! Lacks: one view over all shards.

mod explain;
mod reads;
mod scatter;
mod snapshot;
mod token;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use metrics::histogram;
use proto::{ErrorCode, ShardId};

pub use self::explain::ShardExplanation;
pub(crate) use self::explain::explain;
use self::reads::Reads;
use self::scatter::Scatter;
pub(crate) use self::snapshot::SnapshotRequest;
use self::token::Token;
use crate::Core;
use crate::auth::policy;
use crate::context::{Context, Document, Freshness, Served};
use crate::documents::{Session, unexpected};
use crate::error::{Error, Result};
use crate::forward;
use crate::metrics::QUERY_SLOWEST_SHARD;

/// The filter that every document matches.
const ALL: &[u8] = b"{}";

/// What is asked of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryRequest {
    /// The filter as JSON text; empty: everything.
    pub filter: Bytes,
    /// The order as JSON text, first member first; empty: the order of keys, or that of the filter.
    pub sort: Bytes,
    /// Documents to pass over first.
    pub start: u64,
    /// The most documents to return; `None`: all.
    pub count: Option<u64>,
    /// Go on behind the page that gave this token; `start` counts from there.
    pub continuation: Option<Bytes>,
    /// Look at any number of documents. For admins.
    pub allow_scan: bool,
    /// How fresh each shard's part must be.
    pub freshness: Freshness,
}

/// A part of a result, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryPage {
    /// The documents.
    pub documents: Vec<Document>,
    /// The token of the page behind this one, which may turn out to be empty; `None`: nothing comes behind it.
    pub continuation: Option<Bytes>,
    /// How each shard was read, in the order of their numbers.
    pub served: Vec<Served>,
}

/// How many documents match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// So many.
    pub count: u64,
    /// How each shard was read, in the order of their numbers.
    pub served: Vec<Served>,
}

/// A query that is read page by page. Dropping it ends it.
pub struct Query {
    core: Arc<Core>,
    bucket: String,
    session: Session,
    freshness: Freshness,
    scatter: Scatter,
    /// Documents that the client still wants; `None`: all.
    left: Option<u64>,
    /// Documents still to be passed over.
    skip: u64,
    fingerprint: u64,
    /// Where the last document stood that was returned or passed over.
    last: Option<Bytes>,
    ended: bool,
}

impl Query {
    /// See [`crate::Service::open_query`].
    pub(crate) async fn open(
        core: Arc<Core>,
        ctx: &Context,
        bucket: &str,
        request: QueryRequest,
    ) -> Result<Query> {
        let (session, template) = prepare(&core, ctx, bucket, &request).await?;
        let (scatter, fingerprint) = scatter(&core, &session, template, request.continuation)?;
        Ok(Query {
            core,
            bucket: bucket.to_owned(),
            session,
            freshness: request.freshness,
            scatter,
            left: request.count,
            skip: request.start,
            fingerprint,
            last: None,
            ended: false,
        })
    }

    /// The next documents, at most `documents_max` and not many more bytes than `bytes_max`; `None` after the last page.
    ///
    /// Cancel-safe in that nothing but this query is lost.
    ///
    /// # Errors
    /// Those of [`crate::Service::query`]; the query is over then.
    pub async fn next_page(
        &mut self,
        deadline: Instant,
        documents_max: usize,
        bytes_max: usize,
    ) -> Result<Option<QueryPage>> {
        if self.ended {
            return Ok(None);
        }
        self.ended = true;
        let core = Arc::clone(&self.core);
        let _permit = core.query_permit(deadline).await?;
        let page = self.gather(deadline, documents_max, bytes_max).await?;
        self.ended = page.continuation.is_none() || self.left == Some(0);
        Ok(Some(page))
    }

    async fn gather(
        &mut self,
        deadline: Instant,
        documents_max: usize,
        bytes_max: usize,
    ) -> Result<QueryPage> {
        let mut page = QueryPage::default();
        let (mut bytes, mut is_done) = (0, false);
        while !is_done {
            // At least one is asked for: a bucket that cannot be read must be refused even where no document is wanted.
            let wanted = self.left.map(|left| left.saturating_add(self.skip).max(1));
            let reads = Reads {
                core: &self.core,
                session: &self.session,
                freshness: &self.freshness,
                deadline,
            };
            self.scatter.fill(&reads, wanted).await?;
            let is_full = page.documents.len() >= documents_max || bytes >= bytes_max;
            if self.left == Some(0) || is_full {
                break;
            }
            let Some(hit) = self.scatter.pop() else {
                break;
            };
            self.last = Some(Bytes::copy_from_slice(hit.place()));
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            if let Some(left) = &mut self.left {
                *left -= 1;
                // No shard is asked only to learn whether more would follow.
                is_done = *left == 0;
            }
            bytes += hit.body.len();
            page.documents.push(Document {
                bucket: self.bucket.clone(),
                key: hit.key,
                version: hit.version,
                body: hit.body,
                served: None,
                keep: None,
            });
        }
        let place = self.last.clone().filter(|_| self.scatter.has_more());
        page.continuation = place.map(|place| Token::encode(self.fingerprint, place));
        page.served = self.scatter.served();
        let slowest = self.scatter.take_slowest();
        self.core
            .slowest_shard
            .get_or_init(|| histogram!(QUERY_SLOWEST_SHARD))
            .record(slowest);
        Ok(page)
    }
}

/// See [`crate::Service::query`].
pub(crate) async fn result(
    core: &Arc<Core>,
    ctx: &Context,
    bucket: &str,
    request: QueryRequest,
) -> Result<QueryPage> {
    let limits = &core.options.limits;
    let (results_max, bytes_max) = (limits.query_results_max, limits.query_result_bytes_max);
    let is_wanted = |found: usize| {
        found < results_max && request.count.is_none_or(|count| (found as u64) < count)
    };
    let mut query = Query::open(Arc::clone(core), ctx, bucket, request.clone()).await?;
    let page = query
        .next_page(ctx.deadline, results_max, bytes_max)
        .await?;
    let page = page.ok_or_else(unexpected)?;
    if page.continuation.is_some() && is_wanted(page.documents.len()) {
        let message = format!(
            "the result is larger than {bytes_max} bytes: ask for fewer documents with count, {} fit",
            page.documents.len()
        );
        return Err(Error::new(ErrorCode::QueryNotSupported, message));
    }
    Ok(page)
}

/// See [`crate::Service::count`].
pub(crate) async fn count(
    core: &Arc<Core>,
    ctx: &Context,
    bucket: &str,
    request: QueryRequest,
) -> Result<Counted> {
    let (session, mut template) = prepare(core, ctx, bucket, &request).await?;
    template.count_only = true;
    core.shards.parse_query(&template)?;
    let _permit = core.query_permit(ctx.deadline).await?;
    let reads = Reads {
        core,
        session: &session,
        freshness: &request.freshness,
        deadline: ctx.deadline,
    };
    let mut count = 0;
    let mut served = BTreeMap::new();
    let shards = (1..=session.state.shards).map(ShardId);
    let mut questions: Vec<_> = shards.map(|shard| (shard, template.clone())).collect();
    while !questions.is_empty() {
        let pages = reads.pages(&questions).await?;
        let mut rest = Vec::new();
        for ((shard, mut query), page) in questions.into_iter().zip(pages) {
            count += page.found.count;
            served.insert(shard, page.served);
            if page.found.rest.is_some() {
                query.after = page.found.rest;
                query.examined += page.found.examined;
                rest.push((shard, query));
            }
        }
        questions = rest;
    }
    Ok(Counted {
        count,
        served: served.into_values().flatten().collect(),
    })
}

/// Who asks, and what every shard is asked.
async fn prepare(
    core: &Core,
    ctx: &Context,
    bucket: &str,
    request: &QueryRequest,
) -> Result<(Session, forward::Query)> {
    let consistency = request.freshness.consistency;
    let session = Box::pin(core.begin_at(ctx, &[bucket], consistency)).await?;
    if request.allow_scan {
        policy::require_admin(&session.principal)?;
    }
    let (database, _) = session.find(ctx, bucket)?;
    let template = forward::Query {
        database: database.name.clone(),
        bucket: bucket.to_owned(),
        filter: match request.filter.trim_ascii() {
            [] => Bytes::from_static(ALL),
            _ => request.filter.clone(),
        },
        sort: request.sort.clone(),
        allow_scan: request.allow_scan,
        ..forward::Query::default()
    };
    Ok((session, template))
}

/// The query of all shards from the place of a page token on, and what its own page tokens carry.
///
/// # Errors
/// Those of the texts and of the token.
fn scatter(
    core: &Core,
    session: &Session,
    template: forward::Query,
    continuation: Option<Bytes>,
) -> Result<(Scatter, u64)> {
    let (filter, order) = core.shards.parse_query(&template)?;
    let fingerprint = token::fingerprint(&[
        template.database.as_bytes(),
        template.bucket.as_bytes(),
        filter.canonical().as_bytes(),
        order.canonical().as_bytes(),
    ]);
    let after = continuation.map(|bytes| Token::decode(bytes, fingerprint));
    let after = after.transpose()?;
    let shards = session.state.shards;
    let scatter = Scatter::new(shards, template, order.is_empty(), after);
    Ok((scatter, fingerprint))
}

impl Core {
    /// The right to work on a query, until dropped. Waits for it.
    async fn query_permit(&self, deadline: Instant) -> Result<tokio::sync::SemaphorePermit<'_>> {
        match tokio::time::timeout_at(deadline.into(), self.queries.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Error::unavailable("too many queries at once")),
        }
    }
}
