//! Promise: past a limit a request is refused at once with effect none and `Retry-After`, and what was acknowledged meanwhile is there.

use std::time::Duration;

use serde_json::json;
use tests::load::{Outcome, outcome};
use tests::{Api, Checks, Cluster, Options, eventually, grpc};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const DEADLINE: Duration = Duration::from_secs(10);
/// As many bytes as the node holds of bodies at once.
const BODY_BYTES: usize = 1024 * 1024;

fn limited() -> Options {
    let env = [
        ("LARDER_LIMITS__REQUESTS_IN_FLIGHT_MAX", "4".to_owned()),
        (
            "LARDER_LIMITS__REQUEST_BYTES_IN_FLIGHT_MAX",
            BODY_BYTES.to_string(),
        ),
        ("LARDER_LIMITS__SCANS_OPEN_MAX", "1".to_owned()),
    ];
    Options {
        nodes: 1,
        replicas: 1,
        env: env
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        ..Options::default()
    }
}

#[tokio::test]
async fn limits_refuse_and_lose_nothing() {
    let cluster = Cluster::start(limited()).await;
    let api = cluster.api(0);
    let mut checks = Checks::new();
    checks
        .check("too many requests", too_many_requests(&api))
        .await;
    checks.check("too many bytes", too_many_bytes(&api)).await;
    checks
        .check("too many scans", too_many_scans(&cluster, &api))
        .await;
    checks.finish();
}

/// Four at a time; two hundred clients.
async fn too_many_requests(api: &Api) {
    let mut clients = JoinSet::new();
    for client in 0..200 {
        let api = api.clone();
        clients.spawn(async move {
            let path = format!("/db/Demo/many-{client}");
            let answer = api
                .put(&path)
                .json(&json!({ "n": client }))
                .try_send()
                .await;
            if let Ok(answer) = &answer
                && answer.status != 200
            {
                let refused = answer.clone().refused(503, "unavailable");
                assert!(refused.header("retry-after").is_some());
            }
            (path, outcome(answer))
        });
    }
    let outcomes = clients.join_all().await;
    let refused = |(_, outcome): &&(String, Outcome)| *outcome == Outcome::Refused;
    assert!(outcomes.iter().any(|one| refused(&one)), "no overload");
    assert!(!outcomes.iter().all(|one| refused(&one)), "nothing served");
    for (path, outcome) in outcomes {
        assert_ne!(outcome, Outcome::Unknown, "{path}");
        let found = api.get(&path).send().await.status == 200;
        assert_eq!(found, outcome != Outcome::Refused, "{path}");
    }
}

/// One client announces a large body and takes its time; there is no room for a second one until it is gone.
async fn too_many_bytes(api: &Api) {
    let address = api.base().trim_start_matches("http://").to_owned();
    let address = address.split('/').next().expect("an address");
    let head = format!(
        "PUT /v1/db/Demo/slow HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {BODY_BYTES}\r\n\r\n{{"
    );
    let body = json!({ "text": "x".repeat(1000) });
    let put = || api.put("/db/Demo/room").json(&body).send();
    // Sent again at each look: it is refused itself where a put still takes room.
    let (slow, refused) = eventually("there is no room", DEADLINE, || async {
        let mut slow = TcpStream::connect(address).await.expect("a connection");
        slow.write_all(head.as_bytes()).await.expect("sent");
        let answer = put().await;
        (answer.status != 200).then_some((slow, answer))
    })
    .await;
    let refused = refused.refused(503, "unavailable");
    assert!(refused.header("retry-after").is_some());
    // What has no body needs no room.
    api.get("/db/Demo/room").send().await;
    drop(slow);
    eventually("the room is free again", DEADLINE, || async {
        (put().await.status == 200).then_some(())
    })
    .await;
    api.get("/db/Demo/slow").send().await.expect(404);
}

/// A scan that its client does not read stays open, and is the only one. The bucket is larger than what connections buffer.
async fn too_many_scans(cluster: &Cluster, api: &Api) {
    let text = "x".repeat(200_000);
    for n in 0..40 {
        let path = format!("/db/Demo/wide-{n}");
        let body = json!({ "text": text });
        api.put(&path).json(&body).send().await.expect(200);
    }
    let origin = &cluster.nodes[0].client;
    let request = || {
        let message = proto::v1::ScanRequest {
            bucket: "Demo".to_owned(),
            ..Default::default()
        };
        grpc::request(message, None, None)
    };
    let mut first = grpc::documents(origin);
    let held = first.scan(request()).await.expect("the first scan");
    let second = grpc::documents(origin).scan(request()).await;
    grpc::refused(second.map(|_| ()), tonic::Code::Unavailable, "unavailable");
    api.get("/db/Demo/ids")
        .send()
        .await
        .refused(503, "unavailable");
    drop((held, first));
    eventually("the next scan", DEADLINE, || async {
        (api.get("/db/Demo/ids").send().await.status == 200).then_some(())
    })
    .await;
}
