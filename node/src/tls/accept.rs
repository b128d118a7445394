//! From an accepted TCP connection to one that may be served.
//!
//! The first byte tells TLS (a handshake record, 0x16) from plain text. Who speaks the other one than the port is told so in
//! its own language: an HTTP or gRPC error in plain text, or a TLS alert. Handshakes under way are bounded in number and in
//! time, so that those who begin one and say nothing more hold neither memory nor places for long.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::{Keyring, nodes, refusal};

/// From the first byte to the end of the handshake, the wait for a place included; also the wait for the first byte.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// Handshakes under way on a port; further ones wait for a place. Each takes some 40 KiB and, at its end, a signature.
const HANDSHAKES_MAX: usize = 256;

/// The answer to the wrong language is given within this.
pub(crate) const REFUSAL_TIME: Duration = Duration::from_secs(5);

/// Refused handshakes are told no more often, or anybody could fill the log.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What a TLS connection begins with.
const HANDSHAKE_RECORD: u8 = 0x16;

/// A fatal alert, `insufficient_security`, in the record form of TLS 1.0, which every version reads. No TLS server in use sends it
/// for another reason, so that a node that dials in plain text by mistake can be told apart.
const ALERT: [u8; 7] = [0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x47];

/// Which of a node's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Documents, over HTTP and gRPC.
    Client,
    /// Metrics and operators.
    Admin,
    /// The other nodes.
    Peer,
}

impl Port {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Admin => "admin",
            Self::Peer => "peer",
        }
    }
}

/// What stands before a port.
#[derive(Clone)]
pub struct Guard {
    port: Port,
    /// `None`: plain text.
    keyring: Option<Arc<Keyring>>,
    handshakes: Arc<Semaphore>,
    told: Arc<Told>,
}

/// When a refusal was last told, as milliseconds since `start` plus one; 0: never.
struct Told {
    start: Instant,
    last: AtomicU64,
}

/// A connection that may be served, or must be refused.
pub(crate) enum Entry {
    /// Served.
    Open(Io),
    /// In plain text on a TLS port: [`Guard::refusal`] answers it, within [`REFUSAL_TIME`].
    Plaintext(Io),
}

/// Bytes as a server reads and writes them.
pub(crate) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Guard {
    /// Without a keyring the port speaks plain text.
    pub fn new(port: Port, keyring: Option<Arc<Keyring>>) -> Self {
        Self {
            port,
            keyring,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            told: Arc::new(Told {
                start: Instant::now(),
                last: AtomicU64::new(0),
            }),
        }
    }

    /// How long a connection may stay silent before its first byte; `otherwise` without TLS, where that is a client's pause
    /// between requests. With TLS the client speaks first and at once.
    pub(crate) fn patience(&self, otherwise: Duration) -> Duration {
        match self.keyring {
            Some(_) => HANDSHAKE_TIME,
            None => otherwise,
        }
    }

    /// Shakes hands, given the first byte that came and still lies in `stream`; `None`: the connection is over.
    pub(crate) async fn enter(&self, mut stream: TcpStream, first: u8) -> Option<Entry> {
        let from = stream.peer_addr().map(|address| address.ip()).ok();
        let Some(keyring) = &self.keyring else {
            if first == HANDSHAKE_RECORD {
                self.tell(
                    from,
                    "TLS on a port that speaks plain text (security.insecure)",
                );
                let refused = async {
                    stream.write_all(&ALERT).await?;
                    hang_up(&mut stream).await
                };
                let _ = timeout(REFUSAL_TIME, refused).await;
                return None;
            }
            return Some(Entry::Open(Io::Plain(stream)));
        };
        if first != HANDSHAKE_RECORD {
            self.tell(from, "plain text on a port that speaks TLS");
            return Some(Entry::Plaintext(Io::Plain(stream)));
        }
        let acceptor = TlsAcceptor::from(keyring.accepting(self.port));
        let handshake = async {
            // Never closed.
            let _place = self.handshakes.acquire().await;
            acceptor.accept(stream).into_fallible().await
        };
        match timeout(HANDSHAKE_TIME, handshake).await {
            Ok(Ok(stream)) => Some(Entry::Open(Io::Tls(Box::new(stream)))),
            Ok(Err((error, mut stream))) => {
                let cause = error.get_ref().and_then(|inner| inner.downcast_ref());
                match cause.and_then(nodes::explain) {
                    Some(meaning) if self.port == Port::Peer => {
                        self.tell(from, &format!("{error}; {meaning}"));
                    }
                    Some(_) | None => self.tell(from, &error.to_string()),
                }
                // The alert with the reason is sent, and the client may have sent its first request.
                let _ = timeout(REFUSAL_TIME, hang_up(&mut stream)).await;
                None
            }
            Err(_) => {
                self.tell(from, "the handshake took too long");
                None
            }
        }
    }

    /// Answers what came in plain text to a TLS port, in HTTP or gRPC.
    pub(crate) fn refusal(&self) -> Router {
        refusal::router(self.port)
    }

    /// A warning where other nodes are concerned; strangers knock at the other ports every minute.
    fn tell(&self, from: Option<IpAddr>, error: &str) {
        let from = from.map(|from| from.to_string()).unwrap_or_default();
        let port = self.port.name();
        if !self.told.is_due() {
            tracing::debug!(port, from, error, "connection refused");
        } else if self.port == Port::Peer {
            tracing::warn!(port, from, error, "connection refused");
        } else {
            tracing::info!(port, from, error, "connection refused");
        }
    }
}

impl Told {
    fn is_due(&self) -> bool {
        let now = self.start.elapsed().as_millis() as u64 + 1;
        let last = self.last.load(Ordering::Relaxed);
        let due = last == 0 || now - last.min(now) >= TELL_EVERY.as_millis() as u64;
        due && self
            .last
            .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }
}

/// Ends the connection, and reads what is under way: closing a socket with unread bytes would destroy what was said last.
async fn hang_up(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = tokio::io::AsyncReadExt::take(stream, u64::from(u16::MAX));
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}

impl Io {
    /// The first byte of what the client sends, which stays unread; `None`: it hung up.
    ///
    /// Cancelling it loses nothing.
    pub(crate) async fn first(&mut self) -> Option<u8> {
        match self {
            Self::Plain(stream) => peek(stream).await,
            Self::Tls(stream) => stream
                .fill_buf()
                .await
                .ok()
                .and_then(|bytes| bytes.first().copied()),
        }
    }
}

/// The first byte that came, which stays unread; `None`: the other side hung up.
pub(crate) async fn peek(stream: &TcpStream) -> Option<u8> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1..) => Some(first[0]),
        Ok(0) | Err(_) => None,
    }
}

impl Connected for Io {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_once_a_second() {
        let told = Told {
            start: Instant::now(),
            last: AtomicU64::new(0),
        };
        assert!(told.is_due());
        assert!(!told.is_due());
        told.last.store(1, Ordering::Relaxed);
        let earlier = Told {
            start: Instant::now()
                .checked_sub(TELL_EVERY * 2)
                .expect("the machine runs for longer"),
            last: AtomicU64::new(1),
        };
        assert!(earlier.is_due());
    }
}
