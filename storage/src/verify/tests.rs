//! Damage of every file of a real data directory: named, refused or harmless, and never served.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use proto::{ReplicaId, ShardId};
use tempfile::TempDir;

use super::{Report, verify};
use crate::engine::{Column, Engine};
use crate::error::{Error, Result};
use crate::ids::{LogId, Vote};
use crate::keys::ChangeKey;
use crate::machine::{Entry, Machine, Payload, Replica, Transaction};
use crate::open::{Options, Storage, open};
use crate::raft_log::{GroupLog, LogEntry};

const SHARDS: u32 = 2;
/// Enough for tables in both databases at the smallest budget.
const ENTRIES: u64 = 800;
const ENTRY_BYTES: usize = 2_000;
const VOTE: Vote = Vote {
    term: 7,
    replica: 3,
    committed: true,
};

/// Stores each command under its index.
struct Keep;

impl Machine for Keep {
    fn apply(&self, tx: &mut Transaction<'_>, id: LogId, command: &Bytes) -> Result<Bytes> {
        tx.put(Column::Changes, &key(id.index), command.clone());
        Ok(Bytes::new())
    }
}

fn key(index: u64) -> Vec<u8> {
    ChangeKey { index, ordinal: 0 }.encode()
}

fn options() -> Options {
    let mut options = Options::within(crate::memory::BUDGET_BYTES_MIN);
    // Several tables in the log, and most reads of it from disk.
    options.log.memtable_bytes = 1 << 20;
    options.log.tail_bytes = 4_000;
    options
}

fn id(index: u64) -> LogId {
    LogId {
        term: 1,
        leader: 1,
        index,
    }
}

/// Different in every entry and hard to compress.
fn body(shard: u32, index: u64) -> Bytes {
    let mut state = u64::from(shard) << 32 | (index + 1);
    let bytes = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as u8
    });
    bytes.take(ENTRY_BYTES).collect()
}

fn append(log: &GroupLog, shard: u32, range: std::ops::Range<u64>) {
    let entries = range
        .map(|index| LogEntry {
            id: id(index),
            bytes: body(shard, index),
        })
        .collect();
    let (done, written) = std::sync::mpsc::sync_channel(1);
    let done = Box::new(move |result| done.send(result).unwrap());
    log.append(entries, done).unwrap();
    written.recv().unwrap().unwrap();
}

fn replica(storage: &Storage, shard: u32) -> (Arc<Replica>, GroupLog) {
    let row = storage
        .logs
        .directory()
        .create_replica(ShardId(shard), ReplicaId(u64::from(shard)))
        .unwrap();
    let engine: Arc<dyn Engine> = Arc::clone(&storage.engine);
    let replica = Replica::open(engine, Arc::new(Keep), row.shard, row.data).unwrap();
    (replica, storage.logs.group(row.log).unwrap())
}

/// A data directory as kill -9 leaves it: tables and write-ahead logs, a purged start, an unflushed end.
fn image() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path(), &options()).unwrap();
    storage.logs.directory().set_cluster_id("cluster").unwrap();
    let replicas: Vec<_> = (1..=SHARDS).map(|shard| replica(&storage, shard)).collect();
    for (shard, (replica, log)) in (1..).zip(&replicas) {
        for from in (0..ENTRIES).step_by(20) {
            append(log, shard, from..from + 20);
            let entries = (from..from + 20).map(|index| Entry {
                id: id(index),
                payload: Payload::Command(body(shard, index)),
            });
            replica.apply(entries.collect()).unwrap();
            log.save_committed(Some(id(from)));
            if from == ENTRIES / 2 {
                storage.engine.flush().unwrap();
                log.purge(id(ENTRIES / 4)).unwrap();
            }
        }
        let (done, written) = std::sync::mpsc::sync_channel(1);
        log.save_vote(VOTE, Box::new(move |result| done.send(result).unwrap()))
            .unwrap();
        written.recv().unwrap().unwrap();
    }
    copy(dir.path())
}

fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    for database in ["log", "data"] {
        fs::create_dir(to.path().join(database)).unwrap();
        for file in fs::read_dir(from.join(database)).unwrap() {
            let file = file.unwrap();
            // A compaction may have replaced it between two of our steps.
            let target = to.path().join(database).join(file.file_name());
            if let Err(error) = fs::copy(file.path(), target) {
                assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
            }
        }
    }
    to
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = ["log", "data"]
        .iter()
        .flat_map(|database| fs::read_dir(dir.join(database)).unwrap())
        .map(|file| file.unwrap().path())
        .filter(|path| path.metadata().unwrap().len() > 0)
        .collect();
    files.sort();
    files
}

