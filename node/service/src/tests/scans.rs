//! Pages of a bucket: everything once, in bounds, and only what the caller may read.

use std::collections::BTreeSet;

use proto::ErrorCode;

use super::put;
use crate::testing::{TestCluster, anonymous};
use crate::{Condition, Context, Limits, ScanRange};

/// All keys over all pages, and the number of pages.
async fn keys(cluster: &TestCluster, ctx: &Context, limit: u64) -> (Vec<String>, usize) {
    let (mut keys, mut pages, mut continuation) = (Vec::new(), 0, None);
    loop {
        let range = ScanRange {
            limit,
            continuation,
            start_key: None,
            ..ScanRange::default()
        };
        let page = cluster
            .service
            .scan(ctx, "Demo", range)
            .await
            .expect("page");
        assert!(limit == 0 || page.documents.len() as u64 <= limit);
        keys.extend(page.documents.into_iter().map(|document| document.key));
        pages += 1;
        continuation = page.continuation;
        if continuation.is_none() {
            return (keys, pages);
        }
    }
}

#[tokio::test]
async fn a_scan_gives_every_document_once() {
    let cluster = TestCluster::start().await;
    for n in 0..50 {
        put(
            &cluster,
            &anonymous(),
            &format!("k{n:02}"),
            "{}",
            Condition::Absent,
        )
        .await
        .expect("inserted");
    }
    let expected: BTreeSet<String> = (0..50).map(|n| format!("k{n:02}")).collect();
    for limit in [0, 1, 7, 1_000] {
        let (found, pages) = keys(&cluster, &anonymous(), limit).await;
        assert_eq!(found.len(), 50, "limit {limit}");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
        assert!(limit != 1 || pages >= 50);
        assert!(limit != 0 || pages == 1);
    }
}

#[tokio::test]
async fn pages_are_bounded_in_bytes_and_visits() {
    let limits = Limits {
        scan_page_bytes: 300,
        scan_page_visits: 3,
        ..Limits::default()
    };
    let cluster = TestCluster::with_nodes(1, limits).await;
    let root = cluster.root().await;
    let hidden = r#"{"acl":{"read":{"/db/User/1":"allow"}}}"#;
    for n in 0..20 {
        let text = if n % 2 == 0 { "{}" } else { hidden };
        put(&cluster, &root, &n.to_string(), text, Condition::Absent)
            .await
            .expect("inserted");
    }
    let (found, pages) = keys(&cluster, &root, 0).await;
    assert_eq!(found.len(), 20);
    assert!(pages > 5, "{pages}");
    // No page ends at a document that its reader may not know of; there it goes on.
    assert_eq!(keys(&cluster, &anonymous(), 0).await.0.len(), 10);
}

#[tokio::test]
async fn a_start_key_stays_in_its_shard() {
    let cluster = TestCluster::start().await;
    for n in 0..5 {
        put(
            &cluster,
            &anonymous(),
            &format!("{{t}}{n}"),
            "{}",
            Condition::Absent,
        )
        .await
        .expect("inserted");
        put(
            &cluster,
            &anonymous(),
            &format!("other{n}"),
            "{}",
            Condition::Absent,
        )
        .await
        .expect("inserted");
    }
    let range = ScanRange {
        limit: 2,
        continuation: None,
        start_key: Some("{t}2".to_owned()),
        ..ScanRange::default()
    };
    let page = cluster
        .service
        .scan(&anonymous(), "Demo", range)
        .await
        .expect("page");
    let first: Vec<_> = page
        .documents
        .iter()
        .map(|document| document.key.as_str())
        .collect();
    assert_eq!(first, ["{t}2", "{t}3"]);
    let range = ScanRange {
        limit: 0,
        continuation: page.continuation,
        start_key: None,
        ..ScanRange::default()
    };
    let rest = cluster
        .service
        .scan(&anonymous(), "Demo", range)
        .await
        .expect("page");
    assert_eq!(rest.continuation, None);
    let shard = cluster.shard_of("Demo", "{t}2");
    assert!(
        rest.documents
            .iter()
            .all(|document| cluster.shard_of("Demo", &document.key) == shard)
    );
    assert_eq!(
        rest.documents.first().map(|document| document.key.as_str()),
        Some("{t}4")
    );
}

#[tokio::test]
async fn bad_scans_are_refused() {
    let cluster = TestCluster::start().await;
    let range = ScanRange {
        continuation: Some(bytes::Bytes::from_static(b"\xff")),
        ..ScanRange::default()
    };
    let error = cluster
        .service
        .scan(&anonymous(), "Demo", range)
        .await
        .expect_err("refused");
    assert_eq!(error.code, ErrorCode::BadRequest);
    let error = cluster
        .service
        .scan(&anonymous(), "Nope", ScanRange::default())
        .await
        .expect_err("refused");
    assert_eq!(error.code, ErrorCode::BucketNotFound);
}

#[tokio::test]
async fn an_export_is_for_admins_and_has_the_hidden_members() {
    let cluster = TestCluster::start().await;
    let root = cluster.root().await;
    let range = ScanRange::default;
    let all = |page: crate::ScanPage| super::json(&page.documents[0].body);
    let scanned = cluster.service.scan(&root, "User", range()).await;
    let scanned = all(scanned.expect("page"));
    assert_eq!(scanned["username"], "root");
    assert!(scanned.get("_password").is_none(), "{scanned}");
    let exported = cluster.service.export(&root, "User", range()).await;
    let exported = all(exported.expect("page"));
    assert_eq!(exported["username"], "root");
    assert!(exported["_password"].is_string(), "{exported}");
    let error = cluster
        .service
        .export(&anonymous(), "Demo", range())
        .await
        .expect_err("refused");
    assert_eq!(error.code, ErrorCode::PermissionDenied);
}
