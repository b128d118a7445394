//! Replicas that hold different state: the one that is wrong is taken out of service, and where nobody can tell which, none serves.

use crate::Verdict;

use super::*;

const ANSWER: Duration = Duration::from_secs(5);

/// Three nodes; what the last of them applies is wrong.
async fn one_wrong() -> Cluster {
    let network = Network::default();
    let mut nodes = Vec::new();
    for number in 1..=3 {
        let machine = Counter {
            is_wrong: number == 3,
        };
        nodes.push(start_node(&network, number, Options::default(), &rocks, machine).await);
    }
    let members: BTreeMap<_, _> = (1..=3).map(|n| (ReplicaId(n), NodeId(n))).collect();
    let first = &nodes[0].host;
    first
        .initialize(SHARD, &members)
        .await
        .expect("initialized");
    let cluster = Cluster { network, nodes };
    let leader = cluster.leader(&[0, 1, 2]).await;
    // Past the first point that is remembered by all.
    for _ in 0..80 {
        let host = &cluster.nodes[leader].host;
        let applied = host.propose(SHARD, command(), deadline()).await;
        applied.expect("applied");
    }
    let index = cluster.nodes[leader].replica.applied().id.expect("applied");
    for at in 0..3 {
        cluster.applied(at, index.index).await;
    }
    cluster
}

async fn verdict(cluster: &Cluster, at: usize) -> Option<Verdict> {
    let found = cluster.nodes[at].host.compare_chains(ANSWER).await;
    found.first().map(|found| found.verdict)
}

fn serves(cluster: &Cluster, at: usize) -> bool {
    cluster.nodes[at].host.replica(SHARD).is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_that_a_majority_contradicts_knows_it() {
    let cluster = one_wrong().await;
    assert_eq!(verdict(&cluster, 0).await, Some(Verdict::Upheld));
    assert_eq!(verdict(&cluster, 1).await, Some(Verdict::Upheld));
    assert_eq!(verdict(&cluster, 2).await, Some(Verdict::Outvoted));
    let wrong = &cluster.nodes[2].host;
    assert!(wrong.quarantine(SHARD, ReplicaId(3)));
    assert!(!serves(&cluster, 2) && wrong.read_barrier(SHARD, deadline()).await.is_err());
    assert!(!wrong.is_leader(SHARD));
    // What is known to be wrong is not compared any more.
    assert_eq!(verdict(&cluster, 0).await, None);
    assert_eq!(cluster.nodes[0].host.quarantined_nodes(SHARD), [NodeId(3)]);
    assert!(serves(&cluster, 0) && serves(&cluster, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_can_tell_nothing_is_served_until_somebody_can() {
    let cluster = one_wrong().await;
    cluster.network.cut(NodeId(2));
    for at in [0, 2] {
        assert_eq!(verdict(&cluster, at).await, Some(Verdict::Contested));
        let host = &cluster.nodes[at].host;
        assert!(!serves(&cluster, at) && !host.is_leader(SHARD));
        assert_eq!(
            host.propose(SHARD, command(), deadline()).await,
            Err(ProposeError::NoGroup)
        );
        assert_eq!(host.contested().len(), 1);
    }
    cluster.network.heal(NodeId(2));
    assert_eq!(verdict(&cluster, 0).await, Some(Verdict::Upheld));
    assert!(serves(&cluster, 0), "it was right");
    assert_eq!(verdict(&cluster, 2).await, Some(Verdict::Outvoted));
    assert!(cluster.nodes[0].host.contested().is_empty());
}
