//! Promise: a change feed that stays open, over a WebSocket or as a gRPC stream, tells what the others tell: nothing is lost over kills,
//! nodes that stand still, stops and replaced replicas; whoever asks for what cannot be is told so, and loses nothing else.

use std::time::Duration;

use nix::sys::signal::Signal;
use proto::ShardId;
use proto::v1;
use serde_json::{Value, json};
use tests::cluster::READY;
use tests::feed::{Consumer, Stream, Via, table};
use tests::load::Load;
use tests::socket::{Said, Socket};
use tests::{Api, Checks, Cluster, Options, binary, eventually, grpc, is_soak};
use tonic::Code;

const DEADLINE: Duration = Duration::from_secs(60);
const BOTH: [Via; 2] = [Via::Socket, Via::Calls];

fn feed_url(cluster: &Cluster, node: usize) -> String {
    format!("{}/v1/changes/ws", cluster.nodes[node].client)
}

async fn socket(cluster: &Cluster, node: usize, wanted: &Value) -> Socket {
    let mut socket = Socket::open(&feed_url(cluster, node), None)
        .await
        .expect("a socket");
    socket.say(&wanted.to_string()).await;
    socket
}

#[tokio::test]
async fn edges() {
    let cluster = Cluster::dev().await;
    let mut checks = Checks::new();
    checks
        .check("a socket goes on by its last token", goes_on(&cluster))
        .await;
    checks
        .check(
            "who asks is told of its own, deletes too",
            own_only(&cluster),
        )
        .await;
    checks
        .check("what cannot be a feed", refusals(&cluster))
        .await;
    checks
        .check("what is no message", bad_messages(&cluster))
        .await;
    checks.check("calls", calls(&cluster)).await;
    checks.finish();
}

async fn goes_on(cluster: &Cluster) {
    let mut first = socket(
        cluster,
        0,
        &json!({ "bucket": "Demo", "filter": { "n": { "$gt": 0 } } }),
    )
    .await;
    first.next("progress").await;
    let write = async |n: i64| {
        let body = json!({ "n": n });
        let answer = cluster.api(1).put("/db/Demo/g").json(&body).send().await;
        assert!(answer.status < 300, "{}", answer.text());
    };
    write(1).await;
    let event = first.next("change").await;
    assert_eq!(
        (&event["op"], &event["id"], &event["document"]["n"]),
        (&json!("insert"), &json!("/db/Demo/g"), &json!(1))
    );
    // A feed is told nothing after its beginning, and goes on all the same.
    first.say("{}").await;
    assert_eq!(first.next("error").await["code"], "bad_request");
    write(2).await;
    assert_eq!(first.next("change").await["version"], 2);
    drop(first);
    write(0).await;
    // The address says what is wanted, too.
    let token = event["token"].as_str().expect("a token");
    let url = format!(
        "{}?bucket=Demo&filter=%7B%22n%22:%7B%22$gt%22:0%7D%7D&from={token}",
        feed_url(cluster, 2)
    );
    let mut second = Socket::open(&url, None).await.expect("a socket");
    let told = [second.next("change").await, second.next("change").await];
    let ops = told.map(|event| (event["op"].clone(), event["version"].clone()));
    assert_eq!(
        ops,
        [(json!("update"), json!(2)), (json!("leave"), json!(3))]
    );
}

