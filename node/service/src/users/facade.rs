//! Accounts at the facade.

use super::{Registered, Registration};
use crate::audit::{Action, Event};
use crate::context::{Context, Session};
use crate::error::Result;
use crate::metrics::Operation;
use crate::{Service, audit};

impl Service {
    /// Makes a user, by the rules of class `User` for inserts.
    ///
    /// # Errors
    /// `ValueTaken`: the name is. `PermissionDenied`, `TooManyRequests`; by content those of [`Service::put`].
    pub async fn register(&self, ctx: &Context, registration: Registration) -> Result<Registered> {
        let registered = self.core.register(ctx, registration);
        self.core
            .metrics
            .observe(Operation::Register, registered)
            .await
    }

    /// Changes a password by the old one, which admins may leave empty. All sessions of before end; the answer is a new one.
    ///
    /// # Errors
    /// `BadCredentials`, never saying what is wrong; `TooManyRequests`; those of [`Service::put`].
    pub async fn change_password(
        &self,
        ctx: &Context,
        name: &str,
        old: &str,
        new: &str,
    ) -> Result<Session> {
        let changed = self.core.change_password(ctx, name, old, new);
        let session = self.core.metrics.observe(Operation::Account, changed).await;
        if let Some(action) = audit::of_login(&session) {
            self.note(Event::of(ctx, action).by(name));
        }
        session
    }

    /// Sets a password by the token of a mail; otherwise as [`Service::change_password`].
    ///
    /// # Errors
    /// `BadCredentials`: the token is no good, or was used.
    pub async fn reset_password(&self, ctx: &Context, token: &str, new: &str) -> Result<Session> {
        let reset = self.core.reset_password(ctx, token, new);
        self.core.metrics.observe(Operation::Account, reset).await
    }

    /// Takes the caller's password away, and ends its sessions; the answer is a new one.
    ///
    /// # Errors
    /// `BadCredentials` without a valid session.
    pub async fn remove_password(&self, ctx: &Context) -> Result<Session> {
        let removed = self.core.remove_password(ctx);
        self.core.metrics.observe(Operation::Account, removed).await
    }

    /// Has a mail sent that resets a password. The answer is the same whether there is such a user or not.
    ///
    /// # Errors
    /// `TooManyRequests`; `QueryNotSupported` where no mails are sent for this.
    pub async fn want_reset(&self, ctx: &Context, name: &str) -> Result<()> {
        let wanted = self.core.want_reset(ctx, name);
        let wanted = self.core.metrics.observe(Operation::Account, wanted).await;
        if wanted.is_ok() {
            self.note(Event::of(ctx, Action::MailRequested).by(name));
        }
        wanted
    }

    /// Confirms a mail address by the token of a mail; gives where a browser goes on.
    ///
    /// # Errors
    /// `BadCredentials`: the token is no good, or was used.
    pub async fn verify_address(&self, ctx: &Context, token: &str) -> Result<Option<String>> {
        let verified = self.core.verify_address(ctx, token);
        self.core
            .metrics
            .observe(Operation::Account, verified)
            .await
    }

    /// Has a mail sent to another address, which becomes the user's name when its link is followed.
    ///
    /// # Errors
    /// `BadCredentials`, `TooManyRequests`; `BadRequest` where addresses are not verified.
    pub async fn want_name(
        &self,
        ctx: &Context,
        name: &str,
        new_name: &str,
        password: &str,
    ) -> Result<()> {
        let wanted = self.core.want_name(ctx, name, new_name, password);
        let wanted = self.core.metrics.observe(Operation::Account, wanted).await;
        if wanted.is_ok() {
            self.note(Event::of(ctx, Action::MailRequested).by(name));
        }
        wanted
    }

    /// Follows that link.
    ///
    /// # Errors
    /// `BadCredentials`: the token is no good, or was used. `ValueTaken`: another user has the name by now.
    pub async fn verify_name(&self, ctx: &Context, token: &str) -> Result<()> {
        let verified = self.core.verify_name(ctx, token);
        self.core
            .metrics
            .observe(Operation::Account, verified)
            .await
    }

    /// The full id of the caller's user.
    ///
    /// # Errors
    /// `BadCredentials` without a token that is good.
    pub async fn validate(&self, ctx: &Context) -> Result<String> {
        let validated = self.core.validate(ctx);
        self.core
            .metrics
            .observe(Operation::Account, validated)
            .await
    }

    /// A session of the caller that acts in one role alone; the caller must have that role, or be an admin.
    ///
    /// # Errors
    /// `BadCredentials` without a valid session, `PermissionDenied`.
    pub async fn assume_role(&self, ctx: &Context, role: &str) -> Result<Session> {
        let assumed = self.core.assume_role(ctx, role);
        let session = self.core.metrics.observe(Operation::Account, assumed).await;
        if session.is_ok() {
            self.note(Event::of(ctx, Action::TokenIssued).on(role));
        }
        session
    }

    /// Ends all sessions of the caller, on every node, and makes all other tokens worthless that it has been given.
    ///
    /// # Errors
    /// `BadCredentials` without a valid session; those of [`Service::put`].
    pub async fn logout_everywhere(&self, ctx: &Context) -> Result<()> {
        let ended = self.core.logout_everywhere(ctx);
        let ended = self.core.metrics.observe(Operation::Logout, ended).await;
        if ended.is_ok() {
            self.note_of_caller(ctx, Event::of(ctx, Action::TokenRevoked));
        }
        ended
    }

    /// Has another key sign tokens; gives its id. The old ones go on to verify for as long as sessions live, or, with `only`, not at
    /// all: every session and every token is over then.
    ///
    /// # Errors
    /// `BadRequest`: too many keys are kept. `Unavailable`, `OutcomeUnknown`.
    pub async fn rotate_signing_key(
        &self,
        only: bool,
        deadline: std::time::Instant,
    ) -> Result<u32> {
        let state = self.core.metadata.founded()?;
        self.core.rotate_signing_key(&state, only, deadline).await
    }
}
