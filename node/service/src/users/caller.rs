//! Callers that no session stands behind: API tokens, and JWTs of trusted issuers.
//!
//! Both take a look at the user for each check, so the answer is kept for a few seconds, as it is for sessions.

use cluster::state::ClusterState;
use document::acl::Principal;

use crate::Core;
use crate::auth::token;
use crate::context::{Caller, Context};
use crate::error::{Error, Result};

impl Core {
    /// The caller of a request, if it is of one of these kinds.
    ///
    /// # Errors
    /// `BadCredentials`; `Unavailable`.
    pub(crate) async fn sessionless(
        &self,
        ctx: &Context,
        state: &ClusterState,
    ) -> Result<Option<Principal>> {
        let text = match &ctx.caller {
            Caller::Bearer(text) => text,
            Caller::Token(text) if token::unverified_user(text).is_some() => text,
            Caller::Token(_) | Caller::Anonymous => return Ok(None),
        };
        let database = state
            .database(&ctx.database)
            .ok_or_else(|| Error::database_not_found(&ctx.database))?;
        // The databases have names without a slash, and tokens have none either.
        let known = format!("{}/{text}", database.id);
        let now = self.clock.elapsed();
        if let Some(principal) = self.sessions.get(&known, now) {
            return Ok(Some(principal));
        }
        let principal = match &ctx.caller {
            Caller::Bearer(_) => Box::pin(self.bearer(ctx, state, database, text)).await?,
            Caller::Token(_) | Caller::Anonymous => {
                let user = Box::pin(self.api_user(ctx, state, database, text)).await?;
                Box::pin(self.principal_of(ctx, state, database, &user.key)).await?
            }
        };
        self.sessions.put(&known, principal.clone(), now);
        Ok(Some(principal))
    }
}
