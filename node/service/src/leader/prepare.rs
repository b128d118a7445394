//! Turning a write as it was sent into a mutation for the log: everything that does not depend on stored state.

use bytes::Bytes;
use cluster::state::{ClusterState, Database};
use document::acl::{Acl, Principal};
use document::body::{self, Expiry};
use document::schema::Layout;
use proto::log::mutation::Operation;
use proto::log::precondition::Condition as LogCondition;
use proto::log::{Mutation, Precondition};
use proto::{ErrorCode, ShardId};
use storage::tables::documents::Record;
use storage::tables::idempotency::Fingerprint;

use super::{Shards, find_bucket};
use crate::auth::policy;
use crate::context::Condition;
use crate::error::{Error, Result};
use crate::forward::{Request, Write, Writes};
use crate::ids;

/// A write that is ready for the log, and what its author asked for.
pub(super) struct Prepared {
    pub(super) mutation: Mutation,
    /// What the client asked for.
    pub(super) condition: Condition,
    /// The ACL of the document if it is a put, none meaning public.
    pub(super) acl: Option<Acl>,
    /// A new user gets this ACL, since its creator named none.
    acl_of_new: Option<Acl>,
    /// Read-only fields that an admin did not send: they keep their stored values.
    kept: Vec<String>,
}

impl Prepared {
    /// Whether it stores a document.
    pub(super) fn is_put(&self) -> bool {
        matches!(self.mutation.operation, Some(Operation::Put(_)))
    }

    /// Whether it changes parts of a stored one.
    pub(super) fn is_update(&self) -> bool {
        matches!(self.mutation.operation, Some(Operation::Update(_)))
    }

    /// Whether the content depends on what is stored, so that [`Prepared::decide`] must come before the log.
    pub(super) fn is_undecided(&self) -> bool {
        !self.kept.is_empty() || (self.acl_of_new.is_some() && self.condition == Condition::None)
    }

    /// Makes the content that fits the stored document, and lets the mutation apply to no other.
    pub(super) fn decide(&mut self, stored: Option<&Record>) {
        let Some(Operation::Put(put)) = &mut self.mutation.operation else {
            return;
        };
        match stored {
            None => {
                self.mutation.precondition = precondition(Condition::Absent);
                self.acl = self.acl_of_new.clone();
                put.acl = acl_text(self.acl.as_ref());
            }
            Some(record) => {
                self.mutation.precondition = precondition(Condition::Version(record.version));
                // The stored JSON without its braces is a list of members, as `fields` is.
                let members = record
                    .body
                    .get(1..record.body.len().saturating_sub(1))
                    .unwrap_or_default();
                let value =
                    |name: &String| Some((name.clone(), body::member(members, name)?.to_owned()));
                let values: Vec<_> = self.kept.iter().filter_map(value).collect();
                put.fields = body::merge_readonly(&put.fields, &values).into();
            }
        }
    }

    /// The ACL that the document got if this inserted it.
    pub(super) fn acl_if_inserted(&self) -> Option<&Acl> {
        self.acl_of_new.as_ref().or(self.acl.as_ref())
    }
}

/// The text in the log; empty for public.
fn acl_text(acl: Option<&Acl>) -> String {
    acl.map(Acl::to_json).unwrap_or_default()
}

impl Shards {
    /// Checks all writes of a request against the schema of now.
    pub(super) fn prepare_all(
        &self,
        state: &ClusterState,
        database: &Database,
        request: &Request,
        writes: &Writes,
    ) -> Result<Vec<Prepared>> {
        let prepared = writes.writes.iter().enumerate().map(|(ordinal, write)| {
            let prepared = self.prepare(state, database, request, write);
            if writes.batch {
                prepared.map_err(|error| located(error, ordinal))
            } else {
                prepared
            }
        });
        prepared.collect()
    }

