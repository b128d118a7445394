//! `larder bucket cache`: how long web caches may keep the documents of a bucket, over a node's admin port.

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use serde_json::{Value, json};
use service::CacheScope;

use super::client::{Output, OutputArgs};
use super::cluster::{Admin, AdminClient};
use super::exit::Status;

/// Shows and changes what concerns whole buckets.
#[derive(Args, Clone, Debug)]
pub struct Bucket {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Clone, Debug)]
enum Verb {
    /// Shows the cache policies of all buckets, or sets that of one
    ///
    /// Documents that everybody may read are then served with a lifetime, so that browsers and CDNs keep them; a filter tells clients
    /// which of their copies are old. Plain reads over HTTP are then as of the last second; `cache-control: no-cache` gets the newest.
    #[command(
        after_help = "Examples:\n  larder bucket cache\n  larder bucket cache Movie --scope public\n  \
        larder bucket cache Movie --scope public --max 300 --prior 60\n  larder bucket cache Movie --scope off"
    )]
    Cache(Cache),
}

#[derive(Args, Clone, Debug)]
struct Cache {
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: OutputArgs,
    /// Name of the bucket whose policy to set; without it all are shown
    #[arg(value_name = "BUCKET", requires = "policy")]
    bucket: Option<String>,
    /// The database of the bucket
    #[arg(long, value_name = "NAME", default_value = "v1")]
    database: String,
    #[command(flatten)]
    policy: Policy,
}

#[derive(Args, Clone, Debug)]
#[group(id = "policy", multiple = true, requires = "bucket")]
struct Policy {
    /// Whose caches may keep documents: off, public (those that everybody may read) or private (others too, in their reader's browser)
    #[arg(long, value_name = "SCOPE")]
    scope: Option<CacheScope>,
    /// The shortest lifetime, however often a document is written
    #[arg(long, value_name = "SECONDS")]
    min: Option<u32>,
    /// The longest lifetime
    #[arg(long, value_name = "SECONDS")]
    max: Option<u32>,
    /// How long a document is thought to stay as it is before anything is known about it
    #[arg(long, value_name = "SECONDS")]
    prior: Option<u32>,
    /// The longest that shared caches may keep a document
    #[arg(long, value_name = "SECONDS")]
    edge: Option<u32>,
}

impl Policy {
    /// The policy with these changes.
    fn onto(&self, stored: Option<&Value>) -> Value {
        let mut policy = json!({});
        let said = [
            ("scope", self.scope.map(|scope| json!(scope.to_string()))),
            ("ttlMinSeconds", self.min.map(Value::from)),
            ("ttlMaxSeconds", self.max.map(Value::from)),
            ("priorSeconds", self.prior.map(Value::from)),
            ("edgeMaxSeconds", self.edge.map(Value::from)),
        ];
        for (member, value) in said {
            let kept = || stored.and_then(|stored| stored.get(member).cloned());
            if let Some(value) = value.or_else(kept) {
                policy[member] = value;
            }
        }
        policy
    }
}

/// Runs `larder bucket`.
pub(crate) async fn run(bucket: Bucket) -> anyhow::Result<()> {
    let Verb::Cache(args) = bucket.verb;
    let output = args.output.output;
    let admin = AdminClient::of(&args.admin)?;
    let shown = admin
        .cache_policies()
        .await
        .map_err(|failure| failure.report_as(Status::Unavailable, output))?;
    let shown = match &args.bucket {
        None => shown,
        Some(name) => {
            let is_it = |policy: &&Value| {
                policy["bucket"] == name.as_str() && policy["database"] == args.database.as_str()
            };
            let stored = shown.as_array().and_then(|all| all.iter().find(is_it));
            let set = admin
                .set_cache_policy(&args.database, name, &args.policy.onto(stored))
                .await
                .map_err(|failure| failure.report(output))?;
            Value::Array(vec![set])
        }
    };
    match output {
        Output::Json => println!("{shown}"),
        Output::Text => print(&shown),
    }
    Ok(())
}

fn print(policies: &Value) {
    let rows = policies.as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        println!("no bucket is cached");
        return;
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "DATABASE", "BUCKET", "SCOPE", "MIN", "MAX", "PRIOR", "EDGE", "STATE",
    ]);
    for policy in rows {
        let text = |member: &str| policy[member].as_str().unwrap_or_default().to_owned();
        let seconds = |member: &str| format!("{} s", policy[member]);
        let state = if policy["pending"] == true {
            "pending"
        } else {
            "ok"
        };
        table.add_row([
            text("database"),
            text("bucket"),
            text("scope"),
            seconds("ttlMinSeconds"),
            seconds("ttlMaxSeconds"),
            seconds("priorSeconds"),
            seconds("edgeMaxSeconds"),
            state.to_owned(),
        ]);
    }
    println!("{table}");
}
