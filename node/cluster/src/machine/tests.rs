//! What must hold of the machine: scenarios in `scripts/`, properties after any commands, and single facts here.

mod properties;
mod scripts;

use std::collections::{BTreeMap, BTreeSet};

use proto::log::{InitCluster, Node as NodeCommand, SetBootstrapped};
use storage::StoreId;
use storage::engine::Column;
use storage::engine::memory::Memory;
use storage::keys::{KeyKind, MetadataKey};
use storage::machine::{Entry, Payload, Replica};

use super::*;
use crate::state::ClusterState;

/// A metadata group of one: log, replica and machine.
struct Group {
    engine: Arc<Memory>,
    machine: Arc<ClusterMachine>,
    replica: Arc<Replica>,
    index: u64,
}

impl Group {
    fn new() -> Self {
        let engine = Arc::new(Memory::new());
        let (machine, replica) = Self::start(&engine);
        Self {
            engine,
            machine,
            replica,
            index: 0,
        }
    }

    fn start(engine: &Arc<Memory>) -> (Arc<ClusterMachine>, Arc<Replica>) {
        let machine = ClusterMachine::new();
        let replica = Replica::open(engine.clone(), machine.clone(), ShardId::META, StoreId(1))
            .expect("opens");
        (machine, replica)
    }

    /// Opens what the engine holds with a new machine.
    fn restart(&mut self) {
        (self.machine, self.replica) = Self::start(&self.engine);
    }

    fn apply(&mut self, operation: Operation) -> MetaOutcome {
        self.index += 1;
        let command = MetaCommand {
            stamp_us: 0,
            operation: Some(operation),
        };
        let entry = Entry {
            id: LogId {
                term: 1,
                leader: 1,
                index: self.index,
            },
            payload: Payload::Command(command.encode_to_vec().into()),
        };
        let replies = self.replica.apply(vec![entry]).expect("applies");
        MetaOutcome::decode(&replies[0]).expect("a reply")
    }

    fn state(&self) -> Arc<ClusterState> {
        self.machine.handle().current()
    }

    fn rows(&self) -> BTreeMap<String, Bytes> {
        let view = self.replica.view();
        let rows = view
            .scan_prefix(Column::State, &[KeyKind::Metadata as u8])
            .map(|row| row.expect("reads"));
        rows.map(|(key, value)| {
            (
                MetadataKey::decode(&key).expect("decodes").name.to_owned(),
                value,
            )
        })
        .collect()
    }
}

fn node_command(id: u64, zone: &str) -> NodeCommand {
    NodeCommand {
        id,
        name: format!("n{id}"),
        zone: zone.to_owned(),
        client_address: format!("n{id}:7400"),
        peer_address: format!("n{id}:7401"),
        weight: 0,
    }
}

fn init_command(nodes: &[u64], shards: u32, replicas: u32) -> InitCluster {
    InitCluster {
        cluster_id: "c1".to_owned(),
        shards,
        replicas,
        nodes: nodes.iter().map(|&id| node_command(id, "")).collect(),
        signing_key: vec![7; 32].into(),
        root_password_hash: "hash".to_owned(),
        demo: false,
    }
}

fn set_schema_command(state: &ClusterState, expected_version: u64, schema: &Schema) -> SetSchema {
    let database = state.database("").map_or(1, |database| database.id);
    SetSchema {
        database,
        expected_version,
        schema: serde_json::to_vec(schema).expect("serializes").into(),
    }
}

#[test]
fn subscribers_hear_of_changes_only() {
    let mut group = Group::new();
    let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    group
        .machine
        .handle()
        .subscribe(Box::new(move |state| log.lock().push(state.version)));
    group.apply(Operation::SetBootstrapped(SetBootstrapped {}));
    group.apply(Operation::InitCluster(init_command(&[1, 2, 3], 4, 3)));
    group.apply(Operation::InitCluster(init_command(&[1, 2, 3], 4, 3)));
    group.apply(Operation::SetBootstrapped(SetBootstrapped {}));
    group.apply(Operation::SetBootstrapped(SetBootstrapped {}));
    assert_eq!(*seen.lock(), [2, 4]);
}

/// A replica that was renewed catches up entry by entry: nobody is to see what it has gone through.
#[test]
fn a_replica_that_is_behind_publishes_nothing() {
    let mut group = Group::new();
    let bootstrap = || Operation::SetBootstrapped(SetBootstrapped {});
    let init = || Operation::InitCluster(init_command(&[1, 2, 3], 4, 3));
    group.apply(init());
    group.apply(bootstrap());
    let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let handle = group.machine.handle();
    handle.subscribe(Box::new(move |state| log.lock().push(state.version)));
    let machine = Arc::clone(&group.machine);
    group.replica =
        Replica::open(group.engine.clone(), machine, ShardId::META, StoreId(2)).expect("opens");
    group.index = 0;
    group.apply(init());
    group.apply(bootstrap());
    assert_eq!(group.state().version, 2);
    let third = NodeCommand {
        name: "renamed".to_owned(),
        ..node_command(3, "")
    };
    group.apply(Operation::AnnounceNode(AnnounceNode { node: Some(third) }));
    assert_eq!(*seen.lock(), [3]);
}

#[test]
fn several_commands_of_one_batch_are_published_once() {
    let group = Group::new();
    let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    group.machine.handle().subscribe(Box::new(move |state| {
        log.lock().push((state.version, state.bootstrapped))
    }));
    let operations = [
        Operation::InitCluster(init_command(&[1, 2, 3], 4, 3)),
        Operation::SetBootstrapped(SetBootstrapped {}),
    ];
    let entries = (1..).zip(operations).map(|(index, operation)| Entry {
        id: LogId {
            term: 1,
            leader: 1,
            index,
        },
        payload: Payload::Command(
            MetaCommand {
                stamp_us: 0,
                operation: Some(operation),
            }
            .encode_to_vec()
            .into(),
        ),
    });
    group.replica.apply(entries.collect()).expect("applies");
    assert_eq!(*seen.lock(), [(2, true)]);
}

#[test]
fn what_is_no_command_stops_the_group() {
    let group = Group::new();
    for (index, bytes) in [(1, &[0xff][..]), (2, &[])] {
        let id = LogId {
            term: 1,
            leader: 1,
            index,
        };
        let entry = Entry {
            id,
            payload: Payload::Command(Bytes::copy_from_slice(bytes)),
        };
        assert!(matches!(
            group.replica.apply(vec![entry]),
            Err(storage::Error::Corrupt { .. })
        ));
    }
}

#[test]
fn the_default_database_has_two_names() {
    let mut group = Group::new();
    group.apply(Operation::InitCluster(init_command(&[1], 1, 3)));
    let state = group.state();
    assert_eq!(state.database("").map(|database| database.id), Some(1));
    assert_eq!(state.database("v1").map(|database| database.id), Some(1));
    assert!(state.database("v2").is_none());
}

#[test]
fn roles_lie_in_one_shard_whatever_their_key() {
    let mut group = Group::new();
    group.apply(Operation::InitCluster(init_command(&[1], 64, 1)));
    let state = group.state();
    let database = state.database("").expect("exists");
    let shards = |bucket: &str| -> BTreeSet<ShardId> {
        (0..50)
            .map(|key| state.shard_of(database, &database.buckets[bucket], &key.to_string()))
            .collect()
    };
    assert_eq!(shards("Role").len(), 1);
    assert!(shards("User").len() > 20);
}
