//! Promise: a log-in at one node counts on every node, a wrong one nowhere, and secrets stay where they belong.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tests::{Api, Checks, Cluster, Options, process};

const PASSWORD: &str = "Larder-0range-Kettle-93";
const TOKEN: &str = "baqend-authorization-token";

#[tokio::test]
async fn sessions() {
    let options = Options {
        root_password: Some(PASSWORD.to_owned()),
        ..Options::default()
    };
    let mut cluster = Cluster::start(options).await;
    let api = cluster.api(0);
    let mut checks = Checks::new();
    checks.check("log-in", log_in(&api)).await;
    checks.check("wrong log-ins", wrong_log_ins(&cluster)).await;
    checks.check("the token", token(&api)).await;
    checks
        .check("a token counts on every node", every_node(&cluster))
        .await;
    checks.check("forged tokens", forged(&cluster)).await;
    checks.check("connect", connect(&cluster)).await;
    checks.check("logout", logout(&cluster)).await;
    let root = cluster.root(1).await;
    checks
        .check(
            "tokens outlive a restart of all nodes",
            restart(&mut cluster, &root),
        )
        .await;
    checks
        .check("secrets are not in logs", secrets(&cluster, &root))
        .await;
    checks.finish();
}

async fn attempt(api: &Api, user: &str, password: &str) -> tests::Answer {
    api.post("/db/User/login")
        .json(&json!({ "username": user, "password": password }))
        .send()
        .await
}

async fn log_in(api: &Api) {
    let answer = attempt(api, "root", PASSWORD).await.expect(200);
    let user = answer.json();
    assert_eq!(
        (&user["id"], &user["username"]),
        (&json!("/db/User/1"), &json!("root"))
    );
    assert!(
        user["version"].as_u64().is_some_and(|version| version >= 1),
        "{user}"
    );
    let secret = user
        .as_object()
        .into_iter()
        .flatten()
        .find(|(name, _)| name.starts_with('_') || *name == "password");
    assert_eq!(secret, None, "no secret is shown");
    assert!(answer.header(TOKEN).is_some());
    let cache = answer.header("cache-control").unwrap_or_default();
    assert!(
        cache.contains("no-store"),
        "an answer with a token is kept nowhere: {cache}"
    );
    // Not by the back door either.
    let direct = api
        .log_in("root", PASSWORD)
        .await
        .get("/db/User/1")
        .send()
        .await
        .expect(200);
    assert!(
        !direct.text().contains("argon2") && !direct.text().contains("_password"),
        "{}",
        direct.text()
    );
}

async fn wrong_log_ins(cluster: &Cluster) {
    for node in cluster.all() {
        let api = cluster.api(node);
        for (user, password) in [
            ("root", "root"),
            ("root", ""),
            ("root", "larder-0range-kettle-93"),
            ("nobody", PASSWORD),
            ("", ""),
        ] {
            let answer = attempt(&api, user, password)
                .await
                .refused(460, "bad_credentials");
            assert_eq!(answer.header(TOKEN), None);
            assert!(!answer.text().contains(PASSWORD));
        }
    }
    let api = cluster.api(0);
    api.post("/db/User/login")
        .body("{")
        .send()
        .await
        .refused(471, "syntax_error");
    for body in [
        json!({}),
        json!({ "username": "root" }),
        json!({ "username": 1, "password": [] }),
    ] {
        let answer = api.post("/db/User/login").json(&body).send().await;
        assert!(
            matches!(answer.status, 400 | 460 | 463 | 471),
            "{body}: {}",
            answer.status
        );
    }
}

async fn token(api: &Api) {
    let token = attempt(api, "root", PASSWORD)
        .await
        .expect(200)
        .header(TOKEN)
        .expect("a token");
    assert!(
        token.len() >= 62 && token.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{token}"
    );
    let seconds = |range| u64::from_str_radix(&token[range], 16).expect("hex");
    let (created, expires) = (seconds(0..8), seconds(8..16));
    assert!(
        expires > created && created > 1_700_000_000,
        "{created} to {expires}"
    );
    // A renewal never shortens the expiry: the SDK would ignore it.
    let renewed = api
        .with_token(&token)
        .get("/db/User/me")
        .send()
        .await
        .expect(200)
        .header(TOKEN)
        .expect("a token");
    assert!(renewed[8..16] >= token[8..16]);
}

async fn every_node(cluster: &Cluster) {
    for origin in cluster.all() {
        let root = cluster.root(origin).await;
        for node in cluster.all() {
            let there = cluster
                .api(node)
                .with_token(root.token().expect("logged in"));
            let me = there.get("/db/User/me").send().await.expect(200);
            assert_eq!(me.json()["username"], "root");
            assert!(me.header(TOKEN).is_some());
            let class = json!([{ "class": format!("/db/From{origin}At{node}"), "superClass": "/db/Object", "fields": {} }]);
            there.post("/schema").json(&class).send().await.expect(200);
        }
    }
    for node in cluster.all() {
        let nobody = cluster.api(node).get("/db/User/me").send().await;
        assert!(matches!(nobody.status, 404 | 460), "{}", nobody.status);
    }
}

