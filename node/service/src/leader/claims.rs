//! Values of unique indexes that writes take and give up, foreseen before they are proposed (the protocol: [`crate::unique`]).
//!
//! The documents are foreseen from what is stored here, without a barrier. If that was not the newest state, apply finds a value that is
//! not claimed and refuses, and the next round looks behind a barrier. So a write that changes no such value costs nothing here.
//!
//! Lacks: deciding. Whatever seems refused claims nothing; apply says why.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use cluster::state::{ClusterState, Database};
use document::acl::Principal;
use document::body::{self, envelope};
use document::id::object_id;
use document::index::{Candidate, Index, TooManyValues, ValueHash};
use document::query::Subject;
use document::update;
use proto::ErrorCode;
use proto::log::mutation::Operation;
use proto::log::{Claim, Claims, Put};
use storage::machine::Replica;
use storage::machine::outcome::Rejection;
use storage::machine::update::from_log;
use storage::tables::documents::{self, CachedRecord, Record};

use super::near;
use super::prepare::{Prepared, located};
use super::refusal::{refusal, rejected};
use super::{Shards, find_bucket};
use crate::error::{Error, Result};
use crate::forward::{Failure, Request, Writes};
use crate::unique::{Denied, Held, Taking, Value};

/// New values that the writes of one request may have together: each costs an entry in the log of its shard.
const VALUES_MAX: usize = 10_000;

/// A document as a write meets or leaves it.
#[derive(Clone, Default)]
struct Sight {
    version: u64,
    created_us: i64,
    updated_us: i64,
    fields: Vec<u8>,
    /// By index.
    values: BTreeSet<(u32, ValueHash)>,
}

/// The unique indexes of each write's bucket.
type Uniques = Vec<Arc<[Candidate]>>;

/// What the writes of a request take and give up.
#[derive(Default)]
struct Foreseen {
    /// By write.
    takes: Vec<Vec<Value>>,
    /// What documents hold in the end and did not before.
    kept: BTreeSet<Taking>,
    /// What they held before and do not in the end, or only in between.
    given_up: BTreeSet<Taking>,
}

