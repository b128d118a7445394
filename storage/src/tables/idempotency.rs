//! Outcomes of requests that carried an idempotency key, so that a retry is told what happened instead of happening again.
//!
//! Three kinds of rows move together: the record by scope, an empty-handed row by (created T, scope) that says how many bytes the two
//! take, and the sum of these bytes. All times here are the shard's T, which may run slow but never fast: records only live longer.
//!
//! Of what a put wrote the body is not kept: a replay is asked with the same request, so the service renders it again. Of what a partial
//! update wrote it is, since the request does not have it.

use bincode::{Decode, Encode};
use xxhash_rust::xxh3::xxh3_128;

use crate::codec::{self, Record, put_bytes};
use crate::engine::Column;
use crate::error::{Error, Result};
use crate::keys::{IdempotencyAgeKey, IdempotencyKey, IdempotencyUsageKey};
use crate::machine::outcome::{Outcome, Rejection, Written};
use crate::machine::{Replica, ReplicaView, Transaction};

/// Length of a request's fingerprint.
pub const FINGERPRINT_BYTES: usize = 16;

/// Hash of a whole request. Two requests with one key in one scope must have the same.
pub type Fingerprint = [u8; FINGERPRINT_BYTES];

/// What a request writes to, as far as its scope goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// One document.
    Document {
        /// Id of its bucket.
        bucket: u32,
        /// Its key.
        key: &'a str,
    },
    /// Several documents of one shard.
    Batch,
}

/// A recorded outcome.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct IdempotencyRecord {
    /// Of the request that was applied.
    pub fingerprint: Fingerprint,
    /// The shard's T when it was applied, microseconds.
    pub created_us: u64,
    /// What it led to.
    pub outcome: RecordedOutcome,
}

/// What a request led to. Stored: variants are only added, at the end.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum RecordedOutcome {
    /// It was written, with one of these for each document.
    Written(Vec<RecordedWrite>),
    /// It was rejected.
    Rejected {
        /// Place of the mutation that was rejected.
        ordinal: u32,
        /// Why.
        rejection: Rejection,
    },
    /// It was written, and some of it by partial updates.
    Updated(Vec<RecordedUpdate>),
}

/// [`Written`] with its body, where that cannot be made again.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RecordedUpdate {
    /// All but the body.
    pub write: RecordedWrite,
    /// The body after a partial update; empty for other writes.
    pub body: Vec<u8>,
}

/// [`Written`] without the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RecordedWrite {
    /// See [`Written::version`].
    pub version: u64,
    /// See [`Written::created_us`].
    pub created_us: u64,
    /// See [`Written::updated_us`].
    pub updated_us: u64,
    /// See [`Written::existed`].
    pub existed: bool,
}

/// What the records of a shard take, for the driver that ages them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all records.
    pub bytes: u64,
    /// T at which the oldest record was made, microseconds; `None` if there is no record.
    pub oldest_us: Option<u64>,
}

impl Record for IdempotencyRecord {
    const FORMAT: u8 = 1;
    const WHAT: &'static str = "idempotency record";
}

/// Value of an age row: bytes that the record takes, this row included.
#[derive(Encode, Decode)]
pub(crate) struct AgeRow(pub(crate) u64);

impl Record for AgeRow {
    const FORMAT: u8 = 1;
    const WHAT: &'static str = "idempotency age row";
}

/// Value of the usage row: sum of all [`AgeRow`]s.
#[derive(Encode, Decode)]
pub(crate) struct UsageRow(pub(crate) u64);

impl Record for UsageRow {
    const FORMAT: u8 = 1;
    const WHAT: &'static str = "idempotency usage row";
}

/// The scope of an idempotency key: XXH3-128 over the database, the acting user's id (empty: nobody), the key and the target. Texts are
/// length-prefixed, so no two scopes have the same bytes. Stored: it never changes.
pub fn scope(database: u32, user: &str, key: &str, target: Target<'_>) -> u128 {
    let mut bytes = Vec::with_capacity(32 + user.len() + key.len());
    bytes.extend_from_slice(&database.to_le_bytes());
    put_bytes(&mut bytes, user.as_bytes());
    put_bytes(&mut bytes, key.as_bytes());
    match target {
        Target::Document { bucket, key } => {
            bytes.push(1);
            bytes.extend_from_slice(&bucket.to_le_bytes());
            put_bytes(&mut bytes, key.as_bytes());
        }
        Target::Batch => bytes.push(2),
    }
    xxh3_128(&bytes)
}

/// The record of a scope, as of the last applied entry. May wait for a disk.
///
/// # Errors
/// [`Error::Corrupt`]: the row does not decode.
pub fn lookup(replica: &Replica, scope: u128) -> Result<Option<IdempotencyRecord>> {
    replica
        .get(Column::State, &IdempotencyKey { scope }.encode())?
        .map(|row| codec::decode(&row))
        .transpose()
}

