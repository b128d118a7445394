//! Promise: a node's replica of the metadata is renewed in its place while writes go on and nodes die, whoever leads the metadata, and
//! nothing is lost.

use std::time::Duration;

use proto::ShardId;
use serde_json::{Value, json};
use tests::cluster::READY;
use tests::load::Load;
use tests::{Api, Cluster, Options, binary, eventually};

const DEADLINE: Duration = Duration::from_secs(60);

async fn start() -> Cluster {
    Cluster::start(Options {
        shards: 2,
        root_password: Some("metadata".to_owned()),
        ..Options::default()
    })
    .await
}

/// Shard 0 as a node sees it.
async fn metadata(cluster: &Cluster, asked: usize) -> Option<Value> {
    let path = "/admin/v1/cluster/status";
    let answer = cluster.admin(asked).get(path).try_send().await.ok()?;
    answer.json()["shards"].get(0).cloned()
}

async fn renew(cluster: &Cluster, asked: usize, node: usize) -> u64 {
    let (name, admin) = (format!("n{}", node + 1), &cluster.nodes[asked].admin);
    let arguments = [
        "shard", "replace", "0", &name, "-o", "json", "--admin", admin,
    ];
    let answer = binary::run(arguments).await.expect(0).json();
    answer["old"]["replica"].as_u64().expect("a replica id")
}

async fn renewed(cluster: &Cluster, asked: usize, node: usize, old: u64) {
    eventually("the replica is renewed", DEADLINE, || async {
        let shard = metadata(cluster, asked).await?;
        shard.get("replacement").is_none().then_some(())
    })
    .await;
    let destroyed = format!("replica destroyed shard=0 replica={old}");
    eventually("the old replica is destroyed", DEADLINE, || async {
        cluster.logged(node).contains(&destroyed).then_some(())
    })
    .await;
    cluster.healthy(READY).await;
}

/// A change of the schema goes through the metadata, and is seen by every node.
async fn add_class(cluster: &Cluster, through: usize, name: &str) {
    let class = json!([{ "class": format!("/db/{name}"), "fields": {}, "metadata": { "larder.open": "true" } }]);
    let root = cluster.root(through).await;
    let added = root.post("/schema").json(&class).send().await;
    assert_eq!(added.status, 200, "{}", added.text());
    for node in cluster.all() {
        eventually("the class is known", DEADLINE, || async {
            let path = format!("/db/{name}/d{node}");
            let put = cluster.api(node).put(&path).json(&json!({})).send().await;
            (put.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn the_metadata_of_every_node_is_renewed_under_load_and_over_crashes() {
    let mut cluster = start().await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    // What the new replicas need must come as a snapshot.
    for node in cluster.all() {
        let purge = "/admin/v1/shards/0/snapshot?purge=true";
        cluster.admin(node).post(purge).send().await.expect(200);
    }
    let load = Load::start(&nodes, "Demo", 6, 4);
    load.progress(100, READY).await;

    // Whoever dies just after it began: the node itself, or the metadata's leader.
    for victim in ["itself", "leader"] {
        let leader = cluster.leader(ShardId::META, 0).await;
        let node = (leader + 1) % 3;
        let victim = if victim == "leader" { leader } else { node };
        let asked = (leader + 2) % 3;
        let old = renew(&cluster, asked, node).await;
        cluster.kill(victim).await;
        load.progress(60, READY).await;
        cluster.spawn(victim);
        renewed(&cluster, asked, node, old).await;
    }
    // The leader's own, asked for at the leader.
    let leader = cluster.leader(ShardId::META, 0).await;
    let old = renew(&cluster, leader, leader).await;
    renewed(&cluster, (leader + 1) % 3, leader, old).await;
    load.progress(60, READY).await;

    add_class(&cluster, leader, "After").await;
    let written = load.stop().await;
    cluster.kill_all().await;
    for node in cluster.all() {
        cluster.spawn(node);
    }
    cluster.ready(READY).await;
    cluster.healthy(READY).await;
    written.verify(&nodes).await;
    add_class(&cluster, leader, "Later").await;
}
