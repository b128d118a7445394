//! Opening a data directory, and clearing what earlier runs left half done.

use std::fs::File;
use std::io::Read;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use proto::{ReplicaId, ShardId};
use xxhash_rust::xxh3::Xxh3Default;

use crate::engine::rocks::{DataOptions, Rocks};
use crate::engine::sealed::Sealed;
use crate::engine::{Batch, Column, Engine};
use crate::error::{Error, Result};
use crate::ids::{LogId, StoreId};
use crate::memory::{self, Memory};
use crate::raft_log::{LogOptions, Logs};
use crate::salvage;
use crate::seal::{Masters, Ring, Sealing};
use crate::tables::applied;

/// Settings of a data directory.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The log database.
    pub log: LogOptions,
    /// The data database.
    pub data: DataOptions,
    /// Encryption at rest.
    pub masters: Masters,
}

impl Options {
    /// Everything shared out of one budget of memory, as [`memory`] says.
    pub fn within(budget: usize) -> Self {
        Self {
            log: LogOptions {
                tail_bytes: memory::tail_bytes(budget),
                memtable_bytes: memory::log_memtable_bytes(budget),
            },
            data: DataOptions {
                memtable_bytes: memory::data_memtable_bytes(budget),
                block_cache_bytes: memory::cache_bytes(budget),
                kept_rows_bytes: memory::kept_rows_bytes(budget),
                ..DataOptions::default()
            },
            masters: Masters::Off,
        }
    }

    /// The data database's, below a ring or not.
    pub(crate) fn data_below(&self, ring: Option<&Arc<Ring>>) -> DataOptions {
        DataOptions {
            compress: ring.is_none(),
            ..self.data
        }
    }

    pub(crate) fn memory(&self) -> Memory {
        Memory::new(
            self.data.block_cache_bytes,
            self.data.memtable_bytes,
            self.data.kept_rows_bytes,
        )
    }
}

/// An open data directory.
#[derive(Clone)]
pub struct Storage {
    /// Raft logs and the store directory.
    pub logs: Logs,
    /// Applied data.
    pub engine: Arc<dyn Engine>,
    /// Encryption at rest; `None`: off.
    pub sealing: Option<Arc<Sealing>>,
    /// Replicas that must not be opened, see [`Lost`]. Everything else of them is as it should be.
    pub lost: Vec<Lost>,
}

/// A replica whose applied data ends before its log begins: the entries between are gone. A data database that lost its newest tables
/// (a MANIFEST cut short, an older copy put back) opens without complaint, and would answer with old documents; one that was
/// [salvaged](crate::salvage) lacks what could not be read.
///
/// It must neither serve nor take part in its group; its peers hold the data, for a new replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Of which shard.
    pub shard: ShardId,
    /// Which replica.
    pub replica: ReplicaId,
    /// What is missing, for people.
    pub what: String,
}

/// Opens `dir` (`log/` and `data/` below it), or makes it, and removes stores that are no longer wanted.
///
/// A snapshot that is being received stays so: its files and its sender may still be there. Not if it was being taken in, or if its
/// replica only waits for removal.
///
/// # Errors
/// [`Error::Locked`], [`Error::Format`], [`Error::Unpaired`], [`Error::Sealed`], [`Error::WrongMasterKey`], [`Error::KeysLost`]: nothing
/// was changed. [`Error::Corrupt`]: a database does not open or holds
/// less than was synced; if it is the data, [`salvage`](crate::salvage::salvage) helps.
pub fn open(dir: &Path, options: &Options) -> Result<Storage> {
    let memory = options.memory();
    let ring = Ring::open(dir, &options.masters)?;
    let logs = Logs::open_in(&dir.join("log"), &options.log, &memory, ring.clone())?;
    salvage::finish(dir)?;
    let below = options.data_below(ring.as_ref());
    let data = Rocks::open_in(&dir.join("data"), &below, &memory)?;
    let (engine, sealing): (Arc<dyn Engine>, _) = match ring {
        None => (Arc::new(data), None),
        Some(ring) => {
            let sealed = Arc::new(Sealed::new(data, Arc::clone(&ring)));
            let sealing = Sealing::new(ring, Arc::clone(&sealed), logs.clone());
            (sealed, Some(Arc::new(sealing)))
        }
    };
    check_pair(&logs, engine.as_ref(), dir)?;
    let lost = uncovered(&logs, engine.as_ref())?;
    for row in logs.directory().replicas() {
        if let Some(store) = row.receiving
            && !is_empty(engine.as_ref(), store)?
        {
            logs.directory().abort_receive(row.shard)?;
        }
    }
    drop_stores(&logs, engine.as_ref())?;
    Ok(Storage {
        logs,
        engine,
        sealing,
        lost,
    })
}

/// Refuses data under store ids that the directory has not given out: with another log, or none, those would be given out again, and
/// a new replica would begin with somebody's old state.
fn check_pair(logs: &Logs, engine: &dyn Engine, dir: &Path) -> Result<()> {
    let next = logs.directory().next_store();
    let view = engine.view();
    for column in Column::ALL {
        let Some(last) = view
            .scan_rev(column, Bound::Unbounded, Bound::Unbounded)
            .next()
            .transpose()?
        else {
            continue;
        };
        if last.0[..] >= next.prefix()[..] {
            return Err(Error::Unpaired {
                path: dir.to_owned(),
            });
        }
    }
    Ok(())
}

