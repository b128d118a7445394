//! What holds after any commands.

use std::collections::{BTreeMap, BTreeSet};

use document::acl::Principal;
use proptest::prelude::*;
use proto::ReplicaId;
use proto::log::{CreateIndex, DropIndexes, SetIndexState};

use super::*;
use crate::state::IndexState;

/// Index into what there is, so that many commands are valid and some are not.
#[derive(Clone, Debug)]
enum Step {
    Announce { node: u64, port: u8 },
    Post { class: usize, field: usize },
    Open { class: usize },
    Drop { class: usize },
    Stale,
    Fence { back: u64 },
    Replace { shard: u32, at: usize, node: u64 },
    Confirm { shard: u32 },
    Create { class: usize, definition: usize },
    DropIndexes { class: usize, definition: usize },
    IndexState { index: u32, state: i32 },
    Restart,
}

const CLASSES: [&str; 3] = ["A", "B", "C"];

/// The last one stands for all of them where indexes are dropped.
const DEFINITIONS: [&str; 4] = [
    r#"{"keys":[{"f0":"asc"}]}"#,
    r#"{"keys":[{"f0":"asc"}],"unique":true}"#,
    r#"{"keys":[{"f1":"desc"},{"f0":"hashed"}]}"#,
    "",
];

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..8u64, 0..3u8).prop_map(|(node, port)| Step::Announce { node, port }),
        (0..3usize, 0..3usize).prop_map(|(class, field)| Step::Post { class, field }),
        (0..3usize).prop_map(|class| Step::Open { class }),
        (0..3usize).prop_map(|class| Step::Drop { class }),
        Just(Step::Stale),
        (0..3u64).prop_map(|back| Step::Fence { back }),
        (0..6u32).prop_map(|shard| Step::Confirm { shard }),
        (0..6u32, 0..3usize, 1..8u64).prop_map(|(shard, at, node)| Step::Replace {
            shard,
            at,
            node
        }),
        (0..3usize, 0..3usize).prop_map(|(class, definition)| Step::Create { class, definition }),
        (0..3usize, 0..4usize)
            .prop_map(|(class, definition)| Step::DropIndexes { class, definition }),
        (0..8u32, 0..4i32).prop_map(|(index, state)| Step::IndexState { index, state }),
        Just(Step::Restart),
    ]
}

impl Step {
    fn operation(&self, state: &ClusterState) -> Option<Operation> {
        let database = state.database("").expect("initialized");
        let root = Principal::root();
        let set = |schema: Result<Schema, document::SchemaError>| {
            Some(Operation::SetSchema(set_schema_command(
                state,
                database.schema_version,
                &schema.ok()?,
            )))
        };
        let post = |json: String| {
            set(database.schema.merge(
                &Schema::parse_changes(json.as_bytes()).expect("parses"),
                &root,
            ))
        };
        let bucket = |class: usize| {
            let bucket = database.buckets.get(CLASSES[class]);
            bucket.map_or(99, |bucket| bucket.id)
        };
        match *self {
            Step::Announce { node, port } => {
                let node = NodeCommand {
                    peer_address: format!("h:{port}"),
                    ..node_command(node, "")
                };
                Some(Operation::AnnounceNode(AnnounceNode { node: Some(node) }))
            }
            Step::Post { class, field } => {
                let (class, field) = (CLASSES[class], format!("f{field}"));
                post(format!(
                    r#"[{{"class":"/db/{class}","fields":{{"{field}":{{"name":"{field}","type":"/db/String","order":0}}}}}}]"#
                ))
            }
            Step::Open { class } => {
                let class = CLASSES[class];
                post(format!(
                    r#"[{{"class":"/db/{class}","fields":{{}},"metadata":{{"larder.open":"true"}}}}]"#
                ))
            }
            Step::Drop { class } => set(database.schema.drop_class(CLASSES[class], &root)),
            Step::Stale => Some(Operation::SetSchema(set_schema_command(
                state,
                database.schema_version - 1,
                &database.schema,
            ))),
            Step::Fence { back } => Some(Operation::ConfirmFence(ConfirmFence {
                database: 1,
                version: (database.schema_version + 1).saturating_sub(back),
            })),
            Step::Replace { shard, at, node } => {
                let old = state
                    .assignments(ShardId(shard))
                    .get(at)
                    .map_or(0, |assignment| assignment.replica.0);
                Some(Operation::ReplaceReplica(ReplaceReplica {
                    shard,
                    old_replica: old,
                    node,
                }))
            }
            Step::Confirm { shard } => {
                let old = state
                    .replacement(ShardId(shard))
                    .map_or(0, |replacement| replacement.old.replica.0);
                Some(Operation::ConfirmReplaced(ConfirmReplaced {
                    shard,
                    old_replica: old,
                }))
            }
            Step::Create { class, definition } => Some(Operation::CreateIndex(CreateIndex {
                database: 1,
                bucket: bucket(class),
                definition: DEFINITIONS[definition].into(),
                // The first one counts.
                secret: vec![class as u8; 32].into(),
            })),
            Step::DropIndexes { class, definition } => Some(Operation::DropIndexes(DropIndexes {
                database: 1,
                bucket: bucket(class),
                definition: DEFINITIONS[definition].into(),
            })),
            Step::IndexState { index, state } => Some(Operation::SetIndexState(SetIndexState {
                database: 1,
                index,
                state,
                reason: String::new(),
            })),
            Step::Restart => None,
        }
    }
}

