//! Log-in with a provider (contract section 8.7): beginning a flow, taking its end, and the user that it stands for.
//!
//! A flow that begins **here** carries a signed state; a secret that only the browser keeps ties its end to its beginning, and the nonce
//! of the identity token and the verifier of PKCE are made from that secret. So nothing has to be remembered between the two, and any
//! node can take the end. A flow that the client began by itself (as the SDK does) has a plain state, and nothing ties it to the browser;
//! a provider may be configured not to take such ones.
//!
//! **Whose account.** The key of a provider's user is derived from the provider's name and what it calls the user, so two nodes cannot make
//! it twice, and finding it takes no index. A document at that key that does not say that it is this one is refused, whoever made it. An
//! account that exists under the same name is another account: no log-in with a provider ever takes over one with a password.

use std::time::Duration;

use cluster::state::{ClusterState, Database};
use document::acl::Principal;
use document::schema::Operation as ClassOperation;
use proto::ErrorCode;
use rand::RngCore as _;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use url::Url;
use uuid::Builder;

use super::User;
use super::change::NewUser;
use super::record::USERNAME;
use crate::auth::policy::{USERS, check_class};
use crate::auth::token::{self, Claims, Kind};
use crate::context::{Consistency, Context, Session};
use crate::error::{Error, Result};
use crate::identities::{Begin, Grant, Profile, Proof, Rules};
use crate::metrics::Operation;
use crate::sessions::bad_credentials;
use crate::{Core, Service};

/// Hidden member that says whose account this is.
const MEMBER: &str = "_oauth";
/// How long a user may take at the provider.
pub const FLOW_LIFE: Duration = Duration::from_secs(600);
/// Bytes of the browser's secret.
const SECRET_BYTES: usize = 32;
/// Tries to find or make the user, when another node is at it too.
const TRIES_MAX: usize = 4;
/// Longest state and target.
const TEXT_BYTES_MAX: usize = 2048;

/// A flow that begins: where the browser goes, and what it keeps.
#[derive(Clone, PartialEq, Eq)]
pub struct Begun {
    /// The provider's page.
    pub url: String,
    /// For this browser alone, to be given back with the end of the flow.
    pub secret: String,
}

/// What came back from the provider by way of the browser.
#[derive(Clone, Debug, Default)]
pub struct Returned {
    /// The provider's name in this configuration.
    pub provider: String,
    /// What it gave the user.
    pub code: Option<String>,
    /// Its refusal.
    pub refusal: Option<String>,
    /// As the flow began with.
    pub state: String,
    /// What the browser kept.
    pub secret: Option<String>,
    /// The address that this came to.
    pub here: String,
}

/// Where an app wants its user back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// An address of a registered origin.
    pub url: String,
    /// What the app said when it began, back to it as it was.
    pub login_option: String,
}

/// The end of a flow.
#[derive(Debug)]
pub struct Finished {
    /// Where to send the browser; `None`: the app waits in another window.
    pub target: Option<Target>,
    /// The log-in, or why there is none.
    pub outcome: Result<Session>,
}

/// The state of a flow.
struct Flow {
    target: Option<Target>,
    proof: Option<Proof>,
}

