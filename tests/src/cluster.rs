//! A cluster of real processes on free ports, with its data in a temporary folder.
//!
//! Two ways to start one: `larder dev`, as a person would, and node by node with configuration files of our own. In
//! both, every node can be killed, paused, stopped and started again by its index.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use proto::ShardId;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::Api;
use crate::process::{self, GONE, Running};
use crate::status::Status;
use crate::tls::Certs;
use crate::wait::{eventually, within, within_blocking};
use crate::{binary, ports};

/// `larder dev` promises 30 s; a loaded machine that also compiles gets more before the harness gives up.
const START: Duration = Duration::from_secs(90);
/// A started node serves within this; tests that promise less measure it themselves.
pub const READY: Duration = Duration::from_secs(30);
/// Another program may take a port between the choice and its use.
const START_TRIES: usize = 3;

/// What kind of cluster to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of nodes.
    pub nodes: u16,
    /// Number of document shards, a power of two.
    pub shards: u32,
    /// Copies of each shard.
    pub replicas: u32,
    /// Variables for every node.
    pub env: Vec<(String, String)>,
    /// Data directories, one for each node, for nodes that are started one by one; empty: below the temporary folder.
    pub data: Vec<PathBuf>,
    /// `None`: `larder dev`. Otherwise nodes are started one by one and made a cluster with this password of root.
    pub root_password: Option<String>,
    /// Nodes that are started one by one have certificates and speak TLS.
    pub tls: bool,
}

impl Default for Options {
    /// Three nodes, few shards: quick to start.
    fn default() -> Options {
        Options {
            nodes: 3,
            shards: 4,
            replicas: 3,
            env: Vec::new(),
            data: Vec::new(),
            root_password: None,
            tls: false,
        }
    }
}

/// A running cluster. Dropping it kills every process of it, and prints the logs if the test is failing.
pub struct Cluster {
    /// The nodes in the order of their ports.
    pub nodes: Vec<Node>,
    options: Options,
    dev: Option<Running>,
    certs: Option<Certs>,
    dir: TempDir,
}

/// One node: where it is, and its process.
#[derive(Debug)]
pub struct Node {
    /// Its identity, as the admin API writes it.
    pub id: Value,
    /// `http://host:port` of the client port; `https://` with TLS.
    pub client: String,
    /// The same of the admin port.
    pub admin: String,
    /// Its configuration file.
    pub config: PathBuf,
    process: Process,
}

#[derive(Debug)]
enum Process {
    /// A child of `larder dev`.
    OfDev(i32),
    /// A child of ours.
    Ours(Running),
    /// Ended.
    Gone,
}

#[derive(Deserialize)]
struct Ready {
    nodes: Vec<ReadyNode>,
}

#[derive(Deserialize)]
struct ReadyNode {
    id: Value,
    pid: i32,
    client: String,
    admin: String,
    config: PathBuf,
}

impl Cluster {
    /// Starts a cluster and waits until it serves.
    ///
    /// # Panics
    /// If it does not come up.
    pub async fn start(options: Options) -> Cluster {
        let mut failure = String::new();
        for _ in 0..START_TRIES {
            let dir = TempDir::with_prefix("larder-test-").expect("temporary folder");
            let base = ports::free_base(options.nodes);
            let started = match &options.root_password {
                None => Cluster::start_dev(&options, dir, base).await,
                Some(_) => Cluster::start_by_hand(&options, dir, base).await,
            };
            match started {
                Ok(cluster) => return cluster,
                Err(error) => failure = error,
            }
            if !failure.contains("in use") {
                break;
            }
        }
        panic!("no cluster: {failure}");
    }

    /// Three nodes with `larder dev`.
    pub async fn dev() -> Cluster {
        Cluster::start(Options::default()).await
    }

