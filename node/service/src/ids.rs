//! Keys that the service makes, and hashes of requests.

use document::acl::Principal;
use sha2::{Digest as _, Sha256};
use uuid::{Builder, Uuid};
use xxhash_rust::xxh3::Xxh3;

/// A new random key: a UUID, version 4.
pub(crate) fn random_key() -> String {
    Uuid::new_v4().to_string()
}

/// The key of a document that is inserted without one under an idempotency key: the same for every repetition, so that the repetition
/// finds the record of the first try. A UUID, version 8.
pub(crate) fn derived_key(
    database: u32,
    bucket: u32,
    principal: &Principal,
    idempotency_key: &str,
    ordinal: usize,
) -> String {
    let mut hash = Sha256::new();
    hash.update(b"larder key 1");
    hash.update(database.to_le_bytes());
    hash.update(bucket.to_le_bytes());
    hash.update((ordinal as u64).to_le_bytes());
    let user = principal.user.as_deref().unwrap_or_default();
    hash.update((user.len() as u64).to_le_bytes());
    hash.update(user);
    hash.update(idempotency_key);
    let digest: [u8; 32] = hash.finalize().into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

/// Hash of a request, to tell a repetition from another request under the same idempotency key.
///
/// Parts are length-prefixed, so that no two different requests feed the same bytes.
pub(crate) struct Fingerprint {
    hash: Xxh3,
}

impl Fingerprint {
    /// Begins with the name of the operation.
    pub(crate) fn new(operation: &str) -> Fingerprint {
        let mut fingerprint = Fingerprint { hash: Xxh3::new() };
        fingerprint.bytes(operation.as_bytes());
        fingerprint
    }

    /// Feeds bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.hash.update(bytes);
    }

    /// Feeds a number.
    pub(crate) fn number(&mut self, number: u64) {
        self.hash.update(&number.to_le_bytes());
    }

    /// The 16 bytes.
    pub(crate) fn finish(self) -> [u8; 16] {
        self.hash.digest128().to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_keys_depend_on_every_part() {
        let anyone = Principal::anonymous();
        let root = Principal::root();
        let first = derived_key(1, 2, &anyone, "k", 0);
        assert_eq!(first, derived_key(1, 2, &anyone, "k", 0));
        for other in [
            derived_key(2, 2, &anyone, "k", 0),
            derived_key(1, 3, &anyone, "k", 0),
            derived_key(1, 2, &root, "k", 0),
            derived_key(1, 2, &anyone, "l", 0),
            derived_key(1, 2, &anyone, "k", 1),
        ] {
            assert_ne!(first, other);
        }
        assert_eq!(
            Uuid::parse_str(&first).expect("a uuid").get_version_num(),
            8
        );
    }

    #[test]
    fn fingerprints_keep_parts_apart() {
        let of = |parts: [&str; 2]| {
            let mut fingerprint = Fingerprint::new("put");
            parts
                .iter()
                .for_each(|part| fingerprint.bytes(part.as_bytes()));
            fingerprint.finish()
        };
        assert_eq!(of(["ab", "c"]), of(["ab", "c"]));
        assert_ne!(of(["ab", "c"]), of(["a", "bc"]));
    }
}
