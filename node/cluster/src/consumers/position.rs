//! How far a consumer is, as a value that only grows.
//!
//! Of each shard, a place in the log comes before the walk that begins there, and a walk for everything after one for what changed only:
//! that is the way a feed goes. Two positions are joined shard by shard to the later place of each, since whoever acknowledges a place has
//! taken over everything before it. So acknowledgements may come in any order and any number of times.

use proto::log::{ConsumerCursor, ConsumerPosition};

/// Whether a position is one of this state of the cluster's data.
pub(super) fn fits(position: &ConsumerPosition, epoch: u64, shards: u32) -> bool {
    position.epoch <= epoch && position.cursors.len() == shards as usize
}

/// The later of two positions in every shard. One of a later epoch, or of other shards, takes the place of what is held; one of an earlier
/// epoch says nothing.
pub fn join(held: &ConsumerPosition, given: &ConsumerPosition) -> ConsumerPosition {
    if given.epoch < held.epoch {
        return held.clone();
    }
    if given.epoch > held.epoch || given.cursors.len() != held.cursors.len() {
        return given.clone();
    }
    let cursors = held.cursors.iter().zip(&given.cursors);
    let later = |(held, given): (&ConsumerCursor, &ConsumerCursor)| match place(given) > place(held)
    {
        true => given.clone(),
        false => held.clone(),
    };
    ConsumerPosition {
        epoch: held.epoch,
        cursors: cursors.map(later).collect(),
        events: held.events.max(given.events),
        moved_us: held.moved_us,
    }
}

/// What cursors are ordered by.
fn place(cursor: &ConsumerCursor) -> impl Ord {
    let walk = cursor.walk.as_ref();
    let walk = walk.map(|walk| (walk.is_snapshot, walk.upto, walk.bucket, &walk.after));
    (cursor.index, cursor.ordinal.unwrap_or(u32::MAX), walk)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::log::ConsumerWalk;

    use super::*;

    fn any_cursor() -> impl Strategy<Value = ConsumerCursor> {
        let walk = (0..3_u64, 0..2_u32, "[ab]{0,1}", any::<bool>()).prop_map(
            |(upto, bucket, after, is_snapshot)| ConsumerWalk {
                upto,
                bucket,
                after,
                is_snapshot,
            },
        );
        let place = (0..4_u64, proptest::option::of(0..2_u32));
        (place, proptest::option::of(walk)).prop_map(|((index, ordinal), walk)| ConsumerCursor {
            index,
            ordinal,
            walk,
        })
    }

    fn any_position() -> impl Strategy<Value = ConsumerPosition> {
        let cursors = proptest::collection::vec(any_cursor(), 2);
        (1..3_u64, cursors, 0..5_u64).prop_map(|(epoch, cursors, events)| ConsumerPosition {
            epoch,
            cursors,
            events,
            moved_us: 0,
        })
    }

    fn is_behind(a: &ConsumerPosition, b: &ConsumerPosition) -> bool {
        let mut cursors = a.cursors.iter().zip(&b.cursors);
        a.epoch < b.epoch || a.epoch == b.epoch && cursors.all(|(a, b)| place(a) <= place(b))
    }

    proptest! {
        #[test]
        fn a_join_is_behind_neither(a in any_position(), b in any_position()) {
            let joined = join(&a, &b);
            prop_assert!(is_behind(&a, &joined) && is_behind(&b, &joined));
            prop_assert_eq!(join(&joined, &a), joined.clone());
            prop_assert_eq!(join(&joined, &b), joined);
        }

        #[test]
        fn the_order_of_acknowledgements_does_not_matter(
            positions in proptest::collection::vec(any_position(), 1..6),
            seed in any::<prop::sample::Index>(),
        ) {
            let all = |positions: &[ConsumerPosition]| {
                positions.iter().fold(ConsumerPosition::default(), |held, given| join(&held, given))
            };
            let mut turned = positions.clone();
            turned.rotate_left(seed.index(positions.len()));
            turned.reverse();
            let (one, other) = (all(&positions), all(&turned));
            prop_assert_eq!(&one.cursors, &other.cursors);
        }
    }

    #[test]
    fn a_feed_goes_from_the_log_into_a_walk_and_out_of_it() {
        let at = |index, walk: Option<(bool, u64, &str)>| ConsumerCursor {
            index,
            ordinal: None,
            walk: walk.map(|(is_snapshot, upto, after)| ConsumerWalk {
                upto,
                bucket: 0,
                after: after.to_owned(),
                is_snapshot,
            }),
        };
        let way = [
            at(7, None),
            at(7, Some((false, 0, ""))),
            at(7, Some((false, 20, "a"))),
            at(7, Some((false, 20, "b"))),
            at(7, Some((true, 0, ""))),
            at(7, Some((true, 25, "a"))),
            at(25, None),
        ];
        assert!(way.windows(2).all(|pair| place(&pair[0]) < place(&pair[1])));
    }
}
