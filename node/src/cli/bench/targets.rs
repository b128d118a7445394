//! The nodes under load, and which of them a request goes to.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use cluster::shard_map::shard_of;
use parking_lot::RwLock;

use super::etcd;
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

/// Who tells which nodes there are, and who leads.
#[derive(Clone)]
pub(super) enum Guide {
    /// The admin API, at each of these.
    Larder(Vec<AdminClient>),
    /// The members themselves, which must be named; one leader for all keys.
    Etcd,
}

impl Guide {
    /// Finds the nodes: those of `urls`, or all that the admin API names.
    pub(super) async fn find(
        &self,
        urls: &[String],
        bucket: &str,
        route: Route,
    ) -> anyhow::Result<Targets> {
        match self {
            Self::Larder(admins) => Targets::find(urls, admins, bucket, route).await,
            Self::Etcd => Targets::of_etcd(urls, route).await,
        }
    }
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
    async fn of_etcd(urls: &[String], route: Route) -> anyhow::Result<Self> {
        let hosts = urls
            .iter()
            .map(|url| host_of(url))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let leader = etcd::leader(&hosts).await?;
        if route == Route::Leader {
            leader.context("--route leader: none of the named etcd members leads")?;
        }
        Ok(Self {
            hosts,
            route,
            shards: 0,
            database: 0,
            bucket: 0,
            leaders: RwLock::new(Arc::new(vec![leader])),
            ids: Vec::new(),
        })
    }

    /// Nodes from `urls`, or from the admin API if there are none; shards from the admin API if it answers.
    async fn find(
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
    pub(super) async fn follow(&self, guide: &Guide) {
        loop {
            tokio::time::sleep(REFRESH).await;
            // Who cannot be asked now is asked again.
            let _ = self.look(guide).await;
        }
    }

    /// Looks up the leaders once.
    ///
    /// # Errors
    /// Nobody answers; the leaders stay as they were.
    pub(super) async fn look(&self, guide: &Guide) -> anyhow::Result<()> {
        match guide {
            Guide::Larder(admins) => self.set_leaders(&first_status(admins).await?),
            Guide::Etcd => *self.leaders.write() = Arc::new(vec![etcd::leader(&self.hosts).await?]),
        }
        Ok(())
    }

    /// Whether every node that can be asked says that all is well.
    pub(super) async fn are_well(&self, guide: &Guide) -> bool {
        match guide {
            Guide::Larder(admins) => {
                for admin in admins {
                    match admin.status().await {
                        Ok((status, _)) if status.is_healthy() => {}
                        Ok(_) | Err(_) => return false,
                    }
                }
                true
            }
            Guide::Etcd => etcd::all_follow(&self.hosts).await,
        }
    }

    /// The leader of each document shard as an index into `hosts`, by shard; where shards are not known, of all at 0.
    pub(super) fn document_leaders(&self) -> Vec<Option<usize>> {
        let mut leaders = self.leaders.read().to_vec();
        // Shard 0 holds metadata.
        if self.shards > 0 {
            leaders[0] = None;
        }
        leaders
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
    let (scheme, host) = origin.split_once("://").context("not an http:// address")?;
    let port = if scheme == "https" { 443 } else { 80 };
    // An IPv6 address is full of colons, in brackets.
    Ok(match host.rsplit_once(']').map_or(host, |(_, rest)| rest) {
        rest if rest.contains(':') => host.to_owned(),
        _ => format!("{host}:{port}"),
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
        assert_eq!(host_of("https://[::1]").unwrap(), "[::1]:443");
        assert!((1..=4).contains(&targets(Route::Any).shard("user000000000001")));
    }
}
