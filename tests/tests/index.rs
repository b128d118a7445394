//! Promise: indexes are built while everything else goes on, and no result depends on them: not while they are built, not over the loss of
//! a leader, not after a restart of all nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use proto::v1;
use serde_json::{Value, json};
use tests::cluster::READY;
use tests::{Api, Checks, Cluster, binary, eventually, grpc, npm};

/// Filters and orders over films, as the path behind `/db/Movies/`.
fn questions() -> Vec<String> {
    let query = |filter: Value, more: &str| {
        let filter: String =
            form_urlencoded::byte_serialize(filter.to_string().as_bytes()).collect();
        format!("query?q={filter}{more}")
    };
    let best = "&sort={%22IMDB%20Rating%22:-1}&count=20";
    let mut all = vec![
        query(
            json!({ "Major Genre": "Drama", "IMDB Rating": { "$gte": 8 } }),
            "",
        ),
        query(json!({ "Major Genre": "Musical" }), best),
        query(json!({ "Director": "Steven Spielberg" }), ""),
        query(
            json!({ "Director": null, "Major Genre": "Western" }),
            "&count=30",
        ),
        query(json!({ "IMDB Rating": { "$gt": 8.2 } }), best),
        query(json!({}), best),
        query(
            json!({ "$or": [{ "Director": "Woody Allen" }, { "IMDB Rating": { "$lt": 2 } }] }),
            "",
        ),
        query(json!({ "Title": { "$regex": "^The God" } }), ""),
    ];
    let counted: Vec<String> = all
        .iter()
        .map(|path| path.replace("query?", "count?"))
        .collect();
    all.extend(counted);
    all
}

async fn answers(api: &Api) -> Vec<Value> {
    let mut all = Vec::new();
    for question in questions() {
        let answer = api.get(&format!("/db/Movies/{question}")).send().await;
        all.push(answer.expect(200).json());
    }
    all
}

async fn create(api: &Api, bucket: &str, keys: Value) {
    let definition = json!({ "unique": false, "keys": keys, "drop": false });
    let made = api.post(&format!("/index/{bucket}")).json(&definition);
    made.send().await.expect(202);
}

/// Waits until a node shows so many indexes, all of them ready.
async fn ready(api: &Api, bucket: &str, count: usize) {
    eventually("the indexes are ready", READY, || async {
        let shown = api.get(&format!("/index/{bucket}")).try_send().await.ok()?;
        let shown = (shown.status == 200).then(|| shown.json())?;
        let shown = shown.as_array().expect("an array");
        let is_ready = |index: &Value| index["state"] == "ready" && index["progress"] == 1.0;
        (shown.len() == count && shown.iter().all(is_ready)).then_some(())
    })
    .await;
}

async fn explain(root: &Api, filter: &Value, more: &str) -> Value {
    let path = format!("/explain/Movies?start=0{more}");
    let asked = root.post(&path).body(filter.to_string());
    asked.send().await.expect(200).json()
}

/// The plan of each shard.
fn plans(explained: &Value) -> Vec<&str> {
    let shards = explained["shards"].as_array().expect("shards");
    let plan = |shard: &Value| shard["plan"].as_str().map(str::len);
    assert!(
        shards.iter().all(|shard| plan(shard).is_some()),
        "{explained:#}"
    );
    shards
        .iter()
        .filter_map(|shard| shard["plan"].as_str())
        .collect()
}

#[tokio::test]
async fn indexes() {
    let cluster = Cluster::dev().await;
    npm::import_movies(&cluster).await;
    let before = answers(&cluster.api(0)).await;
    let root = cluster.root(0).await;
    let mut checks = Checks::new();
    checks
        .check("who may, and what is refused", refusals(&cluster))
        .await;
    for keys in [
        json!([{ "Major Genre": "asc" }, { "IMDB Rating": "desc" }]),
        json!([{ "Director": "asc" }]),
        json!([{ "IMDB Rating": "asc" }]),
        json!([{ "Title": "asc" }]),
    ] {
        create(&root, "Movies", keys).await;
    }
    for node in cluster.all() {
        ready(&cluster.api(node), "Movies", 4).await;
        assert_eq!(answers(&cluster.api(node)).await, before, "node {node}");
    }
    checks.check("explain", explained(&cluster)).await;
    checks.check("the command line", by_hand(&cluster)).await;
    checks.check("over gRPC", over_grpc(&cluster)).await;
    root.delete("/index/Movies").send().await.expect(202);
    for node in cluster.all() {
        let api = cluster.api(node);
        eventually("no index is shown", READY, || async {
            let shown = api.get("/index/Movies").send().await.expect(200).json();
            (shown == json!([])).then_some(())
        })
        .await;
        assert_eq!(answers(&api).await, before, "node {node}");
    }
    let drama = json!({ "Director": "Woody Allen" });
    assert_eq!(plans(&explain(&root, &drama, "").await), ["scan"; 4]);
    checks.finish();
}

