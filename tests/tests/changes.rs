//! Promise: a change feed never strands its consumer. Whatever dies, and however far the logs are trimmed, whoever takes over what it is
//! told ends up with what is stored; versions of a document never go back, and an event that comes again has the name it had.

use std::time::Duration;

use serde_json::{Value, json};
use tests::cluster::READY;
use tests::feed::{Consumer, Via, table};
use tests::load::Load;
use tests::tls::Trust;
use tests::{Api, Checks, Cluster, Options, eventually, is_soak};

const DEADLINE: Duration = Duration::from_secs(60);

/// Every poll is a resume, each at another node than the last, while nodes die and come back under load.
#[tokio::test]
async fn nothing_is_lost_over_kills_and_resumes() {
    let mut cluster = Cluster::dev().await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let load = Load::start(&nodes, "Demo", 6, 4);
    let mut consumer = Consumer::default();
    let (kills, polls) = if is_soak() { (50, 10) } else { (2, 8) };
    let mut resumes = 0;
    for kill in 0..kills {
        let dead = kill % nodes.len();
        cluster.kill(dead).await;
        for at in 0..polls {
            consumer.poll(&nodes[(kill + at) % nodes.len()]).await;
            resumes += 1;
        }
        load.progress(50, READY).await;
        cluster.spawn(dead);
        cluster.node_ready(dead, READY).await;
    }
    let written = load.stop().await;
    written.verify(&nodes).await;
    let stored = table(&cluster.root(0).await).await;
    consumer.reach(&nodes, &stored).await;
    assert!(
        consumer.seen.len() > 100,
        "{} events are no load",
        consumer.seen.len()
    );
    assert_eq!(consumer.resyncs, 0, "the log was long enough");
    eprintln!(
        "{} events, {} of them again, over {resumes} resumes",
        consumer.seen.len(),
        consumer.repeated
    );
}

/// A consumer that comes back after the log was overwritten several times.
#[tokio::test]
async fn whom_retention_overtakes_catches_up() {
    let cluster = Cluster::start(Options {
        nodes: 1,
        shards: 1,
        replicas: 1,
        env: vec![("LARDER_CHANGES__RETENTION_MIB".to_owned(), "1".to_owned())],
        ..Options::default()
    })
    .await;
    let (root, anyone) = (cluster.root(0).await, cluster.api(0));
    let write = async |key: usize, round: usize| {
        let text = "x".repeat(16 * 1024);
        let body = json!({ "round": round, "text": text });
        let path = format!("/db/Demo/k{key}");
        let answer = anyone.put(&path).json(&body).send().await;
        assert!(answer.status < 300, "{}", answer.text());
    };
    for key in 0..20 {
        write(key, 0).await;
    }
    let nodes = [anyone.clone()];
    let mut consumer = Consumer::default();
    consumer.reach(&nodes, &table(&root).await).await;
    anyone.delete("/db/Demo/k19").send().await;
    // Ten times what is kept.
    let rounds = if is_soak() { 400 } else { 40 };
    for round in 1..=rounds {
        for key in 0..16 {
            write(key, round).await;
        }
    }
    let trimmed = async || {
        let versions = anyone
            .get("/changes?id=%2Fdb%2FDemo%2Fk0")
            .send()
            .await
            .json();
        let kept = versions["versions"].as_array().map(Vec::len);
        kept.filter(|kept| *kept < 10)
    };
    let kept = eventually("the log is trimmed", DEADLINE, trimmed).await;
    assert!(kept > 0);
    for via in [Via::Socket, Via::Calls] {
        let mut late = consumer.clone();
        late.reach_via(via, &cluster.nodes[0], &table(&root).await)
            .await;
        assert!(late.compacted >= 17, "{} were compacted", late.compacted);
    }
    consumer.reach(&nodes, &table(&root).await).await;
    assert!(
        consumer.compacted >= 17,
        "{} were compacted",
        consumer.compacted
    );
    assert!(
        consumer.seen.len() < 20 * rounds,
        "all of it was told, so nothing was trimmed"
    );
    assert_eq!(consumer.resyncs, 0);

    // Who may not see all that changed begins again with what it may see.
    let hidden = json!({ "acl": { "read": { "/db/User/1": "allow" } } });
    root.put("/db/Demo/k1").json(&hidden).expect(200).await;
    for round in 1..=rounds {
        for key in 2..18 {
            write(key, round).await;
        }
    }
    let mut stored = table(&root).await;
    stored.remove("/db/Demo/k1").expect("the hidden one");
    eventually("the hidden change is trimmed", DEADLINE, async || {
        let versions = root
            .get("/changes?id=%2Fdb%2FDemo%2Fk2")
            .send()
            .await
            .json();
        let kept = versions["versions"].as_array().map(Vec::len);
        kept.filter(|kept| *kept < 10)
    })
    .await;
    for via in [Via::Socket, Via::Calls] {
        let mut late = consumer.clone();
        late.reach_via(via, &cluster.nodes[0], &stored).await;
        assert_eq!(late.resyncs, 1, "{via:?}");
    }
    consumer.reach(&nodes, &stored).await;
    assert_eq!(consumer.resyncs, 1);
}

