//! Promise: objects over HTTP behave as the contract's sections 1.5 to 1.7 and 3.1 to 3.3 say, cell by cell.

use document::id::{encode_key, object_id};
use document::time::parse_datetime;
use reqwest::Method;
use serde_json::{Value, json};
use tests::http::content;
use tests::{Answer, Api, Checks, Cluster};

#[tokio::test]
async fn objects_over_http() {
    let cluster = Cluster::dev().await;
    let api = cluster.api(0);
    let mut checks = Checks::new();
    checks
        .check("insert: 201, then 409 whatever the version", insert(&api))
        .await;
    checks
        .check("replace at a version", replace_at_version(&api))
        .await;
    checks.check("forced replace", replace_forced(&api)).await;
    checks.check("upsert", upsert(&api)).await;
    checks.check("load", load(&api)).await;
    checks.check("delete", delete(&api)).await;
    checks.check("versions never go back", versions(&api)).await;
    checks.check("the form of an object", form(&api)).await;
    checks
        .check("a body keeps what it holds", lossless(&api))
        .await;
    checks.check("ids", ids(&api)).await;
    checks
        .check(
            "conditions that are noise, or wear a coding",
            tolerated_conditions(&api),
        )
        .await;
    checks
        .check("base paths and parameters", addressing(&cluster))
        .await;
    checks.check("preflight", preflight(&api)).await;
    checks
        .check("cross-origin answers and errors", cross_origin(&api))
        .await;
    checks
        .check("errors have the contract's form", errors(&api))
        .await;
    checks.check("compression", compression(&cluster)).await;
    checks.check("head", head(&api)).await;
    checks.check("probes and metrics", probes(&cluster)).await;
    checks.finish();
}

fn path(key: &str) -> String {
    object_id("Demo", key)
}

/// Stores a document under `key`; gives the answer to the insert.
async fn stored(api: &Api, key: &str, body: &Value) -> Answer {
    let mut body = body.clone();
    body["id"] = json!(path(key));
    api.post("/db/Demo").json(&body).expect(201).await
}

async fn missing(api: &Api, key: &str) {
    api.get(&path(key)).refused(404, "object_not_found").await;
}

async fn is_stored(api: &Api, key: &str, version: u64, own: &Value) {
    let answer = api.get(&path(key)).expect(200).await;
    assert_eq!(
        (answer.version(), content(&answer.json())),
        (version, own.clone())
    );
}

async fn insert(api: &Api) {
    let answer = stored(api, "insert", &json!({ "a": 1, "version": 7 })).await;
    assert_eq!(answer.version(), 1);
    assert_eq!(answer.json()["id"], "/db/Demo/insert");
    for body in [
        json!({ "a": 2 }),
        json!({ "a": 2, "version": 1 }),
        json!({ "a": 2, "version": 5 }),
    ] {
        let mut body = body;
        body["id"] = json!("/db/Demo/insert");
        api.post("/db/Demo")
            .json(&body)
            .refused(409, "object_exists")
            .await;
    }
    is_stored(api, "insert", 1, &json!({ "a": 1 })).await;
}

async fn replace_at_version(api: &Api) {
    let put = |version| {
        api.put(&path("update"))
            .if_match(version)
            .json(&json!({ "b": 2 }))
    };
    put(1).refused(412, "object_out_of_date").await;
    missing(api, "update").await;

    stored(api, "update", &json!({ "a": 1 })).await;
    let answer = put(1).expect(200).await;
    assert_eq!(
        (answer.version(), content(&answer.json())),
        (2, json!({ "b": 2 })),
        "the whole object is replaced"
    );
    for version in [0, 1, 3, u64::MAX] {
        put(version).refused(412, "object_out_of_date").await;
    }
    is_stored(api, "update", 2, &json!({ "b": 2 })).await;
    // Without a change it still is a write.
    assert_eq!(put(2).expect(200).await.version(), 3);
}

async fn replace_forced(api: &Api) {
    let put = || {
        api.put(&path("force"))
            .header("if-match", "*")
            .json(&json!({ "b": 2 }))
    };
    put().refused(412, "object_out_of_date").await;
    missing(api, "force").await;
    stored(api, "force", &json!({ "a": 1 })).await;
    assert_eq!(put().expect(200).await.version(), 2);
    assert_eq!(put().expect(200).await.version(), 3);
}

