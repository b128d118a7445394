//! The applied row: one for each store, rewritten by every batch of entries.

use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use crate::codec::{self, Record};
use crate::engine::{Column, Engine, View};
use crate::error::Result;
use crate::ids::{LogId, StoreId};
use crate::keys::{self, AppliedKey, ChangeKey};
use crate::machine::{Applied, ChangeLog, Stale};

/// Term, leader, index.
type Id = (u64, u64, u64);

/// Index and ordinal.
type Place = (u64, u32);

/// A row of a shard that has stale keys, or had. Before it has any its rows are of format 2.
#[derive(Encode, BorrowDecode)]
struct StaleRow<'a> {
    row: Row<'a>,
    /// The last row that was written and the last that was removed; index and T of the last mark.
    stale: (Place, Place, u64, u64),
}

impl Record for StaleRow<'_> {
    const FORMAT: u8 = 7;
    const WHAT: &'static str = "applied row";
}

#[derive(Encode, BorrowDecode)]
struct Row<'a> {
    id: Option<Id>,
    membership: Option<(Option<Id>, &'a [u8])>,
    chain: u128,
    time_us: u64,
    last_stamp_us: u64,
    /// Index and ordinal of the last trimmed event, bytes of those that are left.
    changes: (u64, u32, u64),
}

impl Record for Row<'_> {
    const FORMAT: u8 = 2;
    const WHAT: &'static str = "applied row";
}

/// A row of before change logs were trimmed. What they hold was not counted; it is counted from then on.
#[derive(BorrowDecode)]
struct RowOfFormat1<'a> {
    id: Option<Id>,
    membership: Option<(Option<Id>, &'a [u8])>,
    chain: u128,
    time_us: u64,
    last_stamp_us: u64,
}

impl Record for RowOfFormat1<'_> {
    const FORMAT: u8 = 1;
    const WHAT: &'static str = "applied row";
}

impl<'a> From<RowOfFormat1<'a>> for Row<'a> {
    fn from(row: RowOfFormat1<'a>) -> Self {
        Self {
            id: row.id,
            membership: row.membership,
            chain: row.chain,
            time_us: row.time_us,
            last_stamp_us: row.last_stamp_us,
            changes: (0, 0, 0),
        }
    }
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
    let row = Row {
        id: applied.id.map(from_log_id),
        membership: applied
            .membership
            .as_ref()
            .map(|(id, bytes)| (id.map(from_log_id), &bytes[..])),
        chain: applied.chain,
        time_us: applied.time_us,
        last_stamp_us: applied.last_stamp_us,
        changes: (
            applied.changes.trimmed.index,
            applied.changes.trimmed.ordinal,
            applied.changes.bytes,
        ),
    };
    if applied.stale == Stale::default() {
        return codec::encode(&row);
    }
    let Stale {
        last,
        expired,
        marked,
        marked_us,
    } = applied.stale;
    let stale = (from_place(last), from_place(expired), marked, marked_us);
    codec::encode(&StaleRow { row, stale })
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode(row: &Bytes) -> Result<Applied> {
    let (decoded, stale): (Row<'_>, _) = match row.first() {
        Some(&RowOfFormat1::FORMAT) => (
            codec::decode::<RowOfFormat1<'_>>(row)?.into(),
            Stale::default(),
        ),
        Some(&StaleRow::FORMAT) => {
            let StaleRow { row, stale } = codec::decode(row)?;
            (row, to_stale(stale))
        }
        _ => (codec::decode(row)?, Stale::default()),
    };
    let (index, ordinal, bytes) = decoded.changes;
    Ok(Applied {
        id: decoded.id.map(to_log_id),
        membership: decoded
            .membership
            .map(|(id, bytes)| (id.map(to_log_id), row.slice_ref(bytes))),
        chain: decoded.chain,
        time_us: decoded.time_us,
        last_stamp_us: decoded.last_stamp_us,
        changes: ChangeLog {
            trimmed: ChangeKey { index, ordinal },
            bytes,
        },
        stale,
    })
}

fn from_place(place: ChangeKey) -> Place {
    (place.index, place.ordinal)
}

fn to_stale((last, expired, marked, marked_us): (Place, Place, u64, u64)) -> Stale {
    let place = |(index, ordinal)| ChangeKey { index, ordinal };
    Stale {
        last: place(last),
        expired: place(expired),
        marked,
        marked_us,
    }
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
            any::<(u64, u32, u64)>(),
            prop_oneof![
                Just(Stale::default()),
                any::<(Place, Place, u64, u64)>().prop_map(to_stale)
            ],
        )
            .prop_map(
                |(id, membership, chain, time_us, last_stamp_us, changes, stale)| Applied {
                    id,
                    membership,
                    chain,
                    time_us,
                    last_stamp_us,
                    changes: ChangeLog {
                        trimmed: ChangeKey {
                            index: changes.0,
                            ordinal: changes.1,
                        },
                        bytes: changes.2,
                    },
                    stale,
                },
            )
    }

    proptest! {
        #[test]
        fn round_trips(applied in states()) {
            prop_assert_eq!(decode(&encode(&applied).expect("encodes")).expect("decodes"), applied);
        }

        #[test]
        fn rows_of_the_first_format_are_read(applied in states()) {
            let applied = Applied { changes: ChangeLog::default(), stale: Stale::default(), ..applied };
            let row = encode(&applied).expect("encodes");
            // The three numbers at the end are zero, a byte each.
            let first = Bytes::from([&[1], &row[1..row.len() - 3]].concat());
            prop_assert_eq!(decode(&first).expect("decodes"), applied);
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
