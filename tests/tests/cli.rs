//! Promise: the client verbs of the command line tell by exit status and message what happened and what to do.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::binary::{self, Output, run, run_command};
use tests::{Checks, Cluster};

const NOBODY: &str = "http://127.0.0.1:9";
const SHORT: Duration = Duration::from_secs(30);
/// Within this a verb must tell that nobody answers.
const SOON: Duration = Duration::from_secs(10);

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
    checks.check("manual pages", manual()).await;
    checks.check("nobody there", nobody()).await;
    checks
        .check("tokens and log-in", credentials(&cluster))
        .await;
    checks.check("export", export(&cluster)).await;
    checks.check("truncate", truncate(&cluster)).await;
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
        vec!["doc", "get", "Demo", "k", "--url", "ftp://127.0.0.1:7400"],
        vec!["doc", "get", "Demo", "k", "--cert", "alice.crt"],
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
    for shell in ["bash", "zsh", "fish"] {
        let script = run(["completions", shell]).await.expect(0).stdout;
        assert!(script.contains("root-password-file"), "{shell}: {script}");
    }
}

/// There is a manual page for each verb that the help text lists.
async fn manual() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let man1 = dir.path().join("man1");
    run(["man", "--dir", man1.to_str().expect("a path")])
        .await
        .expect(0);
    let help = run(["--help"]).await.expect(0).stdout;
    let verbs = help
        .split_once("Commands:\n")
        .and_then(|(_, rest)| rest.split_once("\n\n"))
        .map(|(list, _)| {
            list.lines()
                .filter_map(|line| line.split_whitespace().next())
        })
        .expect("a list of commands");
    let mut pages = 0;
    for verb in verbs.filter(|verb| *verb != "help") {
        let page = man1.join(format!("larder-{verb}.1"));
        let text = std::fs::read_to_string(&page).unwrap_or_default();
        assert!(text.contains(".SH OPTIONS"), "{}: {text}", page.display());
        pages += 1;
    }
    assert!(pages >= 9, "{help}");
    let file = dir.path().join("token");
    std::fs::write(&file, "x").expect("a file");
    let refused = run(["man", "--dir", file.to_str().expect("a path")])
        .await
        .expect(1);
    assert!(refused.stderr.contains("token"), "{refused:?}");
}

async fn nobody() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("a path").to_owned()
    };
    let (records, token) = (&file("records.json", "[{}]"), &file("token", "00"));
    for arguments in [
        vec!["doc", "get", "Demo", "k", "--url", NOBODY],
        vec!["doc", "put", "Demo", "k", "{}", "--url", NOBODY],
        vec!["doc", "delete", "Demo", "k", "--url", NOBODY],
        vec!["import", records, "--bucket", "Demo", "--url", NOBODY],
        vec![
            "import", records, "--bucket", "Demo", "--create", "--url", NOBODY,
        ],
        vec!["export", "--bucket", "Demo", "--url", NOBODY],
        vec![
            "export",
            "--bucket",
            "Demo",
            "--token-file",
            token,
            "--url",
            NOBODY,
        ],
        vec!["bench", "--url", NOBODY, "--admin", NOBODY],
        vec!["bench", "--admin", NOBODY],
        vec!["cluster", "status", "--admin", NOBODY],
        vec!["cluster", "init", "--wait", "0", "--admin", NOBODY],
    ] {
        let started = Instant::now();
        let output = run(&arguments).await;
        assert_eq!(output.status, 3, "{arguments:?}: {output:?}");
        let took = started.elapsed();
        assert!(took < SOON, "{arguments:?} took {took:?}");
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
    over_http(cluster, &bodies).await;
}

/// `GET /db/:bucket` on each node: the same documents, for admins alone.
async fn over_http(cluster: &Cluster, bodies: &[String]) {
    for node in cluster.all() {
        let root = cluster.root(node).await;
        let found = root.get("/db/Out").send().await.expect(200).json();
        let mut found: Vec<String> = found
            .as_array()
            .expect("an array")
            .iter()
            .map(Value::to_string)
            .collect();
        found.sort();
        assert_eq!(found, bodies, "node {node}");
        let users = root.get("/db/User").send().await.expect(200).json();
        assert!(users[0]["_password"].is_string(), "node {node}");
        let anonymous = cluster.api(node).get("/db/Out").send().await;
        anonymous.refused(466, "permission_denied");
    }
}

async fn truncate(cluster: &Cluster) {
    let api = cluster.root(1).await;
    let class = json!([{ "class": "/db/Emptied", "fields": {} }]);
    api.post("/schema").json(&class).expect(200).await;
    // More than one request takes.
    let lines: Vec<String> = (0..4_500)
        .map(|n| json!({ "id": format!("/db/Emptied/{n}") }).to_string())
        .collect();
    let path = "/db/Emptied";
    api.put(path).body(lines.join("\n")).expect(200).await;
    let url = &cluster.nodes[2].client;
    let verb = |more: &[&str]| {
        let head = [
            "truncate", "--url", url, "--bucket", "Emptied", "-o", "json",
        ];
        run(head
            .iter()
            .chain(more)
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>())
    };
    let asked = verb(&[]).await.expect(2);
    assert!(
        asked.stderr.contains("4500 documents; --yes"),
        "{}",
        asked.stderr
    );
    let done = verb(&["--yes"]).await.expect(0).json();
    assert_eq!(done, json!({ "bucket": "Emptied", "deleted": 4_500 }));
    let left = api.get("/db/Emptied/ids").expect(200).await;
    assert_eq!(left.json(), json!([]));
    let unknown = [
        "truncate", "--url", url, "--bucket", "Nowhere", "--yes", "-o", "json",
    ];
    let refused = run(unknown).await.expect(1).json();
    assert_eq!(refused["error"]["code"], "bucket_not_found");
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
