//! Promise: whatever users, roles, rules and requests there are, every route at every node does what the contract's rules say, and no attempt
//! that they refuse succeeds, also while nodes die and rules change.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use document::id::object_id;
use futures::future::join_all;
use proto::v1;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tests::cluster::READY;
use tests::process::run_to_end;
use tests::rights::{Acl, Attempt, Caller, Model, Rules, Verdict, rules_to_json};
use tests::{Api, Cluster, Options, eventually, grpc, is_soak};

const BUCKET: &str = "Guarded";
const PASSWORD: &str = "Guarded-0range-Kettle-17";
const USERS: [&str; 3] = ["10", "11", "12"];
/// Roles and who is in them.
const ROLES: [(&str, &[&str]); 2] = [
    ("70", &["/db/User/10", "/db/User/11"]),
    ("71", &["/db/User/11", "/db/User/12"]),
];
const KEYS: usize = 16;
/// References that rules name. The last one is nobody's.
const REFERENCES: [&str; 8] = [
    "*",
    "/db/User/10",
    "/db/User/11",
    "/db/User/12",
    "/db/Role/3",
    "/db/Role/70",
    "/db/Role/71",
    "/db/User/nobody-has-this-key",
];
const OPERATIONS: [&str; 5] = ["load", "insert", "update", "delete", "query"];

/// Somebody with a session, and what the model knows of it.
struct Somebody {
    name: String,
    caller: Caller,
    token: Option<String>,
}

/// Users that have root's password, roles, and one class.
async fn populate(cluster: &Cluster, password: &str) -> (Api, Vec<Somebody>) {
    let root = cluster.root(0).await;
    let class = json!([{ "class": format!("/db/{BUCKET}"), "fields": { "n": { "name": "n", "type": "/db/Integer" } } }]);
    root.post("/schema").json(&class).expect(200).await;
    let users = root.get("/db/User").expect(200).await.json();
    let hash = &users[0]["_password"];
    let users = USERS.map(|key| {
        json!({ "id": object_id("User", key), "username": format!("user{key}"), "_password": hash })
    });
    let imported = root.put("/db/User").json(&json!(users)).expect(200).await;
    assert_eq!(imported.json()["failed"], 0, "{}", imported.text());
    for (role, members) in ROLES {
        let role = object_id("Role", role);
        let body = json!({ "name": role, "users": members });
        root.put(&role).json(&body).expect(200).await;
    }
    // A role that is changed counts within a bound, not at once.
    for (role, members) in ROLES {
        let probe = object_id(BUCKET, role);
        let read = json!({ (object_id("Role", role)): "allow" });
        let acl = json!({ "read": read, "write": {} });
        root.put(&probe)
            .json(&json!({ "acl": acl }))
            .expect(200)
            .await;
        for member in members {
            let key = member.rsplit('/').next().expect("a key");
            let session = cluster.api(0).log_in(&format!("user{key}"), password).await;
            let token = session.token().expect("a session").to_owned();
            for node in cluster.all() {
                let api = cluster.api(node).with_token(&token);
                let counts =
                    || async { (api.get(&probe).send().await.status == 200).then_some(()) };
                eventually("the role counts", Duration::from_secs(30), counts).await;
            }
        }
        root.delete(&probe).expect(204).await;
    }
    let mut all = vec![Somebody {
        name: "nobody".to_owned(),
        caller: Caller::default(),
        token: None,
    }];
    for key in USERS {
        let user = object_id("User", key);
        let roles = ROLES
            .iter()
            .filter(|(_, members)| members.contains(&user.as_str()));
        let mut references: Vec<String> = roles.map(|(role, _)| object_id("Role", role)).collect();
        references.extend([user.clone(), "/db/Role/3".to_owned()]);
        let session = cluster.api(0).log_in(&format!("user{key}"), password).await;
        all.push(Somebody {
            name: user,
            caller: Caller { references },
            token: session.token().map(str::to_owned),
        });
    }
    all.push(Somebody {
        name: "root".to_owned(),
        caller: Caller {
            references: ["/db/User/1", "/db/Role/1", "/db/Role/3"]
                .map(str::to_owned)
                .to_vec(),
        },
        token: root.token().map(str::to_owned),
    });
    (root, all)
}

fn random_rules(random: &mut StdRng) -> Rules {
    let count = *[0, 0, 1, 1, 2, 3].choose(random).expect("some");
    (0..count)
        .map(|_| {
            let reference = *REFERENCES.choose(random).expect("some");
            // A denial of everybody is rare: it hides all else.
            let allow = random.random_bool(if reference == "*" { 0.9 } else { 0.7 });
            (reference.to_owned(), allow)
        })
        .collect()
}

