//! Schema changes: who may, when they are acknowledged, and what writes meanwhile see (design, section 7).

use proto::log::{SetBuckets, command};
use proto::{Effect, ErrorCode, ShardId};

use super::{body, json};
use crate::testing::{Fault, TestCluster, anonymous, with_token};
use crate::{Condition, Context, Limits};

const TODO: &str = r#"[{"class":"/db/Todo","fields":{"n":{"name":"n","type":"/db/Integer"}}}]"#;
const TODO_TEXT: &str = r#"{"class":"/db/Todo","fields":{"t":{"name":"t","type":"/db/String"}}}"#;

fn classes(schema: &serde_json::Value) -> Vec<&str> {
    let classes = schema.as_array().expect("an array").iter();
    classes
        .filter_map(|class| class["class"].as_str())
        .collect()
}

#[tokio::test]
async fn a_class_is_usable_when_its_creation_is_acknowledged() {
    let cluster = TestCluster::with_nodes(2, Limits::default()).await;
    let root = cluster.root().await;
    let schema = cluster
        .node(2)
        .add_schema(&root, body(TODO))
        .await
        .expect("added");
    assert!(classes(&schema).contains(&"/db/Todo"));
    let state = cluster.metadata();
    let database = state.database("").expect("default");
    assert_eq!(database.fenced_version, database.schema_version);
    for n in 0..8 {
        let written = cluster
            .node(2)
            .put(
                &anonymous(),
                "Todo",
                Some(&n.to_string()),
                body(r#"{"n":1}"#),
                Condition::None,
            )
            .await;
        assert_eq!(json(&written.expect("written").document.body)["n"], 1);
    }
    let bad = cluster
        .service
        .put(
            &anonymous(),
            "Todo",
            Some("x"),
            body(r#"{"n":"one"}"#),
            Condition::None,
        )
        .await;
    assert_eq!(
        bad.map_err(|error| error.code),
        Err(ErrorCode::InvalidTypeValue)
    );
}

#[tokio::test]
async fn all_schema_calls_work_and_need_an_admin() {
    let cluster = TestCluster::start().await;
    let (service, root) = (&cluster.service, cluster.root().await);
    let token = {
        cluster
            .service
            .login(&anonymous(), "root", "wrong")
            .await
            .expect_err("wrong password")
    };
    assert_eq!(token.code, ErrorCode::BadCredentials);
    let refused = service.add_schema(&anonymous(), body(TODO)).await;
    assert_eq!(
        refused.map_err(|error| error.code),
        Err(ErrorCode::PermissionDenied)
    );
    let refused = service.add_schema(&with_token("00"), body(TODO)).await;
    assert_eq!(
        refused.map_err(|error| error.code),
        Err(ErrorCode::BadCredentials)
    );

    service.add_schema(&root, body(TODO)).await.expect("added");
    let class = service
        .add_class(&root, "Todo", body(TODO_TEXT))
        .await
        .expect("merged");
    assert!(class["fields"]["n"].is_object() && class["fields"]["t"].is_object());
    let class = service
        .replace_class(&root, "Todo", body(TODO_TEXT))
        .await
        .expect("replaced");
    assert!(class["fields"]["n"].is_null() && class["fields"]["t"].is_object());
    assert_eq!(
        service
            .schema_class(&anonymous(), "Todo")
            .await
            .expect("readable"),
        class
    );
    service.drop_class(&root, "Todo").await.expect("dropped");
    let gone = service.schema_class(&anonymous(), "Todo").await;
    assert_eq!(
        gone.map_err(|error| error.code),
        Err(ErrorCode::BucketNotFound)
    );
    let gone = service
        .put(&anonymous(), "Todo", Some("1"), body("{}"), Condition::None)
        .await;
    assert_eq!(
        gone.map_err(|error| error.code),
        Err(ErrorCode::BucketNotFound)
    );
    let schema = service
        .replace_schema(&root, body(TODO))
        .await
        .expect("replaced");
    assert!(classes(&schema).contains(&"/db/Todo") && !classes(&schema).contains(&"/db/Demo"));
    let several = service.add_class(&root, "Todo", body("[]")).await;
    assert_eq!(
        several.map_err(|error| error.code),
        Err(ErrorCode::BadRequest)
    );
}

#[tokio::test]
async fn a_change_without_change_is_acknowledged_at_once() {
    let cluster = TestCluster::start().await;
    cluster.add_class(TODO).await;
    let before = cluster.metadata().version;
    cluster.add_class(TODO).await;
    assert_eq!(cluster.metadata().version, before);
}

#[tokio::test]
async fn a_write_waits_for_a_shard_that_has_not_heard_yet() {
    let cluster = TestCluster::start().await;
    let root = cluster.root().await;
    // Every shard refuses to be told at first; the fence tries again, and so does the write.
    cluster
        .world
        .propose_script
        .lock()
        .extend([Fault::Overloaded; 12]);
    let (added, written) = tokio::join!(cluster.service.add_schema(&root, body(TODO)), async {
        let ready = |cluster: &TestCluster| {
            cluster
                .metadata()
                .database("")
                .is_some_and(|database| database.buckets.contains_key("Todo"))
        };
        while !ready(&cluster) {
            tokio::task::yield_now().await;
        }
        cluster
            .service
            .put(
                &anonymous(),
                "Todo",
                Some("1"),
                body(r#"{"n":1}"#),
                Condition::Absent,
            )
            .await
    });
    added.expect("added");
    assert_eq!(written.expect("written").document.version, 1);
}

#[tokio::test]
async fn a_write_that_never_gets_through_has_had_no_effect() {
    let cluster = TestCluster::start().await;
    // The shard is ahead of all metadata, as after a schema change that this node will never hear of.
    let (shard, state) = (cluster.shard_of("Demo", "k"), cluster.metadata());
    let database = state.database("").expect("default");
    let mut buckets = database.pending_buckets();
    buckets.iter_mut().for_each(|bucket| bucket.version += 100);
    let replica = cluster.world.replica(shard);
    let shards = &cluster.service.core.shards;
    let command = shards.command(
        shard,
        &replica,
        command::Operation::SetBuckets(SetBuckets { buckets }),
    );
    shards
        .propose(shard, &command, crate::testing::soon())
        .await
        .expect("applied");

    let deadline = std::time::Instant::now() + std::time::Duration::from_millis(100);
    let ctx = Context {
        deadline,
        ..anonymous()
    };
    let error = cluster
        .service
        .put(&ctx, "Demo", Some("k"), body("{}"), Condition::None)
        .await
        .expect_err("refused");
    assert_eq!(
        (error.code, error.effect),
        (ErrorCode::Unavailable, Effect::None)
    );
}

#[tokio::test]
async fn a_change_that_not_all_shards_confirm_is_stored_but_says_so() {
    let cluster = TestCluster::start().await;
    let root = cluster.root().await;
    cluster.world.elect(ShardId(2), None);
    let deadline = std::time::Instant::now() + std::time::Duration::from_millis(300);
    let ctx = Context { deadline, ..root };
    let error = cluster
        .service
        .add_schema(&ctx, body(TODO))
        .await
        .expect_err("not confirmed");
    assert_eq!(
        (error.code, error.effect),
        (ErrorCode::OutcomeUnknown, Effect::Applied)
    );
    assert!(
        cluster
            .metadata()
            .database("")
            .expect("default")
            .is_pending()
    );
}
