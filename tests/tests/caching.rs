//! Promise: documents of a cached bucket are kept by web caches, and whatever is old in them is in every node's filter, through crashes.

use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use document::bloom::{Bloom, Hashes};
use document::id::object_id;
use serde_json::{Value, json};
use tests::binary::run;
use tests::{Api, Checks, Cluster, Options, eventually, npm, process};

/// For busy machines, and for elections.
const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn documents_are_cached_and_their_old_copies_known() {
    let mut cluster = Cluster::start(Options {
        root_password: Some("of the caching test".to_owned()),
        ..Options::default()
    })
    .await;
    let mut checks = Checks::new();
    checks
        .check("nothing without a policy", without(&cluster))
        .await;
    checks.check("the policy", policy(&cluster)).await;
    checks.check("headers", headers(&cluster)).await;
    checks
        .check("what must not be kept", not_kept(&cluster))
        .await;
    checks
        .check("the filter has what was written", written(&cluster))
        .await;
    checks.check("the bound", bound(&cluster)).await;
    checks.check("the published SDK", sdk(&cluster)).await;
    checks.finish();
    crash(&mut cluster).await;
}

async fn put(api: &Api, key: &str, n: u64) {
    let path = object_id("Demo", key);
    api.put(&path).json(&json!({ "n": n })).expect(200).await;
}

async fn filter(api: &Api) -> Bloom {
    let answer = api.get("/bloomfilter").expect(200).await;
    assert_eq!(answer.header("cache-control").as_deref(), Some("no-cache"));
    bloom(&answer.json())
}

fn bloom(json: &Value) -> Bloom {
    let bytes = STANDARD.decode(json["b"].as_str().expect("a text"));
    Bloom {
        bits: json["m"].as_u64().expect("a number"),
        hashes: json["h"].as_u64().expect("a number") as u32,
        bytes: bytes.expect("base64"),
    }
}

fn holds(filter: &Bloom, key: &str) -> bool {
    filter.contains(Hashes::of(&object_id("Demo", key)))
}

async fn without(cluster: &Cluster) {
    let api = cluster.api(0);
    put(&api, "before", 1).await;
    let got = api.get("/db/Demo/before").expect(200).await;
    assert_eq!(got.header("cache-control").as_deref(), Some("no-cache"));
    assert_eq!(filter(&api).await, Bloom::saturated());
    let connect = api.get("/connect").expect(200).await.json();
    assert!(connect.get("bloomFilter").is_none());
}

async fn policy(cluster: &Cluster) {
    let admin = &cluster.nodes[1].admin;
    let arguments = [
        "bucket", "cache", "Demo", "--scope", "public", "--max", "300",
    ];
    let set = run([&arguments[..], &["--admin", admin, "-o", "json"]].concat()).await;
    assert_eq!(set.status, 0, "{set:?}");
    let shown = cluster
        .admin(2)
        .get("/admin/v1/caching")
        .expect(200)
        .await
        .json();
    assert_eq!(shown[0]["bucket"], "Demo");
    assert_eq!(
        (&shown[0]["scope"], &shown[0]["ttlMaxSeconds"]),
        (&json!("public"), &json!(300))
    );
    assert_eq!(
        shown[0]["edgeMaxSeconds"], 1,
        "what is not said is as by default"
    );
    let refused = cluster.admin(0).put("/admin/v1/caching/v1/Demo");
    let body = json!({ "scope": "public", "ttlMaxSeconds": 90_000 });
    refused.json(&body).refused(400, "bad_request").await;
}

async fn headers(cluster: &Cluster) {
    for node in cluster.all() {
        let api = cluster.api(node);
        let path = "/db/Demo/before";
        let got = api.get(path).expect(200).await;
        let control = got.header("cache-control").unwrap_or_default();
        let max_age = control
            .strip_prefix("public, max-age=")
            .and_then(|rest| rest.split_once(", s-maxage=1, must-revalidate"))
            .and_then(|(seconds, _)| seconds.parse::<u64>().ok());
        assert!(
            max_age.is_some_and(|seconds| (200..=300).contains(&seconds)),
            "{control}"
        );
        assert_eq!(
            got.header("cdn-cache-control").as_deref(),
            Some("max-age=1")
        );
        assert_eq!(
            got.header("surrogate-key").as_deref(),
            Some("v1/db/Demo v1/db/Demo/before")
        );
        let status = got.header("cache-status").unwrap_or_default();
        assert!(status.starts_with("larder; fwd=miss; ttl="), "{status}");
        let tag = got.header("etag").expect("a tag");
        let known = api
            .get(path)
            .header("if-none-match", &tag)
            .expect(304)
            .await;
        let control = known.header("cache-control").unwrap_or_default();
        assert!(control.starts_with("public, max-age="), "{control}");
        // The released client sends these with a revalidation, and means nothing by them.
        let noise = api
            .get(path)
            .header("cache-control", "max-age=0, no-cache")
            .header("if-match", "\"\"")
            .header("if-none-match", "\"-\"");
        let fresh = noise.expect(200).await;
        assert_eq!(
            fresh.header("larder-as-of").as_deref(),
            Some("linearizable;age-ms=0")
        );
        // What may lag behind is kept by nobody, and proves nothing.
        let lagging = api
            .get(path)
            .header("larder-consistency", "local")
            .header("if-none-match", &tag);
        let lagging = lagging.expect(200).await;
        assert_eq!(lagging.header("cache-control").as_deref(), Some("no-store"));
    }
}

