//! An OpenID Connect provider of the tests' own: a small server on loopback with real keys, which can be told to lie.
//!
//! It does what a provider does and nothing else: discovery, authorize, token (codes once, PKCE, device codes), userinfo, key set. Whoever
//! comes to the authorize address is logged in at once as the user that was set.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::LOCATION;
use http::{HeaderMap, StatusCode};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use ring::{digest, hmac};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::wall::now_seconds;

/// What the provider calls the cluster.
pub const CLIENT: &str = "larder-tests";
/// What the cluster proves it with.
pub const SECRET: &str = "provider-secret-7";

/// How an identity token is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lie {
    /// It is right.
    #[default]
    None,
    /// Made for another client.
    Audience,
    /// Made for two clients, and it does not say which asked.
    Shared,
    /// Made by another issuer.
    Issuer,
    /// An hour old.
    Expired,
    /// Without an end.
    Endless,
    /// Not signed, and it says so.
    Unsigned,
    /// Signed with a shared secret: the public key, which everybody knows.
    PublicKeyAsSecret,
    /// Signed with another key under the id of the right one.
    OtherKey,
    /// Signed with a key that is not published.
    UnknownKey,
    /// Changed after it was signed.
    Changed,
    /// Of another log-in.
    Nonce,
}

/// A signing key.
struct Key {
    id: String,
    pair: EcdsaKeyPair,
}

impl Key {
    fn new(id: &str) -> Key {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        Key {
            id: id.to_owned(),
            pair: EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).expect("a key"),
        }
    }

    fn public(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id,
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..]),
        })
    }
}

/// A code that waits to be redeemed.
struct Code {
    subject: String,
    email: String,
    redirect_uri: String,
    challenge: Option<String>,
    nonce: Option<String>,
}

struct Inner {
    issuer: String,
    key: Key,
    other: Key,
    /// (subject, mail address) of whoever comes.
    user: (String, String),
    lie: Lie,
    codes: HashMap<String, Code>,
    /// Device codes; true: confirmed.
    devices: HashMap<String, bool>,
    made: u64,
    redeemed: u64,
    key_fetches: u64,
}

/// The running provider. It ends with the test's runtime.
#[derive(Clone)]
pub struct Provider(Arc<Mutex<Inner>>);

impl Provider {
    /// Starts one on a free port.
    pub async fn start() -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let provider = Provider(Arc::new(Mutex::new(Inner {
            issuer: format!("http://{address}"),
            key: Key::new("k1"),
            other: Key::new("k1"),
            user: ("1001".to_owned(), "ann@example.org".to_owned()),
            lie: Lie::None,
            codes: HashMap::new(),
            devices: HashMap::new(),
            made: 0,
            redeemed: 0,
            key_fetches: 0,
        })));
        let app = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/authorize", get(authorize))
            .route("/token", post(token))
            .route("/userinfo", get(userinfo))
            .route("/keys", get(keys))
            .with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        provider
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("no test panics with it")
    }

    /// Its name, which is also its address.
    pub fn issuer(&self) -> String {
        self.inner().issuer.clone()
    }

    /// Whom it takes everybody for from now on.
    pub fn set_user(&self, subject: &str, email: &str) {
        self.inner().user = (subject.to_owned(), email.to_owned());
    }

    /// How its tokens are wrong from now on.
    pub fn lie(&self, lie: Lie) {
        self.inner().lie = lie;
    }

    /// Signs with a new key from now on, and takes the old one back.
    pub fn rotate(&self, id: &str) {
        self.inner().key = Key::new(id);
    }

    /// Codes that were redeemed.
    pub fn redeemed(&self) -> u64 {
        self.inner().redeemed
    }

    /// How often its keys were asked for.
    pub fn key_fetches(&self) -> u64 {
        self.inner().key_fetches
    }

    /// A code as the authorize address gives it, for the address `redirect_uri`.
    pub fn code(&self, redirect_uri: &str) -> String {
        self.inner().code(redirect_uri, None, None)
    }

    /// A device code that nobody has confirmed.
    pub fn device(&self) -> String {
        let mut inner = self.inner();
        inner.made += 1;
        let code = format!("device-{}", inner.made);
        inner.devices.insert(code.clone(), false);
        code
    }

    /// The user confirms a device code.
    pub fn confirm(&self, device: &str) {
        self.inner().devices.insert(device.to_owned(), true);
    }

    /// The user refuses it.
    pub fn refuse(&self, device: &str) {
        self.inner().devices.remove(device);
    }

    /// A JWT with these claims beside issuer, times and audience, wrong as [`Provider::lie`] says.
    pub fn jwt(&self, claims: Value) -> String {
        self.inner().jwt(claims)
    }
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

impl Inner {
    fn code(
        &mut self,
        redirect_uri: &str,
        challenge: Option<String>,
        nonce: Option<String>,
    ) -> String {
        self.made += 1;
        let name = format!("code-{}", self.made);
        let code = Code {
            subject: self.user.0.clone(),
            email: self.user.1.clone(),
            redirect_uri: redirect_uri.to_owned(),
            challenge,
            nonce,
        };
        self.codes.insert(name.clone(), code);
        name
    }

