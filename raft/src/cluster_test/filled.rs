//! Replicas that join later, and what they hold on their way.

use storage::machine::{Entry, Payload};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_holds_the_state_of_its_shard_once_it_has_applied_its_own_membership() {
    let cluster = Cluster::start(3).await;
    let leader = &cluster.nodes[cluster.leader(&[0, 1, 2]).await];
    for _ in 0..20 {
        let applied = leader.host.propose(SHARD, command(), deadline()).await;
        applied.expect("applied");
    }
    let held = leader.replica.applied();
    let index = held.id.expect("applied").index;
    for at in 0..3 {
        cluster.applied(at, index).await;
        assert!(cluster.nodes[at].host.is_filled(SHARD), "a founding member");
    }

    let join = async |number| {
        let (network, options) = (&cluster.network, Options::default());
        start_node(network, number, options, &rocks, Counter::default()).await
    };
    // As far as the first entry, which is of before anybody asked for it.
    let part = join(4).await;
    assert!(!part.host.is_filled(SHARD), "nothing");
    let (first, founders) = held.membership.expect("a membership");
    let entry = Entry {
        id: first.expect("the entry that set it"),
        payload: Payload::Membership(founders),
    };
    part.replica.apply(vec![entry]).expect("applied");
    assert!(!part.host.is_filled(SHARD), "a state of long ago");

    let joined = join(5).await;
    let added = leader.host.add_learner(SHARD, ReplicaId(5), NodeId(5));
    added.await.expect("added");
    let deadline = deadline();
    while !joined.host.is_filled(SHARD) {
        assert!(Instant::now() < deadline, "never filled");
        tokio::task::yield_now().await;
    }
    let applied = joined.replica.applied().id.expect("applied");
    assert!(
        applied.index > index,
        "filled without what was there before"
    );
}
