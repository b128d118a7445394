//! Queries over all shards: one order, nothing left out in silence, only what the caller may read.

mod several;

use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::{Effect, ErrorCode, NodeId};
use serde_json::json as value;

use super::{json, put};
use crate::testing::{TestCluster, anonymous};
use crate::{Condition, Consistency, Context, Error, Limits, QueryPage, QueryRequest, Service};

/// Documents of most tests.
const DOCUMENTS: u64 = 60;

/// `n` counts in another order than keys, `half` has ties.
async fn filled(nodes: u64, limits: Limits) -> TestCluster {
    let cluster = TestCluster::with_nodes(nodes, limits).await;
    for at in 0..DOCUMENTS {
        let n = at * 37 % DOCUMENTS;
        let text = value!({ "n": n, "half": n / 2, "tags": [n % 3, n % 5] }).to_string();
        put(&cluster, &anonymous(), &key(at), &text, Condition::Absent)
            .await
            .expect("inserted");
    }
    cluster
}

fn key(at: u64) -> String {
    format!("k{at:03}")
}

fn ask(filter: &str, sort: &str) -> QueryRequest {
    QueryRequest {
        filter: Bytes::copy_from_slice(filter.as_bytes()),
        sort: Bytes::copy_from_slice(sort.as_bytes()),
        ..QueryRequest::default()
    }
}

async fn query(
    service: &Service,
    ctx: &Context,
    request: QueryRequest,
) -> Result<QueryPage, Error> {
    service.query(ctx, "Demo", request).await
}

fn keys(page: &QueryPage) -> Vec<&str> {
    page.documents
        .iter()
        .map(|document| document.key.as_str())
        .collect()
}

fn numbers(page: &QueryPage) -> Vec<u64> {
    let n = |body: &Bytes| json(body)["n"].as_u64().expect("a number");
    page.documents
        .iter()
        .map(|document| n(&document.body))
        .collect()
}

