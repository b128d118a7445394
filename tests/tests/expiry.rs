//! Promise: a document with `expiresAt` is deleted soon after that moment and never before, through crashes and elections.

use std::time::Duration;

use document::id::object_id;
use document::time::{format_datetime, parse_datetime};
use futures::future::join_all;
use serde_json::{Value, json};
use tests::binary::run;
use tests::{Api, Checks, Cluster, eventually, grpc};
use tonic::Code;

/// Far above the two seconds that are promised: for busy machines, and for elections.
const SOON: Duration = Duration::from_secs(60);
const READY: Duration = Duration::from_secs(60);

#[tokio::test]
async fn documents_expire() {
    let cluster = Cluster::dev().await;
    let mut checks = Checks::new();
    checks.check("each way to say it", ways(&cluster)).await;
    checks.check("kept, moved and ended", kept(&cluster)).await;
    checks.check("more than a page", many(&cluster)).await;
    checks.check("bad moments", refused(&cluster)).await;
    checks.finish();
}

/// What the cluster's clock says, microseconds since 1970.
async fn now_us(api: &Api) -> i64 {
    let probe = api.put("/db/Demo/probe").json(&json!({})).expect(200).await;
    let stamp = probe.json()["updatedAt"].clone();
    parse_datetime(stamp.as_str().expect("text")).expect("a moment")
}

/// The moment so long from now.
async fn after(api: &Api, milliseconds: i64) -> String {
    format_datetime(now_us(api).await + milliseconds * 1_000)
}

/// Waits until the document is gone at every node; gives the cluster's time then.
async fn gone(nodes: &[Api], key: &str) -> i64 {
    let path = object_id("Demo", key);
    let what = format!("{path} expires");
    eventually(&what, SOON, || async {
        let answer = nodes[0].get(&path).try_send().await.ok()?;
        (answer.status == 404).then_some(())
    })
    .await;
    for node in nodes {
        node.get(&path).refused(404, "object_not_found").await;
    }
    now_us(&nodes[0]).await
}

async fn ways(cluster: &Cluster) {
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let expires = after(&nodes[0], 1_500).await;
    let member = json!({ "n": 1, "expiresAt": expires });
    let http = nodes[1]
        .put(&object_id("Demo", "by-http"))
        .json(&member)
        .expect(200)
        .await;
    assert_eq!(http.json()["expiresAt"], json!(expires));
    let insert = json!({ "id": object_id("Demo", "by-insert"), "expiresAt": expires });
    nodes[2].post("/db/Demo").json(&insert).expect(201).await;
    let writes = json!({ "atomic": false, "writes": [
        { "id": object_id("Demo", "by-batch"), "put": member },
        { "id": object_id("Demo", "by-update"), "put": {} },
        { "id": object_id("Demo", "by-update"), "update": { "$set": { "expiresAt": expires } } },
    ] });
    nodes[0].post("/batch").json(&writes).expect(200).await;
    let mut documents = grpc::documents(&cluster.nodes[1].client);
    let put = grpc::put("Demo", "by-grpc", &member.to_string());
    let put = documents.put(put).await.expect("put").into_inner();
    let shown: Value =
        serde_json::from_slice(&put.document.expect("a document").json).expect("JSON");
    assert_eq!(shown["expiresAt"], json!(expires));
    let url = &cluster.nodes[2].client;
    run([
        "doc", "put", "--url", url, "--ttl", "1s", "Demo", "by-cli", "{}",
    ])
    .await
    .expect(0);
    let root = cluster.root(0).await;
    let imported = format!(
        "{{\"id\":\"{}\",\"expiresAt\":\"{expires}\"}}\n",
        object_id("Demo", "by-import")
    );
    root.put("/db/Demo").body(imported).expect(200).await;
    let expires_us = parse_datetime(&expires).expect("a moment");
    for way in ["http", "insert", "batch", "update", "grpc", "import"] {
        let at = gone(&nodes, &format!("by-{way}")).await;
        assert!(at >= expires_us, "{way}: {at} is before {expires_us}");
    }
    gone(&nodes, "by-cli").await;
    // The version goes on behind that of the expiry.
    let again = nodes[0]
        .put(&object_id("Demo", "by-http"))
        .json(&json!({}))
        .expect(200)
        .await;
    assert_eq!(again.version(), 3);
    assert_eq!(again.json().get("expiresAt"), None);
}

