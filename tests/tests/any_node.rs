//! Promise: any node answers any request, linearizably: it serves, or hands it once to the shard's leader.

use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use tests::http::content;
use tests::{Api, Checks, Cluster, Options, eventually};

/// Four nodes, so that each lacks a replica of some shard.
const OPTIONS: fn() -> Options = || Options {
    nodes: 4,
    shards: 16,
    replicas: 3,
    ..Options::default()
};

#[tokio::test]
async fn every_node_serves_every_document() {
    let cluster = Cluster::start(OPTIONS()).await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let mut checks = Checks::new();
    checks
        .check("the cluster is laid out evenly", layout(&cluster))
        .await;
    checks
        .check("written at one, read at each", each_reads(&nodes))
        .await;
    checks
        .check("a write is seen at once elsewhere", at_once(&nodes))
        .await;
    checks
        .check("conditions hold across nodes", conditions(&nodes))
        .await;
    checks
        .check("racing inserts have one winner", races(&nodes))
        .await;
    checks
        .check("racing updates are counted once each", counter(&nodes))
        .await;
    checks
        .check("local reads", local_reads(&cluster, &nodes))
        .await;
    checks.finish();
}

async fn layout(cluster: &Cluster) {
    let what = "every node leads its share of 16 shards";
    let status = eventually(what, Duration::from_secs(15), || async {
        let status = cluster.try_status(0).await?;
        let is_even = cluster
            .nodes
            .iter()
            .all(|node| (2..=7).contains(&status.led_by(&node.id)));
        (status.is_healthy() && is_even).then_some(status)
    })
    .await;
    assert_eq!(status.shards.len(), 17, "16 shards and the metadata group");
    for shard in status.shards.iter().filter(|shard| shard.shard != 0) {
        assert_eq!(shard.replicas.len(), 3, "shard {}", shard.shard);
        let mut nodes: Vec<String> = shard
            .replicas
            .iter()
            .map(|replica| replica.node.to_string())
            .collect();
        nodes.sort();
        nodes.dedup();
        assert_eq!(
            nodes.len(),
            3,
            "the replicas of shard {} are on three nodes",
            shard.shard
        );
        let leads = shard
            .replicas
            .iter()
            .filter(|replica| replica.role == "leader")
            .count();
        assert_eq!(leads, 1, "shard {}", shard.shard);
    }
    // All nodes tell the same.
    for node in cluster.all() {
        let other = cluster.status(node).await;
        assert_eq!(
            (&other.cluster_id, other.shard_count),
            (&status.cluster_id, 16)
        );
        assert_eq!(other.shard_of("Demo", "k"), status.shard_of("Demo", "k"));
    }
}

async fn each_reads(nodes: &[Api]) {
    // Enough keys for every pair of asked node and leader.
    for number in 0..64 {
        let path = format!("/db/Demo/each-{number}");
        let writer = &nodes[number % nodes.len()];
        let written = writer
            .put(&path)
            .json(&json!({ "number": number }))
            .send()
            .await
            .expect(200);
        for node in nodes {
            let read = node.get(&path).send().await.expect(200);
            assert_eq!(read.body, written.body, "{path} at {}", node.base());
        }
        let deleter = &nodes[(number + 1) % nodes.len()];
        deleter.delete(&path).if_match(1).send().await.expect(204);
        for node in nodes {
            node.get(&path).send().await.expect(404);
        }
    }
}

async fn at_once(nodes: &[Api]) {
    for version in 1..=100_u64 {
        let turn = usize::try_from(version).expect("small");
        let (writer, reader) = (
            &nodes[turn % nodes.len()],
            &nodes[(turn * 3 + 1) % nodes.len()],
        );
        let path = format!("/db/Demo/at-once-{}", version % 4);
        let written = writer
            .put(&path)
            .json(&json!({ "turn": version }))
            .send()
            .await
            .expect(200);
        assert_eq!(written.version(), version.div_ceil(4));
        let read = reader.get(&path).send().await.expect(200);
        assert_eq!(
            content(&read.json())["turn"],
            version,
            "a read after the answer to the write sees it"
        );
    }
}

async fn conditions(nodes: &[Api]) {
    let path = "/db/Demo/conditions";
    nodes[0]
        .put(path)
        .json(&json!({ "at": 0 }))
        .send()
        .await
        .expect(200);
    for (index, node) in nodes.iter().enumerate() {
        let version = u64::try_from(index).expect("small") + 1;
        node.put(path)
            .if_match(version + 1)
            .json(&json!({}))
            .send()
            .await
            .refused(412, "object_out_of_date");
        node.post("/db/Demo")
            .json(&json!({ "id": path }))
            .send()
            .await
            .refused(409, "object_exists");
        node.put(path)
            .if_match(version)
            .json(&json!({ "at": version }))
            .send()
            .await
            .expect(200);
        node.put(path)
            .if_match(version)
            .json(&json!({}))
            .send()
            .await
            .refused(412, "object_out_of_date");
    }
}

async fn races(nodes: &[Api]) {
    for round in 0..10 {
        let id = format!("/db/Demo/race-{round}");
        let inserts =
            nodes
                .iter()
                .flat_map(|node| [node, node])
                .enumerate()
                .map(|(racer, node)| {
                    let body = json!({ "id": id, "racer": racer });
                    async move { node.post("/db/Demo").json(&body).send().await }
                });
        let answers = join_all(inserts).await;
        let winners: Vec<_> = answers
            .iter()
            .filter(|answer| answer.status == 201)
            .collect();
        assert_eq!(
            winners.len(),
            1,
            "{:?}",
            answers
                .iter()
                .map(|answer| answer.status)
                .collect::<Vec<_>>()
        );
        for loser in answers.iter().filter(|answer| answer.status != 201) {
            loser.clone().refused(409, "object_exists");
        }
        assert_eq!(
            nodes[0].get(&id).send().await.expect(200).body,
            winners[0].body
        );
    }
}

/// Read, add one, write if unchanged, again until it was.
async fn counter(nodes: &[Api]) {
    const ADDS: u64 = 8;
    let path = "/db/Demo/counter";
    nodes[0]
        .put(path)
        .json(&json!({ "count": 0 }))
        .send()
        .await
        .expect(200);
    let adders = nodes.iter().map(|node| async move {
        let mut added = 0;
        while added < ADDS {
            let read = node.get(path).send().await.expect(200);
            let count = read.json()["count"].as_u64().expect("a number");
            let written = node
                .put(path)
                .if_match(read.version())
                .json(&json!({ "count": count + 1 }))
                .send()
                .await;
            match written.status {
                200 => added += 1,
                412 => {}
                other => panic!("{other}: {}", written.text()),
            }
        }
    });
    join_all(adders).await;
    let total = ADDS * u64::try_from(nodes.len()).expect("small");
    let end = nodes[1].get(path).send().await.expect(200);
    assert_eq!(
        (end.json()["count"].as_u64(), end.version()),
        (Some(total), total + 1)
    );
}

async fn local_reads(cluster: &Cluster, nodes: &[Api]) {
    let keys: Vec<String> = (0..32)
        .map(|number| format!("/db/Demo/local-{number}"))
        .collect();
    for path in &keys {
        nodes[0].put(path).json(&json!({})).send().await.expect(200);
    }
    for node in cluster.all() {
        // A replica follows within moments; a node without one asks the leader.
        for path in &keys {
            let what = format!("{path} is found locally at node {node}");
            eventually(&what, Duration::from_secs(5), || async {
                (nodes[node].get(path).local().send().await.status == 200).then_some(())
            })
            .await;
        }
    }
}
