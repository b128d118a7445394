//! Promise: a query that cannot be asked is refused by name, and one that cannot be answered by all shards is an error, with and without
//! indexes: never a part of the result.

use proto::{ErrorCode, ShardId, v1};
use serde_json::{Value, json};
use tests::cluster::READY;
use tests::{Api, Checks, Cluster, Options, eventually, grpc, npm};

/// Documents that together are larger than a result may be, and the bytes of each.
const LARGE: usize = 20;
const LARGE_BYTES: usize = 1_000_000;

/// What must not be asked: filter, sort, status, code, and a word of the message.
type Refusal = (String, String, u16, &'static str, &'static str);

#[tokio::test]
async fn what_cannot_be_asked_is_refused_by_name() {
    let cluster = Cluster::dev().await;
    let root = cluster.root(0).await;
    let fields = json!({
        "n": { "name": "n", "type": "/db/Integer" },
        "day": { "name": "day", "type": "/db/Date" },
        "place": { "name": "place", "type": "/db/GeoPoint" },
        "text": { "name": "text", "type": "/db/String" },
    });
    let class = json!([{ "class": "/db/Asked", "fields": fields }]);
    root.post("/schema").json(&class).expect(200).await;
    let mut checks = Checks::new();
    let mut documents = grpc::documents(&cluster.nodes[0].client);
    for (filter, sort, status, code, word) in refusals() {
        let what = format!("{filter:.60} {sort:.60}");
        let refusal = (status, code, word);
        let asked = Asked { filter, sort };
        let both = async {
            refuse(&root, &asked, refusal).await;
            refuse_by_grpc(&mut documents, &root, &asked, refusal).await;
        };
        checks.check(&what, both).await;
    }
    checks
        .check("a result that is too large", too_large(&root))
        .await;
    checks.check("what is just allowed", allowed(&root)).await;
    checks.finish();
}

