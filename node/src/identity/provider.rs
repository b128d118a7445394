//! One OAuth 2.0 or OpenID Connect provider: where its addresses are, and redeeming what it gave a user.
//!
//! The code is redeemed from here with the client's secret, never in a browser. Of an OpenID Connect provider only a checked identity
//! token counts; of a plain one, what its userinfo address says to the access token that it has just given. Access tokens are dropped
//! as soon as the user is known.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use proto::ErrorCode;
use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;
use service::identities::{Begin, DEVICE_POLL, Grant, Profile, Proof};
use service::{Error, Result};
use tokio::sync::Mutex;

use super::fetch::{Failure, Fetcher};
use super::jwt::{self, Claims, JwtError};
use super::keys::{KeyError, Keys, Source};
use crate::config::{ClientAuth, OauthProvider};
use crate::http::refuse;

/// How long the discovered addresses are used.
const FRESH: Duration = Duration::from_secs(3600);
/// Longest code, name or subject that is taken.
const TEXT_BYTES_MAX: usize = 2048;

/// The provider's own addresses.
#[derive(Clone)]
struct Endpoints {
    authorize: String,
    token: String,
    userinfo: Option<String>,
    /// Of an OpenID Connect provider.
    keys: Option<Arc<Keys>>,
}

/// A configured provider.
pub(super) struct Provider {
    name: String,
    pub(super) config: OauthProvider,
    secret: String,
    fetcher: Fetcher,
    endpoints: RwLock<Option<(Instant, Endpoints)>>,
    discovering: Mutex<()>,
}

/// What the token address answers.
#[derive(Deserialize)]
struct Tokens {
    access_token: Option<String>,
    id_token: Option<String>,
    /// Some providers refuse with status 200.
    error: Option<String>,
}

impl Provider {
    /// A provider with the secret of its client, empty if it has none.
    pub(super) fn new(
        name: String,
        config: OauthProvider,
        secret: String,
        fetcher: Fetcher,
    ) -> Provider {
        Provider {
            name,
            config,
            secret,
            fetcher,
            endpoints: RwLock::default(),
            discovering: Mutex::new(()),
        }
    }

