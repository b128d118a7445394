//! What an HTTP/2 connection sends, gathered over a turn of the scheduler: one write for the answers of many requests.
//!
//! Each answer wakes the task of its connection, and the runtime lets that run next, before the other answers are there: it would make
//! a system call for each of them, and wake the client as often. Here frames are put into a buffer first, and "flush" means: at the
//! connection's next turn, when all tasks that are ready now have run.
//!
//! Invariants: a connection that has something in its buffer has asked to be run again, or waits for its socket; bytes leave in order;
//! the buffer is bounded, and past the bound writing waits for the socket; shutting down sends all of it before. Whoever runs the
//! connection says when a turn begins ([`Turns::begin`]); without that the buffer would wait for ever.
//!
//! HTTP/1.1 has one answer at a time, and passes through.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that may wait for the end of a turn: the answers to what one client has in flight, or four frames of a large one.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// As much by itself is no answer to gather: copying it would cost more than the call that it saves.
const GATHERED_BYTES_MAX: usize = 8 * 1024;

/// What each HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI ";

/// Counts how often a connection's task has been run.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<AtomicU64>);

impl Turns {
    /// A turn begins.
    pub(super) fn begin(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection with a buffer for what it sends.
pub(super) struct Outbox<T> {
    io: T,
    turns: Turns,
    version: Version,
    buffer: BytesMut,
    /// The turn in which the buffer was to be flushed.
    asked: Option<u64>,
}

/// What the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// It has said nothing.
    Unknown,
    One,
    Two,
}

impl<T> Outbox<T> {
    pub(super) fn new(io: T, turns: Turns) -> Self {
        Self {
            io,
            turns,
            version: Version::Unknown,
            buffer: BytesMut::new(),
            asked: None,
        }
    }
}

impl<T: AsyncWrite + Unpin> Outbox<T> {
    /// Hands the buffer to the socket.
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, &self.buffer))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.buffer.advance(sent);
        }
        self.asked = None;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Makes room for `bytes`; whether they go through the buffer.
    fn make_room(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<bool>> {
        let gathers = self.version == Version::Two && bytes <= GATHERED_BYTES_MAX;
        if !gathers || self.buffer.len() + bytes > BUFFER_BYTES_MAX {
            ready!(self.send(cx))?;
        }
        Poll::Ready(Ok(gathers))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Outbox<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A connection reads in each of its turns.
        if this.asked.is_some_and(|asked| asked != this.turns.now())
            && let Poll::Ready(Err(error)) = this.send(cx)
        {
            return Poll::Ready(Err(error));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        if this.version == Version::Unknown && !read.is_empty() {
            this.version = if read.starts_with(PREFACE) {
                Version::Two
            } else {
                Version::One
            };
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Outbox<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if ready!(this.make_room(cx, buf.len()))? {
            this.buffer.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut this.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let bytes = bufs.iter().map(|buf| buf.len()).sum();
        if ready!(this.make_room(cx, bytes))? {
            for buf in bufs {
                this.buffer.extend_from_slice(buf);
            }
            return Poll::Ready(Ok(bytes));
        }
        Pin::new(&mut this.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.buffer.is_empty() {
            return Pin::new(&mut this.io).poll_flush(cx);
        }
        if this.asked.is_none() {
            this.asked = Some(this.turns.now());
            // A task that wakes itself goes behind all that are ready.
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.send(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::poll;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// A connection whose client has said `hello`; the client's end; and what counts turns.
    async fn connected(hello: &[u8], room: usize) -> (Outbox<DuplexStream>, DuplexStream, Turns) {
        let (io, mut client) = duplex(room);
        let turns = Turns::default();
        let mut outbox = Outbox::new(io, turns.clone());
        client.write_all(hello).await.expect("sent");
        let mut heard = vec![0; hello.len()];
        outbox.read_exact(&mut heard).await.expect("heard");
        assert_eq!(heard, hello);
        (outbox, client, turns)
    }

    /// Reads as a connection does in each of its turns.
    async fn run(outbox: &mut Outbox<DuplexStream>) {
        assert!(poll!(Box::pin(outbox.read_u8())).is_pending());
    }

    /// What has reached the client.
    async fn arrived(client: &mut DuplexStream) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        match poll!(Box::pin(client.read(&mut bytes))) {
            Poll::Ready(read) => bytes.truncate(read.expect("open")),
            Poll::Pending => bytes.clear(),
        }
        bytes
    }

    #[tokio::test]
    async fn what_is_sent_in_a_turn_leaves_at_the_next() {
        let (mut outbox, mut client, turns) = connected(b"PRI * HTTP/2.0", 1 << 20).await;
        for part in [b"a", b"b", b"c"] {
            outbox.write_all(part).await.expect("taken");
            outbox.flush().await.expect("asked");
            run(&mut outbox).await;
        }
        assert_eq!(arrived(&mut client).await, b"", "its turn is not over");
        turns.begin();
        run(&mut outbox).await;
        assert_eq!(arrived(&mut client).await, b"abc");
        turns.begin();
        outbox.write_all(b"d").await.expect("taken");
        outbox.flush().await.expect("asked");
        turns.begin();
        run(&mut outbox).await;
        assert_eq!(arrived(&mut client).await, b"d");
    }

    #[tokio::test]
    async fn large_parts_overtake_nothing_and_the_buffer_is_bounded() {
        let (mut outbox, mut client, _) = connected(b"PRI * HTTP/2.0", 1 << 20).await;
        outbox.write_all(b"a").await.expect("taken");
        let large = vec![b'l'; GATHERED_BYTES_MAX + 1];
        outbox.write_all(&large).await.expect("taken");
        assert_eq!(arrived(&mut client).await, [b"a", &large[..]].concat());

        let (mut outbox, mut client, _) = connected(b"PRI * HTTP/2.0", 16).await;
        let part = vec![b'p'; GATHERED_BYTES_MAX];
        let mut taken = 0;
        while poll!(Box::pin(outbox.write(&part))).is_ready() {
            taken += 1;
        }
        assert_eq!(taken, BUFFER_BYTES_MAX / GATHERED_BYTES_MAX);
        assert_eq!(outbox.buffer.len() + 16, BUFFER_BYTES_MAX);
        // Nothing is lost of what waited, in whatever pieces it leaves.
        let (sent, received) = tokio::join!(
            async {
                outbox.write_all(b"end").await?;
                outbox.shutdown().await
            },
            async {
                let mut bytes = Vec::new();
                client.read_to_end(&mut bytes).await.map(|_| bytes)
            }
        );
        sent.expect("sent");
        let received = received.expect("received");
        assert_eq!(received.len(), BUFFER_BYTES_MAX + 3);
        assert!(received.ends_with(b"pend"));
    }

    #[tokio::test]
    async fn http_1_does_not_wait() {
        let (mut outbox, mut client, _) = connected(b"PUT / HTTP/1.1", 1 << 20).await;
        outbox.write_all(b"a").await.expect("taken");
        assert_eq!(arrived(&mut client).await, b"a");
    }

    #[tokio::test]
    async fn the_end_of_a_connection_sends_what_waits() {
        let (mut outbox, mut client, _) = connected(b"PRI * HTTP/2.0", 1 << 20).await;
        outbox.write_all(b"bye").await.expect("taken");
        outbox.flush().await.expect("asked");
        outbox.shutdown().await.expect("shut down");
        assert_eq!(arrived(&mut client).await, b"bye");
    }
}
