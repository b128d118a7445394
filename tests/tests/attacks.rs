//! Promise: whoever has no right to a document learns nothing of it and changes nothing of it, whatever tokens, headers, paths, rules and
//! questions he makes up, and the node goes on serving.

use std::time::Duration;

use document::id::object_id;
use proto::v1;
use serde_json::{Value, json};
use tests::{Api, Checks, Cluster, Options, grpc};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What nobody but admins may read.
const SECRET: &str = "0pen-Sesame-7731";
const HIDDEN: &str = "hidden-key-4471";
const BUCKET: &str = "Vault";
/// An answer to raw bytes takes no longer; after it the connection counts as silent.
const RAW_TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn attacks_learn_and_change_nothing() {
    let cluster = Cluster::dev().await;
    let root = cluster.root(0).await;
    let class = json!([{ "class": format!("/db/{BUCKET}"), "fields": {
        "text": { "name": "text", "type": "/db/String", "order": 0 },
        "n": { "name": "n", "type": "/db/Integer", "order": 1 },
        "name": { "name": "name", "type": "/db/String", "order": 2 },
    } }]);
    root.post("/schema").json(&class).expect(200).await;
    let closed = json!({ "read": { "/db/Role/1": "allow" }, "write": { "/db/Role/1": "allow" } });
    let hidden = json!({ "text": SECRET, "n": 7, "name": SECRET, "acl": closed });
    root.put(&hidden_path()).json(&hidden).expect(200).await;

    let mut checks = Checks::new();
    checks.check("tokens", tokens(&cluster, &root)).await;
    checks.check("headers", headers(&cluster, &root)).await;
    checks.check("smuggled requests", smuggling(&cluster)).await;
    checks.check("paths", paths(&cluster)).await;
    checks.check("rules", rules(&cluster, &root)).await;
    checks.check("roles of roles", roles(&root)).await;
    checks.check("questions", questions(&cluster)).await;
    checks.check("unique values", unique(&cluster, &root)).await;
    checks
        .check("continuations", continuations(&cluster, &root))
        .await;
    checks
        .check("one's own access", own_access(&cluster, &root))
        .await;
    let stored = root.get(&hidden_path()).expect(200).await;
    assert_eq!(stored.version(), 1, "nothing was changed");
    checks.finish();
}

fn hidden_path() -> String {
    object_id(BUCKET, HIDDEN)
}

/// Neither the content nor the key of the hidden document.
#[track_caller]
fn tells_nothing(text: &str) {
    assert!(!text.contains(SECRET), "the secret is told: {text}");
}

async fn tokens(cluster: &Cluster, root: &Api) {
    let good = root.token().expect("logged in").to_owned();
    let mut bad: Vec<String> = (1..good.len())
        .step_by(5)
        .map(|end| good[..end].to_owned())
        .collect();
    bad.extend([
        format!("{good}{good}"),
        format!("00{good}"),
        good.to_uppercase(),
        good.chars().rev().collect(),
        "f".repeat(good.len()),
        "0".repeat(8_000),
        "z".repeat(200),
        "null".to_owned(),
        // A JWT that says that it needs no signature.
        "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiIvZGIvVXNlci8xIn0.".to_owned(),
    ]);
    // Only what differs from a good one; upper case of digits alone would not.
    for (n, token) in bad.iter().filter(|token| **token != good).enumerate() {
        let api = cluster.api(n % 3).with_token(token);
        for call in [
            api.get(&hidden_path()),
            api.get("/db/Demo/x"),
            api.post("/db/Demo").body("{}"),
            api.post("/db/Vault/query").body("{}"),
        ] {
            let answer = call.refused(460, "bad_credentials").await;
            tells_nothing(&answer.text());
        }
        let mut documents = grpc::documents(&cluster.nodes[n % 3].client);
        let get = grpc::request(grpc::get("Demo", "x"), Some(token), None);
        grpc::refused(
            documents.get(get).await,
            tonic::Code::Unauthenticated,
            "bad_credentials",
        );
    }
    // Signed, but by another cluster.
    let stranger = Cluster::start(Options {
        nodes: 1,
        shards: 1,
        replicas: 1,
        root_password: Some("another-Vault-5512".to_owned()),
        ..Options::default()
    })
    .await;
    let foreign = stranger.root(0).await;
    let api = cluster
        .api(1)
        .with_token(foreign.token().expect("logged in"));
    api.get(&hidden_path())
        .refused(460, "bad_credentials")
        .await;
    // In a database that is not its own it is worth nothing; there is none of that name either.
    let elsewhere = api.at(&api.base().replace("/v1", "/other"));
    let answer = elsewhere.get(&hidden_path()).send().await;
    assert!(matches!(answer.status, 460 | 461), "{}", answer.text());
}

