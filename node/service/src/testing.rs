//! A cluster in memory for tests: real state machines over memory engines, no sockets, no elections.
//!
//! All nodes share one replica of each shard, as if replication took no time. Who leads is set by the test, and calls can be made to
//! fail by scripts that are consumed one entry a call.

pub(crate) mod chaos;
pub(crate) mod targets;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::machine::{ClusterMachine, StateHandle};
use cluster::replacement::{Member, Members as GroupMembers};
use futures::future::{BoxFuture, FutureExt as _};
use parking_lot::Mutex;
use proto::{NodeId, ReplicaId, ShardId};
use storage::engine::memory::Memory;
use storage::machine::documents::DocumentMachine;
use storage::machine::{Entry, Machine, Payload, Replica};
use storage::{LogId, StoreId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::chaos::Chaos;
use self::targets::Targets;
use crate::clock::ManualClock;
use crate::context::{Caller, Context};
use crate::forward::{Operation, Request};
use crate::ports::{
    Confirmed, Description, Forward, ForwardError, Groups, Leader, Mail, Mailer, Members,
    PortError, ProposeError, ReadError,
};
use crate::{Accounts, InitRequest, Limits, Options, Ports, Service};

/// Document shards of every test cluster.
pub(crate) const SHARDS: u32 = 4;
/// Wall time at which every test begins: 2023-11-14T22:13:20Z.
pub(crate) const START_US: u64 = 1_700_000_000_000_000;
/// Root's password.
pub(crate) const PASSWORD: &str = "correct horse";

/// What a scripted proposal does instead of being applied and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Not the leader any more; no hint.
    NotLeader,
    /// Refused for now.
    Overloaded,
    /// The reply is lost before the command is in the log.
    LostUnapplied,
    /// The command is applied, its reply is lost.
    LostApplied,
    /// The reply is lost, and the command is applied at some later time.
    Late,
    /// None.
    Applied,
}

/// State that all nodes share.
pub(crate) struct World {
    replicas: HashMap<ShardId, Arc<Replica>>,
    indexes: Mutex<HashMap<ShardId, u64>>,
    leaders: Mutex<HashMap<ShardId, NodeId>>,
    terms: Mutex<u64>,
    changed: Notify,
    /// Told after each entry.
    applied: Notify,
    handle: StateHandle,
    pub(crate) proposals: Mutex<HashMap<ShardId, u64>>,
    pub(crate) barriers: Mutex<u64>,
    pub(crate) propose_script: Mutex<VecDeque<Fault>>,
    pub(crate) forward_script: Mutex<VecDeque<ForwardError>>,
    /// Queries that were sent to other nodes so far.
    pub(crate) queries: Mutex<u64>,
    services: Mutex<HashMap<NodeId, Service>>,
    /// Of document shards.
    pub(crate) members: Mutex<HashMap<ShardId, BTreeMap<ReplicaId, Member>>>,
    /// Nodes that hold no replica of document shards.
    pub(crate) bystanders: Mutex<HashSet<NodeId>>,
    /// Nodes whose replicas of document shards are still being filled: they have applied an entry, and hold no document.
    pub(crate) fresh: Mutex<HashSet<NodeId>>,
    /// Nodes whose replicas of document shards know of no leader but themselves.
    pub(crate) blind: Mutex<HashSet<NodeId>>,
    /// Shards whose leader no quorum confirms any more, and since when.
    pub(crate) unconfirmed: Mutex<HashMap<ShardId, Instant>>,
    /// Mails that were sent.
    pub(crate) mails: Mutex<Vec<Mail>>,
    /// Where consumers are sent to.
    pub(crate) targets: Arc<Targets>,
    /// What goes wrong at random.
    chaos: Chaos,
}

impl World {
    fn new() -> Arc<World> {
        let metadata = ClusterMachine::new();
        let handle = metadata.handle();
        let machine = |shard: u32| -> Arc<dyn Machine> {
            if shard == 0 {
                metadata.clone()
            } else {
                Arc::new(DocumentMachine)
            }
        };
        let open = |shard: u32| {
            let engine = Arc::new(Memory::new());
            let replica = Replica::open(
                engine,
                machine(shard),
                ShardId(shard),
                StoreId(u64::from(shard) + 1),
            );
            (ShardId(shard), replica.expect("an empty store opens"))
        };
        Arc::new(World {
            replicas: (0..=SHARDS).map(open).collect(),
            indexes: Mutex::default(),
            leaders: Mutex::default(),
            terms: Mutex::new(1),
            changed: Notify::new(),
            applied: Notify::new(),
            handle,
            proposals: Mutex::default(),
            barriers: Mutex::default(),
            propose_script: Mutex::default(),
            forward_script: Mutex::default(),
            queries: Mutex::default(),
            services: Mutex::default(),
            members: Mutex::default(),
            bystanders: Mutex::default(),
            fresh: Mutex::default(),
            blind: Mutex::default(),
            unconfirmed: Mutex::default(),
            mails: Mutex::default(),
            targets: Arc::default(),
            chaos: Chaos::default(),
        })
    }

