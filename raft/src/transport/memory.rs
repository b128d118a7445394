//! Joins hosts of one process without sockets, for tests and simulation. Requests take no time; a cut is a refusal.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use proto::peer::envelope::Body;
use proto::peer::{SnapshotHeader, SnapshotResponse};
use proto::{NodeId, ReplicaId, ShardId};
use storage::ids::StoreId;

use super::{CallError, Class, Transport};
use crate::host::Host;

/// The network that all hosts of a test share.
#[derive(Clone, Default)]
pub struct Network {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    hosts: HashMap<NodeId, Host>,
    cut: HashSet<NodeId>,
}

impl Network {
    /// Makes `node` reachable.
    pub fn connect(&self, node: NodeId, host: Host) {
        self.state.lock().hosts.insert(node, host);
    }

    /// Cuts a node off from all others, both ways.
    pub fn cut(&self, node: NodeId) {
        self.state.lock().cut.insert(node);
    }

    /// Undoes [`Self::cut`].
    pub fn heal(&self, node: NodeId) {
        self.state.lock().cut.remove(&node);
    }

    /// The network as `node` sees it.
    pub fn endpoint(&self, node: NodeId) -> Endpoint {
        Endpoint {
            node,
            network: self.clone(),
        }
    }

    fn route(&self, from: NodeId, to: NodeId) -> Result<Host, CallError> {
        let state = self.state.lock();
        if state.cut.contains(&from) || state.cut.contains(&to) {
            return Err(CallError::NotSent("cut off".to_owned()));
        }
        state
            .hosts
            .get(&to)
            .cloned()
            .ok_or_else(|| CallError::NotSent("no such node".to_owned()))
    }
}

/// One node's end of a [`Network`].
pub struct Endpoint {
    node: NodeId,
    network: Network,
}

impl Transport for Endpoint {
    fn call(
        &self,
        to: NodeId,
        _: Class,
        body: Body,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Body, CallError>> {
        Box::pin(async move {
            let host = self.network.route(self.node, to)?;
            let Body::RaftRequest(request) = body else {
                return Err(CallError::NotSent("only consensus travels here".to_owned()));
            };
            let answer = tokio::time::timeout(timeout, host.handle(request))
                .await
                .map_err(|_| CallError::Lost("no answer in time"))?;
            self.network
                .route(to, self.node)
                .map_err(|_| CallError::Lost("cut off"))?;
            match answer {
                Body::Refused(refused) => Err(CallError::NotSent(refused.message)),
                answer => Ok(answer),
            }
        })
    }

    fn prepare_snapshot(
        &self,
        to: NodeId,
        shard: ShardId,
        target: ReplicaId,
    ) -> BoxFuture<'_, Result<StoreId, CallError>> {
        Box::pin(async move {
            let host = self.network.route(self.node, to)?;
            host.begin_receive(shard, target)
                .await
                .map_err(|error| CallError::NotSent(error.to_string()))
        })
    }

    fn send_snapshot(
        &self,
        to: NodeId,
        header: SnapshotHeader,
        files: Vec<PathBuf>,
    ) -> BoxFuture<'_, Result<SnapshotResponse, CallError>> {
        Box::pin(async move {
            let host = self.network.route(self.node, to)?;
            let copies = std::env::temp_dir().join(format!("larder-{to}-{}", header.store));
            let copied = copy(&files, &copies).map_err(|_| CallError::Lost("files not copied"))?;
            let vote = host
                .install_snapshot(header, copies, copied)
                .await
                .map_err(|_| CallError::Lost("the peer did not take the snapshot"))?;
            Ok(SnapshotResponse { vote: Some(vote) })
        })
    }
}

fn copy(files: &[PathBuf], dir: &std::path::Path) -> std::io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir)?;
    files
        .iter()
        .enumerate()
        .map(|(number, file)| {
            let copy = dir.join(format!("{number}.sst"));
            std::fs::copy(file, &copy)?;
            Ok(copy)
        })
        .collect()
}
