//! `larder data`: an offline check of a data directory, and the keys of one that is sealed (`data_keys.rs`).

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use storage::verify::{Finding, Report, describe_key, verify};

use super::client::{Output, OutputArgs};
use super::exit::{Exit, Status};
use super::{data_keys, on_this_thread};
use crate::config::MasterKeySource;

/// Checks a data directory, and changes the keys of one that is encrypted.
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
    /// Shows which data keys a node has, and how far a rewriting is
    #[command(after_help = "Example:\n  larder data keys")]
    Keys(data_keys::Keys),
    /// Gives a node new data keys: new values are sealed with them at once, stored ones are rewritten in the background
    ///
    /// Each node has keys of its own: run it at each. The old keys are removed from the disk when nothing is sealed with them.
    #[command(
        after_help = "Examples:\n  larder data rotate-key\n  larder data rotate-key --database shop --admin http://n2:7402"
    )]
    RotateKey(data_keys::Rotate),
    /// Has a node read its master key again and wrap its data keys by it; no data is rewritten
    ///
    /// For a master key in a file, or from a command, that has been replaced where it is. One that moves elsewhere, or from the
    /// environment, is changed with encryption.previous_master_key and a restart.
    #[command(after_help = "Example:\n  larder data rewrap")]
    Rewrap(data_keys::Keys),
}

#[derive(Args, Clone, Debug)]
struct Verify {
    /// The node's data directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Where the master key of an encrypted directory is: file:PATH, env:NAME or command:COMMAND
    #[arg(long, value_name = "REFERENCE")]
    master_key: Option<MasterKeySource>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the verb.
///
/// # Errors
/// Exit status 6: damaged, the output says where. 1: the directory is in use, absent, of a newer release, or encrypted by another key;
/// or the node refused.
pub(crate) fn run(data: &Data) -> anyhow::Result<()> {
    match &data.verb {
        Verb::Verify(args) => check(args),
        Verb::Keys(args) => on_this_thread(data_keys::show(args)),
        Verb::RotateKey(args) => on_this_thread(data_keys::rotate(args)),
        Verb::Rewrap(args) => on_this_thread(data_keys::rewrap(args)),
    }
}

fn check(args: &Verify) -> anyhow::Result<()> {
    let source = args.master_key.as_ref();
    let master = source.map(MasterKeySource::read).transpose()?;
    let report = verify(&args.dir, master.as_ref())?;
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
