//! A value of a unique index, and a document that takes it.

use cluster::state::{BucketInfo, ClusterState, Database};
use document::index::ValueHash;
use proto::ShardId;
use proto::log::UniqueValue;

/// A value of a unique index.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Value {
    pub(crate) database: u32,
    pub(crate) bucket: u32,
    /// Id of the index.
    pub(crate) index: u32,
    pub(crate) hash: ValueHash,
}

/// A value and the document that takes it, or gives it up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Taking {
    pub(crate) value: Value,
    /// Key of the document.
    pub(crate) owner: String,
}

impl Value {
    /// The form for logs and other nodes.
    pub(crate) fn to_log(&self) -> UniqueValue {
        UniqueValue {
            database: self.database,
            bucket: self.bucket,
            index: self.index,
            value: self.hash.to_vec().into(),
        }
    }

    /// The shard of the value; `None`: the database does not know its bucket.
    pub(crate) fn shard(&self, state: &ClusterState) -> Option<ShardId> {
        let (database, bucket) = self.place(state)?;
        let key = format!("unique/{}/{}", self.index, hex::encode(self.hash));
        Some(state.shard_of(database, bucket, &key))
    }

    /// The shard of a document of the value's bucket, likewise.
    pub(crate) fn owner_shard(&self, state: &ClusterState, owner: &str) -> Option<ShardId> {
        let (database, bucket) = self.place(state)?;
        Some(state.shard_of(database, bucket, owner))
    }

    fn place<'s>(&self, state: &'s ClusterState) -> Option<(&'s Database, &'s BucketInfo)> {
        let mut databases = state.databases.values();
        let database = databases.find(|database| database.id == self.database)?;
        let mut buckets = database.buckets.values();
        let bucket = buckets
            .find(|bucket| bucket.id == self.bucket)
            .or_else(|| database.dropped_buckets.get(&self.bucket))?;
        Some((database, bucket))
    }
}
