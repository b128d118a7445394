//! Changing, removing and resetting passwords.
//!
//! Every one of them ends the sessions of before: whoever changes a password may have a reason. The answer carries a new session.

use std::sync::Arc;

use cluster::state::{ClusterState, Database};
use document::acl::Principal;
use document::id::object_id;
use proto::{Effect, ErrorCode};
use serde_json::Value;

use super::attempts::{Attempt, What};
use super::change::Ends;
use super::mails::{check_name, is_address, link, nonce, used};
use super::register::{VERIFICATION_NONCE, check_password};
use crate::Core;
use crate::auth::policy::{PASSWORD_MEMBER, USERS};
use crate::auth::token::Kind;
use crate::context::{Context, Session};
use crate::error::{Error, Result};
use crate::sessions::bad_credentials;
use crate::users::User;

/// Hidden member: what the newest mail that resets the password names.
const RESET_NONCE: &str = "_resetNonce";

impl Core {
    /// The metadata for a request about accounts, which are rights: it must be young, and the predefined users written.
    pub(crate) async fn begin_account(&self, ctx: &Context) -> Result<Arc<ClusterState>> {
        let state = self.with_predefined(ctx).await?;
        self.check_rights(crate::Consistency::Linearizable, ctx.deadline)
            .await?;
        Ok(state)
    }

