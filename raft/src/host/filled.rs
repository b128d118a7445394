//! Whether a replica holds the state of its shard, or is only on its way there.
//!
//! A replica that joins a group begins with nothing. Filled from the log it passes through every state that the shard ever had, and would
//! show what was written long ago as absent. It holds the shard's state once it has applied the entry that made it a member: by then it
//! has all that was committed before it was asked for. Founding members are members from the first entry on.
//!
//! The applied membership says so, which is stored with the state: it holds over a restart, and nobody has to be asked.

use std::sync::atomic::Ordering;

use proto::ShardId;

use super::Host;
use super::group::Group;
use crate::codec;

impl Host {
    /// Whether this node's replica of a shard holds the shard's state as of some moment since it joined. One that does not must not
    /// answer what the shard holds, at any level.
    pub fn is_filled(&self, shard: ShardId) -> bool {
        self.sound(shard).is_some_and(|group| group.is_filled())
    }
}

impl Group {
    fn is_filled(&self) -> bool {
        if self.filled().load(Ordering::Relaxed) {
            return true;
        }
        let applied = self.machine().applied();
        // What does not decode stops the group when it opens.
        let membership = codec::stored_membership(applied.membership.as_ref()).unwrap_or_default();
        let is_member = membership
            .membership()
            .get_node(&self.replica_id().0)
            .is_some();
        // It goes on being so: whoever is dropped from a group never comes back under the same id.
        self.filled().fetch_or(is_member, Ordering::Relaxed);
        is_member
    }
}