fn random_acl(random: &mut StdRng) -> Acl {
    Acl {
        read: random_rules(random),
        write: random_rules(random),
    }
}

fn random_attempt(random: &mut StdRng) -> Attempt {
    match random.random_range(0..10) {
        0..=2 => Attempt::Load,
        3 => Attempt::Insert(random_acl(random)),
        4 => Attempt::Replace(random_acl(random)),
        5..=6 => Attempt::Upsert(random_acl(random)),
        7..=8 => Attempt::Change,
        _ => Attempt::Delete,
    }
}

/// Makes the attempt over HTTP, by one of the routes for it; gives the code of the refusal, if any.
async fn over_http(api: &Api, key: &str, attempt: &Attempt, random: &mut StdRng) -> Option<String> {
    let path = object_id(BUCKET, key);
    let body = |acl: &Acl| json!({ "n": 1, "acl": acl.to_json() });
    let variant = random.random_range(0..3);
    let batch = |write: Value| api.post("/batch").json(&json!({ "writes": [write] }));
    let call = match attempt {
        Attempt::Load if variant == 0 => api.get(&path).header("if-none-match", "\"999\""),
        Attempt::Load => api.get(&path),
        Attempt::Insert(acl) if variant == 0 => {
            batch(json!({ "id": path, "put": body(acl), "if": { "absent": true } }))
        }
        Attempt::Insert(acl) => {
            let mut body = body(acl);
            body["id"] = json!(path);
            api.post(&format!("/db/{BUCKET}")).json(&body)
        }
        Attempt::Replace(acl) => api.put(&path).header("if-match", "*").json(&body(acl)),
        Attempt::Upsert(acl) if variant == 0 => batch(json!({ "id": path, "put": body(acl) })),
        Attempt::Upsert(acl) => api.put(&path).json(&body(acl)),
        Attempt::Change if variant == 0 => {
            batch(json!({ "id": path, "update": { "$inc": { "n": 1 } } }))
        }
        Attempt::Change if variant == 1 => {
            api.post(&format!("{path}/n")).json(&json!({ "$inc": 1 }))
        }
        Attempt::Change => api.post(&path).json(&json!({ "$inc": { "n": 1 } })),
        Attempt::Delete if variant == 0 => batch(json!({ "id": path, "delete": true })),
        Attempt::Delete => api.delete(&path),
    };
    let answer = call.send().await;
    if answer.status < 300 {
        return None;
    }
    Some(answer.json()["code"].as_str().expect("a code").to_owned())
}

/// The same over gRPC.
async fn over_grpc(
    documents: &mut grpc::Documents,
    token: Option<&str>,
    key: &str,
    attempt: &Attempt,
) -> Option<String> {
    let body = |acl: &Acl| json!({ "n": 1, "acl": acl.to_json() }).to_string();
    let ask = |message: v1::PutRequest| grpc::request(message, token, None);
    let exists = Some(v1::Precondition {
        condition: Some(v1::precondition::Condition::Exists(true)),
    });
    let done = match attempt {
        Attempt::Load => {
            let get = grpc::request(grpc::get(BUCKET, key), token, None);
            documents.get(get).await.map(drop)
        }
        Attempt::Insert(acl) => {
            let put = v1::PutRequest {
                precondition: grpc::absent(),
                ..grpc::put(BUCKET, key, &body(acl))
            };
            documents.put(ask(put)).await.map(drop)
        }
        Attempt::Replace(acl) => {
            let put = v1::PutRequest {
                precondition: exists,
                ..grpc::put(BUCKET, key, &body(acl))
            };
            documents.put(ask(put)).await.map(drop)
        }
        Attempt::Upsert(acl) => {
            let put = ask(grpc::put(BUCKET, key, &body(acl)));
            documents.put(put).await.map(drop)
        }
        Attempt::Change => {
            let update = v1::UpdateRequest {
                bucket: BUCKET.to_owned(),
                key: key.to_owned(),
                operations: r#"{"$inc":{"n":1}}"#.into(),
                ..v1::UpdateRequest::default()
            };
            let update = grpc::request(update, token, None);
            documents.update(update).await.map(drop)
        }
        Attempt::Delete => {
            let delete = grpc::request(grpc::delete(BUCKET, key), token, None);
            documents.delete(delete).await.map(drop)
        }
    };
    let status = done.err()?;
    let code = status
        .metadata()
        .get("larder-code")
        .and_then(|code| code.to_str().ok());
    Some(
        code.unwrap_or_else(|| panic!("no code: {status:?}"))
            .to_owned(),
    )
}

