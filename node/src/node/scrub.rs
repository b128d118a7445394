//! Reading all that is stored again and again, at a bounded rate: blocks that rotted are found before somebody needs them.
//!
//! Damage of a replica's data condemns that replica; damage of a log ends the process, since a log cannot be renewed.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use proto::ShardId;
use storage::engine::Column;
use tokio::time::{Instant, sleep};

use super::integrity::Integrity;
use super::repair;

/// One piece of a scrub; the rate is kept by the pauses between them.
const PIECE_BYTES: usize = 256 << 10;

/// How fast everything is read.
pub(super) struct Pace {
    /// 0: not at all.
    pub(super) bytes_per_s: usize,
    /// Between two passes over everything; small data would be read without end.
    pub(super) pause: Duration,
}

/// Scrubs for ever.
pub(super) async fn run(integrity: &Arc<Integrity>, pace: Pace) {
    let Pace { bytes_per_s, pause } = pace;
    if bytes_per_s == 0 {
        return;
    }
    let rest = |bytes: usize| sleep(Duration::from_secs_f64(bytes as f64 / bytes_per_s as f64));
    loop {
        let started = Instant::now();
        for shard in integrity.host().shards() {
            for column in Column::ALL {
                let mut from = None;
                while let ControlFlow::Continue(bytes) =
                    data_piece(integrity, shard, column, &mut from).await
                {
                    rest(bytes).await;
                }
            }
            let mut from = None;
            while let ControlFlow::Continue(bytes) = log_piece(integrity, shard, &mut from).await {
                rest(bytes).await;
            }
        }
        metrics::counter!("larder_scrub_passes_total").increment(1);
        metrics::gauge!("larder_scrub_pass_seconds").set(started.elapsed().as_secs_f64());
        sleep(pause).await;
    }
}

/// One piece from `from` on, which is moved on; gives how many bytes it had, or that the column is through.
async fn data_piece(
    integrity: &Integrity,
    shard: ShardId,
    column: Column,
    from: &mut Option<Vec<u8>>,
) -> ControlFlow<(), usize> {
    let host = integrity.host();
    // A quarantined one is known to be damaged, and gives none.
    let (Some(replica), Some(status)) = (host.replica(shard), host.status(shard)) else {
        return ControlFlow::Break(());
    };
    let store = replica.store();
    let first = from.take().filter(|from| from.starts_with(&store.prefix()));
    let first = first.unwrap_or_else(|| store.prefix().to_vec());
    let read = tokio::task::spawn_blocking(move || {
        replica
            .engine()
            .scrub(column, &first, &store.end(), PIECE_BYTES)
    });
    match read.await {
        Ok(Ok(scrubbed)) => {
            metrics::counter!("larder_scrub_bytes_total").increment(scrubbed.bytes as u64);
            match scrubbed.next {
                Some(next) => {
                    *from = Some(next.to_vec());
                    ControlFlow::Continue(scrubbed.bytes)
                }
                None => ControlFlow::Break(()),
            }
        }
        Ok(Err(error)) => {
            metrics::counter!("larder_scrub_errors_total").increment(1);
            integrity
                .condemn_unreadable(shard, status.replica, &error.to_string())
                .await;
            ControlFlow::Break(())
        }
        Err(error) => {
            tracing::error!(%error, "scrub failed");
            ControlFlow::Break(())
        }
    }
}

/// The same for a log; `from` is the next entry.
async fn log_piece(
    integrity: &Integrity,
    shard: ShardId,
    from: &mut Option<u64>,
) -> ControlFlow<(), usize> {
    let Some(log) = integrity.host().log(shard) else {
        return ControlFlow::Break(());
    };
    let at = *from;
    match tokio::task::spawn_blocking(move || log.scrub(at, PIECE_BYTES)).await {
        Ok(Ok(scrubbed)) => {
            metrics::counter!("larder_scrub_bytes_total").increment(scrubbed.bytes as u64);
            *from = scrubbed.next;
            match scrubbed.next {
                Some(_) => ControlFlow::Continue(scrubbed.bytes),
                None => ControlFlow::Break(()),
            }
        }
        Ok(Err(error)) if integrity.host().log(shard).is_some() => {
            repair::end_for_log(integrity.dir(), &error)
        }
        // The replica was removed meanwhile, and its log with it.
        Ok(Err(_)) => ControlFlow::Break(()),
        Err(error) => {
            tracing::error!(%error, "scrub failed");
            ControlFlow::Break(())
        }
    }
}
