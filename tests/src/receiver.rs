//! The target of a consumer: a small server on loopback that checks what it is sent, takes it over, and can be told to be ill.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use ring::hmac;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::wall::now_seconds;

/// A signature that is older says nothing.
const SIGNATURE_AGE_MAX: u64 = 5 * 60;

/// What becomes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is not taken.
    Refused(StatusCode),
    /// It is not taken, and the sender is asked to wait for a second.
    Later,
    /// It is taken, and the answer says that it was not.
    TakenAndDenied,
    /// It is taken, and the answer does not come for long.
    Slow,
}

/// What was taken over.
#[derive(Default)]
pub struct Taken {
    /// Of each batch that came. Consumed; without one it is taken.
    pub fates: VecDeque<Fate>,
    /// Document ids: version, and the document if it is there.
    documents: BTreeMap<String, (u64, Option<Value>)>,
    /// Names of events with document and version.
    seen: BTreeMap<String, (String, u64)>,
    /// Names of batches with their events.
    batches: BTreeMap<String, Value>,
    /// Batches that came, taken or not.
    pub came: usize,
    /// Batches that were not answered well.
    pub failed: usize,
    /// Events that came again.
    pub repeated: usize,
    /// Events that stand for several.
    pub compacted: usize,
    /// How often all was to be forgotten.
    pub resyncs: usize,
    /// What must not happen and did.
    wrong: Vec<String>,
}

impl Taken {
    /// The documents that there should be, by id.
    pub fn table(&self) -> BTreeMap<String, Value> {
        let live = self.documents.iter();
        live.filter_map(|(id, (_, document))| Some((id.clone(), document.clone()?)))
            .collect()
    }

    /// Events that are known.
    pub fn events(&self) -> usize {
        self.seen.len()
    }

    /// Fails the test if anything was wrong.
    ///
    /// # Panics
    /// If it was.
    pub fn check(&self) {
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
    }

    fn take(&mut self, batch: &Value) {
        let name = batch["batch"].as_str().unwrap_or_default().to_owned();
        let events = batch["events"].clone();
        let known = self.batches.insert(name.clone(), events.clone());
        if name.is_empty() || known.is_some_and(|known| known != events) {
            self.wrong.push(format!("batch {name:?} is not one batch"));
        }
        if batch.get("resync").is_some() {
            self.documents.clear();
            self.seen.clear();
            self.resyncs += 1;
        }
        for event in events.as_array().into_iter().flatten() {
            if event["op"] != "rules" {
                self.take_event(event);
            }
        }
    }

    fn take_event(&mut self, event: &Value) {
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let version = event["version"].as_u64().unwrap_or_default();
        let said = (text("id"), version);
        self.compacted += usize::from(event["compacted"] == true);
        if let Some(before) = self.seen.insert(text("event"), said.clone()) {
            self.repeated += 1;
            if before != said {
                self.wrong.push(format!("{event} was {before:?}"));
            }
            return;
        }
        let stored = self.documents.entry(said.0).or_default();
        if version <= stored.0 {
            self.wrong
                .push(format!("{event} came after version {}", stored.0));
        } else {
            *stored = (version, event.get("document").cloned());
        }
    }
}

/// The running server. It ends with the test's runtime.
#[derive(Clone)]
pub struct Receiver {
    taken: Arc<Mutex<Taken>>,
    secret: String,
    url: String,
}

impl Receiver {
    /// Starts one on a free port; what it is sent is signed with `secret`.
    pub async fn start(secret: &str) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let receiver = Receiver {
            taken: Arc::default(),
            secret: secret.to_owned(),
            url: format!("http://{address}/hook?to=test"),
        };
        let app = Router::new()
            .route("/hook", post(receive))
            .with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        receiver
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it took over.
    pub fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().expect("no panic")
    }

    /// Whether a batch is signed as it should be, lately.
    fn is_signed(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let check = || {
            let header = headers.get("larder-signature")?.to_str().ok()?;
            let (time, signature) = header.strip_prefix("t=")?.split_once(",v1=")?;
            let age = now_seconds().abs_diff(time.parse().ok()?);
            let signature: Vec<u8> = (0..signature.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(signature.get(at..at + 2)?, 16).ok())
                .collect::<Option<_>>()?;
            let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes());
            let signed = [time.as_bytes(), b".", body].concat();
            hmac::verify(&key, &signed, &signature).ok()?;
            (age <= SIGNATURE_AGE_MAX).then_some(())
        };
        check().is_some()
    }
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> Response {
    let fate = {
        let mut taken = receiver.taken();
        taken.came += 1;
        if !receiver.is_signed(&headers, &body) {
            taken.wrong.push(format!("not signed: {headers:?}"));
        }
        let fate = taken.fates.pop_front();
        taken.failed += usize::from(fate.is_some());
        let is_taken = matches!(fate, None | Some(Fate::TakenAndDenied | Fate::Slow));
        match serde_json::from_slice(&body) {
            Ok(batch) if is_taken => taken.take(&batch),
            Ok(_) => {}
            Err(error) => taken.wrong.push(error.to_string()),
        }
        fate
    };
    match fate {
        None => StatusCode::NO_CONTENT.into_response(),
        Some(Fate::Refused(status)) => status.into_response(),
        Some(Fate::TakenAndDenied) => StatusCode::BAD_GATEWAY.into_response(),
        Some(Fate::Later) => (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "1")]).into_response(),
        Some(Fate::Slow) => {
            // Longer than any sender waits.
            tokio::time::sleep(Duration::from_secs(120)).await;
            StatusCode::NO_CONTENT.into_response()
        }
    }
}
