//! Whatever happened, a document is entered exactly under the references of its ACL: after each entry of a random history of writes,
//! batches, deletes, expiries and schema changes, wherever in it the entries are begun.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};

use document::body::Expiry;
use document::readers::of_object;
use proptest::prelude::*;
use proto::log::command::Operation;
use proto::log::{self, Command, ExpireDocuments, Mutation};

use super::harness::{
    BUCKET, DATABASE, Node, batch, bucket, command, delete, expiring, mutation, principal, put,
    set_bucket, update, write,
};
use crate::machine::outcome::{Outcome, Progress};
use crate::tables::documents;
use crate::tables::readers;

const KEYS: [&str; 5] = ["a", "b", "c c", "d/ä", "e"];
const ACLS: [&str; 6] = [
    "",
    r#"{"write":{"/db/User/10":"allow"}}"#,
    r#"{"read":{"/db/User/10":"allow"}}"#,
    r#"{"read":{"/db/User/10":"allow","/db/Role/7":"allow","/db/User/11":"deny"}}"#,
    r#"{"read":{"/db/User/11":"deny"}}"#,
    r#"{"read":{"*":"deny"}}"#,
];
const REFERENCES: [&str; 4] = ["", "/db/User/10", "/db/User/11", "/db/Role/7"];

#[derive(Clone, Debug)]
enum Step {
    Put(usize, usize),
    Both([(usize, usize); 2]),
    Update(usize),
    Delete(usize),
    Expire(usize),
    Schema,
    Page,
}

fn step() -> impl Strategy<Value = Step> {
    let (key, acl) = (0..KEYS.len(), 0..ACLS.len());
    prop_oneof![
        6 => (key.clone(), acl.clone()).prop_map(|(key, acl)| Step::Put(key, acl)),
        2 => [(key.clone(), acl.clone()), (key.clone(), acl)].prop_map(Step::Both),
        1 => key.clone().prop_map(Step::Update),
        2 => key.clone().prop_map(Step::Delete),
        1 => key.prop_map(Step::Expire),
        1 => Just(Step::Schema),
        3 => Just(Step::Page),
    ]
}

fn root() -> log::Principal {
    principal("/db/User/1", &["/db/Role/1"])
}

fn at(version: u64, key: usize, operation: log::mutation::Operation) -> Mutation {
    Mutation {
        bucket_version: version,
        ..mutation(KEYS[key], None, operation)
    }
}

fn one(version: u64, key: usize, operation: log::mutation::Operation) -> Command {
    write(1, root(), None, at(version, key, operation))
}

fn page(documents: u32) -> Command {
    let page = log::BackfillReaders {
        database: DATABASE,
        bucket: BUCKET,
        page: documents,
    };
    command(0, Operation::BackfillReaders(page))
}

/// What lies in the store under each reference.
fn entered(node: &Node) -> BTreeMap<&'static str, BTreeSet<String>> {
    let view = node.replica.view();
    let under = |reference: &&'static str| {
        let mut keys = BTreeSet::new();
        let each = &mut |key: &str| {
            keys.insert(key.to_owned());
            Ok::<_, crate::Error>(ControlFlow::Continue(()))
        };
        let visited = readers::visit(
            &view,
            DATABASE,
            BUCKET,
            &[reference],
            Bound::Unbounded,
            each,
        );
        visited.expect("memory reads");
        (*reference, keys)
    };
    REFERENCES.iter().map(under).collect()
}

/// What should.
fn expected(node: &Node) -> BTreeMap<&'static str, BTreeSet<String>> {
    let mut expected: BTreeMap<_, BTreeSet<String>> = REFERENCES
        .iter()
        .map(|one| (*one, BTreeSet::new()))
        .collect();
    let view = node.replica.view();
    for row in documents::scan(&view, DATABASE, BUCKET, Bound::Unbounded) {
        let (key, record) = row.expect("memory reads");
        for reference in of_object(record.acl.as_ref()) {
            let keys = expected.get_mut(reference).expect("a known reference");
            keys.insert(key.clone());
        }
    }
    expected
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn entries_are_what_the_documents_say(steps in proptest::collection::vec(step(), 1..40)) {
        let node = Node::new(1);
        node.outcome(&set_bucket()).expect("applies");
        let mut version = 1;
        for step in steps {
            let command = match step {
                Step::Put(key, acl) => one(version, key, put("", ACLS[acl])),
                Step::Both(two) => {
                    let mutations = two.map(|(key, acl)| at(version, key, put("", ACLS[acl])));
                    batch(1, root(), None, mutations.to_vec())
                }
                Step::Update(key) => one(version, key, update(r#"{"$set":{"n":1}}"#, 1_000)),
                Step::Delete(key) => one(version, key, delete()),
                Step::Expire(key) => {
                    let soon = put("", ACLS[2]);
                    let soon = expiring(soon, Expiry::At(1));
                    node.outcome(&one(version, key, soon)).expect("applies");
                    let page = u32::try_from(KEYS.len()).expect("few");
                    command(1, Operation::ExpireDocuments(ExpireDocuments { page }))
                }
                Step::Schema => {
                    version += 1;
                    let buckets = vec![bucket(BUCKET, version, false)];
                    command(0, Operation::SetBuckets(log::SetBuckets { buckets }))
                }
                Step::Page => page(2),
            };
            node.outcome(&command).expect("applies");
            let complete = readers::is_complete(&node.replica.view(), DATABASE, BUCKET);
            if complete.expect("memory reads") {
                prop_assert_eq!(entered(&node), expected(&node));
            }
        }
    }
}

#[test]
fn nothing_is_entered_before_it_is_asked_for() {
    let node = Node::new(1);
    node.outcome(&set_bucket()).expect("applies");
    for key in 0..KEYS.len() {
        node.outcome(&one(1, key, put("", ACLS[2])))
            .expect("applies");
    }
    assert!(entered(&node).values().all(BTreeSet::is_empty));
    let mut pages = 0;
    while node.outcome(&page(2)).expect("applies") != Outcome::Progress(Progress::Complete) {
        pages += 1;
        assert!(!readers::is_complete(&node.replica.view(), DATABASE, BUCKET).expect("reads"));
    }
    assert_eq!(pages, 2);
    assert_eq!(entered(&node), expected(&node));
    assert_eq!(entered(&node)["/db/User/10"].len(), KEYS.len());
}

#[test]
fn a_walk_over_several_references_shows_each_document_once_and_in_order() {
    let node = Node::new(1);
    node.outcome(&set_bucket()).expect("applies");
    node.outcome(&page(2)).expect("applies");
    for (key, acl) in [(0, 3), (1, 0), (2, 2), (3, 5), (4, 3)] {
        node.outcome(&one(1, key, put("", ACLS[acl])))
            .expect("applies");
    }
    let shown = |references: &[&str], from: Bound<&str>| {
        let view = node.replica.view();
        let mut keys = Vec::new();
        let each = &mut |key: &str| {
            keys.push(key.to_owned());
            Ok::<_, crate::Error>(ControlFlow::Continue(()))
        };
        readers::visit(&view, DATABASE, BUCKET, references, from, each).expect("reads");
        keys
    };
    assert_eq!(shown(&REFERENCES, Bound::Unbounded), ["a", "b", "c c", "e"]);
    assert_eq!(shown(&REFERENCES, Bound::Excluded("b")), ["c c", "e"]);
    assert_eq!(shown(&["", "/db/User/11"], Bound::Unbounded), ["b"]);
}
