//! Counters that nodes export in Prometheus' text form, before and after a run.

use std::collections::BTreeMap;
use std::time::Duration;

use super::client::System;

const TIMEOUT: Duration = Duration::from_secs(2);
/// What the report calls a counter, and the exported sample.
type Names = &'static [(&'static str, &'static str)];

/// `logSyncs`: synced writes of the log; `logEntries`: entries in them, each node's copy counted.
const LARDER: Names = &[
    ("logSyncs", "larder_log_sync_seconds_count"),
    ("logEntries", "larder_log_batch_entries_sum"),
];
/// The same of etcd, as far as it tells; a backend commit syncs its database file, at most twice.
const ETCD: Names = &[
    ("logSyncs", "etcd_disk_wal_fsync_duration_seconds_count"),
    ("logEntries", "etcd_server_proposals_applied_total"),
    (
        "backendCommits",
        "etcd_disk_backend_commit_duration_seconds_count",
    ),
];

/// Sums over all nodes, by the name of the report.
pub(super) type Counters = BTreeMap<&'static str, f64>;

/// Reads the counters of the nodes at these origins; `None`: one of them does not answer.
pub(super) async fn read(
    http: &reqwest::Client,
    system: System,
    origins: &[String],
) -> Option<Counters> {
    let names = match system {
        System::Larder => LARDER,
        System::Etcd => ETCD,
    };
    let mut sums = Counters::new();
    for origin in origins {
        let request = http.get(format!("{origin}/metrics")).timeout(TIMEOUT);
        let answer = request.send().await.ok()?.error_for_status().ok()?;
        add(&mut sums, names, &answer.text().await.ok()?);
    }
    Some(sums)
}

/// What was counted in between. Empty where a node started anew meanwhile: its counters began at 0 again.
pub(super) fn difference(before: &Counters, after: &Counters) -> Counters {
    let grown: Counters = after
        .iter()
        .map(|(name, after)| (*name, after - before.get(name).unwrap_or(&0.0)))
        .collect();
    if grown.values().any(|grown| *grown < 0.0) {
        return Counters::new();
    }
    grown
}

fn add(sums: &mut Counters, names: Names, text: &str) {
    for line in text.lines() {
        let Some((sample, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let name = sample.split('{').next().unwrap_or_default();
        for (reported, exported) in names {
            if name == *exported {
                *sums.entry(reported).or_default() += value.parse().unwrap_or(0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_labels_and_nodes() {
        let text = "# TYPE larder_log_sync_seconds histogram\n\
            larder_log_sync_seconds_count 3\nlarder_log_sync_seconds_sum 0.5\n\
            larder_log_batch_entries_sum{x=\"a b\"} 4\nlarder_log_batch_entries_sum{x=\"c\"} 5\n";
        let mut sums = Counters::new();
        add(&mut sums, LARDER, text);
        add(&mut sums, LARDER, text);
        assert_eq!(
            sums,
            Counters::from([("logSyncs", 6.0), ("logEntries", 18.0)])
        );
    }

    #[test]
    fn a_restart_in_between_leaves_nothing_to_report() {
        let counters = |syncs| Counters::from([("logSyncs", syncs)]);
        assert_eq!(difference(&counters(3.0), &counters(8.0)), counters(5.0));
        assert_eq!(difference(&counters(8.0), &counters(3.0)), Counters::new());
    }
}
