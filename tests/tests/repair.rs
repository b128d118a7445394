//! Promise: bytes that rot on one node are found, never served, and what they held is fetched from the peers: while the node runs, when
//! a compaction meets them, when they are the node's metadata, with its log or without, and when they are in a log, which cannot be
//! fetched. The same goes for a seal that somebody broke.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::ShardId;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::cluster::READY;
use tests::disk::{largest, rot};
use tests::rows::tamper;
use tests::{Api, Cluster, Options, binary, eventually};

const SHARD: ShardId = ShardId(1);
const DOCUMENTS: usize = 80;
const DEADLINE: Duration = Duration::from_secs(60);
/// The node whose disk rots.
const BAD: usize = 0;
const DATA_FAILED: i32 = 71;
const BEYOND_REPAIR: i32 = 72;
const DAMAGED: i32 = 6;
/// What is said of a value whose seal does not open.
const SEAL: &str = "its seal by data key";

async fn start(scrub_mib_per_s: u32) -> (Cluster, Api) {
    start_with(scrub_mib_per_s, Vec::new()).await
}

async fn start_with(scrub_mib_per_s: u32, mut env: Vec<(String, String)>) -> (Cluster, Api) {
    let setting = |key: &str, value: u32| (format!("LARDER_STORAGE__{key}"), value.to_string());
    env.push(setting("SCRUB_MIB_PER_S", scrub_mib_per_s));
    env.push(setting("SCRUB_PAUSE_S", 1));
    let cluster = Cluster::start(Options {
        shards: 1,
        env,
        root_password: Some("repair".to_owned()),
        ..Options::default()
    })
    .await;
    let api = cluster.api(1);
    for n in 0..DOCUMENTS {
        put(&api, n).await;
    }
    (cluster, api)
}

/// Hard to compress, so that documents fill the largest table.
fn body(n: usize) -> Value {
    let steps = std::iter::successors(Some(n as u64 + 1), |state| {
        Some(
            state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1),
        )
    });
    let noise = steps.skip(4).take(60);
    let text: String = noise.map(|state| format!("{state:016x}")).collect();
    json!({ "n": n, "text": text })
}

async fn put(api: &Api, n: usize) {
    let path = format!("/db/Demo/d{n}");
    eventually("it is written", DEADLINE, || async {
        // The bad node may lead, and die with the write.
        let answer = api.put(&path).json(&body(n)).send().await;
        (answer.status == 200).then_some(())
    })
    .await;
}

fn data(cluster: &Cluster) -> PathBuf {
    cluster.dir().join(format!("data/n{}", BAD + 1))
}

/// Reads all documents from the bad node's own replica. What it answers is right; gives whether it answered all.
async fn reads(cluster: &Cluster, documents: usize) -> Option<()> {
    let mut all = Some(());
    for n in 0..documents {
        let path = format!("/db/Demo/d{n}");
        let answer = cluster.api(BAD).get(&path).local().try_send().await.ok()?;
        match answer.status {
            200 => assert_eq!(answer.json()["text"], body(n)["text"], "{path}"),
            // A replica that is only being filled by its log would show documents as absent.
            404 => panic!("{path} is absent at a node that holds no state of it"),
            _ => all = None,
        }
    }
    all
}

async fn replica_id(cluster: &Cluster, asked: usize) -> Option<u64> {
    let path = "/admin/v1/cluster/status";
    let answer = cluster.admin(asked).get(path).try_send().await.ok()?;
    let status = answer.json();
    let shard = status["shards"].get(SHARD.0 as usize)?.clone();
    if shard.get("replacement").is_some() {
        return None;
    }
    let replicas = shard["replicas"].as_array()?;
    let own = replicas
        .iter()
        .find(|replica| replica["node"] == cluster.nodes[BAD].id)?;
    own["replica"].as_u64()
}

/// Stops the bad node, and lets the largest table of its data rot.
async fn rotten(cluster: &mut Cluster) -> PathBuf {
    assert_eq!(cluster.stop(BAD).await, Some(0));
    let table = largest(&data(cluster).join("data"), ".sst");
    rot(&table);
    table
}

/// Waits until the bad node holds another replica of the shard, which answers everything; starts it again if a compaction ends it.
async fn renewed(cluster: &mut Cluster, before: u64, documents: usize) {
    loop {
        let look = || async {
            if !cluster.is_alive(BAD) {
                return Some(false);
            }
            let all = reads(cluster, documents).await;
            let id = replica_id(cluster, 1).await.filter(|id| *id != before);
            id.and(all).map(|()| true)
        };
        if eventually("the replica is renewed and serves", DEADLINE, look).await {
            break;
        }
        assert_eq!(cluster.ended(BAD).await, Some(DATA_FAILED));
        cluster.spawn(BAD);
    }
    cluster.healthy(READY).await;
}

