//! The log against a model, across crashes, and when the disk fails. Directory and groups apart, in their own files.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::TempDir;

use super::writer::wait;
use super::{GroupLog, LogEntry, LogOptions, LogSize, Logs};
use crate::ids::{LogId, StoreId, Vote};

mod directory;
mod failures;
mod model;
mod scripts;

/// Tails so small that most reads go to the disk.
const SMALL: LogOptions = LogOptions {
    tail_bytes: 400,
    memtable_bytes: 1 << 20,
};

fn id(term: u64, index: u64) -> LogId {
    LogId {
        term,
        leader: 1,
        index,
    }
}

fn entry(term: u64, index: u64, length: usize) -> LogEntry {
    LogEntry {
        id: id(term, index),
        bytes: Bytes::from(vec![index as u8; length]),
    }
}

/// Appends and waits for the sync.
fn append(log: &GroupLog, entries: Vec<LogEntry>) {
    let (done, written) = wait();
    log.append(entries, done).unwrap();
    written().unwrap();
}

/// Waits until all that was called before is in the database.
fn settle(log: &GroupLog) {
    let (done, written) = wait();
    log.save_vote(log.state().vote.unwrap_or_default(), done)
        .unwrap();
    written().unwrap();
}

/// What the disk holds at this moment, as if the process had been killed: a copy of the files of an open database.
fn crash(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_files(dir, copy.path());
    copy
}

/// Copies until one copy is whole: RocksDB removes files that it has replaced, also between two of our steps.
fn copy_files(from: &Path, to: &Path) {
    while let Err(error) = try_copy_files(from, to) {
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        fs::remove_dir_all(to).unwrap();
        fs::create_dir(to).unwrap();
    }
}

fn try_copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    for file in fs::read_dir(from)? {
        let file = file?;
        if file.file_name() != "LOCK" {
            fs::copy(file.path(), to.join(file.file_name()))?;
        }
    }
    Ok(())
}

fn open(dir: &Path) -> Logs {
    Logs::open(dir, &SMALL).unwrap()
}

fn database(dir: &Path) -> rocksdb::DB {
    rocksdb::DB::open_default(dir).unwrap()
}

/// A log of ten entries in a database that is closed again.
fn ten_entries() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(dir.path());
    append(
        &logs.group(StoreId(3)).unwrap(),
        (0..10).map(|index| entry(1, index, 20)).collect(),
    );
    logs.shutdown();
    let path = dir.path().to_owned();
    (dir, path)
}

#[test]
fn a_vote_is_back_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(dir.path());
    let vote = Vote {
        term: 7,
        replica: 3,
        committed: true,
    };
    let (done, written) = wait();
    logs.group(StoreId(1))
        .unwrap()
        .save_vote(vote, done)
        .unwrap();
    written().unwrap();
    let after = crash(dir.path());
    assert_eq!(
        open(after.path()).group(StoreId(1)).unwrap().state().vote,
        Some(vote)
    );
}

#[test]
fn a_committed_point_rides_another_groups_batch_and_syncs_nothing_itself() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(dir.path());
    let (one, two) = (
        logs.group(StoreId(1)).unwrap(),
        logs.group(StoreId(2)).unwrap(),
    );
    append(&one, vec![entry(1, 0, 8)]);
    let before = logs.stats();
    one.save_committed(Some(id(1, 0)));
    assert_eq!(logs.stats(), before);
    append(&two, vec![entry(1, 0, 8)]);
    assert_eq!(logs.stats().syncs, before.syncs + 1);
    let after = crash(dir.path());
    assert_eq!(
        open(after.path())
            .group(StoreId(1))
            .unwrap()
            .state()
            .committed,
        Some(id(1, 0))
    );
}

#[test]
fn truncate_and_purge_do_not_sync() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(dir.path());
    let log = logs.group(StoreId(1)).unwrap();
    append(&log, (0..10).map(|index| entry(1, index, 8)).collect());
    let before = logs.stats().syncs;
    log.truncate_after(Some(id(1, 7))).unwrap();
    log.purge(id(1, 2)).unwrap();
    settle(&log);
    assert_eq!(logs.stats().syncs, before + 1);
    assert_eq!(
        (log.state().purged, log.state().last),
        (Some(id(1, 2)), Some(id(1, 7)))
    );
    assert_eq!(log.read(0, 100, usize::MAX).unwrap().len(), 5);
}

