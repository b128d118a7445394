//! `larder audit export|verify`: the audit logs of a cluster, over a node's admin port, or of a stopped node from its files.
//!
//! What is checked is checked here, not in the node: every hash is computed again from the texts that came.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use storage::audit::{Checker, Hash, Record};

use super::client::{Output, OutputArgs, usage};
use super::cluster::{Admin, AdminClient};
use super::exit::{Exit, Status};
use crate::audit::Anchors;

/// The chain that holds where the others stood.
const ANCHORS: &str = "shard-0";

/// Shows and checks what the cluster wrote down of security-relevant actions.
///
/// There is one chain of records for each shard, and one for each node, of which the asked node has its own.
#[derive(Args, Clone, Debug)]
pub struct Audit {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Clone, Debug)]
enum Verb {
    /// Prints the records, chain by chain
    #[command(
        after_help = "Examples:\n  larder audit export --from 2026-01-01T00:00:00Z\n  larder audit export -o json > audit.ndjson"
    )]
    Export(Export),
    /// Computes all hashes again, compares them with what was written down, and names the first record that does not fit
    #[command(
        after_help = "Exit status: 0 sound, 6 a chain is broken.\n\nExamples:\n  larder audit verify\n  larder audit verify --data /var/lib/larder\n  larder audit verify --data /var/lib/larder --anchors shard-0.ndjson --chain node-1f3a5b7c9d2e4f60"
    )]
    Verify(Verify),
}

#[derive(Args, Clone, Debug)]
struct Export {
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: OutputArgs,
    /// Only what happened at this moment (RFC 3339) or later
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Only this chain: shard-NUMBER, or node-ID of the asked node
    #[arg(long, value_name = "CHAIN")]
    chain: Option<String>,
}

#[derive(Args, Clone, Debug)]
struct Verify {
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: OutputArgs,
    /// Check the log of a node by its data directory instead; it need not run
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// With --data: what the cluster wrote down of that log, as `larder audit export --chain shard-0 -o json` gave it
    #[arg(long, value_name = "FILE", requires_all = ["data", "chain"])]
    anchors: Option<PathBuf>,
    /// With --anchors: the name of that log's chain, node-ID
    #[arg(long, value_name = "CHAIN", requires = "anchors")]
    chain: Option<String>,
}

/// A part of a chain, as the admin port gives it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    behind: u64,
    behind_hash: String,
    last: u64,
    records: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    hash: String,
    record: Box<RawValue>,
}

/// What checking a chain came to.
struct Verdict {
    chain: String,
    records: u64,
    trouble: Option<String>,
    /// What could not be checked, and why.
    unchecked: Option<&'static str>,
}

impl Verdict {
    /// That of a chain without records.
    fn of(chain: &str) -> Verdict {
        Verdict {
            chain: chain.to_owned(),
            records: 0,
            trouble: None,
            unchecked: None,
        }
    }
}

/// Why a node's log alone is not compared with what the cluster wrote down.
const NO_ANCHORS: &str = "what the cluster wrote down of this log lies in shard-0: give an export of that (--anchors), or verify at the running node";

/// Runs `larder audit`.
pub(crate) async fn run(audit: Audit) -> anyhow::Result<()> {
    match audit.verb {
        Verb::Export(args) => export(&args).await,
        Verb::Verify(args) => match &args.data {
            Some(dir) => verify_data(dir, &args),
            None => verify(&args).await,
        },
    }
}

