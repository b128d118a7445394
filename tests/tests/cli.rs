//! Promise: the command line tells by exit status and message what happened and what to do.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::binary::{self, Output, run, run_command};
use tests::cluster::READY;
use tests::process::Running;
use tests::{Api, Checks, Cluster, Options, eventually, ports, repository};

const NOBODY: &str = "http://127.0.0.1:9";
const SHORT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn client_verbs() {
    let cluster = Cluster::dev().await;
    let mut checks = Checks::new();
    checks.check("documents", documents(&cluster)).await;
    checks
        .check(
            "from files, standard input and the environment",
            inputs(&cluster),
        )
        .await;
    checks.check("usage", usage()).await;
    checks.check("nobody there", nobody()).await;
    checks
        .check("tokens and log-in", credentials(&cluster))
        .await;
    checks.check("export", export(&cluster)).await;
    checks.check("bench", bench(&cluster)).await;
    checks.finish();
}

async fn doc(cluster: &Cluster, verb: &str, arguments: &[&str]) -> Output {
    let head = ["doc", verb, "--url", &cluster.nodes[0].client, "-o", "json"];
    run(head.iter().chain(arguments)).await
}

async fn documents(cluster: &Cluster) {
    let put = doc(cluster, "put", &["Demo", "a/b", "{\"n\":1}"])
        .await
        .expect(0)
        .json();
    assert_eq!(
        (&put["id"], &put["version"], &put["n"]),
        (&json!("/db/Demo/a%2Fb"), &json!(1), &json!(1))
    );
    assert_eq!(
        doc(cluster, "get", &["Demo", "a/b"]).await.expect(0).json(),
        put
    );
    let text = run([
        "doc",
        "get",
        "--url",
        &cluster.nodes[1].client,
        "Demo",
        "a/b",
    ])
    .await
    .expect(0);
    assert_eq!(
        serde_json::from_str::<Value>(&text.stdout).expect("indented JSON"),
        put
    );

    let second = doc(
        cluster,
        "put",
        &["Demo", "a/b", "{\"n\":2}", "--if-match", "1"],
    )
    .await
    .expect(0)
    .json();
    assert_eq!(second["version"], 2);
    let late = doc(
        cluster,
        "put",
        &["Demo", "a/b", "{\"n\":3}", "--if-match", "1"],
    )
    .await
    .expect(1)
    .json();
    assert_eq!(
        (&late["error"]["code"], &late["error"]["effect"]),
        (&json!("object_out_of_date"), &json!("none"))
    );
    let exists = doc(cluster, "put", &["Demo", "a/b", "{}", "--insert"])
        .await
        .expect(1)
        .json();
    assert_eq!(exists["error"]["code"], "object_exists");
    doc(cluster, "put", &["Demo", "new", "{}", "--insert"])
        .await
        .expect(0);
    for _ in 0..2 {
        let once = doc(
            cluster,
            "put",
            &["Demo", "once", "{}", "--idempotency-key", "cli-1"],
        )
        .await
        .expect(0)
        .json();
        assert_eq!(once["version"], 1);
    }

    doc(cluster, "delete", &["Demo", "a/b", "--if-match", "1"])
        .await
        .expect(1);
    doc(cluster, "delete", &["Demo", "a/b", "--if-match", "2"])
        .await
        .expect(0);
    let missing = doc(cluster, "get", &["Demo", "a/b"]).await.expect(1);
    assert_eq!(missing.json()["error"]["code"], "object_not_found");
    let told = run([
        "doc",
        "get",
        "--url",
        &cluster.nodes[0].client,
        "Demo",
        "a/b",
    ])
    .await
    .expect(1);
    assert!(
        told.stdout.is_empty() && told.stderr.contains("object_not_found"),
        "{told:?}"
    );
    doc(cluster, "get", &["NoBucket", "k"]).await.expect(1);
}

