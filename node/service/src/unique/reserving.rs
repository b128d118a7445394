//! Reserving values, and meeting the documents that have them (the protocol: [`crate::unique`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::state::ClusterState;
use document::acl::Principal;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{self, StreamExt as _};
use proto::ShardId;
use proto::log::{FenceClaims, ReleaseValue, ReserveValue, command};
use storage::machine::outcome::Outcome;

use super::{Held, Taking, Unique, Value};
use crate::Core;
use crate::documents::unexpected;
use crate::error::{Error, Result};
use crate::forward::Holder;

/// Values that one write reserves at the same time.
const AT_ONCE: usize = 16;
/// How long the owner of an unconfirmed reservation may need for its write before it is fenced: a few commits. Doubles each time that the
/// same write meets one again, so that a slow owner is not voided for ever.
const PATIENCE_FIRST: Duration = Duration::from_millis(20);
/// Longest such wait.
const PATIENCE_MAX: Duration = Duration::from_millis(320);

/// Why a value was not reserved.
#[derive(Debug)]
pub(crate) enum Denied {
    /// Another document has it.
    Taken {
        /// What was wanted, and for whom.
        taking: Taking,
        /// Key of the document that has it.
        owner: String,
        /// Whether the caller may know that.
        is_readable: bool,
    },
    /// A shard did not answer, or refused. The value may be reserved.
    Failed(Error),
}

impl From<Error> for Denied {
    fn from(error: Error) -> Denied {
        Denied::Failed(error)
    }
}

/// What meeting the owner of a reservation led to.
enum Met {
    /// It holds the value.
    Holds { is_readable: bool },
    /// It does not, and its reservation is gone or was renewed.
    Released,
}

impl Unique {
    /// Reserves all that `held` wants.
    ///
    /// Boxed with its type, since it closes a circle: a write reserves through requests to other leaders.
    ///
    /// # Errors
    /// The first one that is taken, else the first failure. The others may be reserved.
    pub(crate) fn reserve<'a>(
        &'a self,
        state: &'a Arc<ClusterState>,
        held: &'a mut Held,
        principal: &'a Principal,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<(), Denied>> {
        async move {
            let Ok(_place) = self.reserving.try_acquire() else {
                let message = "too many writes wait for values of unique indexes";
                return Err(Error::unavailable(message).into());
            };
            let core = self.core.upgrade();
            let core = core.ok_or_else(|| Error::unavailable("the node is stopping"))?;
            let wanted: Vec<Taking> = held.wanted().cloned().collect();
            let reserving = wanted.into_iter().map(|taking| {
                let core = &core;
                async move {
                    let reserved = core.reserve(state, &taking, principal, deadline).await;
                    reserved.map(|reserved| (taking, reserved))
                }
            });
            let mut reserving = stream::iter(reserving).buffer_unordered(AT_ONCE);
            let mut denied = None;
            // To the end, whatever becomes of some: what is on its way would otherwise be reserved behind our back.
            while let Some(reserved) = reserving.next().await {
                match reserved {
                    Ok((taking, reserved)) => held.reserved(taking, reserved),
                    Err(taken @ Denied::Taken { .. }) => denied = Some(taken),
                    Err(failed) => {
                        denied.get_or_insert(failed);
                    }
                }
            }
            denied.map_or(Ok(()), Err)
        }
        .boxed()
    }
}

impl Core {
    /// Reserves one value; gives the index of the entry.
    pub(super) async fn reserve(
        &self,
        state: &Arc<ClusterState>,
        taking: &Taking,
        principal: &Principal,
        deadline: Instant,
    ) -> Result<u64, Denied> {
        let shard = shard_of(taking.value.shard(state))?;
        let mut patience = PATIENCE_FIRST;
        loop {
            let reserve = ReserveValue {
                value: Some(taking.value.to_log()),
                owner: taking.owner.clone(),
            };
            let operation = command::Operation::ReserveValue(reserve);
            let outcome = self.command(state, shard, operation, deadline).await?;
            let (holder, is_own) = match outcome {
                Outcome::Reserved { holder, is_own } => (holder, is_own),
                Outcome::Rejected { .. } => return Err(not_listed().into()),
                _ => return Err(unexpected().into()),
            };
            if is_own {
                return Ok(holder.reserved);
            }
            let holder = Holder {
                owner: holder.owner,
                reserved: holder.reserved,
                confirmed: holder.confirmed,
            };
            let met = self
                .meet(
                    state,
                    &taking.value,
                    &holder,
                    principal,
                    Some(patience),
                    deadline,
                )
                .await?;
            match met {
                Met::Holds { is_readable } => {
                    return Err(Denied::Taken {
                        taking: taking.clone(),
                        owner: holder.owner,
                        is_readable,
                    });
                }
                Met::Released => patience = (patience * 2).min(PATIENCE_MAX),
            }
            if Instant::now() >= deadline {
                return Err(Error::unavailable("others compete for the value").into());
            }
        }
    }

    /// Meets the owner of a reservation as it was seen. With `patience`, an owner that has not confirmed gets time for its write.
    async fn meet(
        &self,
        state: &Arc<ClusterState>,
        value: &Value,
        holder: &Holder,
        principal: &Principal,
        patience: Option<Duration>,
        deadline: Instant,
    ) -> Result<Met> {
        let owner = holder.owner.as_str();
        let shard = shard_of(value.owner_shard(state, owner))?;
        let ask = || self.check_holds(state, shard, value, owner, principal, deadline);
        let mut holding = ask().await?;
        if let Some(patience) = patience.filter(|_| !holding.holds && !holder.confirmed) {
            tokio::time::sleep(patience).await;
            holding = ask().await?;
        }
        if holding.holds {
            let is_readable = holding.is_readable;
            return Ok(Met::Holds { is_readable });
        }
        let fence = FenceClaims {
            value: Some(value.to_log()),
            owner: owner.to_owned(),
        };
        self.metrics.unique_fences().increment(1);
        let operation = command::Operation::FenceClaims(fence);
        match self.command(state, shard, operation, deadline).await? {
            Outcome::Fenced { holds: false } => {}
            // It got the value just now. Whether the caller may read it is not known.
            Outcome::Fenced { holds: true } => return Ok(Met::Holds { is_readable: false }),
            Outcome::Rejected { .. } => return Err(not_listed()),
            _ => return Err(unexpected()),
        }
        let release = ReleaseValue {
            value: Some(value.to_log()),
            reserved: holder.reserved,
        };
        let operation = command::Operation::ReleaseValue(release);
        let shard = shard_of(value.shard(state))?;
        self.command(state, shard, operation, deadline).await?;
        Ok(Met::Released)
    }

    /// Makes a value free if it is reserved for a document that does not hold it.
    pub(super) async fn settle(
        &self,
        state: &Arc<ClusterState>,
        taking: &Taking,
        deadline: Instant,
    ) -> Result<()> {
        let Taking { value, owner } = taking;
        let holder = self.find_holder(state, value, deadline).await?;
        let Some(holder) = holder.filter(|holder| holder.owner == *owner) else {
            return Ok(());
        };
        let root = Principal::root();
        self.meet(state, value, &holder, &root, None, deadline)
            .await
            .map(|_| ())
    }
}

/// A shard refuses all about an index that its bucket does not list: it has not heard of the beginning yet, or has heard of the end.
pub(super) fn not_listed() -> Error {
    Error::unavailable("a unique index is being made or dropped")
}

/// A bucket that is gone has no values.
fn shard_of(shard: Option<ShardId>) -> Result<ShardId> {
    shard.ok_or_else(|| Error::unavailable("the bucket was dropped meanwhile"))
}
