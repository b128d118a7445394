//! The timing table of all groups, and the rules between its rows.

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use crate::error::{Error, Result};

/// Entries of one append request, counted; `APPEND_BYTES_MAX` bounds its bytes.
const APPEND_ENTRIES_MAX: u64 = 512;

/// Bytes of one append request, soft: a larger entry travels alone.
pub(crate) const APPEND_BYTES_MAX: usize = 1 << 20;

/// Bounds openraft's own queues; admission control in `Host` refuses before they fill.
const QUEUE_LENGTH: u64 = 4096;

/// Purges are batched: one range delete for many entries.
const PURGE_BATCH: u64 = 1024;

/// A whole snapshot must arrive within this time.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(600);

/// A follower this many entries behind what is purged gets a snapshot; above the distance between two snapshots.
const LAG_ENTRIES: u64 = 1 << 20;

/// Consensus timing, the same for every group. Defaults are from design §5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A leader's heartbeat; also the time limit of one append.
    pub heartbeat: Duration,
    /// Appends younger than this stand for a heartbeat.
    pub heartbeat_min_interval: Duration,
    /// Shortest silence before a follower stands for election.
    pub election_min: Duration,
    /// Longest such silence, and how long a leader may go unconfirmed before it refuses writes.
    pub election_max: Duration,
    /// How often a leader without quorum probes the others; at least twice `election_max`.
    pub quorum_loss_probe: Duration,
    /// Proposals of one shard that may wait at once; past it proposals are refused.
    pub proposals_in_flight_max: usize,
    /// Bytes of all logs of the node; each group has an equal share, past which its log is purged.
    pub log_bytes_max: u64,
    /// Entries of one group's log, past which it is purged; 0: only bytes count.
    pub log_entries_max: u64,
    /// Bytes of all proposals that may wait at once on this node; past it proposals are refused.
    pub proposal_bytes_in_flight_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(150),
            heartbeat_min_interval: Duration::from_millis(75),
            election_min: Duration::from_millis(400),
            election_max: Duration::from_millis(700),
            quorum_loss_probe: Duration::from_millis(1400),
            proposals_in_flight_max: 1024,
            log_bytes_max: 512 << 20,
            log_entries_max: 0,
            proposal_bytes_in_flight_max: 64 << 20,
        }
    }
}

impl Options {
    /// Checks the rules between the rows and gives openraft's form of the table.
    ///
    /// # Errors
    /// [`Error::Options`] names the rule and both values.
    pub(crate) fn validate(&self) -> Result<Arc<Config>> {
        let rules = [
            (
                self.heartbeat * 2 < self.election_min,
                format!(
                    "heartbeat {:?} must be under half of election_min {:?}",
                    self.heartbeat, self.election_min
                ),
            ),
            (
                self.heartbeat_min_interval <= self.heartbeat,
                format!(
                    "heartbeat_min_interval {:?} must not exceed heartbeat {:?}",
                    self.heartbeat_min_interval, self.heartbeat
                ),
            ),
            (
                self.election_min < self.election_max,
                format!(
                    "election_min {:?} must be under election_max {:?}",
                    self.election_min, self.election_max
                ),
            ),
            (
                self.quorum_loss_probe >= self.election_max * 2,
                format!(
                    "quorum_loss_probe {:?} must be at least twice election_max {:?}",
                    self.quorum_loss_probe, self.election_max
                ),
            ),
            (
                self.proposals_in_flight_max > 0,
                "proposals_in_flight_max must not be 0".to_owned(),
            ),
            (
                self.proposal_bytes_in_flight_max > 0,
                "proposal_bytes_in_flight_max must not be 0".to_owned(),
            ),
        ];
        if let Some((_, message)) = rules.into_iter().find(|(holds, _)| !holds) {
            return Err(Error::Options(message));
        }
        let config = Config {
            cluster_name: "larder".to_owned(),
            heartbeat_interval: millis(self.heartbeat),
            heartbeat_min_interval: Some(millis(self.heartbeat_min_interval)),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            quorum_loss_probe_interval: Some(millis(self.quorum_loss_probe)),
            install_snapshot_timeout: millis(SNAPSHOT_TIMEOUT),
            max_payload_entries: APPEND_ENTRIES_MAX,
            replication_lag_threshold: LAG_ENTRIES,
            // Snapshots and purges are asked for, never automatic: see `Host::snapshot`.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: 0,
            purge_batch_size: PURGE_BATCH,
            api_channel_size: Some(QUEUE_LENGTH),
            notification_channel_size: Some(QUEUE_LENGTH),
            state_machine_channel_size: Some(QUEUE_LENGTH),
            enable_pre_vote: Some(true),
            // A restarted leader must win an election: its commit index was not persisted synchronously.
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        Ok(Arc::new(
            config
                .validate()
                .map_err(|error| Error::Options(error.to_string()))?,
        ))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        Options::default().validate().expect("defaults");
    }

    #[test]
    fn each_broken_rule_is_named() {
        let broken = [
            (
                Options {
                    heartbeat: Duration::from_millis(300),
                    ..Options::default()
                },
                "heartbeat",
            ),
            (
                Options {
                    election_max: Duration::from_millis(300),
                    ..Options::default()
                },
                "election_min",
            ),
            (
                Options {
                    quorum_loss_probe: Duration::from_millis(900),
                    ..Options::default()
                },
                "quorum_loss_probe",
            ),
            (
                Options {
                    proposals_in_flight_max: 0,
                    ..Options::default()
                },
                "proposals_in_flight_max",
            ),
            (
                Options {
                    proposal_bytes_in_flight_max: 0,
                    ..Options::default()
                },
                "proposal_bytes_in_flight_max",
            ),
        ];
        for (options, name) in broken {
            let error = options.validate().expect_err(name).to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
