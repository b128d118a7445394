//! Promise: the published SDK, unmodified, works against every node.

use std::process::{Command, Stdio};
use std::time::Duration;

use tests::{Cluster, Options, npm, process};

#[tokio::test]
async fn the_published_sdk_works_against_each_node() {
    let folder = npm::folder();
    let cluster = Cluster::start(Options {
        shards: 16,
        ..Options::default()
    })
    .await;
    let urls: Vec<String> = cluster
        .nodes
        .iter()
        .map(|node| format!("{}/v1", node.client))
        .collect();
    let mut node = Command::new("node");
    node.args([
        "--test",
        "--test-reporter=tap",
        "sdk.test.mjs",
        "frame.test.mjs",
        "query.test.mjs",
        "index.test.mjs",
        "unique.test.mjs",
        "update.test.mjs",
        "types.test.mjs",
        "rights.test.mjs",
        "users.test.mjs",
        "login.test.mjs",
        "live.test.mjs",
    ])
    .current_dir(folder)
    .stdin(Stdio::null());
    node.env("LARDER_URLS", urls.join(","));
    let ended =
        tokio::task::spawn_blocking(move || process::run_to_end(node, Duration::from_secs(285)));
    let ended = ended.await.expect("node runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(
        ended.status,
        0,
        "{}\n{}",
        text(&ended.stdout),
        text(&ended.stderr)
    );
    // A run that skipped everything would end with 0 as well.
    let count = |name: &str| {
        let line = text(&ended.stdout)
            .lines()
            .find_map(|line| line.strip_prefix(&format!("# {name} ")).map(str::to_owned));
        line.and_then(|count| count.parse::<u32>().ok())
    };
    assert!(count("pass") >= Some(209), "{}", text(&ended.stdout));
    assert_eq!((count("fail"), count("skipped")), (Some(0), Some(0)));
}
