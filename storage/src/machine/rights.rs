//! Commands about rights: ends of sessions, in the shard of the roles, and the notes in the users' own shards that they are due.
//!
//! A write that ends a user's sessions leaves a note in its own batch ([`super::write`]). Whoever sees the note tells the shard of the
//! roles, which every node follows, and then removes it. All of it may be done twice.

use proto::log::{EndSessions, ForgetRights, SettleSessions};

use super::Transaction;
use crate::error::Result;
use crate::tables::rights;

/// Rows that one entry removes at most, whatever it asks for.
pub const FORGET_PAGE_MAX: usize = 1_000;

/// Ends sessions.
pub(super) fn end(tx: &mut Transaction<'_>, at: u64, command: &EndSessions) -> Result<()> {
    for user in &command.users {
        rights::end_sessions(tx, command.database, &user.key, user.version, at)?;
    }
    Ok(())
}

/// Removes the notes of users whose sessions are ended.
pub(super) fn settle(tx: &mut Transaction<'_>, command: &SettleSessions) -> Result<()> {
    for user in &command.users {
        rights::settle_end(tx, command.database, &user.key, user.version)?;
    }
    Ok(())
}

/// Removes a page of what no token is old enough for.
pub(super) fn forget(tx: &mut Transaction<'_>, command: &ForgetRights) -> Result<()> {
    let page = usize::try_from(command.page)
        .unwrap_or(usize::MAX)
        .min(FORGET_PAGE_MAX);
    // A shard that is younger has nothing that is so old, also not what lies at its beginning.
    let Some(until_us) = tx.time_us().checked_sub(command.kept_us) else {
        return Ok(());
    };
    rights::forget(tx, command.database, until_us, page)
}
