//! The client port as a whole, in this process: requests go in as a socket would deliver them, answers are what it would send.

mod admin;
mod bulk;
mod connect_page;
mod export;
mod grpc;
mod harness;
mod rates;
mod refusals;
mod spec;

use std::time::Duration;

use axum::body::Body;
use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use self::harness::{Cluster, cluster, unfounded};
use super::Limits;

async fn root_token(cluster: &Cluster) -> String {
    let answer = cluster
        .send(
            Method::POST,
            "/v1/db/User/login",
            &[],
            r#"{"username":"root","password":"root"}"#,
        )
        .await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.json()["id"], "/db/User/1");
    answer
        .header("baqend-authorization-token")
        .expect("token")
        .to_owned()
}

#[tokio::test]
async fn a_document_lives_as_the_contract_says() {
    let cluster = cluster().await;

    let inserted = cluster
        .send(
            Method::POST,
            "/v1/db/Demo",
            &[],
            r#"{"id":"/db/Demo/a%2Fb","name":"x"}"#,
        )
        .await;
    assert_eq!(inserted.status, 201, "{:?}", inserted.body);
    assert_eq!(inserted.header("etag"), Some("\"1\""));
    assert_eq!(inserted.header("cache-control"), Some("no-cache"));
    assert_eq!(
        inserted.header("content-type"),
        Some("application/json;charset=utf-8")
    );
    assert_eq!(inserted.json()["id"], "/db/Demo/a%2Fb");
    assert_eq!(inserted.json()["version"], 1);

    let again = cluster
        .send(
            Method::POST,
            "/v1/db/Demo",
            &[],
            r#"{"id":"/db/Demo/a%2Fb","name":"y"}"#,
        )
        .await;
    assert_eq!(
        (again.status.as_u16(), again.json()["code"].clone()),
        (409, json!("object_exists"))
    );

    let path = "/v1/db/Demo/a%2Fb";
    let read = cluster.get(path).await;
    assert_eq!(
        (read.status.as_u16(), read.body.clone()),
        (200, inserted.body)
    );
    let known = cluster
        .send(
            Method::GET,
            path,
            &[("if-none-match", "\"1\"")],
            Body::empty(),
        )
        .await;
    assert_eq!((known.status.as_u16(), known.body.len()), (304, 0));
    assert_eq!(known.header("etag"), Some("\"1\""));
    assert_eq!(known.header("cache-control"), Some("no-cache"));
    let head = cluster.send(Method::HEAD, path, &[], Body::empty()).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    assert_eq!(
        head.header("content-length"),
        Some(read.body.len().to_string().as_str())
    );

    let replaced = cluster
        .send(
            Method::PUT,
            path,
            &[("if-match", "\"1\"")],
            r#"{"name":"z"}"#,
        )
        .await;
    assert_eq!(
        (replaced.status.as_u16(), replaced.header("etag")),
        (200, Some("\"2\"")),
        "{:?}",
        replaced.body
    );
    let stale = cluster
        .send(
            Method::PUT,
            path,
            &[("if-match", "\"1\"")],
            r#"{"name":"w"}"#,
        )
        .await;
    assert_eq!(
        (stale.status.as_u16(), stale.json()["className"].clone()),
        (412, json!("ObjectOutOfDate"))
    );
    let taken = cluster
        .send(
            Method::PUT,
            path,
            &[("if-none-match", "*")],
            r#"{"name":"w"}"#,
        )
        .await;
    assert_eq!(taken.status, 412);

    let missing = cluster
        .send(Method::PUT, "/v1/db/Demo/none", &[("if-match", "*")], "{}")
        .await;
    assert_eq!(missing.status, 412);
    let upserted = cluster
        .send(Method::PUT, "/v1/db/Demo/other", &[], "{}")
        .await;
    assert_eq!(
        (upserted.status.as_u16(), upserted.header("etag")),
        (200, Some("\"1\""))
    );

    let stale = cluster
        .send(
            Method::DELETE,
            path,
            &[("if-match", "\"1\"")],
            Body::empty(),
        )
        .await;
    assert_eq!(stale.status, 412);
    let deleted = cluster
        .send(
            Method::DELETE,
            path,
            &[("if-match", "\"2\"")],
            Body::empty(),
        )
        .await;
    assert_eq!((deleted.status.as_u16(), deleted.body.len()), (204, 0));
    let gone = cluster.get(path).await;
    assert_eq!(
        (gone.status.as_u16(), gone.json()["code"].clone()),
        (404, json!("object_not_found"))
    );
    assert_eq!(
        cluster
            .send(Method::DELETE, path, &[], Body::empty())
            .await
            .status,
        204
    );
}

