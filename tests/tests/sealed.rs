//! Promise: of a node with a master key nothing that was written into documents shows on its disk, not in the logs and not in the tables,
//! also those that a snapshot brought; it starts with its own key alone, gets new keys while writes go on, and can be given its first key at any time.
//! A field that is annotated as sensitive is found by its value, unique where that is wanted, and shows nowhere either.

use std::path::{Path, PathBuf};
use std::time::Duration;

use document::id::object_id;
use proto::ShardId;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::cluster::READY;
use tests::load::Load;
use tests::{Api, Cluster, Options, binary, eventually};

const DEADLINE: Duration = Duration::from_secs(60);
/// In every document, and nowhere else.
const MARKER: &str = "an open secret, found by whoever looks for it";
/// In every document's key: keys lie open.
const OPEN: &str = "lies-open";
const DOCUMENTS: usize = 120;
const CONFIG: i32 = 78;
/// Pages of a file that are looked through at a time.
const WINDOW: usize = 1 << 20;

/// A cluster with a master key of each node's own in `keys`.
async fn start(keys: &Path, replicas: u32) -> Cluster {
    std::fs::write(keys.join("master.key"), master('a')).expect("a file");
    Cluster::start(Options {
        nodes: 3,
        shards: 1,
        replicas,
        root_password: Some("sealed".to_owned()),
        env: vec![
            ("LARDER_ENCRYPTION__MASTER_KEY".to_owned(), reference(keys)),
            (
                "LARDER_ENCRYPTION__REWRITE_MIB_PER_S".to_owned(),
                "256".to_owned(),
            ),
        ],
        ..Options::default()
    })
    .await
}

fn reference(keys: &Path) -> String {
    format!("file:{}", keys.join("master.key").display())
}

/// A key of 32 bytes, in hexadecimal.
fn master(digit: char) -> String {
    digit.to_string().repeat(64)
}

async fn write(api: &Api, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let body = json!({ "text": format!("{MARKER} {number}"), "pad": "x".repeat(300) });
        let path = object_id("Demo", &format!("{OPEN}-{number}"));
        api.put(&path).json(&body).send().await.expect(200);
    }
}

