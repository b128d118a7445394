//! Compiled indexes, made once for each schema version.

use std::sync::Arc;

use cluster::state::{BucketInfo, Database};
use document::index::Candidate;

use crate::error::Result;

/// Indexes that writes keep up, by database and bucket id.
#[derive(Default)]
pub(crate) struct Indexes;

impl Indexes {
    /// The indexes of a bucket under the database's present schema version, ascending by id.
    pub(crate) fn get(
        &self,
        _database: &Database,
        _bucket: &BucketInfo,
    ) -> Result<Arc<[Candidate]>> {
        todo!()
    }
}