    async fn start_dev(options: &Options, dir: TempDir, base: u16) -> Result<Cluster, String> {
        let mut command = binary::command();
        command
            .arg("dev")
            .arg("--print-ready-json")
            .arg("--data")
            .arg(dir.path().join("data"));
        for (flag, value) in [
            ("--nodes", options.nodes.to_string()),
            ("--shards", options.shards.to_string()),
            ("--replicas", options.replicas.to_string()),
            ("--port", base.to_string()),
        ] {
            command.arg(flag).arg(value);
        }
        command
            .envs(options.env.iter().cloned())
            .current_dir(dir.path());
        let out = dir.path().join("dev-out.log");
        let mut dev = Running::spawn(&mut command, &out);
        let ready = within(START, || {
            let line = ready_line(&out);
            let ended = dev.ended();
            async move { line.map(Ok).or(ended.map(Err)) }
        });
        match ready.await {
            Some(Ok(ready)) => {
                let nodes = ready.nodes.into_iter().map(Node::of_dev).collect();
                Ok(Cluster {
                    nodes,
                    options: options.clone(),
                    dev: Some(dev),
                    certs: None,
                    dir,
                })
            }
            other => {
                process::print_tails(dir.path());
                let ended = other.map(|ended| format!("larder dev ended: {:?}", ended.err()));
                let log = std::fs::read_to_string(&out).unwrap_or_default();
                Err(format!(
                    "{}: {log}",
                    ended.unwrap_or_else(|| format!("larder dev not ready after {START:?}"))
                ))
            }
        }
    }

    async fn start_by_hand(options: &Options, dir: TempDir, base: u16) -> Result<Cluster, String> {
        let mut cluster = Cluster {
            nodes: Vec::new(),
            options: options.clone(),
            dev: None,
            certs: None,
            dir,
        };
        if options.tls {
            cluster.certs = Some(Certs::make(&cluster.dir.path().join("certs")).await);
        }
        let scheme = if options.tls { "https" } else { "http" };
        let at = |node: u16, port: u16| format!("127.0.0.1:{}", base + node * ports::STEP + port);
        let seeds: Vec<String> = (0..options.nodes)
            .map(|node| format!("{:?}", at(node, 1)))
            .collect();
        for node in 0..options.nodes {
            let name = format!("n{}", node + 1);
            let config = cluster.dir.path().join(format!("{name}.toml"));
            let own = options.data.get(usize::from(node)).cloned();
            let data = own.unwrap_or_else(|| cluster.dir.path().join("data").join(&name));
            let security = match &cluster.certs {
                None => "[security]\ninsecure = true\n".to_owned(),
                Some(certs) => {
                    certs.node(&name).await;
                    certs.section(&name)
                }
            };
            let text = format!(
                "[node]\nname = \"{name}\"\ndata_dir = {data:?}\n\n\
                 [listen]\nclient = {:?}\npeer = {:?}\nadmin = {:?}\n\n\
                 [cluster]\nseeds = [{}]\n\n{security}",
                at(node, 0),
                at(node, 1),
                at(node, 2),
                seeds.join(", "),
            );
            std::fs::write(&config, text).map_err(|error| error.to_string())?;
            cluster.nodes.push(Node {
                id: Value::Null,
                client: format!("{scheme}://{}", at(node, 0)),
                admin: format!("{scheme}://{}", at(node, 2)),
                config,
                process: Process::Gone,
            });
        }
        cluster.make().await.map(|()| cluster)
    }

    /// Starts all nodes, makes them a cluster and learns their identities.
    async fn make(&mut self) -> Result<(), String> {
        for node in 0..self.nodes.len() {
            self.spawn(node);
        }
        for node in 0..self.nodes.len() {
            let alive = within(START, || async {
                self.answers(node, "/healthz").await.then_some(())
            })
            .await;
            alive.ok_or_else(|| self.logged(node))?;
        }
        let password = self.options.root_password.clone();
        let body = json!({
            "shards": self.options.shards, "replicas": self.options.replicas, "rootPassword": password, "demo": true,
        });
        let init = self
            .to(&self.nodes[0].admin)
            .post("/admin/v1/cluster/init")
            .json(&body)
            .send()
            .await;
        if init.status != 200 {
            return Err(format!("cluster init: {} {}", init.status, init.text()));
        }
        self.ready(READY).await;
        for node in self.all() {
            let answer = self.admin(node).get("/admin/v1/node").send().await;
            self.nodes[node].id = answer.expect(200).json()["id"].clone();
        }
        self.healthy(READY).await;
        Ok(())
    }

    /// What a node has logged since it was first started by this harness, not by `larder dev`.
    pub fn logged(&self, node: usize) -> String {
        std::fs::read_to_string(self.log(node)).unwrap_or_default()
    }