    fn jwt(&self, claims: Value) -> String {
        let mut all = json!({ "iss": self.issuer, "aud": CLIENT, "iat": now_seconds(), "exp": now_seconds() + 300 });
        let Value::Object(given) = claims else {
            panic!("claims are an object");
        };
        all.as_object_mut().expect("an object").extend(given);
        let mut header = json!({ "alg": "ES256", "typ": "JWT", "kid": self.key.id });
        match self.lie {
            Lie::Audience => all["aud"] = json!("another-client"),
            Lie::Shared => all["aud"] = json!([CLIENT, "another-client"]),
            Lie::Issuer => all["iss"] = json!("http://127.0.0.1:1"),
            Lie::Expired => all["exp"] = json!(now_seconds() - 3600),
            Lie::Endless => {
                all.as_object_mut().expect("an object").remove("exp");
            }
            Lie::Unsigned => header["alg"] = json!("none"),
            Lie::PublicKeyAsSecret => header["alg"] = json!("HS256"),
            Lie::UnknownKey => header["kid"] = json!("k0"),
            Lie::Nonce => all["nonce"] = json!("of another log-in"),
            Lie::None | Lie::OtherKey | Lie::Changed => {}
        }
        let text = format!("{}.{}", encode(&header), encode(&all));
        let sign = |key: &Key| {
            let signature = key.pair.sign(&SystemRandom::new(), text.as_bytes());
            URL_SAFE_NO_PAD.encode(signature.expect("signed"))
        };
        match self.lie {
            Lie::Unsigned => format!("{text}."),
            Lie::PublicKeyAsSecret => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, self.key.pair.public_key().as_ref());
                format!(
                    "{text}.{}",
                    URL_SAFE_NO_PAD.encode(hmac::sign(&key, text.as_bytes()))
                )
            }
            Lie::OtherKey | Lie::UnknownKey => format!("{text}.{}", sign(&self.other)),
            Lie::Changed => {
                all["sub"] = json!("somebody else");
                format!("{}.{}.{}", encode(&header), encode(&all), sign(&self.key))
            }
            _ => format!("{text}.{}", sign(&self.key)),
        }
    }

    /// What the token address gives, or its refusal.
    fn redeem(&mut self, form: &HashMap<String, String>) -> Result<Value, &'static str> {
        let get = |name: &str| form.get(name).map(String::as_str);
        if (get("client_id"), get("client_secret")) != (Some(CLIENT), Some(SECRET)) {
            return Err("invalid_client");
        }
        if get("grant_type") == Some("urn:ietf:params:oauth:grant-type:device_code") {
            let code = get("device_code").unwrap_or_default();
            return match self.devices.get(code) {
                Some(true) => {
                    self.devices.remove(code);
                    let (subject, email) = self.user.clone();
                    Ok(self.tokens(&subject, &email, None))
                }
                Some(false) => Err("authorization_pending"),
                None => Err("access_denied"),
            };
        }
        // Once, whatever comes of it.
        let code = get("code").and_then(|code| self.codes.remove(code));
        let code = code.ok_or("invalid_grant")?;
        if get("redirect_uri") != Some(&code.redirect_uri) {
            return Err("invalid_grant");
        }
        if let Some(challenge) = &code.challenge {
            let verifier = get("code_verifier").unwrap_or_default();
            let digest = digest::digest(&digest::SHA256, verifier.as_bytes());
            if URL_SAFE_NO_PAD.encode(digest) != *challenge {
                return Err("invalid_grant");
            }
        }
        self.redeemed += 1;
        Ok(self.tokens(&code.subject, &code.email, code.nonce.as_deref()))
    }

    fn tokens(&self, subject: &str, email: &str, nonce: Option<&str>) -> Value {
        let mut claims = json!({ "sub": subject, "email": email, "email_verified": true });
        if let Some(nonce) = nonce {
            claims["nonce"] = json!(nonce);
        }
        json!({ "access_token": format!("access-{subject}"), "token_type": "Bearer", "id_token": self.jwt(claims) })
    }
}

async fn discovery(State(provider): State<Provider>) -> Json<Value> {
    let issuer = provider.issuer();
    Json(json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/authorize"),
        "token_endpoint": format!("{issuer}/token"),
        "userinfo_endpoint": format!("{issuer}/userinfo"),
        "jwks_uri": format!("{issuer}/keys"),
    }))
}

async fn keys(State(provider): State<Provider>) -> Json<Value> {
    let mut inner = provider.inner();
    inner.key_fetches += 1;
    Json(json!({ "keys": [inner.key.public()] }))
}

async fn userinfo(headers: HeaderMap) -> Response {
    let token = headers
        .get("authorization")
        .and_then(|value| value.to_str().ok());
    match token.and_then(|token| token.strip_prefix("Bearer access-")) {
        Some(subject) => {
            Json(json!({ "sub": subject, "id": 77, "login": "plain-ann" })).into_response()
        }
        None => StatusCode::UNAUTHORIZED.into_response(),
    }
}

async fn authorize(State(provider): State<Provider>, RawQuery(query): RawQuery) -> Response {
    let query = pairs(query.unwrap_or_default().as_bytes());
    let get = |name: &str| query.get(name).cloned();
    if get("client_id").as_deref() != Some(CLIENT)
        || get("response_type").as_deref() != Some("code")
    {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let redirect_uri = get("redirect_uri").unwrap_or_default();
    let code = provider
        .inner()
        .code(&redirect_uri, get("code_challenge"), get("nonce"));
    let answer: String = form_urlencoded::Serializer::new(String::new())
        .append_pair("code", &code)
        .append_pair("state", &get("state").unwrap_or_default())
        .finish();
    let location = format!("{redirect_uri}?{answer}");
    (StatusCode::FOUND, [(LOCATION, location)]).into_response()
}

async fn token(State(provider): State<Provider>, body: Bytes) -> Response {
    let redeemed = provider.inner().redeem(&pairs(&body));
    match redeemed {
        Ok(tokens) => Json(tokens).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response(),
    }
}

fn pairs(text: &[u8]) -> HashMap<String, String> {
    form_urlencoded::parse(text).into_owned().collect()
}
