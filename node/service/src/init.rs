//! Founding a cluster: once, from any of its seed nodes, and repeatable after any failure.
//!
//! 1. Ask every seed who it is. One that belongs to another cluster ends it; nothing was changed.
//! 2. Make every seed a member: it learns the cluster's id and opens its metadata replica. Replica ids are 1, 2, … in the order of node
//!    ids, so that a repetition names the same ones.
//! 3. Start the metadata group, and propose `InitCluster`, which only the first one survives.
//! 4. Wait until the jobs have told all shards of the buckets and written root and the roles.
//!
//! The cluster id is made in step 1, unless some seed has one already from a try that did not get to its end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::shard_map::{SHARDS_MAX, is_valid_count};
use cluster::state::METADATA_VOTERS_MAX;
use cluster::{MetaOutcome, MetaRejection};
use document::acl::Principal;
use futures::future::try_join_all;
use prost::Message as _;
use proto::log::{AnnounceNode, InitCluster, Node, meta_command};
use proto::{ErrorCode, NodeId, ReplicaId, ShardId};
use rand::RngCore as _;
use uuid::Uuid;

use crate::Core;
use crate::auth::password;
use crate::auth::policy::ROOT_NAME;
use crate::error::{Error, Result};
use crate::forward::{Answer, Failure, Operation, Request};
use crate::leader::Shards;
use crate::ports::Description;
use crate::schema::meta_rejected;

/// Replicas of a shard unless the request says otherwise, or there are fewer nodes.
pub const REPLICAS_DEFAULT: u32 = 3;
/// Document shards unless the request says otherwise.
pub const SHARDS_DEFAULT: u32 = 16;
/// Bytes of the key that tokens are signed with.
const SIGNING_KEY_BYTES: usize = 32;
/// Between two looks at a seed that does not answer, or a leader that is not elected.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// One question to a seed.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How a cluster is to be.
#[derive(Clone, Debug)]
pub struct InitRequest {
    /// Number of document shards: a power of two up to 1024.
    pub shards: u32,
    /// Replicas of each shard; `None`: 3, or as many as there are nodes.
    pub replicas: Option<u32>,
    /// Root's password; `None`: one is made (in dev: `root`).
    pub root_password: Option<String>,
    /// Creates the open bucket `Demo`.
    pub demo: bool,
    /// When to give up.
    pub deadline: Instant,
}

/// What founding led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitOutcome {
    /// The cluster.
    pub cluster_id: String,
    /// Whether this call founded it.
    pub created: bool,
    /// Root's password, if it was made here; shown once.
    pub root_password: Option<String>,
}

impl Shards {
    /// Proposes the first command of a cluster, on the metadata leader. Repeating it changes nothing.
    pub(crate) async fn init_metadata(
        &self,
        command: &Bytes,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let Ok(command) = InitCluster::decode(command.clone()) else {
            return Err(Error::bad_request("malformed first command").into());
        };
        match self
            .propose_meta(meta_command::Operation::InitCluster(command), deadline)
            .await?
        {
            MetaOutcome::Done | MetaOutcome::Rejected(MetaRejection::AlreadyInitialized) => {
                Ok(Answer::Done(true))
            }
            MetaOutcome::Rejected(rejection) => Err(meta_rejected(&rejection).into()),
        }
    }

    /// Proposes where a node is, on the metadata leader. Repeating it changes nothing.
    pub(crate) async fn announce_node(
        &self,
        command: &Bytes,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let Ok(command) = AnnounceNode::decode(command.clone()) else {
            return Err(Error::bad_request("malformed announcement").into());
        };
        match self
            .propose_meta(meta_command::Operation::AnnounceNode(command), deadline)
            .await?
        {
            MetaOutcome::Done => Ok(Answer::Done(true)),
            MetaOutcome::Rejected(rejection) => Err(meta_rejected(&rejection).into()),
        }
    }
}

