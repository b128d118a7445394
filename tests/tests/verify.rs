//! Promise: `larder bench --verify` under load finds nothing lost while each node in turn is killed with -9 and
//! started again, and no shard refuses writes for longer than 5 s.

use std::time::Duration;

use proto::v1;
use serde_json::Value;
use tests::cluster::READY;
use tests::process::Running;
use tests::{Cluster, Options, eventually, grpc, is_soak};

const SHARDS: u32 = 16;
/// By promise.
const LONGEST_GAP_MS: u64 = 5_000;

#[tokio::test]
async fn nothing_is_lost_while_each_node_in_turn_is_killed() {
    let (seconds, clients) = if is_soak() { (60, 64) } else { (20, 16) };
    let mut cluster = Cluster::start(Options {
        shards: SHARDS,
        ..Options::default()
    })
    .await;
    let log = cluster.dir().join("bench.log");
    let mut command = tests::binary::command();
    command.args([
        "bench",
        "--verify",
        "--workload",
        "a",
        "--value-bytes",
        "64",
        "--warmup",
        "1s",
        "-o",
        "json",
    ]);
    command.args([
        "--keys",
        &(clients * 16).to_string(),
        "--clients",
        &clients.to_string(),
    ]);
    command.args(["--duration", &format!("{seconds}s")]);
    for node in &cluster.nodes {
        command.args(["--url", &node.client, "--admin", &node.admin]);
    }
    let mut bench = Running::spawn(&mut command, &log);
    has_begun(&cluster, &mut bench, clients).await;

    let mut kills = 0;
    while bench.ended().is_none() {
        let node = kills % cluster.nodes.len();
        cluster.kill(node).await;
        kills += 1;
        cluster.restart(node).await;
        cluster.healthy(READY).await;
    }
    // One node may be killed while the bench reads everything at the end; it waits for it to come back.
    let status = bench
        .wait(Duration::from_secs(120))
        .expect("the bench ends");
    let report = report(&std::fs::read_to_string(&log).expect("its output"));
    let verify = &report["verify"];
    assert_eq!(status, 0, "{verify:#}");
    assert!(
        kills >= cluster.nodes.len(),
        "only {kills} kills in {seconds} s: not every node had its turn"
    );
    assert_eq!(verify["ok"], true, "{verify:#}");
    for wrong in ["lost", "phantoms", "unreadable"] {
        assert_eq!(verify[wrong], 0, "{verify:#}");
    }
    assert!(
        verify["acknowledged"]
            .as_u64()
            .is_some_and(|count| count > 500),
        "too little load to show anything: {verify:#}"
    );
    assert!(
        verify["judgedReads"].as_u64() > verify["keys"].as_u64(),
        "{verify:#}"
    );

    let gaps = report["longestGapMs"]["write"]["shards"]
        .as_object()
        .expect("gaps per shard");
    assert_eq!(
        gaps.len(),
        usize::try_from(SHARDS).expect("small"),
        "every shard acknowledged writes: {gaps:?}"
    );
    for (shard, gap) in gaps {
        assert!(
            gap.as_u64().is_some_and(|gap| gap <= LONGEST_GAP_MS),
            "shard {shard} took no writes for {gap} ms"
        );
    }
    eprintln!("{kills} kills, {verify}, longest write gaps {gaps:?}");
}

/// Waits until the bench has made its bucket and every client has written.
async fn has_begun(cluster: &Cluster, bench: &mut Running, clients: usize) {
    let wanted = v1::ScanRequest {
        bucket: "Bench".to_owned(),
        limit: clients as u64,
        ..Default::default()
    };
    eventually("the bench is at work", READY, || {
        let ended = bench.ended();
        let request = grpc::request(wanted.clone(), None, None);
        async move {
            assert_eq!(ended, None, "the bench ended at once");
            let found = grpc::scan(&mut grpc::documents(&cluster.nodes[0].client), request)
                .await
                .ok()?;
            (found.0.len() >= clients).then_some(())
        }
    })
    .await;
}

/// The one line of JSON among what people read.
fn report(output: &str) -> Value {
    let line = output
        .lines()
        .find(|line| line.starts_with('{'))
        .unwrap_or_else(|| panic!("no report in: {output}"));
    serde_json::from_str(line).expect("one line of JSON")
}
