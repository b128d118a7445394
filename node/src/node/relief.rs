//! A node whose disk is nearly full gives its leaders to nodes that can still take writes.
//!
//! The other nodes hear of the shortage with the next question for evidence, and hand it no shards while it lasts. It stays electable
//! and ready: where nobody has room its shards keep their leaders, and reads and deletes go on.
//!
//! Lacks: deciding what is too little room, which is `disk.rs`.

use std::sync::Arc;
use std::time::Duration;

use raft::Host;
use raft::transport::client::Peers;
use service::Service;
use tokio_util::sync::CancellationToken;

use super::disk::Disk;
use super::stop;

/// Between two looks, each followed by an offer of what is led here while there is no room. Longer than the others need to say that they
/// have none either: two full nodes must not hand a shard to and fro.
const LOOK: Duration = Duration::from_secs(1);

/// What the job looks at and acts on.
pub(super) struct Relief {
    pub(super) disk: Arc<Disk>,
    pub(super) host: Host,
    pub(super) peers: Peers,
    pub(super) service: Service,
}

impl Relief {
    /// Runs until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut was_short = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let is_short = self.disk.shortage().is_some();
            // A node that stops or stalls gives its leaders away by itself.
            if is_short && was_short && !self.service.declines() {
                let offered = stop::offer_leaders(&self.host, &self.peers, &self.service).await;
                if !offered.is_empty() {
                    tracing::warn!(
                        shards = offered.len(),
                        "the disk is nearly full: leaders are given to nodes with room"
                    );
                }
            }
            was_short = is_short;
        }
    }
}