fn kind(path: &Path) -> &str {
    let name = path.file_name().unwrap().to_str().unwrap();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some(extension) => extension,
        None => name.split('-').next().unwrap(),
    }
}

/// Opens the directory and reads all that was acknowledged. `Ok`: all of it is there, as it was written.
///
/// # Panics
/// If anything is served that is not what was written, or missing without an error.
fn read_all(dir: &Path) -> Result<()> {
    let storage = open(dir, &options())?;
    assert_eq!(
        storage.logs.directory().cluster_id().as_deref(),
        Some("cluster")
    );
    if let Some(lost) = storage.lost.first() {
        return Err(Error::corrupt(format!("{lost:?}")));
    }
    for row in storage.logs.directory().replicas() {
        let engine: Arc<dyn Engine> = Arc::clone(&storage.engine);
        let replica = Replica::open(engine, Arc::new(Keep), row.shard, row.data)?;
        let log = storage.logs.group(row.log)?;
        let state = log.state();
        assert_eq!(state.vote, Some(VOTE), "the vote is lost");
        assert_eq!(state.last, Some(id(ENTRIES - 1)), "entries are lost");
        let next = replica.applied().id.map_or(0, |id| id.index + 1);
        for index in 0..next {
            let found = replica.get(Column::Changes, &key(index))?;
            assert_eq!(found, Some(body(row.shard.0, index)), "document {index}");
        }
        let entries = log.read(next, ENTRIES, usize::MAX)?;
        assert_eq!(entries.len() as u64, ENTRIES - next, "entries are missing");
        for entry in entries {
            assert_eq!(entry.bytes, body(row.shard.0, entry.id.index));
        }
    }
    assert_eq!(
        storage.logs.directory().replicas().len(),
        SHARDS as usize,
        "replicas are lost"
    );
    Ok(())
}

enum Damage {
    Flip(u64),
    Cut(u64),
    Zero(u64),
}

fn damage(path: &Path, damage: &Damage) {
    let mut bytes = fs::read(path).unwrap();
    match *damage {
        Damage::Flip(at) => bytes[at as usize] ^= 0x10,
        Damage::Cut(at) => bytes.truncate(at as usize),
        Damage::Zero(at) => bytes[at as usize..].fill(0),
    }
    fs::write(path, bytes).unwrap();
}

/// Evenly over the file, its first and last bytes among them.
fn cases(length: u64) -> Vec<Damage> {
    let flips = if std::env::var_os("LARDER_SOAK").is_some() {
        200
    } else {
        4
    };
    let last = length - 1;
    let flips = (0..flips).map(|n| Damage::Flip(last * n / (flips - 1)));
    let cuts = [length / 3, last].map(Damage::Cut);
    flips
        .chain(cuts)
        .chain([Damage::Zero(length / 2)])
        .collect()
}

#[test]
fn a_sound_directory_is_found_sound_and_left_as_it_is() {
    let image = image();
    let kinds: BTreeSet<_> = files(image.path())
        .iter()
        .map(|path| kind(path).to_owned())
        .collect();
    for expected in ["CURRENT", "MANIFEST", "SYNCED", "log", "sst"] {
        assert!(kinds.contains(expected), "no {expected} in {kinds:?}");
    }
    let before: Vec<_> = files(image.path())
        .into_iter()
        .map(|path| (fs::read(&path).unwrap(), path))
        .collect();
    let report = verify(image.path(), None).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!(report.format, Some(crate::format::PLAIN_VERSION));
    assert_eq!(report.cluster.as_deref(), Some("cluster"));
    assert_eq!(report.replicas.len(), SHARDS as usize);
    assert!(report.entries > ENTRIES && report.rows >= ENTRIES);
    for replica in &report.replicas {
        assert_eq!(replica.last, Some(id(ENTRIES - 1)));
        assert_eq!(replica.purged, Some(id(ENTRIES / 4)));
        assert!(replica.applied >= replica.purged && replica.chain != 0);
    }
    let after: Vec<_> = files(image.path())
        .into_iter()
        .map(|path| (fs::read(&path).unwrap(), path))
        .filter(|(_, path)| kind(path) != "LOCK")
        .collect();
    assert!(before == after, "the check changed the directory");
    read_all(image.path()).unwrap();
}

