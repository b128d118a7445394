//! Apply against the simplest thing that could be right: a map of documents, and rules written as plain ifs.

use std::collections::BTreeMap;

use bytes::Bytes;
use document::acl::{Acl, Principal, may_read, may_write};
use document::body::{Expiry, fields_of, with_expiry};
use proptest::prelude::*;
use proto::log::command::Operation;
use proto::log::precondition::Condition;
use proto::log::{self, Command, Mutation};

use super::harness::{
    Node, batch, command, delete, entry, expiring, idempotency, mutation, principal, put,
    set_bucket, write,
};
use crate::engine::Engine as _;
use crate::ids::{LogId, StoreId};
use crate::keys::KeyKind;
use crate::machine::outcome::{Outcome, Rejection};
use crate::machine::{ChangeLog, Entry, Payload};
use crate::snapshot;
use crate::tables::change_log;
use crate::tables::documents;

const KEYS: [&str; 3] = ["a", "b", "ä/{t}"];
const ACLS: [&str; 3] = [
    "",
    r#"{"write":{"/db/User/10":"allow"}}"#,
    r#"{"read":{"/db/User/10":"allow"},"write":{"/db/User/10":"allow"}}"#,
];
const USERS: [&str; 3] = ["", "/db/User/10", "/db/User/11"];

/// One generated mutation.
#[derive(Clone, Debug)]
pub(super) struct Step {
    key: usize,
    /// `None`: a delete.
    put: Option<(u8, usize, Expiry)>,
    condition: Option<Condition>,
}

impl Step {
    fn mutation(&self) -> Mutation {
        let operation = self.put.map_or_else(delete, |(n, acl, expiry)| {
            expiring(put(&format!("\"n\":{n}"), ACLS[acl]), expiry)
        });
        mutation(KEYS[self.key], self.condition, operation)
    }
}

#[derive(Clone, Debug)]
pub(super) enum Request {
    Write {
        user: usize,
        step: Step,
    },
    Batch {
        user: usize,
        steps: Vec<Step>,
    },
    Tick(u64),
    Expire,
    Sweep(u32),
    /// Down to so many bytes of events.
    Trim(u64),
}

fn steps() -> impl Strategy<Value = Step> {
    let condition = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Condition::Absent(true))),
        1 => Just(Some(Condition::Exists(true))),
        2 => (1..5u64).prop_map(|version| Some(Condition::Version(version))),
    ];
    let expiry = prop_oneof![
        2 => Just(Expiry::Kept),
        1 => Just(Expiry::Never),
        2 => (-5..2_000_000_000i64).prop_map(Expiry::At),
    ];
    let put =
        prop_oneof![3 => (any::<u8>(), 0..ACLS.len(), expiry).prop_map(Some), 1 => Just(None)];
    (0..KEYS.len(), put, condition).prop_map(|(key, put, condition)| Step {
        key,
        put,
        condition,
    })
}

pub(super) fn requests() -> impl Strategy<Value = Vec<Request>> {
    let request = prop_oneof![
        6 => (0..USERS.len(), steps()).prop_map(|(user, step)| Request::Write { user, step }),
        2 => (0..USERS.len(), proptest::collection::vec(steps(), 0..5)).prop_map(|(user, steps)| Request::Batch { user, steps }),
        1 => (0..2_000_000_000u64).prop_map(Request::Tick),
        1 => Just(Request::Expire),
        1 => (0..3u32).prop_map(Request::Sweep),
        1 => (0..2_000u64).prop_map(Request::Trim),
    ];
    proptest::collection::vec(request, 0..25)
}

/// Whether requests carry idempotency keys of their own, and stamps: not rising, so that apply has to make them.
pub(super) fn commands(requests: &[Request], with_keys: bool) -> Vec<Command> {
    let key = |at: usize| {
        with_keys.then(|| idempotency(&format!("k{}", at % 7), &format!("{:?}", requests[at])))
    };
    let mut commands = vec![set_bucket()];
    commands.extend(requests.iter().enumerate().map(|(at, request)| {
        let stamp_us = 1_000 + (at as u64 % 3) * 10;
        match request {
            Request::Write { user, step } => write(
                stamp_us,
                principal(USERS[*user], &[]),
                key(at),
                step.mutation(),
            ),
            Request::Batch { user, steps } => batch(
                stamp_us,
                principal(USERS[*user], &[]),
                key(at),
                steps.iter().map(Step::mutation).collect(),
            ),
            Request::Tick(base_us) => Command {
                tick: Some(log::Tick {
                    base_us: *base_us,
                    elapsed_us: 1,
                    commit_index: 0,
                }),
                ..command(0, Operation::Idle(log::Idle {}))
            },
            Request::Expire => command(
                0,
                Operation::ExpireIdempotency(log::ExpireIdempotency {
                    kept_us: 900_000_000,
                    page: 3,
                }),
            ),
            Request::Trim(bytes_max) => command(
                0,
                Operation::TrimChanges(log::TrimChanges {
                    kept_us: u64::MAX,
                    bytes_max: *bytes_max,
                    page: 2,
                }),
            ),
            Request::Sweep(page) => command(
                stamp_us,
                Operation::ExpireDocuments(log::ExpireDocuments { page: *page }),
            ),
        }
    }));
    commands
}

