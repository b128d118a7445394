//! What every node knows of a database's rights: who belongs to which role, and whose sessions ended.
//!
//! # How a session ends
//!
//! A token names the **version** of the user document that was read together with the password hash it was checked against. The write
//! that changes the password (or bans the user, deletes it, logs it out everywhere) raises the version, and in its own batch leaves a
//! note that sessions below that version are over. The leader of the user's shard tells the one shard that holds the database's roles,
//! and only then answers; if it dies first, the next leader finds the note (job `session_ends`). So:
//!
//! - a log-in that read the old password has a version below, and ends, however late it comes through;
//! - a log-in that read the new one stays, also in the same second;
//! - nothing is lost between the two shards, and telling twice changes nothing.
//!
//! No clock decides any of it.
//!
//! # How a node knows
//!
//! Each node keeps a [`copy::Copy`] for each database that tokens are used in, and follows the shard of the roles: it asks the leader
//! what is new after an index; the leader makes sure of its leadership, answers at once if there is news, and otherwise waits a while
//! for some. The copy is as old as the question that was answered last, by this node's monotonic clock from before it was sent. A copy
//! that is older than the bound **B** judges nothing: requests with a token are refused as unavailable, with no effect. So what was
//! acknowledged holds on every node after B, whatever stands between the nodes, and on a leader that was cut off too, since nobody
//! confirms it any more.
//!
//! B is for the moment at which a node lets a request in. What it has let in may go on for as long as a request may take.
//!
//! A node asks anew at once for what it has itself acknowledged, so a client that changes a role and goes on at the same node sees it.
//!
//! # Memory
//!
//! A copy holds the members of all roles, and one row for each user whose sessions were ended within the long life of a session: older
//! ones leave by entries in the log (job `session_ends`), and then everywhere.
//!
//! Lacks: API tokens, which live for ever: their user is read too, see `sessions`.

mod copy;
mod follow;
mod send;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::Notify;

pub(crate) use self::copy::{Copy, Verdict};
pub(crate) use self::send::Ends;

/// The copies of one node.
#[derive(Default)]
pub(crate) struct Rights {
    /// By id of the database.
    copies: RwLock<HashMap<u32, Arc<Followed>>>,
    /// A database is used for the first time.
    wanted: Notify,
}

/// A copy, and what is needed to keep it.
#[derive(Default)]
pub(crate) struct Followed {
    pub(crate) copy: Copy,
    /// One hurried question at a time, beside the one that waits for news.
    asking: tokio::sync::Mutex<()>,
    /// When it was used last, monotonic milliseconds.
    used_ms: AtomicU64,
}

impl Rights {
    /// The copy of a database; an empty one at first, which judges nothing.
    pub(crate) fn of(&self, database: u32, now: Duration) -> Arc<Followed> {
        let known = self.copies.read().get(&database).cloned();
        let followed = known.unwrap_or_else(|| {
            let followed = Arc::clone(self.copies.write().entry(database).or_default());
            self.wanted.notify_one();
            followed
        });
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        followed.used_ms.store(now, Ordering::Relaxed);
        followed
    }

    /// Databases with a copy.
    pub(crate) fn followed(&self) -> Vec<(u32, Arc<Followed>)> {
        let copies = self.copies.read();
        copies
            .iter()
            .map(|(database, followed)| (*database, Arc::clone(followed)))
            .collect()
    }

    /// Forgets copies that nobody used since `since`.
    pub(crate) fn forget_unused(&self, since: Duration) {
        let since = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self.copies
            .write()
            .retain(|_, followed| followed.used_ms.load(Ordering::Relaxed) >= since);
    }

    /// Returns when a database is used that was not before.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// From now on the copy of a database judges nothing until it has been confirmed again: this node has acknowledged a change.
    pub(crate) fn outdate(&self, database: u32) {
        if let Some(followed) = self.copies.read().get(&database) {
            followed.copy.outdate();
        }
    }
}