    /// Makes `node` the leader of a shard; `None`: nobody.
    pub(crate) fn elect(&self, shard: ShardId, node: Option<NodeId>) {
        *self.terms.lock() += 1;
        match node {
            Some(node) => self.leaders.lock().insert(shard, node),
            None => self.leaders.lock().remove(&shard),
        };
        self.changed.notify_waiters();
    }

    pub(crate) fn elect_everywhere(&self, node: NodeId) {
        (0..=SHARDS).for_each(|shard| self.elect(ShardId(shard), Some(node)));
    }

    pub(crate) fn replica(&self, shard: ShardId) -> Arc<Replica> {
        Arc::clone(&self.replicas[&shard])
    }

    /// Entries proposed to document shards so far.
    pub(crate) fn document_proposals(&self) -> u64 {
        self.proposals
            .lock()
            .iter()
            .filter(|(shard, _)| !shard.is_meta())
            .map(|(_, count)| count)
            .sum()
    }

    fn apply(&self, shard: ShardId, command: Bytes) -> Bytes {
        let mut indexes = self.indexes.lock();
        let index = indexes.entry(shard).or_default();
        *index += 1;
        let entry = Entry {
            id: LogId {
                term: 1,
                leader: 1,
                index: *index,
            },
            payload: Payload::Command(command),
        };
        let reply = self.replicas[&shard]
            .apply(vec![entry])
            .expect("the machine takes the command")
            .remove(0);
        drop(indexes);
        self.applied.notify_waiters();
        reply
    }
}

/// A replica that has applied the first entry of its log.
fn beginning(shard: ShardId) -> Arc<Replica> {
    let (engine, machine) = (Arc::new(Memory::new()), Arc::new(DocumentMachine));
    let replica = Replica::open(engine, machine, shard, StoreId(1)).expect("an empty store opens");
    let id = LogId {
        term: 1,
        leader: 1,
        index: 1,
    };
    let payload = Payload::Blank;
    let applied = replica.apply(vec![Entry { id, payload }]);
    applied.expect("nothing to do");
    replica
}

/// One node's view of the world.
pub(crate) struct Node {
    id: NodeId,
    pub(crate) world: Arc<World>,
}

impl Node {
    fn holds(&self, shard: ShardId) -> bool {
        shard.is_meta() || !self.world.bystanders.lock().contains(&self.id)
    }
}

