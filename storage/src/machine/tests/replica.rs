//! What a replica does with entries, whatever the machine: order, batches, crashes, stores, the chain.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::ShardId;
use proto::log::command::Operation;
use proto::log::{Idle, Tick};

use super::harness::{
    Node, command, delete, entry, mutation, payload, principal, put, set_bucket, write,
};
use crate::engine::memory::Memory;
use crate::engine::{Column, Engine as _};
use crate::error::{Error, Result};
use crate::ids::{LogId, StoreId};
use crate::machine::documents::DocumentMachine;
use crate::machine::{Applied, Entry, Machine, Payload, Replica, ReplicaView, Transaction};
use crate::tables::documents;

fn log_id(index: u64) -> LogId {
    LogId {
        term: 1,
        leader: 1,
        index,
    }
}

fn put_a(fields: &str) -> Payload {
    payload(&write(
        0,
        principal("", &[]),
        None,
        mutation("a", None, put(fields, "")),
    ))
}

#[test]
fn blank_and_membership_entries_move_applied() {
    let node = Node::new(1);
    assert_eq!(node.replica.applied(), Applied::default());
    assert_eq!(node.apply(Payload::Blank).expect("applies"), Bytes::new());
    let blank = node.replica.applied();
    assert_eq!(blank.id, Some(log_id(1)));
    assert_eq!(
        node.apply(Payload::Membership(Bytes::from_static(b"m")))
            .expect("applies"),
        Bytes::new()
    );
    let applied = node.replica.applied();
    assert_eq!(applied.id, Some(log_id(2)));
    assert_eq!(
        applied.membership,
        Some((Some(log_id(2)), Bytes::from_static(b"m")))
    );
    assert_ne!(applied.chain, blank.chain);
}

#[test]
fn entries_are_never_applied_twice() {
    let node = Node::new(1);
    node.apply(payload(&set_bucket())).expect("applies");
    node.apply(put_a("\"n\":1")).expect("applies");
    let before = node.rows();
    for index in [1, 2] {
        let result = node.replica.apply(vec![Entry {
            id: log_id(index),
            payload: put_a("\"n\":2"),
        }]);
        assert!(matches!(result, Err(Error::Corrupt { .. })), "{index}");
    }
    // Twice within one batch is no better.
    let twice = vec![entry(3, &set_bucket()), entry(3, &set_bucket())];
    assert!(matches!(
        node.replica.apply(twice),
        Err(Error::Corrupt { .. })
    ));
    assert_eq!(node.rows(), before);
}

#[test]
fn an_error_leaves_nothing_of_the_batch() {
    let node = Node::new(1);
    node.apply(payload(&set_bucket())).expect("applies");
    let (rows, applied) = (node.rows(), node.replica.applied());
    let entries = vec![
        Entry {
            id: log_id(2),
            payload: put_a("\"n\":1"),
        },
        Entry {
            id: log_id(3),
            payload: Payload::Command(Bytes::from_static(&[0xff])),
        },
    ];
    assert!(matches!(
        node.replica.apply(entries),
        Err(Error::Corrupt { .. })
    ));
    assert_eq!((node.rows(), node.replica.applied()), (rows, applied));
}

#[test]
fn later_entries_of_a_batch_see_earlier_ones() {
    let node = Node::new(1);
    let write = |index, operation| {
        entry(
            index,
            &write(0, principal("", &[]), None, mutation("a", None, operation)),
        )
    };
    let entries = vec![
        entry(1, &set_bucket()),
        write(2, put("\"n\":1", "")),
        write(3, delete()),
        write(4, put("\"n\":2", "")),
    ];
    node.replica.apply(entries).expect("applies");
    let record = documents::get(&node.replica, 1, 7, "a")
        .expect("reads")
        .expect("exists");
    assert_eq!(record.version, 3);
}

#[test]
fn a_crash_goes_back_to_a_whole_number_of_batches() {
    let node = Node::new(1);
    node.apply(payload(&set_bucket())).expect("applies");
    node.apply(put_a("\"n\":1")).expect("applies");
    node.engine.flush().expect("flushes");
    let (rows, flushed) = (node.rows(), node.replica.applied());
    node.apply(put_a("\"n\":2")).expect("applies");
    assert_eq!(node.replica.flushed_applied().expect("reads"), flushed);
    assert_ne!(node.replica.applied(), flushed);
    node.engine.crash();
    let engine: Arc<Memory> = node.engine.clone();
    let again =
        Replica::open(engine, Arc::new(DocumentMachine), ShardId(1), StoreId(1)).expect("opens");
    assert_eq!(again.applied(), flushed);
    assert_eq!(node.rows(), rows);
}

#[test]
fn stores_lie_side_by_side() {
    let node = Node::new(1);
    node.apply(payload(&set_bucket())).expect("applies");
    node.apply(put_a("\"n\":1")).expect("applies");
    let old = node.replica.applied();
    node.replica.switch_store(StoreId(2)).expect("switches");
    assert_eq!(
        (node.replica.store(), node.replica.applied()),
        (StoreId(2), Applied::default())
    );
    assert_eq!(
        documents::get(&node.replica, 1, 7, "a").expect("reads"),
        None
    );
    assert!(node.rows().is_empty());
    node.apply(Payload::Blank).expect("applies");
    node.replica.switch_store(StoreId(1)).expect("switches");
    assert_eq!(node.replica.applied(), old);
}

