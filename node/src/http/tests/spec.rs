//! The interface description: true to the dispatch, with the database's classes, and readable without the internet.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use http::Method;
use serde_json::Value;

use super::harness::cluster;
use crate::http::route;
use crate::http::spec::OPERATIONS;

fn upper(method: &utoipa::openapi::HttpMethod) -> String {
    let method = serde_json::to_value(method).expect("JSON");
    method.as_str().expect("text").to_uppercase()
}

#[test]
fn every_method_of_a_described_path_is_described() {
    let mut described: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for operation in OPERATIONS {
        let methods = described.entry(operation.path).or_default();
        assert!(
            methods.insert(upper(&operation.method)),
            "{}",
            operation.path
        );
    }
    for (path, methods) in described {
        let concrete = path.replace(['{', '}'], "");
        let target = route::parse(&concrete).expect("an address");
        let offered: BTreeSet<String> = target
            .route
            .methods()
            .split(", ")
            .filter(|method| !matches!(*method, "HEAD" | "OPTIONS"))
            .map(str::to_owned)
            .collect();
        assert_eq!(methods, offered, "{path}");
    }
}

#[tokio::test]
async fn what_is_described_is_offered() {
    let cluster = cluster().await;
    for operation in OPERATIONS {
        let path = operation.path.replace("{bucket}", "Demo");
        let path = path.replace("{key}", "k").replace("{field}", "f");
        // Else it has no end.
        let path = match path.as_str() {
            "/changes" => "/changes?wait=1".to_owned(),
            _ => path,
        };
        let method = Method::from_bytes(upper(&operation.method).as_bytes()).expect("a method");
        let answer = cluster.send(method, &path, &[], Body::empty()).await;
        let error: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let message = error["message"].as_str().unwrap_or_default();
        assert!(
            answer.status != 405
                && error["code"] != "no_route"
                && !message.contains("does not offer"),
            "{path}: {message}"
        );
    }
}

#[tokio::test]
async fn the_description_has_the_classes_and_the_page_its_files() {
    let cluster = cluster().await;
    let get = async |path: &str| cluster.send(Method::GET, path, &[], Body::empty()).await;
    let found: Value = get("/v1/spec").await.json();
    assert_eq!(found["openapi"], "3.1.0");
    assert_eq!(found["servers"][0]["url"], "/v1");
    assert!(
        found["components"]["schemas"]["User"].is_object(),
        "{found}"
    );
    let put = &found["paths"]["/db/{bucket}/{key}"]["put"];
    assert_eq!(put["parameters"][1]["name"], "key");
    let short: Value = get("/spec").await.json();
    assert_eq!(short["servers"][0]["url"], "");

    let moved = get("/v1/docs").await;
    assert_eq!(
        (moved.status.as_u16(), moved.header("location")),
        (308, Some("/v1/docs/"))
    );
    let page = get("/v1/docs/").await;
    assert_eq!(page.header("content-type"), Some("text/html"));
    let page = String::from_utf8_lossy(&page.body).into_owned();
    assert!(
        !page.contains("https://"),
        "nothing comes from elsewhere: {page}"
    );
    let start = get("/v1/docs/swagger-initializer.js").await;
    assert!(String::from_utf8_lossy(&start.body).contains("/v1/spec"));
    assert_eq!(get("/v1/docs/swagger-ui-bundle.js").await.status, 200);
    assert_eq!(get("/v1/docs/none.js").await.status, 404);
}
