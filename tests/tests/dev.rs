//! Promise: `larder dev` is a whole cluster in one command, which stops cleanly and goes on with its data.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::binary::{self, run_command};
use tests::process::{self, Running};
use tests::{Api, eventually, ports};

const SHORT: Duration = Duration::from_secs(30);

/// It also reports a node that died, and starts it again only if told.
#[tokio::test]
async fn dev_stops_and_goes_on() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let base = ports::free_base(3);
    let log = dir.path().join("dev.log");
    let start = |more: &[&str]| {
        let _ = std::fs::remove_file(&log);
        let mut command = binary::command();
        command
            .args([
                "dev",
                "--print-ready-json",
                "--shards",
                "2",
                "--port",
                &base.to_string(),
            ])
            .args(more);
        command.arg("--data").arg(dir.path().join("data"));
        Running::spawn(&mut command, &log)
    };
    let ready = || async {
        eventually("dev is ready", Duration::from_secs(60), || async {
            let text = std::fs::read_to_string(&log).ok()?;
            let line = text
                .split_inclusive('\n')
                .find(|line| line.starts_with('{') && line.ends_with('\n'))?;
            serde_json::from_str::<Value>(line).ok()
        })
        .await
    };
    let mut dev = start(&[]);
    let nodes = ready().await["nodes"].clone();
    assert_eq!(nodes.as_array().map(Vec::len), Some(3));
    for (index, node) in nodes.as_array().into_iter().flatten().enumerate() {
        let port = |offset: u16| {
            format!(
                "127.0.0.1:{}",
                base + 10 * u16::try_from(index).expect("small") + offset
            )
        };
        for (name, offset) in [("client", 0), ("peer", 1), ("admin", 2)] {
            assert!(
                node[name]
                    .as_str()
                    .is_some_and(|url| url.contains(&port(offset))),
                "{node}"
            );
        }
        assert!(
            node["config"]
                .as_str()
                .is_some_and(|config| Path::new(config).is_file()),
            "{node}"
        );
    }
    let api = Api::new(&format!("http://127.0.0.1:{base}/v1"));
    api.put("/db/Demo/kept")
        .json(&json!({ "n": 1 }))
        .send()
        .await
        .expect(200);

    // A node that dies is reported with the way to start it, and stays dead.
    let pid =
        |index: usize| i32::try_from(nodes[index]["pid"].as_i64().expect("a pid")).expect("small");
    process::signal(pid(1), Signal::SIGKILL);
    eventually("the death is reported", SHORT, || async {
        let text = std::fs::read_to_string(&log).ok()?;
        text.contains("larder start --config").then_some(())
    })
    .await;
    assert!(
        Api::new(&format!("http://127.0.0.1:{}", base + 10))
            .get("/healthz")
            .try_send()
            .await
            .is_err()
    );

    // Ctrl-C ends it and all its nodes.
    dev.signal(Signal::SIGINT);
    assert_eq!(dev.wait(SHORT), Some(0));
    for index in [0, 2] {
        assert!(!process::is_alive(pid(index)), "node {index} lives on");
    }

    let mut dev = start(&["--respawn"]);
    let again = ready().await["nodes"].clone();
    assert_eq!(
        again[0]["id"], nodes[0]["id"],
        "the same nodes on the same data"
    );
    assert_eq!(
        api.get("/db/Demo/kept").send().await.expect(200).json()["n"],
        1
    );
    let second = i32::try_from(again[1]["pid"].as_i64().expect("a pid")).expect("small");
    process::signal(second, Signal::SIGKILL);
    let neighbour = Api::new(&format!("http://127.0.0.1:{}", base + 10));
    eventually("the node is started again", SHORT, || async {
        let ready = neighbour
            .get("/readyz")
            .try_send()
            .await
            .is_ok_and(|answer| answer.status == 200);
        (ready && !process::is_alive(second)).then_some(())
    })
    .await;
    // Another number of nodes on the same data is a mistake.
    dev.signal(Signal::SIGTERM);
    assert_eq!(dev.wait(SHORT), Some(0));
    let mut command = binary::command();
    command
        .args(["dev", "--nodes", "2", "--port", &base.to_string(), "--data"])
        .arg(dir.path().join("data"));
    let output = run_command(command, SHORT).await.expect(2);
    assert!(output.stderr.contains("--nodes 3"), "{}", output.stderr);
}