async fn headers(cluster: &Cluster, root: &Api) {
    let token = root.token().expect("logged in").to_owned();
    let api = cluster.api(0);
    let good = format!("BAT {token}");
    // Two of them: which one counts?
    for other in ["BAT 00", "BAT", &good, "Basic cm9vdDpyb290"] {
        let both = api.get(&hidden_path()).header("authorization", &good);
        let answer = both
            .header("authorization", other)
            .refused(460, "bad_credentials")
            .await;
        tells_nothing(&answer.text());
    }
    for value in [
        format!("{good}, BAT 00"),
        format!("BAT BAT {token}"),
        token.clone(),
    ] {
        let call = api.get(&hidden_path()).header("authorization", &value);
        call.refused(460, "bad_credentials").await;
    }
    // Nowhere else does a token count: who sends it there is nobody.
    for (name, value) in [
        (
            "cookie",
            format!("token={token}; authorization=BAT {token}"),
        ),
        ("x-authorization", good.clone()),
        ("baqend-authorization-token", token.clone()),
        ("x-forwarded-user", "/db/User/1".to_owned()),
        ("x-http-method-override", "DELETE".to_owned()),
        ("x-original-url", hidden_path()),
        ("proxy-authorization", good.clone()),
    ] {
        let answer = api.get(&hidden_path()).header(name, &value).send().await;
        tells_nothing(&answer.refused(404, "object_not_found").text());
    }
    for name in ["BAT", "token", "authorization", "access_token"] {
        let path = format!("{}?{name}={token}", hidden_path());
        let answer = api.get(&path).send().await;
        tells_nothing(&answer.refused(404, "object_not_found").text());
    }
}

