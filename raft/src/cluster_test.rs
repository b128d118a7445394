//! Three hosts over the memory network: elections, replication, cuts, hand-over, snapshots.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::{NodeId, ReplicaId, ShardId};
use storage::engine::Engine;
use storage::engine::rocks::{DataOptions, Rocks};
use storage::machine::{Machine, Replica, Transaction};
use storage::raft_log::{LogOptions, Logs};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::transport::memory::Network;
use crate::{Applier, Host, HostParts, Options, Pool, ProposeError, ReadError};

mod beats;
mod diverge;
mod filled;
mod gathering;
mod purge;
mod standing;
mod transfer;

const SHARD: ShardId = ShardId(1);

/// Counts commands in a row of its own and answers with the count. One that is wrong leaves a row that the others do not have.
#[derive(Default)]
struct Counter {
    is_wrong: bool,
}

impl Machine for Counter {
    fn apply(
        &self,
        tx: &mut Transaction<'_>,
        _: storage::LogId,
        _: &Bytes,
    ) -> storage::Result<Bytes> {
        let column = storage::engine::Column::Documents;
        let count = tx
            .get(column, b"count")?
            .map_or(0, |bytes| bytes.len() as u64)
            + 1;
        tx.put(column, b"count", vec![b'x'; count as usize].into());
        if self.is_wrong {
            tx.put(column, b"wrong", Bytes::new());
        }
        Ok(Bytes::from(count.to_be_bytes().to_vec()))
    }
}

struct Node {
    host: Host,
    replica: Arc<Replica>,
    engine: Arc<dyn Engine>,
    logs: Logs,
    dir: TempDir,
}

impl Node {
    /// Opens the group of a replica that it makes.
    async fn open(&self, shard: ShardId, number: u64) -> Arc<Replica> {
        let machine = Counter::default();
        open(&self.host, &self.logs, &self.engine, machine, shard, number).await
    }
}

struct Cluster {
    network: Network,
    nodes: Vec<Node>,
}

impl Cluster {
    async fn start(count: u64) -> Self {
        Self::start_with(count, Options::default(), rocks).await
    }

    async fn start_with(
        count: u64,
        options: Options,
        engine: impl Fn(&TempDir) -> Arc<dyn Engine>,
    ) -> Self {
        let network = Network::default();
        let mut nodes = Vec::new();
        for number in 1..=count {
            let machine = Counter::default();
            nodes.push(start_node(&network, number, options.clone(), &engine, machine).await);
        }
        let members: BTreeMap<_, _> = (1..=count).map(|n| (ReplicaId(n), NodeId(n))).collect();
        nodes[0]
            .host
            .initialize(SHARD, &members)
            .await
            .expect("initialized");
        Self { network, nodes }
    }

    async fn leader(&self, among: &[usize]) -> usize {
        let deadline = deadline();
        loop {
            let lead = among
                .iter()
                .copied()
                .find(|&at| self.nodes[at].host.is_leader(SHARD));
            // Elected is not enough: a quorum must have confirmed it since.
            if let Some(lead) = lead
                && self.nodes[lead]
                    .host
                    .read_barrier(SHARD, deadline)
                    .await
                    .is_ok()
            {
                return lead;
            }
            assert!(Instant::now() < deadline, "no leader in time");
            let seen = self.nodes[among[0]].host.leader(SHARD);
            self.nodes[among[0]]
                .host
                .leader_changed(SHARD, seen, Instant::now() + Duration::from_millis(50))
                .await;
        }
    }

    async fn applied(&self, at: usize, index: u64) {
        let deadline = deadline();
        while self.nodes[at].replica.applied().id.map_or(0, |id| id.index) < index {
            assert!(Instant::now() < deadline, "node {at} did not apply {index}");
            tokio::task::yield_now().await;
        }
    }
}

fn rocks(dir: &TempDir) -> Arc<dyn Engine> {
    Arc::new(Rocks::open(&dir.path().join("data"), &DataOptions::default()).expect("data"))
}

async fn start_node(
    network: &Network,
    number: u64,
    options: Options,
    engine: &impl Fn(&TempDir) -> Arc<dyn Engine>,
    machine: Counter,
) -> Node {
    let dir = tempfile::tempdir().expect("folder");
    let logs = Logs::open(&dir.path().join("log"), &LogOptions::default()).expect("logs");
    let engine = engine(&dir);
    let host = new_host(network, number, options, &logs, &dir);
    let replica = open(&host, &logs, &engine, machine, SHARD, number).await;
    network.connect(NodeId(number), host.clone(), dir.path().join("receive"));
    Node {
        host,
        replica,
        engine,
        logs,
        dir,
    }
}

