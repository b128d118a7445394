//! A cluster of one node in this process: real rules and state machines, memory instead of disks, and groups that agree with themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use cluster::machine::ClusterMachine;
use cluster::replacement::Members as GroupMembers;
use futures::future::{BoxFuture, FutureExt, ready};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use proto::{NodeId, ReplicaId, ShardId};
use serde_json::Value;
use service::clock::SystemClock;
use service::courier::{Address, Batch, Courier, Undelivered};
use service::ports::{
    Confirmed, Description, Forward, ForwardError, Groups, Leader, Mail, Mailer, Members,
    PortError, ProposeError, ReadError,
};
use service::{Accounts, InitRequest, Options, Ports, Service};
use storage::engine::memory::Memory;
use storage::ids::{LogId, StoreId};
use storage::machine::documents::DocumentMachine;
use storage::machine::{Entry, Machine, Payload, Replica};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::http::{Limits, client_app};

const NODE: NodeId = NodeId(1);
const SHARDS: u32 = 2;

/// All groups of the one node. A proposal is applied at once.
struct OneNode {
    replicas: BTreeMap<ShardId, (Arc<Replica>, Mutex<()>)>,
}

impl OneNode {
    fn new(metadata: Arc<ClusterMachine>) -> Self {
        let engine = Arc::new(Memory::new());
        let open = |shard: u32| {
            let machine: Arc<dyn Machine> = if shard == 0 {
                metadata.clone()
            } else {
                Arc::new(DocumentMachine)
            };
            let store = StoreId(u64::from(shard) + 1);
            let replica =
                Replica::open(engine.clone(), machine, ShardId(shard), store).expect("replica");
            (ShardId(shard), (replica, Mutex::default()))
        };
        Self {
            replicas: (0..=SHARDS).map(open).collect(),
        }
    }

    fn index(&self, shard: ShardId) -> u64 {
        self.replicas
            .get(&shard)
            .and_then(|(replica, _)| replica.applied().id)
            .map_or(0, |id| id.index)
    }
}

impl Groups for OneNode {
    fn propose(
        &self,
        shard: ShardId,
        command: Bytes,
        _: Instant,
    ) -> BoxFuture<'_, Result<Bytes, ProposeError>> {
        async move {
            let (replica, turn) = self.replicas.get(&shard).ok_or(ProposeError::NoGroup)?;
            let _turn = turn.lock().await;
            let id = LogId {
                term: 1,
                leader: 1,
                index: self.index(shard) + 1,
            };
            let replies = replica
                .apply(vec![Entry {
                    id,
                    payload: Payload::Command(command),
                }])
                .expect("apply");
            Ok(replies.into_iter().next().expect("one reply"))
        }
        .boxed()
    }

    fn read_barrier(&self, _: ShardId, _: Instant) -> BoxFuture<'_, Result<(), ReadError>> {
        ready(Ok(())).boxed()
    }

    fn replica(&self, shard: ShardId) -> Option<Arc<Replica>> {
        self.replicas
            .get(&shard)
            .map(|(replica, _)| Arc::clone(replica))
    }

    fn is_filled(&self, shard: ShardId) -> bool {
        self.index(shard) > 0
    }

    fn is_leader(&self, shard: ShardId) -> bool {
        self.replicas.contains_key(&shard)
    }

    fn leader(&self, shard: ShardId) -> Option<Leader> {
        self.is_leader(shard).then_some(Leader {
            replica: ReplicaId(1),
            node: NODE,
            term: 1,
        })
    }

    fn leader_changed(
        &self,
        shard: ShardId,
        _: Option<Leader>,
        deadline: Instant,
    ) -> BoxFuture<'_, Option<Leader>> {
        async move {
            tokio::time::sleep_until(deadline.into()).await;
            self.leader(shard)
        }
        .boxed()
    }

    fn commit_index(&self, shard: ShardId) -> u64 {
        self.index(shard)
    }

    fn confirmed(&self, shard: ShardId) -> Option<Confirmed> {
        Some(Confirmed {
            age: Duration::ZERO,
            index: self.index(shard),
        })
    }

    fn reaches(&self, shard: ShardId, index: u64, deadline: Instant) -> BoxFuture<'_, bool> {
        async move {
            if self.index(shard) < index {
                tokio::time::sleep_until(deadline.into()).await;
            }
            self.index(shard) >= index
        }
        .boxed()
    }

    fn shards(&self) -> Vec<ShardId> {
        self.replicas.keys().copied().collect()
    }

    fn initialize<'a>(
        &'a self,
        _: ShardId,
        _: &'a BTreeMap<ReplicaId, NodeId>,
    ) -> BoxFuture<'a, Result<(), PortError>> {
        ready(Ok(())).boxed()
    }

    fn caught_up(&self, _: ShardId, _: ReplicaId) -> bool {
        true
    }

    fn members(&self, _: ShardId) -> Option<GroupMembers> {
        None
    }

    fn add_learner(
        &self,
        _: ShardId,
        _: ReplicaId,
        _: NodeId,
    ) -> BoxFuture<'_, Result<(), PortError>> {
        ready(Err(PortError("one node is all there is".to_owned()))).boxed()
    }

    fn change_voters(
        &self,
        _: ShardId,
        _: BTreeSet<ReplicaId>,
    ) -> BoxFuture<'_, Result<(), PortError>> {
        ready(Err(PortError("one node is all there is".to_owned()))).boxed()
    }

    fn transfer_leader(&self, _: ShardId, _: ReplicaId) -> BoxFuture<'_, Result<(), PortError>> {
        ready(Ok(())).boxed()
    }
}