/// Sends bytes and gives what comes back until the other side ends the connection or falls silent.
async fn raw(cluster: &Cluster, bytes: &[u8]) -> String {
    let address = cluster.nodes[0]
        .client
        .strip_prefix("http://")
        .expect("plain")
        .to_owned();
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match tokio::time::timeout(RAW_TIMEOUT, stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) | Err(_) => break,
            Ok(Ok(read)) => answer.extend_from_slice(&buffer[..read]),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn statuses(answer: &str) -> Vec<u16> {
    let heads = answer.split("HTTP/1.1 ").skip(1);
    heads
        .filter_map(|head| head.get(..3)?.parse().ok())
        .collect()
}

async fn smuggling(cluster: &Cluster) {
    let inner = "PUT /v1/db/Demo/smuggled HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    let head = "POST /v1/db/Demo/query HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n";
    // Lengths that two readers may take for different ones: refused, or read in one way and the rest never as a request.
    let length = inner.len() + 5;
    for request in [
        format!(
            "{head}content-length: {length}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
        ),
        format!("{head}transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n{inner}"),
        format!("{head}content-length: 2\r\ncontent-length: {length}\r\n\r\n{{}}{inner}"),
        format!("{head}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{inner}"),
        format!("{head}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("{head}transfer-encoding : chunked\r\n\r\n0\r\n\r\n{inner}"),
        format!("{head}content-length: +2\r\n\r\n{{}}{inner}"),
        format!("{head}content-length: 2 2\r\n\r\n{{}}{inner}"),
        format!("{head}x: a\r\n b: c\r\ncontent-length: 2\r\n\r\n{{}}{inner}"),
        format!("{head}x: a\rcontent-length: 0\r\n\r\n{inner}"),
        format!("{head}x: a\0b\r\ncontent-length: 2\r\n\r\n{{}}{inner}"),
    ] {
        let answer = raw(cluster, request.as_bytes()).await;
        let statuses = statuses(&answer);
        assert!(
            statuses.len() <= 1,
            "two answers to one request: {request:?} {answer}"
        );
        assert!(
            statuses.iter().all(|status| *status < 500),
            "{request:?}: {answer}"
        );
        let smuggled = cluster.api(0).get("/db/Demo/smuggled");
        smuggled.refused(404, "object_not_found").await;
    }
    // A header must not be made of a value, or of a key that comes back in a header.
    let request = "GET /v1/db/Demo/a%0d%0aset-cookie:%20x HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-request-id: a\tb\r\n\r\n";
    let answer = raw(cluster, request.as_bytes()).await;
    assert!(
        !answer.to_lowercase().contains("\r\nset-cookie"),
        "{answer}"
    );
}

async fn paths(cluster: &Cluster) {
    let key = HIDDEN;
    for path in [
        format!("/v1/db/{BUCKET}/{key}"),
        format!("/v1/db/Demo/../{BUCKET}/{key}"),
        format!("/v1/db/Demo/%2e%2e/{BUCKET}/{key}"),
        format!("/v1/db/Demo/..%2f{BUCKET}%2f{key}"),
        format!("/v1/db/Demo%2f..%2f{BUCKET}/{key}"),
        format!("/v1/db/{BUCKET}%2F{key}"),
        format!("/v1/db%2F{BUCKET}/{key}"),
        format!("/v1/db/{BUCKET}/./{key}"),
        format!("/v1/db//{BUCKET}/{key}"),
        format!("//v1/db/{BUCKET}/{key}"),
        format!("/v1/db/{BUCKET}/{key}/"),
        format!("/v1/db/{BUCKET}/{key};x=1"),
        format!("/v1/db/{BUCKET}/{key}%00"),
        format!("/v1/db/{BUCKET}/%00{key}"),
        format!("/v1/db/{BUCKET}%00/{key}"),
        format!("/v1/db/{BUCKET}\\{key}"),
        format!("/v1/db/{BUCKET}/%252e%252e/{key}"),
        format!("/v1/db/{BUCKET}%252F{key}"),
        // Overlong forms of `/`, `.` and NUL, a lone surrogate, bytes that are no UTF-8, stray percent signs.
        format!("/v1/db/{BUCKET}%c0%af{key}"),
        format!("/v1/db/Demo/%c0%ae%c0%ae/{BUCKET}/{key}"),
        format!("/v1/db/{BUCKET}/%c0%80{key}"),
        format!("/v1/db/{BUCKET}/%ed%a0%80"),
        format!("/v1/db/{BUCKET}/%ff%fe"),
        format!("/v1/db/{BUCKET}/%"),
        format!("/v1/db/{BUCKET}/%4"),
        format!("/v1/db/{BUCKET}/%zz"),
        format!("/V1/db/{BUCKET}/{key}"),
        format!("/v1/DB/{BUCKET}/{key}"),
        format!("/v1/db/{}/{key}", BUCKET.to_lowercase()),
        format!("http://other/v1/db/{BUCKET}/{key}"),
        "/../../../etc/passwd".to_owned(),
        "/v1/docs/../../../../etc/passwd".to_owned(),
        "/v1/docs/%2e%2e%2f%2e%2e%2fetc%2fpasswd".to_owned(),
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            );
            let answer = raw(cluster, request.as_bytes()).await;
            tells_nothing(&answer);
            assert!(!answer.contains("root:"), "a file of the machine: {answer}");
            let statuses = statuses(&answer);
            assert!(!statuses.is_empty(), "no answer to {method} {path}");
            assert!(
                statuses.iter().all(|status| *status < 500),
                "{method} {path}: {answer}"
            );
            if method == "GET" {
                assert!(
                    statuses.iter().all(|status| *status >= 400),
                    "{path}: {answer}"
                );
            }
        }
    }
}

async fn rules(cluster: &Cluster, root: &Api) {
    let api = cluster.api(1);
    let put = |key: &str, acl: Value| {
        api.put(&object_id("Demo", key))
            .json(&json!({ "acl": acl }))
    };
    // A user that nobody is: the rules stand, and let nobody in.
    let unknown = json!({ "read": { "/db/User/nobody-at-all": "allow" }, "write": {} });
    put("unknown", unknown).expect(200).await;
    api.get("/db/Demo/unknown")
        .refused(404, "object_not_found")
        .await;
    root.get("/db/Demo/unknown").expect(200).await;
    for acl in [
        json!({ "read": { "User/1": "allow" } }),
        json!({ "read": { "/db/Todo/1": "allow" } }),
        json!({ "read": { "/db/User/": "allow" } }),
        json!({ "read": { "/db/User": "allow" } }),
        json!({ "read": { "/db/User/a/b": "allow" } }),
        json!({ "read": { "/db/User/%zz": "allow" } }),
        json!({ "read": { "/db/User/%c0%af": "allow" } }),
        json!({ "read": { "/db/user/1": "allow" } }),
        json!({ "read": { "": "allow" } }),
        json!({ "read": { "**": "allow" } }),
        json!({ "read": { "/db/User/1": "Allow" } }),
        json!({ "read": { "/db/User/1": null } }),
        json!({ "read": ["/db/User/1"] }),
        json!({ "raed": {} }),
        json!([]),
        json!("public"),
    ] {
        let answer = put("bad-rules", acl.clone()).send().await;
        assert_eq!(answer.status, 400, "{acl}: {}", answer.text());
    }
    let crowd = |count: usize| {
        let rules: serde_json::Map<String, Value> = (0..count)
            .map(|n| (object_id("User", &format!("u{n}")), json!("allow")))
            .collect();
        json!({ "read": rules, "write": {} })
    };
    let answer = put("bad-rules", crowd(501))
        .refused(400, "bad_request")
        .await;
    assert!(
        answer.text().contains("at most 500 rules"),
        "{}",
        answer.text()
    );
    put("bad-rules", crowd(20_000))
        .send()
        .await
        .expect_refusal();
    api.get("/db/Demo/bad-rules")
        .refused(404, "object_not_found")
        .await;
    put("large-rules", crowd(500)).expect(200).await;
}

