//! Promise: a second factor stands before every log-in of its user, takes each code once on all nodes together, and cannot be guessed; an
//! API token lasts until it is revoked, and then counts nowhere.

use std::time::Duration;

use serde_json::{Value, json};
use tests::wall::now_seconds;
use tests::{Answer, Api, Checks, Cluster, Options, eventually};
use totp_rs::{Builder, Secret, Totp};

const TOKEN: &str = "baqend-authorization-token";
const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn second_factor() {
    let cluster = Cluster::start(Options::default()).await;
    let mut checks = Checks::new();
    checks.check("its whole life", life(&cluster)).await;
    checks
        .check("its token is of no use elsewhere", elsewhere(&cluster))
        .await;
    checks.check("guessing", guessing(&cluster)).await;
    checks.check("bad input", bad_input(&cluster)).await;
    checks.check("API tokens", api_tokens(&cluster)).await;
    checks.finish();
}

/// A new user with a session: its id, and an API with its token.
async fn user(cluster: &Cluster, node: usize, name: &str) -> (String, Api) {
    let api = cluster.api(node);
    let body = json!({ "user": { "username": name }, "password": "pw", "login": true });
    let answer = api
        .post("/db/User/register")
        .json(&body)
        .send()
        .await
        .expect(200);
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    (id, api.with_token(&answer.header(TOKEN).expect("a token")))
}

async fn status(api: &Api) -> Value {
    api.get("/db/User/mfa/status")
        .send()
        .await
        .expect(200)
        .json()
}

async fn log_in(api: &Api, name: &str) -> Answer {
    let body = json!({ "username": name, "password": "pw" });
    api.post("/db/User/login").json(&body).send().await
}

/// The token of a log-in that waits for a code.
async fn half(api: &Api, name: &str) -> String {
    let answer = log_in(api, name).await;
    assert_eq!(answer.header(TOKEN), None, "half a log-in is none");
    let answer = answer.refused(403, "second_factor_required");
    let token = answer.json()["data"]["baqend-mfa-auth-token"]
        .as_str()
        .expect("a token")
        .to_owned();
    assert_eq!(
        answer.header("baqend-mfa-auth-token").as_deref(),
        Some(token.as_str())
    );
    token
}

async fn finish(api: &Api, token: &str, code: u32) -> Answer {
    let body = json!({ "authToken": token, "code": code, "global": true });
    api.post("/db/User/mfa/token").json(&body).send().await
}

/// An authenticator app.
struct App(Totp);

impl App {
    fn new(uri: &str) -> App {
        let (_, query) = uri.split_once('?').expect("a query");
        let secret = form_urlencoded::parse(query.as_bytes())
            .find(|(name, _)| name == "secret")
            .expect("a secret");
        let secret = Secret::try_from_base32(&secret.1).expect("base32");
        App(Builder::new()
            .with_secret(secret)
            .build()
            .expect("a secret of the right length"))
    }

    /// The code of a step, counted from now, as a number.
    fn code(&self, steps: u64) -> u32 {
        let code = self.0.generate(now_seconds() + 30 * steps).to_string();
        code.parse().expect("digits")
    }

    /// A code that is right at no time near now.
    fn wrong(&self) -> u32 {
        let near: Vec<u32> = (0..3).map(|steps| self.code(steps)).collect();
        (0..)
            .map(|n| n + 111_111)
            .find(|code| !near.contains(code))
            .expect("one of millions")
    }
}

/// Switches the second factor on.
async fn enable(api: &Api) -> App {
    let setup = api.get("/db/User/mfa/init").send().await.expect(200).json();
    let app = App::new(setup["keyUri"].as_str().expect("a URI"));
    let body = json!({ "code": app.code(0) });
    api.post("/db/User/mfa/init")
        .json(&body)
        .send()
        .await
        .expect(200);
    app
}

