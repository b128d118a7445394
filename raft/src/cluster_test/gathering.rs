//! Requests that come at the same time share rounds.

use super::*;

/// Requests at once. Far more than the rounds that they may take.
const REQUESTS: usize = 64;

/// What a round each would exceed: several may be under way, and a heartbeat of the group's own comes in between.
const ROUNDS_MAX: usize = REQUESTS / 4;

/// One node of three that leads, and another one.
async fn led() -> (Cluster, usize, NodeId, NodeId) {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let other = (leader + 1) % 3;
    let node = |at: usize| NodeId(at as u64 + 1);
    (cluster, leader, node(leader), node(other))
}

/// Runs the same request this often, each in a task of its own, as a server does. All are ready before the first is run.
async fn at_once<F: Future<Output = ()> + Send + 'static>(request: impl Fn() -> F) {
    let requests: Vec<_> = (0..REQUESTS).map(|_| tokio::spawn(request())).collect();
    for request in requests {
        request.await.expect("no panic");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn proposals_that_come_at_once_are_appended_together() {
    let (cluster, leader, from, to) = led().await;
    let before = cluster.network.appends(from, to).len();
    let host = cluster.nodes[leader].host.clone();
    // From a task of the runtime: what is spawned from outside reaches its one thread one by one.
    let proposed = tokio::spawn(async move {
        at_once(|| {
            let host = host.clone();
            async move {
                let applied = host.propose(SHARD, command(), deadline()).await;
                applied.expect("applied");
            }
        })
        .await;
    });
    proposed.await.expect("no panic");
    let index = cluster.nodes[leader].replica.applied().id;
    let index = index.expect("applied").index;
    cluster.applied((leader + 1) % 3, index).await;
    let appends = &cluster.network.appends(from, to)[before..];
    assert!(appends.iter().sum::<usize>() >= REQUESTS, "{appends:?}");
    assert!(appends.len() < ROUNDS_MAX, "{appends:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn reads_that_come_at_once_are_proven_together() {
    let (cluster, leader, from, to) = led().await;
    let before = cluster.network.appends(from, to).len();
    let host = cluster.nodes[leader].host.clone();
    let read = tokio::spawn(async move {
        at_once(|| {
            let host = host.clone();
            async move {
                let proven = host.read_barrier(SHARD, deadline()).await;
                proven.expect("proven");
            }
        })
        .await;
    });
    read.await.expect("no panic");
    let appends = &cluster.network.appends(from, to)[before..];
    assert!(appends.len() < ROUNDS_MAX, "{appends:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_whose_time_is_over_does_not_hold_up_the_next() {
    let (cluster, leader, from, _) = led().await;
    let host = &cluster.nodes[leader].host;
    cluster.network.cut(from);
    let given_up = host.read_barrier(SHARD, Instant::now()).await;
    assert!(given_up.is_err(), "{given_up:?}");
    // Dropped after it has asked for a round.
    let mut dropped = Box::pin(host.read_barrier(SHARD, deadline()));
    assert!(futures::poll!(&mut dropped).is_pending());
    drop(dropped);
    cluster.network.heal(from);
    let deadline = deadline();
    loop {
        let lead = cluster.leader(&[0, 1, 2]).await;
        let read = cluster.nodes[lead].host.read_barrier(SHARD, deadline).await;
        if read.is_ok() {
            break;
        }
        assert!(Instant::now() < deadline, "{read:?}");
    }
}