/// Some refusal, by whatever limit was met first.
trait ExpectRefusal {
    fn expect_refusal(&self);
}

impl ExpectRefusal for tests::Answer {
    #[track_caller]
    fn expect_refusal(&self) {
        assert!(
            (400..500).contains(&self.status),
            "{}: {}",
            self.status,
            self.text()
        );
    }
}

/// A role holds users, and no roles: there is nothing that could go round in a circle.
async fn roles(root: &Api) {
    for (role, member) in [
        ("90", "/db/Role/91"),
        ("91", "/db/Role/90"),
        ("92", "/db/Role/92"),
    ] {
        let body = json!({ "name": role, "users": [member] });
        let answer = root.put(&object_id("Role", role)).json(&body).send().await;
        answer.expect_refusal();
    }
    root.put("/db/Role/93")
        .json(&json!({ "name": "93", "users": ["/db/User/1"] }))
        .expect(200)
        .await;
}

/// Queries, orders, windows, errors and explanations: nothing of them depends on what the caller may not read.
async fn questions(cluster: &Cluster) {
    let api = cluster.api(2);
    let seen = json!({ "text": "seen", "n": 9, "name": "seen" });
    api.put(&object_id(BUCKET, "seen"))
        .json(&seen)
        .expect(200)
        .await;
    let first = SECRET.chars().next().expect("a letter");
    for filter in [
        json!({}),
        json!({ "text": SECRET }),
        json!({ "text": { "$regex": format!("^{first}") } }),
        json!({ "text": { "$lt": "1" } }),
        json!({ "n": 7 }),
        json!({ "n": { "$lt": 9 } }),
        json!({ "id": hidden_path() }),
        json!({ "id": { "$in": [hidden_path()] } }),
        json!({ "$or": [{ "n": 7 }, { "text": SECRET }] }),
        json!({ "$nor": [{ "n": 9 }] }),
        json!({ "acl.read./db/Role/1": "allow" }),
        json!({ "version": 1, "n": { "$ne": 9 } }),
    ] {
        let found = api
            .post(&format!("/db/{BUCKET}/query"))
            .json(&filter)
            .send()
            .await;
        let text = found.text();
        assert!(
            !text.contains(HIDDEN) || text.contains("\"code\""),
            "{filter}: {text}"
        );
        let shown = found.status == 200 && found.json() != json!([]);
        assert_eq!(shown, filter == json!({}), "{filter}: {text}");
        let counted = api
            .post(&format!("/db/{BUCKET}/count"))
            .json(&filter)
            .send()
            .await;
        if counted.status == 200 {
            let count = counted.json();
            let count = count["count"].as_u64().or(count.as_u64());
            assert_eq!(count, Some(u64::from(filter == json!({}))), "{filter}");
        }
    }
    // The place in an order, and what is passed over, count only what is readable.
    for sort in [r#"{"n":1}"#, r#"{"n":-1}"#, r#"{"text":1}"#] {
        let sort = sort
            .replace('"', "%22")
            .replace('{', "%7B")
            .replace('}', "%7D");
        let path = format!("/db/{BUCKET}/query?sort={sort}&start=0&count=1");
        let found = api.post(&path).body("{}").expect(200).await;
        assert_eq!(found.json()[0]["text"], "seen", "{}", found.text());
        let path = format!("/db/{BUCKET}/query?sort={sort}&start=1&count=1");
        let found = api.post(&path).body("{}").expect(200).await;
        assert_eq!(found.json(), json!([]), "{}", found.text());
    }
    // Whether it is there is not told by any of these either.
    for path in [
        format!("/explain/{BUCKET}?q=%7B%7D"),
        format!("/db/{BUCKET}/query?q=%7B%7D&allowScan=true"),
        format!("/acl/check?id={}&operation=load", hidden_path()),
        format!("/db/{BUCKET}"),
    ] {
        let answer = api.get(&path).refused(466, "permission_denied").await;
        tells_nothing(&answer.text());
    }
    // An insert must find it: that it is there is told, its version is not.
    let insert = json!({ "id": hidden_path(), "text": "mine" });
    let taken = api
        .post(&format!("/db/{BUCKET}"))
        .json(&insert)
        .refused(409, "object_exists")
        .await;
    assert!(!taken.text().contains("at version"), "{}", taken.text());
    tells_nothing(&taken.text());
}

