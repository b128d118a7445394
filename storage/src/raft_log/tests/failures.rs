//! What a log refuses, and what it does when the disk fails or lies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proto::{ReplicaId, ShardId};

use super::{SMALL, append, database, entry, id, open, ten_entries};
use crate::error::Error;
use crate::ids::{StoreId, Vote};
use crate::raft_log::writer::wait;
use crate::raft_log::{Logs, layout};

#[test]
fn append_past_gap_is_rejected() {
    let (_dir, path) = ten_entries();
    let logs = open(&path);
    let log = logs.group(StoreId(3)).unwrap();
    let refused = log.append(
        vec![entry(1, 11, 8)],
        Box::new(|_| unreachable!("nothing was taken")),
    );
    assert!(matches!(
        refused,
        Err(Error::Gap {
            store: StoreId(3),
            expected: 10,
            found: 11
        })
    ));
    let refused = log.append(
        vec![entry(1, 10, 8), entry(1, 12, 8)],
        Box::new(|_| unreachable!("nothing was taken")),
    );
    assert!(matches!(
        refused,
        Err(Error::Gap {
            expected: 11,
            found: 12,
            ..
        })
    ));
    append(&log, vec![entry(1, 10, 8)]);
}

#[test]
fn a_changed_entry_is_corrupt_and_named() {
    let (_dir, path) = ten_entries();
    let key = layout::entry_key(StoreId(3), 4);
    let db = database(&path);
    let mut value = db.get(&key).unwrap().unwrap();
    *value.last_mut().unwrap() ^= 1;
    db.put(&key, value).unwrap();
    drop(db);
    let logs = open(&path);
    let log = logs.group(StoreId(3)).unwrap();
    assert_eq!(log.read(0, 4, usize::MAX).unwrap().len(), 4);
    let error = log.read(0, 10, usize::MAX).unwrap_err().to_string();
    assert_eq!(
        error,
        "corrupt data: log of store 3: entry 4 fails its checksum"
    );
}

#[test]
fn an_entry_under_another_key_is_corrupt() {
    let (_dir, path) = ten_entries();
    let db = database(&path);
    let value = db.get(layout::entry_key(StoreId(3), 4)).unwrap().unwrap();
    db.put(layout::entry_key(StoreId(3), 5), value).unwrap();
    drop(db);
    assert!(matches!(
        open(&path).group(StoreId(3)).unwrap().read(5, 6, 0),
        Err(Error::Corrupt { .. })
    ));
}

#[test]
fn a_missing_entry_is_corrupt_and_named() {
    let (_dir, path) = ten_entries();
    let db = database(&path);
    db.delete(layout::entry_key(StoreId(3), 4)).unwrap();
    drop(db);
    let logs = open(&path);
    let error = logs
        .group(StoreId(3))
        .unwrap()
        .read(2, 10, usize::MAX)
        .unwrap_err()
        .to_string();
    assert_eq!(error, "corrupt data: log of store 3: entry 4 is missing");
}

#[test]
fn a_log_that_ends_before_its_committed_point_does_not_open() {
    let (_dir, path) = ten_entries();
    let logs = open(&path);
    logs.group(StoreId(3))
        .unwrap()
        .save_committed(Some(id(1, 8)));
    logs.shutdown();
    drop(logs);
    let db = database(&path);
    for index in 5..10 {
        db.delete(layout::entry_key(StoreId(3), index)).unwrap();
    }
    drop(db);
    let error = open(&path)
        .group(StoreId(3))
        .err()
        .map(|error| error.to_string());
    assert_eq!(
        error.as_deref(),
        Some("corrupt data: log of store 3 ends at 1-1@4 though 1-1@8 was committed")
    );
}

