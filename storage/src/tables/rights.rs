//! What every node must know of the rights in a database: which roles changed, and whose sessions ended.
//!
//! In the one shard that holds the database's roles, `store | 0x12 | database u32 | …` in the state column ([`RightsKey`]): a row for each
//! subject, and the subjects in the order of their last change. It is a log that keeps only the newest entry of each subject, so whoever
//! knows the rights up to an index learns what is new since then, and no more. What a role holds is in its document.
//!
//! In the shard of each user, `store | 0x13 | database u32 | key` ([`SessionEndKey`]): its sessions are to be ended, since a write of the
//! user said so and the shard of the rights has not heard of it yet.
//!
//! Invariants:
//! - a subject has one row and one place, with the same index, or neither;
//! - a user's sessions end by **version** of its document: those that rest on an earlier one are over. The version never goes back;
//! - rows at or below `forgotten` may be missing, all others are there.

use std::ops::{Bound, ControlFlow};

use bincode::{Decode, Encode};
use bytes::Bytes;

use crate::codec::{self, Record};
use crate::engine::Column;
use crate::error::Result;
use crate::keys::rights::Subject;
use crate::keys::{RightsKey, SessionEndKey, prefix_end};
use crate::machine::{Replica, ReplicaView, Transaction};

/// How far the rows of a database are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Head {
    /// Index of the entry that changed any of them last.
    pub changed: u64,
    /// Highest index of a row that was removed for its age.
    pub forgotten: u64,
}

impl Record for Head {
    const FORMAT: u8 = 1;
    const WHAT: &'static str = "rights head";
}

/// The last change of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SubjectRow {
    /// Index of the entry.
    pub index: u64,
    /// Of a user: sessions that rest on an earlier version of its document are over. Of a role: 0.
    pub version: u64,
    /// The shard's T, microseconds.
    pub time_us: u64,
}

impl Record for SubjectRow {
    const FORMAT: u8 = 1;
    const WHAT: &'static str = "rights row";
}

/// A user whose sessions are to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
struct EndRow(u64);

impl Record for EndRow {
    const FORMAT: u8 = 1;
    const WHAT: &'static str = "session end row";
}

/// A subject that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Index of the entry.
    pub index: u64,
    /// Whether it is a role.
    pub is_role: bool,
    /// Decoded key of the role or user.
    pub key: String,
    /// See [`SubjectRow::version`].
    pub version: u64,
    /// See [`SubjectRow::time_us`].
    pub time_us: u64,
}

/// A user whose sessions are to be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEnd {
    /// Id of the database.
    pub database: u32,
    /// Decoded key of the user.
    pub user: String,
    /// Sessions that rest on an earlier version are over.
    pub version: u64,
}

/// How far the rows of a database are. May wait for a disk.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode. Those of the engine.
pub fn head(replica: &Replica, database: u32) -> Result<Head> {
    let row = replica.get(Column::State, &RightsKey::Head { database }.encode())?;
    Ok(row
        .map(|row| codec::decode(&row))
        .transpose()?
        .unwrap_or_default())
}

/// The subjects that changed after the entry `after`, in order: at least `page` unless there are no more, and all of the last entry.
/// May wait for a disk.
///
/// # Errors
/// [`crate::Error::Corrupt`]: a row does not decode. Those of the engine.
pub fn changed_after(
    view: &ReplicaView<'_>,
    database: u32,
    after: u64,
    page: usize,
) -> Result<(Vec<Changed>, bool)> {
    let from = RightsKey::order_after(database, after);
    let end = prefix_end(&RightsKey::order_prefix(database));
    let rows = view.scan(
        Column::State,
        Bound::Included(&from),
        end.as_ref().map(Vec::as_slice),
    );
    let mut changed: Vec<Changed> = Vec::new();
    for row in rows {
        let (key, _) = row?;
        let RightsKey::Order { index, subject, .. } = RightsKey::decode(&key)? else {
            continue;
        };
        if changed.len() >= page && changed.last().is_some_and(|last| last.index < index) {
            return Ok((changed, true));
        }
        let subject_key = RightsKey::Subject { database, subject }.encode();
        let Some(row) = view.get(Column::State, &subject_key)? else {
            continue;
        };
        let row: SubjectRow = codec::decode(&row)?;
        let (is_role, key) = match subject {
            Subject::Role(key) => (true, key),
            Subject::User(key) => (false, key),
        };
        changed.push(Changed {
            index,
            is_role,
            key: key.to_owned(),
            version: row.version,
            time_us: row.time_us,
        });
    }
    Ok((changed, false))
}

/// Users of this shard whose sessions are to be ended, `page` at most. May wait for a disk.
///
/// # Errors
/// [`crate::Error::Corrupt`]: a row does not decode. Those of the engine.
pub fn session_ends(view: &ReplicaView<'_>, page: usize) -> Result<Vec<SessionEnd>> {
    let rows = view.scan_prefix(Column::State, &SessionEndKey::prefix());
    let end = |row: Result<(Bytes, Bytes)>| {
        let (key, value) = row?;
        let key = SessionEndKey::decode(&key)?;
        let EndRow(version) = codec::decode(&value)?;
        Ok(SessionEnd {
            database: key.database,
            user: key.user.to_owned(),
            version,
        })
    };
    rows.take(page).map(end).collect()
}

/// The version that a user's sessions are to be ended below, if they are. May wait for a disk.
///
/// # Errors
/// [`crate::Error::Corrupt`]: the row does not decode. Those of the engine.
pub fn session_end(replica: &Replica, database: u32, user: &str) -> Result<Option<u64>> {
    let row = replica.get(Column::State, &SessionEndKey { database, user }.encode())?;
    let row: Option<EndRow> = row.map(|row| codec::decode(&row)).transpose()?;
    Ok(row.map(|EndRow(version)| version))
}