/// What a caller finds by each way to find something, at one node; each time the same.
async fn found(cluster: &Cluster, node: usize, who: &Somebody) -> Option<Vec<String>> {
    let api = cluster.api(node);
    let api = match &who.token {
        Some(token) => api.with_token(token),
        None => api,
    };
    let keys = |answer: tests::Answer| -> Option<Vec<String>> {
        if answer.status == 466 {
            return None;
        }
        let list = answer.clone().expect(200).json();
        let ids = list
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| match one {
                Value::String(id) => id.clone(),
                document => document["id"].as_str().expect("an id").to_owned(),
            });
        let prefix = format!("/db/{BUCKET}/");
        let mut keys: Vec<String> = ids
            .map(|id| id.strip_prefix(&prefix).expect("of the bucket").to_owned())
            .collect();
        keys.sort_unstable();
        Some(keys)
    };
    let by_key = keys(
        api.post(&format!("/db/{BUCKET}/query"))
            .body("{}")
            .send()
            .await,
    );
    let sorted = api.post(&format!("/db/{BUCKET}/query?sort=%7B%22n%22%3A-1%7D"));
    assert_eq!(
        keys(sorted.body("{}").send().await),
        by_key,
        "{}: another order",
        who.name
    );
    let ids = api.get(&format!("/db/{BUCKET}/ids")).send().await;
    assert_eq!(keys(ids), by_key, "{}: the list of ids", who.name);
    let counted = api
        .post(&format!("/db/{BUCKET}/count"))
        .body("{}")
        .send()
        .await;
    let counted = (counted.status == 200).then(|| counted.json());
    let count = counted.map(|count| {
        count["count"]
            .as_u64()
            .or(count.as_u64())
            .expect("a number")
    });
    assert_eq!(
        count,
        by_key.as_ref().map(|keys| keys.len() as u64),
        "{}: count",
        who.name
    );
    let mut documents = grpc::documents(&cluster.nodes[node].client);
    let scan = v1::ScanRequest {
        bucket: BUCKET.to_owned(),
        ..v1::ScanRequest::default()
    };
    let scan = grpc::scan(
        &mut documents,
        grpc::request(scan, who.token.as_deref(), None),
    )
    .await;
    let scanned = scan.ok().map(|(found, _)| {
        let mut keys: Vec<String> = found.into_iter().map(|document| document.key).collect();
        keys.sort_unstable();
        keys
    });
    assert_eq!(scanned, by_key, "{}: scan over gRPC", who.name);
    let count = v1::CountRequest {
        bucket: BUCKET.to_owned(),
        ..v1::CountRequest::default()
    };
    let count = documents
        .count(grpc::request(count, who.token.as_deref(), None))
        .await;
    let count = count.ok().map(|count| count.into_inner().count);
    assert_eq!(
        count,
        by_key.as_ref().map(|keys| keys.len() as u64),
        "{}: gRPC",
        who.name
    );
    by_key
}

/// Random rules of class and objects, random callers and requests, over HTTP and gRPC at all nodes, beside the model.
#[tokio::test]
async fn every_route_does_what_the_model_says() {
    let (steps, seed) = if is_soak() {
        (20_000, rand::random())
    } else {
        (250, 7)
    };
    eprintln!("seed {seed}");
    let random = &mut StdRng::seed_from_u64(seed);
    let cluster = Cluster::dev().await;
    // `larder dev` has this password.
    let (root, all) = populate(&cluster, "root").await;
    let mut documents: Vec<grpc::Documents> = cluster
        .nodes
        .iter()
        .map(|node| grpc::documents(&node.client))
        .collect();
    let mut model = Model::default();
    let mut seen: BTreeMap<Option<&str>, u32> = BTreeMap::new();
    for step in 0..steps {
        if step % 60 == 59 {
            let operation = *OPERATIONS.choose(random).expect("some");
            let rules = random_rules(random);
            let change = json!([{ "operation": "updateClassAcl", "bucket": format!("/db/{BUCKET}"),
                "acl": { (operation): rules_to_json(&rules) } }]);
            root.post("/schema").json(&change).expect(200).await;
            // All that is not named is public again.
            model.class = BTreeMap::from([(operation, rules)]);
        }
        let who = all.choose(random).expect("some");
        let key = format!("k{}", random.random_range(0..KEYS));
        let attempt = random_attempt(random);
        let node = random.random_range(0..cluster.nodes.len());
        let before = model.documents.get(&key).cloned();
        let expected = model.attempt(&key, &attempt, &who.caller);
        let got = if random.random_bool(0.5) {
            let api = cluster.api(node);
            let api = who
                .token
                .as_ref()
                .map_or(api.clone(), |token| api.with_token(token));
            over_http(&api, &key, &attempt, random).await
        } else {
            over_grpc(&mut documents[node], who.token.as_deref(), &key, &attempt).await
        };
        let class = &model.class;
        assert_eq!(
            got.as_deref(),
            expected.code(),
            "step {step}: {} and {attempt:?} of {key}, stored {before:?}, class {class:?}",
            who.name
        );
        *seen.entry(expected.code()).or_default() += 1;
        if step % 25 == 24 {
            let who = all.choose(random).expect("some");
            let got = found(&cluster, node, who).await;
            assert_eq!(
                got,
                model.found(&who.caller),
                "step {step}: {}, {class:?}",
                who.name
            );
        }
    }
    // A test that only ever saw one kind of answer would prove little.
    assert!(
        seen.len() >= 5 && seen.values().all(|count| *count > 0),
        "{seen:?}"
    );
}

