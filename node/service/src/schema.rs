//! Reading and changing the schema (contract section 4.3; design, section 7).
//!
//! A change is decided by the metadata leader on its newest schema and proposed under the expectation that nobody else changed it
//! meanwhile. It is acknowledged when every shard has applied the buckets of that version (the job [`crate::jobs::fence`]), so that no
//! write that was validated under older rules can land afterwards.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::state::{ClusterState, Database};
use cluster::{MetaOutcome, MetaRejection};
use document::acl::Principal;
use document::schema::{Change, Schema};
use prost::Message as _;
use proto::log::MetaCommand;
use proto::log::meta_command;
use proto::{Effect, ErrorCode, ShardId};
use serde_json::Value;

use crate::Core;
use crate::auth::policy;
use crate::context::Context;
use crate::documents::unexpected;
use crate::error::{Error, Result};
use crate::forward::{Answer, ChangeSchema, Failure, Operation, Request, SchemaVerb};
use crate::leader::{Shards, find_database};
use crate::quotas::attributed;

/// How long a reader of the schema waits for the newest one: a round trip, not an election.
const FRESH_WAIT: Duration = Duration::from_secs(1);

impl Core {
    /// The schema with every change that was acknowledged before now, on whatever node.
    ///
    /// While the metadata group cannot be reached it is the schema that this node has: a client whose `connect` fails is lost.
    pub(crate) async fn read_schema(&self, ctx: &Context) -> Result<Value> {
        let state = self.fresh_metadata(ctx.deadline).await?;
        Ok(find_database(&state, &ctx.database)?.schema.to_json())
    }

    /// One class of it.
    pub(crate) async fn read_class(&self, ctx: &Context, class: &str) -> Result<Value> {
        let state = self.fresh_metadata(ctx.deadline).await?;
        find_database(&state, &ctx.database)?
            .schema
            .class_json(class)
            .ok_or_else(|| Error::bucket_not_found(class))
    }

    async fn fresh_metadata(&self, deadline: Instant) -> Result<Arc<ClusterState>> {
        let state = self.metadata.founded()?;
        let soon = deadline.min(Instant::now() + FRESH_WAIT);
        let fresh = Box::pin(self.current_metadata(&state, soon)).await;
        Ok(fresh.unwrap_or_else(|error| {
            tracing::debug!(%error, "schema is served from the local copy");
            state
        }))
    }

    pub(crate) async fn add_schema(&self, ctx: &Context, body: Bytes) -> Result<Value> {
        self.change_and_wait(ctx, SchemaVerb::Merge, "", body)
            .await?;
        self.local_schema(ctx)
    }

    pub(crate) async fn replace_schema(&self, ctx: &Context, body: Bytes) -> Result<Value> {
        self.change_and_wait(ctx, SchemaVerb::Replace, "", body)
            .await?;
        self.local_schema(ctx)
    }

    pub(crate) async fn add_class(&self, ctx: &Context, class: &str, body: Bytes) -> Result<Value> {
        self.change_and_wait(ctx, SchemaVerb::MergeClass, class, body)
            .await?;
        self.local_class(ctx, class)
    }

    pub(crate) async fn replace_class(
        &self,
        ctx: &Context,
        class: &str,
        body: Bytes,
    ) -> Result<Value> {
        self.change_and_wait(ctx, SchemaVerb::ReplaceClass, class, body)
            .await?;
        self.local_class(ctx, class)
    }

    pub(crate) async fn drop_class(&self, ctx: &Context, class: &str) -> Result<()> {
        self.change_and_wait(ctx, SchemaVerb::DropClass, class, Bytes::new())
            .await
    }

    /// The schema of this node's copy, which a change of our own has just reached.
    fn local_schema(&self, ctx: &Context) -> Result<Value> {
        let state = self.metadata.founded()?;
        Ok(find_database(&state, &ctx.database)?.schema.to_json())
    }

    fn local_class(&self, ctx: &Context, class: &str) -> Result<Value> {
        let state = self.metadata.founded()?;
        find_database(&state, &ctx.database)?
            .schema
            .class_json(class)
            .ok_or_else(|| Error::bucket_not_found(class))
    }

    /// Changes the schema, and returns when this node and all shards know.
    async fn change_and_wait(
        &self,
        ctx: &Context,
        verb: SchemaVerb,
        class: &str,
        body: Bytes,
    ) -> Result<()> {
        let limit = self.options.limits.body_bytes_max;
        if body.len() > limit {
            let message = format!(
                "a schema request has at most {limit} bytes, this one {}",
                body.len()
            );
            return Err(Error::new(ErrorCode::BodyTooLarge, message));
        }
        let session = self.begin(ctx, &[]).await?;
        policy::require_admin(&session.principal)?;
        let database = find_database(&session.state, &ctx.database)?.name.clone();
        let change = ChangeSchema {
            database: database.clone(),
            verb: verb as i32,
            class: class.to_owned(),
            body,
        };
        let request = session.request(ShardId::META, None, Operation::ChangeSchema(change));
        let Answer::Version(version) = self.route(&session.state, &request, ctx.deadline).await?
        else {
            return Err(unexpected());
        };
        self.wait_fenced(&database, version, ctx.deadline).await
    }

