//! The keys that tokens are signed with: one signs, those before it only verify.
//!
//! A token names its key by id, so any number may be good at the same time. Ids rise and are never used again. A key that was replaced
//! stays until it is told to go, which whoever proposes it does once no token of it can be in its long life any more.
//!
//! Invariants: there is always one key that is not retired, and it has the highest id.

use std::fmt;

use proto::log::RotateSigningKey;
use serde::{Deserialize, Serialize};

use crate::machine::{Stop, invalid};
use crate::rows::ClusterRow;

/// Bytes of a key.
pub const SIGNING_KEY_BYTES: usize = 32;

/// Keys that may be kept at the same time: every node checks tokens against any of them, and every copy of the metadata holds them.
pub const SIGNING_KEYS_MAX: usize = 16;

/// One key.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// Never used again.
    pub id: u32,
    /// [`SIGNING_KEY_BYTES`] random bytes.
    pub secret: Vec<u8>,
    /// When it began to sign, microseconds since 1970 by the proposer's clock.
    pub since_us: u64,
    /// When another one took its place.
    pub retired_us: Option<u64>,
}

/// Without the secret.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("id", &self.id)
            .field("since_us", &self.since_us)
            .field("retired_us", &self.retired_us)
            .finish_non_exhaustive()
    }
}

/// All keys, ascending by id. Empty only before there is a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SigningKeys(Vec<SigningKey>);

impl SigningKeys {
    /// These keys, ascending by id, the last one signing.
    pub fn new(keys: Vec<SigningKey>) -> SigningKeys {
        SigningKeys(keys)
    }

    /// The one that signs.
    pub fn current(&self) -> Option<&SigningKey> {
        self.0.last()
    }

    /// The one with an id.
    pub fn get(&self, id: u32) -> Option<&SigningKey> {
        self.0.iter().find(|key| key.id == id)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &SigningKey> {
        self.0.iter()
    }
}

/// A key as the row of the cluster holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SigningKeyRow {
    pub(crate) id: u32,
    /// Hexadecimal.
    pub(crate) secret: String,
    pub(crate) since_us: u64,
    pub(crate) retired_us: Option<u64>,
}

/// The keys of a row. One of before there were several holds the founding key alone, id 0.
pub(crate) fn of_row(cluster: &ClusterRow) -> Result<SigningKeys, hex::FromHexError> {
    let key = |row: &SigningKeyRow| {
        Ok(SigningKey {
            id: row.id,
            secret: hex::decode(&row.secret)?,
            since_us: row.since_us,
            retired_us: row.retired_us,
        })
    };
    let keys: Result<Vec<_>, _> = rows_of(cluster).iter().map(key).collect();
    Ok(SigningKeys(keys?))
}

fn rows_of(cluster: &ClusterRow) -> Vec<SigningKeyRow> {
    if cluster.signing_keys.is_empty() {
        return vec![SigningKeyRow {
            id: 0,
            secret: cluster.signing_key.clone(),
            since_us: 0,
            retired_us: None,
        }];
    }
    cluster.signing_keys.clone()
}

/// A new key takes over; retired ones that are old enough go. Repeating it changes nothing: it names the key that it replaces.
pub(crate) fn rotate(
    cluster: &mut ClusterRow,
    stamp_us: u64,
    command: &RotateSigningKey,
) -> Result<bool, Stop> {
    if command.secret.len() != SIGNING_KEY_BYTES {
        return Err(invalid(format!(
            "signing key of {} bytes, must be {SIGNING_KEY_BYTES}",
            command.secret.len()
        )));
    }
    let mut keys = rows_of(cluster);
    let current = keys.last().map_or(0, |key| key.id);
    if current != command.replaces {
        return Ok(false);
    }
    keys.retain(|key| {
        key.retired_us
            .is_none_or(|retired| retired > command.forget_us)
    });
    if command.only {
        keys.clear();
    } else if keys.len() >= SIGNING_KEYS_MAX {
        return Err(invalid(format!(
            "{SIGNING_KEYS_MAX} signing keys are kept already: wait until the oldest may go, or forget all of them, which ends every session"
        )));
    }
    if let Some(last) = keys.last_mut() {
        last.retired_us = Some(stamp_us);
    }
    let id = current
        .checked_add(1)
        .ok_or_else(|| invalid("no signing key ids are left"))?;
    keys.push(SigningKeyRow {
        id,
        secret: hex::encode(&command.secret),
        since_us: stamp_us,
        retired_us: None,
    });
    cluster.signing_keys = keys;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> ClusterRow {
        ClusterRow {
            cluster_id: "c".to_owned(),
            epoch: 1,
            version: 1,
            shards: 4,
            replicas: 1,
            next_replica: 5,
            signing_key: hex::encode([7; SIGNING_KEY_BYTES]),
            signing_keys: Vec::new(),
            root_password_hash: String::new(),
            bootstrapped: true,
            demo: false,
        }
    }

    fn command(replaces: u32, forget_us: u64) -> RotateSigningKey {
        RotateSigningKey {
            replaces,
            secret: vec![8; SIGNING_KEY_BYTES].into(),
            forget_us,
            only: false,
        }
    }

    fn ids(cluster: &ClusterRow) -> Vec<u32> {
        let keys = of_row(cluster).expect("hexadecimal");
        keys.iter().map(|key| key.id).collect()
    }

    fn rotated(cluster: &mut ClusterRow, stamp_us: u64, command: &RotateSigningKey) -> bool {
        rotate(cluster, stamp_us, command).unwrap_or_else(|_| panic!("rotates"))
    }

    #[test]
    fn a_new_key_signs_and_the_old_one_stays_until_it_is_old_enough() {
        let mut cluster = cluster();
        assert_eq!(ids(&cluster), [0]);
        assert!(rotated(&mut cluster, 100, &command(0, 0)));
        assert_eq!(ids(&cluster), [0, 1]);
        let keys = of_row(&cluster).expect("hexadecimal");
        assert_eq!(keys.get(0).and_then(|key| key.retired_us), Some(100));
        assert_eq!(
            keys.current().map(|key| (key.id, key.since_us)),
            Some((1, 100))
        );
        // Said twice, done once.
        assert!(!rotated(&mut cluster, 150, &command(0, 0)));
        assert!(rotated(&mut cluster, 200, &command(1, 99)));
        assert_eq!(ids(&cluster), [0, 1, 2]);
        assert!(rotated(&mut cluster, 300, &command(2, 100)));
        assert_eq!(ids(&cluster), [1, 2, 3]);
    }

    #[test]
    fn all_old_keys_may_be_forgotten_and_their_number_has_a_limit() {
        let mut cluster = cluster();
        for id in 0..SIGNING_KEYS_MAX as u32 - 1 {
            assert!(rotated(&mut cluster, 100, &command(id, 0)));
        }
        let last = SIGNING_KEYS_MAX as u32 - 1;
        assert!(rotate(&mut cluster, 100, &command(last, 0)).is_err());
        let only = RotateSigningKey {
            only: true,
            ..command(last, 0)
        };
        assert!(rotated(&mut cluster, 100, &only));
        assert_eq!(ids(&cluster), [last + 1]);
        let short = RotateSigningKey {
            secret: vec![1; 31].into(),
            ..command(last + 1, 0)
        };
        assert!(rotate(&mut cluster, 100, &short).is_err());
    }
}
