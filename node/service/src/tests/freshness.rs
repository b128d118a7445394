//! Read levels, positions, rights by old metadata, and who declines to lead.

use std::time::{Duration, Instant};

use proto::{Effect, ErrorCode, NodeId, ShardId};

use super::{body, json};
use crate::testing::{TestCluster, anonymous, soon};
use crate::{
    Condition, Consistency, Context, Document, Error, Freshness, Limits, Position, ScanRange,
};

const BOUND: Duration = Duration::from_secs(2);

/// A context with little time.
fn hurried() -> Context {
    Context {
        deadline: Instant::now() + Duration::from_millis(700),
        ..anonymous()
    }
}

/// Two nodes with one document; node 1 leads.
async fn two() -> (TestCluster, Position) {
    let cluster = TestCluster::with_nodes(2, Limits::default()).await;
    let ctx = anonymous();
    let put = cluster
        .service
        .put(&ctx, "Demo", Some("k"), body(r#"{"n":1}"#), Condition::None);
    let served = put.await.expect("written").document.served.expect("served");
    cluster.node(2).core.evidence.round(soon()).await;
    (cluster, served.position)
}

async fn get(
    cluster: &TestCluster,
    node: usize,
    freshness: impl Into<Freshness>,
) -> Result<Document, Error> {
    cluster
        .node(node)
        .get(&hurried(), "Demo", "k", freshness)
        .await
}

/// From now on, and as if for `ago`, no quorum confirms a shard's leader, and nobody leads it.
fn lose_quorum(cluster: &TestCluster, shard: ShardId, ago: Duration) {
    let since = Instant::now().checked_sub(ago).expect("a while ago");
    cluster.world.unconfirmed.lock().insert(shard, since);
}

#[tokio::test]
async fn every_answer_says_what_it_is() {
    let (cluster, position) = two().await;
    let shard = cluster.shard_of("Demo", "k");
    assert_eq!(position.shard, shard);
    for (level, most) in [
        (Consistency::Linearizable, Duration::ZERO),
        (Consistency::Bounded(BOUND), BOUND),
        (Consistency::Local, BOUND),
    ] {
        let document = get(&cluster, 2, level).await.expect("served");
        assert_eq!(json(&document.body)["n"], 1);
        let served = document.served.expect("served");
        assert_eq!(served.consistency, level);
        assert!(served.position.index >= position.index);
        assert!(served.age.expect("evidence") <= most, "{level:?}");
    }
    // Pages say it for each shard.
    let range = ScanRange {
        freshness: Consistency::Bounded(BOUND).into(),
        ..ScanRange::default()
    };
    let page = cluster
        .node(2)
        .scan(&hurried(), "Demo", range)
        .await
        .expect("page");
    assert!(
        page.served
            .iter()
            .any(|served| served.position.shard == shard
                && served.consistency == Consistency::Bounded(BOUND)),
        "{:?}",
        page.served
    );
}

#[tokio::test]
async fn near_reads_do_not_trouble_the_leader() {
    let (cluster, _) = two().await;
    let before = *cluster.world.barriers.lock();
    for level in [Consistency::Bounded(BOUND), Consistency::Local] {
        get(&cluster, 2, level).await.expect("served");
    }
    assert_eq!(*cluster.world.barriers.lock(), before);
    // What nobody can have proven in time is asked of the leader, and then linearizable.
    let document = get(&cluster, 2, Consistency::Bounded(Duration::ZERO))
        .await
        .expect("from the leader");
    assert_eq!(
        document.served.expect("served").consistency,
        Consistency::Linearizable
    );
    assert!(*cluster.world.barriers.lock() > before);
}

#[tokio::test]
async fn a_replica_that_is_still_being_filled_answers_nothing() {
    let (cluster, _) = two().await;
    let shard = cluster.shard_of("Demo", "k");
    cluster.world.fresh.lock().insert(NodeId(2));
    let document = get(&cluster, 2, Consistency::Local).await;
    assert_eq!(json(&document.expect("from the other").body)["n"], 1);
    // Nor does it answer the other nodes, where nobody leads.
    cluster.world.fresh.lock().insert(NodeId(1));
    cluster.world.elect(shard, None);
    for node in [1, 2] {
        let error = get(&cluster, node, Consistency::Local).await;
        let error = error.expect_err("nobody holds anything");
        assert_eq!(
            (error.code, error.effect),
            (ErrorCode::Unavailable, Effect::None)
        );
    }
}

#[tokio::test]
async fn without_a_quorum_bounded_reads_go_on_within_their_bound_and_local_ones_for_ever() {
    let (cluster, _) = two().await;
    let shard = cluster.shard_of("Demo", "k");
    lose_quorum(&cluster, shard, Duration::ZERO);
    for node in [1, 2] {
        get(&cluster, node, Consistency::Bounded(BOUND))
            .await
            .expect("still proven");
        get(&cluster, node, Consistency::Local)
            .await
            .expect("local");
        let error = get(&cluster, node, Consistency::Linearizable)
            .await
            .expect_err("no quorum");
        assert_eq!(
            (error.code, error.effect),
            (ErrorCode::Unavailable, Effect::None)
        );
    }
    // The bound passes.
    let short = Duration::from_millis(300);
    let lost = Instant::now();
    loop {
        match get(&cluster, 2, Consistency::Bounded(short)).await {
            Ok(_) => assert!(lost.elapsed() < Duration::from_secs(10), "for ever"),
            Err(error) => {
                assert_eq!(
                    (error.code, error.effect),
                    (ErrorCode::Unavailable, Effect::None)
                );
                assert!(error.message.contains("can prove"), "{error}");
                break;
            }
        }
    }
    let document = get(&cluster, 2, Consistency::Local).await.expect("local");
    assert!(document.served.expect("served").age > Some(short));
}

#[tokio::test]
async fn a_node_without_a_replica_asks_the_others() {
    let (cluster, _) = two().await;
    let shard = cluster.shard_of("Demo", "k");
    cluster.world.bystanders.lock().insert(NodeId(2));
    lose_quorum(&cluster, shard, Duration::ZERO);
    for level in [Consistency::Bounded(BOUND), Consistency::Local] {
        let document = get(&cluster, 2, level).await.expect("from the other node");
        assert_eq!(document.served.expect("served").consistency, level);
    }
}

#[tokio::test]
async fn a_position_is_waited_for_and_never_undercut() {
    let (cluster, position) = two().await;
    let seen = |index| Freshness {
        consistency: Consistency::Local,
        at_least: vec![Position { index, ..position }],
    };
    get(&cluster, 2, seen(position.index))
        .await
        .expect("reached");
    // Not reached here: the leader is asked, who is linearizable.
    let document = get(&cluster, 2, seen(position.index + 5))
        .await
        .expect("from the leader");
    assert_eq!(
        document.served.expect("served").consistency,
        Consistency::Linearizable
    );
    // Positions of other shards say nothing about this one.
    let other = ShardId(position.shard.0 % crate::testing::SHARDS + 1);
    let elsewhere = Freshness {
        consistency: Consistency::Local,
        at_least: vec![Position {
            shard: other,
            index: u64::MAX,
        }],
    };
    let document = get(&cluster, 2, elsewhere).await.expect("served");
    assert_eq!(
        document.served.expect("served").consistency,
        Consistency::Local
    );
    for shard in [ShardId::META, ShardId(crate::testing::SHARDS + 1)] {
        let foreign = Freshness {
            consistency: Consistency::Local,
            at_least: vec![Position { shard, index: 1 }],
        };
        let error = get(&cluster, 2, foreign).await.expect_err("foreign");
        assert_eq!(error.code, ErrorCode::BadRequest);
    }
}

#[tokio::test]
async fn a_node_shows_no_less_than_it_has_acknowledged() {
    let (cluster, position) = two().await;
    let (shard, node) = (position.shard, &cluster.node(2).core);
    // As if this node had forwarded a write that its own replica has not applied yet.
    node.evidence.acknowledge(shard, position.index + 1);
    let document = get(&cluster, 2, Consistency::Local)
        .await
        .expect("from the leader");
    assert_eq!(
        document.served.expect("served").consistency,
        Consistency::Linearizable
    );
}

#[tokio::test]
async fn rights_are_not_judged_by_metadata_that_nobody_confirms() {
    let limits = Limits {
        metadata_age_max: Duration::from_secs(1),
        ..Limits::default()
    };
    let cluster = TestCluster::with_nodes(2, limits).await;
    let put = |node: usize| {
        let service = cluster.node(node).clone();
        async move {
            let ctx = hurried();
            let written = service.put(&ctx, "Demo", Some("k"), body(r#"{"n":1}"#), Condition::None);
            written.await.map(|_| ())
        }
    };
    put(1).await.expect("written");
    put(2).await.expect("written");
    lose_quorum(&cluster, ShardId::META, Duration::ZERO);
    let lost = Instant::now();
    for node in [1, 2] {
        let error = loop {
            match put(node).await {
                Ok(()) => assert!(lost.elapsed() < Duration::from_secs(10), "for ever"),
                Err(error) => break error,
            }
        };
        assert!(lost.elapsed() >= Duration::from_millis(900), "too early");
        assert_eq!(
            (error.code, error.effect),
            (ErrorCode::Unavailable, Effect::None)
        );
        assert!(error.message.contains("cannot judge rights"), "{error}");
        assert!(error.retry_after.is_some());
        assert!(cluster.node(node).ready().is_err());
        for level in [Consistency::Linearizable, Consistency::Bounded(BOUND / 4)] {
            let error = get(&cluster, node, level).await.expect_err("refused");
            assert_eq!(error.code, ErrorCode::Unavailable);
        }
        // Who takes older state takes older rights.
        get(&cluster, node, Consistency::Local)
            .await
            .expect("local");
    }
    // One answer of the leader is enough.
    cluster.world.unconfirmed.lock().clear();
    put(2).await.expect("written");
}

#[tokio::test]
async fn nobody_hands_shards_to_a_node_that_declines() {
    let (cluster, _) = two().await;
    assert!(cluster.node(2).ready().is_ok());
    cluster.node(2).set_declines(true, soon()).await;
    assert!(cluster.node(2).ready().is_err());
    let job = cluster.service.jobs().leader_balance;
    let mut offered = std::collections::HashMap::new();
    for _ in 0..=crate::testing::SHARDS {
        job.hand_over_one(&mut offered).await;
    }
    let led = |node: u64| {
        let leaders = cluster.service.cluster_status().shards;
        let leaders = leaders.into_iter().filter_map(|shard| shard.leader);
        leaders
            .filter(|leader| *leader == NodeId(node).to_string())
            .count()
    };
    assert_eq!(led(2), 0);
    cluster.node(2).set_declines(false, soon()).await;
    for _ in 0..=crate::testing::SHARDS {
        job.hand_over_one(&mut offered).await;
    }
    assert!(led(2) > 0, "otherwise the first half shows nothing");
}