    /// Returns when all shards have applied this version of a database's schema, and this node knows it.
    ///
    /// # Errors
    /// With effect `applied`: not yet.
    pub(crate) async fn wait_fenced(
        &self,
        database: &str,
        version: u64,
        deadline: Instant,
    ) -> Result<()> {
        let fenced = |database: &Database| database.fenced_version >= version;
        let waited = self
            .metadata
            .wait(deadline, |state| {
                state.database(database).is_none_or(fenced)
            })
            .await;
        waited.map(|_| ()).ok_or_else(|| {
            let message = "the schema change is stored, but not all shards have confirmed it yet";
            Error::new(ErrorCode::OutcomeUnknown, message).with_effect(Effect::Applied)
        })
    }
}

impl Shards {
    /// Decides and proposes a schema change; gives the schema version that includes it. On the metadata leader.
    pub(crate) async fn change_schema(
        &self,
        request: &Request,
        change: &ChangeSchema,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        policy::require_admin(&request.principal)?;
        loop {
            self.barrier(ShardId::META, deadline).await?;
            let state = self.metadata_now();
            let database = find_database(&state, &change.database)?;
            let next = changed(&database.schema, change, &request.principal)?;
            if next == *database.schema {
                return Ok(Answer::Version(database.schema_version));
            }
            let schema = serde_json::to_vec(&next)
                .map_err(|error| Error::internal(&error).with_effect(Effect::None))?;
            let expected_version = database.schema_version;
            let set = proto::log::SetSchema {
                database: database.id,
                expected_version,
                schema: schema.into(),
            };
            match self
                .propose_meta(
                    attributed(&request.principal, meta_command::Operation::SetSchema(set)),
                    deadline,
                )
                .await?
            {
                MetaOutcome::Done => return Ok(Answer::Version(expected_version + 1)),
                MetaOutcome::Rejected(MetaRejection::VersionConflict { .. }) => {}
                MetaOutcome::Rejected(rejection) => return Err(meta_rejected(&rejection).into()),
            }
        }
    }

    /// Proposes a command to the metadata group.
    pub(crate) async fn propose_meta(
        &self,
        operation: meta_command::Operation,
        deadline: Instant,
    ) -> Result<MetaOutcome, Failure> {
        let command = MetaCommand {
            stamp_us: self.now_us(),
            operation: Some(operation),
        };
        let reply = self
            .propose_raw(ShardId::META, command.encode_to_vec().into(), deadline)
            .await?;
        // The command is applied; only its reply is unreadable.
        MetaOutcome::decode(&reply).map_err(|error| {
            tracing::error!(%error, "reply of the metadata group does not decode");
            Failure::Unknown
        })
    }
}

/// The schema after a change.
fn changed(schema: &Schema, change: &ChangeSchema, principal: &Principal) -> Result<Schema> {
    let verb = SchemaVerb::try_from(change.verb).unwrap_or(SchemaVerb::Unspecified);
    Ok(match verb {
        SchemaVerb::Merge => schema.merge(&Schema::parse_changes(&change.body)?, principal)?,
        SchemaVerb::Replace => schema.replace(&Schema::parse_changes(&change.body)?, principal)?,
        SchemaVerb::MergeClass => {
            schema.merge_class(&change.class, &single(&change.body)?, principal)?
        }
        SchemaVerb::ReplaceClass => {
            schema.replace_class(&change.class, &single(&change.body)?, principal)?
        }
        SchemaVerb::DropClass => schema.drop_class(&change.class, principal)?,
        SchemaVerb::Unspecified => return Err(Error::bad_request("unknown schema request")),
    })
}

/// The one change of a request about one class.
fn single(body: &[u8]) -> Result<Change> {
    let mut changes = Schema::parse_changes(body)?;
    match (changes.pop(), changes.is_empty()) {
        (Some(change), true) => Ok(change),
        _ => Err(Error::bad_request("the body must be one descriptor")),
    }
}

/// A refusal of the metadata group, as a client sees it.
pub(crate) fn meta_rejected(rejection: &MetaRejection) -> Error {
    match rejection {
        MetaRejection::Invalid(reason) => Error::bad_request(reason.clone()),
        MetaRejection::AlreadyInitialized
        | MetaRejection::NotInitialized
        | MetaRejection::VersionConflict { .. } => Error::unavailable(rejection.to_string()),
    }
}
