//! One run: a fresh cluster, load and faults together, the end without faults, and the verdict.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::checker::Finding;
use crate::checker::verdict::{Judgement, Rules, Verdict, judge};
use crate::db::{Db, Layout};
use crate::history::{History, Recorder};
use crate::nemesis::{Fault, Nemesis};
use crate::report::{self, Summary};
use crate::workload::{self, Options, Workload};

/// Successful reads without which a run shows nothing.
const READS_MIN: usize = 50;

/// Where a run's nodes have their configurations, data and logs.
const NODES: &str = "nodes";

/// What a run is.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What clients do.
    pub workload: Workload,
    /// What is done to the cluster.
    pub faults: Vec<Fault>,
    /// Repeats the plan.
    pub seed: u64,
    /// How long clients go on.
    pub time: Duration,
    /// Clients.
    pub workers: u64,
    /// Nodes.
    pub nodes: usize,
    /// Copies of each shard.
    pub replicas: u32,
    /// Document shards.
    pub shards: u32,
    /// The binary under test.
    pub binary: PathBuf,
    /// A folder of the run's own below this one.
    pub out: PathBuf,
    /// Successful operations per second before the first fault without which a run shows nothing.
    pub rate_min: f64,
}

impl Plan {
    fn fault_names(&self) -> Vec<String> {
        self.faults
            .iter()
            .map(|fault| fault.name().to_owned())
            .collect()
    }

    fn name(&self) -> String {
        let faults = if self.faults.is_empty() {
            "none".to_owned()
        } else {
            self.fault_names().join("-")
        };
        format!(
            "{}-{faults}-n{}-{}",
            self.workload.name(),
            self.nodes,
            self.seed
        )
    }

    fn command(&self) -> String {
        format!(
            "larder-jepsen test --workload {} --nemesis '{}' --time {} --seed {} --workers {} --nodes {} --replicas {} --shards {} --binary {}",
            self.workload.name(),
            self.fault_names().join(","),
            self.time.as_secs(),
            self.seed,
            self.workers,
            self.nodes,
            self.replicas,
            self.shards,
            self.binary.display(),
        )
    }

    /// What must have happened for the run to show anything.
    fn rules(&self) -> Rules {
        let reads = self.workload.reads();
        Rules {
            rate_min: self.rate_min,
            reads_min: if reads.is_empty() { 0 } else { READS_MIN },
            reads,
            faults: self.fault_names(),
        }
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// In short.
    pub summary: Summary,
    /// What is wrong.
    pub wrong: Vec<Finding>,
    /// Where its files are.
    pub dir: PathBuf,
}

/// Runs it, judges it and writes its report.
///
/// # Errors
/// If it could not be run: that says nothing about the cluster.
pub async fn run(plan: &Plan) -> anyhow::Result<Outcome> {
    let dir = plan.out.join(plan.name());
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let recorder = Recorder::create(&dir.join("history.jsonl"))?;
    let layout = Layout {
        binary: plan.binary.clone(),
        dir: dir.join(NODES),
        nodes: plan.nodes,
        shards: plan.shards,
        replicas: plan.replicas,
        equipment: plan
            .faults
            .iter()
            .filter_map(|fault| fault.equipment())
            .collect(),
    };
    // What an earlier run of the same name has left would be another cluster's.
    if layout.dir.exists() {
        std::fs::remove_dir_all(&layout.dir)?;
    }
    let mut db = Db::install(layout, &plan.workload.setup()).await?;
    let lacks = db.lacks().to_vec();
    let (recovery, wrong) = attack(plan, &mut db, &recorder).await?;
    drop(db);
    let mut outcome = report(plan, &dir, wrong)?;
    outcome.summary.recovery_ms = recovery.and_then(|time| u64::try_from(time.as_millis()).ok());
    outcome.summary.lacks = lacks;
    save(&outcome)?;
    // What went well shows nothing in its data and logs, and takes room.
    if outcome.summary.verdict == Verdict::Pass {
        std::fs::remove_dir_all(dir.join(NODES))?;
    }
    Ok(outcome)
}

fn save(outcome: &Outcome) -> anyhow::Result<()> {
    let history = History::read(&outcome.dir.join("history.jsonl"))?;
    report::write(&outcome.dir, &outcome.summary, &outcome.wrong, &history)
}

/// Load and faults together, then the end without faults: how long healing took, and what was seen to be wrong.
async fn attack(
    plan: &Plan,
    db: &mut Db,
    recorder: &Recorder,
) -> anyhow::Result<(Option<Duration>, Vec<Finding>)> {
    let origins: Vec<String> = db.nodes().map(|node| db.origin(node)).collect();
    let options = Options {
        workload: plan.workload,
        seed: plan.seed,
        workers: plan.workers,
    };
    workload::prepare(plan.workload, &origins).await?;
    // A fault that the host does not allow is left out; the verdict says that it did not happen.
    let faults: Vec<Fault> = plan
        .faults
        .iter()
        .copied()
        .filter(|fault| fault.equipment().is_none_or(|needed| db.has(needed)))
        .collect();
    let end = Instant::now() + plan.time;
    let mut nemesis = Nemesis::new(plan.seed, &faults, recorder.clone());
    let (load, hurt) = tokio::join!(
        workload::run(options, &origins, recorder, end),
        nemesis.run(db, end)
    );
    load?;
    match hurt {
        Ok(recovery) => Ok((
            Some(recovery),
            workload::finish(options, &origins, recorder).await?,
        )),
        // A node that ends by itself, or does not come back.
        Err(error) => {
            let finding = Finding {
                anomaly: "does not heal".to_owned(),
                what: format!("{error:#}"),
                witness: Vec::new(),
            };
            Ok((None, vec![finding]))
        }
    }
}

fn report(plan: &Plan, dir: &Path, wrong: Vec<Finding>) -> anyhow::Result<Outcome> {
    let history = History::read(&dir.join("history.jsonl"))?;
    let findings = plan.workload.check(&history);
    let findings = crate::checker::Findings::from(wrong).and(findings);
    let Judgement {
        verdict,
        wrong,
        reasons,
        counts,
    } = judge(&history, findings, &plan.rules());
    let summary = Summary {
        name: plan.name(),
        workload: plan.workload.name().to_owned(),
        faults: plan.fault_names(),
        seed: plan.seed,
        command: plan.command(),
        verdict,
        reasons,
        lacks: Vec::new(),
        counts,
        recovery_ms: None,
    };
    Ok(Outcome {
        summary,
        wrong,
        dir: dir.to_owned(),
    })
}
