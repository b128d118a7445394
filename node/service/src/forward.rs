//! Requests to a shard's leader and its answers, and their wire form between nodes.
//!
//! The asked node builds a [`Request`] once. If it leads the shard itself, the request goes by reference to the leader's code and is
//! never encoded; else it is encoded here, sent once, and answered by the other node, which never sends it on. The header is plain
//! Rust; operations and answers are the wire messages themselves, so that there is nothing to convert on the short path.
//!
//! Compatibility: neighbouring releases talk to each other. Fields are only added, numbers are never used again, and an operation that
//! a node does not know is refused with effect none.
//!
//! The principal is part of a request: nodes of a cluster trust each other, which the peer port's mutual TLS is for.

mod audit;
mod changes;
mod consumers;
mod index;
mod query;
mod rights;
mod stale;
mod tail;
mod unique;
mod wire;

use bytes::Bytes;
use document::acl::Principal;
use prost::Message;
use proto::{NodeId, ShardId};

pub use self::audit::{AuditPage, AuditRow, ReadAudit};
pub use self::changes::{Change, ChangeKind, Changes, ChangesPage, Cursor, History, PageEnd, Walk};
pub use self::consumers::{AckConsumer, ConsumerRow, ConsumerRows, ConsumerTrouble, ReadConsumers};
pub use self::index::{
    ChangeIndexes, ExplainedAccess, ExplainedRefusal, Explanation, IndexProgress, IndexVerb,
    IndexesComplete,
};
pub use self::query::{Found, Hit, Queries, Query, QueryPart};
pub use self::rights::{EndedSessions, FollowRights, Rights, RoleMembers};
pub use self::stale::{FollowStale, StaleKeyRow, StaleMark, StalePart};
pub use self::tail::{Place, Tail, TailEvent, TailPage, TailSide};
pub use self::unique::{DocumentValues, Holder, Holding, Holds, UniquePage, ValuesPage};
pub use self::wire::{Replies, decode_reply, encode_reply};

use crate::context::Condition;
use crate::error::Error;

/// A request to the leader of a shard.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The shard it is for.
    pub shard: ShardId,
    /// Who asks, authenticated by the asked node.
    pub principal: Principal,
    /// Makes a repeated write take effect once.
    pub idempotency_key: Option<String>,
    /// Version of the metadata that the asked node resolved names with. The leader waits until it is as far.
    pub metadata_version: u64,
    /// Set: a read that any replica may answer which is far and fresh enough.
    pub near: Option<Near>,
    /// What to do.
    pub operation: Operation,
}

/// What a replica must be able to say of itself to answer a read in place of the leader.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Near {
    /// How old its state may be at most; absent: any age.
    #[prost(uint64, optional, tag = "1")]
    pub age_us_max: Option<u64>,
    /// The index that it must have applied.
    #[prost(uint64, tag = "2")]
    pub at_least: u64,
}

