//! Promise: with certificates every port speaks TLS, nodes speak to nodes of their cluster only, and certificates change without a
//! request lost. `docs/security.md` says against whom.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use proto::peer::DescribeRequest;
use proto::peer::peer_client::PeerClient;
use serde_json::json;
use tempfile::TempDir;
use tests::binary::{self, Output, run_command};
use tests::cluster::READY;
use tests::process::Running;
use tests::tls::{Certs, NODE_NAME, Trust, certificates};
use tests::{Api, Cluster, Options, eventually, ports};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const SHORT: Duration = Duration::from_secs(30);
const PASSWORD: &str = "a password of its own";
/// Fatal, `protocol_version`.
const ALERT_VERSION: [u8; 2] = [2, 70];

fn secure(nodes: u16) -> Options {
    Options {
        nodes,
        shards: 2,
        replicas: u32::from(nodes),
        root_password: Some(PASSWORD.to_owned()),
        tls: true,
        ..Options::default()
    }
}

fn address(url: &str) -> SocketAddr {
    let (_, address) = url.split_once("://").expect("a URL");
    address.parse().expect("an address")
}

/// The peer port lies between the client port and the admin port.
fn peer_address(cluster: &Cluster, node: usize) -> SocketAddr {
    let mut address = address(&cluster.nodes[node].client);
    address.set_port(address.port() + 1);
    address
}

/// A verb that trusts the cluster's CA.
async fn verb(certs: &Certs, arguments: &[&str]) -> Output {
    let mut command = binary::command();
    command
        .args(arguments)
        .env("LARDER_CA", certs.path("ca.crt"));
    run_command(command, Duration::from_secs(60)).await
}

/// Three nodes over mutual TLS, driven over TLS; and who is turned away.
#[tokio::test]
async fn three_nodes_speak_tls_only_and_only_to_nodes() {
    let mut cluster = Cluster::start(secure(3)).await;
    every_verb_speaks_tls(&cluster).await;
    tokio::join!(
        strangers_are_turned_away(&cluster),
        plain_text_gets_a_clear_end(&cluster),
        old_versions_are_refused(&cluster),
        the_silent_are_hung_up_on(&cluster),
        only_nodes_reach_the_peer_port(&cluster),
    );
    a_node_of_another_ca_is_kept_out_until_it_has_the_right_one(&mut cluster).await;
}

async fn every_verb_speaks_tls(cluster: &Cluster) {
    let certs = cluster.certs();
    let (url, other) = (&cluster.nodes[0].client, &cluster.nodes[1].client);
    let admin = &cluster.nodes[2].admin;
    let doc = r#"{"text":"hi"}"#;
    let put = verb(certs, &["doc", "put", "--url", url, "Demo", "hello", doc]).await;
    put.expect(0);
    let got = verb(certs, &["doc", "get", "--url", other, "Demo", "hello"]).await;
    assert!(got.expect(0).stdout.contains("\"hi\""));
    let password = cluster.dir().join("password");
    std::fs::write(&password, PASSWORD).expect("a file");
    let password = password.display().to_string();
    let root = ["--user", "root", "--password-file", &password];
    let records = cluster.dir().join("records.ndjson");
    std::fs::write(&records, "{\"n\":1}\n{\"n\":2}\n").expect("a file");
    let records = records.display().to_string();
    let import = [
        "import", &records, "--bucket", "Notes", "--create", "--url", url,
    ];
    verb(certs, &[&import[..], &root].concat()).await.expect(0);
    // gRPC.
    let export = ["export", "--bucket", "Notes", "--url", other];
    let exported = verb(certs, &[&export[..], &root].concat()).await.expect(0);
    assert_eq!(exported.stdout.lines().count(), 2, "{}", exported.stdout);
    for arguments in [["cluster", "status"], ["shard", "status"]] {
        verb(certs, &[&arguments[..], &["--admin", admin]].concat())
            .await
            .expect(0);
    }
    for protocol in ["http", "grpc"] {
        let bench = [
            "bench",
            "--admin",
            admin,
            "--bucket",
            "Demo",
            "--keys",
            "20",
            "--clients",
            "2",
            "--duration",
            "300ms",
            "--warmup",
            "0s",
            "--mix",
            "read=50,update=50",
            "--protocol",
            protocol,
            "-o",
            "json",
        ];
        let report = verb(certs, &bench).await.expect(0).json();
        assert_eq!(report["errors"], json!([]), "{report}");
        assert!(report["operations"].as_u64() > Some(0), "{report}");
    }
    // Without the CA nobody is believed.
    let mut blind = binary::command();
    blind.args(["doc", "get", "--url", url, "Demo", "hello"]);
    let blind = run_command(blind, SHORT).await.expect(3);
    assert!(blind.stderr.contains("--ca"), "{}", blind.stderr);
    // HTTP/2 by ALPN, and HTTP/1.1 for those who ask for it or for nothing.
    let client = address(url);
    for (offered, taken) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let stream = certs.trust().connect(client, "127.0.0.1", offered).await;
        let stream = stream.expect("a handshake");
        let protocol = stream.get_ref().1.alpn_protocol();
        assert_eq!(protocol, taken.map(str::as_bytes));
    }
}

