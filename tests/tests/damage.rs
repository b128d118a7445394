//! Promise: damaged data is found and named (`larder data verify`, the scrub), a replica that has it serves nothing and does not lead,
//! and requests to its node are answered by the others.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tests::disk::{largest, rot};
use tests::process::run_to_end;
use tests::{Api, Cluster, Options, eventually};

const SOON: Duration = Duration::from_secs(30);
const DOCUMENTS: usize = 80;
const DAMAGED: i32 = 6;

fn verify(dir: &PathBuf) -> (i32, Value, String) {
    let mut command = tests::binary::command();
    command.args(["data", "verify", "-o", "json"]).arg(dir);
    let ended = run_to_end(command, SOON);
    let report = serde_json::from_slice(&ended.stdout).unwrap_or_default();
    (
        ended.status,
        report,
        String::from_utf8_lossy(&ended.stderr).into_owned(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rot_is_named_and_never_served() {
    let options = Options {
        shards: 1,
        root_password: Some("damage".to_owned()),
        ..Options::default()
    };
    let mut cluster = Cluster::start(options).await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    // Hard to compress, so that documents and not the schema fill the largest table.
    let noise = |n: usize| -> String {
        let steps = std::iter::successors(Some(n as u64 + 1), |state| {
            Some(
                state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1),
            )
        });
        steps
            .skip(4)
            .take(60)
            .map(|state| format!("{state:016x}"))
            .collect()
    };
    let body = |n: usize| json!({ "n": n, "text": noise(n) });
    for n in 0..DOCUMENTS {
        let path = format!("/db/Demo/d{n}");
        nodes[0].put(&path).json(&body(n)).send().await.expect(200);
    }
    let dir = cluster.dir().join("data/n1");
    let (status, _, error) = verify(&dir);
    assert_eq!(status, 1, "a node runs on it");
    assert!(error.contains("in use"), "{error}");

    assert_eq!(cluster.stop(0).await, Some(0));
    let (status, report, error) = verify(&dir);
    assert_eq!(
        (status, &report["ok"]),
        (0, &Value::Bool(true)),
        "{report:#} {error}"
    );
    assert_eq!(report["replicas"].as_array().map(Vec::len), Some(2));
    assert!(
        report["rows"].as_u64() > Some(DOCUMENTS as u64),
        "{report:#}"
    );

    let table = largest(&dir.join("data"), ".sst");
    rot(&table);
    let (status, report, _) = verify(&dir);
    assert_eq!(status, DAMAGED);
    let finding = &report["findings"][0];
    assert_eq!(finding["file"].as_str(), table.to_str(), "{report:#}");
    assert!(finding["firstKey"].is_string(), "{report:#}");

    cluster.spawn(0);
    let seen = eventually("the others show it as quarantined", SOON, || async {
        let answer = cluster
            .admin(1)
            .get("/admin/v1/cluster/status")
            .try_send()
            .await
            .ok()?;
        let status = answer.json();
        let replicas = status["shards"].as_array()?.iter();
        let replicas =
            replicas.flat_map(|shard| shard["replicas"].as_array().into_iter().flatten());
        let bad: Vec<Value> = replicas
            .filter(|replica| replica["quarantined"] == true)
            .cloned()
            .collect();
        (!bad.is_empty()).then_some((status["health"].clone(), bad))
    })
    .await;
    assert_eq!(seen.0, "degraded");
    assert!(
        seen.1
            .iter()
            .all(|replica| replica["node"] == cluster.nodes[0].id),
        "{:?}",
        seen.1
    );
    // It may have led for a moment; from now on every answer of its node comes from the others.
    for n in 0..DOCUMENTS {
        let found = nodes[0]
            .get(&format!("/db/Demo/d{n}"))
            .send()
            .await
            .expect(200);
        assert_eq!(found.json()["n"], n);
    }
    nodes[0]
        .put("/db/Demo/more")
        .json(&json!({}))
        .send()
        .await
        .expect(200);
    let metrics = cluster
        .admin(0)
        .get("/metrics")
        .send()
        .await
        .expect(200)
        .text();
    assert!(
        metrics.contains("larder_replicas_quarantined 1"),
        "{metrics}"
    );

    // It stays so over a restart.
    cluster.kill(0).await;
    cluster.restart(0).await;
    let log = cluster.logged(0);
    assert!(log.contains("quarantined since an earlier run"), "{log}");
}
