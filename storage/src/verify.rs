//! An offline check of a whole data directory: every block, every row, and what must hold between the two databases.
//!
//! Opens both databases for reading only, with the node's lock held, and changes nothing. It goes on after damage, so that one run
//! names all of it: the file and the range of keys, as far as RocksDB tells. What a damaged MANIFEST or CURRENT keeps from being read
//! is reported as one finding.
//!
//! With the master key of a sealed directory, every seal is opened too.
//!
//! Deliberately absent: repair. A replica is rebuilt from its peers, which hold what was acknowledged; guessing here would not.
//!
//! Not seen: damage in a Bloom filter or in a table's properties, which RocksDB treats as "may be there" and reads on.

pub(crate) mod data;

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use proto::{ReplicaId, ShardId};
use rocksdb::DB;
use rustix::fs::{FlockOperation, fcntl_lock};

use crate::engine::rocks::unbuffered;
use crate::error::{Error, Result};
use crate::ids::LogId;
use crate::keys;
use crate::open::gap;
use crate::raft_log::verify as log;
use crate::seal::{MasterKey, Masters, Ring};

/// Memory for the check: blocks are read once, so it is enough for indexes.
const BUDGET_BYTES: usize = 64 << 20;
/// Of findings of one kind in one database; more of them say no more.
const FINDINGS_MAX: usize = 64;

/// Something that is not as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// `log` or `data`; empty: between the two.
    pub database: &'static str,
    /// The damaged file, if it is known.
    pub file: Option<PathBuf>,
    /// The first and the last key of that file, if it is a table that the database knows. With store id.
    pub keys: Option<(Vec<u8>, Vec<u8>)>,
    /// What is wrong.
    pub what: String,
}

/// What was read of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaReport {
    /// Of which shard.
    pub shard: ShardId,
    /// Which replica.
    pub replica: ReplicaId,
    /// The last purged entry.
    pub purged: Option<LogId>,
    /// The last entry of the log.
    pub last: Option<LogId>,
    /// The last entry that the flushed data holds.
    pub applied: Option<LogId>,
    /// Chain hash at that entry: equal on all replicas of the shard that are there.
    pub chain: u128,
}

/// The outcome of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Format version of the directory, if it could be read.
    pub format: Option<u32>,
    /// The node's id.
    pub node: Option<u64>,
    /// The cluster.
    pub cluster: Option<String>,
    /// Entries of all logs.
    pub entries: u64,
    /// Rows of the data database.
    pub rows: u64,
    /// Bytes of keys and values read, of both.
    pub bytes: u64,
    /// By shard.
    pub replicas: Vec<ReplicaReport>,
    /// What is damaged. Empty: nothing.
    pub findings: Vec<Finding>,
}

/// Checks the data directory `dir`, which is sealed by the master key or, without one, not. Reads all of it.
///
/// # Errors
/// [`Error::Sealed`], [`Error::WrongMasterKey`], [`Error::KeysLost`]: another key is needed. [`Error::Locked`]: a node runs on it. [`Error::Format`]: a newer release wrote it. [`Error::Io`]: there is no data directory, or it
/// cannot be read. Damage is no error but a [`Finding`].
pub fn verify(dir: &Path, master: Option<&MasterKey>) -> Result<Report> {
    let _lock = lock(&dir.join("log"))?;
    let masters = master.map_or(Masters::Off, |master| Masters::On {
        current: master.clone(),
        previous: None,
    });
    let ring = Ring::open(dir, &masters)?.filter(|ring| !ring.is_fresh());
    let ring = ring.as_deref();
    let mut report = Report::default();
    let found = log::check(&dir.join("log"), BUDGET_BYTES, ring, &mut report)?;
    data::check(&dir.join("data"), BUDGET_BYTES, ring, &found, &mut report);
    for replica in &report.replicas {
        let first = found.first(replica.shard, replica.replica);
        let gap = gap(replica.applied, replica.purged, first).or_else(|| {
            let is_blank = replica.chain == 0 && replica.applied.is_some();
            is_blank.then(|| "has applied entries but no chain hash".to_owned())
        });
        report.findings.extend(gap.map(|what| Finding {
            file: Some(dir.join("data")),
            what: format!(
                "replica {} of shard {} {what}",
                replica.replica, replica.shard
            ),
            ..Finding::default()
        }));
    }
    Ok(report)
}