/// That a value is taken is told, whose it is only to those who may read that document.
async fn unique(cluster: &Cluster, root: &Api) {
    let index = json!({ "unique": true, "keys": [{ "name": "asc" }] });
    root.post(&format!("/index/{BUCKET}"))
        .json(&index)
        .send()
        .await;
    let ready = || async {
        let indexes = root.get(&format!("/index/{BUCKET}")).send().await.json();
        let mut all = indexes.as_array().into_iter().flatten();
        all.any(|index| index["state"] == "ready").then_some(())
    };
    tests::eventually("the index is built", Duration::from_secs(60), ready).await;
    let api = cluster.api(0);
    let body = json!({ "name": SECRET });
    let mut told = Vec::new();
    for path in [object_id(BUCKET, "thief"), object_id(BUCKET, "thief2")] {
        let taken = api.put(&path).json(&body).refused(409, "value_taken").await;
        let text = taken.json()["message"]
            .as_str()
            .expect("a message")
            .to_owned();
        assert!(!text.contains(HIDDEN), "the owner is told: {text}");
        told.push(text.replace(&path, ""));
    }
    assert_eq!(told[0], told[1]);
    let told = root
        .put(&object_id(BUCKET, "thief"))
        .json(&body)
        .refused(409, "value_taken")
        .await;
    assert!(
        told.text().contains(HIDDEN),
        "admins may read it: {}",
        told.text()
    );
}

/// Where a list goes on is no key of a document that the caller may not read.
async fn continuations(cluster: &Cluster, root: &Api) {
    let closed = json!({ "read": { "/db/Role/1": "allow" }, "write": {} });
    let writes: Vec<Value> = (0..200)
        .map(|n| {
            let put = if n % 20 == 0 {
                json!({})
            } else {
                json!({ "acl": closed })
            };
            let kind = if n % 20 == 0 { "open" } else { HIDDEN };
            json!({ "id": object_id("Demo", &format!("{{list}}{kind}{n:03}")), "put": put })
        })
        .collect();
    root.post("/batch")
        .json(&json!({ "writes": writes }))
        .expect(200)
        .await;
    let mut documents = grpc::documents(&cluster.nodes[1].client);
    let (mut continuation, mut found) = (Vec::new(), 0);
    loop {
        let scan = v1::ScanRequest {
            bucket: "Demo".to_owned(),
            limit: 3,
            continuation: continuation.clone().into(),
            ..v1::ScanRequest::default()
        };
        let (page, next) = grpc::scan(&mut documents, grpc::request(scan, None, None))
            .await
            .expect("a page");
        found += page
            .iter()
            .filter(|document| document.key.starts_with("{list}open"))
            .count();
        let text = String::from_utf8_lossy(&next);
        assert!(
            !text.contains(HIDDEN),
            "the place to go on is told by a hidden key: {text}"
        );
        continuation = next;
        if continuation.is_empty() {
            break;
        }
    }
    assert_eq!(found, 10);
}

/// Who may write an object may change its rules, also so that he loses it; who may not, may not.
async fn own_access(cluster: &Cluster, root: &Api) {
    let api = cluster.api(0);
    let path = object_id("Demo", "given-away");
    api.put(&path).json(&json!({})).expect(200).await;
    let away =
        json!({ "acl": { "read": { "/db/User/1": "allow" }, "write": { "/db/User/1": "allow" } } });
    api.put(&path).if_match(1).json(&away).expect(200).await;
    api.get(&path).refused(404, "object_not_found").await;
    api.put(&path)
        .json(&json!({}))
        .refused(466, "permission_denied")
        .await;
    root.get(&path).expect(200).await;
    let readable = json!({ "acl": { "read": {}, "write": { "/db/User/1": "allow" } } });
    root.put(&path).json(&readable).expect(200).await;
    let seize = json!({ "acl": { "read": {}, "write": {} } });
    api.put(&path)
        .json(&seize)
        .refused(462, "invalid_permission_modification")
        .await;
}
