//! Replacing replicas: what is refused and why, and that what was begun ends.

use std::time::{Duration, Instant};

use proto::{Effect, ErrorCode, NodeId, ShardId};

use crate::status::ShardStatus;
use crate::testing::{SHARDS, TestCluster};
use crate::{Error, Limits, ReplaceOutcome, ReplaceRequest};

fn status(cluster: &TestCluster, shard: ShardId) -> ShardStatus {
    let status = cluster.service.cluster_status();
    status.shards[shard.0 as usize].clone()
}

/// A shard that the asked node, 1, holds a replica of.
fn a_shard(cluster: &TestCluster) -> ShardId {
    let mut shards = (1..=SHARDS).map(ShardId);
    shards
        .find(|shard| places(cluster, *shard).0.contains(&NodeId(1)))
        .expect("node 1 holds something")
}

/// The nodes that hold a shard, and the one that does not.
fn places(cluster: &TestCluster, shard: ShardId) -> (Vec<NodeId>, NodeId) {
    let held: Vec<_> = status(cluster, shard)
        .replicas
        .iter()
        .map(|replica| NodeId(u64::from_str_radix(&replica.node, 16).expect("an id")))
        .collect();
    let free = (1..=4)
        .map(NodeId)
        .find(|node| !held.contains(node))
        .expect("a free node");
    (held, free)
}

async fn replace(
    cluster: &TestCluster,
    shard: ShardId,
    to: NodeId,
    from: Option<NodeId>,
) -> Result<ReplaceOutcome, Error> {
    let request = ReplaceRequest {
        shard,
        to,
        from,
        deadline: Instant::now() + Duration::from_secs(5),
    };
    cluster.service.replace_replica(request).await
}

#[tokio::test]
async fn a_replacement_that_was_begun_ends() {
    let cluster = TestCluster::with_nodes(4, Limits::default()).await;
    let shard = a_shard(&cluster);
    let (held, free) = places(&cluster, shard);
    let begun = replace(&cluster, shard, free, Some(held[1]))
        .await
        .expect("begun");
    assert!(begun.begun);
    assert_eq!((begun.old.node, begun.new.node), (held[1], free));
    let shown = status(&cluster, shard).replacement.expect("under way");
    assert_eq!(
        (shown.old_replica, shown.new_replica, shown.progress),
        (begun.old.replica.0, begun.new.replica.0, Some("starting"))
    );
    let again = replace(&cluster, shard, free, Some(held[1])).await;
    let under_way = ReplaceOutcome {
        begun: false,
        ..begun
    };
    assert_eq!(again, Ok(under_way));
    let other = replace(&cluster, shard, free, Some(held[2])).await;
    let error = other.expect_err("one at a time").to_string();
    assert!(error.contains("one at a time"), "{error}");
    let job = cluster.service.jobs().replace;
    for progress in [Some("catching_up"), Some("retiring"), None] {
        job.step_all().await;
        let shown = status(&cluster, shard).replacement;
        assert_eq!(shown.and_then(|shown| shown.progress), progress);
    }
    let (now, _) = places(&cluster, shard);
    assert_eq!(now, [held[0], free, held[2]]);
    let candidates = [(shard, begun.old.replica), (shard, begun.new.replica)];
    let deadline = Instant::now() + Duration::from_secs(5);
    let retired = cluster.service.retired(&candidates, deadline).await;
    assert_eq!(retired.expect("read"), [candidates[0]]);
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_its_reason() {
    let cluster = TestCluster::with_nodes(4, Limits::default()).await;
    let shard = a_shard(&cluster);
    let (held, free) = places(&cluster, shard);
    let far = NodeId(99);
    for (shard, to, from, reason) in [
        (ShardId(0), free, Some(held[0]), "of the metadata"),
        (ShardId(9), free, None, "there is no shard 9"),
        (shard, far, None, "knows no node"),
        (shard, free, Some(far), "holds no replica of shard"),
        (shard, held[0], Some(held[1]), "holds a replica of shard"),
    ] {
        let error = replace(&cluster, shard, to, from).await.expect_err(reason);
        assert_eq!(
            (error.code, error.effect),
            (ErrorCode::BadRequest, Effect::None)
        );
        assert!(error.to_string().contains(reason), "{error}");
    }
    cluster.silence(free);
    let error = replace(&cluster, shard, free, None)
        .await
        .expect_err("down");
    assert_eq!(error.code, ErrorCode::Unavailable);
    assert!(error.to_string().contains("is down"), "{error}");
    // With one of three down, none of the other two may stop to be renewed.
    let own = NodeId(1);
    let down = held.iter().copied().find(|node| *node != own);
    cluster.silence(down.expect("another"));
    let error = replace(&cluster, shard, own, None)
        .await
        .expect_err("quorum");
    assert!(error.to_string().contains("not enough nodes"), "{error}");
    assert_eq!(places(&cluster, shard).0, held);
}