impl Core {
    async fn begin_oauth(
        &self,
        ctx: &Context,
        provider: &str,
        target: Option<Target>,
        here: &str,
    ) -> Result<Begun> {
        let state = self.metadata.founded()?;
        let database = state
            .database(&ctx.database)
            .ok_or_else(|| Error::database_not_found(&ctx.database))?;
        let rules = self.identities.rules(&ctx.database, provider)?;
        if let Some(target) = &target {
            check_target(target, &rules)?;
        }
        let mut secret = [0; SECRET_BYTES];
        rand::rng().fill_bytes(&mut secret);
        let secret = hex::encode(secret);
        let now = self.now_seconds();
        let target = target.unwrap_or(Target {
            url: String::new(),
            login_option: String::new(),
        });
        let claims = Claims {
            kind: Kind::Flow,
            created: now,
            expires: now.saturating_add(u32::try_from(FLOW_LIFE.as_secs()).unwrap_or(u32::MAX)),
            user: String::new(),
            version: 0,
            texts: vec![
                provider.to_owned(),
                made_from(&secret, "state"),
                target.url,
                target.login_option,
            ],
        };
        let proof = proof_of(&secret);
        let begin = Begin {
            redirect_uri: rules.redirect_uri.unwrap_or_else(|| here.to_owned()),
            state: self.sign(&state, database, &claims)?,
            challenge: challenge_of(&proof.verifier),
            nonce: proof.nonce,
        };
        let asked = self
            .identities
            .authorize_url(&ctx.database, provider, &begin);
        Ok(Begun {
            url: asked.await?,
            secret,
        })
    }

    async fn finish_oauth(&self, ctx: &Context, returned: Returned) -> Result<Finished> {
        let state = self.metadata.founded()?;
        let database = state
            .database(&ctx.database)
            .ok_or_else(|| Error::database_not_found(&ctx.database))?;
        let rules = self.identities.rules(&ctx.database, &returned.provider)?;
        let flow = self.flow(&state, database, &returned, &rules)?;
        let refused = returned.refusal.map(|refusal| {
            let refusal: String = refusal.chars().take(200).collect();
            bad_credentials(&format!("{} refused: {refusal}", returned.provider))
        });
        let outcome = match (refused, returned.code) {
            (Some(refused), _) => Err(refused),
            (None, None) => Err(Error::bad_request("the provider sent no code")),
            (None, Some(code)) => {
                let grant = Grant::Code {
                    code,
                    redirect_uri: rules.redirect_uri.unwrap_or(returned.here),
                    proof: flow.proof,
                };
                let login = self.login_by_grant(ctx, &state, database, &returned.provider, grant);
                Box::pin(login).await
            }
        };
        Ok(Finished {
            target: flow.target,
            outcome,
        })
    }

    async fn poll_oauth(&self, ctx: &Context, provider: &str, code: &str) -> Result<Session> {
        let state = self.metadata.founded()?;
        let database = state
            .database(&ctx.database)
            .ok_or_else(|| Error::database_not_found(&ctx.database))?;
        let grant = Grant::Device {
            code: code.to_owned(),
        };
        let login = self.login_by_grant(ctx, &state, database, provider, grant);
        Box::pin(login).await
    }

    /// Checks the state that came back: ours with the browser's secret, or a plain one where that is allowed.
    fn flow(
        &self,
        state: &ClusterState,
        database: &Database,
        returned: &Returned,
        rules: &Rules,
    ) -> Result<Flow> {
        if returned.state.len() > TEXT_BYTES_MAX * 4 {
            return Err(Error::bad_request("the state is too long"));
        }
        let not_ours =
            || bad_credentials("this log-in did not begin in this browser, or took too long");
        let now = self.now_seconds();
        let signed = token::verify(&state.signing_keys, database.id, &returned.state)
            .filter(|claims| claims.kind == Kind::Flow);
        if let Some(claims) = signed {
            let secret = returned.secret.as_deref().ok_or_else(not_ours)?;
            let [provider, mark, url, login_option] =
                <[String; 4]>::try_from(claims.texts).map_err(|_| not_ours())?;
            let same = made_from(secret, "state").as_bytes().ct_eq(mark.as_bytes());
            if !bool::from(same) || provider != returned.provider || now > claims.expires {
                return Err(not_ours());
            }
            let target = Target { url, login_option };
            return Ok(Flow {
                target: Some(target).filter(|target| !target.url.is_empty()),
                proof: Some(proof_of(secret)),
            });
        }
        if rules.own_flow_only {
            return Err(not_ours());
        }
        let target = plain_target(&returned.state);
        if let Some(target) = &target {
            check_target(target, rules)?;
        }
        Ok(Flow {
            target,
            proof: None,
        })
    }

