//! What somebody may do, and why: the rules of class and object asked one after the other as for a real request, for admins to read.
//!
//! Nothing is done. The answer is as fresh as a linearizable read; user and roles are looked up anew, so the token of a session that is
//! older than a change of roles may still differ.

use std::time::Duration;

use cluster::state::{ClusterState, Database};
use document::acl::{Access, Acl, Principal, Rules};
use document::decision::{Decision, decide};
use document::id::{object_id, parse_object_id};
use document::schema;
use proto::ErrorCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::Core;
use crate::auth::policy::{self, USERS};
use crate::context::Context;
use crate::documents::{Session, unexpected};
use crate::error::{Error, Result};
use crate::forward::{Answer, Get, Operation};
use crate::sessions::internal_request;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessQuestion {
    /// Id or key of a user; `None`: a caller without log-in.
    pub user: Option<String>,
    /// Bucket name.
    pub bucket: String,
    /// Decoded key of a document; `None`: only the class is asked.
    pub key: Option<String>,
    /// What the user would do.
    pub operation: AccessOperation,
}

/// What a user would do with a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessOperation {
    /// Load it by its id.
    Load,
    /// Find it by a query, or count it.
    Query,
    /// Insert it.
    Insert,
    /// Replace it or change parts of it.
    Update,
    /// Delete it.
    Delete,
    /// Store it whether or not it is there.
    Upsert,
}

impl AccessOperation {
    /// All words that [`Self::parse`] takes.
    pub const WORDS: &'static str = "load (read), query, insert, update (write), delete, upsert";

    /// By its word.
    pub fn parse(word: &str) -> Option<AccessOperation> {
        Some(match word {
            "load" | "read" => AccessOperation::Load,
            "query" => AccessOperation::Query,
            "insert" => AccessOperation::Insert,
            "update" | "write" => AccessOperation::Update,
            "delete" => AccessOperation::Delete,
            "upsert" => AccessOperation::Upsert,
            _ => return None,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            AccessOperation::Load => "load",
            AccessOperation::Query => "query",
            AccessOperation::Insert => "insert",
            AccessOperation::Update => "update",
            AccessOperation::Delete => "delete",
            AccessOperation::Upsert => "upsert",
        }
    }

    /// What it takes of the class (contract 7.3).
    fn of_class(self) -> &'static [schema::Operation] {
        match self {
            AccessOperation::Load => &[schema::Operation::Load],
            AccessOperation::Query => &[schema::Operation::Query],
            AccessOperation::Insert => &[schema::Operation::Insert],
            AccessOperation::Update => &[schema::Operation::Update],
            AccessOperation::Delete => &[schema::Operation::Delete],
            AccessOperation::Upsert => &[schema::Operation::Insert, schema::Operation::Update],
        }
    }

    /// Whether the rules for reading the object are asked, or those for writing; `None`: no rules of an object.
    fn reads(self) -> Option<bool> {
        match self {
            AccessOperation::Load | AccessOperation::Query => Some(true),
            AccessOperation::Update | AccessOperation::Delete | AccessOperation::Upsert => {
                Some(false)
            }
            AccessOperation::Insert => None,
        }
    }
}

/// One set of rules that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessCheck {
    /// `class` or `object`.
    pub what: &'static str,
    /// Which rules of it: an operation of the class, or `read` or `write` of the object.
    pub rules: String,
    /// What they say.
    pub decision: Decision,
}

/// What somebody may do, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessAnswer {
    /// Who was judged, with the roles of now.
    pub principal: Principal,
    /// What was asked.
    pub question: AccessQuestion,
    /// Whether the document is there; `None`: not asked.
    pub exists: Option<bool>,
    /// Class first, then object, all of them.
    pub checks: Vec<AccessCheck>,
}

impl AccessAnswer {
    /// Whether all of the rules grant it.
    pub fn granted(&self) -> bool {
        self.checks.iter().all(|check| check.decision.granted)
    }

    /// The code that the request would be refused with; `None`: the rules grant it. A document that is left out of a query is no error.
    pub fn refusal(&self) -> Option<ErrorCode> {
        let first = self.checks.iter().find(|check| !check.decision.granted)?;
        match (first.what, self.question.operation) {
            ("object", AccessOperation::Load) => Some(ErrorCode::ObjectNotFound),
            ("object", AccessOperation::Query) => None,
            _ => Some(ErrorCode::PermissionDenied),
        }
    }

    /// The form for clients.
    pub fn to_json(&self) -> Value {
        let id = |key: &String| object_id(&self.question.bucket, key);
        json!({
            "user": self.principal.user,
            "roles": self.principal.roles,
            "admin": self.principal.is_admin(),
            "bucket": self.question.bucket,
            "id": self.question.key.as_ref().map(id),
            "exists": self.exists,
            "operation": self.question.operation.as_str(),
            "granted": self.granted(),
            "refusal": self.refusal().map(ErrorCode::as_str),
            "checks": self.checks.iter().map(check_to_json).collect::<Vec<_>>(),
        })
    }
}

