//! Promise: a user's whole life over HTTP at any node; and what ends sessions does so at every node within the bound, or the node
//! refuses to judge.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use tests::cluster::READY;
use tests::{Answer, Api, Checks, Cluster, Options, eventually};

const TOKEN: &str = "baqend-authorization-token";
/// What a node may go on with after something was acknowledged elsewhere (`limits.metadata_age_max_ms`).
const BOUND: Duration = Duration::from_secs(3);
const DEADLINE: Duration = Duration::from_secs(30);
/// Changes whose time to take effect is measured.
const CHANGES: usize = 12;

#[tokio::test]
async fn users() {
    let mut cluster = Cluster::start(Options {
        env: vec![(
            "LARDER_ACCOUNTS__RESET_LINK".to_owned(),
            "https://app.example/reset".to_owned(),
        )],
        ..Options::default()
    })
    .await;
    let mut checks = Checks::new();
    checks.check("registration", registration(&cluster)).await;
    checks.check("passwords", passwords(&cluster)).await;
    checks.check("reset by mail", reset(&cluster)).await;
    checks.check("roles", roles(&cluster)).await;
    checks.check("keys that sign", keys(&cluster)).await;
    checks
        .check("ends of sessions are seen everywhere", seen(&cluster))
        .await;
    checks
        .check(
            "a leader that stood still",
            a_leader_that_stood_still(&mut cluster),
        )
        .await;
    checks
        .check("a node that is cut off", cut_off(&mut cluster))
        .await;
    checks.finish();
}

async fn register(api: &Api, name: &str, password: &str) -> Answer {
    let user = json!({ "id": null, "version": null, "acl": {"read": {}, "write": {}}, "username": name, "inactive": null });
    api.post("/db/User/register")
        .json(&json!({ "user": user, "password": password, "login": true }))
        .send()
        .await
}

fn token_of(answer: &Answer) -> String {
    answer.header(TOKEN).expect("a token")
}

/// A registered user: its id and an API with its token.
async fn user(api: &Api, name: &str) -> (String, Api) {
    let answer = register(api, name, "pw").await.expect(200);
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    (id, api.with_token(&token_of(&answer)))
}

async fn change_password(api: &Api, name: &str, old: &str, new: &str) -> Answer {
    api.post("/db/User/password")
        .json(&json!({ "username": name, "password": old, "newPassword": new }))
        .send()
        .await
}

/// Whether a node takes a token, and nothing else: a read that no other right stands before.
async fn judge(api: &Api, token: &str) -> u16 {
    let read = api.with_token(token).get("/db/Demo/none").local();
    read.send().await.status
}

const GOOD: u16 = 404;
const OVER: u16 = 460;

async fn registration(cluster: &Cluster) {
    let answer = register(&cluster.api(0), "ann", "pw").await.expect(200);
    let user = answer.json();
    let id = user["id"].as_str().expect("an id").to_owned();
    assert_eq!(user["acl"]["read"][&id], "allow");
    assert_eq!(
        (&user["username"], &user["inactive"]),
        (&json!("ann"), &Value::Null)
    );
    let token = token_of(&answer);
    for node in cluster.all() {
        let api = cluster.api(node);
        register(&api, "ann", "other")
            .await
            .refused(409, "value_taken");
        let me = api.with_token(&token).get("/db/User/me").send().await;
        assert_eq!(me.expect(200).json()["id"], id.as_str());
        let valid = api.with_token(&token).get("/db/User/validate").send().await;
        assert_eq!(valid.expect(200).json()["user"], id.as_str());
        api.log_in("ann", "pw").await;
        api.get("/db/User/validate")
            .send()
            .await
            .refused(460, "bad_credentials");
        // A user is its own.
        api.get(&id).send().await.refused(404, "object_not_found");
    }
    let quiet = json!({ "user": { "username": "quiet" }, "password": "pw", "login": false });
    let quiet = cluster
        .api(1)
        .post("/db/User/register")
        .json(&quiet)
        .send()
        .await;
    assert_eq!(
        quiet.expect(200).header(TOKEN),
        None,
        "any token logs a client in"
    );
    for bad in [
        json!({}),
        json!({ "user": {}, "password": "pw" }),
        json!({ "user": { "username": "x" } }),
        json!({ "user": { "username": "x", "id": "/db/User/1" }, "password": "pw" }),
        json!({ "user": { "username": "x\n" }, "password": "pw" }),
    ] {
        let answer = cluster
            .api(2)
            .post("/db/User/register")
            .json(&bad)
            .send()
            .await;
        assert!(
            matches!(answer.status, 400 | 471),
            "{bad}: {}",
            answer.status
        );
    }
}