/// What a request asks for.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Operation {
    /// Read one document.
    #[prost(message, tag = "10")]
    Get(Get),
    /// Write one document, or several at once.
    #[prost(message, tag = "11")]
    Write(Writes),
    /// One page of a bucket's part in this shard.
    #[prost(message, tag = "12")]
    Scan(Scan),
    /// The user with a name, if it lies in this shard.
    #[prost(message, tag = "13")]
    FindUser(FindUser),
    /// Make the rules of buckets known: an encoded `larder.log.v1.SetBuckets`.
    #[prost(bytes = "bytes", tag = "15")]
    SetBuckets(Bytes),
    /// Change the schema; for the metadata leader.
    #[prost(message, tag = "16")]
    ChangeSchema(ChangeSchema),
    /// The version of the metadata, linearizably; for the metadata leader.
    #[prost(bool, tag = "17")]
    MetadataVersion(bool),
    /// Found the cluster: an encoded `larder.log.v1.InitCluster`; for the metadata leader.
    #[prost(bytes = "bytes", tag = "18")]
    InitCluster(Bytes),
    /// Say where a node is: an encoded `larder.log.v1.AnnounceNode`; for the metadata leader.
    #[prost(bytes = "bytes", tag = "19")]
    AnnounceNode(Bytes),
    /// Replace a replica, or confirm that it was: an encoded `larder.log.v1.MetaCommand`; for the metadata leader.
    #[prost(bytes = "bytes", tag = "26")]
    Replicas(Bytes),
    /// Ask a node what it can prove as the leader of shards. For no shard in particular; never refused for not leading.
    #[prost(message, tag = "20")]
    Probe(Probe),
    /// The documents of a bucket's part in this shard that match a filter, or how many there are.
    #[prost(message, tag = "31")]
    Query(Query),
    /// One query of several shards that the asked node is thought to lead. Answered shard by shard; never refused for not leading.
    #[prost(message, tag = "32")]
    Queries(Queries),
    /// As `Write`, with a partial update among the writes. Apart from it, so that a node which does not know updates refuses instead of
    /// taking one for a whole document.
    #[prost(message, tag = "30")]
    Update(Writes),
    /// Propose a command on indexes or on values of unique ones: an encoded `larder.log.v1.Command` without stamp and tick.
    #[prost(bytes = "bytes", tag = "50")]
    Command(Bytes),
    /// Whose a value of a unique index is; for the shard of the value.
    #[prost(message, tag = "51")]
    FindHolder(proto::log::UniqueValue),
    /// Whether a document holds a value of a unique index; for the shard of the document.
    #[prost(message, tag = "52")]
    CheckHolds(Holds),
    /// The next documents that are to be taken into a unique index, with their values.
    #[prost(message, tag = "53")]
    UniquePage(UniquePage),
    /// Make or drop indexes; for the metadata leader.
    #[prost(message, tag = "40")]
    ChangeIndexes(ChangeIndexes),
    /// Which indexes are complete in this shard.
    #[prost(message, tag = "41")]
    IndexProgress(IndexProgress),
    /// What is new about the rights of a database; for the shard of its roles.
    #[prost(message, tag = "60")]
    FollowRights(FollowRights),
    /// Have another key sign tokens: an encoded `larder.log.v1.RotateSigningKey`; for the metadata leader.
    #[prost(bytes = "bytes", tag = "61")]
    RotateSigningKey(Bytes),
    /// A command of the metadata group's own keeping (quotas, usage, audit): an encoded `larder.log.v1.MetaCommand`; for its leader.
    #[prost(bytes = "bytes", tag = "85")]
    Govern(Bytes),
    /// A part of the shard's audit log.
    #[prost(message, tag = "86")]
    ReadAudit(ReadAudit),
    /// What changed in this shard behind a place. Any replica answers, as far as it is.
    #[prost(message, tag = "90")]
    Changes(Changes),
    /// Put the shard's time of writes into the log, unless a write did so lately: a feed in the order of time waits for it.
    #[prost(bool, tag = "91")]
    Watermark(bool),
    /// The versions of a document that the change log still has.
    #[prost(message, tag = "92")]
    History(History),
    /// The consumers of a database, linearizably; for the metadata leader.
    #[prost(message, tag = "100")]
    ReadConsumers(ReadConsumers),
    /// Take note of what a consumer took over; for the metadata leader.
    #[prost(message, tag = "101")]
    AckConsumer(AckConsumer),
    /// What this shard applied behind a place, with both sides of each change. Any replica answers, as far as it is.
    #[prost(message, tag = "95")]
    Tail(Tail),
    /// What is new about stale copies of this shard's documents. Any replica answers that is far and fresh enough.
    #[prost(message, tag = "110")]
    FollowStale(FollowStale),
}

impl Operation {
    /// The operation that carries out the writes.
    pub(crate) fn of_writes(writes: Writes) -> Operation {
        if writes.writes.iter().any(|write| write.update) {
            Operation::Update(writes)
        } else {
            Operation::Write(writes)
        }
    }

    /// Whether the operation leaves everything as it is, so that trying again is always safe.
    pub fn is_read(&self) -> bool {
        match self {
            Operation::Get(_)
            | Operation::Scan(_)
            | Operation::Query(_)
            | Operation::Queries(_)
            | Operation::FindUser(_)
            | Operation::MetadataVersion(_)
            | Operation::FindHolder(_)
            | Operation::CheckHolds(_)
            | Operation::UniquePage(_)
            | Operation::IndexProgress(_)
            | Operation::FollowRights(_)
            | Operation::ReadAudit(_)
            | Operation::Changes(_)
            | Operation::History(_)
            | Operation::ReadConsumers(_)
            | Operation::Tail(_)
            | Operation::FollowStale(_)
            | Operation::Probe(_) => true,
            Operation::Write(_)
            | Operation::Update(_)
            | Operation::SetBuckets(_)
            | Operation::ChangeSchema(_)
            | Operation::ChangeIndexes(_)
            | Operation::InitCluster(_)
            | Operation::AnnounceNode(_)
            | Operation::Replicas(_)
            | Operation::RotateSigningKey(_)
            | Operation::Govern(_)
            | Operation::Watermark(_)
            | Operation::AckConsumer(_)
            | Operation::Command(_) => false,
        }
    }

