//! Callers with the JWT of a trusted issuer: who they are here.
//!
//! The issuer's word names a user by its key. The user need not be stored; where it is, it can be deactivated, and whatever ended its
//! sessions also ends JWTs from before. Predefined users are nobody's to name, and no role comes from a JWT that the configuration does
//! not give.

use cluster::state::{ClusterState, Database};

use super::caller::Checked;
use super::change::revoked_at;
use crate::Core;
use crate::auth::policy::{USERS, is_reserved};
use crate::auth::token::{Claims, Kind};
use crate::context::Context;
use crate::error::Result;
use crate::sessions::bad_credentials;

impl Core {
    /// The caller that a JWT stands for.
    ///
    /// # Errors
    /// `BadCredentials`; `Unavailable`: neither the keys of its issuer nor the user can be had.
    pub(super) async fn bearer(
        &self,
        ctx: &Context,
        state: &ClusterState,
        database: &Database,
        token: &str,
    ) -> Result<Checked> {
        let vouched = self.identities.bearer(&ctx.database, token).await?;
        if is_reserved(USERS, &vouched.user) {
            return Err(bad_credentials("no issuer may name a predefined user"));
        }
        let user = self
            .user(state, database, &vouched.user, ctx.deadline)
            .await?;
        if let Some(user) = user {
            if user.is_inactive() {
                return Err(bad_credentials("the user is not active"));
            }
            if revoked_at(&user).is_some_and(|revoked| vouched.issued < revoked) {
                return Err(bad_credentials(
                    "the token was issued before it was revoked",
                ));
            }
        }
        // It knows no version of the user, so what ended since was judged here, by time.
        let claims = Claims {
            kind: Kind::Session,
            created: vouched.issued,
            expires: u32::MAX,
            user: vouched.user,
            version: u64::MAX,
            texts: Vec::new(),
        };
        Ok(Checked {
            claims,
            roles: vouched.roles,
        })
    }
}
