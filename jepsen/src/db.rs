//! The cluster as processes: install, start, kill, pause. One configuration file, data folder and log per node.

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::Rng as _;
use serde_json::{Value, json};

use crate::client;

/// Below the ports that the system gives to outgoing connections.
const BASES: std::ops::Range<u16> = 20_000..32_000;
const PORT_STEP: u16 = 10;
const PORTS_PER_NODE: u16 = 3;
const PORT_TRIES: usize = 200;
/// Between two looks at a node that is starting.
const LOOK: Duration = Duration::from_millis(50);

/// What to install.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The binary under test.
    pub binary: PathBuf,
    /// Where configurations, data and logs go.
    pub dir: PathBuf,
    /// Number of nodes.
    pub nodes: u16,
    /// Number of document shards.
    pub shards: u32,
    /// Copies of each shard.
    pub replicas: u32,
}

/// A cluster of processes; all are killed and reaped when dropped.
pub struct Db {
    layout: Layout,
    base_port: u16,
    processes: Vec<Option<Child>>,
}

impl Db {
    /// Writes configurations and starts all nodes, makes them a cluster, and waits until it serves.
    ///
    /// # Errors
    /// If the cluster does not come up; the logs in the layout's folder say why.
    pub async fn install(layout: Layout) -> anyhow::Result<Db> {
        ensure!(
            layout.binary.is_file(),
            "no binary at {}: build it, or give --binary",
            layout.binary.display()
        );
        std::fs::create_dir_all(&layout.dir)?;
        let base_port = free_base(layout.nodes)?;
        let mut db = Db {
            processes: (0..layout.nodes).map(|_| None).collect(),
            base_port,
            layout,
        };
        for node in db.nodes() {
            std::fs::write(db.file(node, "toml"), db.configuration(node))?;
            db.start(node)?;
        }
        for node in db.nodes() {
            db.wait_for(node, "/healthz", Duration::from_secs(30))
                .await?;
        }
        let body = json!({
            "shards": db.layout.shards, "replicas": db.layout.replicas, "demo": true,
            "rootPassword": format!("jepsen-{:016x}", rand::random::<u64>()),
        });
        let init = format!("http://{}/admin/v1/cluster/init", db.address(0, 2));
        let request = client::http()?
            .build()?
            .post(init)
            .header("content-type", "application/json")
            .body(body.to_string());
        let answer = request.send().await.context("cluster init")?;
        ensure!(
            answer.status().is_success(),
            "cluster init: {} {}",
            answer.status(),
            answer.text().await?
        );
        for node in db.nodes() {
            db.wait_ready(node, Duration::from_secs(30)).await?;
        }
        Ok(db)
    }

    /// All indexes.
    pub fn nodes(&self) -> std::ops::Range<usize> {
        0..self.processes.len()
    }

    /// The base URL of a node's default database.
    pub fn url(&self, node: usize) -> String {
        format!("http://{}/v1", self.address(node, 0))
    }

    /// Starts a node on its data.
    ///
    /// # Errors
    /// If it runs already, or the binary cannot be started.
    pub fn start(&mut self, node: usize) -> anyhow::Result<()> {
        ensure!(self.processes[node].is_none(), "node {node} runs already");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.file(node, "log"))?;
        let mut command = Command::new(&self.layout.binary);
        command
            .arg("start")
            .arg("--config")
            .arg(self.file(node, "toml"));
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
                    "node {node} ended by itself: {status}; see {}",
                    self.layout.dir.display()
                );
            }
        }
        Ok(())
    }

    /// Waits until a node serves.
    ///
    /// # Errors
    /// After `deadline`.
    pub async fn wait_ready(&self, node: usize, deadline: Duration) -> anyhow::Result<()> {
        self.wait_for(node, "/readyz", deadline).await
    }

    async fn wait_for(&self, node: usize, path: &str, deadline: Duration) -> anyhow::Result<()> {
        let client = client::http()?.timeout(Duration::from_secs(1)).build()?;
        let url = format!("http://{}{path}", self.address(node, 0));
        let end = Instant::now() + deadline;
        let mut last = "nobody listens".to_owned();
        while Instant::now() < end {
            match client.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => last = answer.text().await.unwrap_or_default(),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("{url} does not answer 200 after {deadline:?}: {last}")
    }

    /// The health that a node sees.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn health(&self, node: usize) -> anyhow::Result<String> {
        let url = format!("http://{}/admin/v1/cluster/status", self.address(node, 2));
        let text = client::http()?
            .build()?
            .get(url)
            .timeout(Duration::from_secs(5))
            .send()
            .await?
            .text()
            .await?;
        let status: Value = serde_json::from_str(&text)?;
        Ok(status["health"].as_str().unwrap_or_default().to_owned())
    }

    fn address(&self, node: usize, port: u16) -> String {
        // There are at most a few nodes.
        format!(
            "127.0.0.1:{}",
            self.base_port + node as u16 * PORT_STEP + port
        )
    }

    fn file(&self, node: usize, kind: &str) -> PathBuf {
        self.layout.dir.join(format!("n{}.{kind}", node + 1))
    }

    fn configuration(&self, node: usize) -> String {
        let seeds: Vec<String> = self
            .nodes()
            .map(|node| format!("{:?}", self.address(node, 1)))
            .collect();
        let data = self.layout.dir.join(format!("n{}", node + 1));
        format!(
            "[node]\nname = \"n{}\"\ndata_dir = {:?}\n\n[listen]\nclient = {:?}\npeer = {:?}\nadmin = {:?}\n\n\
             [cluster]\nseeds = [{}]\n\n[security]\ninsecure = true\n",
            node + 1,
            path_text(&data),
            self.address(node, 0),
            self.address(node, 1),
            self.address(node, 2),
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

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A base port such that all ports of all nodes are free at this moment.
fn free_base(nodes: u16) -> anyhow::Result<u16> {
    for _ in 0..PORT_TRIES {
        let base = rand::rng().random_range(BASES);
        let mut ports = (0..nodes)
            .flat_map(|node| (0..PORTS_PER_NODE).map(move |port| base + node * PORT_STEP + port));
        if ports.all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return Ok(base);
        }
    }
    bail!("no free ports for {nodes} nodes among {BASES:?}")
}
