//! Work in the background that follows writes: confirming reservations and freeing values. All of it may be lost: then whoever meets the
//! reservation does it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proto::log::{ConfirmValue, command};
use tokio::sync::Notify;

use super::{Taking, Value};
use crate::Core;
use crate::error::Result;

/// Work that waits; more is dropped, the newest first.
const QUEUE_MAX: usize = 16_384;
/// One piece of work; longer than a failover.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A piece of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// The write for which the value was reserved took effect.
    Confirm(Value, u64),
    /// Free the value, unless the document holds it.
    Settle(Taking),
}

/// The work that waits.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Default)]
struct Waiting {
    work: VecDeque<Work>,
    /// Taken and not done.
    busy: usize,
    dropped: u64,
}

impl Queue {
    /// Adds work if there is room.
    pub(super) fn push(&self, work: Work) {
        let mut waiting = self.waiting.lock();
        if waiting.work.len() >= QUEUE_MAX {
            waiting.dropped += 1;
            if waiting.dropped.is_power_of_two() {
                let dropped = waiting.dropped;
                tracing::warn!(dropped, "values of unique indexes are freed later");
            }
            return;
        }
        waiting.work.push_back(work);
        drop(waiting);
        self.changed.notify_one();
    }

    /// Takes the oldest work, when there is some.
    async fn take(&self) -> Taken<'_> {
        loop {
            let changed = self.changed.notified();
            {
                let mut waiting = self.waiting.lock();
                if let Some(work) = waiting.work.pop_front() {
                    waiting.busy += 1;
                    return Taken { queue: self, work };
                }
            }
            changed.await;
        }
    }
}

/// Work that is being done.
struct Taken<'q> {
    queue: &'q Queue,
    work: Work,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.queue.waiting.lock().busy -= 1;
        self.queue.changed.notify_one();
    }
}

impl Core {
    /// Does one piece of work after the other, for ever.
    pub(crate) async fn settle_values(&self) {
        loop {
            let taken = self.unique.queue.take().await;
            if let Err(error) = self.work(&taken.work).await {
                tracing::debug!(%error, work = ?taken.work, "a value of a unique index is settled when it is met");
            }
        }
    }

    async fn work(&self, work: &Work) -> Result<()> {
        let state = self.metadata.founded()?;
        let deadline = Instant::now() + TIMEOUT;
        match work {
            Work::Confirm(value, reserved) => {
                let Some(shard) = value.shard(&state) else {
                    return Ok(());
                };
                let confirm = ConfirmValue {
                    value: Some(value.to_log()),
                    reserved: *reserved,
                };
                let operation = command::Operation::ConfirmValue(confirm);
                self.command(&state, shard, operation, deadline).await?;
            }
            Work::Settle(taking) => self.settle(&state, taking, deadline).await?,
        }
        Ok(())
    }
}

#[cfg(test)]
impl super::Unique {
    /// Loses all work that waits.
    pub(crate) fn lose(&self) {
        self.queue.waiting.lock().work.clear();
    }

    /// Waits until all work is done.
    pub(crate) async fn quiet(&self) {
        loop {
            let changed = self.queue.changed.notified();
            {
                let waiting = self.queue.waiting.lock();
                if waiting.work.is_empty() && waiting.busy == 0 {
                    return;
                }
            }
            // Workers are woken by the same bell: it is passed on.
            let short = Duration::from_millis(5);
            if tokio::time::timeout(short, changed).await.is_ok() {
                self.queue.changed.notify_one();
                tokio::task::yield_now().await;
            }
        }
    }
}
