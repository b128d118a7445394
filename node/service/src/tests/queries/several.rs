//! One query of several shards: a request to each node, a share of each shard, and never less than all of it.

use proto::{NodeId, ShardId};

use super::*;
use crate::context::Served;
use crate::ports::ForwardError;
use crate::position::Position;
use crate::testing::SHARDS;
use crate::{Freshness, ShardExplanation};

/// Three nodes: the second leads the first half of the shards, the third the rest.
async fn spread() -> TestCluster {
    let cluster = filled(3, Limits::default()).await;
    lead(&cluster, [2, 3]);
    cluster
}

fn lead(cluster: &TestCluster, nodes: [u64; 2]) {
    for shard in 1..=SHARDS {
        let node = nodes[usize::from(shard > SHARDS / 2)];
        cluster.world.elect(ShardId(shard), Some(NodeId(node)));
    }
}

/// Asks for everything in three ways; gives how many queries were sent to other nodes.
async fn all(cluster: &TestCluster) -> u64 {
    all_at(cluster, Consistency::Linearizable).await
}

/// The same as fresh as that.
async fn all_at(cluster: &TestCluster, consistency: Consistency) -> u64 {
    let before = *cluster.world.queries.lock();
    let ask = |sort| QueryRequest {
        freshness: consistency.into(),
        ..ask("{}", sort)
    };
    for sort in ["", r#"{"n":1}"#] {
        let page = query(cluster.node(1), &anonymous(), ask(sort)).await;
        let page = page.expect("answered");
        assert_eq!(page.documents.len() as u64, DOCUMENTS);
        assert_eq!(page.served.len(), 4);
        let level = |served: &Served| served.consistency;
        assert!(
            page.served
                .iter()
                .map(level)
                .all(|level| level == consistency)
        );
    }
    let ctx = anonymous();
    let counted = cluster.node(1).count(&ctx, "Demo", ask(""));
    let counted = counted.await.expect("counted");
    assert_eq!((counted.count, counted.served.len()), (DOCUMENTS, 4));
    *cluster.world.queries.lock() - before
}

#[tokio::test]
async fn each_node_that_leads_is_asked_once() {
    let cluster = spread().await;
    assert_eq!(all(&cluster).await, 3 * 2);
    lead(&cluster, [1, 3]);
    assert_eq!(all(&cluster).await, 3);
    lead(&cluster, [1, 1]);
    assert_eq!(all(&cluster).await, 0);
}

#[tokio::test]
async fn what_a_node_does_not_answer_is_asked_for_shard_by_shard() {
    let cluster = spread().await;
    for fault in [ForwardError::Lost, ForwardError::NotSent("full".to_owned())] {
        cluster.world.forward_script.lock().push_back(fault);
        // Unless it was another request of the node that met the fault.
        let sent = all(&cluster).await;
        assert!([3 * 2, 3 * 2 + 2].contains(&sent), "{sent}");
    }
}

#[tokio::test]
async fn shards_that_moved_are_found_again() {
    let cluster = spread().await;
    // It knows leaders by what others say alone.
    cluster.world.bystanders.lock().insert(NodeId(1));
    all(&cluster).await;
    assert_eq!(all(&cluster).await, 3 * 2);
    lead(&cluster, [3, 2]);
    all(&cluster).await;
    assert_eq!(all(&cluster).await, 3 * 2);
}

#[tokio::test]
async fn what_need_not_be_fresh_is_asked_of_the_nearest_at_once() {
    let cluster = spread().await;
    assert_eq!(all_at(&cluster, Consistency::Local).await, 0);
    // It holds nothing itself, and asks each of the leaders once for all of its shards.
    cluster.world.bystanders.lock().insert(NodeId(1));
    all(&cluster).await;
    assert_eq!(all_at(&cluster, Consistency::Local).await, 3 * 2);
    // And whoever holds it where nobody leads.
    for shard in 1..=SHARDS {
        cluster.world.elect(ShardId(shard), None);
    }
    assert!(all_at(&cluster, Consistency::Local).await >= 3);
}

#[tokio::test]
async fn an_explanation_asks_each_node_once_and_tells_of_every_shard() {
    let cluster = spread().await;
    let root = cluster.root().await;
    let before = *cluster.world.queries.lock();
    let explained = cluster.node(1).explain(&root, "Demo", ask("{}", ""));
    let explained = explained.await.expect("explained");
    assert_eq!(*cluster.world.queries.lock() - before, 2);
    let shards: Vec<u32> = explained.iter().map(|one| one.shard.0).collect();
    assert_eq!(shards, (1..=SHARDS).collect::<Vec<_>>());
    let node = |one: &ShardExplanation| one.answer.as_ref().expect("a plan").node;
    let nodes: Vec<u64> = explained.iter().map(node).collect();
    assert_eq!(nodes, [2, 2, 3, 3]);
    // One that cannot answer says so, and the others answer all the same.
    cluster.world.elect(ShardId(2), None);
    let hurried = hurried_root(&root);
    let explained = cluster.node(1).explain(&hurried, "Demo", ask("{}", ""));
    let explained = explained.await.expect("explained");
    let failed: Vec<bool> = explained.iter().map(|one| one.answer.is_err()).collect();
    assert_eq!(failed, [false, true, false, false]);
}

fn hurried_root(root: &Context) -> Context {
    Context {
        deadline: Instant::now() + Duration::from_millis(300),
        ..root.clone()
    }
}

#[tokio::test]
async fn a_position_of_another_cluster_is_refused_however_shards_are_asked() {
    let cluster = spread().await;
    let position = Position {
        shard: ShardId(SHARDS + 1),
        index: 1,
    };
    for consistency in [Consistency::Linearizable, Consistency::Local] {
        let request = QueryRequest {
            freshness: Freshness {
                at_least: vec![position],
                consistency,
            },
            ..ask("{}", "")
        };
        let refused = query(cluster.node(1), &anonymous(), request).await;
        let refused = refused.map_err(|error| error.code);
        assert_eq!(refused.map(|_| ()), Err(ErrorCode::BadRequest));
    }
}