    /// Whether the leader judges the rights of a client for it.
    pub(crate) fn needs_rights(&self) -> bool {
        match self {
            Operation::Get(get) => !get.internal,
            Operation::Write(_)
            | Operation::Update(_)
            | Operation::Scan(_)
            | Operation::Query(_)
            | Operation::Queries(_)
            | Operation::Changes(_)
            | Operation::History(_) => true,
            Operation::FindUser(_)
            | Operation::MetadataVersion(_)
            | Operation::SetBuckets(_)
            | Operation::ChangeSchema(_)
            | Operation::ChangeIndexes(_)
            | Operation::IndexProgress(_)
            | Operation::InitCluster(_)
            | Operation::AnnounceNode(_)
            | Operation::Replicas(_)
            | Operation::Command(_)
            | Operation::FindHolder(_)
            | Operation::CheckHolds(_)
            | Operation::UniquePage(_)
            | Operation::FollowRights(_)
            | Operation::RotateSigningKey(_)
            | Operation::Govern(_)
            | Operation::ReadAudit(_)
            | Operation::Watermark(_)
            | Operation::ReadConsumers(_)
            | Operation::AckConsumer(_)
            | Operation::Tail(_)
            | Operation::FollowStale(_)
            | Operation::Probe(_) => false,
        }
    }

    /// Whether doing it twice is the same as doing it once, so that an unknown outcome may be tried again.
    pub fn is_idempotent(&self) -> bool {
        self.is_read()
            || matches!(
                self,
                Operation::SetBuckets(_)
                    | Operation::ChangeIndexes(_)
                    | Operation::InitCluster(_)
                    | Operation::AnnounceNode(_)
                    | Operation::Replicas(_)
                    | Operation::RotateSigningKey(_)
                    | Operation::Watermark(_)
                    | Operation::AckConsumer(_)
                    | Operation::Command(_)
            )
    }
}

/// See [`Operation::Get`].
#[derive(Clone, PartialEq, Message)]
pub struct Get {
    /// Name of the database.
    #[prost(string, tag = "1")]
    pub database: String,
    /// Name of the bucket.
    #[prost(string, tag = "2")]
    pub bucket: String,
    /// Decoded key.
    #[prost(string, tag = "3")]
    pub key: String,
    /// The service asks for itself: no ACL, and hidden members in the answer.
    #[prost(bool, tag = "4")]
    pub internal: bool,
}

/// See [`Operation::Write`].
#[derive(Clone, PartialEq, Message)]
pub struct Writes {
    /// Name of the database.
    #[prost(string, tag = "1")]
    pub database: String,
    /// In order. All documents belong to the shard of the request.
    #[prost(message, repeated, tag = "2")]
    pub writes: Vec<Write>,
    /// Whether the client sent a batch: it may hold a single write and is still another request than that write.
    #[prost(bool, tag = "3")]
    pub batch: bool,
}

/// One write.
#[derive(Clone, PartialEq, Message)]
pub struct Write {
    /// Name of the bucket.
    #[prost(string, tag = "1")]
    pub bucket: String,
    /// Decoded key.
    #[prost(string, tag = "2")]
    pub key: String,
    /// What must hold of the stored document.
    #[prost(message, optional, tag = "3")]
    pub condition: Option<WireCondition>,
    /// The JSON object as it was sent; without meaning for a delete.
    #[prost(bytes = "bytes", tag = "4")]
    pub body: Bytes,
    /// Hidden members, a JSON object; empty: as stored. Only from the service itself.
    #[prost(bytes = "bytes", tag = "5")]
    pub hidden: Bytes,
    /// Delete instead of put.
    #[prost(bool, tag = "6")]
    pub delete: bool,
    /// A partial update instead of a put: `body` holds its operations. Only in [`Operation::Update`].
    #[prost(bool, tag = "7")]
    pub update: bool,
    /// Of a user: ends its sessions. Only from the service itself.
    #[prost(bool, tag = "8")]
    pub ends_sessions: bool,
}

/// Wire form of [`Condition`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct WireCondition {
    /// 0 none, 1 absent, 2 exists, 3 version.
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    /// With kind 3.
    #[prost(uint64, tag = "2")]
    pub version: u64,
}

impl From<Condition> for Option<WireCondition> {
    fn from(condition: Condition) -> Option<WireCondition> {
        let (kind, version) = match condition {
            Condition::None => return None,
            Condition::Absent => (1, 0),
            Condition::Exists => (2, 0),
            Condition::Version(version) => (3, version),
        };
        Some(WireCondition { kind, version })
    }
}

