//! Which shards have no document of a dropped bucket any more.
//!
//! The bucket itself stays known: a shard that comes back must learn that it is dropped, and events of its documents name it.

use std::collections::BTreeSet;

use proto::log;
use serde::{Deserialize, Serialize};

use crate::machine::{Stop, database, invalid};
use crate::rows::{self, Rows};

/// How far a dropped bucket is cleared away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cleared {
    /// In these shards.
    Shards(BTreeSet<u32>),
    /// In all of them.
    All,
}

impl Default for Cleared {
    fn default() -> Cleared {
        Cleared::Shards(BTreeSet::new())
    }
}

impl Cleared {
    /// Whether nothing is cleared away yet, as of a bucket that is there.
    pub fn is_none(&self) -> bool {
        *self == Cleared::default()
    }

    /// Whether a shard has nothing left.
    pub fn is_in(&self, shard: u32) -> bool {
        match self {
            Cleared::Shards(shards) => shards.contains(&shard),
            Cleared::All => true,
        }
    }

    /// Adds a shard out of so many.
    fn add(&mut self, shard: u32, all: u32) {
        let Cleared::Shards(shards) = self else {
            return;
        };
        shards.insert(shard);
        if shards.len() >= all as usize {
            *self = Cleared::All;
        }
    }
}

/// Takes over what the driver has seen. What it says a second time changes nothing.
pub(crate) fn cleared(
    rows: &mut Rows<'_, '_>,
    shards: u32,
    command: &log::BucketCleared,
) -> Result<bool, Stop> {
    let mut database = database(rows, command.database)?;
    let bucket = database
        .buckets
        .iter_mut()
        .find(|bucket| bucket.dropped && bucket.id == command.bucket)
        .ok_or_else(|| invalid(format!("no dropped bucket {}", command.bucket)))?;
    let before = bucket.cleared.clone();
    for &shard in &command.shards {
        if !(1..=shards).contains(&shard) {
            return Err(invalid(format!("no shard {shard}")));
        }
        bucket.cleared.add(shard, shards);
    }
    if bucket.cleared == before {
        return Ok(false);
    }
    rows.put(&rows::database_name(database.id), &database)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_cleared_when_all_shards_are() {
        let mut cleared = Cleared::default();
        for (shard, is_all) in [(2, false), (2, false), (1, false), (3, true), (1, true)] {
            cleared.add(shard, 3);
            assert!(cleared.is_in(shard) && !cleared.is_none());
            assert_eq!(cleared == Cleared::All, is_all, "{shard}");
        }
        assert!(!Cleared::default().is_in(1));
    }
}
