//! Promise: no two documents have the same value of a unique index, however many want it at once, through whatever nodes, by whatever kind
//! of write, and whoever is killed meanwhile; and a value that no document has can be had.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use tests::cluster::READY;
use tests::http::Call;
use tests::load::{Outcome, outcome};
use tests::{Api, Checks, Cluster, Options, binary, eventually, grpc, is_soak};

const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn values_are_unique() {
    let cluster = start().await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let root = cluster.root(1).await;
    let mut checks = Checks::new();
    checks
        .check("64 registrations of one name", registrations(&nodes))
        .await;
    checks
        .check("names that are given up", given_up(&nodes))
        .await;
    checks
        .check("imports and batches", many_at_once(&cluster, &nodes, &root))
        .await;
    checks.check("over gRPC", over_grpc(&cluster, &nodes)).await;
    checks.finish();
}

/// A cluster with a bucket of accounts whose names are unique.
async fn start() -> Cluster {
    let cluster = Cluster::start(Options {
        shards: 8,
        ..Options::default()
    })
    .await;
    let root = cluster.root(0).await;
    let class = json!([{ "class": "/db/Account", "fields": {
        "name": { "name": "name", "type": "/db/String" },
        "n": { "name": "n", "type": "/db/Integer" },
    }}]);
    root.post("/schema").json(&class).expect(200).await;
    let index = json!({ "unique": true, "keys": [{ "name": "asc" }], "drop": false });
    root.post("/index/Account").json(&index).expect(202).await;
    eventually("the index is ready", READY, || async {
        let indexes = root.get("/index/Account").expect(200).await.json();
        (indexes[0]["state"] == "ready").then_some(())
    })
    .await;
    cluster
}

fn register(node: &Api, name: &str) -> Call {
    node.post("/db/Account").json(&json!({ "name": name }))
}

async fn registrations(nodes: &[Api]) {
    let tries = (0..64).map(|at| register(&nodes[at % nodes.len()], "anna").send());
    let answers = join_all(tries).await;
    let won = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(won, 1);
    for answer in answers {
        if answer.status != 201 {
            let refused = answer.refused(409, "value_taken").json();
            assert_eq!(refused["className"], "ObjectExists");
        }
    }
}

async fn given_up(nodes: &[Api]) {
    for name in ["otto", "null"] {
        let account = register(&nodes[0], "emil").expect(201).await.json();
        let id = account["id"].as_str().expect("an id");
        register(&nodes[1], "emil")
            .refused(409, "value_taken")
            .await;
        let other = json!({ "$set": { "name": (name != "null").then_some(name) } });
        nodes[2].post(id).json(&other).expect(200).await;
        let second = register(&nodes[1], "emil").expect(201).await.json();
        let back = json!({ "$set": { "name": "emil" } });
        nodes[0]
            .post(id)
            .json(&back)
            .refused(409, "value_taken")
            .await;
        nodes[2]
            .delete(second["id"].as_str().expect("an id"))
            .expect(204)
            .await;
        nodes[0].post(id).json(&back).expect(200).await;
        nodes[0].delete(id).expect(204).await;
    }
}

