//! Quotas of databases: what their documents may take in the whole cluster, and what they take as the shards' leaders last said.
//!
//! A quota holds about: the shards count exactly, and report when enough has changed, so what is known here is behind by what is written
//! meanwhile. The leader of a document's shard judges by this state, before it proposes.

use std::collections::BTreeMap;

use proto::log;
use serde::{Deserialize, Serialize};

use crate::machine::{Stop, database, invalid};
use crate::rows::{Rows, quota_name};

/// A database's quota and usage. Also the form of its row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Documents; 0: any number.
    pub documents_max: u64,
    /// Bytes of their keys and JSON; 0: any number.
    pub bytes_max: u64,
    /// What each shard reported.
    pub shards: BTreeMap<u32, ShardUsage>,
}

/// What a database's documents take in one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardUsage {
    /// How many there are.
    pub documents: u64,
    /// Bytes of their keys and JSON.
    pub bytes: u64,
    /// Whether all are counted yet.
    pub complete: bool,
}

/// Which part of a quota is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// No more documents.
    Documents,
    /// No more bytes.
    Bytes,
}

impl Quota {
    /// Documents in all shards, as far as reported.
    pub fn documents(&self) -> u64 {
        self.shards.values().map(|shard| shard.documents).sum()
    }

    /// Bytes in all shards, as far as reported.
    pub fn bytes(&self) -> u64 {
        self.shards.values().map(|shard| shard.bytes).sum()
    }

    /// Shards that have counted all documents.
    pub fn shards_complete(&self) -> usize {
        self.shards.values().filter(|shard| shard.complete).count()
    }

    /// What is used up. Bytes weigh more: they stop every write but deletes.
    pub fn full(&self) -> Option<Full> {
        if self.bytes_max > 0 && self.bytes() >= self.bytes_max {
            return Some(Full::Bytes);
        }
        (self.documents_max > 0 && self.documents() >= self.documents_max)
            .then_some(Full::Documents)
    }
}

/// Sets limits; what the shards reported stays.
pub(crate) fn set(rows: &mut Rows<'_, '_>, command: &log::SetQuota) -> Result<bool, Stop> {
    let database = database(rows, command.database)?;
    let name = quota_name(database.id);
    let stored: Option<Quota> = rows.get(&name)?;
    let quota = Quota {
        documents_max: command.documents_max,
        bytes_max: command.bytes_max,
        ..stored.clone().unwrap_or_default()
    };
    if stored.as_ref() == Some(&quota) {
        return Ok(false);
    }
    rows.put(&name, &quota)?;
    Ok(true)
}

/// Takes over what a shard reported.
pub(crate) fn report(
    rows: &mut Rows<'_, '_>,
    shards: u32,
    command: &log::ReportUsage,
) -> Result<bool, Stop> {
    if command.shard == 0 || command.shard > shards {
        return Err(invalid(format!("no shard {}", command.shard)));
    }
    let mut is_changed = false;
    for reported in &command.databases {
        let name = quota_name(reported.database);
        let Some(mut quota) = rows.get::<Quota>(&name)? else {
            continue;
        };
        let usage = ShardUsage {
            documents: reported.documents,
            bytes: reported.bytes,
            complete: reported.complete,
        };
        if quota.shards.insert(command.shard, usage) != Some(usage) {
            rows.put(&name, &quota)?;
            is_changed = true;
        }
    }
    Ok(is_changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_full_by_what_all_shards_hold() {
        let usage = |documents, bytes| ShardUsage {
            documents,
            bytes,
            complete: true,
        };
        let mut quota = Quota {
            documents_max: 10,
            bytes_max: 1_000,
            shards: [(1, usage(4, 100)), (2, usage(5, 100))].into(),
        };
        assert_eq!((quota.documents(), quota.bytes()), (9, 200));
        assert_eq!(quota.full(), None);
        quota.shards.insert(2, usage(6, 100));
        assert_eq!(quota.full(), Some(Full::Documents));
        quota.shards.insert(1, usage(0, 900));
        assert_eq!(quota.full(), Some(Full::Bytes));
        quota.bytes_max = 0;
        assert_eq!(quota.full(), None);
    }
}