async fn holds(api: &Api, count: usize) {
    for number in 0..count {
        let path = object_id("Demo", &format!("{OPEN}-{number}"));
        let found = api.get(&path).send().await.expect(200).json();
        assert_eq!(found["text"], format!("{MARKER} {number}"));
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    // Files come and go while a node runs.
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// The files below `dir` that hold `text`.
fn showing(dir: &Path, text: &str) -> Vec<PathBuf> {
    let shows = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        let mut from = 0;
        while from < bytes.len() {
            let end = bytes.len().min(from + WINDOW + text.len());
            if String::from_utf8_lossy(&bytes[from..end]).contains(text) {
                return true;
            }
            from += WINDOW;
        }
        false
    };
    files(dir).into_iter().filter(shows).collect()
}

/// Nothing shows, and the search is not blind: what may show is found.
fn is_dark(data: &Path) {
    assert_eq!(showing(data, MARKER), [""; 0].map(PathBuf::from));
    assert_ne!(showing(data, OPEN), [""; 0].map(PathBuf::from));
}

async fn keys(cluster: &Cluster, node: usize, verb: &[&str]) -> Value {
    let admin = cluster.nodes[node].admin.as_str();
    let arguments = ["data"].iter().chain(verb).copied();
    let more = ["--output", "json", "--admin", admin];
    binary::run(arguments.chain(more)).await.expect(0).json()
}

/// Waits until a node has nothing to rewrite; gives its keys.
async fn rewritten(cluster: &Cluster, node: usize) -> Vec<u64> {
    eventually("everything is rewritten", DEADLINE, || async {
        let status = keys(cluster, node, &["keys"]).await;
        let keys = status["keys"].as_array()?.clone();
        let is_done = keys.iter().all(|key| key["retired"] == false);
        let is_done = is_done && status["converting"] == false && status["rewriting"] == false;
        is_done.then(|| keys.iter().filter_map(|key| key["id"].as_u64()).collect())
    })
    .await
}

/// What a start that is refused says.
async fn refused(command: std::process::Command) -> String {
    binary::run_command(command, READY)
        .await
        .expect(CONFIG)
        .stderr
}

#[tokio::test]
async fn nothing_shows_and_no_other_key_opens() {
    let dir = TempDir::new().expect("a folder");
    let mut cluster = start(dir.path(), 3).await;
    let data = cluster.dir().join("data");
    let behind = 2;
    write(&cluster.api(0), 0..DOCUMENTS / 2).await;
    // Only the logs are on the disk yet, and those hold no keys of documents.
    assert_eq!(showing(&data, MARKER), [""; 0].map(PathBuf::from));

    // A follower that missed what is purged gets a snapshot.
    assert_eq!(cluster.stop(behind).await, Some(0));
    write(&cluster.api(0), DOCUMENTS / 2..DOCUMENTS).await;
    for shard in [ShardId(0), ShardId(1)] {
        let path = format!("/admin/v1/shards/{shard}/snapshot?purge=true");
        eventually("a snapshot and a purge", DEADLINE, || async {
            let leader = cluster.leader(shard, 0).await;
            let answer = cluster.admin(leader).post(&path).send().await;
            (answer.status == 200).then_some(())
        })
        .await;
    }
    cluster.restart(behind).await;
    cluster.healthy(READY).await;
    let local = async || {
        let path = object_id("Demo", &format!("{OPEN}-{}", DOCUMENTS - 1));
        let answer = cluster.api(behind).get(&path).local().try_send().await;
        answer
            .is_ok_and(|answer| answer.status == 200)
            .then_some(())
    };
    eventually("the follower has caught up", DEADLINE, local).await;
    holds(&cluster.api(behind), DOCUMENTS).await;
    is_dark(&data);

    // Its own key alone opens it, and says so where another or none is given.
    assert_eq!(cluster.stop(behind).await, Some(0));
    let own = data.join("n3").display().to_string();
    let mut without = cluster.start_command(behind);
    without.env_remove("LARDER_ENCRYPTION__MASTER_KEY");
    let said = refused(without).await;
    assert!(said.contains("master_key under [encryption]"), "{said}");
    std::fs::write(dir.path().join("master.key"), master('b')).expect("a file");
    let said = refused(cluster.start_command(behind)).await;
    assert!(said.contains("the master key does not open"), "{said}");
    assert!(!said.contains(&master('b')), "{said}");
    std::fs::remove_file(dir.path().join("master.key")).expect("removed");
    let said = refused(cluster.start_command(behind)).await;
    assert!(
        said.contains("encryption.master_key: cannot read"),
        "{said}"
    );
    let blind = binary::run(["data", "verify", &own]).await.expect(1).stderr;
    assert!(blind.contains("--master-key"), "{blind}");
    std::fs::write(dir.path().join("master.key"), master('a')).expect("a file");
    let key = reference(dir.path());
    let sound = binary::run(["data", "verify", &own, "--master-key", &key]).await;
    assert!(sound.expect(0).stdout.contains("sound"));
    cluster.restart(behind).await;
    holds(&cluster.api(behind), DOCUMENTS).await;
    is_dark(&data);
}

#[tokio::test]
async fn keys_change_while_writes_go_on() {
    let dir = TempDir::new().expect("a folder");
    let mut cluster = start(dir.path(), 3).await;
    let data = cluster.dir().join("data");
    write(&cluster.api(0), 0..DOCUMENTS).await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let load = Load::start(&nodes, "Demo", 2, 4);
    load.progress(20, READY).await;
    for node in cluster.all() {
        let before = rewritten(&cluster, node).await;
        keys(&cluster, node, &["rotate-key"]).await;
        let after = rewritten(&cluster, node).await;
        assert!(after.len() >= before.len(), "{before:?} {after:?}");
        assert!(after.iter().all(|key| !before.contains(key)));
    }
    load.progress(20, READY).await;
    // Another master key, where the old one was; and a start with it.
    std::fs::write(dir.path().join("master.key"), master('c')).expect("a file");
    for node in cluster.all() {
        keys(&cluster, node, &["rewrap"]).await;
    }
    for node in cluster.all() {
        cluster.kill(node).await;
        cluster.restart(node).await;
        cluster.healthy(READY).await;
    }
    load.progress(20, READY).await;
    load.stop().await.verify(&nodes).await;
    holds(&cluster.api(1), DOCUMENTS).await;
    is_dark(&data);
}

#[tokio::test]
async fn a_plain_node_is_given_its_first_key() {
    let dir = TempDir::new().expect("a folder");
    let mut cluster = Cluster::start(Options {
        nodes: 1,
        shards: 1,
        replicas: 1,
        root_password: Some("sealed".to_owned()),
        ..Options::default()
    })
    .await;
    let data = cluster.dir().join("data");
    write(&cluster.api(0), 0..DOCUMENTS).await;
    assert_ne!(showing(&data, MARKER), [""; 0].map(PathBuf::from));
    let refusal = binary::run(["data", "keys", "--admin", &cluster.nodes[0].admin]);
    let said = refusal.await.expect(1).stderr;
    assert!(said.contains("does not seal its disk"), "{said}");

    assert_eq!(cluster.stop(0).await, Some(0));
    std::fs::write(dir.path().join("master.key"), master('a')).expect("a file");
    let config = std::fs::read_to_string(&cluster.nodes[0].config).expect("a file");
    let command = format!("command:cat {}", dir.path().join("master.key").display());
    let sealed = format!("{config}\n[encryption]\nmaster_key = {command:?}\n");
    std::fs::write(&cluster.nodes[0].config, sealed).expect("a file");
    cluster.restart(0).await;
    holds(&cluster.api(0), DOCUMENTS).await;
    rewritten(&cluster, 0).await;
    is_dark(&data);
    cluster.kill(0).await;
    cluster.restart(0).await;
    holds(&cluster.api(0), DOCUMENTS).await;

    // And back is no way.
    assert_eq!(cluster.stop(0).await, Some(0));
    std::fs::write(&cluster.nodes[0].config, config).expect("a file");
    let said = refused(cluster.start_command(0)).await;
    assert!(said.contains("is sealed"), "{said}");
}

/// What is done to the bucket of the sensitive field, and what is refused.
async fn with_sensitive_field(root: &Api) {
    let class = json!([{ "class": "/db/Patient", "fields": {
        "insurance": { "name": "insurance", "type": "/db/String", "metadata": { "larder.sensitive": "true" } },
        "n": { "name": "n", "type": "/db/Integer" },
    }}]);
    root.post("/schema").json(&class).expect(200).await;
    for kind in ["asc", "desc"] {
        let open = json!({ "keys": [{ "n": "asc" }, { "insurance": kind }] });
        let refused = root.post("/index/Patient").json(&open).expect(400).await;
        let told = refused.json()["message"].as_str().map(str::to_owned);
        assert!(told.is_some_and(|told| told.contains(r#"index it as "hashed""#)));
    }
    let hashed = json!({ "unique": true, "keys": [{ "insurance": "hashed" }] });
    root.post("/index/Patient").json(&hashed).expect(202).await;
    eventually("the index is ready", DEADLINE, || async {
        let shown = root.get("/index/Patient").expect(200).await.json();
        (shown[0]["state"] == "ready").then_some(())
    })
    .await;
}

/// The numbers of the documents that a filter finds, in the order of the field.
async fn found(api: &Api, filter: &Value) -> Vec<u64> {
    let path = "/db/Patient/query?sort=%7B%22insurance%22%3A1%7D";
    let found = api.post(path).body(filter.to_string()).expect(200).await;
    let documents = found.json();
    let documents = documents.as_array().expect("a list").iter();
    documents
        .map(|document| document["n"].as_u64().expect("a number"))
        .collect()
}

#[tokio::test]
async fn a_sensitive_field_is_found_by_its_value_and_shows_nowhere() {
    let dir = TempDir::new().expect("a folder");
    let mut cluster = start(dir.path(), 3).await;
    let data = cluster.dir().join("data");
    let root = cluster.root(0).await;
    with_sensitive_field(&root).await;
    let insurance = |n: usize| format!("{MARKER} {n:03}");
    let put = async |n: usize, key: usize| {
        let body = json!({ "insurance": insurance(n), "n": n });
        let path = object_id("Patient", &format!("{OPEN}-{key}"));
        root.put(&path).json(&body).send().await
    };
    for n in 0..DOCUMENTS {
        put(n, n).await.expect(200);
    }
    // On every node, by equality through the index; other questions go through all documents.
    for node in cluster.all() {
        let api = cluster.api(node);
        assert_eq!(
            found(&api, &json!({ "insurance": insurance(7) })).await,
            [7]
        );
        let some = json!({ "insurance": { "$in": [insurance(9), insurance(3), "nobody's"] } });
        assert_eq!(found(&api, &some).await, [3, 9]);
        let below = json!({ "insurance": { "$lt": insurance(3) } });
        assert_eq!(found(&api, &below).await, [0, 1, 2]);
        let begins = json!({ "insurance": { "$regex": format!("^{MARKER} 11") } });
        assert_eq!(found(&api, &begins).await.len(), 10);
    }
    let plan = async |filter: Value| {
        let explained = root
            .post("/explain/Patient?start=0")
            .body(filter.to_string());
        explained.expect(200).await.json()["shards"][0].clone()
    };
    let by_index = plan(json!({ "insurance": insurance(7) })).await;
    assert_eq!(by_index["plan"], "index", "{by_index:#}");
    assert_eq!(by_index["examinedDocuments"], 1, "{by_index:#}");
    assert!(!by_index.to_string().contains(MARKER), "{by_index:#}");
    let by_scan = plan(json!({ "insurance": { "$gt": insurance(7) } })).await;
    assert_eq!(by_scan["plan"], "scan", "{by_scan:#}");

    // Unique, and free again when its document goes.
    let taken = put(7, DOCUMENTS).await.refused(409, "value_taken");
    assert!(!taken.text().contains(MARKER), "{}", taken.text());
    let path = object_id("Patient", &format!("{OPEN}-7"));
    root.delete(&path).expect(204).await;
    eventually("the value is free", DEADLINE, || async {
        (put(7, DOCUMENTS).await.status == 200).then_some(())
    })
    .await;

    // In tables, too, and over a restart of all.
    for shard in [ShardId(0), ShardId(1)] {
        let path = format!("/admin/v1/shards/{shard}/snapshot?purge=true");
        let leader = cluster.leader(shard, 0).await;
        cluster.admin(leader).post(&path).expect(200).await;
    }
    for node in cluster.all() {
        assert_eq!(cluster.stop(node).await, Some(0));
    }
    is_dark(&data);
    for node in cluster.all() {
        cluster.spawn(node);
    }
    cluster.healthy(READY).await;
    let api = cluster.api(1);
    assert_eq!(
        found(&api, &json!({ "insurance": insurance(7) })).await,
        [7]
    );
    is_dark(&data);
}
