//! Many groups: their heartbeats share messages, and nothing else.

use std::sync::mpsc;

use super::*;

const SHARDS: u32 = 8;

/// So long that a test which loses heartbeats on purpose elects nobody, however busy the machine is.
pub(super) fn patient() -> Options {
    Options {
        election_min: Duration::from_secs(5),
        election_max: Duration::from_secs(8),
        quorum_loss_probe: Duration::from_secs(16),
        ..Options::default()
    }
}

/// A confirmation this young has been renewed by a heartbeat that was answered.
const FRESH: Duration = Duration::from_millis(300);

pub(super) fn shards() -> impl Iterator<Item = ShardId> {
    (SHARD.0..SHARD.0 + SHARDS).map(ShardId)
}

/// Three nodes with all groups, of which the first leads all.
pub(super) async fn led_by_one(options: Options) -> Cluster {
    let cluster = Cluster::start_with(3, options, rocks).await;
    let members: BTreeMap<_, _> = (1..=3).map(|n| (ReplicaId(n), NodeId(n))).collect();
    for shard in shards().filter(|shard| *shard != SHARD) {
        for (node, number) in cluster.nodes.iter().zip(1..) {
            node.open(shard, number).await;
        }
        let host = &cluster.nodes[0].host;
        host.initialize(shard, &members).await.expect("initialized");
    }
    let deadline = deadline();
    for shard in shards() {
        while cluster.nodes[0].host.confirmed(shard).is_none() {
            assert!(Instant::now() < deadline, "shard {shard} has no leader");
            for node in &cluster.nodes[1..] {
                if node.host.is_leader(shard) {
                    let _ = node.host.transfer_leader(shard, ReplicaId(1)).await;
                }
            }
            tokio::task::yield_now().await;
        }
    }
    cluster
}

impl Cluster {
    fn term(&self, shard: ShardId) -> u64 {
        let leader = self.nodes[0].host.leader(shard).expect("a leader");
        assert_eq!(leader.node, NodeId(1), "shard {shard}");
        leader.term
    }

    /// Waits until each group has an answer to a heartbeat that was sent after now.
    async fn confirmed_anew(&self, shards: &[ShardId]) {
        let (from, deadline) = (Instant::now(), deadline());
        for shard in shards {
            loop {
                let confirmed = self.nodes[0].host.confirmed(*shard);
                if confirmed.is_some_and(|confirmed| from.elapsed() > confirmed.age) {
                    break;
                }
                assert!(Instant::now() < deadline, "{shard}: {confirmed:?}");
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_heartbeats_of_all_groups_to_a_node_are_one_message() {
    let cluster = led_by_one(patient()).await;
    let deadline = deadline();
    for to in [NodeId(2), NodeId(3)] {
        let all = SHARDS as usize;
        while !cluster.network.beats(NodeId(1), to).contains(&all) {
            let sizes = cluster.network.beats(NodeId(1), to);
            assert!(Instant::now() < deadline, "to {to}: {sizes:?}");
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(cluster.network.beats(NodeId(2), NodeId(1)).last(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_messages_lose_no_leader() {
    let cluster = led_by_one(patient()).await;
    let terms: Vec<_> = shards().map(|shard| cluster.term(shard)).collect();
    cluster.network.lose_beats(NodeId(1), 6);
    let deadline = deadline();
    while cluster.network.beats_to_lose(NodeId(1)) > 0 {
        assert!(Instant::now() < deadline, "no heartbeats");
        tokio::task::yield_now().await;
    }
    cluster.confirmed_anew(&shards().collect::<Vec<_>>()).await;
    let after: Vec<_> = shards().map(|shard| cluster.term(shard)).collect();
    assert_eq!(after, terms);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_group_that_does_not_answer_leaves_the_others_alone() {
    let cluster = led_by_one(patient()).await;
    // From here on a quorum needs the second node.
    cluster.network.cut(NodeId(3));
    let (gone, stuck) = (ShardId(SHARD.0 + 1), ShardId(SHARD.0 + 2));
    let sound: Vec<_> = shards()
        .filter(|shard| ![gone, stuck].contains(shard))
        .collect();
    let second = &cluster.nodes[1].host;
    second.stop_group(gone).await;
    let (release, released) = mpsc::channel::<()>();
    let (is_stuck, wait) = tokio::sync::oneshot::channel();
    let raft = second.raft(stuck);
    let holding = tokio::spawn(async move {
        raft.with_raft_state(move |_| {
            let _ = is_stuck.send(());
            tokio::task::block_in_place(|| released.recv())
        })
        .await
    });
    wait.await.expect("stuck");
    for _ in 0..4 {
        cluster.confirmed_anew(&sound).await;
    }
    for shard in [gone, stuck] {
        let confirmed = cluster.nodes[0].host.confirmed(shard);
        assert!(
            confirmed.is_none_or(|confirmed| confirmed.age > FRESH),
            "{shard}: {confirmed:?}"
        );
    }
    drop(release);
    let _ = holding.await;
    cluster.confirmed_anew(&[stuck]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_waits_for_no_beat() {
    // No beat falls into the test, and a heartbeat that is held up is so for longer than a read may take.
    let rare = Options {
        heartbeat: Duration::from_secs(6_000),
        election_min: Duration::from_secs(14_000),
        election_max: Duration::from_secs(15_000),
        quorum_loss_probe: Duration::from_secs(30_000),
        ..Options::default()
    };
    // The first node stands for election as it is initialized.
    let cluster = Cluster::start_with(3, rare, rocks).await;
    assert_eq!(cluster.leader(&[0]).await, 0);
    let host = &cluster.nodes[0].host;
    for _ in 0..100 {
        host.read_barrier(SHARD, deadline()).await.expect("proven");
    }
}