async fn upsert(api: &Api) {
    let put = |own: Value| api.put(&path("upsert")).json(&own);
    // 200 also where it inserts: the contract's clients accept no 201 here.
    assert_eq!(put(json!({ "a": 1 })).expect(200).await.version(), 1);
    assert_eq!(put(json!({ "a": 2 })).expect(200).await.version(), 2);
    // The condition is the header; a version in the body is none.
    assert_eq!(
        put(json!({ "a": 3, "version": 1 }))
            .expect(200)
            .await
            .version(),
        3
    );
    let absent = || {
        api.put(&path("upsert"))
            .header("if-none-match", "*")
            .json(&json!({ "a": 4 }))
    };
    absent().expect(412).await;
    is_stored(api, "upsert", 3, &json!({ "a": 3 })).await;
}

async fn load(api: &Api) {
    missing(api, "load").await;
    api.get(&path("load"))
        .header("if-none-match", "\"1\"")
        .refused(404, "object_not_found")
        .await;
    let inserted = stored(api, "load", &json!({ "a": 1 })).await;
    let loaded = api.get(&path("load")).expect(200).await;
    assert_eq!(
        loaded.body, inserted.body,
        "a load gives what the write answered"
    );
    assert_eq!(loaded.header("cache-control").as_deref(), Some("no-cache"));

    let revalidated = api
        .get(&path("load"))
        .header("if-none-match", "\"1\"")
        .expect(304)
        .await;
    assert!(revalidated.body.is_empty());
    assert_eq!(revalidated.header("etag").as_deref(), Some("\"1\""));
    api.put(&path("load"))
        .json(&json!({ "a": 2 }))
        .expect(200)
        .await;
    let changed = api
        .get(&path("load"))
        .header("if-none-match", "\"1\"")
        .expect(200)
        .await;
    assert_eq!(content(&changed.json()), json!({ "a": 2 }));
    api.get(&path("load"))
        .header("if-none-match", "\"1\", \"2\"")
        .expect(304)
        .await;
}

async fn delete(api: &Api) {
    let at = |version| api.delete(&path("delete")).if_match(version);
    let forced = || api.delete(&path("delete")).header("if-match", "*");
    at(1).refused(412, "object_out_of_date").await;
    forced().refused(412, "object_out_of_date").await;
    api.delete(&path("delete")).expect(204).await;

    stored(api, "delete", &json!({})).await;
    at(2).refused(412, "object_out_of_date").await;
    assert!(at(1).expect(204).await.body.is_empty());
    missing(api, "delete").await;
    stored(api, "delete", &json!({})).await;
    forced().expect(204).await;
    missing(api, "delete").await;
    stored(api, "delete", &json!({})).await;
    api.delete(&path("delete")).expect(204).await;
    missing(api, "delete").await;
}

async fn versions(api: &Api) {
    stored(api, "versions", &json!({})).await;
    api.put(&path("versions"))
        .if_match(1)
        .json(&json!({}))
        .expect(200)
        .await;
    api.delete(&path("versions")).if_match(2).expect(204).await;
    // The delete took version 3, and deleting what is gone takes none.
    api.delete(&path("versions")).expect(204).await;
    assert_eq!(stored(api, "versions", &json!({})).await.version(), 4);
    api.put(&path("versions"))
        .if_match(2)
        .json(&json!({}))
        .refused(412, "object_out_of_date")
        .await;
    api.put(&path("versions"))
        .if_match(4)
        .json(&json!({}))
        .expect(200)
        .await;
    api.delete(&path("versions")).expect(204).await;
    // By upsert too.
    assert_eq!(
        api.put(&path("versions"))
            .json(&json!({}))
            .expect(200)
            .await
            .version(),
        7
    );
}

