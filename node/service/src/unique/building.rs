//! Taking what is stored into a unique index that is being built: page by page, each after its values are reserved.
//!
//! Where it is lies in the state of the shard, so any node goes on where another stopped, and two at once do no harm: apply takes a page
//! only where the shard's own progress is.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use cluster::state::{ClusterState, Database, IndexInfo};
use document::acl::Principal;
use document::index::ValueHash;
use futures::stream::{self, StreamExt as _};
use proto::ShardId;
use proto::log::{BackfillIndex, command};
use storage::machine::outcome::{Outcome, Progress};

use super::reserving::not_listed;
use super::{Denied, Taking, Value};
use crate::Core;
use crate::documents::unexpected;
use crate::error::{Error, Result};
use crate::forward::{UniquePage, ValuesPage};

/// Values that are reserved at the same time.
const AT_ONCE: usize = 16;
/// Documents that one entry takes in. More than a page shows: others may have come in between.
const ENTRY_DOCUMENTS: u32 = 1_000;

/// Why a unique index cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// Two documents have the same value.
    Same {
        /// Their keys.
        keys: [String; 2],
    },
    /// A document has too many values.
    Crowded {
        /// Its key.
        key: String,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Same { keys: [one, other] } => {
                write!(f, "the documents {one:?} and {other:?} have the same value")
            }
            Violation::Crowded { key } => write!(f, "the document {key:?} has too many values"),
        }
    }
}

/// What became of a page.
enum Paged {
    /// All its values are reserved.
    Reserved,
    /// A document changed in between: look again.
    Changed,
    /// The index cannot be unique.
    Violated(Violation),
}

impl Core {
    /// Takes the documents of one shard into a unique index that is being built, page by page, each after its values are reserved. Goes on
    /// where an earlier call stopped.
    ///
    /// # Errors
    /// A shard did not answer in time: call again.
    pub(crate) async fn backfill_unique(
        &self,
        state: &Arc<ClusterState>,
        database: &Database,
        index: &IndexInfo,
        shard: ShardId,
        deadline: Instant,
    ) -> Result<std::result::Result<(), Violation>> {
        let place = UniquePage {
            database: database.id,
            bucket: index.bucket,
            index: index.id,
        };
        loop {
            if Instant::now() >= deadline {
                return Err(Error::unavailable("the building of the index goes on"));
            }
            let page = self.unique_page(state, shard, place, deadline).await?;
            if page.is_complete {
                return Ok(Ok(()));
            }
            if let Some(key) = page.crowded {
                return Ok(Err(Violation::Crowded { key }));
            }
            match self.reserve_page(state, place, &page, deadline).await? {
                Paged::Reserved => {}
                Paged::Changed => continue,
                Paged::Violated(violation) => return Ok(Err(violation)),
            }
            let backfill = BackfillIndex {
                database: place.database,
                bucket: place.bucket,
                index: place.index,
                page: ENTRY_DOCUMENTS,
                after: Some(page.after),
                upto: page.upto,
            };
            let operation = command::Operation::BackfillNotingLists(backfill);
            match self.command(state, shard, operation, deadline).await? {
                Outcome::Progress(Progress::Complete) => return Ok(Ok(())),
                Outcome::Progress(Progress::More { .. }) => {}
                Outcome::Progress(Progress::Impossible { key }) => {
                    return Ok(Err(Violation::Crowded { key }));
                }
                Outcome::Rejected { .. } => return Err(not_listed()),
                _ => return Err(unexpected()),
            }
        }
    }

    async fn reserve_page(
        &self,
        state: &Arc<ClusterState>,
        place: UniquePage,
        page: &ValuesPage,
        deadline: Instant,
    ) -> Result<Paged> {
        let root = Principal::root();
        let mut takings = Vec::new();
        for document in &page.documents {
            for hash in &document.values {
                let hash = ValueHash::try_from(&hash[..]).map_err(|_| unexpected())?;
                let value = Value {
                    database: place.database,
                    bucket: place.bucket,
                    index: place.index,
                    hash,
                };
                let owner = document.key.clone();
                takings.push((document.version, Taking { value, owner }));
            }
        }
        let root = &root;
        let reserving = takings
            .into_iter()
            .map(|(version, taking): (u64, Taking)| async move {
                let reserved = self.reserve(state, &taking, root, deadline).await;
                (version, reserved)
            });
        let mut reserving = stream::iter(reserving).buffer_unordered(AT_ONCE);
        while let Some((version, reserved)) = reserving.next().await {
            match reserved {
                Ok(_) => {}
                Err(Denied::Failed(error)) => return Err(error),
                Err(Denied::Taken { taking, owner, .. }) => {
                    return self.judge(state, version, &taking, owner, deadline).await;
                }
            }
        }
        Ok(Paged::Reserved)
    }

    /// Another document held a value after the page was read. If the page's one has it still, by the version
    /// of the page, both had it at once.
    async fn judge(
        &self,
        state: &Arc<ClusterState>,
        version: u64,
        taking: &Taking,
        other: String,
        deadline: Instant,
    ) -> Result<Paged> {
        let Some(shard) = taking.value.owner_shard(state, &taking.owner) else {
            return Err(Error::unavailable("the bucket was dropped meanwhile"));
        };
        let root = Principal::root();
        let holding = self
            .check_holds(state, shard, &taking.value, &taking.owner, &root, deadline)
            .await?;
        if holding.holds && holding.version == version {
            let keys = [other, taking.owner.clone()];
            return Ok(Paged::Violated(Violation::Same { keys }));
        }
        Ok(Paged::Changed)
    }
}
