//! Promise: users log in with a provider by any node and are the same user everywhere; nothing a provider did not say for us, now and
//! once, is believed; and the JWTs of a trusted issuer count on HTTP and gRPC, through the rotation of its keys.

use std::time::Duration;

use reqwest::redirect::Policy;
use serde_json::{Value, json};
use tests::grpc::{self, request};
use tests::provider::{CLIENT, Lie, Provider, SECRET};
use tests::tls::Trust;
use tests::{Answer, Checks, Cluster, Options, eventually};

const TOKEN: &str = "baqend-authorization-token";
const APP: &str = "https://app.example";
const DEADLINE: Duration = Duration::from_secs(30);

/// What an identity token must not get through with.
const LIES: [Lie; 10] = [
    Lie::Audience,
    Lie::Shared,
    Lie::Issuer,
    Lie::Expired,
    Lie::Endless,
    Lie::Unsigned,
    Lie::PublicKeyAsSecret,
    Lie::OtherKey,
    Lie::UnknownKey,
    Lie::Changed,
];

#[tokio::test]
async fn oauth() {
    let provider = Provider::start().await;
    let issuer = provider.issuer();
    let oidc = format!(
        r#"{{issuer="{issuer}",client_id="{CLIENT}",client_secret="env:PROVIDER_SECRET",redirect_origins=["{APP}"]}}"#
    );
    let own = format!(
        r#"{{issuer="{issuer}",client_id="{CLIENT}",client_secret="env:PROVIDER_SECRET",own_flow_only=true}}"#
    );
    let plain = format!(
        r#"{{authorize_url="{issuer}/authorize",token_url="{issuer}/token",userinfo_url="{issuer}/userinfo",client_id="{CLIENT}",client_secret="env:PROVIDER_SECRET",subject_claim="id",username_claim="login"}}"#
    );
    let trusted = format!(
        r#"[{{issuer="{issuer}",jwks="{issuer}/keys",audience=["{CLIENT}"],roles_claim="groups",roles={{staff="77"}}}}]"#
    );
    let env = [
        ("PROVIDER_SECRET", SECRET.to_owned()),
        ("LARDER_OAUTH__OIDC", oidc),
        ("LARDER_OAUTH__OWN", own),
        ("LARDER_OAUTH__PLAIN", plain),
        ("LARDER_SECURITY__TRUSTED_ISSUERS", trusted),
    ];
    let cluster = Cluster::start(Options {
        env: env.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        // By hand: `larder dev` sets what concerns security by itself.
        root_password: Some("Larder-0range-Kettle-93".to_owned()),
        ..Options::default()
    })
    .await;
    let root = cluster.root(0).await;
    let demo = json!([{ "class": "/db/Demo", "fields": {} }]);
    root.post("/schema").json(&demo).send().await.expect(200);
    let browser = Browser::new(&cluster, &provider);
    let mut checks = Checks::new();
    checks
        .check("a flow that begins here", begun_here(&browser))
        .await;
    checks
        .check("a flow of the SDK", of_the_sdk(&browser))
        .await;
    checks
        .check("one user, however many first log-ins", one_user(&browser))
        .await;
    checks
        .check("a name that is taken", taken_name(&browser))
        .await;
    checks.check("redirects", redirects(&browser)).await;
    checks
        .check("flows of other browsers", other_browsers(&browser))
        .await;
    checks
        .check("lies of identity tokens", lies(&browser))
        .await;
    checks.check("device codes", devices(&browser)).await;
    checks.check("plain OAuth 2.0", plain_oauth(&browser)).await;
    checks
        .check("JWTs of a trusted issuer", jwts(&browser))
        .await;
    checks
        .check("rotation of its keys", rotation(&browser))
        .await;
    checks.finish();
}

/// A browser that follows no redirect by itself.
struct Browser<'a> {
    cluster: &'a Cluster,
    provider: &'a Provider,
    http: reqwest::Client,
}

/// What came back.
struct Seen {
    status: u16,
    location: Option<String>,
    cookie: Option<String>,
    headers: reqwest::header::HeaderMap,
    text: String,
}