    /// Where the user must go to log in.
    pub(super) async fn authorize_url(&self, begin: &Begin) -> Result<String> {
        let endpoints = self.endpoints().await?;
        let mut url = Url::parse(&endpoints.authorize)
            .map_err(|error| self.unavailable(&format!("its authorize address: {error}")))?;
        let scope = self.config.scopes.join(" ");
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.config.client_id)
            .append_pair("redirect_uri", &begin.redirect_uri)
            .append_pair("scope", &scope)
            .append_pair("state", &begin.state)
            .append_pair("nonce", &begin.nonce)
            .append_pair("code_challenge", &begin.challenge)
            .append_pair("code_challenge_method", "S256");
        Ok(url.into())
    }

    /// Whom a grant stands for.
    pub(super) async fn redeem(&self, grant: &Grant) -> Result<Profile> {
        let endpoints = self.endpoints().await?;
        let mut form = match grant {
            Grant::Code {
                code, redirect_uri, ..
            } => vec![
                ("grant_type", "authorization_code"),
                ("code", code.as_str()),
                ("redirect_uri", redirect_uri.as_str()),
            ],
            Grant::Device { code } => vec![
                ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
                ("device_code", code.as_str()),
            ],
        };
        let proof = match grant {
            Grant::Code { proof, .. } => proof.as_ref(),
            Grant::Device { .. } => None,
        };
        if let Some(proof) = proof {
            form.push(("code_verifier", proof.verifier.as_str()));
        }
        if form.iter().any(|(_, value)| value.len() > TEXT_BYTES_MAX) {
            return Err(refuse(ErrorCode::BadRequest, "the code is too long"));
        }
        let client = (self.config.client_id.as_str(), self.secret.as_str());
        let basic = (self.config.client_auth == ClientAuth::Basic).then_some(client);
        if basic.is_none() {
            form.push(("client_id", client.0));
            if !client.1.is_empty() {
                form.push(("client_secret", client.1));
            }
        }
        let answer = self.fetcher.post_form(&endpoints.token, &form, basic).await;
        let tokens = self.tokens(answer)?;
        match &endpoints.keys {
            Some(keys) => self.by_id_token(&tokens, keys, proof, &endpoints).await,
            None => self.by_userinfo(&tokens, &endpoints).await,
        }
    }

    fn tokens(&self, answer: Result<bytes::Bytes, Failure>) -> Result<Tokens> {
        let (body, refused) = match answer {
            Ok(body) => (body, false),
            Err(Failure::Refused { status, body }) if status.is_client_error() => (body, true),
            Err(failure) => return Err(self.unavailable(&failure.to_string())),
        };
        let tokens = serde_json::from_slice::<Tokens>(&body).ok();
        let error = tokens.as_ref().and_then(|tokens| tokens.error.as_deref());
        match (tokens.as_ref(), error) {
            (Some(_), None) if !refused => {}
            (_, Some(error)) => return Err(self.refusal(error)),
            _ => return Err(self.unavailable("its answer is not that of a token address")),
        }
        tokens.ok_or_else(|| self.unavailable("its answer is empty"))
    }

    /// The provider's refusals (RFC 6749 5.2, RFC 8628 3.5) in our words.
    fn refusal(&self, error: &str) -> Error {
        match error {
            "authorization_pending" => {
                refuse(ErrorCode::BadRequest, "the user has not confirmed yet")
                    .with_retry_after(DEVICE_POLL)
            }
            "slow_down" => refuse(ErrorCode::TooManyRequests, "the provider wants fewer polls")
                .with_retry_after(DEVICE_POLL * 2),
            "expired_token" | "access_denied" => refuse(
                ErrorCode::ObjectNotFound,
                "the user has not confirmed, and cannot any more",
            ),
            "invalid_grant"
            | "bad_verification_code"
            | "invalid_request"
            | "incorrect_device_code" => refuse(
                ErrorCode::BadCredentials,
                "the provider does not know the code, or it was used before",
            ),
            other => {
                // Mostly a wrong client secret: for the operator, not for the user.
                self.unavailable(&format!("it refuses this client: {}", shortened(other)))
            }
        }
    }

    async fn by_id_token(
        &self,
        tokens: &Tokens,
        keys: &Keys,
        proof: Option<&Proof>,
        endpoints: &Endpoints,
    ) -> Result<Profile> {
        let token = tokens
            .id_token
            .as_deref()
            .ok_or_else(|| self.not_ours("it gave no identity token (scope openid?)"))?;
        let audience = std::slice::from_ref(&self.config.client_id);
        let claims = match jwt::verify(token, keys, &self.config.issuer, audience).await {
            Ok(claims) => claims,
            Err(JwtError::Invalid(why)) => return Err(self.not_ours(&why)),
            Err(JwtError::Keys(error @ KeyError::Unknown)) => {
                return Err(self.not_ours(&error.to_string()));
            }
            Err(JwtError::Keys(error)) => return Err(self.unavailable(&error.to_string())),
        };
        self.check_for_us(&claims, proof)?;
        let subject = self.subject(claims.text(&self.config.subject_claim))?;
        let said_here = is_believable(&self.config.username_claim, &claims.others)
            .then(|| claims.text(&self.config.username_claim))
            .flatten();
        let username = match (said_here, &endpoints.userinfo, &tokens.access_token) {
            (Some(name), _, _) => Some(name.to_owned()),
            (None, Some(url), Some(access)) => {
                let info = self.userinfo(url, access).await?;
                // OpenID Connect Core 5.3.2: or it may be somebody else's.
                let same = claims.sub.is_some() && text_of(&info, "sub") == claims.sub;
                same.then(|| self.username_in(&info)).flatten()
            }
            _ => None,
        };
        Ok(Profile {
            subject,
            username: username.filter(|name| name.len() <= TEXT_BYTES_MAX),
        })
    }

    /// What signature and issuer do not say (OpenID Connect Core 3.1.3.7): that it was made for us alone, and for this very flow.
    fn check_for_us(&self, claims: &Claims, proof: Option<&Proof>) -> Result<()> {
        let party = claims.azp.as_deref();
        let shared = claims.aud.parties() > 1;
        if party.is_some_and(|party| party != self.config.client_id) || (shared && party.is_none())
        {
            return Err(self.not_ours("the identity token was made for another client"));
        }
        if proof.is_some_and(|proof| claims.nonce.as_ref() != Some(&proof.nonce)) {
            return Err(self.not_ours("the identity token belongs to another log-in (nonce)"));
        }
        Ok(())
    }

    async fn by_userinfo(&self, tokens: &Tokens, endpoints: &Endpoints) -> Result<Profile> {
        let (Some(url), Some(access)) = (&endpoints.userinfo, &tokens.access_token) else {
            return Err(self.not_ours("it gave no access token"));
        };
        let info = self.userinfo(url, access).await?;
        Ok(Profile {
            subject: self.subject(text_of(&info, &self.config.subject_claim).as_deref())?,
            username: self
                .username_in(&info)
                .filter(|name| name.len() <= TEXT_BYTES_MAX),
        })
    }

    async fn userinfo(&self, url: &str, access: &str) -> Result<Value> {
        let body = self
            .fetcher
            .get(url, Some(access))
            .await
            .map_err(|failure| self.unavailable(&format!("userinfo: {failure}")))?;
        serde_json::from_slice(&body).map_err(|_| self.unavailable("userinfo is not JSON"))
    }

    fn username_in(&self, info: &Value) -> Option<String> {
        let members = info.as_object()?;
        is_believable(&self.config.username_claim, members)
            .then(|| text_of(info, &self.config.username_claim))
            .flatten()
    }

    fn subject(&self, subject: Option<&str>) -> Result<String> {
        match subject {
            Some(subject) if !subject.is_empty() && subject.len() <= TEXT_BYTES_MAX => {
                Ok(subject.to_owned())
            }
            _ => Err(self.not_ours("it does not say who the user is")),
        }
    }

    async fn endpoints(&self) -> Result<Endpoints> {
        if let Some(known) = self.known_endpoints() {
            return Ok(known);
        }
        let turn = self.discovering.lock().await;
        if let Some(known) = self.known_endpoints() {
            return Ok(known);
        }
        let found = self.discover().await;
        drop(turn);
        let mut kept = self.endpoints.write();
        match (found, kept.as_ref()) {
            (Ok(found), _) => {
                *kept = Some((Instant::now(), found.clone()));
                Ok(found)
            }
            // Addresses hardly ever change; if they have, the next step says so.
            (Err(failure), Some((_, older))) => {
                tracing::warn!(provider = self.name, %failure, "discovery failed, using what it said before");
                Ok(older.clone())
            }
            (Err(failure), None) => Err(self.unavailable(&failure.to_string())),
        }
    }

    fn known_endpoints(&self) -> Option<Endpoints> {
        let kept = self.endpoints.read();
        let (since, endpoints) = kept.as_ref()?;
        (since.elapsed() < FRESH).then(|| endpoints.clone())
    }

    /// The addresses as configured, and for the rest as the issuer says.
    async fn discover(&self) -> Result<Endpoints, Failure> {
        #[derive(Deserialize)]
        struct Document {
            issuer: String,
            authorization_endpoint: String,
            token_endpoint: String,
            userinfo_endpoint: Option<String>,
            jwks_uri: String,
        }
        let config = &self.config;
        if config.issuer.is_empty() {
            return Ok(Endpoints {
                authorize: config.authorize_url.clone(),
                token: config.token_url.clone(),
                userinfo: Some(config.userinfo_url.clone()),
                keys: None,
            });
        }
        let base = config.issuer.trim_end_matches('/');
        let url = format!("{base}/.well-known/openid-configuration");
        let body = self.fetcher.get(&url, None).await?;
        let document: Document = serde_json::from_slice(&body)
            .map_err(|_| Failure::other(format!("{url} is no discovery document")))?;
        if document.issuer != config.issuer {
            // Discovery 4.3: another one's document would name another one's keys.
            return Err(Failure::other(format!(
                "{url} is the document of another issuer: {}",
                shortened(&document.issuer)
            )));
        }
        let or = |configured: &String, found: String| match configured.is_empty() {
            true => found,
            false => configured.clone(),
        };
        let keys = self.keys_at(&document.jwks_uri);
        Ok(Endpoints {
            authorize: or(&config.authorize_url, document.authorization_endpoint),
            token: or(&config.token_url, document.token_endpoint),
            userinfo: match config.userinfo_url.is_empty() {
                true => document.userinfo_endpoint,
                false => Some(config.userinfo_url.clone()),
            },
            keys: Some(keys),
        })
    }

    /// The keys at an address; those that are known, if it is still the same.
    fn keys_at(&self, url: &str) -> Arc<Keys> {
        let source = Source::Url(url.to_owned());
        let kept = self.endpoints.read();
        let known = kept.as_ref().and_then(|(_, known)| known.keys.as_ref());
        match known {
            Some(keys) if *keys.source() == source => Arc::clone(keys),
            _ => Arc::new(Keys::new(source, self.fetcher.clone())),
        }
    }

    fn not_ours(&self, why: &str) -> Error {
        tracing::info!(provider = self.name, why, "a log-in was refused");
        let message = format!("what {} says about the user cannot be believed", self.name);
        refuse(ErrorCode::BadCredentials, message)
    }

    fn unavailable(&self, why: &str) -> Error {
        tracing::warn!(provider = self.name, why, "a provider cannot be used");
        Error::unavailable(format!("the provider {} cannot be used now", self.name))
    }
}

/// An address is somebody's only if the provider has not said that it never checked.
fn is_believable(claim: &str, claims: &serde_json::Map<String, Value>) -> bool {
    claim != "email"
        || match claims.get("email_verified") {
            None | Some(Value::Bool(true)) => true,
            Some(Value::String(text)) => text == "true",
            Some(_) => false,
        }
}

/// A text or a number, as text.
fn text_of(value: &Value, name: &str) -> Option<String> {
    match value.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Words of others in our logs: short, and on one line.
fn shortened(text: &str) -> String {
    text.chars()
        .filter(|letter| !letter.is_control())
        .take(100)
        .collect()
}