#[tokio::test]
async fn an_idempotency_key_makes_a_repeated_insert_one() {
    let cluster = cluster().await;
    let key = [("idempotency-key", "k-1")];
    let first = cluster
        .send(Method::POST, "/db/Demo", &key, r#"{"name":"x"}"#)
        .await;
    let second = cluster
        .send(Method::POST, "/db/Demo", &key, r#"{"name":"x"}"#)
        .await;
    assert_eq!(
        (first.status.as_u16(), second.status.as_u16()),
        (201, 201),
        "{:?}",
        second.body
    );
    assert_eq!(first.body, second.body);
    let other = cluster
        .send(Method::POST, "/db/Demo", &key, r#"{"name":"y"}"#)
        .await;
    assert_eq!(other.status, 422);
}

#[tokio::test]
async fn schema_and_sessions_go_together() {
    let cluster = cluster().await;
    let todo =
        r#"[{"class":"/db/Todo","fields":{"name":{"name":"name","type":"/db/String","order":0}}}]"#;
    assert_eq!(
        cluster
            .send(Method::POST, "/schema", &[], todo)
            .await
            .status,
        466
    );

    let token = format!("BAT {}", root_token(&cluster).await);
    let authorized = [("authorization", token.as_str())];
    let added = cluster
        .send(Method::POST, "/schema", &authorized, todo)
        .await;
    assert_eq!(added.status, 200, "{:?}", added.body);
    assert!(
        added
            .json()
            .as_array()
            .expect("array")
            .iter()
            .any(|class| class["class"] == "/db/Todo")
    );
    assert_eq!(
        cluster.get("/schema/Todo").await.json()["class"],
        "/db/Todo"
    );
    assert_eq!(cluster.get("/schema/Nothing").await.status, 461);

    let buckets = cluster.get("/v1/db").await.json();
    assert!(
        buckets
            .as_array()
            .expect("array")
            .contains(&json!("/db/Todo")),
        "{buckets}"
    );

    let anonymous = cluster.get("/v1/connect").await.json();
    assert_eq!(anonymous["bloomFilterRefresh"], 60);
    assert!(
        anonymous.get("token").is_none()
            && anonymous.get("user").is_none()
            && anonymous.get("bloomFilter").is_none()
    );
    let known = cluster
        .send(Method::GET, "/v1/connect?BCB", &authorized, Body::empty())
        .await;
    assert_eq!(known.json()["user"]["id"], "/db/User/1");
    assert!(known.json()["token"].is_string());
    for bad in ["BAT 00", "Bearer x"] {
        let answer = cluster
            .send(
                Method::GET,
                "/v1/connect",
                &[("authorization", bad)],
                Body::empty(),
            )
            .await;
        assert_eq!(answer.status, 200);
        assert!(answer.json().get("token").is_none());
    }

    let me = cluster
        .send(Method::GET, "/db/User/me", &authorized, Body::empty())
        .await;
    assert_eq!(
        (
            me.status.as_u16(),
            me.header("baqend-authorization-token").is_some()
        ),
        (200, true)
    );
    assert_eq!(
        cluster
            .send(Method::GET, "/db/User/logout", &authorized, Body::empty())
            .await
            .status,
        204
    );
    let wrong = cluster
        .send(
            Method::POST,
            "/db/User/login",
            &[],
            r#"{"username":"root","password":"no"}"#,
        )
        .await;
    assert_eq!(
        (
            wrong.status.as_u16(),
            wrong.header("baqend-authorization-token")
        ),
        (460, None)
    );
    assert_eq!(
        cluster
            .send(Method::DELETE, "/schema/Todo", &authorized, Body::empty())
            .await
            .status,
        204
    );
}

#[tokio::test]
async fn ids_are_listed_in_part_or_whole() {
    let cluster = cluster().await;
    assert_eq!(cluster.get("/db/Demo/ids").await.json(), json!([]));
    for key in ["a", "b", "c%20d"] {
        assert_eq!(
            cluster
                .send(Method::PUT, &format!("/db/Demo/{key}"), &[], "{}")
                .await
                .status,
            200
        );
    }
    let all = cluster.get("/db/Demo/ids").await.json();
    let all = all.as_array().expect("array");
    assert_eq!(all.len(), 3);
    assert!(all.contains(&json!("/db/Demo/c%20d")));
    let part = cluster.get("/db/Demo/ids?start=1&count=1").await.json();
    assert_eq!(part, json!([all[1]]));
    assert_eq!(cluster.get("/db/Demo/ids?count=0").await.json(), json!([]));
    assert_eq!(cluster.get("/db/Nothing/ids").await.status, 461);
    assert_eq!(cluster.get("/db/Demo/ids?start=-1").await.status, 400);
}

#[tokio::test]
async fn the_sender_of_a_large_body_sees_why_it_is_refused() {
    let (_, node) = unfounded(Limits {
        body_bytes_max: 1024,
        ..Limits::default()
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let stop = CancellationToken::new();
    let served = tokio::spawn(super::serve(
        listener,
        crate::tls::Guard::new(crate::tls::Port::Client, None),
        node.app.clone(),
        super::Connections::at_most(10),
        stop.clone(),
        Duration::from_secs(1),
    ));
    for framing in ["content-length: 4194304", "transfer-encoding: chunked"] {
        let mut stream = TcpStream::connect(address).await.expect("connect");
        let head = format!("POST /db/User/login HTTP/1.1\r\nhost: h\r\n{framing}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("head");
        let chunked = framing.starts_with("transfer");
        for _ in 0..64 {
            if chunked {
                stream.write_all(b"10000\r\n").await.expect("chunk size");
            }
            stream.write_all(&[b' '; 0x10000]).await.expect("body");
            if chunked {
                stream.write_all(b"\r\n").await.expect("chunk end");
            }
        }
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.expect("answer");
        assert_eq!(&answer, b"HTTP/1.1 413", "{framing}");
    }
    stop.cancel();
    served.await.expect("served");
}

#[tokio::test]
async fn long_addresses_and_preflights_are_answered() {
    let cluster = cluster().await;
    let long = format!("/v1/status?q={}", "x".repeat(32 * 1024));
    assert_eq!(cluster.get(&long).await.status, 200);
    let asked = [
        ("origin", "https://app.example"),
        ("access-control-request-method", "PUT"),
    ];
    let preflight = cluster
        .send(Method::OPTIONS, "/v1/db/Demo/1", &asked, Body::empty())
        .await;
    assert_eq!(preflight.status, 204);
    assert_eq!(
        preflight.header("access-control-allow-credentials"),
        Some("true")
    );
    for path in [
        "/",
        "/v1",
        "/version",
        "/-/live",
        "/-/ready",
        "/-/startup",
        "/healthz",
        "/readyz",
    ] {
        assert_eq!(cluster.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn large_answers_are_compressed_on_request() {
    let cluster = cluster().await;
    let body = json!({ "text": "larder ".repeat(1000) }).to_string();
    assert_eq!(
        cluster
            .send(Method::PUT, "/db/Demo/1", &[], body)
            .await
            .status,
        200
    );
    let plain = cluster.get("/db/Demo/1").await;
    assert_eq!(plain.header("content-encoding"), None);
    for (accepts, coding) in [("gzip", "gzip"), ("gzip, deflate, br, zstd", "zstd")] {
        let answer = cluster
            .send(
                Method::GET,
                "/db/Demo/1",
                &[("accept-encoding", accepts)],
                Body::empty(),
            )
            .await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("content-encoding")),
            (200, Some(coding))
        );
        assert!(answer.body.len() < plain.body.len() / 4);
        assert_eq!(answer.header("etag"), Some("\"1\""));
    }
}

#[tokio::test]
async fn a_node_without_a_cluster_lives_and_is_not_ready() {
    let (_, node) = unfounded(Limits::default());
    assert_eq!(node.get("/healthz").await.status, 200);
    for path in ["/readyz", "/db/Demo/1"] {
        let answer = node.get(path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("larder-effect")),
            (503, Some("none")),
            "{path}"
        );
        assert_eq!(answer.header("retry-after"), Some("1"), "{path}");
    }
}

#[tokio::test]
async fn a_full_node_refuses_but_lives() {
    let (_, node) = unfounded(Limits {
        requests_in_flight_max: 0,
        ..Limits::default()
    });
    let refused = node.get("/db/Demo/1").await;
    assert_eq!(
        (refused.status.as_u16(), refused.json()["message"].clone()),
        (503, json!("too many requests in flight"))
    );
    assert_eq!(node.get("/healthz").await.status, 200);
}
