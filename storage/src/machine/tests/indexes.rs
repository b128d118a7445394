//! Whatever happened, an index says what the documents say: after each entry of a random history of writes, building and dropping, and by
//! whatever way the state came to be.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;
use document::body::{Expiry, fields_of};
use document::index::{Index, Range};
use proptest::prelude::*;
use proto::ShardId;
use proto::log::command::Operation;
use proto::log::{self, Command, Mutation};

use super::harness::{
    BUCKET, DATABASE, Node, backfill, batch, command, delete, entry, expiring, hashes, index,
    mutation, principal, purge, put, set_indexes, update, value, write,
};
use crate::engine::memory::Memory;
use crate::engine::rocks::{DataOptions, Rocks};
use crate::engine::{Column, Direction, Engine};
use crate::ids::StoreId;
use crate::keys::{FenceKey, Key};
use crate::machine::documents::DocumentMachine;
use crate::machine::indexes::subject;
use crate::machine::outcome::{Outcome, Progress, Rejection};
use crate::machine::{Entry, KeptRows, Payload, Replica, ReplicaView};
use crate::snapshot;
use crate::tables::documents::{self, Record};
use crate::tables::estimates::{self, Effort};
use crate::tables::indexes::{self, BucketIndex};

const KEYS: [&str; 5] = ["a", "b", "c c", "d/ä", "e"];
const ACLS: [&str; 3] = [
    "",
    r#"{"write":{"/db/User/10":"allow"}}"#,
    r#"{"read":{"/db/User/10":"allow"}}"#,
];
const USER: &str = "/db/User/10";
const DEFINITIONS: [&str; 4] = [
    r#"{"keys":[{"n":"asc"}]}"#,
    r#"{"keys":[{"n":"desc"},{"s":"asc"}]}"#,
    r#"{"keys":[{"version":"desc"}]}"#,
    r#"{"unique":true,"keys":[{"u":"asc"}]}"#,
];
const UNIQUE: usize = 3;
const NS: [&str; 6] = ["", "null", "1", "[1,2]", "[]", r#""x\u0000y""#];
const SS: [&str; 3] = ["", "7", "[7,8]"];
const EVERYTHING: Range = Range {
    from: Vec::new(),
    to: Vec::new(),
};

#[derive(Clone, Debug)]
enum What {
    Put { n: usize, s: usize, u: u8 },
    Inc,
    Push,
    Delete,
}

#[derive(Clone, Debug)]
struct Step {
    key: usize,
    what: What,
    acl: usize,
    /// Its claims were prepared before everything.
    is_late: bool,
    /// A put makes its document due at once.
    is_due: bool,
}

#[derive(Clone, Debug)]
enum Request {
    Write(Step),
    Batch(Vec<Step>),
    Create(usize),
    Drop(usize),
    Backfill(usize, u32),
    Purge(usize, u32),
    Fence(usize, u8),
    Sweep(u32),
    Restart,
}

fn steps() -> impl Strategy<Value = Step> {
    let what = prop_oneof![
        6 => (0..NS.len(), 0..SS.len(), 0..4u8).prop_map(|(n, s, u)| What::Put { n, s, u }),
        1 => Just(What::Inc),
        1 => Just(What::Push),
        2 => Just(What::Delete),
    ];
    let flags = (any::<bool>(), any::<bool>());
    (0..KEYS.len(), what, 0..ACLS.len(), flags).prop_map(|(key, what, acl, (is_late, is_due))| {
        Step {
            key,
            what,
            acl,
            is_late,
            is_due,
        }
    })
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let request = prop_oneof![
        8 => steps().prop_map(Request::Write),
        2 => proptest::collection::vec(steps(), 0..4).prop_map(Request::Batch),
        3 => (0..DEFINITIONS.len()).prop_map(Request::Create),
        1 => (0..4usize).prop_map(Request::Drop),
        4 => (0..4usize, 1..4u32).prop_map(|(which, page)| Request::Backfill(which, page)),
        2 => (0..4usize, 1..4u32).prop_map(|(which, page)| Request::Purge(which, page)),
        1 => (0..KEYS.len(), 0..4u8).prop_map(|(key, u)| Request::Fence(key, u)),
        1 => (1..3u32).prop_map(Request::Sweep),
        1 => Just(Request::Restart),
    ];
    proptest::collection::vec(request, 0..40)
}

struct World {
    node: Node,
    definitions: Vec<Index>,
    log: Vec<Command>,
    version: u64,
    /// Definitions of the indexes that the bucket has, by id.
    kept: BTreeMap<u32, usize>,
    gone: Vec<u32>,
    next: u32,
    fences: BTreeMap<u8, u64>,
}

fn fields(n: usize, s: usize, u: u8) -> String {
    let members = [("n", NS[n]), ("s", SS[s])];
    let members = members
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .chain((u > 0).then(|| format!("\"u\":{u}")));
    members.collect::<Vec<_>>().join(",")
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            node: Node::over(Memory::keeping(KeptRows::new(1 << 20)), 1),
            definitions: DEFINITIONS.map(index).to_vec(),
            log: Vec::new(),
            version: 0,
            kept: BTreeMap::new(),
            gone: Vec::new(),
            next: 1,
            fences: BTreeMap::new(),
        };
        let members = Payload::Membership(Bytes::from_static(b"members"));
        world.node.apply(members).expect("applies");
        world.tell();
        world
    }

    fn apply(&mut self, command: Command) -> Outcome {
        let outcome = self.node.outcome(&command).expect("applies");
        self.log.push(command);
        outcome
    }

    /// Tells the shard which indexes the bucket has now.
    fn tell(&mut self) {
        self.version += 1;
        let kept = self.kept.iter();
        let indexes: Vec<_> = kept.map(|(id, at)| (*id, &self.definitions[*at])).collect();
        let command = set_indexes(self.version, &indexes);
        assert_eq!(self.apply(command), Outcome::Done);
    }

    fn mutation(&self, step: &Step) -> Mutation {
        let operation = match step.what {
            What::Put { n, s, u } => {
                let expiry = if step.is_due {
                    Expiry::At(0)
                } else {
                    Expiry::Never
                };
                expiring(put(&fields(n, s, u), ACLS[step.acl]), expiry)
            }
            What::Inc => update(r#"{"$inc":{"n":1}}"#, 10_000),
            What::Push => update(r#"{"$push":{"s":9}}"#, 10_000),
            What::Delete => delete(),
        };
        let mut mutation = mutation(KEYS[step.key], None, operation);
        mutation.bucket_version = self.version;
        if let What::Put { n, s, u } = step.what {
            let claims = self.unique_ids().flat_map(|index| {
                let hashes = hashes(&self.definitions[UNIQUE], &fields(n, s, u));
                hashes.into_iter().map(move |hash| log::Claim {
                    index,
                    value: Bytes::copy_from_slice(&hash),
                })
            });
            mutation.claims = Some(log::Claims {
                prepared: self.prepared(step),
                claims: claims.collect(),
            });
        }
        mutation
    }

    fn prepared(&self, step: &Step) -> u64 {
        if step.is_late {
            0
        } else {
            self.node.next_id().index - 1
        }
    }

    fn unique_ids(&self) -> impl Iterator<Item = u32> {
        let kept = self.kept.iter();
        kept.filter(|(_, at)| **at == UNIQUE).map(|(id, _)| *id)
    }

    fn stored(&self, key: usize) -> Option<Record> {
        documents::get(&self.node.replica, DATABASE, BUCKET, KEYS[key]).expect("reads")
    }

    /// The unique values of the document as it is.
    fn held(&self, key: usize) -> Vec<[u8; 32]> {
        let stored = self.stored(key);
        stored.map_or_else(Vec::new, |record| {
            let fields = std::str::from_utf8(fields_of(&record.body)).expect("text");
            hashes(&self.definitions[UNIQUE], fields)
        })
    }

    fn request(&mut self, request: &Request) {
        match request {
            Request::Write(step) => {
                let is_refused = self.lacks_a_claim(step);
                let mutation = self.mutation(step);
                let outcome = self.apply(write(1, principal(USER, &[]), None, mutation));
                match outcome {
                    Outcome::Rejected { rejection, .. } => match rejection {
                        Rejection::Unclaimed { .. } => assert!(is_refused),
                        Rejection::TooManyValues { .. }
                        | Rejection::Misfit { .. }
                        | Rejection::NotFound => {}
                        other => panic!("{other:?}"),
                    },
                    other => assert!(!is_refused, "{other:?}"),
                }
            }
            Request::Batch(steps) => {
                let mutations = steps.iter().map(|step| self.mutation(step)).collect();
                self.apply(batch(1, principal(USER, &[]), None, mutations));
            }
            Request::Create(at) => {
                self.kept.insert(self.next, *at);
                self.next += 1;
                self.tell();
            }
            Request::Drop(which) => {
                if let Some(id) = self.kept.keys().nth(*which).copied() {
                    self.kept.remove(&id);
                    self.gone.push(id);
                    self.tell();
                }
            }
            Request::Backfill(which, page) => {
                if let Some((id, at)) = self.kept.iter().nth(*which) {
                    let (id, at) = (*id, *at);
                    self.backfill(id, at, *page);
                }
            }
            Request::Purge(which, page) => {
                if let Some(id) = self.gone.get(*which) {
                    self.apply(purge(*id, *page));
                }
            }
            Request::Fence(key, u) => self.fence(*key, *u),
            Request::Sweep(page) => {
                let due = log::ExpireDocuments { page: *page };
                self.apply(command(1, Operation::ExpireDocuments(due)));
            }
            Request::Restart => {
                let node = &self.node;
                let (engine, machine) = (node.engine.clone(), node.recorder.clone());
                self.node.replica =
                    Replica::open(engine, machine, ShardId(1), node.replica.store())
                        .expect("opens");
            }
        }
    }

    /// Whether a write has a unique value that it may not take: not in the document yet, and claimed too early.
    fn lacks_a_claim(&self, step: &Step) -> bool {
        let What::Put { n, s, u } = step.what else {
            return false;
        };
        let held = self.held(step.key);
        let new = hashes(&self.definitions[UNIQUE], &fields(n, s, u));
        let slot = FenceKey::slot_of(KEYS[step.key]);
        let fence = self.fences.get(&slot).copied().unwrap_or_default();
        let is_new = new.iter().any(|value| !held.contains(value));
        is_new && self.unique_ids().next().is_some() && self.prepared(step) < fence
    }

    fn backfill(&mut self, id: u32, at: usize, page: u32) -> Progress {
        let before = indexes::progress(&self.node.replica, DATABASE, BUCKET, id).expect("reads");
        let mut command = backfill(id, page);
        if let (UNIQUE, Progress::More { after }, Some(Operation::BackfillNotingLists(backfill))) =
            (at, before, &mut command.operation)
        {
            backfill.after = Some(after);
        }
        match self.apply(command) {
            Outcome::Progress(progress) => progress,
            other => panic!("{other:?}"),
        }
    }

    fn fence(&mut self, key: usize, u: u8) {
        let Some(id) = self.unique_ids().next() else {
            return;
        };
        let fields = fields(0, 0, u.max(1));
        let hash = hashes(&self.definitions[UNIQUE], &fields)[0];
        let fence = log::FenceClaims {
            value: value(id, &hash),
            owner: KEYS[key].to_owned(),
        };
        let at = self.node.next_id().index;
        let outcome = self.apply(command(0, Operation::FenceClaims(fence)));
        let holds = self.held(key).contains(&hash);
        assert_eq!(outcome, Outcome::Fenced { holds });
        self.fences.insert(FenceKey::slot_of(KEYS[key]), at);
    }

    /// What each index should have and has.
    fn check(&self) {
        let view = self.node.replica.view();
        let all = documents::scan(&view, DATABASE, BUCKET, Bound::Unbounded);
        let all: Vec<(String, Record)> = all.map(|one| one.expect("reads")).collect();
        let found = indexes::of_bucket(&view, DATABASE, BUCKET).expect("reads");
        let ids: Vec<u32> = found.iter().map(|index| index.id).collect();
        assert_eq!(ids, self.kept.keys().copied().collect::<Vec<_>>());
        for index in &found {
            let has = entries(&self.node.replica, index);
            let should_have = expected(&index.index, &all);
            if index.complete {
                assert_eq!(has, should_have);
                let definition = &self.definitions[self.kept[&index.id]];
                let mut subjects = all
                    .iter()
                    .map(|(_, record)| subject(record).expect("normal"));
                let has_lists = subjects.any(|subject| definition.meets_list(&subject));
                assert!(
                    index.index.is_open() || !has_lists,
                    "lists in a closed index"
                );
                continue;
            }
            assert!(has.is_subset(&should_have), "{has:?} of {should_have:?}");
            let progress = indexes::progress(&self.node.replica, DATABASE, BUCKET, index.id);
            let Progress::More { after } = progress.expect("reads") else {
                panic!("complete or not");
            };
            let is_done = |(_, key, _): &&(Vec<u8>, String, bool)| *key <= after;
            let done: BTreeSet<_> = should_have.iter().filter(is_done).cloned().collect();
            assert!(done.is_subset(&has), "{has:?} lacks some of {done:?}");
        }
    }

    /// Builds what is listed and purges what is not.
    fn finish(&mut self) {
        for (id, at) in self.kept.clone() {
            loop {
                match self.backfill(id, at, 3) {
                    Progress::More { .. } => {}
                    Progress::Complete => break,
                    Progress::Impossible { key } => {
                        let mut delete = mutation(&key, None, delete());
                        delete.bucket_version = self.version;
                        self.apply(write(1, principal(USER, &[]), None, delete));
                    }
                }
            }
        }
        for id in self.gone.clone() {
            while self.apply(purge(id, 2)) != Outcome::Progress(Progress::Complete) {}
        }
        self.check();
        for (_, key, _) in self.node.rows() {
            let index = match Key::decode(&key).expect("decodes") {
                Key::IndexEntry(key) => key.index,
                Key::IndexProgress(key) => key.index,
                Key::Reservation(key) => key.index,
                _ => continue,
            };
            assert!(self.kept.contains_key(&index), "left of {index}");
        }
    }

    fn entries(&self) -> Vec<Entry> {
        let members = Entry {
            payload: Payload::Membership(Bytes::from_static(b"members")),
            ..entry(1, &self.log[0])
        };
        let log = self.log.iter().enumerate();
        let log = log.map(|(at, command)| entry(at as u64 + 2, command));
        std::iter::once(members).chain(log).collect()
    }
}

type Entries = BTreeSet<(Vec<u8>, String, bool)>;

fn expected(index: &Index, all: &[(String, Record)]) -> Entries {
    let mut expected = Entries::new();
    for (key, record) in all {
        let values = index.values(&subject(record).expect("in normal form"));
        let is_public = record.acl.as_ref().is_none_or(|acl| acl.read.is_public());
        let values = values.unwrap_or_default().into_iter();
        expected.extend(values.map(|value| (value, key.clone(), is_public)));
    }
    expected
}

/// The entries of an index, by walks in both directions and in parts.
fn entries(replica: &Replica, index: &BucketIndex) -> Entries {
    let ahead = walk(replica, index, &EVERYTHING, Direction::Forward);
    let mut back = walk(replica, index, &EVERYTHING, Direction::Backward);
    back.reverse();
    assert_eq!(ahead, back);
    if let Some((middle, ..)) = ahead.get(ahead.len() / 2) {
        let (low, high) = (
            Range {
                from: Vec::new(),
                to: middle.clone(),
            },
            Range {
                from: middle.clone(),
                to: Vec::new(),
            },
        );
        let mut parts = walk(replica, index, &low, Direction::Forward);
        assert!(parts.iter().all(|(value, ..)| value < middle));
        parts.extend(walk(replica, index, &high, Direction::Forward));
        assert_eq!(ahead, parts);
    }
    let view = replica.view();
    let mut counted = Vec::new();
    let count = estimate(&view, index, &EVERYTHING, 100, &mut counted);
    let is_all = counted
        .iter()
        .zip(&ahead)
        .all(|(key, (_, other, _))| key == other);
    assert!(is_all && counted.len() == ahead.len());
    assert_eq!(count, ahead.len() as u64);
    let by_value_and_id = |entry: &(Vec<u8>, String, bool)| {
        let id = document::id::encode_key(&entry.1).into_owned();
        (entry.0.clone(), id)
    };
    assert!(ahead.is_sorted_by_key(by_value_and_id));
    ahead.into_iter().collect()
}

/// The estimate, and the keys that it has seen.
fn estimate(
    view: &ReplicaView<'_>,
    index: &BucketIndex,
    range: &Range,
    enough: u64,
    seen: &mut Vec<String>,
) -> u64 {
    let effort = Effort {
        exact_max: 100,
        enough,
    };
    let each = &mut |entry: indexes::IndexEntry<'_>| {
        seen.push(entry.key.to_owned());
        Ok(())
    };
    estimates::entries(view, DATABASE, BUCKET, index, range, effort, each).expect("counts")
}