async fn form(api: &Api) {
    let inserted = stored(
        api,
        "form",
        &json!({ "a": 1, "createdAt": "1999-01-01T00:00:00Z", "updatedAt": null }),
    )
    .await;
    assert_eq!(
        inserted.header("content-type").as_deref(),
        Some("application/json;charset=utf-8")
    );
    let first = inserted.json();
    assert_eq!(first["acl"], Value::Null, "an absent ACL is shown as null");
    for time in ["createdAt", "updatedAt"] {
        let text = first[time].as_str().expect("a time");
        assert!(
            text.starts_with("20") && text.ends_with('Z') && text.contains('T'),
            "{time} is {text}"
        );
    }
    let acl = json!({ "read": {}, "write": { "/db/Role/1": "allow", "/db/User/x": "deny" } });
    let replaced = api
        .put(&path("form"))
        .json(&json!({ "b": 1, "createdAt": "1999-01-01T00:00:00Z", "acl": acl }));
    let second = replaced.expect(200).await.json();
    assert_eq!(
        second["createdAt"], first["createdAt"],
        "the time of creation is not the client's to change"
    );
    assert!(microseconds(&second["updatedAt"]) >= microseconds(&first["updatedAt"]));
    assert_eq!(second["acl"], acl, "the ACL is the client's");
}

fn microseconds(time: &Value) -> i64 {
    time.as_str()
        .and_then(parse_datetime)
        .unwrap_or_else(|| panic!("{time} is no time"))
}

async fn lossless(api: &Api) {
    let own = r#"{"big":12345678901234567890123,"small":1.10,"exp":1e-7,"text":"ü€😀\u0000\"\\/","deep":[{"x":[[]]},null],"":0,"ключ":true}"#;
    let answer = api.put(&path("lossless")).body(own).expect(200).await;
    assert_eq!(
        answer.body,
        api.get(&path("lossless")).expect(200).await.body
    );
    let text = answer.text();
    for part in ["12345678901234567890123", "1.10", "1e-7"] {
        assert!(
            text.contains(part),
            "{part} is kept digit by digit, in {text}"
        );
    }
    let parsed: Value = serde_json::from_str(own).expect("JSON");
    assert_eq!(content(&answer.json()), parsed);
}

async fn ids(api: &Api) {
    let answer = api
        .post("/db/Demo")
        .json(&json!({ "a": 1 }))
        .expect(201)
        .await;
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    assert!(
        id.starts_with("/db/Demo/") && id.len() > 20,
        "the server made {id}"
    );
    assert_eq!(api.get(&id).expect(200).await.body, answer.body);
    let another = api
        .post("/db/Demo")
        .json(&json!({ "id": null, "a": 1 }))
        .expect(201)
        .await;
    assert_ne!(another.json()["id"], id.as_str());

    for key in [
        "a/b",
        "a b",
        "100%",
        "ü€😀",
        "x.y~z!*'()",
        "{tag}rest",
        "?q=1&r#f",
        "1",
    ] {
        let answer = api
            .put(&path(key))
            .json(&json!({ "key": key }))
            .expect(200)
            .await;
        assert_eq!(answer.json()["id"], path(key), "the id of {key}");
    }
    // A slash in a key is data, an encoded letter is the letter.
    missing(api, "a").await;
    assert_eq!(
        api.get("/db/Demo/%61%2fb").expect(200).await.json()["key"],
        "a/b"
    );
    assert_eq!(encode_key("a/b"), "a%2Fb");
}

async fn tolerated_conditions(api: &Api) {
    stored(api, "noise", &json!({})).await;
    let noisy = api
        .get(&path("noise"))
        .header("if-match", "\"\"")
        .header("if-none-match", "\"-\"");
    noisy.expect(200).await;
    api.get(&path("noise"))
        .header("if-none-match", "\"1--gzip\"")
        .expect(304)
        .await;
    let coded = api
        .put(&path("noise"))
        .header("if-match", "\"1--gzip\"")
        .json(&json!({}));
    assert_eq!(coded.expect(200).await.version(), 2);
    api.delete(&path("noise"))
        .header("if-match", "2")
        .expect(204)
        .await;
}

async fn addressing(cluster: &Cluster) {
    let api = cluster.api(0);
    stored(&api, "base", &json!({ "a": 1 })).await;
    let bare = api.at(&cluster.nodes[0].client);
    bare.get("/db/Demo/base").expect(200).await;
    bare.get("/v1/db/Demo/base").expect(200).await;
    api.get("/db/Demo/base?BCB").expect(200).await;
    // Encoded queries reach about three times their 2,000 characters; such request lines must pass.
    api.get(&format!("/db/Demo/base?x={}", "y".repeat(16 * 1024)))
        .expect(200)
        .await;
}

