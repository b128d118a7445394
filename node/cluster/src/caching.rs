//! Cache policies of buckets: how long web caches may keep their documents.
//!
//! A bucket has none until somebody sets one; from then on it always has one, if only to say "not any more": shards go on telling caches
//! about copies that were handed out before. A new policy makes a new version of the bucket's rules, so it is in force once every shard has
//! applied it.

use std::fmt;
use std::str::FromStr;

use document::schema::{Operation, Schema};
use proto::log::{self, CacheScope};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::machine::{Stop, database, invalid};
use crate::rows::{self, Rows};
use crate::state::BucketInfo;

/// The longest lifetime that a policy may give, seconds: a day. For so long old copies are remembered.
pub const TTL_SECONDS_MAX: u32 = 24 * 3_600;

/// The longest interval between writes that a policy may begin with, seconds: a month.
pub const PRIOR_SECONDS_MAX: u32 = 31 * 24 * 3_600;

/// Whose caches may keep documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Nobody's any more.
    #[default]
    Off,
    /// Everybody's, those documents that everybody may read.
    Public,
    /// The other documents, too, each in its reader's own cache.
    Private,
}

/// How long web caches may keep the documents of a bucket. Also the form of its row and of the admin API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CachePolicy {
    /// Whose caches.
    pub scope: Scope,
    /// No document is kept for less, seconds, however often it is written.
    pub ttl_min_seconds: u32,
    /// None is kept for longer, seconds.
    pub ttl_max_seconds: u32,
    /// How long a document is thought to stay as it is before anything is known about it, seconds.
    pub prior_seconds: u32,
    /// The longest that shared caches may keep one, seconds; 0: not at all. Until a purge reaches them they answer with what they have.
    pub edge_max_seconds: u32,
}

/// What somebody who names only a scope means.
impl Default for CachePolicy {
    fn default() -> CachePolicy {
        CachePolicy {
            scope: Scope::Off,
            ttl_min_seconds: 1,
            ttl_max_seconds: 600,
            prior_seconds: 600,
            edge_max_seconds: 1,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Public => "public",
            Self::Private => "private",
        })
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Scope, String> {
        match text {
            "off" => Ok(Self::Off),
            "public" => Ok(Self::Public),
            "private" => Ok(Self::Private),
            _ => Err("off, public or private".to_owned()),
        }
    }
}

impl CachePolicy {
    /// What is wrong with it, if anything is.
    pub fn check(&self) -> Result<(), String> {
        for (name, value, max) in [
            ("ttlMaxSeconds", self.ttl_max_seconds, TTL_SECONDS_MAX),
            ("ttlMinSeconds", self.ttl_min_seconds, self.ttl_max_seconds),
            (
                "edgeMaxSeconds",
                self.edge_max_seconds,
                self.ttl_max_seconds,
            ),
            ("priorSeconds", self.prior_seconds, PRIOR_SECONDS_MAX),
        ] {
            if value > max {
                return Err(format!("{name} is {value}, at most it can be {max}"));
            }
        }
        Ok(())
    }

    /// For the command to the metadata group, and from there to the shards.
    pub fn to_log(self) -> log::CachePolicy {
        let scope = match self.scope {
            Scope::Off => CacheScope::Off,
            Scope::Public => CacheScope::Public,
            Scope::Private => CacheScope::Private,
        };
        // Checked: a month in milliseconds fits.
        let ms = |seconds: u32| seconds.saturating_mul(1_000);
        log::CachePolicy {
            scope: scope.into(),
            ttl_min_ms: ms(self.ttl_min_seconds),
            ttl_max_ms: ms(self.ttl_max_seconds),
            prior_ms: ms(self.prior_seconds),
            edge_max_ms: ms(self.edge_max_seconds),
        }
    }

    fn of_log(policy: &log::CachePolicy) -> CachePolicy {
        let scope = match policy.scope() {
            CacheScope::Off => Scope::Off,
            CacheScope::Public => Scope::Public,
            CacheScope::Private => Scope::Private,
        };
        CachePolicy {
            scope,
            ttl_min_seconds: policy.ttl_min_ms / 1_000,
            ttl_max_seconds: policy.ttl_max_ms / 1_000,
            prior_seconds: policy.prior_ms / 1_000,
            edge_max_seconds: policy.edge_max_ms / 1_000,
        }
    }
}

/// Sets the policy of a bucket. The same one again changes nothing.
pub(crate) fn set(rows: &mut Rows<'_, '_>, command: &log::SetCachePolicy) -> Result<bool, Stop> {
    let mut database = database(rows, command.database)?;
    let policy = command.policy.as_ref();
    let policy = CachePolicy::of_log(policy.ok_or_else(|| invalid("no policy"))?);
    policy.check().map_err(invalid)?;
    let is_meant = |bucket: &&mut BucketInfo| bucket.id == command.bucket && !bucket.dropped;
    let bucket = database.buckets.iter_mut().find(is_meant);
    let bucket = bucket.ok_or_else(|| invalid(format!("no bucket {}", command.bucket)))?;
    if bucket.cache == Some(policy) {
        return Ok(false);
    }
    bucket.cache = Some(policy);
    database.schema_version += 1;
    bucket.version = database.schema_version;
    rows.put(&rows::database_name(database.id), &database)?;
    Ok(true)
}

/// Hash of a class's rules about who may load its documents: another one, and copies may be with those who may not have them.
pub(crate) fn readers(schema: &Schema, class: &str) -> u64 {
    let rules = schema
        .class(class)
        .map(|class| class.acl.rules(Operation::Load));
    // Rules are texts under texts: they always have a JSON form.
    serde_json::to_vec(&rules).map_or(0, |json| xxh3_64(&json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_survives_its_way_through_the_log() {
        for scope in [Scope::Off, Scope::Public, Scope::Private] {
            let policy = CachePolicy {
                scope,
                ttl_min_seconds: 2,
                ttl_max_seconds: 300,
                prior_seconds: PRIOR_SECONDS_MAX,
                edge_max_seconds: 60,
            };
            assert_eq!(CachePolicy::of_log(&policy.to_log()), policy);
            assert_eq!(scope.to_string().parse(), Ok(scope));
        }
    }

    #[test]
    fn bounds_are_in_order_and_not_too_far() {
        let policy = CachePolicy::default();
        assert_eq!(policy.check(), Ok(()));
        let wrong = [
            CachePolicy {
                ttl_max_seconds: TTL_SECONDS_MAX + 1,
                ..policy
            },
            CachePolicy {
                ttl_min_seconds: 601,
                ..policy
            },
            CachePolicy {
                edge_max_seconds: 601,
                ..policy
            },
            CachePolicy {
                prior_seconds: PRIOR_SECONDS_MAX + 1,
                ..policy
            },
        ];
        assert!(wrong.iter().all(|policy| policy.check().is_err()));
    }
}
