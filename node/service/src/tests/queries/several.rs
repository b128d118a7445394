//! One query of several shards: a request to each node, a share of each shard, and never less than all of it.

use proto::{NodeId, ShardId};

use super::*;
use crate::ports::ForwardError;
use crate::testing::SHARDS;

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
    let before = *cluster.world.queries.lock();
    for sort in ["", r#"{"n":1}"#] {
        let page = query(cluster.node(1), &anonymous(), ask("{}", sort)).await;
        let page = page.expect("answered");
        assert_eq!(page.documents.len() as u64, DOCUMENTS);
        assert_eq!(page.served.len(), 4);
    }
    let ctx = anonymous();
    let counted = cluster.node(1).count(&ctx, "Demo", ask("{}", ""));
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
