//! Requests about consumers, on the leader of the metadata.

use std::sync::Arc;
use std::time::Instant;

use cluster::consumers::{Consumer, Target};
use proto::log::ConsumerPosition;
use proto::{ErrorCode, ShardId};

use super::Desk;
use crate::error::{Error, Result};
use crate::forward::{AckConsumer, Answer, ConsumerRow, ConsumerRows, Failure, ReadConsumers};
use crate::leader::Shards;

impl Shards {
    /// The consumers of a database with all that this node knows of them, on the leader of the metadata.
    pub(crate) async fn read_consumers(
        &self,
        asked: &ReadConsumers,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        self.barrier(ShardId::META, deadline).await?;
        let Some(replica) = self.replica_of(ShardId::META) else {
            return Err(Failure::NotLeader { hint: None });
        };
        let consumers = self.metadata_now().consumers.get(&asked.database).cloned();
        let mut consumers = consumers.unwrap_or_default();
        if !asked.name.is_empty() {
            consumers.retain(|name, _| *name == asked.name);
        }
        let (desk, with_places) = (Arc::clone(&self.consumers), !asked.name.is_empty());
        let read = move || {
            let view = replica.view();
            let row = |(name, consumer): (String, Consumer)| {
                let stored = cluster::consumers::position(&view, consumer.id)?;
                let mut position = desk.joined(consumer.id, stored.unwrap_or_default());
                if !with_places {
                    position.cursors.clear();
                }
                Ok(row(&desk, name, consumer, position))
            };
            consumers.into_iter().map(row).collect::<Result<Vec<_>>>()
        };
        let rows = self.read(deadline, read).await?;
        Ok(Answer::Consumers(ConsumerRows { rows }))
    }

    /// Takes an acknowledgement for the next entry, on the leader of the metadata.
    pub(crate) fn ack_consumer(&self, ack: &AckConsumer) -> Result<Answer, Failure> {
        let state = self.metadata_now();
        let mut consumers = state.consumers.values().flat_map(|of| of.values());
        if !consumers.any(|consumer| consumer.id == ack.consumer) {
            let message = "the consumer was deleted";
            return Err(Error::new(ErrorCode::ObjectNotFound, message).into());
        }
        let position = ack.position.clone().unwrap_or_default();
        match self.consumers.take(ack.consumer, &position) {
            true => Ok(Answer::Done(true)),
            false => Err(Failure::Busy(Error::unavailable("the node is stopping"))),
        }
    }
}

fn row(desk: &Desk, name: String, consumer: Consumer, position: ConsumerPosition) -> ConsumerRow {
    let lag = desk.lag(consumer.id);
    ConsumerRow {
        name,
        id: consumer.id,
        bucket: consumer.bucket,
        filter: consumer.filter,
        url: consumer
            .target
            .map_or_else(String::new, |Target { url, .. }| url),
        created_us: consumer.created_us,
        is_paused: consumer.is_paused,
        position: Some(position),
        lag_us: lag.map(crate::trail::micros),
        trouble: desk.trouble(consumer.id),
    }
}
