//! What goes wrong at random in a test cluster: calls that take their time, replies that are lost, commands that are applied much later,
//! drivers that stop in the middle of what they do.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::ShardId;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::Notify;

use super::{Fault, World};

/// Of all proposals, how many lose their reply after they were applied, lose it and are never applied, or are applied later.
const LOST_PER_CENT: u32 = 2;

/// What decides, and what is still under way.
#[derive(Default)]
pub(crate) struct Chaos {
    /// None until [`World::begin_chaos`].
    dice: Mutex<Option<StdRng>>,
    /// Commands whose proposers gave up, and that may be applied at any time.
    late: Mutex<Vec<(ShardId, Bytes)>>,
    /// Told of each step.
    stepped: Notify,
}

impl World {
    /// From now on things go wrong.
    pub(crate) fn begin_chaos(&self, seed: u64) {
        *self.chaos.dice.lock() = Some(StdRng::seed_from_u64(seed));
    }

    /// Nothing goes wrong any more; what is late is applied.
    pub(crate) fn end_chaos(&self) {
        *self.chaos.dice.lock() = None;
        self.apply_late();
    }

    /// Keeps a command for later.
    pub(super) fn keep(&self, shard: ShardId, command: Bytes) {
        self.chaos.late.lock().push((shard, command));
    }

    /// Applies all that is late.
    pub(crate) fn apply_late(&self) {
        let late = std::mem::take(&mut *self.chaos.late.lock());
        for (shard, command) in late {
            self.apply(shard, command);
        }
    }

    /// A throw of the dice; 0 without chaos.
    pub(crate) fn throw(&self, sides: u32) -> u32 {
        let mut dice = self.chaos.dice.lock();
        let dice = dice.as_mut();
        dice.map_or(0, |dice| dice.random_range(0..sides))
    }

    /// Lets others go first, now and then more than one.
    pub(super) async fn step(&self) {
        self.chaos.stepped.notify_one();
        for _ in 0..self.throw(4) {
            tokio::task::yield_now().await;
        }
    }

    /// Waits until about so many steps were taken. For one at a time.
    pub(crate) async fn after_steps(&self, steps: usize) {
        for _ in 0..steps {
            self.chaos.stepped.notified().await;
        }
    }

    /// Decides about a proposal to a document shard. `None`: nothing goes wrong.
    pub(super) fn fault(&self) -> Option<Fault> {
        let mut dice = self.chaos.dice.lock();
        match dice.as_mut()?.random_range(0..100) / LOST_PER_CENT {
            0 => Some(Fault::LostApplied),
            1 => Some(Fault::LostUnapplied),
            2 => Some(Fault::Late),
            _ => None,
        }
    }

    /// Applies one of the commands that are late, if there are any.
    pub(crate) fn deliver_late(&self) {
        let count = self.chaos.late.lock().len();
        if count > 0 {
            let at = self.throw(u32::try_from(count).unwrap_or(u32::MAX)) as usize;
            let (shard, command) = self.chaos.late.lock().swap_remove(at);
            self.apply(shard, command);
        }
    }
}

/// Drives a future so many steps and then drops it, wherever it is. `None`: it was dropped.
pub(crate) async fn crash_after<T>(steps: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = steps;
    poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}
