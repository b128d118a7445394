//! The directory of stores: which replicas this node has, where their log and data lie, and what is still to be removed.
//!
//! Each change is one synced batch, and memory follows only after it. Calls block for a sync: not for an async thread.
//!
//! Life of a store: allocated (`next store` moves in the same batch, so that no id is used twice), then live in a replica's row as
//! `log`, `data` or `receiving`, then listed as dropping until its data is gone from both databases. `log` stays for a replica's life;
//! `data` changes with each installed snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use proto::{NodeId, ReplicaId, ShardId};
use rocksdb::{DB, Direction, IteratorMode, WriteBatch, WriteOptions};

use super::layout::{self, Fields, Row};
use super::writer::{self, Write, Writer};
use crate::error::{Error, Result};
use crate::format;
use crate::ids::{LogId, StoreId};
use crate::seal::{self, Ring};

/// A replica of this node and its stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaRow {
    /// Of which shard.
    pub shard: ShardId,
    /// Which replica of it.
    pub replica: ReplicaId,
    /// Where its log lies.
    pub log: StoreId,
    /// Where its applied data lies.
    pub data: StoreId,
    /// Where a snapshot is being received, if one is.
    pub receiving: Option<StoreId>,
}

impl ReplicaRow {
    fn put(&self) -> Write {
        let key = self.key();
        let receiving = self.receiving.unwrap_or_default();
        let value = layout::seal(
            &key,
            &[&self.log.prefix(), &self.data.prefix(), &receiving.prefix()],
        );
        Write::Put(key, value)
    }

    fn key(&self) -> Vec<u8> {
        layout::row_key(
            Row::Replica,
            &layout::replica_suffix(self.shard, self.replica),
        )
    }
}

/// The rows in memory.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    pub(super) node: NodeId,
    pub(super) cluster: Option<String>,
    next_store: u64,
    pub(super) replicas: BTreeMap<(ShardId, ReplicaId), ReplicaRow>,
    pub(super) dropping: BTreeSet<StoreId>,
}

impl Rows {
    /// The shard's replica on this node; of several, the newest, since an older one only waits for its removal.
    fn replica(&self, shard: ShardId) -> Result<ReplicaRow> {
        let range = (shard, ReplicaId(0))..=(shard, ReplicaId(u64::MAX));
        self.replicas
            .range(range)
            .next_back()
            .map(|(_, row)| *row)
            .ok_or(Error::NoReplica { shard })
    }

    /// Stores that were never given out, or belong to two owners.
    pub(super) fn contradictions(&self) -> Vec<String> {
        let of = |row: &ReplicaRow| [Some(row.log), Some(row.data), row.receiving];
        let owned = self.replicas.values().flat_map(of).flatten();
        let mut seen = BTreeSet::new();
        owned
            .chain(self.dropping.iter().copied())
            .filter(|store| store.0 >= self.next_store || !seen.insert(*store))
            .map(|store| format!("directory: store {store} was never given out, or twice"))
            .collect()
    }

    fn put(&mut self, row: ReplicaRow) -> Write {
        self.replicas.insert((row.shard, row.replica), row);
        row.put()
    }

    fn allocate(&mut self) -> (StoreId, Write) {
        let store = StoreId(self.next_store);
        self.next_store += 1;
        (
            store,
            put(Row::NextStore, &[], &self.next_store.to_be_bytes()),
        )
    }

    fn drop_store(&mut self, store: StoreId) -> Write {
        self.dropping.insert(store);
        put(Row::Dropping, &store.prefix(), &[])
    }
}

fn put(row: Row, suffix: &[u8], fields: &[u8]) -> Write {
    let key = layout::row_key(row, suffix);
    let value = layout::seal(&key, &[fields]);
    Write::Put(key, value)
}

/// See the module.
pub struct Directory {
    writer: Arc<Writer>,
    rows: Mutex<Rows>,
}

impl Directory {
    pub(super) fn new(writer: Arc<Writer>, rows: Rows) -> Self {
        Self {
            writer,
            rows: Mutex::new(rows),
        }
    }

