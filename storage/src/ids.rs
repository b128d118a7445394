//! Identifiers that only storage and consensus know.

use std::cmp::Ordering;
use std::fmt;

/// The first eight bytes of every key: node-local, never reused, one per (replica, generation).
///
/// Ids start at 1. The log database keeps the rows of its own directory under id 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub u64);

impl StoreId {
    /// Bytes of a store id at the start of a key.
    pub const LEN: usize = size_of::<u64>();

    /// The prefix of this store's keys, big-endian, so that stores sort by id.
    pub fn prefix(self) -> [u8; Self::LEN] {
        self.0.to_be_bytes()
    }

    /// The first key past this store: its keys are `prefix()..end()`.
    pub fn end(self) -> [u8; Self::LEN] {
        self.0.saturating_add(1).to_be_bytes()
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A position in a group's log. Ordered by (term, index): within a term there is one leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogId {
    /// Election number.
    pub term: u64,
    /// Replica id of the leader of that term.
    pub leader: u64,
    /// Position, from 0.
    pub index: u64,
}

impl Ord for LogId {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.term, self.index, self.leader).cmp(&(other.term, other.index, other.leader))
    }
}

impl PartialOrd for LogId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}@{}", self.term, self.leader, self.index)
    }
}

impl From<proto::log::LogId> for LogId {
    fn from(id: proto::log::LogId) -> Self {
        Self {
            term: id.term,
            leader: id.leader,
            index: id.index,
        }
    }
}

impl From<LogId> for proto::log::LogId {
    fn from(id: LogId) -> Self {
        Self {
            term: id.term,
            leader: id.leader,
            index: id.index,
        }
    }
}

/// What a replica has promised in an election.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Vote {
    /// Election number.
    pub term: u64,
    /// The replica voted for.
    pub replica: u64,
    /// A quorum granted it: `replica` leads the term.
    pub committed: bool,
}

impl From<proto::log::Vote> for Vote {
    fn from(vote: proto::log::Vote) -> Self {
        Self {
            term: vote.term,
            replica: vote.replica,
            committed: vote.committed,
        }
    }
}

impl From<Vote> for proto::log::Vote {
    fn from(vote: Vote) -> Self {
        Self {
            term: vote.term,
            replica: vote.replica,
            committed: vote.committed,
        }
    }
}