    /// The folder of everything: data, configurations, logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The log of a node that we started ourselves.
    fn log(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("started-n{}.log", node + 1))
    }

    /// The anonymous HTTP client of a node's default database.
    pub fn api(&self, node: usize) -> Api {
        self.to(&format!("{}/v1", self.nodes[node].client))
    }

    /// The HTTP client of a node, logged in as root.
    pub async fn root(&self, node: usize) -> Api {
        let password = self.options.root_password.as_deref().unwrap_or("root");
        self.api(node).log_in("root", password).await
    }

    /// The admin API of a node.
    pub fn admin(&self, node: usize) -> Api {
        self.to(&self.nodes[node].admin)
    }

    /// The certificates of nodes that speak TLS.
    ///
    /// # Panics
    /// If they do not.
    pub fn certs(&self) -> &Certs {
        self.certs.as_ref().expect("started with TLS")
    }

    /// The anonymous client of one of the nodes' ports.
    fn to(&self, base: &str) -> Api {
        let trust = self.certs.as_ref().map(Certs::trust);
        Api::trusting(base, &trust.unwrap_or_default())
    }

    /// All indexes.
    pub fn all(&self) -> std::ops::Range<usize> {
        0..self.nodes.len()
    }

    /// The cluster as a node sees it; `None` if it does not answer.
    pub async fn try_status(&self, node: usize) -> Option<Status> {
        let answer = self
            .admin(node)
            .get("/admin/v1/cluster/status")
            .try_send()
            .await
            .ok()?;
        serde_json::from_slice(&answer.body).ok()
    }

    /// The cluster as a node sees it.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn status(&self, node: usize) -> Status {
        self.try_status(node)
            .await
            .expect("a living node answers with the cluster's status")
    }

    /// Waits until every node serves.
    pub async fn ready(&self, deadline: Duration) {
        let end = Instant::now() + deadline;
        for node in self.all() {
            self.node_ready(node, end.saturating_duration_since(Instant::now()))
                .await;
        }
    }

    /// Waits until a node serves.
    pub async fn node_ready(&self, node: usize, deadline: Duration) {
        let what = format!("node {node} is ready");
        eventually(&what, deadline, || async {
            self.answers(node, "/readyz").await.then_some(())
        })
        .await;
    }

    /// Whether a node's client port answers 200 at `path`.
    pub async fn answers(&self, node: usize, path: &str) -> bool {
        let answer = self.to(&self.nodes[node].client).get(path).try_send().await;
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// Waits until every node sees the whole cluster healthy.
    pub async fn healthy(&self, deadline: Duration) {
        eventually("the cluster is healthy", deadline, || async {
            for node in self.all() {
                if !self.try_status(node).await?.is_healthy() {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// The index of the node that leads a shard, as `asked` sees it; waits for an election to end.
    pub async fn leader(&self, shard: ShardId, asked: usize) -> usize {
        let what = format!("shard {shard} has a leader");
        let leader = || async {
            let status = self.try_status(asked).await?;
            let leader = status.leader(shard)?.clone();
            let node = self.nodes.iter().position(|node| node.id == leader)?;
            self.is_alive(node).then_some(node)
        };
        eventually(&what, Duration::from_secs(15), leader).await
    }

    /// The index of the node that leads the shard of a document.
    pub async fn leader_of(&self, bucket: &str, key: &str, asked: usize) -> usize {
        let shard = self.status(asked).await.shard_of(bucket, key);
        self.leader(shard, asked).await
    }

    /// Whether a node's process runs.
    pub fn is_alive(&self, node: usize) -> bool {
        match &self.nodes[node].process {
            Process::OfDev(pid) => process::is_alive(*pid),
            Process::Ours(running) => process::is_alive(running.pid()),
            Process::Gone => false,
        }
    }

    /// The process id of a running node.
    ///
    /// # Panics
    /// If it does not run.
    pub fn pid(&self, node: usize) -> i32 {
        match &self.nodes[node].process {
            Process::OfDev(pid) => *pid,
            Process::Ours(running) => running.pid(),
            Process::Gone => panic!("node {node} does not run"),
        }
    }

    /// Sends a signal to a node.
    pub fn signal(&mut self, node: usize, signal: Signal) {
        match &mut self.nodes[node].process {
            Process::OfDev(pid) => process::signal(*pid, signal),
            Process::Ours(running) => running.signal(signal),
            Process::Gone => {}
        }
    }

    /// kill -9; returns when the process is gone.
    pub async fn kill(&mut self, node: usize) {
        self.signal(node, Signal::SIGKILL);
        self.end(node, GONE).await;
    }

    /// kill -9 of all nodes at once.
    pub async fn kill_all(&mut self) {
        for node in self.all() {
            self.signal(node, Signal::SIGKILL);
        }
        for node in self.all() {
            self.end(node, GONE).await;
        }
    }

    /// SIGTERM; returns the exit status once the process is gone (`None` for a child of `larder dev`).
    ///
    /// # Panics
    /// If it does not end.
    pub async fn stop(&mut self, node: usize) -> Option<i32> {
        self.signal(node, Signal::SIGTERM);
        self.end(node, READY).await
    }

    /// Waits for the end of a node that was told to stop or ends by itself; gives its exit status as [`Self::stop`] does.
    ///
    /// # Panics
    /// If it does not end.
    pub async fn ended(&mut self, node: usize) -> Option<i32> {
        self.end(node, READY).await
    }

    /// SIGSTOP: the process stands still and keeps its connections.
    pub fn pause(&mut self, node: usize) {
        self.signal(node, Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume(&mut self, node: usize) {
        self.signal(node, Signal::SIGCONT);
    }

    /// Waits without holding up the load that runs beside the test.
    async fn end(&mut self, node: usize, deadline: Duration) -> Option<i32> {
        let what = format!("node {node} ends");
        match std::mem::replace(&mut self.nodes[node].process, Process::Gone) {
            Process::OfDev(pid) => {
                eventually(&what, deadline, || async {
                    (!process::is_alive(pid)).then_some(())
                })
                .await;
                None
            }
            Process::Ours(mut running) => {
                let ended = || {
                    let status = running.ended();
                    async move { status }
                };
                Some(eventually(&what, deadline, ended).await)
            }
            Process::Gone => None,
        }
    }

    /// Starts a node that was ended, on its old data, with `larder start --config`. Does not wait for it.
    pub fn spawn(&mut self, node: usize) {
        assert!(!self.is_alive(node), "node {node} runs already");
        let mut command = self.start_command(node);
        let log = self.log(node);
        self.nodes[node].process = Process::Ours(Running::spawn(&mut command, &log));
    }

    /// Starts a node again and waits until it serves.
    pub async fn restart(&mut self, node: usize) {
        self.spawn(node);
        self.node_ready(node, READY).await;
    }

    /// The command that starts a node.
    pub fn start_command(&self, node: usize) -> Command {
        let mut command = binary::command();
        command
            .arg("start")
            .arg("--config")
            .arg(&self.nodes[node].config);
        command
            .envs(self.options.env.iter().cloned())
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            process::print_tails(self.dir.path());
        }
        // First the parent, so that it does not report or restart what is killed next.
        self.dev = None;
        for node in self.all() {
            self.signal(node, Signal::SIGKILL);
        }
        for node in &mut self.nodes {
            if let Process::OfDev(pid) = node.process {
                let _ = within_blocking(GONE, || (!process::is_alive(pid)).then_some(()));
            }
            node.process = Process::Gone;
        }
        if std::env::var_os("LARDER_TEST_KEEP").is_some() {
            self.dir.disable_cleanup(true);
            eprintln!("kept {}", self.dir.path().display());
        }
    }
}

impl Node {
    fn of_dev(ready: ReadyNode) -> Node {
        Node {
            id: ready.id,
            client: origin(&ready.client),
            admin: origin(&ready.admin),
            config: ready.config,
            process: Process::OfDev(ready.pid),
        }
    }
}

/// `http://host:port`, whether an address or a URL is given.
fn origin(address: &str) -> String {
    let rest = address.strip_prefix("http://").unwrap_or(address);
    format!("http://{}", rest.split('/').next().unwrap_or(rest))
}

/// The line that `larder dev --print-ready-json` prints, once it is complete.
fn ready_line(out: &Path) -> Option<Ready> {
    let text = std::fs::read_to_string(out).ok()?;
    let line = text
        .split_inclusive('\n')
        .find(|line| line.starts_with("{\"nodes\"") && line.ends_with('\n'))?;
    Some(
        serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("the ready line is not as promised ({error}): {line}")),
    )
}