    async fn login_by_grant(
        &self,
        ctx: &Context,
        state: &ClusterState,
        database: &Database,
        provider: &str,
        grant: Grant,
    ) -> Result<Session> {
        self.check_rights(Consistency::Linearizable, ctx.deadline)
            .await?;
        let profile = self
            .identities
            .redeem(&ctx.database, provider, grant)
            .await?;
        let user = self.user_of_profile(ctx, state, database, provider, &profile);
        let user = Box::pin(user).await?;
        self.open_session(state, database, &user)
    }

    /// The user of somebody whom a provider knows, made if it is the first time.
    ///
    /// # Errors
    /// `ObjectExists`: something else is where the user would be. `PermissionDenied`: nobody may make users. Those of a write.
    async fn user_of_profile(
        &self,
        ctx: &Context,
        state: &ClusterState,
        database: &Database,
        provider: &str,
        profile: &Profile,
    ) -> Result<User> {
        let key = derived_key(provider, &profile.subject);
        let whose = json!({ "provider": provider, "subject": profile.subject });
        // The name is free to take, or it is not: then the key is the name.
        let mut name = profile.username.clone().unwrap_or_else(|| key.clone());
        for _ in 0..TRIES_MAX {
            if let Some(user) = self.user(state, database, &key, ctx.deadline).await? {
                if user.hidden.get(MEMBER) != Some(&whose) {
                    return Err(Error::new(
                        ErrorCode::ObjectExists,
                        "the account of this user is taken by something else",
                    ));
                }
                return Ok(user);
            }
            check_class(
                database,
                USERS,
                ClassOperation::Insert,
                &Principal::anonymous(),
            )?;
            let new = NewUser {
                key: Some(key.clone()),
                members: Map::from_iter([(USERNAME.to_owned(), name.clone().into())]),
                hidden: Map::from_iter([(MEMBER.to_owned(), whose.clone())]),
            };
            match Box::pin(self.create_user(state, database, new, ctx.deadline)).await {
                Ok(user) => return Ok(user),
                Err(error) if error.code == ErrorCode::ValueTaken && name != key => {
                    name = key.clone();
                }
                // Another node was faster.
                Err(error)
                    if matches!(
                        error.code,
                        ErrorCode::ObjectExists | ErrorCode::ObjectOutOfDate
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::unavailable("the user is being made elsewhere"))
    }
}

/// The key of a provider's user: a UUID, version 8.
fn derived_key(provider: &str, subject: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(b"larder oauth user 1");
    for text in [provider, subject] {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

/// A text that only the holder of the secret can make, another one for every purpose.
fn made_from(secret: &str, purpose: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(b"larder oauth flow 1");
    hash.update([0]);
    hash.update(purpose);
    hash.update([0]);
    hash.update(secret);
    hex::encode(hash.finalize())
}

fn proof_of(secret: &str) -> Proof {
    Proof {
        nonce: made_from(secret, "nonce"),
        verifier: made_from(secret, "verifier"),
    }
}

/// RFC 7636, S256.
fn challenge_of(verifier: &str) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier))
}

/// What the SDK writes into a state.
fn plain_target(state: &str) -> Option<Target> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Plain {
        redirect: Option<String>,
        #[serde(default)]
        login_option: Value,
    }
    let plain: Plain = serde_json::from_str(state).ok()?;
    Some(Target {
        url: plain.redirect?,
        login_option: match plain.login_option {
            Value::String(text) => text,
            Value::Null => String::new(),
            other => other.to_string(),
        },
    })
}

/// Tokens go to registered origins only.
fn check_target(target: &Target, rules: &Rules) -> Result<()> {
    let refused = || Error::bad_request("the redirect goes to an origin that is not registered");
    if target.url.len() > TEXT_BYTES_MAX || target.login_option.len() > TEXT_BYTES_MAX {
        return Err(refused());
    }
    let url = Url::parse(&target.url).map_err(|_| refused())?;
    let origin = url.origin().ascii_serialization();
    let named = rules.redirect_origins.contains(&origin);
    // Names and passwords in an address only serve to look like another one.
    match named && url.username().is_empty() && url.password().is_none() {
        true => Ok(()),
        false => Err(refused()),
    }
}

