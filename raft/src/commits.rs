//! Appends without entries, which only tell a follower how far the log is committed: while their group is being written to, they wait
//! for the next append with entries, which says it as well.
//!
//! Under load nearly every commit is followed by entries within milliseconds. An append by itself would cost the follower as much as
//! one with entries, and its answer the leader.
//!
//! Invariants: an append with entries never waits, and none is left out. What waited leaves when no write of the group is under way any
//! more, when the window is over, or when the stream of appends ends; so nobody who waits for a follower's applied index waits longer
//! than the window for this.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep};

/// The window as a part of the time between two heartbeats.
pub(crate) const WINDOW_PART: u32 = 32;

/// Writes of a group that have no outcome yet.
#[derive(Debug, Default)]
pub(crate) struct Writes {
    now: AtomicUsize,
    /// Told when there are none any more.
    over: Arc<Notify>,
}

/// Counts one more as long as it lives.
pub(crate) struct Write<'w>(&'w Writes);

impl Writes {
    /// Notes that a write is under way, as long as the result lives.
    pub(crate) fn begin(&self) -> Write<'_> {
        self.now.fetch_add(1, Ordering::SeqCst);
        Write(self)
    }

    fn is_any(&self) -> bool {
        self.now.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        if self.0.now.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.over.notify_waiters();
        }
    }
}

/// A stream of appends to one follower, without those whose news a later one carries. See the module.
pub(crate) struct Merged<S: Stream> {
    appends: S,
    /// Whether an append carries nothing but a commit index.
    is_bare: fn(&S::Item) -> bool,
    writes: Arc<Writes>,
    window: Duration,
    held: Option<Held<S::Item>>,
    /// Made at the first use, set anew at each further one.
    end_of_window: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

/// The newest append without entries.
struct Held<T> {
    append: T,
    writes_over: Pin<Box<OwnedNotified>>,
}

impl<S: Stream> Merged<S> {
    /// For a follower of the group that `writes` counts.
    pub(crate) fn new(
        appends: S,
        is_bare: fn(&S::Item) -> bool,
        writes: Arc<Writes>,
        window: Duration,
    ) -> Self {
        Self {
            appends,
            is_bare,
            writes,
            window,
            held: None,
            end_of_window: None,
            ended: false,
        }
    }

    fn hold(&mut self, append: S::Item) {
        if let Some(held) = &mut self.held {
            held.append = append;
            return;
        }
        let end = Instant::now() + self.window;
        match &mut self.end_of_window {
            Some(sleep) => sleep.as_mut().reset(end),
            none => *none = Some(Box::pin(tokio::time::sleep_until(end))),
        }
        // Made before the writes are looked at: none of them ends unnoticed.
        let writes_over = Box::pin(Arc::clone(&self.writes.over).notified_owned());
        self.held = Some(Held {
            append,
            writes_over,
        });
    }

    /// Whether what is held must leave.
    fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(held) = &mut self.held else {
            return false;
        };
        self.ended
            || !self.writes.is_any()
            || held.writes_over.as_mut().poll(cx).is_ready()
            || self
                .end_of_window
                .as_mut()
                .is_none_or(|sleep| sleep.as_mut().poll(cx).is_ready())
    }
}

impl<S: Stream + Unpin> Stream for Merged<S>
where
    S::Item: Unpin,
{
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = &mut *self;
        while !this.ended {
            match this.appends.poll_next_unpin(cx) {
                Poll::Ready(Some(append)) if (this.is_bare)(&append) => this.hold(append),
                Poll::Ready(Some(append)) => {
                    this.held = None;
                    return Poll::Ready(Some(append));
                }
                Poll::Ready(None) => this.ended = true,
                Poll::Pending => break,
            }
        }
        if this.is_due(cx) {
            return Poll::Ready(this.held.take().map(|held| held.append));
        }
        if this.ended {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};

    use super::*;

    /// Whether a task was woken.
    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    /// Longer than any test.
    const LONG: Duration = Duration::from_secs(3600);

    /// Entries and commit index.
    type Append = (u32, u64);

    fn merged(
        window: Duration,
    ) -> (
        UnboundedSender<Append>,
        Merged<UnboundedReceiver<Append>>,
        Arc<Writes>,
    ) {
        let (send, appends) = unbounded();
        let writes = Arc::new(Writes::default());
        let merged = Merged::new(
            appends,
            |(entries, _)| *entries == 0,
            Arc::clone(&writes),
            window,
        );
        (send, merged, writes)
    }

    fn send(to: &UnboundedSender<Append>, appends: impl IntoIterator<Item = Append>) {
        for append in appends {
            to.unbounded_send(append).expect("the stream lives");
        }
    }

    #[tokio::test]
    async fn what_entries_carry_does_not_travel_by_itself() {
        let (to, mut merged, writes) = merged(LONG);
        let _write = writes.begin();
        send(&to, [(1, 0), (0, 1), (0, 2), (3, 2), (0, 5)]);
        assert_eq!(merged.next().await, Some((1, 0)));
        assert_eq!(merged.next().await, Some((3, 2)));
        assert!(futures::poll!(merged.next()).is_pending(), "it waits");
        send(&to, [(0, 6)]);
        drop(to);
        assert_eq!(merged.next().await, Some((0, 6)), "the newest, at the end");
        assert_eq!(merged.next().await, None);
    }

    #[tokio::test]
    async fn what_was_carried_does_not_come_later() {
        let (to, mut merged, writes) = merged(LONG);
        let _write = writes.begin();
        send(&to, [(0, 1), (1, 1)]);
        drop(to);
        assert_eq!(merged.next().await, Some((1, 1)));
        assert_eq!(merged.next().await, None);
    }

    #[tokio::test]
    async fn nothing_waits_where_nothing_is_written() {
        let (to, mut merged, writes) = merged(LONG);
        send(&to, [(0, 1)]);
        assert_eq!(merged.next().await, Some((0, 1)));
        let (first, second) = (writes.begin(), writes.begin());
        send(&to, [(0, 2)]);
        assert!(futures::poll!(merged.next()).is_pending());
        drop(first);
        assert!(futures::poll!(merged.next()).is_pending());
        // As the runtime sees it: the end of the last write must wake whoever was told to wait.
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        let poll = merged.poll_next_unpin(&mut Context::from_waker(&waker));
        assert!(poll.is_pending());
        drop(second);
        assert!(woken.0.load(Ordering::SeqCst));
        assert_eq!(merged.next().await, Some((0, 2)));
    }

    #[tokio::test]
    async fn it_waits_no_longer_than_the_window() {
        let window = Duration::from_millis(20);
        let (to, mut merged, writes) = merged(window);
        let _write = writes.begin();
        for commit in 1..=2 {
            let start = Instant::now();
            send(&to, [(0, commit)]);
            assert_eq!(merged.next().await, Some((0, commit)));
            assert!(start.elapsed() >= window);
        }
    }
}
