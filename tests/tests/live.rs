//! Promise: whoever takes over what a real-time query tells has what the query gives, whatever dies meanwhile; and is told nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use rand::Rng as _;
use serde_json::{Value, json};
use tests::cluster::READY;
use tests::tls::Trust;
use tests::{Api, Checks, Cluster, eventually, is_soak};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

const DEADLINE: Duration = Duration::from_secs(60);

/// A socket for real-time queries, with what the SDK's result streams hold.
struct Live {
    socket: WebSocketStream<TcpStream>,
    streams: BTreeMap<String, Stream>,
}

/// One subscription.
struct Stream {
    message: Value,
    list: Option<Vec<Value>>,
    /// Frames that were not the result.
    steps: Vec<Value>,
}

impl Live {
    /// Connects; `None`: the node does not answer.
    async fn connect(cluster: &Cluster, node: usize) -> Option<Live> {
        let base = cluster.api(node).base().to_owned();
        let address = base.strip_prefix("http://")?.split('/').next()?.to_owned();
        let stream = TcpStream::connect(&address).await.ok()?;
        let (socket, _) = client_async(format!("ws://{address}/v1/events"), stream)
            .await
            .ok()?;
        Some(Live {
            socket,
            streams: BTreeMap::new(),
        })
    }

    async fn open(cluster: &Cluster, node: usize) -> Live {
        eventually("a socket", DEADLINE, || Live::connect(cluster, node)).await
    }

    async fn say(&mut self, text: &str) {
        let sent = self.socket.send(Message::text(text)).await;
        sent.expect("the socket takes it");
    }

    /// Subscribes with these members besides id, type and bucket.
    async fn subscribe(&mut self, id: &str, members: Value) {
        let mut message = json!({ "id": id, "type": "subscribe", "bucket": "Demo", "query": "{}", "initial": true });
        for (name, value) in members.as_object().expect("members") {
            message[name] = value.clone();
        }
        self.say(&message.to_string()).await;
        let stream = Stream {
            message,
            list: None,
            steps: Vec::new(),
        };
        self.streams.insert(id.to_owned(), stream);
    }

