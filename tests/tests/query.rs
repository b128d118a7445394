//! Promise: a query is answered by every node alike, over all shards, wholly or with a clear error, whatever happens to a leader.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{self, AtomicBool};

use proto::v1;
use serde_json::{Value, json};
use tests::cluster::READY;
use tests::{Answer, Api, Checks, Cluster, binary, eventually, grpc, npm};
use tonic::Code;

#[tokio::test]
async fn queries() {
    let cluster = Cluster::dev().await;
    let films = import(&cluster).await;
    let mut checks = Checks::new();
    checks
        .check(
            "every node finds what a look at all films finds",
            results(&cluster, &films),
        )
        .await;
    checks.check("page tokens", pages(&cluster, &films)).await;
    checks.check("the form over HTTP", form(&cluster)).await;
    checks.check("gRPC", over_grpc(&cluster, &films)).await;
    checks
        .check("the command line", by_hand(&cluster, &films))
        .await;
    checks.finish();
}

#[tokio::test]
async fn while_a_leader_is_killed_answers_are_whole_or_errors() {
    let mut cluster = Cluster::dev().await;
    let films = Arc::new(import(&cluster).await);
    let stop = Arc::new(AtomicBool::new(false));
    let askers: Vec<_> = [1, 2]
        .map(|node| {
            let (api, films, stop) = (cluster.api(node), films.clone(), stop.clone());
            tokio::spawn(async move {
                let (mut whole, mut errors) = (0, 0);
                while !stop.load(atomic::Ordering::Relaxed) {
                    let counted = api.get("/db/Movies/count?q={}").send().await;
                    let path = "/db/Movies/query?count=50&sort={%22IMDB%20Rating%22:-1}";
                    let sorted = api.get(path).send().await;
                    for answer in [counted, sorted] {
                        match answer.status {
                            200 => {
                                whole += 1;
                                judge(&answer, &films);
                            }
                            _ => {
                                errors += 1;
                                answer.refused(503, "unavailable");
                            }
                        }
                    }
                }
                (whole, errors)
            })
        })
        .into();
    cluster.kill(0).await;
    // Only leaders that were elected since can have answered this.
    for node in [1, 2] {
        let api = cluster.api(node);
        eventually("queries are back", READY, || async {
            let answer = api.get("/db/Movies/count?q={}").send().await;
            (answer.status == 200).then(|| judge(&answer, &films))
        })
        .await;
    }
    stop.store(true, atomic::Ordering::Relaxed);
    for asker in askers {
        let (whole, errors) = asker.await.expect("no answer was wrong");
        assert!(whole > 0, "{errors} errors");
    }
}

/// A count, or the best 50 films.
fn judge(answer: &Answer, films: &[Value]) {
    match answer.json() {
        Value::Array(best) => assert_eq!(ratings(&best), ratings(&best_of(films, 50))),
        counted => assert_eq!(counted, json!({ "count": films.len() })),
    }
}

/// The films with their ids, as stored.
async fn import(cluster: &Cluster) -> Vec<Value> {
    npm::import_movies(cluster).await;
    let url = &cluster.nodes[0].client;
    let films = grpc::scan_all(url, "Movies", None).await;
    assert!(films.len() > 3_000, "{} films", films.len());
    films
}

fn rating(film: &Value) -> f64 {
    film["IMDB Rating"].as_f64().unwrap_or(f64::NEG_INFINITY)
}

fn ratings(films: &[Value]) -> Vec<f64> {
    films.iter().map(rating).collect()
}

fn best_of(films: &[Value], count: usize) -> Vec<Value> {
    let mut films = films.to_vec();
    films.sort_by(|one, other| {
        let by_id = one["id"].as_str().cmp(&other["id"].as_str());
        rating(other)
            .partial_cmp(&rating(one))
            .unwrap_or(Ordering::Equal)
            .then(by_id)
    });
    films.truncate(count);
    films
}

fn ids(films: &[Value]) -> Vec<&str> {
    films
        .iter()
        .filter_map(|film| film["id"].as_str())
        .collect()
}

fn path(word: &str, filter: &Value, more: &str) -> String {
    let text = filter.to_string();
    let filter: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
    format!("/db/Movies/{word}?q={filter}{more}")
}

async fn list(api: &Api, path: &str) -> Vec<Value> {
    match api.get(path).send().await.expect(200).json() {
        Value::Array(list) => list,
        other => panic!("no array: {other}"),
    }
}

