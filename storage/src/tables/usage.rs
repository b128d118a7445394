//! What the documents of a database take in this shard: how many they are, and the bytes of their keys and JSON.
//!
//! A database is counted from the first [`count`] on, and not before: until somebody wants to know, its writes pay for nothing. The row then
//! covers the documents up to a place in the order of their keys, and every write up to there keeps it up; each page of counting moves
//! the place on, until it is behind all.
//!
//! Invariant: `documents` and `bytes` are those of the live documents up to the place, exactly, on every replica.

use std::ops::{Bound, ControlFlow};

use bincode::{Decode, Encode};

use super::documents::{self, Entry};
use crate::codec::{self, Record};
use crate::engine::Column;
use crate::error::Result;
use crate::keys::{DocumentKey, KeyKind, UsageKey, prefix_end};
use crate::machine::{ReplicaView, Transaction};

/// Documents that one entry counts, at most.
pub const COUNT_PAGE_MAX: usize = 1_000;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Usage {
    /// Live documents.
    pub documents: u64,
    /// Bytes of their keys and of their JSON as it is served.
    pub bytes: u64,
    /// How far they are counted.
    pub counted: Counted,
}

/// How far documents are counted.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Counted {
    /// Up to this key (bucket, key), inclusive.
    UpTo(u32, String),
    /// All.
    All,
}

impl Default for Counted {
    fn default() -> Self {
        Self::UpTo(0, String::new())
    }
}

impl Counted {
    fn covers(&self, bucket: u32, key: &str) -> bool {
        match self {
            Self::All => true,
            Self::UpTo(last, upto) => (bucket, key) <= (*last, upto.as_str()),
        }
    }
}

impl Record for Usage {
    const FORMAT: u8 = 1;
    const WHAT: &'static str = "usage row";
}

/// The usage of a database; `None`: it is not counted.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode. Those of the engine.
pub fn get(view: &ReplicaView<'_>, database: u32) -> Result<Option<Usage>> {
    let row = view.get(Column::State, &UsageKey { database }.encode())?;
    row.map(|row| codec::decode(&row)).transpose()
}

fn read(tx: &mut Transaction<'_>, database: u32) -> Result<Option<Usage>> {
    let row = tx.get(Column::State, &UsageKey { database }.encode())?;
    row.map(|row| codec::decode(&row)).transpose()
}

fn put(tx: &mut Transaction<'_>, database: u32, usage: &Usage) -> Result<()> {
    let row = codec::encode(usage)?;
    tx.put(Column::State, &UsageKey { database }.encode(), row);
    Ok(())
}

/// Takes a write of a document into account: how long its JSON was before and is now; `None`: there was, or is, no document.
pub(crate) fn adjust(
    tx: &mut Transaction<'_>,
    document: DocumentKey<'_>,
    before: Option<usize>,
    now: Option<usize>,
) -> Result<()> {
    if before == now {
        return Ok(());
    }
    let Some(mut usage) = read(tx, document.database)? else {
        return Ok(());
    };
    if !usage.counted.covers(document.bucket, document.key) {
        return Ok(());
    }
    let bytes = |json: Option<usize>| json.map_or(0, |json| (json + document.key.len()) as u64);
    usage.documents = usage.documents + u64::from(now.is_some()) - u64::from(before.is_some());
    usage.bytes = usage.bytes + bytes(now) - bytes(before);
    put(tx, document.database, &usage)
}

/// Counts the next `page` documents of a database; changes nothing once all are counted.
pub(crate) fn count(tx: &mut Transaction<'_>, database: u32, page: usize) -> Result<()> {
    let mut usage = read(tx, database)?.unwrap_or_default();
    let Counted::UpTo(bucket, key) = &usage.counted else {
        return Ok(());
    };
    let mut prefix = vec![KeyKind::Document as u8];
    prefix.extend_from_slice(&database.to_be_bytes());
    let (bucket, key) = (*bucket, key.as_str());
    let from = DocumentKey {
        database,
        bucket,
        key,
    }
    .encode();
    let to = prefix_end(&prefix);
    let (mut documents, mut bytes, mut seen, mut last) = (0, 0, 0, None);
    let page = page.clamp(1, COUNT_PAGE_MAX);
    tx.visit(
        Column::Documents,
        Bound::Excluded(&from),
        to.as_ref().map(Vec::as_slice),
        &mut |key, row| {
            let key = DocumentKey::decode(&key)?;
            if let Entry::Live { record, .. } = documents::decode(&row)? {
                documents += 1;
                bytes += (record.body.len() + key.key.len()) as u64;
            }
            seen += 1;
            last = Some(Counted::UpTo(key.bucket, key.key.to_owned()));
            Ok(if seen < page {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        },
    )?;
    usage.documents += documents;
    usage.bytes += bytes;
    usage.counted = match last {
        Some(last) if seen >= page => last,
        Some(_) | None => Counted::All,
    };
    put(tx, database, &usage)
}
