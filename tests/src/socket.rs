//! A WebSocket client on plain TCP.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// A server answers within this, or hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// One WebSocket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
}

/// What a server says.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// A message.
    Message(Value),
    /// It closed the socket with this status.
    Closed(u16),
    /// The connection is gone without a word.
    Gone,
}

impl Said {
    /// The message.
    ///
    /// # Panics
    /// If it is none.
    pub fn message(self) -> Value {
        match self {
            Said::Message(message) => message,
            other => panic!("{other:?} is no message"),
        }
    }
}

impl Socket {
    /// Opens `url`, for example `http://127.0.0.1:7400/v1/changes/ws`. `token` goes into the header.
    ///
    /// # Errors
    /// The status of the refusal; 0: nobody is there.
    pub async fn open(url: &str, token: Option<&str>) -> Result<Socket, u16> {
        let address = url.strip_prefix("http://").expect("plain HTTP");
        let host = address.split('/').next().unwrap_or_default();
        let mut request = format!("ws://{address}")
            .into_client_request()
            .expect("an address");
        if let Some(token) = token {
            let value = format!("BAT {token}").parse().expect("a token");
            request.headers_mut().insert("authorization", value);
        }
        let opened = async {
            let tcp = TcpStream::connect(host).await.map_err(|_| 0_u16)?;
            match client_async(request, tcp).await {
                Ok((stream, _)) => Ok(Socket { stream }),
                Err(Error::Http(response)) => Err(response.status().as_u16()),
                Err(_) => Err(0),
            }
        };
        // A node that stands still answers nothing.
        tokio::time::timeout(PATIENCE, opened)
            .await
            .unwrap_or(Err(0))
    }

    /// Sends a text.
    pub async fn say(&mut self, text: &str) {
        self.send(Message::text(text)).await;
    }

    /// Sends bytes that are no text.
    pub async fn say_bytes(&mut self, bytes: &[u8]) {
        self.send(Message::binary(bytes.to_vec())).await;
    }

    /// A server that has hung up is met when it is listened to.
    async fn send(&mut self, message: Message) {
        let _ = self.stream.send(message).await;
    }

    /// What the server says next; pings are answered on the way.
    ///
    /// # Panics
    /// If it says nothing for long, or what is no JSON.
    pub async fn hear(&mut self) -> Said {
        self.hear_within(PATIENCE).await.expect("a message in time")
    }

    /// The same; `None`: nothing in that time.
    pub async fn hear_within(&mut self, time: Duration) -> Option<Said> {
        let heard = async {
            loop {
                match self.stream.next().await {
                    Some(Ok(Message::Text(text))) => {
                        let message = serde_json::from_str(text.as_str()).expect("JSON");
                        return Said::Message(message);
                    }
                    Some(Ok(Message::Close(frame))) => {
                        return frame.map_or(Said::Gone, |frame| Said::Closed(frame.code.into()));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Said::Gone,
                }
            }
        };
        tokio::time::timeout(time, heard).await.ok()
    }

    /// The next message of this type.
    ///
    /// # Panics
    /// If none comes.
    pub async fn next(&mut self, kind: &str) -> Value {
        loop {
            let message = self.hear().await.message();
            if message["type"] == kind {
                return message;
            }
        }
    }
}
