//! The cluster as processes: install, start, kill, pause, cut off. One configuration file, data folder and log per node.

mod admin;
mod command;
mod disk;
mod net;

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use admin::Setup;
use disk::Disk;
pub use net::{Effect, Rule};
use net::{Network, Port};

/// A node that is started serves within this, also on a busy host.
pub const READY: Duration = Duration::from_secs(60);
/// Where Debian's `libfaketime` puts its library.
const FAKETIME: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
];

/// What to install.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The binary under test.
    pub binary: PathBuf,
    /// Where configurations, data and logs go.
    pub dir: PathBuf,
    /// Number of nodes.
    pub nodes: usize,
    /// Number of document shards.
    pub shards: u32,
    /// Copies of each shard.
    pub replicas: u32,
    /// What nodes must be prepared for.
    pub equipment: BTreeSet<Equipment>,
}

/// What a node is prepared for from its first start on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Equipment {
    /// A network namespace.
    Network,
    /// A wall clock that jumps (libfaketime).
    Clock,
    /// A disk that loses power.
    Disk,
}

/// A cluster of processes; all are killed and reaped when dropped.
pub struct Db {
    // Dropped after the processes are gone: `Drop` kills them, then fields go.
    processes: Vec<Option<Child>>,
    disks: Vec<Disk>,
    network: Network,
    faketime: Option<PathBuf>,
    layout: Layout,
    root_password: String,
    /// Identities, once the cluster is made.
    ids: Vec<String>,
    /// What was asked for and is not there, in sentences.
    lacks: Vec<String>,
}

impl Db {
    /// Writes configurations and starts all nodes, makes them a cluster, and waits until it serves.
    ///
    /// # Errors
    /// If the cluster does not come up; the logs in the layout's folder say why.
    pub async fn install(layout: Layout, setup: &Setup) -> anyhow::Result<Db> {
        ensure!(
            layout.binary.is_file(),
            "no binary at {}: build it, or give --binary",
            layout.binary.display()
        );
        std::fs::create_dir_all(&layout.dir)?;
        let mut lacks = Vec::new();
        let (network, refused) = Network::make(layout.nodes)?;
        lacks.extend(
            refused.map(|why| format!("nodes share the loopback, without network faults: {why}")),
        );
        let faketime = layout.equipment.contains(&Equipment::Clock).then(faketime);
        if let Some(None) = &faketime {
            lacks.push("clocks run right: libfaketime is not installed (LARDER_FAKETIME names it elsewhere)".to_owned());
        }
        let mut db = Db {
            processes: (0..layout.nodes).map(|_| None).collect(),
            disks: Vec::new(),
            network,
            faketime: faketime.flatten(),
            layout,
            root_password: format!("jepsen-{:016x}", rand::random::<u64>()),
            ids: Vec::new(),
            lacks,
        };
        if db.layout.equipment.contains(&Equipment::Disk)
            && let Err(error) = db.make_disks()
        {
            db.lacks.push(format!("disks keep their power: {error:#}"));
        }
        for node in db.nodes() {
            std::fs::write(db.file(node, "toml"), db.configuration(node))?;
            db.set_clock(node, 0)?;
            db.start(node)?;
        }
        db.make(setup).await?;
        Ok(db)
    }

    fn make_disks(&mut self) -> anyhow::Result<()> {
        let disks = self
            .nodes()
            .map(|node| Disk::make(&self.data(node)))
            .collect::<anyhow::Result<_>>()?;
        self.disks = disks;
        Ok(())
    }

    /// All indexes.
    pub fn nodes(&self) -> std::ops::Range<usize> {
        0..self.processes.len()
    }

    /// The number of document shards.
    pub fn shards(&self) -> u32 {
        self.layout.shards
    }

    /// `http://host:port` of a node's client port.
    pub fn origin(&self, node: usize) -> String {
        format!("http://{}", self.network.address(node, Port::Client))
    }

    /// What was asked for and the host does not allow, in sentences.
    pub fn lacks(&self) -> &[String] {
        &self.lacks
    }

    /// Whether it can be done to nodes.
    pub fn has(&self, equipment: Equipment) -> bool {
        match equipment {
            Equipment::Network => self.network.namespaces().is_ok(),
            Equipment::Clock => self.faketime.is_some(),
            Equipment::Disk => !self.disks.is_empty(),
        }
    }

    /// Starts a node on its data.
    ///
    /// # Errors
    /// If it runs already, or the binary cannot be started.
    pub fn start(&mut self, node: usize) -> anyhow::Result<()> {
        ensure!(
            self.processes[node].is_none(),
            "{} runs already",
            name(node)
        );
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.file(node, "log"))?;
        let mut words = self.network.prefix(node);
        words.push(path_text(&self.layout.binary));
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg("start")
            .arg("--config")
            .arg(self.file(node, "toml"));
        if let Some(library) = &self.faketime {
            command.env("LD_PRELOAD", library);
            command.env("FAKETIME_TIMESTAMP_FILE", self.file(node, "clock"));
            // Deadlines and leases must go by a clock that does not jump, so that one is left alone.
            command
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.processes[node] = Some(command.spawn().context("cannot start a node")?);
        Ok(())
    }