impl Service {
    /// Begins a log-in with a provider; `here` is the address that the provider shall send the user back to.
    ///
    /// # Errors
    /// `NoRoute`: there is no such provider. `BadRequest`: the target is not registered. `Unavailable`.
    pub async fn begin_oauth(
        &self,
        ctx: &Context,
        provider: &str,
        target: Option<Target>,
        here: &str,
    ) -> Result<Begun> {
        self.core.begin_oauth(ctx, provider, target, here).await
    }

    /// Takes what came back from a provider. The outcome may be a refusal; where it is to be shown is known then.
    ///
    /// # Errors
    /// Where nothing may be shown to an app: `NoRoute`, `BadRequest` for a target that is not registered, `BadCredentials` for a flow that
    /// did not begin in this browser.
    pub async fn finish_oauth(&self, ctx: &Context, returned: Returned) -> Result<Finished> {
        let finished = self.core.finish_oauth(ctx, returned);
        self.core.metrics.observe(Operation::Login, finished).await
    }

    /// Asks a provider whether the user has confirmed a device code by now.
    ///
    /// # Errors
    /// `BadRequest`: not yet. `ObjectNotFound`: it will not any more. Others as for every log-in.
    pub async fn poll_oauth(&self, ctx: &Context, provider: &str, code: &str) -> Result<Session> {
        let polled = self.core.poll_oauth(ctx, provider, code);
        self.core.metrics.observe(Operation::Login, polled).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_of_a_provider_has_one_key_and_no_other_has_it() {
        let key = derived_key("google", "1234");
        assert_eq!(key, derived_key("google", "1234"));
        assert_eq!(key.len(), 36);
        for (provider, subject) in [("google", "1235"), ("github", "1234"), ("google1", "234")] {
            assert_ne!(derived_key(provider, subject), key);
        }
    }

    #[test]
    fn what_the_browser_keeps_shows_nowhere() {
        let proof = proof_of("secret");
        assert_ne!(proof.nonce, proof.verifier);
        assert_ne!(made_from("secret", "state"), proof.nonce);
        // RFC 7636: 43 to 128 letters.
        assert_eq!(proof.verifier.len(), 64);
        assert_eq!(
            challenge_of("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
    }

    #[test]
    fn tokens_go_to_registered_origins_only() {
        let rules = Rules {
            redirect_origins: vec![
                "https://app.example".to_owned(),
                "http://localhost:3000".to_owned(),
            ],
            ..Rules::default()
        };
        let check = |url: &str| {
            let target = Target {
                url: url.to_owned(),
                login_option: String::new(),
            };
            check_target(&target, &rules).is_ok()
        };
        for good in [
            "https://app.example",
            "https://app.example/x?y=1#z",
            "https://APP.example:443/",
            "http://localhost:3000/in",
        ] {
            assert!(check(good), "{good}");
        }
        for bad in [
            "http://app.example/",
            "https://app.example.evil.example/",
            "https://app.example@evil.example/",
            "https://ann:pw@app.example/",
            "https://app.example:444/",
            "http://localhost/",
            "//app.example/",
            "/in",
            "javascript:alert(1)//https://app.example",
            "data:text/html,x",
            "",
        ] {
            assert!(!check(bad), "{bad}");
        }
    }

    #[test]
    fn the_state_of_the_client_library_is_read() {
        let target = plain_target(r#"{"redirect":"https://app.example/","loginOption":true}"#);
        let target = target.expect("a target");
        assert_eq!(
            (target.url.as_str(), target.login_option.as_str()),
            ("https://app.example/", "true")
        );
        for none in ["{}", "", "device code", "[1]", r#"{"redirect":7}"#] {
            assert_eq!(plain_target(none), None, "{none}");
        }
    }
}
