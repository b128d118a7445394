//! Who answers, what is tried again, and what is not (design, section 3).

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::{Effect, ErrorCode, NodeId};

use super::{body, json};
use crate::ports::ForwardError;
use crate::testing::{Fault, TestCluster, anonymous, keyed};
use crate::{Condition, Consistency, Context, Error, Limits, Written};

/// A context with little time.
fn hurried(millis: u64) -> Context {
    Context {
        deadline: Instant::now() + Duration::from_millis(millis),
        ..anonymous()
    }
}

/// Two nodes; node 1 leads, node 2 is asked.
async fn two() -> TestCluster {
    TestCluster::with_nodes(2, Limits::default()).await
}

async fn ask_second(cluster: &TestCluster, ctx: &Context) -> Result<Written, Error> {
    cluster
        .node(2)
        .put(ctx, "Demo", Some("k"), body(r#"{"n":1}"#), Condition::None)
        .await
}

#[tokio::test]
async fn any_node_answers() {
    let cluster = two().await;
    let written = ask_second(&cluster, &anonymous()).await.expect("forwarded");
    let read = cluster
        .node(2)
        .get(&anonymous(), "Demo", "k", Consistency::Linearizable)
        .await
        .expect("forwarded");
    assert_eq!(read.body, written.document.body);
    // An error crosses as it is.
    let error = cluster
        .node(2)
        .put(
            &anonymous(),
            "Demo",
            Some("k"),
            body("{}"),
            Condition::Absent,
        )
        .await;
    assert_eq!(
        error.map_err(|error| error.code),
        Err(ErrorCode::ObjectExists)
    );
}

#[tokio::test]
async fn what_has_not_happened_is_tried_again() {
    let cluster = two().await;
    for (proposals, forwards) in [
        (vec![Fault::NotLeader], vec![]),
        (
            vec![Fault::Overloaded, Fault::Overloaded, Fault::NotLeader],
            vec![],
        ),
        (
            vec![],
            vec![
                ForwardError::NotSent("down".to_owned()),
                ForwardError::NotSent("down".to_owned()),
            ],
        ),
    ] {
        cluster.world.propose_script.lock().extend(proposals);
        cluster.world.forward_script.lock().extend(forwards);
        let before = cluster.world.document_proposals();
        ask_second(&cluster, &anonymous())
            .await
            .expect("tried again");
        assert_eq!(cluster.world.document_proposals(), before + 1);
    }
}

#[tokio::test]
async fn an_unknown_outcome_is_not_tried_again_without_a_key() {
    let cluster = two().await;
    for fault in [Fault::LostUnapplied, Fault::LostApplied] {
        cluster.world.propose_script.lock().push_back(fault);
        let error = ask_second(&cluster, &anonymous())
            .await
            .expect_err("unknown");
        assert_eq!(
            (error.code, error.effect),
            (ErrorCode::OutcomeUnknown, Effect::Unknown)
        );
    }
    cluster
        .world
        .forward_script
        .lock()
        .push_back(ForwardError::Lost);
    let error = ask_second(&cluster, &anonymous())
        .await
        .expect_err("unknown");
    assert_eq!(error.code, ErrorCode::OutcomeUnknown);
}

#[tokio::test]
async fn under_a_key_it_is_and_happens_once() {
    let cluster = two().await;
    for (at, fault) in [Fault::LostUnapplied, Fault::LostApplied]
        .into_iter()
        .enumerate()
    {
        let ctx = keyed(&anonymous(), &format!("key {at}"));
        cluster.world.propose_script.lock().push_back(fault);
        let written = ask_second(&cluster, &ctx).await.expect("tried again");
        assert_eq!(written.document.version, at as u64 + 1, "{fault:?}");
        assert_eq!(json(&written.document.body)["n"], 1);
    }
    cluster
        .world
        .forward_script
        .lock()
        .push_back(ForwardError::Lost);
    let written = ask_second(&cluster, &keyed(&anonymous(), "last"))
        .await
        .expect("tried again");
    assert_eq!(written.document.version, 3);
}

#[tokio::test]
async fn a_lost_read_is_tried_again() {
    let cluster = two().await;
    ask_second(&cluster, &anonymous()).await.expect("written");
    cluster
        .world
        .forward_script
        .lock()
        .push_back(ForwardError::Lost);
    cluster
        .node(2)
        .get(&anonymous(), "Demo", "k", Consistency::Linearizable)
        .await
        .expect("read");
}

#[tokio::test]
async fn without_a_leader_nothing_happens_and_the_error_says_so() {
    let cluster = two().await;
    let shard = cluster.shard_of("Demo", "k");
    cluster.world.elect(shard, None);
    let error = ask_second(&cluster, &hurried(50))
        .await
        .expect_err("no leader");
    assert_eq!(
        (error.code, error.effect),
        (ErrorCode::Unavailable, Effect::None)
    );
    assert!(error.retry_after.is_some());
}

#[tokio::test]
async fn a_refusal_after_an_unknown_try_does_not_deny_that_try() {
    let cluster = two().await;
    // Refusals are not on record: the repetition meets the document that somebody else wrote meanwhile.
    cluster
        .node(2)
        .put(
            &anonymous(),
            "Demo",
            Some("k"),
            body("{}"),
            Condition::Absent,
        )
        .await
        .expect("inserted");
    cluster
        .world
        .forward_script
        .lock()
        .push_back(ForwardError::Lost);
    let ctx = keyed(&anonymous(), "key");
    let error = cluster
        .node(2)
        .put(&ctx, "Demo", Some("k"), body("{}"), Condition::Absent)
        .await
        .expect_err("exists");
    assert_eq!(
        (error.code, error.effect),
        (ErrorCode::ObjectExists, Effect::Unknown)
    );
}

#[tokio::test]
async fn an_election_wakes_the_asked_node() {
    let cluster = Arc::new(two().await);
    let shard = cluster.shard_of("Demo", "k");
    cluster.world.elect(shard, None);
    let asking = tokio::spawn({
        let cluster = Arc::clone(&cluster);
        async move { ask_second(&cluster, &anonymous()).await }
    });
    tokio::task::yield_now().await;
    cluster.world.elect(shard, Some(NodeId(2)));
    let written = asking.await.expect("no panic").expect("served here");
    assert!(written.created);
}

#[tokio::test]
async fn a_forwarded_request_is_never_forwarded_again() {
    let cluster = two().await;
    let request = crate::forward::Request {
        shard: cluster.shard_of("Demo", "k"),
        principal: document::acl::Principal::anonymous(),
        idempotency_key: None,
        metadata_version: 0,
        near: None,
        operation: crate::forward::Operation::MetadataVersion(true),
    };
    let reply = cluster
        .node(2)
        .handle_forward(request.encode(Instant::now() + Duration::from_secs(1)))
        .await;
    let hint = Some(NodeId(1));
    assert_eq!(
        crate::forward::decode_reply(reply),
        Err(crate::forward::Failure::NotLeader { hint })
    );
    let garbage = cluster
        .node(2)
        .handle_forward(bytes::Bytes::from_static(b"\xff"))
        .await;
    assert!(matches!(
        crate::forward::decode_reply(garbage),
        Err(crate::forward::Failure::Refused(_))
    ));
}

#[tokio::test]
async fn a_node_without_a_replica_finds_the_leader_and_remembers_it() {
    let cluster = TestCluster::with_nodes(3, Limits::default()).await;
    cluster.world.bystanders.lock().insert(NodeId(3));
    let shard = cluster.shard_of("Demo", "k");
    for leader in [NodeId(2), NodeId(1)] {
        cluster.world.elect(shard, Some(leader));
        for _ in 0..2 {
            let ctx = anonymous();
            let put = cluster
                .node(3)
                .put(&ctx, "Demo", Some("k"), body("{}"), Condition::None);
            put.await.expect("found");
        }
        assert_eq!(cluster.node(3).core.router.leader(shard), Some(leader));
    }
    let local = cluster
        .node(3)
        .get(&anonymous(), "Demo", "k", Consistency::Local)
        .await
        .expect("from the leader");
    assert_eq!(local.version, 4);
}

#[tokio::test]
async fn a_replica_that_knows_no_leader_asks_the_others() {
    let cluster = TestCluster::with_nodes(3, Limits::default()).await;
    cluster.world.blind.lock().insert(NodeId(3));
    let shard = cluster.shard_of("Demo", "k");
    for leader in [NodeId(2), NodeId(1)] {
        cluster.world.elect(shard, Some(leader));
        let ctx = anonymous();
        let put = cluster
            .node(3)
            .put(&ctx, "Demo", Some("k"), body("{}"), Condition::None);
        put.await.expect("found");
    }
}

#[tokio::test]
async fn shards_go_to_their_preferred_leaders() {
    let cluster = two().await;
    let state = cluster.metadata();
    let job = cluster.service.jobs().leader_balance;
    let mut offered = std::collections::HashMap::new();
    for _ in 0..=state.shards {
        job.hand_over_one(&mut offered).await;
    }
    let status = cluster.service.cluster_status();
    for shard in &status.shards {
        let preferred = state.assignments(proto::ShardId(shard.shard))[0].node;
        assert_eq!(
            shard.leader,
            Some(preferred.to_string()),
            "shard {}",
            shard.shard
        );
    }
    assert_eq!(status.health, crate::status::Health::Healthy);
}
