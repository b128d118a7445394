//! The data database: every row decodes, and belongs to a replica that the directory knows.

use std::path::Path;

use bytes::Bytes;
use rocksdb::{ColumnFamilyDescriptor, DB};

use super::{Finding, ReplicaReport, Report, describe, walk};
use crate::engine::Column;
use crate::engine::rocks::{DataOptions, column_options, name};
use crate::error::{Error, Result};
use crate::keys::{self, Key};
use crate::memory::Memory;
use crate::raft_log::verify::Found;
use crate::seal::Ring;
use crate::tables::{applied, audit, documents, indexes, rights, stale};

/// Checks the database in `dir`, and adds what its replicas have applied to the report.
pub(super) fn check(
    dir: &Path,
    budget: usize,
    ring: Option<&Ring>,
    found: &Found,
    report: &mut Report,
) {
    let opened = |key: &[u8], stored: &[u8]| {
        let stored = Bytes::copy_from_slice(stored);
        match ring {
            None => Ok(stored),
            Some(ring) => {
                let (_, bound) = keys::split_store(key)?;
                ring.state().open(bound, stored)
            }
        }
    };
    let memory = Memory::new(budget / 2, budget / 2, 0);
    let db = match open(dir, &memory) {
        Ok(db) => db,
        Err(error) => {
            let what = error.to_string();
            report.findings.push(Finding {
                database: "data",
                file: super::file_of(&what).or_else(|| Some(dir.to_owned())),
                keys: None,
                what,
            });
            return;
        }
    };
    let mut findings = Vec::new();
    for column in Column::ALL {
        walk(&db, "data", name(column), &mut findings, |key, value| {
            report.rows += 1;
            report.bytes += (key.len() + value.len()) as u64;
            row(column, found, key, &opened(key, value)?)
        });
    }
    for row in &found.replicas {
        let key = applied::full_key(row.data);
        let state = db.get(&key).map_err(Error::from).and_then(|value| {
            value
                .map(|value| applied::decode(&opened(&key, &value)?))
                .transpose()
        });
        let state = state.unwrap_or_else(|error| {
            let finding = describe(&db, "data", name(Column::State), &error);
            if !findings.contains(&finding) {
                findings.push(finding);
            }
            None
        });
        let state = state.unwrap_or_default();
        let log = found.logs.get(&row.log).copied().unwrap_or_default();
        report.replicas.push(ReplicaReport {
            shard: row.shard,
            replica: row.replica,
            purged: log.purged,
            last: log.last,
            applied: state.id,
            chain: state.chain,
        });
    }
    report.findings.extend(findings);
}

/// The first damage of the database in `dir`, if there is any; blocks alone, rows are not looked into.
///
/// # Errors
/// Those of opening it, except for damage.
pub(crate) fn first_damage(dir: &Path, memory: &Memory) -> Result<Option<Finding>> {
    let db = match open(dir, memory) {
        Ok(db) => db,
        Err(Error::Corrupt { what }) => {
            return Ok(Some(Finding {
                database: "data",
                file: super::file_of(&what).or_else(|| Some(dir.to_owned())),
                keys: None,
                what,
            }));
        }
        Err(error) => return Err(error),
    };
    let mut findings = Vec::new();
    for column in Column::ALL {
        walk(&db, "data", name(column), &mut findings, |_, _| Ok(()));
        if !findings.is_empty() {
            break;
        }
    }
    Ok(findings.into_iter().next())
}

fn open(dir: &Path, memory: &Memory) -> Result<DB> {
    let options = DataOptions::default();
    let columns = Column::ALL.map(|column| {
        ColumnFamilyDescriptor::new(name(column), column_options(column, &options, memory))
    });
    let database = rocksdb::Options::default();
    Ok(DB::open_cf_descriptors_read_only(
        &database, dir, columns, false,
    )?)
}

/// One row: a store that was given out, a key of its column, and a value that decodes where it can be told.
fn row(column: Column, found: &Found, key: &[u8], value: &Bytes) -> Result<()> {
    let (store, rest) = keys::split_store(key)?;
    if !found.knows(store) {
        return Err(Error::corrupt(format!(
            "row of store {store}, which the log's directory does not list"
        )));
    }
    let decoded = Key::decode(rest)?;
    let kind = keys::KeyKind::of(rest);
    if kind.map(keys::KeyKind::column) != Some(column) {
        return Err(Error::corrupt(format!(
            "{decoded} of store {store} in column {column:?}"
        )));
    }
    match decoded {
        Key::Applied(_) => applied::decode(value).map(|_| ()),
        Key::Document(_) => documents::decode(value).map(|_| ()),
        Key::IndexEntry(_) => indexes::is_public(value).map(|_| ()),
        Key::Rights(key) => rights::check(key, value),
        Key::SessionEnd(_) => rights::check_end(value),
        Key::Audit(_) => audit::decode(value).map(|_| ()),
        Key::Stale(_) => stale::decode(value).map(|_| ()),
        Key::StaleMark(_) => stale::decode_mark(rest, value).map(|_| ()),
        Key::AuditHead(_) => audit::read_head(Some(value.clone())).map(|_| ()),
        Key::Usage(_)
        | Key::Bucket(_)
        | Key::ReaderEntry(_)
        | Key::Idempotency(_)
        | Key::IdempotencyAge(_)
        | Key::IdempotencyUsage(_)
        | Key::Reservation(_)
        | Key::Fence(_)
        | Key::IndexProgress(_)
        | Key::Metadata(_)
        | Key::Expiry(_)
        | Key::Consumer(_)
        | Key::Change(_) => Ok(()),
    }
}
