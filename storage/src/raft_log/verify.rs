//! The log database, read offline: every row's checksum, no hole in any log, a directory that agrees with itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proto::{ReplicaId, ShardId};
use rocksdb::DB;

use super::database::COLUMN;
use super::directory::ReplicaRow;
use super::layout::{self, Kind};
use super::{LogOptions, directory, watermark};
use crate::error::{Error, Result};
use crate::ids::{LogId, StoreId};
use crate::keys::split_store;
use crate::memory::Memory;
use crate::seal::{self, Ring};
use crate::verify::{Finding, Report, describe, file_of, walk};

/// What the log database says, for the check of the data.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) replicas: Vec<ReplicaRow>,
    pub(crate) logs: BTreeMap<StoreId, Log>,
    dropping: BTreeSet<StoreId>,
    /// Whether the directory could be read: if not, nothing can be said about stores.
    known: bool,
}

/// One log as it was walked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Log {
    pub(crate) purged: Option<LogId>,
    pub(crate) last: Option<LogId>,
    committed: Option<LogId>,
    first: Option<u64>,
}

impl Found {
    /// Whether the directory lists the store, in whatever state.
    pub(crate) fn knows(&self, store: StoreId) -> bool {
        !self.known
            || self.dropping.contains(&store)
            || self
                .replicas
                .iter()
                .any(|row| [Some(row.data), row.receiving].contains(&Some(store)))
    }

    /// Index of the first entry of a replica's log, or of the next one.
    pub(crate) fn first(&self, shard: ShardId, replica: ReplicaId) -> u64 {
        let row = self
            .replicas
            .iter()
            .find(|row| (row.shard, row.replica) == (shard, replica));
        let log = row.and_then(|row| self.logs.get(&row.log));
        log.map_or(0, |log| {
            let after = super::database::next(log.purged);
            log.first.map_or(after, |first| first.max(after))
        })
    }
}

/// Checks the database in `dir`.
///
/// # Errors
/// [`Error::Format`]: a newer release wrote it. [`Error::KeysLost`]: it is sealed, and its keys are not there. Damage goes to the report.
pub(crate) fn check(
    dir: &Path,
    budget: usize,
    ring: Option<&Ring>,
    report: &mut Report,
) -> Result<Found> {
    let memory = Memory::new(budget / 2, budget / 2, 0);
    let options = super::database::options(&LogOptions::default(), &memory);
    let mut found = Found::default();
    let db = match DB::open_cf_descriptors_read_only(
        &options,
        dir,
        [super::database::column(&options)],
        false,
    ) {
        Ok(db) => db,
        Err(error) => {
            report.findings.push(finding(dir, &error.into()));
            return Ok(found);
        }
    };
    if let Err(error) = watermark::check(&db, dir) {
        report.findings.push(finding(dir, &error));
    }
    if ring.is_none() && directory::is_sealed(&db).unwrap_or_default() {
        let dir = dir.parent().unwrap_or(dir);
        return Err(Error::KeysLost {
            path: dir.join(seal::KEY_FILE),
        });
    }
    match directory::read(&db, dir) {
        Ok(Some((format, rows))) => {
            report.format = Some(format);
            report.node = Some(rows.node.0);
            report.cluster.clone_from(&rows.cluster);
            found.replicas = rows.replicas.values().copied().collect();
            found.dropping = rows.dropping.clone();
            found.known = true;
            report
                .findings
                .extend(rows.contradictions().into_iter().map(own));
        }
        Ok(None) => report.findings.push(own(format!(
            "{}: the directory has no format version",
            dir.display()
        ))),
        Err(error @ Error::Format { .. }) => return Err(error),
        Err(error) => report.findings.push(describe(&db, "log", COLUMN, &error)),
    }
    let mut findings = Vec::new();
    walk(&db, "log", COLUMN, &mut findings, |key, value| {
        report.bytes += (key.len() + value.len()) as u64;
        row(key, value, ring, &mut found.logs, &mut report.entries)
    });
    for (store, log) in &found.logs {
        if log.committed.map(|id| id.index) > log.last.or(log.purged).map(|id| id.index) {
            findings.push(own(format!(
                "log of store {store} ends before its committed point"
            )));
        }
    }
    report.findings.extend(findings);
    Ok(found)
}

fn own(what: String) -> Finding {
    Finding {
        database: "log",
        what,
        ..Finding::default()
    }
}

fn finding(dir: &Path, error: &Error) -> Finding {
    let what = error.to_string();
    Finding {
        file: file_of(&what).or_else(|| Some(dir.to_owned())),
        ..own(what)
    }
}

/// One row: checksum, and for an entry that it follows the one before.
fn row(
    key: &[u8],
    value: &[u8],
    ring: Option<&Ring>,
    logs: &mut BTreeMap<StoreId, Log>,
    entries: &mut u64,
) -> Result<()> {
    let (store, rest) = split_store(key)?;
    if store == layout::DIRECTORY {
        return layout::unseal(key, value).map(|_| ());
    }
    let log = logs.entry(store).or_default();
    let kind = rest.first().copied();
    match kind {
        Some(kind) if kind == Kind::Vote as u8 => {
            layout::decode_vote(key, value)?;
        }
        Some(kind) if kind == Kind::Committed as u8 => {
            log.committed = Some(layout::decode_log_id(key, value)?);
        }
        Some(kind) if kind == Kind::Purged as u8 => {
            log.purged = Some(layout::decode_log_id(key, value)?);
            log.last = log.purged;
        }
        Some(kind) if kind == Kind::Entry as u8 => {
            let id = layout::decode_entry(key, value, ring)?.id;
            let expected = log.last.map(|last| last.index + 1);
            *entries += 1;
            log.first.get_or_insert(id.index);
            let before = log.last.replace(id);
            if expected.is_some_and(|expected| expected != id.index) || before > Some(id) {
                let before = before.map_or_else(String::new, |id| id.to_string());
                return Err(Error::corrupt(format!(
                    "log of store {store}: entry {id} follows {before}"
                )));
            }
        }
        _ => return Err(layout::corrupt(key, "is of an unknown kind")),
    }
    Ok(())
}
