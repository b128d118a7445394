//! Connect as a page, for the hidden frames of browser clients.

use axum::body::Body;
use http::Method;
use serde_json::{Value, json};

use super::harness::{Answer, Cluster, cluster, unfounded};
use super::root_token;
use crate::http::Limits;

async fn submit(cluster: &Cluster, form: &str) -> Answer {
    let headers = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("origin", "https://app.example"),
    ];
    let answer = cluster
        .send(Method::POST, "/v1/connect", &headers, form.to_owned())
        .await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert_eq!(
        answer.header("content-type"),
        Some("text/html;charset=utf-8")
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    // Every origin may frame it.
    assert_eq!(answer.header("x-frame-options"), None);
    assert_eq!(answer.header("content-security-policy"), None);
    answer
}

/// The token and the answer that a page was delivered with.
fn delivered(answer: &Answer) -> Option<(String, Value)> {
    let html = std::str::from_utf8(&answer.body).expect("text");
    let (_, element) = html.split_once(
        r#"<script type="application/json" id="/connect" data-cache-control="no-cache" data-token=""#,
    )?;
    let (token, rest) = element.split_once("\">").expect("a token");
    let (json, _) = rest.split_once("</script>").expect("an end");
    Some((
        token.to_owned(),
        serde_json::from_str(json).expect("JSON in the page"),
    ))
}

#[tokio::test]
async fn a_frame_gets_the_answer_of_connect_for_its_token() {
    let cluster = cluster().await;
    let (token, body) = delivered(&submit(&cluster, "").await).expect("delivered");
    assert_eq!(token, "");
    assert_eq!(body, cluster.get("/v1/connect").await.json());

    let form = format!("BAT={}", root_token(&cluster).await);
    let (token, body) = delivered(&submit(&cluster, &form).await).expect("delivered");
    assert!(!token.is_empty());
    assert_eq!(body["token"], json!(token));
    assert_eq!(body["user"]["id"], "/db/User/1");

    // A bad token is an anonymous client, never a refusal.
    let (token, body) = delivered(&submit(&cluster, "BAT=5f00").await).expect("delivered");
    assert_eq!((token.as_str(), body.get("user")), ("", None));
}

#[tokio::test]
async fn a_get_gives_the_page_to_browsers_alone() {
    let cluster = cluster().await;
    for (accept, is_page) in [
        ("text/html,*/*;q=0.8", true),
        ("application/json", false),
        ("*/*", false),
    ] {
        let headers = [("accept", accept)];
        let answer = cluster
            .send(Method::GET, "/connect", &headers, Body::empty())
            .await;
        assert_eq!(delivered(&answer).is_some(), is_page, "{accept}");
    }
}

#[tokio::test]
async fn a_node_that_cannot_serve_gives_the_bridge_without_an_answer() {
    let (_, node) = unfounded(Limits::default());
    let answer = submit(&node, "").await;
    assert_eq!(delivered(&answer), None);
    assert_eq!(node.get("/v1/connect").await.status, 503);
}