impl Shards {
    /// Reserves the values that the writes take, and says so in their mutations.
    ///
    /// # Errors
    /// `ValueTaken`: another document has one. Nothing is proposed; what was reserved is in `held`.
    #[expect(
        clippy::too_many_arguments,
        reason = "a round of a write and what is held for it"
    )]
    pub(super) async fn claim(
        &self,
        state: &Arc<ClusterState>,
        database: &Database,
        request: &Request,
        writes: &Writes,
        prepared: &mut [Prepared],
        replica: &Arc<Replica>,
        held: &mut Held,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let uniques = self.uniques(database, writes)?;
        if uniques.iter().all(|indexes| indexes.is_empty()) {
            return Ok(());
        }
        // Before anything is reserved: a fence that comes later voids what is.
        let applied = near::index(replica);
        let is_current = held.is_retry();
        if is_current {
            self.barrier(request.shard, deadline).await?;
        }
        let stored = self.stored(prepared, &uniques, replica, deadline).await?;
        let now_us = i64::try_from(self.clock.wall_us()).unwrap_or(i64::MAX);
        let foresight = Foresight {
            writes,
            principal: &request.principal,
            uniques: &uniques,
            now_us,
        };
        let foreseen = match foresight.foresee(prepared, &stored) {
            Ok(foreseen) => foreseen,
            // The document may be another one by now.
            Err(Crowded { .. }) if !is_current => return Ok(()),
            Err(Crowded { ordinal, index }) => {
                let rejection = Rejection::TooManyValues {
                    index,
                    values_max: Index::VALUES_MAX as u64,
                };
                let write = writes.writes.get(ordinal);
                let error = rejected(&rejection, write, prepared.get(ordinal));
                return Err(placed(error, writes, ordinal).into());
            }
        };
        let takings = foresight.takings(&foreseen, prepared)?;
        let owners: Vec<Taking> = takings.iter().map(|(taking, _)| taking.clone()).collect();
        held.begin(owners, foreseen.kept, foreseen.given_up);
        if takings.is_empty() {
            return Ok(());
        }
        match self
            .unique
            .reserve(state, held, &request.principal, deadline)
            .await
        {
            Ok(()) => {}
            Err(Denied::Failed(error)) if error.code == ErrorCode::DiskFull => {
                return Err(error.into());
            }
            // Of the reserving, not of the write: that is not proposed.
            Err(Denied::Failed(error)) => {
                let message = format!(
                    "a value of a unique index was not reserved: {}",
                    error.message
                );
                return Err(Failure::Busy(Error::unavailable(message)));
            }
            Err(Denied::Taken {
                taking,
                owner,
                is_readable,
            }) => {
                let ordinal = takings
                    .iter()
                    .find(|(wanted, _)| *wanted == taking)
                    .map_or(0, |(_, ordinal)| *ordinal);
                let owner = Some(owner.as_str()).filter(|_| is_readable);
                let error = foresight.taken(ordinal, &taking.value, owner);
                return Err(placed(error, writes, ordinal).into());
            }
        }
        for (prepared, values) in prepared.iter_mut().zip(&foreseen.takes) {
            let claim = |value: &Value| Claim {
                index: value.index,
                value: value.hash.to_vec().into(),
            };
            prepared.mutation.claims = (!values.is_empty()).then(|| Claims {
                prepared: applied,
                claims: values.iter().map(claim).collect(),
            });
        }
        Ok(())
    }

    /// The unique indexes of each write's bucket. Nothing is allocated for buckets without any.
    fn uniques(&self, database: &Database, writes: &Writes) -> Result<Uniques> {
        let of_write = |bucket: &str| {
            let indexes = self.indexes.get(database, find_bucket(database, bucket)?)?;
            let is_unique = |candidate: &Candidate| candidate.index.definition().unique;
            if indexes.iter().all(is_unique) {
                return Ok(indexes);
            }
            Ok(indexes
                .iter()
                .filter(|&candidate| is_unique(candidate))
                .cloned()
                .collect())
        };
        writes
            .writes
            .iter()
            .map(|write| of_write(&write.bucket))
            .collect()
    }

    /// The documents that are written, as they are stored here: memory first, then the disk for all that it lacks.
    async fn stored(
        &self,
        prepared: &[Prepared],
        uniques: &Uniques,
        replica: &Arc<Replica>,
        deadline: Instant,
    ) -> Result<Vec<Option<Record>>> {
        let mut stored = vec![None; prepared.len()];
        let mut missing = Vec::new();
        for (at, (prepared, indexes)) in prepared.iter().zip(uniques).enumerate() {
            if indexes.is_empty() {
                continue;
            }
            let mutation = &prepared.mutation;
            let (database, bucket) = (mutation.database, mutation.bucket);
            match documents::get_cached(replica, database, bucket, &mutation.key)? {
                CachedRecord::Found(record) => stored[at] = Some(record),
                CachedRecord::Absent => {}
                CachedRecord::NeedsDisk => {
                    missing.push((at, database, bucket, mutation.key.clone()));
                }
            }
        }
        if missing.is_empty() {
            return Ok(stored);
        }
        let replica = Arc::clone(replica);
        let read = move || {
            let get = |(at, database, bucket, key): (usize, u32, u32, String)| {
                Ok((at, documents::get(&replica, database, bucket, &key)?))
            };
            missing.into_iter().map(get).collect::<Result<Vec<_>>>()
        };
        for (at, record) in self.reads.run(deadline, read).await? {
            stored[at] = record;
        }
        Ok(stored)
    }
}

/// A write would give a document too many values in an index.
struct Crowded {
    ordinal: usize,
    index: u32,
}

/// What foreseeing needs to know of a request.
struct Foresight<'r> {
    writes: &'r Writes,
    principal: &'r Principal,
    uniques: &'r Uniques,
    now_us: i64,
}

