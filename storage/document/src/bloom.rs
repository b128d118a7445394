//! The Bloom filter that the contract's clients read (contract 2.4): two MurmurHash3 values of an object id, and bits from the lowest on.
//!
//! | part | form |
//! |---|---|
//! | hash | `h1 = murmur3(seed 0, id)`, `h2 = murmur3(seed h1, id)`, both 32 bits without sign |
//! | bit `i` of `h` | `(h1 + i · h2) mod m`, in exact integers: nothing wraps |
//! | place of a bit | byte `bit / 8`, mask `1 << (bit % 8)` |
//!
//! Hashes of ids lie in the log's state, so their function never changes.

/// The two hashes of an object id: all that a filter needs to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hashes {
    /// Over the id with seed 0.
    pub h1: u32,
    /// Over the id with seed `h1`.
    pub h2: u32,
}

impl Hashes {
    /// The hashes of an id as JSON shows it, `/db/<bucket>/<encoded key>`: ASCII, so that bytes are what clients take for characters.
    pub fn of(id: &str) -> Hashes {
        let h1 = murmur3(0, id.as_bytes());
        let h2 = murmur3(h1, id.as_bytes());
        Hashes { h1, h2 }
    }

    /// The bits that it sets in a filter of `bits` bits; none in one without any.
    fn places(self, bits: u64, hashes: u32) -> impl Iterator<Item = u64> {
        let (h1, h2) = (u64::from(self.h1), u64::from(self.h2));
        (0..u64::from(hashes)).filter_map(move |i| (h1 + i * h2).checked_rem(bits))
    }
}

/// Sizes that a filter may have, in bits, below the first doubling of [`WINDOW_BITS`].
const SMALL_BITS: [u64; 6] = [64, 1_024, 4_096, 14_600, 29_200, 58_400];
/// The filter that one initial TCP window holds: ten segments of 1,460 bytes.
pub const WINDOW_BITS: u64 = 116_800;
/// Bits for each id at the highest share of false positives that a filter may have: `log2(1 / 0.05) / ln 2`, in hundredths.
const BITS_PER_ID_CENTI: u64 = 624;
/// More hash functions than this gain nothing that is worth their time.
const HASHES_MAX: u64 = 16;

/// A filter: says of every id that went in that it may be there, and of most others that they are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bloom {
    /// Number of bits, a multiple of 8.
    pub bits: u64,
    /// Number of hash functions, from 1 up.
    pub hashes: u32,
    /// The bits, `bits / 8` bytes.
    pub bytes: Vec<u8>,
}

impl Bloom {
    /// The filter of these ids, each of which comes once. Its size follows from their number alone, so equal sets give equal bytes.
    pub fn of(ids: &[Hashes]) -> Bloom {
        if ids.is_empty() {
            return Bloom {
                bits: 8,
                hashes: 1,
                bytes: vec![0],
            };
        }
        let count = ids.len() as u64;
        let bits = size_for(count);
        // 0.69 is ln 2: half of the bits end up set.
        let hashes = (bits * 69 / (count * 100)).clamp(1, HASHES_MAX) as u32;
        let mut bytes = vec![0; (bits / 8) as usize];
        for place in ids.iter().flat_map(|id| id.places(bits, hashes)) {
            bytes[(place / 8) as usize] |= 1 << (place % 8);
        }
        Bloom {
            bits,
            hashes,
            bytes,
        }
    }

    /// The filter that says "perhaps" to every id.
    pub fn saturated() -> Bloom {
        Bloom {
            bits: 8,
            hashes: 1,
            bytes: vec![0xff],
        }
    }

    /// Whether the id may be among those that went in.
    pub fn contains(&self, id: Hashes) -> bool {
        id.places(self.bits, self.hashes)
            .all(|place| self.bytes[(place / 8) as usize] & (1 << (place % 8)) != 0)
    }
}

/// The smallest size that holds so many ids with at most 5 % of false positives.
fn size_for(count: u64) -> u64 {
    let needed = count * BITS_PER_ID_CENTI / 100;
    let doublings = std::iter::successors(Some(WINDOW_BITS), |bits| bits.checked_mul(2));
    SMALL_BITS
        .into_iter()
        .chain(doublings)
        .find(|bits| *bits >= needed)
        .unwrap_or(u64::MAX - 7)
}