#[test]
fn a_log_knows_its_size_also_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(dir.path());
    let log = logs.group(StoreId(1)).unwrap();
    append(
        &log,
        (0..100).map(|index| entry(1, index, 10_000)).collect(),
    );
    let full = log.size();
    assert_eq!(full.entries, 100);
    assert!((1_000_000..1_010_000).contains(&full.bytes), "{full:?}");
    let reopened = |log: &GroupLog| {
        settle(log);
        let after = crash(dir.path());
        open(after.path()).group(StoreId(1)).unwrap().size()
    };
    assert_eq!(reopened(&log), full);
    let keep = LogSize {
        bytes: full.bytes / 2,
        entries: u64::MAX,
    };
    let point = log.purge_point(keep).unwrap();
    log.purge(id(1, point)).unwrap();
    log.truncate_after(Some(id(1, 89))).unwrap();
    let half = log.size();
    assert_eq!(half.entries, 90 - (point + 1));
    assert!((380_000..420_000).contains(&half.bytes), "{half:?}");
    assert_eq!(reopened(&log).entries, half.entries);
    let few = LogSize {
        bytes: u64::MAX,
        entries: 7,
    };
    assert_eq!(log.purge_point(few), Some(82));
    log.purge(id(1, 89)).unwrap();
    assert_eq!(
        (log.size(), reopened(&log)),
        (LogSize::default(), LogSize::default())
    );
    assert_eq!(log.purge_point(few), None);
}

#[test]
fn groups_that_wait_share_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(dir.path());
    let (release, held) = std::sync::mpsc::channel::<()>();
    let first = logs.group(StoreId(100)).unwrap();
    let (entered, inside) = std::sync::mpsc::channel();
    let done = Box::new(move |_| {
        entered.send(()).unwrap();
        held.recv().unwrap();
    });
    first.append(vec![entry(1, 0, 8)], done).unwrap();
    inside.recv().unwrap();
    // The writer stands in that callback; whatever comes now waits for it.
    let before = logs.stats();
    let waits = (1..=8).map(|store| {
        let (done, written) = wait();
        logs.group(StoreId(store))
            .unwrap()
            .append(vec![entry(1, 0, 8), entry(1, 1, 8)], done)
            .unwrap();
        written
    });
    let waits = waits.collect::<Vec<_>>();
    assert_eq!(logs.stats().queue_length, 8);
    release.send(()).unwrap();
    for written in waits {
        written().unwrap();
    }
    let after = logs.stats();
    assert_eq!(
        (
            after.batches - before.batches,
            after.syncs - before.syncs,
            after.entries - before.entries
        ),
        (1, 1, 16)
    );
}

#[test]
fn callbacks_come_in_the_order_of_the_calls() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(dir.path());
    let (sender, receiver) = std::sync::mpsc::channel();
    for index in 0..50 {
        let sender = sender.clone();
        let log = logs.group(StoreId(1 + index % 3)).unwrap();
        log.append(
            vec![entry(1, index / 3, 8)],
            Box::new(move |result| sender.send((index, result.is_ok())).unwrap()),
        )
        .unwrap();
    }
    let order = receiver.iter().take(50).collect::<Vec<_>>();
    assert_eq!(
        order,
        (0..50).map(|index| (index, true)).collect::<Vec<_>>()
    );
}

#[test]
fn a_read_gives_at_least_one_entry_and_else_keeps_to_its_bytes() {
    let (_dir, path) = ten_entries();
    let logs = open(&path);
    let log = logs.group(StoreId(3)).unwrap();
    let indexes = |from, to, bytes_max| {
        log.read(from, to, bytes_max)
            .unwrap()
            .iter()
            .map(|entry| entry.id.index)
            .collect::<Vec<_>>()
    };
    assert_eq!(indexes(4, 9, 0), [4]);
    assert_eq!(indexes(4, 9, 59), [4, 5]);
    assert_eq!(indexes(4, 9, 60), [4, 5, 6]);
    assert_eq!(indexes(8, 100, usize::MAX), [8, 9]);
    assert_eq!(indexes(10, 12, usize::MAX), [0; 0]);
    assert_eq!(indexes(5, 5, usize::MAX), [0; 0]);
}

#[test]
fn a_purge_past_the_end_lets_the_log_go_on_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(dir.path());
    let log = logs.group(StoreId(1)).unwrap();
    append(&log, vec![entry(1, 0, 8)]);
    log.purge(id(2, 40)).unwrap();
    assert_eq!(
        (
            log.state().last,
            log.id_at(40).unwrap(),
            log.id_at(0).unwrap()
        ),
        (Some(id(2, 40)), Some(id(2, 40)), None)
    );
    append(&log, vec![entry(2, 41, 8)]);
    let after = crash(dir.path());
    let log = open(after.path()).group(StoreId(1)).unwrap();
    assert_eq!(log.read(0, 100, usize::MAX).unwrap(), vec![entry(2, 41, 8)]);
    assert_eq!(log.state().purged, Some(id(2, 40)));
}
