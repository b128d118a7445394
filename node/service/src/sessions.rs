//! Who asks, and sessions: log-in, renewal, connect (contract sections 2.1, 8.2 and 8.5).
//!
//! Sessions are stateless: a token says who its holder is, and the cluster's signature says that it may be believed. Whether the session
//! has ended since, and which roles the user has, is looked up in this node's copy of the rights ([`crate::rights`]) for each request.
//! `me` and `connect` read the user again and hand out a renewed token.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::state::{ClusterState, Database};
use document::acl::{NODE_ROLE, Principal};
use document::id::object_id;
use proto::{ErrorCode, ShardId};

use crate::Core;
use crate::auth::policy::USERS;
use crate::auth::token::{self, Claims, Kind};
use crate::context::{Caller, Connect, Consistency, Context, Session};
use crate::error::{Error, Result};
use crate::forward::{Operation, Request};
use crate::rights::Verdict;
use crate::users::User;

/// How long a request waits for younger rights: a node that stood still needs one question.
const RIGHTS_WAIT: Duration = Duration::from_secs(1);

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
        self.judge_token(ctx, state, database, &claims).await
    }

    /// The caller of a token by this node's copy of the rights, brought up to date if it is too old.
    pub(crate) async fn judge_token(
        &self,
        ctx: &Context,
        state: &ClusterState,
        database: &Database,
        claims: &Claims,
    ) -> Result<Principal> {
        let age_max = self.options.limits.metadata_age_max;
        let followed = self.rights.of(database.id, self.clock.elapsed());
        let judge = || {
            let verdict = followed.copy.judge(claims, self.clock.elapsed(), age_max);
            match verdict {
                Verdict::Good(principal) => Ok(Some(principal)),
                Verdict::Over => Err(bad_credentials("the session is over")),
                Verdict::Stale => Ok(None),
            }
        };
        if let Some(principal) = judge()? {
            return Ok(principal);
        }
        let until = ctx.deadline.min(Instant::now() + RIGHTS_WAIT);
        let refreshed = Box::pin(self.refresh_rights(state, database, &followed, until)).await;
        match (judge()?, refreshed) {
            (Some(principal), _) => Ok(principal),
            (None, Ok(())) => Err(stale(age_max, "they change all the time")),
            (None, Err(error)) => Err(stale(age_max, &error.message)),
        }
    }

    /// Checks signature and long life.
    pub(crate) fn claims(
        &self,
        state: &ClusterState,
        database: &Database,
        token: &str,
    ) -> Result<Claims> {
        let claims = token::verify(&state.signing_keys, database.id, token);
        claims
            .filter(|claims| self.is_alive_token(claims))
            .ok_or_else(|| bad_credentials("the token is invalid or its session is over"))
    }

    /// Whether a token of this kind may be sent with requests, and its life is not over.
    fn is_alive_token(&self, claims: &Claims) -> bool {
        claims.kind == Kind::Session && self.now_seconds() <= self.session_end(claims.created)
    }

    /// See [`crate::Service::is_exempt`].
    pub(crate) async fn is_exempt(&self, database: &str, caller: &Caller) -> bool {
        let state = self.metadata.current();
        let Some((database, claims)) = self.claimed(&state, database, caller) else {
            return false;
        };
        let followed = self.rights.of(database.id, self.clock.elapsed());
        // Whatever its age: what is at stake is a rate, and the request itself is judged by younger rights.
        let judge = || {
            let now = self.clock.elapsed();
            followed.copy.judge(&claims, now, Duration::MAX)
        };
        let mut verdict = judge();
        if matches!(verdict, Verdict::Stale) {
            // This node was never asked about the database. Without an answer nobody is exempt.
            let until = Instant::now() + RIGHTS_WAIT;
            let _ = Box::pin(self.refresh_rights(&state, database, &followed, until)).await;
            verdict = judge();
        }
        match verdict {
            Verdict::Good(principal) => {
                principal.is_admin() || principal.roles.iter().any(|role| role == NODE_ROLE)
            }
            Verdict::Over | Verdict::Stale => false,
        }
    }

    /// The user that the caller's token names, its signature checked and nothing else.
    pub(crate) fn claimed_user(&self, database: &str, caller: &Caller) -> Option<String> {
        let state = self.metadata.current();
        let (_, claims) = self.claimed(&state, database, caller)?;
        Some(object_id(USERS, &claims.user))
    }

    /// What the caller's token says, with its database.
    fn claimed<'a>(
        &self,
        state: &'a ClusterState,
        database: &str,
        caller: &Caller,
    ) -> Option<(&'a Database, Claims)> {
        let Caller::Token(token) = caller else {
            return None;
        };
        let database = state.database(database)?;
        let claims = self.claims(state, database, token).ok()?;
        Some((database, claims))
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
    pub(crate) fn renew(
        &self,
        state: &ClusterState,
        database: &Database,
        before: &Claims,
    ) -> Result<String> {
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
    pub(crate) async fn with_predefined(&self, ctx: &Context) -> Result<Arc<ClusterState>> {
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
        let state = self.begin_account(ctx).await?;
        let database = self.database_of(ctx, &state)?;
        let user = Box::pin(self.prove(ctx, &state, database, username, password)).await?;
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
            let (user, claims) = Box::pin(self.api_user(ctx, &state, database, token)).await?;
            Box::pin(self.judge_token(ctx, &state, database, &claims)).await?;
            return Ok(Session {
                token: token.clone(),
                user: user.body,
            });
        }
        let claims = self.claims(&state, database, token)?;
        Box::pin(self.judge_token(ctx, &state, database, &claims)).await?;
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

/// The refusal of a node whose copy of the rights nobody confirms.
fn stale(age_max: Duration, why: &str) -> Error {
    Error::unavailable(format!(
        "this node has not heard of the rights of users for more than {} ms, so it cannot judge a token ({why})",
        age_max.as_millis()
    ))
}

pub(crate) fn bad_credentials(message: &str) -> Error {
    Error::new(ErrorCode::BadCredentials, message)
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
