//! Real-time queries at `/events`: over a WebSocket, as the SDK speaks it up to 3.x (contract section 10), or a single one as server-sent
//! events.
//!
//! Each subscription has a task of its own that writes its frames, in order; they go out through one bounded channel. While the client
//! takes nothing the tasks wait, and what changes meanwhile is bounded by the service.
//!
//! An error ends the subscription that it names, and no other. Only where this node cannot tell any more does the socket end: clients
//! connect again then, perhaps to another node, and begin with the result.
//!
//! | part | owns |
//! |---|---|
//! | `said` | messages of clients |
//! | `told` | messages to them |
//! | `sse` | server-sent events |

mod said;
mod sse;
mod told;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::response::Response;
use http::HeaderValue;
use http::header::{ACCEPT, AUTHORIZATION, HeaderMap, UPGRADE};
use http::request::Parts;
use proto::ErrorCode;
use service::{Caller, Context, Error, LiveRequest};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use self::said::{Said, Verb};
use super::changes::EVENT_STREAM;
use super::edge::{Call, Shared};
use super::error::refuse;
use super::socket::{self, End, Socket, Spoken};

/// Frames of all subscriptions of a socket that wait to be sent; then they wait where they come from.
const FRAMES_MAX: usize = 64;

/// `GET /events`.
pub(crate) async fn open(call: Call<'_>) -> Result<Response, Error> {
    let headers = call.headers();
    let is_stream = headers.get(ACCEPT).is_some_and(|accept| {
        accept
            .as_bytes()
            .windows(EVENT_STREAM.len())
            .any(|part| part.eq_ignore_ascii_case(EVENT_STREAM.as_bytes()))
    });
    if is_stream && !headers.contains_key(UPGRADE) {
        return sse::follow(call).await;
    }
    let ctx = call.context()?;
    let (shared, head) = (Arc::clone(call.shared), call.head.clone());
    socket::upgrade(&call, move |socket| {
        Talk::new(socket, shared, head, ctx).run()
    })
}

/// One socket.
struct Talk {
    socket: Socket,
    desk: Desk,
    out: mpsc::Receiver<Told>,
}

/// What a socket's subscriptions have in common.
struct Desk {
    shared: Arc<Shared>,
    /// Of the handshake.
    head: Parts,
    ctx: Context,
    open: HashMap<String, Subscription>,
    /// Subscriptions so far: one that takes another's name is another one.
    count: u64,
    told: mpsc::Sender<Told>,
}

struct Subscription {
    number: u64,
    task: JoinHandle<()>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a subscription has to tell.
struct Told {
    id: String,
    number: u64,
    what: Result<String, Error>,
}

impl Talk {
    fn new(socket: Socket, shared: Arc<Shared>, head: Parts, ctx: Context) -> Talk {
        let (told, out) = mpsc::channel(FRAMES_MAX);
        Talk {
            socket,
            desk: Desk {
                shared,
                head,
                ctx,
                open: HashMap::new(),
                count: 0,
                told,
            },
            out,
        }
    }

    async fn run(mut self) -> Spoken {
        let why = loop {
            let step = tokio::select! {
                said = self.socket.receive() => match said {
                    Ok(text) => self.hear(&text).await,
                    Err(end) => Err(end),
                },
                Some(told) = self.out.recv() => self.tell(told).await,
            };
            if let Err(end) = step {
                break end;
            }
        };
        self.socket.end(why)
    }

    async fn hear(&mut self, text: &str) -> Result<(), End> {
        match self.desk.hear(text).await {
            Some(refusal) => self.socket.send(refusal).await,
            None => Ok(()),
        }
    }

