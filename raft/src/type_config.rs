//! The types that openraft is instantiated with. Nothing outside this crate names them.
//!
//! A command and a reply are opaque bytes here: the state machine behind a group gives them their meaning.

use std::fmt;

use bytes::Bytes;
use openraft::alias;
use proto::NodeId;

openraft::declare_raft_types!(
    /// One configuration for all groups of a node, documents and metadata alike.
    pub(crate) TypeConfig:
        D = Command,
        R = Reply,
        NodeId = u64,
        Node = Member,
);

/// An encoded `larder.log.v1` command.
#[derive(Clone)]
pub(crate) struct Command {
    /// The command.
    pub(crate) bytes: Bytes,
    /// The whole encoded entry that it was read from, of which `bytes` is a part; empty if it was just proposed.
    /// Log and followers get these bytes as they are.
    pub(crate) entry: Bytes,
}

/// What the state machine answered to a command; never leaves the process.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Reply(pub Bytes);

/// Where a replica lives. Addresses are metadata's matter: they change, this does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Member {
    /// The node that holds the replica.
    pub node: NodeId,
}

impl Command {
    /// A command that is in no log yet.
    pub(crate) fn proposed(bytes: Bytes) -> Self {
        Self {
            bytes,
            entry: Bytes::new(),
        }
    }
}

impl PartialEq for Command {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.bytes.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({} bytes)", self.0.len())
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

pub(crate) type LogId = alias::LogIdOf<TypeConfig>;
pub(crate) type LeaderId = alias::LeaderIdOf<TypeConfig>;
pub(crate) type Vote = alias::VoteOf<TypeConfig>;
pub(crate) type Entry = alias::EntryOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