#[test]
fn a_view_does_not_move() {
    let node = Node::new(1);
    node.apply(payload(&set_bucket())).expect("applies");
    node.apply(put_a("\"n\":1")).expect("applies");
    let view = node.replica.view();
    node.apply(put_a("\"n\":2")).expect("applies");
    assert_eq!(view.applied().expect("reads").id, Some(log_id(2)));
    let all: Vec<_> = documents::scan(&view, 1, 7, std::ops::Bound::Unbounded)
        .map(|document| document.expect("reads").1.version)
        .collect();
    assert_eq!(all, [1]);
}

#[test]
fn ticks_never_go_back() {
    let node = Node::new(1);
    let tick = |base_us, elapsed_us| {
        let mut idle = command(0, Operation::Idle(Idle {}));
        idle.tick = Some(Tick {
            base_us,
            elapsed_us,
            commit_index: 0,
        });
        node.apply(payload(&idle)).expect("applies");
        node.replica.applied().time_us
    };
    assert_eq!(tick(0, 5), 5);
    assert_eq!(tick(0, 3), 5);
    assert_eq!(tick(5, 3), 8);
    assert_eq!(tick(u64::MAX, 1), u64::MAX);
}

/// Scans while it applies, and notes what it is told.
#[derive(Default)]
struct Probe {
    scans: Mutex<Vec<Vec<String>>>,
    told: Mutex<Vec<Option<u64>>>,
}

impl Machine for Probe {
    fn apply(&self, tx: &mut Transaction<'_>, _: LogId, command: &Bytes) -> Result<Bytes> {
        for step in std::str::from_utf8(command)
            .expect("a test's text")
            .split_whitespace()
        {
            let savepoint = tx.savepoint();
            match step.split_at(1) {
                ("+", key) => tx.put(Column::State, key.as_bytes(), Bytes::new()),
                ("-", key) => tx.delete(Column::State, key.as_bytes()),
                ("~", key) => {
                    tx.put(Column::State, key.as_bytes(), Bytes::from_static(b"undone"));
                    tx.delete(Column::State, b"pa");
                    tx.rollback(savepoint);
                }
                (_, limit) => {
                    let found = tx.scan_prefix(
                        Column::State,
                        b"p",
                        limit.parse().expect("a test's number"),
                    )?;
                    let keys = found
                        .iter()
                        .map(|(key, _)| String::from_utf8_lossy(key).into_owned());
                    self.scans.lock().push(keys.collect());
                }
            }
        }
        Ok(Bytes::new())
    }

    fn applied(&self, view: &ReplicaView<'_>) -> Result<()> {
        self.told.lock().push(view.applied()?.id.map(|id| id.index));
        Ok(())
    }
}

#[test]
fn scans_see_the_overlay_in_order() {
    let probe = Arc::new(Probe::default());
    let replica = Replica::open(
        Arc::new(Memory::new()),
        probe.clone(),
        ShardId(0),
        StoreId(1),
    )
    .expect("opens");
    let steps = [
        "+pa +pc +pe +q ?9",
        "+pb -pc ~pd ?9 ?2 ~pa ?9",
        "-pa -pb -pe ?9",
    ];
    for (index, step) in steps.into_iter().enumerate() {
        let command = Payload::Command(Bytes::from_static(step.as_bytes()));
        replica
            .apply(vec![Entry {
                id: log_id(index as u64),
                payload: command,
            }])
            .expect("applies");
    }
    let expected: [&[&str]; 5] = [
        &["pa", "pc", "pe"],
        &["pa", "pb", "pe"],
        &["pa", "pb"],
        &["pa", "pb", "pe"],
        &[],
    ];
    assert_eq!(*probe.scans.lock(), expected);
    // On opening, and after each batch.
    assert_eq!(*probe.told.lock(), [None, Some(0), Some(1), Some(2)]);
}

/// However entries fall into batches, replicas remember their chains at the same indexes, and differ from where their effects do.
#[test]
fn chain_points_are_comparable_between_replicas() {
    let run = |store: u64, batch: usize, odd: Option<u64>| {
        let node = Node::new(store);
        let entries: Vec<Entry> = (1..=5_000)
            .map(|index| Entry {
                id: log_id(index),
                payload: if odd == Some(index) {
                    Payload::Membership(Bytes::from_static(b"other"))
                } else {
                    Payload::Blank
                },
            })
            .collect();
        for batch in entries.chunks(batch) {
            node.replica.apply(batch.to_vec()).expect("applies");
        }
        node.replica.chain_points()
    };
    let points = run(1, 7, None);
    assert_eq!(points.len(), 65, "the last 64 multiples and the present");
    assert_eq!(points.last().map(|point| point.index), Some(5_000));
    assert_eq!(run(2, 1_000, None), points);
    let other = run(3, 64, Some(3_000));
    for (one, two) in points.iter().zip(&other) {
        assert_eq!(one.index, two.index);
        assert_eq!(one.chain == two.chain, one.index < 3_000, "{}", one.index);
    }
}