async fn export(args: &Export) -> anyhow::Result<()> {
    let output = args.output.output;
    let admin = AdminClient::of(&args.admin)?;
    let chains = match &args.chain {
        Some(chain) => vec![chain.clone()],
        None => chains(&admin, output).await?,
    };
    let from_us = args.from.map_or(0, |from| from.as_microsecond());
    let mut out = std::io::stdout().lock();
    for chain in chains {
        let mut after = 0;
        loop {
            let part = part(&admin, &chain, after, output).await?;
            for row in &part.records {
                let text = row.record.get();
                let record: Record = serde_json::from_str(text).with_context(|| {
                    format!("{chain}: a record is not readable; `larder audit verify` says where")
                })?;
                after = record.sequence;
                if i64::try_from(record.time_us).unwrap_or(i64::MAX) < from_us {
                    continue;
                }
                match output {
                    // As it was hashed, so that the export can be checked by itself.
                    Output::Json => writeln!(
                        out,
                        "{{\"chain\":\"{chain}\",\"hash\":\"{}\",\"record\":{text}}}",
                        row.hash
                    )?,
                    Output::Text => writeln!(out, "{}", line(&chain, &record))?,
                }
            }
            if part.records.is_empty() || after >= part.last {
                break;
            }
        }
    }
    Ok(())
}

fn line(chain: &str, record: &Record) -> String {
    let time = i64::try_from(record.time_us)
        .ok()
        .and_then(|us| Timestamp::from_microsecond(us).ok());
    let mut line = format!(
        "{} {chain} {} {}",
        time.map_or_else(|| record.time_us.to_string(), |time| time.to_string()),
        record.sequence,
        record.action
    );
    for (name, value) in [
        ("user", &record.user),
        ("address", &record.address),
        ("database", &record.database),
        ("target", &record.target),
        ("detail", &record.detail),
    ] {
        if !value.is_empty() {
            // Quoted: names are what somebody chose.
            line.push_str(&format!(" {name}={value:?}"));
        }
    }
    if record.count != 1 {
        line.push_str(&format!(" count={}", record.count));
    }
    line
}

async fn verify(args: &Verify) -> anyhow::Result<()> {
    let output = args.output.output;
    let admin = AdminClient::of(&args.admin)?;
    let mut anchors: HashMap<String, Anchors> = HashMap::new();
    let mut verdicts = Vec::new();
    let mut all = chains(&admin, output).await?;
    // First the chain that says where the others stood: they have only grown since.
    all.sort_by_key(|chain| chain != ANCHORS);
    for chain in all {
        let written_down = anchors.remove(&chain).unwrap_or_default();
        let mut watch = |record: &Record| {
            if let Some((of, sequence, hash)) = cluster::anchored(record) {
                anchors
                    .entry(of.to_owned())
                    .or_default()
                    .add(sequence, hash);
            }
        };
        verdicts.push(check(&admin, &chain, &written_down, &mut watch, output).await?);
    }
    report(&verdicts, output)
}

/// Checks one chain to its end, and that it holds what was written down of it.
async fn check(
    admin: &AdminClient,
    chain: &str,
    written_down: &Anchors,
    watch: &mut (dyn FnMut(&Record) + Send),
    output: Output,
) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict::of(chain);
    let mut checker: Option<Checker> = None;
    loop {
        let after = checker.as_ref().map_or(0, |checker| checker.next - 1);
        let part = part(admin, chain, after, output).await?;
        let before = Checker::behind(part.behind, hash(&part.behind_hash)?);
        let checker = checker.get_or_insert_with(|| before.clone());
        if *checker != before {
            verdict.trouble = Some(format!(
                "the records behind {after} do not go on from there"
            ));
            return Ok(verdict);
        }
        for row in &part.records {
            let at = checker.next;
            match checker.take(row.record.get().as_bytes(), &hash(&row.hash)?) {
                Ok(record) => watch(&record),
                Err(why) => {
                    verdict.trouble = Some(format!("record {at} {why}"));
                    return Ok(verdict);
                }
            }
            verdict.records += 1;
            verdict.trouble = written_down.trouble_at(at, &checker.hash);
            if verdict.trouble.is_some() {
                return Ok(verdict);
            }
        }
        if part.records.is_empty() || checker.next > part.last {
            verdict.trouble = written_down.trouble_of_end(checker.next - 1);
            return Ok(verdict);
        }
    }
}

