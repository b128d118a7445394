//! Who asks, and sessions: log-in, renewal, connect (contract sections 2.1, 8.2 and 8.5).
//!
//! Sessions are stateless: a token says who its holder is, and the cluster's signature says that it may be believed. Until its short
//! life ends nobody is asked. After that, until its long life ends, user and roles are looked up again for each request (an answer is
//! kept for [`RECHECK`]), and `me` and `connect` hand out a renewed token.
//!
//! Lacks: revoking tokens before they expire. Logging out is the client's forgetting its token.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster::state::{ClusterState, Database};
use document::acl::{LOGGED_IN_ROLE, Principal};
use document::id::object_id;
use futures::future::try_join_all;
use parking_lot::Mutex;
use proto::{ErrorCode, ShardId};
use serde::Deserialize;

use crate::Core;
use crate::auth::policy::{PASSWORD_MEMBER, ROLES, USERS};
use crate::auth::token::{self, Claims};
use crate::context::{Caller, Connect, Consistency, Context, Session};
use crate::documents::unexpected;
use crate::error::{Error, Result};
use crate::forward::{Answer, FindRoles, FindUser, Get, Operation, Record, Request};

/// How long the user and roles of a token past its short life are believed: the age that evidence about rights may have.
pub(crate) const RECHECK: Duration = Duration::from_secs(3);
/// Tokens whose check is remembered; more are checked again.
const RECHECKS_MAX: usize = 10_000;

/// Principals of tokens past their short life, with the monotonic time until which they are believed.
#[derive(Default)]
pub(crate) struct Rechecks {
    known: Mutex<HashMap<String, (Principal, Duration)>>,
}

impl Rechecks {
    fn get(&self, token: &str, now: Duration) -> Option<Principal> {
        let known = self.known.lock();
        known
            .get(token)
            .filter(|(_, until)| now < *until)
            .map(|(principal, _)| principal.clone())
    }

    fn put(&self, token: &str, principal: Principal, now: Duration) {
        let mut known = self.known.lock();
        if known.len() >= RECHECKS_MAX {
            known.retain(|_, (_, until)| now < *until);
        }
        if known.len() < RECHECKS_MAX {
            known.insert(token.to_owned(), (principal, now + RECHECK));
        }
    }
}

/// A user and its roles as they are now.
struct Account {
    user: Record,
    principal: Principal,
}

impl Core {
    /// The caller of an ordinary request.
    ///
    /// # Errors
    /// `BadCredentials`: the token is invalid, its session is over, or its user is gone or inactive.
    pub(crate) async fn authenticate(
        &self,
        ctx: &Context,
        state: &ClusterState,
    ) -> Result<Principal> {
        let Caller::Token(token) = &ctx.caller else {
            return Ok(Principal::anonymous());
        };
        let database = state
            .database(&ctx.database)
            .ok_or_else(|| Error::database_not_found(&ctx.database))?;
        let claims = self.claims(state, database, token)?;
        if self.now_seconds() <= claims.expires {
            return Ok(claims.principal());
        }
        let now = self.clock.elapsed();
        if let Some(principal) = self.sessions.get(token, now) {
            return Ok(principal);
        }
        let account = Box::pin(self.account(ctx, state, database, &claims.user)).await?;
        self.sessions.put(token, account.principal.clone(), now);
        Ok(account.principal)
    }

    /// Checks signature and long life.
    fn claims(&self, state: &ClusterState, database: &Database, token: &str) -> Result<Claims> {
        let claims = token::verify(&state.signing_key, database.id, token);
        let over = |claims: &Claims| self.now_seconds() > self.session_end(claims.created);
        claims
            .filter(|claims| !over(claims))
            .ok_or_else(|| bad_credentials("the token is invalid or its session is over"))
    }

    fn session_end(&self, created: u32) -> u32 {
        created.saturating_add(seconds(self.options.limits.token_long_life))
    }

    fn now_seconds(&self) -> u32 {
        u32::try_from(self.clock.wall_us() / 1_000_000).unwrap_or(u32::MAX)
    }

    /// A token for an account. A renewed one keeps the beginning of its session and never expires earlier than the one before: clients
    /// ignore such tokens.
    fn issue(
        &self,
        state: &ClusterState,
        database: &Database,
        account: &Account,
        before: Option<&Claims>,
    ) -> String {
        let now = self.now_seconds();
        let created = before.map_or(now, |claims| claims.created);
        let short = now
            .saturating_add(seconds(self.options.limits.token_short_life))
            .min(self.session_end(created));
        let claims = Claims {
            created,
            expires: before.map_or(short, |claims| claims.expires.max(short)),
            user: account.user.key.clone(),
            roles: token::role_keys(&account.principal.roles),
        };
        token::sign(&state.signing_key, database.id, &claims)
    }

    /// The metadata once the predefined users are written: before, "wrong user name" would be a lie about root.
    async fn with_predefined(&self, ctx: &Context) -> Result<Arc<ClusterState>> {
        let state = self.metadata.founded()?;
        if state.bootstrapped {
            return Ok(state);
        }
        let bootstrapped = self.metadata.wait(ctx.deadline, |state| state.bootstrapped);
        let unavailable = || Error::unavailable("the predefined users are being written");
        bootstrapped.await.ok_or_else(unavailable)
    }