async fn own_only(cluster: &Cluster) {
    let root = cluster.root(0).await;
    let mut anyone = socket(cluster, 1, &json!({ "bucket": "Demo" })).await;
    let wanted = json!({ "bucket": "Demo", "token": root.token() });
    let mut admin = socket(cluster, 1, &wanted).await;
    let mut header = Socket::open(
        &format!("{}?bucket=Demo", feed_url(cluster, 2)),
        root.token(),
    )
    .await
    .expect("a socket");
    for socket in [&mut anyone, &mut admin, &mut header] {
        socket.next("progress").await;
    }
    let hidden = json!({ "acl": { "read": { "/db/User/1": "allow" } } });
    root.put("/db/Demo/o-hidden").json(&hidden).send().await;
    root.delete("/db/Demo/o-hidden").send().await;
    root.put("/db/Demo/o-open").json(&json!({})).send().await;
    root.delete("/db/Demo/o-open").send().await;
    let told = async |socket: &mut Socket, count: usize| {
        let mut told = Vec::new();
        while told.len() < count {
            let event = socket.next("change").await;
            told.push(format!("{} {}", event["op"], event["id"]).replace('"', ""));
        }
        told.sort();
        told
    };
    let open = ["delete /db/Demo/o-open", "insert /db/Demo/o-open"];
    let all = [open[0].replace("open", "hidden"), open[0].to_owned()];
    let inserts = [open[1].replace("open", "hidden"), open[1].to_owned()];
    let all: Vec<_> = all.into_iter().chain(inserts).collect();
    assert_eq!(told(&mut admin, 4).await, all);
    assert_eq!(told(&mut header, 4).await, all);
    assert_eq!(told(&mut anyone, 2).await, open);
    // Nothing of the other document came late.
    if let Some(said) = anyone.hear_within(Duration::from_secs(2)).await {
        assert_eq!(said.message()["type"], "progress", "more than its own");
    }
}

async fn refusals(cluster: &Cluster) {
    for (wanted, status, code) in [
        (json!({ "bucket": "None" }), 461, "bucket_not_found"),
        (
            json!({ "bucket": "Demo", "filter": { "$no": 1 } }),
            468,
            "query_not_supported",
        ),
        (json!({ "filter": { "a": 1 } }), 400, "bad_request"),
        (json!({ "from": "nonsense" }), 400, "bad_request"),
        (json!({ "order": "up" }), 400, "bad_request"),
        (json!({ "buckets": "Demo" }), 400, "bad_request"),
        (json!([]), 400, "bad_request"),
        (json!({ "token": "nonsense" }), 460, "bad_credentials"),
    ] {
        let mut socket = socket(cluster, 0, &wanted).await;
        let error = socket.hear().await.message();
        assert_eq!(
            (&error["type"], &error["status"], &error["code"]),
            (&json!("error"), &json!(status), &json!(code)),
            "{wanted}: {error}"
        );
        assert_eq!(socket.hear().await, Said::Closed(1008), "{wanted}");
    }
    // Without a handshake it is an ordinary request.
    let plain = cluster.api(0).get("/changes/ws");
    plain.refused(400, "bad_request").await;
    let none = cluster.nodes[0].client.clone() + "/none/changes/ws";
    let mut socket = Socket::open(&none, None).await.expect("a socket");
    socket.say("{}").await;
    let error = socket.hear().await.message();
    assert_eq!(error["status"], 461, "{error}");
}

async fn bad_messages(cluster: &Cluster) {
    let url = feed_url(cluster, 0);
    let mut bytes = Socket::open(&url, None).await.expect("a socket");
    bytes.say_bytes(&[0xff, 0]).await;
    assert_eq!(bytes.hear().await, Said::Closed(1003));
    let mut long = Socket::open(&url, None).await.expect("a socket");
    long.say(&"x".repeat(600 * 1024)).await;
    assert_eq!(long.hear().await, Said::Closed(1009));
    let mut junk = Socket::open(&url, None).await.expect("a socket");
    junk.say("}{").await;
    assert_eq!(junk.next("error").await["code"], "bad_request");
}