/// MurmurHash3, x86, 32 bits (Austin Appleby, public domain).
fn murmur3(seed: u32, bytes: &[u8]) -> u32 {
    const C1: u32 = 0xcc9e_2d51;
    const C2: u32 = 0x1b87_3593;
    let mix = |block: u32| block.wrapping_mul(C1).rotate_left(15).wrapping_mul(C2);
    let mut hash = seed;
    let (blocks, tail) = bytes.as_chunks::<4>();
    for block in blocks {
        hash ^= mix(u32::from_le_bytes(*block));
        hash = hash
            .rotate_left(13)
            .wrapping_mul(5)
            .wrapping_add(0xe654_6b64);
    }
    let rest = tail.iter().rev();
    let rest = rest.fold(0, |rest, &byte| (rest << 8) | u32::from(byte));
    hash ^= mix(rest);
    hash ^= bytes.len() as u32;
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hashes_and_bits_are_those_of_the_released_client() {
        let vectors = [
            ("a", 1_009_084_850, 2_302_015_384, [850, 234, 618, 2]),
            (
                "/db/Todo/1",
                872_726_478,
                1_321_919_941,
                [478, 419, 360, 301],
            ),
            (
                "/db/User/10",
                4_194_947_408,
                1_397_527_610,
                [408, 18, 628, 238],
            ),
            (
                "/db/Todo/3f2504e0-4f89-41d3-9a0c-0305e82c3301",
                3_103_055_895,
                1_240_486_783,
                [895, 678, 461, 244],
            ),
            (
                "/db/Todo/a%20b",
                3_517_143_192,
                1_857_895_121,
                [192, 313, 434, 555],
            ),
            (
                "/file/www/index.html",
                3_135_275_253,
                2_207_597_270,
                [253, 523, 793, 63],
            ),
        ];
        for (id, h1, h2, bits) in vectors {
            let hashes = Hashes::of(id);
            assert_eq!(hashes, Hashes { h1, h2 }, "{id}");
            assert_eq!(hashes.places(1_000, 4).collect::<Vec<_>>(), bits, "{id}");
        }
    }

    #[test]
    fn bits_lie_from_the_lowest_on() {
        let mut bytes = [0_u8; 8];
        for id in ["/db/Todo/1", "/db/User/10"] {
            for place in Hashes::of(id).places(64, 3) {
                bytes[(place / 8) as usize] |= 1 << (place % 8);
            }
        }
        // `EEQJAQAAAAA=` of contract 2.4.
        assert_eq!(bytes, [0x10, 0x44, 0x09, 0x01, 0, 0, 0, 0]);
    }

    #[test]
    fn sizes_are_of_the_ladder_and_one_fills_a_window() {
        assert_eq!(size_for(1), 64);
        assert_eq!(size_for(9_000), 58_400);
        assert_eq!(size_for(18_000), WINDOW_BITS);
        assert_eq!(size_for(20_000), 2 * WINDOW_BITS);
        let doublings = (0..8).map(|shift| WINDOW_BITS << shift);
        assert!(
            SMALL_BITS
                .into_iter()
                .chain(doublings)
                .all(|bits| bits % 8 == 0)
        );
    }

    #[test]
    fn few_others_are_found_at_any_size() {
        for count in [1, 50, 500, 5_000, 18_000] {
            let of = |from: u32, to: u32| -> Vec<Hashes> {
                let ids = (from..to).map(|key| Hashes::of(&format!("/db/Todo/{key}")));
                ids.collect()
            };
            let filter = Bloom::of(&of(0, count));
            let others = of(100_000, 120_000);
            let found = others.iter().filter(|id| filter.contains(**id)).count();
            assert!(found <= others.len() * 6 / 100, "{found} at {count}");
        }
    }

    #[test]
    fn the_empty_one_holds_nothing_and_the_saturated_one_everything() {
        let id = Hashes::of("/db/Todo/1");
        assert!(!Bloom::of(&[]).contains(id));
        assert!(Bloom::saturated().contains(id));
    }

    proptest! {
        #[test]
        fn what_went_in_is_found(ids in prop::collection::btree_set("[ -~]{0,40}", 0..200)) {
            let ids: Vec<Hashes> = ids.iter().map(|id| Hashes::of(id)).collect();
            let filter = Bloom::of(&ids);
            prop_assert!(ids.iter().all(|id| filter.contains(*id)));
        }
    }
}