async fn preflight(api: &Api) {
    let answer = api
        .call(Method::OPTIONS, &path("preflight"))
        .header("origin", "https://app.example")
        .header("access-control-request-method", "PUT")
        .header(
            "access-control-request-headers",
            "authorization,if-match,content-type",
        )
        .send()
        .await;
    assert!(matches!(answer.status, 200 | 204), "{}", answer.status);
    assert_eq!(
        answer.header("access-control-allow-origin").as_deref(),
        Some("https://app.example")
    );
    assert_eq!(
        answer.header("access-control-allow-credentials").as_deref(),
        Some("true")
    );
    lists(
        &answer,
        "access-control-allow-methods",
        &["GET", "HEAD", "POST", "PUT", "DELETE"],
    );
    let contract = [
        "authorization",
        "accept",
        "content-type",
        "cache-control",
        "if-match",
        "if-none-match",
    ];
    lists(&answer, "access-control-allow-headers", &contract);
    let more = [
        "if-unmodified-since",
        "baqend-acl",
        "baqend-custom-headers",
        "idempotency-key",
        "larder-consistency",
    ];
    lists(&answer, "access-control-allow-headers", &more);
    let age: u64 = answer
        .header("access-control-max-age")
        .and_then(|age| age.parse().ok())
        .expect("a max-age");
    assert!(age >= 3600, "preflights are remembered for {age} s");
}

#[track_caller]
fn lists(answer: &Answer, header: &str, names: &[&str]) {
    let value = answer
        .header(header)
        .unwrap_or_default()
        .to_ascii_lowercase();
    let listed: Vec<&str> = value.split(',').map(str::trim).collect();
    for name in names {
        assert!(
            listed.contains(&name.to_ascii_lowercase().as_str()),
            "{header} lacks {name}: {value}"
        );
    }
}

async fn cross_origin(api: &Api) {
    stored(api, "cors", &json!({})).await;
    let nine = [
        "baqend-authorization-token",
        "content-type",
        "etag",
        "last-modified",
        "baqend-size",
        "baqend-acl",
        "baqend-created-at",
        "baqend-custom-headers",
        "baqend-mfa-auth-token",
    ];
    for (key, status) in [("cors", 200), ("cors-none", 404)] {
        let answer = api
            .get(&path(key))
            .header("origin", "https://app.example")
            .expect(status)
            .await;
        assert_eq!(
            answer.header("access-control-allow-origin").as_deref(),
            Some("https://app.example")
        );
        assert_eq!(
            answer.header("access-control-allow-credentials").as_deref(),
            Some("true")
        );
        lists(&answer, "access-control-expose-headers", &nine);
        lists(
            &answer,
            "access-control-expose-headers",
            &["larder-effect", "retry-after"],
        );
        lists(&answer, "vary", &["origin"]);
    }
    let plain = api.get(&path("cors")).expect(200).await;
    assert_eq!(
        plain.header("access-control-allow-origin").as_deref(),
        Some("*")
    );
    assert_eq!(plain.header("access-control-allow-credentials"), None);
}

async fn errors(api: &Api) {
    let missing = api
        .get(&path("errors"))
        .header("x-request-id", "find-me-1")
        .header("accept", "text/*");
    let answer = missing.refused(404, "object_not_found").await;
    assert_eq!(
        answer.json()["requestId"],
        "find-me-1",
        "a request id of the client is kept"
    );
    assert_eq!(answer.json()["className"], "ObjectNotFound");
    let (one, two) = (
        api.get(&path("errors")).send().await.json(),
        api.get(&path("errors")).send().await.json(),
    );
    assert_ne!(
        one["requestId"], two["requestId"],
        "each request has an id of its own"
    );

    api.get("/nothing/here").refused(404, "no_route").await;
    let answer = api
        .call(Method::PATCH, &path("errors"))
        .json(&json!({}))
        .refused(405, "method_not_allowed")
        .await;
    lists(&answer, "allow", &["GET", "PUT", "DELETE"]);
    // What is not offered yet must never look like an answer, and never like "not found".
    api.get("/db/Demo/query?q={%22$where%22:1}")
        .refused(468, "query_not_supported")
        .await;
    api.get("/bloomfilter/expirations")
        .refused(468, "query_not_supported")
        .await;
    // What is for admins stays so.
    for method in [Method::PUT, Method::DELETE] {
        api.call(method, "/db/Demo")
            .body("[]")
            .refused(466, "permission_denied")
            .await;
    }
}