async fn passwords(cluster: &Cluster) {
    let (_, bob) = user(&cluster.api(0), "bob").await;
    let nobody = cluster.api(1);
    change_password(&nobody, "bob", "guess", "new")
        .await
        .refused(460, "bad_credentials");
    change_password(&nobody, "bob", "", "new")
        .await
        .refused(460, "bad_credentials");
    let changed = change_password(&nobody, "bob", "pw", "new")
        .await
        .expect(200);
    // At the node that acknowledged it there is nothing to wait for.
    assert_eq!(judge(&nobody, bob.token().expect("token")).await, OVER);
    assert_eq!(judge(&nobody, &token_of(&changed)).await, GOOD);
    let root = cluster.root(2).await;
    change_password(&root, "bob", "", "by root")
        .await
        .expect(200);
    let session = cluster.api(0).log_in("bob", "by root").await;
    session
        .get("/db/User/logout?everywhere=true")
        .send()
        .await
        .expect(204);
    assert_eq!(
        judge(&cluster.api(0), session.token().expect("token")).await,
        OVER
    );
    let session = cluster.api(0).log_in("bob", "by root").await;
    let removed = session.delete("/db/User/password").send().await.expect(204);
    let left = token_of(&removed);
    assert_eq!(judge(&cluster.api(0), &left).await, GOOD);
    let login = json!({ "username": "bob", "password": "by root" });
    let login = cluster
        .api(0)
        .post("/db/User/login")
        .json(&login)
        .send()
        .await;
    login.refused(460, "bad_credentials");
}

async fn reset(cluster: &Cluster) {
    let (_, cat) = user(&cluster.api(0), "cat@example.com").await;
    let ask = |name: &'static str| {
        let api = cluster.api(1);
        async move {
            let body = json!({ "username": name });
            api.post("/db/User/reset")
                .json(&body)
                .send()
                .await
                .expect(200);
        }
    };
    ask("nobody@example.com").await;
    ask("cat@example.com").await;
    let mail = eventually("the mail lies in the spool", DEADLINE, || async {
        let mails = mails(cluster.dir());
        assert!(mails.len() <= 1, "{mails:?}");
        mails
            .first()
            .map(|mail| std::fs::read_to_string(mail).expect("a mail"))
    })
    .await;
    assert!(mail.starts_with("To: cat@example.com\r\n"), "{mail}");
    let start = mail
        .find("https://app.example/reset?bq-token=")
        .expect("a link");
    let token: String = mail[start..]
        .split_once('=')
        .expect("a token")
        .1
        .chars()
        .take_while(char::is_ascii_hexdigit)
        .collect();
    let set = |password: &str| {
        let body = json!({ "token": token, "newPassword": password });
        cluster.api(2).post("/db/User/password").json(&body).send()
    };
    let session = set("reset").await.expect(200);
    assert_eq!(session.json()["username"], "cat@example.com");
    set("again").await.refused(460, "bad_credentials");
    assert_eq!(
        judge(&cluster.api(2), cat.token().expect("token")).await,
        OVER
    );
    cluster.api(0).log_in("cat@example.com", "reset").await;
}

fn mails(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(mails(&path)),
            path if path.extension().is_some_and(|end| end == "eml") => found.push(path),
            _ => {}
        }
    }
    found
}

async fn roles(cluster: &Cluster) {
    let root = cluster.root(0).await;
    let (id, dan) = user(&cluster.api(1), "dan").await;
    let role = |users: Value| json!({ "name": "staff", "users": users, "acl": {"read": {}, "write": {"/db/Role/1": "allow"}} });
    root.put("/db/Role/staff")
        .json(&role(json!([id])))
        .send()
        .await
        .expect(200);
    let secret = json!({ "acl": { "read": { "/db/Role/staff": "allow" }, "write": {} } });
    root.put("/db/Demo/secret")
        .json(&secret)
        .send()
        .await
        .expect(200);
    let token = dan.token().expect("token").to_owned();
    let see = |node: usize| {
        let api = cluster.api(node).with_token(&token);
        async move { api.get("/db/Demo/secret").send().await.status }
    };
    for node in cluster.all() {
        eventually("the role is heard of", DEADLINE, || async {
            (see(node).await == 200).then_some(())
        })
        .await;
    }
    let assumed = dan.post("/db/Role/staff/assume").send().await.expect(200);
    let as_staff = cluster.api(2).with_token(&token_of(&assumed));
    as_staff.get("/db/Demo/secret").send().await.expect(200);
    let denied = dan.post("/db/Role/1/assume").send().await;
    denied.refused(466, "permission_denied");
    let acknowledged = {
        root.put("/db/Role/staff")
            .json(&role(json!([])))
            .send()
            .await
            .expect(200);
        Instant::now()
    };
    for node in cluster.all() {
        eventually("the role is lost", DEADLINE, || async {
            let asked = Instant::now();
            let status = see(node).await;
            assert!(
                status != 200 || asked < acknowledged + BOUND,
                "past the bound"
            );
            (status == 404).then_some(())
        })
        .await;
    }
}

