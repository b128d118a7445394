//! Promise: a write sent again under its `Idempotency-Key` takes effect once, also when the leader dies in between.

use std::time::Duration;

use document::id::object_id;
use proto::v1;
use serde_json::json;
use tests::cluster::READY;
use tests::load::{Outcome, outcome};
use tests::{Api, Checks, Cluster, grpc, within};
use tonic::Code;

#[tokio::test]
async fn repeated_writes_take_effect_once() {
    let mut cluster = Cluster::dev().await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let mut checks = Checks::new();
    checks.check("replace", replace(&nodes)).await;
    checks.check("insert", insert(&nodes)).await;
    checks.check("delete", delete(&nodes)).await;
    checks
        .check("another request under the same key", mismatch(&nodes))
        .await;
    checks
        .check("the scope of a key", scope(&cluster, &nodes))
        .await;
    checks
        .check("a refusal is not remembered", refusals(&nodes))
        .await;
    checks.check("over gRPC", over_grpc(&cluster)).await;
    checks
        .check(
            "across the death of the leader",
            across_a_kill(&mut cluster, &nodes),
        )
        .await;
    checks
        .check(
            "retried until answered, counted once",
            exactly_once(&mut cluster, &nodes),
        )
        .await;
    checks.finish();
}

fn path(key: &str) -> String {
    object_id("Demo", key)
}

async fn replace(nodes: &[Api]) {
    let send = |node: usize| {
        nodes[node]
            .put(&path("replace"))
            .idempotent("replace-1")
            .json(&json!({ "a": 1 }))
            .send()
    };
    let first = send(0).await.expect(200);
    for node in [0, 1, 2] {
        let again = send(node).await.expect(200);
        assert_eq!(
            (again.version(), &again.body),
            (1, &first.body),
            "the first answer again"
        );
    }
    nodes[1]
        .put(&path("replace"))
        .json(&json!({ "a": 2 }))
        .send()
        .await
        .expect(200);
    let late = send(2).await.expect(200);
    assert_eq!(
        late.version(),
        1,
        "the answer tells what the write did, not what came after"
    );
    let stored = nodes[0].get(&path("replace")).send().await.expect(200);
    assert_eq!(
        (stored.version(), &stored.json()["a"]),
        (2, &json!(2)),
        "and it does nothing again"
    );
    // A condition that held the first time does not fail the repetition.
    let conditional = |node: usize| {
        nodes[node]
            .put(&path("replace"))
            .if_match(2)
            .idempotent("replace-2")
            .json(&json!({ "a": 3 }))
            .send()
    };
    assert_eq!(conditional(0).await.expect(200).version(), 3);
    assert_eq!(conditional(1).await.expect(200).version(), 3);
}

async fn insert(nodes: &[Api]) {
    let send = |node: usize| {
        nodes[node]
            .post("/db/Demo")
            .idempotent("insert-1")
            .json(&json!({ "a": 1 }))
            .send()
    };
    let first = send(0).await.expect(201);
    let id = first.json()["id"].clone();
    for node in [1, 2] {
        let again = send(node).await.expect(201);
        assert_eq!(
            (&again.json()["id"], again.version()),
            (&id, 1),
            "an id that the server made is made once"
        );
    }
    let named = |node: usize| {
        nodes[node]
            .post("/db/Demo")
            .idempotent("insert-2")
            .json(&json!({ "id": path("insert") }))
            .send()
    };
    named(0).await.expect(201);
    named(1).await.expect(201);
    nodes[2]
        .post("/db/Demo")
        .json(&json!({ "id": path("insert") }))
        .send()
        .await
        .refused(409, "object_exists");
}

async fn delete(nodes: &[Api]) {
    nodes[0]
        .put(&path("delete"))
        .json(&json!({}))
        .send()
        .await
        .expect(200);
    let send = |node: usize| {
        nodes[node]
            .delete(&path("delete"))
            .if_match(1)
            .idempotent("delete-1")
            .send()
    };
    send(0).await.expect(204);
    nodes[1]
        .put(&path("delete"))
        .json(&json!({}))
        .send()
        .await
        .expect(200);
    send(2).await.expect(204);
    assert_eq!(
        nodes[0]
            .get(&path("delete"))
            .send()
            .await
            .expect(200)
            .version(),
        3,
        "the new document is not touched"
    );
}

async fn mismatch(nodes: &[Api]) {
    nodes[0]
        .put(&path("mismatch"))
        .idempotent("mismatch")
        .json(&json!({ "a": 1 }))
        .send()
        .await
        .expect(200);
    let other = nodes[1]
        .put(&path("mismatch"))
        .idempotent("mismatch")
        .json(&json!({ "a": 2 }));
    other.send().await.refused(422, "idempotency_mismatch");
    let other = nodes[2].delete(&path("mismatch")).idempotent("mismatch");
    other.send().await.refused(422, "idempotency_mismatch");
    assert_eq!(
        nodes[0]
            .get(&path("mismatch"))
            .send()
            .await
            .expect(200)
            .json()["a"],
        1
    );
}

