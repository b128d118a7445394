//! `jepsen`: one run of a workload under faults, and its verdict as exit status.
//!
//! 0: nothing wrong was found · 1: a promise is broken · 2: the run shows nothing (too little load, or a fault that was
//! asked for did not happen) · 3: the run itself failed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use jepsen::db::{Db, Layout};
use jepsen::history::{self, Recorder};
use jepsen::nemesis::Fault;
use jepsen::nemesis::process::Nemesis;
use jepsen::workload::register::{self, Verdict};

/// Fewer operations per second than this, over the whole run, show nothing.
const OPERATIONS_PER_SECOND_MIN: f64 = 10.0;
/// Faults that are spelt out.
const SHOWN_MAX: usize = 20;

/// Runs a workload against a cluster of its own while that is being hurt, and judges the history.
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Arguments {
    /// What the clients do
    #[arg(long, value_enum, default_value = "register")]
    workload: Workload,
    /// What is done to the cluster; may be empty
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "kill,pause",
        value_name = "FAULT,..."
    )]
    faults: Vec<String>,
    /// Repeats the plan of a run
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds of load
    #[arg(long, default_value_t = 60)]
    time: u64,
    /// Nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Copies of each shard
    #[arg(long, default_value_t = 3)]
    replicas: u32,
    /// Document shards
    #[arg(long, default_value_t = 4)]
    shards: u32,
    /// Clients
    #[arg(long, default_value_t = 12)]
    workers: u64,
    /// Registers; few of them are hot
    #[arg(long, default_value_t = 20)]
    keys: u64,
    /// The binary under test [default: beside this one]
    #[arg(long, env = "LARDER_BIN")]
    binary: Option<PathBuf>,
    /// Where configurations, data, logs and the history stay [default: a temporary folder, kept on a fault]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Judge this history instead of making one
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Workload {
    /// Read, write, conditional write and delete on a few registers
    Register,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = runtime
        .context("no runtime")
        .and_then(|runtime| runtime.block_on(run(&arguments)));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("the run failed: {error:#}");
            ExitCode::from(3)
        }
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if let Some(path) = &arguments.check {
        let verdict = register::judge(&history::read(path)?)?;
        return Ok(report(&verdict, path));
    }
    let faults = arguments
        .faults
        .iter()
        .filter(|name| !name.is_empty())
        .map(|name| name.parse::<Fault>());
    let faults = faults.collect::<anyhow::Result<Vec<_>>>()?;
    let seed = arguments.seed.unwrap_or_else(rand::random);
    let temporary = tempfile::Builder::new()
        .prefix("larder-jepsen-")
        .tempdir()?;
    let dir = arguments
        .dir
        .clone()
        .unwrap_or_else(|| temporary.path().to_owned());
    eprintln!("seed {seed}; repeat the plan with --seed {seed}");

    let mut db = Db::install(layout(arguments, dir.clone())?).await?;
    let history = dir.join("history.jsonl");
    let recorder = Recorder::create(&history)?;
    let mut nemesis = Nemesis::new(seed, faults, recorder.clone());
    let outcome = attack(arguments, seed, &mut db, &mut nemesis, &recorder).await;
    recorder.flush()?;
    drop(db);
    let verdict = register::judge(&history::read(&history)?)?;
    let code = report(&verdict, &history);
    if code != ExitCode::SUCCESS || outcome.is_err() {
        eprintln!("kept: {}", dir.display());
        let _ = temporary.keep();
    }
    outcome?;
    let too_little = (verdict.counts.0 as f64) < OPERATIONS_PER_SECOND_MIN * arguments.time as f64;
    if code == ExitCode::SUCCESS && (too_little || !nemesis.missing().is_empty()) {
        eprintln!(
            "shows nothing: {} operations, faults that did not happen: {:?}",
            verdict.counts.0,
            nemesis.missing()
        );
        return Ok(ExitCode::from(2));
    }
    Ok(code)
}

/// Load and faults together, then the end without faults.
async fn attack(
    arguments: &Arguments,
    seed: u64,
    db: &mut Db,
    nemesis: &mut Nemesis,
    recorder: &Recorder,
) -> anyhow::Result<()> {
    let nodes: Vec<String> = db.nodes().map(|node| db.url(node)).collect();
    let end = Instant::now() + Duration::from_secs(arguments.time);
    let options = register::Options {
        seed,
        workers: arguments.workers,
        keys: arguments.keys,
    };
    let load = match arguments.workload {
        Workload::Register => register::run(options, nodes.clone(), recorder.clone(), end),
    };
    let (load, hurt) = tokio::join!(load, nemesis.run(db, end));
    load?;
    hurt?;
    register::finish(options, &nodes, recorder).await
}

fn layout(arguments: &Arguments, dir: PathBuf) -> anyhow::Result<Layout> {
    let beside = || {
        anyhow::Ok(
            std::env::current_exe()?
                .parent()
                .unwrap_or(Path::new("."))
                .join("larder"),
        )
    };
    let binary = arguments.binary.clone().map_or_else(beside, Ok)?;
    let (nodes, shards, replicas) = (arguments.nodes, arguments.shards, arguments.replicas);
    Ok(Layout {
        binary,
        dir,
        nodes,
        shards,
        replicas,
    })
}

fn report(verdict: &Verdict, history: &Path) -> ExitCode {
    let (ok, failed, unknown) = verdict.counts;
    println!(
        "{ok} operations succeeded, {failed} were refused, {unknown} are unknown; history: {}",
        history.display()
    );
    for fault in verdict.faults.iter().take(SHOWN_MAX) {
        println!("FAULT {fault}");
    }
    match verdict.faults.len() {
        0 => println!("nothing wrong was found"),
        count => println!("{count} faults: NOT linearizable"),
    }
    if verdict.faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    }
}
