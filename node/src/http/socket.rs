//! WebSockets: a request of HTTP/1.1 becomes a conversation in text messages, for as long as both sides and the node want it.
//!
//! [`upgrade`] answers the request with 101 and gives the [`Socket`] to whoever talks. A browser cannot send headers with such a request,
//! so who talks takes the caller's token from the first message where the `authorization` header has none. Every origin is let in, as
//! everywhere (`cors`): a token is no cookie, so a foreign page cannot borrow one.
//!
//! Invariants:
//! - A socket counts as a connection of its address and of the port until it ends, and as one of `websockets_max`.
//! - It holds at most one message on the way out. A client that takes none for [`SEND_TIME`] is hung up on; one that is silent is asked
//!   after [`PING_INTERVAL`] whether it is there, and must answer within [`PONG_TIME`].
//! - When the node stops, every socket ends with a close frame of status 1001, within the time that it drains.
//!
//! Lacks: binary messages, compression, and HTTP/2 (clients open a connection of HTTP/1.1 unless a server says otherwise).

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use futures::{SinkExt as _, StreamExt as _};
use http::header::{
    CONNECTION, HeaderMap, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderValue, Method, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use metrics::{counter, gauge};
use proto::ErrorCode;
use service::Error;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

use super::edge::Call;
use super::error::refuse;
use super::server::Seat;
use crate::telemetry::{WEBSOCKETS_ENDED_TOTAL, WEBSOCKETS_OPEN};

/// Bytes of one message of a client: the longest resume token, and a filter beside it.
pub(crate) const MESSAGE_BYTES_MAX: usize = 512 * 1024;
/// Bytes that are read at once. Clients say little, and each socket holds as much for all its life.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// Small messages are gathered up to so many bytes, then written together.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;
/// How long a client may take nothing of what it is sent.
pub(crate) const SEND_TIME: Duration = Duration::from_secs(20);
/// After so much silence a client is asked whether it is there.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long its answer may take.
pub(crate) const PONG_TIME: Duration = Duration::from_secs(20);
/// How long the last words may take, and the client's.
const CLOSE_TIME: Duration = Duration::from_secs(1);
/// The version of the protocol, RFC 6455.
const VERSION: &str = "13";

/// Why a socket ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// What was said last is an error.
    Refused,
    /// The client left, or does not answer any more.
    Gone,
    /// The client took nothing for too long.
    Slow,
    /// The client sent something else than text.
    NotText,
    /// The client sent a message above [`MESSAGE_BYTES_MAX`].
    TooLong,
    /// This node cannot go on; the client can, here or at another one.
    Elsewhere,
    /// The node stops; the client goes on at another one.
    Stopping,
}

impl End {
    /// The status that the client reads, and the words with it; `None`: there is nobody to read them.
    fn close(self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::Gone | Self::Slow => return None,
            Self::Refused => (CloseCode::Policy, "see the last message"),
            Self::NotText => (CloseCode::Unsupported, "only text messages are understood"),
            Self::TooLong => (CloseCode::Size, "the message is longer than 512 KiB"),
            Self::Elsewhere => (CloseCode::Again, "the node cannot tell now: connect again"),
            Self::Stopping => (CloseCode::Away, "the node stops"),
        };
        Some(CloseFrame {
            code,
            reason: Utf8Bytes::from_static(reason),
        })
    }

    /// Label of the metric.
    fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Gone => "gone",
            Self::Slow => "slow",
            Self::NotText => "not_text",
            Self::TooLong => "too_long",
            Self::Elsewhere => "elsewhere",
            Self::Stopping => "stopping",
        }
    }
}

/// Answers a request with a WebSocket, on which `talk` speaks until it returns why it ends.
///
/// The request's permit is not needed any more; sockets have a limit of their own.
///
/// # Errors
/// `BadRequest`: this is no handshake of a WebSocket over HTTP/1.1. `TooManyRequests`: the node has `websockets_max` open.
/// `Unavailable`: the node stops.
pub(crate) fn upgrade<F>(
    call: &Call<'_>,
    talk: impl FnOnce(Socket) -> F + Send + 'static,
) -> Result<Response, Error>
where
    F: Future<Output = Spoken> + Send + 'static,
{
    let accept = accept(call.headers()).filter(|_| call.head.method == Method::GET);
    let accept = accept.ok_or_else(not_a_handshake)?;
    let extensions = &call.head.extensions;
    let (Some(upgrade), Some(seat)) = (extensions.get::<OnUpgrade>(), extensions.get::<Seat>())
    else {
        return Err(not_a_handshake());
    };
    if call.shared.service.declines() {
        return Err(Error::unavailable("this node stops, or is slow"));
    }
    let place = Place::new(call.shared.websocket_permit()?);
    let (upgrade, seat) = (upgrade.clone(), seat.clone());
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                let Spoken { socket, why } = talk(Socket::new(upgraded, seat).await).await;
                counter!(WEBSOCKETS_ENDED_TOTAL, "why" => why.name()).increment(1);
                socket.close(why).await;
            }
            Err(cause) => tracing::debug!(%cause, "a WebSocket did not come to be"),
        }
        drop(place);
    });
    Ok(switching(accept))
}

/// What a talk leaves behind, see [`Socket::end`].
pub(crate) struct Spoken {
    socket: Socket,
    why: End,
}

fn switching(accept: HeaderValue) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// What proves to the client that its handshake was understood; `None`: it is none.
fn accept(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_one = names(headers, &CONNECTION, "upgrade")
        && names(headers, &UPGRADE, "websocket")
        && names(headers, &SEC_WEBSOCKET_VERSION, VERSION);
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| is_one)?;
    HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok()
}

