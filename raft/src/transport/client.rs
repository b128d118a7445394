//! Outgoing connections: one per peer and class, made on demand and again after each break.
//!
//! While a connection is down, calls fail at once as not sent. When it breaks, every call on it fails as lost.

use std::collections::HashMap;
use std::error::Error as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use proto::peer::envelope::Body;
use proto::peer::peer_client::PeerClient;
use proto::peer::{
    Envelope, Frame, GiveUp, PrepareSnapshotRequest, Refused, SnapshotHeader, SnapshotResponse,
};
use proto::{NodeId, ReplicaId, ShardId};
use storage::ids::StoreId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::dial::{Dialer, cause};
use super::frames::{Frames, MESSAGE_BYTES_MAX, QUEUE_ENVELOPES};
use super::snapshots::{self, CHUNK_BYTES};
use super::{CallError, Class, Transport};

/// A peer that takes longer to accept a connection is down.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1000);

/// Pause between two attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// A connection on which nothing came back for this long, pings included, is dead.
const KEEP_ALIVE: Duration = Duration::from_millis(1000);

/// HTTP/2 windows: a whole frame must fit, or one large append would stall the heartbeats behind it.
const WINDOW_BYTES: u32 = 8 << 20;

/// One connection's part of a snapshot may take this long: a stuck one is cut, and gone on with.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);

/// A forwarded request that has no answer.
pub type ForwardError = CallError;

/// The connections of this node to all others. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    dialer: Dialer,
    /// Empty until the node belongs to a cluster; peers refuse links of another one.
    cluster: Mutex<String>,
    peers: Mutex<HashMap<NodeId, Arc<Peer>>>,
    stop: CancellationToken,
}

/// One other node.
struct Peer {
    address: watch::Sender<String>,
    consensus: Link,
    bulk: Link,
}

/// One connection: whoever holds its `Live` can send on it.
struct Link {
    live: Arc<Mutex<Option<Live>>>,
    up: Arc<AtomicBool>,
}

#[derive(Clone)]
struct Live {
    queue: mpsc::Sender<Envelope>,
    calls: Arc<Calls>,
}

/// Calls on one connection that wait for an answer.
#[derive(Default)]
struct Calls {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Body>>>,
    broken: AtomicBool,
}

