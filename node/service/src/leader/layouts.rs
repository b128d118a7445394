//! Compiled classes, made once for each schema version.

use std::collections::HashMap;
use std::sync::Arc;

use cluster::state::{BucketInfo, Database};
use document::schema::Layout;
use parking_lot::RwLock;

use crate::error::{Error, Result};

/// Layouts by database and bucket id.
///
/// Bounded by the number of buckets that exist: dropped ones keep a layout until the process ends, which costs little and is rare.
#[derive(Default)]
pub(crate) struct Layouts {
    compiled: RwLock<HashMap<(u32, u32), Compiled>>,
}

struct Compiled {
    schema_version: u64,
    layout: Arc<Layout>,
}

impl Layouts {
    /// The layout of a bucket under the database's present schema.
    pub(crate) fn get(&self, database: &Database, bucket: &BucketInfo) -> Result<Arc<Layout>> {
        let key = (database.id, bucket.id);
        let known = self
            .compiled
            .read()
            .get(&key)
            .filter(|known| known.schema_version == database.schema_version)
            .map(|known| Arc::clone(&known.layout));
        if let Some(layout) = known {
            return Ok(layout);
        }
        let layout = database
            .schema
            .layout(&bucket.name)
            .ok_or_else(|| Error::bucket_not_found(&bucket.name))?;
        let compiled = Compiled {
            schema_version: database.schema_version,
            layout: Arc::new(layout),
        };
        let layout = Arc::clone(&compiled.layout);
        self.compiled.write().insert(key, compiled);
        Ok(layout)
    }
}
