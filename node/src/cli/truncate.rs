//! `larder truncate`: all documents of a bucket, part by part.

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, Connect, Failure, Output, OutputArgs, Request, segment, usage};
use super::exit::{Exit, Status};

/// The header that leads to what is left.
const CONTINUATION: &str = "larder-continuation";
/// Documents that one request deletes, about: well within its time.
const PART: u64 = 2_000;

/// Deletes all documents of a bucket; needs root
///
/// The bucket stays. Each deletion is a change of its own, so it takes its time; what was deleted when it is interrupted stays deleted,
/// and the same command deletes the rest. Predefined users and roles stay.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  larder truncate --bucket Todo --yes")]
pub struct Truncate {
    /// The bucket (class)
    #[arg(long, value_name = "NAME")]
    bucket: String,
    /// Really delete them; without it the command says how many there are
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs `larder truncate`.
pub(crate) async fn run(truncate: Truncate) -> anyhow::Result<()> {
    let output = truncate.output.output;
    let client = Client::connect_as_root(&truncate.connect).await?;
    let total = count(&client, &truncate.bucket).await;
    let total = total.map_err(|failure| failure.report(output))?;
    if !truncate.yes {
        return Err(usage(format!(
            "{} has {total} documents; --yes deletes them all",
            truncate.bucket
        )));
    }
    let bar = progress_bar(total);
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    let outcome = tokio::select! {
        outcome = delete_all(&client, &truncate, &bar) => outcome,
        _ = &mut stop => Err(Exit::new(Status::Error, "interrupted").into()),
    };
    let deleted = bar.position();
    bar.finish_and_clear();
    outcome.with_context(|| {
        format!("stopped; at least {deleted} documents are deleted, the same command goes on")
    })?;
    match output {
        Output::Json => println!(
            "{}",
            json!({ "bucket": truncate.bucket, "deleted": deleted })
        ),
        Output::Text => println!("{}: {deleted} documents deleted", truncate.bucket),
    }
    Ok(())
}

async fn count(client: &Client, bucket: &str) -> Result<u64, Failure> {
    let path = format!("/db/{}/count?allowScan=true", segment(bucket));
    let answer = client.send(Method::GET, &path, Request::default()).await?;
    let counted: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    Ok(counted["count"].as_u64().unwrap_or_default())
}

async fn delete_all(client: &Client, truncate: &Truncate, bar: &ProgressBar) -> anyhow::Result<()> {
    let bucket = segment(&truncate.bucket);
    let mut after = String::new();
    loop {
        let path = format!("/db/{bucket}?count={PART}{after}");
        let answer = client.send(Method::DELETE, &path, Request::default()).await;
        let answer = answer.map_err(|failure| failure.report(truncate.output.output))?;
        let part: Value =
            serde_json::from_slice(&answer.body).context("the server's answer is not JSON")?;
        bar.inc(part["deleted"].as_u64().unwrap_or_default());
        let rest = answer.headers.get(CONTINUATION);
        let Some(token) = rest.and_then(|token| token.to_str().ok()) else {
            return Ok(());
        };
        after = format!("&after={token}");
    }
}

fn progress_bar(documents: u64) -> ProgressBar {
    let bar = ProgressBar::new(documents);
    let template = "{elapsed_precise} {wide_bar} {human_pos}/{human_len} {per_sec} eta {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
