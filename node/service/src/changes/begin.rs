//! Where a feed begins, and through whose eyes it sees.

use std::sync::Arc;

use cluster::state::{ClusterState, Database};
use document::acl::Principal;
use futures::future::try_join_all;
use proto::{ErrorCode, ShardId};

use super::token::{self, ConsumerMark, Resumed};
use super::{FeedRequest, Start, ask, changes, find};
use crate::Core;
use crate::consumers;
use crate::context::Context;
use crate::documents::Session;
use crate::error::{Error, Result};
use crate::forward::Cursor;

/// Through whose eyes a feed sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Those of the caller, as they are at each page.
    Caller,
    /// Those of root: the service itself reads.
    Root,
}

impl Reader {
    /// Who reads, with the metadata of now.
    pub(crate) async fn session(
        self,
        core: &Core,
        ctx: &Context,
        buckets: &[&str],
    ) -> Result<Session> {
        match self {
            Reader::Caller => core.begin(ctx, buckets).await,
            Reader::Root => Ok(Session {
                state: core.metadata.founded()?,
                principal: Principal::root(),
            }),
        }
    }
}

/// What a feed for a durable consumer begins with.
pub(crate) struct Following {
    pub(crate) mark: ConsumerMark,
    pub(crate) begins: Resumed,
}

impl Following {
    /// Of the consumer that a request names, if it does; what it is told is put into the request.
    ///
    /// # Errors
    /// `ObjectNotFound`: there is no such consumer. `BadRequest`: the request says what is told, too, or its token is not of this
    /// consumer. `PermissionDenied` for others than admins.
    pub(super) async fn of(
        core: &Core,
        ctx: &Context,
        reader: Reader,
        request: &mut FeedRequest,
    ) -> Result<Option<Following>> {
        let Start::Consumer { name, from } = &request.start else {
            return Ok(None);
        };
        if request.bucket.is_some() || !request.filter.is_empty() {
            return Err(Error::bad_request(
                "a consumer has its own bucket and filter: leave them out",
            ));
        }
        let (told, following) =
            consumers::following(core, ctx, reader, name, from.as_deref()).await?;
        request.bucket = told.bucket;
        request.filter = told.filter;
        Ok(Some(following))
    }
}

impl ConsumerMark {
    /// Whether the consumer is still there.
    ///
    /// # Errors
    /// `ObjectNotFound`.
    pub(super) fn check(self, database: &Database, state: &ClusterState) -> Result<()> {
        let consumers = state.consumers.get(&database.id);
        let mut consumers = consumers
            .into_iter()
            .flat_map(|consumers| consumers.values());
        match consumers.any(|consumer| consumer.id == self.id) {
            true => Ok(()),
            false => Err(Error::new(
                ErrorCode::ObjectNotFound,
                "the consumer was deleted",
            )),
        }
    }
}

/// Whether a feed like this can be told to who asks.
///
/// # Errors
/// Those of the bucket and the filter.
pub(crate) fn check(
    core: &Core,
    ctx: &Context,
    session: &Session,
    request: &FeedRequest,
) -> Result<()> {
    let database = &find(session, ctx)?.name;
    let bucket = request.bucket.as_deref().unwrap_or("");
    let (caller, shards) = (&session.principal, &core.shards);
    shards.check_feed(caller, database, bucket, &request.filter)
}

/// Where a feed of no consumer begins in every shard.
///
/// # Errors
/// `BadRequest` of a token; `Unavailable`: a shard does not answer.
pub(crate) async fn begins(
    core: &Arc<Core>,
    ctx: &Context,
    session: &Session,
    request: &FeedRequest,
) -> Result<Resumed> {
    let database = find(session, ctx)?;
    let bucket = request.bucket.as_deref().unwrap_or("");
    let shards = session.state.shards;
    let everywhere = |cursor: Cursor| Resumed::At(vec![cursor; shards as usize]);
    match &request.start {
        Start::Oldest => Ok(everywhere(Cursor::at(Default::default()))),
        Start::Snapshot => Ok(everywhere(Cursor::at(Default::default()).walking(true))),
        Start::Token(text) => {
            let scope = token::scope(bucket, &request.filter);
            token::decode(&session.state, database, scope, text)
        }
        Start::Now => {
            let ends = (1..=shards).map(|shard| {
                let changes = changes(core, &database.name, request, None, shards);
                ask::page(Arc::clone(core), session, ShardId(shard), changes)
            });
            let ends = try_join_all(ends.collect::<Vec<_>>());
            let ends = tokio::time::timeout_at(ctx.deadline.into(), ends).await;
            let late = |_| Error::unavailable("a shard does not answer");
            let ends = ends.map_err(late)??.into_iter();
            Ok(Resumed::At(
                ends.map(|end| end.page.cursor.unwrap_or_default())
                    .collect(),
            ))
        }
        Start::Consumer { .. } => Err(Error::bad_request("a consumer begins with no other one")),
    }
}
