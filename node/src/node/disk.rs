//! The room on the data directory's disk: watched, and writes refused in time.
//!
//! RocksDB that meets a full disk fails in the middle of something, and a node whose log cannot be written must end. So the node stops
//! taking writes while there is still a reserve: reads and deletes go on, what runs in the background (flushes, compactions, the logs
//! of shards that others lead) has the reserve to finish in, and an operator has time. Writes are taken again by themselves, somewhat
//! above the mark, so that a node at the mark does not flap.
//!
//! Where the disk fills up all the same, and for every other failure of the data database, the process ends with its own exit status:
//! what was acknowledged lies in the logs.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use storage::Storage;
use tokio_util::sync::CancellationToken;

use super::repair;
use crate::cli::exit::Status;

/// Between two looks: far shorter than it takes to write the reserve full.
const LOOK: Duration = Duration::from_millis(250);

/// What is free on the disk, and whether that is enough for writes.
pub(super) struct Disk {
    dir: PathBuf,
    /// Free bytes below which writes are refused.
    reserve: u64,
    free: AtomicU64,
    short: AtomicBool,
}

impl Disk {
    /// Looks once.
    pub(super) fn new(dir: PathBuf, reserve: u64) -> Arc<Self> {
        let disk = Self {
            dir,
            reserve,
            free: AtomicU64::new(u64::MAX),
            short: AtomicBool::new(false),
        };
        disk.look();
        Arc::new(disk)
    }

    /// Why no write is taken now, if none is.
    pub(super) fn shortage(&self) -> Option<String> {
        self.short.load(Ordering::Relaxed).then(|| {
            format!(
                "the disk of the shard's leader is nearly full: {} MiB free, {} MiB are kept in reserve; \
                 reads and deletes go on",
                self.free.load(Ordering::Relaxed) >> 20,
                self.reserve >> 20
            )
        })
    }

    /// Looks until `stop`, and ends the process when the data database has failed.
    pub(super) async fn watch(self: Arc<Self>, storage: Storage, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let disk = Arc::clone(&self);
            // A network file system may let one wait.
            let looked = tokio::task::spawn_blocking(move || disk.look()).await;
            if let Err(error) = looked {
                tracing::error!(%error, "free space is not known");
            }
            let errors = storage.engine.stats().background_errors;
            if errors > 0 {
                if self.shortage().is_none() {
                    repair::note(&self.dir, "a background write of the data database failed");
                }
                tracing::error!(
                    errors,
                    dir = %self.dir.display(),
                    "the data database cannot write (disk full, failed or damaged; its own log, data/LOG, has the cause); \
                     the process ends, nothing acknowledged is lost: start it again when the disk is well; damaged files are then \
                     found, and what they held is fetched from the peers"
                );
                std::process::exit(i32::from(Status::DataFailed as u8));
            }
        }
    }

    fn look(&self) {
        match rustix::fs::statvfs(&self.dir) {
            Ok(stat) => self.note(
                stat.f_bavail.saturating_mul(stat.f_frsize),
                stat.f_blocks.saturating_mul(stat.f_frsize),
            ),
            Err(error) => {
                tracing::warn!(%error, dir = %self.dir.display(), "free space is not known")
            }
        }
    }

    fn note(&self, free: u64, total: u64) {
        self.free.store(free, Ordering::Relaxed);
        let was = self.short.load(Ordering::Relaxed);
        let short = if was {
            free < self.reserve.saturating_add(self.reserve / 4)
        } else {
            free < self.reserve
        };
        if was != short {
            self.short.store(short, Ordering::Relaxed);
            let (free, reserve) = (free >> 20, self.reserve >> 20);
            match short {
                true => tracing::error!(
                    free_mib = free,
                    reserve_mib = reserve,
                    "disk nearly full, writes are refused"
                ),
                false => tracing::info!(
                    free_mib = free,
                    reserve_mib = reserve,
                    "disk has room again, writes are taken"
                ),
            }
        }
        metrics::gauge!("larder_disk_free_bytes").set(free as f64);
        metrics::gauge!("larder_disk_total_bytes").set(total as f64);
        metrics::gauge!("larder_disk_full").set(u8::from(short));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_stop_at_the_mark_and_resume_above_it() {
        let disk = Disk::new(PathBuf::from("/"), 0);
        assert_eq!(disk.shortage(), None);
        let disk = Disk {
            dir: PathBuf::new(),
            reserve: 100 << 20,
            free: AtomicU64::new(0),
            short: AtomicBool::new(false),
        };
        for (free, short) in [
            (100, false),
            (99, true),
            (110, true),
            (124, true),
            (125, false),
            (101, false),
        ] {
            disk.note(free << 20, 1 << 40);
            assert_eq!(disk.shortage().is_some(), short, "{free} MiB");
        }
    }
}
