//! JWTs of trusted issuers: whom they name here.
//!
//! A JWT is looked at by the issuer that it names, with that issuer's keys and no others. The user key is the issuer's word, except that
//! nobody outside can name a predefined user: those keys are the cluster's own.

use proto::ErrorCode;
use serde_json::Value;
use service::identities::{Vouched, no_such_issuer};
use service::{Error, Result};

use super::fetch::Fetcher;
use super::jwt::{self, Claims, JwtError};
use super::keys::{KeyError, Keys, Source};
use crate::config::TrustedIssuer;
use crate::http::refuse;

/// Longest user key.
const USER_BYTES_MAX: usize = 512;
/// Names of one token that are looked at.
const ROLES_MAX: usize = 64;

/// A trusted issuer with its keys.
pub(super) struct Issuer {
    config: TrustedIssuer,
    keys: Keys,
}

impl Issuer {
    pub(super) fn new(config: TrustedIssuer, fetcher: Fetcher) -> Issuer {
        let source = match config.jwks.strip_prefix("file:") {
            Some(path) => Source::File(path.into()),
            None => Source::Url(config.jwks.clone()),
        };
        Issuer {
            keys: Keys::new(source, fetcher),
            config,
        }
    }

    fn is_for(&self, database: &str) -> bool {
        self.config.databases.iter().any(|name| name == database)
    }

    async fn vouch(&self, token: &str) -> Result<Vouched> {
        let config = &self.config;
        let checked = jwt::verify(token, &self.keys, &config.issuer, &config.audience).await;
        let claims = match checked {
            Ok(claims) => claims,
            Err(JwtError::Invalid(why)) => {
                let message = format!("the token is not valid: {why}");
                return Err(refuse(ErrorCode::BadCredentials, message));
            }
            Err(JwtError::Keys(KeyError::Unknown)) => {
                return Err(refuse(
                    ErrorCode::BadCredentials,
                    "the token's key is not among its issuer's",
                ));
            }
            Err(JwtError::Keys(KeyError::Unavailable(_))) => {
                return Err(Error::unavailable(
                    "the keys of the token's issuer cannot be had now",
                ));
            }
        };
        let user = claims.text(&config.user_claim).unwrap_or_default();
        if user.is_empty() || user.len() > USER_BYTES_MAX {
            let message = format!("the token names no user in {}", config.user_claim);
            return Err(refuse(ErrorCode::BadCredentials, message));
        }
        Ok(Vouched {
            user: user.to_owned(),
            roles: self.roles(&claims),
            issued: claims.issued_s(),
        })
    }

    /// Keys of the roles that the token's names stand for here.
    fn roles(&self, claims: &Claims) -> Vec<String> {
        let names: Vec<&str> = match claims.others.get(&self.config.roles_claim) {
            Some(Value::String(name)) => vec![name],
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let names = names.into_iter().take(ROLES_MAX);
        names
            .filter_map(|name| self.config.roles.get(name).cloned())
            .collect()
    }
}

/// Whom `token` names in `database`.
pub(super) async fn vouch(issuers: &[Issuer], database: &str, token: &str) -> Result<Vouched> {
    let named = jwt::named_issuer(token).ok_or_else(no_such_issuer)?;
    let trusted = issuers
        .iter()
        .find(|issuer| issuer.config.issuer == named && issuer.is_for(database));
    trusted.ok_or_else(no_such_issuer)?.vouch(token).await
}