async fn not_kept(cluster: &Cluster) {
    let root = cluster.root(0).await;
    let own = json!({ "acl": { "read": { "/db/User/1": "allow" }, "write": {} } });
    root.put("/db/Demo/own").json(&own).expect(200).await;
    let got = root.get("/db/Demo/own").expect(200).await;
    assert_eq!(
        got.header("cache-control").as_deref(),
        Some("private, no-cache")
    );
    assert_eq!(got.header("surrogate-key"), None);
    let api = cluster.api(0);
    let missing = api.get("/db/Demo/missing").expect(404).await;
    assert_eq!(missing.header("cache-control").as_deref(), Some("no-cache"));
    let query = api.get("/db/Demo/query").expect(200).await;
    assert_eq!(query.header("cache-control").as_deref(), Some("no-cache"));
}

async fn written(cluster: &Cluster) {
    let writer = cluster.api(0);
    put(&writer, "a/b", 1).await;
    assert!(
        !holds(&filter(&writer).await, "a/b"),
        "there was nothing to be old"
    );
    put(&writer, "a/b", 2).await;
    // At once where it was acknowledged, and soon everywhere.
    assert!(holds(&filter(&writer).await, "a/b"));
    for node in cluster.all() {
        let api = cluster.api(node);
        eventually("the filter has the key", SOON, || async {
            let filter = filter(&api).await;
            (holds(&filter, "a/b") && !holds(&filter, "other")).then_some(())
        })
        .await;
    }
}

async fn bound(cluster: &Cluster) {
    let connect = cluster.api(1).get("/connect").expect(200).await;
    assert_eq!(connect.header("cache-control").as_deref(), Some("no-cache"));
    let connect = connect.json();
    assert!(holds(&bloom(&connect["bloomFilter"]), "a/b"));
    let of = |term: &str| connect["staleness"][term].as_u64().expect("seconds");
    let terms = ["refresh", "transit", "filter", "answer", "flight"];
    let sum: u64 = terms.iter().map(|term| of(&format!("{term}Seconds"))).sum();
    assert_eq!(of("totalSeconds"), sum);
    assert_eq!(connect["bloomFilterRefresh"], of("refreshSeconds"));
}

/// The SDK decodes the filter, and a cache that asks it revalidates what others wrote.
async fn sdk(cluster: &Cluster) {
    let urls = cluster
        .nodes
        .iter()
        .map(|node| format!("{}/v1", node.client));
    let mut node = Command::new("node");
    node.args(["--test", "--test-reporter=tap", "caching.test.mjs"])
        .current_dir(npm::folder())
        .env("LARDER_URLS", urls.collect::<Vec<_>>().join(","))
        .stdin(Stdio::null());
    let ended = tokio::task::spawn_blocking(move || process::run_to_end(node, SOON)).await;
    let ended = ended.expect("node runs");
    let shown = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert_eq!(ended.status, 0, "{shown}");
    assert!(shown.contains("# pass 2"), "{shown}");
}

/// After a node that led shards was killed no key is missing, and the filters become exact again.
async fn crash(cluster: &mut Cluster) {
    let api = cluster.api(0);
    let keys: Vec<String> = (0..40).map(|key| format!("crash-{key}")).collect();
    for n in 0..2 {
        for key in &keys {
            put(&api, key, n).await;
        }
    }
    cluster.kill(2).await;
    let is_whole = |filter: &Bloom| keys.iter().all(|key| holds(filter, key));
    // The node that acknowledged the writes never does without one of them.
    eventually("an exact filter of the asked node", SOON, || async {
        let filter = filter(&api).await;
        assert!(is_whole(&filter), "a key is missing");
        (filter != Bloom::saturated()).then_some(())
    })
    .await;
    let other = cluster.api(1);
    eventually("the same at the other one", SOON, || async {
        let filter = filter(&other).await;
        (is_whole(&filter) && filter != Bloom::saturated()).then_some(())
    })
    .await;
}
