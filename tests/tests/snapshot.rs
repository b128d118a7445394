//! Promise: a follower that missed what is purged from the logs gets a snapshot, and then holds what the others hold.

use std::time::Duration;

use document::id::object_id;
use proto::ShardId;
use serde_json::json;
use tests::cluster::READY;
use tests::{Api, Cluster, Options, eventually};

const SHARDS: u32 = 4;
const DOCUMENTS: usize = 200;
const DEADLINE: Duration = Duration::from_secs(30);

fn key(number: usize) -> String {
    format!("snapshot-{number}")
}

async fn write(api: &Api, numbers: std::ops::Range<usize>, value: &str) {
    for number in numbers {
        let body = json!({ "value": value, "pad": "x".repeat(500) });
        api.put(&object_id("Demo", &key(number)))
            .json(&body)
            .send()
            .await
            .expect(200);
    }
}

/// Makes the leader of each shard record a snapshot and purge its log up to it.
async fn snapshot_and_purge(cluster: &Cluster, asked: usize) {
    for shard in (0..=SHARDS).map(ShardId) {
        let path = format!("/admin/v1/shards/{shard}/snapshot?purge=true");
        let index = eventually(
            &format!("a snapshot of shard {shard}"),
            DEADLINE,
            || async {
                let leader = cluster.leader(shard, asked).await;
                let answer = cluster.admin(leader).post(&path).send().await;
                // The leader may just have changed.
                (answer.status == 200)
                    .then(|| answer.json()["index"].as_u64())
                    .flatten()
            },
        )
        .await;
        assert!(index > 0, "shard {shard}");
    }
}

#[tokio::test]
async fn a_follower_that_missed_purged_logs_gets_a_snapshot() {
    let mut cluster = Cluster::start(Options {
        shards: SHARDS,
        ..Options::default()
    })
    .await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let behind = 2;
    write(&nodes[0], 0..DOCUMENTS, "before").await;
    cluster.kill(behind).await;

    // What it misses: replaced, deleted, new and protected documents, a new class, a repeatable write.
    let root = cluster.root(0).await;
    write(&nodes[0], 0..DOCUMENTS / 2, "after").await;
    for number in DOCUMENTS / 2..DOCUMENTS * 3 / 4 {
        nodes[1]
            .delete(&object_id("Demo", &key(number)))
            .send()
            .await
            .expect(204);
    }
    write(&nodes[1], DOCUMENTS..DOCUMENTS + 50, "new").await;
    let acl = json!({ "read": { "/db/Role/1": "allow" } });
    root.put("/db/Demo/hidden")
        .json(&json!({ "acl": acl }))
        .send()
        .await
        .expect(200);
    let class = json!([{ "class": "/db/Later", "superClass": "/db/Object", "fields": {} }]);
    root.post("/schema").json(&class).send().await.expect(200);
    let once = |api: &Api| {
        api.put("/db/Demo/once")
            .idempotent("before-snapshot")
            .json(&json!({}))
            .send()
    };
    once(&nodes[0]).await.expect(200);
    snapshot_and_purge(&cluster, 0).await;
    // And a tail behind the snapshot, which comes as log.
    write(&nodes[0], DOCUMENTS + 50..DOCUMENTS + 60, "tail").await;

    cluster.restart(behind).await;
    cluster.healthy(DEADLINE).await;
    compare(&nodes, behind).await;
    let installed = cluster.logged(behind).matches("installed snapshot").count();
    assert!(
        installed >= 3,
        "{installed} snapshots were installed: the logs were not purged, and this shows nothing"
    );
    let hidden = nodes[behind].get("/db/Demo/hidden").local().send().await;
    assert_eq!(
        hidden.status,
        404,
        "rules travel with the snapshot: {}",
        hidden.text()
    );

    // It is a full member: the others may go, one after another, and a write it only knows from a snapshot stays done.
    for gone in [0, 1] {
        cluster.kill(gone).await;
        let again = once(&nodes[behind]).await.expect(200);
        assert_eq!(again.version(), 1);
        nodes[behind]
            .put("/db/Later/1")
            .json(&json!({}))
            .send()
            .await
            .expect(200);
        let version = |number: usize| {
            nodes[behind]
                .get(&format!("/db/Demo/{}", key(number)))
                .send()
        };
        assert_eq!(version(0).await.expect(200).version(), 2);
        version(DOCUMENTS / 2).await.expect(404);
        cluster.restart(gone).await;
        cluster.healthy(DEADLINE).await;
    }
    // Versions go on over a tombstone that came in a snapshot.
    let reborn = nodes[behind]
        .put(&object_id("Demo", &key(DOCUMENTS / 2)))
        .json(&json!({}))
        .send()
        .await
        .expect(200);
    assert_eq!(reborn.version(), 3);

    // What it received is on its disk.
    cluster.kill(behind).await;
    cluster.restart(behind).await;
    compare(&nodes, behind).await;
}

/// Every document read locally at the node equals what the cluster holds.
async fn compare(nodes: &[Api], behind: usize) {
    for number in 0..DOCUMENTS + 60 {
        let path = object_id("Demo", &key(number));
        let expected = nodes[(behind + 1) % 3].get(&path).send().await;
        assert!(matches!(expected.status, 200 | 404));
        let what = format!("{path} at the restarted node is as elsewhere");
        eventually(&what, DEADLINE, || async {
            let local = nodes[behind].get(&path).local().send().await;
            let is_same = local.status == expected.status
                && (local.status == 404 || local.body == expected.body);
            is_same.then_some(())
        })
        .await;
    }
}

/// A snapshot while writes go on, again and again, loses none of them.
#[tokio::test]
async fn purging_under_load_loses_nothing() {
    let mut cluster = Cluster::start(Options {
        shards: SHARDS,
        ..Options::default()
    })
    .await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let load = tests::load::Load::start(&nodes, "Demo", 8, 4);
    for node in cluster.all() {
        cluster.kill(node).await;
        load.progress(100, READY).await;
        snapshot_and_purge(&cluster, (node + 1) % 3).await;
        cluster.spawn(node);
        // Purges go on while it receives.
        snapshot_and_purge(&cluster, (node + 1) % 3).await;
        load.progress(100, READY).await;
        cluster.node_ready(node, READY).await;
        cluster.healthy(DEADLINE).await;
    }
    let written = load.stop().await;
    written.verify(&nodes).await;
    cluster.kill_all().await;
    for node in cluster.all() {
        cluster.spawn(node);
    }
    cluster.ready(READY).await;
    written.verify(&nodes).await;
}
