//! Following the rights of a database: roles with their members, and ends of sessions.

use prost::Message;
use proto::log::UserVersion;

/// See [`super::Operation::FollowRights`].
#[derive(Clone, PartialEq, Message)]
pub struct FollowRights {
    /// Name of the database.
    #[prost(string, tag = "1")]
    pub database: String,
    /// What the asking node knows: everything that changed up to this index.
    #[prost(uint64, tag = "2")]
    pub after: u64,
    /// How long to wait for news if there are none.
    #[prost(uint64, tag = "3")]
    pub wait_us: u64,
    /// Set: the asking node knows nothing, and wants the roles behind this key.
    #[prost(string, optional, tag = "4")]
    pub roles_after: Option<String>,
}

/// A part of the rights of a database.
#[derive(Clone, PartialEq, Message)]
pub struct Rights {
    /// With this part the asking node knows what changed up to this index. In an answer with all roles: as before.
    #[prost(uint64, tag = "1")]
    pub upto: u64,
    /// Roles as they are now.
    #[prost(message, repeated, tag = "2")]
    pub roles: Vec<RoleMembers>,
    /// Keys of roles that are gone.
    #[prost(string, repeated, tag = "3")]
    pub gone: Vec<String>,
    /// Users whose sessions ended.
    #[prost(message, repeated, tag = "4")]
    pub ended: Vec<EndedSessions>,
    /// There is more: ask again at once.
    #[prost(bool, tag = "5")]
    pub more: bool,
    /// In an answer with all roles: the last key that was looked at.
    #[prost(string, optional, tag = "6")]
    pub roles_last: Option<String>,
    /// What changed at or before this index may not be told any more. Whoever knows less must begin anew.
    #[prost(uint64, tag = "7")]
    pub forgotten: u64,
}

/// A role and who belongs to it.
#[derive(Clone, PartialEq, Message)]
pub struct RoleMembers {
    /// Decoded key of the role.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Full ids of the users.
    #[prost(string, repeated, tag = "2")]
    pub users: Vec<String>,
}

/// A user whose sessions ended.
#[derive(Clone, PartialEq, Message)]
pub struct EndedSessions {
    /// Those that rest on an earlier version are over.
    #[prost(message, optional, tag = "1")]
    pub user: Option<UserVersion>,
    /// Index of the entry that ended them.
    #[prost(uint64, tag = "2")]
    pub index: u64,
}
