//! Whole buckets at once, for admins: import of what an export gave, and truncation.
//!
//! Both go page by page, and a page shard by shard: one log entry for all its writes in a shard. So both are cut off at any page without
//! harm, and doing them again finishes them: an import replaces what it has written before, a truncation deletes what is left.
//!
//! Lacks: one moment for the whole. Documents that others write meanwhile stay as they were left last.

use std::collections::BTreeMap;

use bytes::Bytes;
use document::id::parse_object_id;
use futures::stream::{self, StreamExt};
use indexmap::IndexMap;
use proto::log::AuditNote;
use proto::{Effect, ErrorCode, ShardId};
use serde_json::value::RawValue;

use crate::Core;
use crate::auth::policy;
use crate::context::{Condition, Context, ScanRange, Truncated};
use crate::documents::{Session, unexpected};
use crate::error::{Error, Result};
use crate::forward::{Answer, Operation, Write, Writes};
use crate::limits::BATCH_WRITES_MAX;

/// Shards that one import or truncation writes to at the same time.
const SHARDS_AT_ONCE: usize = 8;
/// What begins the name of a hidden member.
const HIDDEN: char = '_';

impl Core {
    /// Writes documents in the form of an export, one result for each in order; every one of them whatever happens to the others.
    pub(crate) async fn import(
        &self,
        ctx: &Context,
        bucket: &str,
        documents: Vec<Bytes>,
    ) -> Result<Vec<Result<()>>> {
        let session = self.begin(ctx, &[bucket]).await?;
        policy::require_admin(&session.principal)?;
        self.check_batch_size(documents.len(), documents.iter().map(Bytes::len).sum())?;
        let (database, info) = session.find(ctx, bucket)?;
        let mut results: Vec<Result<()>> = Vec::with_capacity(documents.len());
        let mut shards: BTreeMap<ShardId, Vec<(usize, Write)>> = BTreeMap::new();
        for (position, document) in documents.iter().enumerate() {
            results.push(Ok(()));
            match self.imported(bucket, document) {
                Ok(write) => {
                    let shard = session.state.shard_of(database, info, &write.key);
                    shards.entry(shard).or_default().push((position, write));
                }
                Err(error) => results[position] = Err(error),
            }
        }
        let name = database.name.as_str();
        let written: Vec<Vec<(usize, Result<()>)>> = stream::iter(shards)
            .map(|(shard, writes)| self.import_shard(ctx, &session, name, shard, writes))
            .buffer_unordered(SHARDS_AT_ONCE)
            .collect()
            .await;
        for (position, result) in written.into_iter().flatten() {
            results[position] = result;
        }
        Ok(results)
    }

    /// The write that brings back one exported document.
    fn imported(&self, bucket: &str, document: &Bytes) -> Result<Write> {
        let (id, body, hidden) = open(document)?;
        let key = match parse_object_id(&id) {
            Some((named, key)) if named == bucket => key,
            Some(_) | None => {
                return Err(Error::bad_request(format!(
                    "{id} is not an id of bucket {bucket}"
                )));
            }
        };
        self.check_key(&key)?;
        self.check_body(&body)?;
        Ok(Write {
            bucket: bucket.to_owned(),
            key,
            condition: Condition::None.into(),
            body,
            hidden,
            ..Write::default()
        })
    }

    /// All at once, or, if one of them is refused, one by one.
    async fn import_shard(
        &self,
        ctx: &Context,
        session: &Session,
        database: &str,
        shard: ShardId,
        writes: Vec<(usize, Write)>,
    ) -> Vec<(usize, Result<()>)> {
        let all: Vec<Write> = writes.iter().map(|(_, write)| write.clone()).collect();
        match self.write_all(ctx, session, database, shard, all).await {
            // A shard that does not answer is not asked once more for each of them.
            Err(error)
                if error.effect == Effect::None
                    && error.code != ErrorCode::Unavailable
                    && writes.len() > 1 => {}
            result => {
                let result = result.map(|_| ());
                return writes
                    .into_iter()
                    .map(|(position, _)| (position, result.clone()))
                    .collect();
            }
        }
        let mut results = Vec::with_capacity(writes.len());
        for (position, write) in writes {
            let one = self.write_all(ctx, session, database, shard, vec![write]);
            results.push((position, one.await.map(|_| ())));
        }
        results
    }