#[test]
fn no_damage_is_served() {
    let image = image();
    let (mut named, mut harmless) = (0, BTreeSet::new());
    for file in files(image.path()) {
        let inside = file.strip_prefix(image.path()).unwrap();
        for case in cases(file.metadata().unwrap().len()) {
            let copy = copy(image.path());
            let path = copy.path().join(inside);
            damage(&path, &case);
            let Report { findings, .. } = verify(copy.path(), None).unwrap();
            match read_all(copy.path()) {
                Ok(()) if findings.is_empty() => {
                    harmless.insert(kind(&path).to_owned());
                }
                // Damage that only the check sees: in what no read needs, or hidden by a deletion.
                Ok(()) => {}
                Err(error) => {
                    assert!(
                        matches!(
                            error,
                            Error::Corrupt { .. } | Error::Engine(_) | Error::Io(_)
                        ),
                        "{error}"
                    );
                    assert!(!findings.is_empty(), "{}: {error}", inside.display());
                    named += 1;
                }
            }
            let is_about_it = findings.iter().any(|finding| {
                let text = format!("{:?} {}", finding.file, finding.what);
                text.contains(copy.path().to_str().unwrap()) || finding.what.contains("store")
            });
            assert!(findings.is_empty() || is_about_it, "{findings:?}");
        }
    }
    assert!(named > 12, "only {named} cases were refused");
    eprintln!("{named} refused; harmless in {harmless:?}");
    for never in ["CURRENT", "SYNCED", "log"] {
        assert!(
            !harmless.contains(never),
            "{never} may be damaged unnoticed"
        );
    }
}

#[test]
fn rot_in_a_table_names_its_file_and_keys() {
    let image = image();
    let tables = files(image.path());
    let table = tables
        .iter()
        .find(|path| kind(path) == "sst" && path.starts_with(image.path().join("data")))
        .unwrap();
    damage(table, &Damage::Flip(5_000));
    let report = verify(image.path(), None).unwrap();
    let named = report.findings.iter().find(|finding| {
        finding.database == "data"
            && finding.file.as_deref() == Some(table)
            && finding.keys.is_some()
    });
    assert!(named.is_some(), "{:?}", report.findings);
    assert!(matches!(read_all(image.path()), Err(Error::Corrupt { .. })));
}

/// What a power cut leaves of a write that nobody was promised: cut anywhere, or zeros for what did not reach the disk.
#[test]
fn a_torn_tail_that_was_never_acknowledged_starts() {
    let dir = tempfile::tempdir().unwrap();
    let storage = open(dir.path(), &options()).unwrap();
    let (_, log) = replica(&storage, 1);
    append(&log, 1, 0..20);
    let promised = copy(dir.path());
    append(&log, 1, 20..60);
    let torn = copy(dir.path());
    drop((log, storage));
    let length = |image: &TempDir| {
        let newest = files(image.path())
            .into_iter()
            .rfind(|path| kind(path) == "log");
        let path = newest.unwrap();
        (path.metadata().unwrap().len(), path)
    };
    let ((from, _), (to, wal)) = (length(&promised), length(&torn));
    assert!(
        to > from + 40_000,
        "the log grew over several of its blocks"
    );
    let inside = wal.strip_prefix(torn.path()).unwrap();
    for n in 1..7 {
        for case in [Damage::Cut, Damage::Zero] {
            let at = from + (to - from) * n / 7;
            let image = copy(torn.path());
            damage(&image.path().join(inside), &case(at));
            // The noted point is of before the write: as a power cut finds it.
            let synced = "log/SYNCED";
            fs::copy(promised.path().join(synced), image.path().join(synced)).unwrap();
            assert_eq!(verify(image.path(), None).unwrap().findings, []);
            let storage = open(image.path(), &options()).unwrap();
            let (_, log) = replica(&storage, 1);
            assert_eq!(log.state().last, Some(id(19)));
            append(&log, 1, 20..30);
            drop((log, storage));

            // Had it been acknowledged, the same bytes are refused, however often it is tried.
            let image = copy(torn.path());
            damage(&image.path().join(inside), &case(at));
            for _ in 0..2 {
                let error = open(image.path(), &options())
                    .err()
                    .map(|error| error.to_string());
                assert!(
                    error
                        .as_ref()
                        .is_some_and(|error| error.contains("was synced")),
                    "{error:?}"
                );
            }
            assert_eq!(verify(image.path(), None).unwrap().findings.len(), 1);
        }
    }
}

#[test]
fn data_that_ends_before_its_log_begins_is_lost() {
    let image = image();
    // A data directory of before the purge: put back by a well-meaning hand.
    let data = image.path().join("data");
    fs::remove_dir_all(&data).unwrap();
    let lost = open(image.path(), &options()).unwrap().lost;
    assert_eq!(lost.len(), SHARDS as usize);
    for lost in lost {
        assert!(lost.what.contains("entries are missing"), "{lost:?}");
    }
    let report = verify(image.path(), None).unwrap();
    assert_eq!(
        report.findings.len(),
        SHARDS as usize,
        "{:?}",
        report.findings
    );
}

#[test]
fn a_directory_in_use_or_absent_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(verify(dir.path(), None), Err(Error::Io(_))));
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing is made"
    );
}
