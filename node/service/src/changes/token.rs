//! Resume tokens: how far a feed is in every shard.
//!
//! Opaque outside: a form byte, a message, and a checksum over both, as base64url. A token holds no state of any node, so it survives
//! restarts, failovers and replaced replicas, and never expires: what the log has no more is told from the documents.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cluster::state::{ClusterState, Database};
use prost::Message;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::error::{Error, Result};
use crate::forward::Cursor;

/// The only form so far.
const FORM: u8 = 1;
/// Bytes of the checksum.
const CHECK_BYTES: usize = 4;
/// The longest token that is looked at: a place in each of the most shards that a cluster may have, all within walks.
const TEXT_BYTES_MAX: usize = 256 * 1024;

/// See the module.
#[derive(Clone, PartialEq, Message)]
struct Wire {
    /// A mark of the cluster's id.
    #[prost(fixed64, tag = "1")]
    cluster: u64,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint32, tag = "3")]
    database: u32,
    /// A mark of bucket and filter: the place of a walk means nothing to a walk over other documents.
    #[prost(fixed32, tag = "4")]
    scope: u32,
    /// In the order of the shards.
    #[prost(message, repeated, tag = "5")]
    cursors: Vec<Cursor>,
    /// Absent: it was given to no consumer.
    #[prost(message, optional, tag = "65")]
    consumer: Option<ConsumerMark>,
}

/// The durable consumer that a token was given to.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct ConsumerMark {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    /// Events that it was told by then, since it was made.
    #[prost(uint64, tag = "2")]
    pub(crate) events: u64,
}

/// Where a feed goes on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Resumed {
    /// Here, in each shard.
    At(Vec<Cursor>),
    /// The token is from before the data was restored, or the shards were others.
    Resync,
}

/// A mark of what a feed tells about.
pub(crate) fn scope(bucket: &str, filter: &[u8]) -> u32 {
    let mut hash = Xxh3::new();
    hash.update(&(bucket.len() as u64).to_le_bytes());
    hash.update(bucket.as_bytes());
    hash.update(filter);
    hash.digest() as u32
}

