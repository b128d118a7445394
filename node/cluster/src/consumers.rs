//! Durable consumers of change feeds: what they are told, and up to where they took it over.
//!
//! A definition is a part of the published state, as it changes rarely. A position is a row of its own under the consumer's id and of no
//! version: it moves every second, and nobody but those who read on from it needs to hear of that.
//!
//! Invariants: a consumer has a position as long as it exists; no position ever goes back (`position`); no id is given twice.

mod position;

use std::collections::BTreeMap;
use std::fmt;

use proto::log::{self, ConsumerPosition};
use serde::{Deserialize, Serialize};
use storage::engine::Column;
use storage::keys::ConsumerKey;
use storage::machine::ReplicaView;

pub use self::position::join;
use crate::error::Result;
use crate::machine::{Stop, database, invalid};
use crate::rows::{self, ClusterRow, Rows, consumers_name};

/// Consumers of one database: each costs the shards a look at its lag, and the metrics a series.
pub const CONSUMERS_MAX: usize = 64;

/// A consumer. Also the form of its row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumer {
    /// The log index of the command that made it, so that one which comes later under the same name has another.
    pub id: u64,
    /// Name of the bucket that it is told of; empty: all.
    pub bucket: String,
    /// The filter, JSON text; empty: everything.
    pub filter: String,
    /// Where changes are sent to; `None`: they are fetched.
    pub target: Option<Target>,
    /// Nothing is sent until somebody says so.
    pub is_paused: bool,
    /// How often somebody said that it goes on.
    pub resumed: u64,
    /// When it was made, microseconds since 1970 by the proposer's clock.
    pub created_us: u64,
}

/// Where changes are sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// An `https://` address, or an `http://` one.
    pub url: String,
    /// Signs what is sent.
    pub secret: Secret,
}

/// A text that shows itself nowhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The consumers of a database by name; the form of their row.
pub type Consumers = BTreeMap<String, Consumer>;

impl Consumer {
    fn of(command: &log::CreateConsumer, id: u64, created_us: u64) -> Consumer {
        let target = Target {
            url: command.url.clone(),
            secret: Secret(command.secret.clone()),
        };
        Consumer {
            id,
            bucket: command.bucket.clone(),
            filter: command.filter.clone(),
            target: (!command.url.is_empty()).then_some(target),
            is_paused: false,
            resumed: 0,
            created_us,
        }
    }

    /// Whether both were made alike, whatever became of them since.
    fn is_like(&self, other: &Consumer) -> bool {
        let definition = |of: &Consumer| (of.bucket.clone(), of.filter.clone(), of.target.clone());
        definition(self) == definition(other)
    }
}

/// A new consumer, with its first position.
pub(crate) fn create(
    rows: &mut Rows<'_, '_>,
    cluster: &ClusterRow,
    index: u64,
    stamp_us: u64,
    command: &log::CreateConsumer,
) -> Result<bool, Stop> {
    let database = database(rows, command.database)?;
    let row_name = consumers_name(database.id);
    let mut consumers: Consumers = rows.get(&row_name)?.unwrap_or_default();
    let consumer = Consumer::of(command, index, stamp_us);
    let name = &command.name;
    if let Some(known) = consumers.get(name) {
        return match known.is_like(&consumer) {
            true => Ok(false),
            false => Err(invalid(format!(
                "there is another consumer {name:?}: delete it, or take another name"
            ))),
        };
    }
    if consumers.len() >= CONSUMERS_MAX {
        return Err(invalid(format!(
            "a database has at most {CONSUMERS_MAX} consumers: delete one that is not used any more"
        )));
    }
    let position = command.position.clone().unwrap_or_default();
    if !position::fits(&position, cluster.epoch, cluster.shards) {
        return Err(invalid("the position is of another state of the cluster"));
    }
    let position = ConsumerPosition {
        moved_us: stamp_us,
        ..position
    };
    rows.put_position(index, &position);
    consumers.insert(name.clone(), consumer);
    rows.put(&row_name, &consumers)?;
    Ok(true)
}

/// Removes a consumer; one that is not there changes nothing.
pub(crate) fn drop(rows: &mut Rows<'_, '_>, command: &log::DropConsumer) -> Result<bool, Stop> {
    let row_name = consumers_name(command.database);
    let mut consumers: Consumers = rows.get(&row_name)?.unwrap_or_default();
    let Some(consumer) = consumers.remove(&command.name) else {
        return Ok(false);
    };
    rows.remove_position(consumer.id);
    rows.put(&row_name, &consumers)?;
    Ok(true)
}

/// Moves positions on. Raises no version, since no published state changes.
pub(crate) fn acknowledge(
    rows: &mut Rows<'_, '_>,
    cluster: &ClusterRow,
    stamp_us: u64,
    command: &log::AckConsumers,
) -> Result<()> {
    for ack in &command.acks {
        let Some(held) = rows.position(ack.consumer)? else {
            continue;
        };
        let given = ack.position.clone().unwrap_or_default();
        if !position::fits(&given, cluster.epoch, cluster.shards) {
            continue;
        }
        let joined = join(&held, &given);
        if joined != held {
            let moved_us = stamp_us;
            rows.put_position(ack.consumer, &ConsumerPosition { moved_us, ..joined });
        }
    }
    Ok(())
}

/// Pauses a consumer with a target, or lets it go on.
pub(crate) fn run(rows: &mut Rows<'_, '_>, command: &log::RunConsumer) -> Result<bool, Stop> {
    let row_name = consumers_name(command.database);
    let mut consumers: Consumers = rows.get(&row_name)?.unwrap_or_default();
    let name = &command.name;
    let Some(consumer) = consumers.get_mut(name) else {
        return Err(invalid(format!("there is no consumer {name:?}")));
    };
    if consumer.target.is_none() {
        return Err(invalid(format!(
            "the consumer {name:?} has no target: it is paused by not fetching"
        )));
    }
    if consumer.is_paused && !command.is_running {
        return Ok(false);
    }
    consumer.is_paused = !command.is_running;
    consumer.resumed += u64::from(command.is_running);
    rows.put(&row_name, &consumers)?;
    Ok(true)
}

/// Up to where a consumer took everything over; `None`: it is gone.
///
/// # Errors
/// The row does not decode; those of the engine.
pub fn position(
    view: &ReplicaView<'_>,
    consumer: u64,
) -> storage::Result<Option<ConsumerPosition>> {
    let row = view.get(Column::State, &ConsumerKey { consumer }.encode())?;
    Ok(row
        .map(|row| rows::decode_position(consumer, row))
        .transpose()?)
}