    /// Sends what there is to tell, together with what else waits.
    async fn tell(&mut self, first: Told) -> Result<(), End> {
        let mut frames: Vec<Utf8Bytes> = Vec::new();
        let (mut next, mut end) = (Some(first), None);
        while let Some(told) = next.take() {
            match self.desk.frame(told) {
                Ok(frame) => frames.extend(frame.map(Utf8Bytes::from)),
                Err(why) => {
                    end = Some(why);
                    break;
                }
            }
            if frames.len() < FRAMES_MAX {
                next = self.out.try_recv().ok();
            }
        }
        self.socket.send_all(frames).await?;
        end.map_or(Ok(()), Err)
    }
}

impl Desk {
    /// Does what a message asks for; gives the answer if it cannot.
    async fn hear(&mut self, text: &str) -> Option<String> {
        let now_us = self.shared.service.now_us();
        let Said { id, verb } = match said::read(text) {
            Ok(said) => said,
            Err(error) => return Some(told::error(None, &error, now_us)),
        };
        // A name that is used again is another subscription's from now on.
        self.open.remove(&id);
        let done = match verb {
            Ok(Verb::Unsubscribe) => Ok(()),
            Ok(Verb::Subscribe { request, token }) => self.subscribe(&id, request, token).await,
            Err(error) => Err(error),
        };
        done.err()
            .map(|error| told::error(Some(&id), &error, now_us))
    }

    async fn subscribe(
        &mut self,
        id: &str,
        request: LiveRequest,
        token: Option<String>,
    ) -> Result<(), Error> {
        let most = self.shared.limits.live_per_socket_max;
        if self.open.len() >= most {
            let message = format!("a WebSocket has at most {most} subscriptions");
            return Err(refuse(ErrorCode::TooManyRequests, message));
        }
        let ctx = self.context(token).await?;
        self.count += 1;
        let number = self.count;
        let follower = Follower {
            shared: Arc::clone(&self.shared),
            told: self.told.clone(),
            id: id.to_owned(),
            number,
        };
        let task = tokio::spawn(follower.follow(ctx, request));
        let subscription = Subscription { number, task };
        self.open.insert(id.to_owned(), subscription);
        Ok(())
    }

    /// Who subscribes. Counted like a request.
    async fn context(&self, token: Option<String>) -> Result<Context, Error> {
        let mut head = self.head.clone();
        if let Some(token) = &token {
            name_caller(&mut head.headers, token)?;
        }
        let gate = &self.shared.gate;
        gate.admit(&self.shared.service, &head, &self.ctx.database)
            .await
            .map_err(|too_often| too_often.error)?;
        Ok(Context {
            caller: token.map_or_else(|| self.ctx.caller.clone(), Caller::Token),
            deadline: Instant::now() + self.shared.limits.request_time,
            ..self.ctx.clone()
        })
    }

    /// The frame to send; none of a subscription that is over.
    fn frame(&mut self, told: Told) -> Result<Option<String>, End> {
        let open = self.open.get(&told.id);
        if open.is_none_or(|open| open.number != told.number) {
            return Ok(None);
        }
        match told.what {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.code == ErrorCode::Unavailable => Err(End::Elsewhere),
            Err(error) => {
                self.open.remove(&told.id);
                let now_us = self.shared.service.now_us();
                Ok(Some(told::error(Some(&told.id), &error, now_us)))
            }
        }
    }
}

/// Writes the frames of one subscription.
struct Follower {
    shared: Arc<Shared>,
    told: mpsc::Sender<Told>,
    id: String,
    number: u64,
}

impl Follower {
    async fn follow(self, ctx: Context, request: LiveRequest) {
        if let Err(error) = self.read(ctx, request).await {
            self.tell(Err(error)).await;
        }
    }

    async fn read(&self, ctx: Context, request: LiveRequest) -> Result<(), Error> {
        let permit = self.shared.permit()?;
        let mut live = self.shared.service.subscribe(&ctx, request).await?;
        // Who waits is no request in flight.
        drop(permit);
        loop {
            let frame = live.next().await?;
            if !self.tell(Ok(told::frame(&self.id, &frame))).await {
                return Ok(());
            }
        }
    }

    /// False: there is nobody to tell.
    async fn tell(&self, what: Result<String, Error>) -> bool {
        let told = Told {
            id: self.id.clone(),
            number: self.number,
            what,
        };
        self.told.send(told).await.is_ok()
    }
}

/// Puts a token where requests have it.
fn name_caller(headers: &mut HeaderMap, token: &str) -> Result<(), Error> {
    let value = HeaderValue::try_from(format!("BAT {token}"));
    let value = value.map_err(|_| refuse(ErrorCode::BadCredentials, "the token is none"))?;
    headers.insert(AUTHORIZATION, value);
    Ok(())
}
