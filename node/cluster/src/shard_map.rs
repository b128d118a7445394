//! Which shard a document belongs to.
//!
//! A document's shard is the top bits of a hash over its names, never of the node list, so it only changes when the
//! number of shards does. Whatever this module answers is on disk for ever: the golden vectors below pin it.
//!
//! What is hashed (XXH3-64 under a fixed seed; every part is preceded by its length as u32, all numbers little-endian):
//!
//! | case | parts |
//! |---|---|
//! | `fixed`: one place per database | database id, empty |
//! | the key holds a `{tag}` | database id, tag |
//! | otherwise | database id, bucket id, key |
//!
//! Tags are never empty and the parts carry lengths, so no two cases ever hash the same bytes.
//!
//! Source: design, "Sharding and placement".

use proto::ShardId;
use xxhash_rust::xxh3::Xxh3;

/// The largest number of document shards.
pub const SHARDS_MAX: u32 = 1024;

/// Seed of the hash. Changing it would lose every stored document.
const SEED: u64 = 0x6c61_7264_6572_0001;

/// The shard of a document, from 1 to `shards`.
///
/// `shards` is a power of two up to [`SHARDS_MAX`]. `key` is decoded. With `fixed` the answer depends on the database
/// alone: bucket and key are ignored. When `shards` doubles, the documents of shard `s` go to `2s - 1` and `2s`.
pub fn shard_of(database: u32, bucket: u32, key: &str, shards: u32, fixed: bool) -> ShardId {
    let mut hash = Xxh3::with_seed(SEED);
    part(&mut hash, &database.to_le_bytes());
    match tag(key) {
        _ if fixed => part(&mut hash, &[]),
        Some(tag) => part(&mut hash, tag.as_bytes()),
        None => {
            part(&mut hash, &bucket.to_le_bytes());
            part(&mut hash, key.as_bytes());
        }
    }
    of_hash(hash.digest(), shards)
}

/// What co-locates documents: the text from the first `{` to the next `}` of a key, unless it is empty.
pub fn tag(key: &str) -> Option<&str> {
    let (_, rest) = key.split_once('{')?;
    let (tag, _) = rest.split_once('}')?;
    (!tag.is_empty()).then_some(tag)
}

/// Whether a cluster can have this number of document shards.
pub fn is_valid_count(shards: u32) -> bool {
    shards.is_power_of_two() && shards <= SHARDS_MAX
}

/// The top bits of a hash, counted from 1.
fn of_hash(hash: u64, shards: u32) -> ShardId {
    // Below `shards`, so it fits; for a power of two it is a shift by 64 - log2(shards), also for a single shard.
    let top = (u128::from(hash) * u128::from(shards)) >> 64;
    ShardId(top as u32 + 1)
}

fn part(hash: &mut Xxh3, bytes: &[u8]) {
    // A key is never longer than a body; a length that did not fit would only cost distinctness.
    hash.update(&(bytes.len() as u32).to_le_bytes());
    hash.update(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// (database, bucket, key, fixed, shard of 16, shard of 1024).
    const GOLDEN: &[(u32, u32, &str, bool, u32, u32)] = &[
        (1, 1, "", false, 13, 778),
        (1, 1, "1", false, 3, 177),
        (1, 2, "1", false, 14, 882),
        (2, 1, "1", false, 11, 692),
        (1, 7, "6d7a9c1e-0000-4000-8000-000000000001", false, 12, 716),
        (1, 7, "größe/€", false, 8, 495),
        (1, 7, "cart-{alice}", false, 15, 934),
        (1, 8, "{alice}", false, 15, 934),
        (2, 8, "{alice}", false, 2, 82),
        (1, 7, "{}", false, 1, 22),
        (1, 7, "{alice", false, 1, 6),
        (1, 3, "1", true, 13, 795),
        (1, 9, "{alice}", true, 13, 795),
        (2, 3, "1", true, 13, 783),
    ];

    #[test]
    fn golden_vectors_hold() {
        let got: Vec<_> = GOLDEN
            .iter()
            .map(|&(database, bucket, key, fixed, ..)| {
                let of = |shards| shard_of(database, bucket, key, shards, fixed).0;
                (database, bucket, key, fixed, of(16), of(1024))
            })
            .collect();
        assert_eq!(got, GOLDEN);
    }

    #[test]
    fn tags_follow_the_rule() {
        for (key, expected) in [
            ("a", None),
            ("{a}", Some("a")),
            ("x{a}y{b}", Some("a")),
            ("x{a{b}y", Some("a{b")),
            ("}{a}", Some("a")),
            ("{}", None),
            ("{}{a}", None),
            ("{a", None),
            ("a}", None),
            ("{ä€}", Some("ä€")),
        ] {
            assert_eq!(tag(key), expected, "{key}");
        }
    }

    #[test]
    fn counts_are_powers_of_two() {
        let valid: Vec<u32> = (0..=2048).filter(|&count| is_valid_count(count)).collect();
        assert_eq!(valid, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]);
    }

    #[test]
    fn ends_of_the_hash_range_are_the_first_and_the_last_shard() {
        for shards in [1, 2, 16, 1024] {
            assert_eq!(of_hash(0, shards), ShardId(1));
            assert_eq!(of_hash(u64::MAX, shards), ShardId(shards));
        }
    }

    #[test]
    fn keys_spread_evenly() {
        let mut counts = [0u32; 16];
        for number in 0..16_000 {
            counts[shard_of(1, 7, &number.to_string(), 16, false).0 as usize - 1] += 1;
        }
        assert!(
            counts.iter().all(|count| (850..=1150).contains(count)),
            "{counts:?}"
        );
    }

    proptest! {
        #[test]
        fn doubling_halves_each_range(database: u32, bucket: u32, key in ".*", fixed: bool, bits in 0..10u32) {
            let before = shard_of(database, bucket, &key, 1 << bits, fixed).0;
            let after = shard_of(database, bucket, &key, 2 << bits, fixed).0;
            prop_assert!((1..=1 << bits).contains(&before));
            prop_assert!(after == 2 * before - 1 || after == 2 * before);
        }

        #[test]
        fn one_tag_is_one_shard(database: u32, buckets: (u32, u32), tag in "[^{}]+", before in "[^{]*", after in ".*") {
            let bare = format!("{{{tag}}}");
            let long = format!("{before}{{{tag}}}{after}");
            prop_assert_eq!(
                shard_of(database, buckets.0, &bare, 1024, false),
                shard_of(database, buckets.1, &long, 1024, false)
            );
        }

        #[test]
        fn fixed_ignores_bucket_and_key(database: u32, buckets: (u32, u32), keys in (".*", ".*")) {
            prop_assert_eq!(
                shard_of(database, buckets.0, &keys.0, 1024, true),
                shard_of(database, buckets.1, &keys.1, 1024, true)
            );
        }
    }
}
