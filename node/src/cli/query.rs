//! `larder doc query|count`: documents that match a filter.

use std::fmt::Write as _;

use anyhow::Context as _;
use clap::Args;
use reqwest::Method;
use serde_json::Value;
use serde_json::value::RawValue;

use super::client::{Answer, Output, Request, segment};
use super::in_bucket::InBucket;

/// The header that leads to what comes behind an answer.
const CONTINUATION: &str = "larder-continuation";

/// Prints the documents that match a filter, one a line
///
/// The filter is MongoDB's language as JSON. Results come in the order of --sort, ties by id; without it in the order of keys.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    larder doc query Movie --filter '{\"year\":{\"$gte\":2000},\"genres\":\"Drama\"}' --sort '{\"year\":-1,\"title\":1}' --count 20\n  \
    larder doc query Movie --filter '{\"year\":2000}' --explain\n  \
    larder doc query Demo -o json")]
pub struct Query {
    #[command(flatten)]
    select: Select,
    /// Order of the results, first member first: 1 ascending, -1 descending
    #[arg(long, value_name = "JSON")]
    sort: Option<String>,
    /// Pass over so many documents first
    #[arg(long, value_name = "N", default_value_t = 0)]
    start: u64,
    /// Print at most so many documents; without it all, up to the server's limit
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Only these members, separated by commas, and the metadata
    #[arg(long, value_name = "NAMES")]
    fields: Option<String>,
    /// Go on behind an earlier answer, whose token was printed to standard error
    #[arg(long, value_name = "TOKEN")]
    after: Option<String>,
    /// Print how each shard finds its part, instead of documents; for admins
    #[arg(long, conflicts_with = "fields")]
    explain: bool,
}

/// Prints how many documents match a filter
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:\n  larder doc count Movie --filter '{\"genres\":\"Drama\"}'")]
pub struct Count {
    #[command(flatten)]
    select: Select,
}

#[derive(Args, Clone, Debug)]
struct Select {
    #[command(flatten)]
    place: InBucket,
    /// What must hold of a document; without it every document matches
    #[arg(long, value_name = "JSON", default_value = "{}")]
    filter: String,
    /// Look at any number of documents; for admins
    #[arg(long)]
    allow_scan: bool,
}

/// What is asked about a filter.
#[derive(Clone, Copy)]
enum Word {
    Query,
    Count,
    Explain,
}

impl Select {
    /// Sends the filter, with more parameters behind the address.
    async fn send(&self, word: Word, parameters: &str) -> anyhow::Result<Answer> {
        let bucket = segment(&self.place.bucket);
        let scan = self.allow_scan;
        let path = match word {
            Word::Query => format!("/db/{bucket}/query"),
            Word::Count => format!("/db/{bucket}/count"),
            Word::Explain => format!("/explain/{bucket}"),
        };
        let path = format!("{path}?allowScan={scan}{parameters}");
        let request = Request {
            body: Some(self.filter.clone().into()),
            ..Request::default()
        };
        self.place.send(Method::POST, &path, request).await
    }
}

impl Query {
    fn parameters(&self) -> String {
        let mut text = format!("&start={}", self.start);
        if let Some(count) = self.count {
            let _ = write!(text, "&count={count}");
        }
        let texts = [
            ("sort", &self.sort),
            ("fields", &self.fields),
            ("after", &self.after),
        ];
        for (name, value) in texts {
            if let Some(value) = value {
                let _ = write!(text, "&{name}={}", segment(value));
            }
        }
        text
    }
}

/// Runs `larder doc query`.
pub(crate) async fn run_query(query: &Query) -> anyhow::Result<()> {
    let word = if query.explain {
        Word::Explain
    } else {
        Word::Query
    };
    let answer = query.select.send(word, &query.parameters()).await?;
    match query.select.place.output() {
        Output::Json => println!("{}", String::from_utf8_lossy(&answer.body)),
        Output::Text if query.explain => {
            let explained: Value =
                serde_json::from_slice(&answer.body).context("the server's answer is not JSON")?;
            let shards = explained["shards"].as_array().map(Vec::as_slice);
            for shard in shards.unwrap_or_default() {
                println!(
                    "{}",
                    explain_line(shard, shard["shard"] == explained["slowest"])
                );
            }
        }
        Output::Text => {
            let documents: Vec<&RawValue> =
                serde_json::from_slice(&answer.body).context("the server's answer is not JSON")?;
            for document in documents {
                println!("{document}");
            }
        }
    }
    let more = answer.headers.get(CONTINUATION);
    if let Some(token) = more.and_then(|token| token.to_str().ok()) {
        eprintln!("there may be more: --after {token}");
    }
    Ok(())
}

/// How a shard found its part, in one line.
fn explain_line(shard: &Value, is_slowest: bool) -> String {
    let mut line = format!("shard {}: ", shard["shard"]);
    if let Some(error) = shard.get("error") {
        let _ = write!(
            line,
            "refused: {}",
            error["message"].as_str().unwrap_or_default()
        );
        return line;
    }
    line.push_str(shard["plan"].as_str().unwrap_or_default());
    let indexes = shard["indexes"].as_array().map(Vec::as_slice);
    for index in indexes.unwrap_or_default() {
        let _ = write!(line, " {}", index["definition"]["keys"]);
    }
    let _ = write!(
        line,
        ", {} entries and {} documents looked at ({} expected), {} found, {} ms",
        shard["examinedEntries"],
        shard["examinedDocuments"],
        shard["estimated"],
        shard["returned"],
        shard["ms"],
    );
    if is_slowest {
        line.push_str(", the slowest");
    }
    line
}

/// Runs `larder doc count`.
pub(crate) async fn run_count(count: &Count) -> anyhow::Result<()> {
    let answer = count.select.send(Word::Count, "").await?;
    match count.select.place.output() {
        Output::Json => println!("{}", String::from_utf8_lossy(&answer.body)),
        Output::Text => {
            let counted: Value =
                serde_json::from_slice(&answer.body).context("the server's answer is not JSON")?;
            println!("{}", counted["count"]);
        }
    }
    Ok(())
}
