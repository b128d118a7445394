//! Callers that no session stands behind: API tokens, and JWTs of trusted issuers.
//!
//! Both take a check that a session does not: a look at the user, the keys of an issuer. What it found is kept for a moment. Whether their
//! user's tokens were ended since, and which roles the user has, is judged for every request by this node's copy of the rights.

use std::collections::HashMap;
use std::time::Duration;

use cluster::state::ClusterState;
use document::acl::Principal;
use document::id::object_id;
use parking_lot::Mutex;

use crate::Core;
use crate::auth::policy::ROLES;
use crate::auth::token::{self, Claims};
use crate::context::{Caller, Context};
use crate::error::{Error, Result};

/// How long what was found is believed.
const RECHECK: Duration = Duration::from_secs(1);
/// Tokens that are remembered; more are checked again.
const KNOWN_MAX: usize = 10_000;

/// What a check found.
#[derive(Clone)]
pub(super) struct Checked {
    /// As the copy of the rights judges them.
    pub(super) claims: Claims,
    /// Keys of roles besides those whose documents name the user.
    pub(super) roles: Vec<String>,
}

/// Tokens that were checked, with the monotonic time until which that is believed.
#[derive(Default)]
pub(crate) struct Rechecks {
    known: Mutex<HashMap<String, (Checked, Duration)>>,
}

impl Rechecks {
    fn get(&self, token: &str, now: Duration) -> Option<Checked> {
        let known = self.known.lock();
        let fresh = known.get(token).filter(|(_, until)| now < *until);
        fresh.map(|(checked, _)| checked.clone())
    }

    fn put(&self, token: String, checked: Checked, asked: Duration) {
        let mut known = self.known.lock();
        if known.len() >= KNOWN_MAX {
            known.retain(|_, (_, until)| asked < *until);
        }
        if known.len() < KNOWN_MAX {
            known.insert(token, (checked, asked + RECHECK));
        }
    }
}

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
        // No token has a slash.
        let known = format!("{}/{text}", database.id);
        let asked = self.clock.elapsed();
        let checked = match self.sessions.get(&known, asked) {
            Some(checked) => checked,
            None => {
                let checked = match &ctx.caller {
                    Caller::Bearer(_) => Box::pin(self.bearer(ctx, state, database, text)).await?,
                    Caller::Token(_) | Caller::Anonymous => {
                        let (_, claims) =
                            Box::pin(self.api_user(ctx, state, database, text)).await?;
                        Checked {
                            claims,
                            roles: Vec::new(),
                        }
                    }
                };
                self.sessions.put(known, checked.clone(), asked);
                checked
            }
        };
        let judged = self.judge_token(ctx, state, database, &checked.claims);
        let mut principal = Box::pin(judged).await?;
        for key in &checked.roles {
            let role = object_id(ROLES, key);
            if !principal.roles.contains(&role) {
                principal.roles.push(role);
            }
        }
        Ok(Some(principal))
    }
}