pub(super) fn entries(commands: &[Command]) -> Vec<Entry> {
    commands
        .iter()
        .enumerate()
        .map(|(at, command)| entry(at as u64 + 1, command))
        .collect()
}

/// The reference: what is stored, without any of how.
#[derive(Clone, Default)]
struct Model {
    documents: BTreeMap<&'static str, Modelled>,
    events: usize,
    last_us: u64,
    /// T.
    now_us: u64,
}

#[derive(Clone, Default)]
struct Modelled {
    last_version: u64,
    live: Option<(u8, Option<Acl>, u64)>,
    /// As shown, and in T.
    expiry: Option<(i64, u64)>,
}

impl Model {
    /// What the steps lead to: versions and whether each document existed, or the first rejection.
    fn apply(
        &mut self,
        user: usize,
        steps: &[Step],
        stamp_us: u64,
    ) -> Result<Vec<(u64, bool)>, (usize, Rejection)> {
        let mut next = self.clone();
        let time_us = stamp_us.max(self.last_us + 1);
        let mut written = Vec::new();
        for (ordinal, step) in steps.iter().enumerate() {
            let one = next
                .step(user, step, stamp_us, time_us)
                .map_err(|rejection| (ordinal, rejection))?;
            written.push(one);
        }
        if next.events > self.events {
            next.last_us = time_us;
        }
        *self = next;
        Ok(written)
    }

    /// Deletes what is due, in order, of the first few that expire.
    fn sweep(&mut self, page: usize, stamp_us: u64) {
        let mut all: Vec<_> = self.documents.iter().collect();
        all.retain(|(_, document)| document.expiry.is_some());
        all.sort_by_key(|(key, document)| (document.expiry.map(|expiry| expiry.1), **key));
        let is_due =
            |document: &Modelled| document.expiry.is_some_and(|(_, due)| due <= self.now_us);
        let due = all
            .into_iter()
            .take(page)
            .filter(|(_, document)| is_due(document));
        let due: Vec<&str> = due.map(|(key, _)| *key).collect();
        if !due.is_empty() {
            self.last_us = stamp_us.max(self.last_us + 1);
        }
        for key in due {
            let last_version = self.documents[key].last_version + 1;
            let gone = Modelled {
                last_version,
                ..Modelled::default()
            };
            *self.documents.get_mut(key).expect("it is there") = gone;
            self.events += 1;
        }
    }

    fn step(
        &mut self,
        user: usize,
        step: &Step,
        stamp_us: u64,
        time_us: u64,
    ) -> Result<(u64, bool), Rejection> {
        let user = Some(USERS[user].to_owned()).filter(|user| !user.is_empty());
        let caller = Principal {
            user,
            roles: Vec::new(),
        };
        let new_acl = step
            .put
            .and_then(|(_, acl, _)| Acl::from_json(ACLS[acl]).ok().flatten());
        let stored = self.documents.entry(KEYS[step.key]).or_default();
        let version = stored.last_version;
        let existed = stored.live.is_some();
        match (&stored.live, step.condition) {
            (None, Some(Condition::Version(_) | Condition::Exists(_))) => {
                return Err(Rejection::OutOfDate { stored: None });
            }
            (Some(_), Some(Condition::Absent(_))) => return Err(Rejection::Exists { version }),
            (Some((_, acl, _)), _) if !may_write(acl.as_ref(), &caller) => {
                let changes = step.put.is_some() && new_acl != *acl;
                let told = changes && may_read(acl.as_ref(), &caller);
                return Err(if told {
                    Rejection::AclChangeDenied
                } else {
                    Rejection::Denied
                });
            }
            (Some(_), Some(Condition::Version(wanted))) if wanted != version => {
                return Err(Rejection::OutOfDate {
                    stored: Some(version),
                });
            }
            _ => {}
        }
        let created_us = stored.live.as_ref().map_or(time_us, |live| live.2);
        if step.put.is_none() && !existed {
            return Ok((0, false));
        }
        stored.last_version += 1;
        stored.live = step.put.map(|(n, ..)| (n, new_acl, created_us));
        stored.expiry = match step.put.map(|(.., expiry)| expiry) {
            Some(Expiry::Kept) => stored.expiry,
            Some(Expiry::Never) | None => None,
            Some(Expiry::At(at_us)) => {
                let left_us = at_us - i64::try_from(stamp_us).expect("small");
                Some((at_us, self.now_us + u64::try_from(left_us).unwrap_or(0)))
            }
        };
        self.events += 1;
        Ok((stored.last_version, existed))
    }
}