async fn is_sound(cluster: &mut Cluster) {
    is_sound_with(cluster, &[]).await;
}

async fn is_sound_with(cluster: &mut Cluster, arguments: &[&str]) {
    assert_eq!(cluster.stop(BAD).await, Some(0));
    let dir = data(cluster).display().to_string();
    let verify = ["data", "verify", &dir];
    let verify = verify.iter().chain(arguments).copied();
    binary::run(verify).await.expect(0);
    cluster.spawn(BAD);
    cluster.healthy(READY).await;
}

/// Turns a bit near the beginning, in the first block, of every table in `dir`.
fn rot_all(dir: &Path) {
    let mut rotten = 0;
    for path in tables(dir) {
        let mut bytes = std::fs::read(&path).expect("a file");
        bytes[10] ^= 0x10;
        std::fs::write(&path, bytes).expect("written");
        rotten += 1;
    }
    assert!(rotten > 2, "only {rotten} tables");
}

fn tables(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let files = std::fs::read_dir(dir).expect("a folder").flatten();
    let files = files.map(|file| file.path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rot_is_found_never_served_and_fetched_from_the_peers() {
    let (mut cluster, _) = start(64).await;
    let before = replica_id(&cluster, 1).await.expect("status");
    let table = rotten(&mut cluster).await;
    cluster.spawn(BAD);
    renewed(&mut cluster, before, DOCUMENTS).await;

    let log = cluster.logged(BAD);
    let name = table.file_name().expect("a name").to_string_lossy();
    let is_named = |what: &str| {
        let mut lines = log.lines().filter(|line| line.contains(what));
        lines.any(|line| line.contains(&*name))
    };
    // By a read or by the scrub; without it the replica would have been made anew from its log, and not renewed.
    assert!(is_named("is damaged and quarantined"), "{log}");
    eventually("nothing is quarantined", READY, || async {
        let metrics = cluster.admin(BAD).get("/metrics").try_send().await.ok()?;
        let text = metrics.text();
        text.contains("larder_replicas_quarantined 0").then_some(())
    })
    .await;

    // If the block is still there, hidden by a deletion, the next start gets rid of it.
    assert_eq!(cluster.stop(BAD).await, Some(0));
    cluster.restart(BAD).await;
    cluster.healthy(READY).await;
    let log = cluster.logged(BAD);
    assert!(
        log.contains("the data database was damaged and is rewritten"),
        "{log}"
    );
    assert!(reads(&cluster, DOCUMENTS).await.is_some());
    is_sound(&mut cluster).await;
    assert_eq!(
        replica_id(&cluster, 1).await,
        replica_id(&cluster, BAD).await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_that_meets_rot_ends_the_node_and_its_next_start_repairs_it() {
    let (mut cluster, api) = start(0).await;
    let before = replica_id(&cluster, 1).await.expect("status");
    // With its whole log, the replica would be made anew on the spot.
    let purge = "/admin/v1/shards/1/snapshot?purge=true";
    cluster.admin(BAD).post(purge).send().await.expect(200);
    rotten(&mut cluster).await;
    cluster.spawn(BAD);
    let mut documents = DOCUMENTS;
    eventually("a compaction meets the rot", DEADLINE, || {
        let (cluster, api, n) = (&cluster, &api, documents);
        documents += 1;
        async move {
            put(api, n).await;
            let flush = "/admin/v1/shards/1/snapshot";
            let _ = cluster.admin(BAD).post(flush).try_send().await;
            (!cluster.is_alive(BAD)).then_some(())
        }
    })
    .await;
    assert_eq!(cluster.ended(BAD).await, Some(DATA_FAILED));
    cluster.spawn(BAD);
    renewed(&mut cluster, before, documents).await;
    let log = cluster.logged(BAD);
    assert!(log.contains("replica is lost"), "{log}");
    is_sound(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotten_metadata_is_made_anew_from_its_log_and_a_rotten_log_is_not_started() {
    let (mut cluster, _) = start(64).await;
    assert_eq!(cluster.stop(BAD).await, Some(0));
    rot_all(&data(&cluster).join("data"));
    cluster.restart(BAD).await;
    cluster.healthy(READY).await;
    assert!(cluster.logged(BAD).contains("is rewritten"));
    assert!(reads(&cluster, DOCUMENTS).await.is_some());

    // Its log has to be in a table for that: a start writes what it found in the write-ahead log into one.
    assert_eq!(cluster.stop(BAD).await, Some(0));
    cluster.restart(BAD).await;
    assert_eq!(cluster.stop(BAD).await, Some(0));
    let table = largest(&data(&cluster).join("log"), ".sst");
    rot(&table);
    cluster.spawn(BAD);
    assert_eq!(cluster.ended(BAD).await, Some(BEYOND_REPAIR));
    let log = cluster.logged(BAD);
    let name = table.file_name().expect("a name").to_string_lossy();
    assert!(
        log.contains(&*name) && log.contains("larder shard replace"),
        "{log}"
    );
    // The others have all of it.
    for n in 0..DOCUMENTS {
        let path = format!("/db/Demo/d{n}");
        let found = cluster.api(1).get(&path).send().await.expect(200);
        assert_eq!(found.json()["text"], body(n)["text"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_that_rots_behind_a_purged_log_is_renewed_by_the_peers() {
    let (mut cluster, _) = start(64).await;
    let purge = "/admin/v1/shards/0/snapshot?purge=true";
    cluster.admin(BAD).post(purge).send().await.expect(200);
    assert_eq!(cluster.stop(BAD).await, Some(0));
    rot_all(&data(&cluster).join("data"));
    cluster.spawn(BAD);
    metadata_renewed(&mut cluster).await;
}

/// Renews the metadata of the bad node, which has just been started without it.
async fn metadata_renewed(cluster: &mut Cluster) {
    eventually("the node says what it lacks", DEADLINE, || async {
        let log = cluster.logged(BAD);
        let is_said = log.contains("without it the node knows of no cluster")
            && log.contains("larder shard replace 0 THIS-NODE");
        is_said.then_some(())
    })
    .await;
    let admin = &cluster.nodes[1].admin;
    let renew = [
        "shard", "replace", "0", "n1", "--wait", "40", "--admin", admin,
    ];
    eventually("the node is up to be renewed", DEADLINE, || async {
        let renewed = binary::run(renew).await;
        (renewed.status == 0).then_some(())
    })
    .await;
    cluster.healthy(READY).await;
    eventually("it holds everything", DEADLINE, || {
        reads(cluster, DOCUMENTS)
    })
    .await;
    is_sound(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_that_rots_under_a_running_node_ends_it_and_is_renewed_by_the_peers() {
    let (mut cluster, _) = start(64).await;
    let purge = "/admin/v1/shards/0/snapshot?purge=true";
    cluster.admin(BAD).post(purge).send().await.expect(200);
    let data = data(&cluster).join("data");
    rot_all(&data);
    assert_eq!(cluster.ended(BAD).await, Some(DATA_FAILED));
    let log = cluster.logged(BAD);
    let last = log
        .lines()
        .rfind(|line| line.contains("the metadata of this node is damaged"));
    let last = last.unwrap_or_else(|| panic!("{log}"));
    let names_the_file = tables(&data).any(|table| {
        let name = table.file_name().expect("a name").to_string_lossy();
        last.contains(&*name)
    });
    assert!(names_the_file, "{last}");
    assert!(last.contains("larder shard replace 0 THIS-NODE"), "{last}");
    cluster.spawn(BAD);
    metadata_renewed(&mut cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_seal_is_named_never_served_and_renewed_from_the_peers() {
    let dir = TempDir::new().expect("a folder");
    let key = dir.path().join("master.key");
    std::fs::write(&key, "a".repeat(64)).expect("a file");
    let reference = format!("file:{}", key.display());
    let env = (
        "LARDER_ENCRYPTION__MASTER_KEY".to_owned(),
        reference.clone(),
    );
    let (mut cluster, _) = start_with(64, vec![env]).await;
    let before = replica_id(&cluster, 1).await.expect("status");
    // With its whole log, the replica would be made anew on the spot.
    let purge = "/admin/v1/shards/1/snapshot?purge=true";
    cluster.admin(BAD).post(purge).send().await.expect(200);
    assert_eq!(cluster.stop(BAD).await, Some(0));
    tamper(&data(&cluster).join("data"), &format!("d{}", DOCUMENTS / 2));

    let own = data(&cluster).display().to_string();
    let with_key = ["--master-key", reference.as_str()];
    let verify = ["data", "verify", &own].into_iter().chain(with_key);
    let found = binary::run(verify).await.expect(DAMAGED).stdout;
    assert!(found.contains(SEAL), "{found}");
    cluster.spawn(BAD);
    renewed(&mut cluster, before, DOCUMENTS).await;
    let log = cluster.logged(BAD);
    let mut lines = log.lines();
    let is_named =
        lines.any(|line| line.contains("damaged and quarantined") && line.contains(SEAL));
    assert!(is_named, "{log}");

    // What is left of the old replica is got rid of at the next start.
    assert_eq!(cluster.stop(BAD).await, Some(0));
    cluster.restart(BAD).await;
    cluster.healthy(READY).await;
    assert!(reads(&cluster, DOCUMENTS).await.is_some());
    is_sound_with(&mut cluster, &with_key).await;
}
