//! The rules of the product, driven through the facade over an in-memory cluster.

mod accounts;
mod caching;
mod changes;
mod class_rights;
mod clearing;
mod consumers;
mod contract;
mod expiry;
mod freshness;
mod fuzz;
mod governance;
mod idempotency;
mod indexes;
mod live;
mod queries;
mod readers;
mod replicas;
mod rights;
mod routing;
mod scans;
mod schemas;
mod sessions;
mod unique;
mod updates;

use bytes::Bytes;
use serde_json::Value;

use crate::testing::TestCluster;
use crate::{Condition, Context, Error, ScanRange, Written};

/// Bytes of a text.
fn body(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The value of a served body.
fn json(bytes: &Bytes) -> Value {
    serde_json::from_slice(bytes).expect("served bodies are JSON")
}

/// The keys of a whole list of `Demo`, read in pages.
async fn keys_of_scan(cluster: &TestCluster, ctx: &Context, limit: u64) -> Vec<String> {
    let (mut keys, mut continuation) = (Vec::new(), None);
    loop {
        let range = ScanRange {
            limit,
            continuation,
            ..ScanRange::default()
        };
        let page = cluster.service.scan(ctx, "Demo", range).await;
        let page = page.expect("a page");
        keys.extend(page.documents.into_iter().map(|document| document.key));
        continuation = page.continuation;
        if continuation.is_none() {
            return keys;
        }
    }
}

/// Puts into `Demo`.
async fn put(
    cluster: &TestCluster,
    ctx: &Context,
    key: &str,
    text: &str,
    condition: Condition,
) -> Result<Written, Error> {
    cluster
        .service
        .put(ctx, "Demo", Some(key), body(text), condition)
        .await
}
