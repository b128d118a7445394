//! A node whose log disk stalls gives its leaders away before clients time out, and takes none until the disk has been well for a while:
//! slow is treated as dead.
//!
//! Seen is one write under way for too long, from outside the log thread, since a sync that hangs reports nothing. What was proposed
//! here before and reached a majority is still acknowledged; what did not ends as unknown, as with any lost leader.

use std::time::Duration;

use raft::Host;
use raft::transport::client::Peers;
use service::Service;
use storage::raft_log::Logs;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::stop;

/// Between two looks at the disk.
const LOOK: Duration = Duration::from_millis(50);

/// How long the disk must have been well before the node leads again: a disk that stalls once does so again.
const WELL_FOR: Duration = Duration::from_secs(5);

/// Between two offers of what this node still leads by its own account.
const OFFER_AGAIN: Duration = Duration::from_secs(1);

/// How long the others may take to hear that this node does not want to lead.
const TELL: Duration = Duration::from_millis(300);

/// Whether the log disk stalls: 0 or 1.
const STALLED: &str = "larder_log_stalled";
/// Stalls that made this node give its leaders away.
const STALLS: &str = "larder_log_stalls_total";

/// What the watchdog looks at and acts on.
pub(super) struct Watchdog {
    pub(super) logs: Logs,
    pub(super) host: Host,
    pub(super) peers: Peers,
    pub(super) service: Service,
    /// A write under way for longer is a stall.
    pub(super) stall: Duration,
}

impl Watchdog {
    /// Runs until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        metrics::gauge!(STALLED).set(0.0);
        metrics::counter!(STALLS).absolute(0);
        // When the disk was last seen to stall, while the node does not lead for it.
        let mut stalled: Option<Instant> = None;
        let mut offered = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let busy = self.logs.writing_for().filter(|busy| *busy >= self.stall);
            self.host.set_stalled(busy.is_some());
            // An election that was under way before the stall was seen may only end now; an offer may have been lost.
            if stalled.is_some() && offered.elapsed() >= OFFER_AGAIN {
                stop::offer_leaders(&self.host, &self.peers, &self.service).await;
                offered = Instant::now();
            }
            match (busy, stalled) {
                (Some(busy), None) => {
                    self.give_away(busy).await;
                    offered = Instant::now();
                    stalled = Some(offered);
                }
                (Some(_), Some(_)) => stalled = Some(Instant::now()),
                (None, Some(since)) if since.elapsed() >= WELL_FOR => {
                    stalled = None;
                    self.take_part().await;
                }
                (None, _) => {}
            }
        }
    }

    async fn give_away(&self, busy: Duration) {
        metrics::gauge!(STALLED).set(1.0);
        metrics::counter!(STALLS).increment(1);
        tracing::warn!(
            busy_ms = busy.as_millis() as u64,
            limit_ms = self.stall.as_millis() as u64,
            "the log disk stalls; this node gives its leaders away until it is well again"
        );
        self.host.set_electable(false);
        self.service
            .set_declines(true, std::time::Instant::now() + TELL)
            .await;
        stop::offer_leaders(&self.host, &self.peers, &self.service).await;
    }

    async fn take_part(&self) {
        metrics::gauge!(STALLED).set(0.0);
        tracing::info!("the log disk is well again; this node may lead");
        self.host.set_electable(true);
        self.service
            .set_declines(false, std::time::Instant::now() + TELL)
            .await;
    }
}
