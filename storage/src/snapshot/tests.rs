//! Snapshots from one database to another, and what a crash leaves at every step of an install.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proto::{ReplicaId, ShardId};
use tempfile::TempDir;

use super::*;
use crate::engine::Engine;
use crate::engine::memory::Memory;
use crate::machine::{Entry, Machine, Payload, Transaction};
use crate::seal::{MasterKey, Masters};
use crate::{Options, Storage, open};

const SHARD: ShardId = ShardId(3);

/// A command is a key and its value, written to two columns.
struct Echo;

impl Machine for Echo {
    fn apply(&self, tx: &mut Transaction<'_>, _id: LogId, command: &Bytes) -> Result<Bytes> {
        tx.put(Column::Documents, command, command.clone());
        tx.put(Column::Changes, command, command.clone());
        Ok(Bytes::new())
    }
}

fn id(index: u64) -> LogId {
    LogId {
        term: 1,
        leader: 1,
        index,
    }
}

/// A node with one replica, in a folder of its own.
struct Node {
    dir: TempDir,
    storage: Storage,
    replica: Arc<Replica>,
}

impl Node {
    fn open(dir: TempDir) -> Self {
        Self::open_with(dir, Options::default())
    }

    /// A new one that seals its disk, with a master key of this byte.
    fn sealed(byte: u8) -> Self {
        let masters = Masters::On {
            current: MasterKey::from_bytes([byte; 32]),
            previous: None,
        };
        let options = Options {
            masters,
            ..Options::default()
        };
        Self::open_with(tempfile::tempdir().unwrap(), options)
    }

    fn open_with(dir: TempDir, options: Options) -> Self {
        let storage = open(dir.path(), &options).unwrap();
        let row = storage
            .logs
            .directory()
            .create_replica(SHARD, ReplicaId(1))
            .unwrap();
        let replica =
            Replica::open(Arc::clone(&storage.engine), Arc::new(Echo), SHARD, row.data).unwrap();
        Self {
            dir,
            storage,
            replica,
        }
    }

    fn new() -> Self {
        Self::open(tempfile::tempdir().unwrap())
    }

    /// The node as it would come back if it were killed now.
    fn after_a_crash(&self) -> Self {
        let copy = tempfile::tempdir().unwrap();
        for part in ["log", "data"] {
            copy_folder(&self.dir.path().join(part), &copy.path().join(part));
        }
        Self::open(copy)
    }

    fn receive(&self) -> StoreId {
        self.storage.logs.directory().begin_receive(SHARD).unwrap()
    }

    fn install(&self, store: StoreId, manifest: &Manifest) -> Result<()> {
        install(&self.storage.logs, &self.replica, store, manifest)
    }

    fn value(&self, key: &str) -> Option<Bytes> {
        self.replica.get(Column::Documents, key.as_bytes()).unwrap()
    }

