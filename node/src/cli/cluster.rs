//! `larder cluster init|status|rotate-keys`: over a node's admin port.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{
    CONNECT_TIMEOUT, DEV_ROOT, Failure, Output, OutputArgs, hint, origin_url, read_secret,
    text_member, usage,
};
use super::exit::{Exit, Status};
use super::tls::TlsArgs;

/// Between two tries to reach a node that is starting.
const RETRY: Duration = Duration::from_millis(250);
/// Making a cluster writes to every shard; the node answers within its own deadlines.
const INIT_TIMEOUT: Duration = Duration::from_secs(30);
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);
/// The node answers within its own deadline.
const ROTATE_TIMEOUT: Duration = Duration::from_secs(10);
/// The node answers within its own deadline.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(10);
/// A change of keys waits for the disk, and for a command that prints the master key.
const ENCRYPTION_TIMEOUT: Duration = Duration::from_secs(20);

/// Makes a cluster out of nodes, and shows its health.
///
/// Both verbs speak to the admin port of any node, which listens on loopback unless configured otherwise.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  larder cluster init --replicas 3\n  larder cluster status --admin http://127.0.0.1:7412"
)]
pub struct Cluster {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Clone, Debug)]
enum Verb {
    /// Makes a cluster of the nodes that know each other through their seeds
    ///
    /// Once; on a cluster that exists it changes nothing and succeeds. Without a password file the password of `root`
    /// is generated and printed once.
    #[command(
        after_help = "Example:\n  larder cluster init --shards 16 --replicas 3 --root-password-file root.txt"
    )]
    Init(Init),
    /// Shows nodes and shards; exit status 0 healthy, 4 degraded, 5 no quorum, 3 unreachable
    ///
    /// Degraded: every shard serves, but a replica is missing. No quorum: some shard refuses writes. The view is that of the asked node.
    #[command(after_help = "Example:\n  larder cluster status -o json")]
    Status(StatusArgs),
    /// Has another key sign tokens
    ///
    /// Tokens of before are good for as long as they would have been. With --forget they are not: every session is over, and every API
    /// token worthless. That is for a key that others may know.
    #[command(after_help = "Example:\n  larder cluster rotate-keys")]
    RotateKeys(RotateKeys),
}

/// Where the admin API is.
#[derive(Args, Clone, Debug)]
pub struct Admin {
    /// Admin address of a node, http://HOST:PORT or https://HOST:PORT
    #[arg(
        long,
        env = "LARDER_ADMIN_URL",
        default_value = "http://127.0.0.1:7402",
        value_name = "URL"
    )]
    pub admin: String,
    /// For https:// addresses.
    #[command(flatten)]
    pub tls: TlsArgs,
}

#[derive(Args, Clone, Debug)]
struct Init {
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: OutputArgs,
    /// Document shards, a power of two; fixed for the cluster's life
    #[arg(long, default_value_t = 16, value_parser = shard_count)]
    shards: u32,
    /// Copies of each shard
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=7))]
    replicas: u32,
    /// A file whose first line becomes the password of `root`
    #[arg(long, value_name = "FILE")]
    root_password_file: Option<PathBuf>,
    /// How long to wait for the nodes to come up; 0: ask once
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    wait: u64,
}

#[derive(Args, Clone, Debug)]
struct StatusArgs {
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Clone, Debug)]
struct RotateKeys {
    #[command(flatten)]
    admin: Admin,
    #[command(flatten)]
    output: OutputArgs,
    /// Old keys verify nothing any more: ends all sessions
    #[arg(long)]
    forget: bool,
}

/// A power of two from 1 to 1024.
pub(crate) fn shard_count(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(count) if count.is_power_of_two() && count <= 1024 => Ok(count),
        _ => Err("a power of two from 1 to 1024".to_owned()),
    }
}

/// The answer of `GET /admin/v1/cluster/status`, as far as the verbs use it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ClusterStatus {
    pub(crate) cluster_id: Option<String>,
    pub(crate) health: String,
    pub(crate) nodes: Vec<Value>,
    pub(crate) shards: Vec<Value>,
    pub(crate) database: u32,
    pub(crate) shard_count: u32,
    pub(crate) buckets: serde_json::Map<String, Value>,
    clearing: Vec<Value>,
}