/// Rules that never let the attackers.
fn closed(n: u64) -> Value {
    let others = [
        json!({ "/db/User/12": "allow" }),
        json!({ "/db/Role/1": "allow" }),
        json!({ "*": "deny" }),
        json!({ "/db/Role/3": "allow", "/db/User/10": "deny" }),
    ];
    let rules = &others[usize::try_from(n).expect("small") % others.len()];
    json!({ "read": rules, "write": rules })
}

/// Thousands of attempts that must all fail, while the rules change among such that refuse them, and nodes are killed and come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denied_attempts_never_succeed_while_nodes_die() {
    let (wanted, kills) = if is_soak() {
        (1_000_000, 60)
    } else {
        (3_000, 2)
    };
    let mut cluster = Cluster::start(Options {
        root_password: Some(PASSWORD.to_owned()),
        shards: 4,
        ..Options::default()
    })
    .await;
    let (root, all) = populate(&cluster, PASSWORD).await;
    let keys: Vec<String> = (0..KEYS).map(|n| format!("k{n}")).collect();
    for key in &keys {
        let body = json!({ "n": 1, "acl": closed(0) });
        root.put(&object_id(BUCKET, key))
            .json(&body)
            .expect(200)
            .await;
    }
    let attacker = all
        .iter()
        .find(|who| who.name == "/db/User/10")
        .expect("a user");
    let token = attacker.token.clone().expect("a session");
    let apis: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let (over, attempts) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );

    let attack = |worker: usize| {
        let (over, attempts, keys) = (Arc::clone(&over), Arc::clone(&attempts), keys.clone());
        let apis: Vec<Api> = match worker % 2 {
            0 => apis.iter().map(|api| api.with_token(&token)).collect(),
            // `closed` lets nobody in who is not logged in.
            _ => apis.clone(),
        };
        tokio::spawn(async move {
            let mut turn = worker;
            while !over.load(Ordering::Relaxed) {
                let api = &apis[turn % apis.len()];
                let path = object_id(BUCKET, &keys[turn / 3 % keys.len()]);
                let stolen = json!({ "n": 666, "acl": { "read": {}, "write": {} } });
                let call = match turn % 7 {
                    0 => api.get(&path),
                    1 => api.get(&path).local(),
                    2 => api.put(&path).json(&stolen),
                    3 => api.put(&path).header("if-match", "*").json(&stolen),
                    4 => api.post(&path).json(&json!({ "$set": { "n": 666 } })),
                    5 => api.delete(&path),
                    _ => api.post(&format!("/db/{BUCKET}/query")).body("{}"),
                };
                // No answer at all comes from a node that is being killed.
                if let Ok(answer) = call.try_send().await {
                    let text = answer.text();
                    match (turn % 7, answer.status) {
                        (6, 200) => assert_eq!(text, "[]", "a query shows what is closed"),
                        (_, 200..300) => panic!("attempt {turn} on {path} succeeded: {text}"),
                        (0..=1, 404) | (2..=5, 466) | (_, 503 | 504) => {
                            attempts.fetch_add(1, Ordering::Relaxed);
                        }
                        (_, status) => panic!("attempt {turn} on {path}: {status} {text}"),
                    }
                }
                turn += 1;
            }
        })
    };
    let attackers: Vec<_> = (0..6).map(attack).collect();
    let rules = {
        let (over, keys) = (Arc::clone(&over), keys.clone());
        let token = root.token().expect("root").to_owned();
        let apis: Vec<Api> = apis.iter().map(|api| api.with_token(&token)).collect();
        tokio::spawn(async move {
            let mut changed = 0_u64;
            let mut turn = 0_u64;
            while !over.load(Ordering::Relaxed) {
                let at = usize::try_from(turn).expect("small");
                let path = object_id(BUCKET, &keys[at % keys.len()]);
                let body = json!({ "n": 1, "acl": closed(turn / 5) });
                let put = apis[at % apis.len()]
                    .put(&path)
                    .json(&body)
                    .try_send()
                    .await;
                changed += u64::from(put.is_ok_and(|answer| answer.status == 200));
                turn += 1;
            }
            changed
        })
    };
    for kill in 0..kills {
        let enough = wanted * (kill + 1) / (kills + 1);
        let what = format!("{enough} attempts");
        let reached = || async { (attempts.load(Ordering::Relaxed) >= enough).then_some(()) };
        eventually(
            &what,
            Duration::from_secs(if is_soak() { 3_600 } else { 120 }),
            reached,
        )
        .await;
        let node = usize::try_from(kill).expect("small") % cluster.nodes.len();
        cluster.kill(node).await;
        cluster.restart(node).await;
    }
    cluster.healthy(READY).await;
    over.store(true, Ordering::Relaxed);
    for attacker in join_all(attackers).await {
        attacker.expect("no attempt succeeded");
    }
    let changed = rules.await.expect("rules change");
    assert!(changed > 0, "no change of rules was in flight");
    eprintln!(
        "{} attempts, all refused, over {kills} kills and {changed} changes of rules",
        attempts.load(Ordering::Relaxed)
    );
    let root = cluster.root(1).await;
    for key in &keys {
        let stored = root.get(&object_id(BUCKET, key)).expect(200).await.json();
        assert_eq!(stored["n"], 1, "{stored}");
    }
    replicas_are_equal(&mut cluster).await;
}

