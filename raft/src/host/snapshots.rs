//! Snapshots of a shard: recorded, purged behind, received and installed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use prost::Message as _;
use proto::log;
use proto::peer::SnapshotHeader;
use proto::{ReplicaId, ShardId};
use storage::engine::Column;
use storage::ids::StoreId;
use storage::seal::TransferKey;
use storage::snapshot::{FileInfo, Manifest};

use super::Host;
use super::group::Group;
use crate::codec;
use crate::error::{Error, Result};
use crate::state_machine::SnapshotData;
use crate::transport::Receiving;
use crate::type_config::TypeConfig;

/// Recording waits for the flushes of other groups, at worst.
const RECORD_TIMEOUT: Duration = Duration::from_secs(60);

/// How long an operator waits for a purge that appends under way put off.
const PURGE_TIMEOUT: Duration = Duration::from_secs(10);

impl Host {
    /// Records a snapshot of this node's replica: what is applied is flushed. With `purge`, the log up to it goes
    /// too, and a replica that lacks it will be sent the shard. Returns the index it stands at.
    ///
    /// # Errors
    /// [`Error::NoGroup`], [`Error::Stopped`], [`Error::Timeout`]: it may still happen. [`Error::Storage`]: the flush failed,
    /// nothing was recorded.
    pub async fn snapshot(&self, shard: ShardId, purge: bool) -> Result<u64> {
        let group = self.group(shard).ok_or(Error::NoGroup(shard))?;
        let target = group.machine().applied().id.map_or(0, |id| id.index);
        let machine = Arc::clone(group.machine());
        let flushed = self.inner.pool.run(move || machine.engine().flush()).await;
        flushed.ok_or(Error::Timeout("the storage thread"))??;
        let index = self.record(&group, target).await?;
        if purge && !self.purge(shard, index, PURGE_TIMEOUT).await? {
            return Err(Error::Timeout("the purge"));
        }
        Ok(index)
    }

    /// Makes openraft record the position that is on disk, which is at `target` at least. Returns the position.
    pub(super) async fn record(&self, group: &Group, target: u64) -> Result<u64> {
        let shard = group.shard();
        // Between two callers, the later one's position could be taken for the earlier one's.
        let _one = group.recording().lock().await;
        let raft = group.raft();
        let asked = raft.trigger().snapshot().await;
        asked.map_err(|fatal| Error::Stopped {
            shard,
            cause: fatal.to_string(),
        })?;
        let metrics = raft
            .wait(Some(RECORD_TIMEOUT))
            .metrics(
                |metrics| metrics.snapshot.map_or(0, |id| id.index) >= target,
                "snapshot recorded",
            )
            .await
            .map_err(|_| Error::Timeout("the snapshot"))?;
        Ok(metrics.snapshot.map_or(0, |id| id.index))
    }

    /// Drops the log up to `index`, which a recorded position covers. False: not within `time`, but it will be.
    ///
    /// openraft puts a purge off while an append to a follower may need the entries. That append ends with an answer, or with an error
    /// when the follower is down; then openraft looks again, and sends such a follower a snapshot from then on.
    pub(super) async fn purge(&self, shard: ShardId, index: u64, time: Duration) -> Result<bool> {
        let group = self.group(shard).ok_or(Error::NoGroup(shard))?;
        let raft = group.raft();
        let asked = raft.trigger().purge_log(index).await;
        asked.map_err(|fatal| Error::Stopped {
            shard,
            cause: fatal.to_string(),
        })?;
        let purged = raft
            .wait(Some(time))
            .metrics(
                |metrics| metrics.purged.map_or(0, |id| id.index) >= index,
                "log purged",
            )
            .await;
        Ok(purged.is_ok())
    }