fn check_to_json(check: &AccessCheck) -> Value {
    let rules = check.decision.rules.iter().map(|rule| {
        json!({
            "reference": rule.reference,
            "access": match rule.access {
                Access::Allow => "allow",
                Access::Deny => "deny",
            },
            "meansCaller": rule.meant,
        })
    });
    json!({
        "what": check.what,
        "rules": check.rules,
        "granted": check.decision.granted,
        "reason": check.decision.reason.as_str(),
        "by": check.decision.reason.reference(),
        "judged": rules.collect::<Vec<_>>(),
    })
}

impl Core {
    /// See [`crate::Service::check_access`].
    pub(crate) async fn check_access(
        &self,
        ctx: &Context,
        question: AccessQuestion,
    ) -> Result<AccessAnswer> {
        let session = self.begin(ctx, &[&question.bucket]).await?;
        policy::require_admin(&session.principal)?;
        let (database, info) = session.find(ctx, &question.bucket)?;
        let principal = match &question.user {
            None => Principal::anonymous(),
            Some(user) => Box::pin(self.principal_as(ctx, &session, user)).await?,
        };
        let class = database.schema.class(&question.bucket);
        let class = class.ok_or_else(|| Error::bucket_not_found(&question.bucket))?;
        let mut checks: Vec<AccessCheck> = question
            .operation
            .of_class()
            .iter()
            .map(|&operation| AccessCheck {
                what: "class",
                rules: operation.to_string(),
                decision: class.decide(operation, &principal),
            })
            .collect();
        let mut exists = None;
        if let Some(key) = &question.key {
            self.check_key(key)?;
            let shard = session.state.shard_of(database, info, key);
            let bucket = &question.bucket;
            let stored = self.stored(ctx, &session.state, shard, &database.name, bucket, key);
            let acl = Box::pin(stored).await?;
            exists = Some(acl.is_some());
            if let (Some(acl), Some(reads)) = (acl, question.operation.reads()) {
                let acl = acl.unwrap_or_default();
                let rules: &Rules = if reads { &acl.read } else { &acl.write };
                checks.push(AccessCheck {
                    what: "object",
                    rules: if reads { "read" } else { "write" }.to_owned(),
                    decision: decide(rules, &principal, false),
                });
            }
        }
        Ok(AccessAnswer {
            principal,
            question,
            exists,
            checks,
        })
    }

    /// A user, given by id or key, with the roles of now; for an admin who wants to know what that user sees.
    pub(crate) async fn principal_as(
        &self,
        ctx: &Context,
        session: &Session,
        user: &str,
    ) -> Result<Principal> {
        policy::require_admin(&session.principal)?;
        let key = user_key(user)?;
        self.check_key(&key)?;
        let (database, users) = session.find(ctx, USERS)?;
        let shard = session.state.shard_of(database, users, &key);
        let stored = self.stored(ctx, &session.state, shard, &database.name, USERS, &key);
        if Box::pin(stored).await?.is_none() {
            let message = format!("no user {}", object_id(USERS, &key));
            return Err(Error::new(ErrorCode::ObjectNotFound, message));
        }
        Box::pin(self.principal_of(ctx, &session.state, database, &key)).await
    }

    /// The user as a principal with all of its roles, by this node's copy of them, brought up to date.
    async fn principal_of(
        &self,
        ctx: &Context,
        state: &ClusterState,
        database: &Database,
        key: &str,
    ) -> Result<Principal> {
        let followed = self.rights.of(database.id, self.clock.elapsed());
        let asked = self.follow_rights(
            state,
            database,
            &followed.copy,
            Duration::ZERO,
            ctx.deadline,
        );
        asked.await?;
        let principal = followed.copy.principal(key);
        principal.ok_or_else(|| Error::unavailable("the roles are being read anew"))
    }

    /// The ACL of a stored document; `None`: there is no document.
    async fn stored(
        &self,
        ctx: &Context,
        state: &ClusterState,
        shard: proto::ShardId,
        database: &str,
        bucket: &str,
        key: &str,
    ) -> Result<Option<Option<Acl>>> {
        #[derive(Deserialize)]
        struct Body<'b> {
            #[serde(borrow)]
            acl: Option<&'b RawValue>,
        }
        let get = Get {
            database: database.to_owned(),
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            internal: true,
        };
        let request = internal_request(state, shard, Operation::Get(get));
        let record = match self.route(state, &request, ctx.deadline).await? {
            Answer::Record(record) => record,
            Answer::Done(_) => return Ok(None),
            _ => return Err(unexpected()),
        };
        let body: Body<'_> =
            serde_json::from_slice(&record.body).map_err(|error| Error::internal(&error))?;
        let acl = body.acl.map(|acl| Acl::from_json(acl.get())).transpose();
        let acl = acl.map_err(|error| Error::internal(&error))?;
        Ok(Some(acl.flatten()))
    }
}

/// The key of a user given by id or key.
fn user_key(user: &str) -> Result<String> {
    if !user.starts_with('/') {
        return Ok(user.to_owned());
    }
    match parse_object_id(user) {
        Some((USERS, key)) => Ok(key),
        _ => Err(Error::bad_request(format!(
            "{user:?} is not the id of a user"
        ))),
    }
}
