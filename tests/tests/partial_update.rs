//! Promise: a partial update changes the stored document where it is, atomically and once: counters lose nothing, whoever counts, from
//! whichever node, also when the leader dies.

use std::time::Duration;

use document::id::object_id;
use futures::future::join_all;
use proto::v1;
use serde_json::{Value, json};
use tests::cluster::READY;
use tests::http::content;
use tests::load::{Outcome, outcome};
use tests::{Api, Checks, Cluster, binary, grpc, within};
use tonic::Code;

#[tokio::test]
async fn partial_updates() {
    let mut cluster = Cluster::dev().await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let root = cluster.root(0).await;
    let mut checks = Checks::new();
    checks.check("operations", operations(&nodes)).await;
    checks.check("one field", field(&nodes)).await;
    checks.check("conditions", conditions(&nodes)).await;
    checks.check("refusals", refusals(&nodes)).await;
    checks.check("a class", class(&nodes, &root)).await;
    checks.check("rights", rights(&nodes, &root)).await;
    checks.check("repetitions", repetitions(&nodes)).await;
    checks.check("over gRPC", over_grpc(&cluster)).await;
    checks
        .check("on the command line", command_line(&cluster))
        .await;
    checks
        .check("many clients count at once", counters(&nodes))
        .await;
    checks
        .check("across a kill", across_a_kill(&mut cluster, &nodes))
        .await;
    checks.finish();
}

fn path(key: &str) -> String {
    object_id("Demo", key)
}

async fn store(node: &Api, key: &str, body: Value) {
    node.put(&path(key)).json(&body).expect(200).await;
}

async fn operations(nodes: &[Api]) {
    store(
        &nodes[0],
        "ops",
        json!({ "n": 1, "list": ["a"], "map": { "k": 1 } }),
    )
    .await;
    let sent = json!({
        "$inc": { "n": 41, "fresh": 1 },
        "$push": { "list": "b" },
        "$put": { "map": { "l": 2 } },
        "$set": { "deep.er": [1, 2, 3] },
        "$replace": { "deep.er.0": 9, "deep.er.2": 7 },
        "$currentDate": { "when": null },
    });
    let answer = nodes[1].post(&path("ops")).json(&sent).expect(200).await;
    assert_eq!(answer.version(), 2, "one new version");
    let document = answer.json();
    assert_eq!(document["when"], document["updatedAt"]);
    let mut found = content(&document);
    found.as_object_mut().expect("an object").remove("when");
    let expected = json!({
        "n": 42, "list": ["a", "b"], "map": { "k": 1, "l": 2 }, "fresh": 1, "deep": { "er": [9, 2, 7] },
    });
    assert_eq!(found, expected);
    for node in nodes {
        let read = node.get(&path("ops")).expect(200).await;
        assert_eq!(
            read.body, answer.body,
            "the answer is the complete stored object"
        );
    }
    // Digits that a double cannot hold.
    let add = r#"{"$set":{"n":9007199254740992}}"#;
    nodes[2].post(&path("ops")).body(add).expect(200).await;
    let one = r#"{"$inc":{"n":1}}"#;
    let answer = nodes[2].post(&path("ops")).body(one).expect(200).await;
    assert!(
        answer.text().contains("\"n\":9007199254740993"),
        "{}",
        answer.text()
    );
}

async fn field(nodes: &[Api]) {
    store(&nodes[0], "field", json!({ "n": 1, "list": [1] })).await;
    let n = format!("{}/n", path("field"));
    let answer = nodes[1]
        .post(&n)
        .json(&json!({ "$inc": 2 }))
        .expect(200)
        .await;
    assert_eq!((answer.version(), &answer.json()["n"]), (2, &json!(3)));
    let first = format!("{}/list.0", path("field"));
    let answer = nodes[2]
        .post(&first)
        .json(&json!({ "$replace": "x" }))
        .expect(200)
        .await;
    assert_eq!(answer.json()["list"], json!(["x"]));
    let twice = json!({ "$inc": 1, "$mul": 2 });
    nodes[0]
        .post(&n)
        .json(&twice)
        .refused(400, "bad_request")
        .await;
    nodes[0].get(&n).expect(405).await;
}