impl Write {
    /// The condition; `None` for one that this release does not know.
    pub(crate) fn condition(&self) -> Option<Condition> {
        let Some(WireCondition { kind, version }) = self.condition else {
            return Some(Condition::None);
        };
        match kind {
            0 => Some(Condition::None),
            1 => Some(Condition::Absent),
            2 => Some(Condition::Exists),
            3 => Some(Condition::Version(version)),
            _ => None,
        }
    }
}

/// See [`Operation::Scan`].
#[derive(Clone, PartialEq, Message)]
pub struct Scan {
    /// Name of the database.
    #[prost(string, tag = "1")]
    pub database: String,
    /// Name of the bucket.
    #[prost(string, tag = "2")]
    pub bucket: String,
    /// Where to begin in the order of keys.
    #[prost(string, tag = "3")]
    pub from: String,
    /// Whether a document with the key `from` itself is left out.
    #[prost(bool, tag = "4")]
    pub after: bool,
    /// The most documents to return.
    #[prost(uint64, tag = "5")]
    pub documents_max: u64,
    /// Stop at the document that reaches this many bytes.
    #[prost(uint64, tag = "6")]
    pub bytes_max: u64,
    /// Hidden members too, if the caller is an admin.
    #[prost(bool, tag = "7")]
    pub hidden: bool,
}

/// See [`Operation::FindUser`].
#[derive(Clone, PartialEq, Message)]
pub struct FindUser {
    /// Name of the database.
    #[prost(string, tag = "1")]
    pub database: String,
    /// The exact name.
    #[prost(string, tag = "2")]
    pub username: String,
}

/// See [`Operation::Probe`].
#[derive(Clone, PartialEq, Message)]
pub struct Probe {
    /// Who asks.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// The asking node should not lead now: it stops, or its disk stalls or is nearly full.
    #[prost(bool, tag = "2")]
    pub declines: bool,
    /// The shards that it wants to know about.
    #[prost(uint32, repeated, tag = "3")]
    pub shards: Vec<u32>,
}

/// See [`Operation::ChangeSchema`].
#[derive(Clone, PartialEq, Message)]
pub struct ChangeSchema {
    /// Name of the database.
    #[prost(string, tag = "1")]
    pub database: String,
    /// What to do.
    #[prost(enumeration = "SchemaVerb", tag = "2")]
    pub verb: i32,
    /// Bare name of the class, for verbs about one.
    #[prost(string, tag = "3")]
    pub class: String,
    /// The descriptors as they were sent.
    #[prost(bytes = "bytes", tag = "4")]
    pub body: Bytes,
}

/// What a schema change does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SchemaVerb {
    /// Not said.
    Unspecified = 0,
    /// Merge descriptors and operations.
    Merge = 1,
    /// Replace the whole schema.
    Replace = 2,
    /// Merge one class.
    MergeClass = 3,
    /// Replace one class.
    ReplaceClass = 4,
    /// Drop one class.
    DropClass = 5,
}

/// What a leader answers to a request that it carried out.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Answer {
    /// To [`Operation::Get`]; absent documents are errors, except for internal reads.
    #[prost(message, tag = "10")]
    Record(Record),
    /// To [`Operation::Write`].
    #[prost(message, tag = "11")]
    Written(WrittenAll),
    /// To [`Operation::Scan`].
    #[prost(message, tag = "12")]
    Page(Page),
    /// To [`Operation::ChangeSchema`] and [`Operation::ChangeIndexes`]: of the schema. To [`Operation::MetadataVersion`]: of the metadata.
    #[prost(uint64, tag = "14")]
    Version(u64),
    /// Carried out; nothing to say. Also: an internal read found nothing.
    #[prost(bool, tag = "15")]
    Done(bool),
    /// To [`Operation::Probe`].
    #[prost(message, tag = "16")]
    Proofs(Proofs),
    /// To [`Operation::Query`].
    #[prost(message, tag = "20")]
    Found(Found),
    /// To [`Operation::Queries`].
    #[prost(message, tag = "21")]
    Replies(Replies),
    /// To [`Operation::Command`]: what it led to, as the state machine encodes it.
    #[prost(bytes = "bytes", tag = "50")]
    Outcome(Bytes),
    /// To [`Operation::FindHolder`], if it is anybody's.
    #[prost(message, tag = "51")]
    Holder(Holder),
    /// To [`Operation::CheckHolds`].
    #[prost(message, tag = "52")]
    Holding(Holding),
    /// To [`Operation::UniquePage`].
    #[prost(message, tag = "53")]
    Values(ValuesPage),
    /// To [`Operation::IndexProgress`].
    #[prost(message, tag = "41")]
    IndexesComplete(IndexesComplete),
    /// To [`Operation::FollowRights`].
    #[prost(message, tag = "60")]
    Rights(Rights),
    /// To [`Operation::ReadAudit`].
    #[prost(message, tag = "86")]
    AuditPage(AuditPage),
    /// To [`Operation::Changes`] and [`Operation::History`].
    #[prost(message, tag = "90")]
    Changes(ChangesPage),
    /// To [`Operation::ReadConsumers`].
    #[prost(message, tag = "100")]
    Consumers(ConsumerRows),
    /// To [`Operation::Tail`].
    #[prost(message, tag = "95")]
    Tail(TailPage),
    /// To [`Operation::FollowStale`].
    #[prost(message, tag = "110")]
    Stale(StalePart),
}

