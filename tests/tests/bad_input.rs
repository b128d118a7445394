//! Promise: whatever is wrong with a request, the answer names the cause in the contract's form, and nothing is stored.

use document::id::object_id;
use reqwest::Method;
use serde_json::{Value, json};
use tests::{Api, Checks, Cluster, grpc};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn bad_requests_are_refused_and_store_nothing() {
    let cluster = Cluster::dev().await;
    let api = cluster.api(0);
    let root = cluster.root(0).await;
    root.post("/schema").json(&typed_class()).expect(200).await;
    let mut checks = Checks::new();
    checks
        .check("bodies that are no JSON object", syntax(&api))
        .await;
    checks.check("values of the wrong type", types(&api)).await;
    checks
        .check("bodies over the limit", large_bodies(&api))
        .await;
    checks.check("keys over the limit", long_keys(&api)).await;
    checks
        .check("bodies nested too deep", deep_bodies(&api))
        .await;
    checks
        .check("unknown buckets and databases", unknown_places(&cluster))
        .await;
    checks
        .check("conditions that say nothing", conditions(&api))
        .await;
    checks
        .check("headers that say nothing", headers(&api))
        .await;
    checks.check("ids that do not fit", ids(&api)).await;
    checks
        .check("paths that do not decode", paths(&cluster))
        .await;
    checks.check("rules that say nothing", rules(&api)).await;
    checks
        .check("all of it stored nothing", nothing_stored(&cluster))
        .await;
    checks.finish();
}

/// What the accepted edge cases store, so that the last check can tell them from accidents.
const ACCEPTED: [&str; 3] = ["largest", "deepest", "lower"];

fn path(key: &str) -> String {
    object_id("Demo", key)
}

/// Sends one bad body by both methods and through a condition that would hold.
async fn refuse_body(api: &Api, bucket: &str, body: &[u8], status: u16, code: &str) {
    let put = api
        .put(&object_id(bucket, "bad"))
        .body(body.to_vec())
        .send()
        .await;
    assert_eq!(
        (put.status, put.json()["code"].as_str()),
        (status, Some(code)),
        "PUT {}: {}",
        show(body),
        put.text()
    );
    put.refused(status, code);
    let post = api
        .post(&format!("/db/{bucket}"))
        .body(body.to_vec())
        .send()
        .await;
    assert_eq!(
        (post.status, post.json()["code"].as_str()),
        (status, Some(code)),
        "POST {}: {}",
        show(body),
        post.text()
    );
    api.get(&object_id(bucket, "bad")).expect(404).await;
}

fn show(body: &[u8]) -> String {
    format!("{:.80}", String::from_utf8_lossy(body))
}

