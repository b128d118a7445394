//! Getting over damage: a data directory is opened in spite of it, and what it cost this node is fetched from the peers.
//!
//! - **At a start**, if damage was noted or is met, the data database is rewritten without what cannot be read (`storage::salvage`).
//!   A replica whose log begins with its first entry is then as before. One whose log was purged is lost, and not opened.
//! - **While running**, replicas that are lost or quarantined are renewed in their place, one at a time: the metadata gets the intent,
//!   as if an operator had said `larder shard replace SHARD THIS-NODE`, and the shard's leader carries it out. A renewed replica has a
//!   new id, so nothing that the old one promised depends on it.
//! - **The metadata's own replica** (shard 0): if it is damaged the process ends, and the next start makes it anew from its log. If its
//!   log was purged, the node starts without it and knows of no cluster; who asks for its renewal is an operator, at another node.
//! - **The log database** cannot be repaired: in it lies what this node promised to others. The process ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cluster::machine::StateHandle;
use proto::{NodeId, ReplicaId, ShardId};
use raft::Host;
use service::{ReplaceRequest, Service};
use storage::engine::Column;
use storage::{Error, Lost, Options, Storage, salvage};

use super::integrity;
use crate::cli::exit::{Exit, Status};

/// Its presence says that the data database may be damaged; its content why.
const MARK: &str = "data-damaged";

/// How long the intent to renew a replica may take to be written; it is tried again.
const RENEW_TIME: Duration = Duration::from_secs(5);

/// What a node that cannot go on with its data directory should be told to do.
const WAY_OUT: &str = "leave this node stopped; its peers hold what was acknowledged. Give its replicas to another node, for each of \
     its shards `larder shard replace SHARD OTHER-NODE --from THIS-NODE`, and then use the machine with an empty data directory; \
     `larder data verify` lists all damage";

/// What an operator should do about a node that has lost its metadata.
const METADATA_LOST: &str = "this node's metadata (shard 0) is lost, and without it the node knows of no cluster; its peers hold it: \
     run `larder shard replace 0 THIS-NODE` at another node";

/// Notes that the data database in `dir` may be damaged, for the next start.
pub(super) fn note(dir: &Path, why: &str) {
    let noted = fs::write(dir.join(MARK), why).and_then(|()| File::open(dir)?.sync_all());
    if let Err(error) = noted {
        tracing::error!(%error, dir = %dir.display(), "damage is not noted for the next start");
    }
}

/// Ends the process: the log database cannot be read.
pub(super) fn end_for_log(dir: &Path, error: &Error) -> ! {
    tracing::error!(
        %error,
        dir = %dir.join("log").display(),
        "the log database is damaged, and with it what this node has promised; the process ends: {WAY_OUT}"
    );
    std::process::exit(i32::from(Status::DataDamaged as u8));
}

/// Opens the storage in `dir`, without what is damaged.
///
/// # Errors
/// [`Status::DataDamaged`]: the damage is where it cannot be repaired. Otherwise as [`storage::open`].
pub(super) fn open(dir: &Path, options: &Options) -> anyhow::Result<Storage> {
    let context = || format!("data directory {}", dir.display());
    let mark = dir.join(MARK);
    let condemned: Vec<_> = integrity::marks(dir)?
        .into_iter()
        .filter(|(shard, _)| shard.is_meta())
        .collect();
    if mark.exists() || !condemned.is_empty() {
        let damage = salvage::find_damage(dir, options)
            .map_err(hopeless)
            .with_context(context)?;
        if damage.is_some() || !condemned.is_empty() {
            rewrite(dir, options, &condemned).with_context(context)?;
        }
        for (shard, replica) in condemned {
            integrity::unmark(dir, shard, replica)?;
        }
        if mark.exists() {
            fs::remove_file(&mark).with_context(context)?;
        }
    }
    let storage = match open_checked(dir, options) {
        Err(error @ Error::Corrupt { .. }) => {
            tracing::error!(%error, "the data directory is damaged");
            let damage = salvage::find_damage(dir, options)
                .map_err(hopeless)
                .with_context(context)?;
            if damage.is_none() {
                return Err(hopeless(error)).with_context(context);
            }
            rewrite(dir, options, &[]).with_context(context)?;
            storage::open(dir, options).map_err(hopeless)
        }
        opened => opened.map_err(anyhow::Error::from),
    };
    storage.with_context(context)
}