    /// The next frame; `None`: the socket is closed.
    async fn next(&mut self) -> Option<Value> {
        let next = async {
            loop {
                match self.socket.next().await? {
                    Ok(Message::Text(text)) => return serde_json::from_str(&text).ok(),
                    Ok(Message::Close(_)) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        };
        tokio::time::timeout(DEADLINE, next)
            .await
            .expect("a frame in time")
    }

    async fn frame(&mut self) -> Value {
        self.next().await.expect("an open socket")
    }

    /// Takes over a frame.
    fn take(&mut self, frame: Value) {
        let id = frame["id"].as_str().expect("a name");
        let stream = self.streams.get_mut(id).expect("a subscription");
        assert!(frame["date"].is_string(), "{frame}");
        if frame["type"] == "result" {
            stream.list = Some(frame["data"].as_array().expect("documents").clone());
            return;
        }
        assert_eq!(frame["type"], "match", "{frame}");
        let list = stream.list.as_mut().expect("the result comes first");
        let at = list.iter().position(|one| one["id"] == frame["data"]["id"]);
        let put = |list: &mut Vec<Value>| match frame["index"].as_u64() {
            Some(index) => list.insert(index as usize, frame["data"].clone()),
            None => list.push(frame["data"].clone()),
        };
        match (frame["matchType"].as_str().expect("a step"), at) {
            ("add", None) => put(list),
            ("change", Some(at)) => list[at] = frame["data"].clone(),
            ("changeIndex", Some(at)) => {
                list.remove(at);
                put(list);
            }
            ("remove", Some(at)) => {
                list.remove(at);
            }
            (step, at) => panic!("{step} of what is at {at:?}: {frame}"),
        }
        stream.steps.push(frame);
    }

    /// Reads until all have what their queries give; connects again, to any node, if the socket ends, as the SDK does.
    async fn reach(mut self, cluster: &Cluster) {
        let asked = cluster.root(0).await;
        let mut wanted = BTreeMap::new();
        for (id, stream) in &self.streams {
            wanted.insert(id.clone(), query(&asked, &stream.message).await);
        }
        let has_all = |live: &Live| {
            let has =
                |(id, stream): (&String, &Stream)| stream.sorted().as_ref() == Some(&wanted[id]);
            live.streams.iter().all(has)
        };
        while !has_all(&self) {
            match self.next().await {
                Some(frame) => self.take(frame),
                None => self = self.again(cluster, 0).await,
            }
        }
    }

    async fn again(self, cluster: &Cluster, node: usize) -> Live {
        let mut next = Live::open(cluster, node).await;
        for (id, stream) in self.streams {
            next.subscribe(&id, stream.message).await;
        }
        next
    }
}

impl Stream {
    fn sorted(&self) -> Option<Vec<Value>> {
        let mut list = self.list.clone()?;
        if self.message.get("sort").is_none() {
            list.sort_by_key(|one| one["id"].to_string());
        }
        Some(list)
    }
}

/// What the query of a subscription gives.
async fn query(root: &Api, message: &Value) -> Vec<Value> {
    let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str, default: i64| message[name].as_i64().unwrap_or(default);
    let parameters = form_urlencoded::Serializer::new(String::new())
        .append_pair("q", &text("query"))
        .append_pair("sort", &text("sort"))
        .append_pair("start", &number("offset", 0).to_string())
        .append_pair("count", &number("limit", -1).to_string())
        .finish();
    let found = root
        .get(&format!("/db/Demo/query?{parameters}"))
        .expect(200)
        .await
        .json();
    let mut found = found.as_array().expect("documents").clone();
    if message.get("sort").is_none() {
        found.sort_by_key(|one| one["id"].to_string());
    }
    found
}

/// Writes at random, through whichever node answers.
async fn write(nodes: &[Api], count: usize) {
    for _ in 0..count {
        let (key, n, node, deletes) = {
            let mut random = rand::rng();
            (
                random.random_range(0..40),
                random.random_range(0..20),
                random.random_range(0..nodes.len()),
                random.random_ratio(1, 5),
            )
        };
        let path = format!("/db/Demo/k{key}");
        let call = match deletes {
            true => nodes[node].delete(&path),
            false => nodes[node]
                .put(&path)
                .json(&json!({ "n": n, "even": n % 2 == 0 })),
        };
        // What fails with a dead node may have happened, which is all the same here.
        let _ = call.try_send().await;
    }
}

async fn subscribe_all(live: &mut Live) {
    live.subscribe("all", json!({})).await;
    live.subscribe("some", json!({ "query": r#"{"even":true}"# }))
        .await;
    live.subscribe(
        "range",
        json!({ "query": r#"{"n":{"$gte":5,"$lt":15}}"#, "sort": r#"{"n":1}"# }),
    )
    .await;
    live.subscribe(
        "window",
        json!({ "sort": r#"{"n":-1}"#, "offset": 2, "limit": 5 }),
    )
    .await;
}

#[tokio::test]
async fn results_equal_the_query_over_kills_and_cuts() {
    let mut cluster = Cluster::dev().await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    write(&nodes, 60).await;
    let mut sockets = Vec::new();
    for node in [0, 1] {
        let mut live = Live::open(&cluster, node).await;
        subscribe_all(&mut live).await;
        sockets.push(live);
    }
    let rounds = if is_soak() { 20 } else { 1 };
    for round in 0..rounds {
        // The other node leads a third of the shards; the subscribers' stay.
        cluster.kill(2).await;
        write(&nodes[..2], 60).await;
        cluster.spawn(2);
        cluster.node_ready(2, READY).await;
        write(&nodes, 60).await;
        // A subscriber's node dies: the client goes to another one, as the SDK does when a socket ends.
        let dead = round % 2;
        cluster.kill(dead).await;
        write(&nodes[1 - dead..2 - dead], 40).await;
        let live = sockets.remove(dead);
        sockets.insert(dead, live.again(&cluster, 2).await);
        cluster.spawn(dead);
        cluster.node_ready(dead, READY).await;
        write(&nodes, 30).await;
    }
    for live in sockets {
        live.reach(&cluster).await;
    }
}

/// A node that hears of nobody any more tells nothing more, and says so by closing the socket.
#[tokio::test]
async fn a_node_that_is_cut_off_ends_its_sockets() {
    let mut cluster = Cluster::dev().await;
    let mut live = Live::open(&cluster, 0).await;
    live.subscribe("all", json!({})).await;
    let frame = live.frame().await;
    live.take(frame);
    cluster.pause(1);
    cluster.pause(2);
    assert_eq!(live.next().await, None, "the socket ends");
    cluster.resume(1);
    cluster.resume(2);
    cluster.ready(READY).await;
    let live = live.again(&cluster, 0).await;
    write(&[cluster.api(1)], 5).await;
    live.reach(&cluster).await;
}

#[tokio::test]
async fn edges() {
    let cluster = Cluster::dev().await;
    let mut checks = Checks::new();
    checks
        .check("frames in their order", frames(&cluster))
        .await;
    checks.check("only its own", own_only(&cluster)).await;
    checks
        .check("bad frames end what they name", refusals(&cluster))
        .await;
    checks.check("subscriptions end", ends(&cluster)).await;
    checks.check("server-sent events", events(&cluster)).await;
    checks.finish();
}

async fn put(api: &Api, key: &str, body: Value) {
    let answer = api.put(&format!("/db/Demo/{key}")).json(&body).send().await;
    assert!(answer.status < 300, "{}", answer.text());
}

async fn frames(cluster: &Cluster) {
    let anyone = cluster.api(1);
    let mut live = Live::open(cluster, 0).await;
    let members = json!({ "query": r#"{"of":"frames"}"#, "sort": r#"{"n":1}"#, "limit": 2 });
    live.subscribe("w", members).await;
    assert_eq!(live.frame().await["data"], json!([]));
    for n in [1, 3] {
        put(&anyone, &format!("f{n}"), json!({ "of": "frames", "n": n })).await;
        let frame = live.frame().await;
        assert_eq!(
            (&frame["matchType"], &frame["operation"]),
            (&json!("add"), &json!("insert")),
            "{frame}"
        );
    }
    put(&anyone, "f2", json!({ "of": "frames", "n": 2 })).await;
    let (pushed, added) = (live.frame().await, live.frame().await);
    assert_eq!(
        (&pushed["matchType"], &pushed["operation"], &pushed["index"]),
        (&json!("remove"), &json!("none"), &json!(-1))
    );
    assert_eq!(
        (&pushed["data"]["id"], &pushed["data"]["version"]),
        (&json!("/db/Demo/f3"), &json!(1))
    );
    assert_eq!(
        (&added["matchType"], &added["index"], &added["data"]["n"]),
        (&json!("add"), &json!(1), &json!(2))
    );
    anyone.delete("/db/Demo/f1").send().await;
    let (gone, pulled) = (live.frame().await, live.frame().await);
    assert_eq!(
        gone["data"],
        json!({ "id": "/db/Demo/f1" }),
        "without a version"
    );
    assert_eq!(
        (&pulled["operation"], &pulled["data"]["id"]),
        (&json!("none"), &json!("/db/Demo/f3"))
    );
}

async fn own_only(cluster: &Cluster) {
    let root = cluster.root(0).await;
    let mut live = Live::open(cluster, 1).await;
    let members = json!({ "query": r#"{"of":"own"}"#, "sort": r#"{"n":1}"# });
    live.subscribe("theirs", members.clone()).await;
    assert_eq!(live.frame().await["id"], "theirs");
    let mut members = members;
    members["token"] = json!(root.token().expect("a token"));
    live.subscribe("roots", members).await;
    assert_eq!(live.frame().await["id"], "roots");
    let secret = json!({ "of": "own", "n": 1, "acl": { "read": { "/db/User/1": "allow" } } });
    put(&root, "secret", secret).await;
    put(&root, "open", json!({ "of": "own", "n": 2 })).await;
    let mut told = Vec::new();
    for _ in 0..3 {
        let frame = live.frame().await;
        told.push((
            frame["id"].to_string(),
            frame["data"]["id"].to_string(),
            frame["index"].as_i64(),
        ));
    }
    told.sort();
    let expected = [
        ("\"roots\"", "\"/db/Demo/open\""),
        ("\"roots\"", "\"/db/Demo/secret\""),
        ("\"theirs\"", "\"/db/Demo/open\""),
    ];
    let names: Vec<_> = told
        .iter()
        .map(|(id, key, _)| (id.as_str(), key.as_str()))
        .collect();
    assert_eq!(names, expected);
    assert_eq!(told[2].2, Some(0), "what one may not read takes no place");
}

async fn refusals(cluster: &Cluster) {
    let mut live = Live::open(cluster, 0).await;
    live.subscribe("good", json!({ "query": r#"{"of":"refusals"}"# }))
        .await;
    assert_eq!(live.frame().await["type"], "result");
    for (text, id, status) in [
        ("{", "-", 471),
        ("[]", "-", 471),
        (r#"{"type":"subscribe"}"#, "-", 400),
        (r#"{"id":"x","type":"sing"}"#, "x", 400),
        (
            r#"{"id":"x","type":"subscribe","bucket":"Nothing"}"#,
            "x",
            461,
        ),
        (
            r#"{"id":"x","type":"subscribe","bucket":"logs.AppLog"}"#,
            "x",
            466,
        ),
        (
            r#"{"id":"x","type":"subscribe","bucket":"Demo","query":"{"}"#,
            "x",
            471,
        ),
        (
            r#"{"id":"x","type":"subscribe","bucket":"Demo","query":"{\"$where\":1}"}"#,
            "x",
            468,
        ),
        (
            r#"{"id":"x","type":"subscribe","bucket":"Demo","offset":500,"limit":1}"#,
            "x",
            468,
        ),
        (
            r#"{"id":"x","type":"subscribe","bucket":"Demo","token":"none"}"#,
            "x",
            460,
        ),
    ] {
        live.say(text).await;
        let frame = live.frame().await;
        assert_eq!(
            (&frame["type"], &frame["id"], &frame["status"]),
            (&json!("error"), &json!(id), &json!(status)),
            "{text}: {frame}"
        );
        assert_eq!(frame["error"]["status"], status);
        assert!(
            frame["error"]["message"].is_string() && frame["error"]["reason"].is_string(),
            "{frame}"
        );
    }
    put(&cluster.api(2), "r1", json!({ "of": "refusals" })).await;
    let frame = live.frame().await;
    assert_eq!(
        (&frame["id"], &frame["matchType"]),
        (&json!("good"), &json!("add"))
    );
    // So many on one socket and no more.
    for at in 0..100 {
        let members = json!({ "query": r#"{"of":"nothing"}"#, "initial": at == 99 });
        live.subscribe(&format!("s{at}"), members).await;
    }
    let frame = live.frame().await;
    assert_eq!(
        (&frame["id"], &frame["status"]),
        (&json!("s99"), &json!(429)),
        "{frame}"
    );
    let refused = cluster.api(0).get("/events").send().await;
    refused.refused(400, "bad_request");
}

async fn ends(cluster: &Cluster) {
    let anyone = cluster.api(2);
    let mut live = Live::open(cluster, 0).await;
    for id in ["left", "stays"] {
        live.subscribe(id, json!({ "query": r#"{"of":"ends"}"# }))
            .await;
        assert_eq!(live.frame().await["id"], id);
    }
    live.say(r#"{"id":"left","type":"unsubscribe"}"#).await;
    // Answered behind it.
    live.subscribe("later", json!({ "query": r#"{"of":"nothing"}"# }))
        .await;
    assert_eq!(live.frame().await["id"], "later");
    for key in ["e1", "e2"] {
        put(&anyone, key, json!({ "of": "ends" })).await;
        assert_eq!(live.frame().await["id"], "stays");
    }
    // A session that is over.
    let root = cluster.root(0).await;
    let user = json!({ "username": "live-reader", "password": "secret word" });
    let registered = root.post("/db/User/register").json(&json!({ "user": { "username": "live-reader" }, "password": "secret word", "login": true })).send().await;
    assert_eq!(registered.status, 200, "{}", registered.text());
    let reader = cluster
        .api(0)
        .post("/db/User/login")
        .json(&user)
        .expect(200)
        .await;
    let token = reader
        .header("baqend-authorization-token")
        .expect("a token");
    live.subscribe(
        "mine",
        json!({ "token": token, "query": r#"{"of":"nothing"}"# }),
    )
    .await;
    assert_eq!(live.frame().await["id"], "mine");
    let id = reader.json()["id"].as_str().expect("an id").to_owned();
    root.delete(&id).expect(204).await;
    let frame = live.frame().await;
    assert_eq!(
        (&frame["id"], &frame["status"]),
        (&json!("mine"), &json!(460)),
        "{frame}"
    );
}

async fn events(cluster: &Cluster) {
    let http = Trust::default().http().build().expect("a client");
    let url = format!(
        "{}/events?class=Demo&query=%7B%22of%22%3A%22events%22%7D&sort=%7B%22n%22%3A1%7D",
        cluster.api(0).base()
    );
    let mut stream = http
        .get(url)
        .header("accept", "text/event-stream")
        .send()
        .await
        .expect("a stream");
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    let mut until = async |wanted: &str| {
        let read = async {
            while !text.contains(wanted) {
                let chunk = stream.chunk().await.expect("a stream").expect("no end");
                text.push_str(std::str::from_utf8(&chunk).expect("text"));
            }
        };
        tokio::time::timeout(DEADLINE, read)
            .await
            .expect("an event in time");
    };
    until("event: result\ndata: {").await;
    put(&cluster.api(1), "v1", json!({ "of": "events", "n": 1 })).await;
    until(r#""matchType":"add","operation":"insert","index":0"#).await;
}
