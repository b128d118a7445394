//! `larder shard status|replace`: single shards, over a node's admin port.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{Output, OutputArgs, text_member, usage};
use super::cluster::{Admin, AdminClient, ClusterStatus, print_shards};
use super::exit::{Exit, Status};

/// Between two looks at a replacement under way.
const POLL: Duration = Duration::from_millis(250);

/// Shows shards, and replaces their replicas.
#[derive(Args, Clone, Debug)]
pub struct Shard {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Clone, Debug)]
enum Verb {
    /// Shows the replicas of one shard, or of all, and what is being replaced
    #[command(after_help = "Example:\n  larder shard status 3")]
    Status(StatusArgs),
    /// Replaces one replica of a shard by a fresh one on another node
    ///
    /// The new replica is filled while the shard serves on; then it takes the place of the old one, whose data is removed. The
    /// cluster carries this out by itself, also over crashes. On a node that holds a replica already, that one is renewed.
    #[command(
        after_help = "Examples:\n  larder shard replace 3 n4\n  larder shard replace 3 n4 --from n1 --wait 60"
    )]
    Replace(Replace),
}

#[derive(Args, Clone, Debug)]
struct StatusArgs {
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: OutputArgs,
    /// Number of the shard; without it all are shown
    #[arg(value_name = "SHARD")]
    shard: Option<u32>,
}

#[derive(Args, Clone, Debug)]
struct Replace {
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: OutputArgs,
    /// Number of the shard
    #[arg(value_name = "SHARD")]
    shard: u32,
    /// Name or id of the node that gets the new replica
    #[arg(value_name = "NODE")]
    node: String,
    /// Name or id of the node whose replica goes [default: one that is down, else the one with most replicas]
    #[arg(long, value_name = "NODE")]
    from: Option<String>,
    /// Wait until it is done, for so long at most; without it the command returns when it is under way
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

/// Runs `larder shard`.
pub(crate) async fn run(shard: Shard) -> anyhow::Result<()> {
    match shard.verb {
        Verb::Status(args) => status(&args).await,
        Verb::Replace(args) => replace(&args).await,
    }
}

async fn status(args: &StatusArgs) -> anyhow::Result<()> {
    let output = args.output.output;
    let admin = AdminClient::of(&args.admin)?;
    let (status, _) = admin
        .status()
        .await
        .map_err(|failure| failure.report_as(Status::Unavailable, output))?;
    let chosen: Vec<Value> = match args.shard {
        None => status.shards.clone(),
        Some(number) => vec![find(&status, number)?.clone()],
    };
    match output {
        Output::Json => println!("{}", Value::Array(chosen)),
        Output::Text => print_shards(&status, &chosen),
    }
    Ok(())
}

async fn replace(args: &Replace) -> anyhow::Result<()> {
    let output = args.output.output;
    let admin = AdminClient::of(&args.admin)?;
    let (status, _) = admin
        .status()
        .await
        .map_err(|failure| failure.report_as(Status::Unavailable, output))?;
    let to = node_id(&status, &args.node)?;
    let from = args
        .from
        .as_deref()
        .map(|from| node_id(&status, from))
        .transpose()?;
    let answer = admin
        .replace(args.shard, &to, from.as_deref())
        .await
        .map_err(|failure| failure.report(output))?;
    let done = match args.wait {
        None => false,
        Some(seconds) => {
            finished(&admin, args.shard, Duration::from_secs(seconds)).await?;
            true
        }
    };
    if output == Output::Json {
        println!("{answer}");
        return Ok(());
    }
    let end = |name: &str| {
        let place = answer.get(name).unwrap_or(&Value::Null);
        let node = status.node_name(&text_member(place, "node").unwrap_or_default());
        let replica = text_member(place, "replica").unwrap_or_default();
        format!("replica {replica} on {node}")
    };
    let how = match (done, answer.get("begun").and_then(Value::as_bool)) {
        (true, _) => "was replaced",
        (false, Some(false)) => "is being replaced already",
        (false, _) => "is being replaced",
    };
    println!(
        "shard {}: {} {how} by {}",
        args.shard,
        end("old"),
        end("new")
    );
    if !done {
        println!("see `larder shard status {}`", args.shard);
    }
    Ok(())
}

/// Waits until no replica of the shard is being replaced.
async fn finished(admin: &AdminClient, shard: u32, time: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + time;
    loop {
        // A node that does not answer may be one that is starting again.
        let under_way = match admin.status().await {
            Ok((status, _)) => find(&status, shard)?.get("replacement").cloned(),
            Err(_) => Some(Value::Null),
        };
        let Some(under_way) = under_way else {
            return Ok(());
        };
        if Instant::now() >= deadline {
            let progress =
                text_member(&under_way, "progress").unwrap_or_else(|| "unknown".to_owned());
            let seconds = time.as_secs();
            return Err(Exit::new(
                Status::Unavailable,
                format_args!(
                    "not done after {seconds} s (progress: {}); it goes on by itself, see `larder shard status {shard}`",
                    progress.replace('_', " ")
                ),
            )
            .into());
        }
        tokio::time::sleep(POLL).await;
    }
}

fn find(status: &ClusterStatus, number: u32) -> anyhow::Result<&Value> {
    let is_it =
        |shard: &&Value| shard.get("shard").and_then(Value::as_u64) == Some(u64::from(number));
    status.shards.iter().find(is_it).ok_or_else(|| {
        usage(format_args!(
            "there is no shard {number}: document shards are numbered from 1 to {}",
            status.shard_count
        ))
    })
}

/// The id of the node with this name or id.
fn node_id(status: &ClusterStatus, node: &str) -> anyhow::Result<String> {
    let named = |member: &str| {
        let found = status
            .nodes
            .iter()
            .filter(|known| text_member(known, member).as_deref() == Some(node));
        found
            .filter_map(|known| text_member(known, "id"))
            .collect::<Vec<_>>()
    };
    let by_id = named("id");
    let found = if by_id.is_empty() {
        named("name")
    } else {
        by_id
    };
    match &found[..] {
        [id] => Ok(id.clone()),
        [] => {
            let names: Vec<_> = status
                .nodes
                .iter()
                .filter_map(|known| text_member(known, "name"))
                .collect();
            Err(usage(format_args!(
                "there is no node {node}; there are {}",
                names.join(", ")
            )))
        }
        _ => Err(usage(format_args!(
            "several nodes are called {node}: give the id"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_are_found_by_id_or_by_their_only_name() {
        let status: ClusterStatus = serde_json::from_value(json!({
            "nodes": [{"id": "0a", "name": "n1"}, {"id": "0b", "name": "n2"}, {"id": "0c", "name": "n2"}],
            "shards": [{"shard": 0}, {"shard": 1}], "shardCount": 1,
        }))
        .unwrap();
        assert_eq!(node_id(&status, "n1").unwrap(), "0a");
        assert_eq!(node_id(&status, "0b").unwrap(), "0b");
        for (node, message) in [("n2", "several nodes"), ("n3", "there are n1, n2, n2")] {
            let error = node_id(&status, node).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
        assert!(find(&status, 1).is_ok());
        assert!(
            find(&status, 2)
                .unwrap_err()
                .to_string()
                .contains("from 1 to 1")
        );
    }
}
