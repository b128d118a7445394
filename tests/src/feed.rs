//! A consumer of a change feed that does nothing but take over what it is told, over any of the protocols.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use document::id::object_id;
use proto::v1::changes_response::Frame;
use proto::v1::{self, ChangeOperation};
use serde_json::{Value, json};
use tonic::{Code, Streaming};

use crate::cluster::Node;
use crate::grpc;
use crate::http::{Answer, Api};
use crate::is_soak;
use crate::socket::{Said, Socket};

/// A feed says something every second; a node that says nothing for so long stands still.
const SILENCE: Duration = Duration::from_secs(4);

/// Until a consumer must have what is stored.
fn deadline() -> Duration {
    Duration::from_secs(if is_soak() { 600 } else { 60 })
}

/// How a feed stays open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Over a WebSocket.
    Socket,
    /// As a gRPC stream.
    Calls,
}

/// An open feed of the bucket `Demo`.
#[derive(Debug)]
pub enum Stream {
    /// See [`Via::Socket`].
    Socket(Box<Socket>),
    /// See [`Via::Calls`].
    Calls(Box<Streaming<v1::ChangesResponse>>),
}

impl Stream {
    /// Opens a feed at a node; `None`: it is dead, or refuses with effect none.
    ///
    /// # Panics
    /// If it is refused for another reason than that the node cannot now.
    pub async fn open(via: Via, node: &Node, from: &str) -> Option<Stream> {
        match via {
            Via::Socket => {
                let url = format!("{}/v1/changes/ws", node.client);
                let opened = tokio::time::timeout(SILENCE, Socket::open(&url, None));
                let mut socket = match opened.await.unwrap_or(Err(0)) {
                    Ok(socket) => socket,
                    Err(status) => {
                        assert!(matches!(status, 0 | 503), "refused with {status}");
                        return None;
                    }
                };
                let wanted = json!({ "bucket": "Demo", "from": from });
                socket.say(&wanted.to_string()).await;
                Some(Stream::Socket(Box::new(socket)))
            }
            Via::Calls => {
                let wanted = v1::ChangesRequest {
                    bucket: "Demo".to_owned(),
                    from: from.to_owned(),
                    ..v1::ChangesRequest::default()
                };
                let mut documents = grpc::documents(&node.client);
                match tokio::time::timeout(SILENCE, documents.changes(wanted)).await {
                    Ok(Ok(answer)) => Some(Stream::Calls(Box::new(answer.into_inner()))),
                    Ok(Err(status)) => {
                        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                        None
                    }
                    Err(_) => None,
                }
            }
        }
    }

    /// The next messages, in the form that they have over a WebSocket; `None`: the feed is over, or its node stands still.
    ///
    /// # Panics
    /// If it ends for another reason than that the node cannot go on.
    pub async fn next(&mut self) -> Option<Vec<Value>> {
        match self {
            Stream::Socket(socket) => match socket.hear_within(SILENCE).await? {
                Said::Message(message) if message["type"] == "error" => {
                    assert_eq!(message["code"], "unavailable", "{message}");
                    None
                }
                Said::Message(message) => Some(vec![message]),
                Said::Closed(status) => {
                    assert_eq!(status, 1001);
                    None
                }
                Said::Gone => None,
            },
            Stream::Calls(stream) => {
                match tokio::time::timeout(SILENCE, stream.message()).await.ok()? {
                    Ok(message) => Some(as_messages(message?)),
                    Err(status) => {
                        // A connection that breaks is a transport error of the client's own.
                        let is_passing = matches!(
                            status.code(),
                            Code::Unavailable | Code::Unknown | Code::Internal
                        );
                        assert!(is_passing, "{status:?}");
                        None
                    }
                }
            }
        }
    }
}

fn as_messages(message: v1::ChangesResponse) -> Vec<Value> {
    let token = message.token;
    match message.frame.expect("a frame") {
        Frame::Events(events) => {
            let mut messages: Vec<Value> = events.events.iter().map(event).collect();
            if let Some(last) = messages.last_mut() {
                last["token"] = token.into();
            }
            messages
        }
        Frame::Progress(_) => vec![json!({ "type": "progress", "token": token })],
        Frame::Resync(reason) => {
            vec![json!({ "type": "resync", "token": token, "reason": reason })]
        }
        Frame::Live(_) => vec![json!({ "type": "live", "token": token })],
    }
}