impl Seen {
    /// What the page leaves for the app in the other window.
    fn answer(&self) -> Value {
        let data = self
            .text
            .split_once("id=\"answer\">")
            .and_then(|(_, rest)| rest.split_once("</script>"));
        serde_json::from_str(data.expect("a page with an answer").0).expect("JSON")
    }

    fn parameter(&self, name: &str) -> Option<String> {
        parameter(self.location.as_deref()?, name)
    }
}

fn parameter(url: &str, name: &str) -> Option<String> {
    let (_, query) = url.split_once('?')?;
    let found = form_urlencoded::parse(query.as_bytes()).find(|(one, _)| one == name);
    found.map(|(_, value)| value.into_owned())
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

impl Browser<'_> {
    fn new<'a>(cluster: &'a Cluster, provider: &'a Provider) -> Browser<'a> {
        let http = Trust::default().http().redirect(Policy::none()).build();
        Browser {
            cluster,
            provider,
            http: http.expect("a client"),
        }
    }

    /// The address of a provider at a node.
    fn at(&self, node: usize, provider: &str) -> String {
        format!(
            "{}/v1/db/User/OAuth/{provider}",
            self.cluster.nodes[node].client
        )
    }

    async fn get(&self, url: &str, cookie: Option<&str>) -> Seen {
        let mut request = self.http.get(url);
        if let Some(cookie) = cookie {
            request = request.header("cookie", cookie);
        }
        let response = request.send().await.expect("an answer");
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            Some(value.to_str().expect("ascii").to_owned())
        };
        Seen {
            status: response.status().as_u16(),
            location: header("location"),
            cookie: header("set-cookie")
                .map(|set| set.split(';').next().unwrap_or_default().to_owned()),
            headers: response.headers().clone(),
            text: response.text().await.expect("text"),
        }
    }

    /// Begins a flow at a node, and goes to the provider: the address that it sends the browser back to, and the cookie.
    async fn flow(&self, node: usize, provider: &str, query: &str) -> (String, String) {
        let begun = self
            .get(&format!("{}{query}", self.at(node, provider)), None)
            .await;
        assert_eq!(begun.status, 302, "{}", begun.text);
        let back = self.get(&begun.location.expect("the provider"), None).await;
        assert_eq!(back.status, 302, "{}", back.text);
        (
            back.location.expect("back here"),
            begun.cookie.expect("a cookie"),
        )
    }

    /// A flow as the SDK begins it.
    async fn sdk_flow(&self, node: usize, provider: &str, state: &str) -> Seen {
        let here = self.at(node, provider);
        let code = self.provider.code(&here);
        self.get(
            &format!("{here}?state={}&code={code}", encoded(state)),
            None,
        )
        .await
    }

    async fn me(&self, node: usize, token: &str) -> Answer {
        self.cluster
            .api(node)
            .with_token(token)
            .get("/db/User/me")
            .send()
            .await
    }
}

/// The user of an answer in a page.
fn user_of(answer: &Value) -> Value {
    assert_eq!(answer["status"], 200, "{answer}");
    serde_json::from_str(answer["entity"].as_str().expect("a text")).expect("JSON")
}

async fn begun_here(browser: &Browser<'_>) {
    let query = format!(
        "?redirect={}&loginOption=true",
        encoded("https://app.example/in?x=1")
    );
    let (back, cookie) = browser.flow(0, "oidc", &query).await;
    let seen = browser.get(&back, Some(&cookie)).await;
    assert_eq!(seen.status, 302, "{}", seen.text);
    let location = seen.location.clone().expect("the app");
    assert!(
        location.starts_with("https://app.example/in?x=1&token="),
        "{location}"
    );
    assert_eq!(seen.parameter("loginOption").as_deref(), Some("true"));
    let token = seen.parameter("token").expect("a token");
    for node in browser.cluster.all() {
        let me = browser.me(node, &token).await.expect(200).json();
        assert_eq!(me["username"], "ann@example.org");
        assert!(
            me.as_object()
                .is_some_and(|user| user.keys().all(|name| !name.starts_with('_')))
        );
    }
    // The same once more: the code is used up, and says so to the app.
    let again = browser.get(&back, Some(&cookie)).await;
    assert_eq!(again.parameter("token"), None);
    assert!(
        again
            .parameter("errorMessage")
            .is_some_and(|why| why.contains("used before"))
    );
}

