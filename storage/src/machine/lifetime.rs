//! How long web caches may keep a version of a document: computed when it is written, from the log alone.
//!
//! The mean time between two writes of a document is followed by an average that forgets (EWMA), in integers: `e + (Δt − e) / 4`, beginning
//! with what the bucket expects. The lifetime is the median of what is left of such an interval, ln 2 · e, within the bucket's bounds.
//! Δt is the difference of the times that the log gave the writes; nothing safe depends on it.
//!
//! Invariant: [`Caching::superseded_ms`] of a version is never less than what [`Caching::lifetime_ms`] ever said of it, whatever became of
//! the policy in between. The horizon of a stale key (`tables::stale`) rests on it.

use proto::log::{Bucket, CacheScope};

/// How much of the distance to the newest interval the average goes: 1 / 4.
const FORGET: i64 = 4;

/// The lifetime of one version of a document, and what it was computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Mean time between writes, milliseconds.
    pub interval_ms: u32,
    /// How long caches may keep this version, milliseconds.
    pub ttl_ms: u32,
}

/// What a shard knows of how web caches may keep a bucket's documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caching {
    /// Whose caches may keep what now.
    pub scope: Scope,
    /// Bounds of lifetimes, milliseconds.
    pub ttl_min_ms: u32,
    /// See [`Self::ttl_min_ms`].
    pub ttl_max_ms: u32,
    /// The interval that a new document begins with, milliseconds.
    pub prior_ms: u32,
    /// The longest lifetime that any policy of the bucket gave to documents whose row says none.
    pub unsaid_ms: u32,
    /// The longest lifetime that any policy of the bucket allowed.
    pub longest_ms: u32,
    /// Hash of the class's rules about who may load a document.
    pub readers: u64,
}

/// Whose caches may keep documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Scope {
    /// Nobody's any more.
    #[default]
    Off = 0,
    /// Everybody's, if everybody may read them.
    Public = 1,
    /// Those that not everybody may read, in their reader's own cache, too.
    Private = 2,
}

impl Scope {
    /// The scope of a stored byte.
    pub(crate) fn of(byte: u8) -> Option<Scope> {
        [Self::Off, Self::Public, Self::Private]
            .into_iter()
            .find(|scope| *scope as u8 == byte)
    }
}

impl Caching {
    /// What the shard knows after a command about the bucket, of which it knew `stored`; `None`: it never was cached.
    pub(crate) fn after(stored: Option<Caching>, bucket: &Bucket) -> Option<Caching> {
        let Some(policy) = &bucket.cache else {
            return stored.map(|stored| Caching {
                scope: Scope::Off,
                readers: bucket.readers,
                ..stored
            });
        };
        let now = Caching {
            scope: match policy.scope() {
                CacheScope::Off => Scope::Off,
                CacheScope::Public => Scope::Public,
                CacheScope::Private => Scope::Private,
            },
            ttl_min_ms: policy.ttl_min_ms.min(policy.ttl_max_ms),
            ttl_max_ms: policy.ttl_max_ms,
            prior_ms: policy.prior_ms,
            readers: bucket.readers,
            ..stored.unwrap_or_default()
        };
        let unsaid_ms = now.ttl_of(now.prior_ms);
        Some(Caching {
            unsaid_ms: now.unsaid_ms.max(unsaid_ms),
            longest_ms: now.longest_ms.max(now.ttl_max_ms),
            ..now
        })
    }

    /// Whether what was public, or in somebody's own cache, may be another's business now: every copy of the bucket is to be asked about.
    pub(crate) fn outdates(self, stored: Option<Caching>) -> bool {
        let is_private = |caching: Caching| caching.scope == Scope::Private;
        stored.is_some_and(|stored| {
            stored.readers != self.readers || is_private(stored) != is_private(self)
        })
    }

    /// The lifetime of a version that is written `since_us` after the one before, whose lifetime was `before`; `None`: none is given now.
    pub(crate) fn next(self, before: Option<Lifetime>, since_us: Option<u64>) -> Option<Lifetime> {
        if self.scope == Scope::Off {
            return None;
        }
        let known = before.map_or(self.prior_ms, |before| before.interval_ms);
        let interval_ms = since_us.map_or(known, |since_us| {
            let since_ms = i64::try_from(since_us / 1_000).unwrap_or(i64::MAX);
            let known = i64::from(known);
            let next = known + (since_ms.min(i64::from(u32::MAX)) - known) / FORGET;
            u32::try_from(next).unwrap_or(u32::MAX)
        });
        let ttl_ms = self.ttl_of(interval_ms);
        Some(Lifetime {
            interval_ms,
            ttl_ms,
        })
    }