impl Core {
    pub(crate) async fn init_cluster(&self, request: InitRequest) -> Result<InitOutcome> {
        let state = self.metadata.current();
        if state.is_initialized() {
            return Ok(existing(state.cluster_id.clone()));
        }
        let (password, made) = self.root_password(request.root_password.clone())?;
        if !is_valid_count(request.shards) {
            return Err(Error::bad_request(format!(
                "{} shards: must be a power of two up to {SHARDS_MAX}",
                request.shards
            )));
        }
        let seeds = self.describe_seeds(request.deadline).await?;
        let cluster_id = common_cluster(&seeds)?.unwrap_or_else(|| Uuid::new_v4().to_string());
        let nodes: Vec<Node> = seeds
            .values()
            .map(|(_, description)| description.node.clone())
            .collect();
        let replicas = replicas(request.replicas, nodes.len())?;
        let root_password_hash = self.passwords.hash(&password).await?;
        self.start_metadata(&cluster_id, &seeds, &nodes, request.deadline)
            .await?;

        let mut signing_key = vec![0; SIGNING_KEY_BYTES];
        rand::rng().fill_bytes(&mut signing_key);
        let command = InitCluster {
            cluster_id: cluster_id.clone(),
            shards: request.shards,
            replicas,
            nodes,
            signing_key: signing_key.into(),
            root_password_hash,
            demo: request.demo,
        };
        let created = self.propose_init(command, request.deadline).await?;
        self.wait_until_usable(request.deadline).await;
        let root_password = made.then_some(password).filter(|_| created);
        Ok(InitOutcome {
            cluster_id,
            created,
            root_password,
        })
    }

    /// The password of root, and whether it was made here.
    fn root_password(&self, wanted: Option<String>) -> Result<(String, bool)> {
        match wanted {
            None if self.options.dev => Ok((ROOT_NAME.to_owned(), false)),
            None => Ok((password::generate(), true)),
            Some(password) if password.is_empty() => {
                Err(Error::bad_request("root needs a password"))
            }
            Some(password) if password == ROOT_NAME && !self.options.dev => Err(
                Error::bad_request("the password root is refused for root: anybody would try it"),
            ),
            Some(password) => Ok((password, false)),
        }
    }

    /// Who the seeds are, by node id, with the address that each was asked at. All must answer: a forgotten one would be left out.
    async fn describe_seeds(
        &self,
        deadline: Instant,
    ) -> Result<BTreeMap<NodeId, (String, Description)>> {
        if self.options.seeds.is_empty() {
            return Err(Error::bad_request("no seed nodes are configured"));
        }
        let answers = self
            .options
            .seeds
            .iter()
            .map(|address| self.describe_seed(address, deadline));
        let mut seeds = BTreeMap::new();
        for (address, description) in self.options.seeds.iter().zip(try_join_all(answers).await?) {
            seeds.insert(NodeId(description.node.id), (address.clone(), description));
        }
        if !seeds.contains_key(&self.options.node) {
            return Err(Error::bad_request("this node is not among its seeds"));
        }
        Ok(seeds)
    }

