//! Snapshots of one replica's applied state: recorded, written as files, installed.
//!
//! Two things are called for under that name, and only one of them costs anything:
//!
//! - **Recording** ([`record`]) flushes the data database and says how far this replica would be after a crash. That is all consensus
//!   needs to purge a log. Nothing of its own is stored: the applied row on disk *is* the recorded snapshot, and after a restart
//!   [`recorded`] finds it again, there or further on.
//! - **Files** ([`write_files`]) are made when another replica needs them: one table file for each column, from one view, with the log
//!   id **of that view**, under the store id that the receiver named, so that it can take them in as they are. Where a disk is sealed
//!   they are sealed for the way ([`seal`](crate::seal)), and written anew by the receiver.
//!
//! Installing ([`install`]) is safe at every step: until the directory's one synced batch the old store is live and the new one is
//! removed at the next start; after it the new one is live and the old one is removed.
//!
//! Deliberately absent: how files travel (crate `raft`), and who decides that they should.

use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::engine::Column;
use crate::error::{Error, Result};
use crate::ids::{LogId, StoreId};
use crate::machine::{Applied, Replica};
use crate::open::{checksum_file, drop_stores};
use crate::raft_log::Logs;
use crate::seal::{TransferKey, transfer};
use crate::tables::applied;

/// A snapshot in files, and what it is a snapshot of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The last entry applied in it.
    pub last: LogId,
    /// The last membership applied in it: id of its entry, and the encoded `proto::log::Membership`.
    pub membership: (Option<LogId>, Bytes),
    /// At most one for each column; a column without data has none.
    pub files: Vec<FileInfo>,
    /// What the files are sealed with on their way; `None`: they are table files, to be taken in as they are.
    pub transfer_key: Option<TransferKey>,
}

/// One file of a [`Manifest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Which column it belongs to.
    pub column: Column,
    /// Its length.
    pub bytes: u64,
    /// XXH3-64 of all of it.
    pub checksum: u64,
    /// Where it is on this node.
    pub path: PathBuf,
}

/// Makes all that is applied durable, and returns how far that is: the snapshot that a log may be purged up to.
///
/// Waits for the disk. The flush covers every replica of the node, so several calls in a row cost little more than one.
///
/// # Errors
/// Those of the engine: nothing may be purged.
pub fn record(replica: &Replica) -> Result<Applied> {
    replica.engine().flush()?;
    recorded(replica)
}

/// How far a crash would leave the replica: the snapshot that is there without doing anything, at a start for example.
///
/// # Errors
/// [`Error::Corrupt`]: the applied row does not decode. Otherwise those of the engine.
pub fn recorded(replica: &Replica) -> Result<Applied> {
    replica.flushed_applied()
}

/// Writes the replica's state as it is now to files in `dir`, with keys under `target_store`. The files are synced.
///
/// Applying goes on meanwhile and is not part of them. The caller removes `dir`, after an error too. The files are sealed, by a key
/// that is made for them alone, if either side seals its disk: `is_sealed_there` says whether the receiver does.
///
/// # Errors
/// [`Error::Snapshot`]: nothing was ever applied. [`Error::Io`], [`Error::Engine`]: a file could not be written.
pub fn write_files(
    replica: &Replica,
    target_store: StoreId,
    is_sealed_there: bool,
    dir: &Path,
) -> Result<Manifest> {
    fs::create_dir_all(dir)?;
    let engine = replica.engine();
    let is_sealed = is_sealed_there || engine.is_sealed();
    let transfer_key = is_sealed.then(TransferKey::random).transpose()?;
    let (store, view) = loop {
        let store = replica.store();
        let view = engine.view();
        // The old store of an install that ended in between may be on its way out already.
        if replica.store() == store {
            break (store, view);
        }
    };
    let applied = applied::get_view(&*view, store)?;
    let refuse = |what: &str| Error::Snapshot {
        shard: replica.shard(),
        last: LogId::default(),
        what: what.to_owned(),
    };
    let last = applied
        .id
        .ok_or_else(|| refuse("nothing was applied yet"))?;
    let membership = applied
        .membership
        .ok_or_else(|| refuse("no membership was applied yet"))?;
    let mut files = Vec::new();
    for column in Column::ALL {
        let path = dir.join(format!("{}.sst", column as u8));
        let (from, to) = (store.prefix(), store.end());
        let pairs = view.scan(column, Bound::Included(&from), Bound::Excluded(&to));
        let info = match &transfer_key {
            None => engine.write_sst(pairs, column, target_store, &path)?,
            Some(key) => transfer::write(key, pairs, column, &path)?,
        };
        files.extend(info.map(|info| FileInfo {
            column,
            bytes: info.bytes,
            checksum: info.checksum,
            path,
        }));
    }
    Ok(Manifest {
        last,
        membership,
        files,
        transfer_key,
    })
}