/// Ends all nodes in peace and compares what lies on their disks, by the chain hashes of replicas that are equally far.
async fn replicas_are_equal(cluster: &mut Cluster) {
    let dirs: Vec<PathBuf> = cluster
        .all()
        .map(|node| cluster.dir().join(format!("data/n{}", node + 1)))
        .collect();
    for node in cluster.all() {
        cluster.stop(node).await;
    }
    let mut chains: BTreeMap<(u64, u64), Vec<String>> = BTreeMap::new();
    for dir in dirs {
        let mut command = tests::binary::command();
        command.args(["data", "verify", "-o", "json"]).arg(&dir);
        let ended = run_to_end(command, Duration::from_secs(60));
        let report: Value = serde_json::from_slice(&ended.stdout).expect("a report");
        assert_eq!(report["ok"], true, "{report:#}");
        for replica in report["replicas"].as_array().expect("replicas") {
            if let Some(applied) = replica["applied"].as_u64() {
                let at = (replica["shard"].as_u64().expect("a shard"), applied);
                let chain = replica["chain"].as_str().expect("a chain").to_owned();
                chains.entry(at).or_default().push(chain);
            }
        }
    }
    let together: Vec<_> = chains.values().filter(|chains| chains.len() > 1).collect();
    assert!(
        !together.is_empty(),
        "no two replicas are equally far: {chains:?}"
    );
    for chains in together {
        assert!(chains.iter().all(|chain| *chain == chains[0]), "{chains:?}");
    }
}

/// The model is not the nodes' own code, and is asked what the contract's table says.
#[test]
fn the_model_refuses_by_the_table() {
    let nobody = Caller::default();
    let closed: Rules = [("/db/Role/1".to_owned(), true)].into();
    for (operation, attempt) in [
        ("load", Attempt::Load),
        ("insert", Attempt::Insert(Acl::default())),
        ("insert", Attempt::Upsert(Acl::default())),
        ("update", Attempt::Upsert(Acl::default())),
        ("update", Attempt::Replace(Acl::default())),
        ("update", Attempt::Change),
        ("delete", Attempt::Delete),
    ] {
        let mut model = Model {
            class: BTreeMap::from([(operation, closed.clone())]),
            ..Model::default()
        };
        assert_eq!(
            model.attempt("k", &attempt, &nobody),
            Verdict::Denied,
            "{operation}"
        );
    }
}