    async fn describe_seed(&self, address: &str, deadline: Instant) -> Result<Description> {
        loop {
            let until = deadline.min(Instant::now() + ASK_TIMEOUT);
            match self.members.describe(address, until).await {
                Ok(description) => return Ok(description),
                Err(reason) if Instant::now() >= deadline => {
                    return Err(Error::unavailable(format!(
                        "seed {address} does not answer: {reason}"
                    )));
                }
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// Makes all seeds members and starts the metadata group.
    async fn start_metadata(
        &self,
        cluster_id: &str,
        seeds: &BTreeMap<NodeId, (String, Description)>,
        nodes: &[Node],
        deadline: Instant,
    ) -> Result<()> {
        let replica_ids = (1..).map(ReplicaId);
        let members: BTreeMap<ReplicaId, NodeId> = replica_ids.zip(seeds.keys().copied()).collect();
        let voters: BTreeMap<ReplicaId, NodeId> = members
            .iter()
            .take(METADATA_VOTERS_MAX)
            .map(|(replica, node)| (*replica, *node))
            .collect();
        if !voters.values().any(|node| *node == self.options.node) {
            let names: Vec<String> = voters.values().map(ToString::to_string).collect();
            return Err(Error::bad_request(format!(
                "a cluster of this size is founded on one of the nodes {}",
                names.join(", ")
            )));
        }
        // One after the other: of two that found at the same time, the first node lets only one past.
        for ((replica, node), (address, _)) in members.iter().zip(seeds.values()) {
            let joined = self
                .members
                .join(address, cluster_id, *replica, None, nodes, deadline)
                .await;
            joined.map_err(|reason| {
                Error::unavailable(format!("node {node} at {address} did not join: {reason}"))
            })?;
        }
        let started = self.groups.initialize(ShardId::META, &voters).await;
        started.map_err(|reason| {
            Error::unavailable(format!("the metadata group did not start: {reason}"))
        })
    }

    /// Proposes the first command to whoever leads the metadata group. True if the cluster is the one of this command.
    async fn propose_init(&self, command: InitCluster, deadline: Instant) -> Result<bool> {
        let request = Request {
            shard: ShardId::META,
            principal: Principal::root(),
            idempotency_key: None,
            metadata_version: 0,
            near: None,
            operation: Operation::InitCluster(command.encode_to_vec().into()),
        };
        self.route(&self.metadata.current(), &request, deadline)
            .await?;
        let state = self
            .metadata
            .wait(deadline, |state| state.is_initialized())
            .await;
        let state = state.ok_or_else(|| {
            Error::unavailable("the cluster is founded, but this node has not heard of it yet")
        })?;
        // A reply can be lost and the command repeated; the salted hash tells whose command it was.
        Ok(state.root_password_hash == command.root_password_hash)
    }

    /// Tells the metadata where this node can be reached now.
    pub(crate) async fn announce(&self, node: Node, deadline: Instant) -> Result<()> {
        let state = self.metadata.founded()?;
        let request = Request {
            shard: ShardId::META,
            principal: Principal::root(),
            idempotency_key: None,
            metadata_version: 0,
            near: None,
            operation: Operation::AnnounceNode(
                AnnounceNode { node: Some(node) }.encode_to_vec().into(),
            ),
        };
        self.route(&state, &request, deadline).await.map(|_| ())
    }

    /// Waits for fence and bootstrap. The cluster exists either way, so giving up is no error.
    async fn wait_until_usable(&self, deadline: Instant) {
        let usable = self
            .metadata
            .wait(deadline, |state| state.bootstrapped)
            .await;
        while usable.is_some() && self.ready().is_err() && Instant::now() < deadline {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        if let Err(reason) = self.ready() {
            tracing::warn!(reason, "the cluster is founded but not ready yet");
        }
    }
}

fn existing(cluster_id: String) -> InitOutcome {
    InitOutcome {
        cluster_id,
        created: false,
        root_password: None,
    }
}

/// The cluster that seeds belong to already, if any.
fn common_cluster(seeds: &BTreeMap<NodeId, (String, Description)>) -> Result<Option<String>> {
    let mut found: Option<String> = None;
    for (address, description) in seeds.values() {
        let Some(id) = &description.cluster_id else {
            continue;
        };
        match &found {
            Some(first) if first != id => {
                let message = format!(
                    "node {} at {address} belongs to cluster {id}, others to {first}",
                    description.node.name
                );
                return Err(Error::new(ErrorCode::ObjectExists, message));
            }
            Some(_) | None => found = Some(id.clone()),
        }
    }
    Ok(found)
}

fn replicas(wanted: Option<u32>, nodes: usize) -> Result<u32> {
    let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
    match wanted {
        None => Ok(REPLICAS_DEFAULT.min(nodes)),
        Some(replicas) if (1..=nodes).contains(&replicas) => Ok(replicas),
        Some(replicas) => Err(Error::bad_request(format!(
            "{replicas} replicas on {nodes} nodes: must be from 1 to the number of nodes"
        ))),
    }
}
