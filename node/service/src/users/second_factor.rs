//! The second factor of a log-in (contract section 8.4): a code of an authenticator app.
//!
//! The secret, its state, the last step that a code was taken for and the wrong codes since then are one hidden member of the user. They
//! change only on a condition of its version, so that two nodes never take the same code, and no number of nodes gives more tries.
//!
//! The password is proven first. What the client gets then is a token of a kind that is good for this one purpose, ends after
//! [`AUTH_TOKEN_LIFE`], and carries the version of the user that the password was checked against: the session rests on that.

use std::time::Duration;

use cluster::state::{ClusterState, Database};
use document::acl::Principal;
use document::id::parse_object_id;
use proto::ErrorCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::User;
use super::change::Ends;
use crate::auth::policy::USERS;
use crate::auth::token::{self, Claims, Kind};
use crate::auth::totp;
use crate::context::{Consistency, Context, Session};
use crate::error::{Error, Result};
use crate::metrics::Operation;
use crate::sessions::bad_credentials;
use crate::{Core, Service};

/// Hidden member that holds all of it.
const MEMBER: &str = "_mfa";
/// How long the second step of a log-in may take.
const AUTH_TOKEN_LIFE: Duration = Duration::from_secs(300);
/// Wrong codes in a row after which none is looked at for a while. With three codes good at a time, guessing takes decades.
const WRONG_MAX: u32 = 5;
/// That while, from the first of them on.
const LOCKED: Duration = Duration::from_secs(900);
/// What apps show for the default database; others show their name.
const DEFAULT_ISSUER: &str = "Larder";

/// The state that clients see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum SecondFactor {
    /// Log-ins ask for a code.
    Enabled,
    /// There is none.
    Disabled,
    /// A secret was shown, and no code of it came yet.
    Pending,
}

/// The hidden member.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stored {
    secret: String,
    state: SecondFactor,
    /// The last step that a code was taken for.
    step: u64,
    /// Wrong codes in a row.
    wrong: u32,
    /// When the first of them came, in seconds since 1970.
    wrong_since: u64,
}

/// What became of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Accepted,
    Wrong,
    /// Not looked at; for so many seconds.
    Locked(u64),
}

impl Stored {
    fn of(user: &User) -> Option<Stored> {
        serde_json::from_value(user.hidden.get(MEMBER)?.clone()).ok()
    }

    fn put(&self, user: &mut User) -> Result<()> {
        let value = serde_json::to_value(self).map_err(|error| Error::internal(&error))?;
        user.hidden.insert(MEMBER.to_owned(), value);
        Ok(())
    }

    fn take(&mut self, code: u32, now_s: u64) -> Outcome {
        let open_again = self.wrong_since.saturating_add(LOCKED.as_secs());
        if self.wrong >= WRONG_MAX && now_s < open_again {
            return Outcome::Locked(open_again - now_s);
        }
        if self.wrong >= WRONG_MAX {
            self.wrong = 0;
        }
        match totp::accepted_step(&self.secret, code, now_s, self.step) {
            Some(step) => {
                (self.step, self.wrong) = (step, 0);
                Outcome::Accepted
            }
            None => {
                if self.wrong == 0 {
                    self.wrong_since = now_s;
                }
                self.wrong += 1;
                Outcome::Wrong
            }
        }
    }
}

impl User {
    /// Whether log-ins ask for a code.
    pub(crate) fn needs_second_factor(&self) -> bool {
        // A member that cannot be read must not open the door.
        match self.hidden.get(MEMBER) {
            None | Some(Value::Null) => false,
            Some(_) => Stored::of(self).is_none_or(|stored| stored.state == SecondFactor::Enabled),
        }
    }
}

impl Core {
    /// The refusal of a log-in whose first factor was right: with the token for the second.
    ///
    /// # Errors
    /// None other than that refusal, or `Unavailable`.
    pub(crate) fn ask_second_factor(
        &self,
        state: &ClusterState,
        database: &Database,
        user: &User,
    ) -> Error {
        let now = self.now_seconds();
        let life = u32::try_from(AUTH_TOKEN_LIFE.as_secs()).unwrap_or(u32::MAX);
        let claims = Claims {
            kind: Kind::SecondFactor,
            created: now,
            expires: now.saturating_add(life),
            user: user.key.clone(),
            version: user.version,
            texts: Vec::new(),
        };
        match self.sign(state, database, &claims) {
            Ok(token) => Error::second_factor(token),
            Err(error) => error,
        }
    }

