//! The peer port: accepts the other nodes' connections, with their certificates unless the node is insecure.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use proto::peer::peer_server::PeerServer;
use raft::transport::server::PeerService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::tls::Guard;
use crate::tls::accept::{Entry, Io, REFUSAL_TIME, peek};

/// HTTP/2 windows of the peer port, as large as the asking side's.
const PEER_WINDOW_BYTES: u32 = 8 << 20;

/// Connections that have not yet shown who they are; further ones wait in the kernel's queue.
const STRANGERS_MAX: usize = 256;

/// Accepted connections that wait for their server.
const ACCEPTED_MAX: usize = 16;

/// Pause after a failed accept, which is nearly always a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time for a plain connection's first byte.
const FIRST_BYTE_TIME: Duration = Duration::from_secs(5);

/// Serves the other nodes until `stop`.
pub(super) async fn serve(
    listener: TcpListener,
    guard: Guard,
    service: PeerServer<PeerService>,
    stop: CancellationToken,
) {
    let (accepted, incoming) = mpsc::channel(ACCEPTED_MAX);
    let served = tonic::transport::Server::builder()
        .initial_stream_window_size(PEER_WINDOW_BYTES)
        .initial_connection_window_size(PEER_WINDOW_BYTES * 2)
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .add_service(service)
        .serve_with_incoming(ReceiverStream::new(incoming));
    // Links never end by themselves, so there is nothing to wait for.
    tokio::select! {
        () = stop.cancelled() => {}
        () = accept(listener, guard, accepted) => {}
        served = served => if let Err(error) = served {
            tracing::error!(%error, "peer port failed");
        },
    }
}

/// Hands over those who may speak, for as long as somebody takes them.
async fn accept(listener: TcpListener, guard: Guard, accepted: mpsc::Sender<io::Result<Io>>) {
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    while let Ok(place) = Arc::clone(&strangers).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(admit(guard.clone(), stream, accepted.clone(), place));
            }
            Err(cause) => {
                tracing::warn!(%cause, "accept failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn admit(
    guard: Guard,
    stream: TcpStream,
    accepted: mpsc::Sender<io::Result<Io>>,
    place: OwnedSemaphorePermit,
) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let Ok(Some(first)) = timeout(FIRST_BYTE_TIME, peek(&stream)).await else {
        return;
    };
    match guard.enter(stream, first).await {
        Some(Entry::Open(io)) => {
            // The node is stopping if nobody takes it.
            let _ = accepted.send(Ok(io)).await;
        }
        Some(Entry::Plaintext(io)) => {
            let builder = Builder::new(TokioExecutor::new());
            let refusal = TowerToHyperService::new(guard.refusal());
            let refused = builder.serve_connection(TokioIo::new(io), refusal);
            let _ = timeout(REFUSAL_TIME, refused).await;
        }
        None => {}
    }
    drop(place);
}
