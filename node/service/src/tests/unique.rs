//! Values of unique indexes: who gets them, what it costs, and that no crash gives one to two documents.

mod crashes;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use futures::future::join_all;
use proto::{ErrorCode, NodeId, ShardId};
use serde_json::json as value;
use storage::tables::documents;

use super::{body, json};
use crate::testing::{Fault, SHARDS, TestCluster, anonymous, keyed};
use crate::{
    BatchOperation, BatchWrite, Condition, Context, Document, Limits, Result, Service, Written,
};

const BUCKET: &str = "Account";
const BY_NAME: &str = r#"{"unique":true,"keys":[{"name":"asc"}]}"#;
const BY_TAG: &str = r#"{"unique":true,"keys":[{"tags":"asc"}]}"#;
const NODES: u64 = 3;

/// Three nodes that lead a part of the shards each, and a bucket without indexes.
async fn without_indexes() -> TestCluster {
    let cluster = TestCluster::with_nodes(NODES, Limits::default()).await;
    let class = value!([{ "class": "/db/Account", "fields": {
        "name": { "name": "name", "type": "/db/String" },
        "n": { "name": "n", "type": "/db/Integer" },
        "tags": { "name": "tags", "type": "/db/collection.Set[/db/String]" },
    }}]);
    cluster.add_class(&class.to_string()).await;
    for shard in 1..=SHARDS {
        let node = u64::from(shard) % NODES + 1;
        cluster.world.elect(ShardId(shard), Some(NodeId(node)));
    }
    cluster
}

/// The same with unique indexes that are ready.
async fn with_indexes() -> TestCluster {
    let cluster = without_indexes().await;
    for definition in [BY_NAME, BY_TAG] {
        create(&cluster, definition).await;
        assert_eq!(built(&cluster, definition).await, ("ready", String::new()));
    }
    cluster
}

async fn create(cluster: &TestCluster, definition: &str) {
    let root = cluster.root().await;
    let created = cluster
        .service
        .change_index(&root, BUCKET, body(definition))
        .await;
    created.expect("the index is made");
}

/// The state of an index and the reason, once it is no more being built.
async fn built(cluster: &TestCluster, definition: &str) -> (&'static str, String) {
    let root = cluster.root().await;
    let wanted: serde_json::Value = serde_json::from_str(definition).expect("JSON");
    let mut changes = cluster.service.core.metadata.changes();
    loop {
        changes.mark_unchanged();
        let all = cluster.service.indexes(&root, BUCKET).await;
        let all = all.expect("the indexes are shown");
        let index = all.into_iter().find(|index| {
            let shown = index.to_json();
            shown["keys"] == wanted["keys"]
        });
        let index = index.expect("the index is there");
        if index.state != "building" {
            return (index.state, index.reason);
        }
        changes.changed().await.expect("the metadata goes on");
    }
}

fn named(name: &str) -> Bytes {
    value!({ "name": name }).to_string().into()
}

async fn insert(service: &Service, ctx: &Context, key: &str, body: Bytes) -> Result<Written> {
    let absent = Condition::Absent;
    service.put(ctx, BUCKET, Some(key), body, absent).await
}

async fn put(service: &Service, key: &str, body: Bytes) -> Result<Written> {
    let ctx = anonymous();
    service
        .put(&ctx, BUCKET, Some(key), body, Condition::None)
        .await
}

async fn update(service: &Service, key: &str, operations: &str) -> Result<Document> {
    let (ctx, operations) = (anonymous(), body(operations));
    service
        .update(&ctx, BUCKET, key, operations, Condition::None)
        .await
}

fn code<T>(result: Result<T>) -> Option<ErrorCode> {
    result.err().map(|error| error.code)
}

