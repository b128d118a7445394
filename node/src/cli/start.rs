//! `larder start --config FILE`: a node in the foreground.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::exit::{Exit, Status};
use crate::config::Config;

/// Runs one node in the foreground until SIGTERM or Ctrl-C.
///
/// A new node belongs to no cluster: once all are started, `larder cluster init` makes one of them.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Each key can be overridden from the environment as LARDER_<SECTION>__<KEY>, for example\n\
    LARDER_LIMITS__DEADLINE_MS=8000. Exit status 78: the configuration cannot be used.\n\n\
    Example:\n  larder start --config configs/single-node.toml"
)]
pub struct Start {
    /// The node's configuration (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The process that started this node; when it is gone, the node is killed
    #[arg(long, hide = true, value_name = "PID")]
    pub parent: Option<i32>,
}

/// Reads the configuration and ties the process to its parent.
///
/// # Errors
/// Exit status 78 and the reason; nothing was started or touched.
pub(crate) fn prepare(start: &Start) -> anyhow::Result<Config> {
    if let Some(parent) = start.parent {
        die_with(parent)?;
    }
    let config = Config::load(&start.config).map_err(|error| Exit::new(Status::Config, error))?;
    let missing = config.tls.missing();
    if !config.security.insecure && !missing.is_empty() {
        let (file, name) = (start.config.display(), &config.node.name);
        let missing: Vec<String> = missing.iter().map(|key| format!("tls.{key}")).collect();
        return Err(Exit::new(
            Status::Config,
            format_args!(
                "{file}: no certificates: {} must be set. Make them, once for the cluster, for each node and for you:\n  \
                 larder cert create-ca\n  \
                 larder cert create-node {name} --host HOST\n  \
                 larder cert create-client NAME\n\
                 Each says what goes where. Without TLS, and only in a network that you trust: `insecure = true` under \
                 [security] (security.insecure).",
                missing.join(", "),
            ),
        )
        .into());
    }
    Ok(config)
}

fn die_with(parent: i32) -> anyhow::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .context("cannot watch the parent process")?;
    // The parent may have died before the line above.
    anyhow::ensure!(
        nix::unistd::getppid().as_raw() == parent,
        "the process {parent} that started this node is gone"
    );
    Ok(())
}