impl Groups for Node {
    fn propose(
        &self,
        shard: ShardId,
        command: Bytes,
        _deadline: Instant,
    ) -> BoxFuture<'_, Result<Bytes, ProposeError>> {
        async move {
            if !self.is_leader(shard) {
                return Err(ProposeError::NotLeader {
                    hint: self.leader(shard).map(|leader| leader.node),
                });
            }
            self.world.step().await;
            let fault = if shard.is_meta() {
                None
            } else {
                let scripted = self.world.propose_script.lock().pop_front();
                scripted.or_else(|| self.world.fault())
            };
            match fault {
                Some(Fault::NotLeader) => return Err(ProposeError::NotLeader { hint: None }),
                Some(Fault::Overloaded) => return Err(ProposeError::Overloaded),
                Some(Fault::LostUnapplied) => return Err(ProposeError::Unknown),
                Some(Fault::Late) => {
                    self.world.keep(shard, command);
                    return Err(ProposeError::Unknown);
                }
                Some(Fault::LostApplied | Fault::Applied) | None => {}
            }
            *self.world.proposals.lock().entry(shard).or_default() += 1;
            let reply = self.world.apply(shard, command);
            self.world.step().await;
            if fault == Some(Fault::LostApplied) {
                Err(ProposeError::Unknown)
            } else {
                Ok(reply)
            }
        }
        .boxed()
    }

    fn read_barrier(
        &self,
        shard: ShardId,
        _deadline: Instant,
    ) -> BoxFuture<'_, Result<(), ReadError>> {
        async move {
            if !self.is_leader(shard) {
                return Err(ReadError::NotLeader { hint: None });
            }
            if self.world.unconfirmed.lock().contains_key(&shard) {
                return Err(ReadError::NoQuorum);
            }
            self.world.step().await;
            *self.world.barriers.lock() += 1;
            Ok(())
        }
        .boxed()
    }

    fn replica(&self, shard: ShardId) -> Option<Arc<Replica>> {
        if !shard.is_meta() && self.world.fresh.lock().contains(&self.id) {
            return Some(beginning(shard));
        }
        self.world
            .replicas
            .get(&shard)
            .filter(|_| self.holds(shard))
            .cloned()
    }

    fn is_filled(&self, shard: ShardId) -> bool {
        let is_fresh = !shard.is_meta() && self.world.fresh.lock().contains(&self.id);
        let applied = self.replica(shard).and_then(|replica| replica.applied().id);
        !is_fresh && applied.is_some()
    }

    fn is_leader(&self, shard: ShardId) -> bool {
        self.world.leaders.lock().get(&shard) == Some(&self.id)
    }

    fn leader(&self, shard: ShardId) -> Option<Leader> {
        let node = *self
            .world
            .leaders
            .lock()
            .get(&shard)
            .filter(|_| self.holds(shard))?;
        let is_blind = !shard.is_meta() && self.world.blind.lock().contains(&self.id);
        if is_blind && node != self.id {
            return None;
        }
        Some(Leader {
            replica: ReplicaId(node.0),
            node,
            term: *self.world.terms.lock(),
        })
    }

    fn leader_changed(
        &self,
        shard: ShardId,
        seen: Option<Leader>,
        deadline: Instant,
    ) -> BoxFuture<'_, Option<Leader>> {
        async move {
            loop {
                let changed = self.world.changed.notified();
                let leader = self.leader(shard);
                if leader.is_some() && leader != seen {
                    return leader;
                }
                if tokio::time::timeout_at(deadline.into(), changed)
                    .await
                    .is_err()
                {
                    return self.leader(shard);
                }
            }
        }
        .boxed()
    }

    fn commit_index(&self, shard: ShardId) -> u64 {
        self.world
            .indexes
            .lock()
            .get(&shard)
            .copied()
            .unwrap_or_default()
    }

    fn confirmed(&self, shard: ShardId) -> Option<Confirmed> {
        let since = self.world.unconfirmed.lock().get(&shard).copied();
        self.is_leader(shard).then(|| Confirmed {
            age: since.map_or(Duration::ZERO, |since| since.elapsed()),
            index: self.commit_index(shard),
        })
    }

    fn reaches(&self, shard: ShardId, index: u64, deadline: Instant) -> BoxFuture<'_, bool> {
        async move {
            loop {
                let applied = self.world.applied.notified();
                if !self.holds(shard) {
                    return false;
                }
                if self.commit_index(shard) >= index {
                    return true;
                }
                if tokio::time::timeout_at(deadline.into(), applied)
                    .await
                    .is_err()
                {
                    return self.commit_index(shard) >= index;
                }
            }
        }
        .boxed()
    }

    fn shards(&self) -> Vec<ShardId> {
        let all = (0..=SHARDS).map(ShardId);
        all.filter(|shard| self.holds(*shard)).collect()
    }

    fn initialize<'a>(
        &'a self,
        _: ShardId,
        _: &'a BTreeMap<ReplicaId, NodeId>,
    ) -> BoxFuture<'a, Result<(), PortError>> {
        async { Ok(()) }.boxed()
    }

    fn caught_up(&self, _: ShardId, _: ReplicaId) -> bool {
        true
    }

    fn members(&self, shard: ShardId) -> Option<GroupMembers> {
        let own = self.leader(shard)?.replica;
        let replicas = self.world.members.lock().get(&shard).cloned();
        Some(GroupMembers {
            own,
            is_joint: false,
            replicas: replicas.unwrap_or_default(),
        })
    }

    fn add_learner(
        &self,
        shard: ShardId,
        replica: ReplicaId,
        node: NodeId,
    ) -> BoxFuture<'_, Result<(), PortError>> {
        async move {
            let learner = Member {
                node,
                is_voter: false,
                is_caught_up: true,
            };
            let mut members = self.world.members.lock();
            members.entry(shard).or_default().insert(replica, learner);
            Ok(())
        }
        .boxed()
    }

    fn change_voters(
        &self,
        shard: ShardId,
        voters: BTreeSet<ReplicaId>,
    ) -> BoxFuture<'_, Result<(), PortError>> {
        async move {
            let mut members = self.world.members.lock();
            let members = members.entry(shard).or_default();
            members.retain(|replica, _| voters.contains(replica));
            for member in members.values_mut() {
                member.is_voter = true;
            }
            Ok(())
        }
        .boxed()
    }

    fn transfer_leader(
        &self,
        shard: ShardId,
        to: ReplicaId,
    ) -> BoxFuture<'_, Result<(), PortError>> {
        async move {
            let node = self.world.handle.current().replica_node(shard, to);
            self.world.elect(shard, node);
            Ok(())
        }
        .boxed()
    }
}

