//! What the asked node does with a document request: who asks, does the bucket exist, which key, which shard. Everything about the
//! stored document is the leader's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::state::{BucketInfo, ClusterState, Database};
use document::acl::Principal;
use document::id::parse_object_id;
use proto::{ErrorCode, ShardId};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::Core;
use crate::auth::policy;
use crate::context::{
    BatchOperation, BatchWrite, Condition, Consistency, Context, Deleted, Document, Freshness,
    Keep, Served, Written,
};
use crate::error::{Error, Result};
use crate::forward::{
    self, Answer, Operation, Record, Request, Seen, Write, Writes, WrittenAll, WrittenOne,
};
use crate::ids;
use crate::limits::BATCH_WRITES_MAX;

/// A request with its metadata and its caller: one version of the first for the whole request.
pub(crate) struct Session {
    pub(crate) state: Arc<ClusterState>,
    pub(crate) principal: Principal,
}

impl Core {
    /// Finds the database and the caller of a request.
    ///
    /// `buckets` must exist: if one is unknown here, the metadata is brought up to date first, since "unknown" must rest on evidence.
    pub(crate) async fn begin(&self, ctx: &Context, buckets: &[&str]) -> Result<Session> {
        self.begin_at(ctx, buckets, Consistency::Linearizable).await
    }

    /// The same for a read of this level, see [`Core::check_rights`].
    pub(crate) async fn begin_at(
        &self,
        ctx: &Context,
        buckets: &[&str],
        consistency: Consistency,
    ) -> Result<Session> {
        let mut state = self.metadata.founded()?;
        if !knows(&state, &ctx.database, buckets) {
            state = Box::pin(self.current_metadata(&state, ctx.deadline)).await?;
        }
        let database = state
            .database(&ctx.database)
            .ok_or_else(|| Error::database_not_found(&ctx.database))?;
        if let Some(unknown) = buckets
            .iter()
            .find(|bucket| !database.buckets.contains_key(**bucket))
        {
            return Err(Error::bucket_not_found(unknown));
        }
        Box::pin(self.check_rights(consistency, ctx.deadline)).await?;
        let principal = self.authenticate(ctx, &state).await?;
        Ok(Session { state, principal })
    }

    /// The metadata with everything that was committed before now.
    pub(crate) async fn current_metadata(
        &self,
        state: &ClusterState,
        deadline: Instant,
    ) -> Result<Arc<ClusterState>> {
        let request = Request {
            shard: ShardId::META,
            principal: Principal::anonymous(),
            idempotency_key: None,
            metadata_version: 0,
            near: None,
            operation: Operation::MetadataVersion(true),
        };
        let Answer::Version(version) = self.route(state, &request, deadline).await? else {
            return Err(unexpected());
        };
        let newer = self
            .metadata
            .wait(deadline, |state| state.version >= version)
            .await;
        newer.ok_or_else(|| Error::unavailable("the metadata of this node is behind"))
    }

    pub(crate) async fn get(
        &self,
        ctx: &Context,
        bucket: &str,
        key: &str,
        freshness: &Freshness,
    ) -> Result<Document> {
        self.check_key(key)?;
        let session = self.begin_at(ctx, &[bucket], freshness.consistency).await?;
        let (database, info) = session.find(ctx, bucket)?;
        let get = forward::Get {
            database: database.name.clone(),
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            internal: false,
        };
        let shard = session.state.shard_of(database, info, key);
        let request = session.request(shard, None, Operation::Get(get));
        let (answer, level) = match freshness.consistency {
            // The usual case, without the frame of the others.
            Consistency::Linearizable if freshness.at_least.is_empty() => {
                let answer = self.route(&session.state, &request, ctx.deadline).await?;
                (answer, Consistency::Linearizable)
            }
            _ => Box::pin(self.read(&session.state, request, freshness, ctx.deadline)).await?,
        };
        match answer {
            Answer::Record(record) => Ok(Document {
                served: Served::of(shard, record.seen, level),
                keep: record.keep.map(|keep| kept(keep, info)),
                ..document(bucket, record)
            }),
            _ => Err(unexpected()),
        }
    }

