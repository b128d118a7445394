//! The store directory: what survives a crash, and what it refuses.

use proto::{ReplicaId, ShardId};

use super::{append, crash, database, entry, id, open};
use crate::error::Error;
use crate::ids::StoreId;
use crate::raft_log::layout::{self, Row};
use crate::raft_log::{LogOptions, Logs};

const SHARD: ShardId = ShardId(4);

#[test]
fn replicas_are_back_after_a_crash_and_store_ids_are_never_reused() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(dir.path());
    let directory = logs.directory();
    let one = directory.create_replica(SHARD, ReplicaId(10)).unwrap();
    assert_eq!(
        (one.log, one.data, one.receiving),
        (StoreId(1), StoreId(2), None)
    );
    assert_eq!(directory.create_replica(SHARD, ReplicaId(10)).unwrap(), one);
    directory.drop_replica(SHARD, ReplicaId(10)).unwrap();
    directory.drop_replica(SHARD, ReplicaId(10)).unwrap();
    assert_eq!(directory.dropping(), [StoreId(1), StoreId(2)]);
    directory.dropped(StoreId(1)).unwrap();
    let two = directory.create_replica(ShardId(0), ReplicaId(11)).unwrap();
    let node = directory.node_id();

    let after = crash(dir.path());
    let logs = open(after.path());
    let directory = logs.directory();
    assert_eq!(directory.node_id(), node);
    assert_eq!(directory.replicas(), [two]);
    assert_eq!(directory.dropping(), [StoreId(2)]);
    let three = directory.create_replica(SHARD, ReplicaId(12)).unwrap();
    assert_eq!((three.log, three.data), (StoreId(5), StoreId(6)));
}

#[test]
fn two_nodes_have_two_ids() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert_ne!(
        open(one.path()).directory().node_id(),
        open(two.path()).directory().node_id()
    );
}

#[test]
fn a_data_directory_belongs_to_one_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(dir.path());
    assert_eq!(logs.directory().cluster_id(), None);
    logs.directory().set_cluster_id("blue").unwrap();
    logs.directory().set_cluster_id("blue").unwrap();
    let after = crash(dir.path());
    let logs = open(after.path());
    assert_eq!(logs.directory().cluster_id().as_deref(), Some("blue"));
    let error = logs.directory().set_cluster_id("red").unwrap_err();
    assert!(
        matches!(&error, Error::WrongCluster { found, wanted } if found == "blue" && wanted == "red"),
        "{error}"
    );
}

#[test]
fn a_newer_format_is_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let key = layout::row_key(Row::Format, &[]);
    database(dir.path())
        .put(&key, layout::seal(&key, &[&99_u32.to_be_bytes()]))
        .unwrap();
    let error = Logs::open(dir.path(), &LogOptions::default())
        .err()
        .unwrap();
    assert!(matches!(
        error,
        Error::Format {
            found: 99,
            supported: crate::format::VERSION,
            ..
        }
    ));
    let text = error.to_string();
    assert!(
        text.contains("data format 99, this release reads up to 2") && text.contains("newer one"),
        "{text}"
    );
}

#[test]
fn a_directory_in_use_is_refused_with_the_likely_cause() {
    let dir = tempfile::tempdir().unwrap();
    let _logs = open(dir.path());
    let error = Logs::open(dir.path(), &LogOptions::default())
        .err()
        .unwrap();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    assert!(error.to_string().contains("already running"), "{error}");
}

#[test]
fn a_damaged_row_is_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path())
        .directory()
        .create_replica(SHARD, ReplicaId(1))
        .unwrap();
    let key = layout::row_key(Row::Replica, &layout::replica_suffix(SHARD, ReplicaId(1)));
    database(dir.path()).put(key, b"short").unwrap();
    assert!(matches!(
        Logs::open(dir.path(), &LogOptions::default()).err(),
        Some(Error::Corrupt { .. })
    ));
}

#[test]
fn receiving_again_drops_what_was_received_before() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(dir.path());
    let directory = logs.directory();
    assert!(matches!(
        directory.begin_receive(SHARD),
        Err(Error::NoReplica { shard: SHARD })
    ));
    directory.create_replica(SHARD, ReplicaId(1)).unwrap();
    let one = directory.begin_receive(SHARD).unwrap();
    let two = directory.begin_receive(SHARD).unwrap();
    assert_eq!(directory.dropping(), [one]);
    assert!(matches!(
        directory.finish_receive(SHARD, one, id(1, 1)),
        Err(Error::NotReceiving { .. })
    ));
    directory.abort_receive(SHARD).unwrap();
    directory.abort_receive(SHARD).unwrap();
    assert_eq!(directory.dropping(), [one, two]);
    assert!(matches!(
        directory.finish_receive(SHARD, two, id(1, 1)),
        Err(Error::NotReceiving { .. })
    ));
}

#[test]
fn finishing_switches_the_data_and_purges_the_log_in_one_batch() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(dir.path());
    let row = logs
        .directory()
        .create_replica(SHARD, ReplicaId(1))
        .unwrap();
    let log = logs.group(row.log).unwrap();
    append(&log, (0..10).map(|index| entry(1, index, 8)).collect());
    let store = logs.directory().begin_receive(SHARD).unwrap();
    let before = logs.stats();
    logs.directory()
        .finish_receive(SHARD, store, id(1, 6))
        .unwrap();
    assert_eq!(
        (
            logs.stats().batches - before.batches,
            logs.stats().syncs - before.syncs
        ),
        (1, 1)
    );
    let check = |logs: &Logs| {
        assert_eq!(logs.directory().replicas()[0].data, store);
        assert_eq!(logs.directory().replicas()[0].receiving, None);
        assert_eq!(logs.directory().dropping(), [row.data]);
        let log = logs.group(row.log).unwrap();
        assert_eq!(
            (log.state().purged, log.state().last),
            (Some(id(1, 6)), Some(id(1, 9)))
        );
        assert_eq!(log.read(0, 100, usize::MAX).unwrap().len(), 3);
    };
    check(&logs);
    check(&open(crash(dir.path()).path()));
}

#[test]
fn a_log_that_conflicts_with_the_snapshot_is_dropped_whole() {
    let dir = tempfile::tempdir().unwrap();
    let logs = open(dir.path());
    let row = logs
        .directory()
        .create_replica(SHARD, ReplicaId(1))
        .unwrap();
    append(
        &logs.group(row.log).unwrap(),
        (0..10).map(|index| entry(1, index, 8)).collect(),
    );
    let store = logs.directory().begin_receive(SHARD).unwrap();
    logs.directory()
        .finish_receive(SHARD, store, id(2, 6))
        .unwrap();
    let after = crash(dir.path());
    for logs in [logs, open(after.path())] {
        let log = logs.group(row.log).unwrap();
        assert_eq!(
            (log.state().purged, log.state().last),
            (Some(id(2, 6)), Some(id(2, 6)))
        );
        assert_eq!(log.read(0, 100, usize::MAX).unwrap(), []);
        append(&log, vec![entry(2, 7, 8)]);
    }
}