impl Peers {
    /// No connection is made before a peer's address is known.
    pub fn new(node: NodeId, dialer: Dialer, stop: CancellationToken) -> Self {
        let inner = Inner {
            node,
            dialer,
            cluster: Mutex::new(String::new()),
            peers: Mutex::new(HashMap::new()),
            stop,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Names the cluster that links belong to; a link to a node of another one is refused by it.
    pub fn set_cluster(&self, cluster: &str) {
        cluster.clone_into(&mut self.inner.cluster.lock());
    }

    /// Tells where a node listens, `host:port`. Another address than before replaces its connections.
    pub fn set_address(&self, node: NodeId, address: &str) {
        if node == self.inner.node {
            return;
        }
        let mut peers = self.inner.peers.lock();
        if let Some(peer) = peers.get(&node) {
            peer.address.send_if_modified(|known| {
                let changed = known != address;
                if changed {
                    address.clone_into(known);
                }
                changed
            });
            return;
        }
        let (send, receive) = watch::channel(address.to_owned());
        let peer = Arc::new(Peer {
            address: send,
            consensus: self.link(Class::Consensus, receive.clone()),
            bulk: self.link(Class::Bulk, receive),
        });
        peers.insert(node, peer);
    }

    /// Whether the consensus connection to `node` is up; this node counts as up.
    pub fn is_up(&self, node: NodeId) -> bool {
        node == self.inner.node
            || self
                .peer(node)
                .is_some_and(|peer| peer.consensus.up.load(Ordering::Relaxed))
    }

    /// Sends a request of the service layer to the node that must answer it.
    ///
    /// # Errors
    /// [`CallError::NotSent`]: nothing happened. [`CallError::Lost`]: it may have.
    pub async fn forward(
        &self,
        node: NodeId,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, ForwardError> {
        self.ask(node, body, deadline, Abandoned::IsFinished).await
    }

    /// As [`Self::forward`] for a request that changes nothing: where nobody waits for the answer any more, since the future was dropped
    /// or the time has passed, the peer is told to end its work.
    ///
    /// # Errors
    /// Those of [`Self::forward`].
    pub async fn forward_read(
        &self,
        node: NodeId,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, ForwardError> {
        self.ask(node, body, deadline, Abandoned::IsTold).await
    }

    async fn ask(
        &self,
        node: NodeId,
        body: Bytes,
        deadline: Instant,
        abandoned: Abandoned,
    ) -> Result<Bytes, ForwardError> {
        let timeout = deadline.saturating_duration_since(Instant::now());
        let live = self.live(node, Class::Bulk)?;
        let body = Body::ForwardRequest(body);
        reply_of(live.call(body, timeout, abandoned).await?)
    }

    fn peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.inner.peers.lock().get(&node).cloned()
    }

    fn link(&self, class: Class, address: watch::Receiver<String>) -> Link {
        let link = Link {
            live: Arc::default(),
            up: Arc::default(),
        };
        let keeper = Keeper {
            inner: Arc::clone(&self.inner),
            class,
            address,
            live: Arc::clone(&link.live),
            up: Arc::clone(&link.up),
        };
        tokio::spawn(keeper.run());
        link
    }

    fn live(&self, node: NodeId, class: Class) -> Result<Live, CallError> {
        let peer = self
            .peer(node)
            .ok_or_else(|| CallError::NotSent(format!("node {node} has no address")))?;
        let link = match class {
            Class::Consensus => &peer.consensus,
            Class::Bulk => &peer.bulk,
        };
        let live = link.live.lock().clone();
        live.ok_or_else(|| CallError::NotSent(format!("node {node} is not connected")))
    }

    async fn client(&self, node: NodeId) -> Result<PeerClient<Channel>, CallError> {
        let peer = self
            .peer(node)
            .ok_or_else(|| CallError::NotSent(format!("node {node} has no address")))?;
        let address = peer.address.borrow().clone();
        connect(&self.inner.dialer, &address)
            .await
            .map_err(|error| CallError::NotSent(cause(&error)))
    }
}

impl Transport for Peers {
    fn call(
        &self,
        to: NodeId,
        class: Class,
        body: Body,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Body, CallError>> {
        Box::pin(async move {
            let live = self.live(to, class)?;
            live.call(body, timeout, Abandoned::IsFinished).await
        })
    }

    fn prepare_snapshot(
        &self,
        to: NodeId,
        shard: ShardId,
        target: ReplicaId,
    ) -> BoxFuture<'_, Result<StoreId, CallError>> {
        Box::pin(async move {
            let request = PrepareSnapshotRequest {
                shard: shard.0,
                target: target.0,
                resume: 0,
            };
            let answer = self.client(to).await?.prepare_snapshot(request).await;
            let answer =
                answer.map_err(|status| CallError::NotSent(status.message().to_owned()))?;
            Ok(StoreId(answer.into_inner().store))
        })
    }

    fn resume_snapshot(
        &self,
        to: NodeId,
        shard: ShardId,
        target: ReplicaId,
        store: StoreId,
    ) -> BoxFuture<'_, Result<Option<Vec<u64>>, CallError>> {
        Box::pin(async move {
            let request = PrepareSnapshotRequest {
                shard: shard.0,
                target: target.0,
                resume: store.0,
            };
            let answer = self.client(to).await?.prepare_snapshot(request).await;
            let answer = answer
                .map_err(|status| CallError::NotSent(status.message().to_owned()))?
                .into_inner();
            Ok((answer.store == store.0).then_some(answer.held))
        })
    }

    fn send_snapshot(
        &self,
        to: NodeId,
        header: SnapshotHeader,
        files: Vec<PathBuf>,
        held: Vec<u64>,
    ) -> BoxFuture<'_, Result<SnapshotResponse, CallError>> {
        Box::pin(async move {
            let mut client = self.client(to).await?;
            let parts = snapshots::parts(header, files, held, CHUNK_BYTES);
            let sent = tokio::time::timeout(SNAPSHOT_TIMEOUT, client.install_snapshot(parts)).await;
            match sent {
                Ok(Ok(response)) => Ok(response.into_inner()),
                Ok(Err(status)) => {
                    tracing::warn!(node = %to, error = status.message(), "snapshot not taken");
                    Err(CallError::Lost("the peer did not take the snapshot"))
                }
                Err(_) => Err(CallError::Lost("the snapshot took too long")),
            }
        })
    }
}

/// The service's reply in an answer.
fn reply_of(answer: Body) -> Result<Bytes, ForwardError> {
    match answer {
        Body::ForwardResponse(reply) => Ok(reply),
        _ => Err(CallError::Lost("the peer answered with something else")),
    }
}

/// What becomes of a call at the peer when nobody waits for its answer any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Abandoned {
    /// The peer carries it out.
    IsFinished,
    /// The peer is told, and stops.
    IsTold,
}

