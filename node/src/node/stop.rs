//! Stopping a node, and the gauges of what it holds while it runs.

use std::time::Duration;

use crate::telemetry;
use raft::transport::client::Peers;
use raft::{Host, Leader, Role};
use service::Service;
use storage::Storage;
use tokio::signal::unix::{Signal, SignalKind, signal as on_signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

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
    hand_over(host, peers, service, false).await;
    tokio::time::sleep(LINGER).await;
}

/// Hands every shard that this node leads to a voter that is up and has (nearly) the whole log, so that writes do not
/// wait for an election. With `believe`, requests go there from now on, whatever the groups here can still take note of.
pub(super) async fn hand_over(host: &Host, peers: &Peers, service: &Service, believe: bool) {
    let deadline = Instant::now() + HAND_OVER;
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
        let Some((target, member)) = others.max_by_key(|(_, member)| member.matched) else {
            continue;
        };
        if let Err(error) = host.transfer_leader(shard, *target).await {
            tracing::debug!(%shard, %error, "leader not handed over");
            continue;
        }
        if believe {
            let leader = Leader {
                replica: *target,
                node: member.node,
                term: status.term + 1,
            };
            host.believe_leader(shard, leader);
            continue;
        }
        led.push((shard, status.leader));
    }
    for (shard, seen) in led {
        host.leader_changed(shard, seen, deadline).await;
    }
}

/// Flushes what was applied, so that the next start has nothing to replay, and closes the log.
pub(super) async fn close(storage: Storage) {
    let closed = tokio::task::spawn_blocking(move || {
        if let Err(error) = storage.engine.flush() {
            tracing::warn!(%error, "not flushed; the next start replays the log");
        }
        storage.logs.shutdown();
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