impl Forward for Node {
    fn forward(
        &self,
        node: NodeId,
        body: Bytes,
        _deadline: Instant,
    ) -> BoxFuture<'_, Result<Bytes, ForwardError>> {
        async move {
            let request = Request::decode(body.clone()).map(|(request, _)| request.operation);
            if let Some(Operation::Query(_) | Operation::Queries(_)) = request {
                *self.world.queries.lock() += 1;
            }
            let fault = self.world.forward_script.lock().pop_front();
            if let Some(ForwardError::NotSent(reason)) = fault {
                return Err(ForwardError::NotSent(reason));
            }
            let peer = self.world.services.lock().get(&node).cloned();
            let peer = peer.ok_or_else(|| ForwardError::NotSent("no such node".to_owned()))?;
            let reply = peer.handle_forward(body).await;
            match fault {
                Some(lost) => Err(lost),
                None => Ok(reply),
            }
        }
        .boxed()
    }

    fn is_up(&self, node: NodeId) -> bool {
        self.world.services.lock().contains_key(&node)
    }
}

impl Mailer for World {
    fn send(&self, mail: Mail) -> BoxFuture<'_, Result<(), PortError>> {
        async move {
            self.mails.lock().push(mail);
            self.changed.notify_waiters();
            Ok(())
        }
        .boxed()
    }
}

impl World {
    /// The next mail, taken out.
    pub(crate) async fn mail(&self) -> Mail {
        loop {
            let changed = self.changed.notified();
            if let Some(mail) = self.mails.lock().pop() {
                return mail;
            }
            changed.await;
        }
    }
}

impl Members for Node {
    fn describe<'a>(
        &'a self,
        address: &'a str,
        _: Instant,
    ) -> BoxFuture<'a, Result<Description, PortError>> {
        async move {
            let id = address.strip_prefix("node-").and_then(|id| id.parse().ok());
            let id = id.ok_or_else(|| PortError(format!("nobody at {address}")))?;
            let node = proto::log::Node {
                id,
                name: address.to_owned(),
                zone: String::new(),
                client_address: format!("{address}:7400"),
                peer_address: address.to_owned(),
                weight: 1,
            };
            Ok(Description {
                node,
                cluster_id: None,
                version: String::new(),
            })
        }
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
        async { Ok(()) }.boxed()
    }
}

/// A cluster of nodes 1 to n; node 1 leads everything.
pub(crate) struct TestCluster {
    pub(crate) world: Arc<World>,
    pub(crate) clock: Arc<ManualClock>,
    /// Of node 1.
    pub(crate) service: Service,
    services: Vec<Service>,
    stop: CancellationToken,
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        self.stop.cancel();
        self.world.services.lock().clear();
    }
}

impl TestCluster {
    /// Makes a node one that is down.
    pub(crate) fn silence(&self, node: NodeId) {
        self.world.services.lock().remove(&node);
    }

    /// One founded node with the open bucket `Demo`.
    pub(crate) async fn start() -> TestCluster {
        TestCluster::with_nodes(1, Limits::default()).await
    }

    /// Founded nodes with limits of their own.
    pub(crate) async fn with_nodes(nodes: u64, limits: Limits) -> TestCluster {
        let cluster = TestCluster::unfounded(nodes, limits);
        let outcome = cluster
            .service
            .init_cluster(cluster.init_request())
            .await
            .expect("founded");
        assert!(outcome.created);
        assert_eq!(cluster.service.ready(), Ok(()));
        cluster
    }

    /// Nodes before `cluster init`, with their jobs running.
    pub(crate) fn unfounded(nodes: u64, limits: Limits) -> TestCluster {
        TestCluster::with_accounts(nodes, limits, false)
    }