async fn refusals(cluster: &Cluster) {
    let (api, root) = (cluster.api(1), cluster.root(1).await);
    let good = json!({ "keys": [{ "Title": "asc" }] });
    let post = |api: &Api, path: &str, body: &Value| api.post(path).body(body.to_string());
    post(&api, "/index/Movies", &good)
        .refused(466, "permission_denied")
        .await;
    api.delete("/index/Movies")
        .refused(466, "permission_denied")
        .await;
    for (path, body, status, code) in [
        ("/index/Nothing", good, 461, "bucket_not_found"),
        ("/index/Movies", json!([]), 471, "syntax_error"),
        (
            "/index/Movies",
            json!({ "keys": [{ "Place": "geo" }], "unique": true }),
            468,
            "query_not_supported",
        ),
    ] {
        post(&root, path, &body).refused(status, code).await;
    }
    api.get("/index/Nothing")
        .refused(461, "bucket_not_found")
        .await;
    assert_eq!(
        api.get("/index/Movies").send().await.expect(200).json(),
        json!([])
    );
    let asked = api.get("/explain/Movies?q={}");
    asked.refused(466, "permission_denied").await;
}

async fn explained(cluster: &Cluster) {
    let root = cluster.root(2).await;
    let woody = json!({ "Director": "Woody Allen" });
    let found = explain(&root, &woody, "").await;
    assert_eq!(plans(&found), ["index"; 4]);
    assert!(found["slowest"].is_u64(), "{found:#}");
    for shard in found["shards"].as_array().expect("shards") {
        assert_eq!(
            shard["indexes"][0]["definition"]["keys"],
            json!([{ "Director": "asc" }])
        );
        assert_eq!(shard["examinedDocuments"], shard["returned"], "{shard:#}");
        assert!(
            shard["ms"].is_f64() && shard["node"].is_string(),
            "{shard:#}"
        );
    }
    let western = json!({ "Major Genre": "Western" });
    let sorted = explain(&root, &western, "&sort={%22IMDB%20Rating%22:-1}&count=3").await;
    let shard = &sorted["shards"][0];
    assert_eq!(shard["plan"], "index", "{shard:#}");
    assert!(shard["indexes"][0]["order"].is_string(), "{shard:#}");
    let one = json!({ "id": { "$in": ["/db/Movies/none"] } });
    assert_eq!(plans(&explain(&root, &one, "").await), ["keys"; 4]);
    let odd = json!({ "Source": { "$size": 2 } });
    assert_eq!(plans(&explain(&root, &odd, "").await), ["scan"; 4]);
}

async fn by_hand(cluster: &Cluster) {
    let url = &cluster.nodes[1].client;
    let as_root = ["--url", url, "--user", "root", "--password-file"];
    let file = cluster.dir().join("root.txt");
    std::fs::write(&file, "root").expect("written");
    let file = file.to_str().expect("a path");
    let run = |words: &[&str]| {
        let all: Vec<String> = words
            .iter()
            .chain(&as_root)
            .chain([&file])
            .map(|word| (*word).to_owned())
            .collect();
        binary::run(all)
    };
    run(&["index", "create", "Movies", "Source", "Title:desc"])
        .await
        .expect(0);
    let shown = eventually("the index is ready", READY, || async {
        let shown = run(&["index", "list", "Movies"]).await.expect(0).stdout;
        let made = shown.lines().find(|line| line.contains("Title:desc"));
        made.filter(|line| line.starts_with("ready"))
            .map(str::to_owned)
    })
    .await;
    assert!(shown.contains("Source Title:desc"), "{shown}");
    let filter = r#"{"Source":"Remake"}"#;
    let shown = run(&["doc", "query", "Movies", "--filter", filter, "--explain"]).await;
    let shown = shown.expect(0).stdout;
    assert_eq!(shown.lines().count(), 4, "{shown}");
    assert!(shown.lines().all(|line| line.contains("index")), "{shown}");
    run(&["index", "drop", "Movies", "Source", "Title:desc"])
        .await
        .expect(0);
    let shown = run(&["index", "list", "Movies"]).await.expect(0).stdout;
    assert_eq!(shown.lines().count(), 4, "{shown}");
}

async fn over_grpc(cluster: &Cluster) {
    let root = cluster.root(0).await;
    let mut documents = grpc::documents(&cluster.nodes[0].client);
    let request = || v1::QueryRequest {
        bucket: "Movies".to_owned(),
        filter: r#"{"Director":"Woody Allen"}"#.to_owned(),
        ..v1::QueryRequest::default()
    };
    let asked = documents.explain(grpc::request(request(), root.token(), None));
    let explained = asked.await.expect("explained").into_inner().json;
    let explained: Value = serde_json::from_str(&explained).expect("JSON");
    assert_eq!(plans(&explained), ["index"; 4]);
    let refused = documents.explain(request()).await;
    grpc::refused(refused, tonic::Code::PermissionDenied, "permission_denied");
}

/// Documents of the test with writers.
const DOCUMENTS: u64 = 600;
/// Different values of the indexed field.
const GROUPS: u64 = 20;

fn document(key: u64, turn: u64) -> Value {
    json!({ "group": (key * 7 + turn) % GROUPS, "turn": turn, "tags": [turn % 3, "all"] })
}