/// What a leader can prove.
#[derive(Clone, PartialEq, Message)]
pub struct Proofs {
    /// One for each shard that it leads and has been confirmed in.
    #[prost(message, repeated, tag = "1")]
    pub proofs: Vec<Proof>,
}

/// Whatever anyone was told longer than `age_us` before this was said lies at or below `index`.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Proof {
    /// The shard.
    #[prost(uint32, tag = "1")]
    pub shard: u32,
    /// The log index.
    #[prost(uint64, tag = "2")]
    pub index: u64,
    /// How long before, in microseconds.
    #[prost(uint64, tag = "3")]
    pub age_us: u64,
}

/// How far and how old the state was that an answer was read from.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Seen {
    /// An index that was applied after the read.
    #[prost(uint64, tag = "1")]
    pub index: u64,
    /// How old the state was at most; absent: not known.
    #[prost(uint64, optional, tag = "2")]
    pub age_us: Option<u64>,
}

/// A document as the leader read it.
#[derive(Clone, PartialEq, Message)]
pub struct Record {
    /// Decoded key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Stored version.
    #[prost(uint64, tag = "2")]
    pub version: u64,
    /// The complete JSON object.
    #[prost(bytes = "bytes", tag = "3")]
    pub body: Bytes,
    /// Hidden members as a JSON object; only in answers to the service itself.
    #[prost(bytes = "bytes", tag = "4")]
    pub hidden: Bytes,
    /// In the answer to a read of one document.
    #[prost(message, optional, tag = "5")]
    pub seen: Option<Seen>,
    /// In the answer to a read of one document, if its bucket is cached.
    #[prost(message, optional, tag = "70")]
    pub keep: Option<Keep>,
}

/// What web caches may do with a document.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Keep {
    /// Everybody may read it.
    #[prost(bool, tag = "1")]
    pub is_public: bool,
    /// How long they may keep it, counted from the moment that the state was proven of, milliseconds.
    #[prost(uint32, tag = "2")]
    pub ttl_ms: u32,
}

/// What became of all writes of a request, in order.
#[derive(Clone, PartialEq, Message)]
pub struct WrittenAll {
    /// One for each write.
    #[prost(message, repeated, tag = "1")]
    pub written: Vec<WrittenOne>,
    /// An index that was applied after the writes.
    #[prost(uint64, tag = "2")]
    pub index: u64,
}

/// What became of one write.
#[derive(Clone, PartialEq, Message)]
pub struct WrittenOne {
    /// The version it has now, or had before the delete.
    #[prost(uint64, tag = "1")]
    pub version: u64,
    /// Whether a document was there before.
    #[prost(bool, tag = "2")]
    pub existed: bool,
    /// The complete JSON object; empty after a delete.
    #[prost(bytes = "bytes", tag = "3")]
    pub body: Bytes,
}

/// A page of one shard.
#[derive(Clone, PartialEq, Message)]
pub struct Page {
    /// Readable documents in key order.
    #[prost(message, repeated, tag = "1")]
    pub records: Vec<Record>,
    /// The last key looked at, if there may be more after it.
    #[prost(string, optional, tag = "2")]
    pub last: Option<String>,
    /// How it was read.
    #[prost(message, optional, tag = "3")]
    pub seen: Option<Seen>,
    /// Whether the caller may not read the document at `last`, so that nobody may tell it that key.
    #[prost(bool, tag = "4")]
    pub is_last_hidden: bool,
}

/// Why a leader did not carry out a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// Another node leads, or none. Effect: none.
    NotLeader {
        /// The node that is thought to lead.
        hint: Option<NodeId>,
    },
    /// It could not be done right now: overloaded, no quorum, metadata behind. Effect: none.
    Busy(Error),
    /// It may have happened.
    Unknown,
    /// Final.
    Refused(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Refused(error)
    }
}