fn event(event: &v1::ChangeEvent) -> Value {
    let mut shown = json!({
        "type": "change", "event": event.event, "version": event.version, "compacted": event.compacted,
        "id": object_id(&event.bucket, &event.key),
    });
    if event.operation() == ChangeOperation::Rules {
        shown["op"] = "rules".into();
    }
    if !event.json.is_empty() {
        shown["document"] = serde_json::from_slice(&event.json).expect("JSON");
    }
    shown
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Consumer {
    /// Behind what was told.
    pub token: Option<String>,
    /// By id: version, and the document if it is there.
    pub documents: BTreeMap<String, (u64, Option<Value>)>,
    /// What each event said.
    pub seen: BTreeMap<String, (String, u64)>,
    /// How often everything began anew.
    pub resyncs: usize,
    /// Events that stood for several.
    pub compacted: usize,
    /// Events that came again.
    pub repeated: usize,
}

impl Consumer {
    fn from(&self) -> &str {
        self.token.as_deref().unwrap_or("oldest")
    }

    /// Asks a node for more by a long poll; false: there was nothing, or no answer.
    ///
    /// # Panics
    /// If it is refused for another reason than that the node cannot now.
    pub async fn poll(&mut self, node: &Api) -> bool {
        let path = format!("/changes?bucket=Demo&wait=1&from={}", self.from());
        match node.get(&path).try_send().await {
            Ok(answer) if answer.status == 200 => self.take_answer(&answer),
            Ok(answer) => {
                assert_eq!(answer.json()["effect"], "none", "{}", answer.text());
                assert_eq!(answer.status, 503, "{}", answer.text());
                false
            }
            // The node is dead.
            Err(_) => false,
        }
    }

    fn take_answer(&mut self, answer: &Answer) -> bool {
        let told = answer.json();
        if !told["resync"].is_null() {
            self.begin_again();
        }
        let events = told["events"].as_array().expect("events");
        for event in events {
            self.take_event(event);
        }
        self.token = Some(told["token"].as_str().expect("a token").to_owned());
        !events.is_empty()
    }

    /// Reads so many messages from a feed that goes on behind the last token, and then cuts it; ends early if the feed does.
    pub async fn follow(&mut self, via: Via, node: &Node, messages: usize) {
        let Some(mut stream) = Stream::open(via, node, self.from()).await else {
            return;
        };
        let mut left = messages;
        while left > 0
            && let Some(told) = stream.next().await
        {
            for message in told.iter().take(left) {
                self.take(message);
            }
            left = left.saturating_sub(told.len());
        }
    }

    /// Takes one message over.
    pub fn take(&mut self, message: &Value) {
        match message["type"].as_str() {
            Some("change") => self.take_event(message),
            Some("resync") => self.begin_again(),
            _ => {}
        }
        if let Some(token) = message["token"].as_str() {
            self.token = Some(token.to_owned());
        }
    }

    fn begin_again(&mut self) {
        self.documents.clear();
        self.seen.clear();
        self.resyncs += 1;
    }

    fn take_event(&mut self, event: &Value) {
        if event["op"] == "rules" {
            return;
        }
        let id = event["id"].as_str().expect("an id").to_owned();
        let version = event["version"].as_u64().expect("a version");
        self.compacted += usize::from(event["compacted"] == true);
        let name = event["event"].as_str().expect("a name").to_owned();
        match self.seen.insert(name, (id.clone(), version)) {
            Some(said) => {
                assert_eq!(said, (id, version), "one name, one event");
                self.repeated += 1;
            }
            None => {
                let stored = self.documents.entry(id.clone()).or_default();
                assert!(
                    version > stored.0,
                    "{id} went from {} to {version}",
                    stored.0
                );
                *stored = (version, event.get("document").cloned());
            }
        }
    }

    /// What is there, by id.
    pub fn table(&self) -> BTreeMap<String, Value> {
        let live = self.documents.iter();
        live.filter_map(|(id, (_, document))| Some((id.clone(), document.clone()?)))
            .collect()
    }

    /// Polls on until what it has is what is stored.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn reach(&mut self, nodes: &[Api], stored: &BTreeMap<String, Value>) {
        let mut at = 0;
        let end = Instant::now() + deadline();
        while self.table() != *stored {
            self.check(end, stored);
            at += 1;
            self.poll(&nodes[at % nodes.len()]).await;
        }
    }

    /// The same over feeds that stay open.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn reach_via(&mut self, via: Via, node: &Node, stored: &BTreeMap<String, Value>) {
        let end = Instant::now() + deadline();
        loop {
            self.check(end, stored);
            let from = self.from().to_owned();
            let Some(mut stream) = Stream::open(via, node, &from).await else {
                continue;
            };
            while let Some(told) = stream.next().await {
                self.check(end, stored);
                told.iter().for_each(|message| self.take(message));
                // Looked at where there is nothing more: comparing takes longer than telling.
                let is_quiet = told.iter().any(|message| message["type"] == "progress");
                if is_quiet && self.table() == *stored {
                    return;
                }
            }
        }
    }

    fn check(&self, end: Instant, stored: &BTreeMap<String, Value>) {
        let has = self.documents.len();
        assert!(
            Instant::now() < end,
            "{has} documents are known, {} are stored",
            stored.len()
        );
    }
}

/// What is stored in the bucket `Demo`, by id.
///
/// # Panics
/// If it cannot be read.
pub async fn table(root: &Api) -> BTreeMap<String, Value> {
    let all = root.get("/db/Demo").expect(200).await.json();
    let documents = all.as_array().expect("an array").iter();
    documents
        .map(|document| {
            let id = document["id"].as_str().expect("an id").to_owned();
            (id, document.clone())
        })
        .collect()
}
