//! Promise: a write that was acknowledged survives power loss, on one node or on all of them at once; a node whose log disk fails ends
//! with exit status 70 and acknowledges nothing more.
//!
//! The power is cut for real: the data lies on file systems that are shut down without writing anything out, under load.

use std::time::Duration;

use tests::cluster::READY;
use tests::disk::Disk;
use tests::load::Load;
use tests::{Api, Cluster, Options, is_soak};

const DISK_MIB: u64 = 160;
const LOG_FAILED: i32 = 70;
const SOON: Duration = Duration::from_secs(20);

fn rounds() -> usize {
    if is_soak() { 25 } else { 2 }
}

async fn start(disks: &[Disk]) -> (Cluster, Vec<Api>, Load) {
    let cluster = Cluster::start(Options {
        nodes: u16::try_from(disks.len()).expect("few"),
        replicas: u32::try_from(disks.len()).expect("few"),
        data: disks.iter().map(|disk| disk.path().join("node")).collect(),
        env: vec![
            ("LARDER_STORAGE__RESERVE_MIB".to_owned(), "8".to_owned()),
            ("LARDER_STORAGE__MEMORY_MIB".to_owned(), "24".to_owned()),
        ],
        root_password: Some("power".to_owned()),
        ..Options::default()
    })
    .await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let load = Load::start(&nodes, "Demo", 8, 4);
    load.progress(150, SOON).await;
    (cluster, nodes, load)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_loss_on_all_nodes_at_once_loses_nothing_acknowledged() {
    let Some(disks) = Disk::some(3, DISK_MIB) else {
        return;
    };
    let (mut cluster, nodes, load) = start(&disks).await;
    for _ in 0..rounds() {
        disks.iter().for_each(Disk::cut);
        // Those that write notice it themselves; one that has nothing to write any more, without a majority, goes on without its disk.
        cluster.kill_all().await;
        disks.iter().for_each(Disk::remount);
        for node in cluster.all() {
            cluster.spawn(node);
        }
        cluster.ready(READY).await;
        load.progress(150, SOON).await;
    }
    load.stop().await.verify(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_loss_on_one_node_is_not_noticed_by_the_others() {
    let Some(disks) = Disk::some(3, DISK_MIB) else {
        return;
    };
    let (mut cluster, nodes, load) = start(&disks).await;
    for node in cluster.all().take(rounds()) {
        disks[node].cut();
        assert_eq!(cluster.ended(node).await, Some(LOG_FAILED));
        load.progress(100, SOON).await;
        disks[node].remount();
        cluster.restart(node).await;
        cluster.healthy(READY).await;
        load.progress(100, SOON).await;
    }
    load.stop().await.verify(&nodes).await;
}
