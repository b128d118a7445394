//! What the service needs from the layers beside it, as narrow traits: consensus groups, other nodes, and joining nodes to a cluster.
//!
//! The node implements them over the crate `raft`; tests implement them in memory, so that every rule of the product can be driven
//! without a socket or an election. All traits are object-safe and their futures are boxed: one small allocation for a call that
//! waits for a disk or a network anyway.
//!
//! The errors say what a caller may conclude: everything but [`ProposeError::Unknown`] and [`ForwardError::Lost`] means that
//! nothing happened and nothing will.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::replacement::Members as GroupMembers;
use futures::future::BoxFuture;
use proto::{NodeId, ReplicaId, ShardId};
use storage::machine::Replica;

/// Who leads a shard, as this node has heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The leading replica.
    pub replica: ReplicaId,
    /// The node that holds it.
    pub node: NodeId,
    /// The term it leads in.
    pub term: u64,
}

/// What a leader knows of its own leadership: everything that anyone was told longer than `age` ago lies at or below `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// Since the round was sent that a quorum answered last.
    pub age: Duration,
    /// An index that is applied here, of the leader's own term.
    pub index: u64,
}

/// Why a proposal has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The replica here does not lead. Effect: none.
    #[error("not the leader")]
    NotLeader {
        /// The node that is thought to lead.
        hint: Option<NodeId>,
    },
    /// No replica of the shard runs here. Effect: none.
    #[error("no replica of the shard runs here")]
    NoGroup,
    /// Too many proposals or bytes are in flight. Effect: none.
    #[error("too many proposals in flight")]
    Overloaded,
    /// The node is going down. Effect: none.
    #[error("the node is stopping")]
    Stopping,
    /// The deadline passed or the reply was lost after the command was accepted. Effect: unknown.
    #[error("the outcome is unknown")]
    Unknown,
}

/// Why a linearizable read could not be served. Nothing happened in any of the cases.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The replica here does not lead.
    #[error("not the leader")]
    NotLeader {
        /// The node that is thought to lead.
        hint: Option<NodeId>,
    },
    /// No replica of the shard runs here.
    #[error("no replica of the shard runs here")]
    NoGroup,
    /// The leader could not confirm itself with a quorum before the deadline.
    #[error("no quorum")]
    NoQuorum,
    /// Too many reads wait.
    #[error("too many reads in flight")]
    Overloaded,
}

/// Why another node did not answer a forwarded request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// The request has certainly not been handled: no connection, a full queue, or refused on arrival. Effect: none.
    #[error("not sent: {0}")]
    NotSent(String),
    /// The request may have been handled; the reply is lost or late. Effect: unknown.
    #[error("the reply is lost")]
    Lost,
}

/// A failure that only the operator's log and message need to understand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PortError(pub String);

