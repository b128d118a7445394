//! `larder data keys|rotate-key|rewrap`: the keys of a running node that seals its disk, over its admin port.

use clap::Args;
use serde_json::Value;

use super::client::{Output, OutputArgs};
use super::cluster::{Admin, AdminClient};
use super::exit::Status;

/// Which node, and how its answer is shown.
#[derive(Args, Clone, Debug)]
pub(super) struct Keys {
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Clone, Debug)]
pub(super) struct Rotate {
    #[command(flatten)]
    keys: Keys,
    /// Only the keys of this database
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
}

pub(super) async fn show(args: &Keys) -> anyhow::Result<()> {
    call(args, None).await
}

pub(super) async fn rotate(args: &Rotate) -> anyhow::Result<()> {
    let verb = match &args.database {
        None => "rotate".to_owned(),
        Some(name) => format!("rotate?database={name}"),
    };
    call(&args.keys, Some(&verb)).await
}

pub(super) async fn rewrap(args: &Keys) -> anyhow::Result<()> {
    call(args, Some("rewrap")).await
}

async fn call(args: &Keys, verb: Option<&str>) -> anyhow::Result<()> {
    let output = args.output.output;
    let admin = AdminClient::of(&args.admin)?;
    let answer = admin
        .encryption(verb)
        .await
        .map_err(|failure| failure.report_as(Status::Error, output))?;
    match output {
        Output::Json => println!("{answer}"),
        Output::Text => print(&answer),
    }
    Ok(())
}

fn print(answer: &Value) {
    let is = |of: &Value, name: &str| of.get(name).and_then(Value::as_bool).unwrap_or_default();
    let number = |of: &Value, name: &str| of.get(name).and_then(Value::as_u64).unwrap_or_default();
    let keys = answer.get("keys").and_then(Value::as_array);
    for key in keys.into_iter().flatten() {
        let scope = key.get("scope").and_then(Value::as_str).unwrap_or_default();
        let state = match is(key, "retired") {
            true => "retired: opens what is not rewritten yet",
            false => "current",
        };
        println!("key {:>4}  {scope:<16}  {state}", number(key, "id"));
    }
    if is(answer, "converting") {
        println!("values from before encryption was switched on may be left");
    }
    let (read, values) = (number(answer, "readBytes"), number(answer, "rewritten"));
    match is(answer, "rewriting") {
        true => println!(
            "rewriting: {} MiB looked at, {values} values rewritten",
            read >> 20
        ),
        false => println!("nothing is being rewritten"),
    }
}
