//! Parties outside of the cluster that vouch for users: issuers of JWTs, and providers of OAuth 2.0 and OpenID Connect.
//!
//! The service decides what somebody whom they vouch for may do here; the node implements [`Identities`], since it takes a network to
//! ask them. Whatever they say is checked before it arrives here: signature, issuer, audience, times, nonce.

use std::time::Duration;

use futures::future::{BoxFuture, ready};
use proto::ErrorCode;

use crate::error::{Error, Result};

/// Whom a JWT of a trusted issuer names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// Decoded key of the user.
    pub user: String,
    /// Ids of the roles that the issuer's word gives, besides those whose documents name the user.
    pub roles: Vec<String>,
    /// When the JWT was issued, in seconds since 1970; 0: it does not say.
    pub issued: u32,
}

/// Somebody whom a provider knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// What the provider calls this user; never changes, never given to another one.
    pub subject: String,
    /// A name for people, if the provider has one that may be believed.
    pub username: Option<String>,
}

/// What a provider gave the user, and wants back for saying who it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Grant {
    /// A code out of the redirect, once.
    Code {
        /// The code.
        code: String,
        /// The address that the provider sent the user to.
        redirect_uri: String,
        /// What only this cluster knows of the flow; `None` if it was begun elsewhere.
        proof: Option<Proof>,
    },
    /// A device code, again and again until the user has confirmed.
    Device {
        /// The code.
        code: String,
    },
}

/// What ties a flow to its beginning.
#[derive(Clone, PartialEq, Eq)]
pub struct Proof {
    /// Must be in the identity token.
    pub nonce: String,
    /// The verifier of PKCE.
    pub verifier: String,
}

/// The first step of a flow that begins here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Where the provider shall send the user.
    pub redirect_uri: String,
    /// Comes back as it is.
    pub state: String,
    /// Comes back in the identity token.
    pub nonce: String,
    /// The challenge of PKCE (S256).
    pub challenge: String,
}

/// Outside parties that vouch for users. All parties are configured per database.
pub trait Identities: Send + Sync {
    /// Whom a JWT names.
    ///
    /// # Errors
    /// `BadCredentials`: not of a trusted issuer, or not valid now. `Unavailable`: its keys cannot be had.
    fn bearer<'a>(&'a self, database: &'a str, token: &'a str) -> BoxFuture<'a, Result<Vouched>>;

    /// Where the user must go to log in with `provider`.
    ///
    /// # Errors
    /// `NoRoute`: there is no such provider. `Unavailable`: it does not say where.
    fn authorize_url<'a>(
        &'a self,
        database: &'a str,
        provider: &'a str,
        begin: &'a Begin,
    ) -> BoxFuture<'a, Result<String>>;

    /// Whom a grant stands for. A code is used up even if the answer is lost.
    ///
    /// # Errors
    /// `BadCredentials`: the provider refuses the grant, or what it says is not for us. `NoRoute`: there is no such provider.
    /// `BadRequest`: the user has not confirmed yet. `ObjectNotFound`: and will not any more. `Unavailable`: the provider is not there.
    fn redeem<'a>(
        &'a self,
        database: &'a str,
        provider: &'a str,
        grant: Grant,
    ) -> BoxFuture<'a, Result<Profile>>;

    /// What was configured for a provider.
    ///
    /// # Errors
    /// `NoRoute`: there is no such provider.
    fn rules(&self, database: &str, provider: &str) -> Result<Rules>;
}

/// What a provider's flows must obey.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The address that the provider sends users to; `None`: the one that the request came to.
    pub redirect_uri: Option<String>,
    /// Origins (`scheme://host:port`) that tokens may be sent to.
    pub redirect_origins: Vec<String>,
    /// Only flows that began here count.
    pub own_flow_only: bool,
}

/// Nobody is trusted.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoIdentities;

/// The refusal of a provider that is not configured.
pub fn no_such_provider(provider: &str) -> Error {
    let message = format!("no provider {provider:?} is configured for this database");
    Error::new(ErrorCode::NoRoute, message)
}

/// The refusal of a JWT that nobody here trusts.
pub fn no_such_issuer() -> Error {
    Error::new(
        ErrorCode::BadCredentials,
        "no trusted issuer of this database made this token",
    )
}

impl Identities for NoIdentities {
    fn bearer<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<Vouched>> {
        Box::pin(ready(Err(no_such_issuer())))
    }

    fn authorize_url<'a>(
        &'a self,
        _: &'a str,
        provider: &'a str,
        _: &'a Begin,
    ) -> BoxFuture<'a, Result<String>> {
        Box::pin(ready(Err(no_such_provider(provider))))
    }

    fn redeem<'a>(
        &'a self,
        _: &'a str,
        provider: &'a str,
        _: Grant,
    ) -> BoxFuture<'a, Result<Profile>> {
        Box::pin(ready(Err(no_such_provider(provider))))
    }

    fn rules(&self, _: &str, provider: &str) -> Result<Rules> {
        Err(no_such_provider(provider))
    }
}

/// Between two polls of a device code, as most providers want it.
pub const DEVICE_POLL: Duration = Duration::from_secs(5);