async fn inputs(cluster: &Cluster) {
    let file = cluster.dir().join("document.json");
    std::fs::write(&file, "{\"from\":\"file\"}").expect("a file");
    let put = doc(
        cluster,
        "put",
        &["Demo", "file", &format!("@{}", file.display())],
    )
    .await
    .expect(0)
    .json();
    assert_eq!(put["from"], "file");

    let mut command = binary::command();
    command
        .args(["doc", "put", "Demo", "stdin", "-", "-o", "json"])
        .env("LARDER_URL", &cluster.nodes[2].client);
    command.stdin(std::fs::File::open(&file).expect("a file"));
    let put = run_command(command, SHORT).await.expect(0).json();
    assert_eq!(put["id"], "/db/Demo/stdin", "{put}");
}

async fn usage() {
    for arguments in [
        vec![],
        vec!["no-such-verb"],
        vec!["start"],
        vec!["doc", "get", "Demo"],
        vec!["doc", "put", "Demo", "k", "not json"],
        vec!["doc", "put", "Demo", "k", "[]"],
        vec!["doc", "put", "Demo", "k", "{}", "--if-match", "three"],
        vec!["doc", "get", "Demo", "k", "--url", "https://127.0.0.1:7400"],
        vec!["dev", "--shards", "3"],
        vec!["dev", "--nodes", "2", "--replicas", "3"],
        vec!["cluster", "init", "--shards", "0"],
    ] {
        let output = run(&arguments).await;
        assert_eq!(output.status, 2, "{arguments:?}: {output:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{arguments:?}: {output:?}"
        );
    }
    for arguments in [
        vec!["--help"],
        vec!["--version"],
        vec!["dev", "--help"],
        vec!["import", "--help"],
    ] {
        let output = run(&arguments).await.expect(0);
        assert!(
            !output.stdout.is_empty() && output.stderr.is_empty(),
            "{arguments:?}"
        );
    }
    assert!(
        run(["completions", "bash"])
            .await
            .expect(0)
            .stdout
            .contains("larder")
    );
}

async fn nobody() {
    for arguments in [
        vec!["doc", "get", "Demo", "k", "--url", NOBODY],
        vec!["doc", "put", "Demo", "k", "{}", "--url", NOBODY],
        vec!["export", "--bucket", "Demo", "--url", NOBODY],
        vec!["cluster", "status", "--admin", NOBODY],
    ] {
        let output = run(&arguments).await;
        assert_eq!(output.status, 3, "{arguments:?}: {output:?}");
        assert!(
            output.stderr.contains("127.0.0.1:9"),
            "the address is named: {output:?}"
        );
    }
}

async fn credentials(cluster: &Cluster) {
    let file = |name: &str, text: &str| {
        let path = cluster.dir().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("a path").to_owned()
    };
    let root = cluster.root(0).await;
    let acl = json!({ "read": { "/db/Role/1": "allow" } });
    root.put("/db/Demo/secret")
        .json(&json!({ "acl": acl }))
        .send()
        .await
        .expect(200);
    doc(cluster, "get", &["Demo", "secret"]).await.expect(1);
    let token = file("token", &format!("{}\n", root.token().expect("logged in")));
    doc(cluster, "get", &["Demo", "secret", "--token-file", &token])
        .await
        .expect(0);
    let password = file("password", "root\n");
    doc(
        cluster,
        "get",
        &[
            "Demo",
            "secret",
            "--user",
            "root",
            "--password-file",
            &password,
        ],
    )
    .await
    .expect(0);
    let wrong = file("wrong", "wrong\n");
    let refused = doc(
        cluster,
        "get",
        &[
            "Demo",
            "secret",
            "--user",
            "root",
            "--password-file",
            &wrong,
        ],
    )
    .await
    .expect(1);
    assert!(refused.stderr.contains("bad_credentials"), "{refused:?}");
    doc(
        cluster,
        "get",
        &["Demo", "secret", "--token-file", "/no/such/file"],
    )
    .await
    .expect(1);
}

