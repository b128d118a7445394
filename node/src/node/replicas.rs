//! Makes this node hold the replicas that the metadata assigns to it, and no other.
//!
//! A replica is started only for an id that metadata lists. The first membership of a fresh group is set by the node of
//! its preferred leader at once, and by the others if no leader shows: all of them set the same one, so it does not
//! matter who was first. Once a replica of a shard was replaced, nobody sets the shard's membership any more: its group knows it.
//!
//! A replica is destroyed only when a linearizable read of the metadata says that it is retired; until then it runs, and votes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use cluster::machine::{ClusterMachine, StateHandle};
use cluster::state::ClusterState;
use proto::{NodeId, ReplicaId, ShardId};
use raft::transport::client::Peers;
use raft::{GroupStatus, Host, Role};
use service::Service;
use storage::machine::documents::DocumentMachine;
use storage::machine::{Machine, Replica};
use storage::{Storage, StoreId};
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use super::repair;
use crate::cli::exit::{Exit, Status};

/// Looks again at least so often: a group without a leader sends no event.
const LOOK_AGAIN: Duration = Duration::from_millis(1000);

/// How long a group may be without a leader before a node that is not its preferred leader sets its membership.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long one announcement of an address, or one read of the metadata, may take.
const METADATA_TIME: Duration = Duration::from_secs(5);

/// How long a group that ends waits for its successor.
const HAND_OVER: Duration = Duration::from_millis(1500);

/// The replicas of this node.
pub(super) struct Replicas {
    storage: Storage,
    host: Host,
    peers: Peers,
    machine: Arc<ClusterMachine>,
    own: proto::log::Node,
    /// The data directory.
    dir: PathBuf,
    /// Entries that were applied again while groups opened: the tail that was not flushed.
    replayed: AtomicU64,
    /// One opening at a time: a join and the metadata may ask for the same replica.
    opening: Mutex<()>,
}

impl Replicas {
    pub(super) fn new(
        storage: Storage,
        host: Host,
        peers: Peers,
        machine: Arc<ClusterMachine>,
        own: proto::log::Node,
        dir: PathBuf,
    ) -> Self {
        Self {
            storage,
            host,
            peers,
            machine,
            own,
            dir,
            replayed: AtomicU64::new(0),
            opening: Mutex::new(()),
        }
    }

    /// Whether the replica lies on this disk in a state that must not be opened; another replica takes its place.
    fn is_lost(&self, shard: ShardId, replica: ReplicaId) -> bool {
        let mut lost = self.storage.lost.iter();
        lost.any(|lost| (lost.shard, lost.replica) == (shard, replica))
    }

    fn metadata(&self) -> StateHandle {
        self.machine.handle()
    }

    /// Starts the replicas that lie on this disk.
    ///
    /// # Errors
    /// One of them cannot be recovered.
    pub(super) async fn open_stored(&self) -> anyhow::Result<()> {
        let mut rows = self.storage.logs.directory().replicas();
        // Metadata first: it holds the addresses that the other groups need.
        rows.sort_by_key(|row| (row.shard, row.replica));
        // One that was renewed here only waits for its removal: it must not come back.
        let newest: BTreeMap<_, _> = rows.iter().map(|row| (row.shard, row.replica)).collect();
        rows.retain(|row| !self.is_lost(row.shard, row.replica));
        for row in rows.iter().filter(|row| row.shard.is_meta()) {
            if newest.get(&row.shard) != Some(&row.replica) {
                self.recall(row.replica, row.data).await;
            }
        }
        rows.retain(|row| newest.get(&row.shard) == Some(&row.replica));
        for row in rows {
            self.open(row.shard, row.replica).await?;
            if row.shard == ShardId::META {
                self.connect(&self.metadata().current());
            }
        }
        Ok(())
    }

