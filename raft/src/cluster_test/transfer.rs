//! Snapshots over connections that break and change bytes, to receivers that are restarted, while the log behind them is purged.

use std::path::PathBuf;

use crate::transport::memory::ChunkFault;

use super::*;

/// The shard's leader, and a replica that lacks what was purged; its connection is down.
async fn one_behind() -> (Cluster, usize, usize) {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let late = (leader + 1) % 3;
    cluster.network.cut(NodeId(late as u64 + 1));
    write(&cluster, leader, 50).await;
    purge(&cluster, leader).await;
    (cluster, leader, late)
}

async fn write(cluster: &Cluster, leader: usize, count: usize) {
    for _ in 0..count {
        let host = &cluster.nodes[leader].host;
        host.propose(SHARD, command(), deadline())
            .await
            .expect("applied");
    }
}

async fn purge(cluster: &Cluster, leader: usize) {
    let host = &cluster.nodes[leader].host;
    let purged = host.snapshot(SHARD, true).await.expect("purged");
    // openraft puts it off while an append that needs the entries is under way.
    let deadline = deadline();
    while host.status(SHARD).expect("status").purged < purged {
        assert!(Instant::now() < deadline, "the log is still there");
        tokio::task::yield_now().await;
    }
}

async fn caught_up(cluster: &Cluster, leader: usize, late: usize) {
    let ahead = cluster.nodes[leader].replica.applied();
    cluster
        .applied(late, ahead.id.expect("applied").index)
        .await;
    assert_eq!(
        cluster.nodes[late].replica.applied().chain,
        cluster.nodes[leader].replica.applied().chain
    );
}

/// Chunks of a transfer without faults.
async fn undisturbed() -> u64 {
    let (cluster, leader, late) = one_behind().await;
    cluster.network.heal(NodeId(late as u64 + 1));
    caught_up(&cluster, leader, late).await;
    assert_eq!(cluster.network.refused(), Vec::<String>::new());
    cluster.network.chunks()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_transfer_goes_on_where_it_was() {
    let whole = undisturbed().await;
    assert!(whole > 20, "{whole} chunks");
    let (cluster, leader, late) = one_behind().await;
    // Late in the transfer, twice: from the start it would be three times the chunks.
    cluster.network.spoil_chunk(whole - 6, ChunkFault::Cut);
    cluster.network.spoil_chunk(whole - 3, ChunkFault::Cut);
    cluster.network.heal(NodeId(late as u64 + 1));
    write(&cluster, leader, 20).await;
    caught_up(&cluster, leader, late).await;
    let refused = cluster.network.refused();
    assert_eq!(refused, ["the connection broke: cut"; 2]);
    let sent = cluster.network.chunks();
    assert!(sent < whole * 3 / 2, "{sent} chunks, {whole} without a cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purges_during_a_transfer_leave_no_gap() {
    let (cluster, leader, late) = one_behind().await;
    cluster.network.spoil_chunk(5, ChunkFault::Cut);
    cluster.network.heal(NodeId(late as u64 + 1));
    while cluster.network.refused().is_empty() {
        write(&cluster, leader, 1).await;
    }
    // The receiver is asked again only after a pause: its snapshot is older than the log by then.
    write(&cluster, leader, 20).await;
    purge(&cluster, leader).await;
    write(&cluster, leader, 20).await;
    caught_up(&cluster, leader, late).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_chunk_is_named_refused_and_sent_again() {
    let whole = undisturbed().await;
    let (cluster, leader, late) = one_behind().await;
    cluster.network.spoil_chunk(5, ChunkFault::Flip);
    cluster.network.heal(NodeId(late as u64 + 1));
    caught_up(&cluster, leader, late).await;
    let refused = cluster.network.refused();
    assert_eq!(
        refused,
        ["file 0, offset 256: the chunk did not arrive as it was sent"]
    );
    assert!(
        cluster.network.chunks() <= whole * 3 / 2,
        "only the rest is sent again"
    );
}

/// A transfer that broke near its end, to a replica that is cut off since.
async fn half_way(whole: u64) -> (Cluster, usize, usize) {
    let (cluster, leader, late) = one_behind().await;
    cluster.network.spoil_chunk(whole - 3, ChunkFault::Gone);
    cluster.network.heal(NodeId(late as u64 + 1));
    let deadline = deadline();
    while cluster.network.refused().is_empty() {
        assert!(Instant::now() < deadline, "the transfer did not begin");
        tokio::task::yield_now().await;
    }
    (cluster, leader, late)
}

/// Starts a replica that is cut off again, and connects it.
async fn restart(cluster: &mut Cluster, at: usize) {
    let number = at as u64 + 1;
    let node = &mut cluster.nodes[at];
    node.host.shutdown().await;
    let options = Options::default();
    node.host = new_host(&cluster.network, number, options, &node.logs, &node.dir);
    node.replica = node.open(SHARD, number).await;
    let receive_dir = node.dir.path().join("receive");
    cluster
        .network
        .connect(NodeId(number), node.host.clone(), receive_dir);
    cluster.network.heal(NodeId(number));
}

/// The largest file that a replica has received so far.
fn received(cluster: &Cluster, at: usize) -> PathBuf {
    let transfers = cluster.nodes[at].dir.path().join("receive");
    let transfers = std::fs::read_dir(transfers).expect("transfers").flatten();
    let files = transfers.flat_map(|transfer| {
        let files = std::fs::read_dir(transfer.path()).expect("files");
        files.flatten().map(|file| file.path())
    });
    files
        .max_by_key(|path| std::fs::metadata(path).map_or(0, |found| found.len()))
        .expect("a file")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_receiver_goes_on_where_it_was() {
    let whole = undisturbed().await;
    let (mut cluster, leader, late) = half_way(whole).await;
    restart(&mut cluster, late).await;
    caught_up(&cluster, leader, late).await;
    assert_eq!(
        cluster.network.refused(),
        ["the connection broke: gone"],
        "and no other"
    );
    let sent = cluster.network.chunks();
    assert!(
        sent < whole * 3 / 2,
        "{sent} chunks, {whole} without a restart"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_restart_damaged_is_sent_again() {
    let whole = undisturbed().await;
    let (mut cluster, leader, late) = half_way(whole).await;
    let path = received(&cluster, late);
    let mut bytes = std::fs::read(&path).expect("a file");
    bytes[10] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    restart(&mut cluster, late).await;
    caught_up(&cluster, leader, late).await;
    let refused = cluster.network.refused();
    assert!(
        refused.len() == 2 && refused[1].contains("is not what was sent"),
        "{refused:?}"
    );
}
