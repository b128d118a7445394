//! Places of consumers: in the tokens of their feeds, and in the metadata.

use cluster::consumers::Consumer;
use cluster::state::{ClusterState, Database};
use prost::Message as _;
use proto::log::{ConsumerCursor, ConsumerPosition};

use crate::changes::{Resumed, decode_token, scope};
use crate::error::{Error, Result};
use crate::forward::Cursor;

/// Longest position: what the longest token can hold.
const POSITION_BYTES_MAX: usize = 192 * 1024;

/// Where a consumer's token leads, and the events that it was told by then.
pub(super) fn resumed(
    state: &ClusterState,
    database: &Database,
    consumer: &Consumer,
    token: &str,
) -> Result<(Resumed, u64)> {
    let scope = scope(&consumer.bucket, consumer.filter.as_bytes());
    let (resumed, mark) = decode_token(state, database, scope, token)?;
    match mark {
        Some(mark) if mark.id == consumer.id => Ok((resumed, mark.events)),
        Some(_) => Err(Error::bad_request(
            "the token is of another consumer, or of one of this name that was deleted",
        )),
        None => Err(Error::bad_request(
            "the token is of no consumer: a feed with consumer=NAME gives those that can be acknowledged",
        )),
    }
}

/// Where a feed goes on that begins at a stored position.
pub(super) fn resumed_at(state: &ClusterState, position: &ConsumerPosition) -> Resumed {
    let is_of_now =
        position.epoch == state.epoch && position.cursors.len() == state.shards as usize;
    match is_of_now {
        true => Resumed::At(position.cursors.iter().map(Cursor::from).collect()),
        false => Resumed::Resync,
    }
}

/// The form in which a place is kept.
pub(super) fn position_at(
    state: &ClusterState,
    cursors: &[Cursor],
    events: u64,
) -> ConsumerPosition {
    ConsumerPosition {
        epoch: state.epoch,
        cursors: cursors.iter().map(ConsumerCursor::from).collect(),
        events,
        moved_us: 0,
    }
}

/// What acknowledging a token of a consumer means.
///
/// # Errors
/// `BadRequest`: the token is none, or not of this consumer, or of before the data was restored.
pub(crate) fn acknowledged(
    state: &ClusterState,
    database: &Database,
    consumer: &Consumer,
    token: &str,
) -> Result<ConsumerPosition> {
    let (resumed, events) = resumed(state, database, consumer, token)?;
    let Resumed::At(cursors) = resumed else {
        return Err(Error::bad_request(
            "the token is from before the cluster's data was restored or cut anew: read on, and acknowledge what comes",
        ));
    };
    let position = position_at(state, &cursors, events);
    match position.encoded_len() > POSITION_BYTES_MAX {
        true => Err(Error::bad_request(
            "the token is too long to be kept: acknowledge a later one",
        )),
        false => Ok(position),
    }
}
