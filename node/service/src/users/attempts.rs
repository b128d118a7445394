//! How often somebody may try: log-ins, registrations and mails, by account and by address.
//!
//! A bucket of tokens for each: a try takes one, a success gives it back, and time fills it again. So whoever knows the password is
//! hardly ever stopped, and whoever guesses is, however many guesses are under way at once.
//!
//! What is remembered is this node's alone: with n nodes a guesser has n times the tries. It is also bounded, [`KNOWN_MAX`]: past it the
//! fullest buckets are forgotten, which are those that say least.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::hash::RandomState;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proto::ErrorCode;

use crate::clock::Clock;
use crate::error::{Error, Result};

/// Buckets that are not full, at most; each takes about 40 bytes.
const KNOWN_MAX: usize = 100_000;

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum What {
    /// To log in, or to prove a password otherwise.
    Login,
    /// To register.
    Register,
    /// To have a mail sent.
    Mail,
}

impl What {
    /// Tries at once, and the time in which one comes back: of one account from one address, of one account, and of one address. An
    /// account has more than one address has of it, so that nobody keeps another from logging in.
    fn limits(self) -> [(u32, Duration); 3] {
        match self {
            What::Login | What::Register => [
                (10, Duration::from_secs(10)),
                (100, Duration::from_secs(1)),
                (200, Duration::from_millis(500)),
            ],
            What::Mail => [
                (5, Duration::from_secs(60)),
                (10, Duration::from_secs(60)),
                (50, Duration::from_secs(10)),
            ],
        }
    }
}

/// A bucket that is not full.
#[derive(Clone, Copy)]
struct Bucket {
    /// Tokens in it, when it was looked at last.
    tokens: f64,
    at: Duration,
}

/// The buckets of one node.
pub(crate) struct Attempts {
    clock: Arc<dyn Clock>,
    /// Names are not kept, only what a secret hash makes of them.
    hasher: RandomState,
    buckets: Mutex<HashMap<(What, u64), Bucket>>,
}

/// A try that was let through.
#[must_use]
pub(crate) struct Attempt {
    what: What,
    keys: [Option<u64>; 3],
}

impl Attempts {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Attempts {
        Attempts {
            clock,
            hasher: RandomState::new(),
            buckets: Mutex::default(),
        }
    }

    /// Lets a try through, or not.
    ///
    /// # Errors
    /// `TooManyRequests`, with the time to wait.
    pub(crate) fn begin(
        &self,
        what: What,
        database: u32,
        account: Option<&str>,
        address: Option<IpAddr>,
    ) -> Result<Attempt> {
        let address = address.map(prefix);
        let keys = [
            account.map(|account| self.hasher.hash_one((database, account, address))),
            account.map(|account| self.hasher.hash_one((database, account))),
            address.map(|address| self.hasher.hash_one(address)),
        ];
        let now = self.clock.elapsed();
        let mut buckets = self.buckets.lock();
        let mut wait = Duration::ZERO;
        for (key, limit) in keys.iter().zip(what.limits()) {
            if let Some(key) = key {
                let tokens = now_in(buckets.get(&(what, *key)), limit, now);
                if tokens < 1.0 {
                    wait = wait.max(limit.1.mul_f64(1.0 - tokens));
                }
            }
        }
        if !wait.is_zero() {
            return Err(Error::new(
                ErrorCode::TooManyRequests,
                "too many tries for this account or from this address",
            )
            .with_retry_after(wait));
        }
        for (key, limit) in keys.iter().zip(what.limits()) {
            if let Some(key) = key {
                let tokens = now_in(buckets.get(&(what, *key)), limit, now) - 1.0;
                buckets.insert((what, *key), Bucket { tokens, at: now });
            }
        }
        if buckets.len() > KNOWN_MAX {
            shrink(&mut buckets, now);
        }
        Ok(Attempt { what, keys })
    }

    /// It was who it said it was.
    pub(crate) fn succeeded(&self, attempt: &Attempt) {
        let now = self.clock.elapsed();
        let mut buckets = self.buckets.lock();
        for (key, limit) in attempt.keys.iter().zip(attempt.what.limits()) {
            let Some(key) = key.map(|key| (attempt.what, key)) else {
                continue;
            };
            let tokens = now_in(buckets.get(&key), limit, now) + 1.0;
            if tokens >= f64::from(limit.0) {
                buckets.remove(&key);
            } else {
                buckets.insert(key, Bucket { tokens, at: now });
            }
        }
    }
}