    /// The same, perhaps with mail addresses that are verified.
    pub(crate) fn with_accounts(nodes: u64, limits: Limits, verify_mail: bool) -> TestCluster {
        let world = World::new();
        let clock = Arc::new(ManualClock::at(START_US));
        let stop = CancellationToken::new();
        let seeds: Vec<String> = (1..=nodes).map(|node| format!("node-{node}")).collect();
        let services: Vec<Service> = (1..=nodes)
            .map(|node| {
                let port = Arc::new(Node {
                    id: NodeId(node),
                    world: Arc::clone(&world),
                });
                let options = Options {
                    node: NodeId(node),
                    seeds: seeds.clone(),
                    dev: false,
                    limits: limits.clone(),
                    accounts: Accounts {
                        verify_mail,
                        verify_link: "https://node.test/v1/db/User/verify".to_owned(),
                        rename_link: "https://node.test/v1/db/User/verifyUsername".to_owned(),
                        reset_link: "https://app.test/reset".to_owned(),
                        verified_redirect: String::new(),
                    },
                };
                let ports = Ports {
                    groups: port.clone(),
                    forward: port.clone(),
                    members: port,
                    metadata: world.handle.clone(),
                    identities: Arc::new(crate::identities::NoIdentities),
                    clock: clock.clone(),
                    mailer: world.clone(),
                    courier: world.targets.clone(),
                };
                Service::new(options, ports)
            })
            .collect();
        world
            .services
            .lock()
            .extend((1..).map(NodeId).zip(services.iter().cloned()));
        world.elect_everywhere(NodeId(1));
        for service in &services {
            let jobs = service.jobs();
            // Leaders are where the test puts them.
            tokio::spawn(jobs.fence.run(stop.clone()));
            tokio::spawn(jobs.bootstrap.run(stop.clone()));
            tokio::spawn(jobs.settle.run(stop.clone()));
            tokio::spawn(jobs.mails.run(stop.clone()));
            tokio::spawn(jobs.session_ends.run(stop.clone()));
            tokio::spawn(jobs.index_build.run(stop.clone()));
            tokio::spawn(jobs.evidence.run(stop.clone()));
        }
        TestCluster {
            world,
            clock,
            service: services[0].clone(),
            services,
            stop,
        }
    }

    pub(crate) fn init_request(&self) -> InitRequest {
        InitRequest {
            shards: SHARDS,
            replicas: None,
            root_password: Some(PASSWORD.to_owned()),
            demo: true,
            deadline: soon(),
        }
    }

    /// Lets the job run that enters documents under who may read them. Elsewhere it would add entries to logs whose length tests look at.
    pub(crate) fn enter_readers(&self) {
        for service in &self.services {
            tokio::spawn(service.jobs().readers.run(self.stop.clone()));
        }
    }

    /// Lets the job run that deletes the documents of dropped buckets, for the same reason.
    pub(crate) fn clear_dropped(&self) {
        for service in &self.services {
            tokio::spawn(service.jobs().clearing.run(self.stop.clone()));
        }
    }

    /// The service of a node, from 1.
    pub(crate) fn node(&self, node: usize) -> &Service {
        &self.services[node - 1]
    }

    /// The metadata.
    pub(crate) fn metadata(&self) -> Arc<cluster::ClusterState> {
        self.world.handle.current()
    }

    /// The shard of a document of the default database.
    pub(crate) fn shard_of(&self, bucket: &str, key: &str) -> ShardId {
        let state = self.metadata();
        let database = state.database("").expect("the default database");
        state.shard_of(database, &database.buckets[bucket], key)
    }

    /// A context of root.
    pub(crate) async fn root(&self) -> Context {
        let session = self
            .service
            .login(&anonymous(), "root", PASSWORD)
            .await
            .expect("root logs in");
        with_token(&session.token)
    }

    /// Adds a class and waits for it.
    pub(crate) async fn add_class(&self, descriptor: &str) {
        let root = self.root().await;
        let body = Bytes::copy_from_slice(descriptor.as_bytes());
        self.service
            .add_schema(&root, body)
            .await
            .expect("the class is added");
    }
}

/// A deadline that no passing test reaches.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// A request of nobody.
pub(crate) fn anonymous() -> Context {
    Context {
        request_id: "test".to_owned(),
        database: String::new(),
        caller: Caller::Anonymous,
        address: None,
        deadline: soon(),
        idempotency_key: None,
    }
}

/// A request with a token.
pub(crate) fn with_token(token: &str) -> Context {
    Context {
        caller: Caller::Token(token.to_owned()),
        ..anonymous()
    }
}

/// The same request under an idempotency key.
pub(crate) fn keyed(ctx: &Context, key: &str) -> Context {
    Context {
        idempotency_key: Some(key.to_owned()),
        ..ctx.clone()
    }
}
