//! Promise: `larder data verify` finds a sound directory sound, names the file and the keys of a damaged one, and refuses one in use.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tests::disk::{largest, rot};
use tests::process::run_to_end;
use tests::{Api, Cluster, Options};

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
async fn rot_is_named_and_a_running_node_is_left_alone() {
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
}
