//! Checking a JWT of one issuer: signature, issuer, audience, times.
//!
//! The order matters: the algorithm in the token's header is only compared with what the found key is good for, so neither `none` nor a
//! shared-secret algorithm over a public key has a check that could pass. Claims are read once more in our own strict form, because the
//! library takes a list of issuers where one name belongs.

use jsonwebtoken::{TokenData, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::crypto;
use super::keys::{KeyError, Keys};

/// Longest token that is looked at.
pub(super) const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Seconds by which clocks may differ.
const LEEWAY_S: u64 = 30;

/// Why a token is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum JwtError {
    /// It is not a token of this issuer, for us, now.
    #[error("{0}")]
    Invalid(String),
    /// Its key cannot be had.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

fn invalid(message: impl Into<String>) -> JwtError {
    JwtError::Invalid(message.into())
}

/// What a token says.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Claims {
    pub(super) iss: String,
    pub(super) sub: Option<String>,
    pub(super) aud: Audience,
    pub(super) azp: Option<String>,
    pub(super) nonce: Option<String>,
    /// Seconds since 1970.
    pub(super) iat: Option<f64>,
    #[serde(flatten)]
    pub(super) others: Map<String, Value>,
}

/// Whom a token is for.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    /// One party.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Audience {
    /// How many parties it is for.
    pub(super) fn parties(&self) -> usize {
        match self {
            Audience::One(name) => usize::from(!name.is_empty()),
            Audience::Many(names) => names.len(),
        }
    }
}

impl Claims {
    /// A claim by name, with those that have a field of their own.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match name {
            "sub" => self.sub.as_deref(),
            "iss" => Some(&self.iss),
            _ => self.others.get(name)?.as_str(),
        }
    }

    /// When it was issued, in whole seconds since 1970; 0 if it does not say.
    pub(super) fn issued_s(&self) -> u32 {
        // Saturates, and takes what is not a number for 0.
        self.iat.map_or(0, |seconds| seconds as u32)
    }
}

/// The issuer that a token names, before anything about it is believed.
pub(super) fn named_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let claims = jsonwebtoken::dangerous::insecure_decode_claims::<Issuer>(token).ok()?;
    Some(claims.iss)
}

/// Checks `token`.
///
/// # Errors
/// [`JwtError`].
pub(super) async fn verify(
    token: &str,
    keys: &Keys,
    issuer: &str,
    audience: &[String],
) -> Result<Claims, JwtError> {
    crypto::install();
    if token.len() > TOKEN_BYTES_MAX {
        return Err(invalid("the token is too long"));
    }
    let header = decode_header(token).map_err(|_| invalid("that is no JWT"))?;
    if header.crit.is_some() {
        return Err(invalid("the token asks for checks that do not exist here"));
    }
    let mut last = invalid("the issuer has no such key");
    for key in keys.find(header.kid.as_deref(), header.alg).await? {
        let mut validation = Validation::new(header.alg);
        validation.algorithms = vec![header.alg];
        validation.leeway = LEEWAY_S;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(&[issuer]);
        validation.set_audience(audience);
        match decode(token, &key.key, &validation) {
            Ok(TokenData::<Claims> { claims, .. }) if claims.iss == issuer => return Ok(claims),
            Ok(_) => last = invalid("another issuer"),
            Err(error) => last = invalid(error.to_string()),
        }
    }
    Err(last)
}
