//! Promise: a durable consumer misses nothing. Whether it fetches and acknowledges, or is sent to; whatever dies, however ill its target is,
//! and however far the logs are trimmed while it is paused: it ends up with what is stored, and each document's versions never go back.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use proto::ShardId;
use serde_json::{Value, json};
use tests::cluster::READY;
use tests::load::Load;
use tests::receiver::{Fate, Receiver, Taken};
use tests::{Api, Checks, Cluster, Options, binary, eventually, is_soak};

const DEADLINE: Duration = Duration::from_secs(90);
const SECRET: &str = "correct horse battery";

fn env(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    let variables = variables.iter();
    variables
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// What is stored in `Demo`, by id.
async fn table(root: &Api) -> BTreeMap<String, Value> {
    let all = root.get("/db/Demo").expect(200).await.json();
    let documents = all.as_array().expect("an array").iter();
    let by_id = |document: &Value| Some((document["id"].as_str()?.to_owned(), document.clone()));
    documents
        .map(|document| by_id(document).expect("an id"))
        .collect()
}

async fn hook(root: &Api, name: &str, receiver: &Receiver) {
    let body = json!({
        "bucket": "Demo", "from": "oldest", "target": receiver.url(), "secret": SECRET,
    });
    let path = format!("/consumers/{name}");
    let made = root.post(&path).json(&body).expect(200).await.json();
    assert!(made.get("secret").is_none(), "{made}");
}

async fn until(receiver: &Receiver, what: &str, is_so: impl Fn(&Taken) -> bool) {
    eventually(what, DEADLINE, async || {
        is_so(&receiver.taken()).then_some(())
    })
    .await;
    receiver.taken().check();
}

/// The target refuses, asks for time, falls silent, and denies what it took, while those who send to it die under load.
#[tokio::test]
async fn a_target_gets_everything_over_failures_and_kills() {
    let mut cluster = Cluster::start(Options {
        env: env(&[("LARDER_WEBHOOKS__TIMEOUT_MS", "1000")]),
        ..Options::default()
    })
    .await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let receiver = Receiver::start(SECRET).await;
    hook(&cluster.root(0).await, "mirror", &receiver).await;
    let load = Load::start(&nodes, "Demo", 4, 4);
    until(&receiver, "the first batch", |taken| taken.events() > 0).await;
    let kills = if is_soak() { 20 } else { 2 };
    for _ in 0..kills {
        receiver.taken().fates.extend([
            Fate::Refused(StatusCode::INTERNAL_SERVER_ERROR),
            Fate::TakenAndDenied,
            Fate::Slow,
            Fate::Later,
        ]);
        until(&receiver, "the target fails", |taken| taken.fates.len() < 3).await;
        let dead = cluster.leader(ShardId(0), 0).await;
        cluster.kill(dead).await;
        load.progress(50, READY).await;
        until(&receiver, "it is well", |taken| taken.fates.is_empty()).await;
        cluster.spawn(dead);
        cluster.node_ready(dead, READY).await;
    }
    load.stop().await.verify(&nodes).await;
    let stored = table(&cluster.root(0).await).await;
    until(&receiver, "the table", |taken| taken.table() == stored).await;
    let taken = receiver.taken();
    assert_eq!((taken.failed, taken.resyncs), (4 * kills, 0));
    assert!(taken.repeated > 0, "what was denied comes again");
    let (came, events, repeated) = (taken.came, taken.events(), taken.repeated);
    eprintln!("{events} events in {came} batches, {repeated} of them again");
}

/// Paused until the log was overwritten several times.
#[tokio::test]
async fn whoever_was_paused_past_the_retention_has_what_is_stored() {
    let cluster = Cluster::start(Options {
        nodes: 1,
        shards: 1,
        replicas: 1,
        env: env(&[("LARDER_CHANGES__RETENTION_MIB", "1")]),
        ..Options::default()
    })
    .await;
    let (root, anyone) = (cluster.root(0).await, cluster.api(0));
    let write = async |key: usize, round: usize| {
        let body = json!({ "round": round, "text": "x".repeat(16 * 1024) });
        let path = format!("/db/Demo/k{key}");
        assert!(anyone.put(&path).json(&body).send().await.status < 300);
    };
    for key in 0..20 {
        write(key, 0).await;
    }
    let receiver = Receiver::start(SECRET).await;
    hook(&root, "mirror", &receiver).await;
    until(&receiver, "all of it", |taken| taken.table().len() == 20).await;
    root.post("/consumers/mirror/pause").expect(204).await;
    let came = receiver.taken().came;
    anyone.delete("/db/Demo/k19").send().await;
    let rounds = if is_soak() { 400 } else { 40 };
    for round in 1..=rounds {
        for key in 0..16 {
            write(key, round).await;
        }
    }
    eventually("the log is trimmed", DEADLINE, async || {
        let kept = anyone.get("/changes?id=%2Fdb%2FDemo%2Fk0").send().await;
        let versions = kept.json()["versions"].as_array().map(Vec::len);
        versions.filter(|kept| *kept < 10)
    })
    .await;
    let lag = "larder_consumer_lag_seconds{database=\"v1\",consumer=\"mirror\"}";
    eventually("the lag of a paused consumer", DEADLINE, async || {
        let metrics = cluster.admin(0).get("/metrics").send().await.text();
        let line = metrics.lines().find_map(|line| line.strip_prefix(lag));
        let late: Option<f64> = line.and_then(|value| value.trim().parse().ok());
        late.filter(|late| *late > 0.0)
    })
    .await;
    let shown = root.get("/consumers/mirror").expect(200).await.json();
    assert_eq!(shown["state"], "paused");
    // Only what was on its way already.
    assert!(receiver.taken().came <= came + 1);
    cli(&cluster, &["resume", "mirror"]).await;
    let stored = table(&root).await;
    until(&receiver, "the table", |taken| taken.table() == stored).await;
    let taken = receiver.taken();
    assert!(taken.compacted >= 17, "{} were compacted", taken.compacted);
    assert!(taken.events() < 20 * rounds, "nothing was trimmed");
}

/// `larder consumer`, as the root of a cluster of `larder dev`.
async fn cli(cluster: &Cluster, arguments: &[&str]) -> binary::Output {
    let url = cluster.api(0).base().to_owned();
    let all = ["consumer"].iter().chain(arguments);
    binary::run(all.chain(&["--url", url.as_str()]))
        .await
        .expect(0)
}

#[tokio::test]
async fn edges() {
    let mut cluster = Cluster::start(Options {
        nodes: 1,
        replicas: 1,
        ..Options::default()
    })
    .await;
    let mut checks = Checks::new();
    checks.check("refusals", refusals(&cluster)).await;
    checks.check("the command line", verbs(&cluster)).await;
    checks.finish();
    the_last_acknowledgement_outlives_a_stop(&mut cluster).await;
}

async fn refusals(cluster: &Cluster) {
    let (root, anyone) = (cluster.root(0).await, cluster.api(0));
    anyone
        .get("/consumers")
        .refused(466, "permission_denied")
        .await;
    root.post("/consumers/a%20b")
        .json(&json!({}))
        .refused(400, "bad_request")
        .await;
    root.post("/consumers/a")
        .json(&json!({"traget": 1}))
        .refused(471, "syntax_error")
        .await;
    root.get("/consumers/a")
        .refused(404, "object_not_found")
        .await;
    root.post("/consumers/a").json(&json!({})).expect(200).await;
    root.post("/consumers/a")
        .json(&json!({"bucket": "Demo"}))
        .refused(409, "object_exists")
        .await;
    let ack = json!({"token": "AAAA"});
    root.post("/consumers/a/ack")
        .json(&ack)
        .refused(400, "bad_request")
        .await;
    root.post("/consumers/a/pause")
        .refused(400, "bad_request")
        .await;
    root.get("/changes?consumer=a&bucket=Demo&wait=1")
        .refused(400, "bad_request")
        .await;
    anyone
        .get("/changes?consumer=a&wait=1")
        .refused(466, "permission_denied")
        .await;
    root.delete("/consumers/a").expect(204).await;
    root.delete("/consumers/a")
        .refused(404, "object_not_found")
        .await;
}

async fn verbs(cluster: &Cluster) {
    cli(
        cluster,
        &[
            "create",
            "orders",
            "--bucket",
            "Demo",
            "--filter",
            "{\"n\":{\"$gt\":1}}",
        ],
    )
    .await;
    let hook = ["create", "hook", "--target", "http://127.0.0.1:9/none"];
    let made = cli(cluster, &hook).await;
    assert!(made.stdout.contains("secret "), "{}", made.stdout);
    let anyone = cluster.api(0);
    for n in [1, 2] {
        let path = format!("/db/Demo/verb-{n}");
        anyone.put(&path).json(&json!({ "n": n })).send().await;
    }
    let told = cluster.root(0).await;
    let told = told
        .get("/changes?consumer=orders&wait=5")
        .expect(200)
        .await
        .json();
    assert_eq!(told["events"][0]["id"], "/db/Demo/verb-2", "{told}");
    let token = told["token"].as_str().expect("a token");
    cli(cluster, &["ack", "orders", token]).await;
    let shown = cli(cluster, &["show", "orders", "-o", "json"]).await.json();
    assert_eq!(
        (&shown["events"], &shown["filter"]),
        (&json!(1), &json!({"n": {"$gt": 1}}))
    );
    let list = cli(cluster, &["list"]).await;
    assert_eq!(list.stdout.lines().count(), 2, "{}", list.stdout);
    assert!(!list.stdout.contains("secret"));
    cli(cluster, &["pause", "hook"]).await;
    cli(cluster, &["delete", "hook"]).await;
    cli(cluster, &["delete", "orders"]).await;
}

async fn the_last_acknowledgement_outlives_a_stop(cluster: &mut Cluster) {
    let root = cluster.root(0).await;
    let body = json!({ "bucket": "Demo" });
    root.post("/consumers/kept").json(&body).expect(200).await;
    let fetch = "/changes?consumer=kept&wait=5";
    for n in 0..20 {
        let path = format!("/db/Demo/kept-{n}");
        root.put(&path).json(&json!({ "n": n })).send().await;
        let told = root.get(fetch).expect(200).await.json();
        assert_eq!(told["events"][0]["id"], path, "{told}");
        let ack = json!({ "token": told["token"] });
        root.post("/consumers/kept/ack")
            .json(&ack)
            .expect(204)
            .await;
    }
    cluster.stop(0).await;
    cluster.spawn(0);
    cluster.node_ready(0, READY).await;
    let root = cluster.root(0).await;
    root.put("/db/Demo/after").json(&json!({})).send().await;
    let told = root.get(fetch).expect(200).await.json();
    let events = told["events"].as_array().expect("events");
    assert_eq!(
        (events.len(), &events[0]["id"]),
        (1, &json!("/db/Demo/after"))
    );
    let shown = root.get("/consumers/kept").expect(200).await.json();
    assert_eq!(shown["events"], 20, "{shown}");
}
