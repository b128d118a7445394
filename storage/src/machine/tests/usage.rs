//! What is counted is what is there, on whatever way it came, and wherever batches end.

use proptest::prelude::*;
use proto::log::command::Operation;
use proto::log::{self, Command};

use super::harness::{
    BUCKET, DATABASE, Node, batch, command, delete, mutation, principal, put, set_bucket, update,
    write,
};
use crate::engine::Column;
use crate::keys::{DocumentKey, KeyKind};
use crate::machine::outcome::Outcome;
use crate::tables::documents::{self, Entry};
use crate::tables::usage::{self, Counted};

fn count(page: u32) -> Command {
    let count = log::CountUsage {
        database: DATABASE,
        page,
    };
    command(0, Operation::CountUsage(count))
}

/// Documents and bytes, looked at one by one.
fn there(node: &Node) -> (u64, u64) {
    let mut sum = (0, 0);
    for (column, key, row) in node.rows() {
        if column != Column::Documents || KeyKind::of(&key) != Some(KeyKind::Document) {
            continue;
        }
        let key = DocumentKey::decode(&key).expect("a key");
        if let Entry::Live { record, .. } = documents::decode(&row).expect("a row") {
            sum.0 += 1;
            sum.1 += (key.key.len() + record.body.len()) as u64;
        }
    }
    sum
}

/// What is counted, if anything, and whether that is all.
fn counted(node: &Node) -> Option<(u64, u64, bool)> {
    let usage = usage::get(&node.replica.view(), DATABASE).expect("reads")?;
    let is_all = usage.counted == Counted::All;
    Some((usage.documents, usage.bytes, is_all))
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Update(u8),
    Delete(u8),
    /// The second is refused, if there is such a document, and takes the first with it.
    Both(u8, u8),
    Count(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..12u8, any::<u8>()).prop_map(|(key, n)| Step::Put(key, n)),
        1 => (0..12u8).prop_map(Step::Update),
        2 => (0..12u8).prop_map(Step::Delete),
        1 => (0..12u8, 0..12u8).prop_map(|(a, b)| Step::Both(a, b)),
        2 => (1..4u8).prop_map(Step::Count),
    ];
    proptest::collection::vec(step, 0..60)
}

fn command_of(step: &Step) -> Command {
    let key = |key: &u8| format!("k{key}");
    let long = |n: usize| put(&format!("\"text\":\"{}\"", "x".repeat(n)), "");
    let user = || principal("/db/User/10", &[]);
    let one = |mutation| write(0, user(), None, mutation);
    match step {
        Step::Put(at, n) => one(mutation(&key(at), None, long((*n).into()))),
        Step::Update(at) => one(mutation(
            &key(at),
            None,
            update(r#"{"$inc":{"n":1000}}"#, 4096),
        )),
        Step::Delete(at) => one(mutation(&key(at), None, delete())),
        Step::Both(a, b) => {
            let absent = log::precondition::Condition::Absent(true);
            let second = mutation(&key(b), Some(absent), long(9));
            batch(
                0,
                user(),
                None,
                vec![mutation(&key(a), None, long(5)), second],
            )
        }
        Step::Count(page) => count((*page).into()),
    }
}

proptest! {
    #[test]
    fn all_that_is_counted_is_there(steps in steps()) {
        let node = Node::new(1);
        node.outcome(&set_bucket()).expect("applies");
        for step in &steps {
            node.outcome(&command_of(step)).expect("applies");
            if let Some((documents, bytes, true)) = counted(&node) {
                prop_assert_eq!((documents, bytes), there(&node));
            }
        }
        // It comes to an end, and then changes nothing.
        for _ in 0..20 {
            node.outcome(&count(1)).expect("applies");
        }
        let (documents, bytes, is_all) = counted(&node).expect("a count");
        prop_assert!(is_all);
        prop_assert_eq!((documents, bytes), there(&node));
    }
}

#[test]
fn nobody_is_counted_unasked_and_the_count_goes_on_page_by_page() {
    let node = Node::new(1);
    node.outcome(&set_bucket()).expect("applies");
    let put_at = |at: u8| command_of(&Step::Put(at, 10));
    for at in 0..5 {
        node.outcome(&put_at(at)).expect("applies");
    }
    assert_eq!(counted(&node), None);
    assert_eq!(node.outcome(&count(2)).expect("applies"), Outcome::Done);
    let (documents, _, is_all) = counted(&node).expect("a count");
    assert_eq!((documents, is_all), (2, false));
    // Behind the place that is counted up to, and in front of it.
    node.outcome(&put_at(9)).expect("applies");
    assert_eq!(counted(&node).expect("a count").0, 2);
    node.outcome(&command_of(&Step::Delete(0)))
        .expect("applies");
    assert_eq!(counted(&node).expect("a count").0, 1);
    for _ in 0..3 {
        node.outcome(&count(2)).expect("applies");
    }
    let (documents, bytes, is_all) = counted(&node).expect("a count");
    assert!(is_all);
    assert_eq!((documents, bytes), there(&node));
    assert_eq!(documents, 5);
    assert_eq!(BUCKET, 7);
}
