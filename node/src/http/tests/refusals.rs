//! What the client port refuses, and that every refusal has the same form.

use http::Method;
use serde_json::json;

use super::harness::{Cluster, cluster};

/// Method and path, a header, the body; status and code of the refusal.
const REFUSALS: &str = r#"
GET /v1/nothing         |                                 |                | 404 no_route
GET /bad-name/db/Demo/1 |                                 |                | 400 bad_request
GET /other/db/Demo/1    |                                 |                | 461 bucket_not_found
GET /db/Nothing/1       |                                 |                | 461 bucket_not_found
GET /db/Demo/%zz        |                                 |                | 400 bad_request
PUT /db/Demo/           |                                 | {}             | 400 bad_request
PATCH /db/Demo/1        |                                 | {}             | 405 method_not_allowed
DELETE /connect         |                                 |                | 405 method_not_allowed
POST /db/Demo/1         |                                 | {}             | 404 object_not_found
POST /db/Demo/1         | if-match: "7"                   | {}             | 412 object_out_of_date
POST /db/Demo/1         | if-none-match: *                | {}             | 400 bad_request
POST /db/Demo/1         |                                 | {              | 471 syntax_error
POST /db/Demo/1         |                                 | {"$unset":{}}  | 400 bad_request
POST /db/Demo/1         |                                 | {"$a":{"n":1}} | 400 bad_request
POST /db/Demo/1/n       |                                 | {"$inc":"x"}   | 400 bad_request
GET /db/Demo/1/n        |                                 |                | 405 method_not_allowed
GET /batch              |                                 |                | 405 method_not_allowed
POST /batch             |                                 | {}             | 471 syntax_error
GET /db/Demo            |                                 |                | 466 permission_denied
GET /db/Nothing         |                                 |                | 461 bucket_not_found
PUT /db/Demo            |                                 | []             | 466 permission_denied
PUT /db/Nothing         |                                 | []             | 461 bucket_not_found
DELETE /db/Demo         |                                 |                | 466 permission_denied
GET /file/www/a.txt     |                                 |                | 468 query_not_supported
GET /bloomfilter/expirations |                                 |                | 468 query_not_supported
PUT /db/Demo/1          |                                 | {              | 471 syntax_error
PUT /db/Demo/1          | if-match: "7                    | {}             | 400 bad_request
POST /db/Demo           | if-match: "7"                   | {}             | 400 bad_request
PUT /db/Demo/1          | idempotency-key: a b            | {}             | 400 bad_request
GET /db/Demo/1          | larder-consistency: bounded=x   |                | 400 bad_request
GET /db/Demo/1          | authorization: Bearer x         |                | 460 bad_credentials
GET /db/Demo/1          | authorization: BAT 00           |                | 460 bad_credentials
POST /db/User/login     |                                 | {"username":1} | 471 syntax_error
GET /db/Demo/query?q=1  |                                 |                | 471 syntax_error
POST /db/Demo/count     |                                 | {"$where":"1"} | 468 query_not_supported
GET /db/Nothing/query   |                                 |                | 461 bucket_not_found
GET /db/Demo/count?q=%  |                                 |                | 400 bad_request
GET /db/Demo/1?fields=a.b |                               |                | 400 bad_request
PUT /db/Demo/query      |                                 | {}             | 405 method_not_allowed
"#;

async fn check(
    cluster: &Cluster,
    (method, path): (&str, &str),
    header: (&'static str, &str),
    body: &str,
    (status, code): (u16, &str),
) {
    let headers = [
        header,
        ("origin", "https://app.example"),
        ("x-request-id", "r-7"),
    ];
    let verb: Method = method.parse().expect("method");
    let answer = cluster.send(verb, path, &headers, body.to_owned()).await;
    let what = format!("{method} {path} {}", header.0);
    assert_eq!(answer.status, status, "{what}: {:?}", answer.body);
    let json = answer.json();
    assert_eq!(json["code"], json!(code), "{what}");
    assert_eq!(json["effect"], json!("none"), "{what}");
    assert_eq!(json["requestId"], json!("r-7"), "{what}");
    assert_ne!(json["message"], json!(""), "{what}");
    for (name, value) in [
        ("larder-effect", "none"),
        ("content-type", "application/json;charset=utf-8"),
        ("access-control-allow-origin", "https://app.example"),
        ("x-request-id", "r-7"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{what} {name}");
    }
    assert_eq!(answer.header("allow").is_some(), status == 405, "{what}");
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_by_name() {
    let cluster = cluster().await;
    for line in REFUSALS.lines().filter(|line| !line.is_empty()) {
        let cells: Vec<&'static str> = line.split('|').map(str::trim).collect();
        let target = cells[0].split_once(' ').expect("method and path");
        let header = cells[1].split_once(": ").unwrap_or(("x", ""));
        let (status, code) = cells[3].split_once(' ').expect("status and code");
        let refusal = (status.parse().expect("status"), code);
        check(&cluster, target, header, cells[2], refusal).await;
    }
    let missing = cluster.get("/db/Demo/1").await;
    assert_eq!(missing.status, 404, "nothing was stored");
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let cluster = cluster().await;
    let (large, long) = ("x".repeat(16 * 1024 + 1), "x".repeat(65 * 1024));
    let document = "/db/Demo/1";
    check(
        &cluster,
        ("PUT", document),
        ("x", ""),
        &large,
        (413, "body_too_large"),
    )
    .await;
    check(
        &cluster,
        ("GET", document),
        ("x", &long),
        "",
        (431, "headers_too_large"),
    )
    .await;
}
