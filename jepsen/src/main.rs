//! `larder-jepsen`: workloads under faults, and the verdict as exit status.
//!
//! 0: nothing wrong was found · 1: a promise is broken · 2: the run shows nothing (too little load, or a fault that was
//! asked for did not happen) · 3: a run itself failed · 4: it could not be decided. Of several runs the worst counts.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use jepsen::checker::verdict::Verdict;
use jepsen::checker::{Finding, Findings, acl, feed, staleness};
use jepsen::history::History;
use jepsen::nemesis::Fault;
use jepsen::report;
use jepsen::run::{Outcome, Plan, run};
use jepsen::workload::Workload;
use tokio::signal::unix::{SignalKind, signal};

/// Exit status of a run that failed itself.
const BROKEN: u8 = 3;
/// Findings that are printed.
const SHOWN_MAX: usize = 10;
/// What `run-all` does to every workload, one run each.
const MATRIX: [&[Fault]; 6] = [
    &[],
    &[Fault::Kill, Fault::Partition],
    &[Fault::Pause, Fault::Reject],
    &[Fault::Restart, Fault::Loss, Fault::Bandwidth],
    &[Fault::Clock, Fault::Kill],
    &[Fault::Power, Fault::Partition],
];

/// Breaks a cluster on purpose, and says what it showed.
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One workload under some faults
    Test {
        /// What clients do
        #[arg(long, value_enum, default_value = "register")]
        workload: Workload,
        /// What is done to the cluster: kill, pause, restart, partition, reject, loss, bandwidth, clock, power; may be empty
        #[arg(
            long,
            value_delimiter = ',',
            default_value = "kill,partition",
            value_name = "FAULT,..."
        )]
        nemesis: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Every workload under every group of faults
    RunAll {
        #[command(flatten)]
        how: How,
    },
    /// Judge a history that exists
    Check {
        /// By which rules: those of a workload, or feed, acl, staleness
        #[arg(long)]
        rules: Rules,
        /// Milliseconds that a cached read may be old, or a revocation may take (of `staleness` and `acl`)
        #[arg(long, default_value_t = 60_000)]
        bound_ms: u64,
        /// history.jsonl
        file: PathBuf,
    },
}

/// Rules of a workload, or of histories that others made.
#[derive(Clone, Copy)]
enum Rules {
    Of(Workload),
    Feed,
    Acl,
    Staleness,
}

impl FromStr for Rules {
    type Err = String;

    fn from_str(text: &str) -> Result<Rules, String> {
        match text {
            "feed" => Ok(Rules::Feed),
            "acl" => Ok(Rules::Acl),
            "staleness" => Ok(Rules::Staleness),
            workload => Workload::from_str(workload, false).map(Rules::Of),
        }
    }
}

#[derive(Args)]
struct How {
    /// Seconds of load of each run
    #[arg(long, default_value_t = 60)]
    time: u64,
    /// Repeats the plan of a run [default: a random one, which is printed]
    #[arg(long)]
    seed: Option<u64>,
    /// The binary under test [default: beside this one]
    #[arg(long, env = "LARDER_BIN")]
    binary: Option<PathBuf>,
    /// A folder for each run goes here
    #[arg(long, default_value = "target/jepsen")]
    out: PathBuf,
    /// Nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=9))]
    nodes: u8,
    /// Copies of each shard
    #[arg(long, default_value_t = 3)]
    replicas: u32,
    /// Document shards
    #[arg(long, default_value_t = 4)]
    shards: u32,
    /// Clients
    #[arg(long, default_value_t = 12)]
    workers: u64,
    /// Successful operations per second before the first fault without which a run shows nothing
    #[arg(long, default_value_t = 100.0)]
    rate_min: f64,
}

impl How {
    fn plan(&self, workload: Workload, faults: Vec<Fault>, seed: u64) -> anyhow::Result<Plan> {
        let beside = || {
            anyhow::Ok(
                std::env::current_exe()?
                    .parent()
                    .unwrap_or(Path::new("."))
                    .join("larder"),
            )
        };
        // Nodes are started with absolute paths, whatever their folder.
        Ok(Plan {
            workload,
            faults,
            seed,
            time: Duration::from_secs(self.time),
            workers: self.workers,
            nodes: usize::from(self.nodes),
            replicas: self.replicas,
            shards: self.shards,
            binary: std::path::absolute(self.binary.clone().map_or_else(beside, Ok)?)?,
            out: std::path::absolute(&self.out)?,
            rate_min: self.rate_min,
        })
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let outcome = runtime
        .context("no runtime")
        .and_then(|runtime| runtime.block_on(until_told_to_stop(arguments.command)));
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("the run failed: {error:#}");
            ExitCode::from(BROKEN)
        }
    }
}