    /// This node: random, made when the database was.
    pub fn node_id(&self) -> NodeId {
        self.rows.lock().node
    }

    /// The cluster that the data belongs to, once it is known.
    pub fn cluster_id(&self) -> Option<String> {
        self.rows.lock().cluster.clone()
    }

    /// Binds the data directory to a cluster, for ever.
    ///
    /// # Errors
    /// [`Error::WrongCluster`]: it belongs to another; nothing changed.
    pub fn set_cluster_id(&self, cluster: &str) -> Result<()> {
        self.change(|rows| match &rows.cluster {
            Some(found) if found == cluster => Ok(((), Vec::new())),
            Some(found) => Err(Error::WrongCluster {
                found: found.clone(),
                wanted: cluster.to_owned(),
            }),
            None => {
                rows.cluster = Some(cluster.to_owned());
                Ok(((), vec![put(Row::ClusterId, &[], cluster.as_bytes())]))
            }
        })
    }

    /// All replicas, by shard and replica id.
    pub fn replicas(&self) -> Vec<ReplicaRow> {
        self.rows.lock().replicas.values().copied().collect()
    }

    /// Adds a replica with a log and a data store of its own, both empty. One that exists is returned as it is.
    ///
    /// # Errors
    /// Of the log database only.
    pub fn create_replica(&self, shard: ShardId, replica: ReplicaId) -> Result<ReplicaRow> {
        self.change(|rows| {
            if let Some(row) = rows.replicas.get(&(shard, replica)) {
                return Ok((*row, Vec::new()));
            }
            let (log, _) = rows.allocate();
            let (data, next) = rows.allocate();
            let row = ReplicaRow {
                shard,
                replica,
                log,
                data,
                receiving: None,
            };
            Ok((row, vec![next, rows.put(row)]))
        })
    }

    /// Removes a replica; its stores are dropping from then on. One that does not exist is fine.
    ///
    /// # Errors
    /// Of the log database only.
    pub fn drop_replica(&self, shard: ShardId, replica: ReplicaId) -> Result<()> {
        self.change(|rows| {
            let Some(row) = rows.replicas.remove(&(shard, replica)) else {
                return Ok(((), Vec::new()));
            };
            let stores = [Some(row.log), Some(row.data), row.receiving];
            let mut writes = vec![Write::Delete(row.key())];
            writes.extend(
                stores
                    .into_iter()
                    .flatten()
                    .map(|store| rows.drop_store(store)),
            );
            Ok(((), writes))
        })
    }

    /// Allocates the store that a snapshot of the shard is received into. An earlier one that was not finished is dropping.
    ///
    /// # Errors
    /// [`Error::NoReplica`]: nothing changed.
    pub fn begin_receive(&self, shard: ShardId) -> Result<StoreId> {
        self.change(|rows| {
            let mut row = rows.replica(shard)?;
            let (store, next) = rows.allocate();
            let mut writes = vec![next];
            writes.extend(row.receiving.replace(store).map(|old| rows.drop_store(old)));
            writes.push(rows.put(row));
            Ok((store, writes))
        })
    }

    /// Gives up the store that is being received into, if there is one: it is dropping.
    ///
    /// # Errors
    /// [`Error::NoReplica`]: nothing changed.
    pub fn abort_receive(&self, shard: ShardId) -> Result<()> {
        self.change(|rows| {
            let mut row = rows.replica(shard)?;
            let Some(store) = row.receiving.take() else {
                return Ok(((), Vec::new()));
            };
            Ok(((), vec![rows.drop_store(store), rows.put(row)]))
        })
    }

    /// Makes the received store the replica's data, its former one dropping, and `purge` the purge point of its log: one synced batch.
    /// Before it a crash leaves the old store with the old log, after it the new one.
    ///
    /// # Errors
    /// [`Error::NoReplica`], [`Error::NotReceiving`]: nothing changed.
    pub fn finish_receive(&self, shard: ShardId, store: StoreId, purge: LogId) -> Result<()> {
        let mut rows = self.rows.lock();
        let mut changed = rows.clone();
        let mut row = changed.replica(shard)?;
        if row.receiving != Some(store) {
            return Err(Error::NotReceiving { shard, store });
        }
        let old = std::mem::replace(&mut row.data, store);
        row.receiving = None;
        let writes = vec![changed.drop_store(old), changed.put(row)];
        let (done, written) = writer::wait();
        self.writer
            .group(row.log)?
            .install(&self.writer, purge, writes, done)?;
        written()?;
        *rows = changed;
        Ok(())
    }