/// Takes the lock that a running node holds, without making anything.
fn lock(log: &Path) -> Result<std::fs::File> {
    let path = log.join("LOCK");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| {
            let text = format!("{}: {error}: is this a data directory?", path.display());
            std::io::Error::new(error.kind(), text)
        })?;
    fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| Error::Locked {
        path: log.to_owned(),
    })?;
    Ok(file)
}

/// Reads all of a column twice: once as a reader would, giving each pair to `take`, and once with what range deletions hide, so that
/// every block is checked. After damage it goes on behind the damaged table.
pub(crate) fn walk(
    db: &DB,
    database: &'static str,
    column: &str,
    findings: &mut Vec<Finding>,
    mut take: impl FnMut(&[u8], &[u8]) -> Result<()>,
) {
    for hidden in [false, true] {
        let before = findings.len();
        let mut from = Vec::new();
        while let Some(failed) = walk_from(db, column, &from, hidden, &mut take) {
            let (error, next) = failed;
            let finding = describe(db, database, column, &error);
            if findings.iter().all(|known| *known != finding) {
                findings.push(finding);
            }
            match next {
                Some(next) if next > from && findings.len() - before < FINDINGS_MAX => from = next,
                _ => break,
            }
        }
    }
}

/// Walks until damage; gives it, and where to go on.
fn walk_from(
    db: &DB,
    column: &str,
    from: &[u8],
    hidden: bool,
    take: &mut impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Option<(Error, Option<Vec<u8>>)> {
    let Some(cf) = db.cf_handle(column) else {
        return Some((
            Error::Engine(format!("column family {column} is missing")),
            None,
        ));
    };
    let mut options = unbuffered();
    // Deprecated for reads that are quicker with it; here it is what makes every block be read.
    #[allow(deprecated)]
    options.set_ignore_range_deletions(hidden);
    let mut iterator = db.raw_iterator_cf_opt(cf, options);
    iterator.seek(from);
    let mut at = from.to_vec();
    while let Some((key, value)) = iterator.item() {
        at.clear();
        at.extend_from_slice(key);
        if !hidden && let Err(error) = take(key, value) {
            at.push(0);
            return Some((error, Some(at)));
        }
        iterator.next();
    }
    let error = Error::from(iterator.status().err()?);
    // Behind the damaged table, or behind the last pair that could be read.
    let file = file_of(&error.to_string());
    let end = db.live_files().ok().and_then(|files| {
        let damaged = files.into_iter().find(|live| {
            file.as_deref()
                .is_some_and(|file| file.ends_with(name(live)))
        })?;
        damaged.end_key
    });
    let mut next = end.filter(|end| *end >= at).unwrap_or(at);
    next.push(0);
    Some((error, Some(next)))
}

fn name(live: &rocksdb::LiveFile) -> &str {
    live.name.trim_start_matches('/')
}

/// A finding for an error of RocksDB or of our own rows.
pub(crate) fn describe(db: &DB, database: &'static str, column: &str, error: &Error) -> Finding {
    let what = error.to_string();
    let file = file_of(&what);
    let keys = db.live_files().ok().and_then(|files| {
        let live = files.into_iter().find(|live| {
            live.column_family_name == column
                && file
                    .as_deref()
                    .is_some_and(|file| file.ends_with(name(live)))
        })?;
        Some((live.start_key?, live.end_key?))
    });
    Finding {
        database,
        file,
        keys,
        what,
    }
}

/// The path in a message of RocksDB, such as `block checksum mismatch: … in /d/data/000012.sst offset 0 size 5`.
pub(crate) fn file_of(message: &str) -> Option<PathBuf> {
    let clean = |word: &str| {
        word.trim_matches(|c: char| matches!(c, ',' | ':' | ';' | '"' | '\'' | '(' | ')'))
            .to_owned()
    };
    let is_file = |word: &String| {
        let name = word.rsplit('/').next().unwrap_or_default();
        word.contains('/')
            && (name.ends_with(".sst")
                || name.ends_with(".log")
                || name.starts_with("MANIFEST-")
                || matches!(name, "CURRENT" | "SYNCED" | "IDENTITY"))
    };
    message
        .split_whitespace()
        .map(clean)
        .find(is_file)
        .map(PathBuf::from)
}

/// A key of the data database for people.
pub fn describe_key(key: &[u8]) -> String {
    match keys::split_store(key).and_then(|(store, rest)| Ok((store, keys::Key::decode(rest)?))) {
        Ok((store, key)) => format!("store {store} {key}"),
        Err(_) => key.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

#[cfg(test)]
mod tests;