async fn forged(cluster: &Cluster) {
    let token = cluster.root(0).await.token().expect("logged in").to_owned();
    let mut forged = vec![
        String::new(),
        "00".to_owned(),
        "f".repeat(62),
        token.to_uppercase(),
        format!("{token}0"),
    ];
    // Every character counts: times, data and signature.
    for at in [
        0,
        7,
        8,
        15,
        16,
        token.len() - 41,
        token.len() - 40,
        token.len() - 1,
    ] {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
        forged.push(String::from_utf8(bytes).expect("ASCII"));
    }
    for (index, forged) in forged.iter().filter(|forged| **forged != token).enumerate() {
        let api = cluster.api(index % 3).with_token(forged);
        api.get("/db/User/me")
            .send()
            .await
            .refused(460, "bad_credentials");
        api.put("/db/Demo/forged")
            .json(&json!({}))
            .send()
            .await
            .refused(460, "bad_credentials");
        let connect = api.get("/connect?BCB").send().await.expect(200).json();
        assert_eq!(
            (connect.get("token"), connect.get("user")),
            (None, None),
            "connect never fails for a token"
        );
    }
    cluster
        .api(0)
        .get("/db/Demo/forged")
        .send()
        .await
        .expect(404);
}

async fn connect(cluster: &Cluster) {
    for node in cluster.all() {
        let anonymous = cluster
            .api(node)
            .get("/connect")
            .send()
            .await
            .expect(200)
            .json();
        assert!(
            anonymous["schema"]
                .as_array()
                .is_some_and(|classes| classes.len() >= 5),
            "{anonymous}"
        );
        for member in ["token", "user", "device", "bloomFilter", "websocket"] {
            assert_eq!(
                anonymous.get(member),
                None,
                "{member} would be taken for one"
            );
        }
        let known = cluster
            .root(node)
            .await
            .get("/connect?BCB")
            .send()
            .await
            .expect(200);
        let body = known.json();
        assert_eq!(body["user"]["id"], "/db/User/1");
        let token = body["token"]
            .as_str()
            .expect("without it the client logs itself out");
        cluster
            .api(node)
            .with_token(token)
            .get("/db/User/me")
            .send()
            .await
            .expect(200);
        assert!(
            known
                .header("cache-control")
                .unwrap_or_default()
                .contains("no-store")
        );
        let schema = cluster.api(node).get("/schema").send().await.json();
        assert_eq!(schema, body["schema"], "one schema");
    }
}

async fn logout(cluster: &Cluster) {
    let root = cluster.root(0).await;
    let answer = root.get("/db/User/logout").send().await.expect(204);
    assert_eq!(
        answer.header(TOKEN),
        None,
        "any token in an answer would log the client in again"
    );
    // Also without a session: the client forgets its own.
    let anonymous = cluster.api(1).get("/db/User/logout").send().await;
    assert!(matches!(anonymous.status, 204), "{}", anonymous.status);
}

/// The signing key is the cluster's, on disk, not a process's.
async fn restart(cluster: &mut Cluster, root: &Api) {
    cluster.kill_all().await;
    for node in cluster.all() {
        cluster.spawn(node);
    }
    cluster.ready(Duration::from_secs(30)).await;
    let token = root.token().expect("logged in");
    for node in cluster.all() {
        cluster
            .api(node)
            .with_token(token)
            .get("/db/User/me")
            .send()
            .await
            .expect(200);
    }
    attempt(&cluster.api(2), "root", "root")
        .await
        .refused(460, "bad_credentials");
}

async fn secrets(cluster: &Cluster, root: &Api) {
    let token = root.token().expect("logged in");
    let signature = &token[token.len() - 40..];
    let logs = process::logs(cluster.dir());
    assert!(!logs.is_empty());
    for log in logs {
        let text = std::fs::read(&log).expect("a log");
        for secret in [PASSWORD, signature] {
            assert!(
                !contains(&text, secret.as_bytes()),
                "{} holds a secret",
                log.display()
            );
        }
    }
    // The password itself is on no disk, in no form that a copy of the disk gives away.
    for file in files(&cluster.dir().join("data")) {
        let text = std::fs::read(&file).unwrap_or_default();
        assert!(
            !contains(&text, PASSWORD.as_bytes()),
            "{} holds the password",
            file.display()
        );
    }
    let user: Value = root.get("/db/User/1").send().await.expect(200).json();
    assert_eq!(user["username"], "root");
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push(path),
        }
    }
    found
}
