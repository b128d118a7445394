//! Connections: accepting, limits and time-outs of HTTP/1.1 and HTTP/2 on one listener, with TLS or without, and draining on stop.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower::ServiceExt as _;

use super::address::Peer;
use super::crowd::{Crowd, Place};
use super::outbox::{Outbox, Turns};
use crate::tls::Guard;
use crate::tls::accept::{Entry, Io, REFUSAL_TIME, peek};

/// Buffer for a request head, and with it its limit. Far above the 16 KiB request lines of long queries; past it hyper answers 431.
const HEAD_BYTES_MAX: usize = 128 * 1024;

/// Resets of HTTP/2 streams that a client may be ahead of us, and those that it may make us answer with one: who does nothing but open and
/// reset streams is hung up on (`ENHANCE_YOUR_CALM`).
const RESETS_PENDING_MAX: usize = 64;
const RESETS_CAUSED_MAX: usize = 1024;

/// Parallel requests on one HTTP/2 connection. Above what one client process has in flight.
const STREAMS_MAX: u32 = 1024;

/// Bytes that a peer may send on one HTTP/2 stream unread: one full body.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;

/// The same for a whole connection.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// How often a silent HTTP/2 connection is probed, and how long the answer may take.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIME: Duration = Duration::from_secs(20);

/// How long a connection that was made just before the stop may take to send its request.
const FIRST_BYTES_TIME: Duration = Duration::from_millis(200);

/// Pause after a failed accept, which is nearly always a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a port allows its connections.
#[derive(Clone, Debug)]
pub struct Connections {
    /// Open at once; further ones wait in the kernel's queue.
    pub max: usize,
    /// Of them, those of one address (IPv6: /64); further ones are closed at once.
    pub per_address_max: usize,
    /// Proxies, which stand for many clients and may have any number.
    pub trusted_proxies: Arc<[IpNet]>,
    /// Time for a request head to arrive, which is also how long an idle HTTP/1.1 connection is kept.
    pub head_read_time: Duration,
}

impl Connections {
    /// At most so many, whoever they are of.
    pub fn at_most(max: usize) -> Self {
        Self {
            max,
            per_address_max: max,
            trusted_proxies: Arc::default(),
            head_read_time: HEAD_READ_TIME,
        }
    }
}

/// See [`Connections::head_read_time`].
const HEAD_READ_TIME: Duration = Duration::from_secs(75);

/// Serves `app` until `stop`, then lets running requests end for at most `drain`.
pub async fn serve(
    listener: TcpListener,
    guard: Guard,
    app: Router,
    connections: Connections,
    stop: CancellationToken,
    drain: Duration,
) {
    let open = TaskTracker::new();
    let door = Door {
        open: open.clone(),
        builder: Arc::new(builder(connections.head_read_time)),
        guard,
        app,
        stop: stop.clone(),
        crowd: Crowd::new(connections.per_address_max, connections.trusted_proxies),
        head_read_time: connections.head_read_time,
    };
    let permits = Arc::new(Semaphore::new(connections.max));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &permits) => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(cause) => {
                tracing::warn!(%cause, "accept failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        open.spawn(door.clone().talk(stream, permit));
    }
    for (stream, permit) in connected(listener, &permits) {
        open.spawn(door.clone().talk(stream, permit));
    }
    open.close();
    if timeout(drain, open.wait()).await.is_err() {
        tracing::warn!("requests were cut off: the time to drain is over");
    }
}

/// Closes the listener, and gives the connections that the kernel had completed but nobody had taken: their clients may have sent a
/// request, and would be left without an answer.
///
/// The system is asked itself: the runtime knows of new connections only when it has looked for events.
fn connected(
    listener: TcpListener,
    permits: &Arc<Semaphore>,
) -> Vec<(TcpStream, OwnedSemaphorePermit)> {
    let Ok(listener) = listener.into_std() else {
        return Vec::new();
    };
    let mut connected = Vec::new();
    while let Ok(permit) = Arc::clone(permits).try_acquire_owned()
        && let Ok((stream, _)) = listener.accept()
    {
        let taken = stream
            .set_nonblocking(true)
            .and_then(|()| stream.set_nodelay(true))
            .and_then(|()| TcpStream::from_std(stream));
        connected.extend(taken.ok().map(|stream| (stream, permit)));
    }
    connected
}