#[tokio::test]
async fn edges() {
    let cluster = Cluster::dev().await;
    let mut checks = Checks::new();
    checks
        .check("a stream goes on by its last id", streams(&cluster))
        .await;
    checks
        .check("only its own, deletes too", own_only(&cluster))
        .await;
    checks.check("bad requests", refusals(&cluster)).await;
    checks.check("versions", versions(&cluster)).await;
    checks.finish();
}

/// The next event of a kind in a stream, with its id.
async fn next_event(
    stream: &mut reqwest::Response,
    buffer: &mut String,
    kind: &str,
) -> (String, Value) {
    let read = async {
        loop {
            while let Some(end) = buffer.find("\n\n") {
                let text: String = buffer.drain(..end + 2).collect();
                let field = |name: &str| {
                    let mut lines = text.lines();
                    lines
                        .find_map(|line| line.strip_prefix(name))
                        .map(str::to_owned)
                };
                if field("event: ").as_deref() == Some(kind) {
                    let data = field("data: ").expect("data");
                    let data = serde_json::from_str(&data).expect("JSON");
                    return (field("id: ").unwrap_or_default(), data);
                }
            }
            let chunk = stream.chunk().await.expect("a stream").expect("no end");
            buffer.push_str(std::str::from_utf8(&chunk).expect("text"));
        }
    };
    tokio::time::timeout(DEADLINE, read)
        .await
        .expect("an event in time")
}

async fn streams(cluster: &Cluster) {
    let http = Trust::default().http().build().expect("a client");
    let open = async |node: usize, last: Option<&str>| {
        let url = format!("{}/changes?bucket=Demo", cluster.api(node).base());
        let mut request = http.get(url).header("accept-encoding", "gzip");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let stream = request.send().await.expect("a stream");
        assert_eq!(stream.status(), 200);
        assert_eq!(stream.headers()["content-type"], "text/event-stream");
        stream
    };
    let (mut stream, mut buffer) = (open(0, None).await, String::new());
    let (token, _) = next_event(&mut stream, &mut buffer, "progress").await;
    assert!(!token.is_empty());
    cluster
        .api(1)
        .put("/db/Demo/s1")
        .json(&json!({ "n": 1 }))
        .send()
        .await;
    let (token, event) = next_event(&mut stream, &mut buffer, "change").await;
    assert_eq!(
        (&event["op"], &event["id"]),
        (&json!("insert"), &json!("/db/Demo/s1"))
    );
    drop(stream);
    cluster.api(2).delete("/db/Demo/s1").send().await;
    let (mut stream, mut buffer) = (open(2, Some(&token)).await, String::new());
    let (_, event) = next_event(&mut stream, &mut buffer, "change").await;
    assert_eq!(
        (&event["op"], &event["version"]),
        (&json!("delete"), &json!(2))
    );
}

