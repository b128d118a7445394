//! What can go wrong on a disk. None of these is a rejection: whoever meets one stops the shard, or the process.

use std::path::PathBuf;

use proto::ShardId;

use crate::ids::{LogId, StoreId};

/// Result of a storage call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of storage. Unless a variant says otherwise, it is unknown what was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// RocksDB refused, in its own words.
    #[error("engine: {0}")]
    Engine(String),
    /// Stored bytes are not what was written. Never served; the replica is rebuilt from its peers.
    #[error("corrupt data: {what}")]
    Corrupt {
        /// What was read, and where.
        what: String,
    },
    /// The data directory was written by a newer release. Nothing was written.
    #[error(
        "{} has data format {found}, this release reads up to {supported}: \
         start the release that wrote it, or a newer one; the data is untouched", path.display()
    )]
    Format {
        /// The version on disk.
        found: u32,
        /// The newest version that this release knows.
        supported: u32,
        /// The data directory.
        path: PathBuf,
    },
    /// The data directory belongs to another cluster. Nothing was written.
    #[error(
        "this data directory belongs to cluster {found}, not to {wanted}: use another --data directory, or wipe this one"
    )]
    WrongCluster {
        /// The cluster on disk.
        found: String,
        /// The cluster asked for.
        wanted: String,
    },
    /// The data database holds stores that the log database never made: one of the two is not of this data directory. Nothing was
    /// written.
    #[error(
        "{0}/data holds stores that {0}/log never made: put back the log directory that belongs to it, or wipe both", path.display()
    )]
    Unpaired {
        /// The data directory.
        path: PathBuf,
    },
    /// The data directory is sealed, and nobody gave a master key. Nothing was written.
    #[error(
        "{} is sealed (encryption at rest), and no master key is given: give the one that it was sealed with \
         (master_key under [encryption] of the configuration, --master-key of `larder data verify`); the data is untouched", path.display()
    )]
    Sealed {
        /// The data directory.
        path: PathBuf,
    },
    /// The master key that was given is not the one that wraps the data keys. Nothing was written.
    #[error(
        "the master key does not open {}: give the one that it was sealed with, and while it is being changed the one before \
         as encryption.previous_master_key; the data is untouched", path.display()
    )]
    WrongMasterKey {
        /// The data directory.
        path: PathBuf,
    },
    /// The data is sealed, and its data keys are missing or do not read. Nothing was written.
    #[error(
        "{} with the data keys of this sealed data directory is missing or damaged, and so is its copy: put it back from a backup of \
         this node; without it nothing here can be read, and the node's replicas must be renewed from their peers on an empty data \
         directory (`larder shard replace`); nothing was written", path.display()
    )]
    KeysLost {
        /// The file.
        path: PathBuf,
    },
    /// Another process has the data directory open. Nothing was written.
    #[error(
        "{} is in use by another process: most likely a `larder` node is already running on it; \
         stop that one, or give this one a data directory of its own", path.display()
    )]
    Locked {
        /// The database that is locked.
        path: PathBuf,
    },
    /// Entries do not continue the log. Nothing was written.
    #[error("store {store}: append starts at index {found}, expected {expected}")]
    Gap {
        /// The log.
        store: StoreId,
        /// The index that would have continued it.
        expected: u64,
        /// The first index that did not.
        found: u64,
    },
    /// An earlier write or sync of the log database failed: nothing is accepted any more, the process must end.
    #[error("log database failed earlier: {reason}")]
    LogFailed {
        /// The first failure.
        reason: String,
    },
    /// The log database was shut down. Nothing was written.
    #[error("log database is closed")]
    Closed,
    /// This node has no such replica. Nothing was written.
    #[error("shard {shard} has no replica on this node")]
    NoReplica {
        /// The shard asked for.
        shard: ShardId,
    },
    /// The store is not the one that the shard is receiving a snapshot into: another transfer took its place. Nothing changed.
    #[error("shard {shard} is not receiving into store {store}")]
    NotReceiving {
        /// The shard.
        shard: ShardId,
        /// The store that was named.
        store: StoreId,
    },
    /// A snapshot's files do not hold what its manifest says. The store that received it stays dead.
    #[error("snapshot of shard {shard} at {last}: {what}")]
    Snapshot {
        /// The shard.
        shard: ShardId,
        /// The snapshot's log id.
        last: LogId,
        /// What differs.
        what: String,
    },
}

impl Error {
    /// [`Error::Corrupt`] with a message.
    pub fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into() }
    }

    /// The same failure for another waiter: callbacks of one write all learn of it.
    pub(crate) fn to_io(&self) -> std::io::Error {
        std::io::Error::other(self.to_string())
    }
}

impl From<rocksdb::Error> for Error {
    fn from(error: rocksdb::Error) -> Self {
        match error.kind() {
            rocksdb::ErrorKind::Corruption => Self::Corrupt {
                what: error.into_string(),
            },
            _ => Self::Engine(error.into_string()),
        }
    }
}