    /// The key of the caller's user.
    fn own_key(principal: &Principal) -> Result<String> {
        let id = principal.user.as_deref();
        let key = id.and_then(parse_object_id).map(|(_, key)| key);
        key.ok_or_else(|| bad_credentials("nobody is logged in"))
    }

    async fn second_factor(&self, ctx: &Context) -> Result<SecondFactor> {
        let session = self.begin(ctx, &[USERS]).await?;
        let database = session.find(ctx, USERS)?.0;
        let key = Self::own_key(&session.principal)?;
        let user = self.active_user(&session.state, database, &key, ctx.deadline);
        let user = Box::pin(user).await?;
        let stored = Stored::of(&user);
        Ok(stored.map_or(SecondFactor::Disabled, |stored| stored.state))
    }

    async fn begin_second_factor(&self, ctx: &Context) -> Result<String> {
        let session = self.begin(ctx, &[USERS]).await?;
        let database = session.find(ctx, USERS)?.0;
        let key = Self::own_key(&session.principal)?;
        let secret = totp::new_secret();
        let change = |user: &mut User| {
            if Stored::of(user).is_some_and(|stored| stored.state == SecondFactor::Enabled) {
                return Err(Error::bad_request(
                    "the second factor is on already: switch it off first",
                ));
            }
            let stored = Stored {
                secret: secret.clone(),
                state: SecondFactor::Pending,
                step: 0,
                wrong: 0,
                wrong_since: 0,
            };
            stored.put(user)?;
            Ok(true)
        };
        let changed = self.change_user(
            &session.state,
            database,
            &key,
            Ends::Nothing,
            ctx.deadline,
            change,
        );
        let user = Box::pin(changed).await?;
        let issuer = match ctx.database.as_str() {
            "" => DEFAULT_ISSUER,
            name => name,
        };
        let account = user.username().unwrap_or(&user.key);
        totp::key_uri(&secret, issuer, account)
            .ok_or_else(|| Error::internal(&"no key URI can be made"))
    }

    async fn finish_second_factor(&self, ctx: &Context, code: u32) -> Result<()> {
        let session = self.begin(ctx, &[USERS]).await?;
        let database = session.find(ctx, USERS)?.0;
        let key = Self::own_key(&session.principal)?;
        self.take_code(&session.state, database, ctx, &key, code)
            .await
            .map(|_| ())
    }

    async fn drop_second_factor(&self, ctx: &Context) -> Result<()> {
        let session = self.begin(ctx, &[USERS]).await?;
        let database = session.find(ctx, USERS)?.0;
        let key = Self::own_key(&session.principal)?;
        let change = |user: &mut User| Ok(user.hidden.remove(MEMBER).is_some());
        let changed = self.change_user(
            &session.state,
            database,
            &key,
            Ends::Nothing,
            ctx.deadline,
            change,
        );
        Box::pin(changed).await.map(|_| ())
    }

    async fn finish_login(&self, ctx: &Context, token: &str, code: u32) -> Result<Session> {
        let state = self.metadata.founded()?;
        self.check_rights(Consistency::Linearizable, ctx.deadline)
            .await?;
        let database = state
            .database(&ctx.database)
            .ok_or_else(|| Error::database_not_found(&ctx.database))?;
        let now = self.now_seconds();
        let claims = token::verify(&state.signing_keys, database.id, token)
            .filter(|claims| claims.kind == Kind::SecondFactor && now <= claims.expires)
            .ok_or_else(|| bad_credentials("the log-in took too long: begin again"))?;
        let taken = self.take_code(&state, database, ctx, &claims.user, code);
        let user = Box::pin(taken).await?;
        if claims.version < user.sessions_from() {
            return Err(bad_credentials(
                "the password was changed meanwhile: begin again",
            ));
        }
        // The session rests on the password that was checked, not on what the user is by now.
        let proven = User {
            version: claims.version,
            ..user
        };
        self.open_proven_session(&state, database, &proven)
    }

