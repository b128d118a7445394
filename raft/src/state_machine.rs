//! openraft's state machine over [`storage::machine::Replica`].
//!
//! Entries are applied in batches of what is ready, on the apply threads, one batch of a replica at a time. Snapshots
//! are logical: building one flushes and records a position; files are made only when a replica needs them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures::{FutureExt as _, Stream, StreamExt as _};
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use storage::ids::StoreId;
use storage::machine::{Applied, Replica};
use storage::raft_log::Logs;
use storage::snapshot::{self, Manifest};

use crate::applier::{Applier, ROUND_BYTES_MAX};
use crate::codec;
use crate::error::Error;
use crate::pool::Pool;
use crate::type_config::{Entry, LogId, Reply, SnapshotMeta, StoredMembership, TypeConfig};

/// Entries of one apply batch, counted.
const APPLY_ENTRIES_MAX: usize = 1024;

/// What openraft hands around as a snapshot.
pub(crate) enum SnapshotData {
    /// A replica of this node, to be sent: files are written from a fresh view when a receiver asks.
    Source(Arc<Replica>),
    /// Files that arrived, checksums not yet verified.
    Received {
        /// The store id that the keys were written under.
        store: StoreId,
        /// Position, membership and files.
        manifest: Manifest,
        /// Holds the files; removed after the install.
        dir: PathBuf,
    },
}

/// One replica's state machine.
pub(crate) struct StateMachine {
    replica: Arc<Replica>,
    logs: Logs,
    applier: Applier,
    pool: Pool,
    /// Snapshots of a replica of this very node pass through files below it.
    work_dir: PathBuf,
    recording: Recording,
}

/// What recording a snapshot does first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recording {
    /// Flushes, so that all that is applied counts. A flush that fails stops the group.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "openraft's suite asks the state machine alone")
    )]
    Flushes,
    /// Nothing: whoever asks has seen to the flush, and has met its failure.
    AsIs,
}

impl StateMachine {
    pub(crate) fn new(
        replica: Arc<Replica>,
        logs: Logs,
        applier: Applier,
        pool: Pool,
        work_dir: PathBuf,
        recording: Recording,
    ) -> Self {
        Self {
            replica,
            logs,
            applier,
            pool,
            work_dir,
            recording,
        }
    }

    async fn apply_batch(&self, batch: Batch) -> io::Result<()> {
        let replica = Arc::clone(&self.replica);
        let replies = self
            .applier
            .apply(replica, batch.entries, batch.bytes)
            .await
            .ok_or_else(|| io::Error::other("the apply thread panicked"))?
            .map_err(io::Error::other)?;
        for (responder, reply) in batch.responders.into_iter().zip(replies) {
            if let Some(responder) = responder {
                responder.send(Reply(reply));
            }
        }
        Ok(())
    }
}

/// Entries that were ready together, with who waits for each.
#[derive(Default)]
struct Batch {
    entries: Vec<storage::machine::Entry>,
    responders: Vec<Option<ApplyResponder<TypeConfig>>>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, (entry, responder): (Entry, Option<ApplyResponder<TypeConfig>>)) {
        let entry = codec::machine_entry(entry);
        if let storage::machine::Payload::Command(bytes) = &entry.payload {
            self.bytes += bytes.len();
        }
        self.entries.push(entry);
        self.responders.push(responder);
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= APPLY_ENTRIES_MAX || self.bytes >= ROUND_BYTES_MAX
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        position(&self.replica.applied()).map_err(io::Error::other)
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut entries = entries.fuse();
        while let Some(first) = entries.next().await {
            let mut batch = Batch::default();
            batch.push(first?);
            while !batch.is_full() {
                match entries.next().now_or_never() {
                    Some(Some(entry)) => batch.push(entry?),
                    Some(None) | None => break,
                }
            }
            self.apply_batch(batch).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            replica: Arc::clone(&self.replica),
            pool: self.pool.clone(),
            recording: self.recording,
        }
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta,
        data: SnapshotData,
    ) -> io::Result<()> {
        let (replica, logs, work_dir) = (
            Arc::clone(&self.replica),
            self.logs.clone(),
            self.work_dir.clone(),
        );
        self.pool
            .run(move || {
                let (store, manifest, dir) = match data {
                    SnapshotData::Received {
                        store,
                        manifest,
                        dir,
                    } => (store, manifest, dir),
                    SnapshotData::Source(from) => copied(&from, &replica, &logs, work_dir)?,
                };
                let installed = snapshot::install(&logs, &replica, store, &manifest);
                if let Err(error) = std::fs::remove_dir_all(&dir) {
                    tracing::debug!(%error, dir = %dir.display(), "snapshot folder not removed");
                }
                installed
            })
            .await
            .ok_or_else(|| io::Error::other("the snapshot thread panicked"))?
            .map_err(io::Error::other)
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotData>>> {
        let flushed = snapshot::recorded(&self.replica).map_err(io::Error::other)?;
        if flushed.id.is_none() {
            return Ok(None);
        }
        recorded_snapshot(&self.replica, &flushed).map(Some)
    }
}

/// Files of a replica in this process, written for `to` as if they had arrived over the network.
fn copied(
    from: &Replica,
    to: &Replica,
    logs: &Logs,
    work_dir: PathBuf,
) -> storage::Result<(StoreId, Manifest, PathBuf)> {
    let store = logs.directory().begin_receive(to.shard())?;
    let dir = work_dir.join(format!("store-{}", store.0));
    let manifest = snapshot::write_files(from, store, to.engine().is_sealed(), &dir)?;
    Ok((store, manifest, dir))
}

/// Records a snapshot: everything up to the recorded position is on disk without the Raft log.
pub(crate) struct Builder {
    replica: Arc<Replica>,
    pool: Pool,
    recording: Recording,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SnapshotData>> {
        let (replica, recording) = (Arc::clone(&self.replica), self.recording);
        let flushed = self
            .pool
            .run(move || match recording {
                Recording::Flushes => snapshot::record(&replica),
                Recording::AsIs => snapshot::recorded(&replica),
            })
            .await
            .ok_or_else(|| io::Error::other("the snapshot thread panicked"))?
            .map_err(io::Error::other)?;
        recorded_snapshot(&self.replica, &flushed)
    }
}

/// What is on disk at `flushed`, as openraft takes it.
fn recorded_snapshot(
    replica: &Arc<Replica>,
    flushed: &Applied,
) -> io::Result<SnapshotOf<TypeConfig, SnapshotData>> {
    let (last_log_id, last_membership) = position(flushed).map_err(io::Error::other)?;
    let meta = SnapshotMetaOf::<TypeConfig> {
        last_log_id,
        last_membership,
    };
    Ok(SnapshotOf::<TypeConfig, _> {
        meta,
        snapshot: SnapshotData::Source(Arc::clone(replica)),
    })
}

fn position(applied: &Applied) -> Result<(Option<LogId>, StoredMembership), Error> {
    Ok((
        applied.id.map(codec::log_id_from_storage),
        codec::stored_membership(applied.membership.as_ref())?,
    ))
}
