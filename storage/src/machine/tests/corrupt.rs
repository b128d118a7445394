//! Rows that rotted: each gives an error to apply and to readers, never a panic and never an absent document.

use proto::log::ExpireIdempotency;
use proto::log::command::Operation;

use super::harness::{
    Node, command, idempotency, mutation, payload, principal, put, set_bucket, write,
};
use crate::engine::{Batch, Column, Engine as _};
use crate::error::Error;
use crate::keys::{
    self, AppliedKey, BucketKey, DocumentKey, IdempotencyAgeKey, IdempotencyKey,
    IdempotencyUsageKey,
};
use crate::machine::Payload;
use crate::tables::idempotency::{Target, scope};
use crate::tables::{buckets, documents};

fn node() -> Node {
    let node = Node::new(1);
    node.apply(payload(&set_bucket())).expect("applies");
    node.apply(put_again()).expect("applies");
    node
}

/// A write of a document with an idempotency key; applied again, it is answered by its record.
fn put_again() -> Payload {
    let request = Some(idempotency("k", "request"));
    payload(&write(
        0,
        principal("", &[]),
        request,
        mutation("a", None, put("\"n\":1", "")),
    ))
}

fn overwrite(node: &Node, column: Column, key: &[u8], value: &'static [u8]) {
    let mut batch = Batch::new();
    batch.put(column, keys::with_store(node.replica.store(), key), value);
    node.engine.write(batch).expect("memory writes");
}

fn is_corrupt<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Corrupt { .. }))
}

#[test]
fn a_corrupt_document_stops_reads_and_writes() {
    for row in [
        &b""[..],
        b"\x01",
        b"\x09garbage",
        b"\x01\x06garbage garbage garbage garbage garbage",
    ] {
        let node = node();
        overwrite(
            &node,
            Column::Documents,
            &DocumentKey {
                database: 1,
                bucket: 7,
                key: "a",
            }
            .encode(),
            row,
        );
        assert!(is_corrupt(documents::get(&node.replica, 1, 7, "a")));
        assert!(is_corrupt(documents::get_cached(&node.replica, 1, 7, "a")));
        let view = node.replica.view();
        assert!(is_corrupt(
            documents::scan(&view, 1, 7, std::ops::Bound::Unbounded).collect::<Result<Vec<_>, _>>()
        ));
        assert!(is_corrupt(node.apply(payload(&write(
            0,
            principal("", &[]),
            None,
            mutation("a", None, put("", ""))
        )))));
    }
}

#[test]
fn a_corrupt_bucket_stops_writes() {
    let node = node();
    overwrite(
        &node,
        Column::State,
        &BucketKey {
            database: 1,
            bucket: 7,
        }
        .encode(),
        b"\x02",
    );
    assert!(is_corrupt(buckets::version(&node.replica, 1, 7)));
    assert!(is_corrupt(node.apply(payload(&set_bucket()))));
    assert!(is_corrupt(node.apply(payload(&write(
        0,
        principal("", &[]),
        None,
        mutation("b", None, put("", ""))
    )))));
}

#[test]
fn a_corrupt_idempotency_record_stops_its_replay() {
    let node = node();
    let scope = scope(
        1,
        "",
        "k",
        Target::Document {
            bucket: 7,
            key: "a",
        },
    );
    overwrite(
        &node,
        Column::State,
        &IdempotencyKey { scope }.encode(),
        b"\x01\x01",
    );
    assert!(is_corrupt(crate::tables::idempotency::lookup(
        &node.replica,
        scope
    )));
    assert!(is_corrupt(node.apply(put_again())));
}

#[test]
fn a_usage_below_its_records_is_corrupt() {
    for (key, row) in [
        (IdempotencyUsageKey.encode(), &b"\x01\x00"[..]),
        (
            IdempotencyAgeKey {
                created_us: 0,
                scope: 0,
            }
            .encode(),
            b"\x01",
        ),
    ] {
        let node = node();
        overwrite(&node, Column::State, &key, row);
        let mut expire = command(
            0,
            Operation::ExpireIdempotency(ExpireIdempotency {
                kept_us: 0,
                page: 9,
            }),
        );
        expire.tick = Some(proto::log::Tick {
            base_us: 1 << 40,
            elapsed_us: 0,
            commit_index: 0,
        });
        assert!(is_corrupt(node.apply(payload(&expire))));
    }
}

#[test]
fn a_corrupt_applied_row_does_not_open() {
    let node = node();
    overwrite(&node, Column::State, &AppliedKey.encode(), b"\x01\xff");
    assert!(is_corrupt(node.replica.switch_store(node.replica.store())));
}

#[test]
fn commands_that_do_not_decode_stop_the_shard() {
    let unknown_operation = [0xfa, 0x07, 0x00];
    for bytes in [&[][..], &[0xff], &unknown_operation, &[0x1a, 0x00]] {
        let node = node();
        assert!(
            is_corrupt(node.apply(Payload::Command(bytes::Bytes::copy_from_slice(bytes)))),
            "{bytes:02x?}"
        );
    }
    let node = node();
    let mut no_operation = mutation("a", None, put("", ""));
    no_operation.operation = None;
    assert!(is_corrupt(node.apply(payload(&write(
        0,
        principal("", &[]),
        None,
        no_operation
    )))));
    let bad_acl = mutation("a", None, put("", "{\"raed\":{}}"));
    assert!(is_corrupt(node.apply(payload(&write(
        0,
        principal("", &[]),
        None,
        bad_acl
    )))));
    let mut short = idempotency("k2", "request");
    short.fingerprint.truncate(3);
    assert!(is_corrupt(node.apply(payload(&write(
        0,
        principal("", &[]),
        Some(short),
        mutation("a", None, put("", ""))
    )))));
}
