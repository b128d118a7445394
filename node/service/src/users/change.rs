//! Changing a user, and making one: one write of the document, as root, with members and hidden members together.

use std::time::Instant;

use bytes::Bytes;
use cluster::state::{ClusterState, Database};
use document::acl::Principal;
use proto::ErrorCode;
use serde_json::{Map, Value};

use super::User;
use super::record::SESSIONS_FROM;
use crate::Core;
use crate::auth::policy::USERS;
use crate::context::Condition;
use crate::documents::unexpected;
use crate::error::{Error, Result};
use crate::forward::{Answer, Operation, Request, Write, Writes};
use crate::ids;

/// Tries of a change that others keep getting in front of.
const TRIES_MAX: usize = 16;

/// Hidden member: when sessions were ended last, in seconds since 1970. JWTs of trusted issuers are judged by it, which know no versions.
const REVOKED_AT_MEMBER: &str = "_revokedAt";

/// When the user's sessions were ended last, in seconds since 1970.
pub(super) fn revoked_at(user: &User) -> Option<u32> {
    let seconds = user.hidden.get(REVOKED_AT_MEMBER)?.as_u64()?;
    Some(u32::try_from(seconds).unwrap_or(u32::MAX))
}

/// Whether a change ends the sessions and tokens that the user has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// They go on.
    Nothing,
    /// Every token made before is no good any more, on any node.
    Sessions,
}

/// A user that is to be made.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewUser {
    /// Key; `None`: a random one.
    pub(crate) key: Option<String>,
    /// The document, as a client would send it. Without an ACL it becomes the user's own.
    pub(crate) members: Map<String, Value>,
    /// What is never served.
    pub(crate) hidden: Map<String, Value>,
}

impl Core {
    /// Changes a user where it is stored: `change` gets it as it is and says by `Ok(true)` that there is something to write. It may be
    /// called several times, each time with what is stored by then. Gives the user as it is afterwards.
    ///
    /// # Errors
    /// Those of `change`, nothing written. `BadCredentials`: no such user. `ValueTaken`: another user has the name. `OutcomeUnknown`: it
    /// may have happened. `Unavailable`: nothing happened, or, with effect `applied`, it did and open sessions are not ended yet.
    pub(crate) async fn change_user(
        &self,
        state: &ClusterState,
        database: &Database,
        key: &str,
        ends: Ends,
        deadline: Instant,
        mut change: impl FnMut(&mut User) -> Result<bool> + Send,
    ) -> Result<User> {
        for _ in 0..TRIES_MAX {
            let user = self.user(state, database, key, deadline).await?;
            let mut user = user.ok_or_else(no_such_user)?;
            if !change(&mut user)? {
                return Ok(user);
            }
            let condition = Condition::Version(user.version);
            match self
                .write_user(state, database, user, condition, ends, deadline)
                .await
            {
                Err(error) if error.code == ErrorCode::ObjectOutOfDate => {}
                done => return done,
            }
        }
        Err(Error::unavailable("others keep changing the user"))
    }

    /// Makes a user.
    ///
    /// # Errors
    /// `ValueTaken`: another user has the name; `ObjectExists`: or the key. By content: those of a put. `OutcomeUnknown`.
    pub(crate) async fn create_user(
        &self,
        state: &ClusterState,
        database: &Database,
        new: NewUser,
        deadline: Instant,
    ) -> Result<User> {
        let user = User {
            key: new.key.unwrap_or_else(ids::random_key),
            version: 0,
            members: new.members,
            hidden: new.hidden,
            body: Bytes::new(),
        };
        self.write_user(
            state,
            database,
            user,
            Condition::Absent,
            Ends::Nothing,
            deadline,
        )
        .await
    }

    /// Ends all sessions of a user and makes all tokens worthless that it has been given, on every node within the bound of
    /// [`crate::rights`].
    ///
    /// # Errors
    /// Those of [`Core::change_user`].
    pub(crate) async fn revoke(
        &self,
        state: &ClusterState,
        database: &Database,
        key: &str,
        deadline: Instant,
    ) -> Result<User> {
        let touch = |_: &mut User| Ok(true);
        self.change_user(state, database, key, Ends::Sessions, deadline, touch)
            .await
    }

    async fn write_user(
        &self,
        state: &ClusterState,
        database: &Database,
        mut user: User,
        condition: Condition,
        ends: Ends,
        deadline: Instant,
    ) -> Result<User> {
        if ends == Ends::Sessions {
            let next = user.version.saturating_add(1);
            user.hidden.insert(SESSIONS_FROM.to_owned(), next.into());
            user.hidden
                .insert(REVOKED_AT_MEMBER.to_owned(), self.now_seconds().into());
        }
        let bucket = database
            .buckets
            .get(USERS)
            .ok_or_else(|| Error::bucket_not_found(USERS))?;
        let write = Write {
            bucket: USERS.to_owned(),
            key: user.key.clone(),
            condition: condition.into(),
            body: json(&user.members)?,
            hidden: json(&user.hidden)?,
            ends_sessions: ends == Ends::Sessions,
            ..Write::default()
        };
        let operation = Operation::Write(Writes {
            database: database.name.clone(),
            writes: vec![write],
            batch: false,
        });
        let request = Request {
            shard: state.shard_of(database, bucket, &user.key),
            principal: Principal::root(),
            idempotency_key: None,
            metadata_version: state.version,
            near: None,
            operation,
        };
        let answer = Box::pin(self.route(state, &request, deadline)).await?;
        let Answer::Written(mut all) = answer else {
            return Err(unexpected());
        };
        self.acknowledge(&request, &all);
        if ends == Ends::Sessions {
            self.rights.outdate(database.id);
        }
        let written = all.written.pop().ok_or_else(unexpected)?;
        let members = serde_json::from_slice(&written.body).map_err(|e| Error::internal(&e))?;
        Ok(User {
            version: written.version,
            members,
            body: written.body,
            ..user
        })
    }
}

/// What is said where a user should be: the same as of a wrong password.
pub(super) fn no_such_user() -> Error {
    Error::new(
        ErrorCode::BadCredentials,
        "the user does not exist any more",
    )
}

fn json(members: &Map<String, Value>) -> Result<Bytes> {
    let bytes = serde_json::to_vec(members).map_err(|error| Error::internal(&error))?;
    Ok(bytes.into())
}