impl Default for ClusterStatus {
    fn default() -> Self {
        Self {
            cluster_id: None,
            health: "uninitialized".to_owned(),
            nodes: Vec::new(),
            shards: Vec::new(),
            database: 1,
            shard_count: 0,
            buckets: serde_json::Map::new(),
            clearing: Vec::new(),
        }
    }
}

impl ClusterStatus {
    /// Every node is up and every shard has all its replicas.
    pub(crate) fn is_healthy(&self) -> bool {
        self.exit_status() == Status::Ok
    }

    /// The exit status that the health stands for.
    fn exit_status(&self) -> Status {
        match self.health.as_str() {
            "healthy" => Status::Ok,
            "degraded" => Status::Degraded,
            "no_quorum" => Status::NoQuorum,
            _ => Status::Error,
        }
    }

    /// The node that leads a shard, as (shard, node), for those that have a leader.
    pub(crate) fn leaders(&self) -> impl Iterator<Item = (u32, String)> {
        self.shards.iter().filter_map(|shard| {
            let number = shard
                .get("shard")?
                .as_u64()
                .and_then(|number| u32::try_from(number).ok())?;
            Some((number, text_member(shard, "leader")?))
        })
    }

    /// The name of a node, or its id if it is not known.
    pub(crate) fn node_name(&self, id: &str) -> String {
        let node = self
            .nodes
            .iter()
            .find(|node| text_member(node, "id").as_deref() == Some(id));
        node.and_then(|node| text_member(node, "name"))
            .unwrap_or_else(|| id.to_owned())
    }

    /// (node id, client URL) of each node.
    pub(crate) fn client_urls(&self) -> Vec<(String, String)> {
        let url = |node: &Value| {
            Some((
                text_member(node, "id")?,
                origin_url(&text_member(node, "client")?).ok()?,
            ))
        };
        self.nodes.iter().filter_map(url).collect()
    }
}

/// The admin API of one node.
#[derive(Clone)]
pub(crate) struct AdminClient {
    http: reqwest::Client,
    origin: String,
}

impl AdminClient {
    pub(crate) fn of(admin: &Admin) -> anyhow::Result<Self> {
        Self::new(&admin.admin, &admin.tls)
    }

    pub(crate) fn new(address: &str, tls: &TlsArgs) -> anyhow::Result<Self> {
        let origin = origin_url(address)?;
        let http = tls
            .http([origin.as_str()])?
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .context("cannot set up the HTTP client")?;
        Ok(Self { http, origin })
    }

    /// `GET /admin/v1/node`.
    pub(crate) async fn node(&self) -> Result<Value, Failure> {
        self.call(
            self.http
                .get(format!("{}/admin/v1/node", self.origin))
                .timeout(STATUS_TIMEOUT),
        )
        .await
    }

    /// `GET /admin/v1/cluster/status`: parsed, and as it came.
    pub(crate) async fn status(&self) -> Result<(ClusterStatus, Value), Failure> {
        let url = format!("{}/admin/v1/cluster/status", self.origin);
        let value = self
            .call(self.http.get(url).timeout(STATUS_TIMEOUT))
            .await?;
        let status = serde_json::from_value(value.clone()).map_err(|error| {
            self.failure(200, format!("the cluster status cannot be read: {error}"))
        })?;
        Ok((status, value))
    }