async fn results(cluster: &Cluster, films: &[Value]) {
    let drama = json!({ "Major Genre": "Drama", "IMDB Rating": { "$gte": 7.5 } });
    let is_drama = |film: &&Value| film["Major Genre"] == "Drama" && rating(film) >= 7.5;
    let dramas: Vec<Value> = films.iter().filter(is_drama).cloned().collect();
    assert!(dramas.len() > 50, "{}", dramas.len());
    let anonymous = json!({ "Director": null });
    let unnamed = films
        .iter()
        .filter(|film| film["Director"].is_null())
        .count();
    for node in cluster.all() {
        let api = cluster.api(node);
        let sorted = list(
            &api,
            &path("query", &drama, "&sort={%22IMDB%20Rating%22:-1}"),
        )
        .await;
        assert_eq!(
            ids(&sorted),
            ids(&best_of(&dramas, usize::MAX)),
            "node {node}"
        );
        let window = "&sort={%22IMDB%20Rating%22:-1}&start=5&count=20";
        let part = list(&api, &path("query", &drama, window)).await;
        assert_eq!(part, sorted[5..25]);
        assert_eq!(part[0], best_of(&dramas, 6)[5], "whole documents");
        let counted = api.get(&path("count", &drama, "")).send().await.expect(200);
        assert_eq!(counted.json(), json!({ "count": dramas.len() }));
        let counted = api.post("/db/Movies/count").body(anonymous.to_string());
        assert_eq!(
            counted.send().await.expect(200).json(),
            json!({ "count": unnamed })
        );
        let by_key = list(&api, &path("query", &drama, "")).await;
        let posted = api.post("/db/Movies/query").body(drama.to_string());
        assert_eq!(posted.send().await.expect(200).json(), json!(by_key));
        let found: BTreeSet<_> = ids(&by_key).into_iter().collect();
        assert_eq!(found, ids(&dramas).into_iter().collect());
    }
}

async fn pages(cluster: &Cluster, films: &[Value]) {
    for sort in ["", "&sort={%22IMDB%20Rating%22:-1}"] {
        let (mut found, mut after, mut node) = (Vec::new(), String::new(), 0);
        loop {
            let api = cluster.api(node % 3);
            let path = path("query", &json!({}), &format!("{sort}{after}&count=900"));
            let answer = api.get(&path).send().await.expect(200);
            found.extend(answer.json().as_array().expect("an array").iter().cloned());
            match answer.header("larder-continuation") {
                Some(token) => after = format!("&after={token}"),
                None => break,
            }
            node += 1;
        }
        let distinct: BTreeSet<_> = ids(&found).into_iter().collect();
        assert_eq!(
            (found.len(), distinct.len()),
            (films.len(), films.len()),
            "{sort}"
        );
        if !sort.is_empty() {
            assert_eq!(ratings(&found), ratings(&best_of(films, usize::MAX)));
        }
    }
}

async fn form(cluster: &Cluster) {
    let api = cluster.api(1);
    let drama = json!({ "Major Genre": "Drama" });
    let address = path("query", &drama, "&count=3");
    let first = api.get(&address).send().await.expect(200);
    assert_eq!(first.header("cache-control").as_deref(), Some("no-cache"));
    assert_eq!(
        first.header("larder-as-of").as_deref(),
        Some("linearizable;age-ms=0")
    );
    let tag = first.header("etag").expect("a tag");
    let known = api
        .get(&address)
        .header("if-none-match", &tag)
        .send()
        .await
        .expect(304);
    assert!(known.body.is_empty());
    assert_eq!(known.header("etag"), Some(tag));
    let other = api
        .get(&path("query", &drama, "&count=4"))
        .send()
        .await
        .expect(200);
    assert_ne!(other.header("etag"), first.header("etag"));

    let cut = api
        .get(&path("query", &drama, "&count=2&fields=Title"))
        .send()
        .await
        .expect(200);
    assert_eq!(
        cut.header("cache-control").as_deref(),
        Some("private, no-store")
    );
    let members: Vec<_> = cut.json()[0]
        .as_object()
        .expect("an object")
        .keys()
        .cloned()
        .collect();
    assert_eq!(
        members,
        ["id", "version", "acl", "createdAt", "updatedAt", "Title"]
    );
    let id = first.json()[0]["id"].as_str().expect("an id").to_owned();
    let one = api
        .get(&format!("{id}?fields=Title"))
        .send()
        .await
        .expect(200);
    assert_eq!(one.json(), cut.json()[0]);
    assert_eq!(
        one.header("cache-control").as_deref(),
        Some("private, no-store")
    );

    let entries = list(
        &api,
        &path("query", &drama, "&count=3&eager=false&hinted=true"),
    )
    .await;
    assert_eq!(entries[0], json!({ id: 1 }));

    // As long as clients make them.
    let long = json!({ "Title": { "$in": vec!["no film is called so"; 500] } });
    let address = path("query", &long, "");
    assert!(
        (12_000..16_384).contains(&address.len()),
        "{}",
        address.len()
    );
    assert_eq!(list(&api, &address).await.len(), 0);

    for (address, status, code) in [
        (
            "/db/Movies/query?q={%22Title%22:{%22$near%22:1}}",
            468,
            "query_not_supported",
        ),
        ("/db/Movies/query?q={", 471, "syntax_error"),
        ("/db/Movies/query?sort=x", 471, "syntax_error"),
        ("/db/Nothing/query?q={}", 461, "bucket_not_found"),
        (
            "/db/Movies/query?q={%22createdAt%22:{%22$gt%22:{%22$date%22:%22x%22}}}",
            463,
            "invalid_type_value",
        ),
        ("/db/Movies/query?after=AAAA", 400, "bad_request"),
        ("/db/Movies/query?count=-2", 400, "bad_request"),
        ("/db/Movies/query?allowScan=true", 466, "permission_denied"),
    ] {
        api.get(address).refused(status, code).await;
    }
}

