//! Writes root and the predefined roles after a cluster was founded, then says so in the metadata.
//!
//! Each document is inserted only if it is absent, so a repetition after a failover restores nothing that an admin changed meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::state::{ClusterState, DEFAULT_DATABASE, Database};
use document::acl::Principal;
use proto::ErrorCode;
use proto::log::{SetBootstrapped, meta_command};
use tokio_util::sync::CancellationToken;

use super::{leads_metadata, next_look, tell_metadata};
use crate::Core;
use crate::auth::policy::{self, Predefined};
use crate::context::Condition;
use crate::error::{Error, Result};
use crate::forward::{Operation, Request, Write, Writes};

/// One document must be written within this; longer than a failover.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The job.
pub struct Bootstrap {
    core: Arc<Core>,
}

impl Bootstrap {
    pub(super) fn new(core: Arc<Core>) -> Bootstrap {
        Bootstrap { core }
    }

    /// Runs until the cluster is bootstrapped or `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut changes = self.core.metadata.changes();
        loop {
            let state = changes.borrow_and_update().clone();
            if state.bootstrapped {
                return;
            }
            let due = state
                .database(DEFAULT_DATABASE)
                .filter(|database| database.fenced_version > 0);
            if let Some(database) = due.filter(|_| leads_metadata(&self.core)) {
                let done = tokio::select! {
                    () = stop.cancelled() => return,
                    done = self.bootstrap(&state, database) => done,
                };
                if let Err(error) = done {
                    tracing::warn!(%error, "predefined users and roles are not written yet");
                }
            }
            if !next_look(&mut changes, &stop).await {
                return;
            }
        }
    }

    async fn bootstrap(&self, state: &Arc<ClusterState>, database: &Database) -> Result<()> {
        for document in policy::predefined(&state.root_password_hash) {
            self.insert(state, database, document).await?;
        }
        let operation = meta_command::Operation::SetBootstrapped(SetBootstrapped {});
        tell_metadata(&self.core, operation, Instant::now() + WRITE_TIMEOUT).await
    }

    async fn insert(
        &self,
        state: &ClusterState,
        database: &Database,
        document: Predefined,
    ) -> Result<()> {
        let bucket = database
            .buckets
            .get(document.bucket)
            .ok_or_else(|| Error::bucket_not_found(document.bucket))?;
        let write = Write {
            bucket: document.bucket.to_owned(),
            key: document.key.to_owned(),
            condition: Condition::Absent.into(),
            body: document.body.into(),
            hidden: Bytes::from(document.hidden),
            delete: false,
            update: false,
            ends_sessions: false,
        };
        let writes = Writes {
            database: database.name.clone(),
            writes: vec![write],
            batch: false,
        };
        let request = Request {
            shard: state.shard_of(database, bucket, document.key),
            principal: Principal::root(),
            idempotency_key: None,
            metadata_version: state.version,
            near: None,
            operation: Operation::Write(writes),
        };
        match self
            .core
            .route(state, &request, Instant::now() + WRITE_TIMEOUT)
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if error.code == ErrorCode::ObjectExists => Ok(()),
            Err(error) => Err(error),
        }
    }
}
