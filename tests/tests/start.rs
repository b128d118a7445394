//! Promise: `larder start` runs, or refuses with the cause and an exit status of its own, and never touches what is not
//! its own; `larder cluster init` makes a cluster once.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use tests::binary::{self, Output, run, run_command};
use tests::cluster::READY;
use tests::process::Running;
use tests::tls::Certs;
use tests::{Api, Cluster, Options, eventually, ports, repository};

const SHORT: Duration = Duration::from_secs(30);

/// One node, not part of any cluster.
struct Single {
    config: PathBuf,
    data: PathBuf,
    admin: String,
    client: String,
    base: u16,
}

impl Single {
    fn new(dir: &Path, name: &str) -> Single {
        let base = ports::free_base(1);
        let (config, data) = (dir.join(format!("{name}.toml")), dir.join(name));
        let text = format!(
            "[node]\nname = {name:?}\ndata_dir = {data:?}\n[listen]\nclient = \"127.0.0.1:{base}\"\n\
             peer = \"127.0.0.1:{}\"\nadmin = \"127.0.0.1:{}\"\n[cluster]\nseeds = [\"127.0.0.1:{}\"]\n\
             [security]\ninsecure = true\n",
            base + 1,
            base + 2,
            base + 1,
        );
        std::fs::write(&config, text).expect("a file");
        let at = |port: u16| format!("http://127.0.0.1:{}", base + port);
        Single {
            config,
            data,
            admin: at(2),
            client: at(0),
            base,
        }
    }

    fn append(&self, text: &str) {
        let before = std::fs::read_to_string(&self.config).expect("the configuration");
        std::fs::write(&self.config, format!("{before}{text}")).expect("a file");
    }

    fn command(&self) -> Command {
        let mut command = binary::command();
        command.arg("start").arg("--config").arg(&self.config);
        command
    }

    async fn start(&self) -> Running {
        let running = Running::spawn(&mut self.command(), &self.config.with_extension("log"));
        let api = Api::new(&self.client);
        eventually("the node listens", READY, || async {
            api.get("/healthz")
                .try_send()
                .await
                .is_ok_and(|answer| answer.status == 200)
                .then_some(())
        })
        .await;
        running
    }

    async fn init(&self, more: &[&str]) -> Output {
        let head = [
            "cluster",
            "init",
            "--admin",
            &self.admin,
            "--shards",
            "2",
            "--replicas",
            "1",
            "-o",
            "json",
        ];
        run(head.iter().chain(more)).await
    }

    /// Waits until it is a healthy cluster of one.
    async fn healthy(&self) {
        eventually("the cluster of one is healthy", READY, || async {
            let status = run(["cluster", "status", "--admin", &self.admin]).await;
            (status.status == 0).then_some(())
        })
        .await;
    }

    /// Runs it expecting that it refuses to start.
    async fn refuses(&self, status: i32, words: &[&str]) {
        let output = run_command(self.command(), SHORT).await;
        assert_eq!(output.status, status, "{output:#?}");
        for word in words {
            assert!(
                output.stderr.contains(word),
                "the cause is named with `{word}`: {}",
                output.stderr
            );
        }
    }
}

#[tokio::test]
async fn configurations_that_cannot_be_used() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let with = |name: &str, text: &str| {
        let single = Single::new(dir.path(), name);
        single.append(text);
        single
    };
    let unknown = with("unknown", "[limits]\nbody_byte_max = 5\n");
    unknown
        .refuses(
            78,
            &[
                "unknown.toml",
                "limits.body_byte_max",
                "limits.body_bytes_max",
            ],
        )
        .await;
    assert!(!unknown.data.exists(), "nothing was touched");
    with("section", "[limit]\nbody_bytes_max = 5\n")
        .refuses(78, &["section.toml", "`limit`"])
        .await;
    with("type", "[limits]\nbody_bytes_max = \"much\"\n")
        .refuses(78, &["limits.body_bytes_max"])
        .await;
    with("order", "[raft]\nelection_min_ms = 900\n")
        .refuses(78, &["raft.election_min_ms", "raft.election_max_ms"])
        .await;
    with("syntax", "[limits\n")
        .refuses(78, &["syntax.toml", "TOML"])
        .await;
    let missing = Single {
        config: dir.path().join("missing.toml"),
        ..Single::new(dir.path(), "other")
    };
    missing.refuses(78, &["missing.toml"]).await;

    let secure = Single::new(dir.path(), "secure");
    let text = std::fs::read_to_string(&secure.config)
        .expect("the configuration")
        .replace("insecure = true", "");
    std::fs::write(&secure.config, text).expect("a file");
    secure.refuses(78, &["security.insecure"]).await;

    let environment = Single::new(dir.path(), "environment");
    let mut command = environment.command();
    command.env("LARDER_LIMITS__NO_SUCH_KEY", "1");
    let output = run_command(command, SHORT).await.expect(78);
    assert!(
        output.stderr.contains("LARDER_LIMITS__NO_SUCH_KEY"),
        "{}",
        output.stderr
    );
}

