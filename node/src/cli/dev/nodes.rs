//! Where each node of `larder dev` lives, and its process.

use std::fs::OpenOptions;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Dev;
use crate::cli::client::usage;
use crate::cli::exit::{Exit, Status};
use crate::config::load::{ENV_PREFIX, ENV_SEPARATOR};
use crate::config::{Cluster, Config, Listen, Node, Rates, Security};

/// Between the ports of two nodes.
const PORT_STEP: u16 = 10;
/// Nodes that do not stop in this time are killed; nothing acknowledged is lost by that.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// How much of a node's log is shown with an error.
const TAIL_LINES: usize = 15;
const TAIL_BYTES: usize = 8 * 1024;
/// Sections that `dev` decides; variables for them would put every node on the same ports and data.
const OWN_SECTIONS: [&str; 5] = ["NODE", "LISTEN", "ADVERTISE", "CLUSTER", "SECURITY"];

/// One node's files and ports.
#[derive(Clone, Debug)]
pub(super) struct NodeLayout {
    pub(super) index: usize,
    pub(super) name: String,
    /// Absolute, so that the printed command works from anywhere.
    pub(super) config: PathBuf,
    log: PathBuf,
    data: PathBuf,
    listen: Listen,
}

impl NodeLayout {
    pub(super) fn client_url(&self) -> String {
        format!("http://{}", self.listen.client)
    }

    pub(super) fn peer_url(&self) -> String {
        format!("http://{}", self.listen.peer)
    }

    pub(super) fn admin_url(&self) -> String {
        format!("http://{}", self.listen.admin)
    }
}

/// All nodes of the cluster.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    nodes: Vec<NodeLayout>,
}

impl Layout {
    /// # Errors
    /// Ports past 65535, a data folder that cannot be made or that holds a cluster of another size.
    pub(super) fn new(dev: &Dev) -> anyhow::Result<Self> {
        let highest = u32::from(dev.port) + u32::from(dev.nodes - 1) * u32::from(PORT_STEP) + 2;
        if dev.port == 0 || highest > u32::from(u16::MAX) {
            return Err(usage(format_args!(
                "--port {} with {} nodes leaves the range of ports",
                dev.port, dev.nodes
            )));
        }
        let create = || format!("cannot use the data folder {}", dev.data.display());
        std::fs::create_dir_all(&dev.data).with_context(create)?;
        let data = dev.data.canonicalize().with_context(create)?;
        let found = (1..)
            .take_while(|number| data.join(format!("node{number}")).is_dir())
            .count();
        if found != 0 && found != usize::from(dev.nodes) {
            return Err(usage(format_args!(
                "{} holds a cluster of {found} nodes: give --nodes {found}, or another --data",
                dev.data.display()
            )));
        }
        Ok(Self {
            nodes: (0..dev.nodes)
                .map(|index| place(dev.port, &data, index))
                .collect(),
        })
    }

    pub(super) fn nodes(&self) -> &[NodeLayout] {
        &self.nodes
    }

    /// # Errors
    /// A port that somebody listens on.
    pub(super) fn check_ports(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            for (what, address) in [
                ("client", node.listen.client),
                ("peer", node.listen.peer),
                ("admin", node.listen.admin),
            ] {
                if let Err(error) = TcpListener::bind(address) {
                    let port = address.port();
                    let message = format!(
                        "the {what} port {port} of {} cannot be used ({error}): is another cluster running? \
                         Give another --port",
                        node.name
                    );
                    return Err(Exit::new(Status::Error, message).into());
                }
            }
        }
        Ok(())
    }

    /// Writes each node's configuration anew: ports and seeds follow the command line, the data stays.
    pub(super) fn write_configs(&self) -> anyhow::Result<()> {
        let seeds: Vec<String> = self
            .nodes
            .iter()
            .map(|node| node.listen.peer.to_string())
            .collect();
        for node in &self.nodes {
            let config = Config {
                node: Node {
                    name: node.name.clone(),
                    data_dir: node.data.clone(),
                    zone: String::new(),
                },
                listen: node.listen.clone(),
                cluster: Cluster {
                    seeds: seeds.clone(),
                },
                security: Security {
                    insecure: true,
                    allow_default_password: true,
                    ..Security::default()
                },
                // All clients of a trial are one address.
                rates: Rates {
                    signup_per_min: 0,
                    ..Rates::default()
                },
                ..Config::default()
            };
            let describe = || format!("cannot write {}", node.config.display());
            let text = toml::to_string(&config).with_context(describe)?;
            if let Some(folder) = node.config.parent() {
                std::fs::create_dir_all(folder).with_context(describe)?;
            }
            std::fs::write(
                &node.config,
                format!("# Written by `larder dev` at each start.\n{text}"),
            )
            .with_context(describe)?;
        }
        Ok(())
    }

    /// What happened, where to look, and how to start the node again.
    pub(super) fn describe_exit(&self, exited: &Exited) -> String {
        let node = &self.nodes[exited.node];
        format!(
            "{} (pid {}) has ended: {}\n{}\nstart it with: larder start --config {}",
            node.name,
            exited.pid,
            exited.status,
            self.log_tail(Some(exited.node)),
            node.config.display()
        )
    }

    /// The end of a node's log, with its path; of all nodes if none is to blame.
    pub(super) fn log_tail(&self, node: Option<usize>) -> String {
        let nodes = self
            .nodes
            .iter()
            .filter(|candidate| node.is_none_or(|index| candidate.index == index));
        let tails: Vec<String> = nodes
            .map(|node| {
                format!(
                    "the end of {}:\n{}",
                    node.log.display(),
                    tail(&node.log).unwrap_or_default()
                )
            })
            .collect();
        tails.join("\n")
    }
}