async fn of_the_sdk(browser: &Browser<'_>) {
    let seen = browser.sdk_flow(1, "oidc", "{}").await;
    assert_eq!(seen.status, 200);
    let header = |name: &str| seen.headers[name].to_str().expect("ascii").to_owned();
    assert!(header("content-security-policy").starts_with("default-src 'none'"));
    assert_eq!(header("cache-control"), "no-store");
    let answer = seen.answer();
    let user = user_of(&answer);
    let token = answer["headers"][TOKEN].as_str().expect("a token");
    let me = browser.me(2, token).await.expect(200).json();
    assert_eq!(me["id"], user["id"]);
    let here = browser.at(0, "nobody");
    browser.get(&here, None).await;
    assert_eq!(browser.get(&here, None).await.status, 404);
}

async fn one_user(browser: &Browser<'_>) {
    browser.provider.set_user("2002", "bob@example.org");
    let all = browser
        .cluster
        .all()
        .map(|node| browser.sdk_flow(node, "oidc", "{}"));
    let ids: Vec<Value> = futures::future::join_all(all)
        .await
        .iter()
        .map(|seen| user_of(&seen.answer())["id"].clone())
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    // Another name at the provider is the same user still.
    browser.provider.set_user("2002", "robert@example.org");
    let later = user_of(&browser.sdk_flow(0, "oidc", "{}").await.answer());
    assert_eq!(
        (&later["id"], &later["username"]),
        (&ids[0], &json!("bob@example.org"))
    );
}

async fn taken_name(browser: &Browser<'_>) {
    let eve =
        json!({ "user": { "username": "cleo@example.org" }, "password": "pw", "login": true });
    let eve = browser
        .cluster
        .api(0)
        .post("/db/User/register")
        .json(&eve)
        .send()
        .await;
    let eve = eve.expect(200).json();
    browser.provider.set_user("3003", "cleo@example.org");
    let cleo = user_of(&browser.sdk_flow(1, "oidc", "{}").await.answer());
    assert_ne!(cleo["id"], eve["id"], "a name is no proof");
    let key = cleo["id"]
        .as_str()
        .expect("an id")
        .trim_start_matches("/db/User/");
    assert_eq!(cleo["username"], key);
    // Whoever sits where the account would be is not taken for it.
    browser.provider.set_user("1001", "ann@example.org");
    let root = browser.cluster.root(0).await;
    let ann = user_of(&browser.sdk_flow(2, "oidc", "{}").await.answer());
    let id = ann["id"].as_str().expect("an id");
    root.delete(id).send().await.expect(204);
    root.put(id)
        .json(&json!({ "username": "squatter" }))
        .send()
        .await
        .expect(200);
    let refused = browser.sdk_flow(0, "oidc", "{}").await.answer();
    assert_eq!(refused["status"], 409, "{refused}");
    root.delete(id).send().await.expect(204);
}

async fn redirects(browser: &Browser<'_>) {
    let before = browser.provider.redeemed();
    for bad in [
        "https://evil.example/",
        "https://app.example@evil.example/",
        "javascript:alert(1)",
        "//app.example",
    ] {
        let state = json!({ "redirect": bad, "loginOption": true }).to_string();
        let seen = browser.sdk_flow(0, "oidc", &state).await;
        assert_eq!((seen.status, seen.location.clone()), (200, None), "{bad}");
        assert_eq!(seen.answer()["status"], 400, "{bad}");
        let begun = format!("{}?redirect={}", browser.at(1, "oidc"), encoded(bad));
        assert_eq!(browser.get(&begun, None).await.status, 400, "{bad}");
    }
    assert_eq!(
        browser.provider.redeemed(),
        before,
        "no code was redeemed for them"
    );
    let state = json!({ "redirect": "https://app.example/", "loginOption": false }).to_string();
    let seen = browser.sdk_flow(2, "oidc", &state).await;
    assert!(
        seen.parameter("token").is_some()
            && seen.parameter("loginOption").as_deref() == Some("false")
    );
    // The provider's refusal goes to the app; what it says cannot become more than text.
    let refused = format!(
        "{}?state={}&error=access_denied&error_description=%3Cscript%3E",
        browser.at(0, "oidc"),
        encoded(&state)
    );
    let seen = browser.get(&refused, None).await;
    assert!(
        seen.parameter("errorMessage")
            .is_some_and(|why| why.contains("<script>"))
    );
    let refused = format!(
        "{}?state=%7B%7D&error=%3C%2Fscript%3E%3Cscript%3Ealert(1)",
        browser.at(0, "oidc")
    );
    let seen = browser.get(&refused, None).await;
    assert_eq!(
        (
            seen.answer()["status"].clone(),
            seen.text.matches("<script").count()
        ),
        (json!(460), 2)
    );
}