fn walk(
    replica: &Replica,
    index: &BucketIndex,
    range: &Range,
    direction: Direction,
) -> Vec<(Vec<u8>, String, bool)> {
    let (view, mut seen) = (replica.view(), Vec::new());
    let each = &mut |entry: indexes::IndexEntry<'_>| {
        seen.push((entry.value.to_vec(), entry.key.to_owned(), entry.is_public));
        Ok(ControlFlow::Continue(()))
    };
    indexes::visit(&view, DATABASE, BUCKET, index, range, direction, each).expect("reads");
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("LARDER_SOAK").is_some() { 4_096 } else { 128 }))]

    #[test]
    fn an_index_says_what_the_documents_say(requests in requests()) {
        let mut world = World::new();
        for request in &requests {
            world.request(request);
            world.check();
        }
        world.finish();

        // The same bytes in one batch, without kept rows, and on a receiver of a snapshot.
        let again = Node::new(5);
        again.replica.apply(world.entries()).expect("applies");
        prop_assert_eq!(again.rows(), world.node.rows());
        prop_assert_eq!(again.replica.applied(), world.node.replica.applied());
        let (dir, receiver) = (tempfile::tempdir().expect("a folder"), Node::new(3));
        let manifest = snapshot::write_files(&again.replica, StoreId(9), false, dir.path()).expect("written");
        let files: Vec<_> = manifest.files.iter().map(|file| (file.column, file.path.clone())).collect();
        receiver.engine.ingest(&files).expect("taken in");
        receiver.replica.switch_store(StoreId(9)).expect("switched");
        world.node = receiver;
        world.check();
    }
}