/// Nodes, namespaces and mounts of a run that is dropped are removed; a process that is ended leaves them.
async fn until_told_to_stop(command: Command) -> anyhow::Result<u8> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        outcome = execute(command) => outcome,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminate.recv() => bail!("told to stop"),
    }
}

async fn execute(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Test {
            workload,
            nemesis,
            how,
        } => {
            let faults = nemesis
                .iter()
                .filter(|name| !name.is_empty())
                .map(|name| name.parse());
            let faults = faults.collect::<anyhow::Result<Vec<Fault>>>()?;
            let plan = how.plan(workload, faults, how.seed.unwrap_or_else(rand::random))?;
            let verdict = one(&plan).await?;
            report::write_matrix(&plan.out)?;
            Ok(verdict.exit_code())
        }
        Command::RunAll { how } => all(&how).await,
        Command::Check {
            rules,
            bound_ms,
            file,
        } => check(rules, Duration::from_millis(bound_ms), &file),
    }
}

async fn one(plan: &Plan) -> anyhow::Result<Verdict> {
    eprintln!("{} with seed {}", plan.workload.name(), plan.seed);
    let Outcome {
        summary,
        wrong,
        dir,
    } = run(plan).await?;
    let counts = summary.counts;
    println!(
        "{} {}: {} operations succeeded, {} were refused, {} are unknown, {} faults; {}",
        summary.verdict.text(),
        summary.name,
        counts.ok,
        counts.fail,
        counts.info,
        counts.faults,
        dir.join("report.html").display(),
    );
    summary
        .reasons
        .iter()
        .chain(&summary.lacks)
        .for_each(|line| println!("  {line}"));
    show(&wrong);
    Ok(summary.verdict)
}

fn show(wrong: &[Finding]) {
    for finding in wrong.iter().take(SHOWN_MAX) {
        println!("  {}: {}", finding.anomaly, finding.what);
        finding
            .witness
            .iter()
            .for_each(|line| println!("    {line}"));
    }
}

async fn all(how: &How) -> anyhow::Result<u8> {
    let seed = how.seed.unwrap_or_else(rand::random);
    let mut worst = (Verdict::Pass, None);
    for (group, faults) in (0..).zip(MATRIX) {
        for workload in Workload::ALL {
            let plan = how.plan(workload, faults.to_vec(), seed.wrapping_add(group))?;
            match one(&plan).await {
                Ok(verdict) => worst.0 = verdict.max(worst.0),
                // The others show what they show.
                Err(error) => {
                    println!("BROKEN {} {faults:?}: {error:#}", workload.name());
                    worst.1 = Some(BROKEN);
                }
            }
            report::write_matrix(&plan.out)?;
        }
    }
    let code = match worst {
        (Verdict::Fail, _) | (_, None) => worst.0.exit_code(),
        (_, Some(broken)) => broken,
    };
    Ok(code)
}

fn check(rules: Rules, bound: Duration, file: &Path) -> anyhow::Result<u8> {
    let history = History::read(file)?;
    let findings = match rules {
        Rules::Of(workload) => workload.check(&history),
        Rules::Feed => feed::check(&history),
        Rules::Acl => acl::check(&history, bound),
        Rules::Staleness => {
            let answer = staleness::check(&history, bound);
            println!("the oldest answer was {} ms old", answer.worst.as_millis());
            answer.findings
        }
    };
    let verdict = of(&findings);
    println!("{} {}", verdict.text(), file.display());
    findings
        .undecided
        .iter()
        .for_each(|line| println!("  {line}"));
    show(&findings.wrong);
    Ok(verdict.exit_code())
}

/// What a checker says by itself; whether the run shows anything is not asked.
fn of(findings: &Findings) -> Verdict {
    match (findings.wrong.is_empty(), findings.undecided.is_empty()) {
        (false, _) => Verdict::Fail,
        (true, false) => Verdict::Unknown,
        (true, true) => Verdict::Pass,
    }
}