/// Nobody else is there.
struct Alone;

impl Forward for Alone {
    fn forward(
        &self,
        _: NodeId,
        _: Bytes,
        _: Instant,
    ) -> BoxFuture<'_, Result<Bytes, ForwardError>> {
        ready(Err(ForwardError::NotSent("alone".into()))).boxed()
    }

    fn is_up(&self, _: NodeId) -> bool {
        false
    }
}

impl Members for Alone {
    fn describe<'a>(
        &'a self,
        address: &'a str,
        _: Instant,
    ) -> BoxFuture<'a, Result<Description, PortError>> {
        let node = proto::log::Node {
            id: NODE.0,
            name: "n1".into(),
            peer_address: address.into(),
            weight: 1,
            ..proto::log::Node::default()
        };
        ready(Ok(Description {
            node,
            cluster_id: None,
            version: "1".into(),
        }))
        .boxed()
    }

    fn join<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: ReplicaId,
        _: Option<ReplicaId>,
        _: &'a [proto::log::Node],
        _: Instant,
    ) -> BoxFuture<'a, Result<(), PortError>> {
        ready(Ok(())).boxed()
    }
}

impl Mailer for Alone {
    fn send(&self, _: Mail) -> BoxFuture<'_, Result<(), PortError>> {
        ready(Err(PortError("alone".into()))).boxed()
    }
}

impl Courier for Alone {
    fn check(&self, _: &str) -> Result<(), PortError> {
        Ok(())
    }

    fn send<'a>(&'a self, _: &'a Address, _: &'a Batch) -> BoxFuture<'a, Result<(), Undelivered>> {
        let reason = "alone".to_owned();
        let retry_after = None;
        ready(Err(Undelivered {
            reason,
            retry_after,
        }))
        .boxed()
    }
}

/// The client port over such a cluster.
pub(super) struct Cluster {
    pub(super) app: Router,
    stop: CancellationToken,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A node that belongs to no cluster yet.
pub(super) fn unfounded(limits: Limits) -> (Service, Cluster) {
    let machine = ClusterMachine::new();
    let metadata = machine.handle();
    let ports = Ports {
        groups: Arc::new(OneNode::new(machine)),
        forward: Arc::new(Alone),
        members: Arc::new(Alone),
        metadata,
        identities: Arc::new(service::identities::NoIdentities),
        clock: Arc::new(SystemClock::new()),
        mailer: Arc::new(Alone),
        courier: Arc::new(Alone),
    };
    let options = Options {
        node: NODE,
        seeds: vec!["127.0.0.1:1".into()],
        dev: true,
        limits: service::Limits::default(),
        accounts: Accounts::default(),
    };
    let service = Service::new(options, ports);
    let stop = CancellationToken::new();
    tokio::spawn(service.jobs().run(stop.clone()));
    (
        service.clone(),
        Cluster {
            app: client_app(service, limits),
            stop,
        },
    )
}

/// A founded cluster with root's password `root` and the open bucket `Demo`.
pub(super) async fn cluster() -> Cluster {
    founded(Limits {
        body_bytes_max: 16 * 1024,
        ..Limits::default()
    })
    .await
}

/// The same with other limits.
pub(super) async fn founded(limits: Limits) -> Cluster {
    let (service, cluster) = unfounded(limits);
    let deadline = Instant::now() + Duration::from_secs(20);
    let request = InitRequest {
        shards: SHARDS,
        replicas: Some(1),
        root_password: None,
        demo: true,
        deadline,
    };
    service.init_cluster(request).await.expect("founding");
    service.ready().expect("ready");
    cluster
}

/// An answer, read to its end.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|cause| panic!("{cause}: {:?}", self.body))
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .map(|value| value.to_str().expect("ascii"))
    }
}

impl Cluster {
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).expect("request");
        let response: Response = self.app.clone().oneshot(request).await.expect("infallible");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("body").to_bytes();
        Answer {
            status: head.status,
            headers: head.headers,
            body,
        }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], Body::empty()).await
    }
}