    fn prepare(
        &self,
        state: &ClusterState,
        database: &Database,
        request: &Request,
        write: &Write,
    ) -> Result<Prepared> {
        let bucket = find_bucket(database, &write.bucket)?;
        check_shard(state.shard_of(database, bucket, &write.key), request.shard)?;
        let condition = write
            .condition()
            .ok_or_else(|| Error::bad_request("unknown condition"))?;
        let mut prepared = Prepared {
            mutation: Mutation {
                database: database.id,
                bucket: bucket.id,
                key: write.key.clone(),
                bucket_version: bucket.version,
                precondition: precondition(condition),
                operation: None,
                claims: None,
                ends_sessions: write.ends_sessions,
            },
            condition,
            acl: None,
            acl_of_new: None,
            kept: Vec::new(),
        };
        if write.delete {
            prepared.mutation.operation = Some(Operation::Delete(proto::log::Delete {}));
            return Ok(prepared);
        }
        if write.update {
            let update = self.update_operation(database, bucket, write, condition)?;
            prepared.mutation.operation = Some(update);
            return Ok(prepared);
        }
        check_reserved(write, condition, &request.principal)?;
        let layout = self.layouts.get(database, bucket)?;
        let limits = body::Limits {
            depth_max: self.limits.depth_max,
        };
        let parsed = body::parse(&write.body, &layout, &database.schema, &limits)?;
        parsed.check_id(&write.bucket, &write.key)?;
        prepared.acl = parsed.acl.clone();
        check_expiry(write, parsed.expiry)?;
        let expiry = storage::machine::expiry::to_log(parsed.expiry);
        if parsed.acl.is_none() && write.bucket == policy::USERS {
            prepared.acl_of_new = Some(policy::owner_acl(&write.key));
            if condition == Condition::Absent {
                prepared.acl = prepared.acl_of_new.clone();
            }
        }
        let is_admin = request.principal.is_admin();
        let mut readonly = readonly_names(&layout);
        if is_admin && condition != Condition::Absent {
            prepared.kept = readonly.clone();
            prepared
                .kept
                .retain(|name| parsed.readonly.iter().all(|(sent, _)| sent != name));
        }
        if is_admin {
            readonly.clear();
        }
        let acl = acl_text(prepared.acl.as_ref());
        let fields = Bytes::from(parsed.into_fields(&layout, None, is_admin));
        let put = proto::log::Put {
            fields,
            acl,
            hidden: write.hidden.clone(),
            readonly,
            expiry,
        };
        prepared.mutation.operation = Some(Operation::Put(put));
        Ok(prepared)
    }
}

/// The fields that only admins change.
fn readonly_names(layout: &Layout) -> Vec<String> {
    if !layout.has_read_only() {
        return Vec::new();
    }
    layout
        .shape()
        .slots()
        .iter()
        .filter(|slot| slot.read_only)
        .map(|slot| slot.name.clone())
        .collect()
}

/// The asked node chose the shard by its own metadata; a bucket that was dropped and made again since has another one.
fn check_shard(found: ShardId, asked: ShardId) -> Result<()> {
    if found == asked {
        return Ok(());
    }
    Err(Error::unavailable("the bucket was replaced meanwhile"))
}

/// Only admins insert predefined users and roles.
fn check_reserved(write: &Write, condition: Condition, principal: &Principal) -> Result<()> {
    let may_insert = matches!(condition, Condition::None | Condition::Absent);
    if may_insert && policy::is_reserved(&write.bucket, &write.key) && !principal.is_admin() {
        let message = format!("keys below 10 are reserved in bucket {}", write.bucket);
        return Err(Error::new(ErrorCode::PermissionDenied, message));
    }
    Ok(())
}

/// Predefined users and roles are there for ever.
pub(super) fn check_expiry(write: &Write, expiry: Expiry) -> Result<()> {
    let expires = matches!(expiry, Expiry::At(_));
    if expires && policy::is_reserved(&write.bucket, &write.key) {
        let message = format!("keys below 10 do not expire in bucket {}", write.bucket);
        return Err(Error::bad_request(message));
    }
    Ok(())
}

fn precondition(condition: Condition) -> Option<Precondition> {
    let condition = match condition {
        Condition::None => return None,
        Condition::Absent => LogCondition::Absent(true),
        Condition::Exists => LogCondition::Exists(true),
        Condition::Version(version) => LogCondition::Version(version),
    };
    Some(Precondition {
        condition: Some(condition),
    })
}

/// Says which write of a batch an error is about.
pub(super) fn located(mut error: Error, ordinal: usize) -> Error {
    error.message = format!("write {ordinal}: {}", error.message);
    error
}

/// Hash of everything that the client sent. Independent of the schema, so that a repetition after a schema change is recognised.
pub(super) fn fingerprint(writes: &Writes, database: u32) -> Fingerprint {
    let mut hash = ids::Fingerprint::new(if writes.batch { "batch" } else { "write" });
    hash.number(u64::from(database));
    for write in &writes.writes {
        hash.bytes(write.bucket.as_bytes());
        hash.bytes(write.key.as_bytes());
        let condition = write.condition.unwrap_or_default();
        hash.number(u64::from(condition.kind));
        hash.number(condition.version);
        hash.number(match (write.update, write.delete) {
            (true, _) => 2,
            (false, delete) => u64::from(delete),
        });
        hash.bytes(&write.body);
        hash.bytes(&write.hidden);
        if write.ends_sessions {
            hash.number(1);
        }
    }
    hash.finish()
}