async fn strangers_are_turned_away(cluster: &Cluster) {
    let foreign = TempDir::new().expect("temporary folder");
    let foreign = Certs::make(foreign.path()).await;
    let url = format!("{}/v1", cluster.nodes[0].client);
    let stranger = Api::trusting(&url, &foreign.trust());
    let error = stranger.get("/db/Demo/hello").try_send().await;
    let error = format!("{:?}", error.expect_err("another CA is not believed"));
    assert!(error.contains("UnknownIssuer"), "{error}");
}

async fn plain_text_gets_a_clear_end(cluster: &Cluster) {
    for url in [&cluster.nodes[0].client, &cluster.nodes[0].admin] {
        let answer = Api::new(&url.replace("https", "http"))
            .get("/v1/db/Demo/hello")
            .send()
            .await
            .refused(400, "bad_request");
        assert!(answer.text().contains("https://"), "{}", answer.text());
    }
    let peer = format!("http://{}", peer_address(cluster, 0));
    let mut plain = PeerClient::connect(peer).await.expect("a connection");
    let refused = plain.describe(DescribeRequest {}).await;
    let refused = refused.expect_err("a peer in plain text is refused");
    assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{refused}");
    assert!(refused.message().contains("mutual TLS"), "{refused}");
    let log = cluster.logged(0);
    assert!(
        log.contains("plain text on a port that speaks TLS"),
        "{log}"
    );
}

/// A TLS 1.1 client's first message; no library at hand sends one.
async fn old_versions_are_refused(cluster: &Cluster) {
    let mut body = vec![0x03, 0x02];
    body.extend([7; 32]);
    body.extend([0, 0, 4, 0xc0, 0x13, 0x00, 0x2f, 1, 0]);
    // Signature algorithms and groups, so that nothing but the version is wrong with it.
    body.extend([0, 16, 0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 0x1d]);
    let mut hello = vec![
        0x16,
        0x03,
        0x01,
        0,
        body.len() as u8 + 4,
        1,
        0,
        0,
        body.len() as u8,
    ];
    hello.extend(body);
    for url in [&cluster.nodes[0].client, &cluster.nodes[0].admin] {
        let mut stream = TcpStream::connect(address(url)).await.expect("connect");
        stream.write_all(&hello).await.expect("write");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("read");
        assert_eq!(answer.first(), Some(&0x15), "an alert: {answer:?}");
        assert_eq!(answer.get(5..7), Some(&ALERT_VERSION[..]), "{answer:?}");
    }
}