    /// The database of a request.
    pub(crate) fn database_of<'s>(
        &self,
        ctx: &Context,
        state: &'s ClusterState,
    ) -> Result<&'s Database> {
        state
            .database(&ctx.database)
            .ok_or_else(|| Error::database_not_found(&ctx.database))
    }

    /// Counts a try; admins have as many as they like.
    ///
    /// # Errors
    /// `TooManyRequests`.
    pub(super) fn count_try(
        &self,
        ctx: &Context,
        what: What,
        database: &Database,
        account: Option<&str>,
        caller: &Principal,
    ) -> Result<Option<Attempt>> {
        if caller.is_admin() {
            return Ok(None);
        }
        let attempt = self
            .attempts
            .begin(what, database.id, account, ctx.address)?;
        Ok(Some(attempt))
    }

    /// The active user with this name and password.
    ///
    /// # Errors
    /// `BadCredentials`, alike for all that may be wrong, and after the same work. `TooManyRequests`.
    pub(crate) async fn prove(
        &self,
        ctx: &Context,
        state: &Arc<ClusterState>,
        database: &Database,
        name: &str,
        password: &str,
    ) -> Result<User> {
        let attempt = self
            .attempts
            .begin(What::Login, database.id, Some(name), ctx.address)?;
        let proven = Box::pin(self.look_and_prove(ctx, state, database, name, password)).await;
        // Only a guess counts: who finds no leader has not guessed.
        if !matches!(&proven, Err(error) if error.code == ErrorCode::BadCredentials) {
            self.attempts.succeeded(&attempt);
        }
        proven
    }

    async fn look_and_prove(
        &self,
        ctx: &Context,
        state: &Arc<ClusterState>,
        database: &Database,
        name: &str,
        password: &str,
    ) -> Result<User> {
        let user = Box::pin(self.user_named(state, database, name, ctx.deadline)).await?;
        let hash = user
            .as_ref()
            .and_then(User::password_hash)
            .map(str::to_owned);
        let fits = self.passwords.verify(password, hash).await?;
        user.filter(|user| fits && !user.is_inactive())
            .ok_or_else(|| bad_credentials("wrong user name or password"))
    }

    /// Who asks, as far as it matters here: a token that is no good any more is no reason to refuse who knows the password.
    async fn caller_or_nobody(&self, ctx: &Context, state: &ClusterState) -> Result<Principal> {
        match self.authenticate(ctx, state).await {
            Err(error) if error.code == ErrorCode::BadCredentials => Ok(Principal::anonymous()),
            caller => caller,
        }
    }

    /// Changes a password by the old one; admins may leave that empty.
    pub(crate) async fn change_password(
        &self,
        ctx: &Context,
        name: &str,
        old: &str,
        new: &str,
    ) -> Result<Session> {
        check_password(new)?;
        let state = self.begin_account(ctx).await?;
        let database = self.database_of(ctx, &state)?;
        let caller = self.caller_or_nobody(ctx, &state).await?;
        let user = if old.is_empty() && caller.is_admin() {
            let user = self.user_named(&state, database, name, ctx.deadline);
            let no_such = || Error::new(ErrorCode::BadRequest, "there is no user of this name");
            Box::pin(user).await?.ok_or_else(no_such)?
        } else {
            Box::pin(self.prove(ctx, &state, database, name, old)).await?
        };
        // A password is half of what such a user takes: whoever has nothing else must not lock the user out.
        let is_own = caller.user.as_deref() == Some(&object_id(USERS, &user.key));
        if user.needs_second_factor() && !is_own && !caller.is_admin() {
            return Err(self.ask_second_factor(&state, database, &user));
        }
        let proven = user.password_hash().map(str::to_owned);
        let is_proven = |user: &User| match user.password_hash() == proven.as_deref() {
            true => Ok(()),
            false => Err(bad_credentials("the password was changed meanwhile")),
        };
        let set = self.set_password(ctx, &state, database, &user.key, new, is_proven);
        let user = Box::pin(set).await?;
        self.open_proven_session(&state, database, &user)
    }

    /// Sets a password by the token of a mail.
    pub(crate) async fn reset_password(
        &self,
        ctx: &Context,
        token: &str,
        new: &str,
    ) -> Result<Session> {
        check_password(new)?;
        let state = self.begin_account(ctx).await?;
        let database = self.database_of(ctx, &state)?;
        let claims = self.mail_claims(&state, database, Kind::Reset, token)?;
        let is_current = |user: &User| {
            let nonce = user.hidden_text(RESET_NONCE);
            let is_newest = nonce == claims.texts.first().map(String::as_str);
            match is_newest && !user.is_inactive() {
                true => Ok(()),
                false => Err(used()),
            }
        };
        // Before the hash: a used link must not cost one.
        let user = Box::pin(self.user(&state, database, &claims.user, ctx.deadline)).await?;
        is_current(&user.ok_or_else(used)?)?;
        let set = self.set_password(ctx, &state, database, &claims.user, new, is_current);
        let user = Box::pin(set).await?;
        // The password is set, whatever else it takes to log in.
        self.open_session(&state, database, &user)
            .map_err(|error| error.with_effect(Effect::Applied))
    }

    /// Sets a user's password and ends its sessions, as long as `check` has nothing against the user as it is stored. The link of a mail
    /// that would reset the password is no good any more.
    async fn set_password(
        &self,
        ctx: &Context,
        state: &ClusterState,
        database: &Database,
        key: &str,
        password: &str,
        check: impl Fn(&User) -> Result<()> + Send,
    ) -> Result<User> {
        let hash = self.passwords.hash(password).await?;
        let set = move |user: &mut User| {
            check(user)?;
            let hash = Value::String(hash.clone());
            user.hidden.insert(PASSWORD_MEMBER.to_owned(), hash);
            user.hidden.remove(RESET_NONCE);
            Ok(true)
        };
        self.change_user(state, database, key, Ends::Sessions, ctx.deadline, set)
            .await
    }

    /// Takes the caller's password away: only other ways to log in are left.
    pub(crate) async fn remove_password(&self, ctx: &Context) -> Result<Session> {
        let state = self.begin_account(ctx).await?;
        let database = self.database_of(ctx, &state)?;
        let claims = self.session_claims(ctx, &state, database).await?;
        let remove = |user: &mut User| {
            user.hidden.remove(RESET_NONCE);
            Ok(user.hidden.remove(PASSWORD_MEMBER).is_some())
        };
        let changed = self.change_user(
            &state,
            database,
            &claims.user,
            Ends::Sessions,
            ctx.deadline,
            remove,
        );
        let user = Box::pin(changed).await?;
        self.open_proven_session(&state, database, &user)
    }

    /// Takes a wish for a mail that resets a password. Whether there is such a user, the answer does not tell, nor the time it takes:
    /// the rest is done later ([`Core::mail_reset`]).
    pub(crate) async fn want_reset(&self, ctx: &Context, name: &str) -> Result<()> {
        let state = self.begin_account(ctx).await?;
        let database = self.database_of(ctx, &state)?;
        if self.options.accounts.reset_link.is_empty() {
            return Err(Error::new(
                ErrorCode::QueryNotSupported,
                "passwords cannot be reset by mail here: accounts.reset_link is not set",
            ));
        }
        check_name(name)?;
        let caller = self.caller_or_nobody(ctx, &state).await?;
        let _counted = self.count_try(ctx, What::Mail, database, Some(name), &caller)?;
        self.resets.push(database.name.clone(), name.to_owned())
    }

    /// Sends a user the mail that resets its password, or, as long as its address is not confirmed, the one that confirms it.
    pub(crate) async fn mail_reset(
        &self,
        database: &str,
        name: &str,
        deadline: std::time::Instant,
    ) -> Result<()> {
        let state = self.metadata.founded()?;
        let database = state
            .database(database)
            .ok_or_else(|| Error::database_not_found(database))?;
        let user = Box::pin(self.user_named(&state, database, name, deadline)).await?;
        let Some(user) = user.filter(|_| is_address(name)) else {
            return Ok(());
        };
        if user.hidden_text(VERIFICATION_NONCE).is_some() {
            return self.mail_verification(&state, database, &user).await;
        }
        let nonce = nonce();
        let set = |user: &mut User| {
            let active = !user.is_inactive();
            if active {
                user.hidden
                    .insert(RESET_NONCE.to_owned(), Value::String(nonce.clone()));
            }
            Ok(active)
        };
        let changed = self.change_user(&state, database, &user.key, Ends::Nothing, deadline, set);
        let user = Box::pin(changed).await?;
        if user.is_inactive() {
            return Ok(());
        }
        let token = self.mail_token(&state, database, &user, Kind::Reset, vec![nonce])?;
        let link = link(&self.options.accounts.reset_link, None, &token);
        let text = format!(
            "Somebody asked to set a new password for {name}. Open this link within an hour to do so:\n\n{link}\n\nIf it was not you, there is nothing to do.\n"
        );
        self.mail(name, "Set a new password", text).await
    }
}
