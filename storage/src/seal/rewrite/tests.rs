//! A data directory with seals: opened, turned away, converted, its keys changed, its files searched and damaged.

use std::path::Path;

use proto::{ReplicaId, ShardId};

use super::*;
use crate::engine::{Batch, Direction};
use crate::error::Error;
use crate::keys::{self, DocumentKey};
use crate::memory::BUDGET_BYTES_MIN;
use crate::raft_log::LogEntry;
use crate::seal::Masters;
use crate::seal::master::KEY_BYTES;
use crate::{LogId, Options, Storage, open};

const MARKER: &str = "an open secret, found by whoever looks for it";

fn master(byte: u8) -> MasterKey {
    MasterKey::from_bytes([byte; KEY_BYTES])
}

fn options(key: Option<u8>) -> Options {
    let masters = key.map_or(Masters::Off, |byte| Masters::On {
        current: master(byte),
        previous: None,
    });
    Options {
        masters,
        ..Options::within(BUDGET_BYTES_MIN)
    }
}

fn opened(dir: &Path, key: Option<u8>) -> Storage {
    open(dir, &options(key)).unwrap()
}

fn closed(storage: Storage) {
    storage.engine.flush().unwrap();
    storage.logs.shutdown();
    drop(storage);
}

fn key(storage: &Storage, at: u32) -> Vec<u8> {
    let document = DocumentKey {
        database: at % 3,
        bucket: 1,
        key: &format!("{at:05}"),
    };
    let row = storage.logs.directory().replicas()[0];
    keys::with_store(row.data, &document.encode())
}

fn value(at: u32) -> Bytes {
    format!("{MARKER} {at} {MARKER}").into()
}

/// Documents and log entries of these numbers.
fn write(storage: &Storage, numbers: std::ops::Range<u32>) {
    let row = storage
        .logs
        .directory()
        .create_replica(ShardId(1), ReplicaId(1))
        .unwrap();
    let mut batch = Batch::new();
    for at in numbers.clone() {
        batch.put(Column::Documents, key(storage, at), value(at));
        batch.put(Column::Changes, key(storage, at), value(at));
    }
    storage.engine.write(batch).unwrap();
    let log = storage.logs.group(row.log).unwrap();
    let entry = |at: u32| LogEntry {
        id: LogId {
            term: 1,
            leader: 1,
            index: u64::from(at),
        },
        bytes: value(at),
    };
    log.append(numbers.map(entry).collect(), Box::new(|done| done.unwrap()))
        .unwrap();
    storage.logs.settle().unwrap();
}

/// Everything of `0..count` is there, on the disk and through every kind of read.
fn holds(storage: &Storage, count: u32) {
    let view = storage.engine.view();
    for at in 0..count {
        let key = key(storage, at);
        let found = storage.engine.get(Column::Documents, &key).unwrap();
        assert_eq!(found, Some(value(at)));
        assert_eq!(view.get(Column::Changes, &key).unwrap(), Some(value(at)));
    }
    let row = storage.logs.directory().replicas()[0];
    let log = storage.logs.group(row.log).unwrap();
    let entries = log.read(0, u64::MAX, usize::MAX).unwrap();
    assert_eq!(entries.len(), count as usize);
    for (at, entry) in entries.iter().enumerate() {
        assert_eq!(entry.bytes, value(at as u32));
    }
    assert_eq!(log.scrub(None, usize::MAX).unwrap().next, None);
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// The files that hold the marker.
fn showing(dir: &Path) -> Vec<std::path::PathBuf> {
    let shows = |path: &std::path::PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        bytes
            .windows(MARKER.len())
            .any(|part| part == MARKER.as_bytes())
    };
    files(dir).into_iter().filter(shows).collect()
}

fn whole_pass(sealing: &Sealing) -> usize {
    let mut pass = sealing.begin().unwrap().expect("something to do");
    while sealing.step(&mut pass, 4 << 10).unwrap().is_some() {}
    assert!(sealing.finish(pass).unwrap());
    sealing.status().rewritten as usize
}

#[test]
fn nothing_shows_on_a_sealed_disk_and_everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let storage = opened(dir.path(), Some(1));
    write(&storage, 0..300);
    holds(&storage, 300);
    // From the write-ahead log, then from tables.
    assert_eq!(showing(dir.path()), [""; 0].map(std::path::PathBuf::from));
    closed(storage);
    let storage = opened(dir.path(), Some(1));
    holds(&storage, 300);
    storage.logs.compact().unwrap();
    closed(storage);
    assert_eq!(showing(dir.path()), [""; 0].map(std::path::PathBuf::from));
    // The same without seals shows: the search finds what there is.
    let plain = tempfile::tempdir().unwrap();
    let storage = opened(plain.path(), None);
    write(&storage, 0..300);
    assert!(!showing(plain.path()).is_empty());
}