/// With curl, which knows both codings and is no relative of the server.
async fn compression(cluster: &Cluster) {
    let api = cluster.api(0);
    let text = "All work and no play makes Jack a dull boy. ".repeat(500);
    let plain = api
        .put(&path("long"))
        .json(&json!({ "text": text }))
        .expect(200)
        .await;
    assert_eq!(plain.header("content-encoding"), None, "not asked for");
    api.put(&path("short"))
        .json(&json!({ "text": "short" }))
        .expect(200)
        .await;
    for coding in ["gzip", "zstd"] {
        let coded = curl(cluster, "long", coding, true).await;
        assert_eq!(
            coded.body,
            plain.text(),
            "{coding} unpacks to the same bytes"
        );
        assert!(
            coded.head.contains(&format!("content-encoding: {coding}")),
            "{}",
            coded.head
        );
        assert!(
            coded.head.contains("etag: \"1\""),
            "the ETag does not depend on the coding: {}",
            coded.head
        );
        let raw = curl(cluster, "long", coding, false).await;
        assert!(
            raw.bytes < plain.body.len() / 10,
            "{coding}: {} bytes of {}",
            raw.bytes,
            plain.body.len()
        );
        assert!(
            !curl(cluster, "short", coding, true)
                .await
                .head
                .contains("content-encoding"),
            "not worth it"
        );
    }
    assert!(
        !curl(cluster, "long", "br", false)
            .await
            .head
            .contains("content-encoding"),
        "not a coding of ours"
    );
}

struct Curled {
    head: String,
    body: String,
    bytes: usize,
}

async fn curl(cluster: &Cluster, key: &str, coding: &str, unpack: bool) -> Curled {
    let mut command = std::process::Command::new("curl");
    command.args([
        "-fsS",
        "-D",
        "/dev/stderr",
        "-H",
        &format!("accept-encoding: {coding}"),
    ]);
    if unpack {
        command.arg("--compressed");
    }
    command.arg(format!("{}/v1{}", cluster.nodes[0].client, path(key)));
    let deadline = std::time::Duration::from_secs(20);
    let ended =
        tokio::task::spawn_blocking(move || tests::process::run_to_end(command, deadline)).await;
    let ended = ended.expect("curl runs");
    assert_eq!(
        ended.status,
        0,
        "curl: {}",
        String::from_utf8_lossy(&ended.stderr)
    );
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Curled {
        head: text(&ended.stderr).to_lowercase(),
        body: text(&ended.stdout),
        bytes: ended.stdout.len(),
    }
}

async fn head(api: &Api) {
    let stored = stored(api, "head", &json!({ "a": 1 })).await;
    let answer = api.call(Method::HEAD, &path("head")).expect(200).await;
    assert!(answer.body.is_empty());
    assert_eq!(answer.header("etag").as_deref(), Some("\"1\""));
    assert_eq!(
        answer.header("content-length"),
        Some(stored.body.len().to_string())
    );
    api.call(Method::HEAD, &path("head-none")).expect(404).await;
}

async fn probes(cluster: &Cluster) {
    let client = Api::new(&cluster.nodes[0].client);
    for probe in ["/healthz", "/readyz"] {
        client.get(probe).expect(200).await;
    }
    let metrics = cluster.admin(0).get("/metrics").expect(200).await;
    let text = metrics.text();
    assert!(
        text.contains("# TYPE larder_"),
        "Prometheus text with our prefix, not: {text:.300}"
    );
    for line in text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        let value = line
            .rsplit(' ')
            .next()
            .and_then(|value| value.parse::<f64>().ok());
        assert!(value.is_some(), "no sample: {line}");
    }
    // The admin API is not on the client port.
    client.get("/admin/v1/node").expect(404).await;
}
