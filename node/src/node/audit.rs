//! Writes what the service noted into the node's audit log, in batches, and has the head of that log written down by the cluster.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::NodeId;
use proto::log::AuditHead;
use service::Service;
use service::audit::{Action, Event, Noted};
use service::clock::{Clock as _, SystemClock};
use sha2::{Digest as _, Sha256};
use storage::audit::Record;
use tokio_util::sync::CancellationToken;

use crate::audit::{Kept, Log};
use crate::config::Config;

/// How long events gather before they are written: what a crash may lose.
const GATHER: Duration = Duration::from_millis(500);

/// Between two looks whether the head is written down, and whether files are old.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// Writing the head down is given up after this; the next look does it.
const ANCHOR_TIME: Duration = Duration::from_secs(5);

/// The name of a node's chain.
pub(crate) fn chain(node: NodeId) -> String {
    format!("node-{node}")
}

/// The task.
pub(super) struct Writer {
    pub(super) log: Arc<Log>,
    pub(super) service: Service,
    pub(super) node: NodeId,
    pub(super) kept: Kept,
}

impl Writer {
    /// Runs until `stop`, and writes the rest.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut anchored = 0;
        let mut keep = tokio::time::interval(KEEP_EVERY);
        keep.reset();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.service.audit_arrived() => {
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(GATHER) => {}
                    }
                    self.write().await;
                }
                _ = keep.tick() => {
                    self.age().await;
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = self.anchor(&mut anchored) => {}
                    }
                }
            }
        }
        self.service.note(Event::new(Action::NodeStopped));
        self.write().await;
    }

    async fn write(&self) {
        let records: Vec<Record> = self.service.audit_taken().into_iter().map(record).collect();
        if records.is_empty() {
            return;
        }
        let (log, count) = (Arc::clone(&self.log), records.len());
        let written = tokio::task::spawn_blocking(move || log.append(records)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, count, "events are missing in the audit log"),
            Err(error) => tracing::error!(%error, count, "events are missing in the audit log"),
        }
    }

    async fn age(&self) {
        let (log, kept) = (Arc::clone(&self.log), self.kept);
        let now_us = SystemClock::new().wall_us();
        let aged = tokio::task::spawn_blocking(move || log.age(now_us, kept)).await;
        if let Ok(Err(error)) = aged {
            tracing::warn!(%error, "old files of the audit log stay");
        }
    }

    async fn anchor(&self, anchored: &mut u64) {
        let (sequence, hash) = self.log.head();
        if sequence == *anchored {
            return;
        }
        let head = AuditHead {
            chain: chain(self.node),
            sequence,
            hash: hash.to_vec().into(),
        };
        let deadline = Instant::now() + ANCHOR_TIME;
        match self.service.anchor_audit(vec![head], deadline).await {
            Ok(()) => *anchored = sequence,
            Err(error) => tracing::debug!(%error, "the audit log is anchored at the next look"),
        }
    }
}

fn record(noted: Noted) -> Record {
    let Noted {
        event,
        time_us,
        count,
    } = noted;
    Record {
        sequence: 0,
        time_us,
        action: event.action.as_str().to_owned(),
        user: event.user,
        database: event.database,
        target: event.target,
        detail: event.detail,
        address: event
            .address
            .map(|address| address.to_string())
            .unwrap_or_default(),
        count,
    }
}

/// What the node starts with. The whole configuration as a hash: it names places of secrets, and is long.
pub(super) fn started(config: &Config) -> Event {
    let text = toml::to_string(config).unwrap_or_default();
    let detail = format!(
        "version {}, insecure {}, admins_need_certificate {}, clients_need_certificate {}, configuration sha256 {}",
        env!("CARGO_PKG_VERSION"),
        config.security.insecure,
        config.tls.admins_need_certificate,
        config.tls.clients_need_certificate,
        hex::encode(Sha256::digest(text)),
    );
    Event::new(Action::NodeStarted)
        .on(&config.node.name)
        .saying(&detail)
}