/// What the records of a shard take.
///
/// # Errors
/// [`Error::Corrupt`]: a row does not decode.
pub fn usage(view: &ReplicaView<'_>) -> Result<Usage> {
    let bytes = view
        .get(Column::State, &IdempotencyUsageKey.encode())?
        .map(|row| codec::decode::<UsageRow>(&row))
        .transpose()?;
    let oldest = view
        .scan_prefix(Column::State, &IdempotencyAgeKey::prefix())
        .next()
        .transpose()?;
    let oldest = oldest
        .map(|(key, _)| IdempotencyAgeKey::decode(&key))
        .transpose()?;
    Ok(Usage {
        bytes: bytes.map_or(0, |row| row.0),
        oldest_us: oldest.map(|key| key.created_us),
    })
}

/// The record of a scope, as apply sees it.
pub(crate) fn get(tx: &mut Transaction<'_>, scope: u128) -> Result<Option<IdempotencyRecord>> {
    tx.get(Column::State, &IdempotencyKey { scope }.encode())?
        .map(|row| codec::decode(&row))
        .transpose()
}

/// Bytes of all records, as apply sees them.
pub(crate) fn bytes(tx: &mut Transaction<'_>) -> Result<u64> {
    let row = tx.get(Column::State, &IdempotencyUsageKey.encode())?;
    Ok(row
        .map(|row| codec::decode::<UsageRow>(&row))
        .transpose()?
        .map_or(0, |row| row.0))
}

/// Stores a record for a scope that has none.
pub(crate) fn put(tx: &mut Transaction<'_>, scope: u128, record: &IdempotencyRecord) -> Result<()> {
    let key = IdempotencyKey { scope }.encode();
    let age_key = IdempotencyAgeKey {
        created_us: record.created_us,
        scope,
    }
    .encode();
    let row = codec::encode(record)?;
    let taken = (key.len() + row.len() + age_key.len()) as u64;
    let used = bytes(tx)?.saturating_add(taken);
    tx.put(Column::State, &key, row);
    tx.put(Column::State, &age_key, codec::encode(&AgeRow(taken))?);
    tx.put(
        Column::State,
        &IdempotencyUsageKey.encode(),
        codec::encode(&UsageRow(used))?,
    );
    Ok(())
}

/// Removes the oldest records, at most `page`, for as long as `is_due` says so of (age in T, bytes of all records that are left).
pub(crate) fn remove_oldest(
    tx: &mut Transaction<'_>,
    page: usize,
    is_due: impl Fn(u64, u64) -> bool,
) -> Result<()> {
    let before = bytes(tx)?;
    let mut used = before;
    for (age_key, row) in tx.scan_prefix(Column::State, &IdempotencyAgeKey::prefix(), page)? {
        let IdempotencyAgeKey { created_us, scope } = IdempotencyAgeKey::decode(&age_key)?;
        if !is_due(tx.time_us().saturating_sub(created_us), used) {
            break;
        }
        let AgeRow(taken) = codec::decode(&row)?;
        used = used
            .checked_sub(taken)
            .ok_or_else(|| Error::corrupt("idempotency usage row: less than its records take"))?;
        tx.delete(Column::State, &IdempotencyKey { scope }.encode());
        tx.delete(Column::State, &age_key);
    }
    if used != before {
        tx.put(
            Column::State,
            &IdempotencyUsageKey.encode(),
            codec::encode(&UsageRow(used))?,
        );
    }
    Ok(())
}

impl IdempotencyRecord {
    /// What a request with the same key in the same scope is answered: the outcome again, without bodies and marked as replayed, or
    /// that it is another request.
    pub fn replay(&self, fingerprint: &Fingerprint) -> Outcome {
        if self.fingerprint != *fingerprint {
            return Outcome::Rejected {
                ordinal: 0,
                rejection: Rejection::IdempotencyMismatch,
            };
        }
        match &self.outcome {
            RecordedOutcome::Written(writes) => {
                Outcome::Written(writes.iter().map(RecordedWrite::replay).collect())
            }
            RecordedOutcome::Rejected { ordinal, rejection } => Outcome::Rejected {
                ordinal: *ordinal as usize,
                rejection: rejection.clone(),
            },
            RecordedOutcome::Updated(updates) => {
                let replay = |update: &RecordedUpdate| Written {
                    body: bytes::Bytes::copy_from_slice(&update.body),
                    ..update.write.replay()
                };
                Outcome::Written(updates.iter().map(replay).collect())
            }
        }
    }
}

impl RecordedWrite {
    fn replay(&self) -> Written {
        Written {
            version: self.version,
            created_us: self.created_us,
            updated_us: self.updated_us,
            existed: self.existed,
            replayed: true,
            body: bytes::Bytes::new(),
        }
    }
}

