//! How often somebody may ask, over HTTP and gRPC.

use std::num::NonZeroU32;
use std::time::Duration;

use axum::body::Body;
use http::Method;
use proto::v1;
use proto::v1::documents_client::DocumentsClient;
use tonic::Code;

use super::harness::{Answer, Cluster, founded};
use super::root_token;
use crate::http::{Limits, Rate, Rates};

/// So slow that no test sees a bucket refilled.
fn rate(burst: u32) -> Option<Rate> {
    Some(Rate {
        every: Duration::from_secs(1000),
        burst: NonZeroU32::new(burst).expect("not zero"),
    })
}

async fn with(rates: Rates) -> Cluster {
    founded(Limits {
        rates,
        ..Limits::default()
    })
    .await
}

fn refused(answer: &Answer) {
    assert_eq!(answer.status, 429, "{:?}", answer.body);
    let body = answer.json();
    assert_eq!(
        (&body["code"], &body["effect"], &body["className"]),
        (
            &"too_many_requests".into(),
            &"none".into(),
            &"TooManyRequests".into()
        )
    );
    let after: u64 = answer
        .header("retry-after")
        .expect("retry-after")
        .parse()
        .expect("seconds");
    assert!((900..=1000).contains(&after), "{after}");
    assert_eq!(answer.header("ratelimit-remaining"), Some("0"));
}

async fn put(cluster: &Cluster, key: &str, headers: &[(&'static str, &str)]) -> Answer {
    let path = format!("/db/Demo/{key}");
    cluster.send(Method::PUT, &path, headers, "{}").await
}

#[tokio::test]
async fn an_address_that_asks_too_often_is_refused_and_nothing_happens() {
    let cluster = with(Rates {
        address: rate(4),
        ..Rates::default()
    })
    .await;
    // The log-in is the first.
    let token = root_token(&cluster).await;
    let first = put(&cluster, "a", &[]).await;
    assert_eq!(first.status, 200, "{:?}", first.body);
    assert_eq!(first.header("ratelimit-limit"), Some("4"));
    assert_eq!(first.header("ratelimit-remaining"), Some("2"));
    assert_eq!(first.header("ratelimit-reset"), Some("2000"));
    for _ in 0..2 {
        let seen = cluster.send(Method::GET, "/db/Demo/a", &[], Body::empty());
        assert_eq!(seen.await.status, 200);
    }
    let origin = ("origin", "https://app.example");
    let late = put(&cluster, "late", &[origin]).await;
    refused(&late);
    let exposed = late.header("access-control-expose-headers").expect("list");
    assert!(exposed.contains("ratelimit-remaining"), "{exposed}");
    // What is at no address counts too.
    refused(&cluster.get("/v1/nothing").await);
    // Probes and preflights do not.
    assert_eq!(cluster.get("/healthz").await.status, 200);
    let preflight = cluster
        .send(Method::OPTIONS, "/db/Demo/a", &[origin], Body::empty())
        .await;
    assert_eq!(preflight.status, 204);
    // Admins are exempt, the first time that this node sees their token too, and see that nothing happened; a forged token helps nobody.
    let root = format!("BAT {token}");
    let path = "/db/Demo/late";
    let seen = cluster
        .send(
            Method::GET,
            path,
            &[("authorization", &root)],
            Body::empty(),
        )
        .await;
    assert_eq!(seen.status, 404, "{:?}", seen.body);
    assert_eq!(seen.header("ratelimit-remaining"), None);
    let forged = format!("BAT {}0", &token[..token.len() - 1]);
    let forged = match forged == root {
        true => format!("BAT {}1", &token[..token.len() - 1]),
        false => forged,
    };
    refused(&put(&cluster, "b", &[("authorization", &forged)]).await);
}

#[tokio::test]
async fn a_token_and_a_database_have_limits_of_their_own() {
    let cluster = with(Rates {
        token: rate(1),
        database: rate(3),
        ..Rates::default()
    })
    .await;
    let one = [("authorization", "BAT 00")];
    let other = [("authorization", "BAT 11")];
    assert_eq!(put(&cluster, "a", &one).await.status, 460);
    refused(&put(&cluster, "a", &one).await);
    assert_eq!(put(&cluster, "a", &other).await.status, 460);
    // A request that its token refused is none of the database's.
    assert_eq!(put(&cluster, "a", &[]).await.status, 200);
    refused(&put(&cluster, "a", &[]).await);
    refused(&cluster.get("/v1/db/Demo/a").await);
    assert_eq!(cluster.get("/other/db/Demo/a").await.status, 461);
}

#[tokio::test]
async fn accounts_are_made_less_often() {
    let cluster = with(Rates {
        signup: rate(2),
        ..Rates::default()
    })
    .await;
    let register = |path: &'static str| cluster.send(Method::POST, path, &[], "{}");
    assert_ne!(register("/db/User/register").await.status, 429);
    assert_ne!(register("/v1/db/User/reset").await.status, 429);
    refused(&register("/db/User/register").await);
    let login = cluster.send(Method::POST, "/db/User/login", &[], "{}");
    assert_ne!(login.await.status, 429);
}

#[tokio::test]
async fn grpc_is_counted_alike() {
    for (rates, most) in [
        (
            Rates {
                address: rate(2),
                ..Rates::default()
            },
            2,
        ),
        (
            Rates {
                database: rate(1),
                ..Rates::default()
            },
            1,
        ),
    ] {
        let cluster = with(rates).await;
        let mut client = DocumentsClient::new(cluster.app.clone());
        let put = || v1::PutRequest {
            bucket: "Demo".into(),
            key: "a".into(),
            json: "{}".into(),
            ..v1::PutRequest::default()
        };
        for _ in 0..most {
            client.put(put()).await.expect("put");
        }
        let status = client.put(put()).await.expect_err("too often");
        assert_eq!(status.code(), Code::ResourceExhausted);
        let text = |name| {
            status
                .metadata()
                .get(name)
                .map(|value| value.to_str().expect("ascii"))
        };
        assert_eq!(text("larder-code"), Some("too_many_requests"));
        assert_eq!(text("larder-effect"), Some("none"));
        assert!(text("larder-request-id").is_some());
        assert!(text("retry-after").is_some());
    }
}
