//! Promise: quotas hold on every node and deletes are the way out; audit logs say who did what, and show when they were changed.

use std::time::Duration;

use serde_json::{Value, json};
use tests::binary::{Output, run};
use tests::{Checks, Cluster, eventually};

const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn quotas_hold_and_audit_logs_tell() {
    let mut cluster = Cluster::dev().await;
    let mut checks = Checks::new();
    checks.check("a quota of documents", quota(&cluster)).await;
    checks
        .check("what was written down", export(&cluster))
        .await;
    checks.check("sound chains", sound(&cluster)).await;
    checks.check("a changed log", changed(&mut cluster)).await;
    checks.finish();
}

/// A verb at the admin port of a node.
async fn verb(cluster: &Cluster, node: usize, arguments: &[&str]) -> Output {
    let admin = cluster.nodes[node].admin.clone();
    let all = arguments.iter().copied().chain(["--admin", &admin]);
    run(all.map(str::to_owned).collect::<Vec<_>>()).await
}

async fn quota(cluster: &Cluster) {
    let api = cluster.api(1);
    let show = || async {
        let shown = verb(cluster, 2, &["database", "quota", "-o", "json"]).await;
        shown.expect(0).json()[0].clone()
    };
    verb(cluster, 0, &["database", "quota", "v1", "--bytes", "1TiB"])
        .await
        .expect(0);
    let counted = eventually("all are counted", DEADLINE, || async {
        let shown = show().await;
        (shown["counted"] == true).then_some(shown)
    })
    .await;
    let there = counted["documents"].as_u64().expect("a number");
    let most = (there + 20).to_string();
    let set = [
        "database",
        "quota",
        "v1",
        "--documents",
        &most,
        "-o",
        "json",
    ];
    let set = verb(cluster, 0, &set).await.expect(0).json();
    assert_eq!(set[0]["bytesMax"], 1_u64 << 40);
    let mut written = 0;
    let refused = eventually("it is full", DEADLINE, || {
        written += 1;
        let put = api.put(&format!("/db/Demo/q-{written}")).json(&json!({}));
        async move {
            let answer = put.send().await;
            (answer.status != 200).then_some(answer)
        }
    })
    .await;
    let refused = refused.refused(507, "quota_exceeded");
    assert!(refused.text().contains("larder database quota"));
    // On any node, for any shard; and what is there may change.
    for (node, key) in (0..9).map(|n| (n % 3, format!("/db/Demo/other-{n}"))) {
        // Its leader hears of it a moment later, and takes what comes before.
        let put = || cluster.api(node).put(&key).json(&json!({})).send();
        let answer = eventually("every leader knows", DEADLINE, || async {
            let answer = put().await;
            (answer.status != 200).then_some(answer)
        });
        answer.await.refused(507, "quota_exceeded");
    }
    api.put("/db/Demo/q-1")
        .header("if-match", "*")
        .json(&json!({ "n": 1 }))
        .expect(200)
        .await;
    // Deletes make room.
    for n in 1..written {
        api.delete(&format!("/db/Demo/q-{n}")).send().await;
    }
    eventually("there is room again", DEADLINE, || {
        let put = api.put("/db/Demo/again").json(&json!({}));
        async move { (put.send().await.status == 200).then_some(()) }
    })
    .await;
    verb(
        cluster,
        0,
        &["database", "quota", "nowhere", "--documents", "1"],
    )
    .await
    .expect(1);
}

async fn export(cluster: &Cluster) {
    let api = cluster.api(0);
    let body = json!({ "username": "root", "password": "not-the-password" });
    api.post("/db/User/login").json(&body).expect(460).await;
    let root = cluster.root(0).await;
    let class = json!([{ "class": "/db/Audited", "fields": {} }]);
    root.post("/schema").json(&class).expect(200).await;
    // Refused for lack of rights, and by whom.
    api.post("/schema").json(&class).expect(466).await;
    let records = eventually("all is written down", DEADLINE, || async {
        let exported = verb(cluster, 0, &["audit", "export", "-o", "json"]).await;
        let text = exported.expect(0).stdout;
        assert!(!text.contains("not-the-password"), "{text}");
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let has = |action: &str| lines.iter().any(|line| line["record"]["action"] == action);
        [
            "login_failed",
            "logged_in",
            "node_started",
            "schema_changed",
            "quota_set",
            "admin_denied",
        ]
        .into_iter()
        .all(has)
        .then_some(lines)
    })
    .await;
    let of = |action: &str| {
        let mut lines = records.iter();
        let found = lines.find(|line| line["record"]["action"] == action);
        found.expect("it is there")["record"].clone()
    };
    assert_eq!(of("login_failed")["user"], "root");
    assert_eq!(of("login_failed")["address"], "127.0.0.1");
    assert_eq!(of("schema_changed")["user"], "/db/User/1");
    // Nothing of before; everything is before tomorrow's.
    let future = ["audit", "export", "--from", "2099-01-01T00:00:00Z"];
    assert_eq!(verb(cluster, 0, &future).await.expect(0).stdout, "");
    verb(cluster, 0, &["audit", "export", "--chain", "shard-99"])
        .await
        .expect(1);
}

async fn sound(cluster: &Cluster) {
    for node in cluster.all() {
        let verified = verb(cluster, node, &["audit", "verify", "-o", "json"]).await;
        let verified = verified.expect(0).json();
        assert_eq!(verified["ok"], true, "{verified}");
        let chains = verified["chains"].as_array().expect("chains").len();
        // The metadata group, four shards and the node itself.
        assert_eq!(chains, 6, "{verified}");
    }
}

/// Somebody changes a line of a node's log.
async fn changed(cluster: &mut Cluster) {
    cluster.stop(0).await;
    let data = cluster.dir().join("data/node1/data");
    let check = || {
        let data = data.display().to_string();
        async move { run(["audit", "verify", "--data", &data].map(str::to_owned)).await }
    };
    check().await.expect(0);
    let folder = std::fs::read_dir(data.join("audit")).expect("a folder");
    let file = folder.last().expect("a file").expect("an entry").path();
    let text = std::fs::read_to_string(&file).expect("the log");
    std::fs::write(&file, text.replacen("login_failed", "logged_in", 1)).expect("written");
    let found = check().await.expect(6);
    assert!(found.stdout.contains("BROKEN"), "{found:?}");
    assert!(found.stdout.contains("line "), "{found:?}");
}
