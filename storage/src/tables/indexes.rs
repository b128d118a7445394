//! Entries of indexes.
//!
//! `store | 0x11 | database u32 | bucket u32 | index u32 | value | encoded key` in [`crate::engine::Column::Documents`]. The value shows its own end.
//! The rest is the document's key percent-encoded as in its id, so that entries with equal values lie in the order of ids.
//! The value of a row is one byte: whether everybody may read the document.

use std::ops::ControlFlow;

use document::index::{Index, Range};

use crate::error::Result;
use crate::machine::{Replica, ReplicaView};

/// An index as a bucket of a shard has it.
#[derive(Clone, Debug)]
pub struct BucketIndex {
    /// Its id.
    pub id: u32,
    /// The index.
    pub index: Index,
    /// Whether every document of the bucket that this shard holds is in it. Until then it must not be read.
    pub complete: bool,
}

/// An entry as a walk shows it.
#[derive(Clone, Debug)]
pub struct IndexEntry<'a> {
    /// The value.
    pub value: &'a [u8],
    /// The document's decoded key.
    pub key: &'a str,
    /// Everybody may read the document.
    pub is_public: bool,
}

/// The indexes of a bucket in a view; none for an unknown bucket.
///
/// # Errors
/// [`crate::Error::Corrupt`]: a row does not decode.
pub fn of_bucket(_view: &ReplicaView<'_>, _database: u32, _bucket: u32) -> Result<Vec<BucketIndex>> {
    todo!()
}

/// Shows the entries of an index within a range, ascending or `backward`, until `each` breaks.
///
/// # Errors
/// [`crate::Error::Corrupt`], those of the engine, and the first of `each`.
pub fn visit(
    _view: &ReplicaView<'_>,
    _database: u32,
    _bucket: u32,
    _index: &BucketIndex,
    _range: &Range,
    _backward: bool,
    _each: &mut dyn FnMut(IndexEntry<'_>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    todo!()
}

/// About how many entries lie in the range: exact up to `exact_max`, beyond that by the size of what is stored.
///
/// # Errors
/// Those of the engine.
pub fn estimate(
    _view: &ReplicaView<'_>,
    _database: u32,
    _bucket: u32,
    _index: u32,
    _range: &Range,
    _exact_max: u64,
) -> Result<u64> {
    todo!()
}

/// About how many documents a bucket has here, likewise.
///
/// # Errors
/// Those of the engine.
pub fn estimate_documents(
    _view: &ReplicaView<'_>,
    _database: u32,
    _bucket: u32,
    _exact_max: u64,
) -> Result<u64> {
    todo!()
}

/// How far the building of an index is in this shard.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode.
pub fn progress(
    _replica: &Replica,
    _database: u32,
    _bucket: u32,
    _index: u32,
) -> Result<crate::machine::outcome::Progress> {
    todo!()
}