    /// Publishes the metadata that a replica knew which was renewed here: the one in its place may hold nothing yet, and until it has
    /// caught up the node finds its peers by this.
    async fn recall(&self, replica: ReplicaId, data: StoreId) {
        let (engine, machine) = (self.storage.engine.clone(), self.machine.clone());
        let read = tokio::task::spawn_blocking(move || {
            Replica::open(engine, machine, ShardId::META, data).map(drop)
        });
        match read.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%replica, %error, "renewed metadata is not readable"),
            Err(error) => tracing::warn!(%replica, %error, "renewed metadata is not readable"),
        }
    }

    /// Publishes how long the stored replicas took to open, and how many entries were applied again for it.
    pub(super) fn report_start(&self, took: Duration) {
        let entries = self.replayed.load(Ordering::Relaxed);
        metrics::gauge!("larder_start_replay_seconds").set(took.as_secs_f64());
        metrics::gauge!("larder_start_replayed_entries").set(entries as f64);
        tracing::info!(entries, ms = took.as_millis(), "replayed the log");
    }

    /// Starts one replica, made on disk first if it is new. A no-op if it runs.
    ///
    /// # Errors
    /// The disk failed, or the stored state cannot be recovered, or is lost.
    pub(super) async fn open(&self, shard: ShardId, replica: ReplicaId) -> anyhow::Result<()> {
        anyhow::ensure!(
            !self.is_lost(shard, replica),
            "replica {replica} of shard {shard} is damaged beyond repair and waits to be renewed"
        );
        let _one = self.opening.lock().await;
        match self.host.status(shard) {
            Some(status) if status.replica >= replica => return Ok(()),
            // Renewed in its place: the old replica ends before the new one begins.
            Some(status) => {
                tracing::info!(%shard, old = %status.replica, %replica, "replica renewed");
                self.step_aside(shard, &status).await;
                self.host.stop_group(shard).await;
            }
            None => {}
        }
        let storage = self.storage.clone();
        let machine: Arc<dyn Machine> = if shard.is_meta() {
            self.machine.clone()
        } else {
            Arc::new(DocumentMachine)
        };
        let opened = tokio::task::spawn_blocking(move || {
            let row = storage.logs.directory().create_replica(shard, replica)?;
            let applied = Replica::open(storage.engine.clone(), machine, shard, row.data)?;
            Ok::<_, storage::Error>((applied, storage.logs.group(row.log)?))
        });
        let (applied, log) = opened
            .await?
            .with_context(|| format!("replica {replica} of shard {shard}"))?;
        let before = applied.applied().id.map_or(0, |id| id.index);
        let opened = self
            .host
            .open_group(shard, replica, Arc::clone(&applied), log)
            .await;
        if let (Err(error), Some(what)) = (&opened, applied.damage()) {
            repair::note(&self.dir, &what);
            return Err(Exit::new(
                Status::DataFailed,
                format_args!(
                    "replica {replica} of shard {shard}: {error}: {what}: start the node again, and it rewrites its data without the \
                     damage"
                ),
            )
            .into());
        }
        opened?;
        let after = applied.applied().id.map_or(0, |id| id.index);
        self.replayed
            .fetch_add(after.saturating_sub(before), Ordering::Relaxed);
        tracing::info!(%shard, %replica, "replica open");
        Ok(())
    }

    /// Hands leadership away, if it is here, before a group ends: writes then do not wait for an election.
    async fn step_aside(&self, shard: ShardId, status: &GroupStatus) {
        let others = status
            .members
            .iter()
            .filter(|(replica, member)| **replica != status.replica && member.voter);
        let heir = others.max_by_key(|(_, member)| member.matched);
        let Some((heir, _)) = heir.filter(|_| status.role == Role::Leader) else {
            return;
        };
        if let Err(error) = self.host.transfer_leader(shard, *heir).await {
            tracing::debug!(%shard, %error, "leader not handed over");
            return;
        }
        let deadline = tokio::time::Instant::now() + HAND_OVER;
        self.host
            .leader_changed(shard, status.leader, deadline)
            .await;
    }

    /// Follows the metadata until `stop`.
    pub(super) async fn run(self: Arc<Self>, service: Service, stop: CancellationToken) {
        let changed = Arc::new(Notify::new());
        let wake = Arc::clone(&changed);
        self.metadata()
            .subscribe(Box::new(move |_| wake.notify_one()));
        let mut waiting = BTreeMap::new();
        loop {
            let state = self.metadata().current();
            if state.is_initialized() {
                self.connect(&state);
                self.follow(&state, &mut waiting).await;
                self.add_learners(&state).await;
                if let Err(error) = self.retire(&state, &service).await {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "a retired replica is still here"
                    );
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = changed.notified() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Tells the cluster, once it is there and whenever metadata says something else, where this node is.
    pub(super) fn announce(&self, service: Service, stop: CancellationToken) {
        let (metadata, own) = (self.metadata(), self.own.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                }
                let state = metadata.current();
                let known = state.nodes.get(&NodeId(own.id));
                let stale = known.is_some_and(|node| {
                    node.peer_address != own.peer_address
                        || node.client_address != own.client_address
                });
                let deadline = std::time::Instant::now() + METADATA_TIME;
                if stale && let Err(error) = service.announce_node(own.clone(), deadline).await {
                    tracing::debug!(%error, "address not announced yet");
                }
            }
        });
    }

    fn connect(&self, state: &ClusterState) {
        self.peers.set_cluster(&state.cluster_id);
        for (node, known) in &state.nodes {
            self.peers.set_address(*node, &known.peer_address);
        }
    }

    /// Opens what is assigned and sets the membership of fresh groups. `waiting` counts looks without a leader.
    async fn follow(&self, state: &ClusterState, waiting: &mut BTreeMap<ShardId, u32>) {
        for (shard, replica) in state.replicas_on(self.host.node()) {
            if self.is_lost(shard, replica) {
                continue;
            }
            if let Err(error) = self.open(shard, replica).await {
                tracing::error!(%shard, %replica, error = format!("{error:#}"), "replica not started");
                continue;
            }
            if shard.is_meta() || !state.is_founding(shard) || self.host.leader(shard).is_some() {
                waiting.remove(&shard);
                continue;
            }
            let looks = waiting.entry(shard).or_insert(0);
            *looks += 1;
            let preferred = state.preferred_leader(shard) == Some(replica);
            if !preferred && LOOK_AGAIN * *looks < PATIENCE {
                continue;
            }
            let members = state
                .voters(shard)
                .iter()
                .map(|assigned| (assigned.replica, assigned.node))
                .collect();
            if let Err(error) = self.host.initialize(shard, &members).await {
                tracing::warn!(%shard, %error, "membership not set");
            }
        }
    }

    /// Destroys the replicas on this disk that belong to their shards no more.
    async fn retire(&self, state: &ClusterState, service: &Service) -> anyhow::Result<()> {
        let rows = self.storage.logs.directory().replicas();
        let gone: Vec<_> = rows
            .iter()
            .map(|row| (row.shard, row.replica))
            .filter(|(shard, replica)| state.is_retired(*shard, *replica))
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        // This node's copy may be of another history than what is committed, after a restore by hand for example.
        let deadline = std::time::Instant::now() + METADATA_TIME;
        for (shard, replica) in service.retired(&gone, deadline).await? {
            let runs = self.host.status(shard);
            if runs.is_some_and(|status| status.replica == replica) {
                self.host.stop_group(shard).await;
            }
            let storage = self.storage.clone();
            let dropped = tokio::task::spawn_blocking(move || {
                storage.logs.directory().drop_replica(shard, replica)?;
                storage::drop_stores(&storage.logs, storage.engine.as_ref())
            });
            dropped
                .await?
                .with_context(|| format!("replica {replica} of shard {shard}"))?;
            tracing::info!(%shard, %replica, "replica destroyed");
        }
        Ok(())
    }

    /// The metadata leader adds nodes beyond the voters as learners. One that is being renewed has its own steps.
    async fn add_learners(&self, state: &ClusterState) {
        if !self.host.is_leader(ShardId::META) {
            return;
        }
        let Some(status) = self.host.status(ShardId::META) else {
            return;
        };
        for assigned in state.assignments(ShardId::META) {
            let replacement = state.replacement(ShardId::META);
            if status.members.contains_key(&assigned.replica)
                || replacement.is_some_and(|replacement| replacement.new == *assigned)
            {
                continue;
            }
            if let Err(error) = self
                .host
                .add_learner(ShardId::META, assigned.replica, assigned.node)
                .await
            {
                tracing::warn!(node = %assigned.node, %error, "metadata learner not added");
            }
        }
    }
}