    pub(crate) async fn login(
        &self,
        ctx: &Context,
        username: &str,
        password: &str,
    ) -> Result<Session> {
        let state = self.with_predefined(ctx).await?;
        self.check_rights(Consistency::Linearizable, ctx.deadline)
            .await?;
        let database = state
            .database(&ctx.database)
            .ok_or_else(|| Error::database_not_found(&ctx.database))?;
        let user = Box::pin(self.find_user(ctx, &state, database, username)).await?;
        let hash = user.as_ref().and_then(|user| password_hash(&user.hidden));
        let fits = self.passwords.verify(password, hash).await?;
        let wrong = || bad_credentials("wrong user name or password");
        let user = user
            .filter(|user| fits && !is_inactive(&user.body))
            .ok_or_else(wrong)?;
        let principal = Box::pin(self.principal_of(ctx, &state, database, &user.key)).await?;
        let account = Account { user, principal };
        let token = self.issue(&state, database, &account, None);
        Ok(Session {
            token,
            user: account.user.body,
        })
    }

    pub(crate) async fn me(&self, ctx: &Context) -> Result<Session> {
        let state = self.metadata.founded()?;
        self.check_rights(Consistency::Linearizable, ctx.deadline)
            .await?;
        let database = state
            .database(&ctx.database)
            .ok_or_else(|| Error::database_not_found(&ctx.database))?;
        let Caller::Token(token) = &ctx.caller else {
            return Err(bad_credentials("nobody is logged in"));
        };
        let claims = self.claims(&state, database, token)?;
        let account = Box::pin(self.account(ctx, &state, database, &claims.user)).await?;
        let token = self.issue(&state, database, &account, Some(&claims));
        Ok(Session {
            token,
            user: account.user.body,
        })
    }

    pub(crate) fn logout(&self, ctx: &Context) -> Result<()> {
        let state = self.metadata.founded()?;
        state
            .database(&ctx.database)
            .map(|_| ())
            .ok_or_else(|| Error::database_not_found(&ctx.database))
    }

    pub(crate) async fn connect(&self, ctx: &Context) -> Result<Connect> {
        let schema = self.read_schema(ctx).await?;
        if ctx.caller == Caller::Anonymous {
            return Ok(Connect {
                schema,
                token: None,
                user: None,
            });
        }
        match Box::pin(self.me(ctx)).await {
            Ok(session) => Ok(Connect {
                schema,
                token: Some(session.token),
                user: Some(session.user),
            }),
            Err(error) if error.code == ErrorCode::BadCredentials => Ok(Connect {
                schema,
                token: None,
                user: None,
            }),
            Err(error) => Err(error),
        }
    }

    /// The user with a name, looked for in all shards at once.
    async fn find_user(
        &self,
        ctx: &Context,
        state: &ClusterState,
        database: &Database,
        name: &str,
    ) -> Result<Option<Record>> {
        let find = FindUser {
            database: database.name.clone(),
            username: name.to_owned(),
        };
        let requests: Vec<Request> = (1..=state.shards)
            .map(|shard| internal_request(state, ShardId(shard), Operation::FindUser(find.clone())))
            .collect();
        let searches = requests
            .iter()
            .map(|request| self.route(state, request, ctx.deadline));
        for answer in try_join_all(searches).await? {
            if let Answer::Record(record) = answer {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// A user and its roles, both read again.
    async fn account(
        &self,
        ctx: &Context,
        state: &ClusterState,
        database: &Database,
        key: &str,
    ) -> Result<Account> {
        let users = database
            .buckets
            .get(USERS)
            .ok_or_else(|| Error::bucket_not_found(USERS))?;
        let get = Get {
            database: database.name.clone(),
            bucket: USERS.to_owned(),
            key: key.to_owned(),
            internal: true,
        };
        let request = internal_request(
            state,
            state.shard_of(database, users, key),
            Operation::Get(get),
        );
        let user = match self.route(state, &request, ctx.deadline).await? {
            Answer::Record(record) => record,
            Answer::Done(_) => return Err(bad_credentials("the user does not exist any more")),
            _ => return Err(unexpected()),
        };
        if is_inactive(&user.body) {
            return Err(bad_credentials("the user is not active"));
        }
        let principal = self.principal_of(ctx, state, database, key).await?;
        Ok(Account { user, principal })
    }

    /// The user as a principal with all of its roles.
    pub(crate) async fn principal_of(
        &self,
        ctx: &Context,
        state: &ClusterState,
        database: &Database,
        key: &str,
    ) -> Result<Principal> {
        let roles = database
            .buckets
            .get(ROLES)
            .ok_or_else(|| Error::bucket_not_found(ROLES))?;
        let user = object_id(USERS, key);
        let find = FindRoles {
            database: database.name.clone(),
            user: user.clone(),
        };
        // All roles of a database lie in one shard, whatever the key.
        let request = internal_request(
            state,
            state.shard_of(database, roles, ""),
            Operation::FindRoles(find),
        );
        let Answer::Roles(mut found) = self.route(state, &request, ctx.deadline).await? else {
            return Err(unexpected());
        };
        found.ids.retain(|id| id != LOGGED_IN_ROLE);
        found.ids.push(LOGGED_IN_ROLE.to_owned());
        Ok(Principal {
            user: Some(user),
            roles: found.ids,
        })
    }
}

/// A read of the service's own.
pub(crate) fn internal_request(
    state: &ClusterState,
    shard: ShardId,
    operation: Operation,
) -> Request {
    Request {
        shard,
        principal: Principal::root(),
        idempotency_key: None,
        metadata_version: state.version,
        near: None,
        operation,
    }
}

fn bad_credentials(message: &str) -> Error {
    Error::new(ErrorCode::BadCredentials, message)
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

/// The password hash among the hidden members of a user.
fn password_hash(hidden: &Bytes) -> Option<String> {
    let hidden: serde_json::Value = serde_json::from_slice(hidden).ok()?;
    Some(hidden.get(PASSWORD_MEMBER)?.as_str()?.to_owned())
}

/// Whether a user was banned, or is not verified yet.
fn is_inactive(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct User {
        inactive: Option<bool>,
    }
    serde_json::from_slice::<User>(body).is_ok_and(|user| user.inactive == Some(true))
}
