//! What web caches are told about a document, and the filter that tells them which of their copies are old (`docs/caching.md`).
//!
//! A bucket without a cache policy is answered as ever, `no-cache`. In one that is cached:
//!
//! | answer | `cache-control` |
//! |---|---|
//! | everybody may read it, and some of its lifetime is left | `public, max-age=N, s-maxage=S, must-revalidate` |
//! | others may not, and the policy is private | `private, max-age=N, must-revalidate`, varying by `authorization` |
//! | others may not | `private, no-cache` |
//! | nothing of its lifetime is left | `no-cache` |
//! | read from a state that may be too old | `no-store`, and never 304: a cache would take it for proof that its copy is good |
//!
//! Invariant: N is the lifetime less the time since the state was proven, on this node's monotonic clock, from before the proof was asked
//! for. No header of an answer stands for more.

use std::time::{Duration, Instant};

use axum::response::Response;
use bytes::Bytes;
use document::id::object_id;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, PRAGMA, VARY};
use proto::ErrorCode;
use service::{CachePolicy, Consistency, Document, Error, Filter, Freshness, Keep, Service};

use super::edge::Call;
use super::error::refuse;
use super::{context, respond};

/// For shared caches that know it (RFC 9213); the others take `s-maxage`.
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
/// What a purge can name.
const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");
/// Why an answer may be kept, or not (RFC 9211).
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Readers of one document in different sessions are different readers.
const BY_READER: HeaderValue = HeaderValue::from_static("authorization");

/// Setting a policy: every shard has to hear of it.
const POLICY_TIME: Duration = Duration::from_secs(10);

/// A read of a document that web caches may ask for.
pub(crate) struct Asked {
    started: Instant,
    /// How fresh it is to be.
    pub(crate) freshness: Freshness,
    /// Whether its answer may be older than cached answers may.
    may_lag: bool,
}

impl Asked {
    /// Reads off the headers how fresh the answer must be. Who names a level gets it; who revalidates gets what is there now; all others
    /// get what the bucket's policy says.
    ///
    /// # Errors
    /// `bad_request` for headers that make no sense.
    pub(crate) fn of(
        headers: &HeaderMap,
        service: &Service,
        database: &str,
        bucket: &str,
    ) -> Result<Asked, Error> {
        let started = Instant::now();
        let mut freshness = context::freshness(headers)?;
        let cached = service.plain_level(database, bucket);
        if !context::names_consistency(headers) && !revalidates(headers) {
            freshness.consistency = cached;
        }
        let may_lag = match (freshness.consistency, cached) {
            (Consistency::Local, _) => true,
            (Consistency::Bounded(wanted), Consistency::Bounded(cached)) => wanted > cached,
            (Consistency::Bounded(_) | Consistency::Linearizable, _) => false,
        };
        Ok(Asked {
            started,
            freshness,
            may_lag,
        })
    }

    /// Whether a copy in a cache may be called good by this answer.
    pub(crate) fn may_confirm(&self, document: &Document) -> bool {
        document.keep.is_none() || !self.may_lag
    }

    /// Adds what caches may do with the answer.
    pub(crate) fn tell(
        &self,
        mut response: Response,
        database: &str,
        document: &Document,
    ) -> Response {
        let Some(keep) = &document.keep else {
            return response;
        };
        let age = document.served.and_then(|served| served.age);
        let left = age.map_or(Duration::ZERO, |age| {
            keep.ttl.saturating_sub(age + self.started.elapsed())
        });
        let told = Told::of(keep, left.as_secs(), self.may_lag);
        told.write(response.headers_mut());
        if keep.is_public {
            let database = if database.is_empty() { "v1" } else { database };
            let id = object_id(&document.bucket, &document.key);
            let keys = format!("{database}/db/{} {database}{id}", document.bucket);
            if let Ok(keys) = HeaderValue::try_from(keys) {
                response.headers_mut().insert(SURROGATE_KEY, keys);
            }
        }
        response
    }
}

/// What caches may do.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// Everybody's may keep it so many seconds, shared ones the second number.
    Public(u64, u64),
    /// The reader's own may.
    Private(u64),
    /// It must be asked about each time; it is for everybody.
    Ask,
    /// The same, and it is the reader's alone.
    AskPrivate,
    /// Nobody may keep it.
    Nothing,
}

impl Told {
    fn of(keep: &Keep, left: u64, may_lag: bool) -> Told {
        match (keep.is_public, left) {
            _ if may_lag => Told::Nothing,
            (true, 0) => Told::Ask,
            // Half of it: a browser gets what a shared cache left over.
            (true, left) => Told::Public(left, keep.edge_max.as_secs().min(left / 2)),
            (false, 0) => Told::AskPrivate,
            (false, left) => Told::Private(left),
        }
    }