/// Checks a node's own log in its files.
fn verify_data(dir: &Path, args: &Verify) -> anyhow::Result<()> {
    let mut verdicts = Vec::new();
    let mut verdict = Verdict::of(args.chain.as_deref().unwrap_or("node"));
    let mut anchors = Anchors::default();
    match &args.anchors {
        None => verdict.unchecked = Some(NO_ANCHORS),
        Some(export) => {
            let of_export;
            (of_export, anchors) = exported(export, &verdict.chain)?;
            let is_sound = of_export.trouble.is_none();
            verdicts.push(of_export);
            if anchors.is_empty() && is_sound {
                verdict.unchecked = Some("the export says nothing of a chain of this name");
            }
        }
    }
    let checked = crate::audit::check(dir, &anchors).with_context(|| {
        format!(
            "the audit log in {}",
            dir.join(crate::audit::FOLDER).display()
        )
    })?;
    (verdict.records, verdict.trouble) = (checked.records, checked.trouble);
    verdicts.push(verdict);
    report(&verdicts, args.output.output)
}

/// What an export of the chain of anchors says of another chain, and whether it is sound itself, from its first record on.
fn exported(export: &Path, chain: &str) -> anyhow::Result<(Verdict, Anchors)> {
    #[derive(Deserialize)]
    struct Line {
        chain: String,
        hash: String,
        record: Box<RawValue>,
    }
    let text = std::fs::read_to_string(export).with_context(|| export.display().to_string())?;
    let mut verdict = Verdict::of(ANCHORS);
    let mut anchors = Anchors::default();
    let mut checker: Option<Checker> = None;
    for line in text.lines() {
        let line: Line = serde_json::from_str(line)
            .with_context(|| format!("{}: no export with -o json", export.display()))?;
        if line.chain != ANCHORS {
            continue;
        }
        let (text, hash) = (line.record.get(), hash(&line.hash)?);
        let taken = match &mut checker {
            Some(checker) => checker.take(text.as_bytes(), &hash),
            // What it goes on behind is in no export.
            None => serde_json::from_str(text).map_err(|error| error.to_string()),
        };
        let record = match taken {
            Ok(record) => record,
            Err(why) => {
                verdict.trouble = Some(format!("the record behind {} {why}", verdict.records));
                return Ok((verdict, anchors));
            }
        };
        checker.get_or_insert_with(|| Checker::behind(record.sequence, hash));
        verdict.records += 1;
        if let Some((of, sequence, hash)) = cluster::anchored(&record)
            && of == chain
        {
            anchors.add(sequence, hash);
        }
    }
    Ok((verdict, anchors))
}

fn report(verdicts: &[Verdict], output: Output) -> anyhow::Result<()> {
    let ok = verdicts.iter().all(|verdict| verdict.trouble.is_none());
    match output {
        Output::Json => {
            let chains: Vec<Value> = verdicts
                .iter()
                .map(|verdict| {
                    json!({
                        "chain": verdict.chain,
                        "records": verdict.records,
                        "trouble": verdict.trouble,
                        "unchecked": verdict.unchecked,
                    })
                })
                .collect();
            println!("{}", json!({ "ok": ok, "chains": chains }));
        }
        Output::Text => {
            for verdict in verdicts {
                let (chain, records) = (&verdict.chain, verdict.records);
                match &verdict.trouble {
                    None => println!("{chain}: {records} records, sound"),
                    Some(trouble) => println!("{chain}: BROKEN after {records} records: {trouble}"),
                }
                if let Some(why) = verdict.unchecked {
                    println!("{chain}: NOT CHECKED: {why}");
                }
            }
        }
    }
    if ok {
        return Ok(());
    }
    Err(Exit::silent(Status::Damaged).into())
}

async fn chains(admin: &AdminClient, output: Output) -> anyhow::Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Chains {
        chains: Vec<String>,
    }
    let body = admin
        .get("/admin/v1/audit")
        .await
        .map_err(|failure| failure.report_as(Status::Unavailable, output))?;
    let chains: Chains = serde_json::from_slice(&body).context("the list of audit logs")?;
    Ok(chains.chains)
}

