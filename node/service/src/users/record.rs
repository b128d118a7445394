//! A user as the service reads it: members and hidden members.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::auth::policy::PASSWORD_MEMBER;
use crate::error::{Error, Result};
use crate::forward::Record;

/// Member with the user's name.
pub(crate) const USERNAME: &str = "username";
/// Member that is true while a user may not log in.
pub(crate) const INACTIVE: &str = "inactive";

/// Hidden member: the version below which tokens are no good. Kept for as long as the user, unlike what the nodes tell each other.
pub(crate) const SESSIONS_FROM: &str = "_sessionsFrom";

/// A stored user.
#[derive(Clone, Debug)]
pub(crate) struct User {
    /// Decoded key.
    pub(crate) key: String,
    /// Version of the document.
    pub(crate) version: u64,
    /// The document as clients see it, metadata members included.
    pub(crate) members: Map<String, Value>,
    /// What is never served: password hash, nonces, secrets.
    pub(crate) hidden: Map<String, Value>,
    /// The document as it is served.
    pub(crate) body: Bytes,
}

impl User {
    /// Of a document that was read with its hidden members.
    ///
    /// # Errors
    /// `Internal`: what is stored is not JSON.
    pub(crate) fn of(record: Record) -> Result<User> {
        let object = |bytes: &[u8]| -> Result<Map<String, Value>> {
            serde_json::from_slice(bytes).map_err(|error| Error::internal(&error))
        };
        let hidden = match &record.hidden[..] {
            [] => Map::new(),
            hidden => object(hidden)?,
        };
        Ok(User {
            key: record.key,
            version: record.version,
            members: object(&record.body)?,
            hidden,
            body: record.body,
        })
    }

    /// The name, if it has one.
    pub(crate) fn username(&self) -> Option<&str> {
        self.members.get(USERNAME)?.as_str()
    }

    /// Whether it was banned, or is not verified yet.
    pub(crate) fn is_inactive(&self) -> bool {
        self.members.get(INACTIVE) == Some(&Value::Bool(true))
    }

    /// The hash of its password, if it has one.
    pub(crate) fn password_hash(&self) -> Option<&str> {
        self.hidden.get(PASSWORD_MEMBER)?.as_str()
    }

    /// Tokens that rest on an earlier version are no good.
    pub(crate) fn sessions_from(&self) -> u64 {
        let from = self.hidden.get(SESSIONS_FROM);
        from.and_then(Value::as_u64).unwrap_or(0)
    }

    /// A hidden text.
    pub(crate) fn hidden_text(&self, member: &str) -> Option<&str> {
        self.hidden.get(member)?.as_str()
    }
}