/// The token of these places in a feed for a consumer, or for nobody in particular.
pub(super) fn encode_for(
    state: &ClusterState,
    database: &Database,
    scope: u32,
    cursors: Vec<Cursor>,
    consumer: Option<ConsumerMark>,
) -> String {
    let wire = Wire {
        cluster: xxh3_64(state.cluster_id.as_bytes()),
        epoch: state.epoch,
        database: database.id,
        scope,
        cursors,
        consumer,
    };
    let mut bytes = vec![FORM];
    bytes.extend_from_slice(&wire.encode_to_vec());
    let check = check(&bytes);
    bytes.extend_from_slice(&check);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads a token for a feed of this database and scope.
///
/// # Errors
/// `BadRequest`: damaged, not a token of ours, or of another cluster or database.
pub(super) fn decode(
    state: &ClusterState,
    database: &Database,
    scope: u32,
    text: &str,
) -> Result<Resumed> {
    decode_of(state, database, scope, text).map(|(resumed, _)| resumed)
}

/// The same, with the consumer that it was given to.
///
/// # Errors
/// Those of [`decode`].
pub(crate) fn decode_of(
    state: &ClusterState,
    database: &Database,
    scope: u32,
    text: &str,
) -> Result<(Resumed, Option<ConsumerMark>)> {
    let wire = read(text).ok_or_else(|| {
        Error::bad_request("the resume token is damaged, or not one: send it as it was given")
    })?;
    if wire.cluster != xxh3_64(state.cluster_id.as_bytes()) {
        return Err(Error::bad_request("the resume token is of another cluster"));
    }
    if wire.database != database.id {
        return Err(Error::bad_request(
            "the resume token is of another database",
        ));
    }
    if wire.epoch > state.epoch {
        return Err(Error::bad_request(
            "the resume token is of a later state of the cluster than this one",
        ));
    }
    if wire.epoch < state.epoch || wire.cursors.len() != state.shards as usize {
        return Ok((Resumed::Resync, wire.consumer));
    }
    let cursors = wire.cursors.into_iter().map(|cursor| match &cursor.walk {
        Some(walk) if wire.scope != scope => cursor.walking(walk.is_snapshot),
        Some(_) | None => cursor,
    });
    Ok((Resumed::At(cursors.collect()), wire.consumer))
}

fn read(text: &str) -> Option<Wire> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (signed, sum) = bytes.split_at_checked(bytes.len().checked_sub(CHECK_BYTES)?)?;
    let (form, message) = signed.split_first()?;
    let is_sound = *form == FORM && check(signed) == *sum;
    is_sound.then(|| Wire::decode(message).ok()).flatten()
}

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    (xxh3_64(bytes) as u32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use storage::keys::ChangeKey;

    use super::*;

    fn state(cluster_id: &str, epoch: u64) -> ClusterState {
        ClusterState {
            cluster_id: cluster_id.to_owned(),
            epoch,
            shards: 2,
            ..ClusterState::default()
        }
    }

    fn database(id: u32) -> Database {
        Database {
            id,
            name: "v1".to_owned(),
            schema_version: 1,
            fenced_version: 1,
            schema: std::sync::Arc::default(),
            buckets: Default::default(),
            dropped_buckets: Default::default(),
            indexes: Default::default(),
        }
    }

    fn encode(
        state: &ClusterState,
        database: &Database,
        scope: u32,
        cursors: Vec<Cursor>,
    ) -> String {
        encode_for(state, database, scope, cursors, None)
    }

    fn cursors() -> Vec<Cursor> {
        let place = ChangeKey {
            index: 7,
            ordinal: 3,
        };
        vec![Cursor::at(place), Cursor::behind(9).walking(true)]
    }

    #[test]
    fn a_token_leads_back_to_its_places() {
        let (state, database) = (state("c", 2), database(1));
        let token = encode(&state, &database, 5, cursors());
        let read = decode(&state, &database, 5, &token);
        assert_eq!(read, Ok(Resumed::At(cursors())));
    }

    #[test]
    fn a_token_names_the_consumer_that_it_was_given_to() {
        let (state, database) = (state("c", 2), database(1));
        let mark = ConsumerMark { id: 7, events: 12 };
        let token = encode_for(&state, &database, 5, cursors(), Some(mark));
        let read = decode_of(&state, &database, 5, &token);
        assert_eq!(read, Ok((Resumed::At(cursors()), Some(mark))));
    }

    #[test]
    fn tokens_of_elsewhere_are_refused_with_the_reason() {
        let token = encode(&state("c", 2), &database(1), 5, cursors());
        let refused = |state: &ClusterState, database: &Database| {
            decode(state, database, 5, &token)
                .map_err(|error| error.message)
                .expect_err("refused")
        };
        assert!(refused(&state("d", 2), &database(1)).contains("another cluster"));
        assert!(refused(&state("c", 2), &database(2)).contains("another database"));
        assert!(refused(&state("c", 1), &database(1)).contains("later state"));
    }

    #[test]
    fn tokens_of_an_earlier_epoch_or_of_other_shards_lead_to_a_resync() {
        let token = encode(&state("c", 2), &database(1), 5, cursors());
        let later = decode(&state("c", 3), &database(1), 5, &token);
        assert_eq!(later, Ok(Resumed::Resync));
        let more = ClusterState {
            shards: 4,
            ..state("c", 2)
        };
        assert_eq!(decode(&more, &database(1), 5, &token), Ok(Resumed::Resync));
    }

    #[test]
    fn a_walk_over_other_documents_begins_again() {
        let (state, database) = (state("c", 2), database(1));
        let mut cursors = cursors();
        cursors[1].walk = Some(crate::forward::Walk {
            upto: 9,
            bucket: 3,
            after: "k".to_owned(),
            is_snapshot: false,
        });
        let token = encode(&state, &database, 5, cursors.clone());
        let other = decode(&state, &database, 6, &token);
        let expected = vec![cursors[0].clone(), Cursor::behind(9).walking(false)];
        assert_eq!(other, Ok(Resumed::At(expected)));
    }

    proptest! {
        #[test]
        fn a_changed_character_is_noticed(at: proptest::sample::Index, by in 1..64_usize) {
            const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let (state, database) = (state("c", 2), database(1));
            let token = encode(&state, &database, 5, cursors());
            let mut bytes = token.clone().into_bytes();
            let at = at.index(bytes.len());
            let digit = DIGITS.iter().position(|digit| *digit == bytes[at]).expect("a digit");
            bytes[at] = DIGITS[(digit + by) % 64];
            let text = String::from_utf8(bytes).expect("text");
            prop_assert!(decode(&state, &database, 5, &text).is_err());
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[A-Za-z0-9_-]{0,80}|\\PC{0,20}") {
            let _ = decode(&state("c", 1), &database(1), 0, &text);
        }
    }
}