async fn conditions(nodes: &[Api]) {
    let add = json!({ "$inc": { "n": 1 } });
    let update = |node: usize, key: &str| nodes[node].post(&path(key)).json(&add);
    update(0, "none").refused(404, "object_not_found").await;
    update(1, "none")
        .if_match(1)
        .refused(412, "object_out_of_date")
        .await;
    update(2, "none")
        .header("if-match", "*")
        .refused(412, "object_out_of_date")
        .await;
    update(2, "none")
        .header("if-none-match", "*")
        .refused(400, "bad_request")
        .await;
    store(&nodes[0], "cond", json!({ "n": 1 })).await;
    update(1, "cond")
        .if_match(2)
        .refused(412, "object_out_of_date")
        .await;
    assert_eq!(update(1, "cond").if_match(1).expect(200).await.version(), 2);
    assert_eq!(
        update(2, "cond")
            .header("if-match", "*")
            .expect(200)
            .await
            .version(),
        3
    );
    assert_eq!(update(0, "cond").expect(200).await.json()["n"], 4);
}

async fn refusals(nodes: &[Api]) {
    store(
        &nodes[0],
        "refused",
        json!({ "n": i64::MAX, "text": "x", "list": [1] }),
    )
    .await;
    for (operations, status, code) in [
        (r#"{"$inc":{"n":1}}"#, 400, "bad_request"),
        (r#"{"$inc":{"text":1}}"#, 400, "bad_request"),
        (
            r#"{"$set":{"text":"y"},"$push":{"n":1}}"#,
            400,
            "bad_request",
        ),
        (r#"{"$replace":{"list.1":1}}"#, 400, "bad_request"),
        (r#"{"$set":{"version":1}}"#, 400, "bad_request"),
        (r#"{"$set":{"acl":null}}"#, 400, "bad_request"),
        (r#"{"$unset":{"n":1}}"#, 400, "bad_request"),
        (r#"{"$inc":{"n":1}"#, 471, "syntax_error"),
        ("[]", 471, "syntax_error"),
    ] {
        let answer = nodes[1].post(&path("refused")).body(operations);
        answer.refused(status, code).await;
    }
    let half = format!(r#"{{"$set":{{"long":"{}"}}}}"#, "x".repeat(600_000));
    nodes[1]
        .post(&path("refused"))
        .body(half.clone())
        .expect(200)
        .await;
    let other = half.replace("long", "longer");
    nodes[1]
        .post(&path("refused"))
        .body(other)
        .refused(413, "body_too_large")
        .await;
    let stored = nodes[2].get(&path("refused")).expect(200).await;
    assert_eq!((stored.version(), &stored.json()["text"]), (2, &json!("x")));
}

async fn class(nodes: &[Api], root: &Api) {
    let field = |name: &str, ty: &str| json!({ "name": name, "type": ty });
    let class = json!([{ "class": "/db/Counted", "fields": {
        "count": field("count", "/db/Integer"),
        "tags": field("tags", "/db/collection.Set[/db/String]"),
        "own": { "name": "own", "type": "/db/String", "flags": ["READONLY"] },
    }}]);
    root.post("/schema").json(&class).expect(200).await;
    let id = object_id("Counted", "a");
    nodes[0].put(&id).json(&json!({})).expect(200).await;
    let sent = json!({ "$inc": { "count": 2.7 }, "$add": { "tags": "x" } });
    nodes[1].post(&id).json(&sent).expect(200).await;
    let again = nodes[2].post(&id).json(&sent).expect(200).await;
    assert_eq!(
        content(&again.json()),
        json!({ "count": 4, "tags": ["x"], "own": null })
    );
    for (sent, status, code) in [
        (
            json!({ "$set": { "count": "x" } }),
            463,
            "invalid_type_value",
        ),
        (json!({ "$push": { "tags": "y" } }), 400, "bad_request"),
        (json!({ "$set": { "own": "y" } }), 400, "bad_request"),
        (json!({ "$set": { "other": "y" } }), 400, "bad_request"),
    ] {
        nodes[0].post(&id).json(&sent).refused(status, code).await;
    }
    let unknown = object_id("Nothing", "a");
    nodes[0]
        .post(&unknown)
        .json(&sent)
        .refused(461, "bucket_not_found")
        .await;
}

async fn rights(nodes: &[Api], root: &Api) {
    let admins = json!({ "/db/Role/1": "allow" });
    let add = json!({ "$inc": { "n": 1 } });
    for (key, acl) in [
        ("unwritable", json!({ "read": {}, "write": admins })),
        ("unreadable", json!({ "read": admins, "write": {} })),
    ] {
        let body = json!({ "n": 1, "acl": acl });
        root.put(&path(key)).json(&body).expect(200).await;
        for node in nodes {
            let update = node.post(&path(key)).json(&add);
            update.refused(466, "permission_denied").await;
        }
        let answer = root.post(&path(key)).json(&add).expect(200).await;
        assert_eq!((answer.version(), &answer.json()["n"]), (2, &json!(2)));
        let stored = answer.json()["acl"].clone();
        assert_eq!(
            stored["read"] == json!({}),
            key == "unwritable",
            "the ACL stays: {stored}"
        );
    }
}

async fn repetitions(nodes: &[Api]) {
    store(&nodes[0], "repeated", json!({ "n": 0 })).await;
    let update = |node: usize, by: u64| {
        let sent = json!({ "$inc": { "n": by } });
        nodes[node]
            .post(&path("repeated"))
            .idempotent("update-1")
            .json(&sent)
    };
    let first = update(0, 1).expect(200).await;
    let without_key = json!({ "$inc": { "n": 10 } });
    nodes[1]
        .post(&path("repeated"))
        .json(&without_key)
        .expect(200)
        .await;
    for node in [0, 1, 2] {
        let again = update(node, 1).expect(200).await;
        assert_eq!(
            again.body, first.body,
            "what the first one made, not what is there now"
        );
    }
    update(1, 2).refused(422, "idempotency_mismatch").await;
    let stored = nodes[2].get(&path("repeated")).expect(200).await;
    assert_eq!((stored.version(), &stored.json()["n"]), (3, &json!(11)));
}

async fn over_grpc(cluster: &Cluster) {
    store(&cluster.api(0), "grpc", json!({ "n": 1 })).await;
    let message = |version: u64, operations: &str| v1::UpdateRequest {
        bucket: "Demo".to_owned(),
        key: "grpc".to_owned(),
        operations: operations.to_owned().into(),
        precondition: grpc::at_version(version),
        ..Default::default()
    };
    for (node, version) in cluster.all().zip(1..) {
        let mut documents = grpc::documents(&cluster.nodes[node].client);
        let sent = message(version, r#"{"$inc":{"n":1}}"#);
        let answer = documents.update(grpc::request(sent, None, None)).await;
        let answer = answer.expect("updated").into_inner();
        let document = answer.document.expect("a document");
        assert_eq!(document.version, version + 1);
        let json: Value = serde_json::from_slice(&document.json).expect("JSON");
        assert_eq!(json["n"], version + 1);
        assert!(!answer.position.is_empty());
        let stale = grpc::request(message(version, "{}"), None, None);
        let refused = documents.update(stale).await;
        grpc::refused(refused, Code::FailedPrecondition, "object_out_of_date");
        let unfit = grpc::request(message(version + 1, r#"{"$push":{"n":1}}"#), None, None);
        let refused = documents.update(unfit).await;
        grpc::refused(refused, Code::InvalidArgument, "bad_request");
    }
}

async fn command_line(cluster: &Cluster) {
    store(&cluster.api(0), "cli", json!({ "n": 1 })).await;
    let mut command = binary::command();
    command.args([
        "doc",
        "update",
        "Demo",
        "cli",
        "-o",
        "json",
        "--if-match",
        "1",
    ]);
    command.args(["--op", r#"{"$inc":{"n":9007199254740992}}"#]);
    command.args(["--url", &cluster.nodes[1].client]);
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.expect("joins").expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("\"n\":9007199254740993"), "{text}");
}

/// Clients that count at the same time on one document, each through a node of its own, without reading.
async fn counters(nodes: &[Api]) {
    const CLIENTS: usize = 12;
    const EACH: usize = 15;
    store(&nodes[0], "counter", json!({ "n": 0, "list": [] })).await;
    let clients = (0..CLIENTS).map(|client| {
        let node = nodes[client % nodes.len()].clone();
        tokio::spawn(async move {
            for number in 0..EACH {
                let sent = json!({ "$inc": { "n": 1 }, "$push": { "list": [client, number] } });
                node.post(&path("counter")).json(&sent).expect(200).await;
            }
        })
    });
    for client in join_all(clients).await {
        client.expect("counted");
    }
    let end = nodes[1].get(&path("counter")).expect(200).await;
    let document = end.json();
    assert_eq!(document["n"], CLIENTS * EACH);
    assert_eq!(end.version(), (CLIENTS * EACH) as u64 + 1);
    let list = document["list"].as_array().expect("a list");
    for client in 0..CLIENTS {
        let own: Vec<_> = list.iter().filter(|entry| entry[0] == client).collect();
        let numbers: Vec<_> = own.iter().filter_map(|entry| entry[1].as_u64()).collect();
        assert_eq!(
            numbers,
            (0..EACH as u64).collect::<Vec<_>>(),
            "each once, and in order"
        );
    }
}

/// The same with a key for each step, repeated until it is answered, while the leader is killed.
async fn across_a_kill(cluster: &mut Cluster, nodes: &[Api]) {
    const CLIENTS: usize = 3;
    const EACH: usize = 20;
    store(&nodes[0], "killed", json!({ "n": 0 })).await;
    let leader = cluster.leader_of("Demo", "killed", 0).await;
    let (started, mut start) = tokio::sync::mpsc::channel(CLIENTS);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (nodes, started) = (nodes.to_vec(), started.clone());
            tokio::spawn(async move {
                let mut repeated = 0;
                for number in 0..EACH {
                    if number == EACH / 4 {
                        let _ = started.send(()).await;
                    }
                    repeated += until_answered(&nodes, client, number).await;
                }
                repeated
            })
        })
        .collect();
    start.recv().await.expect("the clients are on their way");
    cluster.kill(leader).await;
    let mut repeated = 0;
    for client in clients {
        repeated += client.await.expect("every step was answered");
    }
    assert!(
        repeated > 0,
        "the kill disturbed nobody: this run shows nothing"
    );
    let end = nodes[(leader + 1) % 3]
        .get(&path("killed"))
        .expect(200)
        .await;
    assert_eq!(end.json()["n"], CLIENTS * EACH, "each step counted once");
    cluster.restart(leader).await;
    cluster.healthy(READY).await;
}

/// How often a step had to be repeated. Asks another node each time.
async fn until_answered(nodes: &[Api], client: usize, number: usize) -> usize {
    let mut tries = 0;
    let key = format!("kill-{client}-{number}");
    let answered = within(Duration::from_secs(30), || {
        let node = &nodes[(client + number + tries) % nodes.len()];
        tries += 1;
        let sent = json!({ "$inc": { "n": 1 } });
        let update = node.post(&path("killed")).idempotent(&key).json(&sent);
        async move {
            match outcome(update.try_send().await) {
                Outcome::Acknowledged(version) => Some(version),
                Outcome::Refused | Outcome::Unknown => None,
            }
        }
    });
    answered
        .await
        .unwrap_or_else(|| panic!("step {number} of client {client} was not answered"));
    tries - 1
}
