//! What is written to users, and the tokens in it.
//!
//! A mail's token is signed like any other and lives for an hour. It names a nonce that lies among the user's hidden members; using it
//! removes the nonce, and asking again replaces it, so that each works once and only the newest does.

use std::time::Duration;

use cluster::state::{ClusterState, Database};
use rand::RngCore as _;

use super::User;
use crate::Core;
use crate::auth::token::{self, Claims, Kind};
use crate::error::{Error, Result};
use crate::ports::Mail;
use crate::sessions::bad_credentials;

/// How long the token of a mail is good.
const TOKEN_LIFE: Duration = Duration::from_secs(60 * 60);
/// How long the token that confirms a new address is good: people read mail the next day.
const VERIFICATION_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Random bytes of a nonce.
const NONCE_BYTES: usize = 16;
/// Longest user name. An address has at most 254 characters; this leaves room and keeps index, tokens and headers small.
pub(super) const NAME_BYTES_MAX: usize = 512;

/// The parameter of a link that a front end reads the token from, as the contract has it.
const LINK_PARAMETER: &str = "bq-token";

/// A fresh nonce, hexadecimal.
pub(super) fn nonce() -> String {
    let mut bytes = [0; NONCE_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

/// Refuses what cannot be a user name: nothing, too much, or what would be taken for something else where names are written.
pub(super) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let message = format!("a user name has 1 to {NAME_BYTES_MAX} bytes");
        return Err(Error::bad_request(message));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::bad_request(
            "a user name must not have control characters",
        ));
    }
    Ok(())
}

/// Whether mails can be sent to a name. Whether they arrive is another question.
pub(super) fn is_address(name: &str) -> bool {
    name.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty()
            && !domain.is_empty()
            && !name.chars().any(|c| c.is_whitespace() || c.is_control())
            && !domain.contains('@')
    })
}

/// The link that a mail shows: a page of the front end, or our own address, with the token as a parameter.
pub(super) fn link(base: &str, parameter: Option<&str>, token: &str) -> String {
    let separator = if base.contains('?') { '&' } else { '?' };
    // Tokens are hexadecimal: nothing is to be escaped.
    format!(
        "{base}{separator}{}={token}",
        parameter.unwrap_or(LINK_PARAMETER)
    )
}

impl Core {
    /// A token for a mail.
    pub(super) fn mail_token(
        &self,
        state: &ClusterState,
        database: &Database,
        user: &User,
        kind: Kind,
        texts: Vec<String>,
    ) -> Result<String> {
        let now = self.now_seconds();
        let life = match kind {
            Kind::Verification => VERIFICATION_LIFE,
            _ => TOKEN_LIFE,
        };
        let life = u32::try_from(life.as_secs()).unwrap_or(u32::MAX);
        let claims = Claims {
            kind,
            created: now,
            expires: now.saturating_add(life),
            user: user.key.clone(),
            version: user.version,
            texts,
        };
        self.sign(state, database, &claims)
    }

    /// The claims of a mail's token.
    ///
    /// # Errors
    /// `BadCredentials`: not such a token of ours, or its time is over.
    pub(super) fn mail_claims(
        &self,
        state: &ClusterState,
        database: &Database,
        kind: Kind,
        token: &str,
    ) -> Result<Claims> {
        let claims = token::verify(&state.signing_keys, database.id, token);
        claims
            .filter(|claims| claims.kind == kind && self.now_seconds() <= claims.expires)
            .ok_or_else(used)
    }

    /// Hands a mail to the sender.
    ///
    /// # Errors
    /// `Unavailable`: it was not taken.
    pub(super) async fn mail(&self, to: &str, subject: &str, text: String) -> Result<()> {
        let mail = Mail {
            to: to.to_owned(),
            subject: subject.to_owned(),
            text,
        };
        self.mailer.send(mail).await.map_err(|error| {
            tracing::warn!(%error, "a mail could not be sent");
            Error::unavailable("mails cannot be sent now")
        })
    }
}

/// The refusal of a mail's token: which of the reasons it is, is nobody's business.
pub(super) fn used() -> Error {
    bad_credentials("the link has been used, is not the newest, or is too old: ask for another one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses() {
        for good in ["a", "ann@example.com", "ä ö"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a\nb", "a\u{0}", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for address in ["ann@example.com", "a+b@x"] {
            assert!(is_address(address), "{address}");
        }
        for other in ["ann", "@x", "a@", "a b@x", "a@b@c", "a@x\r\nBcc: b@x"] {
            assert!(!is_address(other), "{other}");
        }
    }

    #[test]
    fn links_have_one_more_parameter() {
        assert_eq!(link("https://x/p", None, "5f"), "https://x/p?bq-token=5f");
        assert_eq!(
            link("https://x/p?a=1", Some("token"), "5f"),
            "https://x/p?a=1&token=5f"
        );
    }
}