async fn life(cluster: &Cluster) {
    let (_, ann) = user(cluster, 0, "ann").await;
    assert_eq!(status(&ann).await, "DISABLED");
    let answer = ann.get("/db/User/mfa/init").send().await.expect(200);
    assert_eq!(answer.header("cache-control").as_deref(), Some("no-store"));
    let setup = answer.json();
    assert!(
        setup["qrCode"]
            .as_str()
            .is_some_and(|picture| picture.starts_with("data:image/png;base64,iVBOR"))
    );
    assert_eq!(status(&ann).await, "PENDING");
    log_in(&cluster.api(1), "ann").await.expect(200);
    let app = App::new(setup["keyUri"].as_str().expect("a URI"));
    let init = |code: u32| ann.post("/db/User/mfa/init").json(&json!({ "code": code }));
    init(app.wrong())
        .send()
        .await
        .refused(460, "bad_credentials");
    assert_eq!(status(&ann).await, "PENDING");
    let first = app.code(0);
    init(first).send().await.expect(200);
    for node in cluster.all() {
        let there = cluster.api(node).with_token(ann.token().expect("a token"));
        assert_eq!(status(&there).await, "ENABLED");
    }
    ann.get("/db/User/mfa/init")
        .send()
        .await
        .refused(400, "bad_request");
    // Neither the code that was taken already, nor one at two nodes.
    let token = half(&cluster.api(0), "ann").await;
    finish(&cluster.api(1), &token, first)
        .await
        .refused(460, "bad_credentials");
    let next = app.code(1);
    let apis: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let all = apis.iter().map(|api| finish(api, &token, next));
    let all = futures::future::join_all(all).await;
    let good: Vec<&Answer> = all.iter().filter(|answer| answer.status == 200).collect();
    let statuses: Vec<u16> = all.iter().map(|answer| answer.status).collect();
    assert_eq!(good.len(), 1, "{statuses:?}");
    assert!(
        statuses.iter().all(|status| matches!(status, 200 | 460)),
        "{statuses:?}"
    );
    let session = good[0].header(TOKEN).expect("a token");
    for node in cluster.all() {
        let me = cluster
            .api(node)
            .with_token(&session)
            .get("/db/User/me")
            .send()
            .await;
        let me = me.expect(200).json();
        assert_eq!(me["username"], "ann");
        assert!(!me.to_string().contains("_mfa"), "no secret is shown");
    }
    // Who knows the password alone cannot lock the user out.
    let body = json!({ "username": "ann", "password": "pw", "newPassword": "other" });
    let changed = cluster
        .api(2)
        .post("/db/User/password")
        .json(&body)
        .send()
        .await;
    assert_eq!((changed.status, changed.header(TOKEN)), (403, None));
    finish(&cluster.api(0), &token, app.code(2))
        .await
        .refused(460, "bad_credentials");
}

async fn elsewhere(cluster: &Cluster) {
    let (_, ben) = user(cluster, 1, "ben").await;
    let app = enable(&ben).await;
    let token = half(&cluster.api(0), "ben").await;
    let api = cluster.api(0).with_token(&token);
    api.get("/db/User/me")
        .send()
        .await
        .refused(460, "bad_credentials");
    api.get("/db/Demo/none")
        .send()
        .await
        .refused(460, "bad_credentials");
    let session = ben.token().expect("a token");
    for other in [session, "", "00", &format!("{token}00")] {
        finish(&cluster.api(1), other, app.code(1))
            .await
            .refused(460, "bad_credentials");
    }
    // Switched off by whoever is in.
    ben.delete("/db/User/mfa").send().await.expect(204);
    assert_eq!(status(&ben).await, "DISABLED");
    log_in(&cluster.api(2), "ben").await.expect(200);
    finish(&cluster.api(1), &token, app.code(1))
        .await
        .refused(400, "bad_request");
}

async fn guessing(cluster: &Cluster) {
    let (_, cleo) = user(cluster, 2, "cleo").await;
    let app = enable(&cleo).await;
    let token = half(&cluster.api(0), "cleo").await;
    for guess in 0..5 {
        let api = cluster.api(guess % 3);
        finish(&api, &token, app.wrong())
            .await
            .refused(460, "bad_credentials");
    }
    for node in cluster.all() {
        let answer = finish(&cluster.api(node), &token, app.code(1)).await;
        let answer = answer.refused(429, "too_many_requests");
        let after: u64 = answer
            .header("retry-after")
            .expect("a time")
            .parse()
            .expect("seconds");
        assert!((60..=900).contains(&after), "{after}");
    }
    // Whoever is in already stays in.
    cleo.get("/db/User/me").send().await.expect(200);
}