async fn calls(cluster: &Cluster) {
    let root = cluster.root(0).await;
    let mut documents = grpc::documents(&cluster.nodes[1].client);
    let mut open = async |wanted: v1::ChangesRequest, token: Option<&str>| {
        let request = grpc::request(wanted, token, None);
        documents
            .changes(request)
            .await
            .map(tonic::Response::into_inner)
    };
    let demo = v1::ChangesRequest {
        bucket: "Demo".to_owned(),
        ..v1::ChangesRequest::default()
    };
    for (wanted, code) in [
        (
            v1::ChangesRequest {
                bucket: "None".to_owned(),
                ..demo.clone()
            },
            Code::NotFound,
        ),
        (
            v1::ChangesRequest {
                filter: "{".to_owned(),
                ..demo.clone()
            },
            Code::InvalidArgument,
        ),
        (
            v1::ChangesRequest {
                from: "nonsense".to_owned(),
                ..demo.clone()
            },
            Code::InvalidArgument,
        ),
    ] {
        let refused = open(wanted.clone(), None).await.expect_err("refused");
        assert_eq!(refused.code(), code, "{wanted:?}: {refused:?}");
    }
    let anyone = open(demo.clone(), None).await.expect("a stream");
    let admin = open(demo, root.token()).await.expect("a stream");
    let hidden = json!({ "acl": { "read": { "/db/User/1": "allow" } } });
    root.put("/db/Demo/c-hidden").json(&hidden).send().await;
    root.delete("/db/Demo/c-hidden").send().await;
    root.put("/db/Demo/c-open")
        .json(&json!({ "n": 7 }))
        .send()
        .await;
    let told = async |stream, count: usize| {
        let (mut stream, mut told) = (Stream::Calls(Box::new(stream)), Vec::new());
        while told.len() < count {
            let messages = stream.next().await.expect("a message");
            let ids = messages.iter().filter_map(|message| message["id"].as_str());
            told.extend(ids.map(str::to_owned));
        }
        told.sort();
        told
    };
    let (mine, theirs) = ("/db/Demo/c-open", "/db/Demo/c-hidden");
    assert_eq!(told(admin, 3).await, [theirs, theirs, mine]);
    assert_eq!(told(anyone, 1).await, [mine]);
}

/// Every feed is cut after some messages and goes on at another node, over the other protocol, while nodes die or stand still.
#[tokio::test]
async fn nothing_is_lost_over_kills_pauses_and_resumes() {
    let mut cluster = Cluster::dev().await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let load = Load::start(&nodes, "Demo", 6, 4);
    let (faults, cuts, bulk) = if is_soak() {
        (25, 20, 1_000_000)
    } else {
        (3, 4, 2_000)
    };
    let written = tokio::spawn(write_bulk(nodes[0].clone(), bulk));
    let mut consumer = Consumer::default();
    for fault in 0..faults {
        let hurt = fault % nodes.len();
        let stands_still = fault % 2 == 1;
        // A feed that is open there loses its node in the middle.
        let from = consumer.token.clone().unwrap_or("oldest".to_owned());
        let open = Stream::open(BOTH[fault % 2], &cluster.nodes[hurt], &from).await;
        match stands_still {
            true => cluster.pause(hurt),
            false => cluster.kill(hurt).await,
        }
        let mut open = open.expect("a feed");
        while let Some(told) = open.next().await {
            told.iter().for_each(|message| consumer.take(message));
        }
        for cut in 1..=cuts {
            let node = &cluster.nodes[(fault + cut) % nodes.len()];
            let messages = if is_soak() { 2_000 } else { 20 } + cut;
            consumer.follow(BOTH[cut % 2], node, messages).await;
        }
        match stands_still {
            true => cluster.resume(hurt),
            false => cluster.spawn(hurt),
        }
        cluster.node_ready(hurt, READY).await;
        load.progress(20, READY).await;
    }
    written.await.expect("the bulk is written");
    let load = load.stop().await;
    load.verify(&nodes).await;
    let stored = table(&cluster.root(0).await).await;
    consumer
        .reach_via(Via::Calls, &cluster.nodes[1], &stored)
        .await;
    assert_eq!(consumer.resyncs, 0, "the log was long enough");
    // Who reads it all at once, page after page, is told the same.
    for via in BOTH {
        let (mut late, events) = (Consumer::default(), consumer.seen.len());
        late.reach_via(via, &cluster.nodes[0], &stored).await;
        assert_eq!(late.seen.len(), events, "{via:?}");
    }
    assert!(consumer.seen.len() > bulk, "{} events", consumer.seen.len());
    eprintln!(
        "{} events, {} of them again, over {} resumes",
        consumer.seen.len(),
        consumer.repeated,
        faults * cuts
    );
}

