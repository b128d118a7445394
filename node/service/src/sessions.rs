//! Who asks, and sessions: log-in, renewal, connect (contract sections 2.1, 8.2 and 8.5).
//!
//! Sessions are stateless: a token says who its holder is, and the cluster's signature says that it may be believed. User and roles are
//! looked up (an answer is kept for [`RECHECK`]), and `me` and `connect` hand out a renewed token.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::state::{ClusterState, Database};
use document::acl::{LOGGED_IN_ROLE, Principal};
use document::id::object_id;
use parking_lot::Mutex;
use proto::{ErrorCode, ShardId};

use crate::Core;
use crate::auth::policy::{ROLES, USERS};
use crate::auth::token::{self, Claims, Kind};
use crate::context::{Caller, Connect, Consistency, Context, Session};
use crate::documents::unexpected;
use crate::error::{Error, Result};
use crate::forward::{Answer, FindRoles, Operation, Request};
use crate::users::User;

/// How long the user and roles of a token are believed: the age that evidence about rights may have.
pub(crate) const RECHECK: Duration = Duration::from_secs(3);
/// Tokens whose check is remembered; more are checked again.
const RECHECKS_MAX: usize = 10_000;

/// Principals of tokens, with the monotonic time until which they are believed.
#[derive(Default)]
pub(crate) struct Rechecks {
    known: Mutex<HashMap<String, (Principal, Duration)>>,
}

impl Rechecks {
    pub(crate) fn get(&self, token: &str, now: Duration) -> Option<Principal> {
        let known = self.known.lock();
        known
            .get(token)
            .filter(|(_, until)| now < *until)
            .map(|(principal, _)| principal.clone())
    }