    pub(crate) async fn put(
        &self,
        ctx: &Context,
        bucket: &str,
        key: Option<&str>,
        body: Bytes,
        condition: Condition,
    ) -> Result<Written> {
        self.check_idempotency_key(ctx)?;
        let session = self.begin(ctx, &[bucket]).await?;
        let (database, info) = session.find(ctx, bucket)?;
        self.check_body(&body)?;
        let named = match key {
            Some(key) => Some(key.to_owned()),
            None => key_of_body(info, &body)?,
        };
        let (key, condition) = session.place(ctx, database, info, named, condition, 0)?;
        self.check_key(&key)?;
        let shard = session.state.shard_of(database, info, &key);
        let write = Write {
            bucket: bucket.to_owned(),
            key: key.clone(),
            condition: condition.into(),
            body,
            hidden: Bytes::new(),
            delete: false,
            update: false,
            ends_sessions: false,
        };
        let (written, served) = self
            .write_one(ctx, &session, shard, database, write)
            .await?;
        let document = Document {
            bucket: bucket.to_owned(),
            key,
            version: written.version,
            body: written.body,
            served,
            keep: None,
        };
        Ok(Written {
            document,
            created: !written.existed,
        })
    }

    pub(crate) async fn delete(
        &self,
        ctx: &Context,
        bucket: &str,
        key: &str,
        condition: Condition,
    ) -> Result<Deleted> {
        self.check_key(key)?;
        self.check_idempotency_key(ctx)?;
        let session = self.begin(ctx, &[bucket]).await?;
        let (database, info) = session.find(ctx, bucket)?;
        let shard = session.state.shard_of(database, info, key);
        let write = Write {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            condition: condition.into(),
            delete: true,
            ..Write::default()
        };
        let (written, served) = self
            .write_one(ctx, &session, shard, database, write)
            .await?;
        Ok(Deleted {
            existed: written.existed,
            served,
        })
    }

    /// Has the leader of its shard carry out one write.
    pub(crate) async fn write_one(
        &self,
        ctx: &Context,
        session: &Session,
        shard: ShardId,
        database: &Database,
        write: Write,
    ) -> Result<(WrittenOne, Option<Served>)> {
        let operation = Operation::of_writes(Writes {
            database: database.name.clone(),
            writes: vec![write],
            batch: false,
        });
        let request = session.request(shard, ctx.idempotency_key.clone(), operation);
        let answer = self.route(&session.state, &request, ctx.deadline).await?;
        let Answer::Written(mut all) = answer else {
            return Err(unexpected());
        };
        let served = self.acknowledge(&request, &all);
        Ok((all.written.pop().ok_or_else(unexpected)?, served))
    }

    /// Remembers a write that the client is about to hear of: no later read here may show less.
    pub(crate) fn acknowledge(&self, request: &Request, written: &WrittenAll) -> Option<Served> {
        self.evidence.acknowledge(request.shard, written.index);
        self.outdate_rights(request);
        let seen = Seen {
            index: written.index,
            age_us: Some(0),
        };
        Served::of(request.shard, Some(seen), Consistency::Linearizable)
    }

