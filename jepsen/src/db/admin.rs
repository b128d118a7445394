//! What is asked of nodes as their operator: make a cluster, buckets and indexes, who leads what, and whether they serve.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

use super::{Db, READY, name};
use crate::client::http_builder;
use crate::db::net::Port;

/// Between two looks at a node that is starting.
const LOOK: Duration = Duration::from_millis(50);
/// A status is asked for in the middle of faults.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// What a workload needs of a fresh cluster, besides its open bucket `Demo`.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Classes as the schema takes them.
    pub classes: Vec<Value>,
    /// Buckets with the definition of an index.
    pub indexes: Vec<(&'static str, Value)>,
}

impl Db {
    /// Makes the started nodes a cluster.
    pub(super) async fn make(&mut self, setup: &Setup) -> anyhow::Result<()> {
        for node in self.nodes() {
            self.wait_for(node, "/healthz", READY).await?;
        }
        let body = json!({
            "shards": self.layout.shards, "replicas": self.layout.replicas, "demo": true,
            "rootPassword": self.root_password,
        });
        let url = format!(
            "http://{}/admin/v1/cluster/init",
            self.network.address(0, Port::Admin)
        );
        self.ask(&url, None, &body).await?;
        for node in self.nodes() {
            self.wait_ready(node, READY).await?;
            let url = format!(
                "http://{}/admin/v1/node",
                self.network.address(node, Port::Admin)
            );
            let identity = self.look(&url).await?;
            self.ids.push(identity["id"].to_string());
        }
        self.set_up(setup).await
    }

    async fn set_up(&self, setup: &Setup) -> anyhow::Result<()> {
        if setup.classes.is_empty() && setup.indexes.is_empty() {
            return Ok(());
        }
        let base = format!("{}/v1", self.origin(0));
        let login = json!({ "username": "root", "password": self.root_password });
        let answer = self
            .ask(&format!("{base}/db/User/login"), None, &login)
            .await?;
        let token = answer
            .headers()
            .get("baqend-authorization-token")
            .and_then(|token| token.to_str().ok());
        let token = token.context("a log-in without a token")?.to_owned();
        if !setup.classes.is_empty() {
            self.ask(
                &format!("{base}/schema"),
                Some(&token),
                &json!(setup.classes),
            )
            .await?;
        }
        for (bucket, index) in &setup.indexes {
            let url = format!("{base}/index/{bucket}");
            self.ask(&url, Some(&token), index).await?;
            self.wait_for_index(&url, &token).await?;
        }
        Ok(())
    }

    async fn wait_for_index(&self, url: &str, token: &str) -> anyhow::Result<()> {
        let client = http_builder()?.build()?;
        let end = Instant::now() + READY;
        loop {
            let answer = client
                .get(url)
                .header("authorization", format!("BAT {token}"))
                .send()
                .await?;
            let indexes: Value = serde_json::from_str(&answer.text().await?)?;
            let states = indexes.as_array().into_iter().flatten();
            if states.clone().count() > 0 && states.clone().all(|index| index["state"] == "ready") {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "an index is not ready after {READY:?}: {indexes}"
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn ask(
        &self,
        url: &str,
        token: Option<&str>,
        body: &Value,
    ) -> anyhow::Result<reqwest::Response> {
        let request = http_builder()?
            .timeout(READY)
            .build()?
            .post(url)
            .header("content-type", "application/json");
        let request = match token {
            Some(token) => request.header("authorization", format!("BAT {token}")),
            None => request,
        };
        let answer = request
            .body(body.to_string())
            .send()
            .await
            .with_context(|| url.to_owned())?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        bail!("{url}: {status} {}", answer.text().await?)
    }

    async fn look(&self, url: &str) -> anyhow::Result<Value> {
        let client = http_builder()?.timeout(STATUS_TIMEOUT).build()?;
        Ok(serde_json::from_str(
            &client.get(url).send().await?.text().await?,
        )?)
    }

    /// Waits until a node serves.
    ///
    /// # Errors
    /// After `deadline`.
    pub async fn wait_ready(&self, node: usize, deadline: Duration) -> anyhow::Result<()> {
        self.wait_for(node, "/readyz", deadline).await
    }

    async fn wait_for(&self, node: usize, path: &str, deadline: Duration) -> anyhow::Result<()> {
        let client = http_builder()?.timeout(Duration::from_secs(1)).build()?;
        let url = format!("{}{path}", self.origin(node));
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
        bail!(
            "{} does not answer {path} with 200 after {deadline:?}: {last}",
            name(node)
        )
    }

    /// Which node leads which document shard, as one of `nodes` sees it: the first that answers. Shards without a
    /// leader are left out.
    pub async fn leaders(&self, nodes: &[usize]) -> BTreeMap<u64, usize> {
        for node in nodes {
            let url = format!(
                "http://{}/admin/v1/cluster/status",
                self.network.address(*node, Port::Admin)
            );
            if let Ok(status) = self.look(&url).await {
                let shards = status["shards"].as_array().cloned().unwrap_or_default();
                let led = shards.iter().filter_map(|shard| {
                    let leader = shard["leader"].to_string();
                    Some((
                        shard["shard"].as_u64()?,
                        self.ids.iter().position(|id| *id == leader)?,
                    ))
                });
                return led.filter(|(shard, _)| *shard > 0).collect();
            }
        }
        BTreeMap::new()
    }
}
