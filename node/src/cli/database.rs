//! `larder database quota`: what databases may take, over a node's admin port.

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::client::{Output, OutputArgs};
use super::cluster::{Admin, AdminClient};
use super::exit::Status;

/// Shows and changes what concerns whole databases.
#[derive(Args, Clone, Debug)]
pub struct Database {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Clone, Debug)]
enum Verb {
    /// Shows the quotas of all databases, or sets that of one
    ///
    /// A database is counted from the moment on that it first has a quota, if only one without limits (0). Past it writes are refused
    /// with 507 and no effect; deletes go on. Quotas hold about: what is written within a second or two may pass.
    #[command(
        after_help = "Examples:\n  larder database quota\n  larder database quota v1 --documents 1000000 --bytes 20GiB\n  \
        larder database quota v1 --documents 0 --bytes 0"
    )]
    Quota(Quota),
}

#[derive(Args, Clone, Debug)]
struct Quota {
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: OutputArgs,
    /// Name of the database whose quota to set; without it all are shown
    #[arg(value_name = "DATABASE", requires = "limits")]
    database: Option<String>,
    #[command(flatten)]
    limits: Limits,
}

#[derive(Args, Clone, Debug)]
#[group(id = "limits", multiple = true, requires = "database")]
struct Limits {
    /// Most documents; 0: any number
    #[arg(long, value_name = "COUNT")]
    documents: Option<u64>,
    /// Most bytes of keys and JSON, as a number or with KiB, MiB, GiB or TiB; 0: any number
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    bytes: Option<u64>,
}

/// A number of bytes.
fn bytes(text: &str) -> Result<u64, String> {
    let unit_at = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err("a number, with KiB, MiB, GiB or TiB behind it or nothing".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "a number of bytes".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too many".to_owned())
}

/// Runs `larder database`.
pub(crate) async fn run(database: Database) -> anyhow::Result<()> {
    let Verb::Quota(args) = database.verb;
    let output = args.output.output;
    let admin = AdminClient::of(&args.admin)?;
    let shown = admin
        .quotas()
        .await
        .map_err(|failure| failure.report_as(Status::Unavailable, output))?;
    let shown = match &args.database {
        None => shown,
        Some(name) => {
            // What is not said stays.
            let of_it = |member: &str| {
                let quota = shown
                    .as_array()?
                    .iter()
                    .find(|quota| quota["database"] == name.as_str())?;
                quota[member].as_u64()
            };
            let documents = args.limits.documents.or_else(|| of_it("documentsMax"));
            let bytes = args.limits.bytes.or_else(|| of_it("bytesMax"));
            let body = json!({
                "documentsMax": documents.unwrap_or_default(),
                "bytesMax": bytes.unwrap_or_default(),
            });
            let set = admin
                .set_quota(name, &body)
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

fn print(quotas: &Value) {
    let rows = quotas.as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        println!("no database has a quota");
        return;
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["DATABASE", "DOCUMENTS", "OF", "BYTES", "OF", "STATE"]);
    let max = |value: &Value| match value.as_u64() {
        Some(0) | None => "-".to_owned(),
        Some(max) => max.to_string(),
    };
    for quota in rows {
        let state = match (quota["full"] == true, quota["counted"] == true) {
            (true, _) => "full",
            (false, true) => "ok",
            (false, false) => "counting",
        };
        table.add_row([
            quota["database"].as_str().unwrap_or_default().to_owned(),
            quota["documents"].to_string(),
            max(&quota["documentsMax"]),
            quota["bytes"].to_string(),
            max(&quota["bytesMax"]),
            state.to_owned(),
        ]);
    }
    println!("{table}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("17", Ok(17)),
            ("3KiB", Ok(3 << 10)),
            ("20GiB", Ok(20 << 30)),
            ("1TiB", Ok(1 << 40)),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
        for text in ["", "GiB", "1GB", "-1", "1.5GiB", "99999999TiB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
