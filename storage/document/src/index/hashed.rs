//! Components that hold keyed hashes in the place of values, for fields whose values must not lie open
//! ([`SENSITIVE`](crate::schema::SENSITIVE)): a disk is sealed but for its keys, and an index has its values in keys.
//!
//! A hashed value is [`MARK`] and the first bytes of HMAC-SHA256 over the whole ordered value. Equal values have equal hashes, and nothing
//! else of them shows: no order, no beginning, no length. Each component has a key of its own, derived from the database's secret by bucket
//! and path, so equal values of two fields look different.
//!
//! What does show: which documents have equal values. Without the secret nobody can try out which ones.
//!
//! Two values may share a hash, so no range of hashes is exact.

use std::fmt;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::values::ValueHash;

/// What hashed values begin with.
const MARK: u8 = 0x81;

/// Bytes of a hashed value: [`MARK`] and 16 bytes of the hash.
pub(super) const HASHED_BYTES: usize = 17;

/// Bytes of a database's secret.
pub const SECRET_BYTES: usize = 32;

/// What the keys of a database's hashed components are derived from. Whoever has it can try out values.
#[derive(Clone)]
pub struct IndexSecret([u8; SECRET_BYTES]);

impl IndexSecret {
    /// The secret that these bytes are; `None`: they are not [`SECRET_BYTES`].
    pub fn of_bytes(bytes: &[u8]) -> Option<IndexSecret> {
        bytes.try_into().ok().map(IndexSecret)
    }

    /// The key of a component.
    pub(super) fn key(&self, bucket: u32, path: &str) -> HashKey {
        let input = [&bucket.to_be_bytes(), path.as_bytes()].concat();
        HashKey(mac(&self.0, Use::Key, &input))
    }
}

/// Without the secret.
impl fmt::Debug for IndexSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IndexSecret")
    }
}

/// The key of one component.
#[derive(Clone)]
pub(super) struct HashKey([u8; SECRET_BYTES]);

/// Without the key.
impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey")
    }
}

/// What a hash is for: hashes for one use say nothing about those for another.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Use {
    Key = 1,
    Entry = 2,
    Unique = 3,
}

impl HashKey {
    /// What a whole ordered value is in entries.
    pub(super) fn entry(&self, value: &[u8]) -> [u8; HASHED_BYTES] {
        let mut entry = [MARK; HASHED_BYTES];
        entry[1..].copy_from_slice(&mac(&self.0, Use::Entry, value)[..HASHED_BYTES - 1]);
        entry
    }

    /// The hash that a whole value of a unique index is reserved under.
    pub(super) fn unique(&self, value: &[u8]) -> ValueHash {
        mac(&self.0, Use::Unique, value)
    }

    /// The form for definitions.
    pub(super) fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// Reads what [`HashKey::to_hex`] gave.
    pub(super) fn of_hex(text: &str) -> Option<HashKey> {
        hex::decode(text).ok()?.try_into().ok().map(HashKey)
    }
}

fn mac(key: &[u8; SECRET_BYTES], purpose: Use, input: &[u8]) -> [u8; 32] {
    // A key that is shorter than a block is filled up with zeros.
    let mut block = [0; 64];
    block[..SECRET_BYTES].copy_from_slice(key);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    mac.update(&[purpose as u8]);
    mac.update(input);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> IndexSecret {
        IndexSecret::of_bytes(&[byte; SECRET_BYTES]).expect("32 bytes")
    }

    #[test]
    fn hashes_depend_on_the_value_the_secret_and_the_place() {
        let key = secret(1).key(7, "a");
        assert_eq!(key.entry(b"x"), secret(1).key(7, "a").entry(b"x"));
        assert_ne!(key.entry(b"x"), key.entry(b"y"));
        for other in [
            secret(2).key(7, "a"),
            secret(1).key(8, "a"),
            secret(1).key(7, "b"),
        ] {
            assert_ne!(key.entry(b"x"), other.entry(b"x"));
            assert_ne!(key.unique(b"x"), other.unique(b"x"));
        }
        // The whole hash of a unique value does not give the entry away.
        assert_ne!(key.entry(b"x")[1..], key.unique(b"x")[..HASHED_BYTES - 1]);
    }

    #[test]
    fn keys_are_of_one_length_and_are_not_shown() {
        let key = secret(1).key(7, "a");
        let again = HashKey::of_hex(&key.to_hex()).expect("own form");
        assert_eq!(again.entry(b"x"), key.entry(b"x"));
        for bad in ["", "00", "zz", &"00".repeat(SECRET_BYTES + 1)] {
            assert!(HashKey::of_hex(bad).is_none(), "{bad}");
            assert!(IndexSecret::of_bytes(bad.as_bytes()).is_none(), "{bad}");
        }
        assert_eq!(format!("{key:?} {:?}", secret(1)), "HashKey IndexSecret");
    }
}