    /// How long caches may keep a version now, milliseconds: what its row says, or what the bucket expects, within today's bound.
    pub fn lifetime_ms(self, stored: Option<Lifetime>) -> u32 {
        match self.scope {
            Scope::Off => 0,
            Scope::Public | Scope::Private => stored
                .map_or(self.ttl_of(self.prior_ms), |stored| stored.ttl_ms)
                .min(self.ttl_max_ms),
        }
    }

    /// How long caches may have been told to keep a version that is superseded now, milliseconds.
    pub(crate) fn superseded_ms(self, stored: Option<Lifetime>) -> u32 {
        stored.map_or(self.unsaid_ms, |stored| stored.ttl_ms)
    }

    fn ttl_of(self, interval_ms: u32) -> u32 {
        let median = u64::from(interval_ms) * 693 / 1_000;
        let median = u32::try_from(median).unwrap_or(u32::MAX);
        median.max(self.ttl_min_ms).min(self.ttl_max_ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::log::CachePolicy;

    use super::*;

    fn bucket(scope: CacheScope, min: u32, max: u32, prior: u32) -> Bucket {
        Bucket {
            cache: Some(CachePolicy {
                scope: scope.into(),
                ttl_min_ms: min,
                ttl_max_ms: max,
                prior_ms: prior,
                edge_max_ms: 0,
            }),
            ..Bucket::default()
        }
    }

    fn public(min: u32, max: u32, prior: u32) -> Caching {
        Caching::after(None, &bucket(CacheScope::Public, min, max, prior)).expect("cached")
    }

    #[test]
    fn lifetimes_follow_the_writes_within_the_bounds() {
        let caching = public(1_000, 600_000, 100_000);
        let first = caching.next(None, None).expect("cached");
        assert_eq!((first.interval_ms, first.ttl_ms), (100_000, 69_300));
        let often = caching.next(Some(first), Some(20_000_000)).expect("cached");
        assert_eq!((often.interval_ms, often.ttl_ms), (80_000, 55_440));
        let seldom = caching.next(Some(first), Some(u64::MAX)).expect("cached");
        assert_eq!(seldom.ttl_ms, 600_000);
        let mut hot = first;
        for _ in 0..40 {
            hot = caching.next(Some(hot), Some(1_000)).expect("cached");
        }
        assert_eq!(hot.ttl_ms, 1_000);
    }

    #[test]
    fn without_a_policy_there_is_nothing_and_a_bucket_that_had_one_remembers() {
        assert_eq!(Caching::after(None, &Bucket::default()), None);
        let was = public(0, 600_000, 600_000);
        let off = Caching::after(Some(was), &bucket(CacheScope::Off, 0, 1, 1)).expect("known");
        assert_eq!(off.next(None, None), None);
        assert_eq!(off.lifetime_ms(None), 0);
        assert_eq!((off.unsaid_ms, off.longest_ms), (415_800, 600_000));
    }

    #[test]
    fn rules_about_readers_and_private_caches_outdate_a_bucket() {
        let was = public(0, 600_000, 600_000);
        assert!(!was.outdates(None));
        assert!(!was.outdates(Some(was)));
        assert!(was.outdates(Some(Caching { readers: 7, ..was })));
        let private = Caching {
            scope: Scope::Private,
            ..was
        };
        assert!(private.outdates(Some(was)));
        assert!(was.outdates(Some(private)));
    }

    fn policies() -> impl Strategy<Value = Bucket> {
        let scopes = prop_oneof![
            Just(CacheScope::Off),
            Just(CacheScope::Public),
            Just(CacheScope::Private)
        ];
        (scopes, 0..2_000u32, 0..900_000u32, 0..2_000_000u32)
            .prop_map(|(scope, min, max, prior)| bucket(scope, min, max, prior))
    }

    proptest! {
        /// What was said of a version under any policy is remembered when it is superseded, under whatever policy that is.
        #[test]
        fn no_policy_makes_a_lifetime_forgotten(
            policies in prop::collection::vec(policies(), 1..6),
            written_under in prop::option::of(0..6usize),
            since_us in prop::option::of(any::<u64>()),
        ) {
            let mut caching = None;
            let (mut stored, mut said) = (None, 0);
            for (at, policy) in policies.iter().enumerate() {
                caching = Caching::after(caching, policy);
                let now = caching.expect("cached once");
                if written_under == Some(at) {
                    stored = now.next(None, since_us);
                    said = 0;
                }
                said = said.max(now.lifetime_ms(stored));
                prop_assert!(now.superseded_ms(stored) >= said);
                prop_assert!(now.longest_ms >= said);
            }
        }
    }
}