    pub(crate) async fn batch(
        &self,
        ctx: &Context,
        batch: Vec<BatchWrite>,
    ) -> Result<Vec<Document>> {
        self.check_idempotency_key(ctx)?;
        self.check_batch(&batch)?;
        let buckets: Vec<&str> = batch.iter().map(|write| write.bucket.as_str()).collect();
        let session = self.begin(ctx, &buckets).await?;
        let mut shard = None;
        let mut writes = Vec::with_capacity(batch.len());
        let mut database_name = String::new();
        for (ordinal, write) in batch.into_iter().enumerate() {
            let (database, info) = session.find(ctx, &write.bucket)?;
            database_name.clone_from(&database.name);
            let write = self.batch_write(&session, ctx, database, info, write, ordinal)?;
            let this = session.state.shard_of(database, info, &write.key);
            if *shard.get_or_insert(this) != this {
                let message = format!(
                    "write {ordinal} belongs to another shard; documents that share a {{tag}} share a shard"
                );
                return Err(Error::new(ErrorCode::CrossShard, message));
            }
            writes.push(write);
        }
        let Some(shard) = shard else {
            return Ok(Vec::new());
        };
        let names: Vec<_> = writes
            .iter()
            .map(|write| (write.bucket.clone(), write.key.clone(), write.delete))
            .collect();
        let operation = Operation::of_writes(Writes {
            database: database_name,
            writes,
            batch: true,
        });
        let request = session.request(shard, ctx.idempotency_key.clone(), operation);
        let Answer::Written(all) = self.route(&session.state, &request, ctx.deadline).await? else {
            return Err(unexpected());
        };
        let served = self.acknowledge(&request, &all);
        let documents =
            names
                .into_iter()
                .zip(all.written)
                .map(|((bucket, key, deleted), written)| Document {
                    bucket,
                    key,
                    version: if deleted { 0 } else { written.version },
                    body: written.body,
                    served,
                    keep: None,
                });
        Ok(documents.collect())
    }

    fn batch_write(
        &self,
        session: &Session,
        ctx: &Context,
        database: &Database,
        info: &BucketInfo,
        write: BatchWrite,
        ordinal: usize,
    ) -> Result<Write> {
        let (body, delete, update) = match write.operation {
            BatchOperation::Put(body) => (body, false, false),
            BatchOperation::Update(operations) => (operations, false, true),
            BatchOperation::Delete => (Bytes::new(), true, false),
        };
        self.check_body(&body)?;
        let (key, condition) = if delete || update {
            (write.key, write.condition)
        } else {
            let named = match write.key.is_empty() {
                true => key_of_body(info, &body)?,
                false => Some(write.key),
            };
            session.place(ctx, database, info, named, write.condition, ordinal)?
        };
        self.check_key(&key)?;
        Ok(Write {
            bucket: write.bucket,
            key,
            condition: condition.into(),
            body,
            hidden: Bytes::new(),
            delete,
            update,
            ends_sessions: false,
        })
    }

    /// Refuses keys that cannot be stored.
    pub(crate) fn check_key(&self, key: &str) -> Result<()> {
        let limit = self.options.limits.key_bytes_max;
        if key.is_empty() {
            return Err(Error::bad_request("empty key"));
        }
        if key.len() > limit {
            return Err(Error::new(
                ErrorCode::KeyTooLong,
                format!("a key has at most {limit} bytes, this one {}", key.len()),
            ));
        }
        Ok(())
    }

    pub(crate) fn check_body(&self, body: &Bytes) -> Result<()> {
        let limit = self.options.limits.body_bytes_max;
        if body.len() > limit {
            let message = format!(
                "a document has at most {limit} bytes, this one {}",
                body.len()
            );
            return Err(Error::new(ErrorCode::BodyTooLarge, message));
        }
        Ok(())
    }

    pub(crate) fn check_idempotency_key(&self, ctx: &Context) -> Result<()> {
        let limit = self.options.limits.idempotency_key_bytes_max;
        match ctx.idempotency_key.as_deref() {
            Some(key) if key.is_empty() || key.len() > limit => Err(Error::bad_request(format!(
                "an idempotency key has 1 to {limit} bytes"
            ))),
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) fn check_batch(&self, batch: &[BatchWrite]) -> Result<()> {
        let bytes = |write: &BatchWrite| match &write.operation {
            BatchOperation::Put(body) | BatchOperation::Update(body) => body.len(),
            BatchOperation::Delete => 0,
        };
        self.check_batch_size(batch.len(), batch.iter().map(bytes).sum())
    }

    pub(crate) fn check_batch_size(&self, writes: usize, bytes: usize) -> Result<()> {
        if writes > BATCH_WRITES_MAX {
            let message =
                format!("a batch has at most {BATCH_WRITES_MAX} writes, this one {writes}");
            return Err(Error::new(ErrorCode::BodyTooLarge, message));
        }
        let limit = self.options.limits.batch_bytes_max;
        if bytes > limit {
            return Err(Error::new(
                ErrorCode::BodyTooLarge,
                format!("a batch has at most {limit} bytes, this one {bytes}"),
            ));
        }
        Ok(())
    }
}

impl Session {
    /// The database and a bucket of it.
    pub(crate) fn find<'a>(
        &'a self,
        ctx: &Context,
        bucket: &str,
    ) -> Result<(&'a Database, &'a BucketInfo)> {
        let database = self
            .state
            .database(&ctx.database)
            .ok_or_else(|| Error::database_not_found(&ctx.database))?;
        let info = database
            .buckets
            .get(bucket)
            .ok_or_else(|| Error::bucket_not_found(bucket))?;
        Ok((database, info))
    }

