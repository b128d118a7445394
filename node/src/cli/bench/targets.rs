//! The nodes under load, and which of them a request goes to.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use cluster::shard_map::shard_of;
use parking_lot::RwLock;

use crate::cli::client::{Output, origin_url};
use crate::cli::cluster::{AdminClient, ClusterStatus};

/// How often leaders are looked up again.
const REFRESH: Duration = Duration::from_millis(500);

/// Which node is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Route {
    /// Each client has its node, whoever leads the shard
    Any,
    /// The leader of the document's shard
    Leader,
}

/// Nodes, shards and leaders.
#[derive(Debug)]
pub(super) struct Targets {
    /// `host:port` of each node.
    pub(super) hosts: Vec<String>,
    pub(super) route: Route,
    /// Document shards; 0: not known.
    pub(super) shards: u32,
    database: u32,
    bucket: u32,
    /// Index into `hosts` of each shard's leader, by shard.
    leaders: RwLock<Arc<Vec<Option<usize>>>>,
    /// Index into `hosts` by node id.
    ids: Vec<(String, usize)>,
}

impl Targets {
    /// Nodes from `urls`, or from the admin API if there are none; shards from the admin API if it answers.
    pub(super) async fn find(
        urls: &[String],
        admins: &[AdminClient],
        bucket: &str,
        route: Route,
    ) -> anyhow::Result<Self> {
        let status = first_status(admins).await;
        let mut nodes: Vec<(Option<String>, String)> = Vec::new();
        for url in urls {
            nodes.push((None, host_of(url)?));
        }
        let status = match status {
            Ok(status) => Some(status),
            Err(error) if urls.is_empty() => {
                return Err(error.context("cannot find the nodes: give --admin, or --url for each"));
            }
            Err(error) if route == Route::Leader => {
                return Err(error.context("--route leader needs the admin API: give --admin"));
            }
            Err(_) => None,
        };
        for (id, url) in status.iter().flat_map(ClusterStatus::client_urls) {
            let host = host_of(&url)?;
            match nodes.iter_mut().find(|(_, known)| *known == host) {
                Some(node) => node.0 = Some(id),
                None if urls.is_empty() => nodes.push((Some(id), host)),
                None => {}
            }
        }
        anyhow::ensure!(
            !nodes.is_empty(),
            "the cluster has no nodes: run `larder cluster init`"
        );
        let ids = (0..)
            .zip(&nodes)
            .filter_map(|(index, (id, _))| id.clone().map(|id| (id, index)))
            .collect();
        let bucket_id = status
            .as_ref()
            .and_then(|status| status.buckets.get(bucket)?.get("id")?.as_u64());
        let bucket_id = bucket_id.and_then(|id| u32::try_from(id).ok());
        let targets = Self {
            hosts: nodes.into_iter().map(|(_, host)| host).collect(),
            route,
            // Without the bucket's id the shard of a key cannot be told.
            shards: status
                .as_ref()
                .filter(|_| bucket_id.is_some())
                .map_or(0, |status| status.shard_count),
            database: status.as_ref().map_or(1, |status| status.database),
            bucket: bucket_id.unwrap_or(0),
            leaders: RwLock::default(),
            ids,
        };
        if let Some(status) = &status {
            targets.set_leaders(status);
        }
        if route == Route::Leader {
            anyhow::ensure!(
                targets.shards > 0,
                "--route leader: the admin API does not tell the shards of {bucket}"
            );
        }
        Ok(targets)
    }

    /// The shard of a key; 0 if shards are not known.
    pub(super) fn shard(&self, key: &str) -> u32 {
        if self.shards == 0 {
            0
        } else {
            shard_of(self.database, self.bucket, key, self.shards, false).0
        }
    }

    /// The node to ask, given the shard and the client's own node.
    pub(super) fn node(&self, shard: u32, own: usize) -> usize {
        let leader = match self.route {
            Route::Any => None,
            Route::Leader => self.leaders.read().get(shard as usize).copied().flatten(),
        };
        leader.unwrap_or(own) % self.hosts.len()
    }

    /// Follows the leaders for as long as it is polled.
    pub(super) async fn follow(&self, admins: &[AdminClient]) {
        loop {
            tokio::time::sleep(REFRESH).await;
            if let Ok(status) = first_status(admins).await {
                self.set_leaders(&status);
            }
        }
    }

    fn set_leaders(&self, status: &ClusterStatus) {
        let mut leaders = vec![None; status.shard_count as usize + 1];
        for (shard, node) in status.leaders() {
            if let Some(leader) = leaders.get_mut(shard as usize) {
                *leader = self
                    .ids
                    .iter()
                    .find(|(id, _)| *id == node)
                    .map(|(_, index)| *index);
            }
        }
        *self.leaders.write() = Arc::new(leaders);
    }
}

async fn first_status(admins: &[AdminClient]) -> anyhow::Result<ClusterStatus> {
    let mut last = anyhow::anyhow!("no admin address was given");
    for admin in admins {
        match admin.status().await {
            Ok((status, _)) => return Ok(status),
            Err(failure) => last = failure.report(Output::Text),
        }
    }
    Err(last)
}

fn host_of(url: &str) -> anyhow::Result<String> {
    let origin = origin_url(url)?;
    let host = origin
        .strip_prefix("http://")
        .context("not an http:// address")?;
    Ok(if host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:80")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(route: Route) -> Targets {
        Targets {
            hosts: vec!["a:1".to_owned(), "b:1".to_owned()],
            route,
            shards: 4,
            database: 1,
            bucket: 7,
            leaders: RwLock::new(Arc::new(vec![None, Some(1), None, Some(0), Some(1)])),
            ids: Vec::new(),
        }
    }

    #[test]
    fn leaders_are_asked_only_with_leader_routing_and_only_where_known() {
        assert_eq!(targets(Route::Any).node(1, 0), 0);
        assert_eq!(targets(Route::Leader).node(1, 0), 1);
        assert_eq!(targets(Route::Leader).node(2, 0), 0);
        assert_eq!(targets(Route::Any).node(1, 5), 1);
    }

    #[test]
    fn urls_become_addresses() {
        assert_eq!(host_of("http://10.0.0.1:7400/v1").unwrap(), "10.0.0.1:7400");
        assert_eq!(host_of("node").unwrap(), "node:80");
        assert!((1..=4).contains(&targets(Route::Any).shard("user000000000001")));
    }
}
