//! Promise: a replica of a shard is replaced while writes go on and nodes die at every step, nothing is lost, and the old one's data
//! is removed.

use std::time::Duration;

use proto::ShardId;
use serde_json::Value;
use tests::cluster::READY;
use tests::load::Load;
use tests::{Api, Cluster, Options, binary, eventually};

const SHARD: ShardId = ShardId(1);
const DEADLINE: Duration = Duration::from_secs(60);

/// Four nodes with three replicas of each shard, and logs so short that a new replica needs a snapshot.
async fn start() -> Cluster {
    Cluster::start(Options {
        nodes: 4,
        shards: 2,
        env: vec![("LARDER_RAFT__LOG_ENTRIES_MAX".to_owned(), "100".to_owned())],
        ..Options::default()
    })
    .await
}

async fn shard(cluster: &Cluster, asked: usize) -> Option<Value> {
    let path = "/admin/v1/cluster/status";
    let answer = cluster.admin(asked).get(path).try_send().await.ok()?;
    answer.json()["shards"].get(SHARD.0 as usize).cloned()
}

/// The nodes that hold the shard, and one that does not.
async fn places(cluster: &Cluster, asked: usize) -> (Vec<usize>, usize) {
    let shard = shard(cluster, asked).await.expect("status");
    let held: Vec<_> = shard["replicas"]
        .as_array()
        .expect("replicas")
        .iter()
        .map(|replica| {
            let position = cluster
                .nodes
                .iter()
                .position(|node| node.id == replica["node"]);
            position.expect("a node of ours")
        })
        .collect();
    let free = cluster.all().find(|node| !held.contains(node));
    (held, free.expect("a free node"))
}

/// Returns the id of the old replica.
async fn replace(cluster: &Cluster, asked: usize, to: usize, from: usize, more: &[&str]) -> u64 {
    let (shard, to) = (SHARD.to_string(), format!("node{}", to + 1));
    let from = format!("node{}", from + 1);
    let mut arguments = vec!["shard", "replace", &shard, &to, "--from", &from];
    arguments.extend(["--output", "json", "--admin", &cluster.nodes[asked].admin]);
    arguments.extend(more);
    let answer = binary::run(arguments).await.expect(0).json();
    answer["old"]["replica"].as_u64().expect("a replica id")
}

/// All that a node has logged, under `larder dev` and after it was started again.
fn logged(cluster: &Cluster, node: usize) -> String {
    let name = format!("data/node{}/log", node + 1);
    let first = std::fs::read(cluster.dir().join(name)).unwrap_or_default();
    format!(
        "{}{}",
        String::from_utf8_lossy(&first),
        cluster.logged(node)
    )
}

/// A node without a replica of a shard need not know who leads it, so the leaders are not looked at.
async fn healthy(cluster: &Cluster, asked: usize) {
    eventually("the cluster is healthy", READY, || async {
        let status = cluster.try_status(asked).await?;
        (status.health == "healthy").then_some(())
    })
    .await;
}

async fn finished(cluster: &Cluster, asked: usize, to: usize, from: usize) {
    eventually("the replica is replaced", DEADLINE, || async {
        let shard = shard(cluster, asked).await?;
        shard.get("replacement").is_none().then_some(())
    })
    .await;
    let (held, _) = places(cluster, asked).await;
    assert!(held.contains(&to) && !held.contains(&from), "{held:?}");
}

#[tokio::test]
async fn a_replica_is_replaced_under_load_and_over_crashes() {
    let mut cluster = start().await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let load = Load::start(&nodes, "Demo", 6, 4);
    load.progress(300, READY).await;

    // Whoever dies just after it began: the shard's leader, the new replica, the old one.
    for victim in ["leader", "new", "old"] {
        let leader = cluster.leader(SHARD, 0).await;
        let (held, to) = places(&cluster, 0).await;
        let from = held.into_iter().find(|node| *node != leader).expect("two");
        let victim = match victim {
            "leader" => leader,
            "new" => to,
            _ => from,
        };
        let asked = cluster
            .all()
            .find(|node| *node != victim)
            .expect("another node");
        let old = replace(&cluster, asked, to, from, &[]).await;
        cluster.kill(victim).await;
        load.progress(100, READY).await;
        cluster.spawn(victim);
        finished(&cluster, asked, to, from).await;
        eventually("the old replica is destroyed", DEADLINE, || async {
            let destroyed = format!("replica destroyed shard={SHARD} replica={old}");
            logged(&cluster, from).contains(&destroyed).then_some(())
        })
        .await;
        healthy(&cluster, 0).await;
    }

    // The leader's own replica, and then one in its place, both to the end.
    let from = cluster.leader(SHARD, 0).await;
    let (_, to) = places(&cluster, 0).await;
    replace(&cluster, 0, to, from, &["--wait", "60"]).await;
    replace(&cluster, 0, to, to, &["--wait", "60"]).await;
    load.progress(100, READY).await;

    let written = load.stop().await;
    written.verify(&nodes).await;
    // What the new replicas hold is theirs: the ones that were there from the start may go.
    cluster.kill_all().await;
    for node in cluster.all() {
        cluster.spawn(node);
    }
    cluster.ready(READY).await;
    healthy(&cluster, 0).await;
    written.verify(&nodes).await;
    let (held, free) = places(&cluster, 0).await;
    assert!(held.contains(&to) && !held.contains(&free));
}

#[tokio::test]
async fn what_cannot_be_replaced_is_refused_with_its_reason() {
    let mut cluster = start().await;
    let (held, free) = places(&cluster, 0).await;
    let name = |node: usize| format!("node{}", node + 1);
    let asked = held[0];
    let refused =
        async |cluster: &Cluster, shard: &str, to: &str, from: &str, status, reason: &str| {
            let admin = &cluster.nodes[asked].admin;
            let arguments = [
                "shard", "replace", shard, to, "--from", from, "--admin", admin,
            ];
            let output = binary::run(arguments).await.expect(status);
            assert!(output.stderr.contains(reason), "{output:#?}");
        };
    let (to, from) = (name(free), name(held[1]));
    refused(&cluster, "7", &to, &from, 1, "there is no shard 7").await;
    refused(&cluster, "1", "node9", &from, 2, "there is no node node9").await;
    refused(&cluster, "0", &to, &from, 1, "of the metadata").await;
    refused(
        &cluster,
        "1",
        &name(held[2]),
        &from,
        1,
        "holds a replica of shard 1 already",
    )
    .await;
    refused(&cluster, "1", &to, &to, 1, "holds no replica of shard 1").await;
    cluster.kill(free).await;
    eventually("the death is noticed", READY, || async {
        (cluster.status(asked).await.health == "degraded").then_some(())
    })
    .await;
    refused(&cluster, "1", &to, &from, 3, "is down").await;
    let shard = shard(&cluster, asked).await.expect("status");
    assert!(
        shard.get("replacement").is_none(),
        "nothing was begun: {shard}"
    );
}
