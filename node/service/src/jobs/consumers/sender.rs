//! Sending changes to the target of one consumer, one batch after the other: the next one only when the target took the last.
//!
//! Nothing is skipped, whatever a target answers: a batch that it does not take is sent again, with growing pauses, and after a while,
//! when the target counts as sick, only now and then. While it is sick no feed is open for it; what it missed is read from the log then,
//! or from the documents.
//!
//! Invariant: an acknowledgement follows the target's answer, and covers what was sent and nothing behind it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::consumers::Consumer;
use metrics::counter;
use proto::ShardId;
use tokio::time::sleep;

use super::back_off::Failing;
use super::gather::{Gather, Gathered};
use super::leading_term;
use crate::Core;
use crate::changes::{Feed, FeedRequest, Reader, Start};
use crate::consumers::acknowledged;
use crate::context::{Caller, Context};
use crate::courier::{Address, Batch, Undelivered};
use crate::error::{Error, Result};
use crate::forward::ConsumerTrouble;
use crate::metrics::CONSUMER_BATCHES;

/// Opening a feed must be done within this.
const OPEN_TIME: Duration = Duration::from_secs(5);
/// How long ago a quorum must have confirmed this node as the leader for it to send.
const CONFIRMED_AGE: Duration = Duration::from_secs(3);
/// Between two looks whether it does.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A position with nothing to send before it is written down this often: it saves reading again what is not for the consumer.
const PROGRESS: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct Sender {
    core: Arc<Core>,
    consumer: Consumer,
    address: Address,
    term: u64,
    failing: Option<Failing>,
    progressed: Instant,
}

/// Why a feed was left.
enum Left {
    /// The target did not take a batch for too long.
    Sick,
    /// The feed ended.
    Ended(Error),
}

impl From<Error> for Left {
    fn from(error: Error) -> Left {
        Left::Ended(error)
    }
}

impl Sender {
    /// For a consumer that is to be sent to, in a term of this node's.
    pub(crate) fn new(
        core: &Arc<Core>,
        database: &str,
        name: &str,
        consumer: &Consumer,
        term: u64,
    ) -> Option<Sender> {
        let target = consumer.target.as_ref().filter(|_| !consumer.is_paused)?;
        let address = Address {
            url: target.url.clone(),
            secret: target.secret.0.clone(),
            database: database.to_owned(),
            consumer: name.to_owned(),
        };
        Some(Sender {
            core: Arc::clone(core),
            consumer: consumer.clone(),
            address,
            term,
            failing: None,
            progressed: Instant::now(),
        })
    }

    /// Runs until it is aborted, which may be anywhere.
    pub(crate) async fn run(mut self) {
        loop {
            let pause = match self.follow().await {
                Left::Sick => self.core.options.limits.webhook_probe,
                Left::Ended(error) => {
                    tracing::warn!(consumer = self.address.consumer, %error, "the feed of a consumer ended");
                    self.failed(&error.message, error.retry_after)
                }
            };
            sleep(pause).await;
        }
    }

    /// Sends what a feed brings, until it ends or the target is sick.
    async fn follow(&mut self) -> Left {
        match self.try_follow().await {
            Ok(never) => match never {},
            Err(left) => left,
        }
    }

    async fn try_follow(&mut self) -> Result<std::convert::Infallible, Left> {
        let feed = self.open().await?;
        let mut gather = Gather::new(feed, self.consumer.id);
        loop {
            match gather.next().await? {
                Gathered::Batch(batch) => {
                    self.deliver(&batch).await?;
                    self.acknowledge(&batch.token);
                }
                Gathered::Nothing(token) => {
                    if self.progressed.elapsed() >= PROGRESS {
                        self.acknowledge(&token);
                    }
                }
            }
        }
    }

    async fn open(&self) -> Result<Feed> {
        let ctx = Context {
            request_id: format!("consumer {}", self.address.consumer),
            database: self.address.database.clone(),
            caller: Caller::Anonymous,
            address: None,
            deadline: Instant::now() + OPEN_TIME,
            idempotency_key: None,
        };
        let request = FeedRequest {
            start: Start::Consumer {
                name: self.address.consumer.clone(),
                from: None,
            },
            ..FeedRequest::default()
        };
        Feed::open(Arc::clone(&self.core), &ctx, Reader::Root, request).await
    }

    /// Sends a batch until the target took it.
    async fn deliver(&mut self, batch: &Batch) -> Result<(), Left> {
        loop {
            while !self.leads() {
                sleep(LOOK_AGAIN).await;
            }
            let Err(failure) = self.core.courier.send(&self.address, batch).await else {
                counter!(CONSUMER_BATCHES, "outcome" => "delivered").increment(1);
                self.recovered();
                return Ok(());
            };
            counter!(CONSUMER_BATCHES, "outcome" => "failed").increment(1);
            let Undelivered {
                reason,
                retry_after,
            } = failure;
            let pause = self.failed(&reason, retry_after);
            if self.is_sick() {
                return Err(Left::Sick);
            }
            sleep(pause).await;
        }
    }

    /// Whether this node leads the metadata still, as far as it can know.
    fn leads(&self) -> bool {
        let confirmed = self.core.groups.confirmed(ShardId::META);
        leading_term(&self.core) == Some(self.term)
            && confirmed.is_some_and(|confirmed| confirmed.age <= CONFIRMED_AGE)
    }

    fn is_sick(&self) -> bool {
        let failing = self.failing.as_ref();
        failing.is_some_and(|failing| failing.time() >= self.core.options.limits.webhook_sick_after)
    }

    /// Notes a failure; gives how long to wait.
    fn failed(&mut self, reason: &str, asked: Option<Duration>) -> Duration {
        let failing = self.failing.get_or_insert_with(Failing::begin);
        failing.tries += 1;
        let (tries, pause) = (failing.tries, failing.pause(asked, rand::random()));
        let (consumer, is_sick) = (&self.address.consumer, self.is_sick());
        let database = &self.address.database;
        if tries == 1 {
            tracing::warn!(
                database,
                consumer,
                reason,
                "a consumer's target does not take changes"
            );
        } else {
            tracing::debug!(database, consumer, reason, tries, "it still does not");
        }
        let trouble = ConsumerTrouble {
            tries,
            reason: reason.to_owned(),
            is_sick,
        };
        let desk = &self.core.shards.consumers;
        desk.set_trouble(self.consumer.id, Some(trouble));
        pause
    }

    fn recovered(&mut self) {
        if let Some(failing) = self.failing.take() {
            let (database, consumer) = (&self.address.database, &self.address.consumer);
            let tries = failing.tries;
            tracing::info!(
                database,
                consumer,
                tries,
                "a consumer's target takes changes again"
            );
            self.core
                .shards
                .consumers
                .set_trouble(self.consumer.id, None);
        }
    }

    /// Takes note that everything up to a token was taken over.
    fn acknowledge(&mut self, token: &str) {
        self.progressed = Instant::now();
        let state = self.core.metadata.current();
        let Some(database) = state.database(&self.address.database) else {
            return;
        };
        match acknowledged(&state, database, &self.consumer, token) {
            Ok(position) => {
                // A node that stops takes none: the next one sends it again.
                self.core.shards.consumers.take(self.consumer.id, &position);
            }
            Err(error) => {
                let consumer = &self.address.consumer;
                tracing::warn!(consumer, %error, "the position of a consumer cannot be kept");
            }
        }
    }
}
