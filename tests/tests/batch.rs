//! Promise: a batch of one shard happens as a whole or not at all; one over several shards says so, or gives each result.

use document::id::object_id;
use serde_json::{Value, json};
use tests::http::{Call, content};
use tests::{Api, Checks, Cluster};

#[tokio::test]
async fn batches() {
    let cluster = Cluster::dev().await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let root = cluster.root(0).await;
    let class = json!([{ "class": "/db/Line", "fields": {
        "count": { "name": "count", "type": "/db/Integer" },
    }}]);
    root.post("/schema").json(&class).expect(200).await;
    let mut checks = Checks::new();
    checks.check("an order and its lines", order(&nodes)).await;
    checks
        .check("all or nothing", all_or_nothing(&nodes, &root))
        .await;
    checks.check("over shards", over_shards(&nodes)).await;
    checks.check("each for itself", each(&nodes)).await;
    checks.check("repetitions", repetitions(&nodes)).await;
    checks.check("limits and syntax", limits(&nodes)).await;
    checks.finish();
}

fn batch(node: &Api, writes: Value) -> Call {
    node.post("/batch").json(&json!({ "writes": writes }))
}

async fn stored(node: &Api, bucket: &str, key: &str) -> Option<Value> {
    let answer = node.get(&object_id(bucket, key)).send().await;
    (answer.status == 200).then(|| content(&answer.json()))
}

async fn order(nodes: &[Api]) {
    let (order, line, other) = (
        object_id("Demo", "{7}"),
        object_id("Line", "{7}a"),
        object_id("Line", "{7}b"),
    );
    let writes = json!([
        { "put": { "id": order, "sum": 3 }, "if": { "absent": true } },
        { "id": line, "put": { "count": 1 } },
        { "id": other, "put": { "count": 2 } },
    ]);
    let answer = batch(&nodes[1], writes).expect(200).await;
    assert!(answer.header("larder-position").is_some());
    let results = answer.json()["results"].clone();
    for (result, id) in results
        .as_array()
        .expect("results")
        .iter()
        .zip([&order, &line, &other])
    {
        assert_eq!(
            (&result["id"], &result["version"]),
            (&json!(id), &json!(1)),
            "{result}"
        );
        assert_eq!(result["object"]["id"], json!(id));
    }
    let writes = json!([
        { "id": order, "update": { "$inc": { "sum": 4 } }, "if": { "version": 1 } },
        { "id": line, "update": { "$mul": { "count": 5 } } },
        { "id": line, "update": { "$inc": { "count": 1 } }, "if": { "version": 2 } },
        { "id": other, "delete": true, "if": { "exists": true } },
    ]);
    let results = batch(&nodes[2], writes).expect(200).await.json()["results"].clone();
    assert_eq!(results[0]["object"]["sum"], 7);
    assert_eq!(
        (&results[2]["version"], &results[2]["object"]["count"]),
        (&json!(3), &json!(6))
    );
    assert_eq!(results[3], json!({ "id": other, "deleted": true }));
    assert_eq!(
        results[0]["object"]["updatedAt"], results[2]["object"]["updatedAt"],
        "one entry has one time"
    );
    assert_eq!(
        stored(&nodes[0], "Demo", "{7}").await,
        Some(json!({ "sum": 7 }))
    );
    assert_eq!(
        stored(&nodes[0], "Line", "{7}a").await,
        Some(json!({ "count": 6 }))
    );
    assert_eq!(stored(&nodes[0], "Line", "{7}b").await, None);
}

async fn all_or_nothing(nodes: &[Api], root: &Api) {
    let admins = json!({ "read": {}, "write": { "/db/Role/1": "allow" } });
    let locked = json!({ "acl": admins });
    root.put(&object_id("Demo", "{8}locked"))
        .json(&locked)
        .expect(200)
        .await;
    for (write, status, code) in [
        (
            json!({ "id": object_id("Demo", "{8}none"), "update": { "$inc": { "n": 1 } } }),
            404,
            "object_not_found",
        ),
        (
            json!({ "id": object_id("Demo", "{8}"), "put": {}, "if": { "version": 9 } }),
            412,
            "object_out_of_date",
        ),
        (
            json!({ "id": object_id("Demo", "{8}"), "put": {}, "if": { "absent": true } }),
            409,
            "object_exists",
        ),
        (
            json!({ "id": object_id("Demo", "{8}"), "update": { "$push": { "n": 1 } } }),
            400,
            "bad_request",
        ),
        (
            json!({ "id": object_id("Line", "{8}"), "put": { "count": "x" } }),
            463,
            "invalid_type_value",
        ),
        (
            json!({ "id": object_id("Demo", "{8}locked"), "delete": true }),
            466,
            "permission_denied",
        ),
    ] {
        let first = json!({ "id": object_id("Demo", "{8}"), "put": { "n": 1 } });
        let answer = batch(&nodes[1], json!([first, write]))
            .refused(status, code)
            .await;
        let message = answer.json()["message"].clone();
        assert!(
            message
                .as_str()
                .is_some_and(|text| text.starts_with("write 1: ")),
            "{message}"
        );
        assert_eq!(stored(&nodes[2], "Demo", "{8}").await, None, "{code}");
    }
}

/// Two keys without a tag that lie in different shards: one of many does.
fn far_apart() -> Value {
    let puts =
        (0..12).map(|n| json!({ "id": object_id("Demo", &format!("far{n}")), "put": { "n": n } }));
    puts.collect()
}

