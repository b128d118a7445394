//! Brings a cluster of `larder dev` up, step by step, and can say what is missing.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use super::Dev;
use super::nodes::Layout;
use crate::cli::client::{Client, DEV_ROOT, Failure, Request, text_member};
use crate::cli::cluster::AdminClient;
use crate::cli::tls::TlsArgs;

/// The bucket that `dev` opens for everyone.
const DEMO: &str = "Demo";
const READYZ_TIMEOUT: Duration = Duration::from_secs(2);

/// What the cluster still lacks, and the node to blame if there is one.
#[derive(Debug)]
pub(super) struct Missing {
    pub(super) what: String,
    pub(super) node: Option<usize>,
}

fn missing(what: impl std::fmt::Display, node: Option<usize>) -> Missing {
    Missing {
        what: what.to_string(),
        node,
    }
}

/// How far the cluster has come. Steps that succeeded are not repeated.
pub(super) struct Progress {
    http: reqwest::Client,
    admins: Vec<AdminClient>,
    clients: Vec<Client>,
    origins: Vec<String>,
    init: serde_json::Value,
    ids: Vec<String>,
    initialized: bool,
    shards: u32,
}

impl Progress {
    pub(super) fn new(layout: &Layout, dev: &Dev) -> anyhow::Result<Self> {
        // `dev` is insecure.
        let tls = TlsArgs::default();
        let each = |url: fn(&super::nodes::NodeLayout) -> String| layout.nodes().iter().map(url);
        Ok(Self {
            http: tls.http([])?.timeout(READYZ_TIMEOUT).build()?,
            admins: each(|node| node.admin_url())
                .map(|url| AdminClient::new(&url, &tls))
                .collect::<Result<_, _>>()?,
            clients: each(|node| node.client_url())
                .map(|url| Client::anonymous(&url, &tls))
                .collect::<Result<_, _>>()?,
            origins: each(|node| node.client_url()).collect(),
            init: json!({
                "shards": dev.shards, "replicas": dev.replicas(), "rootPassword": DEV_ROOT, "demo": true,
            }),
            ids: Vec::new(),
            initialized: false,
            shards: 0,
        })
    }

    /// The id of a node; known once the cluster is ready.
    pub(super) fn id(&self, node: usize) -> &str {
        self.ids.get(node).map_or("", String::as_str)
    }

    /// Document shards of the cluster: of a restarted one those it was made with.
    pub(super) fn shards(&self) -> u32 {
        self.shards
    }

    /// Goes as far as possible; `Ok` once every shard has a leader and every node serves.
    pub(super) async fn step(&mut self) -> Result<(), Missing> {
        while self.ids.len() < self.admins.len() {
            let index = self.ids.len();
            let node = self.admins[index]
                .node()
                .await
                .map_err(|failure| missing(failure, Some(index)))?;
            let id = text_member(&node, "id")
                .ok_or_else(|| missing("the node tells no id", Some(index)))?;
            self.ids.push(id);
        }
        if !self.initialized {
            let answer = self.admins[0].init(&self.init, Instant::now()).await;
            answer.map_err(|failure| missing(format_args!("cluster init: {failure}"), Some(0)))?;
            self.initialized = true;
        }
        self.check_leaders().await?;
        for index in 0..self.clients.len() {
            self.check_node(index).await?;
        }
        Ok(())
    }

    async fn check_leaders(&mut self) -> Result<(), Missing> {
        let (status, _) = self.admins[0]
            .status()
            .await
            .map_err(|failure| missing(format_args!("status: {failure}"), Some(0)))?;
        let led: Vec<u32> = status.leaders().map(|(shard, _)| shard).collect();
        let without: Vec<String> = (0..=status.shard_count)
            .filter(|shard| !led.contains(shard))
            .map(|shard| shard.to_string())
            .collect();
        if status.shard_count == 0 || !without.is_empty() {
            return Err(missing(
                format_args!("shards without a leader: {}", without.join(", ")),
                None,
            ));
        }
        self.shards = status.shard_count;
        Ok(())
    }

    async fn check_node(&self, index: usize) -> Result<(), Missing> {
        let blame = |what: String| missing(what, Some(index));
        let response = self
            .http
            .get(format!("{}/readyz", self.origins[index]))
            .send()
            .await;
        let response = response.map_err(|error| blame(format!("node{}: {error}", index + 1)))?;
        if !response.status().is_success() {
            let reason = response.text().await.unwrap_or_default();
            return Err(blame(format!("node{} is not ready: {reason}", index + 1)));
        }
        // Deleting what is not there goes the whole way of a write and leaves nothing behind.
        let path = format!("/db/{DEMO}/larder-dev-{index}");
        let deleted: Result<_, Failure> = self.clients[index]
            .send(Method::DELETE, &path, Request::default())
            .await;
        deleted
            .map(|_| ())
            .map_err(|failure| blame(format!("bucket {DEMO} on node{}: {failure}", index + 1)))
    }
}