#[test]
fn a_start_with_another_key_or_none_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let storage = opened(dir.path(), Some(1));
    write(&storage, 0..10);
    closed(storage);
    let image = || -> Vec<_> {
        let mut files = files(dir.path());
        files.sort();
        files
            .into_iter()
            .map(|path| (std::fs::read(&path).unwrap(), path))
            .collect()
    };
    let before = image();
    let refused = |key| open(dir.path(), &options(key)).err().unwrap();
    assert!(matches!(refused(Some(2)), Error::WrongMasterKey { .. }));
    assert!(matches!(refused(None), Error::Sealed { .. }));
    let verify = crate::verify::verify;
    assert!(matches!(
        verify(dir.path(), None),
        Err(Error::Sealed { .. })
    ));
    assert!(matches!(
        verify(dir.path(), Some(&master(2))),
        Err(Error::WrongMasterKey { .. })
    ));
    assert!(image() == before);
    let report = verify(dir.path(), Some(&master(1))).unwrap();
    assert_eq!(report.format, Some(crate::format::SEALED_VERSION));
    assert_eq!(report.entries, 10);
    // The rows of this test are no documents; seals they have, and those open.
    assert!(
        report
            .findings
            .iter()
            .all(|finding| !finding.what.contains("seal"))
    );

    for path in super::super::file::NAMES {
        std::fs::remove_file(dir.path().join(path)).unwrap();
    }
    for key in [Some(1), None] {
        let error = refused(key);
        assert!(matches!(error, Error::KeysLost { .. }), "{error}");
    }
    assert!(matches!(
        verify(dir.path(), None),
        Err(Error::KeysLost { .. })
    ));
}

#[test]
fn a_plain_disk_is_converted_while_it_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let storage = opened(dir.path(), None);
    write(&storage, 0..200);
    closed(storage);
    assert!(!showing(dir.path()).is_empty());

    let storage = opened(dir.path(), Some(1));
    holds(&storage, 200);
    write(&storage, 200..300);
    let sealing = storage.sealing.clone().unwrap();
    assert!(sealing.status().is_converting);
    // Cut off in the middle, and begun again after a restart.
    let mut pass = sealing.begin().unwrap().unwrap();
    for _ in 0..4 {
        sealing.step(&mut pass, 4 << 10).unwrap();
    }
    sealing.give_up(pass);
    drop(sealing);
    closed(storage);

    let storage = opened(dir.path(), Some(1));
    let sealing = storage.sealing.clone().unwrap();
    assert!(whole_pass(&sealing) < 600);
    holds(&storage, 300);
    assert_eq!(showing(dir.path()), [""; 0].map(std::path::PathBuf::from));
    assert!(!sealing.status().is_converting);
    assert!(sealing.begin().unwrap().is_none());
    drop(sealing);
    closed(storage);
    let storage = opened(dir.path(), Some(1));
    holds(&storage, 300);
}

#[test]
fn keys_change_under_writes_and_old_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let storage = opened(dir.path(), Some(1));
    write(&storage, 0..200);
    let sealing = storage.sealing.clone().unwrap();
    let before = sealing.status().keys;
    // The node's, and one for each of three databases.
    assert_eq!(before.len(), 4);
    sealing.rotate(None).unwrap();
    let stop = AtomicBool::new(false);
    let count = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut at = 200;
            while !stop.load(Ordering::SeqCst) || at < 300 {
                write(&storage, at..at + 10);
                at += 10;
            }
            at
        });
        assert!(whole_pass(&sealing) >= 600);
        stop.store(true, Ordering::SeqCst);
        let count = writer.join().unwrap();
        holds(&storage, count);
        let after = sealing.status().keys;
        assert!(
            after
                .iter()
                .all(|key| !key.is_retired && !before.contains(key))
        );
        assert_eq!(after.len(), 4);
        count as usize
    });
    // One database alone, and then the master key, without touching data.
    sealing.rotate(Some(Scope::Database(2))).unwrap();
    let rewritten = whole_pass(&sealing);
    // A third of the rows, and no entry of the log.
    assert!(rewritten > 0 && rewritten < count, "{rewritten} {count}");
    sealing.rewrap(&master(9)).unwrap();
    drop(sealing);
    closed(storage);
    assert!(open(dir.path(), &options(Some(1))).is_err());
    let storage = opened(dir.path(), Some(9));
    let key = key(&storage, 7);
    let found = storage.engine.get(Column::Documents, &key).unwrap();
    assert_eq!(found, Some(value(7)));
    assert!(storage.sealing.unwrap().begin().unwrap().is_none());
}

