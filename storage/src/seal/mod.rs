//! Encryption at rest: values are compressed, then sealed, before they reach a disk; whoever reads them here sees plaintext.
//!
//! ```text
//! master key        given by the operator, never stored
//!   └ data keys     random, 256 bit, wrapped by the master key in the files `sealing-keys` and `sealing-keys.copy`
//!       ├ node      Raft entries, the change log, rows that belong to no database
//!       └ one for each database: documents, index entries, buckets, …
//! ```
//!
//! The keys are this node's alone. Replicas agree on plaintext: entries and snapshots cross the wire as such (under TLS), and each node
//! seals its own disk. So a stolen disk opens nothing of another node, and keys change without a word between nodes.
//!
//! | module | owns |
//! |---|---|
//! | `master` | the key that the operator gives |
//! | `value` | one sealed value, byte by byte |
//! | `ring` | the data keys: which is current, which is on its way out |
//! | `file` | where they lie |
//! | `transfer` | files of a snapshot on its way to another node |
//! | `rewrite` | what is sealed with an old key, or not at all, brought to the current one |
//!
//! The engine is sealed by [`Sealed`](crate::engine::sealed::Sealed), entries of the log by `raft_log`. Without a master key neither is
//! there, and nothing passes through here.
//!
//! Invariants:
//! - A value is bound to its key (less the store id) by the seal: moved to another key it does not open.
//! - What does not open is [`Error::Corrupt`](crate::Error::Corrupt) and never served.
//! - A data key is on the disk, twice, before anything is sealed with it, and until nothing is.
//!
//! Lacks: secrecy of keys (ids, document keys, indexed values), of sizes and of counts; protection against an old copy of a disk being
//! put back.

mod file;
mod master;
mod rewrite;
mod ring;
pub(crate) mod transfer;
pub(crate) mod value;

/// The file of data keys, in the data directory.
pub(crate) const KEY_FILE: &str = file::NAMES[0];

pub use master::{MasterKey, MasterKeyError};
pub use rewrite::{Pass, SealStatus, Sealing};
pub use ring::{KeyState, Ring, Scope};
pub use transfer::TransferKey;

/// What an operator gave to open and seal a data directory with.
#[derive(Clone, Debug, Default)]
pub enum Masters {
    /// Nothing is sealed.
    #[default]
    Off,
    /// Everything is.
    On {
        /// The master key.
        current: MasterKey,
        /// The one before it: what it wraps is wrapped anew at the next start.
        previous: Option<MasterKey>,
    },
}
