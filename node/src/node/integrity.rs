//! Finding damage while the node runs: replicas are compared with their peers, and failed reads are looked into.
//!
//! The comparison finds state that differs, whatever made it differ; the scrub (`scrub.rs`) and reads of all kinds find blocks that
//! rotted. Either takes the replica out of service: it answers nothing and does not lead, the node forwards its requests to the others,
//! the gauge `larder_replicas_quarantined` and `cluster status` show it. A file in `<data dir>/quarantine` keeps it so over a restart. It
//! is over when the replica was renewed (`repair.rs`), or when an operator who knows better removes the file.
//!
//! An operator who knows that a replica is wrong, where nobody else can tell, makes such a file and starts the node again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use proto::{ReplicaId, ShardId};
use raft::{Host, Role, Verdict};
use service::Service;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::repair::{self, Repair, quarantine_dir};
use super::scrub;
use crate::cli::exit::Status;

/// Between two comparisons. One message per peer, so it can be often; damage is served until it is found.
const COMPARE_EVERY: Duration = Duration::from_secs(5);
/// How long a peer may take to say what it holds.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two looks for reads that failed, and for replicas to renew.
const LOOK: Duration = Duration::from_millis(500);

/// See the module.
pub(super) struct Integrity {
    host: Host,
    dir: PathBuf,
    repair: Repair,
}