    /// Takes a code, once, and switches the second factor on if it was pending.
    async fn take_code(
        &self,
        state: &ClusterState,
        database: &Database,
        ctx: &Context,
        key: &str,
        code: u32,
    ) -> Result<User> {
        let now_s = u64::from(self.now_seconds());
        let mut outcome = Outcome::Wrong;
        let change = |user: &mut User| {
            let mut stored = Stored::of(user)
                .ok_or_else(|| Error::bad_request("the user has no second factor"))?;
            outcome = stored.take(code, now_s);
            if outcome == Outcome::Accepted {
                stored.state = SecondFactor::Enabled;
            }
            stored.put(user)?;
            Ok(!matches!(outcome, Outcome::Locked(_)))
        };
        let changed = self.change_user(state, database, key, Ends::Nothing, ctx.deadline, change);
        let user = Box::pin(changed).await?;
        match outcome {
            Outcome::Accepted => Ok(user),
            Outcome::Wrong => Err(bad_credentials("the code is wrong, or was used before")),
            Outcome::Locked(seconds) => Err(Error::new(
                ErrorCode::TooManyRequests,
                "too many wrong codes",
            )
            .with_retry_after(Duration::from_secs(seconds))),
        }
    }
}

impl Service {
    /// Whether the caller's log-ins ask for a code.
    ///
    /// # Errors
    /// `BadCredentials` without a valid token.
    pub async fn second_factor(&self, ctx: &Context) -> Result<SecondFactor> {
        self.core.second_factor(ctx).await
    }

    /// Gives the caller a secret, which takes the place of one that is pending, and shows it as the URI that authenticator apps take.
    /// Nothing else ever shows it again.
    ///
    /// # Errors
    /// `BadCredentials`; `BadRequest`: the second factor is on.
    pub async fn begin_second_factor(&self, ctx: &Context) -> Result<String> {
        self.core.begin_second_factor(ctx).await
    }

    /// Switches the caller's second factor on, with the first code of the secret.
    ///
    /// # Errors
    /// `BadCredentials`: also for a wrong code; `TooManyRequests`; `BadRequest`: no secret was asked for.
    pub async fn finish_second_factor(&self, ctx: &Context, code: u32) -> Result<()> {
        self.core.finish_second_factor(ctx, code).await
    }

    /// Switches the caller's second factor off.
    ///
    /// # Errors
    /// `BadCredentials`.
    pub async fn drop_second_factor(&self, ctx: &Context) -> Result<()> {
        self.core.drop_second_factor(ctx).await
    }

    /// The second step of a log-in: the token out of the refusal of the first, and a code.
    ///
    /// # Errors
    /// `BadCredentials`: the token is over, or the code wrong or used; `TooManyRequests` after too many wrong ones, on all nodes together.
    pub async fn finish_login(&self, ctx: &Context, token: &str, code: u32) -> Result<Session> {
        let login = self.core.finish_login(ctx, token, code);
        self.core.metrics.observe(Operation::Login, login).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> Stored {
        Stored {
            secret: "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ".to_owned(),
            state: SecondFactor::Enabled,
            step: 0,
            wrong: 0,
            wrong_since: 0,
        }
    }

    #[test]
    fn a_code_is_taken_once_and_wrong_ones_lock_for_a_while() {
        let (now, code) = (1_111_111_109, 81_804);
        let mut stored = stored();
        assert_eq!(stored.take(code, now), Outcome::Accepted);
        assert_eq!(stored.take(code, now), Outcome::Wrong);
        for _ in 1..WRONG_MAX {
            assert_eq!(stored.take(1, now + 10), Outcome::Wrong);
        }
        let left = LOCKED.as_secs() - 20;
        assert_eq!(stored.take(50_471, now + 20), Outcome::Locked(left));
        // Right or wrong, it is not looked at; afterwards it is.
        let later = now + LOCKED.as_secs();
        assert_eq!(stored.take(1, later), Outcome::Wrong);
        assert_eq!(stored.wrong, 1);
    }

    #[test]
    fn what_cannot_be_read_asks_for_a_code() {
        let user = |hidden: Value| User {
            key: "a".to_owned(),
            version: 1,
            members: serde_json::Map::new(),
            hidden: hidden.as_object().expect("an object").clone(),
            body: bytes::Bytes::new(),
        };
        let of = |value: Value| user(serde_json::json!({ MEMBER: value })).needs_second_factor();
        assert!(!user(serde_json::json!({})).needs_second_factor());
        assert!(of(serde_json::json!({ "new": "form" })));
        assert!(of(serde_json::to_value(stored()).expect("JSON")));
        let pending = Stored {
            state: SecondFactor::Pending,
            ..stored()
        };
        assert!(!of(serde_json::to_value(pending).expect("JSON")));
    }
}
