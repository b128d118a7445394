//! The applied row: one for each store, rewritten by every batch of entries.

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use crate::codec::{self, Record};
use crate::engine::{Column, Engine, View};
use crate::error::Result;
use crate::ids::{LogId, StoreId};
use crate::keys::{self, AppliedKey};
use crate::machine::Applied;

/// Term, leader, index.
type Id = (u64, u64, u64);

#[derive(Encode, BorrowDecode)]
struct Row<'a> {
    id: Option<Id>,
    membership: Option<(Option<Id>, &'a [u8])>,
    chain: u128,
    time_us: u64,
    last_stamp_us: u64,
}

impl Record for Row<'_> {
    const FORMAT: u8 = 1;
    const WHAT: &'static str = "applied row";
}

/// The applied state of `store` as `engine` has it now; the default where nothing was ever applied.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode.
pub fn get(engine: &dyn Engine, store: StoreId) -> Result<Applied> {
    engine
        .get(Column::State, &full_key(store))?
        .map_or_else(|| Ok(Applied::default()), |row| decode(&row))
}

/// As [`get`], but what would be there after a crash now: a log may be purged up to its id, and no further.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode.
pub fn get_persisted(engine: &dyn Engine, store: StoreId) -> Result<Applied> {
    engine
        .get_persisted(Column::State, &full_key(store))?
        .map_or_else(|| Ok(Applied::default()), |row| decode(&row))
}

/// As [`get`], of an unchanging view: what a snapshot that is written from it is a snapshot of.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode.
pub fn get_view(view: &dyn View, store: StoreId) -> Result<Applied> {
    view.get(Column::State, &full_key(store))?
        .map_or_else(|| Ok(Applied::default()), |row| decode(&row))
}

/// The key of the applied row on disk.
pub(crate) fn full_key(store: StoreId) -> Vec<u8> {
    keys::with_store(store, &AppliedKey.encode())
}

/// The stored form of `applied`.
pub(crate) fn encode(applied: &Applied) -> Result<Bytes> {
    codec::encode(&Row {
        id: applied.id.map(from_log_id),
        membership: applied
            .membership
            .as_ref()
            .map(|(id, bytes)| (id.map(from_log_id), &bytes[..])),
        chain: applied.chain,
        time_us: applied.time_us,
        last_stamp_us: applied.last_stamp_us,
    })
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode(row: &Bytes) -> Result<Applied> {
    let decoded: Row<'_> = codec::decode(row)?;
    Ok(Applied {
        id: decoded.id.map(to_log_id),
        membership: decoded
            .membership
            .map(|(id, bytes)| (id.map(to_log_id), row.slice_ref(bytes))),
        chain: decoded.chain,
        time_us: decoded.time_us,
        last_stamp_us: decoded.last_stamp_us,
    })
}

fn from_log_id(id: LogId) -> Id {
    (id.term, id.leader, id.index)
}

fn to_log_id((term, leader, index): Id) -> LogId {
    LogId {
        term,
        leader,
        index,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn log_ids() -> impl Strategy<Value = LogId> {
        any::<Id>().prop_map(to_log_id)
    }

    fn states() -> impl Strategy<Value = Applied> {
        let membership = proptest::option::of((
            proptest::option::of(log_ids()),
            any::<Vec<u8>>().prop_map(Bytes::from),
        ));
        (
            proptest::option::of(log_ids()),
            membership,
            any::<u128>(),
            any::<u64>(),
            any::<u64>(),
        )
            .prop_map(|(id, membership, chain, time_us, last_stamp_us)| Applied {
                id,
                membership,
                chain,
                time_us,
                last_stamp_us,
            })
    }

    proptest! {
        #[test]
        fn round_trips(applied in states()) {
            prop_assert_eq!(decode(&encode(&applied).expect("encodes")).expect("decodes"), applied);
        }

        #[test]
        fn a_row_cut_short_is_corrupt(applied in states(), cut: proptest::sample::Index) {
            let row = encode(&applied).expect("encodes");
            let cut = row.slice(..cut.index(row.len()));
            let is_corrupt = matches!(decode(&cut), Err(crate::Error::Corrupt { .. }));
            prop_assert!(is_corrupt);
        }
    }
}