/// Whether the row of a key is what it should be.
pub(crate) fn check(key: RightsKey<'_>, value: &[u8]) -> Result<()> {
    match key {
        RightsKey::Head { .. } => codec::decode::<Head>(value).map(|_| ()),
        RightsKey::Subject { .. } => codec::decode::<SubjectRow>(value).map(|_| ()),
        RightsKey::Order { .. } => Ok(()),
    }
}

/// The same for the note that sessions are to be ended.
pub(crate) fn check_end(value: &[u8]) -> Result<()> {
    codec::decode::<EndRow>(value).map(|_| ())
}

/// What a row holds, for people.
#[cfg(test)]
pub(crate) fn show(key: RightsKey<'_>, value: &[u8]) -> String {
    match key {
        RightsKey::Head { .. } => format!("{:?}", codec::decode::<Head>(value)),
        RightsKey::Subject { .. } => format!("{:?}", codec::decode::<SubjectRow>(value)),
        RightsKey::Order { .. } => format!("{} bytes", value.len()),
    }
}

/// Notes that a role was written or deleted by the entry `at`.
pub(crate) fn touch_role(
    tx: &mut Transaction<'_>,
    database: u32,
    role: &str,
    at: u64,
) -> Result<()> {
    change(tx, database, Subject::Role(role), at, 0)
}

/// Ends the sessions of a user that rest on versions below `version`; changes nothing if those are over already.
pub(crate) fn end_sessions(
    tx: &mut Transaction<'_>,
    database: u32,
    user: &str,
    version: u64,
    at: u64,
) -> Result<()> {
    let subject = Subject::User(user);
    match stored(tx, database, subject)? {
        Some(row) if row.version >= version => Ok(()),
        Some(_) | None => change(tx, database, subject, at, version),
    }
}

/// Removes the oldest `page` places at most whose T is at or before `until_us`.
pub(crate) fn forget(
    tx: &mut Transaction<'_>,
    database: u32,
    until_us: u64,
    page: usize,
) -> Result<()> {
    let prefix = RightsKey::order_prefix(database);
    let mut oldest = Vec::new();
    tx.visit(
        Column::State,
        Bound::Included(&prefix),
        prefix_end(&prefix).as_ref().map(Vec::as_slice),
        &mut |key, _| {
            oldest.push(key);
            Ok(if oldest.len() < page {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        },
    )?;
    let mut forgotten = 0;
    for key in oldest {
        let RightsKey::Order { index, subject, .. } = RightsKey::decode(&key)? else {
            break;
        };
        let row = stored(tx, database, subject)?;
        if row.is_some_and(|row| row.time_us > until_us) {
            break;
        }
        tx.delete(Column::State, &key);
        tx.delete(
            Column::State,
            &RightsKey::Subject { database, subject }.encode(),
        );
        forgotten = index;
    }
    if forgotten > 0 {
        let head = head_of(tx, database)?;
        put_head(tx, database, Head { forgotten, ..head })?;
    }
    Ok(())
}

/// Notes, in the user's shard, that its sessions below `version` are to be ended.
pub(crate) fn mark_end(
    tx: &mut Transaction<'_>,
    database: u32,
    user: &str,
    version: u64,
) -> Result<()> {
    let key = SessionEndKey { database, user };
    tx.put(
        Column::State,
        &key.encode(),
        codec::encode(&EndRow(version))?,
    );
    Ok(())
}

/// Forgets that, unless a later version is to be ended by now.
pub(crate) fn settle_end(
    tx: &mut Transaction<'_>,
    database: u32,
    user: &str,
    version: u64,
) -> Result<()> {
    let key = SessionEndKey { database, user }.encode();
    let row = tx.get(Column::State, &key)?;
    let row: Option<EndRow> = row.map(|row| codec::decode(&row)).transpose()?;
    if row.is_some_and(|EndRow(marked)| marked <= version) {
        tx.delete(Column::State, &key);
    }
    Ok(())
}

fn change(
    tx: &mut Transaction<'_>,
    database: u32,
    subject: Subject<'_>,
    at: u64,
    version: u64,
) -> Result<()> {
    if let Some(before) = stored(tx, database, subject)? {
        let place = RightsKey::Order {
            database,
            index: before.index,
            subject,
        };
        tx.delete(Column::State, &place.encode());
    }
    let row = SubjectRow {
        index: at,
        version,
        time_us: tx.time_us(),
    };
    let key = RightsKey::Subject { database, subject };
    tx.put(Column::State, &key.encode(), codec::encode(&row)?);
    let place = RightsKey::Order {
        database,
        index: at,
        subject,
    };
    tx.put(Column::State, &place.encode(), Bytes::new());
    let head = head_of(tx, database)?;
    let changed = at;
    put_head(tx, database, Head { changed, ..head })
}

fn stored(
    tx: &mut Transaction<'_>,
    database: u32,
    subject: Subject<'_>,
) -> Result<Option<SubjectRow>> {
    let key = RightsKey::Subject { database, subject };
    let row = tx.get(Column::State, &key.encode())?;
    row.map(|row| codec::decode(&row)).transpose()
}

fn head_of(tx: &mut Transaction<'_>, database: u32) -> Result<Head> {
    let row = tx.get(Column::State, &RightsKey::Head { database }.encode())?;
    Ok(row
        .map(|row| codec::decode(&row))
        .transpose()?
        .unwrap_or_default())
}

fn put_head(tx: &mut Transaction<'_>, database: u32, head: Head) -> Result<()> {
    let key = RightsKey::Head { database };
    tx.put(Column::State, &key.encode(), codec::encode(&head)?);
    Ok(())
}