/// What each connection needs.
#[derive(Clone)]
struct Door {
    builder: Arc<Builder<TokioExecutor>>,
    guard: Guard,
    app: Router,
    stop: CancellationToken,
    crowd: Arc<Crowd>,
    head_read_time: Duration,
    open: TaskTracker,
}

/// What keeps a connection counted as open: who goes on with it after its last request holds this, and lets go when the node stops.
#[derive(Clone)]
pub(super) struct Seat(Arc<Held>);

struct Held {
    stop: CancellationToken,
    _place: Place,
    _permit: OwnedSemaphorePermit,
    _open: TaskTrackerToken,
}

impl Seat {
    /// Until the node stops.
    pub(super) async fn stopped(&self) {
        self.0.stop.cancelled().await;
    }
}

impl Door {
    /// Serves one connection to its end.
    async fn talk(self, stream: TcpStream, permit: OwnedSemaphorePermit) {
        let peer = stream.peer_addr().ok().map(Peer::from);
        let Some(place) = self.crowd.enter(peer.map(Peer::address)) else {
            tracing::debug!(?peer, "connection closed: its address has too many");
            return;
        };
        let seat = Seat(Arc::new(Held {
            stop: self.stop.clone(),
            _place: place,
            _permit: permit,
            _open: self.open.token(),
        }));
        let patience = self.guard.patience(self.head_read_time);
        let Some(first) = self.begun(peek(&stream), patience).await else {
            return;
        };
        match self.guard.enter(stream, first).await {
            Some(Entry::Open(io)) => self.serve(io, peer, seat).await,
            Some(Entry::Plaintext(io)) => {
                let refusal = Self {
                    app: self.guard.refusal(),
                    ..self
                };
                let _ = timeout(REFUSAL_TIME, refusal.serve(io, peer, seat)).await;
            }
            None => {}
        }
    }

    async fn serve(self, mut io: Io, peer: Option<Peer>, seat: Seat) {
        // A handshake is no request yet.
        if self.begun(io.first(), self.head_read_time).await.is_none() {
            return;
        }
        let app = self.app.map_request(move |mut request: Request<Incoming>| {
            if let Some(peer) = peer {
                request.extensions_mut().insert(peer);
            }
            request.extensions_mut().insert(seat.clone());
            request
        });
        let turns = Turns::default();
        let io = Outbox::new(io, turns.clone());
        let connection = self
            .builder
            .serve_connection_with_upgrades(TokioIo::new(io), TowerToHyperService::new(app))
            .into_owned();
        tokio::pin!(connection);
        let mut stopped = pin!(self.stop.cancelled());
        let mut is_stopping = false;
        let ended = poll_fn(|cx| {
            turns.begin();
            // First of all what has arrived is read: a connection that is told to end before would hang up on it.
            let mut served = connection.as_mut().poll(cx);
            if served.is_pending() && !is_stopping && stopped.as_mut().poll(cx).is_ready() {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
                served = connection.as_mut().poll(cx);
            }
            served
        })
        .await;
        if let Err(cause) = ended {
            tracing::debug!(%cause, "connection ended");
        }
    }

    /// Waits for the first byte; `None` if none comes in time, which is short once the node stops.
    async fn begun(
        &self,
        first: impl Future<Output = Option<u8>>,
        patience: Duration,
    ) -> Option<u8> {
        let stopped = async {
            self.stop.cancelled().await;
            sleep(FIRST_BYTES_TIME).await;
        };
        tokio::select! {
            first = first => first,
            () = stopped => None,
            () = sleep(patience) => None,
        }
    }
}

/// The next connection, with its place among the open ones.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // Answers are written whole; waiting to fill a packet would only delay them.
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}

