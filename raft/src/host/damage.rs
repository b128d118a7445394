//! What this node's replicas and logs say of damage in the bytes that they lie in.

use proto::{ReplicaId, ShardId};
use storage::raft_log::GroupLog;

use super::Host;

impl Host {
    /// Replicas whose stored state failed a read, a scan or an apply since it was opened, each with what was said of the bytes.
    pub fn damaged(&self) -> Vec<(ShardId, ReplicaId, String)> {
        let groups = self.inner.groups.read();
        let damaged = groups.iter().filter_map(|(shard, group)| {
            let what = group.machine().damage()?;
            Some((*shard, group.replica_id(), what))
        });
        damaged.collect()
    }

    /// The log of this node's replica of a shard, to be scrubbed.
    pub fn log(&self, shard: ShardId) -> Option<GroupLog> {
        self.group(shard).map(|group| group.log().clone())
    }
}
