//! Compiled indexes; changing indexes on the metadata leader; how far they are in a shard.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cluster::MetaOutcome;
use cluster::state::{BucketInfo, Database};
use document::acl::Principal;
use document::index::{Candidate, Definition, Index, IndexSecret, SECRET_BYTES};
use proto::log::{CreateIndex, DropIndexes, meta_command};
use proto::{Effect, ShardId};
use storage::machine::outcome::Progress;
use storage::tables;

use super::per_schema::PerSchema;
use super::{Shards, find_bucket, find_database};
use crate::auth::policy;
use crate::error::{Error, Result};
use crate::forward::{
    Answer, ChangeIndexes, Failure, IndexProgress, IndexVerb, IndexesComplete, Request,
};
use crate::indexes::right_of;
use crate::quotas::attributed;
use crate::schema::meta_rejected;

/// Indexes of buckets that writes keep up.
#[derive(Default)]
pub(crate) struct Indexes(PerSchema<[Candidate]>);

impl Indexes {
    /// The indexes of a bucket under the database's present schema version, ascending by id.
    ///
    /// # Errors
    /// `Internal`: what the metadata holds does not decode.
    pub(crate) fn get(&self, database: &Database, bucket: &BucketInfo) -> Result<Arc<[Candidate]>> {
        let kept_up = database
            .indexes_of(bucket.id)
            .filter(|index| index.state.is_kept_up());
        let decode = |info: &cluster::IndexInfo| {
            let index = Index::from_bytes(&info.compiled_bytes());
            let index = index.map_err(|error| Error::internal(&error).with_effect(Effect::None))?;
            Ok(Candidate { id: info.id, index })
        };
        self.0
            .get(database, bucket, || kept_up.map(decode).collect())
    }
}

impl Shards {
    /// Makes or drops indexes; gives a schema version that includes it. On the metadata leader.
    pub(super) async fn change_indexes(
        &self,
        request: &Request,
        change: &ChangeIndexes,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        self.barrier(ShardId::META, deadline).await?;
        let operation = self.index_command(change, &request.principal)?;
        let operation = attributed(&request.principal, operation);
        match self.propose_meta(operation, deadline).await? {
            MetaOutcome::Done => {}
            MetaOutcome::Rejected(rejection) => return Err(meta_rejected(&rejection).into()),
        }
        // What was just applied is published before the barrier returns.
        self.barrier(ShardId::META, deadline)
            .await
            .map_err(|_| Failure::Unknown)?;
        let state = self.metadata_now();
        let database = find_database(&state, &change.database)?;
        Ok(Answer::Version(database.schema_version))
    }

    /// The command for a change that the caller may make, and that makes sense now. Apply decides again whether it does.
    fn index_command(
        &self,
        change: &ChangeIndexes,
        caller: &Principal,
    ) -> Result<meta_command::Operation> {
        let state = self.metadata_now();
        let database = find_database(&state, &change.database)?;
        let bucket = find_bucket(database, &change.bucket)?;
        let verb = IndexVerb::try_from(change.verb).unwrap_or(IndexVerb::Unspecified);
        policy::check_schema_right(database, &change.bucket, right_of(verb), caller)?;
        let dropping = |definition: String| {
            meta_command::Operation::DropIndexes(DropIndexes {
                database: database.id,
                bucket: bucket.id,
                definition: definition.into(),
            })
        };
        let given = || Definition::parse(&change.definition);
        Ok(match verb {
            IndexVerb::Create => {
                let creation = self.index_creation(database, bucket, &given()?)?;
                meta_command::Operation::CreateIndex(creation)
            }
            IndexVerb::Drop => dropping(given()?.to_json()),
            IndexVerb::DropAll => dropping(String::new()),
            IndexVerb::Unspecified => return Err(Error::bad_request("unknown index request")),
        })
    }

    fn index_creation(
        &self,
        database: &Database,
        bucket: &BucketInfo,
        definition: &Definition,
    ) -> Result<CreateIndex> {
        let layout = self.layouts.get(database, bucket)?;
        let mut creation = CreateIndex {
            database: database.id,
            bucket: bucket.id,
            definition: definition.to_json().into(),
            secret: Bytes::new(),
        };
        if definition.is_hashed() {
            // Chance is here and not in apply, which takes it if the database has no secret yet.
            let secret: [u8; SECRET_BYTES] = rand::random();
            creation.secret = Bytes::copy_from_slice(&secret);
        }
        match IndexSecret::of_bytes(&creation.secret) {
            Some(secret) => Index::compile_hashed(definition, &layout, &secret, bucket.id)?,
            None => Index::compile(definition, &layout)?,
        };
        Ok(creation)
    }

    /// Which indexes hold every document of their bucket in this shard.
    pub(super) async fn index_progress(
        &self,
        shard: ShardId,
        asked: &IndexProgress,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let replica = self.replica(shard)?;
        let IndexProgress {
            database,
            bucket,
            indexes,
        } = asked.clone();
        let read = move || {
            let mut complete = Vec::new();
            for index in indexes {
                let progress = tables::indexes::progress(&replica, database, bucket, index)?;
                if progress == Progress::Complete {
                    complete.push(index);
                }
            }
            Ok(IndexesComplete { complete })
        };
        Ok(Answer::IndexesComplete(self.read(deadline, read).await?))
    }
}
