//! The admin port's part about quotas and audit logs.
//!
//! A chain is `shard-<number>`, answered by the shard's leader through any node, or `node-<id>` of the asked node itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::response::Response;
use bytes::Bytes;
use proto::{ErrorCode, ShardId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use service::{Error, Service, shard_chain};
use storage::audit::{Checker, Hash};

use super::error::refuse;
use super::{database_name, respond};
use crate::audit::Log;

/// Setting a quota, and reading a part of a shard's log.
const TIME: Duration = Duration::from_secs(5);

/// A part of a chain, as it is sent.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Part<'p> {
    chain: &'p str,
    /// The place that the part goes on behind, and the hash there.
    behind: u64,
    behind_hash: String,
    /// The last place of the chain.
    last: u64,
    records: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    hash: String,
    record: Box<RawValue>,
}

/// The body of a change of a quota; 0: no limit.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct QuotaBody {
    #[serde(default)]
    documents_max: u64,
    #[serde(default)]
    bytes_max: u64,
}

pub(super) async fn set_quota(
    service: &Service,
    database: &str,
    body: &Bytes,
) -> Result<Response, Error> {
    let database = database_name(database).ok_or_else(|| {
        refuse(
            ErrorCode::BadRequest,
            "a database is 1 to 63 of A-Z a-z 0-9 _",
        )
    })?;
    let body: QuotaBody = serde_json::from_slice(body).map_err(|error| {
        refuse(
            ErrorCode::SyntaxError,
            format!("expected a JSON object with documentsMax and bytesMax: {error}"),
        )
    })?;
    let deadline = Instant::now() + TIME;
    let set = service.set_quota(database, body.documents_max, body.bytes_max, deadline);
    Ok(respond::value(&set.await?))
}

/// The names of the chains that this node can tell of.
pub(super) fn chains(service: &Service, node: &str) -> Response {
    let shards = service.shard_numbers().into_iter().map(shard_chain);
    let own = std::iter::once(node_chain(node));
    let chains: Vec<String> = shards.chain(own).collect();
    respond::value(&json!({ "chains": chains }))
}

fn node_chain(node: &str) -> String {
    format!("node-{node}")
}

/// The parameter `after`: a place in a chain.
pub(super) fn after(text: Option<&str>) -> Result<u64, Error> {
    match text {
        None => Ok(0),
        Some(text) => text
            .parse()
            .map_err(|_| refuse(ErrorCode::BadRequest, "after must be a number from 0 up")),
    }
}

pub(super) async fn part(
    service: &Service,
    node: &str,
    log: &Arc<Log>,
    chain: &str,
    after: u64,
) -> Result<Response, Error> {
    if chain == node_chain(node) {
        let log = Arc::clone(log);
        let read = tokio::task::spawn_blocking(move || log.part(after)).await;
        let part = read
            .map_err(|_| refuse(ErrorCode::Internal, "internal error"))?
            .map_err(|cause| {
                tracing::error!(%cause, "the audit log cannot be read");
                refuse(ErrorCode::Internal, "the audit log cannot be read")
            })?;
        let records = part
            .records
            .iter()
            .map(|(hash, text)| (hash, text.as_bytes()));
        return Ok(answer(chain, &part.before, part.last, records));
    }
    let number = chain
        .strip_prefix("shard-")
        .and_then(|number| number.parse().ok());
    let Some(number) = number else {
        let message = format!(
            "chains are shard-NUMBER, and {} at this node",
            node_chain(node)
        );
        return Err(refuse(ErrorCode::BadRequest, message));
    };
    let deadline = Instant::now() + TIME;
    let part = service.trail(ShardId(number), after, deadline).await?;
    let records = part.records.iter().map(|(hash, text)| (hash, &text[..]));
    Ok(answer(chain, &part.before, part.last, records))
}

fn answer<'r>(
    chain: &str,
    before: &Checker,
    last: u64,
    records: impl Iterator<Item = (&'r Hash, &'r [u8])>,
) -> Response {
    let row = |(hash, text): (&Hash, &[u8])| {
        let text = String::from_utf8_lossy(text).into_owned();
        // What is no JSON any more is shown as a text, which fits no hash.
        let record =
            RawValue::from_string(text.clone()).or_else(|_| serde_json::value::to_raw_value(&text));
        Some(Row {
            hash: hex::encode(hash),
            record: record.ok()?,
        })
    };
    respond::value(&Part {
        chain,
        behind: before.next.saturating_sub(1),
        behind_hash: hex::encode(before.hash),
        last,
        records: records.filter_map(row).collect(),
    })
}