    /// `POST /admin/v1/cluster/init`; repeats while nothing happened, until `deadline`.
    pub(crate) async fn init(&self, body: &Value, deadline: Instant) -> Result<Value, Failure> {
        loop {
            let request = self
                .http
                .post(format!("{}/admin/v1/cluster/init", self.origin));
            // Making a cluster is idempotent, so that an unknown outcome may be repeated too.
            match self.call(request.timeout(INIT_TIMEOUT).json(body)).await {
                Err(failure)
                    if matches!(failure.status, 0 | 429 | 503 | 504)
                        && Instant::now() < deadline =>
                {
                    tokio::time::sleep(RETRY).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// `POST /admin/v1/cluster/rotate-keys`. A lost answer is not repeated: it would rotate once more.
    async fn rotate_keys(&self, forget: bool) -> Result<Value, Failure> {
        let url = format!("{}/admin/v1/cluster/rotate-keys?only={forget}", self.origin);
        self.call(self.http.post(url).timeout(ROTATE_TIMEOUT)).await
    }

    /// `POST /admin/v1/shards/SHARD/replace`. Beginning what is under way changes nothing, so a lost answer may be repeated.
    pub(crate) async fn replace(
        &self,
        shard: u32,
        to: &str,
        from: Option<&str>,
    ) -> Result<Value, Failure> {
        let from = from.map_or_else(String::new, |from| format!("&from={from}"));
        let url = format!(
            "{}/admin/v1/shards/{shard}/replace?to={to}{from}",
            self.origin
        );
        self.call(self.http.post(url).timeout(REPLACE_TIMEOUT))
            .await
    }

    /// `GET /admin/v1/quotas`.
    pub(crate) async fn quotas(&self) -> Result<Value, Failure> {
        let url = format!("{}/admin/v1/quotas", self.origin);
        self.call(self.http.get(url).timeout(STATUS_TIMEOUT)).await
    }

    /// `PUT /admin/v1/quotas/DATABASE`.
    pub(crate) async fn set_quota(&self, database: &str, body: &Value) -> Result<Value, Failure> {
        let url = format!("{}/admin/v1/quotas/{database}", self.origin);
        let request = self.http.put(url).timeout(REPLACE_TIMEOUT);
        self.call(request.json(body)).await
    }

    /// `GET /admin/v1/caching`.
    pub(crate) async fn cache_policies(&self) -> Result<Value, Failure> {
        let url = format!("{}/admin/v1/caching", self.origin);
        self.call(self.http.get(url).timeout(STATUS_TIMEOUT)).await
    }

    /// `PUT /admin/v1/caching/DATABASE/BUCKET`.
    pub(crate) async fn set_cache_policy(
        &self,
        database: &str,
        bucket: &str,
        body: &Value,
    ) -> Result<Value, Failure> {
        let url = format!("{}/admin/v1/caching/{database}/{bucket}", self.origin);
        let request = self.http.put(url).timeout(REPLACE_TIMEOUT);
        self.call(request.json(body)).await
    }

    /// The body of an answer to GET, as it came.
    pub(crate) async fn get(&self, path: &str) -> Result<bytes::Bytes, Failure> {
        let url = format!("{}{path}", self.origin);
        self.answer(self.http.get(url).timeout(REPLACE_TIMEOUT))
            .await
    }

    /// `GET /admin/v1/encryption`, or `POST` to a verb below it. A lost answer to one may be repeated: at worst keys change twice.
    pub(crate) async fn encryption(&self, verb: Option<&str>) -> Result<Value, Failure> {
        let url = format!("{}/admin/v1/encryption", self.origin);
        let request = match verb {
            None => self.http.get(url),
            Some(verb) => self.http.post(format!("{url}/{verb}")),
        };
        self.call(request.timeout(ENCRYPTION_TIMEOUT)).await
    }

    async fn call(&self, request: reqwest::RequestBuilder) -> Result<Value, Failure> {
        let body = self.answer(request).await?;
        Ok(serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<bytes::Bytes, Failure> {
        let response = request
            .send()
            .await
            .map_err(|error| self.failure(0, deepest(&error)))?;
        let status = response.status();
        let body = response
            .bytes()
            .await
            .map_err(|error| self.failure(0, deepest(&error)))?;
        let value: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if status.is_success() || value.get("health").is_some() {
            return Ok(body);
        }
        let message = value
            .get("message")
            .and_then(Value::as_str)
            .map(str::to_owned);
        let mut failure = self.failure(
            status.as_u16(),
            message.unwrap_or_else(|| format!("the node answered {status}")),
        );
        failure.effect = text_member(&value, "effect").unwrap_or_else(|| "unknown".to_owned());
        failure.code =
            text_member(&value, "code").unwrap_or_else(|| format!("http_{}", status.as_u16()));
        failure.request_id = text_member(&value, "requestId");
        Err(failure)
    }

    fn failure(&self, status: u16, message: String) -> Failure {
        let code = if status == 0 {
            "unreachable"
        } else {
            "unexpected"
        };
        let message = format!("{}: {message}{}", self.origin, hint(&message));
        Failure {
            status,
            code: code.to_owned(),
            effect: "none".to_owned(),
            message,
            request_id: None,
        }
    }
}

fn deepest(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Runs `larder cluster`.
pub(crate) async fn run(cluster: Cluster) -> anyhow::Result<()> {
    match cluster.verb {
        Verb::Init(init) => run_init(&init).await,
        Verb::Status(status) => run_status(&status).await,
        Verb::RotateKeys(rotate) => run_rotate_keys(&rotate).await,
    }
}

async fn run_init(init: &Init) -> anyhow::Result<()> {
    let output = init.output.output;
    let password = init
        .root_password_file
        .as_deref()
        .map(read_secret)
        .transpose()?;
    if password.as_deref() == Some(DEV_ROOT) {
        return Err(usage(
            "`root` is no password for root outside of `larder dev`",
        ));
    }
    let body = json!({
        "shards": init.shards, "replicas": init.replicas, "rootPassword": password, "demo": false,
    });
    let deadline = Instant::now() + Duration::from_secs(init.wait);
    let admin = AdminClient::of(&init.admin)?;
    let answer = admin
        .init(&body, deadline)
        .await
        .map_err(|failure| failure.report(output))?;
    if output == Output::Json {
        println!("{answer}");
        return Ok(());
    }
    let id = text_member(&answer, "clusterId").unwrap_or_default();
    if answer
        .get("created")
        .and_then(Value::as_bool)
        .unwrap_or(false)
    {
        println!(
            "cluster {id} is made: {} shards, {} replicas each",
            init.shards, init.replicas
        );
    } else {
        println!("cluster {id} exists already, nothing was changed");
    }
    if let Some(password) = text_member(&answer, "rootPassword") {
        println!("password of root, shown only now: {password}");
    }
    Ok(())
}

async fn run_rotate_keys(args: &RotateKeys) -> anyhow::Result<()> {
    let output = args.output.output;
    let rotated = AdminClient::of(&args.admin)?.rotate_keys(args.forget).await;
    let value = rotated.map_err(|failure| failure.report(output))?;
    match output {
        Output::Json => println!("{value}"),
        Output::Text => println!(
            "tokens are signed with key {}",
            value.get("key").and_then(Value::as_u64).unwrap_or_default()
        ),
    }
    Ok(())
}

async fn run_status(args: &StatusArgs) -> anyhow::Result<()> {
    let output = args.output.output;
    let admin = AdminClient::of(&args.admin)?;
    // Whatever kept the node from answering, the health is not known.
    let (status, value) = admin
        .status()
        .await
        .map_err(|failure| failure.report_as(Status::Unavailable, output))?;
    match output {
        Output::Json => println!("{value}"),
        Output::Text => print_status(&status),
    }
    match status.exit_status() {
        Status::Ok => Ok(()),
        Status::Error if output == Output::Text => Err(Exit::new(
            Status::Error,
            "there is no cluster yet: run `larder cluster init`",
        )
        .into()),
        other => Err(Exit::silent(other).into()),
    }
}

fn print_status(status: &ClusterStatus) {
    println!(
        "cluster {}: {}",
        status.cluster_id.as_deref().unwrap_or("(none)"),
        status.health.replace('_', " ")
    );
    let led = |node: &str| {
        status
            .leaders()
            .filter(|(_, leader)| leader == node)
            .count()
    };
    let mut nodes = new_table(&["node", "name", "zone", "client", "peer", "alive", "leads"]);
    for node in &status.nodes {
        let text = |name: &str| text_member(node, name).unwrap_or_default();
        let alive = if node.get("alive").and_then(Value::as_bool).unwrap_or(false) {
            "yes"
        } else {
            "NO"
        };
        let id = text("id");
        let leads = led(&id).to_string();
        nodes.add_row([
            id,
            text("name"),
            text("zone"),
            text("client"),
            text("peer"),
            alive.to_owned(),
            leads,
        ]);
    }
    println!("{nodes}");
    print_shards(status, &status.shards);
    for bucket in &status.clearing {
        let text = |name: &str| text_member(bucket, name).unwrap_or_default();
        println!(
            "dropped bucket {} of database {} is cleared away in {} of {} shards",
            text("bucket"),
            text("database"),
            text("shardsCleared"),
            status.shard_count
        );
    }
}

/// The shards as a table.
pub(crate) fn print_shards(status: &ClusterStatus, list: &[Value]) {
    let name_of = |id: &str| status.node_name(id);
    let mut shards = new_table(&["shard", "leader", "term", "replicas"]);
    for shard in list {
        let number = match shard.get("shard").and_then(Value::as_u64) {
            Some(0) => "metadata".to_owned(),
            Some(number) => number.to_string(),
            None => String::new(),
        };
        let leader =
            text_member(shard, "leader").map_or_else(|| "NONE".to_owned(), |id| name_of(&id));
        let replicas = shard
            .get("replicas")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let replicas: Vec<String> = replicas
            .map(|replica| describe_replica(replica, name_of))
            .collect();
        let mut replicas = replicas.join(", ");
        if let Some(replacement) = shard.get("replacement") {
            replicas.push_str(&describe_replacement(replacement, name_of));
        }
        shards.add_row([
            number,
            leader,
            text_member(shard, "term").unwrap_or_default(),
            replicas,
        ]);
    }
    println!("{shards}");
}

fn describe_replica(replica: &Value, name_of: impl Fn(&str) -> String) -> String {
    let name = name_of(&text_member(replica, "node").unwrap_or_default());
    let role = text_member(replica, "role").unwrap_or_default();
    match replica.get("alive").and_then(Value::as_bool) {
        Some(false) => format!("{name} (DEAD)"),
        _ if replica.get("quarantined").and_then(Value::as_bool) == Some(true) => {
            format!("{name} (quarantined)")
        }
        _ if role == "learner" => format!("{name} (learner)"),
        _ => name,
    }
}

fn describe_replacement(replacement: &Value, name_of: impl Fn(&str) -> String) -> String {
    let node = |member| name_of(&text_member(replacement, member).unwrap_or_default());
    let progress = text_member(replacement, "progress").map_or_else(String::new, |progress| {
        format!(", {}", progress.replace('_', " "))
    });
    format!("; {} gives way to {}{progress}", node("from"), node("to"))
}

/// A table with a header and without frames.
pub(crate) fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(header.iter().copied());
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_decides_the_exit_status() {
        let status = |health: &str| {
            ClusterStatus {
                health: health.to_owned(),
                ..Default::default()
            }
            .exit_status()
        };
        assert_eq!(status("healthy"), Status::Ok);
        assert_eq!(status("degraded"), Status::Degraded);
        assert_eq!(status("no_quorum"), Status::NoQuorum);
        assert_eq!(status("uninitialized"), Status::Error);
    }

    #[test]
    fn ids_are_text_or_numbers() {
        let status: ClusterStatus = serde_json::from_value(json!({
            "clusterId": null, "health": "degraded", "shardCount": 16,
            "nodes": [{"id": "0a", "client": "127.0.0.1:7400"}, {"id": 7, "client": "http://127.0.0.1:7410"}],
            "shards": [{"shard": 0, "leader": "0a"}, {"shard": 1, "leader": null}, {"shard": 2, "leader": 7}],
        }))
        .unwrap();
        assert_eq!(
            status.leaders().collect::<Vec<_>>(),
            [(0, "0a".to_owned()), (2, "7".to_owned())]
        );
        let urls = status.client_urls();
        assert_eq!(
            urls[0],
            ("0a".to_owned(), "http://127.0.0.1:7400".to_owned())
        );
        assert_eq!(urls[1].0, "7");
    }

    #[test]
    fn shard_counts_are_powers_of_two() {
        assert_eq!(shard_count("16"), Ok(16));
        for bad in ["0", "3", "2048", "x"] {
            assert!(shard_count(bad).is_err(), "{bad}");
        }
    }
}