#[test]
fn a_failed_write_poisons_all_logs() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(dir.path());
    let (one, two) = (
        logs.group(StoreId(1)).unwrap(),
        logs.group(StoreId(2)).unwrap(),
    );
    append(&one, vec![entry(1, 0, 8)]);
    let told = Arc::new(AtomicU32::new(0));
    let (failed, seen) = std::sync::mpsc::channel();
    logs.on_failure({
        let told = Arc::clone(&told);
        move |error| {
            told.fetch_add(1, Ordering::SeqCst);
            failed.send(error.to_string()).unwrap();
        }
    });
    logs.fail_next_write();
    let (done, written) = wait();
    one.append(vec![entry(1, 1, 8)], done).unwrap();
    assert!(matches!(written(), Err(Error::LogFailed { .. })));
    assert_eq!(seen.recv().unwrap(), "engine: injected failure");

    let never = || Box::new(|_| unreachable!("nothing was taken"));
    assert!(matches!(
        two.append(vec![entry(1, 0, 8)], never()),
        Err(Error::LogFailed { .. })
    ));
    assert!(matches!(
        two.save_vote(Vote::default(), never()),
        Err(Error::LogFailed { .. })
    ));
    assert!(matches!(
        one.truncate_after(None),
        Err(Error::LogFailed { .. })
    ));
    assert!(matches!(one.purge(id(1, 0)), Err(Error::LogFailed { .. })));
    assert!(matches!(
        logs.directory().create_replica(ShardId(1), ReplicaId(1)),
        Err(Error::LogFailed { .. })
    ));
    assert_eq!(logs.directory().replicas(), []);
    let (late, seen) = std::sync::mpsc::channel();
    logs.on_failure(move |_| late.send(()).unwrap());
    seen.recv().unwrap();
    assert_eq!(told.load(Ordering::SeqCst), 1);
}

#[test]
fn a_closed_log_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(dir.path());
    let log = logs.group(StoreId(1)).unwrap();
    append(&log, vec![entry(1, 0, 8)]);
    log.save_committed(Some(id(1, 0)));
    logs.shutdown();
    logs.shutdown();
    assert!(matches!(
        log.append(vec![entry(1, 1, 8)], Box::new(|_| unreachable!())),
        Err(Error::Closed)
    ));
    assert_eq!(log.read(0, 9, 0).unwrap(), vec![entry(1, 0, 8)]);
    drop((log, logs));
    assert_eq!(
        open(dir.path())
            .group(StoreId(1))
            .unwrap()
            .state()
            .committed,
        Some(id(1, 0))
    );
}

#[test]
fn the_last_handle_may_go_in_a_callback() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(dir.path());
    let log = logs.group(StoreId(1)).unwrap();
    let (gone, seen) = std::sync::mpsc::channel();
    let kept = log.clone();
    let done = Box::new(move |_| {
        drop(kept);
        gone.send(()).unwrap();
    });
    log.append(vec![entry(1, 0, 8)], done).unwrap();
    drop((log, logs));
    seen.recv().unwrap();
    // Whoever was last, the database closes.
    while matches!(Logs::open(dir.path(), &SMALL), Err(Error::Locked { .. })) {
        std::thread::yield_now();
    }
}

#[test]
fn a_scrub_reads_what_is_on_disk_and_names_what_it_cannot() {
    let (dir, path) = ten_entries();
    let logs = open(&path);
    let log = logs.group(StoreId(3)).unwrap();
    let all = log.scrub(None, usize::MAX).unwrap();
    assert!(all.next.is_none() && all.bytes > 200, "{all:?}");
    let mut pieces = Vec::new();
    let mut from = None;
    loop {
        let piece = log.scrub(from, 100).unwrap();
        pieces.push(piece.bytes);
        from = piece.next;
        if from.is_none() {
            break;
        }
    }
    assert!(pieces.len() > 2, "{pieces:?}");
    assert_eq!(pieces.iter().sum::<usize>(), all.bytes);
    // A purge meanwhile is no damage.
    log.purge(id(1, 3)).unwrap();
    assert!(log.scrub(Some(1), usize::MAX).unwrap().bytes < all.bytes);
    drop((log, logs));

    let database = database(&path);
    let key = layout::entry_key(StoreId(3), 7);
    let mut value = database.get(&key).unwrap().unwrap();
    let last = value.len() - 1;
    value[last] ^= 1;
    database.put(&key, value).unwrap();
    drop(database);
    let logs = open(&path);
    // Its tail is empty after a start, so that the damage lies behind no copy in memory.
    let log = logs.group(StoreId(3)).unwrap();
    let error = log.scrub(None, usize::MAX).unwrap_err().to_string();
    assert!(error.contains("entry 7 fails its checksum"), "{error}");
    drop(dir);
}