async fn kept(cluster: &Cluster) {
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let expires = after(&nodes[0], 3_000).await;
    let far = after(&nodes[0], 3_600_000).await;
    for key in ["keeps", "moves", "ends"] {
        let member = json!({ "expiresAt": expires });
        nodes[0]
            .put(&object_id("Demo", key))
            .json(&member)
            .expect(200)
            .await;
    }
    let put = |key: &str, body: Value| {
        let call = nodes[1].put(&object_id("Demo", key)).json(&body);
        async move { call.expect(200).await.json()["expiresAt"].clone() }
    };
    assert_eq!(put("keeps", json!({ "n": 1 })).await, json!(expires));
    assert_eq!(put("moves", json!({ "expiresAt": far })).await, json!(far));
    assert_eq!(put("ends", json!({ "expiresAt": null })).await, Value::Null);
    gone(&nodes, "keeps").await;
    for key in ["moves", "ends"] {
        nodes[2].get(&object_id("Demo", key)).expect(200).await;
    }
    // It can be asked about, and is shown whatever fields are wanted.
    let filter = json!({ "expiresAt": { "$gt": { "$date": expires } } });
    let query = nodes[0].post("/db/Demo/query?fields=n").json(&filter);
    let found = query.expect(200).await.json();
    assert_eq!(found[0]["id"], json!(object_id("Demo", "moves")), "{found}");
    assert_eq!(found[0]["expiresAt"], json!(far));
}

async fn many(cluster: &Cluster) {
    let (api, root) = (cluster.api(0), cluster.root(0).await);
    let class = json!([{ "class": "/db/Short", "fields": {} }]);
    root.post("/schema").json(&class).expect(200).await;
    // In one shard, so that several pages follow each other.
    let lines: Vec<String> = (0..2_500)
        .map(|n| json!({ "id": object_id("Short", &format!("{{t}}{n}")), "expiresAt": "2020-01-01" }))
        .map(|document| document.to_string())
        .collect();
    let imported = root
        .put("/db/Short")
        .body(lines.join("\n"))
        .expect(200)
        .await;
    assert_eq!(imported.json()["imported"], 2_500);
    eventually("what is past goes at once", SOON, || async {
        let answer = api.get("/db/Short/count?q=%7B%7D").try_send().await.ok()?;
        (answer.status == 200 && answer.json()["count"] == 0).then_some(())
    })
    .await;
}

async fn refused(cluster: &Cluster) {
    let api = cluster.api(0);
    for bad in [json!("soon"), json!(7), json!({}), json!("2026-02-30")] {
        let call = api.put("/db/Demo/bad").json(&json!({ "expiresAt": bad }));
        call.refused(463, "invalid_type_value").await;
    }
    api.get("/db/Demo/bad")
        .refused(404, "object_not_found")
        .await;
    let update = json!({ "$inc": { "expiresAt": 1 } });
    api.put("/db/Demo/good").json(&json!({})).expect(200).await;
    api.post("/db/Demo/good")
        .json(&update)
        .refused(400, "bad_request")
        .await;
    let mut documents = grpc::documents(&cluster.nodes[0].client);
    let put = grpc::put("Demo", "bad", "{\"expiresAt\":\"soon\"}");
    let refused = documents.put(put).await;
    grpc::refused(refused, Code::InvalidArgument, "invalid_type_value");
    let ttl = ["doc", "put", "--ttl", "soon", "Demo", "x", "{}"];
    run(ttl).await.expect(2);
}

#[tokio::test]
async fn expiry_survives_crashes_and_elections() {
    let mut cluster = Cluster::start(tests::Options {
        root_password: Some("secret".to_owned()),
        ..tests::Options::default()
    })
    .await;
    let root = cluster.api(0).log_in("root", "secret").await;
    let class =
        json!([{ "class": "/db/Demo", "metadata": { "larder.open": "true" }, "fields": {} }]);
    root.post("/schema").json(&class).expect(200).await;
    let api = cluster.api(0);
    let (soon, far) = (after(&api, 4_000).await, after(&api, 3_600_000).await);
    let keys: Vec<String> = (0..12).map(|n| n.to_string()).collect();
    let puts = keys.iter().map(|key| {
        let expires = if key == "0" { &far } else { &soon };
        let member = json!({ "expiresAt": expires });
        api.put(&object_id("Demo", key)).json(&member).expect(200)
    });
    join_all(puts).await;
    cluster.kill_all().await;
    for node in cluster.all() {
        cluster.spawn(node);
    }
    cluster.ready(READY).await;
    // The shards that this one leads get another leader.
    let leader = cluster.leader_of("Demo", "1", 0).await;
    cluster.kill(leader).await;
    let asked = (leader + 1) % 3;
    let api = cluster.api(asked);
    for key in &keys[1..] {
        let path = object_id("Demo", key);
        eventually("it expires", SOON, || async {
            let answer = api.get(&path).try_send().await.ok()?;
            (answer.status == 404).then_some(())
        })
        .await;
    }
    let stays = api.get(&object_id("Demo", "0")).expect(200).await;
    assert_eq!(stays.json()["expiresAt"], json!(far));
    let soon_us = parse_datetime(&soon).expect("a moment");
    assert!(now_us(&api).await >= soon_us);
}
