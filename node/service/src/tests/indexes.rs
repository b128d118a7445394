//! Indexes: what is found does not depend on them, whatever is being written, built or dropped meanwhile.

use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::IndexState;
use proptest::prelude::*;
use proptest::sample::select;
use proto::{Effect, ErrorCode, NodeId, ShardId};
use serde_json::{Value, json as value};

use super::{body, json};
use crate::testing::{TestCluster, anonymous, soon};
use crate::{Condition, Context, IndexStatus, Limits, QueryRequest, ShardExplanation};

/// Two classes alike; only the first one gets indexes.
const INDEXED: &str = "Film";
const PLAIN: &str = "Plain";

fn class(name: &str) -> String {
    let field =
        |name: &str, ty: &str, order: u32| value!({"name": name, "type": ty, "order": order});
    value!([{"class": format!("/db/{name}"), "fields": {
        "n": field("n", "/db/Integer", 0),
        "s": field("s", "/db/String", 1),
        "tags": field("tags", "/db/collection.List[/db/String]", 2),
        "place": field("place", "/db/GeoPoint", 3),
        "free": field("free", "/db/JsonObject", 4),
    }}])
    .to_string()
}

async fn classes(nodes: u64, limits: Limits) -> TestCluster {
    let cluster = TestCluster::with_nodes(nodes, limits).await;
    for name in [INDEXED, PLAIN] {
        cluster.add_class(&class(name)).await;
    }
    cluster
}

