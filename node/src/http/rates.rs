//! How often somebody may ask: per client address, per token and per database, and less often for what makes accounts or sends mail.
//!
//! Judged at the edge, over HTTP and gRPC alike, before a request takes a permit, a body or a look at any state. What a limit counts is in
//! a bucket that holds `burst` requests and is refilled at the rate (GCRA, crate `governor`). A request is refused by the first of its
//! buckets that is empty, with effect none; the buckets before that one have counted it.
//!
//! Admins and nodes are exempt (contract 8.2). Whether somebody is one is looked at only when a bucket is empty: by the signature of the
//! token, and by the copy of the rights that the node keeps.
//!
//! Invariants:
//! - Each kind of limit remembers at most [`KEYS_MAX`] keys; past it the least used are forgotten, and begin again with a full bucket.
//! - Keys are kept as hashes under a secret of the process: no token lies in memory here, and nobody can choose colliding keys.
//! - An IPv6 client is its /64, since it has all of that.
//!
//! Lacks: counting over all nodes. Each node has buckets of its own, so who spreads requests over the nodes gets each node's rate.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use governor::clock::{Clock as _, MonotonicClock};
use governor::middleware::{StateInformationMiddleware, StateSnapshot};
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use http::header::{AUTHORIZATION, HeaderMap};
use http::{HeaderName, HeaderValue, Method};
use metrics::{Counter, counter};
use proto::ErrorCode;
use quick_cache::sync::Cache;
use service::{Caller, Error, Service};

use super::address::key_of;
use super::context;
use super::error::refuse;
use crate::telemetry::RATE_LIMITED_TOTAL;

/// Keys that each kind of limit remembers, of about 200 bytes each.
const KEYS_MAX: usize = 65_536;

/// Requests that the bucket holds, as the answer says it.
const RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
/// Requests that are left in it.
const RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
/// Seconds until it is full again.
const RATELIMIT_RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Time after which a bucket gets one more request. Not zero.
    pub every: Duration,
    /// Requests that a full bucket holds.
    pub burst: NonZeroU32,
}

/// All limits of a node; `None`: no such limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Requests of one client address.
    pub address: Option<Rate>,
    /// Requests with one token.
    pub token: Option<Rate>,
    /// Requests to one database.
    pub database: Option<Rate>,
    /// Registrations and password resets of one client address.
    pub signup: Option<Rate>,
}

/// How a request stands to the limit that it is closest to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    limit: u32,
    remaining: u32,
    reset: Duration,
}

/// A request that came too often.
pub(crate) struct TooOften {
    pub(crate) error: Error,
    pub(crate) standing: Standing,
}

/// The buckets of a node.
pub(crate) struct Gate {
    address: Option<Kind>,
    token: Option<Kind>,
    database: Option<Kind>,
    signup: Option<Kind>,
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, MonotonicClock, StateInformationMiddleware>;

/// The buckets of one kind of limit.
struct Kind {
    name: &'static str,
    quota: Quota,
    secret: RandomState,
    buckets: Cache<u64, Arc<Limiter>>,
    refused: OnceLock<Counter>,
}

impl Standing {
    /// Says it in the headers of an answer.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        headers.insert(RATELIMIT_LIMIT, HeaderValue::from(self.limit));
        headers.insert(RATELIMIT_REMAINING, HeaderValue::from(self.remaining));
        headers.insert(RATELIMIT_RESET, HeaderValue::from(seconds(self.reset)));
    }

    /// The one with less left.
    fn tighter(self, other: Option<Standing>) -> Standing {
        match other {
            Some(other) if other.remaining <= self.remaining => other,
            Some(_) | None => self,
        }
    }
}

impl Gate {
    pub(crate) fn new(rates: &Rates) -> Self {
        let kind = |name, rate: Option<Rate>| rate.and_then(|rate| Kind::new(name, rate));
        Self {
            address: kind("address", rates.address),
            token: kind("token", rates.token),
            database: kind("database", rates.database),
            signup: kind("signup", rates.signup),
        }
    }

