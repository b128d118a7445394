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
        after_help = "Exit status: 0 sound, 6 a chain is broken.\n\nExamples:\n  larder audit verify\n  larder audit verify --data /var/lib/larder"
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
}

/// Runs `larder audit`.
pub(crate) async fn run(audit: Audit) -> anyhow::Result<()> {
    match audit.verb {
        Verb::Export(args) => export(&args).await,
        Verb::Verify(args) => match &args.data {
            Some(dir) => verify_data(dir, args.output.output),
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
    let mut anchors: HashMap<String, Vec<(u64, Vec<u8>)>> = HashMap::new();
    let mut verdicts = Vec::new();
    let mut all = chains(&admin, output).await?;
    // First the chain that says where the others stood: they have only grown since.
    all.sort_by_key(|chain| chain != ANCHORS);
    for chain in all {
        let written_down = anchors.remove(&chain).unwrap_or_default();
        let mut watch = |record: &Record| {
            if let Some((of, sequence, hash)) = cluster::anchored(record) {
                let of_it = anchors.entry(of.to_owned()).or_default();
                of_it.push((sequence, hash));
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
    written_down: &[(u64, Vec<u8>)],
    watch: &mut (dyn FnMut(&Record) + Send),
    output: Output,
) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict {
        chain: chain.to_owned(),
        records: 0,
        trouble: None,
    };
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
            let other = written_down
                .iter()
                .any(|(sequence, hash)| *sequence == at && hash[..] != checker.hash);
            if other {
                verdict.trouble = Some(format!(
                    "record {at} is not the one that was there when the cluster wrote its hash down"
                ));
                return Ok(verdict);
            }
        }
        if part.records.is_empty() || checker.next > part.last {
            let last = checker.next - 1;
            let known = written_down.iter().map(|(sequence, _)| *sequence).max();
            if let Some(known) = known.filter(|known| *known > last) {
                verdict.trouble = Some(format!(
                    "ends at record {last}, but the cluster wrote down that there was a record {known}"
                ));
            }
            return Ok(verdict);
        }
    }
}

/// Checks a node's own log in its files.
fn verify_data(dir: &Path, output: Output) -> anyhow::Result<()> {
    let checked = crate::audit::check(dir).with_context(|| {
        format!(
            "the audit log in {}",
            dir.join(crate::audit::FOLDER).display()
        )
    })?;
    let verdict = Verdict {
        chain: "node".to_owned(),
        records: checked.records,
        trouble: checked.trouble,
    };
    report(&[verdict], output)
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
    use super::*;

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
