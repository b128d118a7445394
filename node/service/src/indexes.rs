//! Indexes of a bucket (contract section 4.4): showing, making and dropping them.
//!
//! The metadata says which there are; each shard knows whether its part is complete. A change is acknowledged like one of the schema: once
//! every shard keeps the new index up, or the dropped one no more. What is left to do, filling and clearing, is the job
//! [`crate::jobs::index_build`]'s.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::state::{ClusterState, Database, IndexInfo, IndexState};
use document::acl::Principal;
use document::schema;
use futures::stream::{self, StreamExt as _};
use proto::{ErrorCode, ShardId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Core;
use crate::auth::policy;
use crate::context::Context;
use crate::documents::unexpected;
use crate::error::{Error, Result};
use crate::forward::{
    Answer, ChangeIndexes, IndexProgress, IndexVerb, IndexesComplete, Operation, Request,
};
use crate::leader::find_database;

/// Shards asked for their progress at the same time.
const SHARDS_AT_ONCE: usize = 16;
/// How long a shard may take to say how far it is; one that does not answer counts as not complete.
const PROGRESS_WAIT: Duration = Duration::from_secs(1);

/// An index and how far it is.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexStatus {
    /// Never reused within its database.
    pub id: u32,
    /// The definition, normalised JSON: `unique` and `keys`.
    pub definition: String,
    /// `building`, `ready` or `failed`.
    pub state: &'static str,
    /// The part of the shards in which it is complete, from 0 to 1.
    pub progress: f64,
    /// Why it failed, for admins; else empty.
    pub reason: String,
}

impl IndexStatus {
    /// The form for clients: the definition's members and what else there is to say.
    pub fn to_json(&self) -> Value {
        let mut value: Value = serde_json::from_str(&self.definition).unwrap_or_default();
        value["id"] = json!(self.id);
        value["state"] = json!(self.state);
        value["progress"] = json!(self.progress);
        if !self.reason.is_empty() {
            value["reason"] = json!(self.reason);
        }
        value
    }
}

/// What a request says besides the definition.
#[derive(Deserialize)]
struct Change {
    #[serde(default)]
    drop: bool,
}

impl Core {
    /// See [`crate::Service::indexes`].
    pub(crate) async fn indexes(&self, ctx: &Context, bucket: &str) -> Result<Vec<IndexStatus>> {
        let session = self.begin(ctx, &[bucket]).await?;
        let soon = ctx.deadline.min(Instant::now() + PROGRESS_WAIT);
        let fresh = Box::pin(self.current_metadata(&session.state, soon)).await;
        let state = fresh.unwrap_or_else(|_| Arc::clone(&session.state));
        let database = find_database(&state, &ctx.database)?;
        let Some(bucket) = database.buckets.get(bucket) else {
            return Err(Error::bucket_not_found(bucket));
        };
        let shown: Vec<&IndexInfo> = database
            .indexes_of(bucket.id)
            .filter(|index| index.state != IndexState::Dropped)
            .collect();
        let building = shown
            .iter()
            .filter(|index| index.state == IndexState::Building);
        let asked = IndexProgress {
            database: database.id,
            bucket: bucket.id,
            indexes: building.map(|index| index.id).collect(),
        };
        let complete = self.complete_shards(&state, asked, soon).await;
        let is_admin = session.principal.is_admin();
        let status = |index: &&IndexInfo| {
            let shards = complete
                .iter()
                .filter(|ids| ids.contains(&index.id))
                .count();
            IndexStatus {
                id: index.id,
                definition: index.definition.clone(),
                state: index.state.name(),
                progress: match index.state {
                    IndexState::Ready => 1.0,
                    IndexState::Building => shards as f64 / f64::from(state.shards.max(1)),
                    IndexState::Failed | IndexState::Dropped => 0.0,
                },
                // It may name documents.
                reason: match is_admin {
                    true => index.reason.clone(),
                    false => String::new(),
                },
            }
        };
        Ok(shown.iter().map(status).collect())
    }

    /// For each shard that answers: which of the indexes are complete there.
    async fn complete_shards(
        &self,
        state: &ClusterState,
        asked: IndexProgress,
        deadline: Instant,
    ) -> Vec<Vec<u32>> {
        if asked.indexes.is_empty() {
            return Vec::new();
        }
        let ask = |shard| {
            let request = Request {
                shard: ShardId(shard),
                principal: Principal::root(),
                idempotency_key: None,
                metadata_version: 0,
                near: None,
                operation: Operation::IndexProgress(asked.clone()),
            };
            async move {
                match self.route(state, &request, deadline).await {
                    Ok(Answer::IndexesComplete(IndexesComplete { complete })) => complete,
                    Ok(_) | Err(_) => Vec::new(),
                }
            }
        };
        stream::iter(1..=state.shards)
            .map(ask)
            .buffer_unordered(SHARDS_AT_ONCE)
            .collect()
            .await
    }

    /// See [`crate::Service::change_index`].
    pub(crate) async fn change_index(
        &self,
        ctx: &Context,
        bucket: &str,
        definition: Bytes,
    ) -> Result<()> {
        let change: Change = serde_json::from_slice(&definition)
            .map_err(|error| Error::new(ErrorCode::SyntaxError, format!("index: {error}")))?;
        let verb = match change.drop {
            true => IndexVerb::Drop,
            false => IndexVerb::Create,
        };
        self.change_indexes_and_wait(ctx, bucket, verb, definition)
            .await
    }

    /// See [`crate::Service::drop_indexes`].
    pub(crate) async fn drop_indexes(&self, ctx: &Context, bucket: &str) -> Result<()> {
        self.change_indexes_and_wait(ctx, bucket, IndexVerb::DropAll, Bytes::new())
            .await
    }

    async fn change_indexes_and_wait(
        &self,
        ctx: &Context,
        bucket: &str,
        verb: IndexVerb,
        definition: Bytes,
    ) -> Result<()> {
        let session = self.begin(ctx, &[bucket]).await?;
        let database = find_database(&session.state, &ctx.database)?;
        let right = right_of(verb);
        policy::check_schema_right(database, bucket, right, &session.principal)?;
        let database = database.name.clone();
        let change = ChangeIndexes {
            database: database.clone(),
            bucket: bucket.to_owned(),
            verb: verb as i32,
            definition,
        };
        let request = session.request(ShardId::META, None, Operation::ChangeIndexes(change));
        let answer = self.route(&session.state, &request, ctx.deadline).await?;
        let Answer::Version(version) = answer else {
            return Err(unexpected());
        };
        self.wait_fenced(&database, version, ctx.deadline).await
    }
}

/// What a change takes: an index is added to a class as fields are, and goes as they do (contract 4.3).
pub(crate) fn right_of(verb: IndexVerb) -> schema::Operation {
    match verb {
        IndexVerb::Create => schema::Operation::SchemaAdd,
        IndexVerb::Drop | IndexVerb::DropAll | IndexVerb::Unspecified => {
            schema::Operation::SchemaReplace
        }
    }
}

/// The indexes of a database in a state.
pub(crate) fn in_state(database: &Database, state: IndexState) -> impl Iterator<Item = &IndexInfo> {
    database
        .indexes
        .values()
        .filter(move |index| index.state == state)
}