    /// Counts a request over HTTP by all limits.
    ///
    /// # Errors
    /// `too_many_requests`.
    pub(crate) async fn admit(
        &self,
        service: &Service,
        head: &http::request::Parts,
        database: &str,
    ) -> Result<Option<Standing>, Box<TooOften>> {
        let address = super::address::of(&head.extensions);
        let caller = self
            .admit_caller(service, address, &head.headers, database)
            .await?;
        let signup = match &self.signup {
            Some(kind) if is_signup(&head.method, head.uri.path()) => {
                kind.count(service, &head.headers, database, key_of(address))
                    .await?
            }
            Some(_) | None => None,
        };
        let whole = self
            .admit_database(service, &head.headers, database)
            .await?;
        Ok([signup, whole]
            .into_iter()
            .flatten()
            .fold(caller, |tightest, one| Some(one.tighter(tightest))))
    }

    /// Counts a request by its address and its token. `database` is where the token counts, for telling admins.
    ///
    /// # Errors
    /// `too_many_requests`.
    pub(crate) async fn admit_caller(
        &self,
        service: &Service,
        address: Option<IpAddr>,
        headers: &HeaderMap,
        database: &str,
    ) -> Result<Option<Standing>, Box<TooOften>> {
        let mut tightest = None;
        if let Some(kind) = &self.address {
            tightest = kind
                .count(service, headers, database, key_of(address))
                .await?;
        }
        if let (Some(kind), Some(token)) = (&self.token, headers.get(AUTHORIZATION)) {
            let counted = kind
                .count(service, headers, database, token.as_bytes())
                .await?;
            tightest = counted.map(|one| one.tighter(tightest)).or(tightest);
        }
        Ok(tightest)
    }

    /// Counts a request by its database.
    ///
    /// # Errors
    /// `too_many_requests`.
    pub(crate) async fn admit_database(
        &self,
        service: &Service,
        headers: &HeaderMap,
        database: &str,
    ) -> Result<Option<Standing>, Box<TooOften>> {
        match &self.database {
            Some(kind) => {
                let name = if database.is_empty() { "v1" } else { database };
                kind.count(service, headers, database, name).await
            }
            None => Ok(None),
        }
    }
}

impl Kind {
    fn new(name: &'static str, rate: Rate) -> Option<Self> {
        Some(Self {
            name,
            quota: Quota::with_period(rate.every)?.allow_burst(rate.burst),
            secret: RandomState::new(),
            buckets: Cache::new(KEYS_MAX),
            refused: OnceLock::new(),
        })
    }

    /// Takes a request out of a key's bucket; nothing to say of those who are exempt.
    async fn count(
        &self,
        service: &Service,
        headers: &HeaderMap,
        database: &str,
        key: impl Hash,
    ) -> Result<Option<Standing>, Box<TooOften>> {
        let bucket = self.bucket(self.secret.hash_one(key));
        let wait = match bucket.check() {
            Ok(left) => return Ok(Some(self.standing(&left))),
            Err(empty) => empty.wait_time_from(MonotonicClock.now()),
        };
        let caller = context::caller(headers).unwrap_or(Caller::Anonymous);
        if Box::pin(service.is_exempt(database, &caller)).await {
            return Ok(None);
        }
        self.refused
            .get_or_init(|| counter!(RATE_LIMITED_TOTAL, "limit" => self.name))
            .increment(1);
        let message = format!(
            "too many requests by this {}: at most {} at once and then one in {:?}",
            self.name,
            self.quota.burst_size(),
            self.quota.replenish_interval()
        );
        Err(Box::new(TooOften {
            error: refuse(ErrorCode::TooManyRequests, message).with_retry_after(wait),
            standing: Standing {
                limit: self.quota.burst_size().get(),
                remaining: 0,
                reset: self.quota.burst_size_replenished_in(),
            },
        }))
    }

    fn bucket(&self, key: u64) -> Arc<Limiter> {
        if let Some(bucket) = self.buckets.get(&key) {
            return bucket;
        }
        let new = || -> Result<_, std::convert::Infallible> {
            let limiter = RateLimiter::direct_with_clock(self.quota, MonotonicClock);
            Ok(Arc::new(limiter.with_middleware()))
        };
        // One of several that come at once makes it, and all count by that one.
        let Ok(bucket) = self.buckets.get_or_insert_with(&key, new);
        bucket
    }

