//! What a user does with its own sessions beyond log-in and renewal.

use cluster::state::{ClusterState, Database};
use document::acl::ADMIN_ROLE;
use document::id::object_id;
use proto::ErrorCode;

use crate::Core;
use crate::auth::policy::ROLES;
use crate::auth::token::{Claims, Kind};
use crate::context::{Caller, Context, Session};
use crate::error::{Error, Result};
use crate::sessions::bad_credentials;

impl Core {
    /// The claims of the caller's session, if it is good.
    ///
    /// # Errors
    /// `BadCredentials`: no token, not that of a session, or over.
    pub(super) async fn session_claims(
        &self,
        ctx: &Context,
        state: &ClusterState,
        database: &Database,
    ) -> Result<Claims> {
        let Caller::Token(token) = &ctx.caller else {
            return Err(bad_credentials("nobody is logged in"));
        };
        let claims = self.claims(state, database, token)?;
        if claims.kind != Kind::Session {
            return Err(bad_credentials("this needs a log-in, not another token"));
        }
        self.authenticate(ctx, state).await?;
        Ok(claims)
    }

    pub(crate) async fn validate(&self, ctx: &Context) -> Result<String> {
        let state = self.begin_account(ctx).await?;
        let principal = self.authenticate(ctx, &state).await?;
        principal
            .user
            .ok_or_else(|| bad_credentials("nobody is logged in"))
    }

    pub(crate) async fn assume_role(&self, ctx: &Context, role: &str) -> Result<Session> {
        let state = self.begin_account(ctx).await?;
        let database = self.database_of(ctx, &state)?;
        let claims = self.session_claims(ctx, &state, database).await?;
        let principal = self.authenticate(ctx, &state).await?;
        let id = object_id(ROLES, role);
        if !principal
            .roles
            .iter()
            .any(|own| *own == id || own == ADMIN_ROLE)
        {
            let message = format!("the caller does not belong to role {role}");
            return Err(Error::new(ErrorCode::PermissionDenied, message));
        }
        let user = self.active_user(&state, database, &claims.user, ctx.deadline);
        let user = Box::pin(user).await?;
        let claims = Claims {
            texts: vec![role.to_owned()],
            ..claims
        };
        Ok(Session {
            token: self.renew(&state, database, &claims)?,
            user: user.body,
        })
    }

    pub(crate) async fn logout_everywhere(&self, ctx: &Context) -> Result<()> {
        let state = self.begin_account(ctx).await?;
        let database = self.database_of(ctx, &state)?;
        let claims = self.session_claims(ctx, &state, database).await?;
        let revoked = self.revoke(&state, database, &claims.user, ctx.deadline);
        Box::pin(revoked).await.map(|_| ())
    }
}
