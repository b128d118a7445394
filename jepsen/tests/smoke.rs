//! Each workload once, shortly, against real nodes under a fault: the suite works, and finds nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jepsen::checker::verdict::Verdict;
use jepsen::nemesis::Fault;
use jepsen::run::{Plan, run};
use jepsen::workload::Workload;

/// Runs at once: most of a run is waiting.
const AT_ONCE: usize = 3;
const SEED: u64 = 8;
/// The first fault comes after three seconds.
const TIME: Duration = Duration::from_secs(4);
/// Far below what the suite asks for: here a busy machine is no reason to fail.
const OK_MIN: usize = 20;

/// `LARDER_BIN`, else the binary beside the test's own target folder.
fn binary() -> PathBuf {
    let beside = || {
        let test = std::env::current_exe().expect("a test knows its own path");
        let profile = test
            .parent()
            .and_then(Path::parent)
            .expect("target/<profile>/deps");
        profile.join("larder")
    };
    let path = std::env::var_os("LARDER_BIN").map_or_else(beside, PathBuf::from);
    assert!(
        path.is_file(),
        "no binary at {}: cargo build -p larder, or set LARDER_BIN",
        path.display()
    );
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_workload_passes_a_short_run_with_a_fault() {
    let out = tempfile::tempdir().expect("temporary folder");
    let plans = Workload::ALL.map(|workload| Plan {
        workload,
        faults: vec![Fault::Kill, Fault::Partition],
        seed: SEED,
        time: TIME,
        workers: 6,
        nodes: 3,
        replicas: 3,
        shards: 2,
        binary: binary(),
        out: out.path().to_owned(),
        rate_min: 0.0,
    });
    let runs = stream::iter(plans)
        .map(|plan| async move { run(&plan).await })
        .buffer_unordered(AT_ONCE);
    let outcomes: Vec<_> = runs
        .try_collect()
        .await
        .expect("the runs themselves go well");
    for outcome in outcomes {
        let summary = &outcome.summary;
        // Not every kind of fault fits into the time, so the run may be too short to count as a pass.
        assert!(
            matches!(summary.verdict, Verdict::Pass | Verdict::Vacuous),
            "{outcome:#?}"
        );
        assert!(
            summary.counts.ok >= OK_MIN && summary.counts.faults > 0,
            "{summary:?}"
        );
    }
}