fn request(filter: &Value, sort: &str) -> v1::QueryRequest {
    v1::QueryRequest {
        bucket: "Movies".to_owned(),
        filter: filter.to_string(),
        sort: sort.to_owned(),
        ..v1::QueryRequest::default()
    }
}

async fn over_grpc(cluster: &Cluster, films: &[Value]) {
    let mut documents = grpc::documents(&cluster.nodes[2].client);
    let sort = r#"{"IMDB Rating":-1}"#;
    let (mut found, mut middle) = (Vec::new(), Vec::new());
    let asked = documents
        .query(request(&json!({}), sort))
        .await
        .expect("a stream");
    let mut stream = asked.into_inner();
    while let Some(page) = stream.message().await.expect("a page") {
        found.extend(page.documents);
        if middle.is_empty() && !page.continuation.is_empty() {
            assert_eq!(page.served.len(), 4);
            middle = vec![(found.len(), page.continuation)];
        }
    }
    let parsed: Vec<Value> = found
        .iter()
        .map(|document| serde_json::from_slice(&document.json).expect("JSON"))
        .collect();
    assert_eq!(ids(&parsed), ids(&best_of(films, usize::MAX)));
    // More than one message, and each is a place to go on, at any node.
    let (seen, continuation) = middle.pop().expect("a continuation");
    let mut elsewhere = grpc::documents(&cluster.nodes[0].client);
    let rest = v1::QueryRequest {
        continuation,
        limit: 5,
        ..request(&json!({}), sort)
    };
    let mut stream = elsewhere.query(rest).await.expect("a stream").into_inner();
    let page = stream.message().await.expect("a page").expect("documents");
    let keys = |documents: &[v1::Document]| -> Vec<String> {
        documents
            .iter()
            .map(|document| document.key.clone())
            .collect()
    };
    assert_eq!(keys(&page.documents), keys(&found[seen..seen + 5]));

    let count = v1::CountRequest {
        bucket: "Movies".to_owned(),
        filter: r#"{"Director":null}"#.to_owned(),
        ..v1::CountRequest::default()
    };
    let unnamed = films
        .iter()
        .filter(|film| film["Director"].is_null())
        .count() as u64;
    let counted = documents.count(count).await.expect("a count").into_inner();
    assert_eq!((counted.count, counted.served.len()), (unnamed, 4));
    let bad = documents
        .query(request(&json!({ "$where": 1 }), ""))
        .await
        .map(|_| ());
    grpc::refused(bad, Code::Unimplemented, "query_not_supported");
    let bad = documents.query(request(&json!({}), "{")).await.map(|_| ());
    grpc::refused(bad, Code::InvalidArgument, "syntax_error");
}

async fn by_hand(cluster: &Cluster, films: &[Value]) {
    let url = &cluster.nodes[1].client;
    let common = ["Movies", "--url", url];
    let run = |verb, more: &[&'static str]| {
        let words = ["doc", verb]
            .into_iter()
            .chain(common)
            .chain(more.iter().copied());
        binary::run(words.map(str::to_owned).collect::<Vec<_>>())
    };
    let options = [
        "--sort",
        r#"{"IMDB Rating":-1}"#,
        "--start",
        "2",
        "--count",
        "3",
    ];
    let found = run("query", &[&options[..], &["-o", "json"]].concat())
        .await
        .expect(0);
    assert_eq!(
        ids(found.json().as_array().expect("an array")),
        ids(&best_of(films, 5)[2..])
    );
    assert!(found.stderr.contains("--after "), "{}", found.stderr);
    let lines = run("query", &options).await.expect(0);
    let lines: Vec<Value> = lines
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines, best_of(films, 5)[2..]);
    let counted = run("count", &["--filter", r#"{"Director":null}"#])
        .await
        .expect(0);
    let unnamed = films
        .iter()
        .filter(|film| film["Director"].is_null())
        .count();
    assert_eq!(counted.stdout.trim(), unnamed.to_string());
    let refused = run("query", &["--filter", "{"]).await.expect(1);
    assert!(
        refused.stderr.contains("syntax_error"),
        "{}",
        refused.stderr
    );
}
