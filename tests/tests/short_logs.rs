//! Promise: logs stay within their bound whatever happens, and who missed a part of them catches up by snapshots while writes go on.

use std::time::Duration;

use tests::cluster::READY;
use tests::load::Load;
use tests::{Api, Cluster, Options, eventually, is_soak};

const ENTRIES_MAX: u64 = 100;
const SHARDS: u32 = 2;
const DEADLINE: Duration = Duration::from_secs(30);

/// Every node dies and comes back in turn, under load, with logs of a hundred entries.
async fn survive(count: u16) {
    let mut cluster = Cluster::start(Options {
        nodes: count,
        shards: SHARDS,
        replicas: u32::from(count),
        env: vec![(
            "LARDER_RAFT__LOG_ENTRIES_MAX".to_owned(),
            ENTRIES_MAX.to_string(),
        )],
        ..Options::default()
    })
    .await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let load = Load::start(&nodes, "Demo", 6, 4);
    let rounds = if is_soak() { 10 } else { 1 };
    for _ in 0..rounds {
        for node in cluster.all() {
            cluster.kill(node).await;
            // More than all logs together may hold: what it misses is purged meanwhile.
            load.progress(600, READY).await;
            purged(&cluster, (node + 1) % usize::from(count)).await;
            cluster.spawn(node);
            load.progress(200, READY).await;
            cluster.node_ready(node, READY).await;
            cluster.healthy(READY).await;
        }
    }
    let written = load.stop().await;
    written.verify(&nodes).await;
    let installed: usize = cluster
        .all()
        .map(|node| cluster.logged(node).matches("installed snapshot").count())
        .sum();
    // Not each node for each shard: a leader keeps half of its log for those who come back soon.
    assert!(
        installed > 1,
        "{installed} snapshots were installed: logs were not purged, and this shows nothing"
    );
    cluster.kill_all().await;
    for node in cluster.all() {
        cluster.spawn(node);
    }
    cluster.ready(READY).await;
    written.verify(&nodes).await;
}

/// Waits until the node's logs were purged lately, and looks whether they are as short as they have to be.
async fn purged(cluster: &Cluster, node: usize) {
    let entries = || async {
        let answer = cluster.admin(node).get("/metrics").send().await;
        value(&answer.text(), "larder_log_purged_entries_total")
    };
    let before = entries().await.unwrap_or(0.0);
    eventually(
        "logs are purged while a follower is dead",
        DEADLINE,
        || async { (entries().await? > before).then_some(()) },
    )
    .await;
    let answer = cluster.admin(node).get("/metrics").send().await;
    let alarm = value(&answer.text(), "larder_data_flush_alarm");
    assert_eq!(alarm, Some(0.0));
}

fn value(metrics: &str, name: &str) -> Option<f64> {
    let line = metrics
        .lines()
        .find(|line| line.split_whitespace().next() == Some(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[tokio::test]
async fn three_voters_survive_short_logs() {
    survive(3).await;
}

#[tokio::test]
async fn five_voters_survive_short_logs() {
    survive(5).await;
}