/// All documents that hold each name, and each tag, at one moment.
fn holders(cluster: &TestCluster) -> BTreeMap<String, BTreeSet<String>> {
    let state = cluster.metadata();
    let database = state.database("").expect("the default database");
    let bucket = &database.buckets[BUCKET];
    let mut holders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for shard in 1..=SHARDS {
        let replica = cluster.world.replica(ShardId(shard));
        let view = replica.view();
        for row in documents::scan(&view, database.id, bucket.id, Bound::Unbounded) {
            let (key, record) = row.expect("a document");
            let document = json(&record.body);
            let tags = document["tags"].as_array().cloned().unwrap_or_default();
            let tags = tags.iter().map(|tag| format!("tag {tag}"));
            let name = document["name"].as_str().map(str::to_owned);
            for value in tags.chain(name) {
                holders.entry(value).or_default().insert(key.clone());
            }
        }
    }
    holders
}

/// Waits until nothing is left to do in the background of any node.
async fn quiet(cluster: &TestCluster) {
    for node in 1..=NODES {
        let unique = &cluster
            .node(usize::try_from(node).expect("small"))
            .core
            .unique;
        unique.quiet().await;
    }
}

#[tokio::test]
async fn of_many_registrations_of_a_name_one_wins() {
    let cluster = with_indexes().await;
    let tries = (0..64).map(|at| {
        let service = cluster.node(at % 3 + 1);
        async move { insert(service, &anonymous(), &format!("k{at}"), named("anna")).await }
    });
    let results = join_all(tries).await;
    let won = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(won, 1);
    for result in results {
        assert!(matches!(code(result), None | Some(ErrorCode::ValueTaken)));
    }
    assert_eq!(holders(&cluster)["anna"].len(), 1);
}

