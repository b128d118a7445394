//! The chain hash: what two replicas compare to know that they hold the same.
//!
//! `chain(n) = XXH3-128(chain(n-1), entry, effect, effect, …)` over these bytes, integers little endian:
//! - the previous chain, u128, zero before the first entry;
//! - term u64, leader u64, index u64, T u64, last stamp u64 after the entry; length u64 and bytes of the membership, if the entry is one;
//! - for each effect in the order in which the machine made it: column u8, 1 for a put or 0 for a delete u8, length of the key u32, length
//!   of the value u64, the key without store id, the value.
//!
//! So it depends on nothing that differs between replicas: not on store ids, and not on which entries shared a batch. It is a checksum
//! against faults, not against forgery. The layout is stored in every replica: it never changes for entries that exist.

use xxhash_rust::xxh3::Xxh3Default;

use super::Applied;
use crate::engine::Column;
use crate::ids::LogId;

/// Hashes one entry.
pub(super) struct Chain(Xxh3Default);

impl Chain {
    /// A hasher for the entry `id`, after which the store stands at `applied` (whose chain is still that of the entry before).
    pub(super) fn begin(id: LogId, applied: &Applied) -> Self {
        let mut head = [0; 56];
        head[..16].copy_from_slice(&applied.chain.to_le_bytes());
        let fields = [
            id.term,
            id.leader,
            id.index,
            applied.time_us,
            applied.last_stamp_us,
        ];
        for (bytes, field) in head[16..].chunks_exact_mut(8).zip(fields) {
            bytes.copy_from_slice(&field.to_le_bytes());
        }
        let mut hasher = Xxh3Default::new();
        hasher.update(&head);
        Self(hasher)
    }

    /// Adds a change of members.
    pub(super) fn membership(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Adds an effect: a put, or a delete without a value.
    pub(super) fn effect(&mut self, column: Column, key: &[u8], value: Option<&[u8]>) {
        let mut head = [0; 14];
        head[0] = column as u8;
        head[1] = u8::from(value.is_some());
        head[2..6].copy_from_slice(&(key.len() as u32).to_le_bytes());
        head[6..].copy_from_slice(&(value.map_or(0, <[u8]>::len) as u64).to_le_bytes());
        self.0.update(&head);
        self.0.update(key);
        self.0.update(value.unwrap_or_default());
    }

    /// The chain up to this entry.
    pub(super) fn finish(self) -> u128 {
        self.0.digest128()
    }
}
