//! Promise: a query that cannot be asked is refused by name, and one that cannot be answered by all shards is an error, with and without
//! indexes: never a part of the result.

use proto::ShardId;
use serde_json::{Value, json};
use tests::cluster::READY;
use tests::{Api, Checks, Cluster, Options, eventually, npm};

/// What must not be asked: filter, more parameters, status, code, and a word of the message.
type Refusal = (String, String, u16, &'static str, &'static str);

#[tokio::test]
async fn what_cannot_be_asked_is_refused_by_name() {
    let cluster = Cluster::dev().await;
    let root = cluster.root(0).await;
    let fields = json!({
        "n": { "name": "n", "type": "/db/Integer" },
        "day": { "name": "day", "type": "/db/Date" },
        "place": { "name": "place", "type": "/db/GeoPoint" },
    });
    let class = json!([{ "class": "/db/Asked", "fields": fields }]);
    root.post("/schema").json(&class).expect(200).await;
    let mut checks = Checks::new();
    for (filter, more, status, code, word) in refusals() {
        let what = format!("{filter:.60} {more:.60}");
        let refusal = (status, code, word);
        checks
            .check(&what, refuse(&root, &filter, &more, refusal))
            .await;
    }
    checks.check("what is just allowed", allowed(&root)).await;
    checks.finish();
}

fn refusals() -> Vec<Refusal> {
    let filter = |filter: &str, status, code, word| {
        let filter = filter.to_owned();
        (filter, String::new(), status, code, word)
    };
    let sort = |sort: &str, status, code, word| {
        let sort = form_urlencoded::byte_serialize(sort.as_bytes()).collect::<String>();
        ("{}".to_owned(), format!("&sort={sort}"), status, code, word)
    };
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

/// Every way of asking is refused alike.
async fn refuse(root: &Api, filter: &str, more: &str, refusal: (u16, &str, &str)) {
    let (status, code, word) = refusal;
    for verb in ["/db/Asked/query", "/db/Asked/count", "/explain/Asked"] {
        // A count has no order that could be wrong.
        if verb.ends_with("count") && !more.is_empty() {
            continue;
        }
        // An explanation says it of each shard.
        if verb.starts_with("/explain") && (status, word) == (468, "place") {
            continue;
        }
        let asked = root.post(&format!("{verb}?start=0{more}"));
        let answer = asked.body(filter.to_owned()).refused(status, code).await;
        let message = answer.json()["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(message.contains(word), "{verb}: {message}");
    }
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