/// Estimates are exact while they count; beyond that they tell small from large, whether files have it or memory.
#[test]
fn estimates_tell_small_from_large() {
    const DOCUMENTS: u64 = 20_000;
    let dir = tempfile::tempdir().expect("a folder");
    let engine = Arc::new(Rocks::open(dir.path(), &DataOptions::default()).expect("opens"));
    let machine = Arc::new(DocumentMachine);
    let replica = Replica::open(engine.clone(), machine, ShardId(1), StoreId(1)).expect("opens");
    let by_n = index(DEFINITIONS[0]);
    let mut entries = vec![entry(1, &set_indexes(1, &[(3, &by_n)]))];
    for at in 0..DOCUMENTS {
        // Half of them have the same value.
        let n = if at % 2 == 0 { 0 } else { at };
        let put = put(&format!("\"n\":{n},\"text\":\"some text {at}\""), "");
        let put = write(
            1,
            principal("", &[]),
            None,
            mutation(&format!("{at:06}"), None, put),
        );
        entries.push(entry(at + 2, &put));
    }
    replica.apply(entries).expect("applies");
    let one = |fields: &str| {
        let subject = document::query::Subject {
            id: "/db/B7/x",
            version: 1,
            created_us: 0,
            updated_us: 0,
            fields: fields.as_bytes(),
        };
        by_n.values(&subject).expect("few").remove(0)
    };
    let range = |from: &str, to: &str| Range {
        from: one(from),
        to: one(to),
    };
    let few = range(r#""n":1"#, r#""n":101"#);
    let half = range(r#""n":0"#, r#""n":1"#);
    let kept = |id| BucketIndex {
        id,
        index: by_n.clone(),
        complete: true,
    };
    let about = |range: &Range, enough| {
        let mut seen = Vec::new();
        let size = estimate(&replica.view(), &kept(3), range, enough, &mut seen);
        assert_eq!(seen.len() as u64, size.min(100));
        size
    };
    let documents = |bucket| {
        let effort = Effort::exact(100);
        estimates::documents(&replica.view(), DATABASE, bucket, effort).expect("reads")
    };
    assert_eq!(about(&few, 0), 50);
    assert!(about(&half, u64::MAX) > 4_000 && documents(BUCKET) > 4_000);
    // Who has heard enough is not told more.
    assert_eq!(about(&half, 500), 501);
    assert_eq!(about(&half, 0), 101);
    engine.flush().expect("flushed");
    assert_eq!(about(&few, u64::MAX), 50);
    for (estimated, real) in [
        (about(&half, u64::MAX), DOCUMENTS / 2),
        (about(&EVERYTHING, u64::MAX), DOCUMENTS),
        (documents(BUCKET), DOCUMENTS),
    ] {
        assert!(
            (real / 3..real * 3).contains(&estimated),
            "{estimated} for {real}"
        );
    }
    assert_eq!(documents(BUCKET + 1), 0);
    let view = replica.view();
    let absent = estimate(&view, &kept(4), &EVERYTHING, 0, &mut Vec::new());
    assert_eq!(absent, 0);
    let rows = view.scan_prefix(Column::Documents, &[]).count();
    assert_eq!(rows as u64, 2 * DOCUMENTS);
}

/// A few short documents may make a lot of entries. What one entry of the log makes is bounded, and refused as a whole.
#[test]
fn the_entries_of_a_batch_are_bounded() {
    let node = Node::new(1);
    let by_both = index(r#"{"keys":[{"s":"asc"},{"n":"asc"}]}"#);
    node.outcome(&set_indexes(1, &[(3, &by_both)]))
        .expect("applies");
    let elements: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
    let fields = format!(
        "\"n\":[{}],\"s\":\"{}\"",
        elements.join(","),
        "s".repeat(400)
    );
    let puts = |count: usize| {
        let put = |at: usize| mutation(&format!("{at}"), None, put(&fields, ""));
        batch(1, principal("", &[]), None, (0..count).map(put).collect())
    };
    assert!(matches!(
        node.outcome(&puts(80)).expect("applies"),
        Outcome::Rejected {
            rejection: Rejection::TooLarge { .. },
            ..
        }
    ));
    assert_eq!(
        node.rows()
            .iter()
            .filter(|(column, ..)| *column == Column::Documents)
            .count(),
        0
    );
    assert!(matches!(
        node.outcome(&puts(8)).expect("applies"),
        Outcome::Written(_)
    ));
    assert_eq!(
        node.rows()
            .iter()
            .filter(|(column, ..)| *column == Column::Documents)
            .count(),
        8 * 1_001
    );
}