    pub(crate) fn put(&self, token: &str, principal: Principal, now: Duration) {
        let mut known = self.known.lock();
        if known.len() >= RECHECKS_MAX {
            known.retain(|_, (_, until)| now < *until);
        }
        if known.len() < RECHECKS_MAX {
            known.insert(token.to_owned(), (principal, now + RECHECK));
        }
    }
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
        if let Some(principal) = self.sessionless(ctx, state).await? {
            return Ok(principal);
        }
        let Caller::Token(token) = &ctx.caller else {
            return Ok(Principal::anonymous());
        };
        let database = state
            .database(&ctx.database)
            .ok_or_else(|| Error::database_not_found(&ctx.database))?;
        let claims = self.claims(state, database, token)?;
        let now = self.clock.elapsed();
        if let Some(principal) = self.sessions.get(token, now) {
            return Ok(principal);
        }
        Box::pin(self.active_user(state, database, &claims.user, ctx.deadline)).await?;
        let principal = Box::pin(self.principal_of(ctx, state, database, &claims.user)).await?;
        self.sessions.put(token, principal.clone(), now);
        Ok(principal)
    }

    /// Checks signature and long life.
    fn claims(&self, state: &ClusterState, database: &Database, token: &str) -> Result<Claims> {
        let claims = token::verify(&state.signing_keys, database.id, token);
        claims
            .filter(|claims| self.is_alive_token(claims))
            .ok_or_else(|| bad_credentials("the token is invalid or its session is over"))
    }

    /// Whether a token of this kind may be sent with requests, and its life is not over.
    fn is_alive_token(&self, claims: &Claims) -> bool {
        match claims.kind {
            Kind::Session => self.now_seconds() <= self.session_end(claims.created),
            Kind::Api
            | Kind::SecondFactor
            | Kind::Verification
            | Kind::Reset
            | Kind::NameChange
            | Kind::Flow => false,
        }
    }

    fn session_end(&self, created: u32) -> u32 {
        created.saturating_add(seconds(self.options.limits.token_long_life))
    }

    /// Now, in seconds since 1970.
    pub(crate) fn now_seconds(&self) -> u32 {
        u32::try_from(self.clock.wall_us() / 1_000_000).unwrap_or(u32::MAX)
    }

    /// A session of a user that has just proven who it is, by a password or otherwise: `user` is as it was read for the proof, so that
    /// whatever ends sessions later ends this one too.
    ///
    /// # Errors
    /// `BadCredentials`: the user is not active. `SecondFactorRequired`: its proof is half of what it takes.
    pub(crate) fn open_session(
        &self,
        state: &ClusterState,
        database: &Database,
        user: &User,
    ) -> Result<Session> {
        if user.needs_second_factor() && !user.is_inactive() {
            return Err(self.ask_second_factor(state, database, user));
        }
        self.open_proven_session(state, database, user)
    }

    /// The same without asking for a second factor.
    ///
    /// # Errors
    /// `BadCredentials`: the user is not active.
    pub(crate) fn open_proven_session(
        &self,
        state: &ClusterState,
        database: &Database,
        user: &User,
    ) -> Result<Session> {
        if user.is_inactive() {
            return Err(bad_credentials("the user is not active"));
        }
        let now = self.now_seconds();
        let claims = Claims {
            kind: Kind::Session,
            created: now,
            expires: now
                .saturating_add(seconds(self.options.limits.token_short_life))
                .min(self.session_end(now)),
            user: user.key.clone(),
            version: user.version,
            texts: Vec::new(),
        };
        Ok(Session {
            token: self.sign(state, database, &claims)?,
            user: user.body.clone(),
        })
    }

    /// The next token of a session. It keeps the beginning and the version of the one before, so that what ends the session still does,
    /// and never expires earlier: clients ignore such tokens.
    fn renew(&self, state: &ClusterState, database: &Database, before: &Claims) -> Result<String> {
        let short = self
            .now_seconds()
            .saturating_add(seconds(self.options.limits.token_short_life))
            .min(self.session_end(before.created));
        let claims = Claims {
            expires: before.expires.max(short),
            ..before.clone()
        };
        self.sign(state, database, &claims)
    }

    /// A token with the present signing key.
    ///
    /// # Errors
    /// `Unavailable`: there is no cluster yet.
    pub(crate) fn sign(
        &self,
        state: &ClusterState,
        database: &Database,
        claims: &Claims,
    ) -> Result<String> {
        token::sign(&state.signing_keys, database.id, claims)
            .ok_or_else(|| Error::unavailable("the cluster is not founded yet"))
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
        let user = Box::pin(self.user_named(&state, database, username, ctx.deadline)).await?;
        let hash = user
            .as_ref()
            .and_then(User::password_hash)
            .map(str::to_owned);
        let fits = self.passwords.verify(password, hash).await?;
        let wrong = || bad_credentials("wrong user name or password");
        let user = user
            .filter(|user| fits && !user.is_inactive())
            .ok_or_else(wrong)?;
        self.open_session(&state, database, &user)
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
        if token::unverified_user(token).is_some() {
            // It has no end, so there is nothing to renew.
            let user = Box::pin(self.api_user(ctx, &state, database, token)).await?;
            return Ok(Session {
                token: token.clone(),
                user: user.body,
            });
        }
        let claims = self.claims(&state, database, token)?;
        let user = self.active_user(&state, database, &claims.user, ctx.deadline);
        let user = Box::pin(user).await?;
        Ok(Session {
            token: self.renew(&state, database, &claims)?,
            user: user.body,
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

    /// The user of a token, read again.
    ///
    /// # Errors
    /// `BadCredentials`: it is gone, or not active.
    pub(crate) async fn active_user(
        &self,
        state: &ClusterState,
        database: &Database,
        key: &str,
        deadline: Instant,
    ) -> Result<User> {
        let user = self.user(state, database, key, deadline).await?;
        let user = user.ok_or_else(|| bad_credentials("the user does not exist any more"))?;
        if user.is_inactive() {
            return Err(bad_credentials("the user is not active"));
        }
        Ok(user)
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

pub(crate) fn bad_credentials(message: &str) -> Error {
    Error::new(ErrorCode::BadCredentials, message)
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