async fn create(cluster: &TestCluster, root: &Context, keys: &str) {
    let definition = format!(r#"{{"keys":{keys},"unique":false,"drop":false}}"#);
    let made = cluster
        .service
        .change_index(root, INDEXED, body(&definition));
    made.await.expect("the index is made");
}

/// Waits until no index is being built and nothing is left of dropped ones.
async fn settled(cluster: &TestCluster) {
    let metadata = &cluster.service.core.metadata;
    let is_settled = |state: &std::sync::Arc<cluster::ClusterState>| {
        let indexes = &state.database("").expect("a database").indexes;
        indexes
            .values()
            .all(|index| matches!(index.state, IndexState::Ready | IndexState::Failed))
    };
    assert!(metadata.wait(soon(), is_settled).await.is_some());
}

async fn put(cluster: &TestCluster, ctx: &Context, bucket: &str, key: &str, text: &Value) {
    let text = body(&text.to_string());
    let service = &cluster.service;
    let put = service.put(ctx, bucket, Some(key), text, Condition::None);
    put.await.expect("stored");
}

fn ask(filter: &Value, sort: &str) -> QueryRequest {
    QueryRequest {
        filter: Bytes::from(filter.to_string()),
        sort: Bytes::copy_from_slice(sort.as_bytes()),
        ..QueryRequest::default()
    }
}

/// The keys of a whole result, read in pages of this many documents.
async fn keys(
    cluster: &TestCluster,
    ctx: &Context,
    bucket: &str,
    request: QueryRequest,
    page: Option<u64>,
) -> Vec<String> {
    let (mut keys, mut continuation) = (Vec::new(), None);
    loop {
        let request = QueryRequest {
            count: page,
            continuation,
            ..request.clone()
        };
        let found = cluster.service.query(ctx, bucket, request).await;
        let found = found.expect("answered");
        keys.extend(found.documents.into_iter().map(|document| document.key));
        continuation = found.continuation;
        if continuation.is_none() {
            return keys;
        }
    }
}

async fn explain(cluster: &TestCluster, filter: &Value, sort: &str, count: u64) -> Value {
    let request = QueryRequest {
        count: Some(count),
        ..ask(filter, sort)
    };
    let root = cluster.root().await;
    let explained = cluster.service.explain(&root, INDEXED, request).await;
    ShardExplanation::to_json(&explained.expect("explained"))
}

/// The sum of a number over all shards.
fn total(explained: &Value, member: &str) -> u64 {
    let shards = explained["shards"].as_array().expect("shards");
    shards
        .iter()
        .map(|shard| shard[member].as_u64().unwrap_or_default())
        .sum()
}

fn plans(explained: &Value) -> Vec<&str> {
    let shards = explained["shards"].as_array().expect("shards");
    shards
        .iter()
        .map(|shard| shard["plan"].as_str().unwrap_or("none"))
        .collect()
}

async fn list(cluster: &TestCluster, ctx: &Context) -> Vec<IndexStatus> {
    cluster.service.indexes(ctx, INDEXED).await.expect("listed")
}

#[tokio::test]
async fn an_index_is_made_filled_used_and_dropped() {
    let cluster = classes(1, Limits::default()).await;
    let root = cluster.root().await;
    for at in 0..200 {
        let text = value!({ "n": at % 40, "s": format!("s{at:03}") });
        put(&cluster, &root, INDEXED, &format!("k{at:03}"), &text).await;
    }
    let some = value!({ "n": 7 });
    assert_eq!(plans(&explain(&cluster, &some, "", 10).await), ["scan"; 4]);
    create(&cluster, &root, r#"[{"n":"asc"}]"#).await;
    // Again: there it is.
    create(&cluster, &root, r#"[{"n":"asc"}]"#).await;
    settled(&cluster).await;
    let shown = list(&cluster, &anonymous()).await;
    assert_eq!(
        (shown.len(), shown[0].state, shown[0].progress),
        (1, "ready", 1.0)
    );
    assert_eq!(shown[0].to_json()["keys"], value!([{ "n": "asc" }]));
    assert_eq!(shown[0].to_json()["unique"], value!(false));

    let explained = explain(&cluster, &some, "", 10).await;
    assert_eq!(plans(&explained), ["index"; 4], "{explained:#}");
    assert_eq!(total(&explained, "returned"), 5);
    assert_eq!(total(&explained, "examinedDocuments"), 5);
    // The order of the index ends the walk early.
    let explained = explain(&cluster, &value!({}), r#"{"n":-1}"#, 3).await;
    assert_eq!(plans(&explained), ["index"; 4], "{explained:#}");
    assert!(total(&explained, "examinedDocuments") < 80, "{explained:#}");
    let best = keys(
        &cluster,
        &root,
        INDEXED,
        ask(&value!({}), r#"{"n":-1}"#),
        Some(3),
    )
    .await;
    assert_eq!(best[..5], ["k039", "k079", "k119", "k159", "k199"]);
    // Counting what everybody may read looks at no document.
    let counted = cluster
        .service
        .count(&anonymous(), INDEXED, ask(&some, ""))
        .await;
    assert_eq!(counted.expect("counted").count, 5);

    let definition = body(r#"{"keys":[{"n":"asc"}],"unique":false,"drop":true}"#);
    let dropped = cluster.service.change_index(&root, INDEXED, definition);
    dropped.await.expect("dropped");
    assert_eq!(list(&cluster, &root).await, []);
    assert_eq!(plans(&explain(&cluster, &some, "", 10).await), ["scan"; 4]);
    settled(&cluster).await;
    let state = cluster.metadata();
    let database = state.database("").expect("a database");
    let bucket = database.buckets[INDEXED].id;
    assert_eq!(database.indexes_of(bucket).count(), 0);
}

#[tokio::test]
async fn who_may_not_or_asks_for_nonsense_is_refused() {
    let cluster = classes(1, Limits::default()).await;
    let root = cluster.root().await;
    let good = r#"{"keys":[{"n":"asc"}]}"#;
    for (ctx, bucket, definition, code) in [
        (&anonymous(), INDEXED, good, ErrorCode::PermissionDenied),
        (&root, "Nope", good, ErrorCode::BucketNotFound),
        (&root, INDEXED, "{", ErrorCode::SyntaxError),
        (&root, INDEXED, r#"{"keys":[]}"#, ErrorCode::SyntaxError),
        (
            &root,
            INDEXED,
            r#"{"keys":[{"n":"text"}]}"#,
            ErrorCode::SyntaxError,
        ),
        (
            &root,
            INDEXED,
            r#"{"keys":[{"place":"geo"}],"unique":true}"#,
            ErrorCode::QueryNotSupported,
        ),
        (
            &root,
            INDEXED,
            r#"{"keys":[{"n":"geo"}]}"#,
            ErrorCode::InvalidTypeValue,
        ),
    ] {
        let refused = cluster.service.change_index(ctx, bucket, body(definition));
        let error = refused.await.expect_err(definition);
        assert_eq!((error.code, error.effect), (code, Effect::None), "{error}");
    }
    let refused = cluster.service.drop_indexes(&anonymous(), INDEXED).await;
    assert_eq!(
        refused.map_err(|error| error.code),
        Err(ErrorCode::PermissionDenied)
    );
    let refused = cluster.service.indexes(&anonymous(), "Nope").await;
    assert_eq!(
        refused.map_err(|error| error.code),
        Err(ErrorCode::BucketNotFound)
    );
    // What was looked at tells of documents that the caller may not read.
    let nobody = anonymous();
    let refused = cluster
        .service
        .explain(&nobody, INDEXED, ask(&value!({}), ""));
    assert_eq!(
        refused.await.map_err(|error| error.code),
        Err(ErrorCode::PermissionDenied)
    );
}

#[tokio::test]
async fn places_are_found_by_an_index_alone_unless_an_admin_insists() {
    let cluster = classes(1, Limits::default()).await;
    let root = cluster.root().await;
    for at in 0..20 {
        let text = value!({ "place": { "latitude": f64::from(at), "longitude": 10.0 } });
        put(&cluster, &root, INDEXED, &format!("k{at:02}"), &text).await;
    }
    let near = value!({ "place": { "$nearSphere": {
        "$geometry": { "type": "Point", "coordinates": [10.0, 3.1] }, "$maxDistance": 150_000 } } });
    let refused = cluster
        .service
        .query(&anonymous(), INDEXED, ask(&near, ""))
        .await;
    assert_eq!(
        refused.map_err(|error| error.code),
        Err(ErrorCode::QueryNotSupported)
    );
    let insisting = QueryRequest {
        allow_scan: true,
        ..ask(&near, "")
    };
    let found = keys(&cluster, &root, INDEXED, insisting, None).await;
    assert_eq!(found, ["k03", "k04", "k02"]);
    create(&cluster, &root, r#"[{"place":"geo"}]"#).await;
    settled(&cluster).await;
    let found = keys(&cluster, &anonymous(), INDEXED, ask(&near, ""), None).await;
    assert_eq!(found, ["k03", "k04", "k02"]);
    assert_eq!(plans(&explain(&cluster, &near, "", 5).await), ["index"; 4]);
}

#[tokio::test]
async fn an_index_that_cannot_hold_a_document_fails_and_says_which() {
    let cluster = classes(1, Limits::default()).await;
    let root = cluster.root().await;
    let many: Vec<u32> = (0..2_000).collect();
    put(
        &cluster,
        &root,
        INDEXED,
        "crowd",
        &value!({ "free": { "list": many } }),
    )
    .await;
    create(&cluster, &root, r#"[{"free.list":"asc"}]"#).await;
    settled(&cluster).await;
    let shown = list(&cluster, &root).await;
    assert_eq!(shown[0].state, "failed");
    assert!(shown[0].reason.contains("crowd"), "{}", shown[0].reason);
    assert_eq!(list(&cluster, &anonymous()).await[0].reason, "");
    // It is kept up no more: what it could not hold is stored again.
    put(
        &cluster,
        &root,
        INDEXED,
        "other",
        &value!({ "free": { "list": many } }),
    )
    .await;
    cluster
        .service
        .drop_indexes(&root, INDEXED)
        .await
        .expect("dropped");
    settled(&cluster).await;
    assert_eq!(list(&cluster, &root).await, []);
}

#[tokio::test]
async fn a_shard_without_a_leader_keeps_an_index_unfinished_and_queries_honest() {
    let cluster = classes(2, Limits::default()).await;
    let root = cluster.root().await;
    for at in 0..40 {
        put(
            &cluster,
            &root,
            INDEXED,
            &format!("k{at:02}"),
            &value!({ "n": at }),
        )
        .await;
    }
    cluster.world.elect(ShardId(2), None);
    let hurried = Context {
        deadline: Instant::now() + Duration::from_millis(200),
        ..root.clone()
    };
    let definition = body(r#"{"keys":[{"n":"asc"}]}"#);
    let error = cluster
        .service
        .change_index(&hurried, INDEXED, definition)
        .await
        .expect_err("a shard was not told");
    assert_eq!(error.effect, Effect::Applied, "{error}");
    assert_eq!(list(&cluster, &root).await[0].state, "building");
    cluster.world.elect(ShardId(2), Some(NodeId(2)));
    settled(&cluster).await;
    cluster.world.elect(ShardId(2), None);
    let hurried = Context {
        deadline: Instant::now() + Duration::from_millis(200),
        ..anonymous()
    };
    let request = ask(&value!({ "n": { "$gte": 0 } }), "");
    let refused = cluster
        .service
        .query(&hurried, INDEXED, request.clone())
        .await;
    assert_eq!(
        refused.map_err(|error| error.code),
        Err(ErrorCode::Unavailable)
    );
    cluster.world.elect(ShardId(2), Some(NodeId(2)));
    let all = keys(&cluster, &root, INDEXED, request, None).await;
    assert_eq!(all.len(), 40);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, Value),
    Delete(u8),
    Create(&'static str),
    DropAll,
    Settle,
    Query(Value, &'static str),
}

const DEFINITIONS: [&str; 8] = [
    r#"[{"n":"asc"}]"#,
    r#"[{"n":"desc"},{"s":"asc"}]"#,
    r#"[{"s":"asc"}]"#,
    r#"[{"tags":"asc"}]"#,
    r#"[{"s":"asc"},{"n":"asc"}]"#,
    r#"[{"free.a":"asc"}]"#,
    r#"[{"place":"geo"}]"#,
    r#"[{"tags":"desc"},{"n":"asc"}]"#,
];

const SORTS: [&str; 9] = [
    "",
    "",
    r#"{"n":1}"#,
    r#"{"n":-1}"#,
    r#"{"s":1,"n":-1}"#,
    r#"{"n":-1,"s":1}"#,
    r#"{"n":1,"s":-1}"#,
    r#"{"tags":1}"#,
    r#"{"free.a":-1}"#,
];

fn any_text() -> impl Strategy<Value = Value> {
    select(vec!["a", "ab", "abc", "b", "", "ü"]).prop_map(Value::from)
}

fn any_document() -> impl Strategy<Value = Value> {
    let number = prop_oneof![4 => (-3..6_i32).prop_map(Value::from), 1 => Just(Value::Null)];
    let text = prop_oneof![4 => any_text(), 1 => Just(Value::Null)];
    let tags = prop_oneof![
        1 => Just(Value::Null),
        4 => proptest::collection::vec(any_text(), 0..4).prop_map(Value::from),
    ];
    let place = prop_oneof![
        1 => Just(Value::Null),
        2 => (-3..3_i32, -3..3_i32).prop_map(|(lat, lng)| value!({ "latitude": lat, "longitude": lng })),
    ];
    let free = prop_oneof![
        Just(value!({})),
        (0..4_i32).prop_map(|a| value!({ "a": a })),
        any_text().prop_map(|a| value!({ "a": a })),
        (0..4_i32).prop_map(|a| value!({ "a": [a, a + 1, "a"] })),
    ];
    let acl = prop_oneof![
        3 => Just(Value::Null),
        1 => Just(value!({ "read": { "/db/User/77": "allow" } })),
    ];
    (number, text, tags, place, free, acl).prop_map(|(n, s, tags, place, free, acl)| {
        value!({ "n": n, "s": s, "tags": tags, "place": place, "free": free, "acl": acl })
    })
}

fn any_filter() -> impl Strategy<Value = Value> {
    let n = || -3..6_i32;
    let plain = prop_oneof![
        Just(value!({})),
        n().prop_map(|n| value!({ "n": n })),
        Just(value!({ "n": null })),
        (n(), n()).prop_map(|(a, b)| value!({ "n": { "$gte": a, "$lt": b } })),
        (n(), n()).prop_map(|(a, b)| value!({ "n": { "$in": [a, b, null] } })),
        (n(), any_text()).prop_map(|(n, s)| value!({ "n": n, "s": { "$gt": s } })),
        any_text().prop_map(|s| value!({ "s": s })),
        Just(value!({ "s": { "$regex": "^a" } })),
        Just(value!({ "s": { "$exists": false } })),
        any_text().prop_map(|s| value!({ "s": { "$ne": s } })),
        any_text().prop_map(|s| value!({ "tags": s })),
        (any_text(), any_text()).prop_map(|(a, b)| value!({ "tags": { "$all": [a, b] } })),
        proptest::collection::vec(any_text(), 0..2).prop_map(|all| value!({ "tags": all })),
        (0..4_i32).prop_map(|a| value!({ "free.a": a })),
        (0..4_i32).prop_map(|a| value!({ "free.a": { "$gt": a } })),
        (n(), any_text()).prop_map(|(n, s)| value!({ "$or": [{ "n": n }, { "s": s }] })),
        (n(), any_text())
            .prop_map(|(n, s)| value!({ "$and": [{ "n": { "$gt": n } }, { "tags": s }] })),
    ];
    let near = (
        -3..3_i32,
        -3..3_i32,
        prop_oneof![Just(None), (0..400_i32).prop_map(Some)],
    );
    let near = near.prop_map(|(lat, lng, km)| {
        let mut near = value!({ "$geometry": { "type": "Point", "coordinates": [lng, lat] } });
        if let Some(km) = km {
            near["$maxDistance"] = value!(km * 1_000);
        }
        value!({ "place": { "$nearSphere": near } })
    });
    prop_oneof![8 => plain, 1 => near]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..30_u8, any_document()).prop_map(|(key, document)| Step::Put(key, document)),
        2 => (0..30_u8).prop_map(Step::Delete),
        3 => select(DEFINITIONS.to_vec()).prop_map(Step::Create),
        1 => Just(Step::Settle),
        1 => Just(Step::DropAll),
        8 => (any_filter(), select(SORTS.to_vec())).prop_map(|(filter, sort)| Step::Query(filter, sort)),
    ]
}

/// What both classes are asked for must be found alike, page by page, counted alike, and for everybody.
async fn compare(cluster: &TestCluster, root: &Context, filter: &Value, sort: &str) {
    let is_near = filter["place"].is_object();
    let sort = if is_near { "" } else { sort };
    let request = QueryRequest {
        allow_scan: true,
        ..ask(filter, sort)
    };
    for page in [None, Some(4)] {
        let found = keys(cluster, root, INDEXED, request.clone(), page).await;
        let expected = keys(cluster, root, PLAIN, request.clone(), page).await;
        assert_eq!(found, expected, "{filter} {sort} {page:?}");
    }
    let counts =
        [INDEXED, PLAIN].map(|bucket| cluster.service.count(root, bucket, request.clone()));
    let counts = futures::future::join_all(counts).await;
    let counts: Vec<u64> = counts
        .into_iter()
        .map(|counted| counted.expect("counted").count)
        .collect();
    assert_eq!(counts[0], counts[1], "{filter}");
    if !is_near {
        let everybody = ask(filter, sort);
        let found = keys(cluster, &anonymous(), INDEXED, everybody.clone(), Some(3)).await;
        let expected = keys(cluster, &anonymous(), PLAIN, everybody.clone(), Some(3)).await;
        assert_eq!(found, expected, "anonymous: {filter} {sort}");
        let counted = cluster
            .service
            .count(&anonymous(), INDEXED, everybody)
            .await;
        assert_eq!(
            counted.expect("counted").count,
            expected.len() as u64,
            "anonymous: {filter}"
        );
    }
}

async fn carry_out(steps: Vec<Step>) {
    let cluster = classes(1, Limits::default()).await;
    let root = cluster.root().await;
    for step in steps {
        match step {
            Step::Put(key, document) => {
                for bucket in [INDEXED, PLAIN] {
                    put(&cluster, &root, bucket, &format!("k{key}"), &document).await;
                }
            }
            Step::Delete(key) => {
                for bucket in [INDEXED, PLAIN] {
                    let key = format!("k{key}");
                    let deleted = cluster.service.delete(&root, bucket, &key, Condition::None);
                    deleted.await.expect("deleted");
                }
            }
            Step::Create(keys) => create(&cluster, &root, keys).await,
            Step::DropAll => {
                let dropped = cluster.service.drop_indexes(&root, INDEXED).await;
                dropped.expect("dropped");
            }
            Step::Settle => settled(&cluster).await,
            Step::Query(filter, sort) => compare(&cluster, &root, &filter, sort).await,
        }
    }
    settled(&cluster).await;
    for sort in SORTS {
        compare(&cluster, &root, &value!({ "n": { "$gte": 0 } }), sort).await;
    }
    let stored = cluster
        .service
        .query(&root, INDEXED, ask(&value!({}), ""))
        .await;
    for document in stored.expect("answered").documents {
        let n = json(&document.body)["n"].clone();
        compare(&cluster, &root, &value!({ "n": n }), "").await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("LARDER_SOAK").is_some() { 300 } else { 12 },
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_found_does_not_depend_on_indexes(steps in proptest::collection::vec(any_step(), 20..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(carry_out(steps));
    }
}
