//! `larder doc get|history|put|update|delete`: one document. Queries are in [`super::query`].

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Args, Subcommand};
use document::body::EXPIRES_AT;
use document::time::format_datetime;
use reqwest::Method;
use serde_json::{Value, json};
use service::clock::{Clock as _, SystemClock};

use super::client::{Answer, Output, Request, segment, usage};
use super::in_bucket::InBucket;
use super::{changes, query};

/// Longest time to live: moments have four-digit years.
const TTL_SECONDS_MAX: u64 = 1_000 * 366 * 86_400;

/// Reads, writes, deletes and finds documents.
///
/// A document is named by its bucket and its key. The bucket must exist: `larder dev` makes the open bucket Demo.
#[derive(Args, Clone, Debug)]
pub struct Doc {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Clone, Debug)]
enum Verb {
    /// Prints a document; exit status 1 if there is none that the caller may read
    #[command(after_help = "Example:\n  larder doc get Demo hello")]
    Get(Get),
    /// Writes a whole document and prints what is stored
    ///
    /// A document that is there is replaced, all of its members, unless --insert or --if-match forbids it.
    #[command(after_help = "Examples:\n  \
        larder doc put Demo hello '{\"text\":\"hi\"}'\n  \
        larder doc put Demo hello @hello.json --if-match 3\n  \
        cat hello.json | larder doc put Demo hello - --insert\n  \
        larder doc put Session s1 '{\"user\":7}' --ttl 30m")]
    Put(Put),
    /// Changes parts of a document where it is stored, and prints the whole of it
    ///
    /// Operations: $set $inc $dec $mul $min $max $and $or $xor $currentDate $push $unshift $pop $shift $replace $add $remove $put
    /// $rename, each with an object of paths and arguments. All take effect at once, or none does.
    #[command(after_help = "Examples:\n  \
        larder doc update Demo hello --op '{\"$inc\":{\"visits\":1}}'\n  \
        larder doc update Demo hello --op '{\"$push\":{\"tags\":\"new\"},\"$set\":{\"a.b\":true}}' --if-match 3")]
    Update(Update),
    /// Deletes a document; one that is not there is no mistake, unless --if-match is given
    #[command(after_help = "Example:\n  larder doc delete Demo hello --if-match '*'")]
    Delete(Delete),
    /// Prints the versions of a document that are kept, the newest first
    #[command(after_help = "Example:\n  larder doc history Demo hello")]
    History(History),
    Query(query::Query),
    Count(query::Count),
}

#[derive(Args, Clone, Debug)]
struct Target {
    #[command(flatten)]
    place: InBucket,
    /// The document's key, as it is: nothing in it needs encoding
    key: String,
}

#[derive(Args, Clone, Debug)]
struct Condition {
    /// Only if the stored document has this version; `*`: only if there is one
    #[arg(long, value_name = "VERSION|*")]
    if_match: Option<String>,
    /// Any text; a request that is repeated with the same one takes effect once
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

#[derive(Args, Clone, Debug)]
struct History {
    #[command(flatten)]
    target: Target,
}

#[derive(Args, Clone, Debug)]
struct Get {
    #[command(flatten)]
    target: Target,
    /// The version it had at this token of a change feed, if it is kept
    #[arg(long, value_name = "TOKEN")]
    at: Option<String>,
}

#[derive(Args, Clone, Debug)]
struct Put {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    condition: Condition,
    /// Only if no document of this key exists
    #[arg(long, conflicts_with = "if_match")]
    insert: bool,
    /// Delete the document after this time (90s, 30m, 12h, 7d), by this machine's clock; without it, an expiry that is stored stays
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    ttl: Option<Duration>,
    /// A JSON object; @FILE reads a file, - reads standard input
    #[arg(default_value = "-", value_name = "JSON|@FILE|-")]
    document: String,
}

#[derive(Args, Clone, Debug)]
struct Update {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    condition: Condition,
    /// A JSON object, operation -> path -> argument; @FILE reads a file, - reads standard input
    #[arg(long, value_name = "JSON|@FILE|-")]
    op: String,
}

#[derive(Args, Clone, Debug)]
struct Delete {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    condition: Condition,
}

impl Target {
    fn path(&self) -> String {
        format!("/db/{}/{}", segment(&self.place.bucket), segment(&self.key))
    }