    fn live_bytes(&self, store: StoreId) -> usize {
        let view = self.storage.engine.view();
        let (from, to) = (store.prefix(), store.end());
        let range = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
        Column::ALL
            .into_iter()
            .map(|column| view.scan(column, range.0, range.1).count())
            .sum()
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        if file.file_name() != "LOCK" {
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

fn apply(replica: &Replica, from: u64, keys: &[&str]) {
    let commands = keys
        .iter()
        .map(|key| Payload::Command(Bytes::copy_from_slice(key.as_bytes())));
    let entries = commands.enumerate().map(|(offset, payload)| Entry {
        id: id(from + offset as u64),
        payload,
    });
    replica.apply(entries.collect()).unwrap();
}

fn founded(replica: &Replica) {
    let membership = Entry {
        id: id(0),
        payload: Payload::Membership(Bytes::from_static(b"members")),
    };
    replica.apply(vec![membership]).unwrap();
}

/// A sender that applied `a` and `b`, and a receiver that applied `old`.
fn pair() -> (Node, Node) {
    let (sender, receiver) = (Node::new(), Node::new());
    founded(&sender.replica);
    apply(&sender.replica, 1, &["a", "b"]);
    apply(&receiver.replica, 0, &["old"]);
    receiver.storage.engine.flush().unwrap();
    (sender, receiver)
}

#[test]
fn a_replica_arrives_as_it_was_when_the_files_were_begun() {
    let (sender, receiver) = pair();
    let old = receiver.replica.store();
    let store = receiver.receive();
    let files = tempfile::tempdir().unwrap();
    let manifest = write_files(&sender.replica, store, false, files.path()).unwrap();
    apply(&sender.replica, 3, &["late"]);
    assert_eq!(
        (manifest.last, &manifest.membership),
        (id(2), &(Some(id(0)), Bytes::from_static(b"members")))
    );
    assert_eq!(manifest.files.len(), 3);

    receiver.install(store, &manifest).unwrap();
    for node in [&receiver, &receiver.after_a_crash()] {
        assert_eq!(node.replica.store(), store);
        assert_eq!(
            (node.value("a"), node.value("b")),
            (Some("a".into()), Some("b".into()))
        );
        assert_eq!((node.value("old"), node.value("late")), (None, None));
        assert_eq!(node.replica.applied().id, Some(id(2)));
        assert_eq!(node.live_bytes(old), 0);
        assert_eq!(node.storage.logs.directory().dropping(), []);
        let log = node
            .storage
            .logs
            .group(node.storage.logs.directory().replicas()[0].log)
            .unwrap();
        assert_eq!(
            (log.state().purged, log.state().last),
            (Some(id(2)), Some(id(2)))
        );
    }
    assert_eq!(receiver.replica.applied().chain, {
        let again = Node::new();
        founded(&again.replica);
        apply(&again.replica, 1, &["a", "b"]);
        again.replica.applied().chain
    });
    apply(&receiver.replica, 3, &["late"]);
    assert_eq!(receiver.value("late"), Some("late".into()));
    assert_eq!(sender.value("late"), Some("late".into()));
}

/// Sealed or not, each node by keys of its own: what arrives is the same, and does not show on the way.
#[test]
fn nodes_that_seal_and_nodes_that_do_not_exchange_snapshots() {
    const MARKER: &str = "an open secret";
    for (sealed_here, sealed_there) in [(true, true), (true, false), (false, true)] {
        let node = |is_sealed, byte| match is_sealed {
            true => Node::sealed(byte),
            false => Node::new(),
        };
        let (sender, receiver) = (node(sealed_here, 1), node(sealed_there, 2));
        founded(&sender.replica);
        apply(&sender.replica, 1, &[MARKER, "b"]);
        let store = receiver.receive();
        let files = tempfile::tempdir().unwrap();
        let is_sealed = receiver.storage.engine.is_sealed();
        assert_eq!(is_sealed, sealed_there);
        let manifest = write_files(&sender.replica, store, is_sealed, files.path()).unwrap();
        assert_eq!(manifest.files.len(), 3);
        let shows = manifest.files.iter().any(|file| {
            let bytes = fs::read(&file.path).unwrap();
            bytes
                .windows(MARKER.len())
                .any(|part| part == MARKER.as_bytes())
        });
        assert!(!shows);

        receiver.install(store, &manifest).unwrap();
        assert_eq!(receiver.value(MARKER), Some(MARKER.into()));
        assert_eq!(receiver.value("b"), Some("b".into()));
        let (sent, got) = (sender.replica.applied(), receiver.replica.applied());
        assert_eq!((got.id, got.chain), (sent.id, sent.chain));
        apply(&receiver.replica, 3, &["late"]);
        assert_eq!(receiver.value("late"), Some("late".into()));
    }
}

#[test]
fn a_sealed_snapshot_that_was_changed_is_not_taken_in() {
    let (sender, receiver) = (Node::sealed(1), Node::sealed(2));
    founded(&sender.replica);
    apply(&sender.replica, 1, &["a"]);
    let store = receiver.receive();
    let files = tempfile::tempdir().unwrap();
    let mut manifest = write_files(&sender.replica, store, true, files.path()).unwrap();
    // With a checksum that is right again: the seal alone tells.
    let file = &mut manifest.files[1];
    let mut bytes = fs::read(&file.path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file.path, &bytes).unwrap();
    file.checksum = xxhash_rust::xxh3::xxh3_64(&bytes);
    let error = receiver.install(store, &manifest).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert_eq!(receiver.value("a"), None);
}

#[test]
fn a_crash_while_receiving_leaves_the_old_store() {
    let (sender, receiver) = pair();
    let old = receiver.replica.store();
    let store = receiver.receive();
    let files = tempfile::tempdir().unwrap();
    let manifest = write_files(&sender.replica, store, false, files.path()).unwrap();
    ingest(&receiver.replica, store, &manifest).unwrap();
    let after = receiver.after_a_crash();
    assert_eq!(after.replica.store(), old);
    assert_eq!(after.value("old"), Some("old".into()));
    assert_eq!(
        (
            after.live_bytes(store),
            after.storage.logs.directory().dropping()
        ),
        (0, vec![])
    );
    assert_ne!(after.receive(), store);
}

#[test]
fn a_crash_after_the_switch_leaves_the_new_store() {
    let (sender, receiver) = pair();
    let old = receiver.replica.store();
    let store = receiver.receive();
    let files = tempfile::tempdir().unwrap();
    let manifest = write_files(&sender.replica, store, false, files.path()).unwrap();
    ingest(&receiver.replica, store, &manifest).unwrap();
    receiver
        .storage
        .logs
        .directory()
        .finish_receive(SHARD, store, manifest.last)
        .unwrap();
    let after = receiver.after_a_crash();
    assert_eq!(after.replica.store(), store);
    assert_eq!(
        (after.value("a"), after.value("old")),
        (Some("a".into()), None)
    );
    assert_eq!(
        (
            after.live_bytes(old),
            after.storage.logs.directory().dropping()
        ),
        (0, vec![])
    );
}

#[test]
fn files_that_are_not_the_manifests_are_refused() {
    let (sender, receiver) = pair();
    let store = receiver.receive();
    let files = tempfile::tempdir().unwrap();
    let manifest = write_files(&sender.replica, store, false, files.path()).unwrap();
    let path = &manifest.files[0].path;
    let mut bytes = fs::read(path).unwrap();
    bytes[10] ^= 1;
    fs::write(path, bytes).unwrap();
    let error = receiver.install(store, &manifest).unwrap_err();
    assert!(
        matches!(&error, Error::Snapshot { shard: SHARD, .. }),
        "{error}"
    );
    assert_eq!(receiver.value("old"), Some("old".into()));

    let mut manifest = write_files(&sender.replica, store, false, files.path()).unwrap();
    manifest.last = id(99);
    let error = receiver.install(store, &manifest).unwrap_err();
    assert!(
        error.to_string().contains("the files hold 1-1@2"),
        "{error}"
    );
    assert_eq!(receiver.value("old"), Some("old".into()));

    let mut manifest = write_files(&sender.replica, store, false, files.path()).unwrap();
    manifest.membership.0 = Some(id(1));
    let error = receiver.install(store, &manifest).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the membership of 1-1@0, announced was that of 1-1@1"),
        "{error}"
    );
    assert_eq!(receiver.value("old"), Some("old".into()));
}

#[test]
fn a_transfer_that_was_overtaken_changes_nothing() {
    let (sender, receiver) = pair();
    let store = receiver.receive();
    let files = tempfile::tempdir().unwrap();
    let manifest = write_files(&sender.replica, store, false, files.path()).unwrap();
    let newer = receiver.receive();
    assert!(matches!(
        receiver.install(store, &manifest),
        Err(Error::NotReceiving { .. })
    ));
    assert_eq!(receiver.value("old"), Some("old".into()));
    let manifest = write_files(&sender.replica, newer, false, files.path()).unwrap();
    receiver.install(newer, &manifest).unwrap();
    assert_eq!(receiver.value("a"), Some("a".into()));
    assert_eq!(receiver.live_bytes(store), 0);
}

#[test]
fn an_empty_replica_has_no_snapshot() {
    let node = Node::new();
    let files = tempfile::tempdir().unwrap();
    assert!(matches!(
        write_files(&node.replica, StoreId(9), false, files.path()),
        Err(Error::Snapshot { .. })
    ));
    assert_eq!(record(&node.replica).unwrap().id, None);
}

#[test]
fn what_is_recorded_is_what_a_crash_leaves() {
    let node = Node::new();
    founded(&node.replica);
    apply(&node.replica, 1, &["a"]);
    assert_eq!(record(&node.replica).unwrap().id, Some(id(1)));
    apply(&node.replica, 2, &["b"]);
    assert_eq!(
        (
            recorded(&node.replica).unwrap().id,
            node.replica.applied().id
        ),
        (Some(id(1)), Some(id(2)))
    );
    let after = node.after_a_crash();
    assert_eq!(after.replica.applied().id, Some(id(1)));
    assert_eq!(
        (after.value("a"), after.value("b")),
        (Some("a".into()), None)
    );
}

#[test]
fn memory_engines_exchange_snapshots_too() {
    let (from, to) = (Arc::new(Memory::new()), Arc::new(Memory::new()));
    let sender = Replica::open(from, Arc::new(Echo), SHARD, StoreId(1)).unwrap();
    founded(&sender);
    apply(&sender, 1, &["a"]);
    let files = tempfile::tempdir().unwrap();
    let manifest = write_files(&sender, StoreId(5), false, files.path()).unwrap();
    let receiver = Replica::open(
        Arc::clone(&to) as Arc<dyn Engine>,
        Arc::new(Echo),
        SHARD,
        StoreId(2),
    )
    .unwrap();
    ingest(&receiver, StoreId(5), &manifest).unwrap();
    to.crash();
    receiver.switch_store(StoreId(5)).unwrap();
    assert_eq!(
        receiver.get(Column::Documents, b"a").unwrap(),
        Some("a".into())
    );
}
