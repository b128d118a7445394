//! `[oauth.<name>]` and `[[security.trusted_issuers]]`: who outside of the cluster vouches for users.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Rule, Secret};

/// What clients call the default database.
pub const DEFAULT_DATABASE: &str = "v1";

/// `[oauth.<name>]`: a provider that users log in with, by OpenID Connect (`issuer`) or plain OAuth 2.0 (the three addresses).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OauthProvider {
    /// The issuer of an OpenID Connect provider; its addresses are asked for there. Empty: plain OAuth 2.0.
    pub issuer: String,
    /// Where users log in. Empty: as the issuer says.
    pub authorize_url: String,
    /// Where codes are redeemed. Empty: as the issuer says.
    pub token_url: String,
    /// What tells who the user is, if no identity token does. Empty: as the issuer says.
    pub userinfo_url: String,
    /// What the provider calls this cluster.
    pub client_id: String,
    /// What it takes for proof of that.
    pub client_secret: Secret,
    /// How the proof is sent.
    pub client_auth: ClientAuth,
    /// What is asked for in flows that begin here.
    pub scopes: Vec<String>,
    /// The claim that names the user for ever.
    pub subject_claim: String,
    /// The claim that becomes the user name of a new user, if it is free.
    pub username_claim: String,
    /// The registered address that users come back to. Empty: the address that the request came to.
    pub redirect_uri: String,
    /// Origins of apps that users may be sent to with their token.
    pub redirect_origins: Vec<String>,
    /// Refuse flows that the client began by itself, which nothing ties to the browser.
    pub own_flow_only: bool,
    /// Databases whose users may log in with it.
    pub databases: Vec<String>,
}

/// How a client proves itself at the token address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// In the form.
    #[default]
    Post,
    /// In the header `authorization`.
    Basic,
}

impl Default for OauthProvider {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            authorize_url: String::new(),
            token_url: String::new(),
            userinfo_url: String::new(),
            client_id: String::new(),
            client_secret: Secret::Absent,
            client_auth: ClientAuth::Post,
            scopes: vec!["openid".to_owned(), "email".to_owned()],
            subject_claim: "sub".to_owned(),
            username_claim: "email".to_owned(),
            redirect_uri: String::new(),
            redirect_origins: Vec::new(),
            own_flow_only: false,
            databases: vec![DEFAULT_DATABASE.to_owned()],
        }
    }
}

/// `[[security.trusted_issuers]]`: whose JWTs count as log-ins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrustedIssuer {
    /// What its tokens name in `iss`.
    pub issuer: String,
    /// Its key set: an address, or `file:PATH`.
    pub jwks: String,
    /// What its tokens must name in `aud`: at least one of these.
    pub audience: Vec<String>,
    /// The claim with the key of the user.
    pub user_claim: String,
    /// The claim with a list of names, or one name. Empty: none.
    pub roles_claim: String,
    /// Such a name, and the key of the role that it gives here.
    pub roles: BTreeMap<String, String>,
    /// Databases that its tokens count in.
    pub databases: Vec<String>,
}

impl Default for TrustedIssuer {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            jwks: String::new(),
            audience: Vec::new(),
            user_claim: "sub".to_owned(),
            roles_claim: String::new(),
            roles: BTreeMap::new(),
            databases: vec![DEFAULT_DATABASE.to_owned()],
        }
    }
}

/// Whether an address may be asked: TLS, unless the whole node goes without.
fn check_url(key: &'static str, url: &str, insecure: bool) -> Result<(), Rule> {
    let parsed = reqwest::Url::parse(url).ok();
    let fits = parsed.is_some_and(|parsed| {
        parsed.scheme() == "https" || (insecure && parsed.scheme() == "http")
    });
    match fits {
        true => Ok(()),
        false => Err(Rule::NotSecure {
            key,
            value: url.to_owned(),
        }),
    }
}

/// Whether a text is `scheme://host` or `scheme://host:port` and nothing behind it, as browsers name origins.
fn check_origin(key: &'static str, origin: &str) -> Result<(), Rule> {
    let parsed = reqwest::Url::parse(origin).ok();
    let same = parsed.is_some_and(|parsed| parsed.origin().ascii_serialization() == origin);
    match same {
        true => Ok(()),
        false => Err(Rule::NotAnOrigin {
            key,
            value: origin.to_owned(),
        }),
    }
}

