//! What waits for one subscription. The queue has a bound: past it everything is forgotten, and the reader is told that it missed changes
//! and must begin anew. So nobody who is slow holds anybody else up, or memory.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::event::{Event, Side};

/// Bytes of changes that wait for one subscription; several may share them.
const BYTES_MAX: usize = 1024 * 1024;

/// A change that concerns a subscription.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) event: Arc<Event>,
    /// What the earlier side is to it.
    pub(crate) was: Side,
    /// What the later side is to it.
    pub(crate) is: Side,
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Next {
    /// A change.
    Change(Delivery),
    /// Changes were missed; there are none until [`Queue::restart`].
    Missed,
}

/// See the module.
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    changes_max: usize,
}

#[derive(Default)]
struct Waiting {
    changes: VecDeque<Delivery>,
    bytes: usize,
    has_missed: bool,
}

impl Queue {
    pub(crate) fn new(changes_max: usize) -> Arc<Queue> {
        Arc::new(Queue {
            waiting: Mutex::default(),
            arrived: Notify::new(),
            changes_max,
        })
    }

    pub(crate) fn push(&self, delivery: Delivery) {
        let mut waiting = self.waiting.lock();
        if waiting.has_missed {
            return;
        }
        waiting.bytes += delivery.event.bytes();
        waiting.changes.push_back(delivery);
        if waiting.changes.len() > self.changes_max || waiting.bytes > BYTES_MAX {
            waiting.miss();
        }
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Changes were missed.
    pub(crate) fn miss(&self) {
        self.waiting.lock().miss();
        self.arrived.notify_one();
    }

    /// Forgets what waits, and takes changes again.
    pub(crate) fn restart(&self) {
        *self.waiting.lock() = Waiting::default();
    }

    /// Waits for the next change. Cancel-safe. For one reader.
    pub(crate) async fn next(&self) -> Next {
        loop {
            if let Some(next) = self.waiting.lock().next() {
                return next;
            }
            self.arrived.notified().await;
        }
    }
}

impl Waiting {
    fn miss(&mut self) {
        *self = Waiting {
            has_missed: true,
            ..Waiting::default()
        };
    }

    fn next(&mut self) -> Option<Next> {
        if self.has_missed {
            return Some(Next::Missed);
        }
        let delivery = self.changes.pop_front()?;
        self.bytes -= delivery.event.bytes();
        Some(Next::Change(delivery))
    }
}