/// Whether no column holds anything of a store.
fn is_empty(engine: &dyn Engine, store: StoreId) -> Result<bool> {
    let view = engine.view();
    for column in Column::ALL {
        let (from, to) = (store.prefix(), store.end());
        let mut found = view.scan(column, Bound::Included(&from), Bound::Excluded(&to));
        if found.next().transpose()?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Replicas with a gap between their data and their log.
fn uncovered(logs: &Logs, engine: &dyn Engine) -> Result<Vec<Lost>> {
    let mut lost = Vec::new();
    for row in logs.directory().replicas() {
        let log = logs.group(row.log)?;
        let applied = applied::get_persisted(engine, row.data)?.id;
        lost.extend(
            gap(applied, log.state().purged, log.first()).map(|what| Lost {
                shard: row.shard,
                replica: row.replica,
                what,
            }),
        );
    }
    Ok(lost)
}

/// What is missing between the applied state and the log, if anything is.
pub(crate) fn gap(applied: Option<LogId>, purged: Option<LogId>, first: u64) -> Option<String> {
    let next = applied.map_or(0, |id| id.index.saturating_add(1));
    let missing = purged.map(|id| id.index) > applied.map(|id| id.index) || first > next;
    let end = applied.map_or_else(|| "nothing".to_owned(), |id| id.to_string());
    missing.then(|| format!("holds {end}, but its log begins at {first}: entries are missing"))
}

/// Removes the data of all stores that the directory lists as dropping, durably, and then their rows. Returns how many.
///
/// Whoever calls this while the node runs makes sure that nobody reads those stores any more, except through views.
///
/// # Errors
/// Any: the stores stay listed, call again.
pub fn drop_stores(logs: &Logs, engine: &dyn Engine) -> Result<usize> {
    let stores = logs.directory().dropping();
    if stores.is_empty() {
        return Ok(0);
    }
    let mut batch = Batch::new();
    for store in &stores {
        for column in Column::ALL {
            batch.delete_range(column, store.prefix().to_vec(), store.end().to_vec());
        }
    }
    engine.write(batch)?;
    engine.flush()?;
    for store in &stores {
        logs.directory().dropped(*store)?;
        tracing::info!(%store, "dropped store");
    }
    Ok(stores.len())
}

/// Length and XXH3-64 of a file.
pub(crate) fn checksum_file(path: &Path) -> Result<(u64, u64)> {
    let mut file = File::open(path)?;
    let mut hash = Xxh3Default::new();
    let mut buffer = vec![0; 256 << 10];
    let mut bytes = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((bytes, hash.digest()));
        }
        hash.update(&buffer[..count]);
        bytes += count as u64;
    }
}

/// What RocksDB says when it does not open: a held lock is a mistake of operation, not of the disk.
pub(crate) fn open_error(error: rocksdb::Error, path: &Path) -> Error {
    let text = error.as_ref();
    if text.contains("While lock file") || text.contains("lock hold by current process") {
        return Error::Locked {
            path: path.to_owned(),
        };
    }
    error.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_another_log_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let storage = open(dir.path(), &Options::default()).unwrap();
        let row = storage
            .logs
            .directory()
            .create_replica(ShardId(1), ReplicaId(1))
            .unwrap();
        let mut batch = Batch::new();
        batch.put(Column::State, row.data.prefix().to_vec(), "state");
        storage.engine.write(batch).unwrap();
        storage.engine.flush().unwrap();
        drop(storage);
        drop(open(dir.path(), &Options::default()).unwrap());
        std::fs::remove_dir_all(dir.path().join("log")).unwrap();
        let error = open(dir.path(), &Options::default()).err().unwrap();
        assert!(
            error
                .to_string()
                .contains("that belongs to it, or wipe both"),
            "{error}"
        );
    }

    #[test]
    fn a_transfer_survives_a_restart_unless_it_was_being_taken_in() {
        let dir = tempfile::tempdir().unwrap();
        let storage = open(dir.path(), &Options::default()).unwrap();
        let logs = &storage.logs;
        logs.directory()
            .create_replica(ShardId(1), ReplicaId(1))
            .unwrap();
        let store = logs.directory().begin_receive(ShardId(1)).unwrap();
        drop(storage);
        let storage = open(dir.path(), &Options::default()).unwrap();
        let receiving = |storage: &Storage| storage.logs.directory().replicas()[0].receiving;
        assert_eq!(receiving(&storage), Some(store));

        let mut batch = Batch::new();
        batch.put(Column::Documents, store.prefix().to_vec(), "document");
        storage.engine.write(batch).unwrap();
        storage.engine.flush().unwrap();
        drop(storage);
        let storage = open(dir.path(), &Options::default()).unwrap();
        assert_eq!(receiving(&storage), None);
        let left = storage.engine.get(Column::Documents, &store.prefix());
        assert_eq!(left.unwrap(), None);
    }

    #[test]
    fn a_dropped_replica_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let storage = open(dir.path(), &Options::default()).unwrap();
        let row = storage
            .logs
            .directory()
            .create_replica(ShardId(1), ReplicaId(1))
            .unwrap();
        let mut batch = Batch::new();
        batch.put(Column::Documents, row.data.prefix().to_vec(), "document");
        storage.engine.write(batch).unwrap();
        storage
            .logs
            .directory()
            .drop_replica(row.shard, row.replica)
            .unwrap();
        drop(storage);
        let storage = open(dir.path(), &Options::default()).unwrap();
        assert_eq!(
            storage
                .engine
                .get(Column::Documents, &row.data.prefix())
                .unwrap(),
            None
        );
        assert_eq!(storage.logs.directory().dropping(), []);
        assert_eq!(
            drop_stores(&storage.logs, storage.engine.as_ref()).unwrap(),
            0
        );
    }
}