/// Nothing, and the first bytes of a handshake: each is over by itself.
async fn the_silent_are_hung_up_on(cluster: &Cluster) {
    let mut silent = JoinSet::new();
    for target in [address(&cluster.nodes[0].client), peer_address(cluster, 0)] {
        for begun in [&[][..], &[0x16, 0x03, 0x01, 0x02]] {
            silent.spawn(async move {
                let mut stream = TcpStream::connect(target).await.expect("connect");
                stream.write_all(begun).await.expect("write");
                let mut answer = Vec::new();
                let end = tokio::time::timeout(SHORT, stream.read_to_end(&mut answer)).await;
                // A reset is an end too.
                assert!(end.is_ok(), "{target} holds on after {begun:?}");
            });
        }
    }
    while let Some(ended) = silent.join_next().await {
        ended.expect("hung up on");
    }
}

async fn only_nodes_reach_the_peer_port(cluster: &Cluster) {
    let certs = cluster.certs();
    certs.cert(&["create-client", "alice"]).await.expect(0);
    certs.expired_node("late");
    let peer = peer_address(cluster, 0);
    for (who, trust, alert) in [
        ("nobody", certs.trust(), "CertificateRequired"),
        ("a client", certs.trust_as("alice"), "alert"),
        (
            "an expired node",
            certs.trust_as("late"),
            "CertificateExpired",
        ),
    ] {
        let spoken = speak(&trust, peer).await.expect_err(who);
        assert!(spoken.contains(alert), "{who}: {spoken}");
    }
    speak(&certs.trust_as("n2"), peer)
        .await
        .expect("a node is let in");
}