/// A file that was sealed with a key, and is taken in after that key was retired, keeps the key.
#[test]
fn a_snapshot_on_its_way_keeps_its_keys() {
    let dir = tempfile::tempdir().unwrap();
    let storage = opened(dir.path(), Some(1));
    write(&storage, 0..30);
    let sealing = storage.sealing.clone().unwrap();
    let row = storage.logs.directory().replicas()[0];
    let path = dir.path().join("1.sst");
    let (from, to) = (row.data.prefix(), row.data.end());
    let view = storage.engine.view();
    let range = (
        std::ops::Bound::Included(&from[..]),
        std::ops::Bound::Excluded(&to[..]),
    );
    let pairs = view.scan(Column::Documents, range.0, range.1);
    let store = StoreId(99);
    storage
        .engine
        .write_sst(pairs, Column::Documents, store, &path)
        .unwrap()
        .unwrap();
    sealing.rotate(None).unwrap();
    let walk = |pass: &mut Pass| while sealing.step(pass, usize::MAX).unwrap().is_some() {};
    let mut pass = sealing.begin().unwrap().unwrap();
    walk(&mut pass);
    assert!(!sealing.finish(pass).unwrap());
    // One that began before the file came in has not seen it either.
    let mut pass = sealing.begin().unwrap().unwrap();
    walk(&mut pass);
    storage.engine.ingest(&[(Column::Documents, path)]).unwrap();
    assert!(!sealing.finish(pass).unwrap());
    whole_pass(&sealing);
    let moved = [&store.prefix()[..], &key(&storage, 7)[StoreId::LEN..]].concat();
    let found = storage.engine.get(Column::Documents, &moved).unwrap();
    assert_eq!(found, Some(value(7)));
}

#[test]
fn a_pass_that_the_end_of_the_process_cuts_off_keeps_its_keys() {
    let dir = tempfile::tempdir().unwrap();
    let storage = opened(dir.path(), Some(1));
    write(&storage, 0..30);
    let sealing = storage.sealing.clone().unwrap();
    sealing.rotate(None).unwrap();
    let mut pass = sealing.begin().unwrap().unwrap();
    while sealing.step(&mut pass, usize::MAX).unwrap().is_some() {}
    storage.engine.flush().unwrap();
    sealing.stop();
    assert!(sealing.finish(pass).is_err());
    drop(sealing);
    storage.logs.shutdown();
    drop(storage);
    let storage = opened(dir.path(), Some(1));
    holds(&storage, 30);
    whole_pass(&storage.sealing.clone().unwrap());
    holds(&storage, 30);
}

#[test]
fn a_value_that_was_changed_or_moved_is_named_and_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let storage = opened(dir.path(), Some(1));
    write(&storage, 0..10);
    let (one, two) = (key(&storage, 1), key(&storage, 4));
    closed(storage);
    // Below the seals, as somebody with the disk in hand could: RocksDB's checksums are right.
    let raw = Rocks::open(&dir.path().join("data"), &Default::default()).unwrap();
    let mut stored = raw.get(Column::Documents, &one).unwrap().unwrap().to_vec();
    let mut batch = Batch::new();
    batch.put(Column::Documents, two.clone(), stored.clone());
    let last = stored.len() - 1;
    stored[last] ^= 1;
    batch.put(Column::Documents, one.clone(), stored);
    raw.write(batch).unwrap();
    raw.flush().unwrap();
    drop(raw);

    let storage = opened(dir.path(), Some(1));
    for key in [&one, &two] {
        let error = storage.engine.get(Column::Documents, key).unwrap_err();
        let is_named = matches!(&error, Error::Corrupt { what } if what.contains("document 1/1/"));
        assert!(is_named, "{error}");
        let mut end = key.clone();
        end.push(0);
        let scrubbed = storage
            .engine
            .scrub(Column::Documents, key, &end, usize::MAX);
        assert!(matches!(scrubbed, Err(Error::Corrupt { .. })));
        let view = storage.engine.view();
        let range = (
            std::ops::Bound::Included(&key[..]),
            std::ops::Bound::Unbounded,
        );
        let mut pairs = view.scan(Column::Documents, range.0, range.1);
        assert!(pairs.next().unwrap().is_err());
        let (from, to) = range;
        let direction = Direction::Forward;
        let shown = view.visit(Column::Documents, from, to, direction, &mut |_, _| {
            panic!("shown")
        });
        assert!(matches!(shown, Err(Error::Corrupt { .. })));
    }
    closed(storage);
    let report = crate::verify::verify(dir.path(), Some(&master(1))).unwrap();
    let broken = report
        .findings
        .iter()
        .filter(|finding| finding.what.contains("seal"));
    assert_eq!(broken.count(), 2);
}