async fn keys(cluster: &Cluster) {
    let (_, eve) = user(&cluster.api(0), "eve").await;
    let token = eve.token().expect("token");
    let admin = cluster.admin(1);
    let rotated = admin.post("/admin/v1/cluster/rotate-keys").send().await;
    assert_eq!(rotated.expect(200).json()["key"], 1);
    for node in cluster.all() {
        assert_eq!(judge(&cluster.api(node), token).await, GOOD);
        let new = cluster.api(node).log_in("eve", "pw").await;
        let other = cluster.api((node + 1) % 3);
        eventually("the key is heard of", DEADLINE, || async {
            (judge(&other, new.token().expect("token")).await == GOOD).then_some(())
        })
        .await;
    }
}

/// The time from the acknowledgement until each node refuses, over several changes.
async fn seen(cluster: &Cluster) {
    user(&cluster.api(0), "fay").await;
    let mut password = "pw".to_owned();
    let mut took = Vec::new();
    for change in 0..CHANGES {
        let session = cluster.api(change % 3).log_in("fay", &password).await;
        let token = session.token().expect("token").to_owned();
        for node in cluster.all() {
            assert_eq!(judge(&cluster.api(node), &token).await, GOOD);
        }
        let next = format!("pw {change}");
        let changing = cluster.api((change + 1) % 3);
        let changed = change_password(&changing, "fay", &password, &next)
            .await
            .expect(200);
        let acknowledged = Instant::now();
        password = next;
        let new = token_of(&changed);
        let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
        let ended = nodes.iter().map(|api| over(api, &token, acknowledged));
        took.extend(join_all(ended).await);
        for api in &nodes {
            // The one of the change goes on, be it of the same second.
            assert_eq!(judge(api, &new).await, GOOD);
        }
    }
    took.sort();
    let percentile = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    eprintln!(
        "sessions ended at every node, {} times: p50 {:?}, p99 {:?}",
        took.len(),
        percentile(50),
        percentile(99)
    );
}

/// How long after the acknowledgement a node refuses a token. It is asked all the time: a pause would be a part of what is measured.
async fn over(api: &Api, token: &str, acknowledged: Instant) -> Duration {
    loop {
        let asked = Instant::now();
        let status = judge(api, token).await;
        if status == OVER {
            return acknowledged.elapsed();
        }
        assert!(asked < acknowledged + BOUND, "past the bound: {status}");
    }
}

/// SIGSTOP of the leader of the roles' shard: when it wakes up it believes to lead, and must not judge by what it knew.
async fn a_leader_that_stood_still(cluster: &mut Cluster) {
    let (_, gus) = user(&cluster.api(0), "gus").await;
    let token = gus.token().expect("token").to_owned();
    let still = cluster.leader_of("Role", "1", 0).await;
    let other = cluster.api((still + 1) % 3);
    assert_eq!(judge(&cluster.api(still), &token).await, GOOD);
    cluster.pause(still);
    let changed = eventually("another leader takes over", DEADLINE, || async {
        let changed = change_password(&other, "gus", "pw", "new").await;
        match changed.status {
            200 => Some(()),
            // It happened, and only the answer was late.
            460 => Some(()),
            _ => None,
        }
    });
    changed.await;
    let acknowledged = Instant::now();
    // What the sleeping node knew is older than the bound when it wakes up.
    eventually("the bound passes", DEADLINE, || async {
        (acknowledged.elapsed() > BOUND).then_some(())
    })
    .await;
    cluster.resume(still);
    let woken = Instant::now();
    let api = cluster.api(still);
    let mut asked = 0;
    while woken.elapsed() < BOUND || asked < 20 {
        let status = judge(&api, &token).await;
        assert!(matches!(status, OVER | 503), "{status}");
        asked += 1;
    }
    cluster.healthy(READY).await;
    eventually("it hears of it", DEADLINE, || async {
        (judge(&api, &token).await == OVER).then_some(())
    })
    .await;
}

/// Alone, a node judges no token once the bound has passed, whatever level is asked for.
async fn cut_off(cluster: &mut Cluster) {
    let (_, hal) = user(&cluster.api(0), "hal").await;
    let token = hal.token().expect("token").to_owned();
    let api = cluster.api(0);
    assert_eq!(judge(&api, &token).await, GOOD);
    cluster.kill(1).await;
    cluster.kill(2).await;
    let killed = Instant::now();
    eventually("it refuses", DEADLINE, || async {
        let asked = Instant::now();
        let status = judge(&api, &token).await;
        assert!(status != GOOD || asked < killed + BOUND, "past the bound");
        (status == 503).then_some(())
    })
    .await;
    let refused = api
        .with_token(&token)
        .get("/db/Demo/none")
        .local()
        .send()
        .await;
    let refused = refused.refused(503, "unavailable");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(refused.json()["effect"], "none");
    // Who needs no rights of a user goes on.
    let anonymous = api.get("/db/Demo/none").local().send().await;
    assert_eq!(anonymous.status, 404);
    cluster.restart(1).await;
    cluster.node_ready(0, READY).await;
    eventually("it judges again", DEADLINE, || async {
        (judge(&api, &token).await == GOOD).then_some(())
    })
    .await;
}
