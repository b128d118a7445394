//! Entries whose seal is of an old key, or that have none, sealed anew. On the writer's thread: nobody else changes them meanwhile.

use rocksdb::{DB, WriteBatch};

use super::{database, layout};
use crate::error::Result;
use crate::ids::StoreId;
use crate::seal::{Ring, Scope};

/// Readahead of a piece.
const READAHEAD_BYTES: usize = 256 << 10;

/// What one piece has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogResealed {
    /// Bytes of keys and values that were looked at.
    pub(crate) read: usize,
    /// Entries that are sealed anew.
    pub(crate) entries: usize,
    /// The index to go on at; `None`: that was the end of the log.
    pub(crate) next: Option<u64>,
}

/// Puts what is to be written into `batch`.
///
/// # Errors
/// [`crate::Error::Corrupt`]: an entry does not open.
pub(super) fn piece(
    db: &DB,
    ring: Option<&Ring>,
    store: StoreId,
    from: u64,
    bytes_max: usize,
    batch: &mut WriteBatch,
) -> Result<LogResealed> {
    let mut piece = LogResealed::default();
    let Some(ring) = ring else {
        return Ok(piece);
    };
    // Before its state is asked: a scope without a key has nothing that is up to date.
    ring.current(Scope::Node)?;
    let state = ring.state();
    let mut iterator = database::entries(db, store, from, u64::MAX, READAHEAD_BYTES);
    iterator.seek_to_first();
    while let Some((key, value)) = iterator.item() {
        if piece.read >= bytes_max {
            piece.next = Some(layout::entry_index(key)?);
            return Ok(piece);
        }
        piece.read += key.len() + value.len();
        if state.is_outdated(Scope::Node, layout::entry_stored(value)) {
            let entry = layout::decode_entry(key, value, Some(ring))?;
            batch.put(key, layout::entry_value(key, &entry, Some(ring))?);
            piece.entries += 1;
        }
        iterator.next();
    }
    iterator.status()?;
    Ok(piece)
}
