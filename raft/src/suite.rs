//! openraft's own store suite over the log store and state machine, on both engines.

use std::sync::Arc;

use bytes::Bytes;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use proto::{ReplicaId, ShardId};
use storage::engine::Engine;
use storage::engine::memory::Memory;
use storage::engine::rocks::{DataOptions, Rocks};
use storage::machine::{Machine, Replica, Transaction};
use storage::raft_log::{LogOptions, Logs};
use tempfile::TempDir;

use crate::applier::Applier;
use crate::log_store::LogStore;
use crate::pool::Pool;
use crate::state_machine::{Recording, StateMachine};
use crate::type_config::TypeConfig;

/// Answers each command with itself.
pub(crate) struct Echo;

impl Machine for Echo {
    fn apply(
        &self,
        _: &mut Transaction<'_>,
        _: storage::LogId,
        command: &Bytes,
    ) -> storage::Result<Bytes> {
        Ok(command.clone())
    }
}

struct Builder {
    engine: fn(&TempDir) -> Arc<dyn Engine>,
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let logs =
            Logs::open(&dir.path().join("log"), &LogOptions::default()).expect("log database");
        let row = logs
            .directory()
            .create_replica(ShardId(1), ReplicaId(1))
            .expect("a directory row");
        let replica = Replica::open((self.engine)(&dir), Arc::new(Echo), row.shard, row.data)
            .expect("a replica");
        let log = LogStore::new(logs.group(row.log).expect("a group log"));
        let applier = Applier::new("test-apply", 1).expect("a thread");
        let pool = Pool::new("test-disk", 1).expect("a thread");
        let machine = StateMachine::new(
            replica,
            logs,
            applier,
            pool,
            dir.path().join("work"),
            Recording::Flushes,
        );
        Ok((dir, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_on_rocksdb() {
    let engine = |dir: &TempDir| -> Arc<dyn Engine> {
        Arc::new(
            Rocks::open(&dir.path().join("data"), &DataOptions::default()).expect("data database"),
        )
    };
    Suite::test_all(Builder { engine }).await.expect("suite");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_on_memory() {
    Suite::test_all(Builder {
        engine: |_| Arc::new(Memory::new()),
    })
    .await
    .expect("suite");
}
