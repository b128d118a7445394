//! The logs of all shards, read once for all subscriptions of the node.
//!
//! A tail reads what the replica here has applied, and asks others where there is none that keeps up. It runs while somebody subscribes.
//! A subscription is registered first and waits then until all tails run ([`Live::ready`]); so whatever is committed after that is read
//! by a tail that knows the subscription, and whatever was committed before is in the result that it reads next.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use parking_lot::{Mutex, RwLock};
use proto::ShardId;
use storage::keys::ChangeKey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::registry::{Registry, Watcher, WatcherId};
use crate::Core;
use crate::changes::elsewhere;
use crate::documents::unexpected;
use crate::error::{Error, Result};
use crate::forward::{Answer, Failure, Operation, Tail};
use crate::leader::Tailed;
use crate::limits::Limits;
use crate::metrics::{LIVE_EVENTS, LIVE_OPEN};
use crate::sessions::internal_request;

/// How long a shard is asked to wait for a change.
const WAIT: Duration = Duration::from_secs(1);
/// The same for another holder than the leader: within the time that such a try has.
const HOLDER_WAIT: Duration = Duration::from_millis(200);
/// Time for an answer beyond that.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Pause before a shard that did not answer is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// What subscriptions of a node share.
pub(crate) struct Live {
    core: Weak<Core>,
    registry: Arc<RwLock<Registry>>,
    /// Whether the tail of a shard has begun.
    tails: Mutex<HashMap<ShardId, watch::Receiver<bool>>>,
    permits: Arc<Semaphore>,
}

/// A place among the open subscriptions.
pub(super) struct Open {
    _permit: OwnedSemaphorePermit,
}

impl Drop for Open {
    fn drop(&mut self) {
        gauge!(LIVE_OPEN).decrement(1);
    }
}

/// A watcher among all of them, until dropped.
pub(super) struct Registration {
    live: Arc<Live>,
    place: (u32, u32),
    id: WatcherId,
}

impl Registration {
    /// Puts another watcher in its place: every change is told to one of the two.
    ///
    /// # Errors
    /// Those of [`Live::register`]; the old one stays.
    pub(super) fn replace(&mut self, watcher: Watcher) -> Result<()> {
        let place = (watcher.database, watcher.bucket);
        let mut registry = self.live.registry.write();
        let id = registry.add(watcher)?;
        registry.remove(self.place, self.id);
        (self.place, self.id) = (place, id);
        Ok(())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.live.registry.write().remove(self.place, self.id);
    }
}

impl Live {
    pub(crate) fn new(core: Weak<Core>, limits: &Limits) -> Arc<Live> {
        Arc::new(Live {
            core,
            registry: Arc::new(RwLock::new(Registry::new(limits.live_unanchored_max))),
            tails: Mutex::default(),
            permits: Arc::new(Semaphore::new(limits.live_max)),
        })
    }

    /// # Errors
    /// `TooManyRequests`.
    pub(super) fn open(&self) -> Result<Open> {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        let permit = permit.map_err(|_| {
            let message = "too many real-time queries are open at this node";
            Error::new(proto::ErrorCode::TooManyRequests, message)
                .with_retry_after(crate::limits::RETRY_AFTER)
        })?;
        gauge!(LIVE_OPEN).increment(1);
        Ok(Open { _permit: permit })
    }

    /// From now on changes are put into the watcher's queue, as far as tails run.
    ///
    /// # Errors
    /// Those of [`Registry::add`].
    pub(super) fn register(self: &Arc<Self>, watcher: Watcher) -> Result<Registration> {
        let place = (watcher.database, watcher.bucket);
        let id = self.registry.write().add(watcher)?;
        Ok(Registration {
            live: Arc::clone(self),
            place,
            id,
        })
    }

    /// Waits until the tails of all shards run.
    ///
    /// # Errors
    /// `Unavailable`: nobody tells what a shard applies.
    pub(super) async fn ready(&self, shards: u32, deadline: Instant) -> Result<()> {
        let tails: Vec<_> = (1..=shards)
            .map(|shard| self.tail(ShardId(shard)))
            .collect();
        for mut tail in tails {
            let ready = tail.wait_for(|has_begun| *has_begun);
            let ready = tokio::time::timeout_at(deadline.into(), ready).await;
            if !matches!(ready, Ok(Ok(_))) {
                return Err(Error::unavailable("a shard does not answer"));
            }
        }
        Ok(())
    }

    fn tail(&self, shard: ShardId) -> watch::Receiver<bool> {
        let mut tails = self.tails.lock();
        let running = tails.get(&shard).filter(|tail| tail.has_changed().is_ok());
        if let Some(tail) = running {
            return tail.clone();
        }
        let (sender, tail) = watch::channel(false);
        tails.insert(shard, tail.clone());
        tokio::spawn(follow(self.core.clone(), shard, sender));
        tail
    }

    /// Ends the tail of a shard if nobody subscribes any more. True: it is over.
    fn retires(&self, shard: ShardId) -> bool {
        let mut tails = self.tails.lock();
        let is_over = self.registry.read().is_empty();
        if is_over {
            tails.remove(&shard);
        }
        is_over
    }

    /// Looks up whom changes concern.
    fn tell(&self, page: Tailed) {
        counter!(LIVE_EVENTS).increment(page.events.len() as u64);
        let registry = self.registry.read();
        for event in page.events {
            registry.tell(&Arc::new(event));
        }
    }
}

/// Reads the log of a shard and tells what is in it, while somebody subscribes.
async fn follow(core: Weak<Core>, shard: ShardId, has_begun: watch::Sender<bool>) {
    let (mut after, mut has_gap) = (None, false);
    loop {
        let Some(core) = core.upgrade() else {
            return;
        };
        if core.live.retires(shard) {
            return;
        }
        match page(&core, shard, after).await {
            Ok(page) if page.is_trimmed => {
                (after, has_gap) = (None, true);
                has_begun.send_replace(false);
            }
            Ok(page) => {
                after = Some(page.cursor);
                core.live.tell(page);
                if std::mem::take(&mut has_gap) {
                    // Not before there is a place to go on from: the result that is read now lies behind it.
                    core.live.registry.read().miss();
                }
                has_begun.send_if_modified(|has_begun| !std::mem::replace(has_begun, true));
            }
            Err(error) => {
                tracing::debug!(%shard, %error, "a shard does not tell its changes");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// What a shard applied behind a place; `None`: behind everything that it has applied now.
async fn page(core: &Arc<Core>, shard: ShardId, after: Option<ChangeKey>) -> Result<Tailed> {
    let deadline = Instant::now() + WAIT + ANSWER_TIME;
    if core.holds_state(shard) && core.shards.is_fresh(shard) {
        let registry = Arc::clone(&core.live.registry);
        // Asked where an event is read: whoever was registered before it was written is known then.
        let wanted = move |database, bucket| registry.read().wants(database, bucket);
        let here = core.shards.tail_here(shard, after, WAIT, wanted, deadline);
        match here.await {
            Ok(page) => return Ok(page),
            Err(Failure::Refused(error)) => return Err(error),
            Err(_) => {}
        }
    }
    let state = core.metadata.founded()?;
    let tail = |wait| Operation::Tail(Tail::new(after, wait));
    let request = internal_request(&state, shard, tail(WAIT));
    let asked = elsewhere(core, &state, request, tail(HOLDER_WAIT), deadline);
    match Box::pin(asked).await? {
        Answer::Tail(page) => page.read(shard).ok_or_else(unexpected),
        _ => Err(unexpected()),
    }
}
