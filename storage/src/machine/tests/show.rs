//! Rows and outcomes as the golden scripts show them.

use std::fmt::Write as _;

use bytes::Bytes;
use document::acl::Acl;

use crate::codec;
use crate::engine::Column;
use crate::keys::{Key, KeyKind};
use crate::machine::outcome::{Outcome, Progress, Rejection, Reservation};
use crate::tables::audit;
use crate::tables::buckets;
use crate::tables::change_log::{self, Operation};
use crate::tables::documents::{self, Entry};
use crate::tables::idempotency::{AgeRow, IdempotencyRecord, UsageRow};
use crate::tables::indexes::{self, ProgressRow};
use crate::tables::reservations::FenceRow;
use crate::tables::rights;
use crate::tables::stale;
use crate::tables::usage::Usage;

/// One effect, in a line. The column is that of the key's kind, or the line says so.
pub(super) fn effect(column: Column, key: &[u8], value: Option<&Bytes>) -> String {
    let kind = KeyKind::of(key).expect("a kind of the catalogue");
    assert_eq!(kind.column(), column, "{kind:?}");
    let decoded = Key::decode(key).expect("a key of the catalogue");
    match value {
        Some(value) => format!("put {decoded} = {}", row(decoded, value)),
        None => format!("delete {decoded}"),
    }
}

fn row(key: Key<'_>, value: &Bytes) -> String {
    match key {
        Key::Document(_) => document(value),
        Key::Change(_) => change(value),
        Key::Bucket(_) => {
            let row = buckets::decode(value).expect("decodes");
            let dropped = if row.dropped { " dropped" } else { "" };
            let mut line = format!("{} v{}{dropped}", row.name, row.version);
            for index in &row.indexes {
                write!(line, " index={}", index.id).expect("strings take it");
            }
            line
        }
        Key::Idempotency(_) => {
            let record: IdempotencyRecord = codec::decode(value).expect("decodes");
            format!("created=T{} {:?}", record.created_us, record.outcome)
        }
        Key::IdempotencyAge(_) => {
            let row: AgeRow = codec::decode(value).expect("decodes");
            format!("{} bytes", row.0)
        }
        Key::IdempotencyUsage(_) => {
            let row: UsageRow = codec::decode(value).expect("decodes");
            format!("{} bytes", row.0)
        }
        Key::Rights(key) => rights::show(key, value),
        Key::SessionEnd(_) => format!("{} bytes", value.len()),
        Key::Expiry(_) => format!("{} bytes", value.len()),
        Key::Reservation(_) => reservation(&codec::decode(value).expect("decodes")),
        Key::Fence(_) => {
            let FenceRow(index) = codec::decode(value).expect("decodes");
            index.to_string()
        }
        Key::IndexProgress(_) => match codec::decode(value).expect("decodes") {
            ProgressRow::Building { after } => format!("built up to {after:?}"),
            ProgressRow::Complete => "complete".to_owned(),
            ProgressRow::BuildingClosed { after } => {
                format!("built up to {after:?}, without lists")
            }
            ProgressRow::CompleteClosed => "complete, without lists".to_owned(),
            ProgressRow::Purging { after } => {
                format!("purged up to {}", Key::decode(&after).expect("a key"))
            }
        },
        Key::IndexEntry(_) => match indexes::is_public(value).expect("decodes") {
            true => "public".to_owned(),
            false => "restricted".to_owned(),
        },
        Key::Stale(_) => format!("{:?}", stale::decode(value).expect("decodes")),
        Key::StaleMark(key) => {
            let mark = stale::decode_mark(&key.encode(), value).expect("decodes");
            format!("T{}", mark.time_us)
        }
        Key::ReaderEntry(_) => format!("{} bytes", value.len()),
        Key::Audit(_) => text(&audit::decode(value).expect("decodes").text).to_owned(),
        Key::AuditHead(_) => {
            let head = audit::read_head(Some(value.clone())).expect("decodes");
            format!(
                "last={} removed={} {} bytes",
                head.last, head.removed, head.bytes
            )
        }
        Key::Usage(_) => {
            let row: Usage = codec::decode(value).expect("decodes");
            format!(
                "{} documents {} bytes {:?}",
                row.documents, row.bytes, row.counted
            )
        }
        Key::Applied(_) | Key::Metadata(_) | Key::Consumer(_) => "…".to_owned(),
    }
}