async fn part(
    admin: &AdminClient,
    chain: &str,
    after: u64,
    output: Output,
) -> anyhow::Result<Part> {
    if chain.contains(['/', '?', '#', '%']) {
        return Err(usage(format!(
            "{chain}: a chain is shard-NUMBER or node-ID"
        )));
    }
    let body = admin
        .get(&format!("/admin/v1/audit/{chain}?after={after}"))
        .await
        .map_err(|failure| failure.report(output))?;
    serde_json::from_slice(&body).with_context(|| format!("a part of {chain}"))
}

fn hash(text: &str) -> anyhow::Result<Hash> {
    let bytes = hex::decode(text).context("a hash")?;
    bytes
        .try_into()
        .map_err(|_| anyhow::anyhow!("a hash of another length"))
}

#[cfg(test)]
mod tests {
    use storage::audit::{BEGINNING, link};

    use super::*;

    /// An export of the chain of anchors, with one of another chain; `break_it` changes its text.
    fn export(dir: &Path, break_it: impl Fn(String) -> String) -> PathBuf {
        let mut hash = BEGINNING;
        let mut text = String::new();
        for (at, (action, target, detail)) in [
            ("schema_changed", "", "from version 1".to_owned()),
            ("anchored", "node-7", format!("3 {}", "ab".repeat(32))),
            ("anchored", "shard-1", format!("9 {}", "cd".repeat(32))),
        ]
        .into_iter()
        .enumerate()
        {
            let record = Record {
                sequence: at as u64 + 1,
                action: action.to_owned(),
                target: target.to_owned(),
                detail,
                count: 1,
                ..Record::default()
            };
            let record = record.text();
            hash = link(&hash, record.as_bytes());
            let hash = hex::encode(hash);
            text += &format!("{{\"chain\":\"shard-0\",\"hash\":\"{hash}\",\"record\":{record}}}\n");
        }
        let path = dir.join("export.ndjson");
        std::fs::write(&path, break_it(text)).expect("written");
        path
    }

    #[test]
    fn an_export_tells_what_was_written_down_of_a_chain() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = export(dir.path(), |text| text);
        let (verdict, anchors) = exported(&path, "node-7").expect("reads");
        assert_eq!((verdict.records, verdict.trouble), (3, None));
        assert_eq!(anchors.trouble_at(3, &[0xab; 32]), None);
        assert!(anchors.trouble_at(3, &[0xcd; 32]).is_some());
        assert!(anchors.trouble_of_end(2).is_some());
        let (_, none) = exported(&path, "node-8").expect("reads");
        assert!(none.is_empty());
        // A part of it, from some record on.
        let behind = |text: String| text.split_once('\n').expect("lines").1.to_owned();
        let path = export(dir.path(), behind);
        let (verdict, anchors) = exported(&path, "node-7").expect("reads");
        assert_eq!((verdict.records, verdict.trouble), (2, None));
        assert!(!anchors.is_empty());
        // A changed one is not believed.
        let path = export(dir.path(), |text| text.replace("abab", "baba"));
        let (verdict, anchors) = exported(&path, "node-7").expect("reads");
        assert!(verdict.trouble.is_some() && anchors.is_empty());
        std::fs::write(&path, "2026-01-01T00:00:00Z shard-0 1 anchored\n").expect("written");
        assert!(exported(&path, "node-7").is_err());
    }

    #[test]
    fn a_record_is_one_line_whatever_is_in_it() {
        let record = Record {
            sequence: 3,
            time_us: 1_700_000_000_000_000,
            action: "login_failed".into(),
            user: "a\nb".into(),
            address: "192.0.2.1".into(),
            count: 7,
            ..Record::default()
        };
        assert_eq!(
            line("node-1", &record),
            "2023-11-14T22:13:20Z node-1 3 login_failed user=\"a\\nb\" address=\"192.0.2.1\" count=7"
        );
    }
}