/// The invariants on [`ClusterState`], except those that need history.
fn check(state: &ClusterState) -> Result<(), TestCaseError> {
    let mut replicas = BTreeSet::new();
    prop_assert_eq!(state.placement.len(), state.shards as usize + 1);
    for (shard, list) in &state.placement {
        let nodes: BTreeSet<_> = list.iter().map(|assignment| assignment.node).collect();
        prop_assert_eq!(nodes.len(), list.len());
        prop_assert!(nodes.iter().all(|node| state.nodes.contains_key(node)));
        prop_assert!(
            list.iter()
                .all(|assignment| replicas.insert(assignment.replica))
        );
        for replica in list.iter().map(|assignment| assignment.replica) {
            prop_assert!(!state.is_retired(*shard, replica));
        }
        if let Some(replacement) = state.replacement(*shard) {
            prop_assert!(list.contains(&replacement.new) && !list.contains(&replacement.old));
            prop_assert!(!state.is_retired(*shard, replacement.old.replica));
        }
        prop_assert_eq!(
            state.preferred_leader(*shard),
            list.first().map(|assignment| assignment.replica)
        );
    }
    let database = state.database("").expect("initialized");
    prop_assert!(database.fenced_version <= database.schema_version);
    let pending = database.pending_buckets();
    prop_assert!(
        pending
            .iter()
            .all(|bucket| bucket.version <= database.schema_version)
    );
    prop_assert!(pending.is_sorted_by(|a, b| a.bucket < b.bucket));
    let live: BTreeSet<_> = database.buckets.keys().cloned().collect();
    let classes: BTreeSet<_> = database
        .schema
        .classes()
        .filter(|class| !class.embedded)
        .map(|class| class.name.clone())
        .collect();
    prop_assert_eq!(live, classes);
    for index in database.indexes.values() {
        let mut buckets = database.buckets.values();
        let is_live = buckets.any(|bucket| bucket.id == index.bucket);
        prop_assert!(is_live || !index.state.is_kept_up());
        let told = pending.iter().find(|bucket| bucket.bucket == index.bucket);
        let mut told = told.into_iter().flat_map(|bucket| &bucket.indexes);
        prop_assert_eq!(
            told.any(|told| told.id == index.id),
            index.state.is_kept_up()
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn invariants_hold_after_any_commands(steps in proptest::collection::vec(any_step(), 0..40)) {
        let mut group = Group::new();
        group.apply(Operation::InitCluster(init_command(&[1, 2, 3, 4], 4, 3)));
        let mut given: BTreeMap<ReplicaId, (ShardId, NodeId)> = BTreeMap::new();
        let mut buckets: BTreeMap<u32, (String, u64)> = BTreeMap::new();
        let mut indexes: BTreeMap<u32, (u32, String)> = BTreeMap::new();
        for step in steps {
            let before = group.state();
            let rows = group.rows();
            match step.operation(&before) {
                Some(operation) => {
                    let outcome = group.apply(operation);
                    let changed = group.rows() != rows;
                    prop_assert!(outcome == MetaOutcome::Done || !changed);
                    prop_assert_eq!(group.state().version, if changed { group.index } else { before.version });
                }
                None => {
                    group.restart();
                    prop_assert_eq!(format!("{:?}", group.state()), format!("{before:?}"));
                }
            }
            let state = group.state();
            check(&state)?;
            for (replica, (shard, _)) in &given {
                // Retired is for ever.
                prop_assert!(state.is_retired(*shard, *replica) || !before.is_retired(*shard, *replica));
            }
            for (shard, list) in &state.placement {
                for assignment in list {
                    // A replica never moves: to another node goes another replica.
                    let place = (*shard, assignment.node);
                    prop_assert_eq!(*given.entry(assignment.replica).or_insert(place), place);
                }
            }
            let (old, new) = (before.database(""), state.database(""));
            let (old, new) = (old.expect("initialized"), new.expect("initialized"));
            for index in new.indexes.values() {
                // An id stands for one index for ever, and what was dropped never comes back.
                let meaning = (index.bucket, index.compiled.clone());
                prop_assert_eq!(indexes.entry(index.id).or_insert(meaning.clone()), &meaning);
                let was = old.indexes.get(&index.id).map(|index| index.state);
                prop_assert!(was != Some(IndexState::Dropped) || index.state == IndexState::Dropped);
            }
            for (bucket, version) in new.pending_buckets().iter().map(|b| (b, b.version)) {
                // Whenever writes keep up other indexes, shards hear of it.
                let old = old.pending_buckets();
                let old = old.iter().find(|old| old.bucket == bucket.bucket);
                prop_assert!(old.is_none_or(|old| old.indexes == bucket.indexes || old.version < version));
            }
            for bucket in new.pending_buckets() {
                let known = buckets.entry(bucket.bucket).or_insert((bucket.name.clone(), bucket.version));
                prop_assert_eq!(&known.0, &bucket.name);
                prop_assert!(known.1 <= bucket.version);
                known.1 = bucket.version;
            }
        }
    }

    #[test]
    fn the_same_commands_give_the_same_rows(steps in proptest::collection::vec(any_step(), 0..20)) {
        let (mut one, mut other) = (Group::new(), Group::new());
        let init = Operation::InitCluster(init_command(&[3, 1, 2], 8, 2));
        prop_assert_eq!(one.apply(init.clone()), other.apply(init));
        for step in steps {
            if let Some(operation) = step.operation(&one.state()) {
                prop_assert_eq!(one.apply(operation.clone()), other.apply(operation));
            }
            other.restart();
        }
        prop_assert_eq!(one.rows(), other.rows());
        prop_assert_eq!(one.replica.applied(), other.replica.applied());
    }
}