async fn other_browsers(browser: &Browser<'_>) {
    let (back, cookie) = browser.flow(0, "oidc", "").await;
    let before = browser.provider.redeemed();
    let (_, others) = browser.flow(1, "oidc", "").await;
    for wrong in [None, Some("larder-oauth=00"), Some(others.as_str())] {
        let seen = browser.get(&back, wrong).await;
        assert_eq!(seen.answer()["status"], 460, "{wrong:?}");
    }
    assert_eq!(browser.provider.redeemed(), before);
    // A state of one provider is none of another.
    let moved = back.replace("/OAuth/oidc", "/OAuth/own");
    assert_eq!(
        browser.get(&moved, Some(&cookie)).await.answer()["status"],
        460
    );
    let seen = browser.get(&back, Some(&cookie)).await;
    user_of(&seen.answer());
    // A code of another flow with this state: the verifier does not fit.
    let (first, cookie) = browser.flow(0, "oidc", "").await;
    let (second, _) = browser.flow(0, "oidc", "").await;
    let code = |url: &str| parameter(url, "code").expect("a code");
    let mixed = first.replace(&code(&first), &code(&second));
    assert_eq!(
        browser.get(&mixed, Some(&cookie)).await.answer()["status"],
        460
    );
    // Where only flows of our own count, one that a client began does not.
    let seen = browser.sdk_flow(2, "own", "{}").await;
    assert_eq!(seen.answer()["status"], 460);
    let (back, cookie) = browser.flow(2, "own", "").await;
    user_of(&browser.get(&back, Some(&cookie)).await.answer());
}

async fn lies(browser: &Browser<'_>) {
    for lie in LIES {
        browser.provider.lie(lie);
        let answer = browser.sdk_flow(0, "oidc", "{}").await.answer();
        assert_eq!(answer["status"], 460, "{lie:?}: {answer}");
        assert_eq!(answer["headers"].get(TOKEN), None, "{lie:?}");
    }
    browser.provider.lie(Lie::Nonce);
    let (back, cookie) = browser.flow(0, "oidc", "").await;
    let answer = browser.get(&back, Some(&cookie)).await.answer();
    assert_eq!(answer["status"], 460, "{answer}");
    browser.provider.lie(Lie::None);
    user_of(&browser.sdk_flow(0, "oidc", "{}").await.answer());
}

async fn devices(browser: &Browser<'_>) {
    let poll = async |node: usize, code: &str| -> Answer {
        let path = format!("/db/User/OAuth/oidc?state={code}");
        browser.cluster.api(node).get(&path).send().await
    };
    let code = browser.provider.device();
    poll(0, &code).await.refused(400, "bad_request");
    browser.provider.confirm(&code);
    let answer = poll(1, &code).await.expect(200);
    let token = answer.header(TOKEN).expect("a token");
    browser.me(2, &token).await.expect(200);
    let code = browser.provider.device();
    browser.provider.refuse(&code);
    poll(0, &code).await.refused(404, "object_not_found");
}

async fn plain_oauth(browser: &Browser<'_>) {
    let user = user_of(&browser.sdk_flow(0, "plain", "{}").await.answer());
    assert_eq!(user["username"], "plain-ann");
    let again = user_of(&browser.sdk_flow(1, "plain", "{}").await.answer());
    assert_eq!(again["id"], user["id"]);
}