/// Whether a header that is a list has this word.
fn names(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter();
    let words = values.filter_map(|value| value.to_str().ok());
    words
        .flat_map(|words| words.split(','))
        .any(|named| named.trim().eq_ignore_ascii_case(word))
}

fn not_a_handshake() -> Error {
    let message = "this address speaks WebSocket, version 13, over HTTP/1.1 alone";
    refuse(ErrorCode::BadRequest, message)
}

/// A place among the open sockets.
struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit) -> Place {
        gauge!(WEBSOCKETS_OPEN).increment(1);
        Place { _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        gauge!(WEBSOCKETS_OPEN).decrement(1);
    }
}

/// One WebSocket.
pub(crate) struct Socket {
    stream: WebSocketStream<TokioIo<Upgraded>>,
    seat: Seat,
    /// When to ask the client whether it is there; once it is asked, when to give it up.
    look_at: Instant,
    is_asked: bool,
}

impl Socket {
    async fn new(upgraded: Upgraded, seat: Seat) -> Socket {
        // What waits to be written has no bound here: `send` lets nothing wait.
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let io = TokioIo::new(upgraded);
        Socket {
            stream: WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await,
            seat,
            look_at: Instant::now() + PING_INTERVAL,
            is_asked: false,
        }
    }

    /// The next message of the client; looks after the connection while it waits.
    ///
    /// Cancel-safe: nothing is lost with a dropped future.
    ///
    /// # Errors
    /// Why there is none any more: give it to [`Self::end`], after a last message if there is something to say.
    pub(crate) async fn receive(&mut self) -> Result<Utf8Bytes, End> {
        loop {
            tokio::select! {
                biased;
                () = self.seat.stopped() => return Err(End::Stopping),
                said = self.stream.next() => {
                    if let Some(text) = self.hear(said)? {
                        return Ok(text);
                    }
                }
                () = sleep_until(self.look_at) => self.look().await?,
            }
        }
    }

    fn hear(
        &mut self,
        said: Option<Result<Message, tungstenite::Error>>,
    ) -> Result<Option<Utf8Bytes>, End> {
        self.look_at = Instant::now() + PING_INTERVAL;
        self.is_asked = false;
        match said {
            Some(Ok(Message::Text(text))) => Ok(Some(text)),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(None),
            Some(Ok(Message::Binary(_)) | Err(tungstenite::Error::Utf8(_))) => Err(End::NotText),
            Some(Err(tungstenite::Error::Capacity(CapacityError::MessageTooLong { .. }))) => {
                Err(End::TooLong)
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => Err(End::Gone),
        }
    }

    /// A client was silent for long.
    async fn look(&mut self) -> Result<(), End> {
        if self.is_asked {
            return Err(End::Gone);
        }
        self.is_asked = true;
        self.look_at = Instant::now() + PONG_TIME;
        sent(
            &self.seat,
            self.stream.send(Message::Ping(Default::default())),
        )
        .await
    }

    /// Sends a message, and returns when it is with the system.
    ///
    /// # Errors
    /// As [`Self::receive`]; the message may be lost.
    pub(crate) async fn send(&mut self, text: impl Into<Utf8Bytes>) -> Result<(), End> {
        self.send_all([text.into()]).await
    }

    /// Sends several messages in as few writes as there may be.
    ///
    /// # Errors
    /// As [`Self::receive`]; those at the end may be lost.
    pub(crate) async fn send_all(
        &mut self,
        texts: impl IntoIterator<Item = Utf8Bytes>,
    ) -> Result<(), End> {
        for text in texts {
            sent(&self.seat, self.stream.feed(Message::Text(text))).await?;
        }
        sent(&self.seat, self.stream.flush()).await
    }

    /// Ends the talk.
    pub(crate) fn end(self, why: End) -> Spoken {
        Spoken { socket: self, why }
    }

    async fn close(mut self, why: End) {
        let closing = async {
            self.stream.close(why.close()).await?;
            // The system would take back our last words if it found something of the client's unread.
            match why {
                End::TooLong => {
                    tokio::io::copy(self.stream.get_mut(), &mut tokio::io::sink()).await?;
                }
                _ => while self.stream.next().await.transpose()?.is_some() {},
            }
            Ok::<_, tungstenite::Error>(())
        };
        // Whatever comes of it, this is the end.
        let _ = timeout(CLOSE_TIME, closing).await;
    }
}

/// Waits until something is sent.
async fn sent(
    seat: &Seat,
    sending: impl Future<Output = Result<(), tungstenite::Error>>,
) -> Result<(), End> {
    tokio::select! {
        biased;
        sent = timeout(SEND_TIME, sending) => match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Slow),
        },
        () = seat.stopped() => Err(End::Stopping),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake(changed: &[(&'static str, &'static str)]) -> HeaderMap {
        let usual = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let headers = usual.into_iter().chain(changed.iter().copied());
        let headers = headers.map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.insert(name, value);
        }
        all
    }

    #[test]
    fn a_handshake_is_answered_as_the_rfc_does() {
        let accept = accept(&handshake(&[])).expect("a handshake");
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for changed in [
            ("connection", "keep-alive"),
            ("upgrade", "h2c"),
            ("sec-websocket-version", "8"),
        ] {
            assert_eq!(super::accept(&handshake(&[changed])), None, "{changed:?}");
        }
    }

    #[test]
    fn who_is_there_is_told_why_it_ends() {
        for end in [
            End::Refused,
            End::NotText,
            End::TooLong,
            End::Elsewhere,
            End::Stopping,
        ] {
            assert!(end.close().is_some(), "{end:?}");
        }
        assert_eq!(
            u16::from(End::Stopping.close().expect("a frame").code),
            1001
        );
        assert_eq!(End::Gone.close(), None);
    }
}
