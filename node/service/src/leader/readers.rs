//! Which buckets want entries of readers (`storage::tables::readers`): those with documents that not everybody may read.
//!
//! Not replicated: a bucket is noticed anew by the next write or query that shows it, and how far its entries are is in the shard's state. The
//! job [`crate::jobs::Readers`] does what is noticed here.

use std::collections::{BTreeSet, HashSet};

use document::acl::Acl;
use parking_lot::RwLock;
use proto::ShardId;
use tokio::sync::Notify;

/// A bucket in a shard: shard, database id, bucket id.
pub(crate) type Place = (ShardId, u32, u32);

/// What was noticed. Bounded by the buckets of the shards here, as layouts are.
#[derive(Default)]
pub(crate) struct Readers {
    known: RwLock<Known>,
    noticed: Notify,
}

#[derive(Default)]
struct Known {
    wanted: BTreeSet<Place>,
    /// Once complete, entries stay it.
    complete: HashSet<Place>,
}

impl Readers {
    /// Notes that entries of readers would help here, unless they are known to be there.
    pub(crate) fn want(&self, place: Place) {
        {
            let known = self.known.read();
            if known.complete.contains(&place) || known.wanted.contains(&place) {
                return;
            }
        }
        self.known.write().wanted.insert(place);
        self.noticed.notify_one();
    }

    /// The same where a document with this ACL was written.
    pub(crate) fn written(&self, place: Place, acl: Option<&Acl>) {
        if acl.is_some_and(|acl| !acl.read.is_empty()) {
            self.want(place);
        }
    }

    /// What is wanted, in order.
    pub(crate) fn wanted(&self) -> Vec<Place> {
        self.known.read().wanted.iter().copied().collect()
    }

    /// Nothing is left to do here, or not by this node.
    pub(crate) fn done(&self, place: Place, is_complete: bool) {
        let mut known = self.known.write();
        known.wanted.remove(&place);
        if is_complete {
            known.complete.insert(place);
        }
    }

    /// Waits until something new is wanted.
    pub(crate) async fn noticed(&self) {
        self.noticed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use document::acl::Rules;

    use super::*;

    #[test]
    fn only_buckets_with_documents_for_some_are_wanted_and_only_until_they_are_complete() {
        let readers = Readers::default();
        let place = |bucket| (ShardId(1), 1, bucket);
        let private = Acl {
            read: Rules::nobody(),
            write: Rules::new(),
        };
        let unwritable = Acl {
            read: Rules::new(),
            write: Rules::nobody(),
        };
        readers.written(place(1), None);
        readers.written(place(2), Some(&unwritable));
        readers.written(place(3), Some(&private));
        readers.want(place(4));
        assert_eq!(readers.wanted(), [place(3), place(4)]);
        readers.done(place(3), true);
        readers.done(place(4), false);
        readers.want(place(3));
        readers.want(place(4));
        assert_eq!(readers.wanted(), [place(4)]);
    }
}