/// The Raft groups of this node.
pub trait Groups: Send + Sync + 'static {
    /// Proposes an encoded command to the shard's group and waits until it is applied here.
    ///
    /// Dropping the future does not undo the proposal.
    fn propose(
        &self,
        shard: ShardId,
        command: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Bytes, ProposeError>>;

    /// Returns once the local replica, being leader, has applied everything that was committed anywhere when this was called.
    fn read_barrier(
        &self,
        shard: ShardId,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<(), ReadError>>;

    /// The applied state of the local replica, if there is one.
    fn replica(&self, shard: ShardId) -> Option<Arc<Replica>>;

    /// Whether the local replica holds the shard's state as of some moment since it joined. One that is still being filled shows what
    /// was written long ago as absent. Cheap: called for every read that does not ask the leader.
    fn is_filled(&self, shard: ShardId) -> bool;

    /// Whether the local replica believes that it leads. Cheap: called for every request.
    fn is_leader(&self, shard: ShardId) -> bool;

    /// The leader that the local replica knows of.
    fn leader(&self, shard: ShardId) -> Option<Leader>;

    /// Waits until the local replica knows of a leader other than `seen`, at most until the deadline; gives what is known then.
    ///
    /// Without a local replica it waits until the deadline.
    fn leader_changed(
        &self,
        shard: ShardId,
        seen: Option<Leader>,
        deadline: Instant,
    ) -> BoxFuture<'_, Option<Leader>>;

    /// The highest log index that the local replica knows to be committed; 0 without a replica.
    fn commit_index(&self, shard: ShardId) -> u64;

    /// When a quorum last confirmed the local replica as the leader, and how far it had got by then; `None` if it does not lead, or
    /// not yet.
    fn confirmed(&self, shard: ShardId) -> Option<Confirmed>;

    /// Waits until the local replica has applied an index; false at the deadline, or without a replica.
    fn reaches(&self, shard: ShardId, index: u64, deadline: Instant) -> BoxFuture<'_, bool>;

    /// All shards with a local replica.
    fn shards(&self) -> Vec<ShardId>;

    /// Starts a group with these members; does nothing if it was started before.
    fn initialize<'a>(
        &'a self,
        shard: ShardId,
        members: &'a BTreeMap<ReplicaId, NodeId>,
    ) -> BoxFuture<'a, Result<(), PortError>>;

    /// Why this node takes no writes now, for lack of room on its disk. Cheap: called for every write.
    fn no_room(&self) -> Option<String> {
        None
    }

    /// The nodes whose replica of the shard is known to be damaged and serves nothing.
    fn quarantined(&self, _shard: ShardId) -> Vec<NodeId> {
        Vec::new()
    }

    /// Whether the replica `to`, as this leader sees it, has (nearly) the whole log and may take over without a pause.
    fn caught_up(&self, shard: ShardId, to: ReplicaId) -> bool;

    /// The members of the shard's group as the local replica knows them; what only a leader knows is `false` elsewhere.
    fn members(&self, shard: ShardId) -> Option<GroupMembers>;

    /// Adds a member without a vote, on the local leader. Done when committed; a repetition changes nothing.
    fn add_learner(
        &self,
        shard: ShardId,
        replica: ReplicaId,
        node: NodeId,
    ) -> BoxFuture<'_, Result<(), PortError>>;

    /// Makes members the voters and removes all others, in one joint step, on the local leader. Dropping the future may leave the step
    /// half done; the same call finishes it.
    fn change_voters(
        &self,
        shard: ShardId,
        voters: BTreeSet<ReplicaId>,
    ) -> BoxFuture<'_, Result<(), PortError>>;

    /// Asks the local leader to hand the shard over to `to`.
    fn transfer_leader(
        &self,
        shard: ShardId,
        to: ReplicaId,
    ) -> BoxFuture<'_, Result<(), PortError>>;
}

/// Connections to the other nodes.
pub trait Forward: Send + Sync + 'static {
    /// Sends an encoded request (see [`crate::forward`]) to a node and gives its encoded reply.
    fn forward(
        &self,
        node: NodeId,
        body: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Bytes, ForwardError>>;

    /// As [`Self::forward`] for a request that changes nothing: when the future is dropped, the other node may stop working on it.
    fn forward_read(
        &self,
        node: NodeId,
        body: Bytes,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Bytes, ForwardError>> {
        self.forward(node, body, deadline)
    }

    /// Whether the connection to a node is up, so that it can be taken for alive.
    fn is_up(&self, node: NodeId) -> bool;
}

/// A mail in plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// Address of the one who gets it; a user's name, so it is not to be trusted further than an address.
    pub to: String,
    /// One line.
    pub subject: String,
    /// Plain text. May hold a token: it must not be logged.
    pub text: String,
}

/// Sending mails.
pub trait Mailer: Send + Sync + 'static {
    /// Hands a mail over to whoever delivers it. Done when it will not be lost by this node any more.
    fn send(&self, mail: Mail) -> BoxFuture<'_, Result<(), PortError>>;
}

/// What a node says of itself before it belongs to a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    /// Identity, names and addresses.
    pub node: proto::log::Node,
    /// The cluster it belongs to.
    pub cluster_id: Option<String>,
    /// Its program version.
    pub version: String,
}

/// Making nodes members of a cluster. Both calls reach the own node too, by its own peer address.
pub trait Members: Send + Sync + 'static {
    /// Asks the node at a peer address who it is.
    fn describe<'a>(
        &'a self,
        address: &'a str,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Description, PortError>>;

    /// Makes the node at a peer address a member of the cluster and holder of metadata replica `replica`, in the place of `replaces`.
    ///
    /// Idempotent; refused by a node that belongs to another cluster or holds another metadata replica than these.
    fn join<'a>(
        &'a self,
        address: &'a str,
        cluster_id: &'a str,
        replica: ReplicaId,
        replaces: Option<ReplicaId>,
        nodes: &'a [proto::log::Node],
        deadline: Instant,
    ) -> BoxFuture<'a, Result<(), PortError>>;
}