async fn own_only(cluster: &Cluster) {
    let (root, anyone) = (cluster.root(0).await, cluster.api(1));
    let begin = anyone
        .get("/changes?bucket=Demo&wait=1&from=now")
        .expect(200)
        .await
        .json();
    let hidden = json!({ "acl": { "read": { "/db/User/1": "allow" } } });
    for (path, body) in [
        ("/db/Demo/o-hidden", &hidden),
        ("/db/Demo/o-open", &json!({})),
    ] {
        root.put(path).json(body).send().await;
    }
    for path in ["/db/Demo/o-hidden", "/db/Demo/o-open"] {
        root.delete(path).send().await;
    }
    let mut told = Vec::new();
    let mut token = begin["token"].as_str().expect("a token").to_owned();
    while told.len() < 2 {
        let path = format!("/changes?bucket=Demo&wait=5&from={token}");
        let answer = anyone.get(&path).expect(200).await.json();
        told.extend(answer["events"].as_array().cloned().unwrap_or_default());
        token = answer["token"].as_str().expect("a token").to_owned();
    }
    let path = format!("/changes?bucket=Demo&wait=1&from={token}");
    told.extend(
        anyone.get(&path).expect(200).await.json()["events"]
            .as_array()
            .cloned()
            .unwrap_or_default(),
    );
    let told: Vec<_> = told
        .iter()
        .map(|event| (event["op"].as_str(), event["id"].as_str()))
        .collect();
    let id = Some("/db/Demo/o-open");
    assert_eq!(told, [(Some("insert"), id), (Some("delete"), id)]);
}

async fn refusals(cluster: &Cluster) {
    let api = cluster.api(0);
    for (query, status, code) in [
        ("bucket=None", 461, "bucket_not_found"),
        ("bucket=Demo&filter=%7B", 471, "syntax_error"),
        ("filter=%7B%22a%22:1%7D", 400, "bad_request"),
        ("from=nonsense", 400, "bad_request"),
        ("wait=0", 400, "bad_request"),
        ("order=up", 400, "bad_request"),
        ("id=nonsense", 400, "bad_request"),
    ] {
        api.get(&format!("/changes?{query}"))
            .refused(status, code)
            .await;
    }
    api.post("/changes")
        .refused(405, "method_not_allowed")
        .await;
}

async fn versions(cluster: &Cluster) {
    let api = cluster.api(0);
    let mut tokens = Vec::new();
    for n in 1..=3 {
        api.put("/db/Demo/v").json(&json!({ "n": n })).send().await;
        // A feed that begins now at the leader or behind it: what was written is behind its token or will be told.
        let told = eventually("the version is told", DEADLINE, async || {
            let answer = api
                .get("/changes?id=%2Fdb%2FDemo%2Fv")
                .expect(200)
                .await
                .json();
            let newest = answer["versions"][0]["version"].as_u64();
            newest.filter(|version| *version == n)
        });
        told.await;
        let mut consumer = Consumer::default();
        while consumer
            .documents
            .get("/db/Demo/v")
            .map(|(version, _)| *version)
            != Some(n)
        {
            consumer.poll(&api).await;
        }
        tokens.push(consumer.token.expect("a token"));
    }
    let all = api
        .get("/changes?id=%2Fdb%2FDemo%2Fv")
        .expect(200)
        .await
        .json();
    let ns: Vec<_> = all["versions"]
        .as_array()
        .expect("versions")
        .iter()
        .map(|one| one["document"]["n"].clone())
        .collect();
    assert_eq!(ns, [json!(3), json!(2), json!(1)]);
    let path = format!("/changes?id=%2Fdb%2FDemo%2Fv&at={}", tokens[1]);
    let second = api.get(&path).expect(200).await;
    assert_eq!((second.version(), &second.json()["n"]), (2, &json!(2)));
}
