//! The public keys of an issuer, as it publishes them (JSON Web Key Set), kept and fetched again.
//!
//! - Keys are believed for [`FRESH`], then they are fetched again before the next use; an issuer that does not answer is given [`KEEP`].
//! - A key id that is not among them makes them be fetched at once, but no sooner than [`RETRY`] after the last attempt: tokens with
//!   made-up key ids cost the issuer nothing. So a rotation is noticed with the first token of the new key.
//! - One fetch at a time; whoever waits looks again at what it brought.
//! - What a key may be used for follows from its own kind: no token chooses the kind of its own check.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

use super::fetch::{BODY_BYTES_MAX, Failure, Fetcher};

/// How long keys are used without a second look: a key that the issuer takes back counts no longer than this.
const FRESH: Duration = Duration::from_secs(300);
/// How old keys may get while the issuer cannot be reached.
const KEEP: Duration = Duration::from_secs(3600);
/// Between two attempts to fetch.
const RETRY: Duration = Duration::from_secs(5);
/// Issuers have two or three.
const KEYS_MAX: usize = 64;
/// Keys that a token without a key id is tried with.
const TRIED_MAX: usize = 4;

const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// Where a key set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// At an address.
    Url(String),
    /// In a file.
    File(PathBuf),
}

/// A key and what it is good for.
#[derive(Clone, Debug)]
pub(super) struct Key {
    id: Option<String>,
    /// Never empty, and all of the key's own kind.
    pub(super) algorithms: Vec<Algorithm>,
    pub(super) key: DecodingKey,
}

/// Why there is no key for a token.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    /// The issuer has no such key, as far as it said lately.
    #[error("the issuer has no such key")]
    Unknown,
    /// The keys cannot be fetched.
    #[error("the keys of the issuer cannot be fetched: {0}")]
    Unavailable(Arc<Failure>),
}

/// The keys of one issuer.
pub(super) struct Keys {
    source: Source,
    fetcher: Fetcher,
    state: RwLock<State>,
    fetching: Mutex<()>,
}

#[derive(Default)]
struct State {
    keys: Arc<Vec<Key>>,
    /// When the keys were asked for that are here.
    fetched: Option<Instant>,
    /// When they were asked for last, and what came of it.
    tried: Option<(Instant, Option<Arc<Failure>>)>,
}

impl State {
    fn age_at(&self, now: Instant) -> Option<Duration> {
        self.fetched
            .map(|fetched| now.saturating_duration_since(fetched))
    }

    fn fitting(&self, id: Option<&str>, algorithm: Algorithm) -> Vec<Key> {
        let fits = |key: &&Key| {
            key.algorithms.contains(&algorithm)
                && (id.is_none() || key.id.is_none() || key.id.as_deref() == id)
        };
        // A key of that very id before those without any.
        let mut keys: Vec<_> = self.keys.iter().filter(fits).cloned().collect();
        keys.sort_by_key(|key| id.is_some() && key.id.is_none());
        keys.truncate(TRIED_MAX);
        keys
    }

    fn may_try(&self, now: Instant) -> bool {
        self.tried
            .as_ref()
            .is_none_or(|(tried, _)| now.saturating_duration_since(*tried) >= RETRY)
    }
}

