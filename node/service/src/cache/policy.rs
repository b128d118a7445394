//! Setting and showing the cache policies of buckets.

use std::time::Instant;

use cluster::caching::{CachePolicy, Scope};
use cluster::state::Database;
use proto::log::{SetCachePolicy, meta_command};
use serde::Serialize;

use super::ANSWER_AGE_MAX;
use crate::Core;
use crate::context::Consistency;
use crate::error::{Error, Result};
use crate::leader::{find_bucket, find_database};

/// A bucket's policy; its serde form is the admin API's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BucketCaching {
    /// Name of the database.
    pub database: String,
    /// Name of the bucket.
    pub bucket: String,
    /// What was set.
    #[serde(flatten)]
    pub policy: CachePolicy,
    /// Whether some shards have not confirmed it yet.
    pub pending: bool,
}

impl Core {
    /// The policies of all buckets that have one.
    pub(crate) fn cache_policies(&self) -> Vec<BucketCaching> {
        let state = self.metadata.current();
        let of_database = |database: &Database| -> Vec<BucketCaching> {
            let buckets = database.buckets.values();
            let shown = buckets.filter_map(|bucket| {
                Some(BucketCaching {
                    database: database.name.clone(),
                    bucket: bucket.name.clone(),
                    policy: bucket.cache?,
                    pending: bucket.version > database.fenced_version,
                })
            });
            shown.collect()
        };
        state.databases.values().flat_map(of_database).collect()
    }

    /// Sets a bucket's policy, and returns once every shard has applied it.
    ///
    /// # Errors
    /// `BadRequest`: a bound is out of order. With effect `applied`: not every shard has confirmed it yet.
    pub(crate) async fn set_cache_policy(
        &self,
        database: &str,
        bucket: &str,
        policy: CachePolicy,
        deadline: Instant,
    ) -> Result<BucketCaching> {
        policy.check().map_err(Error::bad_request)?;
        let founded = self.metadata.founded()?;
        let state = self.current_metadata(&founded, deadline).await?;
        let found = find_database(&state, database)?;
        let set = SetCachePolicy {
            database: found.id,
            bucket: find_bucket(found, bucket)?.id,
            policy: Some(policy.to_log()),
        };
        self.govern(meta_command::Operation::SetCachePolicy(set), deadline)
            .await?;
        let state = self.current_metadata(&state, deadline).await?;
        let version = find_database(&state, database)?.schema_version;
        let name = found.name.clone();
        self.wait_fenced(&name, version, deadline).await?;
        Ok(BucketCaching {
            database: name,
            bucket: bucket.to_owned(),
            policy,
            pending: false,
        })
    }

    /// How fresh a plain read over HTTP is: linearizable, but for buckets whose answers are cached anyway.
    pub(crate) fn plain_level(&self, database: &str, bucket: &str) -> Consistency {
        let state = self.metadata.current();
        let info = state.database(database);
        let info = info.and_then(|database| database.buckets.get(bucket));
        match info.and_then(|bucket| bucket.cache) {
            Some(policy) if policy.scope != Scope::Off => Consistency::Bounded(ANSWER_AGE_MAX),
            Some(_) | None => Consistency::Linearizable,
        }
    }
}