/// Opens the storage, and reads the metadata to its end: a node serves from it before anything else would notice.
fn open_checked(dir: &Path, options: &Options) -> storage::Result<Storage> {
    let storage = storage::open(dir, options)?;
    let rows = storage.logs.directory().replicas();
    for row in rows.iter().filter(|row| row.shard.is_meta()) {
        for column in Column::ALL {
            let (from, to) = (row.data.prefix(), row.data.end());
            storage.engine.scrub(column, &from, &to, usize::MAX)?;
        }
    }
    Ok(storage)
}

fn hopeless(error: Error) -> anyhow::Error {
    if matches!(error, Error::Corrupt { .. }) {
        return Exit::new(Status::DataDamaged, format_args!("{error}: {WAY_OUT}")).into();
    }
    error.into()
}

fn rewrite(
    dir: &Path,
    options: &Options,
    condemned: &[(ShardId, ReplicaId)],
) -> anyhow::Result<()> {
    let salvaged = salvage::salvage(dir, options, condemned).map_err(hopeless)?;
    for (shard, replica, why) in &salvaged.left_out {
        tracing::error!(%shard, %replica, why, "replica left out of the rewritten data database");
    }
    tracing::warn!(
        kept = salvaged.kept.len(),
        left_out = salvaged.left_out.len(),
        aside = %salvaged.aside.display(),
        "the data database was damaged and is rewritten; the old one is kept aside, remove it when nothing is missing"
    );
    Ok(())
}

/// Has this node's lost and quarantined replicas renewed.
pub(super) struct Repair {
    node: NodeId,
    metadata: StateHandle,
    lost: Vec<Lost>,
}

impl Repair {
    pub(super) fn new(node: NodeId, metadata: StateHandle, lost: Vec<Lost>) -> Self {
        for Lost {
            shard,
            replica,
            what,
        } in &lost
        {
            match shard.is_meta() {
                true => tracing::error!(%replica, what, "{METADATA_LOST}"),
                false => {
                    tracing::error!(%shard, %replica, what, "replica is lost; it is fetched from its peers");
                }
            }
        }
        Self {
            node,
            metadata,
            lost,
        }
    }

    /// How many replicas of this node are lost and not renewed yet.
    pub(super) fn waiting(&self) -> usize {
        let state = self.metadata.current();
        let is_waiting = |lost: &&Lost| {
            let held = state.assignments(lost.shard);
            held.iter().any(|held| held.replica == lost.replica)
        };
        self.lost.iter().filter(is_waiting).count()
    }

    /// Begins the next renewal, unless one is under way: the shards' quorums are to be short of one replica at a time.
    pub(super) async fn renew(&self, host: &Host, service: &Service) {
        let state = self.metadata.current();
        let lost = self.lost.iter().map(|lost| (lost.shard, lost.replica));
        let wanted: Vec<_> = lost
            .chain(host.quarantined())
            .filter(|(shard, _)| !shard.is_meta())
            .filter(|(shard, replica)| {
                let held = state.assignments(*shard);
                held.iter().any(|held| held.replica == *replica)
            })
            .collect();
        let mut under_way = state.replacements.values().flatten();
        if wanted.is_empty() || under_way.any(|replacement| replacement.new.node == self.node) {
            return;
        }
        for (shard, replica) in wanted {
            let request = ReplaceRequest {
                shard,
                to: self.node,
                from: None,
                deadline: Instant::now() + RENEW_TIME,
            };
            match service.replace_replica(request).await {
                Ok(outcome) => {
                    metrics::counter!("larder_replicas_renewed_total").increment(1);
                    tracing::warn!(%shard, old = %replica, new = %outcome.new.replica, "damaged replica is being renewed from its peers");
                    return;
                }
                Err(error) => {
                    tracing::warn!(%shard, %replica, %error, "damaged replica cannot be renewed yet; it is tried again");
                }
            }
        }
    }
}

/// Where marks of quarantined replicas lie.
pub(super) fn quarantine_dir(dir: &Path) -> PathBuf {
    dir.join("quarantine")
}