/// Tokens in a bucket by now. One that is not known is full.
fn now_in(bucket: Option<&Bucket>, (most, interval): (u32, Duration), now: Duration) -> f64 {
    let most = f64::from(most);
    bucket.map_or(most, |bucket| {
        let passed = now.saturating_sub(bucket.at);
        (bucket.tokens + passed.as_secs_f64() / interval.as_secs_f64()).min(most)
    })
}

/// Forgets full buckets, and if that is not enough, those that are nearest to it: half of all.
fn shrink(buckets: &mut HashMap<(What, u64), Bucket>, now: Duration) {
    let missing = |(what, _): &(What, u64), bucket: &Bucket| {
        // Of which kind a key is does not show; the smallest bucket decides.
        let limit = what.limits()[0];
        f64::from(limit.0) - now_in(Some(bucket), limit, now)
    };
    buckets.retain(|key, bucket| missing(key, bucket) > 0.0);
    if buckets.len() <= KNOWN_MAX / 2 {
        return;
    }
    let mut all: Vec<f64> = buckets
        .iter()
        .map(|(key, bucket)| missing(key, bucket))
        .collect();
    all.sort_by(f64::total_cmp);
    let least = all[all.len() / 2];
    buckets.retain(|key, bucket| missing(key, bucket) > least);
}

/// What one client has of addresses: all of an IPv4 address, the first half of an IPv6 one.
fn prefix(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let mut octets = address.octets();
            octets[8..].fill(0);
            IpAddr::from(octets)
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn attempts() -> (Attempts, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::at(0));
        (Attempts::new(clock.clone()), clock)
    }

    fn address(last: u16) -> Option<IpAddr> {
        Some(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]))
    }

    fn tries(attempts: &Attempts, account: &str) -> Result<Attempt> {
        attempts.begin(What::Login, 1, Some(account), address(1))
    }

    #[test]
    fn an_account_has_so_many_tries_and_time_gives_more() {
        let (attempts, clock) = attempts();
        for _ in 0..10 {
            let _ = tries(&attempts, "ann").expect("let through");
        }
        let refused = tries(&attempts, "ann").map(|_| ()).expect_err("too many");
        assert_eq!(refused.code, ErrorCode::TooManyRequests);
        assert!(
            refused
                .retry_after
                .is_some_and(|after| after <= Duration::from_secs(10))
        );
        let _ = tries(&attempts, "bob").expect("another account");
        clock.advance(Duration::from_secs(10));
        let _ = tries(&attempts, "ann").expect("one came back");
        assert!(tries(&attempts, "ann").is_err());
    }

    #[test]
    fn nobody_keeps_another_from_logging_in() {
        let (attempts, _) = attempts();
        while tries(&attempts, "ann").is_ok() {}
        let other = Some(IpAddr::from([10, 0, 0, 1]));
        let _ = attempts
            .begin(What::Login, 1, Some("ann"), other)
            .expect("from elsewhere");
    }

    #[test]
    fn who_knows_the_password_is_not_stopped() {
        let (attempts, _) = attempts();
        for _ in 0..1_000 {
            let attempt = tries(&attempts, "ann").expect("let through");
            attempts.succeeded(&attempt);
        }
        assert!(attempts.buckets.lock().is_empty());
    }

    #[test]
    fn an_address_has_so_many_tries_whatever_the_accounts() {
        let (attempts, _) = attempts();
        for at in 0..200 {
            let _ = tries(&attempts, &at.to_string()).expect("let through");
        }
        assert!(tries(&attempts, "next").is_err());
        // The same network is the same client.
        assert!(
            attempts
                .begin(What::Login, 1, Some("x"), address(2))
                .is_err()
        );
        let other = Some(IpAddr::from([10, 0, 0, 1]));
        let _ = attempts
            .begin(What::Login, 1, Some("x"), other)
            .expect("another");
    }

    #[test]
    fn the_memory_is_bounded_and_keeps_those_who_guess_most() {
        let (attempts, _) = attempts();
        for _ in 0..10 {
            let _ = attempts
                .begin(What::Login, 1, Some("ann"), None)
                .expect("let through");
        }
        for at in 0..KNOWN_MAX + 10 {
            let _ = attempts.begin(What::Login, 1, Some(&at.to_string()), None);
        }
        assert!(attempts.buckets.lock().len() <= KNOWN_MAX);
        assert!(attempts.begin(What::Login, 1, Some("ann"), None).is_err());
    }
}
