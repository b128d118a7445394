//! Rows that rotted: each gives an error to apply and to readers, never a panic and never an absent document.

use document::index::Range;
use proto::log::command::Operation;
use proto::log::{self, Command, ExpireIdempotency};

use super::harness::{
    Node, backfill, command, hashes, idempotency, index, mutation, payload, principal, put,
    set_bucket, set_indexes, value, write,
};
use crate::engine::{Batch, Column, Direction, Engine as _};
use crate::error::Error;
use crate::keys::{
    self, AppliedKey, BucketKey, DocumentKey, IdempotencyAgeKey, IdempotencyKey,
    IdempotencyUsageKey, IndexEntryKey, IndexProgressKey, ReservationKey,
};
use crate::machine::Payload;
use crate::tables::idempotency::{Target, scope};
use crate::tables::{buckets, documents, indexes, reservations};

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
        expire.tick = Some(log::Tick {
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

/// A node with a document, an index that is complete and a reservation.
fn indexed() -> (Node, log::UniqueValue) {
    let node = Node::new(1);
    let unique = index(r#"{"unique":true,"keys":[{"n":"asc"}]}"#);
    let hash = hashes(&unique, "\"n\":1")[0];
    let told = set_indexes(1, &[(3, &unique)]);
    node.apply(payload(&told)).expect("applies");
    let mut backfill = backfill(3, 10);
    if let Some(Operation::BackfillNotingLists(backfill)) = &mut backfill.operation {
        backfill.after = Some(String::new());
    }
    node.apply(payload(&backfill)).expect("applies");
    let value = value(3, &hash).expect("a value");
    let mut mutation = mutation("a", None, put("\"n\":1", ""));
    mutation.claims = Some(log::Claims {
        prepared: 1,
        claims: vec![log::Claim {
            index: 3,
            value: value.value.clone(),
        }],
    });
    let written = write(0, principal("", &[]), None, mutation);
    node.apply(payload(&written)).expect("applies");
    node.apply(payload(&reserve(&value))).expect("applies");
    (node, value)
}

fn reserve(value: &log::UniqueValue) -> Command {
    let reserve = log::ReserveValue {
        value: Some(value.clone()),
        owner: "a".to_owned(),
    };
    command(0, Operation::ReserveValue(reserve))
}

#[test]
fn corrupt_rows_of_indexes_stop_whoever_meets_them() {
    let everything = Range {
        from: Vec::new(),
        to: Vec::new(),
    };
    let (node, value) = indexed();
    let of_bucket = |node: &Node| indexes::of_bucket(&node.replica.view(), 1, 7);
    let walk = |node: &Node, index: &indexes::BucketIndex| {
        let each = &mut |_: indexes::IndexEntry<'_>| Ok(std::ops::ControlFlow::Continue(()));
        indexes::visit(
            &node.replica.view(),
            1,
            7,
            index,
            &everything,
            Direction::Forward,
            each,
        )
    };
    let index = of_bucket(&node).expect("reads").remove(0);
    assert!(index.complete);
    walk(&node, &index).expect("reads");

    let key = ReservationKey {
        database: 1,
        bucket: 7,
        index: 3,
        value: value.value[..].try_into().expect("32 bytes"),
    };
    overwrite(&node, Column::State, &key.encode(), b"\x01garbage");
    let read = reservations::get(&node.replica, 1, 7, 3, &key.value);
    assert!(is_corrupt(read));
    assert!(is_corrupt(node.apply(payload(&reserve(&value)))));

    let (view, prefix) = (node.replica.view(), IndexEntryKey::prefix(1, 7, 3));
    let entries = view.scan_prefix(Column::Documents, &prefix);
    let keys: Vec<_> = entries.map(|pair| pair.expect("reads").0).collect();
    assert_eq!(keys.len(), 1);
    overwrite(&node, Column::Documents, &keys[0], b"\x02");
    assert!(is_corrupt(walk(&node, &index)));

    // An entry whose key is cut off or no text.
    let (node, _) = indexed();
    for place in [&b"\xff\xff"[..], b"", b"\x10"] {
        let bad = [&prefix, place].concat();
        overwrite(&node, Column::Documents, &bad, b"\x01");
        assert!(is_corrupt(walk(&node, &index)), "{place:02x?}");
        let mut undone = Batch::new();
        let bad = keys::with_store(node.replica.store(), &bad);
        undone.delete(Column::Documents, bad);
        node.engine.write(undone).expect("memory writes");
        walk(&node, &index).expect("reads");
    }

    let progress = IndexProgressKey {
        database: 1,
        bucket: 7,
        index: 3,
    };
    overwrite(&node, Column::State, &progress.encode(), b"\x01\x09");
    assert!(is_corrupt(of_bucket(&node)));
    assert!(is_corrupt(indexes::progress(&node.replica, 1, 7, 3)));
    assert!(is_corrupt(node.apply(payload(&backfill(3, 1)))));
}

/// A definition that this release cannot read stops the shard where it comes in: what it does not know, it could not keep up.
#[test]
fn an_index_that_does_not_compile_stops_the_shard() {
    let node = node();
    let mut told = set_indexes(2, &[]);
    if let Some(Operation::SetBuckets(set)) = &mut told.operation {
        set.buckets[0].indexes.push(log::Index {
            id: 3,
            definition: b"\xff".as_slice().into(),
        });
    }
    assert!(is_corrupt(node.apply(payload(&told))));
    let short = log::UniqueValue {
        database: 1,
        bucket: 7,
        index: 3,
        value: b"short".as_slice().into(),
    };
    assert!(is_corrupt(node.apply(payload(&reserve(&short)))));
    let nothing = command(0, Operation::FenceClaims(log::FenceClaims::default()));
    assert!(is_corrupt(node.apply(payload(&nothing))));
}