#[tokio::test]
async fn the_other_document_is_named_to_those_who_may_read_it() {
    let cluster = with_indexes().await;
    let root = cluster.root().await;
    let hidden = r#"{"name":"anna","acl":{"read":{"/db/User/1":"allow"},"write":{}}}"#;
    insert(&cluster.service, &root, "secret", body(hidden))
        .await
        .expect("inserted");
    for (ctx, other) in [
        (&anonymous(), "another document"),
        (&root, "/db/Account/secret"),
    ] {
        let refused = insert(&cluster.service, ctx, "k", named("anna")).await;
        let error = refused.expect_err("it is taken");
        assert_eq!(error.code, ErrorCode::ValueTaken);
        assert_eq!(error.effect, proto::Effect::None);
        assert_eq!(
            error.message,
            format!(
                "{other} has this value of the unique index {} of bucket Account",
                r#"{"unique":true,"keys":[{"name":"asc"}]}"#
            )
        );
    }
    // Who may not write a document hears that, and nothing about names.
    let owned = r#"{"name":"otto","acl":{"read":{},"write":{"/db/User/1":"allow"}}}"#;
    insert(&cluster.service, &root, "k", body(owned))
        .await
        .expect("inserted");
    let refused = update(&cluster.service, "k", r#"{"$set":{"name":"anna"}}"#).await;
    assert_eq!(code(refused), Some(ErrorCode::PermissionDenied));
    let refused = insert(&cluster.service, &anonymous(), "k", named("anna")).await;
    assert_eq!(code(refused), Some(ErrorCode::ObjectExists));
}

#[tokio::test]
async fn a_write_that_takes_no_value_costs_what_it_always_did() {
    let cluster = with_indexes().await;
    insert(&cluster.service, &anonymous(), "k", named("anna"))
        .await
        .expect("inserted");
    quiet(&cluster).await;
    let cost = || {
        (
            cluster.world.document_proposals(),
            *cluster.world.barriers.lock(),
        )
    };
    let (proposals, barriers) = cost();
    update(&cluster.service, "k", r#"{"$inc":{"n":1}}"#)
        .await
        .expect("updated");
    put(&cluster.service, "k", body(r#"{"name":"anna","n":9}"#))
        .await
        .expect("written");
    assert_eq!(cost(), (proposals + 2, barriers));
    // Asking for a taken name leaves nothing in any log.
    for _ in 0..3 {
        let refused = insert(&cluster.service, &anonymous(), "l", named("anna")).await;
        assert_eq!(code(refused), Some(ErrorCode::ValueTaken));
    }
    quiet(&cluster).await;
    assert_eq!(cost().0, proposals + 2);
}

#[tokio::test]
async fn values_that_are_given_up_are_free() {
    let cluster = with_indexes().await;
    let service = &cluster.service;
    for (at, give_up) in ["update", "put", "delete", "null"].into_iter().enumerate() {
        let (old, new) = (format!("old{at}"), format!("new{at}"));
        insert(service, &anonymous(), &old, named("anna"))
            .await
            .expect(give_up);
        match give_up {
            "update" => drop(update(service, &old, r#"{"$set":{"name":"otto"}}"#).await),
            "put" => drop(put(service, &old, body("{}")).await),
            "null" => drop(put(service, &old, body(r#"{"name":null}"#)).await),
            _ => drop(
                service
                    .delete(&anonymous(), BUCKET, &old, Condition::None)
                    .await,
            ),
        }
        if at % 2 == 0 {
            quiet(&cluster).await;
        } else {
            // Without those who clean up.
            (1..=3).for_each(|node| cluster.node(node).core.unique.lose());
        }
        insert(service, &anonymous(), &new, named("anna"))
            .await
            .expect(give_up);
        for key in [&old, &new] {
            service
                .delete(&anonymous(), BUCKET, key, Condition::None)
                .await
                .expect("deleted");
        }
    }
    // Null and missing values are nobody's.
    for key in ["a", "b"] {
        put(service, key, body("{}")).await.expect("written");
    }
}

#[tokio::test]
async fn each_element_of_a_list_is_a_value() {
    let cluster = with_indexes().await;
    let service = &cluster.service;
    put(service, "a", body(r#"{"tags":["x","y"]}"#))
        .await
        .expect("written");
    let refused = put(service, "b", body(r#"{"tags":["z","y"]}"#)).await;
    assert_eq!(code(refused), Some(ErrorCode::ValueTaken));
    // What the refused write reserved is free again.
    quiet(&cluster).await;
    put(service, "c", body(r#"{"tags":["z"]}"#))
        .await
        .expect("written");
    let refused = update(service, "c", r#"{"$add":{"tags":"x"}}"#).await;
    assert_eq!(code(refused), Some(ErrorCode::ValueTaken));
    update(service, "a", r#"{"$remove":{"tags":"x"}}"#)
        .await
        .expect("updated");
    update(service, "c", r#"{"$add":{"tags":"x"}}"#)
        .await
        .expect("updated");
}

fn write(key: &str, name: Option<&str>) -> BatchWrite {
    BatchWrite {
        bucket: BUCKET.to_owned(),
        key: key.to_owned(),
        condition: Condition::None,
        operation: name.map_or(BatchOperation::Delete, |name| {
            BatchOperation::Put(named(name))
        }),
    }
}

#[tokio::test]
async fn batches_claim_for_each_write() {
    let cluster = with_indexes().await;
    let batch = async |writes: Vec<BatchWrite>| {
        let batch = cluster.service.batch(&anonymous(), writes).await;
        batch
            .map(|documents| documents.len())
            .map_err(|error| (error.code, error.message))
    };
    let two = vec![write("{t}a", Some("anna")), write("{t}b", Some("otto"))];
    assert_eq!(batch(two).await, Ok(2));
    // The same document twice, and back to where it was.
    let back = vec![
        write("{t}a", Some("ida")),
        write("{t}a", None),
        write("{t}a", Some("anna")),
    ];
    assert_eq!(batch(back).await, Ok(3));
    let same = vec![write("{t}c", Some("emil")), write("{t}d", Some("emil"))];
    let (code, message) = batch(same).await.expect_err("one value twice");
    assert_eq!(code, ErrorCode::ValueTaken);
    assert!(
        message.starts_with("writes 0 and 1 want the same value"),
        "{message}"
    );
    // A value is taken until the batch that gives it up is applied.
    for swap in [
        vec![write("{t}a", Some("otto")), write("{t}b", Some("anna"))],
        vec![write("{t}a", None), write("{t}c", Some("anna"))],
    ] {
        let (code, message) = batch(swap).await.expect_err("a swap");
        assert_eq!(code, ErrorCode::ValueTaken);
        assert!(message.starts_with("write "), "{message}");
    }
    quiet(&cluster).await;
    // Only what was written holds: names of refused batches and of in between are free.
    assert_eq!(
        batch(vec![
            write("{t}c", Some("ida")),
            write("{t}d", Some("emil"))
        ])
        .await,
        Ok(2)
    );
}

#[tokio::test]
async fn imports_and_batches_of_single_writes_obey_too() {
    let cluster = with_indexes().await;
    let root = cluster.root().await;
    let documents: Vec<Bytes> = ["anna", "otto", "anna", "ida"]
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let id = format!("/db/Account/{at}");
            value!({ "id": id, "name": name }).to_string().into()
        })
        .collect();
    let results = cluster
        .service
        .import(&root, BUCKET, documents)
        .await
        .expect("tried");
    let codes: Vec<_> = results.into_iter().map(code).collect();
    let taken = Some(ErrorCode::ValueTaken);
    assert!(
        codes == [None, None, taken, None] || codes == [taken, None, None, None],
        "{codes:?}"
    );
    let writes = vec![
        write("x", Some("emil")),
        write("y", Some("ida")),
        write("z", None),
    ];
    let results = cluster.service.batch_each(&anonymous(), writes).await;
    let codes: Vec<_> = results.expect("tried").into_iter().map(code).collect();
    assert_eq!(codes, [None, taken, None]);
}

#[tokio::test]
async fn a_repetition_hears_what_happened_and_takes_nothing() {
    let cluster = with_indexes().await;
    let ctx = keyed(&anonymous(), "once");
    let first = insert(&cluster.service, &ctx, "k", named("anna")).await;
    first.expect("inserted");
    put(&cluster.service, "k", named("otto"))
        .await
        .expect("written");
    put(&cluster.service, "l", named("anna"))
        .await
        .expect("the name is free");
    let again = insert(&cluster.service, &ctx, "k", named("anna")).await;
    assert!(again.is_ok(), "{again:?}");
    assert_eq!(holders(&cluster)["anna"], BTreeSet::from(["l".to_owned()]));
}

#[tokio::test]
async fn a_write_without_an_answer_is_fenced_by_whoever_wants_its_value() {
    let cluster = with_indexes().await;
    // The second proposal is the write; it gets stuck on its way.
    let ctx = anonymous();
    let stuck = {
        let writing = insert(&cluster.service, &ctx, "k", named("anna"));
        let script = &cluster.world.propose_script;
        script.lock().extend([Fault::Applied, Fault::Late]);
        writing.await
    };
    assert_eq!(code(stuck), Some(ErrorCode::OutcomeUnknown));
    (1..=3).for_each(|node| cluster.node(node).core.unique.lose());
    insert(&cluster.service, &ctx, "l", named("anna"))
        .await
        .expect("the name is nobody's");
    cluster.world.apply_late();
    assert_eq!(holders(&cluster)["anna"], BTreeSet::from(["l".to_owned()]));
}

#[tokio::test]
async fn an_index_over_what_is_there_is_built_or_says_why_not() {
    let cluster = without_indexes().await;
    let service = &cluster.service;
    for at in 0..700 {
        let name = format!("name{at}");
        put(service, &format!("k{at}"), named(&name))
            .await
            .expect("written");
    }
    create(&cluster, BY_NAME).await;
    assert_eq!(built(&cluster, BY_NAME).await.0, "ready");
    for at in [0, 350, 699] {
        let refused = put(service, "new", named(&format!("name{at}"))).await;
        assert_eq!(code(refused), Some(ErrorCode::ValueTaken));
    }
    put(service, "a", body(r#"{"tags":["x"]}"#))
        .await
        .expect("written");
    put(service, "b", body(r#"{"tags":["x"]}"#))
        .await
        .expect("there is no index on tags yet");
    create(&cluster, BY_TAG).await;
    let (state, reason) = built(&cluster, BY_TAG).await;
    assert_eq!(state, "failed");
    assert!(
        reason.contains("\"a\"") && reason.contains("\"b\""),
        "{reason}"
    );
    put(service, "c", body(r#"{"tags":["x"]}"#))
        .await
        .expect("a failed index forbids nothing");
}