impl Integrity {
    /// Quarantines again what was quarantined before. After the stored replicas were opened.
    ///
    /// # Errors
    /// The folder of marks cannot be read, or one of a replica that is gone not be removed.
    pub(super) fn load(host: Host, dir: PathBuf, repair: Repair) -> anyhow::Result<Arc<Self>> {
        for (shard, replica) in marks(&dir)? {
            if host.quarantine(shard, replica) {
                tracing::error!(%shard, %replica, "replica is quarantined since an earlier run");
            } else {
                unmark(&dir, shard, replica)?;
            }
        }
        Ok(Arc::new(Self { host, dir, repair }))
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// The data directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Looks for damage until `stop`.
    pub(super) async fn run(
        self: Arc<Self>,
        service: Service,
        pace: scrub::Pace,
        stop: CancellationToken,
    ) {
        let work = async {
            tokio::join!(self.compare(), self.look(&service), scrub::run(&self, pace));
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    async fn compare(&self) {
        loop {
            sleep(COMPARE_EVERY).await;
            let diverged = self.host.compare_chains(COMPARE_TIMEOUT).await;
            metrics::gauge!("larder_shards_diverged").set(diverged.len() as f64);
            metrics::gauge!("larder_replicas_contested").set(self.host.contested().len() as f64);
            for found in diverged {
                let (shard, replica, index) = (found.shard, found.replica, found.index);
                match found.verdict {
                    Verdict::Outvoted => {
                        let why = format!("holds other state at index {index} than the majority");
                        self.condemn(shard, replica, &why).await;
                    }
                    Verdict::Upheld => tracing::error!(
                        %shard, index,
                        "another replica holds other state than the majority: see `larder cluster status`"
                    ),
                    Verdict::Contested => tracing::error!(
                        %shard, %replica, index,
                        "replicas hold different state and no majority says which is right: this one serves nothing until one does; \
                         start the nodes that are down. Whoever knows which is wrong stops its node and makes the file \
                         quarantine/{} in its data directory", mark(shard, replica)
                    ),
                }
            }
            self.give_up_leaders().await;
        }
    }

    /// Condemns replicas whose state failed somebody's read, and has renewed what is damaged.
    async fn look(&self, service: &Service) {
        loop {
            for (shard, replica, what) in self.host.damaged() {
                self.condemn_unreadable(shard, replica, &what).await;
            }
            self.repair.renew(&self.host, service).await;
            let out = self.host.quarantined().len() + self.repair.waiting();
            metrics::gauge!("larder_replicas_quarantined").set(out as f64);
            sleep(LOOK).await;
        }
    }

    /// Hands away what a quarantined replica still leads.
    async fn give_up_leaders(&self) {
        for (shard, replica) in self.host.quarantined() {
            let Some(status) = self
                .host
                .status(shard)
                .filter(|status| status.role == Role::Leader)
            else {
                continue;
            };
            let others = status
                .members
                .iter()
                .filter(|(other, member)| **other != replica && member.voter);
            let Some((target, _)) = others.max_by_key(|(_, member)| member.matched) else {
                continue;
            };
            if let Err(error) = self.host.transfer_leader(shard, *target).await {
                tracing::warn!(%shard, %error, "quarantined replica still leads");
            }
        }
    }

    /// As [`Self::condemn`], and the database that it lies in is rewritten at the next start.
    pub(super) async fn condemn_unreadable(&self, shard: ShardId, replica: ReplicaId, what: &str) {
        let known = self.host.quarantined().contains(&(shard, replica));
        if !known {
            let dir = self.dir.clone();
            let why = what.to_owned();
            let noted = tokio::task::spawn_blocking(move || repair::note(&dir, &why)).await;
            if let Err(error) = noted {
                tracing::error!(%error, "damage is not noted for the next start");
            }
            self.condemn(shard, replica, &format!("cannot be read: {what}"))
                .await;
        }
    }

    async fn condemn(&self, shard: ShardId, replica: ReplicaId, why: &str) {
        if !self.host.quarantine(shard, replica) {
            return;
        }
        tracing::error!(
            %shard, %replica, why,
            "replica is damaged and quarantined: it serves nothing, and is renewed from its peers; check the disk"
        );
        let (dir, reason) = (self.dir.clone(), why.to_owned());
        let marked = tokio::task::spawn_blocking(move || {
            let dir = quarantine_dir(&dir);
            std::fs::create_dir_all(&dir)?;
            std::fs::write(dir.join(mark(shard, replica)), reason)?;
            std::fs::File::open(&dir)?.sync_all()
        });
        match marked.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "quarantine will be forgotten at a restart"),
            Err(error) => tracing::error!(%error, "quarantine will be forgotten at a restart"),
        }
        if shard.is_meta() {
            tracing::error!(
                why,
                "the metadata of this node is damaged; the process ends: start it again, and the metadata is made anew from its log. \
                 If that was purged the start says so; then run `larder shard replace 0 THIS-NODE` at another node"
            );
            std::process::exit(i32::from(Status::DataFailed as u8));
        }
        self.give_up_leaders().await;
    }
}

/// The replicas that are marked as quarantined below the data directory `dir`.
///
/// # Errors
/// The folder of marks is there and cannot be read.
pub(super) fn marks(dir: &Path) -> anyhow::Result<Vec<(ShardId, ReplicaId)>> {
    let dir = quarantine_dir(dir);
    let files = match std::fs::read_dir(&dir) {
        Ok(files) => files,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| dir.display().to_string()),
    };
    let mut marks = Vec::new();
    for file in files {
        marks.extend(file?.file_name().to_str().and_then(parse_mark));
    }
    Ok(marks)
}

/// Removes a replica's mark.
///
/// # Errors
/// It is there and cannot be removed.
pub(super) fn unmark(dir: &Path, shard: ShardId, replica: ReplicaId) -> anyhow::Result<()> {
    let path = quarantine_dir(dir).join(mark(shard, replica));
    std::fs::remove_file(&path).with_context(|| path.display().to_string())
}

fn mark(shard: ShardId, replica: ReplicaId) -> String {
    format!("shard-{shard}-replica-{replica}")
}

fn parse_mark(name: &str) -> Option<(ShardId, ReplicaId)> {
    let (shard, replica) = name.strip_prefix("shard-")?.split_once("-replica-")?;
    Some((
        ShardId(shard.parse().ok()?),
        ReplicaId(replica.parse().ok()?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_name_their_replica() {
        let name = mark(ShardId(12), ReplicaId(345));
        assert_eq!(parse_mark(&name), Some((ShardId(12), ReplicaId(345))));
        assert_eq!(parse_mark("shard-12"), None);
    }
}
