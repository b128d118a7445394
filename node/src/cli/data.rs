//! `larder data verify DIR`: an offline check of a data directory.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use storage::verify::{Finding, Report, describe_key, verify};

use super::client::{Output, OutputArgs};
use super::exit::{Exit, Status};

/// Looks at a data directory, with its node stopped.
#[derive(Args, Clone, Debug)]
pub struct Data {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Clone, Debug)]
enum Verb {
    /// Reads everything in a data directory and names what is damaged; changes nothing
    ///
    /// Every block and every entry against its checksum, no hole in any log, a directory of stores that agrees with itself,
    /// applied data that its log continues. Refuses while a node runs on the directory.
    #[command(
        after_help = "Exit status: 0 sound, 6 damaged, 1 could not be checked.\n\n\
        Example:\n  larder data verify /var/lib/larder"
    )]
    Verify(Verify),
}

#[derive(Args, Clone, Debug)]
struct Verify {
    /// The node's data directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the verb.
///
/// # Errors
/// Exit status 6: damaged, the output says where. 1: the directory is in use, absent, or of a newer release.
pub(crate) fn run(data: &Data) -> anyhow::Result<()> {
    let Verb::Verify(args) = &data.verb;
    let report = verify(&args.dir)?;
    match args.output.output {
        Output::Json => println!("{}", as_json(&report)),
        Output::Text => print(&args.dir, &report),
    }
    if report.findings.is_empty() {
        return Ok(());
    }
    Err(Exit::silent(Status::Damaged).into())
}

fn print(dir: &Path, report: &Report) {
    println!(
        "{}: format {}, node {}, cluster {}",
        dir.display(),
        report
            .format
            .map_or_else(|| "unknown".to_owned(), |format| format.to_string()),
        report
            .node
            .map_or_else(|| "unknown".to_owned(), |node| format!("{node:016x}")),
        report.cluster.as_deref().unwrap_or("none"),
    );
    println!(
        "read {} replicas, {} log entries, {} rows, {} bytes",
        report.replicas.len(),
        report.entries,
        report.rows,
        report.bytes
    );
    for finding in &report.findings {
        println!("DAMAGED {}", line(finding));
    }
    match report.findings.len() {
        0 => println!("sound"),
        count => println!(
            "{count} findings: do not start this node on it; remove the node from its cluster and start it with an empty directory, \
             so that its peers fill it"
        ),
    }
}

fn line(finding: &Finding) -> String {
    let mut line = String::new();
    if !finding.database.is_empty() {
        line.push_str(finding.database);
        line.push(' ');
    }
    if let Some(file) = &finding.file {
        line.push_str(&format!("{} ", file.display()));
    }
    if let Some((first, last)) = keys(finding) {
        line.push_str(&format!("keys {first} to {last} "));
    }
    format!("{}: {}", line.trim_end(), finding.what)
}

fn keys(finding: &Finding) -> Option<(String, String)> {
    let (first, last) = finding.keys.as_ref()?;
    Some((describe_key(first), describe_key(last)))
}

fn as_json(report: &Report) -> Value {
    let index = |id: Option<storage::LogId>| id.map(|id| id.index);
    let replicas = report.replicas.iter().map(|replica| {
        json!({
            "shard": replica.shard.0,
            "replica": replica.replica.0,
            "purged": index(replica.purged),
            "last": index(replica.last),
            "applied": index(replica.applied),
            "chain": format!("{:032x}", replica.chain),
        })
    });
    let findings = report.findings.iter().map(|finding| {
        let (first, last) = keys(finding).unzip();
        json!({
            "database": finding.database,
            "file": finding.file,
            "firstKey": first,
            "lastKey": last,
            "what": finding.what,
        })
    });
    json!({
        "ok": report.findings.is_empty(),
        "format": report.format,
        "node": report.node.map(|node| format!("{node:016x}")),
        "cluster": report.cluster,
        "entries": report.entries,
        "rows": report.rows,
        "bytes": report.bytes,
        "replicas": replicas.collect::<Vec<_>>(),
        "findings": findings.collect::<Vec<_>>(),
    })
}
