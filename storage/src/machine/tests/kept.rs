//! Kept rows change nothing but the time that apply takes.

use std::sync::Arc;

use proptest::prelude::*;
use proto::ShardId;

use super::harness::{BUCKET, DATABASE, Node, delete, mutation, principal, put, set_bucket, write};
use super::model::{commands, entries, requests};
use crate::engine::{Column, Engine as _};
use crate::ids::StoreId;
use crate::keys::{DocumentKey, with_store};
use crate::machine::documents::DocumentMachine;
use crate::machine::outcome::Outcome;
use crate::machine::{KeptRows, Replica};
use crate::tables::documents::{self, CachedRecord};

fn keeping(rows: KeptRows) -> Node {
    Node::over(crate::engine::memory::Memory::keeping(rows), 1)
}

fn put_a(node: &Node, text: &str) -> Outcome {
    let fields = format!("\"text\":\"{text}\"");
    let write = write(
        1,
        principal("", &[]),
        None,
        mutation("a", None, put(&fields, "")),
    );
    node.outcome(&write).expect("applies")
}

fn version(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Written(all) => all[0].version,
        other => panic!("{other:?}"),
    }
}

fn cached(node: &Node) -> CachedRecord {
    documents::get_cached(&node.replica, DATABASE, BUCKET, "a").expect("reads")
}

proptest! {
    /// Replies, rows and chains are those of a replica that keeps nothing: with room for all rows, and with room for so few that each
    /// one pushes out another.
    #[test]
    fn apply_gives_the_same_bytes(requests in requests(), cuts in proptest::collection::vec(1..6usize, 30), room in 0..900usize) {
        let commands = commands(&requests, true);
        let without = Node::new(1);
        let nodes = [keeping(KeptRows::new(1 << 20)), keeping(KeptRows::sized(room, usize::MAX))];
        let mut rest = entries(&commands);
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let next = rest.split_off(cut.min(rest.len()));
            let replies = without.replica.apply(rest.clone()).expect("applies");
            for node in &nodes {
                prop_assert_eq!(&node.replica.apply(rest.clone()).expect("applies"), &replies);
            }
            rest = next;
        }
        for node in &nodes {
            prop_assert_eq!(node.rows(), without.rows());
            prop_assert_eq!(node.replica.applied(), without.replica.applied());
            for key in ["a", "b", "ä/{t}"] {
                let read = |node: &Node| documents::get_cached(&node.replica, DATABASE, BUCKET, key).expect("reads");
                prop_assert_eq!(read(node), read(&without));
            }
        }
    }
}

/// What apply wrote is served from memory, as the very bytes, though the engine would have to be asked otherwise.
#[test]
fn a_written_document_is_found_without_the_engine() {
    let node = keeping(KeptRows::new(1 << 20));
    node.outcome(&set_bucket()).expect("applies");
    put_a(&node, "one");
    let key = DocumentKey {
        database: DATABASE,
        bucket: BUCKET,
        key: "a",
    };
    let key = with_store(StoreId(1), &key.encode());
    let mut behind = crate::engine::Batch::new();
    behind.delete(Column::Documents, key);
    node.engine.write(behind).expect("written");
    let CachedRecord::Found(record) = cached(&node) else {
        panic!("not kept");
    };
    assert_eq!(record.version, 1);
}

#[test]
fn a_deleted_document_is_found_deleted() {
    let node = keeping(KeptRows::new(1 << 20));
    node.outcome(&set_bucket()).expect("applies");
    put_a(&node, "one");
    let delete = write(1, principal("", &[]), None, mutation("a", None, delete()));
    assert_eq!(version(&node.outcome(&delete).expect("applies")), 2);
    assert_eq!(cached(&node), CachedRecord::Absent);
    assert_eq!(version(&put_a(&node, "again")), 3);
}

/// After a crash the state is an older one: nothing of what was kept before may be seen.
#[test]
fn a_replica_that_is_opened_again_finds_nothing_of_before() {
    let node = keeping(KeptRows::new(1 << 20));
    node.outcome(&set_bucket()).expect("applies");
    node.engine.flush().expect("flushed");
    put_a(&node, "lost");
    node.engine.crash();
    let replica = Replica::open(
        node.engine.clone(),
        Arc::new(DocumentMachine),
        ShardId(1),
        StoreId(1),
    );
    let node = Node {
        replica: replica.expect("opens"),
        ..node
    };
    assert_eq!(cached(&node), CachedRecord::Absent);
    assert_eq!(version(&put_a(&node, "first")), 1);
}

/// An installed snapshot lies under another store id.
#[test]
fn a_replica_that_switches_its_store_finds_nothing_of_before() {
    let node = keeping(KeptRows::new(1 << 20));
    node.outcome(&set_bucket()).expect("applies");
    put_a(&node, "before");
    node.replica.switch_store(StoreId(2)).expect("switches");
    assert_eq!(cached(&node), CachedRecord::Absent);
    assert_eq!(node.replica.applied().id, None);
}

/// Only keeps what is asked for again.
#[test]
fn change_events_are_not_kept() {
    let node = keeping(KeptRows::new(1 << 20));
    node.outcome(&set_bucket()).expect("applies");
    put_a(&node, &"x".repeat(10_000));
    let taken = node.engine.kept_rows().expect("keeps").bytes();
    assert!((10_000..12_000).contains(&taken), "{taken}");
}
