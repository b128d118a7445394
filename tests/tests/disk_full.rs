//! Promise: a disk that fills up refuses writes with 507 and no effect while there is still a reserve; reads and deletes go on, and
//! writes too once there is room. Where others have room they lead instead, and writes go on through them. A disk that is full all the
//! same ends the node with a status of its own, and nothing acknowledged is lost.

use std::time::Duration;

use serde_json::json;
use tests::cluster::READY;
use tests::disk::Disk;
use tests::{Api, Cluster, Options, eventually};

const DISK_MIB: u64 = 128;
const RESERVE_MIB: u64 = 24;
const SOON: Duration = Duration::from_secs(20);
const DOCUMENTS: usize = 60;
const DATA_FAILED: i32 = 71;

async fn start(disk: &Disk) -> (Cluster, Api) {
    let cluster = Cluster::start(Options {
        nodes: 1,
        replicas: 1,
        shards: 2,
        data: vec![disk.path().join("node")],
        env: vec![
            (
                "LARDER_STORAGE__RESERVE_MIB".to_owned(),
                RESERVE_MIB.to_string(),
            ),
            ("LARDER_STORAGE__MEMORY_MIB".to_owned(), "24".to_owned()),
        ],
        root_password: Some("full".to_owned()),
        ..Options::default()
    })
    .await;
    let api = cluster.api(0);
    for n in 0..DOCUMENTS {
        put(&api, n).await.expect(200);
    }
    (cluster, api)
}

async fn put(api: &Api, n: usize) -> tests::Answer {
    // Not one that compresses well.
    let text: String = (0..2_000)
        .map(|i| char::from(b'a' + ((i * i + n * 31 + i / 7) % 26) as u8))
        .collect();
    let body = json!({ "text": text, "n": n });
    api.put(&format!("/db/Demo/d{n}")).json(&body).send().await
}

async fn all_there(api: &Api, from: usize) {
    for n in from..DOCUMENTS {
        let found = api.get(&format!("/db/Demo/d{n}")).send().await.expect(200);
        assert_eq!(found.json()["n"], n);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_stop_before_the_disk_is_full_and_go_on_after() {
    let Some(disk) = Disk::new(DISK_MIB) else {
        return;
    };
    let (cluster, api) = start(&disk).await;
    for round in 0..2 {
        disk.fill((RESERVE_MIB - 4) << 20);
        let refused = eventually("writes are refused", SOON, || async {
            let answer = put(&api, 0).await;
            (answer.status != 200).then_some(answer)
        })
        .await
        .refused(507, "disk_full");
        assert_eq!(refused.header("larder-effect").as_deref(), Some("none"));
        assert!(refused.header("retry-after").is_some());
        assert!(refused.text().contains("nearly full"), "{}", refused.text());
        let fresh = api.put("/db/Demo/fresh").json(&json!({})).send().await;
        fresh.refused(507, "disk_full");
        assert_eq!(api.get("/db/Demo/fresh").send().await.status, 404);

        all_there(&api, round).await;
        let gone = api.delete(&format!("/db/Demo/d{round}")).send().await;
        assert_eq!(gone.status, 204, "deletes go on: {}", gone.text());
        let ready = Api::new(&cluster.nodes[0].client)
            .get("/readyz")
            .send()
            .await
            .expect(200);
        assert_eq!(ready.json()["writes"], "refused");
        let metrics = cluster
            .admin(0)
            .get("/metrics")
            .send()
            .await
            .expect(200)
            .text();
        assert!(metrics.contains("larder_disk_full 1"), "{metrics}");

        disk.free_up();
        eventually("writes are taken again", SOON, || async {
            (put(&api, round).await.status == 200).then_some(())
        })
        .await;
        all_there(&api, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_room_gives_its_leaders_to_those_that_have_some() {
    let Some(disk) = Disk::new(DISK_MIB) else {
        return;
    };
    let cluster = Cluster::start(Options {
        data: vec![disk.path().join("node")],
        env: vec![(
            "LARDER_STORAGE__RESERVE_MIB".to_owned(),
            RESERVE_MIB.to_string(),
        )],
        root_password: Some("no room".to_owned()),
        ..Options::default()
    })
    .await;
    let own = cluster.nodes[0].id.clone();
    let leads = async |wanted: bool| {
        let what = format!("the node with the small disk leads: {wanted}");
        eventually(&what, READY, || async {
            let status = cluster.try_status(1).await?;
            let led = status.shards.iter().all(|shard| shard.leader.is_some());
            (led && (status.led_by(&own) > 0) == wanted).then_some(())
        })
        .await;
    };
    leads(true).await;
    disk.fill((RESERVE_MIB - 4) << 20);
    leads(false).await;
    // Through all nodes, to all shards: also through the one without room, which is still ready.
    for node in cluster.all() {
        for n in 0..12 {
            put(&cluster.api(node), n).await.expect(200);
        }
        assert!(cluster.answers(node, "/readyz").await);
    }
    disk.free_up();
    leads(true).await;
    cluster.healthy(READY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_ends_the_node_and_loses_nothing() {
    let Some(disk) = Disk::new(DISK_MIB) else {
        return;
    };
    let (mut cluster, api) = start(&disk).await;
    disk.fill(0);
    // Needs a table, and there is no room for one.
    let snapshot = cluster
        .admin(0)
        .post("/admin/v1/shards/1/snapshot")
        .try_send()
        .await;
    assert!(
        !snapshot.is_ok_and(|answer| answer.status == 200),
        "nothing was flushed"
    );
    assert_eq!(cluster.ended(0).await, Some(DATA_FAILED));
    disk.free_up();
    cluster.restart(0).await;
    eventually("it serves again", READY, || async {
        (put(&api, 0).await.status == 200).then_some(())
    })
    .await;
    all_there(&api, 0).await;
}