/// What a caller with this JWT gets of a document, over HTTP and over gRPC.
async fn read(browser: &Browser<'_>, node: usize, key: &str, jwt: &str) -> (u16, tonic::Code) {
    let get = browser.cluster.api(node).get(&format!("/db/Demo/{key}"));
    let http = get
        .header("authorization", &format!("Bearer {jwt}"))
        .send()
        .await
        .status;
    let mut asked = request(grpc::get("Demo", key), None, None);
    let value = format!("Bearer {jwt}").parse().expect("a header");
    asked.metadata_mut().insert("authorization", value);
    let grpc = grpc::documents(&browser.cluster.nodes[node].client)
        .get(asked)
        .await;
    (
        http,
        grpc.map_or_else(|status| status.code(), |_| tonic::Code::Ok),
    )
}

async fn jwts(browser: &Browser<'_>) {
    let root = browser.cluster.root(0).await;
    let private =
        |who: &str| json!({ "acl": { "read": { who: "allow" }, "write": { who: "allow" } } });
    for (key, who) in [
        ("his", "/db/User/ext-1"),
        ("staffs", "/db/Role/77"),
        ("admins", "/db/Role/1"),
    ] {
        root.put(&format!("/db/Demo/{key}"))
            .json(&private(who))
            .send()
            .await
            .expect(200);
    }
    let provider = browser.provider;
    let ext = provider.jwt(json!({ "sub": "ext-1" }));
    let staff = provider.jwt(json!({ "sub": "ext-2", "groups": ["staff", "admin", "1"] }));
    for node in browser.cluster.all() {
        assert_eq!(
            read(browser, node, "his", &ext).await,
            (200, tonic::Code::Ok)
        );
        assert_eq!(
            read(browser, node, "staffs", &ext).await,
            (404, tonic::Code::NotFound)
        );
        assert_eq!(
            read(browser, node, "staffs", &staff).await,
            (200, tonic::Code::Ok)
        );
        assert_eq!(
            read(browser, node, "admins", &staff).await,
            (404, tonic::Code::NotFound)
        );
    }
    let refused = (460, tonic::Code::Unauthenticated);
    for lie in LIES.into_iter().filter(|lie| *lie != Lie::Shared) {
        provider.lie(lie);
        let jwt = provider.jwt(json!({ "sub": "ext-1" }));
        assert_eq!(read(browser, 1, "his", &jwt).await, refused, "{lie:?}");
    }
    provider.lie(Lie::None);
    let bad = [
        provider.jwt(json!({ "sub": "1" })),
        provider.jwt(json!({ "sub": "" })),
        provider.jwt(json!({ "sub": 7 })),
        provider.jwt(json!({ "nobody": "ext-1" })),
        "a.b.c".to_owned(),
        "x".repeat(20_000),
    ];
    for jwt in &bad {
        assert_eq!(read(browser, 0, "his", jwt).await, refused, "{jwt:.40}");
    }
    // A user of that key who is banned is banned with any token.
    root.put("/db/User/ext-3")
        .json(&json!({ "username": "ext-3", "inactive": true }))
        .send()
        .await
        .expect(200);
    let banned = provider.jwt(json!({ "sub": "ext-3" }));
    assert_eq!(read(browser, 2, "his", &banned).await, refused);
}

async fn rotation(browser: &Browser<'_>) {
    let provider = browser.provider;
    let old = provider.jwt(json!({ "sub": "ext-1", "jti": "before" }));
    provider.rotate("k2");
    let new = provider.jwt(json!({ "sub": "ext-1", "jti": "after" }));
    // The keys may have been fetched a moment ago, for the made-up ids of before.
    eventually("the new key counts", DEADLINE, || async {
        (read(browser, 0, "his", &new).await.0 == 200).then_some(())
    })
    .await;
    // The old one is gone with it.
    assert_eq!(read(browser, 0, "his", &old).await.0, 460);
    let before = provider.key_fetches();
    for number in 0..20 {
        provider.lie(Lie::UnknownKey);
        let jwt = provider.jwt(json!({ "sub": "ext-1", "jti": number }));
        assert_eq!(read(browser, 0, "his", &jwt).await.0, 460);
    }
    provider.lie(Lie::None);
    let asked = provider.key_fetches() - before;
    assert!(
        asked < 20,
        "made-up key ids made the node ask {asked} times"
    );
}