    fn standing(&self, left: &StateSnapshot) -> Standing {
        let limit = self.quota.burst_size().get();
        let remaining = left.remaining_burst_capacity();
        Standing {
            limit,
            remaining,
            reset: self.quota.replenish_interval() * limit.saturating_sub(remaining),
        }
    }
}

/// Whether a request makes an account or asks for mail.
fn is_signup(method: &Method, path: &str) -> bool {
    if *method != Method::POST {
        return false;
    }
    let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    let mut parts = path.trim_end_matches('/').rsplit('/');
    matches!(parts.next(), Some("register" | "reset"))
        && parts.next() == Some("User")
        && parts.next() == Some("db")
}

/// Whole seconds, rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn rate(every: Duration, burst: u32) -> Rate {
        Rate {
            every,
            burst: NonZeroU32::new(burst).expect("not zero"),
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn what_makes_accounts_is_told_by_its_address() {
        for (method, path, expected) in [
            (Method::POST, "/db/User/register", true),
            (Method::POST, "/shop/db/User/reset", true),
            (Method::POST, "/db/User/%72egister", true),
            (Method::POST, "/db/User/register/", true),
            (Method::GET, "/db/User/register", false),
            (Method::POST, "/db/User/login", false),
            (Method::POST, "/db/Todo/register", false),
        ] {
            assert_eq!(is_signup(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn a_bucket_gives_its_burst_and_says_what_is_left() {
        let kind = Kind::new("address", rate(HOUR, 3)).expect("a quota");
        let bucket = kind.bucket(1);
        let left: Vec<_> = (0..3)
            .map(|_| kind.standing(&bucket.check().expect("a request")).remaining)
            .collect();
        assert_eq!(left, [2, 1, 0]);
        let empty = bucket.check().expect_err("empty");
        let wait = empty.wait_time_from(MonotonicClock.now());
        assert!(
            wait > HOUR - Duration::from_secs(60) && wait <= HOUR,
            "{wait:?}"
        );
        // Another one is full.
        assert!(kind.bucket(2).check().is_ok());
    }

    #[test]
    fn keys_are_bounded() {
        let kind = Kind::new("address", rate(HOUR, 3)).expect("a quota");
        for key in 0..KEYS_MAX as u64 * 2 {
            kind.bucket(key);
        }
        assert!(kind.buckets.len() <= KEYS_MAX, "{}", kind.buckets.len());
    }

    #[test]
    fn the_tighter_one_is_told() {
        let standing = |limit, remaining| Standing {
            limit,
            remaining,
            reset: Duration::from_millis(1500),
        };
        let told = standing(10, 4).tighter(Some(standing(3, 1)));
        let mut headers = HeaderMap::new();
        told.tell(&mut headers);
        assert_eq!(headers["ratelimit-limit"], "3");
        assert_eq!(headers["ratelimit-remaining"], "1");
        assert_eq!(headers["ratelimit-reset"], "2");
        assert_eq!(standing(10, 4).tighter(None), standing(10, 4));
    }

    /// Prints nanoseconds for each request that is counted: `cargo nextest run -p larder --run-ignored all --no-capture cost_of_counting`.
    #[test]
    #[ignore = "a measurement, not a test"]
    fn cost_of_counting() {
        let kind = Kind::new("token", rate(Duration::from_nanos(1), u32::MAX)).expect("a quota");
        let tokens: Vec<String> = (0..1_000).map(|n| format!("{n:0120}")).collect();
        let start = Instant::now();
        const ROUNDS: usize = 1_000;
        for _ in 0..ROUNDS {
            for token in &tokens {
                let key = kind.secret.hash_one(token.as_bytes());
                kind.bucket(key).check().expect("room");
            }
        }
        let requests = ROUNDS * tokens.len();
        let ns = start.elapsed().as_nanos() as f64 / requests as f64;
        println!("{ns:.0} ns for a request with a token of 120 letters");
    }
}
