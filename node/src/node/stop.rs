//! Stopping a node, and the gauges of what it holds while it runs.

use std::time::Duration;

use proto::ShardId;
use raft::transport::client::Peers;
use raft::{Host, Leader, Role};
use service::Service;
use storage::Storage;
use tokio::signal::unix::{Signal, SignalKind, signal as on_signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::telemetry;

/// Time to hand all leaders away. Short: when the whole cluster stops, nobody is left to take them.
const HAND_OVER: Duration = Duration::from_millis(1500);

/// How long the others may take to hear that this node does not want to lead any more.
const TELL: Duration = Duration::from_millis(300);

/// How long clients that keep their connections open are still served, each answer telling them to close it. A connection that is
/// closed under a request leaves its client without an answer.
const LINGER: Duration = Duration::from_millis(500);

/// Between two looks at the gauges.
const GAUGES_EVERY: Duration = Duration::from_secs(5);

/// SIGTERM and Ctrl-C, caught from the moment this is made: one that comes while the node starts is not lost.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// # Errors
    /// The system refuses a handler.
    pub(super) fn catch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: on_signal(SignalKind::terminate())?,
            interrupt: on_signal(SignalKind::interrupt())?,
        })
    }

    /// Returns once either has come.
    pub(super) async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The first half of a planned stop: not ready, leads nothing, and clients go elsewhere. Everything is still served.
pub(super) async fn withdraw(host: &Host, peers: &Peers, service: &Service) {
    host.set_electable(false);
    service
        .set_declines(true, std::time::Instant::now() + TELL)
        .await;
    hand_over(host, peers, service).await;
    tokio::time::sleep(LINGER).await;
}

/// Offers every shard that this node leads to a voter that is up and has (nearly) the whole log, and waits until they have taken over,
/// so that writes do not wait for an election.
pub(super) async fn hand_over(host: &Host, peers: &Peers, service: &Service) {
    let deadline = Instant::now() + HAND_OVER;
    for (shard, seen) in offer_leaders(host, peers, service).await {
        host.leader_changed(shard, seen, deadline).await;
    }
}

/// The first half of [`hand_over`]: gives the shards that were offered, and who led them.
pub(super) async fn offer_leaders(
    host: &Host,
    peers: &Peers,
    service: &Service,
) -> Vec<(ShardId, Option<Leader>)> {
    let mut led = Vec::new();
    for shard in host.shards() {
        let Some(status) = host
            .status(shard)
            .filter(|status| status.role == Role::Leader)
        else {
            continue;
        };
        let others = status.members.iter().filter(|(replica, member)| {
            let is_fit = peers.is_up(member.node) && !service.is_declining(member.node);
            **replica != status.replica && member.voter && is_fit
        });
        let Some((target, _)) = others.max_by_key(|(_, member)| member.matched) else {
            continue;
        };
        match host.transfer_leader(shard, *target).await {
            Ok(()) => led.push((shard, status.leader)),
            Err(error) => tracing::debug!(%shard, %error, "leader not handed over"),
        }
    }
    led
}

/// Flushes what was applied, so that the next start has nothing to replay, and closes the log.
pub(super) async fn close(storage: Storage) {
    let closed = tokio::task::spawn_blocking(move || {
        if let Err(error) = storage.engine.flush() {
            tracing::warn!(%error, "not flushed; the next start replays the log");
        }
        storage.logs.shutdown();
        if let Some(sealing) = &storage.sealing {
            sealing.stop();
        }
    });
    if let Err(error) = closed.await {
        tracing::error!(%error, "close failed");
    }
}

/// Publishes sizes and queue lengths until `stop`.
pub(super) async fn gauges(storage: Storage, host: Host, stop: CancellationToken) {
    loop {
        telemetry::databases(&storage);
        let shards = host.shards();
        let led = shards
            .iter()
            .filter(|shard| host.is_leader(**shard))
            .count();
        metrics::gauge!("larder_shards").set(shards.len() as f64);
        metrics::gauge!("larder_shards_led").set(led as f64);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(GAUGES_EVERY) => {}
        }
    }
}