/// A call that waits. Dropping it ends the waiting.
struct Waiting<'l> {
    live: &'l Live,
    id: u64,
    abandoned: Abandoned,
    is_answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        self.live.calls.forget(self.id);
        if self.abandoned == Abandoned::IsTold {
            let body = Some(Body::GiveUp(GiveUp {}));
            // With a full queue the peer works on in vain until its own deadline.
            let _ = self.live.queue.try_send(Envelope { id: self.id, body });
        }
    }
}

impl Live {
    /// One request, one answer.
    async fn call(
        &self,
        body: Body,
        timeout: Duration,
        abandoned: Abandoned,
    ) -> Result<Body, CallError> {
        let (id, answer) = self.calls.register();
        if let Err(error) = self.queue.try_send(Envelope {
            id,
            body: Some(body),
        }) {
            self.calls.forget(id);
            return Err(CallError::NotSent(error.to_string()));
        }
        if self.calls.broken.load(Ordering::Acquire) {
            // Registered after the break was announced: nobody would answer.
            self.calls.forget(id);
            return Err(CallError::Lost("the connection broke"));
        }
        let mut waiting = Waiting {
            live: self,
            id,
            abandoned,
            is_answered: false,
        };
        let answer = tokio::time::timeout(timeout, answer).await;
        waiting.is_answered = answer.is_ok();
        match answer {
            Ok(Ok(Body::Refused(Refused { message, .. }))) => Err(CallError::NotSent(message)),
            Ok(Ok(body)) => Ok(body),
            Ok(Err(_)) => Err(CallError::Lost("the connection broke")),
            Err(_) => Err(CallError::Lost("no answer in time")),
        }
    }
}

impl Calls {
    fn register(&self) -> (u64, oneshot::Receiver<Body>) {
        let (send, receive) = oneshot::channel();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().insert(id, send);
        (id, receive)
    }

    fn forget(&self, id: u64) {
        self.waiting.lock().remove(&id);
    }

    fn answer(&self, frame: Frame) {
        let mut waiting = self.waiting.lock();
        for envelope in frame.envelopes {
            // A call that gave up in the meantime is no longer there.
            if let (Some(call), Some(body)) = (waiting.remove(&envelope.id), envelope.body) {
                let _ = call.send(body);
            }
        }
    }

    fn fail_all(&self) {
        self.broken.store(true, Ordering::Release);
        self.waiting.lock().clear();
    }
}

/// Keeps one link connected until the node stops.
struct Keeper {
    inner: Arc<Inner>,
    class: Class,
    address: watch::Receiver<String>,
    live: Arc<Mutex<Option<Live>>>,
    up: Arc<AtomicBool>,
}