async fn over_shards(nodes: &[Api]) {
    let answer = batch(&nodes[0], far_apart())
        .refused(400, "cross_shard")
        .await;
    assert!(
        answer.text().contains("{tag}"),
        "it says the way out: {}",
        answer.text()
    );
    assert_eq!(stored(&nodes[0], "Demo", "far0").await, None);
}

async fn each(nodes: &[Api]) {
    let mut writes = far_apart();
    let far = object_id("Demo", "far0");
    let more = json!([
        { "id": far, "update": { "$inc": { "n": 5 } } },
        { "id": far, "update": { "$push": { "n": 5 } } },
        { "id": far, "update": { "$inc": { "n": 1 } }, "if": { "version": 2 } },
        { "id": object_id("Demo", "nowhere"), "update": { "$inc": { "n": 1 } } },
        { "id": object_id("Demo", "nowhere"), "delete": true },
        { "bucket": "Demo", "put": { "made": true } },
    ]);
    let list = writes.as_array_mut().expect("a list");
    list.extend(more.as_array().expect("a list").clone());
    let body = json!({ "atomic": false, "writes": writes });
    let answer = nodes[2].post("/batch").json(&body).expect(200).await;
    let results = answer.json()["results"]
        .as_array()
        .expect("results")
        .clone();
    assert_eq!(results.len(), 18);
    for (n, result) in results[..12].iter().enumerate() {
        assert_eq!(
            (&result["version"], &result["object"]["n"]),
            (&json!(1), &json!(n)),
            "{result}"
        );
    }
    assert_eq!(results[12]["object"]["n"], 5);
    assert_eq!(
        (
            &results[13]["error"]["status"],
            &results[13]["error"]["effect"]
        ),
        (&json!(400), &json!("none"))
    );
    assert_eq!(results[14]["object"]["n"], 6, "in order for one document");
    assert_eq!(results[15]["error"]["code"], "object_not_found");
    assert_eq!(results[16]["deleted"], true);
    assert_eq!(results[17]["object"]["made"], true);
    assert_eq!(
        stored(&nodes[0], "Demo", "far0").await,
        Some(json!({ "n": 6 }))
    );
}

async fn repetitions(nodes: &[Api]) {
    let id = object_id("Demo", "{9}");
    let writes = |by: u64| {
        json!([
            { "put": { "id": object_id("Demo", "{9}once") }, "if": { "absent": true } },
            { "id": id, "update": { "$inc": { "n": by } } },
        ])
    };
    nodes[0].put(&id).json(&json!({ "n": 0 })).expect(200).await;
    let first = batch(&nodes[0], writes(1))
        .idempotent("batch-1")
        .expect(200)
        .await;
    for node in nodes {
        let again = batch(node, writes(1))
            .idempotent("batch-1")
            .expect(200)
            .await;
        assert_eq!(again.body, first.body);
        let other = batch(node, writes(2)).idempotent("batch-1");
        other.refused(422, "idempotency_mismatch").await;
    }
    assert_eq!(
        stored(&nodes[1], "Demo", "{9}").await,
        Some(json!({ "n": 1 }))
    );
    // Not atomic: every write once.
    let body = json!({ "atomic": false, "writes": [
        { "id": id, "update": { "$inc": { "n": 1 } } },
        { "id": id, "update": { "$inc": { "n": 10 } } },
        { "bucket": "Demo", "put": {} },
    ]});
    let send = |node: &Api| {
        node.post("/batch")
            .idempotent("batch-2")
            .json(&body)
            .expect(200)
    };
    let first = send(&nodes[0]).await;
    for node in nodes {
        assert_eq!(send(node).await.body, first.body);
    }
    assert_eq!(
        stored(&nodes[2], "Demo", "{9}").await,
        Some(json!({ "n": 12 }))
    );
}

async fn limits(nodes: &[Api]) {
    let put = |n: usize| json!({ "id": object_id("Demo", &format!("{{l}}{n}")), "put": {} });
    let many: Value = (0..1001).map(put).collect();
    batch(&nodes[0], many).refused(413, "body_too_large").await;
    let long = "x".repeat(900_000);
    let large = |count: usize| -> Value {
        let put = |n: usize| json!({ "id": object_id("Demo", &format!("{{l}}{n}")), "put": { "s": long } });
        (0..count).map(put).collect()
    };
    batch(&nodes[0], large(5))
        .refused(413, "body_too_large")
        .await;
    assert_eq!(stored(&nodes[0], "Demo", "{l}0").await, None);
    let results = batch(&nodes[1], large(3)).expect(200).await.json();
    assert_eq!(
        results["results"].as_array().map(Vec::len),
        Some(3),
        "more than one document may hold"
    );
    assert_eq!(
        batch(&nodes[0], json!([])).expect(200).await.json(),
        json!({ "results": [] })
    );
    for (body, status, code) in [
        ("{}", 471, "syntax_error"),
        (r#"{"writes":[{}]}"#, 400, "bad_request"),
        (
            r#"{"writes":[{"id":"/db/Demo/1","put":{},"delete":true}]}"#,
            400,
            "bad_request",
        ),
        (
            r#"{"writes":[{"id":"/db/Nothing/1","put":{}}]}"#,
            461,
            "bucket_not_found",
        ),
        (
            r#"{"writes":[{"id":"/db/Demo/1","put":{},"fi":{}}]}"#,
            471,
            "syntax_error",
        ),
    ] {
        nodes[0]
            .post("/batch")
            .body(body)
            .refused(status, code)
            .await;
    }
}
