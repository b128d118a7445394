//! What can go wrong in consensus, by what the caller may conclude from it.

use proto::{NodeId, ShardId};

/// Result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of group management, storage or transport.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A message of a peer, or a stored record, is malformed.
    #[error("malformed message: {0}")]
    Wire(&'static str),
    /// The storage layer failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// The group is not open on this node.
    #[error("shard {0} has no replica on this node")]
    NoGroup(ShardId),
    /// The group has stopped; its cause is in the log.
    #[error("the group of shard {shard} has stopped: {cause}")]
    Stopped {
        /// Which shard.
        shard: ShardId,
        /// As openraft reports it.
        cause: String,
    },
    /// An option breaks a rule.
    #[error("raft options: {0}")]
    Options(String),
    /// A membership change or leader transfer was refused.
    #[error("refused: {0}")]
    Refused(String),
    /// It did not happen in time; it may still.
    #[error("not done in time: {0}")]
    Timeout(&'static str),
}

/// Why a proposal was not answered. All but [`Self::Unknown`] promise that nothing happened and nothing will.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This replica does not lead; `hint` is the node that does, if known.
    #[error("not the leader")]
    NotLeader {
        /// The leader's node.
        hint: Option<NodeId>,
    },
    /// No replica of the shard on this node.
    #[error("no replica of the shard here")]
    NoGroup,
    /// Too many proposals wait.
    #[error("too many proposals in flight")]
    Overloaded,
    /// The group is stopping and never took the proposal.
    #[error("the group is stopping")]
    Stopping,
    /// The deadline passed, or the leader changed, after the command was appended: it may be applied, or become so.
    #[error("the outcome is unknown")]
    Unknown,
}

/// Why a read could not be proven current. Nothing happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This replica does not lead; `hint` is the node that does, if known.
    #[error("not the leader")]
    NotLeader {
        /// The leader's node.
        hint: Option<NodeId>,
    },
    /// No replica of the shard on this node.
    #[error("no replica of the shard here")]
    NoGroup,
    /// No quorum confirmed the leader in time.
    #[error("no quorum answered in time")]
    NoQuorum,
    /// Too many reads wait.
    #[error("too many reads in flight")]
    Overloaded,
}