    fn write(&self, headers: &mut HeaderMap) {
        let (control, why) = match self {
            Told::Public(left, edge) => {
                let shared = match edge {
                    0 => HeaderValue::from_static("no-cache"),
                    edge => number("max-age=", *edge),
                };
                headers.insert(CDN_CACHE_CONTROL, shared);
                let control = format!("public, max-age={left}, s-maxage={edge}, must-revalidate");
                (control, format!("ttl={left}; detail=public"))
            }
            Told::Private(left) => {
                headers.append(VARY, BY_READER);
                let control = format!("private, max-age={left}, must-revalidate");
                (control, format!("ttl={left}; detail=private"))
            }
            Told::Ask => ("no-cache".to_owned(), "ttl=0; detail=used-up".to_owned()),
            Told::AskPrivate => (
                "private, no-cache".to_owned(),
                "ttl=0; detail=not-public".to_owned(),
            ),
            Told::Nothing => ("no-store".to_owned(), "ttl=0; detail=may-lag".to_owned()),
        };
        for (name, text) in [
            (CACHE_CONTROL, control),
            (CACHE_STATUS, format!("larder; fwd=miss; {why}")),
        ] {
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.insert(name, value);
            }
        }
    }
}

fn number(name: &str, value: u64) -> HeaderValue {
    HeaderValue::try_from(format!("{name}{value}")).unwrap_or(respond::NO_CACHE)
}

/// Whether the client wants to know what is there now, whatever caches hold.
fn revalidates(headers: &HeaderMap) -> bool {
    let mut directives = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .flat_map(|line| line.to_str().unwrap_or_default().split(','))
        .map(|directive| directive.trim().to_ascii_lowercase());
    let is_one =
        |directive: String| matches!(directive.as_str(), "no-cache" | "no-store" | "max-age=0");
    match headers.contains_key(CACHE_CONTROL) {
        true => directives.any(is_one),
        false => headers
            .get(PRAGMA)
            .is_some_and(|pragma| pragma.as_bytes().eq_ignore_ascii_case(b"no-cache")),
    }
}

/// `GET /bloomfilter`.
pub(crate) async fn filter(call: Call<'_>) -> Result<Response, Error> {
    let ctx = call.anonymous_context();
    let filter = call.shared.service.filter(&ctx.database).await;
    // Where nothing is cached, nothing may be taken for fresh.
    Ok(match filter {
        Some(filter) => respond::value(&*filter),
        None => respond::value(&Filter::saturated()),
    })
}

/// `GET /admin/v1/caching`.
pub(super) fn policies(service: &Service) -> Response {
    respond::value(&service.cache_policies())
}

/// `PUT /admin/v1/caching/DATABASE/BUCKET`.
pub(super) async fn set_policy(
    service: &Service,
    database: &str,
    bucket: &str,
    body: &Bytes,
) -> Result<Response, Error> {
    let database = super::database_name(database).ok_or_else(|| {
        refuse(
            ErrorCode::BadRequest,
            "a database is 1 to 63 of A-Z a-z 0-9 _",
        )
    })?;
    let policy: CachePolicy = serde_json::from_slice(body).map_err(|error| {
        refuse(
            ErrorCode::SyntaxError,
            format!(
                "expected a JSON object with scope (off, public or private), ttlMinSeconds, ttlMaxSeconds, priorSeconds and \
                 edgeMaxSeconds: {error}"
            ),
        )
    })?;
    let deadline = Instant::now() + POLICY_TIME;
    let set = service.set_cache_policy(database, bucket, policy, deadline);
    Ok(respond::value(&set.await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn who_forbids_caches_revalidates() {
        for value in ["max-age=0, no-cache", "No-Cache", "max-age=0", "no-store"] {
            assert!(revalidates(&headers(CACHE_CONTROL, value)), "{value}");
        }
        assert!(revalidates(&headers(PRAGMA, "no-cache")));
        for value in ["max-age=60", "only-if-cached", ""] {
            assert!(!revalidates(&headers(CACHE_CONTROL, value)), "{value}");
        }
        assert!(!revalidates(&HeaderMap::new()));
    }

    #[test]
    fn caches_are_told_no_more_than_what_is_left() {
        let keep = |is_public, edge| Keep {
            is_public,
            ttl: Duration::ZERO,
            edge_max: Duration::from_secs(edge),
        };
        let told = |keep: &Keep, left, may_lag| {
            let mut headers = HeaderMap::new();
            Told::of(keep, left, may_lag).write(&mut headers);
            let of = |name: HeaderName| {
                let value = headers
                    .get(name)
                    .map(|value| value.to_str().expect("ascii"));
                value.unwrap_or_default().to_owned()
            };
            (of(CACHE_CONTROL), of(CDN_CACHE_CONTROL), of(VARY))
        };
        let texts = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        let public = "public, max-age=90, s-maxage=45, must-revalidate";
        assert_eq!(
            told(&keep(true, 60), 90, false),
            texts(public, "max-age=45", "")
        );
        let public = "public, max-age=1, s-maxage=0, must-revalidate";
        assert_eq!(
            told(&keep(true, 60), 1, false),
            texts(public, "no-cache", "")
        );
        assert_eq!(told(&keep(true, 60), 0, false), texts("no-cache", "", ""));
        assert_eq!(
            told(&keep(false, 60), 0, false),
            texts("private, no-cache", "", "")
        );
        let private = "private, max-age=9, must-revalidate";
        assert_eq!(
            told(&keep(false, 60), 9, false),
            texts(private, "", "authorization")
        );
        assert_eq!(told(&keep(true, 60), 90, true), texts("no-store", "", ""));
    }
}
