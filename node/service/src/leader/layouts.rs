//! Compiled classes, made once for each schema version.

use std::collections::HashMap;
use std::sync::Arc;

use cluster::state::{BucketInfo, Database};
use document::schema::Layout;
use parking_lot::RwLock;

use crate::error::{Error, Result};

/// Layouts by database and bucket id, each with the schema version that it was made from.
///
/// Bounded by the number of buckets that exist: dropped ones keep a layout until the process ends, which costs little and is rare.
#[derive(Default)]
pub(crate) struct Layouts {
    compiled: RwLock<HashMap<(u32, u32), (u64, Arc<Layout>)>>,
}

impl Layouts {
    /// The layout of a bucket under the database's present schema.
    pub(crate) fn get(&self, database: &Database, bucket: &BucketInfo) -> Result<Arc<Layout>> {
        let key = (database.id, bucket.id);
        if let Some((version, layout)) = self.compiled.read().get(&key) {
            if *version == database.schema_version {
                return Ok(Arc::clone(layout));
            }
        }
        let layout = database.schema.layout(&bucket.name).ok_or_else(|| Error::bucket_not_found(&bucket.name))?;
        let layout = Arc::new(layout);
        self.compiled.write().insert(key, (database.schema_version, Arc::clone(&layout)));
        Ok(layout)
    }
}