    fn id(&self) -> String {
        format!("/db/{}/{}", self.place.bucket, segment(&self.key))
    }
}

impl Condition {
    fn headers(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let mut headers = Vec::new();
        match self.if_match.as_deref().map(|text| text.trim_matches('"')) {
            None => {}
            Some("*") => headers.push(("if-match", "*".to_owned())),
            Some(version) if version.parse::<u64>().is_ok() => {
                headers.push(("if-match", format!("\"{version}\"")))
            }
            Some(other) => {
                return Err(usage(format!(
                    "--if-match takes a version or *, not `{other}`"
                )));
            }
        }
        if let Some(key) = &self.idempotency_key {
            headers.push(("idempotency-key", key.clone()));
        }
        Ok(headers)
    }
}

/// Runs `larder doc`.
pub(crate) async fn run(doc: Doc) -> anyhow::Result<()> {
    match doc.verb {
        Verb::Get(get) => {
            let path = match &get.at {
                None => get.target.path(),
                Some(at) => {
                    let (id, at) = (segment(&get.target.id()), segment(at));
                    format!("/changes?id={id}&at={at}")
                }
            };
            let place = &get.target.place;
            let answer = place.send(Method::GET, &path, Request::default()).await?;
            print_document(&answer, place.output())
        }
        Verb::History(history) => {
            let place = &history.target.place;
            let path = format!("/changes?id={}", segment(&history.target.id()));
            let answer = place.send(Method::GET, &path, Request::default()).await?;
            changes::print_versions(&answer, place.output())
        }
        Verb::Put(put) => run_put(&put).await,
        Verb::Query(query) => query::run_query(&query).await,
        Verb::Count(count) => query::run_count(&count).await,
        Verb::Update(update) => run_update(&update).await,
        Verb::Delete(delete) => {
            let request = Request {
                headers: delete.condition.headers()?,
                body: None,
            };
            let (place, path) = (&delete.target.place, delete.target.path());
            place.send(Method::DELETE, &path, request).await?;
            match delete.target.place.output() {
                Output::Json => {
                    println!("{}", json!({ "id": delete.target.id(), "deleted": true }))
                }
                Output::Text => println!("{} is gone", delete.target.id()),
            }
            Ok(())
        }
    }
}

async fn run_put(put: &Put) -> anyhow::Result<()> {
    let mut document = read_document(&put.document)?;
    if let Some(ttl) = put.ttl {
        let expires = moment_after(SystemClock::new().wall_us(), ttl);
        document.insert(EXPIRES_AT.to_owned(), Value::String(expires));
    }
    let headers = put.condition.headers()?;
    let (method, path) = if put.insert {
        document.insert("id".to_owned(), Value::String(put.target.id()));
        (
            Method::POST,
            format!("/db/{}", segment(&put.target.place.bucket)),
        )
    } else {
        (Method::PUT, put.target.path())
    };
    let body = serde_json::to_vec(&document).context("cannot write the document")?;
    let request = Request {
        headers,
        body: Some(body.into()),
    };
    let answer = put.target.place.send(method, &path, request).await?;
    print_document(&answer, put.target.place.output())
}

/// The operations go out as they were typed: numbers keep their digits.
async fn run_update(update: &Update) -> anyhow::Result<()> {
    let request = Request {
        headers: update.condition.headers()?,
        body: Some(read_argument(&update.op)?),
    };
    let target = &update.target;
    let (place, path) = (&target.place, target.path());
    let answer = place.send(Method::POST, &path, request).await?;
    print_document(&answer, target.place.output())
}

/// A time to live: a number with a unit.
fn ttl(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => 0,
    };
    let number = number.parse::<u64>().ok().filter(|_| seconds > 0);
    let total = number.and_then(|number| number.checked_mul(seconds));
    total
        .filter(|total| *total <= TTL_SECONDS_MAX)
        .map(Duration::from_secs)
        .ok_or_else(|| format!("`{text}` is no time such as 90s, 30m, 12h or 7d"))
}

/// The moment so long after `now_us`, as documents show it.
fn moment_after(now_us: u64, ttl: Duration) -> String {
    let ttl_us = u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX);
    let at_us = now_us.saturating_add(ttl_us);
    format_datetime(i64::try_from(at_us).unwrap_or(i64::MAX))
}

fn read_document(argument: &str) -> anyhow::Result<serde_json::Map<String, Value>> {
    match serde_json::from_slice(&read_argument(argument)?) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(usage("a document is a JSON object")),
        Err(error) => Err(usage(format!("the document is not JSON: {error}"))),
    }
}

/// The text itself, or what `@FILE` or `-` names.
fn read_argument(argument: &str) -> anyhow::Result<Bytes> {
    Ok(if argument == "-" {
        let mut bytes = Vec::new();
        std::io::stdin()
            .read_to_end(&mut bytes)
            .context("cannot read standard input")?;
        bytes.into()
    } else if let Some(file) = argument.strip_prefix('@') {
        std::fs::read(Path::new(file))
            .with_context(|| format!("cannot read {file}"))?
            .into()
    } else {
        argument.to_owned().into()
    })
}

/// Text is indented, JSON is the server's own bytes on one line.
fn print_document(answer: &Answer, output: Output) -> anyhow::Result<()> {
    match output {
        Output::Json => println!("{}", String::from_utf8_lossy(&answer.body)),
        Output::Text => {
            let value: Value =
                serde_json::from_slice(&answer.body).context("the server's answer is not JSON")?;
            println!(
                "{}",
                serde_json::to_string_pretty(&value).context("cannot print the document")?
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(if_match: &str) -> anyhow::Result<Vec<(&'static str, String)>> {
        Condition {
            if_match: Some(if_match.to_owned()),
            idempotency_key: None,
        }
        .headers()
    }

    #[test]
    fn versions_are_quoted_and_a_star_is_not() {
        assert_eq!(condition("3").unwrap(), [("if-match", "\"3\"".to_owned())]);
        assert_eq!(
            condition("\"3\"").unwrap(),
            [("if-match", "\"3\"".to_owned())]
        );
        assert_eq!(condition("*").unwrap(), [("if-match", "*".to_owned())]);
        assert!(condition("three").is_err());
    }

    #[test]
    fn times_to_live_have_a_unit() {
        for (text, seconds) in [
            ("90s", 90),
            ("30m", 1_800),
            ("12h", 43_200),
            ("7d", 604_800),
        ] {
            assert_eq!(ttl(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "s",
            "7",
            "7w",
            "-1s",
            "1.5h",
            "99999999999999999999s",
            "9999999d",
        ] {
            assert!(ttl(text).is_err(), "{text}");
        }
        let shown = moment_after(1_500_000, Duration::from_secs(3_600));
        assert_eq!(shown, "1970-01-01T01:00:01.5Z");
    }

    #[test]
    fn only_objects_are_documents() {
        assert_eq!(read_document("{\"a\":1}").unwrap().len(), 1);
        assert!(read_document("[1]").is_err());
        assert!(read_document("{").is_err());
    }
}
