//! Batches envelopes into frames: whatever waits when the connection can take more goes out together.
//!
//! A frame is made after a turn of the scheduler in which nothing was added to it: tasks that are ready now get to add
//! theirs, and so do those that they wake. On an idle node such a turn is over at once; on a busy one it saves a system
//! call here, and a wake-up and a sync over there, for each envelope that joined.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use prost::Message as _;
use proto::peer::{Envelope, Frame};
use tokio::sync::mpsc::Receiver;

/// Envelopes of one frame.
const FRAME_ENVELOPES_MAX: usize = 512;

/// Bytes of one frame, soft: one more envelope may exceed it, so a frame stays under twice the largest envelope.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// Largest frame that a peer accepts: a soft-limited frame plus one envelope with a maximal append.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Turns of the scheduler that a frame waits at most.
const TURNS_MAX: u32 = 8;

/// Envelopes that may wait for a connection.
pub(super) const QUEUE_ENVELOPES: usize = 16 * 1024;

/// Turns a queue of envelopes into frames. Ends when the queue's senders are gone.
pub(super) struct Frames {
    queue: Receiver<Envelope>,
    waiting: Vec<Envelope>,
    bytes: usize,
    /// Turns given to others since the first envelope.
    turns: u32,
}

impl Frames {
    pub(super) fn new(queue: Receiver<Envelope>) -> Self {
        Self {
            queue,
            waiting: Vec::new(),
            bytes: 0,
            turns: 0,
        }
    }
}

impl Stream for Frames {
    type Item = Frame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        let this = &mut *self;
        let before = this.waiting.len();
        let mut ended = false;
        while !this.is_full() && !ended {
            match this.queue.poll_recv(cx) {
                Poll::Ready(Some(envelope)) => {
                    this.bytes += envelope.encoded_len();
                    this.waiting.push(envelope);
                }
                Poll::Ready(None) => ended = true,
                Poll::Pending => break,
            }
        }
        if this.waiting.is_empty() {
            return if ended {
                Poll::Ready(None)
            } else {
                Poll::Pending
            };
        }
        let grew = this.waiting.len() > before;
        if grew && this.turns < TURNS_MAX && !ended && !this.is_full() {
            this.turns += 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.turns = 0;
        this.bytes = 0;
        Poll::Ready(Some(Frame {
            envelopes: std::mem::take(&mut this.waiting),
        }))
    }
}

impl Frames {
    fn is_full(&self) -> bool {
        self.waiting.len() >= FRAME_ENVELOPES_MAX || self.bytes >= FRAME_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn what_waits_together_travels_together_and_nothing_is_lost() {
        let (send, receive) = mpsc::channel(8);
        for id in 0..3 {
            send.send(Envelope { id, body: None }).await.expect("room");
        }
        let mut frames = Frames::new(receive);
        let first = frames.next().await.expect("frame");
        assert_eq!(
            first.envelopes.iter().map(|e| e.id).collect::<Vec<_>>(),
            [0, 1, 2]
        );
        send.send(Envelope { id: 3, body: None })
            .await
            .expect("room");
        drop(send);
        assert_eq!(frames.next().await.expect("frame").envelopes.len(), 1);
        assert!(frames.next().await.is_none());
    }
}
