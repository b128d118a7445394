//! `larder index list|create|drop`: the indexes of a bucket.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Output, Request, segment, text_member, usage};
use super::in_bucket::InBucket;

/// Shows, makes and drops the indexes of a bucket.
///
/// An index is built while reads and writes go on; `list` shows how far it is. Queries use it as soon as it is complete.
#[derive(Args, Clone, Debug)]
pub struct Index {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Clone, Debug)]
enum Verb {
    /// Prints the indexes of a bucket, one a line
    #[command(after_help = "Example:\n  larder index list Movie")]
    List(InBucket),
    /// Makes an index, and returns when every shard keeps it up; then it is filled in the background
    ///
    /// A field is a path, with :desc, :geo or :hashed behind it for another kind than ascending. The first field counts most. Of a hashed
    /// one only equality is answered, and its values do not lie open on the disk.
    #[command(after_help = "Examples:\n  \
        larder index create Movie genre year:desc\n  \
        larder index create User email --unique\n  \
        larder index create Shop place:geo\n  \
        larder index create Patient insurance:hashed --unique")]
    Create(One),
    /// Drops an index, or all of them
    #[command(after_help = "Examples:\n  \
        larder index drop Movie genre year:desc\n  \
        larder index drop Movie --all")]
    Drop(Drop),
}

#[derive(Args, Clone, Debug)]
struct One {
    #[command(flatten)]
    target: InBucket,
    /// The indexed fields, in order
    #[arg(required = true, value_name = "FIELD[:asc|desc|geo|hashed]")]
    fields: Vec<String>,
    /// No two documents may have the same values; documents that lack one of them are exempt
    #[arg(long)]
    unique: bool,
}

#[derive(Args, Clone, Debug)]
struct Drop {
    #[command(flatten)]
    target: InBucket,
    /// The indexed fields, in order
    #[arg(
        required_unless_present = "all",
        value_name = "FIELD[:asc|desc|geo|hashed]"
    )]
    fields: Vec<String>,
    /// The unique index of these fields
    #[arg(long)]
    unique: bool,
    /// All indexes of the bucket
    #[arg(long, conflicts_with_all = ["fields", "unique"])]
    all: bool,
}

/// Runs `larder index`.
pub(crate) async fn run(index: Index) -> anyhow::Result<()> {
    match index.verb {
        Verb::List(target) => list(&target).await,
        Verb::Create(one) => {
            let definition = definition(&one.fields, one.unique, false)?;
            change(&one.target, Method::POST, Some(definition)).await
        }
        Verb::Drop(drop) => {
            let (method, body) = match drop.all {
                true => (Method::DELETE, None),
                false => {
                    let body = definition(&drop.fields, drop.unique, true)?;
                    (Method::POST, Some(body))
                }
            };
            change(&drop.target, method, body).await
        }
    }
}

/// Sends a definition, or none.
async fn change(target: &InBucket, method: Method, body: Option<Value>) -> anyhow::Result<()> {
    let request = Request {
        body: body.map(|body| body.to_string().into()),
        ..Request::default()
    };
    target.send_as_root(method, &path(target), request).await?;
    Ok(())
}

fn path(target: &InBucket) -> String {
    format!("/index/{}", segment(&target.bucket))
}

async fn list(target: &InBucket) -> anyhow::Result<()> {
    let request = Request::default();
    let body = target.send(Method::GET, &path(target), request).await?.body;
    if target.output() == Output::Json {
        println!("{}", String::from_utf8_lossy(&body));
        return Ok(());
    }
    let indexes: Vec<Value> =
        serde_json::from_slice(&body).context("the server's answer is not JSON")?;
    for index in &indexes {
        println!("{}", line(index));
    }
    Ok(())
}

/// An index as people read it: state, fields, and why it failed.
fn line(index: &Value) -> String {
    let state = text_member(index, "state").unwrap_or_default();
    let state = match (state.as_str(), index["progress"].as_f64()) {
        ("building", Some(progress)) => format!("building {:.0} %", progress * 100.0),
        _ => state,
    };
    let keys = index["keys"].as_array().map(Vec::as_slice);
    let fields = keys.unwrap_or_default().iter().filter_map(Value::as_object);
    let fields: Vec<String> = fields
        .flatten()
        .map(|(path, kind)| match kind.as_str() {
            Some("asc") | None => path.clone(),
            Some(kind) => format!("{path}:{kind}"),
        })
        .collect();
    let unique = match index["unique"].as_bool() {
        Some(true) => " unique",
        Some(false) | None => "",
    };
    let reason = text_member(index, "reason").map_or_else(String::new, |why| format!("  {why}"));
    format!("{state:<14} {}{unique}{reason}", fields.join(" "))
}

/// The definition as the server reads it.
fn definition(fields: &[String], unique: bool, drop: bool) -> anyhow::Result<Value> {
    let key = |field: &String| {
        let (path, kind) = field.rsplit_once(':').unwrap_or((field, "asc"));
        match kind {
            "asc" | "desc" | "geo" | "hashed" => Ok(json!({ path: kind })),
            _ => Err(usage(format!(
                "{field:?}: a field ends with :asc, :desc, :geo, :hashed, or none of them"
            ))),
        }
    };
    let keys: Vec<Value> = fields.iter().map(key).collect::<anyhow::Result<_>>()?;
    Ok(json!({ "unique": unique, "keys": keys, "drop": drop }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn fields_become_a_definition_and_back() {
        let made = definition(
            &fields(&["a.b", "year:desc", "place:geo", "tax:hashed"]),
            true,
            false,
        );
        let made = made.expect("a definition");
        let keys =
            json!([{ "a.b": "asc" }, { "year": "desc" }, { "place": "geo" }, { "tax": "hashed" }]);
        assert_eq!(made, json!({ "unique": true, "keys": keys, "drop": false }));
        let mut shown = made;
        shown["state"] = json!("building");
        shown["progress"] = json!(0.25);
        assert_eq!(
            line(&shown),
            "building 25 %  a.b year:desc place:geo tax:hashed unique"
        );
        assert!(definition(&fields(&["year:down"]), false, false).is_err());
    }
}