impl Keys {
    pub(super) fn new(source: Source, fetcher: Fetcher) -> Keys {
        Keys {
            source,
            fetcher,
            state: RwLock::default(),
            fetching: Mutex::new(()),
        }
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// The keys that a token with this key id and algorithm may be signed by, most likely first; never empty.
    ///
    /// # Errors
    /// [`KeyError`].
    pub(super) async fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Vec<Key>, KeyError> {
        if let Some(keys) = self.known(id, algorithm, FRESH) {
            return Ok(keys);
        }
        let turn = self.fetching.lock().await;
        // Somebody else may have fetched them while this one waited.
        if let Some(keys) = self.known(id, algorithm, FRESH) {
            return Ok(keys);
        }
        let asked = Instant::now();
        if self.state.read().may_try(asked) {
            self.fetch(asked).await;
        }
        drop(turn);
        if let Some(keys) = self.known(id, algorithm, KEEP) {
            return Ok(keys);
        }
        let state = self.state.read();
        let failure = state
            .tried
            .as_ref()
            .and_then(|(_, failure)| failure.clone());
        match failure {
            Some(failure) => Err(KeyError::Unavailable(failure)),
            None => Err(KeyError::Unknown),
        }
    }

    fn known(&self, id: Option<&str>, algorithm: Algorithm, age_max: Duration) -> Option<Vec<Key>> {
        let state = self.state.read();
        let young = state
            .age_at(Instant::now())
            .is_some_and(|age| age < age_max);
        let keys = state.fitting(id, algorithm);
        (young && !keys.is_empty()).then_some(keys)
    }

    async fn fetch(&self, asked: Instant) {
        let fetched = self.load().await;
        let mut state = self.state.write();
        match fetched {
            Ok(keys) => {
                tracing::debug!(source = ?self.source, keys = keys.len(), "keys fetched");
                state.keys = Arc::new(keys);
                state.fetched = Some(asked);
                state.tried = Some((asked, None));
            }
            Err(failure) => {
                tracing::warn!(source = ?self.source, %failure, "keys not fetched");
                state.tried = Some((asked, Some(Arc::new(failure))));
            }
        }
    }

    async fn load(&self) -> Result<Vec<Key>, Failure> {
        let bytes = match &self.source {
            Source::Url(url) => self.fetcher.get(url, None).await?,
            Source::File(path) => {
                let bytes = tokio::fs::read(path)
                    .await
                    .map_err(|error| Failure::other(format!("{}: {error}", path.display())))?;
                bytes.into()
            }
        };
        parse(&bytes)
    }
}

/// The usable keys of a set. Those of kinds or for purposes that are not ours are left out.
fn parse(bytes: &[u8]) -> Result<Vec<Key>, Failure> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    if bytes.len() > BODY_BYTES_MAX {
        return Err(Failure::other("the key set is too large"));
    }
    let set: Set =
        serde_json::from_slice(bytes).map_err(|_| Failure::other("that is no JSON Web Key Set"))?;
    let keys = set.keys.into_iter().take(KEYS_MAX);
    Ok(keys.filter_map(usable).collect())
}

