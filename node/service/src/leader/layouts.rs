//! Compiled classes.

use std::sync::Arc;

use cluster::state::{BucketInfo, Database};
use document::schema::Layout;

use super::per_schema::PerSchema;
use crate::error::{Error, Result};

/// Layouts of buckets.
#[derive(Default)]
pub(crate) struct Layouts(PerSchema<Layout>);

impl Layouts {
    /// The layout of a bucket under the database's present schema.
    pub(crate) fn get(&self, database: &Database, bucket: &BucketInfo) -> Result<Arc<Layout>> {
        self.0.get(database, bucket, || {
            let layout = database.schema.layout(&bucket.name);
            let layout = layout.ok_or_else(|| Error::bucket_not_found(&bucket.name))?;
            Ok(Arc::new(layout))
        })
    }
}
