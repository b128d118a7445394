//! `larder changes tail`: what changes, one event a line; and `larder doc history`, the versions of one document.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::client::{Answer, Client, Connect, Output, OutputArgs, Request, segment};

/// Seconds that a node waits for a change: below the client's own patience.
const WAIT_SECONDS: u32 = 5;
/// Pause before another try where a node did not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// Tells what changes.
#[derive(Args, Clone, Debug)]
pub struct Changes {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Clone, Debug)]
enum Verb {
    /// Prints change events, one a line
    ///
    /// Without --follow it ends when there are no more, and prints to standard error how to go on behind the last one.
    #[command(after_help = "Examples:\n  \
        larder changes tail --bucket Movie --follow\n  \
        larder changes tail --bucket Movie --filter '{\"year\":{\"$gte\":2000}}' --from oldest\n  \
        larder changes tail --from \"$TOKEN\"")]
    Tail(Tail),
}

#[derive(Args, Clone, Debug)]
struct Tail {
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: OutputArgs,
    /// Only this bucket (class); without it all that the user may query
    #[arg(long, value_name = "BUCKET")]
    bucket: Option<String>,
    /// Only documents that match
    #[arg(long, value_name = "JSON", requires = "bucket")]
    filter: Option<String>,
    /// Where to begin: oldest, now, snapshot (everything as it is first), or a token; without it now with --follow, else oldest
    #[arg(long, value_name = "TOKEN")]
    from: Option<String>,
    /// Go on for ever, over lost nodes too
    #[arg(long, short)]
    follow: bool,
}

/// An answer that may have waited.
#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
    token: String,
    #[serde(default)]
    live: bool,
    resync: Option<String>,
}

/// Runs `larder changes`.
pub(crate) async fn run(changes: Changes) -> anyhow::Result<()> {
    let Verb::Tail(tail) = changes.verb;
    let client = Client::connect(&tail.connect).await?;
    let first = if tail.follow { "now" } else { "oldest" };
    let mut from = tail.from.clone().unwrap_or_else(|| first.to_owned());
    let mut begun = false;
    loop {
        let path = tail.path(&from);
        let answer = match client.send(Method::GET, &path, Request::default()).await {
            Ok(answer) => answer,
            // The token leads on when the node is back, or another one at its address.
            Err(failure) if tail.follow && begun && is_passing(&failure) => {
                eprintln!("larder: {failure}; trying again");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(failure) => return Err(failure.report(tail.output.output)),
        };
        begun = true;
        let told: Part<'_> =
            serde_json::from_slice(&answer.body).context("the server's answer is not JSON")?;
        if let Some(reason) = &told.resync {
            eprintln!("larder: everything follows as it is: {reason}");
        }
        for event in &told.events {
            println!("{}", line(event, tail.output.output)?);
        }
        from = told.token;
        if told.events.is_empty() && !tail.follow && !told.live && told.resync.is_none() {
            eprintln!("to go on: --from {from}");
            return Ok(());
        }
    }
}

fn is_passing(failure: &super::client::Failure) -> bool {
    failure.status == 0 || failure.code == "unavailable"
}

impl Tail {
    fn path(&self, from: &str) -> String {
        let wait = if self.follow { WAIT_SECONDS } else { 1 };
        let mut path = format!("/changes?wait={wait}&from={}", segment(from));
        for (name, value) in [("bucket", &self.bucket), ("filter", &self.filter)] {
            if let Some(value) = value {
                let _ = write!(path, "&{name}={}", segment(value));
            }
        }
        path
    }
}

/// The versions of a document.
pub(super) fn print_versions(answer: &Answer, output: Output) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Versions<'a> {
        #[serde(borrow)]
        versions: Vec<&'a RawValue>,
    }
    let found: Versions<'_> =
        serde_json::from_slice(&answer.body).context("the server's answer is not JSON")?;
    for version in found.versions {
        println!("{}", line(version, output)?);
    }
    Ok(())
}

/// An event in one line: for people what happened when, for scripts all of it.
fn line(event: &RawValue, output: Output) -> anyhow::Result<String> {
    if output == Output::Json {
        return Ok(event.get().to_owned());
    }
    let event: Value = serde_json::from_str(event.get()).context("an event is not JSON")?;
    let text = |name: &str| event[name].as_str().unwrap_or("-").to_owned();
    let what = match event["op"].as_str() {
        Some("rules") => format!("{} {}", text("bucket"), event["rules"]),
        _ => text("id"),
    };
    let mut line = format!(
        "{} {} {what} v{}",
        text("time"),
        text("op"),
        event["version"]
    );
    if let Some(document) = event.get("document") {
        let _ = write!(line, " {document}");
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_happened_when() {
        let event = r#"{"event":"1-2-0","op":"update","bucket":"Demo","id":"/db/Demo/a","version":3,"time":"T","document":{"n":1}}"#;
        let event = RawValue::from_string(event.to_owned()).expect("JSON");
        let shown = line(&event, Output::Text).expect("a line");
        assert_eq!(shown, r#"T update /db/Demo/a v3 {"n":1}"#);
        assert_eq!(line(&event, Output::Json).expect("a line"), event.get());
    }
}
