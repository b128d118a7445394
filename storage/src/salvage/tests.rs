//! What is kept of a damaged database, and what a crash leaves at each step.

use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::ids::LogId;
use crate::machine::{Entry, Machine, Payload, Replica, Transaction};
use crate::raft_log::LogEntry;
use crate::{Lost, Storage, open};

const SHARDS: u32 = 3;
const ENTRIES: u64 = 400;

/// Stores each command under its index.
struct Keep;

impl Machine for Keep {
    fn apply(&self, tx: &mut Transaction<'_>, id: LogId, command: &Bytes) -> Result<Bytes> {
        tx.put(Column::Changes, &key(id.index), command.clone());
        Ok(Bytes::new())
    }
}

fn key(index: u64) -> Vec<u8> {
    crate::keys::ChangeKey { index, ordinal: 0 }.encode()
}

fn options() -> Options {
    Options::within(crate::memory::BUDGET_BYTES_MIN)
}

fn id(index: u64) -> LogId {
    LogId {
        term: 1,
        leader: 1,
        index,
    }
}

/// Hard to compress, so that each shard fills blocks of its own.
fn body(shard: u32, index: u64) -> Bytes {
    let mut state = (u64::from(shard) << 32) | (index + 1);
    let bytes = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as u8
    });
    bytes.take(500).collect()
}

fn replica(storage: &Storage, row: &ReplicaRow) -> Arc<Replica> {
    let engine: Arc<dyn Engine> = Arc::clone(&storage.engine);
    Replica::open(engine, Arc::new(Keep), row.shard, row.data).unwrap()
}

/// Shards 1 to 3 with all entries in logs and data; the log of shard 1 is purged.
fn directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path(), &options()).unwrap();
    for shard in 1..=SHARDS {
        let directory = storage.logs.directory();
        let row = directory
            .create_replica(ShardId(shard), ReplicaId(7))
            .unwrap();
        let log = storage.logs.group(row.log).unwrap();
        let entries = (0..ENTRIES).map(|index| LogEntry {
            id: id(index),
            bytes: body(shard, index),
        });
        let (done, written) = std::sync::mpsc::sync_channel(1);
        let done = Box::new(move |result| done.send(result).unwrap());
        log.append(entries.collect(), done).unwrap();
        written.recv().unwrap().unwrap();
        let entries = (0..ENTRIES).map(|index| Entry {
            id: id(index),
            payload: Payload::Command(body(shard, index)),
        });
        replica(&storage, &row).apply(entries.collect()).unwrap();
        if shard == 1 {
            log.purge(id(ENTRIES / 2)).unwrap();
        }
    }
    storage.engine.flush().unwrap();
    storage.logs.shutdown();
    dir
}

/// Turns bits in the middle of the block that holds a shard's first entries.
fn rot(dir: &Path, shard: u32) {
    let needle = &body(shard, 40)[..64];
    let tables = fs::read_dir(dir.join("data")).unwrap();
    for table in tables.map(|table| table.unwrap().path()) {
        let mut bytes = fs::read(&table).unwrap();
        if let Some(at) = bytes.windows(64).position(|window| window == needle) {
            bytes[at..at + 8].iter_mut().for_each(|byte| *byte ^= 0xff);
            fs::write(&table, bytes).unwrap();
            return;
        }
    }
    panic!("shard {shard} is in no table");
}

/// The shards whose data is whole. The others have none at all.
fn whole(dir: &Path) -> (Vec<u32>, Vec<Lost>) {
    let storage = open(dir, &options()).unwrap();
    let mut whole = Vec::new();
    for row in storage.logs.directory().replicas() {
        let replica = replica(&storage, &row);
        let found = |index| replica.get(Column::Changes, &key(index)).unwrap();
        if replica.applied().id.is_none() {
            assert!((0..ENTRIES).all(|index| found(index).is_none()));
            continue;
        }
        assert_eq!(replica.applied().id, Some(id(ENTRIES - 1)));
        for index in 0..ENTRIES {
            assert_eq!(found(index), Some(body(row.shard.0, index)));
        }
        whole.push(row.shard.0);
    }
    (whole, storage.lost)
}