    /// A fresh store id for a snapshot that is about to arrive, and whether it must come sealed.
    ///
    /// # Errors
    /// [`Error::NoGroup`]: the replica is not here. [`Error::Storage`]: the disk failed.
    pub async fn begin_receive(&self, shard: ShardId, target: ReplicaId) -> Result<Receiving> {
        let group = self.addressed(shard, target).ok_or(Error::NoGroup(shard))?;
        let is_sealed = group.machine().engine().is_sealed();
        let logs = self.inner.logs.clone();
        let begun = self
            .inner
            .pool
            .run(move || logs.directory().begin_receive(shard))
            .await;
        let store = begun.ok_or(Error::Timeout("the storage thread"))??;
        Ok(Receiving { store, is_sealed })
    }

    /// The stores that snapshots are being received into, also since before a restart.
    pub(crate) fn receiving(&self) -> Vec<(ShardId, StoreId)> {
        let rows = self.inner.logs.directory().replicas();
        rows.iter()
            .filter_map(|row| Some((row.shard, row.receiving?)))
            .collect()
    }

    /// Whether a snapshot is being received into `store` for this replica.
    pub(crate) fn is_receiving(&self, shard: ShardId, target: ReplicaId, store: StoreId) -> bool {
        let rows = self.inner.logs.directory().replicas();
        let here = self.addressed(shard, target).is_some();
        here && rows
            .iter()
            .any(|row| (row.shard, row.replica, row.receiving) == (shard, target, Some(store)))
    }

    /// Installs a snapshot whose files have arrived in `dir`; gives this replica's vote.
    ///
    /// # Errors
    /// [`Error::Wire`]: the header is malformed. [`Error::NoGroup`]. [`Error::Refused`]: openraft or the storage
    /// layer did not take it; the old state stands.
    pub async fn install_snapshot(
        &self,
        header: SnapshotHeader,
        dir: PathBuf,
        files: Vec<PathBuf>,
    ) -> Result<log::Vote> {
        let shard = ShardId(header.shard);
        let group = self
            .addressed(shard, ReplicaId(header.target))
            .ok_or(Error::NoGroup(shard))?;
        let store = StoreId(header.store);
        if !self.is_receiving(shard, ReplicaId(header.target), store) {
            // Past this point a refusal would stop the group.
            return Err(Error::Refused(format!(
                "store {store} is not being received"
            )));
        }
        let vote = codec::vote_from_proto(header.vote)?;
        let last = codec::log_id_from_proto(
            header
                .last
                .ok_or(Error::Wire("a snapshot has no position"))?,
        );
        let membership_bytes = Bytes::from(header.membership.unwrap_or_default().encode_to_vec());
        let membership_id = header
            .membership_log_id
            .map(|id| codec::log_id_to_storage(&codec::log_id_from_proto(id)));
        let membership = (membership_id, membership_bytes);
        let meta = SnapshotMetaOf::<TypeConfig> {
            last_log_id: Some(last),
            last_membership: codec::stored_membership(Some(&membership))?,
        };
        let files = header
            .files
            .iter()
            .zip(files)
            .map(|(file, path)| {
                let column = u8::try_from(file.column).ok().and_then(Column::from_number);
                let column = column.ok_or(Error::Wire("a snapshot file of an unknown column"))?;
                Ok(FileInfo {
                    column,
                    bytes: file.bytes,
                    checksum: file.checksum,
                    path,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let transfer_key = header
            .transfer_key
            .map(|key| {
                TransferKey::from_slice(&key.key).ok_or(Error::Wire("a transfer key that is none"))
            })
            .transpose()?;
        let manifest = Manifest {
            last: codec::log_id_to_storage(&last),
            membership,
            files,
            transfer_key,
        };
        let data = SnapshotData::Received {
            store,
            manifest,
            dir,
        };
        let snapshot = SnapshotOf::<TypeConfig, _> {
            meta,
            snapshot: data,
        };
        let response = group
            .raft()
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(|fatal| Error::Refused(fatal.to_string()))?;
        Ok(codec::vote_to_proto(&response.vote))
    }
}