fn new_host(network: &Network, number: u64, options: Options, logs: &Logs, dir: &TempDir) -> Host {
    let parts = HostParts {
        node: NodeId(number),
        options,
        logs: logs.clone(),
        applier: Applier::new("test-apply", 1).expect("thread"),
        pool: Pool::new("test-disk", 1).expect("thread"),
        transport: Arc::new(network.endpoint(NodeId(number))),
        send_dir: dir.path().join("send"),
    };
    Host::new(parts).expect("options")
}

async fn open(
    host: &Host,
    logs: &Logs,
    engine: &Arc<dyn Engine>,
    machine: Counter,
    shard: ShardId,
    number: u64,
) -> Arc<Replica> {
    let row = logs
        .directory()
        .create_replica(shard, ReplicaId(number))
        .expect("row");
    let replica =
        Replica::open(Arc::clone(engine), Arc::new(machine), shard, row.data).expect("replica");
    let log = logs.group(row.log).expect("log");
    host.open_group(shard, ReplicaId(number), Arc::clone(&replica), log)
        .await
        .expect("open");
    replica
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn command() -> Bytes {
    Bytes::from_static(b"more")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_applied_everywhere_and_read_back() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    for expected in 1..=20u64 {
        let reply = cluster.nodes[leader]
            .host
            .propose(SHARD, command(), deadline())
            .await
            .expect("applied");
        assert_eq!(reply.as_ref(), expected.to_be_bytes());
    }
    cluster.nodes[leader]
        .host
        .read_barrier(SHARD, deadline())
        .await
        .expect("linearizable");
    let index = cluster.nodes[leader]
        .replica
        .applied()
        .id
        .expect("applied")
        .index;
    for at in 0..3 {
        cluster.applied(at, index).await;
        assert_eq!(
            cluster.nodes[at].replica.applied().chain,
            cluster.nodes[leader].replica.applied().chain
        );
    }
    let follower = (leader + 1) % 3;
    assert_eq!(
        cluster.nodes[follower]
            .host
            .propose(SHARD, command(), deadline())
            .await,
        Err(ProposeError::NotLeader {
            hint: Some(NodeId(leader as u64 + 1))
        })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_off_leader_refuses_reads_and_the_others_elect_one() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader(&[0, 1, 2]).await;
    cluster.nodes[old]
        .host
        .propose(SHARD, command(), deadline())
        .await
        .expect("applied");
    cluster.network.cut(NodeId(old as u64 + 1));
    let soon = Instant::now() + Duration::from_millis(500);
    let read = cluster.nodes[old].host.read_barrier(SHARD, soon).await;
    assert!(
        matches!(read, Err(ReadError::NoQuorum | ReadError::NotLeader { .. })),
        "{read:?}"
    );
    let soon = Instant::now() + Duration::from_millis(500);
    let lost = cluster.nodes[old]
        .host
        .propose(SHARD, command(), soon)
        .await;
    assert!(
        matches!(
            lost,
            Err(ProposeError::Unknown | ProposeError::NotLeader { .. })
        ),
        "{lost:?}"
    );
    let others: Vec<_> = (0..3).filter(|at| *at != old).collect();
    let new = cluster.leader(&others).await;
    cluster.nodes[new]
        .host
        .propose(SHARD, command(), deadline())
        .await
        .expect("applied");
    cluster.network.heal(NodeId(old as u64 + 1));
    let index = cluster.nodes[new]
        .replica
        .applied()
        .id
        .expect("applied")
        .index;
    cluster.applied(old, index).await;
    assert_eq!(
        cluster.nodes[old].replica.applied().chain,
        cluster.nodes[new].replica.applied().chain
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader(&[0, 1, 2]).await;
    cluster.nodes[old]
        .host
        .propose(SHARD, command(), deadline())
        .await
        .expect("applied");
    let to = (old + 1) % 3;
    cluster.nodes[old]
        .host
        .transfer_leader(SHARD, ReplicaId(to as u64 + 1))
        .await
        .expect("asked");
    assert_eq!(cluster.leader(&[to]).await, to);
    cluster.nodes[to]
        .host
        .propose(SHARD, command(), deadline())
        .await
        .expect("applied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lacks_purged_entries_gets_a_snapshot_while_writes_go_on() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let late = (leader + 1) % 3;
    cluster.network.cut(NodeId(late as u64 + 1));
    for _ in 0..50 {
        cluster.nodes[leader]
            .host
            .propose(SHARD, command(), deadline())
            .await
            .expect("applied");
    }
    let purged = cluster.nodes[leader]
        .host
        .snapshot(SHARD, true)
        .await
        .expect("snapshot");
    assert!(purged >= 50);
    cluster.network.heal(NodeId(late as u64 + 1));
    for _ in 0..50 {
        cluster.nodes[leader]
            .host
            .propose(SHARD, command(), deadline())
            .await
            .expect("applied");
    }
    let index = cluster.nodes[leader]
        .replica
        .applied()
        .id
        .expect("applied")
        .index;
    cluster.applied(late, index).await;
    assert_eq!(
        cluster.nodes[late].replica.applied().chain,
        cluster.nodes[leader].replica.applied().chain
    );
    // openraft's metrics follow the install.
    let deadline = deadline();
    while cluster.nodes[late]
        .host
        .status(SHARD)
        .expect("status")
        .purged
        < purged
    {
        assert!(
            Instant::now() < deadline,
            "the log before the snapshot is still there"
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_confirmation_gets_older_where_no_quorum_renews_it() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let host = &cluster.nodes[leader].host;
    host.propose(SHARD, command(), deadline())
        .await
        .expect("applied");
    let index = cluster.nodes[leader]
        .replica
        .applied()
        .id
        .map(|id| id.index);
    let renewed = |most: Duration| {
        host.confirmed(SHARD)
            .is_some_and(|confirmed| confirmed.age <= most && Some(confirmed.index) >= index)
    };
    // Heartbeats renew it again and again.
    let (fresh, old) = (Duration::from_millis(100), Duration::from_millis(400));
    let deadline = deadline();
    let mut times = 0;
    while times < 3 {
        assert!(Instant::now() < deadline, "not renewed");
        if renewed(fresh) {
            times += 1;
            let next = Instant::now() + fresh * 2;
            tokio::time::sleep_until(next).await;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(
        cluster.nodes[(leader + 1) % 3].host.confirmed(SHARD),
        None,
        "followers prove nothing"
    );
    cluster.network.cut(NodeId(leader as u64 + 1));
    let cut = Instant::now();
    loop {
        assert!(Instant::now() < deadline, "it never gets older");
        match host.confirmed(SHARD) {
            Some(confirmed) if confirmed.age >= old => break,
            Some(_) => {}
            None => panic!("stepped down before its confirmation was old"),
        }
        tokio::task::yield_now().await;
    }
    // It counts from before the cut.
    assert!(cut.elapsed() <= old + Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_past_the_bytes_in_flight_are_refused() {
    let options = Options {
        proposal_bytes_in_flight_max: 64,
        ..Options::default()
    };
    let cluster = Cluster::start_with(1, options, rocks).await;
    let host = &cluster.nodes[cluster.leader(&[0]).await].host;
    let of = |bytes: usize| host.propose(SHARD, Bytes::from(vec![b'x'; bytes]), deadline());
    // In this order: the first holds its bytes until it is applied.
    let (first, second, third) = tokio::join!(of(40), of(40), of(24));
    first.expect("applied");
    assert_eq!(second, Err(ProposeError::Overloaded));
    third.expect("there was room for it");
    of(64).await.expect("the bytes are free again");
    assert_eq!(of(65).await, Err(ProposeError::Overloaded));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_not_electable_leaves_elections_to_the_others() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader(&[0, 1, 2]).await;
    let (passive, other) = ((old + 1) % 3, (old + 2) % 3);
    cluster.nodes[passive].host.set_electable(false);
    cluster.network.cut(NodeId(old as u64 + 1));
    assert_eq!(cluster.leader(&[passive, other]).await, other);
    cluster.nodes[other]
        .host
        .propose(SHARD, command(), deadline())
        .await
        .expect("applied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_node_says_nothing_of_its_own_leadership() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let host = &cluster.nodes[leader].host;
    let known = host.leader(SHARD).expect("a leader");
    host.set_stalled(true);
    assert!(!host.is_leader(SHARD));
    assert_eq!(host.leader(SHARD), None);
    let proposed = host.propose(SHARD, command(), deadline()).await;
    assert_eq!(proposed, Err(ProposeError::NotLeader { hint: None }));
    let read = host.read_barrier(SHARD, deadline()).await;
    assert_eq!(read, Err(ReadError::NotLeader { hint: None }));
    host.set_stalled(false);
    assert_eq!(host.leader(SHARD), Some(known));
}