    /// Deletes one page of a bucket; predefined users and roles stay.
    pub(crate) async fn truncate(
        &self,
        ctx: &Context,
        bucket: &str,
        continuation: Option<Bytes>,
    ) -> Result<Truncated> {
        let range = ScanRange {
            continuation,
            limit: BATCH_WRITES_MAX as u64,
            ..ScanRange::default()
        };
        let is_first = range.continuation.is_none();
        let page = self.export(ctx, bucket, range).await?;
        let session = self.begin(ctx, &[bucket]).await?;
        if is_first {
            let note = AuditNote {
                action: "bucket_truncated".to_owned(),
                database: ctx.database.clone(),
                target: bucket.to_owned(),
                detail: String::new(),
            };
            Box::pin(self.note_by(&session.principal, note, ctx.deadline)).await?;
        }
        let (database, info) = session.find(ctx, bucket)?;
        let mut shards: BTreeMap<ShardId, Vec<Write>> = BTreeMap::new();
        for document in page.documents {
            if policy::is_reserved(bucket, &document.key) {
                continue;
            }
            let shard = session.state.shard_of(database, info, &document.key);
            shards.entry(shard).or_default().push(Write {
                bucket: bucket.to_owned(),
                key: document.key,
                condition: Condition::None.into(),
                delete: true,
                ..Write::default()
            });
        }
        let name = database.name.as_str();
        let deleted: Vec<Result<u64>> = stream::iter(shards)
            .map(|(shard, writes)| self.write_all(ctx, &session, name, shard, writes))
            .buffer_unordered(SHARDS_AT_ONCE)
            .collect()
            .await;
        let mut count = 0;
        for deleted in deleted {
            count += deleted?;
        }
        Ok(Truncated {
            deleted: count,
            continuation: page.continuation,
        })
    }

    /// Writes of one shard in one entry; gives how many of the documents existed before.
    async fn write_all(
        &self,
        ctx: &Context,
        session: &Session,
        database: &str,
        shard: ShardId,
        writes: Vec<Write>,
    ) -> Result<u64> {
        let operation = Operation::Write(Writes {
            database: database.to_owned(),
            writes,
            batch: true,
        });
        let request = session.request(shard, None, operation);
        let Answer::Written(all) = self.route(&session.state, &request, ctx.deadline).await? else {
            return Err(unexpected());
        };
        self.acknowledge(&request, &all);
        Ok(all.written.iter().filter(|one| one.existed).count() as u64)
    }
}

/// The id, the body as a client would send it, and the hidden members of an exported document (empty without any).
fn open(document: &Bytes) -> Result<(String, Bytes, Bytes)> {
    let broken = |error: serde_json::Error| {
        let message = format!("the document is no JSON object: {error}");
        Error::new(ErrorCode::SyntaxError, message)
    };
    let members: IndexMap<String, &RawValue> = serde_json::from_slice(document).map_err(broken)?;
    let id = members
        .get("id")
        .and_then(|id| serde_json::from_str::<String>(id.get()).ok())
        .ok_or_else(|| Error::bad_request("an imported document needs its id"))?;
    let (hidden, shown): (IndexMap<_, _>, IndexMap<_, _>) = members
        .into_iter()
        .partition(|(name, _)| name.starts_with(HIDDEN));
    if hidden.is_empty() {
        return Ok((id, document.clone(), Bytes::new()));
    }
    let text = |members: &IndexMap<String, &RawValue>| {
        serde_json::to_vec(members).map(Bytes::from).map_err(broken)
    };
    Ok((id, text(&shown)?, text(&hidden)?))
}
