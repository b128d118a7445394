//! Durable consumers of change feeds (`docs/consumers.md`): making and showing them, reading on where one is, and acknowledging.
//!
//! | part | owns |
//! |---|---|
//! | `create` | making one |
//! | `place` | where one is: in tokens, and as it is kept |
//! | `at_leader` | what the leader of the metadata answers |
//! | `desk` | what the leader of the metadata knows of consumers besides their rows |
//! | `status` | how a consumer is shown |
//! | `facade` | the calls of [`crate::Service`] |
//!
//! All of it is for admins: who acknowledges decides what a consumer never sees again. A feed for a consumer begins where it acknowledged
//! last, and its tokens name the consumer, so that no other token can be acknowledged by mistake.
//!
//! What is sent to targets, and how late everybody is, is the job [`crate::jobs`]`::Consumers`.

mod at_leader;
mod create;
mod desk;
mod facade;
mod place;
mod status;

use std::sync::Arc;
use std::time::Instant;

use cluster::consumers::Consumer;
use cluster::state::{ClusterState, Database};
use document::acl::Principal;
use proto::log::{ConsumerPosition, DropConsumer, RunConsumer, meta_command};
use proto::{ErrorCode, ShardId};

pub use self::create::{ConsumerRequest, NewTarget};
pub(crate) use self::desk::Desk;
pub(crate) use self::place::acknowledged;
use self::place::{resumed, resumed_at};
pub use self::status::{ConsumerState, ConsumerStatus};
use crate::Core;
use crate::auth::policy::require_admin;
use crate::changes::{ConsumerMark, FeedRequest, Following, Reader};
use crate::context::Context;
use crate::documents::{Session, unexpected};
use crate::error::{Error, Result};
use crate::forward::{AckConsumer, Answer, ConsumerRow, ConsumerRows, Operation, ReadConsumers};
use crate::leader::find_database;
use crate::quotas::attributed;

/// The consumer of this name.
fn find<'s>(state: &'s ClusterState, database: &Database, name: &str) -> Option<&'s Consumer> {
    state.consumers.get(&database.id)?.get(name)
}

fn not_found(name: &str) -> Error {
    let message = format!("there is no consumer {name:?}");
    Error::new(ErrorCode::ObjectNotFound, message)
}

/// What a consumer is told, as a feed is asked for it.
pub(crate) fn told(consumer: &Consumer) -> FeedRequest {
    FeedRequest {
        bucket: Some(consumer.bucket.clone()).filter(|bucket| !bucket.is_empty()),
        filter: consumer.filter.clone().into(),
        ..FeedRequest::default()
    }
}

/// What a feed for a consumer tells, and where it begins: where the consumer is, or behind `from`.
///
/// # Errors
/// See [`Following::of`].
pub(crate) async fn following(
    core: &Core,
    ctx: &Context,
    reader: Reader,
    name: &str,
    from: Option<&str>,
) -> Result<(FeedRequest, Following)> {
    let session = reader.session(core, ctx, &[]).await?;
    require_admin(&session.principal)?;
    let (state, consumer) = core.find_consumer(ctx, &session.state, name).await?;
    let database = find_database(&state, &ctx.database)?;
    let mark = |events| ConsumerMark {
        id: consumer.id,
        events,
    };
    let following = match from {
        Some(token) => {
            let (begins, events) = resumed(&state, database, &consumer, token)?;
            Following {
                mark: mark(events),
                begins,
            }
        }
        None => {
            let row = core.consumer_row(&state, database, name, ctx.deadline);
            let position = row.await?.position.unwrap_or_default();
            Following {
                mark: mark(position.events),
                begins: resumed_at(&state, &position),
            }
        }
    };
    Ok((told(&consumer), following))
}

impl Core {
    /// Waits until this node knows of a change of a consumer that was committed.
    async fn consumers_heard(
        &self,
        ctx: &Context,
        name: &str,
        is_so: impl Fn(Option<&Consumer>) -> bool,
    ) -> Result<Arc<ClusterState>> {
        let heard = self.metadata.wait(ctx.deadline, |state| {
            let database = state.database(&ctx.database);
            is_so(database.and_then(|database| find(state, database, name)))
        });
        heard.await.ok_or_else(|| {
            Error::new(
                ErrorCode::OutcomeUnknown,
                "the consumer is changed, but this node has not heard of it yet",
            )
        })
    }

    /// A consumer by name, with metadata that knows it.
    async fn find_consumer(
        &self,
        ctx: &Context,
        state: &Arc<ClusterState>,
        name: &str,
    ) -> Result<(Arc<ClusterState>, Consumer)> {
        let known = |state: &ClusterState| -> Result<Option<Consumer>> {
            let database = find_database(state, &ctx.database)?;
            Ok(find(state, database, name).cloned())
        };
        if let Some(consumer) = known(state)? {
            return Ok((Arc::clone(state), consumer));
        }
        // That there is none must rest on evidence.
        let state = Box::pin(self.current_metadata(state, ctx.deadline)).await?;
        let consumer = known(&state)?.ok_or_else(|| not_found(name))?;
        Ok((state, consumer))
    }