fn reservation(reservation: &Reservation) -> String {
    let Reservation {
        owner,
        reserved,
        confirmed,
    } = reservation;
    let confirmed = if *confirmed { " confirmed" } else { "" };
    format!("{owner:?} reserved={reserved}{confirmed}")
}

fn document(row: &Bytes) -> String {
    match documents::decode(row).expect("decodes") {
        Entry::Tombstone(tombstone) => {
            let at = tombstone.position;
            let mut line = format!(
                "tombstone v{} deleted=T{} at={}.{}",
                tombstone.version, tombstone.deleted_us, at.index, at.ordinal
            );
            acl(&mut line, "acl", tombstone.acl.as_ref());
            line
        }
        Entry::Live { record, position } => {
            let mut line = format!(
                "v{} at={}.{}",
                record.version, position.index, position.ordinal
            );
            write!(
                line,
                " created={} updated={}",
                record.created_us, record.updated_us
            )
            .expect("strings take it");
            if let Some(expiry) = record.expiry {
                write!(line, " expires={} due=T{}", expiry.at_us, expiry.due_us)
                    .expect("strings take it");
            }
            acl(&mut line, "acl", record.acl.as_ref());
            if let Some(hidden) = &record.hidden {
                write!(line, " hidden={}", text(hidden)).expect("strings take it");
            }
            write!(line, " {}", text(&record.body)).expect("strings take it");
            line
        }
    }
}

fn change(row: &Bytes) -> String {
    let event = change_log::decode(row).expect("decodes");
    let operation = match event.operation {
        Operation::Insert => "insert",
        Operation::Update => "update",
        Operation::Delete => "delete",
        Operation::Rules => "rules",
    };
    let mut line = format!(
        "{operation} {}/{}/{:?} v{} time={}",
        event.database, event.bucket, event.key, event.version, event.time_us
    );
    write!(line, " user={:?}", event.user).expect("strings take it");
    if event.by_expiry {
        line.push_str(" by_expiry");
    }
    acl(&mut line, "acl", event.acl.as_ref());
    if let Some(before) = &event.before {
        write!(
            line,
            " before=v{}@{}.{}",
            before.version, before.position.index, before.position.ordinal
        )
        .expect("strings take it");
        acl(&mut line, "before_acl", before.acl.as_ref());
        if let Some(body) = &before.body {
            write!(line, " before_body={} bytes", body.len()).expect("strings take it");
        }
    }
    if let Some(at) = event.deleted_at {
        write!(line, " deleted={}.{}", at.index, at.ordinal).expect("strings take it");
    }
    write!(line, " body={} bytes", event.body.len()).expect("strings take it");
    line
}

fn acl(line: &mut String, name: &str, acl: Option<&Acl>) {
    if let Some(acl) = acl {
        write!(line, " {name}={}", acl.to_json()).expect("strings take it");
    }
}

pub(super) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("JSON is UTF-8")
}

/// An outcome, a line for each document.
pub(super) fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done => "done".to_owned(),
        Outcome::Written(all) if all.is_empty() => "written, nothing".to_owned(),
        Outcome::Rejected {
            ordinal,
            rejection: Rejection::Unclaimed { index, .. },
        } => format!("rejected #{ordinal}: a value of index {index} is not claimed"),
        Outcome::Rejected { ordinal, rejection } => format!("rejected #{ordinal}: {rejection:?}"),
        Outcome::Progress(Progress::More { after }) => format!("more behind {after:?}"),
        Outcome::Progress(Progress::Complete) => "complete".to_owned(),
        Outcome::Progress(Progress::Impossible { key }) => format!("impossible: {key:?}"),
        Outcome::Reserved { holder, is_own } => {
            let whose = if *is_own { "own" } else { "another's" };
            format!("{whose}: {}", reservation(holder))
        }
        Outcome::Fenced { holds: true } => "fenced, holds the value".to_owned(),
        Outcome::Fenced { holds: false } => "fenced, does not hold the value".to_owned(),
        Outcome::Written(all) => {
            let lines = all.iter().map(|written| {
                format!(
                    "written v{} created={} updated={}{}{} {}",
                    written.version,
                    written.created_us,
                    written.updated_us,
                    if written.existed { " existed" } else { "" },
                    if written.replayed { " replayed" } else { "" },
                    if written.body.is_empty() {
                        "-"
                    } else {
                        text(&written.body)
                    },
                )
            });
            lines.collect::<Vec<_>>().join("\n")
        }
    }
}