async fn syntax(api: &Api) {
    let bodies: [&[u8]; 14] = [
        b"",
        b" ",
        b"not json",
        b"{",
        b"{\"a\":}",
        b"{\"a\":1,}",
        b"{\"a\":1}}",
        b"{\"a\":01}",
        b"{'a':1}",
        b"[1]",
        b"null",
        b"\"text\"",
        b"{\"a\":\"\xff\"}",
        b"{\"a\":\"\\ud800\"}",
    ];
    for body in bodies {
        refuse_body(api, "Demo", body, 471, "syntax_error").await;
    }
    let answer = api
        .put(&path("bad"))
        .body("{\"a\": 1,\n \"b\": }")
        .refused(471, "syntax_error")
        .await;
    let message = answer.json()["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(message.contains("line 2"), "the place is named: {message}");
}

fn typed_class() -> Value {
    let field =
        |order: usize, name: &str, ty: &str| json!({ "name": name, "type": ty, "order": order });
    let fields = [
        ("text", "/db/String"),
        ("yes", "/db/Boolean"),
        ("whole", "/db/Integer"),
        ("number", "/db/Double"),
        ("time", "/db/DateTime"),
        ("day", "/db/Date"),
        ("place", "/db/GeoPoint"),
        ("object", "/db/JsonObject"),
        ("array", "/db/JsonArray"),
        ("friend", "/db/Typed"),
        ("list", "/db/collection.List[/db/Integer]"),
        ("set", "/db/collection.Set[/db/String]"),
        ("map", "/db/collection.Map[/db/String,/db/Integer]"),
    ];
    let fields: serde_json::Map<String, Value> = fields
        .iter()
        .enumerate()
        .map(|(order, (name, ty))| ((*name).to_owned(), field(order, name, ty)))
        .collect();
    json!([{ "class": "/db/Typed", "superClass": "/db/Object", "acl": {}, "fields": fields }])
}

async fn types(api: &Api) {
    let wrong = [
        json!({ "text": 1 }),
        json!({ "text": ["a"] }),
        json!({ "yes": "true" }),
        json!({ "yes": 1 }),
        json!({ "whole": "1" }),
        json!({ "whole": true }),
        json!({ "whole": 1e300 }),
        json!({ "number": "1.5" }),
        json!({ "time": 12 }),
        json!({ "time": "yesterday" }),
        json!({ "day": "2020-13-01" }),
        json!({ "place": { "latitude": 91, "longitude": 0 } }),
        json!({ "place": [1, 2] }),
        json!({ "object": [] }),
        json!({ "array": {} }),
        json!({ "friend": "/db/Other/1" }),
        json!({ "friend": 7 }),
        json!({ "list": "x" }),
        json!({ "list": [1, "2"] }),
        json!({ "set": [1] }),
        json!({ "map": { "a": "b" } }),
        json!({ "map": [] }),
    ];
    for body in wrong {
        refuse_body(
            api,
            "Typed",
            body.to_string().as_bytes(),
            463,
            "invalid_type_value",
        )
        .await;
        let member = body
            .as_object()
            .and_then(|members| members.keys().next().cloned())
            .unwrap_or_default();
        let answer = api.put(&object_id("Typed", "bad")).json(&body).send().await;
        let message = answer.json()["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(
            message.contains(&member),
            "the message names the field {member}: {message}"
        );
    }
    let right = json!({
        "text": "a", "yes": true, "whole": 9_007_199_254_740_993_i64, "number": 1.5, "time": "2018-01-12T10:50:55.45Z",
        "day": "2020-02-03", "place": { "latitude": 53.5, "longitude": 10 }, "object": { "a": [1] }, "array": [{}],
        "friend": "/db/Typed/nobody", "list": [1, null], "set": ["a"], "map": { "a": 1 },
    });
    let stored = api
        .put(&object_id("Typed", "right"))
        .json(&right)
        .expect(200)
        .await;
    for (name, value) in right.as_object().into_iter().flatten() {
        assert_eq!(&stored.json()[name], value, "{name}");
    }
}

async fn large_bodies(api: &Api) {
    let body = |bytes: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
    assert_eq!(body(MIB).len(), MIB);
    api.put(&path("largest")).body(body(MIB)).expect(200).await;
    api.put(&path("bad"))
        .body(body(MIB + 1))
        .refused(413, "body_too_large")
        .await;
    api.post("/db/Demo")
        .body(body(5 * MIB))
        .refused(413, "body_too_large")
        .await;
    // Not announced: the server counts for itself.
    let chunks = (0..40).map(|_| Ok::<_, std::io::Error>("x".repeat(64 * 1024)));
    let streamed = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
    api.put(&path("bad"))
        .body(streamed)
        .refused(413, "body_too_large")
        .await;
    api.get(&path("bad")).expect(404).await;
}

async fn long_keys(api: &Api) {
    // Counted in bytes of UTF-8, decoded.
    let (longest, umlauts) = ("k".repeat(1024), "ü".repeat(512));
    for key in [&longest, &umlauts] {
        api.put(&path(key)).json(&json!({})).expect(200).await;
        api.delete(&path(key)).expect(204).await;
    }
    for key in [
        format!("{longest}k"),
        format!("{umlauts}k"),
        "ü".repeat(1000),
    ] {
        api.put(&path(&key))
            .json(&json!({}))
            .refused(414, "key_too_long")
            .await;
        api.post("/db/Demo")
            .json(&json!({ "id": path(&key) }))
            .refused(414, "key_too_long")
            .await;
        let read = api.get(&path(&key)).send().await;
        assert!(matches!(read.status, 404 | 414), "{}", read.status);
        let deleted = api.delete(&path(&key)).send().await;
        assert!(matches!(deleted.status, 204 | 414), "{}", deleted.status);
    }
}

async fn deep_bodies(api: &Api) {
    let nested = |depth: usize| {
        format!(
            "{{\"a\":{}{}}}",
            "[".repeat(depth - 1),
            "]".repeat(depth - 1)
        )
    };
    api.put(&path("deepest"))
        .body(nested(100))
        .expect(200)
        .await;
    refuse_body(api, "Demo", nested(101).as_bytes(), 400, "bad_request").await;
    // Deep enough to end a recursive reader, in few bytes.
    refuse_body(api, "Demo", nested(300_000).as_bytes(), 400, "bad_request").await;
    refuse_body(
        api,
        "Demo",
        format!("{{\"a\":{}", "{\"a\":".repeat(150_000)).as_bytes(),
        400,
        "bad_request",
    )
    .await;
}

async fn unknown_places(cluster: &Cluster) {
    let api = cluster.api(0);
    let elsewhere = api.at(&format!("{}/nodatabase", cluster.nodes[0].client));
    for (api, bucket) in [(&api, "NoBucket"), (&elsewhere, "Demo")] {
        let id = object_id(bucket, "k");
        api.get(&id).refused(461, "bucket_not_found").await;
        api.put(&id)
            .json(&json!({}))
            .refused(461, "bucket_not_found")
            .await;
        // Never 404: on an update the SDK takes 404 for success.
        api.put(&id)
            .if_match(1)
            .json(&json!({}))
            .refused(461, "bucket_not_found")
            .await;
        api.delete(&id).refused(461, "bucket_not_found").await;
        api.post(&format!("/db/{bucket}"))
            .json(&json!({}))
            .refused(461, "bucket_not_found")
            .await;
    }
    for path in ["/schema", "/connect"] {
        elsewhere.get(path).refused(461, "bucket_not_found").await;
    }
    // Not even documents of a class that has no bucket.
    api.put("/db/String/k")
        .json(&json!({}))
        .refused(461, "bucket_not_found")
        .await;
    api.put("/db/Object/k").json(&json!({})).send().await;
}

async fn conditions(api: &Api) {
    for value in [
        "abc",
        "\"abc\"",
        "\"1",
        "\"1\", \"2\"",
        "\"-1\"",
        "\"1.5\"",
        "\"99999999999999999999\"",
        "W/x",
    ] {
        api.put(&path("bad"))
            .header("if-match", value)
            .json(&json!({}))
            .refused(400, "bad_request")
            .await;
        api.delete(&path("bad"))
            .header("if-match", value)
            .refused(400, "bad_request")
            .await;
    }
    let put = || api.put(&path("bad")).json(&json!({}));
    put()
        .header("if-none-match", "\"7\"")
        .refused(400, "bad_request")
        .await;
    put()
        .header("if-none-match", "*")
        .header("if-match", "\"7\"")
        .refused(400, "bad_request")
        .await;
    api.get(&path("bad"))
        .header("if-none-match", "\"7")
        .refused(400, "bad_request")
        .await;
}

async fn headers(api: &Api) {
    for value in ["strong", "bounded", "bounded=x", ""] {
        let read = api.get(&path("bad")).header("larder-consistency", value);
        read.refused(400, "bad_request").await;
    }
    let long = "k".repeat(300);
    for value in ["", "two words", long.as_str()] {
        let put = api
            .put(&path("bad"))
            .header("idempotency-key", value)
            .json(&json!({}));
        put.refused(400, "bad_request").await;
    }
    for value in [
        "BAT",
        "Bearer abc",
        "BAT 00",
        "BAT 5f0000006f00000031300123456789abcdef0123456789abcdef01234567",
    ] {
        let put = api
            .put(&path("bad"))
            .header("authorization", value)
            .json(&json!({}));
        put.refused(460, "bad_credentials").await;
    }
    let coded = api
        .put(&path("bad"))
        .header("content-encoding", "gzip")
        .body("{}");
    coded.refused(400, "bad_request").await;
    let fill = "x".repeat(100 * 1024);
    let large = api
        .put(&path("bad"))
        .header("x-fill", &fill)
        .json(&json!({}))
        .send()
        .await;
    assert_eq!(large.status, 431, "{}", large.text());
}

async fn ids(api: &Api) {
    for id in [
        json!("/db/Demo/other"),
        json!("/db/Typed/bad"),
        json!("bad"),
        json!(7),
        json!({}),
    ] {
        let put = api
            .put(&path("bad"))
            .json(&json!({ "id": id }))
            .send()
            .await;
        assert_eq!(put.status, 400, "{id}: {}", put.text());
        put.refused(400, "bad_request");
    }
    for id in [
        "/db/Typed/bad",
        "bad",
        "/db/Demo/",
        "/db/Demo/a/b",
        "/db/Demo/%zz",
        "",
    ] {
        let post = api.post("/db/Demo").json(&json!({ "id": id })).send().await;
        assert_eq!(post.status, 400, "{id}: {}", post.text());
    }
    // Another spelling of the right id is the right id.
    let lower = api
        .put(&path("lower"))
        .json(&json!({ "id": "/db/Demo/%6cower" }))
        .expect(200)
        .await;
    assert_eq!(lower.json()["id"], "/db/Demo/lower");
}

async fn paths(cluster: &Cluster) {
    let bare = Api::new(&cluster.nodes[0].client);
    for path in [
        "/v1/db/Demo/%zz",
        "/v1/db/Demo/%ff",
        "/v1/db/Demo/%",
        "/v1/db//k",
        "/v1/db/Demo/",
        "/a-b/db/Demo/bad",
    ] {
        bare.put(path)
            .json(&json!({}))
            .refused(400, "bad_request")
            .await;
    }
    for method in [Method::PATCH, Method::TRACE] {
        let answer = bare.call(method, "/v1/db/Demo/bad").send().await;
        assert_eq!(answer.status, 405, "{}", answer.text());
    }
}

async fn rules(api: &Api) {
    for acl in [
        json!("public"),
        json!([]),
        json!({ "read": { "/db/User/1": "maybe" } }),
        json!({ "read": { "somebody": "allow" } }),
        json!({ "read": { "/db/Demo/1": "allow" } }),
        json!({ "write": [] }),
    ] {
        let put = api
            .put(&path("bad"))
            .json(&json!({ "acl": acl }))
            .send()
            .await;
        assert_eq!(put.status, 400, "{acl}: {}", put.text());
        put.refused(400, "bad_request");
    }
}

/// Every node shows exactly what the accepted requests stored.
async fn nothing_stored(cluster: &Cluster) {
    let token = cluster.root(0).await.token().map(str::to_owned);
    for node in cluster.all() {
        let origin = &cluster.nodes[node].client;
        let documents = grpc::scan_all(origin, "Demo", token.as_deref()).await;
        let mut found: Vec<&str> = documents
            .iter()
            .filter_map(|document| document["id"].as_str())
            .collect();
        found.sort_unstable();
        let mut expected = ACCEPTED.map(path);
        expected.sort_unstable();
        assert_eq!(found, expected, "at node {node}");
        let typed = grpc::scan_all(origin, "Typed", token.as_deref()).await;
        assert_eq!(
            typed.len(),
            1,
            "only the right document of the typed bucket"
        );
    }
}
