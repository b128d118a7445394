//! Requests to document shards that no client sends: commands on indexes and on the values of unique ones, and questions about them.
//!
//! All are sent again until the deadline, also when it is not known what became of an earlier try. That is harmless:
//!
//! | command | a second time |
//! |---|---|
//! | `BackfillIndex`, `BackfillNotingLists` | goes on from the position in the shard's state: takes the next page; with `after`, nothing unless the position is there; a complete index stays as it is |
//! | `PurgeIndex` | deletes the next page of what is left |
//! | `ClearBucket` | the same |
//! | `ReserveValue` | the value is the document's already, and gets a newer `reserved`; the answer says which. A try that is applied very late may reserve for a document that does not want the value any more: whoever meets that frees it |
//! | `ConfirmValue`, `ReleaseValue` | do nothing unless `reserved` is what was seen, and no index occurs twice |
//! | `FenceClaims` | raises the slot once more: some claims start over |
//! | `EndSessions`, `SettleSessions`, `ForgetRights` | nothing is left to do |
//!
//! A node of a release that does not know these requests refuses them, with effect none.

use std::sync::Arc;
use std::time::Instant;

use cluster::state::ClusterState;
use document::acl::Principal;
use prost::Message as _;
use proto::ShardId;
use proto::log::command;
use storage::machine::outcome::Outcome;

use crate::Core;
use crate::documents::unexpected;
use crate::error::{Error, Result};
use crate::forward::{Answer, Holder, Holding, Holds, Operation, Request, UniquePage, ValuesPage};
use crate::unique::Value;

impl Core {
    /// Proposes a command to a shard, through its leader, and gives what it led to. All of these commands may be repeated, and are, until
    /// the deadline.
    ///
    /// # Errors
    /// `Unavailable`, `OutcomeUnknown`: no answer in time; it may have taken effect. `DiskFull`: nothing happened.
    pub(crate) async fn command(
        &self,
        state: &Arc<ClusterState>,
        shard: ShardId,
        operation: command::Operation,
        deadline: Instant,
    ) -> Result<Outcome> {
        let command = proto::log::Command {
            tick: None,
            stamp_us: 0,
            operation: Some(operation),
        };
        let operation = Operation::Command(command.encode_to_vec().into());
        match self
            .ask(state, shard, Principal::root(), operation, deadline)
            .await?
        {
            Answer::Outcome(outcome) => {
                Outcome::decode(&outcome).map_err(|error| Error::internal(&error))
            }
            _ => Err(unexpected()),
        }
    }

    /// To whom a value of a unique index belongs, linearizably.
    pub(crate) async fn find_holder(
        &self,
        state: &Arc<ClusterState>,
        value: &Value,
        deadline: Instant,
    ) -> Result<Option<Holder>> {
        let Some(shard) = value.shard(state) else {
            return Ok(None);
        };
        let operation = Operation::FindHolder(value.to_log());
        match self
            .ask(state, shard, Principal::root(), operation, deadline)
            .await?
        {
            Answer::Holder(holder) => Ok(Some(holder)),
            Answer::Done(_) => Ok(None),
            _ => Err(unexpected()),
        }
    }

    /// Whether a document of a shard holds a value of a unique index, linearizably, and whether the principal may read it.
    pub(crate) async fn check_holds(
        &self,
        state: &Arc<ClusterState>,
        shard: ShardId,
        value: &Value,
        owner: &str,
        principal: &Principal,
        deadline: Instant,
    ) -> Result<Holding> {
        let operation = Operation::CheckHolds(Holds {
            value: Some(value.to_log()),
            owner: owner.to_owned(),
        });
        match self
            .ask(state, shard, principal.clone(), operation, deadline)
            .await?
        {
            Answer::Holding(holding) => Ok(holding),
            _ => Err(unexpected()),
        }
    }

    /// The documents that a shard's part of a unique index lacks next.
    pub(crate) async fn unique_page(
        &self,
        state: &Arc<ClusterState>,
        shard: ShardId,
        page: UniquePage,
        deadline: Instant,
    ) -> Result<ValuesPage> {
        let operation = Operation::UniquePage(page);
        match self
            .ask(state, shard, Principal::root(), operation, deadline)
            .await?
        {
            Answer::Values(page) => Ok(page),
            _ => Err(unexpected()),
        }
    }

    async fn ask(
        &self,
        state: &Arc<ClusterState>,
        shard: ShardId,
        principal: Principal,
        operation: Operation,
        deadline: Instant,
    ) -> Result<Answer> {
        let request = Request {
            shard,
            principal,
            idempotency_key: None,
            // Names do not occur, and ids mean the same everywhere.
            metadata_version: 0,
            near: None,
            operation,
        };
        Box::pin(self.route(state, &request, deadline)).await
    }
}
