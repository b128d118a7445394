//! API tokens (contract section 8.2): tokens without an end, for programs that act as a user.
//!
//! They are signed with a key of their user's own, a hidden member of its document, and not with the cluster's keys, which rotate and are
//! forgotten. Whatever ends the user's sessions ends them too: the user keeps the version below which no token of it is good.
//!
//! The price is a look at the user before the signature can be checked.

use cluster::signing_keys::{SIGNING_KEY_BYTES, SigningKey, SigningKeys};
use cluster::state::{ClusterState, Database};
use document::id::object_id;
use proto::ErrorCode;
use rand::RngCore as _;

use super::User;
use super::change::Ends;
use crate::audit::{Action, Event};
use crate::auth::policy::{USERS, require_admin};
use crate::auth::token::{self, Claims, Kind};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::sessions::bad_credentials;
use crate::{Core, Service};

/// Hidden member with the key, in hex.
const MEMBER: &str = "_tokenKey";

/// The expiry of a token that has none.
const NEVER: u32 = u32::MAX;

fn keys_of(user: &User) -> Option<SigningKeys> {
    let secret = hex::decode(user.hidden_text(MEMBER)?).ok()?;
    let key = SigningKey {
        id: 0,
        secret,
        since_us: 0,
        retired_us: None,
    };
    Some(SigningKeys::new(vec![key]))
}

impl Core {
    /// The user of an API token, and what the token says.
    ///
    /// # Errors
    /// `BadCredentials`: it was revoked, its user is gone or not active, or it never was one.
    pub(crate) async fn api_user(
        &self,
        ctx: &Context,
        state: &ClusterState,
        database: &Database,
        token: &str,
    ) -> Result<(User, Claims)> {
        let invalid = || bad_credentials("the token is invalid or was revoked");
        let claimed = token::unverified_user(token).ok_or_else(invalid)?;
        let user = self.user(state, database, &claimed, ctx.deadline).await?;
        let user = user.ok_or_else(invalid)?;
        let keys = keys_of(&user).ok_or_else(invalid)?;
        let claims = token::verify(&keys, database.id, token)
            .filter(|claims| claims.kind == Kind::Api && claims.user == user.key)
            .filter(|claims| claims.version >= user.sessions_from())
            .ok_or_else(invalid)?;
        if user.is_inactive() {
            return Err(bad_credentials("the user is not active"));
        }
        Ok((user, claims))
    }

    async fn make_api_token(&self, ctx: &Context, key: &str) -> Result<String> {
        let session = self.begin(ctx, &[USERS]).await?;
        require_admin(&session.principal)?;
        let database = session.find(ctx, USERS)?.0;
        self.existing_user(ctx, &session.state, database, key)
            .await?;
        let mut secret = [0; SIGNING_KEY_BYTES];
        rand::rng().fill_bytes(&mut secret);
        let change = |user: &mut User| {
            if keys_of(user).is_some() {
                return Ok(false);
            }
            user.hidden
                .insert(MEMBER.to_owned(), hex::encode(secret).into());
            Ok(true)
        };
        let changed = self.change_user(
            &session.state,
            database,
            key,
            Ends::Nothing,
            ctx.deadline,
            change,
        );
        let user = Box::pin(changed).await?;
        let claims = Claims {
            kind: Kind::Api,
            created: self.now_seconds(),
            expires: NEVER,
            user: user.key.clone(),
            version: user.version,
            texts: Vec::new(),
        };
        let keys = keys_of(&user);
        let token = keys.and_then(|keys| token::sign(&keys, database.id, &claims));
        token.ok_or_else(|| Error::internal(&"a user without the key just made"))
    }

    async fn revoke_tokens(&self, ctx: &Context, key: &str) -> Result<()> {
        let session = self.begin(ctx, &[USERS]).await?;
        if session.principal.user.as_deref() != Some(&object_id(USERS, key)) {
            require_admin(&session.principal)?;
        }
        let database = session.find(ctx, USERS)?.0;
        self.existing_user(ctx, &session.state, database, key)
            .await?;
        let revoked = self.revoke(&session.state, database, key, ctx.deadline);
        Box::pin(revoked).await.map(|_| ())
    }

    /// A user that somebody else asks for: missing is 404, since the caller's own credentials are good.
    async fn existing_user(
        &self,
        ctx: &Context,
        state: &ClusterState,
        database: &Database,
        key: &str,
    ) -> Result<User> {
        let user = self.user(state, database, key, ctx.deadline).await?;
        user.ok_or_else(|| Error::new(ErrorCode::ObjectNotFound, "there is no such user"))
    }
}

impl Service {
    /// An API token of a user, for admins.
    ///
    /// # Errors
    /// `PermissionDenied`; `ObjectNotFound`: no such user.
    pub async fn make_api_token(&self, ctx: &Context, user: &str) -> Result<String> {
        let token = self.core.make_api_token(ctx, user).await?;
        let event = Event::of(ctx, Action::TokenIssued).on(&object_id(USERS, user));
        self.note_of_caller(ctx, event.saying("for an API"));
        Ok(token)
    }

    /// Makes all tokens of a user worthless that were issued so far, sessions included: for admins, and the user itself.
    ///
    /// # Errors
    /// `PermissionDenied`; `ObjectNotFound`: no such user.
    pub async fn revoke_tokens(&self, ctx: &Context, user: &str) -> Result<()> {
        self.core.revoke_tokens(ctx, user).await?;
        let event = Event::of(ctx, Action::TokenRevoked).on(&object_id(USERS, user));
        self.note_of_caller(ctx, event);
        Ok(())
    }
}