    /// The first store id that was not given out yet.
    pub(crate) fn next_store(&self) -> StoreId {
        StoreId(self.rows.lock().next_store)
    }

    /// Stores whose data is to be removed from both databases.
    pub fn dropping(&self) -> Vec<StoreId> {
        self.rows.lock().dropping.iter().copied().collect()
    }

    /// The data database holds nothing of `store` any more, durably. Removes what the log database holds, and the store's row.
    ///
    /// # Errors
    /// Of the log database only.
    pub fn dropped(&self, store: StoreId) -> Result<()> {
        self.change(|rows| {
            if !rows.dropping.remove(&store) {
                return Ok(((), Vec::new()));
            }
            let range = Write::DeleteRange(store.prefix().to_vec(), store.end().to_vec());
            Ok((
                (),
                vec![
                    range,
                    Write::Delete(layout::row_key(Row::Dropping, &store.prefix())),
                ],
            ))
        })?;
        self.writer.forget(store);
        Ok(())
    }

    /// Changes a copy of the rows, writes the difference durably, and only then takes the copy.
    fn change<T>(&self, change: impl FnOnce(&mut Rows) -> Result<(T, Vec<Write>)>) -> Result<T> {
        let mut rows: MutexGuard<'_, Rows> = self.rows.lock();
        let mut changed = rows.clone();
        let (value, writes) = change(&mut changed)?;
        if !writes.is_empty() {
            self.writer.write_durably(writes)?;
            *rows = changed;
        }
        Ok(value)
    }
}

/// Reads the directory of `db`, or makes it.
///
/// # Errors
/// [`Error::Format`]: a newer release wrote it. [`Error::Corrupt`]: a row does not read.
pub(super) fn load(db: &DB, path: &Path) -> Result<Rows> {
    if let Some((_, rows)) = read(db, path)? {
        return Ok(rows);
    }
    create(db, path)?;
    let made = read(db, path)?.map(|(_, rows)| rows);
    made.ok_or_else(|| Error::corrupt(format!("{}: the directory was not made", path.display())))
}

/// Reads the directory of `db` with its format version; `None` without one.
///
/// # Errors
/// As [`load`].
pub(super) fn read(db: &DB, path: &Path) -> Result<Option<(u32, Rows)>> {
    let Some(version) = field(db, Row::Format, |fields| fields.u32())? else {
        return Ok(None);
    };
    format::check(version, path)?;
    let missing =
        |what: &str| Error::corrupt(format!("{}: the directory has no {what}", path.display()));
    let mut rows = Rows {
        node: NodeId(
            field(db, Row::NodeId, |fields| fields.u64())?.ok_or_else(|| missing("node id"))?,
        ),
        cluster: field(db, Row::ClusterId, |fields| {
            String::from_utf8(std::mem::take(&mut fields.0).to_vec()).ok()
        })?,
        next_store: field(db, Row::NextStore, |fields| fields.u64())?
            .ok_or_else(|| missing("next store id"))?,
        replicas: BTreeMap::new(),
        dropping: BTreeSet::new(),
    };
    each(db, Row::Replica, |key, value| {
        let row = decode_replica(key, value)?;
        rows.replicas.insert((row.shard, row.replica), row);
        Ok(())
    })?;
    each(db, Row::Dropping, |key, value| {
        layout::unseal(key, value)?;
        let store = Fields(&key[layout::HEAD..])
            .last_u64()
            .ok_or_else(|| layout::corrupt(key, "does not name a store"))?;
        rows.dropping.insert(StoreId(store));
        Ok(())
    })?;
    Ok(Some((version, rows)))
}