impl Foresight<'_> {
    /// What the writes do, one after the other, each on what those before it leave.
    fn foresee(
        &self,
        prepared: &[Prepared],
        stored: &[Option<Record>],
    ) -> Result<Foreseen, Crowded> {
        let mut foreseen = Foreseen::default();
        let mut before: HashMap<(u32, &str), Option<Sight>> = HashMap::new();
        let mut after: HashMap<(u32, &str), Option<Sight>> = HashMap::new();
        for (ordinal, prepared) in prepared.iter().enumerate() {
            let mut takes = Vec::new();
            let mutation = &prepared.mutation;
            let place = (mutation.bucket, mutation.key.as_str());
            let record = stored.get(ordinal).and_then(Option::as_ref);
            let is_first = !before.contains_key(&place);
            let skip = self.indexes(ordinal).is_empty()
                || (is_first && refusal(prepared, record, self.principal).is_some());
            if !skip {
                if is_first {
                    let sight = record.and_then(|record| self.sight(ordinal, record));
                    before.insert(place, sight.clone());
                    after.insert(place, sight);
                }
                let met = after.get(&place).cloned().flatten();
                if let Some(left) = self.left(ordinal, prepared, met.as_ref())? {
                    let held = met.map(|met| met.values).unwrap_or_default();
                    let values = left.iter().flat_map(|left| left.values.difference(&held));
                    takes.extend(values.map(|&(index, hash)| Value {
                        database: mutation.database,
                        bucket: mutation.bucket,
                        index,
                        hash,
                    }));
                    after.insert(place, left);
                }
            }
            foreseen.takes.push(takes);
        }
        let database = prepared.first().map_or(0, |one| one.mutation.database);
        for (place, first) in before {
            let held = first.map(|sight| sight.values).unwrap_or_default();
            let holds = after.remove(&place).flatten();
            let holds = holds.map(|sight| sight.values).unwrap_or_default();
            let taking = |&(index, hash): &(u32, ValueHash)| Taking {
                value: Value {
                    database,
                    bucket: place.0,
                    index,
                    hash,
                },
                owner: place.1.to_owned(),
            };
            foreseen.kept.extend(holds.difference(&held).map(taking));
            foreseen
                .given_up
                .extend(held.difference(&holds).map(taking));
        }
        Ok(foreseen)
    }

    fn indexes(&self, ordinal: usize) -> &[Candidate] {
        self.uniques.get(ordinal).map_or(&[], |indexes| indexes)
    }

    fn bucket(&self, ordinal: usize) -> &str {
        let write = self.writes.writes.get(ordinal);
        write.map_or("", |write| &write.bucket)
    }

    /// A stored document.
    fn sight(&self, ordinal: usize, record: &Record) -> Option<Sight> {
        let parts = envelope(&record.body)?;
        let mut sight = Sight {
            version: record.version,
            created_us: i64::try_from(record.created_us).unwrap_or(i64::MAX),
            updated_us: i64::try_from(record.updated_us).unwrap_or(i64::MAX),
            fields: parts.fields.to_vec(),
            values: BTreeSet::new(),
        };
        // A stored one has too many values only from before the index, which then never gets ready.
        sight.values = self.values(ordinal, parts.id, &sight).unwrap_or_default();
        Some(sight)
    }

    fn values(
        &self,
        ordinal: usize,
        id: &str,
        sight: &Sight,
    ) -> Result<BTreeSet<(u32, ValueHash)>, u32> {
        let subject = Subject {
            id,
            version: sight.version,
            created_us: sight.created_us,
            updated_us: sight.updated_us,
            fields: &sight.fields,
        };
        let mut all = BTreeSet::new();
        for candidate in self.indexes(ordinal) {
            let values = candidate.index.unique_values(&subject);
            let values = values.map_err(|TooManyValues| candidate.id)?;
            all.extend(values.into_iter().map(|hash| (candidate.id, hash)));
        }
        Ok(all)
    }

    /// What a write leaves of what it meets: `Some(None)` no document; `None`: apply will refuse it.
    fn left(
        &self,
        ordinal: usize,
        prepared: &Prepared,
        met: Option<&Sight>,
    ) -> Result<Option<Option<Sight>>, Crowded> {
        let fields = match &prepared.mutation.operation {
            Some(Operation::Delete(_)) => return Ok(Some(None)),
            Some(Operation::Put(put)) => self.put_fields(put, met),
            Some(Operation::Update(steps)) => {
                let Some((met, steps)) = met.zip(from_log(steps).ok()) else {
                    return Ok(None);
                };
                match update::apply(&met.fields, &steps, self.now_us) {
                    Ok(fields) => fields,
                    Err(_) => return Ok(None),
                }
            }
            None => return Ok(None),
        };
        let mut left = Sight {
            version: met.map_or(0, |met| met.version) + 1,
            created_us: met.map_or(self.now_us, |met| met.created_us),
            updated_us: self.now_us,
            fields,
            values: BTreeSet::new(),
        };
        let id = object_id(self.bucket(ordinal), &prepared.mutation.key);
        left.values = self
            .values(ordinal, &id, &left)
            .map_err(|index| Crowded { ordinal, index })?;
        Ok(Some(Some(left)))
    }

    /// The fields of a put: what only administrators change stays as it is.
    fn put_fields(&self, put: &Put, met: Option<&Sight>) -> Vec<u8> {
        if put.readonly.is_empty() || self.principal.is_admin() {
            return put.fields.to_vec();
        }
        let stored = met.map_or(&[][..], |met| &met.fields);
        let kept = |name: &String| {
            let value = body::member(stored, name).unwrap_or("null");
            (name.clone(), value.to_owned())
        };
        let values: Vec<_> = put.readonly.iter().map(kept).collect();
        body::merge_readonly(&put.fields, &values)
    }

    /// All that is taken, each once, with the first write that takes it.
    fn takings(&self, foreseen: &Foreseen, prepared: &[Prepared]) -> Result<Vec<(Taking, usize)>> {
        let mut first: HashMap<&Value, usize> = HashMap::new();
        let mut takings = Vec::new();
        for (ordinal, (values, prepared)) in foreseen.takes.iter().zip(prepared).enumerate() {
            for value in values {
                let earlier = *first.entry(value).or_insert(ordinal);
                let owner = &prepared.mutation.key;
                if self.key(earlier) != owner {
                    let index = self.definition(ordinal, value.index);
                    let message = format!(
                        "writes {earlier} and {ordinal} want the same value of the unique index {index}"
                    );
                    return Err(Error::new(ErrorCode::ValueTaken, message));
                }
                if earlier == ordinal {
                    takings.push((
                        Taking {
                            value: value.clone(),
                            owner: owner.clone(),
                        },
                        ordinal,
                    ));
                }
            }
        }
        if takings.len() > VALUES_MAX {
            let message = format!(
                "a request takes at most {VALUES_MAX} new values of unique indexes, this one {}",
                takings.len()
            );
            return Err(Error::new(ErrorCode::BodyTooLarge, message));
        }
        Ok(takings)
    }

    fn key(&self, ordinal: usize) -> &str {
        let write = self.writes.writes.get(ordinal);
        write.map_or("", |write| &write.key)
    }

    fn definition(&self, ordinal: usize, index: u32) -> String {
        self.indexes(ordinal)
            .iter()
            .find(|candidate| candidate.id == index)
            .map(|candidate| candidate.index.definition().to_json())
            .unwrap_or_default()
    }

    /// The refusal. Names the other document only to those who may read it.
    fn taken(&self, ordinal: usize, value: &Value, owner: Option<&str>) -> Error {
        let bucket = self.bucket(ordinal);
        let index = self.definition(ordinal, value.index);
        let other = match owner {
            Some(owner) => object_id(bucket, owner),
            None => "another document".to_owned(),
        };
        let message =
            format!("{other} has this value of the unique index {index} of bucket {bucket}");
        Error::new(ErrorCode::ValueTaken, message)
    }
}

/// Says which write of a batch an error is about.
fn placed(error: Error, writes: &Writes, ordinal: usize) -> Error {
    if writes.batch {
        located(error, ordinal)
    } else {
        error
    }
}