/// What the machine says, in the model's words.
fn said(outcome: Outcome) -> Result<Vec<(u64, bool)>, (usize, Rejection)> {
    match outcome {
        Outcome::Written(all) => Ok(all
            .iter()
            .map(|written| (written.version, written.existed))
            .collect()),
        Outcome::Rejected { ordinal, rejection } => Err((ordinal, rejection)),
        Outcome::Done
        | Outcome::Progress(_)
        | Outcome::Reserved { .. }
        | Outcome::Fenced { .. } => Ok(Vec::new()),
    }
}

proptest! {
    #[test]
    fn apply_does_what_the_model_does(requests in requests()) {
        let (node, mut model) = (Node::new(1), Model::default());
        for (command, request) in commands(&requests, false).iter().zip(std::iter::once(None).chain(requests.iter().map(Some))) {
            let outcome = node.outcome(command).expect("applies");
            match request {
                Some(Request::Write { user, step }) => {
                    prop_assert_eq!(said(outcome), model.apply(*user, std::slice::from_ref(step), command.stamp_us));
                }
                Some(Request::Batch { user, steps }) => prop_assert_eq!(said(outcome), model.apply(*user, steps, command.stamp_us)),
                Some(Request::Sweep(page)) => {
                    prop_assert_eq!(outcome, Outcome::Done);
                    model.sweep(*page as usize, command.stamp_us);
                }
                Some(Request::Tick(base_us)) => {
                    prop_assert_eq!(outcome, Outcome::Done);
                    model.now_us = model.now_us.max(base_us + 1);
                }
                Some(Request::Expire | Request::Trim(_)) | None => prop_assert_eq!(outcome, Outcome::Done),
            }
        }
        let expiring_documents = model.documents.values().filter(|document| document.expiry.is_some()).count();
        for key in KEYS {
            let modelled = model.documents.remove(key).unwrap_or_default();
            let record = documents::get(&node.replica, 1, 7, key).expect("reads");
            prop_assert_eq!(record.is_some(), modelled.live.is_some());
            if let (Some(record), Some((n, acl, created_us))) = (record, modelled.live) {
                prop_assert_eq!((record.version, record.acl, record.created_us), (modelled.last_version, acl, created_us));
                let expiry = record.expiry.map(|expiry| (expiry.at_us, expiry.due_us));
                prop_assert_eq!(expiry, modelled.expiry);
                let fields = format!("\"n\":{n}").into_bytes();
                let fields = expiry.map_or(fields.clone(), |(at_us, _)| with_expiry(&fields, at_us));
                prop_assert_eq!(fields_of(&record.body), &fields[..]);
            }
        }
        let places = node.rows().iter().filter(|(_, key, _)| KeyKind::of(key) == Some(KeyKind::Expiry)).count();
        prop_assert_eq!(places, expiring_documents);
        let view = node.replica.view();
        let events: Vec<_> = change_log::scan(&view, std::ops::Bound::Unbounded).map(|event| event.expect("reads")).collect();
        let is_trimmed = requests.iter().any(|request| matches!(request, Request::Trim(_)));
        // One more tells of the bucket.
        prop_assert!(events.len() == model.events + 1 || is_trimmed && events.len() <= model.events);
        let ChangeLog { trimmed, bytes } = node.replica.applied().changes;
        let rows = node.rows();
        let rows = rows.iter().filter(|(_, key, _)| KeyKind::of(key) == Some(KeyKind::Change));
        prop_assert_eq!(rows.map(|(_, key, row)| (key.len() + row.len()) as u64).sum::<u64>(), bytes);
        for (position, event) in &events {
            prop_assert!(*position > trimmed);
            // Every before side has its body somewhere, unless it was trimmed after this event was written.
            for before in event.before.iter().filter(|before| before.position > trimmed) {
                prop_assert!(before.body.is_none());
                let own = change_log::get(&view, before.position).expect("reads").expect("kept");
                prop_assert_eq!(own.version, before.version);
            }
        }
        let events: Vec<_> = events.into_iter().map(|(_, event)| event).collect();
        prop_assert!(events.windows(2).all(|pair| pair[0].time_us <= pair[1].time_us));
    }

    /// The chain and every byte depend on the entries alone: not on where batches end, not on the store, not on the run.
    #[test]
    fn batching_and_placement_change_nothing(requests in requests(), cuts in proptest::collection::vec(1..6usize, 30)) {
        let commands = commands(&requests, true);
        let (whole, parts, again) = (Node::new(1), Node::new(77), Node::new(1));
        let replies = whole.replica.apply(entries(&commands)).expect("applies");
        let mut rest = entries(&commands);
        let mut replies_of_parts = Vec::new();
        for cut in cuts {
            let next = rest.split_off(cut.min(rest.len()));
            replies_of_parts.extend(parts.replica.apply(rest).expect("applies"));
            rest = next;
        }
        replies_of_parts.extend(parts.replica.apply(rest).expect("applies"));
        let replies_again = again.replica.apply(entries(&commands)).expect("applies");
        prop_assert_eq!(&replies, &replies_of_parts);
        prop_assert_eq!(&replies, &replies_again);
        prop_assert_eq!(whole.replica.applied(), parts.replica.applied());
        prop_assert_eq!(whole.rows(), parts.rows());
        prop_assert_eq!(whole.rows(), again.rows());
    }

    /// A request with a key, sent again at once, changes nothing and is told the same.
    #[test]
    fn a_retry_is_told_what_happened(requests in requests()) {
        let node = Node::new(1);
        node.apply(super::harness::payload(&set_bucket())).expect("applies");
        let commands = commands(&requests, true);
        for (command, request) in commands[1..].iter().zip(&requests) {
            if matches!(request, Request::Sweep(_) | Request::Trim(_)) {
                // Asked again it goes on with the next page.
                node.outcome(command).expect("applies");
                continue;
            }
            let first = node.outcome(command).expect("applies");
            let rows = documents_and_events(&node);
            let second = node.outcome(command).expect("applies");
            prop_assert_eq!(said(second), said(first));
            prop_assert_eq!(documents_and_events(&node), rows);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What a snapshot is of, and what comes after it, make the same bytes as the whole log: on the receiver, under another store id, and
    /// on the sender, which goes on from the same state.
    #[test]
    fn a_snapshot_and_the_tail_are_the_full_replay(requests in requests(), at in 0..25usize) {
        let mut log = vec![Entry {
            id: LogId { term: 1, leader: 1, index: 0 },
            payload: Payload::Membership(Bytes::from_static(b"members")),
        }];
        log.extend(entries(&commands(&requests, true)));
        let (whole, sender, receiver) = (Node::new(1), Node::new(2), Node::new(3));
        let mut replies = whole.replica.apply(log.clone()).expect("applies");
        let tail = log.split_off((at + 1).min(log.len()));
        let replies_of_tail = replies.split_off(log.len());
        prop_assert_eq!(sender.replica.apply(log).expect("applies"), replies);

        let dir = tempfile::tempdir().expect("a folder");
        let manifest = snapshot::write_files(&sender.replica, StoreId(9), false, dir.path()).expect("written");
        prop_assert_eq!(Some(manifest.last), sender.replica.applied().id);
        let files: Vec<_> = manifest.files.iter().map(|file| (file.column, file.path.clone())).collect();
        receiver.engine.ingest(&files).expect("taken in");
        receiver.replica.switch_store(StoreId(9)).expect("switched");
        prop_assert_eq!(receiver.rows(), sender.rows());

        prop_assert_eq!(receiver.replica.apply(tail.clone()).expect("applies"), replies_of_tail.clone());
        prop_assert_eq!(sender.replica.apply(tail).expect("applies"), replies_of_tail);
        for node in [&receiver, &sender] {
            prop_assert_eq!(node.rows(), whole.rows());
            prop_assert_eq!(node.replica.applied(), whole.replica.applied());
        }
    }
}

fn documents_and_events(node: &Node) -> Vec<(crate::engine::Column, Bytes, Bytes)> {
    node.rows()
        .into_iter()
        .filter(|(column, ..)| *column != crate::engine::Column::State)
        .collect()
}