fn refusals() -> Vec<Refusal> {
    let filter = |filter: &str, status, code, word| {
        let filter = filter.to_owned();
        (filter, String::new(), status, code, word)
    };
    let sort =
        |sort: &str, status, code, word| ("{}".to_owned(), sort.to_owned(), status, code, word);
    let nested = |depth: usize| {
        let open = r#"{"$and":["#.repeat(depth);
        format!("{open}{{}}{}", "]}".repeat(depth))
    };
    let list = |length: usize| json!({ "n": { "$in": vec![1; length] } }).to_string();
    let keys = |count: usize| {
        let keys = (0..count).map(|at| format!(r#""f{at}":1"#));
        format!("{{{}}}", keys.collect::<Vec<_>>().join(","))
    };
    let regex = |regex: &str| json!({ "s": { "$regex": regex } }).to_string();
    let steps = json!({ vec!["a"; 33].join("."): 1 }).to_string();
    let place = json!([
        { "place": { "$nearSphere": { "$geometry": { "type": "Point", "coordinates": [0, 0] } } } },
        { "place": { "$geoWithin": { "$centerSphere": [[0, 0], 1] } } },
        { "place": { "$nearSphere": { "$geometry": { "type": "Point", "coordinates": [200, 0] } } } },
    ]);
    vec![
        filter("{", 471, "syntax_error", "line 1"),
        filter("[]", 471, "syntax_error", "object"),
        filter("null", 471, "syntax_error", "object"),
        filter(
            r#"{"n":{"$gt":1,"x":2}}"#,
            468,
            "query_not_supported",
            "operator x",
        ),
        filter(r#"{"$or":{}}"#, 471, "syntax_error", "$or"),
        filter(r#"{"n":{"$in":1}}"#, 471, "syntax_error", "$in"),
        filter(&regex("("), 468, "query_not_supported", "$regex"),
        filter(r#"{"$where":"1"}"#, 468, "query_not_supported", "$where"),
        filter(
            r#"{"n":{"$bitsAllSet":1}}"#,
            468,
            "query_not_supported",
            "$bitsAllSet",
        ),
        filter(&regex(r"(a)\1"), 468, "query_not_supported", "$regex"),
        filter(&place[0].to_string(), 468, "query_not_supported", "place"),
        filter(&place[1].to_string(), 468, "query_not_supported", "place"),
        filter(&place[2].to_string(), 463, "invalid_type_value", "place"),
        filter(
            r#"{"day":{"$gt":"tomorrow"}}"#,
            463,
            "invalid_type_value",
            "day",
        ),
        filter(&nested(33), 400, "bad_request", "32"),
        filter(&nested(20_000), 400, "bad_request", "limit"),
        filter(&list(10_001), 400, "bad_request", "10000"),
        filter(&regex(&"a".repeat(1_025)), 400, "bad_request", "1024"),
        filter(&regex(r"\pL{300}"), 400, "bad_request", "1048576"),
        filter(&steps, 400, "bad_request", "32"),
        filter(&keys(1_001), 400, "bad_request", "1000"),
        sort("{", 471, "syntax_error", "line 1"),
        sort("[]", 471, "syntax_error", "sort"),
        sort(r#"{"n":2}"#, 471, "syntax_error", "n"),
        sort(&keys(33), 400, "bad_request", "32"),
    ]
}

struct Asked {
    filter: String,
    sort: String,
}

/// A shard says that a place has no index, and an explanation says it of each shard.
fn is_of_shards(refusal: (u16, &str, &str)) -> bool {
    let (status, _, word) = refusal;
    (status, word) == (468, "place")
}

/// Every way of asking is refused alike.
async fn refuse(root: &Api, asked: &Asked, refusal: (u16, &str, &str)) {
    let (status, code, word) = refusal;
    let sort = form_urlencoded::byte_serialize(asked.sort.as_bytes()).collect::<String>();
    for verb in ["/db/Asked/query", "/db/Asked/count", "/explain/Asked"] {
        // A count has no order that could be wrong.
        let is_count = verb.ends_with("count") && !sort.is_empty();
        if is_count || (verb.starts_with("/explain") && is_of_shards(refusal)) {
            continue;
        }
        let request = root.post(&format!("{verb}?start=0&sort={sort}"));
        let answer = request.body(asked.filter.clone()).refused(status, code);
        let answer = answer.await.json();
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(message.contains(word), "{verb}: {message}");
    }
}

/// So is every way over gRPC, with the code's own status.
async fn refuse_by_grpc(
    documents: &mut grpc::Documents,
    root: &Api,
    asked: &Asked,
    refusal: (u16, &str, &str),
) {
    let (_, code, word) = refusal;
    let status = ErrorCode::parse(code).expect("a code").grpc_code();
    let query = || {
        let query = v1::QueryRequest {
            bucket: "Asked".to_owned(),
            filter: asked.filter.clone(),
            sort: asked.sort.clone(),
            ..Default::default()
        };
        grpc::request(query, root.token(), None)
    };
    let mut outcomes = vec![match documents.query(query()).await {
        Ok(stream) => stream.into_inner().message().await.map(|_| ()),
        Err(status) => Err(status),
    }];
    if asked.sort.is_empty() {
        let count = v1::CountRequest {
            bucket: "Asked".to_owned(),
            filter: asked.filter.clone(),
            ..Default::default()
        };
        let counted = documents.count(grpc::request(count, root.token(), None));
        outcomes.push(counted.await.map(|_| ()));
    }
    if !is_of_shards(refusal) {
        outcomes.push(documents.explain(query()).await.map(|_| ()));
    }
    for outcome in outcomes {
        let message = outcome.as_ref().err().map_or("", |status| status.message());
        assert!(message.contains(word), "{message}");
        grpc::refused(outcome, status, code);
    }
}

/// The bytes of a result have a limit, and the refusal says how many documents fit. Cut by `count` it is answered.
async fn too_large(root: &Api) {
    let text = "x".repeat(LARGE_BYTES);
    for at in 0..LARGE {
        let put = root.put(&format!("/db/Asked/large{at}"));
        put.json(&json!({ "text": text })).expect(200).await;
    }
    let query = "/db/Asked/query?count";
    let refused = root.post(&format!("{query}=-1")).body("{}");
    let answer = refused.refused(468, "query_not_supported").await.json();
    let message = answer["message"].as_str().unwrap_or_default();
    let fit = message.split_whitespace().rev().nth(1);
    let fit: usize = fit.and_then(|fit| fit.parse().ok()).expect(message);
    assert!((1..LARGE).contains(&fit), "{message}");
    let cut = root.post(&format!("{query}={fit}")).body("{}").expect(200);
    let found = cut.await.json().as_array().map_or(0, Vec::len);
    assert_eq!(found, fit);
    root.delete("/db/Asked").expect(200).await;
}

/// The last of what is accepted.
async fn allowed(root: &Api) {
    let list = json!({ "n": { "$in": vec![1; 10_000] } });
    let regex = json!({ "s": { "$regex": "a".repeat(1_024) } });
    for filter in [list, regex] {
        let found = root.post("/db/Asked/query").body(filter.to_string());
        assert_eq!(found.expect(200).await.json(), json!([]));
    }
}

#[tokio::test]
async fn while_shards_are_cut_off_an_answer_is_whole_or_an_error() {
    // Each shard lies on one node alone, so that nobody can stand in for it.
    let options = Options {
        replicas: 1,
        ..Options::default()
    };
    let mut cluster = Cluster::start(options).await;
    npm::import_movies(&cluster).await;
    let root = cluster.root(0).await;
    let index = json!({ "unique": false, "keys": [{ "IMDB Rating": "asc" }] });
    root.post("/index/Movies").json(&index).expect(202).await;
    eventually("the index is ready", READY, || async {
        let shown = root.get("/index/Movies").try_send().await.ok()?;
        (shown.json()[0]["state"] == "ready").then_some(())
    })
    .await;
    let holder = cluster.leader(ShardId(1), 0).await;
    let api = cluster.api((holder + 1) % cluster.nodes.len());
    let whole = all(&api).await.map(|answer| answer.expect("answered"));
    cluster.pause(holder);
    for (question, answer) in QUESTIONS.iter().zip(all(&api).await) {
        assert_eq!(answer, Err(503), "{question}");
    }
    cluster.resume(holder);
    eventually("queries are whole again", READY, || async {
        let answers = all(&api).await;
        let is_whole = |(answer, whole): (&Result<Value, u16>, &Value)| match answer {
            Ok(found) => {
                assert_eq!(found, whole);
                true
            }
            Err(_) => false,
        };
        answers.iter().zip(&whole).all(is_whole).then_some(())
    })
    .await;
}

/// By the index, in its order, counted by it, and without it.
const QUESTIONS: [&str; 4] = [
    "query?q={%22IMDB%20Rating%22:{%22$gte%22:8.5}}",
    "query?q={%22IMDB%20Rating%22:{%22$gte%22:5}}&sort={%22IMDB%20Rating%22:1}&count=20",
    "count?q={%22IMDB%20Rating%22:{%22$gte%22:7}}",
    "count?q={%22Director%22:%22Woody%20Allen%22}",
];

/// What is found, or the status of the error.
async fn all(api: &Api) -> [Result<Value, u16>; 4] {
    let ask = |question: &str| {
        let asked = api.get(&format!("/db/Movies/{question}"));
        async {
            let answer = asked.send().await;
            match answer.status {
                200 => Ok(answer.json()),
                _ => Err(answer.status),
            }
        }
    };
    let [one, two, three, four] = QUESTIONS.map(ask);
    let (one, two, three, four) = tokio::join!(one, two, three, four);
    [one, two, three, four]
}