/// Every sample of `configs/` is one that `start` takes, with other ports and data.
#[tokio::test]
async fn sample_configurations_start() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let samples = [
        "single-node.toml",
        "three-node/n1.toml",
        "three-node/n2.toml",
        "three-node/n3.toml",
        "reference.toml",
    ];
    // Where the samples say they are.
    let certs = Certs::make(&dir.path().join("certs")).await;
    for name in ["n1", "n2", "n3"] {
        certs.node(name).await;
    }
    for (index, sample) in samples.iter().enumerate() {
        let single = Single::new(dir.path(), &format!("sample{index}"));
        let config = repository().join("configs").join(sample);
        let mut command = binary::command();
        command
            .arg("start")
            .arg("--config")
            .arg(&config)
            .current_dir(dir.path());
        command.env("LARDER_NODE__DATA_DIR", &single.data);
        for (port, name) in ["CLIENT", "PEER", "ADMIN"].iter().enumerate() {
            let address = format!(
                "127.0.0.1:{}",
                single.base + u16::try_from(port).expect("small")
            );
            command.env(format!("LARDER_LISTEN__{name}"), address);
        }
        if *sample == "reference.toml" {
            // Shows every default, so it is secure and names no certificates.
            let output = run_command(command, SHORT).await.expect(78);
            assert!(
                output.stderr.contains("security.insecure"),
                "{}",
                output.stderr
            );
            continue;
        }
        let mut running =
            Running::spawn(&mut command, &dir.path().join(format!("sample{index}.log")));
        let api = if sample.starts_with("three-node") {
            Api::trusting(&single.client.replace("http:", "https:"), &certs.trust())
        } else {
            Api::new(&single.client)
        };
        eventually(&format!("{sample} listens"), READY, || async {
            api.get("/healthz")
                .try_send()
                .await
                .is_ok_and(|answer| answer.status == 200)
                .then_some(())
        })
        .await;
        assert_eq!(
            api.get("/readyz").send().await.status,
            503,
            "not part of a cluster yet"
        );
        running.signal(Signal::SIGTERM);
        assert_eq!(
            running.wait(SHORT),
            Some(0),
            "{sample}: a planned stop ends with 0"
        );
    }
}

#[tokio::test]
async fn ports_and_data_in_use() {
    let dir = tempfile::tempdir().expect("temporary folder");
    for (port, name) in ["client", "peer", "admin"].iter().enumerate() {
        let single = Single::new(dir.path(), &format!("port-{name}"));
        let port = single.base + u16::try_from(port).expect("small");
        let _taken = TcpListener::bind(("127.0.0.1", port)).expect("was free");
        single.refuses(1, &[&port.to_string(), "in use"]).await;
    }
    let one = Single::new(dir.path(), "one");
    let mut running = one.start().await;
    let mut two = Single::new(dir.path(), "two");
    let text = std::fs::read_to_string(&two.config).expect("the configuration");
    let (mine, theirs) = (format!("{:?}", two.data), format!("{:?}", one.data));
    std::fs::write(&two.config, text.replace(&mine, &theirs)).expect("a file");
    two.data = one.data.clone();
    two.refuses(1, &[one.data.to_str().expect("a path")]).await;
    assert_eq!(running.ended(), None, "the first one is not disturbed");

    let dev = |port: u16| {
        let mut command = binary::command();
        command
            .args(["dev", "--nodes", "1", "--port", &port.to_string()])
            .arg("--data")
            .arg(dir.path().join("dev"));
        command
    };
    let output = run_command(dev(one.base), SHORT).await.expect(1);
    assert!(
        output.stderr.contains(&one.base.to_string()),
        "{}",
        output.stderr
    );
}

