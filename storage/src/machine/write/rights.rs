//! What a write does to rights: a changed role is told to all nodes, and some writes of a user end its sessions.
//!
//! Sessions end with a delete of the user, with a write that says so, and with one that makes the user inactive or gives it another
//! password, whoever makes it: then no way into the document can be forgotten.

use document::body;
use proto::log::mutation::Operation;

use super::{Error, Site, Writer, Written};
use crate::tables::rights;

/// Bucket of the roles.
const ROLES: &str = "Role";
/// Bucket of the users.
const USERS: &str = "User";
/// Member of a user that is true while it may not log in.
const INACTIVE: &str = "inactive";
/// Hidden member of a user: the hash of its password.
const PASSWORD: &str = "_password";

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
            || (is_inactive(&written.body) && !was_inactive)
            || changes_password(site);
        // Who was not there has no sessions: those of an earlier user of this key ended with its delete.
        if ends && stored.is_some() {
            rights::mark_end(self.tx, database, key, written.version)?;
        }
        Ok(())
    }
}

/// Of a stored document.
fn is_inactive(body: &[u8]) -> bool {
    body::member(inside(body), INACTIVE) == Some("true")
}

/// Whether a put brings another password than the stored one.
fn changes_password(site: &Site<'_>) -> bool {
    let Some(Operation::Put(put)) = &site.mutation.operation else {
        return false;
    };
    let stored = site
        .live
        .as_ref()
        .and_then(|live| live.record.hidden.as_deref());
    !put.hidden.is_empty()
        && body::member(inside(&put.hidden), PASSWORD)
            != body::member(inside(stored.unwrap_or_default()), PASSWORD)
}

/// The members of an object, without its braces.
fn inside(object: &[u8]) -> &[u8] {
    object
        .get(1..object.len().saturating_sub(1))
        .unwrap_or_default()
}