/// Sends what an HTTP/2 client begins with, and reads a byte of the answer.
async fn speak(trust: &Trust, peer: SocketAddr) -> Result<u8, String> {
    let spoken = async {
        let mut stream = trust.connect(peer, NODE_NAME, &["h2"]).await?;
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    spoken.await.map_err(|error| error.to_string())
}

/// Both sides say why, and the right certificate is taken up without a restart of either.
async fn a_node_of_another_ca_is_kept_out_until_it_has_the_right_one(cluster: &mut Cluster) {
    let foreign = Certs::make(&cluster.dir().join("foreign")).await;
    foreign.node("n3").await;
    cluster.stop(2).await;
    let files = ["ca.crt", "n3.crt", "n3.key"];
    let own: Vec<_> = files
        .iter()
        .map(|file| std::fs::read(cluster.certs().path(file)).expect("a file"))
        .collect();
    // A CA of its own for this node alone: by another path, since the others read the same file.
    let config = std::fs::read_to_string(&cluster.nodes[2].config).expect("the configuration");
    let ours = cluster.certs().path("").display().to_string();
    let theirs = foreign.path("").display().to_string();
    std::fs::write(&cluster.nodes[2].config, config.replace(&ours, &theirs)).expect("a file");
    cluster.spawn(2);
    let inside = "not of this cluster's CA";
    eventually("both sides say why", READY, || async {
        let told = |node: usize, words: &str| {
            cluster
                .logged(node)
                .lines()
                .any(|line| line.contains("127.0.0.1") && line.contains(words))
        };
        (told(0, inside) && told(2, inside)).then_some(())
    })
    .await;
    for (file, content) in files.iter().zip(own) {
        std::fs::write(foreign.path(file), content).expect("a file");
    }
    cluster.signal(2, Signal::SIGHUP);
    cluster.healthy(READY).await;
    cluster.node_ready(2, READY).await;
}

/// Certificates change under load: by SIGHUP and by themselves, a bad one never, and nobody notices.
#[tokio::test]
async fn certificates_change_under_load_and_drop_nothing() {
    let mut cluster = Cluster::start(secure(1)).await;
    let certs = cluster.certs().clone();
    let url = format!("{}/v1", cluster.nodes[0].client);
    let stop = Arc::new(AtomicBool::new(false));
    let counts = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
    let mut load = JoinSet::new();
    for (kept, count) in [true, false].into_iter().zip(&counts) {
        let (url, trust) = (url.clone(), certs.trust());
        let (stop, count) = (Arc::clone(&stop), Arc::clone(count));
        load.spawn(async move {
            let kept = kept.then(|| Api::trusting(&url, &trust));
            while !stop.load(Ordering::Relaxed) {
                let api = kept.clone().unwrap_or_else(|| Api::trusting(&url, &trust));
                let put = api.put("/db/Demo/load").json(&json!({ "n": 1 }));
                let status = put.send().await.status;
                assert!(matches!(status, 200 | 201), "{status}");
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let progress = || async {
        let goals: Vec<u64> = counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed) + 5)
            .collect();
        eventually("the load goes on", READY, || async {
            let mut reached = counts.iter().zip(&goals);
            reached
                .all(|(count, goal)| count.load(Ordering::Relaxed) >= *goal)
                .then_some(())
        })
        .await;
    };
    progress().await;
    let client = address(&url.replace("/v1", ""));
    let shown = || async {
        let stream = certs
            .trust()
            .connect(client, "127.0.0.1", &[])
            .await
            .expect("a handshake");
        stream
            .get_ref()
            .1
            .peer_certificates()
            .expect("a certificate")[0]
            .clone()
    };

    let renew = ["create-node", "n1", "--host", "127.0.0.1", "--force"];
    certs.cert(&renew).await.expect(0);
    cluster.signal(0, Signal::SIGHUP);
    becomes(&certs, &shown).await;
    progress().await;

    // A bad one: the node says so and goes on with what it has.
    let before = shown().await;
    let good = std::fs::read(certs.path("n1.key")).expect("the key");
    let foreign = TempDir::new().expect("temporary folder");
    let foreign = Certs::make(foreign.path()).await;
    foreign.node("n1").await;
    std::fs::copy(foreign.path("n1.key"), certs.path("n1.key")).expect("a copy");
    gauge_is(&cluster, 1).await;
    assert!(cluster.logged(0).contains("n1.key"), "the file is named");
    assert_eq!(shown().await, before);
    progress().await;

    // Found without a signal.
    std::fs::write(certs.path("n1.key"), good).expect("the key");
    gauge_is(&cluster, 0).await;
    certs.cert(&renew).await.expect(0);
    becomes(&certs, &shown).await;
    progress().await;
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = load.join_next().await {
        ended.expect("no request fails");
    }
    let metrics = cluster.admin(0).get("/metrics").expect(200).await.text();
    let days = |name: &str| {
        let line = format!("larder_tls_certificate_expiry_seconds{{certificate=\"{name}\"}} ");
        let value = metrics.lines().find_map(|found| found.strip_prefix(&line));
        value
            .and_then(|value| value.parse::<f64>().ok())
            .map(|seconds| (seconds / 86_400.0).round() as u32)
    };
    assert_eq!(
        (days("node"), days("ca")),
        (Some(365), Some(3650)),
        "{metrics}"
    );
    assert_eq!(cluster.stop(0).await, Some(0));
}

/// Waits until the node shows the certificate that lies in its file.
async fn becomes<F: Future<Output = rustls::pki_types::CertificateDer<'static>>>(
    certs: &Certs,
    shown: &impl Fn() -> F,
) {
    let wanted = certificates(&certs.path("n1.crt"));
    eventually("the new certificate is shown", READY, || async {
        (shown().await == wanted[0]).then_some(())
    })
    .await;
}

async fn gauge_is(cluster: &Cluster, value: u8) {
    let line = format!("larder_tls_reload_failed {value}");
    eventually(&line, READY, || async {
        let answer = cluster.admin(0).get("/metrics").try_send().await.ok()?;
        answer
            .text()
            .lines()
            .any(|found| found == line)
            .then_some(())
    })
    .await;
}

/// A node's configuration, and the process if it starts.
struct Single {
    dir: TempDir,
    base: u16,
}

impl Single {
    fn new() -> Single {
        let dir = TempDir::new().expect("temporary folder");
        Single {
            dir,
            base: ports::free_base(1),
        }
    }

    fn url(&self, port: u16) -> String {
        format!("https://127.0.0.1:{}", self.base + port)
    }

    fn command(&self, more: &str) -> Command {
        let text = format!(
            "[node]\nname = \"n1\"\ndata_dir = {:?}\n[listen]\nclient = \"127.0.0.1:{}\"\npeer = \"127.0.0.1:{}\"\n\
             admin = \"127.0.0.1:{}\"\n{more}",
            self.dir.path().join("data"),
            self.base,
            self.base + 1,
            self.base + 2,
        );
        let config = self.dir.path().join("n1.toml");
        std::fs::write(&config, text).expect("a file");
        let mut command = binary::command();
        command.arg("start").arg("--config").arg(config);
        command
    }

    async fn refuses(&self, more: &str, words: &[&str]) {
        let output = run_command(self.command(more), SHORT).await.expect(78);
        for word in words {
            assert!(
                output.stderr.contains(word),
                "no `{word}` in {}",
                output.stderr
            );
        }
        assert!(!output.stderr.contains("hunter2"), "{}", output.stderr);
        assert!(
            !self.dir.path().join("data").exists(),
            "nothing was touched"
        );
    }
}

#[tokio::test]
async fn a_node_does_not_start_with_what_the_others_would_refuse() {
    let single = Single::new();
    let made = [
        "cert create-ca",
        "cert create-node n1 --host",
        "cert create-client",
        "security.insecure",
    ];
    single.refuses("", &made).await;
    let literal = "[security]\nroot_password = \"hunter2\"\n";
    single
        .refuses(
            literal,
            &["security.root_password", "file:PATH or env:NAME"],
        )
        .await;
    let certs = Certs::make(&single.dir.path().join("certs")).await;
    certs.expired_node("late");
    single
        .refuses(
            &certs.section("late"),
            &["late.crt", "expired at 2021-01-01"],
        )
        .await;
    certs.cert(&["create-client", "alice"]).await.expect(0);
    single
        .refuses(&certs.section("alice"), &["alice.crt", "create-node"])
        .await;
    certs.node("n1").await;
    let foreign = Certs::make(&single.dir.path().join("foreign")).await;
    let ca = |certs: &Certs| certs.path("ca.crt").display().to_string();
    let other = certs.section("n1").replace(&ca(&certs), &ca(&foreign));
    single
        .refuses(&other, &["n1.crt", "not of this cluster's CA"])
        .await;
    let swapped = certs.section("n1").replace("n1.key", "alice.key");
    single.refuses(&swapped, &["n1.crt", "alice.key"]).await;
    let none = certs.section("n1").replace("n1.key", "none.key");
    single.refuses(&none, &["none.key"]).await;
}

/// The admin port asks for certificates where it is told to, and root's password comes from the environment.
#[tokio::test]
async fn operators_show_certificates_and_secrets_come_by_reference() {
    let single = Single::new();
    let certs = Certs::make(&single.dir.path().join("certs")).await;
    certs.node("n1").await;
    certs.cert(&["create-client", "alice"]).await.expect(0);
    let more = format!(
        "{}admins_need_certificate = true\n[security]\nroot_password = \"env:ROOT_PASSWORD_OF_THE_TEST\"\n",
        certs.section("n1")
    );
    let mut command = single.command(&more);
    command.env("ROOT_PASSWORD_OF_THE_TEST", PASSWORD);
    let log = single.dir.path().join("n1.log");
    let _node = Running::spawn(&mut command, &log);
    let api = Api::trusting(&single.url(0), &certs.trust());
    eventually("the node listens", READY, || async {
        let answer = api.get("/healthz").try_send().await;
        answer
            .is_ok_and(|answer| answer.status == 200)
            .then_some(())
    })
    .await;
    let admin = single.url(2);
    let init = [
        "cluster",
        "init",
        "--admin",
        &admin,
        "--shards",
        "1",
        "--replicas",
        "1",
        "-o",
        "json",
    ];
    let nobody = verb(&certs, &[&init[..], &["--wait", "0"]].concat())
        .await
        .expect(3);
    assert!(nobody.stdout.contains("--cert"), "{}", nobody.stdout);
    let (own, key) = (certs.path("alice.crt"), certs.path("alice.key"));
    let shows = [
        "--cert",
        own.to_str().expect("text"),
        "--key",
        key.to_str().expect("text"),
    ];
    let made = verb(&certs, &[&init[..], &shows].concat())
        .await
        .expect(0)
        .json();
    assert!(
        made["rootPassword"].is_null(),
        "it is known and not shown: {made}"
    );
    let api = api.at(&format!("{}/v1", single.url(0)));
    eventually("root logs in", READY, || async {
        let body = json!({ "username": "root", "password": PASSWORD });
        let answer = api
            .post("/db/User/login")
            .json(&body)
            .try_send()
            .await
            .ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    let log = std::fs::read_to_string(log).expect("the log");
    assert!(!log.contains(PASSWORD), "{log}");
}

#[tokio::test]
async fn certificates_are_made_once_and_for_their_owner_alone() {
    let dir = TempDir::new().expect("temporary folder");
    let certs = Certs::make(&dir.path().join("new/certs")).await;
    let node = [
        "create-node",
        "n1",
        "--host",
        "10.0.0.1",
        "--host",
        "n1.example.com",
    ];
    let made = certs.cert(&node).await.expect(0);
    for word in [
        "n1.crt",
        "n1.key",
        "10.0.0.1",
        "n1.example.com",
        "[tls]",
        "certificate = ",
    ] {
        assert!(made.stdout.contains(word), "no {word} in {}", made.stdout);
    }
    certs
        .cert(&["create-client", "alice", "--days", "1"])
        .await
        .expect(0);
    let mut files: Vec<_> = std::fs::read_dir(certs.path(""))
        .expect("a folder")
        .flatten()
        .collect();
    files.sort_by_key(std::fs::DirEntry::file_name);
    let names: Vec<_> = files
        .iter()
        .map(|file| file.file_name().into_string().expect("text"))
        .collect();
    assert_eq!(
        names,
        [
            "alice.crt",
            "alice.key",
            "ca.crt",
            "ca.key",
            "n1.crt",
            "n1.key"
        ]
    );
    for file in files {
        let mode = file.metadata().expect("a file").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{file:?}");
    }
    let content = |name: &str| std::fs::read(certs.path(name)).expect("a file");
    let before = (content("n1.crt"), content("ca.crt"));
    for again in [&node[..], &["create-ca"]] {
        let refused = certs.cert(again).await.expect(1);
        assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    }
    assert_eq!(
        before,
        (content("n1.crt"), content("ca.crt")),
        "nothing was replaced"
    );
    certs
        .cert(&[&node[..], &["--force"]].concat())
        .await
        .expect(0);
    assert_ne!(before.0, content("n1.crt"));

    let show = |file: &str| {
        let file = certs.path(file).display().to_string();
        async move { binary::run(["cert", "show", &file, "-o", "json"]).await }
    };
    let shown = show("n1.crt").await.expect(0).json();
    assert_eq!(shown[0]["subject"], "CN=n1");
    let names = [
        NODE_NAME,
        "10.0.0.1",
        "n1.example.com",
        "localhost",
        "127.0.0.1",
        "::1",
    ];
    assert_eq!(shown[0]["names"], json!(names));
    assert_eq!(shown[0]["roles"], json!(["node", "server", "client"]));
    assert_eq!(
        show("alice.crt").await.expect(0).json()[0]["roles"],
        json!(["client"])
    );
    assert_eq!(
        show("ca.crt").await.expect(0).json()[0]["roles"],
        json!(["ca"])
    );
    certs.expired_node("late");
    show("late.crt").await.expect(1);
    show("n1.key").await.expect(1);

    let empty = TempDir::new().expect("temporary folder");
    let nothing = run_in(empty.path(), &["cert", "create-node", "n1", "--host", "a"])
        .await
        .expect(1);
    assert!(nothing.stderr.contains("create-ca"), "{}", nothing.stderr);
}

async fn run_in(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = binary::command();
    command.args(arguments).current_dir(dir);
    run_command(command, SHORT).await
}
