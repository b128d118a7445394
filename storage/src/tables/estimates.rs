//! About how much a query would look at, told without looking at much.
//!
//! A range is counted while it is small. What is larger is told by the sizes of files; where nothing of it is in files yet, it is counted
//! on until the planner has heard enough. So an estimate costs at most one short walk, and what that walk saw need not be read again.

use std::ops::{Bound, ControlFlow};

use document::index::Range;

use super::indexes::{self, BucketIndex, IndexEntry};
use crate::engine::{Column, Direction, Each};
use crate::error::Result;
use crate::keys::{DocumentKey, IndexEntryKey, prefix_end};
use crate::machine::ReplicaView;

/// Pairs that are counted at most where files do not tell how many there are.
const COUNTED_MAX: u64 = 4_096;

/// How far an estimate goes.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// So many are counted one by one before sizes are believed.
    pub exact_max: u64,
    /// How many more than this there are does not matter.
    pub enough: u64,
}

impl Effort {
    /// So many one by one, and beyond that as close as it can be told.
    pub const fn exact(exact_max: u64) -> Effort {
        Effort {
            exact_max,
            enough: u64::MAX,
        }
    }
}

/// About how many entries of an index lie in the range: exact up to `exact_max`. What is counted is shown to `each`, ascending from the
/// first entry on: all of it, if the estimate is not above `exact_max`.
///
/// # Errors
/// [`crate::Error::Corrupt`]; those of the engine, and the first of `each`.
pub fn entries(
    view: &ReplicaView<'_>,
    database: u32,
    bucket: u32,
    index: &BucketIndex,
    range: &Range,
    effort: Effort,
    each: &mut dyn FnMut(IndexEntry<'_>) -> Result<()>,
) -> Result<u64> {
    let prefix = IndexEntryKey::prefix(database, bucket, index.id);
    let (from, to) = indexes::bounds(&prefix, range);
    pairs(view, &from, &to, effort, &mut |key, row| {
        indexes::show(&index.index, &key[prefix.len()..], row, each)
    })
}

/// About how many documents a bucket has here, likewise.
///
/// # Errors
/// Those of the engine.
pub fn documents(
    view: &ReplicaView<'_>,
    database: u32,
    bucket: u32,
    effort: Effort,
) -> Result<u64> {
    of_prefix(view, &DocumentKey::prefix(database, bucket), effort)
}

/// About how many pairs there are with keys that begin with a prefix, likewise.
///
/// # Errors
/// Those of the engine.
pub(crate) fn of_prefix(view: &ReplicaView<'_>, prefix: &[u8], effort: Effort) -> Result<u64> {
    let each = &mut |_: &[u8], _: &[u8]| Ok(());
    pairs(view, prefix, &prefix_end(prefix), effort, each)
}

/// Counts up to `exact_max`; if there is more, compares the files of what was counted with the files of all. Where what was counted is in
/// no file yet, or less than a block, it counts on first.
fn pairs(
    view: &ReplicaView<'_>,
    from: &[u8],
    to: &Bound<Vec<u8>>,
    effort: Effort,
    each: &mut Each<'_>,
) -> Result<u64> {
    let to = to.as_ref().map(Vec::as_slice);
    let counted_max = effort.enough.min(COUNTED_MAX).max(effort.exact_max);
    // In files, of what was counted.
    let (mut counted, mut head_bytes) = (0, 0);
    let mut is_all = true;
    let visit = &mut |key: &[u8], row: &[u8]| {
        if counted == effort.exact_max || counted == counted_max {
            head_bytes = view.file_bytes(Column::Documents, from, key)?;
            if head_bytes > 0 || counted == counted_max {
                is_all = false;
                return Ok(ControlFlow::Break(()));
            }
        }
        if counted < effort.exact_max {
            each(key, row)?;
        }
        counted += 1;
        Ok(ControlFlow::Continue(()))
    };
    let from_included = Bound::Included(from);
    view.visit(
        Column::Documents,
        from_included,
        to,
        Direction::Forward,
        visit,
    )?;
    let (Bound::Excluded(end) | Bound::Included(end), false) = (to, is_all) else {
        return Ok(counted);
    };
    // There is at least the one that ended the walk.
    let least = counted + 1;
    if head_bytes == 0 {
        return Ok(least);
    }
    let all = view.file_bytes(Column::Documents, from, end)?;
    let estimated = u128::from(counted) * u128::from(all) / u128::from(head_bytes);
    Ok(u64::try_from(estimated).unwrap_or(u64::MAX).max(least))
}
