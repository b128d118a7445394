//! Logs within their budget: with a follower that is dead, and while the data database cannot be flushed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use storage::StoreId;
use storage::engine::memory::Memory;
use storage::engine::{
    Batch, Cached, Column, Each, Engine, EngineStats, Pairs, Scrubbed, SstInfo, View,
};
use tokio_util::sync::CancellationToken;

use super::*;

const ENTRIES_MAX: u64 = 100;

fn small_logs() -> Options {
    Options {
        log_entries_max: ENTRIES_MAX,
        ..Options::default()
    }
}

impl Cluster {
    async fn write(&self, leader: usize, count: usize) {
        for _ in 0..count {
            let host = &self.nodes[leader].host;
            host.propose(SHARD, command(), deadline())
                .await
                .expect("applied");
        }
    }

    fn entries(&self, at: usize) -> u64 {
        let status = self.nodes[at].host.status(SHARD);
        status.expect("status").log.entries
    }

    async fn log_shrinks(&self, at: usize) {
        let deadline = deadline();
        while self.entries(at) > ENTRIES_MAX {
            assert!(
                Instant::now() < deadline,
                "the log of node {at} holds {} entries: {:?}",
                self.entries(at),
                self.nodes[at].host.status(SHARD)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_stay_within_their_bound_while_a_follower_is_dead() {
    let cluster = Cluster::start_with(3, small_logs(), rocks).await;
    let stop = CancellationToken::new();
    for node in &cluster.nodes {
        tokio::spawn(node.host.clone().purge_by_size(stop.clone()));
    }
    let leader = cluster.leader(&[0, 1, 2]).await;
    let (dead, live) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.write(leader, 20).await;
    cluster.network.cut(NodeId(dead as u64 + 1));
    for _ in 0..3 {
        cluster.write(leader, 250).await;
        cluster.log_shrinks(leader).await;
        cluster.log_shrinks(live).await;
        // Half a share stays for followers that were away for a moment.
        assert!(cluster.entries(leader) >= ENTRIES_MAX * 4 / 10);
    }
    cluster.network.heal(NodeId(dead as u64 + 1));
    cluster.write(leader, 50).await;
    let index = cluster.nodes[leader].replica.applied().id.expect("applied");
    cluster.applied(dead, index.index).await;
    assert_eq!(
        cluster.nodes[dead].replica.applied().chain,
        cluster.nodes[leader].replica.applied().chain
    );
    cluster.log_shrinks(dead).await;
    stop.cancel();
}

/// An engine whose disk is full when told so.
#[derive(Default)]
struct Full {
    memory: Memory,
    full: AtomicBool,
}

impl Engine for Full {
    fn get(&self, column: Column, key: &[u8]) -> storage::Result<Option<Bytes>> {
        self.memory.get(column, key)
    }

    fn get_cached(&self, column: Column, key: &[u8]) -> storage::Result<Cached> {
        self.memory.get_cached(column, key)
    }

    fn get_persisted(&self, column: Column, key: &[u8]) -> storage::Result<Option<Bytes>> {
        self.memory.get_persisted(column, key)
    }

    fn write(&self, batch: Batch) -> storage::Result<()> {
        self.memory.write(batch)
    }

    fn view(&self) -> Box<dyn View> {
        self.memory.view()
    }

    fn flush(&self) -> storage::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into());
        }
        self.memory.flush()
    }

    fn ingest(&self, files: &[(Column, PathBuf)]) -> storage::Result<()> {
        self.memory.ingest(files)
    }

    fn write_sst(
        &self,
        pairs: Pairs<'_>,
        column: Column,
        to: StoreId,
        path: &Path,
    ) -> storage::Result<Option<SstInfo>> {
        self.memory.write_sst(pairs, column, to, path)
    }

    fn stats(&self) -> EngineStats {
        self.memory.stats()
    }

    fn scrub_each(
        &self,
        column: Column,
        from: &[u8],
        to: &[u8],
        bytes_max: usize,
        each: &mut Each<'_>,
    ) -> storage::Result<Scrubbed> {
        self.memory.scrub_each(column, from, to, bytes_max, each)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_flush_stops_purging_and_nothing_else() {
    let engine = Arc::new(Full::default());
    let shared: Arc<dyn Engine> = engine.clone();
    let cluster = Cluster::start_with(1, small_logs(), move |_| Arc::clone(&shared)).await;
    let host = &cluster.nodes[0].host;
    cluster.leader(&[0]).await;
    cluster.write(0, 20).await;
    engine.full.store(true, Ordering::SeqCst);
    cluster.write(0, 200).await;
    let stop = CancellationToken::new();
    let purging = tokio::spawn(host.clone().purge_by_size(stop.clone()));
    assert!(
        matches!(
            host.snapshot(SHARD, true).await,
            Err(crate::Error::Storage(_))
        ),
        "an operator is told"
    );
    cluster.write(0, 200).await;
    assert!(cluster.entries(0) > 400, "nothing was purged");
    engine.full.store(false, Ordering::SeqCst);
    cluster.log_shrinks(0).await;
    stop.cancel();
    purging.await.expect("ended");
}