    /// kill -9; returns once the process is reaped. A node that does not run is left alone.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub fn kill(&mut self, node: usize) -> anyhow::Result<()> {
        if let Some(mut process) = self.processes[node].take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Asks a node to end, and waits for that.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub async fn stop(&mut self, node: usize) -> anyhow::Result<()> {
        self.signal(node, Signal::SIGTERM)?;
        if let Some(mut process) = self.processes[node].take() {
            let status = tokio::task::spawn_blocking(move || process.wait()).await??;
            ensure!(
                status.success(),
                "{} did not stop in order: {status}",
                name(node)
            );
        }
        Ok(())
    }

    /// The node's disk loses power, and the node with it.
    ///
    /// # Errors
    /// If it has no disk of its own, or the system refuses.
    pub fn cut_power(&mut self, node: usize) -> anyhow::Result<()> {
        self.disks
            .get(node)
            .context("power loss needs disks of their own")?
            .cut()?;
        self.kill(node)?;
        self.disks[node].restore()
    }

    /// SIGSTOP: it stands still with its connections open.
    ///
    /// # Errors
    /// If the signal cannot be sent.
    pub fn pause(&mut self, node: usize) -> anyhow::Result<()> {
        self.signal(node, Signal::SIGSTOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// If the signal cannot be sent.
    pub fn resume(&mut self, node: usize) -> anyhow::Result<()> {
        self.signal(node, Signal::SIGCONT)
    }

    fn signal(&mut self, node: usize, signal: Signal) -> anyhow::Result<()> {
        if let Some(process) = &self.processes[node] {
            let pid = i32::try_from(process.id()).context("a process id")?;
            kill(Pid::from_raw(pid), signal)?;
        }
        Ok(())
    }

    /// Puts a node's wall clock so many seconds off.
    ///
    /// # Errors
    /// If the file that says so cannot be written.
    pub fn set_clock(&self, node: usize, seconds: i64) -> anyhow::Result<()> {
        Ok(std::fs::write(
            self.file(node, "clock"),
            format!("{seconds:+}s\n"),
        )?)
    }

    /// Puts rules between nodes.
    ///
    /// # Errors
    /// On the loopback, or if the system refuses.
    pub fn add_rules(&self, rules: &[Rule]) -> anyhow::Result<()> {
        let namespaces = self.network.namespaces()?;
        rules.iter().try_for_each(|rule| namespaces.add(rule))
    }

    /// Takes rules away, and says how many packets the nodes' rules caught.
    ///
    /// # Errors
    /// On the loopback, or if they are not there.
    pub fn remove_rules(&self, rules: &[Rule]) -> anyhow::Result<u64> {
        let namespaces = self.network.namespaces()?;
        let receivers: BTreeSet<usize> = rules.iter().map(|rule| rule.to).collect();
        let caught = receivers
            .into_iter()
            .map(|node| namespaces.caught(node))
            .sum::<anyhow::Result<u64>>()?;
        rules.iter().try_for_each(|rule| namespaces.remove(rule))?;
        Ok(caught)
    }

    /// Makes what a node sends slow.
    ///
    /// # Errors
    /// On the loopback, or if the system refuses.
    pub fn slow_down(&self, node: usize, kbit: u32) -> anyhow::Result<()> {
        self.network.namespaces()?.slow_down(node, kbit)
    }

    /// The end of [`Db::slow_down`], with the number of packets that were slowed.
    ///
    /// # Errors
    /// On the loopback, or if it had not begun.
    pub fn speed_up(&self, node: usize) -> anyhow::Result<u64> {
        let namespaces = self.network.namespaces()?;
        let packets = namespaces.slowed(node)?;
        namespaces.speed_up(node)?;
        Ok(packets)
    }

    /// Fails if a node ended that nobody killed: a crash is a verdict of its own.
    ///
    /// # Errors
    /// With the node and its exit status.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        for (node, process) in self.processes.iter_mut().enumerate() {
            if let Some(process) = process
                && let Some(status) = process.try_wait()?
            {
                bail!(
                    "{} ended by itself: {status}; see {}",
                    name(node),
                    self.layout.dir.display()
                );
            }
        }
        Ok(())
    }

    fn data(&self, node: usize) -> PathBuf {
        self.layout.dir.join(name(node))
    }

    fn file(&self, node: usize, kind: &str) -> PathBuf {
        self.layout.dir.join(format!("{}.{kind}", name(node)))
    }

    fn configuration(&self, node: usize) -> String {
        let at = |node: usize, port: Port| self.network.address(node, port);
        let seeds: Vec<String> = self
            .nodes()
            .map(|node| format!("{:?}", at(node, Port::Peer)))
            .collect();
        // Below the mount point: a fresh file system has a folder of its own in it.
        let data = self.data(node).join("data");
        format!(
            "[node]\nname = {:?}\ndata_dir = {:?}\n\n[listen]\nclient = {:?}\npeer = {:?}\nadmin = {:?}\n\n\
             [cluster]\nseeds = [{}]\n\n[security]\ninsecure = true\n",
            name(node),
            path_text(&data),
            at(node, Port::Client),
            at(node, Port::Peer),
            at(node, Port::Admin),
            seeds.join(", "),
        )
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        for node in self.nodes() {
            let _ = self.kill(node);
        }
    }
}

/// What a node is called: `n1` is the first.
pub fn name(node: usize) -> String {
    format!("n{}", node + 1)
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn faketime() -> Option<PathBuf> {
    let named = std::env::var_os("LARDER_FAKETIME").map(PathBuf::from);
    named
        .into_iter()
        .chain(FAKETIME.map(PathBuf::from))
        .find(|path| path.is_file())
}