impl From<&Written> for RecordedWrite {
    fn from(written: &Written) -> Self {
        Self {
            version: written.version,
            created_us: written.created_us,
            updated_us: written.updated_us,
            existed: written.existed,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records() -> impl Strategy<Value = IdempotencyRecord> {
        let writes =
            proptest::collection::vec(any::<(u64, u64, u64, bool)>(), 0..4).prop_map(|writes| {
                let writes =
                    writes
                        .into_iter()
                        .map(|(version, created_us, updated_us, existed)| RecordedWrite {
                            version,
                            created_us,
                            updated_us,
                            existed,
                        });
                RecordedOutcome::Written(writes.collect())
            });
        let rejection = prop_oneof![
            any::<u64>().prop_map(|version| Rejection::Exists { version }),
            any::<Option<u64>>().prop_map(|stored| Rejection::OutOfDate { stored }),
            Just(Rejection::Denied),
            Just(Rejection::AclChangeDenied),
            Just(Rejection::BucketDropped),
        ];
        let rejected = (any::<u32>(), rejection)
            .prop_map(|(ordinal, rejection)| RecordedOutcome::Rejected { ordinal, rejection });
        let updated =
            proptest::collection::vec(any::<(u64, bool, Vec<u8>)>(), 0..4).prop_map(|updates| {
                let updates = updates.into_iter().map(|(version, existed, body)| {
                    let write = RecordedWrite {
                        version,
                        created_us: 1,
                        updated_us: 2,
                        existed,
                    };
                    RecordedUpdate { write, body }
                });
                RecordedOutcome::Updated(updates.collect())
            });
        (
            any::<Fingerprint>(),
            any::<u64>(),
            prop_oneof![writes, rejected, updated],
        )
            .prop_map(|(fingerprint, created_us, outcome)| IdempotencyRecord {
                fingerprint,
                created_us,
                outcome,
            })
    }

    #[test]
    fn scopes_are_told_apart_and_never_change() {
        let base = scope(
            1,
            "/db/User/10",
            "k",
            Target::Document {
                bucket: 7,
                key: "a",
            },
        );
        assert_eq!(format!("{base:032x}"), SCOPE_GOLDEN);
        for other in [
            scope(
                2,
                "/db/User/10",
                "k",
                Target::Document {
                    bucket: 7,
                    key: "a",
                },
            ),
            scope(
                1,
                "/db/User/1",
                "0k",
                Target::Document {
                    bucket: 7,
                    key: "a",
                },
            ),
            scope(
                1,
                "",
                "k",
                Target::Document {
                    bucket: 7,
                    key: "a",
                },
            ),
            scope(
                1,
                "/db/User/10",
                "ka",
                Target::Document { bucket: 7, key: "" },
            ),
            scope(
                1,
                "/db/User/10",
                "k",
                Target::Document {
                    bucket: 8,
                    key: "a",
                },
            ),
            scope(1, "/db/User/10", "k", Target::Batch),
        ] {
            assert_ne!(base, other);
        }
    }

    const SCOPE_GOLDEN: &str = "ee6cf9bd04766040b6fa96eefcfd73ef";

    proptest! {
        #[test]
        fn records_round_trip(record in records()) {
            let row = codec::encode(&record).expect("encodes");
            prop_assert_eq!(codec::decode::<IdempotencyRecord>(&row).expect("decodes"), record);
        }

        #[test]
        fn any_bytes_decode_or_are_corrupt(bytes: Vec<u8>) {
            let row = [&[1], &bytes[..]].concat();
            if let Err(error) = codec::decode::<IdempotencyRecord>(&row) {
                let is_corrupt = matches!(error, Error::Corrupt { .. });
                prop_assert!(is_corrupt);
            }
        }

        #[test]
        fn a_replay_tells_the_same_without_bodies(record in records(), other: Fingerprint) {
            match (record.replay(&record.fingerprint), &record.outcome) {
                (Outcome::Written(replayed), RecordedOutcome::Written(writes)) => {
                    prop_assert_eq!(replayed.iter().map(RecordedWrite::from).collect::<Vec<_>>(), writes.clone());
                    prop_assert!(replayed.iter().all(|written| written.replayed && written.body.is_empty()));
                }
                (Outcome::Written(replayed), RecordedOutcome::Updated(updates)) => {
                    let bodies = replayed.iter().map(|written| &written.body[..]);
                    prop_assert!(bodies.eq(updates.iter().map(|update| &update.body[..])));
                    prop_assert!(replayed.iter().all(|written| written.replayed));
                }
                (Outcome::Rejected { .. }, RecordedOutcome::Rejected { .. }) => {}
                (outcome, _) => prop_assert!(false, "{outcome:?}"),
            }
            if other != record.fingerprint {
                let mismatch = Outcome::Rejected { ordinal: 0, rejection: Rejection::IdempotencyMismatch };
                prop_assert_eq!(record.replay(&other), mismatch);
            }
        }
    }
}
