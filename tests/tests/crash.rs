//! Promise: kill -9 of any node, of a shard's leader, of all nodes at once under load: nothing acknowledged is lost,
//! the others go on, and a node that comes back serves and catches up by itself.

use std::time::{Duration, Instant};

use serde_json::json;
use tests::cluster::READY;
use tests::load::Load;
use tests::{Api, Cluster, Options, eventually, is_soak};

const WRITERS: usize = 12;
const KEYS: usize = 4;
/// After kill -9 of all nodes the cluster is ready again within this, by promise.
const READY_AGAIN: Duration = Duration::from_secs(10);
/// An election, and what a busy machine adds.
const FAILOVER: Duration = Duration::from_secs(10);

/// How many writes to see between two steps: enough that every writer took part.
fn some() -> u64 {
    if is_soak() { 3000 } else { 150 }
}

async fn start() -> (Cluster, Vec<Api>, Load) {
    let cluster = Cluster::start(Options {
        shards: 8,
        ..Options::default()
    })
    .await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let load = Load::start(&nodes, "Demo", WRITERS, KEYS);
    load.progress(some(), FAILOVER * 3).await;
    (cluster, nodes, load)
}

/// Reads every key locally at one node until it holds what the others hold.
async fn catches_up(nodes: &[Api], node: usize) {
    for writer in 0..WRITERS {
        for key in 0..KEYS {
            let path = format!("/db/Demo/load-{writer}-{key}");
            let linearizable = nodes[(node + 1) % nodes.len()].get(&path).send().await;
            let what = format!("node {node} has caught up on {path}");
            eventually(&what, READY, || async {
                let local = nodes[node].get(&path).local().send().await;
                ((local.status, &local.body) == (linearizable.status, &linearizable.body)
                    || (local.status == 404 && linearizable.status == 404))
                    .then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_killed_leader_loses_nothing() {
    let (mut cluster, nodes, load) = start().await;
    for round in 0..2 {
        let key = format!("load-{round}-0");
        let leader = cluster.leader_of("Demo", &key, round).await;
        cluster.kill(leader).await;
        // The shard goes on without it, and so does every other one that it led.
        let survivor = (leader + 1) % nodes.len();
        let probe = format!("/db/Demo/probe-{key}");
        let written = nodes[survivor].put(&probe).json(&json!({})).send().await;
        assert_eq!(
            written.status,
            200,
            "the asked node waits for the election: {}",
            written.text()
        );
        load.progress(some(), FAILOVER).await;
        let status = cluster.status(survivor).await;
        assert_eq!(status.health, "degraded");
        cluster.restart(leader).await;
        cluster.healthy(READY).await;
        load.progress(some(), FAILOVER).await;
        nodes[leader].get(&probe).send().await.expect(200);
    }
    let written = load.stop().await;
    written.verify(&nodes).await;
    for node in cluster.all() {
        catches_up(&nodes, node).await;
    }
}

#[tokio::test]
async fn each_node_in_turn_may_be_killed_under_load() {
    let (mut cluster, nodes, load) = start().await;
    for node in cluster.all() {
        cluster.kill(node).await;
        load.progress(some(), FAILOVER).await;
        cluster.spawn(node);
        load.progress(some(), FAILOVER).await;
        cluster.node_ready(node, READY).await;
        cluster.healthy(READY).await;
    }
    let written = load.stop().await;
    written.verify(&nodes).await;
    for node in cluster.all() {
        catches_up(&nodes, node).await;
    }
}

#[tokio::test]
async fn all_nodes_may_be_killed_at_once_under_load() {
    let (mut cluster, nodes, load) = start().await;
    for _ in 0..if is_soak() { 5 } else { 2 } {
        cluster.kill_all().await;
        let restarted = Instant::now();
        for node in cluster.all() {
            cluster.spawn(node);
        }
        cluster.ready(READY).await;
        let took = restarted.elapsed();
        assert!(
            took <= READY_AGAIN,
            "ready again after {took:?}, promised is {READY_AGAIN:?}"
        );
        load.progress(some(), FAILOVER).await;
    }
    let written = load.stop().await;
    written.verify(&nodes).await;
    cluster.healthy(READY).await;
    for node in cluster.all() {
        catches_up(&nodes, node).await;
    }
}

/// Two of three gone: refused with the promise of no effect, until one is back.
#[tokio::test]
async fn without_a_quorum_nothing_is_acknowledged() {
    let mut cluster = Cluster::dev().await;
    let api = cluster.api(0);
    api.put("/db/Demo/quorum")
        .json(&json!({ "n": 1 }))
        .send()
        .await
        .expect(200);
    cluster.kill(1).await;
    cluster.kill(2).await;
    let (read, write) = tokio::join!(
        api.get("/db/Demo/quorum").send(),
        api.put("/db/Demo/quorum").json(&json!({ "n": 2 })).send(),
    );
    assert_eq!(
        read.status,
        503,
        "no linearizable read without a quorum: {}",
        read.text()
    );
    assert_eq!(read.header("larder-effect").as_deref(), Some("none"));
    assert!(read.header("retry-after").is_some());
    assert!(matches!(write.status, 503 | 504), "{}", write.text());
    eventually("the status says it", FAILOVER, || async {
        (cluster.try_status(0).await?.health == "no_quorum").then_some(())
    })
    .await;
    let local = api.get("/db/Demo/quorum").local().send().await.expect(200);
    assert!(
        local.json()["n"].as_u64().is_some_and(|n| n >= 1),
        "local reads go on: {}",
        local.text()
    );
    cluster.restart(1).await;
    let what = "two of three serve again";
    let again = eventually(what, READY, || async {
        let answer = api
            .put("/db/Demo/quorum")
            .json(&json!({ "n": 3 }))
            .send()
            .await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    // The first write, this one, and the one without a quorum at most once.
    assert!(
        (2..=3).contains(&again.version()),
        "version {}",
        again.version()
    );
    cluster.restart(2).await;
    cluster.healthy(READY).await;
}

/// A leader that stands still for a while must not answer from its old view when it wakes up.
#[tokio::test]
async fn a_leader_that_was_paused_serves_nothing_stale() {
    let mut cluster = Cluster::dev().await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    for round in 0..3 {
        let key = format!("paused-{round}");
        let path = format!("/db/Demo/{key}");
        nodes[0]
            .put(&path)
            .json(&json!({ "n": 1 }))
            .send()
            .await
            .expect(200);
        let old = cluster.leader_of("Demo", &key, 0).await;
        let other = (old + 1) % nodes.len();
        let shard = cluster.status(other).await.shard_of("Demo", &key);
        cluster.pause(old);
        let paused = cluster.nodes[old].id.clone();
        eventually("another leader is elected", FAILOVER, || async {
            let status = cluster.try_status(other).await?;
            status
                .leader(shard)
                .is_some_and(|leader| *leader != paused)
                .then_some(())
        })
        .await;
        let newer = nodes[other]
            .put(&path)
            .json(&json!({ "n": 2 }))
            .send()
            .await
            .expect(200);
        cluster.resume(old);
        // At once: it has not yet heard of its successor.
        let read = nodes[old].get(&path).send().await;
        match read.status {
            200 => assert_eq!(read.body, newer.body, "a stale read from the paused leader"),
            503 => assert_eq!(read.header("larder-effect").as_deref(), Some("none")),
            _ => panic!("{}: {}", read.status, read.text()),
        }
        cluster.healthy(READY).await;
    }
}

/// SIGTERM: finishes what it has, hands its leaders over, ends with 0; nobody notices.
#[tokio::test]
async fn a_planned_stop_is_clean() {
    let options = Options {
        root_password: Some("a planned stop".to_owned()),
        ..Options::default()
    };
    let mut cluster = Cluster::start(options).await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let load = Load::start(&nodes, "Demo", 6, 2);
    load.progress(60, FAILOVER).await;
    for node in cluster.all() {
        assert_eq!(
            cluster.stop(node).await,
            Some(0),
            "exit status of node {node}"
        );
        load.progress(60, FAILOVER).await;
        cluster.restart(node).await;
        cluster.healthy(READY).await;
    }
    load.stop().await.verify(&nodes).await;
}