/// Makes received files the replica's state: verifies them, takes them in under `store`, switches the directory and the replica over,
/// and removes the old store. The files are gone afterwards; the caller removes what an error leaves of them.
///
/// `store` is the one that [`Directory::begin_receive`](crate::raft_log::Directory::begin_receive) gave and that the files were
/// written for. Waits for the disk.
///
/// # Errors
/// [`Error::Snapshot`]: the files are not what the manifest says. [`Error::NotReceiving`]: another transfer took over. Both leave the
/// replica as it was. After any other error the replica must be opened anew.
pub fn install(logs: &Logs, replica: &Replica, store: StoreId, manifest: &Manifest) -> Result<()> {
    verify(replica, manifest)?;
    ingest(replica, store, manifest)?;
    logs.directory()
        .finish_receive(replica.shard(), store, manifest.last)?;
    replica.switch_store(store)?;
    tracing::info!(shard = %replica.shard(), %store, last = %manifest.last, "installed snapshot");
    // Point reads that began in the old store look again in the new one, and all others hold views.
    if let Err(error) = drop_stores(logs, &**replica.engine()) {
        tracing::warn!(%error, "replaced store stays on disk until the next start");
    }
    Ok(())
}

/// Checks length and checksum of every file.
fn verify(replica: &Replica, manifest: &Manifest) -> Result<()> {
    for file in &manifest.files {
        let found = checksum_file(&file.path)?;
        if found != (file.bytes, file.checksum) {
            let (bytes, checksum) = found;
            let what = format!(
                "file of column {:?} has {bytes} bytes with checksum {checksum:016x}, the manifest says {} and {:016x}",
                file.column, file.bytes, file.checksum
            );
            return Err(Error::Snapshot {
                shard: replica.shard(),
                last: manifest.last,
                what,
            });
        }
    }
    Ok(())
}

/// Makes table files of sealed ones, beside them: sealed as this node does, if it does.
fn unpack(
    replica: &Replica,
    store: StoreId,
    manifest: &Manifest,
    key: &TransferKey,
) -> Result<Vec<(Column, PathBuf)>> {
    let mut files = Vec::new();
    for file in &manifest.files {
        let path = file.path.with_extension("unpacked");
        let pairs = transfer::read(key, file.column, &file.path)?;
        let written = replica
            .engine()
            .write_sst(pairs, file.column, store, &path)?;
        files.extend(written.map(|_| (file.column, path)));
    }
    Ok(files)
}

/// Takes the files in, and checks that they hold the state of the manifest.
fn ingest(replica: &Replica, store: StoreId, manifest: &Manifest) -> Result<()> {
    let files = match &manifest.transfer_key {
        None => manifest
            .files
            .iter()
            .map(|file| (file.column, file.path.clone()))
            .collect::<Vec<_>>(),
        Some(key) => unpack(replica, store, manifest, key)?,
    };
    replica.engine().ingest(&files)?;
    let found = applied::get(&**replica.engine(), store)?;
    if found.id == Some(manifest.last) && found.membership.as_ref() == Some(&manifest.membership) {
        return Ok(());
    }
    let name = |id: Option<LogId>| id.map_or_else(|| "nothing".to_owned(), |id| id.to_string());
    let what = if found.id == Some(manifest.last) {
        let membership = found.membership.and_then(|(id, _)| id);
        format!(
            "the files hold the membership of {}, announced was that of {}",
            name(membership),
            name(manifest.membership.0)
        )
    } else {
        format!("the files hold {} for store {store}", name(found.id))
    };
    Err(Error::Snapshot {
        shard: replica.shard(),
        last: manifest.last,
        what,
    })
}

#[cfg(test)]
mod tests;
