//! What is compiled for a bucket, once for each schema version.

use std::collections::HashMap;
use std::sync::Arc;

use cluster::state::{BucketInfo, Database};
use parking_lot::RwLock;

use crate::error::Result;

/// Compiled things by database and bucket id.
///
/// Bounded by the number of buckets that exist: dropped ones keep theirs until the process ends, which costs little and is rare.
pub(super) struct PerSchema<T: ?Sized> {
    compiled: RwLock<HashMap<(u32, u32), Compiled<T>>>,
}

struct Compiled<T: ?Sized> {
    schema_version: u64,
    thing: Arc<T>,
}

impl<T: ?Sized> Default for PerSchema<T> {
    fn default() -> PerSchema<T> {
        PerSchema {
            compiled: RwLock::default(),
        }
    }
}

impl<T: ?Sized> PerSchema<T> {
    /// What a bucket has under the database's present schema version, compiled now if need be.
    ///
    /// # Errors
    /// Those of `compile`; nothing is kept then.
    pub(super) fn get(
        &self,
        database: &Database,
        bucket: &BucketInfo,
        compile: impl FnOnce() -> Result<Arc<T>>,
    ) -> Result<Arc<T>> {
        let key = (database.id, bucket.id);
        let schema_version = database.schema_version;
        if let Some(known) = self.compiled.read().get(&key)
            && known.schema_version == schema_version
        {
            return Ok(Arc::clone(&known.thing));
        }
        let thing = compile()?;
        let compiled = Compiled {
            schema_version,
            thing: Arc::clone(&thing),
        };
        self.compiled.write().insert(key, compiled);
        Ok(thing)
    }
}