/// The rows of a new database, one synced batch.
///
/// # Errors
/// [`Error::Corrupt`]: it is not new. Its rows would be overwritten, and store ids given out a second time.
fn create(db: &DB, path: &Path) -> Result<()> {
    if db
        .iterator(IteratorMode::Start)
        .next()
        .transpose()?
        .is_some()
    {
        return Err(Error::corrupt(format!(
            "{}: the directory has no format version",
            path.display()
        )));
    }
    write_rows(
        db,
        [
            put(Row::Format, &[], &format::PLAIN_VERSION.to_be_bytes()),
            put(Row::NodeId, &[], &random_id()?.to_be_bytes()),
            put(Row::NextStore, &[], &1_u64.to_be_bytes()),
        ],
    )
}

/// Writes rows in one synced batch, before there is a writer.
fn write_rows<const N: usize>(db: &DB, rows: [Write; N]) -> Result<()> {
    let mut batch = WriteBatch::default();
    for row in rows {
        if let Write::Put(key, value) = row {
            batch.put(key, value);
        }
    }
    let mut options = WriteOptions::default();
    options.set_sync(true);
    Ok(db.write_opt(batch, &options)?)
}

/// From the system's own generator: an id that no other node has. Never 0, which means "none" in messages.
fn random_id() -> Result<u64> {
    let mut bytes = [0; size_of::<u64>()];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes).max(1))
}

/// Whether entries are sealed.
pub(super) fn is_sealed(db: &DB) -> Result<bool> {
    Ok(field(db, Row::Sealed, |_| Some(()))?.is_some())
}

/// Compares what the directory says with the keys that there are, and notes that the directory is sealed from now on.
///
/// # Errors
/// [`Error::KeysLost`]: it is sealed, and its keys are not there. Nothing was changed.
pub(super) fn check_seal(db: &DB, path: &Path, ring: Option<&Ring>) -> Result<()> {
    let is_sealed = is_sealed(db)?;
    if is_sealed && ring.is_none_or(Ring::is_fresh) {
        let dir = path.parent().unwrap_or(path);
        return Err(Error::KeysLost {
            path: dir.join(seal::KEY_FILE),
        });
    }
    let Some(ring) = ring.filter(|_| !is_sealed) else {
        return Ok(());
    };
    ring.settle()?;
    // A release that knows nothing of seals must not open it.
    write_rows(
        db,
        [
            put(Row::Format, &[], &format::SEALED_VERSION.to_be_bytes()),
            put(Row::Sealed, &[], &[]),
        ],
    )
}

/// The only field of a row that there is once.
fn field<T>(
    db: &DB,
    row: Row,
    read: impl FnOnce(&mut Fields<'_>) -> Option<T>,
) -> Result<Option<T>> {
    let key = layout::row_key(row, &[]);
    let Some(value) = db.get(&key)? else {
        return Ok(None);
    };
    let mut fields = Fields(layout::unseal(&key, &value)?);
    let value = read(&mut fields).filter(|_| fields.0.is_empty());
    value
        .map(Some)
        .ok_or_else(|| layout::corrupt(&key, "does not decode"))
}

fn each(db: &DB, row: Row, mut take: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
    let prefix = layout::row_key(row, &[]);
    for pair in db.iterator(IteratorMode::From(&prefix, Direction::Forward)) {
        let (key, value) = pair?;
        if !key.starts_with(&prefix) {
            break;
        }
        take(&key, &value)?;
    }
    Ok(())
}

fn decode_replica(key: &[u8], value: &[u8]) -> Result<ReplicaRow> {
    let decode = |mut suffix: Fields<'_>, mut fields: Fields<'_>| {
        Some(ReplicaRow {
            shard: ShardId(suffix.u32()?),
            replica: ReplicaId(suffix.last_u64()?),
            log: StoreId(fields.u64()?),
            data: StoreId(fields.u64()?),
            receiving: Some(StoreId(fields.last_u64()?)).filter(|store| store.0 != 0),
        })
    };
    decode(
        Fields(&key[layout::HEAD..]),
        Fields(layout::unseal(key, value)?),
    )
    .ok_or_else(|| layout::corrupt(key, "is not a replica"))
}