fn place(port: u16, data: &Path, index: u16) -> NodeLayout {
    let folder = data.join(format!("node{}", index + 1));
    let port = port + index * PORT_STEP;
    let at = |offset: u16| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port + offset);
    NodeLayout {
        index: usize::from(index),
        name: format!("node{}", index + 1),
        config: folder.join("larder.toml"),
        log: folder.join("log"),
        data: folder.join("data"),
        listen: Listen {
            client: at(0),
            peer: at(1),
            admin: at(2),
        },
    }
}

fn tail(path: &Path) -> std::io::Result<String> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES as u64)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let shown: Vec<String> = lines[lines.len().saturating_sub(TAIL_LINES)..]
        .iter()
        .map(|l| format!("  {l}"))
        .collect();
    Ok(shown.join("\n"))
}

/// A node that has ended.
#[derive(Clone, Debug)]
pub(super) struct Exited {
    pub(super) node: usize,
    pub(super) pid: u32,
    pub(super) status: ExitStatus,
}

/// The running processes, by node.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    children: Vec<(usize, Child)>,
}

impl Nodes {
    /// Starts a node and gives its pid; standard output and error go to its log.
    pub(super) fn start(&mut self, node: &NodeLayout) -> anyhow::Result<u32> {
        use std::os::unix::process::CommandExt as _;
        let describe = || format!("cannot start {}", node.name);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&node.log)
            .with_context(describe)?;
        let mut command = Command::new(std::env::current_exe().with_context(describe)?);
        command
            .args([
                "start",
                "--parent",
                &std::process::id().to_string(),
                "--config",
            ])
            .arg(&node.config);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_own) {
                command.env_remove(&name);
            }
        }
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().with_context(describe)?)
            .stderr(log)
            .process_group(0);
        let child = command.spawn().with_context(describe)?;
        let pid = child.id();
        self.children.push((node.index, child));
        Ok(pid)
    }

    pub(super) fn pid(&self, node: usize) -> Option<u32> {
        self.children
            .iter()
            .find(|(index, _)| *index == node)
            .map(|(_, child)| child.id())
    }

    pub(super) fn running(&self) -> usize {
        self.children.len()
    }

    /// Takes out those that have ended since the last call.
    pub(super) fn exited(&mut self) -> anyhow::Result<Vec<Exited>> {
        let mut exited = Vec::new();
        for (node, child) in &mut self.children {
            if let Some(status) = child.try_wait().context("cannot watch a node")? {
                exited.push(Exited {
                    node: *node,
                    pid: child.id(),
                    status,
                });
            }
        }
        self.children
            .retain(|(_, child)| exited.iter().all(|gone| gone.pid != child.id()));
        Ok(exited)
    }

    /// Asks all to stop, and kills those that have not after ten seconds.
    pub(super) async fn stop(&mut self) {
        for (_, child) in &self.children {
            signal(child, Signal::SIGTERM);
        }
        let deadline = Instant::now() + STOP_WITHIN;
        while Instant::now() < deadline {
            match self.exited() {
                Ok(_) if !self.children.is_empty() => tokio::time::sleep(super::POLL).await,
                _ => break,
            }
        }
        for (node, child) in &mut self.children {
            eprintln!("node{} does not stop, killing it", *node + 1);
            let _ = child.kill();
            let _ = child.wait();
        }
        self.children.clear();
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            let _ = child.kill();
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // Fails only if the child is gone already.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

fn is_own(name: &str) -> bool {
    let key = name
        .strip_prefix(ENV_PREFIX)
        .and_then(|key| key.split_once(ENV_SEPARATOR));
    key.is_some_and(|(section, _)| OWN_SECTIONS.contains(&section.to_uppercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dev(data: &Path, nodes: u16, port: u16) -> Dev {
        Dev {
            nodes,
            shards: 16,
            replicas: None,
            data: data.to_owned(),
            port,
            respawn: false,
            print_ready_json: false,
        }
    }

    #[test]
    fn each_node_is_ten_ports_higher_and_its_configuration_loads() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(&dev(folder.path(), 3, 7400)).unwrap();
        layout.write_configs().unwrap();
        assert_eq!(layout.nodes()[0].client_url(), "http://127.0.0.1:7400");
        assert_eq!(layout.nodes()[2].admin_url(), "http://127.0.0.1:7422");
        let config = Config::load(&layout.nodes()[1].config).unwrap();
        assert_eq!(config.listen.peer.port(), 7411);
        assert_eq!(
            config.cluster.seeds,
            ["127.0.0.1:7401", "127.0.0.1:7411", "127.0.0.1:7421"]
        );
        assert!(config.security.insecure);
    }

    #[test]
    fn a_data_folder_of_another_size_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        Layout::new(&dev(folder.path(), 3, 7400))
            .unwrap()
            .write_configs()
            .unwrap();
        let error = Layout::new(&dev(folder.path(), 5, 7400)).unwrap_err();
        assert!(error.to_string().contains("give --nodes 3"), "{error}");
        assert!(Layout::new(&dev(folder.path(), 3, 7500)).is_ok());
    }

    #[test]
    fn a_port_in_use_is_named_before_anything_starts() {
        let folder = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        if port > 60_000 {
            return;
        }
        let error = Layout::new(&dev(folder.path(), 1, port))
            .unwrap()
            .check_ports()
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("client port {port} of node1")),
            "{error}"
        );
    }

    #[test]
    fn variables_for_ports_and_data_do_not_reach_the_nodes() {
        assert!(is_own("LARDER_LISTEN__CLIENT"));
        assert!(is_own("LARDER_NODE__DATA_DIR"));
        assert!(!is_own("LARDER_TELEMETRY__LOG"));
        assert!(!is_own("LARDER_URL"));
    }
}