/// Writes so many documents that are small, over whatever is refused meanwhile.
async fn write_bulk(api: Api, count: usize) {
    const AT_ONCE: usize = 100;
    for first in (0..count).step_by(AT_ONCE) {
        let writes: Vec<Value> = (first..count.min(first + AT_ONCE))
            .map(|n| json!({ "id": format!("/db/Demo/bulk{n}"), "put": { "n": n } }))
            .collect();
        let body = json!({ "atomic": false, "writes": writes });
        eventually("a part of the bulk is written", DEADLINE, async || {
            let answer = api.post("/batch").json(&body).try_send().await.ok()?;
            let results = answer.json()["results"].as_array().cloned()?;
            results
                .iter()
                .all(|result| result["error"].is_null())
                .then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_stop_is_told_and_the_feed_goes_on_elsewhere() {
    let mut cluster = Cluster::dev().await;
    let mut at_rest = socket(&cluster, 0, &json!({ "bucket": "Demo" })).await;
    at_rest.next("progress").await;
    let mut consumers = [Consumer::default(), Consumer::default()];
    for (consumer, via) in consumers.iter_mut().zip(BOTH) {
        let mut stream = Stream::open(via, &cluster.nodes[0], "now")
            .await
            .expect("a feed");
        stream
            .next()
            .await
            .expect("a message")
            .iter()
            .for_each(|message| consumer.take(message));
    }
    // One that has said nothing yet, too.
    let mut silent = Socket::open(&feed_url(&cluster, 0), None)
        .await
        .expect("a socket");
    cluster.signal(0, Signal::SIGTERM);
    loop {
        match at_rest.hear().await {
            Said::Closed(status) => break assert_eq!(status, 1001),
            said => drop(said.message()),
        }
    }
    assert_eq!(silent.hear().await, Said::Closed(1001));
    cluster.ended(0).await;
    let answer = cluster
        .api(1)
        .put("/db/Demo/s")
        .json(&json!({ "n": 1 }))
        .send()
        .await;
    assert!(answer.status < 300, "{}", answer.text());
    for (consumer, via) in consumers.iter_mut().zip(BOTH) {
        while consumer.seen.is_empty() {
            consumer.follow(via, &cluster.nodes[1], 1).await;
        }
        assert_eq!(consumer.documents["/db/Demo/s"].0, 1, "{via:?}");
    }
}

/// The node that serves the feeds loses its replica while they are open.
#[tokio::test]
async fn feeds_go_on_while_their_replica_is_replaced() {
    const SHARD: ShardId = ShardId(1);
    let cluster = Cluster::start(Options {
        nodes: 4,
        shards: 1,
        ..Options::default()
    })
    .await;
    let holders = async || {
        let status = cluster
            .admin(0)
            .get("/admin/v1/cluster/status")
            .expect(200)
            .await
            .json();
        let replicas = status["shards"][SHARD.0 as usize]["replicas"]
            .as_array()
            .cloned();
        let replicas = replicas.unwrap_or_default();
        let held = replicas.iter().filter_map(|replica| {
            cluster
                .nodes
                .iter()
                .position(|node| node.id == replica["node"])
        });
        held.collect::<Vec<_>>()
    };
    let held = holders().await;
    let free = cluster
        .all()
        .find(|node| !held.contains(node))
        .expect("a free node");
    let old = held[0];
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let load = Load::start(&nodes, "Demo", 4, 2);
    let mut feeds = Vec::new();
    for via in BOTH {
        let stream = Stream::open(via, &cluster.nodes[old], "oldest")
            .await
            .expect("a feed");
        feeds.push((stream, Consumer::default()));
    }
    let (to, from) = (format!("node{}", free + 1), format!("node{}", old + 1));
    let shard = SHARD.to_string();
    let admin = &cluster.nodes[old].admin;
    binary::run([
        "shard", "replace", &shard, &to, "--from", &from, "--admin", admin,
    ])
    .await
    .expect(0);
    eventually("the replica is replaced", DEADLINE, async || {
        let held = holders().await;
        (held.contains(&free) && !held.contains(&old)).then_some(())
    })
    .await;
    load.progress(50, READY).await;
    load.stop().await.verify(&nodes).await;
    let stored = table(&cluster.root(free).await).await;
    for (mut stream, mut consumer) in feeds {
        let read = async {
            while consumer.table() != stored {
                let told = stream.next().await.expect("the feed goes on");
                told.iter().for_each(|message| consumer.take(message));
            }
        };
        tokio::time::timeout(DEADLINE, read)
            .await
            .expect("all of it is told");
        assert_eq!((consumer.resyncs, consumer.repeated), (0, 0));
    }
}
