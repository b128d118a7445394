//! The rules of the product, driven through the facade over an in-memory cluster.

mod accounts;
mod class_rights;
mod contract;
mod expiry;
mod freshness;
mod idempotency;
mod indexes;
mod queries;
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
use crate::{Condition, Context, Error, Written};

/// Bytes of a text.
fn body(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The value of a served body.
fn json(bytes: &Bytes) -> Value {
    serde_json::from_slice(bytes).expect("served bodies are JSON")
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