async fn many_at_once(cluster: &Cluster, nodes: &[Api], root: &Api) {
    let writes = json!([
        { "put": { "id": "/db/Account/%7Bt%7Da", "name": "ida" } },
        { "put": { "id": "/db/Account/%7Bt%7Db", "name": "ida" } },
    ]);
    let batch = |node: &Api, writes: &Value| node.post("/batch").json(&json!({ "writes": writes }));
    batch(&nodes[0], &writes).refused(409, "value_taken").await;
    register(&nodes[1], "ida").expect(201).await;
    let whole = json!([
        { "put": { "id": "/db/Account/%7Bt%7Da", "name": "lea" } },
        { "put": { "id": "/db/Account/%7Bt%7Db", "name": "ida" } },
    ]);
    batch(&nodes[2], &whole).refused(409, "value_taken").await;
    nodes[0].get("/db/Account/%7Bt%7Da").expect(404).await;
    // What the refused batch had reserved is nobody's.
    register(&nodes[0], "lea").expect(201).await;

    let lines: Vec<String> = (0..200)
        .map(|at| {
            let name = if at % 2 == 0 {
                "lea".to_owned()
            } else {
                format!("imported {at}")
            };
            json!({ "id": format!("/db/Account/i{at}"), "name": name }).to_string()
        })
        .collect();
    let report = root
        .put("/db/Account")
        .body(lines.join("\n"))
        .expect(200)
        .await
        .json();
    assert_eq!(
        (&report["imported"], &report["failed"]),
        (&json!(100), &json!(100)),
        "{report}"
    );
    assert_eq!(report["failures"][0]["code"], "value_taken", "{report}");

    // The command line does not take such a record for one that is there already.
    let file = cluster.dir().join("accounts.json");
    std::fs::write(&file, r#"[{"name":"lea"},{"name":"mia"}]"#).expect("a file");
    let (file, url) = (file.to_str().expect("a path"), &cluster.nodes[0].client);
    let arguments = [
        "import", file, "--url", url, "--bucket", "Account", "-o", "json",
    ];
    let imported = binary::run(arguments.iter().chain(&["--skip-bad"])).await;
    let imported = imported.expect(0).json();
    assert_eq!(
        (
            &imported["inserted"],
            &imported["present"],
            &imported["bad"]
        ),
        (&json!(1), &json!(0), &json!(1)),
        "{imported}"
    );
}

async fn over_grpc(cluster: &Cluster, nodes: &[Api]) {
    register(&nodes[0], "greta").expect(201).await;
    let url = &cluster.nodes[1].client;
    let put = grpc::put("Account", "g", r#"{"name":"greta"}"#);
    let outcome = grpc::documents(url)
        .put(grpc::request(put, None, None))
        .await;
    grpc::refused(outcome, tonic::Code::AlreadyExists, "value_taken");
}

/// What the clients of one name know: who was told that it has it, and who may have it.
#[derive(Default)]
struct Known {
    told: Vec<String>,
    maybe: BTreeSet<String>,
}

#[tokio::test]
async fn kills_of_leaders_give_no_name_to_two() {
    let clients = 6;
    let (kills, names) = if is_soak() { (12, 400) } else { (2, 60) };
    let mut cluster = start().await;
    let nodes: Arc<Vec<Api>> = Arc::new(cluster.all().map(|node| cluster.api(node)).collect());
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let running: Vec<_> = (0..clients)
        .map(|client| {
            let (nodes, stop, done) = (Arc::clone(&nodes), Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                let mut known: BTreeMap<usize, Known> = BTreeMap::new();
                for at in (0..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    let (name, key) = (at % names, format!("c{client}-{at}"));
                    let body = json!({ "name": format!("name {name}") });
                    let path = format!("/db/Account/{key}");
                    let node = &nodes[(at + client) % nodes.len()];
                    let known = known.entry(name).or_default();
                    match outcome(node.put(&path).json(&body).try_send().await) {
                        Outcome::Acknowledged(_) => known.told.push(key),
                        Outcome::Unknown => drop(known.maybe.insert(key)),
                        Outcome::Refused => {}
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                known
            })
        })
        .collect();
    let progress = async |more: usize| {
        let from = done.load(Ordering::Relaxed);
        eventually("registrations go on", DEADLINE, || async {
            (done.load(Ordering::Relaxed) >= from + more).then_some(())
        })
        .await;
    };
    for kill in 0..kills {
        progress(120).await;
        let key = format!("c0-{kill}");
        let leader = cluster.leader_of("Account", &key, kill % 3).await;
        cluster.kill(leader).await;
        progress(60).await;
        cluster.restart(leader).await;
        cluster.healthy(READY).await;
    }
    progress(120).await;
    stop.store(true, Ordering::Relaxed);
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    for client in running {
        for (name, of_client) in client.await.expect("the client ends") {
            let known = known.entry(format!("name {name}")).or_default();
            known.told.extend(of_client.told);
            known.maybe.extend(of_client.maybe);
        }
    }
    judge(&cluster, &nodes, &known).await;
}

/// Compares what clients were told with what is stored.
async fn judge(cluster: &Cluster, nodes: &[Api], known: &BTreeMap<String, Known>) {
    let mut stored: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for account in grpc::scan_all(&cluster.nodes[0].client, "Account", None).await {
        let text = |member: &str| account[member].as_str().expect("a text").to_owned();
        let id = text("id").replace("/db/Account/", "");
        stored.entry(text("name")).or_default().push(id);
    }
    for (name, Known { told, maybe }) in known {
        assert!(told.len() <= 1, "{name} was given to {told:?}");
        match stored.get(name).map(Vec::as_slice) {
            None => {
                assert!(told.is_empty(), "{name} of {told:?} is lost");
                // Whoever was killed on the way left nothing that is in the way.
                register(&nodes[0], name).expect(201).await;
            }
            Some([one]) => {
                assert!(
                    told.contains(one) || (told.is_empty() && maybe.contains(one)),
                    "{name} belongs to {told:?} and is stored in {one}"
                );
                register(&nodes[1], name).refused(409, "value_taken").await;
            }
            Some(several) => panic!("{name} is held by {several:?}"),
        }
    }
    let given = known
        .values()
        .filter(|known| !known.told.is_empty())
        .count();
    assert!(
        given > known.len() / 2,
        "{given} names of {} were given",
        known.len()
    );
}