fn builder(head_read_time: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head_read_time)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(RESETS_CAUSED_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIME);
    builder
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::body::Body;
    use http_body_util::BodyExt as _;
    use hyper::client::conn::http2::{self, SendRequest};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::tls::Port;

    /// Serves `app` on a free port.
    async fn server(app: Router) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(
            listener,
            Guard::new(Port::Client, None),
            app,
            Connections::at_most(10),
            stop.clone(),
            Duration::from_secs(5),
        ));
        (address, stop, served)
    }

    /// Answers with the length of the path.
    fn lengths() -> Router {
        Router::new().fallback(|request: axum::extract::Request| async move {
            request.uri().path().len().to_string()
        })
    }

    async fn ask(stream: &mut TcpStream, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("write");
    }

    async fn answer(mut stream: TcpStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("read");
        text
    }

    #[tokio::test]
    async fn request_lines_of_the_longest_queries_are_taken() {
        let (address, _stop, _) = server(lengths()).await;
        for length in [16 * 1024, 60 * 1024] {
            let mut stream = TcpStream::connect(address).await.expect("connect");
            ask(&mut stream, &format!("/{}", "x".repeat(length - 1))).await;
            let text = answer(stream).await;
            assert!(
                text.starts_with("HTTP/1.1 200") && text.ends_with(&length.to_string()),
                "{text}"
            );
        }
    }

    #[tokio::test]
    async fn http2_is_understood_on_the_same_port() {
        let (address, _stop, _) = server(lengths()).await;
        let mut client = connection(address).await;
        assert_eq!(
            client.send_request(get()).await.expect("answer").status(),
            200
        );
    }

    async fn connection(address: SocketAddr) -> SendRequest<Body> {
        let stream = TcpStream::connect(address).await.expect("connect");
        let io = TokioIo::new(stream);
        let (client, connection) = http2::handshake(TokioExecutor::new(), io)
            .await
            .expect("handshake");
        tokio::spawn(connection);
        client
    }

    fn get() -> Request<Body> {
        let request = Request::get("http://h/abc").body(Body::empty());
        request.expect("request")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_stop_answers_every_http2_request_that_was_begun() {
        for round in 0..20 {
            let begun = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&begun);
            let app = Router::new().fallback(move || async move {
                counted.fetch_add(1, Ordering::SeqCst);
            });
            let (address, stop, served) = server(app).await;
            let client = connection(address).await;
            let running = Arc::new(Notify::new());
            let clients: Vec<_> = (0..64)
                .map(|_| tokio::spawn(ask_until_the_end(client.clone(), Arc::clone(&running))))
                .collect();
            running.notified().await;
            stop.cancel();
            let mut answered = 0;
            for client in clients {
                answered += client.await.expect("no panic");
            }
            served.await.expect("served");
            // The rest was on its way when the server said which streams it takes (GOAWAY), or never left the client.
            assert_eq!(begun.load(Ordering::SeqCst), answered, "round {round}");
        }
    }

    /// Sends one request after the other until one is not answered; gives the number of those that were.
    async fn ask_until_the_end(mut client: SendRequest<Body>, running: Arc<Notify>) -> usize {
        for answered in 0.. {
            let answer = client.send_request(get()).await;
            let is_whole = match answer {
                Ok(answer) => answer.into_body().collect().await.is_ok(),
                Err(_) => false,
            };
            if !is_whole {
                return answered;
            }
            running.notify_one();
        }
        unreachable!("the server ends before the numbers do")
    }

    #[tokio::test]
    async fn a_stop_lets_running_requests_end() {
        let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (signal, wait) = (Arc::clone(&entered), Arc::clone(&leave));
        let app = Router::new().fallback(move || async move {
            signal.notify_one();
            wait.notified().await;
        });
        let (address, stop, served) = server(app).await;
        let mut stream = TcpStream::connect(address).await.expect("connect");
        ask(&mut stream, "/").await;
        entered.notified().await;
        stop.cancel();
        leave.notify_one();
        assert!(answer(stream).await.starts_with("HTTP/1.1 200"));
        served.await.expect("served");
        assert!(TcpStream::connect(address).await.is_err());
    }
}
