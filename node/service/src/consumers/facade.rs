//! Consumers at the facade.

use super::{ConsumerRequest, ConsumerStatus};
use crate::Service;
use crate::context::Context;
use crate::error::Result;
use crate::metrics::Operation;

impl Service {
    /// Makes a durable consumer of the database's changes; one that is there with the same definition is given as it is. For admins.
    ///
    /// # Errors
    /// `PermissionDenied`; `ObjectExists`: there is another one of this name; `BadRequest` of a name, a target, a token, or one consumer too
    /// many; those of bucket and filter. `OutcomeUnknown`: it may be made.
    pub async fn create_consumer(
        &self,
        ctx: &Context,
        request: ConsumerRequest,
    ) -> Result<ConsumerStatus> {
        let create = self.core.create_consumer(ctx, request);
        self.core.metrics.observe(Operation::Consumer, create).await
    }

    /// The consumers of the database, by name, without their positions; for admins. Linearizable.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub async fn consumers(&self, ctx: &Context) -> Result<Vec<ConsumerStatus>> {
        let list = self.core.list_consumers(ctx);
        self.core.metrics.observe(Operation::Consumer, list).await
    }

    /// One consumer, with its position; for admins. Linearizable.
    ///
    /// # Errors
    /// `PermissionDenied`; `ObjectNotFound`.
    pub async fn consumer(&self, ctx: &Context, name: &str) -> Result<ConsumerStatus> {
        let read = self.core.read_consumer(ctx, name);
        self.core.metrics.observe(Operation::Consumer, read).await
    }

    /// Deletes a consumer with its position. For admins.
    ///
    /// # Errors
    /// `PermissionDenied`; `ObjectNotFound`.
    pub async fn delete_consumer(&self, ctx: &Context, name: &str) -> Result<()> {
        let delete = self.core.delete_consumer(ctx, name);
        self.core.metrics.observe(Operation::Consumer, delete).await
    }

    /// Pauses what is sent to a consumer's target, or lets it go on at once. For admins.
    ///
    /// # Errors
    /// `PermissionDenied`; `ObjectNotFound`; `BadRequest`: it has no target.
    pub async fn run_consumer(&self, ctx: &Context, name: &str, is_running: bool) -> Result<()> {
        let run = self.core.run_consumer(ctx, name, is_running);
        self.core.metrics.observe(Operation::Consumer, run).await
    }

    /// Takes note that a consumer took over everything up to a token of its feed. For admins. Never goes back.
    ///
    /// On disk within about a second, and before an orderly stop ends; a crash of the node that keeps positions may lose the last one, and
    /// then events come again.
    ///
    /// # Errors
    /// `PermissionDenied`; `ObjectNotFound`; `BadRequest`: the token is damaged, or not of this consumer.
    pub async fn ack_consumer(&self, ctx: &Context, name: &str, token: &str) -> Result<()> {
        let ack = self.core.ack_consumer(ctx, name, token);
        self.core.metrics.observe(Operation::Consumer, ack).await
    }
}