impl Keeper {
    async fn run(mut self) {
        let stop = self.inner.stop.clone();
        let mut told = String::new();
        loop {
            let address = self.address.borrow_and_update().clone();
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.serve(&address) => ended,
            };
            if self.take_down() {
                told.clear();
            }
            if let Err(error) = ended {
                self.tell(&address, &error, &mut told);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RECONNECT_PAUSE) => {}
                changed = self.address.changed() => if changed.is_err() { return },
            }
        }
    }

    /// One connection, from its making to its end.
    async fn serve(&mut self, address: &str) -> Result<(), tonic::Status> {
        let mut client = connect(&self.inner.dialer, address)
            .await
            .map_err(|error| tonic::Status::unavailable(cause(&error)))?;
        let (queue, receive) = mpsc::channel(QUEUE_ENVELOPES);
        let mut request = tonic::Request::new(Frames::new(receive));
        let cluster = self.inner.cluster.lock().clone();
        for (name, value) in [
            ("larder-link", self.class.as_str().to_owned()),
            ("larder-cluster", cluster),
            ("larder-node", self.inner.node.to_string()),
        ] {
            let value = value
                .parse()
                .map_err(|_| tonic::Status::internal("a header value is not ASCII"))?;
            request.metadata_mut().insert(name, value);
        }
        let mut answers = client.link(request).await?.into_inner();
        let calls = Arc::new(Calls::default());
        *self.live.lock() = Some(Live {
            queue,
            calls: Arc::clone(&calls),
        });
        self.up.store(true, Ordering::Relaxed);
        tracing::debug!(%address, link = self.class.as_str(), "link up");
        loop {
            tokio::select! {
                frame = answers.next() => match frame {
                    Some(Ok(frame)) => calls.answer(frame),
                    Some(Err(status)) => return Err(status),
                    None => return Ok(()),
                },
                _ = self.address.changed() => return Ok(()),
            }
        }
    }

    /// True if it was up.
    fn take_down(&self) -> bool {
        self.up.store(false, Ordering::Relaxed);
        let live = self.live.lock().take();
        if let Some(live) = &live {
            live.calls.fail_all();
        }
        live.is_some()
    }

    /// Says once why there is no link, and again when the reason changes: a peer that refuses this node's certificate does so ten
    /// times a second. One link of the two is enough.
    fn tell(&self, address: &str, status: &tonic::Status, told: &mut String) {
        let error = match status.source() {
            Some(source) => cause(source),
            None => status.message().to_owned(),
        };
        if self.class == Class::Consensus && *told != error {
            tracing::warn!(%address, %error, "no link to a peer");
            *told = error;
        } else {
            tracing::debug!(%address, link = self.class.as_str(), %error, "link down");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.take_down();
    }
}

/// A client of the peer at `host:port`, for calls outside the links too (`cluster init`).
///
/// # Errors
/// The address is malformed, nobody accepts in time, or the dialer refuses the peer.
pub async fn connect(
    dialer: &Dialer,
    address: &str,
) -> Result<PeerClient<Channel>, tonic::transport::Error> {
    let (dialer, target) = (Arc::clone(dialer), address.to_owned());
    let dial = tower::service_fn(move |_: http::Uri| {
        let wire = dialer.dial(target.clone());
        async move { wire.await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 2)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect_with_connector(dial)
        .await?;
    Ok(PeerClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    fn live() -> (Live, mpsc::Receiver<Envelope>) {
        let (queue, sent) = mpsc::channel(8);
        let calls = Arc::default();
        (Live { queue, calls }, sent)
    }

    fn request() -> Body {
        Body::ForwardRequest(Bytes::from_static(b"x"))
    }

    #[tokio::test]
    async fn the_peer_is_told_when_nobody_waits_for_a_read() {
        for (abandoned, timeout) in [
            (Abandoned::IsTold, LONG),
            (Abandoned::IsTold, Duration::ZERO),
            (Abandoned::IsFinished, LONG),
            (Abandoned::IsFinished, Duration::ZERO),
        ] {
            let (live, mut sent) = live();
            {
                let mut call = Box::pin(live.call(request(), timeout, abandoned));
                // As far as it comes without an answer.
                let _ = futures::poll!(&mut call);
            }
            let first = sent.try_recv().expect("the request is sent");
            assert!(matches!(first.body, Some(Body::ForwardRequest(_))));
            let second = sent
                .try_recv()
                .ok()
                .map(|envelope| (envelope.id, envelope.body));
            let told = Some((first.id, Some(Body::GiveUp(GiveUp {}))));
            let expected = told.filter(|_| abandoned == Abandoned::IsTold);
            assert_eq!(second, expected, "{abandoned:?} {timeout:?}");
            assert!(live.calls.waiting.lock().is_empty());
        }
    }

    #[tokio::test]
    async fn an_answered_call_is_not_given_up() {
        let (live, mut sent) = live();
        let calls = Arc::clone(&live.calls);
        let answer = async {
            let request = sent.recv().await.expect("sent");
            let body = Some(Body::ForwardResponse(Bytes::from_static(b"y")));
            let envelopes = vec![Envelope {
                id: request.id,
                body,
            }];
            calls.answer(Frame { envelopes });
        };
        let (got, ()) = tokio::join!(live.call(request(), LONG, Abandoned::IsTold), answer);
        assert_eq!(got.and_then(reply_of), Ok(Bytes::from_static(b"y")));
        assert!(sent.try_recv().is_err());
    }
}
