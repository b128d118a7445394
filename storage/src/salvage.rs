//! A damaged data database, rewritten without what cannot be read.
//!
//! A table with a rotten block stays a danger after the replica that it belonged to is gone: one table holds rows of many replicas, and
//! the first compaction that meets the block stops the whole database. RocksDB cannot drop such a table alone. So at a start, before
//! anything is served, each replica's rows are read to the end; those of sound ones are copied into a new database, which takes the
//! place of the old one. The old one stays beside it as `data.damaged` until the next time.
//!
//! What a replica loses here it has in its log, or has lost ([`Lost`](crate::Lost)): then its peers hold it.
//!
//! ```text
//! data.rebuilt   being written; of no worth while `data` is there
//! data.damaged   the last database that was replaced
//! ```
//!
//! Safe at every step: `data` goes aside only when `data.rebuilt` is whole and synced, and `finish` takes the second step after a crash
//! between the two.
//!
//! Lacks: the log database. What a node promised lies there, and a part of a promise is none.

use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use proto::{ReplicaId, ShardId};

use crate::engine::rocks::Rocks;
use crate::engine::{Column, Engine};
use crate::error::{Error, Result};
use crate::ids::StoreId;
use crate::open::Options;
use crate::raft_log::{Logs, ReplicaRow};
use crate::seal::Ring;
use crate::verify::{self, Finding};

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Salvaged {
    /// Replicas whose data was copied.
    pub kept: Vec<(ShardId, ReplicaId)>,
    /// Replicas whose data was left out, each with the reason.
    pub left_out: Vec<(ShardId, ReplicaId, String)>,
    /// Where the old database is.
    pub aside: PathBuf,
}

/// Reads all of the data database in `dir`, also what range deletions hide, and gives the first damage.
///
/// # Errors
/// [`Error::Locked`], or those of the log database. Other errors of the data than damage.
pub fn find_damage(dir: &Path, options: &Options) -> Result<Option<Finding>> {
    let memory = options.memory();
    let ring = Ring::open(dir, &options.masters)?;
    let _logs = Logs::open_in(&dir.join("log"), &options.log, &memory, ring)?;
    finish(dir)?;
    let data = dir.join("data");
    if data.exists() {
        verify::data::first_damage(&data, &memory)
    } else {
        Ok(None)
    }
}

/// Replaces the data database in `dir` by one with what can be read of it, less the data of the replicas in `condemned`.
///
/// Needs as much room as the data takes. Waits for the disk.
///
/// # Errors
/// [`Error::Locked`], or [`Error::Corrupt`] of the log database: nothing was done. Any other: the old database still stands.
pub fn salvage(
    dir: &Path,
    options: &Options,
    condemned: &[(ShardId, ReplicaId)],
) -> Result<Salvaged> {
    let memory = options.memory();
    let ring = Ring::open(dir, &options.masters)?;
    let below = options.data_below(ring.as_ref());
    let logs = Logs::open_in(&dir.join("log"), &options.log, &memory, ring)?;
    finish(dir)?;
    let (data, rebuilt, aside) = paths(dir);
    let old = match Rocks::open_read_only(&data, &below, &memory) {
        Ok(old) => Ok(old),
        Err(Error::Corrupt { what }) => Err(what),
        Err(error) => return Err(error),
    };
    let fresh = Rocks::open_in(&rebuilt, &below, &memory)?;
    let mut salvaged = Salvaged {
        kept: Vec::new(),
        left_out: Vec::new(),
        aside,
    };
    for row in logs.directory().replicas() {
        let id = (row.shard, row.replica);
        let read = match &old {
            Err(what) => Err(what.clone()),
            Ok(_) if condemned.contains(&id) => Err("it is condemned".to_owned()),
            Ok(old) => readable(old, &row).map(|()| old),
        };
        match read {
            Ok(old) => {
                copy(old, &fresh, row.data, &rebuilt)?;
                salvaged.kept.push(id);
            }
            Err(what) => salvaged.left_out.push((id.0, id.1, what)),
        }
    }
    fresh.flush()?;
    drop((fresh, old));
    sync(&rebuilt)?;
    match fs::remove_dir_all(&salvaged.aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    fs::rename(&data, &salvaged.aside)?;
    sync(dir)?;
    fs::rename(&rebuilt, &data)?;
    sync(dir)?;
    Ok(salvaged)
}

/// Ends what a crash left half done. The caller holds the lock of the log database.
pub(crate) fn finish(dir: &Path) -> Result<()> {
    let (data, rebuilt, aside) = paths(dir);
    if !rebuilt.exists() {
        return Ok(());
    }
    if data.exists() || !aside.exists() {
        fs::remove_dir_all(&rebuilt)?;
    } else {
        fs::rename(&rebuilt, &data)?;
    }
    sync(dir)
}

fn paths(dir: &Path) -> (PathBuf, PathBuf, PathBuf) {
    (
        dir.join("data"),
        dir.join("data.rebuilt"),
        dir.join("data.damaged"),
    )
}

fn sync(dir: &Path) -> Result<()> {
    Ok(File::open(dir)?.sync_all()?)
}

/// Reads all rows of a replica; what keeps one from being read is the reason to leave it out.
fn readable(old: &Rocks, row: &ReplicaRow) -> Result<(), String> {
    let (from, to) = (row.data.prefix(), row.data.end());
    Column::ALL.into_iter().try_for_each(|column| {
        let scrubbed = old.scrub(column, &from, &to, usize::MAX);
        scrubbed.map(drop).map_err(|error| error.to_string())
    })
}

/// Copies the rows of a store that was found readable, sealed as they are where they are; any error is one of the new database.
fn copy(old: &Rocks, fresh: &Rocks, store: StoreId, dir: &Path) -> Result<()> {
    let view = old.view();
    let mut files = Vec::new();
    for column in Column::ALL {
        let path = dir.join(format!("salvaged-{}.sst", column as u8));
        let (from, to) = (store.prefix(), store.end());
        let pairs = view.scan(column, Bound::Included(&from), Bound::Excluded(&to));
        let written = fresh.write_sst(pairs, column, store, &path)?;
        files.extend(written.map(|_| (column, path)));
    }
    fresh.ingest(&files)?;
    for (_, path) in files {
        // Linked into the database, unless the file system cannot.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
