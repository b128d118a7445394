//! Quotas: setting and showing them, and refusing what does not fit (`docs/limits.md`).
//!
//! A full database refuses at the leader of a document's shard, before anything is proposed. Deletes always go on: they are the way out.
//! Where only the number of documents is used up, writes to documents that are there go on, too.

use std::time::Instant;

use bytes::Bytes;
use cluster::quotas::{Full, Quota};
use cluster::state::{ClusterState, Database};
use document::acl::Principal;
use prost::Message as _;
use proto::log::attributed::What;
use proto::log::{Attributed, MetaCommand, SetQuota, meta_command};
use proto::{ErrorCode, ShardId};
use serde::Serialize;

use crate::Core;
use crate::context::Condition;
use crate::error::{Error, Result};
use crate::forward::{Answer, Failure, Operation, Request, Write, Writes};
use crate::leader::{Shards, find_database};
use crate::schema::meta_rejected;
use cluster::MetaOutcome;

/// A database's quota and what it takes; its serde form is the admin API's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QuotaStatus {
    /// Name of the database.
    pub database: String,
    /// Documents that it may have; 0: any number.
    pub documents_max: u64,
    /// Bytes of their keys and JSON; 0: any number.
    pub bytes_max: u64,
    /// Documents, as the shards last reported.
    pub documents: u64,
    /// Bytes, as the shards last reported.
    pub bytes: u64,
    /// Whether all shards have counted all documents.
    pub counted: bool,
    /// Whether writes are refused for it.
    pub full: bool,
}

impl QuotaStatus {
    fn of(state: &ClusterState, database: &Database, quota: &Quota) -> QuotaStatus {
        QuotaStatus {
            database: database.name.clone(),
            documents_max: quota.documents_max,
            bytes_max: quota.bytes_max,
            documents: quota.documents(),
            bytes: quota.bytes(),
            counted: quota.shards_complete() >= state.shards as usize,
            full: quota.full().is_some(),
        }
    }
}

impl Core {
    /// The quotas of all databases that have one.
    pub(crate) fn quotas(&self) -> Vec<QuotaStatus> {
        let state = self.metadata.current();
        let databases = state.databases.values();
        databases
            .filter_map(|database| {
                let quota = state.quotas.get(&database.id)?;
                Some(QuotaStatus::of(&state, database, quota))
            })
            .collect()
    }

    /// Sets what a database may take; gives what it takes.
    pub(crate) async fn set_quota(
        &self,
        database: &str,
        documents_max: u64,
        bytes_max: u64,
        deadline: Instant,
    ) -> Result<QuotaStatus> {
        let founded = self.metadata.founded()?;
        let state = self.current_metadata(&founded, deadline).await?;
        let id = find_database(&state, database)?.id;
        let set = SetQuota {
            database: id,
            documents_max,
            bytes_max,
        };
        self.govern(meta_command::Operation::SetQuota(set), deadline)
            .await?;
        let is_set =
            |quota: &Quota| (quota.documents_max, quota.bytes_max) == (documents_max, bytes_max);
        let known = self
            .metadata
            .wait(deadline, |state| state.quotas.get(&id).is_some_and(is_set))
            .await;
        let unseen = || {
            Error::new(
                ErrorCode::OutcomeUnknown,
                "the quota is set, but this node has not heard of it yet",
            )
        };
        let state = known.ok_or_else(unseen)?;
        let quota = state.quotas.get(&id).cloned().unwrap_or_default();
        Ok(QuotaStatus::of(
            &state,
            find_database(&state, database)?,
            &quota,
        ))
    }

    /// Has the metadata group carry out a command of its own keeping.
    pub(crate) async fn govern(
        &self,
        operation: meta_command::Operation,
        deadline: Instant,
    ) -> Result<()> {
        let request = Request {
            shard: ShardId::META,
            principal: Principal::root(),
            idempotency_key: None,
            metadata_version: 0,
            near: None,
            operation: Operation::Govern(encoded(operation)),
        };
        let state = self.metadata.founded()?;
        self.route(&state, &request, deadline).await.map(|_| ())
    }
}

/// A command without a stamp.
fn encoded(operation: meta_command::Operation) -> Bytes {
    MetaCommand {
        stamp_us: 0,
        operation: Some(operation),
    }
    .encode_to_vec()
    .into()
}

/// A command on behalf of whoever sends a request.
pub(crate) fn attributed(
    principal: &Principal,
    operation: meta_command::Operation,
) -> meta_command::Operation {
    meta_command::Operation::Attributed(Attributed {
        user: principal.user.clone().unwrap_or_default(),
        what: Some(What::Command(encoded(operation))),
    })
}

impl Shards {
    /// Carries out [`Core::govern`], on the metadata leader.
    pub(crate) async fn govern(
        &self,
        command: &Bytes,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        use meta_command::Operation as Meta;
        let command = MetaCommand::decode(command.clone()).ok();
        let Some(
            operation @ (Meta::SetQuota(_)
            | Meta::SetCachePolicy(_)
            | Meta::ReportUsage(_)
            | Meta::AnchorAudit(_)
            | Meta::AckConsumers(_)
            | Meta::Attributed(_)),
        ) = command.and_then(|command| command.operation)
        else {
            return Err(Error::bad_request("a command that this release does not know").into());
        };
        match self.propose_meta(operation, deadline).await? {
            MetaOutcome::Done => Ok(Answer::Done(true)),
            MetaOutcome::Rejected(rejection) => Err(meta_rejected(&rejection).into()),
        }
    }

    /// Refuses writes that do not fit into the database's quota.
    pub(crate) fn check_quota(
        &self,
        state: &ClusterState,
        database: &Database,
        writes: &Writes,
    ) -> Result<()> {
        let full = state.quotas.get(&database.id).and_then(Quota::full);
        match full {
            None => Ok(()),
            Some(Full::Documents) if !writes.writes.iter().any(may_insert) => Ok(()),
            Some(_) if writes.writes.iter().all(|write| write.delete) => Ok(()),
            Some(full) => Err(quota_exceeded(database, full)),
        }
    }
}

/// Whether a write may make a document.
fn may_insert(write: &Write) -> bool {
    let is_for_present = matches!(
        write.condition(),
        Some(Condition::Exists | Condition::Version(_))
    );
    !write.delete && !write.update && !is_for_present
}

fn quota_exceeded(database: &Database, full: Full) -> Error {
    let what = match full {
        Full::Documents => "documents",
        Full::Bytes => "bytes",
    };
    let message = format!(
        "database {} has used up its quota of {what}: delete documents, or have an operator raise it with `larder database quota`",
        database.name
    );
    Error::new(ErrorCode::QuotaExceeded, message)
}
