//! Reads that are proven by votes.

use futures::future::join_all;

use super::beats::{led_by_one, patient, shards};
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn reads_of_all_groups_ask_a_node_together_and_trouble_no_follower() {
    let cluster = led_by_one(patient()).await;
    let (network, host) = (cluster.network.clone(), cluster.nodes[0].host.clone());
    let others = [NodeId(2), NodeId(3)];
    let votes = |to| network.votes(NodeId(1), to);
    let appends = || others.map(|to| network.appends(NodeId(1), to).len());
    assert!(others.iter().all(|to| votes(*to).is_empty()));
    let before = appends();
    let barriers = async move {
        let barriers = shards().map(|shard| host.read_barrier(shard, deadline()));
        join_all(barriers).await
    };
    // From a task of the runtime: what is spawned from outside reaches its one thread one by one.
    for proven in tokio::spawn(barriers).await.expect("no panic") {
        proven.expect("proven");
    }
    // One of the two is enough for each: the message to the other may not have left yet.
    let asked = others.map(votes).concat();
    assert!(asked.iter().sum::<usize>() >= shards().count(), "{asked:?}");
    assert!(asked.len() <= shards().count() / 2, "{asked:?}");
    // News of the elections may still be on their way, to a few.
    let after = appends();
    let heartbeats: usize = after.iter().sum::<usize>() - before.iter().sum::<usize>();
    assert!(heartbeats < shards().count(), "{heartbeats} heartbeats");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_replaced_while_it_could_not_know_proves_nothing() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader(&[0, 1, 2]).await;
    let others: Vec<_> = (0..3).filter(|at| *at != old).collect();
    let old_node = NodeId(old as u64 + 1);
    let old_host = &cluster.nodes[old].host;
    old_host
        .read_barrier(SHARD, deadline())
        .await
        .expect("proven");

    cluster.network.cut(old_node);
    let new = cluster.leader(&others).await;
    let written = cluster.nodes[new]
        .host
        .propose(SHARD, command(), deadline());
    written.await.expect("applied");
    let index = cluster.nodes[new]
        .replica
        .applied()
        .id
        .expect("applied")
        .index;
    assert!(old_host.is_leader(SHARD), "it knows nothing of it");

    cluster.network.heal(old_node);
    let proven = old_host.read_barrier(SHARD, deadline()).await;
    let held = cluster.nodes[old]
        .replica
        .applied()
        .id
        .expect("applied")
        .index;
    assert!(
        proven.is_err() || held >= index,
        "{proven:?} at {held} of {index}"
    );
}
