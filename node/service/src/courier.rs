//! Sending changes to the target of a consumer: what is sent, and what became of it. The node implements it over HTTP.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::changes::FeedEvent;
use crate::ports::PortError;

/// A batch of changes on its way.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Names it: the same for the same changes, however often they are sent.
    pub id: String,
    /// What the target has must be forgotten before these events, and why.
    pub resync: Option<&'static str>,
    /// In order. Empty only with one of the two marks.
    pub events: Vec<FeedEvent>,
    /// Everything was told as it was; what follows are changes.
    pub is_live: bool,
    /// Behind all of it, in the consumer's feed. It is not sent.
    pub token: String,
}

/// Where a batch goes.
#[derive(Clone)]
pub struct Address {
    /// The target.
    pub url: String,
    /// Signs the batch. It must not be logged.
    pub secret: String,
    /// Name of the database.
    pub database: String,
    /// Name of the consumer.
    pub consumer: String,
}

/// Why a target did not take a batch. It may have taken it over all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Undelivered {
    /// For people; without what was sent, and without the address.
    pub reason: String,
    /// When the target wants the next try.
    pub retry_after: Option<Duration>,
}

/// Sends batches.
pub trait Courier: Send + Sync + 'static {
    /// Whether an address may be a target at all. Asks nobody.
    ///
    /// # Errors
    /// Why it may not, and what to do.
    fn check(&self, url: &str) -> Result<(), PortError>;

    /// Sends a batch once, and waits for the answer, but not for ever.
    fn send<'a>(
        &'a self,
        address: &'a Address,
        batch: &'a Batch,
    ) -> BoxFuture<'a, Result<(), Undelivered>>;
}
