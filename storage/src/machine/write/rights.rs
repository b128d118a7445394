//! What a write does to rights: a changed role is told to all nodes, and some writes of a user end its sessions.
//!
//! Sessions end with a delete of the user, with a write that says so, and with one that makes the user inactive, whoever makes it: then
//! no way into the document can be forgotten.

use document::body;

use super::{Error, Site, Writer, Written};
use crate::tables::rights;

/// Bucket of the roles.
const ROLES: &str = "Role";
/// Bucket of the users.
const USERS: &str = "User";
/// Member of a user that is true while it may not log in.
const INACTIVE: &str = "inactive";

impl Writer<'_, '_> {
    /// After a write took effect; `is_delete`: the document is gone.
    pub(super) fn note_rights(
        &mut self,
        site: &Site<'_>,
        written: &Written,
        is_delete: bool,
    ) -> Result<(), Error> {
        let (database, key) = (site.mutation.database, site.mutation.key.as_str());
        if site.bucket_name == ROLES {
            return rights::touch_role(self.tx, database, key, self.next.index);
        }
        if site.bucket_name != USERS {
            return Ok(());
        }
        let stored = site.live.as_ref().map(|live| &live.record.body);
        let was_inactive = stored.is_some_and(|body| is_inactive(body));
        let ends = is_delete
            || site.mutation.ends_sessions
            || (is_inactive(&written.body) && !was_inactive);
        // Who was not there has no sessions: those of an earlier user of this key ended with its delete.
        if ends && stored.is_some() {
            rights::mark_end(self.tx, database, key, written.version)?;
        }
        Ok(())
    }
}

/// Of a stored document.
fn is_inactive(body: &[u8]) -> bool {
    let members = body
        .get(1..body.len().saturating_sub(1))
        .unwrap_or_default();
    body::member(members, INACTIVE) == Some("true")
}