async fn bad_input(cluster: &Cluster) {
    let api = cluster.api(0);
    for (body, status) in [
        (json!({}), 471),
        (json!([]), 471),
        (json!({ "authToken": "00", "code": null }), 471),
        (json!({ "authToken": "00", "code": 1_000_000 }), 400),
        (json!({ "authToken": "00", "code": "12 456" }), 400),
        (json!({ "authToken": "00", "code": 1 }), 460),
    ] {
        let answer = api.post("/db/User/mfa/token").json(&body).send().await;
        assert_eq!(answer.status, status, "{body}");
    }
    for path in ["/db/User/mfa/status", "/db/User/mfa/init"] {
        api.get(path).send().await.refused(460, "bad_credentials");
    }
    api.delete("/db/User/mfa")
        .send()
        .await
        .refused(460, "bad_credentials");
    api.get("/db/User/mfa")
        .send()
        .await
        .refused(405, "method_not_allowed");
    api.get("/db/User/mfa/other")
        .send()
        .await
        .refused(404, "no_route");
}

async fn api_tokens(cluster: &Cluster) {
    let (id, dora) = user(cluster, 0, "dora").await;
    let root = cluster.root(1).await;
    let path = format!("{id}/token");
    dora.post(&path)
        .send()
        .await
        .refused(466, "permission_denied");
    cluster
        .api(0)
        .post(&path)
        .send()
        .await
        .refused(466, "permission_denied");
    root.post("/db/User/nobody/token")
        .send()
        .await
        .refused(404, "object_not_found");
    let answer = root.post(&path).send().await.expect(200);
    assert_eq!(
        answer.header(TOKEN),
        None,
        "the header would log root in as dora"
    );
    let token = answer.json()["token"].as_str().expect("a token").to_owned();
    assert_eq!(&token[8..16], "ffffffff");
    let second = root.post(&path).send().await.expect(200).json()["token"].clone();
    for node in cluster.all() {
        for token in [token.as_str(), second.as_str().expect("a token")] {
            let me = cluster
                .api(node)
                .with_token(token)
                .get("/db/User/me")
                .send()
                .await
                .expect(200);
            assert_eq!(me.json()["id"], id.as_str());
            assert_eq!(
                me.header(TOKEN).as_deref(),
                Some(token),
                "there is nothing to renew"
            );
        }
    }
    // Keys that sign sessions change; these tokens have a key of their own.
    for at in [0, 20, token.len() - 1] {
        let mut forged = token.clone().into_bytes();
        forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
        let forged = String::from_utf8(forged).expect("ascii");
        let answer = cluster
            .api(0)
            .with_token(&forged)
            .get("/db/User/me")
            .send()
            .await;
        assert!(
            matches!(answer.status, 460),
            "letter {at}: {}",
            answer.status
        );
    }
    dora.delete("/db/User/1/token")
        .send()
        .await
        .refused(466, "permission_denied");
    root.delete(&path).send().await.expect(204);
    for node in cluster.all() {
        for token in [token.as_str(), dora.token().expect("a token")] {
            let api = cluster.api(node).with_token(token);
            eventually("it is revoked here", DEADLINE, || async {
                let status = api.get("/db/Demo/none").send().await.status;
                (status == 460).then_some(())
            })
            .await;
        }
    }
    log_in(&cluster.api(0), "dora").await.expect(200);
    let token = root.post(&path).send().await.expect(200).json()["token"].clone();
    let api = cluster.api(2).with_token(token.as_str().expect("a token"));
    api.get("/db/User/me").send().await.expect(200);
    // Deactivated users have no good token of any kind.
    let user = root.get(&id).send().await.expect(200).json();
    let mut user = user.as_object().expect("an object").clone();
    user.insert("inactive".to_owned(), json!(true));
    root.put(&id)
        .json(&Value::Object(user))
        .send()
        .await
        .expect(200);
    eventually("it is deactivated here", DEADLINE, || async {
        let status = api.get("/db/Demo/none").send().await.status;
        (status == 460).then_some(())
    })
    .await;
}