    /// Who asks, if it is an admin, and the consumer that is meant.
    async fn begin_consumer(
        &self,
        ctx: &Context,
        name: &str,
    ) -> Result<(Session, Arc<ClusterState>, Consumer)> {
        let session = self.begin(ctx, &[]).await?;
        require_admin(&session.principal)?;
        let (state, consumer) = self.find_consumer(ctx, &session.state, name).await?;
        Ok((session, state, consumer))
    }

    /// The rows of a database's consumers, as the leader of the metadata has them.
    async fn consumer_rows(
        &self,
        state: &Arc<ClusterState>,
        asked: ReadConsumers,
        deadline: Instant,
    ) -> Result<Vec<ConsumerRow>> {
        let session = Session {
            state: Arc::clone(state),
            principal: Principal::root(),
        };
        let request = session.request(ShardId::META, None, Operation::ReadConsumers(asked));
        match self.route(state, &request, deadline).await? {
            Answer::Consumers(ConsumerRows { rows }) => Ok(rows),
            _ => Err(unexpected()),
        }
    }

    async fn consumer_row(
        &self,
        state: &Arc<ClusterState>,
        database: &Database,
        name: &str,
        deadline: Instant,
    ) -> Result<ConsumerRow> {
        let asked = ReadConsumers {
            database: database.id,
            name: name.to_owned(),
        };
        let rows = self.consumer_rows(state, asked, deadline).await?;
        rows.into_iter().next().ok_or_else(|| not_found(name))
    }

    async fn consumer_status(
        &self,
        ctx: &Context,
        state: &Arc<ClusterState>,
        name: &str,
    ) -> Result<ConsumerStatus> {
        let database = find_database(state, &ctx.database)?;
        let row = self
            .consumer_row(state, database, name, ctx.deadline)
            .await?;
        Ok(ConsumerStatus::of(row))
    }

    /// Where a consumer is by what is applied here, and what waits here; for the leader of the metadata.
    pub(crate) async fn own_position(
        &self,
        consumer: u64,
        deadline: Instant,
    ) -> Result<ConsumerPosition> {
        let replica = self.groups.replica(ShardId::META);
        let replica = replica.ok_or_else(|| Error::unavailable("the metadata is not here"))?;
        let read = move || Ok(cluster::consumers::position(&replica.view(), consumer)?);
        let stored = self.shards.read(deadline, read).await?;
        Ok(self
            .shards
            .consumers
            .joined(consumer, stored.unwrap_or_default()))
    }

    /// See [`crate::Service::consumers`].
    pub(crate) async fn list_consumers(&self, ctx: &Context) -> Result<Vec<ConsumerStatus>> {
        let session = self.begin(ctx, &[]).await?;
        require_admin(&session.principal)?;
        let asked = ReadConsumers {
            database: find_database(&session.state, &ctx.database)?.id,
            name: String::new(),
        };
        let rows = self.consumer_rows(&session.state, asked, ctx.deadline);
        Ok(rows.await?.into_iter().map(ConsumerStatus::of).collect())
    }

    /// See [`crate::Service::consumer`].
    pub(crate) async fn read_consumer(&self, ctx: &Context, name: &str) -> Result<ConsumerStatus> {
        let (_, state, _) = self.begin_consumer(ctx, name).await?;
        self.consumer_status(ctx, &state, name).await
    }

    /// See [`crate::Service::delete_consumer`].
    pub(crate) async fn delete_consumer(&self, ctx: &Context, name: &str) -> Result<()> {
        let (session, state, consumer) = self.begin_consumer(ctx, name).await?;
        let drop = meta_command::Operation::DropConsumer(DropConsumer {
            database: find_database(&state, &ctx.database)?.id,
            name: name.to_owned(),
        });
        self.govern(attributed(&session.principal, drop), ctx.deadline)
            .await?;
        let is_gone = |found: Option<&Consumer>| found.is_none_or(|found| found.id != consumer.id);
        self.consumers_heard(ctx, name, is_gone).await.map(|_| ())
    }

    /// See [`crate::Service::run_consumer`].
    pub(crate) async fn run_consumer(
        &self,
        ctx: &Context,
        name: &str,
        is_running: bool,
    ) -> Result<()> {
        let (session, state, _) = self.begin_consumer(ctx, name).await?;
        let run = meta_command::Operation::RunConsumer(RunConsumer {
            database: find_database(&state, &ctx.database)?.id,
            name: name.to_owned(),
            is_running,
        });
        self.govern(attributed(&session.principal, run), ctx.deadline)
            .await
    }

    /// See [`crate::Service::ack_consumer`].
    pub(crate) async fn ack_consumer(&self, ctx: &Context, name: &str, token: &str) -> Result<()> {
        let (session, state, consumer) = self.begin_consumer(ctx, name).await?;
        let database = find_database(&state, &ctx.database)?;
        let ack = AckConsumer {
            consumer: consumer.id,
            position: Some(acknowledged(&state, database, &consumer, token)?),
        };
        let request = session.request(ShardId::META, None, Operation::AckConsumer(ack));
        self.route(&state, &request, ctx.deadline).await.map(|_| ())
    }
}