async fn export(cluster: &Cluster) {
    let api = cluster.api(1);
    let root = cluster.root(0).await;
    let class = json!([{ "class": "/db/Out", "superClass": "/db/Object", "metadata": { "larder.open": "true" }, "fields": {} }]);
    root.post("/schema").json(&class).send().await.expect(200);
    let mut bodies = Vec::new();
    for number in 0..50 {
        let path = format!("/db/Out/{number}");
        bodies.push(
            api.put(&path)
                .json(&json!({ "n": number, "t": "line\nbreak" }))
                .send()
                .await
                .expect(200)
                .text(),
        );
    }
    bodies.sort();
    let url = &cluster.nodes[2].client;
    let lines = run(["export", "--bucket", "Out", "--url", url])
        .await
        .expect(0);
    let mut found: Vec<String> = lines.stdout.lines().map(str::to_owned).collect();
    found.sort();
    assert_eq!(found, bodies, "each document as it is served, one a line");
    let array = run(["export", "--bucket", "Out", "--form", "array", "--url", url])
        .await
        .expect(0)
        .json();
    assert_eq!(array.as_array().map(Vec::len), Some(50));
    run(["export", "--bucket", "NoBucket", "--url", url])
        .await
        .expect(1);
}

async fn bench(cluster: &Cluster) {
    let (url, admin) = (&cluster.nodes[0].client, &cluster.nodes[0].admin);
    for protocol in ["http", "grpc"] {
        let arguments = [
            "bench",
            "--url",
            url,
            "--admin",
            admin,
            "--protocol",
            protocol,
            "-o",
            "json",
        ];
        let size = [
            "--keys",
            "50",
            "--clients",
            "2,4",
            "--duration",
            "500ms",
            "--warmup",
            "100ms",
            "--value-bytes",
            "100",
        ];
        let mix = ["--mix", "read=40,update=30,insert=20,scan=10"];
        let output = run(arguments.iter().chain(&size).chain(&mix))
            .await
            .expect(0);
        let reports: Vec<Value> = output
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect();
        assert_eq!(reports.len(), 2, "one line per number of clients");
        for report in reports {
            assert!(
                report["throughput"].as_f64().is_some_and(|rate| rate > 1.0),
                "{report}"
            );
            for operation in ["read", "update", "insert", "scan"] {
                let latency = &report["latencyUs"][operation];
                assert!(
                    latency["count"].as_u64() > Some(0),
                    "no {operation}: {report}"
                );
                assert!(
                    latency["p50"].as_u64() <= latency["p99"].as_u64(),
                    "{report}"
                );
            }
            assert_eq!(report["errors"], json!([]), "{report}");
        }
    }
}

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
            // Shows every default, so it is secure, which this version cannot be.
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
        let api = Api::new(&single.client);
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
    eventually("the status is healthy", READY, || async {
        (run(["cluster", "status", "--admin", &single.admin])
            .await
            .status
            == 0)
            .then_some(())
    })
    .await;
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
    eventually("the stranger is healthy", READY, || async {
        (run(["cluster", "status", "--admin", &stranger.admin])
            .await
            .status
            == 0)
            .then_some(())
    })
    .await;
    drop(running);
}

/// `larder dev`: stops cleanly, goes on with its data, reports a node that died, respawns only if told.
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
    tests::process::signal(pid(1), Signal::SIGKILL);
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
        assert!(
            !tests::process::is_alive(pid(index)),
            "node {index} lives on"
        );
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
    tests::process::signal(second, Signal::SIGKILL);
    let neighbour = Api::new(&format!("http://127.0.0.1:{}", base + 10));
    eventually("the node is started again", SHORT, || async {
        let ready = neighbour
            .get("/readyz")
            .try_send()
            .await
            .is_ok_and(|answer| answer.status == 200);
        (ready && !tests::process::is_alive(second)).then_some(())
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