#[test]
fn what_reads_is_kept_and_what_is_gone_is_said() {
    let dir = directory();
    assert_eq!(find_damage(dir.path(), &options()).unwrap(), None);
    rot(dir.path(), 1);
    rot(dir.path(), 2);
    let damage = find_damage(dir.path(), &options()).unwrap().unwrap();
    assert!(damage.file.is_some(), "{damage:?}");

    let salvaged = salvage(dir.path(), &options(), &[]).unwrap();
    assert_eq!(salvaged.kept, [(ShardId(3), ReplicaId(7))]);
    let left_out: Vec<_> = salvaged
        .left_out
        .iter()
        .map(|(shard, ..)| shard.0)
        .collect();
    assert_eq!(left_out, [1, 2]);
    assert!(
        salvaged.left_out[0].2.contains(".sst"),
        "{:?}",
        salvaged.left_out
    );
    assert!(salvaged.aside.join("CURRENT").exists());
    assert_eq!(find_damage(dir.path(), &options()).unwrap(), None);
    // The second has its whole log, and nothing is lost of it.
    let (kept, lost) = whole(dir.path());
    assert_eq!(kept, [3]);
    let lost: Vec<_> = lost.iter().map(|lost| lost.shard.0).collect();
    assert_eq!(lost, [1]);
}

#[test]
fn damage_that_a_deletion_hides_is_found_too() {
    let dir = directory();
    rot(dir.path(), 2);
    let storage = open(dir.path(), &options()).unwrap();
    let directory = storage.logs.directory();
    directory.drop_replica(ShardId(2), ReplicaId(7)).unwrap();
    crate::drop_stores(&storage.logs, storage.engine.as_ref()).unwrap();
    drop(storage);
    assert!(find_damage(dir.path(), &options()).unwrap().is_some());
    let salvaged = salvage(dir.path(), &options(), &[]).unwrap();
    assert_eq!(salvaged.left_out, []);
    assert_eq!(find_damage(dir.path(), &options()).unwrap(), None);
    assert_eq!(whole(dir.path()), (vec![1, 3], vec![]));
}

#[test]
fn a_database_that_does_not_open_and_a_condemned_replica_are_left_out() {
    let dir = directory();
    salvage(dir.path(), &options(), &[(ShardId(2), ReplicaId(7))]).unwrap();
    assert_eq!(whole(dir.path()).0, [1, 3]);
    fs::write(dir.path().join("data/CURRENT"), "MANIFEST-nonsense\n").unwrap();
    assert!(matches!(
        open(dir.path(), &options()).err(),
        Some(Error::Corrupt { .. })
    ));
    let salvaged = salvage(dir.path(), &options(), &[]).unwrap();
    assert_eq!((salvaged.kept.len(), salvaged.left_out.len()), (0, 3));
    let (kept, lost) = whole(dir.path());
    assert_eq!((kept.len(), lost.len()), (0, 1));
}

#[test]
fn a_crash_between_the_two_renames_is_finished() {
    let dir = directory();
    let (data, rebuilt, aside) = paths(dir.path());
    // Before the first one: what was begun is of no worth.
    fs::create_dir(&rebuilt).unwrap();
    fs::write(rebuilt.join("CURRENT"), "half").unwrap();
    assert_eq!(whole(dir.path()).0, [1, 2, 3]);
    assert!(!rebuilt.exists());
    // After it.
    fs::rename(&data, &rebuilt).unwrap();
    fs::create_dir(&aside).unwrap();
    assert_eq!(whole(dir.path()).0, [1, 2, 3]);
    assert!(data.exists() && !rebuilt.exists());
}
