//! Reading a log from its disk for no other reason than to see whether it still can be.
//!
//! What was just appended is read from memory by everybody else, and an old entry by nobody until a follower needs it: rot in either is
//! found here, before a start or an election depends on it.
//!
//! Lacks: the write-ahead log of RocksDB, which only a start reads.

use rocksdb::DB;

use super::{database, layout};
use crate::error::Result;
use crate::ids::StoreId;
use crate::seal::Ring;

/// Readahead of a piece.
const READAHEAD_BYTES: usize = 256 << 10;

/// What one piece of a scrub has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogScrubbed {
    /// Bytes of keys and values.
    pub bytes: usize,
    /// The index to go on at; `None` at the end of what is written.
    pub next: Option<u64>,
}

/// Reads entries from `from` on, about `bytes_max` bytes, and with the first of them vote, purge point and committed point.
///
/// # Errors
/// [`crate::Error::Corrupt`]: a row fails its checksum, or an entry is missing between two others.
pub(super) fn piece(
    db: &DB,
    ring: Option<&Ring>,
    store: StoreId,
    from: u64,
    first: bool,
    bytes_max: usize,
) -> Result<LogScrubbed> {
    if first {
        database::load(db, store)?;
    }
    let mut scrubbed = LogScrubbed::default();
    let mut iterator = database::entries(db, store, from, u64::MAX, READAHEAD_BYTES);
    iterator.seek_to_first();
    let mut expected = from;
    while let Some((key, value)) = iterator.item() {
        if scrubbed.bytes >= bytes_max {
            scrubbed.next = Some(expected);
            return Ok(scrubbed);
        }
        let index = layout::decode_entry(key, value, ring)?.id.index;
        if index != expected {
            return Err(database::missing(store, expected));
        }
        expected = index.saturating_add(1);
        scrubbed.bytes += key.len() + value.len();
        iterator.next();
    }
    iterator.status()?;
    Ok(scrubbed)
}