#[tokio::test]
async fn results_of_all_shards_come_in_one_order() {
    let cluster = filled(1, Limits::default()).await;
    let run = |filter, sort| {
        let request = ask(filter, sort);
        async {
            query(&cluster.service, &anonymous(), request)
                .await
                .expect("answered")
        }
    };
    let by_key = run("{}", "").await;
    assert_eq!(keys(&by_key), (0..DOCUMENTS).map(key).collect::<Vec<_>>());
    assert_eq!(by_key.continuation, None);
    assert_eq!(by_key.served.len(), 4);
    let ascending = run("{}", r#"{"n":1}"#).await;
    assert_eq!(numbers(&ascending), (0..DOCUMENTS).collect::<Vec<_>>());
    let descending = run(r#"{"n":{"$gte":10}}"#, r#"{"n":-1}"#).await;
    assert_eq!(
        numbers(&descending),
        (10..DOCUMENTS).rev().collect::<Vec<_>>()
    );
    // Ties by id, whatever shard they lie in.
    let tied = run("{}", r#"{"half":-1}"#).await;
    let mut expected: Vec<(u64, String)> = (0..DOCUMENTS)
        .map(|at| (at * 37 % DOCUMENTS / 2, key(at)))
        .collect();
    expected.sort_by(|one, other| other.0.cmp(&one.0).then(one.1.cmp(&other.1)));
    let expected: Vec<_> = expected.iter().map(|(_, key)| key.as_str()).collect();
    assert_eq!(keys(&tied), expected);
    let none = run(r#"{"n":-1}"#, "").await;
    assert_eq!((none.documents.len(), none.continuation), (0, None));
}

#[tokio::test]
async fn start_and_count_cut_a_window_out_of_the_whole() {
    let cluster = filled(1, Limits::default()).await;
    for sort in ["", r#"{"n":1}"#, r#"{"half":1,"n":-1}"#] {
        let whole = query(&cluster.service, &anonymous(), ask("{}", sort))
            .await
            .expect("answered");
        for (start, count) in [
            (0, 1),
            (0, 60),
            (7, 20),
            (55, 20),
            (60, 5),
            (3, 0),
            (1_000, 1),
        ] {
            let request = QueryRequest {
                start,
                count: Some(count),
                ..ask("{}", sort)
            };
            let part = query(&cluster.service, &anonymous(), request)
                .await
                .expect("answered");
            let expected: Vec<_> = keys(&whole)
                .into_iter()
                .skip(start as usize)
                .take(count as usize)
                .collect();
            assert_eq!(keys(&part), expected, "{sort} {start} {count}");
        }
    }
}

#[tokio::test]
async fn a_shard_that_holds_more_than_its_share_is_asked_again() {
    let cluster = TestCluster::start().await;
    for at in 0..100 {
        // One shard.
        let text = value!({ "n": 100 - at }).to_string();
        put(
            &cluster,
            &anonymous(),
            &format!("{{t}}{at:03}"),
            &text,
            Condition::Absent,
        )
        .await
        .expect("inserted");
    }
    for (count, sort) in [(Some(90), ""), (None, ""), (Some(90), r#"{"n":-1}"#)] {
        let request = QueryRequest {
            count,
            ..ask("{}", sort)
        };
        let page = query(&cluster.service, &anonymous(), request)
            .await
            .expect("answered");
        let expected: Vec<_> = (0..count.unwrap_or(100))
            .map(|at| format!("{{t}}{at:03}"))
            .collect();
        assert_eq!(keys(&page), expected, "{count:?} {sort}");
    }
}

#[tokio::test]
async fn large_documents_come_in_pages_of_bounded_size_and_are_all_there() {
    let cluster = TestCluster::start().await;
    let filler = "x".repeat(600_000);
    for at in 0..12_u64 {
        let text = value!({ "n": at * 5 % 12, "filler": filler }).to_string();
        put(
            &cluster,
            &anonymous(),
            &format!("{{t}}{at:02}"),
            &text,
            Condition::Absent,
        )
        .await
        .expect("inserted");
    }
    let sorted = query(&cluster.service, &anonymous(), ask("{}", r#"{"n":1}"#)).await;
    assert_eq!(
        numbers(&sorted.expect("answered")),
        (0..12).collect::<Vec<_>>()
    );
    let by_key = query(&cluster.service, &anonymous(), ask("{}", "")).await;
    assert_eq!(by_key.expect("answered").documents.len(), 12);
}

#[tokio::test]
async fn tokens_lead_through_everything_once_over_a_change_of_leaders() {
    let cluster = filled(2, Limits::default()).await;
    for sort in ["", r#"{"n":1}"#, r#"{"half":-1}"#] {
        let whole = query(&cluster.service, &anonymous(), ask("{}", sort))
            .await
            .expect("answered");
        let (mut found, mut continuation, mut node) = (Vec::new(), None, 1);
        loop {
            let request = QueryRequest {
                count: Some(7),
                continuation,
                ..ask("{}", sort)
            };
            let page = query(cluster.node(node), &anonymous(), request)
                .await
                .expect("answered");
            found.extend(keys(&page).into_iter().map(str::to_owned));
            continuation = page.continuation;
            if continuation.is_none() {
                break;
            }
            node = 3 - node;
            cluster.world.elect_everywhere(NodeId(node as u64));
        }
        assert_eq!(found, keys(&whole), "{sort}");
    }
}

#[tokio::test]
async fn tokens_of_other_queries_are_refused() {
    let cluster = filled(1, Limits::default()).await;
    let first = QueryRequest {
        count: Some(1),
        ..ask("{}", "")
    };
    let page = query(&cluster.service, &anonymous(), first)
        .await
        .expect("answered");
    assert!(page.continuation.is_some());
    for (request, continuation) in [
        (ask("{}", r#"{"n":1}"#), page.continuation.clone()),
        (ask(r#"{"n":{"$gt":1}}"#, ""), page.continuation),
        (ask("{}", ""), Some(Bytes::from_static(b"\xff"))),
    ] {
        let request = QueryRequest {
            continuation,
            ..request
        };
        let refused = query(&cluster.service, &anonymous(), request).await;
        assert_eq!(
            refused.map_err(|error| error.code),
            Err(ErrorCode::BadRequest)
        );
    }
}

#[tokio::test]
async fn everybody_finds_and_counts_what_they_may_read() {
    let cluster = TestCluster::start().await;
    let root = cluster.root().await;
    let rules = [
        r#"{"read":{"/db/User/1":"allow"}}"#,
        r#"{"read":{"*":"deny"}}"#,
        r#"{"read":{"/db/User/77":"allow"}}"#,
        "null",
    ];
    for at in 0..20 {
        let text = format!(r#"{{"n":{at},"acl":{}}}"#, rules[at % 4]);
        put(&cluster, &root, &key(at as u64), &text, Condition::Absent)
            .await
            .expect("inserted");
    }
    for (ctx, expected) in [(anonymous(), 5), (root, 20)] {
        for sort in ["", r#"{"n":-1}"#] {
            let page = query(&cluster.service, &ctx, ask("{}", sort))
                .await
                .expect("answered");
            assert_eq!(page.documents.len(), expected);
        }
        let counted = cluster.service.count(&ctx, "Demo", ask("{}", "")).await;
        assert_eq!(counted.expect("counted").count, expected as u64);
        let some = cluster
            .service
            .count(&ctx, "Demo", ask(r#"{"n":{"$lt":4}}"#, ""))
            .await;
        assert_eq!(some.expect("counted").count, expected as u64 / 5);
    }
}

#[tokio::test]
async fn a_query_that_looks_at_too_much_is_refused_unless_an_admin_insists() {
    let limits = Limits {
        query_rows_max: 10,
        ..Limits::default()
    };
    let cluster = filled(1, limits).await;
    let root = cluster.root().await;
    let insisting = |sort| QueryRequest {
        allow_scan: true,
        ..ask("{}", sort)
    };
    for sort in ["", r#"{"n":1}"#] {
        for ctx in [&anonymous(), &root] {
            let error = query(&cluster.service, ctx, ask("{}", sort))
                .await
                .expect_err("refused");
            assert_eq!(
                (error.code, error.effect),
                (ErrorCode::QueryNotSupported, Effect::None)
            );
            assert!(error.message.contains("allowScan"), "{error}");
        }
        let error = query(&cluster.service, &anonymous(), insisting(sort)).await;
        assert_eq!(
            error.map_err(|error| error.code),
            Err(ErrorCode::PermissionDenied)
        );
        let page = query(&cluster.service, &root, insisting(sort))
            .await
            .expect("answered");
        assert_eq!(page.documents.len() as u64, DOCUMENTS);
    }
    let refused = cluster.service.count(&root, "Demo", ask("{}", "")).await;
    assert_eq!(
        refused.map_err(|error| error.code),
        Err(ErrorCode::QueryNotSupported)
    );
    let counted = cluster.service.count(&root, "Demo", insisting("")).await;
    assert_eq!(counted.expect("counted").count, DOCUMENTS);
    // In the order of keys a few documents are found without looking at all.
    let few = QueryRequest {
        count: Some(3),
        ..ask("{}", "")
    };
    let page = query(&cluster.service, &anonymous(), few)
        .await
        .expect("answered");
    assert_eq!(keys(&page), ["k000", "k001", "k002"]);
}

#[tokio::test]
async fn a_result_is_cut_at_its_longest_and_refused_at_its_largest() {
    let limits = Limits {
        query_results_max: 25,
        ..Limits::default()
    };
    let cluster = filled(1, limits).await;
    let page = query(&cluster.service, &anonymous(), ask("{}", ""))
        .await
        .expect("answered");
    assert_eq!(page.documents.len(), 25);
    let request = QueryRequest {
        continuation: page.continuation,
        ..ask("{}", "")
    };
    let next = query(&cluster.service, &anonymous(), request)
        .await
        .expect("answered");
    assert_eq!(keys(&next).first(), Some(&"k025"));

    let limits = Limits {
        query_result_bytes_max: 2_000,
        ..Limits::default()
    };
    let cluster = filled(1, limits).await;
    for sort in ["", r#"{"n":1}"#] {
        let error = query(&cluster.service, &anonymous(), ask("{}", sort))
            .await
            .expect_err("large");
        assert_eq!(error.code, ErrorCode::QueryNotSupported);
        assert!(error.message.contains("2000 bytes"), "{error}");
        let few = QueryRequest {
            count: Some(5),
            ..ask("{}", sort)
        };
        query(&cluster.service, &anonymous(), few)
            .await
            .expect("small enough");
    }
}

#[tokio::test]
async fn a_shard_without_a_leader_fails_the_whole_query() {
    let cluster = filled(2, Limits::default()).await;
    cluster.world.elect(cluster.shard_of("Demo", "k000"), None);
    let hurried = || Context {
        deadline: Instant::now() + Duration::from_millis(100),
        ..anonymous()
    };
    for node in [1, 2] {
        for sort in ["", r#"{"n":1}"#] {
            let request = QueryRequest {
                count: Some(1),
                ..ask("{}", sort)
            };
            let error = query(cluster.node(node), &hurried(), request)
                .await
                .expect_err("no leader");
            assert_eq!(
                (error.code, error.effect),
                (ErrorCode::Unavailable, Effect::None)
            );
        }
        let counted = cluster
            .node(node)
            .count(&hurried(), "Demo", ask("{}", ""))
            .await;
        assert_eq!(
            counted.map_err(|error| error.code),
            Err(ErrorCode::Unavailable)
        );
    }
}

#[tokio::test]
async fn without_a_quorum_local_queries_go_on_and_say_so() {
    let cluster = filled(2, Limits::default()).await;
    cluster.world.elect(cluster.shard_of("Demo", "k000"), None);
    let request = QueryRequest {
        freshness: Consistency::Local.into(),
        ..ask("{}", r#"{"n":1}"#)
    };
    let page = query(cluster.node(2), &anonymous(), request.clone())
        .await
        .expect("answered");
    assert_eq!(page.documents.len() as u64, DOCUMENTS);
    assert!(
        page.served
            .iter()
            .all(|served| served.consistency == Consistency::Local)
    );
    let counted = cluster.node(2).count(&anonymous(), "Demo", request).await;
    assert_eq!(counted.expect("counted").count, DOCUMENTS);
}

#[tokio::test]
async fn a_linearizable_query_takes_one_barrier_a_shard() {
    let cluster = filled(1, Limits::default()).await;
    for sort in ["", r#"{"n":1}"#] {
        let before = *cluster.world.barriers.lock();
        query(&cluster.service, &anonymous(), ask("{}", sort))
            .await
            .expect("answered");
        assert_eq!(*cluster.world.barriers.lock() - before, 4, "{sort}");
    }
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_by_name() {
    let cluster = filled(1, Limits::default()).await;
    for (filter, sort, code) in [
        ("{", "", ErrorCode::SyntaxError),
        ("[]", "", ErrorCode::SyntaxError),
        (r#"{"a":{"$where":"1"}}"#, "", ErrorCode::QueryNotSupported),
        ("{}", "[]", ErrorCode::SyntaxError),
        ("{}", r#"{"a":2}"#, ErrorCode::SyntaxError),
    ] {
        let error = query(&cluster.service, &anonymous(), ask(filter, sort)).await;
        assert_eq!(
            error.map_err(|error| error.code),
            Err(code),
            "{filter} {sort}"
        );
        if sort.is_empty() {
            let error = cluster
                .service
                .count(&anonymous(), "Demo", ask(filter, ""))
                .await;
            assert_eq!(error.map_err(|error| error.code), Err(code), "{filter}");
        }
    }
    let unknown = cluster
        .service
        .query(&anonymous(), "Nope", ask("{}", ""))
        .await;
    assert_eq!(
        unknown.map_err(|error| error.code),
        Err(ErrorCode::BucketNotFound)
    );
    let empty = query(&cluster.service, &anonymous(), ask("", ""))
        .await
        .expect("everything");
    assert_eq!(empty.documents.len() as u64, DOCUMENTS);
}