/// One key is one request per caller and document.
async fn scope(cluster: &Cluster, nodes: &[Api]) {
    for (index, key) in ["scope-a", "scope-b"].iter().enumerate() {
        let put = nodes[index]
            .put(&path(key))
            .idempotent("scope")
            .json(&json!({ "key": key }));
        assert_eq!(put.send().await.expect(200).json()["key"], *key);
    }
    let root = cluster.root(0).await;
    let put = root
        .put(&path("scope-a"))
        .idempotent("scope")
        .json(&json!({ "by": "root" }));
    assert_eq!(
        put.send().await.expect(200).version(),
        2,
        "root's key is not the anonymous caller's"
    );
}

async fn refusals(nodes: &[Api]) {
    let send = |node: usize| {
        nodes[node]
            .put(&path("later"))
            .if_match(1)
            .idempotent("later")
            .json(&json!({ "a": 1 }))
            .send()
    };
    send(0).await.refused(412, "object_out_of_date");
    nodes[1]
        .put(&path("later"))
        .json(&json!({}))
        .send()
        .await
        .expect(200);
    // Refused before proposing: nothing happened, so nothing is remembered, and now it may succeed.
    assert_eq!(send(2).await.expect(200).version(), 2);
}

async fn over_grpc(cluster: &Cluster) {
    let mut versions = Vec::new();
    for node in cluster.all() {
        let mut documents = grpc::documents(&cluster.nodes[node].client);
        let put = documents
            .put(grpc::request(
                grpc::put("Demo", "grpc", "{\"a\":1}"),
                None,
                Some("grpc-1"),
            ))
            .await;
        versions.push(
            put.expect("put")
                .into_inner()
                .document
                .expect("a document")
                .version,
        );
        let writes = vec![
            grpc::batch_put("Demo", "{once}a", "{}"),
            grpc::batch_put("Demo", "{once}b", "{}"),
        ];
        let message = v1::BatchRequest {
            writes,
            ..Default::default()
        };
        let batch = documents
            .batch(grpc::request(message, None, Some("grpc-2")))
            .await
            .expect("batch")
            .into_inner();
        assert_eq!(
            batch
                .documents
                .iter()
                .map(|document| document.version)
                .collect::<Vec<_>>(),
            [1, 1]
        );
        let other = grpc::request(grpc::put("Demo", "grpc", "{\"a\":2}"), None, Some("grpc-1"));
        grpc::refused(
            documents.put(other).await,
            Code::FailedPrecondition,
            "idempotency_mismatch",
        );
    }
    assert_eq!(versions, [1, 1, 1]);
}

async fn across_a_kill(cluster: &mut Cluster, nodes: &[Api]) {
    let send = |node: usize| {
        nodes[node]
            .put(&path("kill"))
            .idempotent("kill-1")
            .json(&json!({ "a": 1 }))
            .send()
    };
    let first = send(0).await.expect(200);
    let leader = cluster.leader_of("Demo", "kill", 0).await;
    cluster.kill(leader).await;
    for node in cluster.all().filter(|node| *node != leader) {
        let again = send(node).await.expect(200);
        assert_eq!((again.version(), &again.body), (1, &first.body));
        let other = nodes[node]
            .put(&path("kill"))
            .idempotent("kill-1")
            .json(&json!({ "a": 2 }));
        other.send().await.refused(422, "idempotency_mismatch");
    }
    cluster.restart(leader).await;
    assert_eq!(send(leader).await.expect(200).version(), 1);
    cluster.healthy(READY).await;
}

/// Writes numbers one after another, each repeated under its key until it is answered, while the leader is killed.
async fn exactly_once(cluster: &mut Cluster, nodes: &[Api]) {
    const NUMBERS: u64 = 40;
    let leader = cluster.leader_of("Demo", "once", 0).await;
    let (started, mut start) = tokio::sync::mpsc::channel(1);
    let writer = {
        let nodes = nodes.to_vec();
        tokio::spawn(async move {
            let mut repeated = 0;
            for number in 1..=NUMBERS {
                if number == NUMBERS / 4 {
                    let _ = started.send(()).await;
                }
                repeated += until_answered(&nodes, number).await;
            }
            repeated
        })
    };
    start.recv().await.expect("the writer is on its way");
    cluster.kill(leader).await;
    let repeated = writer.await.expect("every write was answered");
    assert!(
        repeated > 0,
        "the kill disturbed nobody: this run shows nothing"
    );
    let end = nodes[(leader + 1) % 3]
        .get(&path("once"))
        .send()
        .await
        .expect(200);
    assert_eq!(
        (end.json()["number"].as_u64(), end.version()),
        (Some(NUMBERS), NUMBERS),
        "each write counted once"
    );
    cluster.restart(leader).await;
}

/// How often a write had to be repeated. Asks another node each time.
async fn until_answered(nodes: &[Api], number: u64) -> u64 {
    let mut tries = 0;
    let key = format!("once-{number}");
    let version = within(Duration::from_secs(20), || {
        let node = &nodes[usize::try_from(number + tries).expect("small") % nodes.len()];
        tries += 1;
        let put = node
            .put(&path("once"))
            .idempotent(&key)
            .json(&json!({ "number": number }));
        async move {
            match outcome(put.try_send().await) {
                Outcome::Acknowledged(version) => Some(version),
                Outcome::Refused | Outcome::Unknown => None,
            }
        }
    });
    let version = version
        .await
        .unwrap_or_else(|| panic!("write {number} was not answered"));
    assert_eq!(version, number, "write {number} made version {version}");
    tries - 1
}