fn usable(key: Value) -> Option<Key> {
    let key: Jwk = serde_json::from_value(key).ok()?;
    if matches!(key.common.public_key_use, Some(ref kind) if *kind != PublicKeyUse::Signature) {
        return None;
    }
    let kind: &[Algorithm] = match &key.algorithm {
        AlgorithmParameters::RSA(_) => RSA,
        AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
            EllipticCurve::P256 => &[Algorithm::ES256],
            EllipticCurve::P384 => &[Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            &[Algorithm::EdDSA]
        }
        _ => return None,
    };
    let named = key.common.key_algorithm;
    let may =
        |algorithm: &Algorithm| named.is_none_or(|named| KeyAlgorithm::from(*algorithm) == named);
    let algorithms: Vec<_> = kind.iter().copied().filter(may).collect();
    if algorithms.is_empty() {
        return None;
    }
    Some(Key {
        id: key.common.key_id.clone(),
        algorithms,
        key: DecodingKey::from_jwk(&key).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Any text of the right alphabet is a key as long as nobody checks a signature with it.
    fn set() -> Value {
        json!({ "keys": [
            { "kty": "RSA", "kid": "r", "n": "sXch", "e": "AQAB" },
            { "kty": "RSA", "kid": "only256", "alg": "RS256", "use": "sig", "n": "sXch", "e": "AQAB" },
            { "kty": "RSA", "kid": "secret", "use": "enc", "n": "sXch", "e": "AQAB" },
            { "kty": "RSA", "kid": "mixed", "alg": "HS256", "n": "sXch", "e": "AQAB" },
            { "kty": "EC", "kid": "p", "crv": "P-256", "x": "AAAA", "y": "AAAA" },
            { "kty": "EC", "kid": "q", "crv": "P-521", "x": "AAAA", "y": "AAAA" },
            { "kty": "OKP", "crv": "Ed25519", "x": "AAAA" },
            { "kty": "oct", "kid": "shared", "k": "c2VjcmV0" },
            { "kty": "new", "kid": "unknown", "alg": "XX1" },
            7,
        ]})
    }

    fn ids(keys: &[Key]) -> Vec<Option<&str>> {
        keys.iter().map(|key| key.id.as_deref()).collect()
    }

    #[test]
    fn a_key_is_used_for_its_own_kind_only() {
        let keys = parse(set().to_string().as_bytes()).expect("a set");
        assert_eq!(ids(&keys), [Some("r"), Some("only256"), Some("p"), None]);
        assert_eq!(keys[0].algorithms, RSA);
        assert_eq!(keys[1].algorithms, [Algorithm::RS256]);
        assert_eq!(keys[2].algorithms, [Algorithm::ES256]);
        assert_eq!(keys[3].algorithms, [Algorithm::EdDSA]);
        for bad in ["", "[]", "{\"keys\":7}"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn keys_are_found_by_id_and_algorithm_and_read_again_for_a_new_id() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("keys.json");
        std::fs::write(&path, set().to_string()).expect("written");
        let keys = Keys::new(
            Source::File(path.clone()),
            Fetcher::new(true).expect("client"),
        );
        let found = |id, algorithm| {
            let keys = &keys;
            async move {
                let found = keys.find(id, algorithm).await;
                found.map(|keys| {
                    ids(&keys)
                        .iter()
                        .map(|id| id.map(str::to_owned))
                        .collect::<Vec<_>>()
                })
            }
        };
        assert_eq!(
            found(Some("r"), Algorithm::RS512).await.expect("keys"),
            [Some("r".to_owned())]
        );
        assert_eq!(found(None, Algorithm::RS256).await.expect("keys").len(), 2);
        // A key without an id may be that of any id.
        assert_eq!(
            found(Some("e"), Algorithm::EdDSA).await.expect("keys"),
            [None]
        );
        assert!(matches!(
            found(Some("p"), Algorithm::RS256).await,
            Err(KeyError::Unknown)
        ));
        assert!(matches!(
            found(None, Algorithm::HS256).await,
            Err(KeyError::Unknown)
        ));

        // The new key is there, but the file was read a moment ago.
        let rotated = json!({ "keys": [{ "kty": "RSA", "kid": "new", "n": "sXch", "e": "AQAB" }] });
        std::fs::write(&path, rotated.to_string()).expect("written");
        assert!(matches!(
            found(Some("new"), Algorithm::RS256).await,
            Err(KeyError::Unknown)
        ));
        keys.state.write().tried = None;
        assert_eq!(
            found(Some("new"), Algorithm::RS256).await.expect("keys"),
            [Some("new".to_owned())]
        );
        // The old one was taken back.
        assert!(matches!(
            found(Some("r"), Algorithm::RS256).await,
            Err(KeyError::Unknown)
        ));

        // Without the file the keys count for a while, and then no more.
        std::fs::remove_file(&path).expect("removed");
        let long_ago = |age| Instant::now().checked_sub(age).expect("an uptime of hours");
        {
            let mut state = keys.state.write();
            (state.fetched, state.tried) = (Some(long_ago(FRESH)), None);
        }
        assert!(found(Some("new"), Algorithm::RS256).await.is_ok());
        keys.state.write().fetched = Some(long_ago(KEEP));
        assert!(matches!(
            found(Some("new"), Algorithm::RS256).await,
            Err(KeyError::Unavailable(_))
        ));
    }
}
