//! What is remembered of buckets between two queries, so that planning one costs little: about how many documents there are, and which indexes
//! may be read.
//!
//! Nothing depends on it but how long a query takes: numbers are estimates, and indexes are remembered only as far as the view of the
//! query shows the same. Bounded by the buckets that were ever asked for, as layouts are.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use proto::ShardId;
use storage::machine::ReplicaView;
use storage::tables::indexes::ReadIndexes;

use crate::error::Result;

/// See the module.
#[derive(Default)]
pub(crate) struct Known {
    documents: RwLock<HashMap<Bucket, Count>>,
    indexes: RwLock<HashMap<Bucket, Arc<ReadIndexes>>>,
}

/// Shard, database id and bucket id.
type Bucket = (ShardId, u32, u32);

/// Where a query is planned, and how far the replica is at least.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) shard: ShardId,
    pub(super) database: u32,
    pub(super) bucket: u32,
    pub(super) applied: u64,
}

/// What was counted, and how far the shard was.
#[derive(Clone, Copy)]
struct Count {
    documents: u64,
    applied: u64,
}

impl Place {
    fn bucket(self) -> Bucket {
        (self.shard, self.database, self.bucket)
    }
}

impl Known {
    /// What was counted when the shard had at most an eighth fewer or more documents than now.
    pub(super) fn documents(&self, place: Place) -> Option<u64> {
        let count = *self.documents.read().get(&place.bucket())?;
        // No entry of the log writes many documents, as a rule.
        let is_recent = place.applied.abs_diff(count.applied) <= count.documents / 8;
        is_recent.then_some(count.documents)
    }

    pub(super) fn set_documents(&self, place: Place, documents: u64) {
        let applied = place.applied;
        self.documents
            .write()
            .insert(place.bucket(), Count { documents, applied });
    }

    /// The indexes that may be read in a view.
    ///
    /// # Errors
    /// A row does not decode.
    pub(super) fn indexes(&self, view: &ReplicaView<'_>, place: Place) -> Result<Arc<ReadIndexes>> {
        let (database, bucket) = (place.database, place.bucket);
        let known = self.indexes.read().get(&place.bucket()).cloned();
        if let Some(known) = known
            && known.hold_in(view, database, bucket, place.applied)?
        {
            return Ok(known);
        }
        let read = Arc::new(ReadIndexes::read(view, database, bucket)?);
        self.indexes
            .write()
            .insert(place.bucket(), Arc::clone(&read));
        Ok(read)
    }
}
