//! What of a write belongs into the shard's audit log: what happens to users and roles, and to the ACLs that admins change.
//!
//! Values of hidden members are secrets: only their names are said.

use std::collections::BTreeMap;

use document::acl::Acl;
use document::body::member;

use super::{Site, Writer};
use crate::audit;
use crate::error::Error;
use crate::tables::audit::append;
use crate::tables::documents::{self, Entry, Record};

const USERS: &str = "User";
const ROLES: &str = "Role";

impl Writer<'_, '_> {
    /// Notes what the write to the site did, now that it is staged.
    pub(super) fn audit(&mut self, site: &Site<'_>) -> Result<(), Error> {
        let before = site.live.as_ref().map(|live| &live.record);
        let is_account = matches!(site.bucket_name, USERS | ROLES);
        if !is_account && (before.is_none() || !self.principal.is_admin()) {
            return Ok(());
        }
        let after = match documents::get_entry(self.tx, &site.key)? {
            Some(Entry::Live { record, .. }) => Some(record),
            Some(Entry::Tombstone(_)) | None => None,
        };
        for (action, detail) in events(site.bucket_name, before, after.as_ref()) {
            let record = audit::Record {
                time_us: self.time_us,
                action: action.to_owned(),
                user: self.user().to_owned(),
                database: site.mutation.database.to_string(),
                target: format!("{}/{}", site.bucket_name, site.mutation.key),
                detail,
                count: 1,
                ..audit::Record::default()
            };
            append(self.tx, record)?;
        }
        Ok(())
    }
}

/// What happened to a document, each with more of it.
fn events(
    bucket: &str,
    before: Option<&Record>,
    after: Option<&Record>,
) -> Vec<(&'static str, String)> {
    let mut events = Vec::new();
    match (bucket, before, after) {
        (USERS, None, Some(user)) => events.push(("user_created", value(user, "username"))),
        (USERS, Some(user), None) => events.push(("user_deleted", value(user, "username"))),
        (ROLES, None, Some(role)) => events.push(("role_created", value(role, "users"))),
        (ROLES, Some(role), None) => events.push(("role_deleted", value(role, "name"))),
        (_, Some(before), Some(after)) => {
            if before.acl != after.acl {
                events.push((
                    "acl_changed",
                    after.acl.as_ref().map_or_else(public, Acl::to_json),
                ));
            }
            let watched: &[(&str, &'static str)] = match bucket {
                USERS => &[
                    ("username", "username_changed"),
                    ("inactive", "user_activity_changed"),
                ],
                ROLES => &[("users", "role_members_changed"), ("name", "role_renamed")],
                _ => &[],
            };
            for (name, action) in watched {
                let (old, new) = (value(before, name), value(after, name));
                if old != new {
                    events.push((action, new));
                }
            }
            if bucket == USERS && before.hidden != after.hidden {
                events.push(("credentials_changed", changed_names(before, after)));
            }
        }
        (_, None, _) | (_, Some(_), None) => {}
    }
    events
}

fn public() -> String {
    "public".to_owned()
}

/// A member of the document as JSON.
fn value(record: &Record, name: &str) -> String {
    // Without its braces the JSON is a list of members.
    let inner = record.body.get(1..record.body.len().saturating_sub(1));
    let found = member(inner.unwrap_or_default(), name);
    found.unwrap_or("null").to_owned()
}

/// The names of the hidden members that differ.
fn changed_names(before: &Record, after: &Record) -> String {
    let members = |record: &Record| -> BTreeMap<String, serde_json::Value> {
        let hidden = record.hidden.as_deref().unwrap_or_default();
        serde_json::from_slice(hidden).unwrap_or_default()
    };
    let (old, new) = (members(before), members(after));
    let differs = |name: &&String| old.get(*name) != new.get(*name);
    let mut names: Vec<&str> = old
        .keys()
        .chain(new.keys())
        .filter(differs)
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}