/// Every document by id, without an index.
async fn whole(api: &Api) -> BTreeMap<String, Value> {
    let all = api
        .get("/db/Demo/query?q={}")
        .send()
        .await
        .expect(200)
        .json();
    let all = all.as_array().expect("an array").clone();
    all.into_iter()
        .map(|document| (document["id"].as_str().expect("an id").to_owned(), document))
        .collect()
}

async fn compare(api: &Api) {
    let whole = whole(api).await;
    assert_eq!(whole.len() as u64, DOCUMENTS);
    for group in 0..GROUPS {
        let expected: Vec<&Value> = whole
            .values()
            .filter(|document| document["group"] == group)
            .collect();
        let path = format!("/db/Demo/query?q={{%22group%22:{group}}}&sort={{%22id%22:1}}");
        let found = api.get(&path).send().await.expect(200).json();
        let found: Vec<&Value> = found.as_array().expect("an array").iter().collect();
        assert_eq!(found, expected, "group {group}");
        let path = format!("/db/Demo/count?q={{%22group%22:{group}}}");
        let counted = api.get(&path).send().await.expect(200).json();
        assert_eq!(counted, json!({ "count": expected.len() }), "group {group}");
    }
    let sorted = "/db/Demo/query?q={}&sort={%22group%22:-1,%22turn%22:1}&count=50";
    let sorted = api.get(sorted).send().await.expect(200).json();
    let mut expected: Vec<&Value> = whole.values().collect();
    expected.sort_by_key(|document| {
        let number = |name: &str| document[name].as_u64().expect("a number");
        (GROUPS - number("group"), number("turn"))
    });
    expected.truncate(50);
    let sorted: Vec<&Value> = sorted.as_array().expect("an array").iter().collect();
    assert_eq!(sorted, expected);
}

#[tokio::test]
async fn an_index_is_built_under_writes_and_over_the_loss_of_leaders() {
    let mut cluster = Cluster::dev().await;
    for key in 0..DOCUMENTS {
        let put = cluster.api(0).put(&format!("/db/Demo/k{key:04}"));
        put.json(&document(key, 0)).send().await.expect(200);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..4_u64)
        .map(|writer| {
            let (api, stop, written) = (cluster.api(1), stop.clone(), written.clone());
            tokio::spawn(async move {
                let mut turn = 1;
                while !stop.load(Ordering::Relaxed) {
                    for key in (writer..DOCUMENTS).step_by(4) {
                        let put = api.put(&format!("/db/Demo/k{key:04}"));
                        let answer = put.json(&document(key, turn)).send().await;
                        assert!(
                            matches!(answer.status, 200 | 503 | 504),
                            "{}: {}",
                            answer.status,
                            answer.text()
                        );
                        written.fetch_add(1, Ordering::Relaxed);
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                    turn += 1;
                }
            })
        })
        .collect();
    let stopping = stop.clone();
    let asker = {
        let api = cluster.api(2);
        tokio::spawn(async move {
            while !stopping.load(Ordering::Relaxed) {
                let path = "/db/Demo/query?q={%22group%22:3}";
                let answer = api.get(path).send().await;
                match answer.status {
                    200 => {
                        let found = answer.json();
                        let found = found.as_array().expect("an array");
                        assert!(found.iter().all(|document| document["group"] == 3));
                    }
                    _ => drop(answer.refused(503, "unavailable")),
                }
                // Every write keeps each document somewhere.
                let answer = api
                    .get("/db/Demo/count?q={%22tags%22:%22all%22}")
                    .send()
                    .await;
                match answer.status {
                    200 => assert_eq!(answer.json(), json!({ "count": DOCUMENTS })),
                    _ => drop(answer.refused(503, "unavailable")),
                }
            }
        })
    };
    let root = cluster.root(1).await;
    for keys in [
        json!([{ "group": "desc" }, { "turn": "asc" }]),
        json!([{ "tags": "asc" }]),
    ] {
        create(&root, "Demo", keys).await;
    }
    cluster.kill(0).await;
    ready(&cluster.api(1), "Demo", 2).await;
    let so_far = written.load(Ordering::Relaxed);
    eventually("writes go on", READY, || async {
        (written.load(Ordering::Relaxed) > so_far + 100).then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for task in writers.into_iter().chain([asker]) {
        task.await.expect("no answer was wrong");
    }
    compare(&cluster.api(1)).await;
    cluster.spawn(0);
    cluster.node_ready(0, READY).await;
    cluster.kill_all().await;
    for node in cluster.all() {
        cluster.spawn(node);
    }
    cluster.ready(READY).await;
    for node in cluster.all() {
        ready(&cluster.api(node), "Demo", 2).await;
        compare(&cluster.api(node)).await;
    }
    // Without a quorum an indexed query is refused, never cut short.
    cluster.kill(0).await;
    cluster.kill(1).await;
    let refused = tokio::time::timeout(
        Duration::from_secs(60),
        cluster
            .api(2)
            .get("/db/Demo/query?q={%22group%22:3}")
            .send(),
    );
    let refused = refused.await.expect("an answer in time");
    refused.refused(503, "unavailable");
}