impl OauthProvider {
    pub(super) fn validate(&self, insecure: bool) -> Result<(), Rule> {
        if self.client_id.is_empty() {
            return Err(Rule::Empty {
                key: "oauth.<name>.client_id",
            });
        }
        let urls = [
            ("oauth.<name>.authorize_url", &self.authorize_url),
            ("oauth.<name>.token_url", &self.token_url),
            ("oauth.<name>.userinfo_url", &self.userinfo_url),
        ];
        for (key, url) in urls {
            match (url.is_empty(), self.issuer.is_empty()) {
                (true, true) => return Err(Rule::Empty { key }),
                (true, false) => {}
                (false, _) => check_url(key, url, insecure)?,
            }
        }
        if !self.issuer.is_empty() {
            check_url("oauth.<name>.issuer", &self.issuer, insecure)?;
        }
        for origin in &self.redirect_origins {
            check_origin("oauth.<name>.redirect_origins", origin)?;
        }
        Ok(())
    }
}

impl TrustedIssuer {
    pub(super) fn validate(&self, insecure: bool) -> Result<(), Rule> {
        let needed = [
            ("security.trusted_issuers.issuer", self.issuer.is_empty()),
            (
                "security.trusted_issuers.audience",
                self.audience.is_empty(),
            ),
            (
                "security.trusted_issuers.user_claim",
                self.user_claim.is_empty(),
            ),
        ];
        if let Some((key, _)) = needed.into_iter().find(|(_, empty)| *empty) {
            return Err(Rule::Empty { key });
        }
        match self.jwks.strip_prefix("file:") {
            Some(path) if !path.is_empty() => Ok(()),
            _ => check_url("security.trusted_issuers.jwks", &self.jwks, insecure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_has_an_issuer_or_all_addresses() {
        let oidc = OauthProvider {
            issuer: "https://accounts.example".to_owned(),
            client_id: "larder".to_owned(),
            redirect_origins: vec![
                "https://app.example".to_owned(),
                "http://localhost:3000".to_owned(),
            ],
            ..OauthProvider::default()
        };
        assert_eq!(oidc.validate(false), Ok(()));
        let plain = OauthProvider {
            issuer: "http://accounts.example".to_owned(),
            ..oidc.clone()
        };
        assert!(
            plain
                .validate(false)
                .unwrap_err()
                .to_string()
                .contains("oauth.<name>.issuer")
        );
        assert_eq!(plain.validate(true), Ok(()));
        let half = OauthProvider {
            issuer: String::new(),
            token_url: "https://accounts.example/token".to_owned(),
            ..oidc.clone()
        };
        assert!(
            half.validate(false)
                .unwrap_err()
                .to_string()
                .contains("authorize_url")
        );
        for origin in [
            "https://app.example/",
            "app.example",
            "https://app.example/x",
            "https://APP.example",
            "*",
        ] {
            let provider = OauthProvider {
                redirect_origins: vec![origin.to_owned()],
                ..oidc.clone()
            };
            assert!(provider.validate(false).is_err(), "{origin}");
        }
    }

    #[test]
    fn an_issuer_has_keys_and_an_audience() {
        let issuer = TrustedIssuer {
            issuer: "https://issuer.example".to_owned(),
            jwks: "file:/etc/larder/keys.json".to_owned(),
            audience: vec!["larder".to_owned()],
            ..TrustedIssuer::default()
        };
        assert_eq!(issuer.validate(false), Ok(()));
        for broken in [
            TrustedIssuer {
                audience: Vec::new(),
                ..issuer.clone()
            },
            TrustedIssuer {
                jwks: String::new(),
                ..issuer.clone()
            },
            TrustedIssuer {
                jwks: "http://issuer.example/keys".to_owned(),
                ..issuer.clone()
            },
            TrustedIssuer {
                user_claim: String::new(),
                ..issuer.clone()
            },
        ] {
            assert!(broken.validate(false).is_err(), "{broken:?}");
        }
    }
}