    /// Key and condition of a put: the key that it names, as far as the caller may, else a new one.
    fn place(
        &self,
        ctx: &Context,
        database: &Database,
        bucket: &BucketInfo,
        named: Option<String>,
        condition: Condition,
        ordinal: usize,
    ) -> Result<(String, Condition)> {
        if let Some(key) = named {
            let condition = policy::condition_of_named(&bucket.name, condition, &self.principal)?;
            return Ok((key, condition));
        }
        let key = match &ctx.idempotency_key {
            Some(key) => ids::derived_key(database.id, bucket.id, &self.principal, key, ordinal),
            None => ids::random_key(),
        };
        Ok((key, condition))
    }

    /// A request to a shard's leader.
    pub(crate) fn request(
        &self,
        shard: ShardId,
        idempotency_key: Option<String>,
        operation: Operation,
    ) -> Request {
        let principal = self.principal.clone();
        Request {
            shard,
            principal,
            idempotency_key,
            metadata_version: self.state.version,
            near: None,
            operation,
        }
    }
}

fn knows(state: &ClusterState, database: &str, buckets: &[&str]) -> bool {
    let known = |database: &Database| {
        buckets
            .iter()
            .all(|bucket| database.buckets.contains_key(*bucket))
    };
    state.database(database).is_some_and(known)
}

/// The key of the body's id, if it has one.
fn key_of_body(bucket: &BucketInfo, body: &Bytes) -> Result<Option<String>> {
    /// `id` only; the leader checks the rest, and this again.
    #[derive(Deserialize)]
    struct Identified<'a> {
        #[serde(borrow, default)]
        id: Option<&'a RawValue>,
    }
    // What cannot be read has no key either: the leader says why.
    // An array would pass for a struct of one member.
    let is_object = body.trim_ascii_start().starts_with(b"{");
    let id = serde_json::from_slice::<Identified<'_>>(body)
        .ok()
        .filter(|_| is_object)
        .and_then(|identified| identified.id);
    match id.map(|id| serde_json::from_str::<Option<String>>(id.get())) {
        None | Some(Ok(None)) => Ok(None),
        Some(Ok(Some(id))) => match parse_object_id(&id) {
            Some((named, key)) if named == bucket.name => Ok(Some(key)),
            Some(_) | None => Err(Error::bad_request(format!(
                "the id in the body is not one of bucket {}",
                bucket.name
            ))),
        },
        Some(Err(_)) => Err(Error::bad_request("the id in the body is no text")),
    }
}

/// What web caches may do with a document of this bucket.
fn kept(keep: forward::Keep, bucket: &BucketInfo) -> Keep {
    let edge_seconds = bucket.cache.map_or(0, |policy| policy.edge_max_seconds);
    Keep {
        is_public: keep.is_public,
        ttl: Duration::from_millis(keep.ttl_ms.into()),
        edge_max: Duration::from_secs(edge_seconds.into()),
    }
}

pub(crate) fn document(bucket: &str, record: Record) -> Document {
    Document {
        bucket: bucket.to_owned(),
        key: record.key,
        version: record.version,
        body: record.body,
        served: None,
        keep: None,
    }
}

/// An answer of a kind that the request has not: a fault of the answering node.
pub(crate) fn unexpected() -> Error {
    Error::internal(&"answer of another kind than the request")
}
