//! `larder dev`: a whole cluster of real node processes on loopback, in one command.
//!
//! Every node is a child process of this one, in a process group of its own so that Ctrl-C reaches this process
//! alone, and killed by the kernel if this process dies. Its configuration file lies beside its data, so that it can
//! be started by hand with `larder start --config`.

mod nodes;
mod ready;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use self::nodes::{Layout, Nodes};
use super::client::usage;
use super::cluster::{new_table, shard_count};
use super::exit::{Exit, Status};

/// Between two looks at the children, and at a cluster that is getting ready.
const POLL: Duration = Duration::from_millis(100);
/// From the start of the first node until the cluster serves.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Runs a cluster on this machine, for trying out and development
///
/// Starts one process per node and keeps them running until Ctrl-C. The password of root is `root`; the bucket Demo
/// is open to everyone. A later start with the same --data goes on with the same documents.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  larder dev\n  larder dev --nodes 5 --replicas 3 --data /tmp/five\n  \
    larder dev --print-ready-json | jq .nodes"
)]
pub struct Dev {
    /// Nodes to start
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub nodes: u16,
    /// Document shards of a new cluster, a power of two
    #[arg(long, default_value_t = 16, value_parser = shard_count)]
    pub shards: u32,
    /// Copies of each shard of a new cluster [default: 3, or the number of nodes if that is smaller]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=7))]
    pub replicas: Option<u16>,
    /// Where the nodes keep their data
    #[arg(long, default_value = "./larder-data", value_name = "DIR")]
    pub data: PathBuf,
    /// Client port of the first node; peer and admin ports follow, the next node is 10 higher
    #[arg(long, default_value_t = 7400)]
    pub port: u16,
    /// Start a node again when it dies
    #[arg(long)]
    pub respawn: bool,
    /// Once ready, print exactly one line of JSON on standard output instead of the table
    #[arg(long)]
    pub print_ready_json: bool,
}

impl Dev {
    fn replicas(&self) -> u16 {
        self.replicas.unwrap_or(3).min(self.nodes)
    }
}

/// Runs `larder dev`.
pub(crate) async fn run(dev: Dev) -> anyhow::Result<()> {
    if dev.replicas.is_some_and(|replicas| replicas > dev.nodes) {
        return Err(usage(format_args!(
            "--replicas {} needs as many --nodes",
            dev.replicas()
        )));
    }
    let layout = Layout::new(&dev)?;
    layout.check_ports()?;
    layout.write_configs()?;
    // Before the first child: a signal must never find children and nobody to stop them.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut nodes = Nodes::default();
    let outcome = tokio::select! {
        outcome = serve(&dev, &layout, &mut nodes) => outcome,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    eprintln!("stopping {} nodes", nodes.running());
    nodes.stop().await;
    outcome
}

/// Starts the nodes, brings the cluster up and watches over it; ends only with an error.
async fn serve(dev: &Dev, layout: &Layout, nodes: &mut Nodes) -> anyhow::Result<()> {
    for node in layout.nodes() {
        nodes.start(node)?;
    }
    eprintln!(
        "starting {} nodes, data in {}",
        dev.nodes,
        dev.data.display()
    );
    let mut progress = ready::Progress::new(layout, dev)?;
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        if let Some(exited) = nodes.exited()?.first() {
            // Something is wrong with its data or its configuration: waiting cannot help.
            return Err(Exit::new(Status::Error, layout.describe_exit(exited)).into());
        }
        match progress.step().await {
            Ok(()) => break,
            Err(missing) if Instant::now() >= deadline => {
                let message = format!(
                    "not ready after {} s: {}\n{}",
                    READY_WITHIN.as_secs(),
                    missing.what,
                    layout.log_tail(missing.node)
                );
                return Err(Exit::new(Status::Unavailable, message).into());
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
    print_ready(dev, layout, nodes, &progress)?;
    watch(dev, layout, nodes).await
}

async fn watch(dev: &Dev, layout: &Layout, nodes: &mut Nodes) -> anyhow::Result<()> {
    loop {
        for exited in nodes.exited()? {
            eprintln!("{}", layout.describe_exit(&exited));
            if dev.respawn {
                let pid = nodes.start(&layout.nodes()[exited.node])?;
                eprintln!(
                    "{} is started again, pid {pid}",
                    layout.nodes()[exited.node].name
                );
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

fn print_ready(
    dev: &Dev,
    layout: &Layout,
    nodes: &Nodes,
    progress: &ready::Progress,
) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for (index, node) in layout.nodes().iter().enumerate() {
        rows.push((
            progress.id(index).to_owned(),
            nodes.pid(index).unwrap_or_default(),
            node,
        ));
    }
    if dev.print_ready_json {
        let list: Vec<_> = rows
            .iter()
            .map(|(id, pid, node)| {
                json!({
                    "id": id, "pid": pid, "client": node.client_url(), "peer": node.peer_url(),
                    "admin": node.admin_url(), "config": node.config,
                })
            })
            .collect();
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", json!({ "nodes": list }))?;
        return Ok(out.flush()?);
    }
    let mut table = new_table(&["node", "id", "pid", "client", "peer", "admin"]);
    for (id, pid, node) in &rows {
        let urls = [node.client_url(), node.peer_url(), node.admin_url()];
        let [client, peer, admin] = urls;
        table.add_row([
            node.name.clone(),
            id.clone(),
            pid.to_string(),
            client,
            peer,
            admin,
        ]);
    }
    let url = layout.nodes()[0].client_url();
    println!(
        "{table}\n\nready: {} shards. Write a document and read it:\n",
        progress.shards()
    );
    println!(
        "  curl -sS -X PUT {url}/v1/db/Demo/hello -H 'content-type: application/json' -d '{{\"text\":\"hi\"}}' \\\n    \
         && echo && curl -sS {url}/v1/db/Demo/hello && echo\n"
    );
    println!(
        "root's password is `root`. Ctrl-C stops the nodes; the same command goes on with the same data."
    );
    println!(
        "By hand: larder start --config {}",
        layout.nodes()[0].config.display()
    );
    Ok(())
}