#[tokio::test]
async fn making_a_cluster() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let single = Single::new(dir.path(), "first");
    let running = single.start().await;
    let status = run(["cluster", "status", "--admin", &single.admin]).await;
    assert_ne!(status.status, 0, "there is no cluster yet: {status:?}");
    assert_eq!(
        Api::new(&single.client)
            .get("/v1/db/Demo/k")
            .send()
            .await
            .status,
        503
    );

    let root = dir.path().join("root-password");
    std::fs::write(&root, "root\n").expect("a file");
    let refused = single
        .init(&["--root-password-file", root.to_str().expect("a path")])
        .await;
    assert_ne!(refused.status, 0, "root/root is for dev alone");

    let made = single.init(&[]).await.expect(0).json();
    let password = made["rootPassword"]
        .as_str()
        .expect("generated, shown once")
        .to_owned();
    assert!(made["created"] == true && password.len() >= 12, "{made}");
    let again = single.init(&[]).await.expect(0).json();
    assert_eq!(
        (&again["clusterId"], &again["created"]),
        (&made["clusterId"], &json!(false))
    );
    assert_eq!(
        again
            .get("rootPassword")
            .filter(|password| !password.is_null()),
        None,
        "only once: {again}"
    );
    single.healthy().await;
    let api = Api::new(&format!("{}/v1", single.client));
    let user = api.log_in("root", &password).await;
    user.get("/db/User/me").send().await.expect(200);
    // Outside of dev there is no open bucket.
    api.get("/db/Demo/k")
        .send()
        .await
        .refused(461, "bucket_not_found");
    let class = json!([{ "class": "/db/Kept", "superClass": "/db/Object", "fields": {} }]);
    user.post("/schema").json(&class).send().await.expect(200);
    user.put("/db/Kept/1")
        .json(&json!({}))
        .send()
        .await
        .expect(200);
    drop(running);
    let _running = single.start().await;
    eventually("the node serves after a kill", READY, || async {
        (api.get("/db/Kept/1").send().await.status == 200).then_some(())
    })
    .await;
}

/// A node whose data belongs to another cluster must not join, and must not damage either.
#[tokio::test]
async fn the_data_of_another_cluster() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let stranger = Single::new(dir.path(), "stranger");
    let running = stranger.start().await;
    stranger.init(&[]).await.expect(0);
    drop(running);

    let options = Options {
        root_password: Some("another cluster".to_owned()),
        ..Options::default()
    };
    let mut cluster = Cluster::start(options).await;
    cluster
        .api(0)
        .put("/db/Demo/k")
        .json(&json!({}))
        .send()
        .await
        .expect(200);
    cluster.kill(2).await;
    // The third node's place, with the stranger's data.
    let mut command = cluster.start_command(2);
    command.env("LARDER_NODE__DATA_DIR", &stranger.data);
    let output = run_command(command, SHORT).await;
    assert!(
        !matches!(output.status, 0 | 101) && output.status > 0,
        "{output:#?}"
    );
    assert!(
        output.stderr.contains("cluster"),
        "the cause is named: {}",
        output.stderr
    );
    assert!(
        output
            .stderr
            .contains(stranger.data.to_str().expect("a path")),
        "and the data: {}",
        output.stderr
    );

    cluster.restart(2).await;
    cluster.healthy(READY).await;
    cluster.api(2).get("/db/Demo/k").send().await.expect(200);
    // The stranger still is what it was.
    let running = stranger.start().await;
    stranger.healthy().await;
    drop(running);
}

/// A release must leave alone what only a newer one understands.
#[tokio::test]
async fn data_of_a_newer_format() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let newer = Single::new(dir.path(), "newer");
    let log = newer.data.join("log");
    std::fs::create_dir_all(&log).expect("a folder");
    let fixture = repository().join("tests/fixtures/format-99");
    for file in std::fs::read_dir(fixture).expect("the fixture").flatten() {
        std::fs::copy(file.path(), log.join(file.file_name())).expect("a copy");
    }
    // Twice: the first refusal must not have made it a directory of this release.
    for _ in 0..2 {
        let path = log.to_str().expect("a path");
        newer
            .refuses(
                1,
                &[path, "data format 99", "reads up to", "or a newer one"],
            )
            .await;
        assert!(
            !newer.data.join("data").exists(),
            "nothing is made beside it"
        );
    }
}
