//! Every rule of the product, drivable without sockets: documents, schema, sessions, routing, and the jobs behind them.
//!
//! The edges (HTTP, gRPC) parse, make one call here, and convert the answer. Everything the service needs from outside comes through
//! the traits in [`ports`] and [`clock`]. `DESIGN.md` beside this crate has the reasons.
//!
//! | module | owns |
//! |---|---|
//! | [`context`] [`error`] | the plain types of the facade |
//! | `documents` `scans` `bulk` | what the asked node does with a document request: who asks, which shard, which key |
//! | `updates` `batches` | partial updates; batches that are not atomic |
//! | `query` | filters over all shards of a bucket: results in order, counts, page tokens |
//! | `changes` | feeds of what changes, and the versions of a document |
//! | `cache` | web caches: which of their copies are old, and how old they can be |
//! | `consumers` [`courier`] | durable consumers of feeds: making and showing them, how far each is, and sending to their targets |
//! | `live` | real-time queries |
//! | `near` `evidence` `position` | reads that need not ask the leader, and how old a replica can prove to be |
//! | `router` | finding the shard's leader, forwarding once, retrying while nothing has happened |
//! | `leader` | what the leader does: validate, pre-check, stamp, propose |
//! | [`forward`] | the wire form of forwarded requests and replies |
//! | `indexes` | making, dropping and showing indexes |
//! | `schema` `sessions` `init` [`status`] | class changes, log-in and tokens, founding a cluster, its state |
//! | `rights` | what every node knows of roles and of ended sessions, and how old that is |
//! | `users` | users: registration, passwords, names |
//! | `access` | what somebody may do and why, for admins |
//! | [`auth`] | rights, tokens, password hashes, predefined users and roles |
//! | [`audit`] `trail` | events for the node's audit log; the audit logs of shards |
//! | `quotas` | what databases may take |
//! | [`replicas`] | replacing one replica of a shard by another |
//! | [`jobs`] | background work, each run by the leader of the shard that it belongs to |
//! | [`clock`] [`limits`] [`metrics`] | time, limits, names of metrics |
//! | `commands` `unique` | requests that the service sends itself; values of unique indexes over all shards |
//! | [`identities`] | parties outside that vouch for users |
//! | `ids` `metadata` `reads` | keys, the copy of the metadata, the pool for blocking reads |
//!
//! Lacks: what only one protocol knows (headers, statuses, CORS), and the bytes on disk.

#![deny(unsafe_code)]

mod access;
pub mod audit;
pub mod auth;
mod batches;
mod bulk;
mod cache;
mod changes;
pub mod clock;
mod commands;
mod consumers;
pub mod context;
pub mod courier;
mod documents;
pub mod error;
mod evidence;
pub mod forward;
pub mod identities;
mod ids;
mod indexes;
pub mod init;
pub mod jobs;
mod leader;
pub mod limits;
mod live;
mod metadata;
pub mod metrics;
mod near;
pub mod ports;
mod position;
mod query;
mod quotas;
mod reads;
pub mod replicas;
mod rights;
mod router;
mod scans;
mod schema;
mod sessions;
pub mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trail;
mod unique;
mod updates;
pub mod users;

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
pub use cluster::Assignment;
pub use cluster::caching::{CachePolicy, Scope as CacheScope};
use proto::NodeId;
use serde_json::Value;

pub use crate::access::{AccessAnswer, AccessCheck, AccessOperation, AccessQuestion};
pub use crate::cache::{BucketCaching, Filter, Staleness};
pub use crate::changes::{Feed, FeedEvent, FeedRequest, Frame, Start};
pub use crate::consumers::{ConsumerRequest, ConsumerState, ConsumerStatus, NewTarget};
pub use crate::context::{
    BatchOperation, BatchWrite, Caller, Condition, Connect, Consistency, Context, Deleted,
    Document, Freshness, Keep, ScanPage, ScanRange, Served, Session, Truncated, Written,
};
pub use crate::error::{Error, Result};
pub use crate::indexes::IndexStatus;
pub use crate::init::{InitOutcome, InitRequest};
pub use crate::limits::Limits;
pub use crate::live::{
    LiveFrame, LiveMatch, LiveQuery, LiveRequest, MatchType, Operation as LiveOperation,
};
pub use crate::position::Position;
pub use crate::query::{Counted, Query, QueryPage, QueryRequest, ShardExplanation};
pub use crate::quotas::QuotaStatus;
pub use crate::replicas::{ReplaceOutcome, ReplaceRequest};
pub use crate::status::ClusterStatus;
pub use crate::trail::{TrailPage, shard_chain};
pub use crate::users::{Accounts, Registered, Registration};

use crate::clock::Clock;
use crate::courier::Courier;
use crate::evidence::Evidence;
use crate::identities::Identities;
use crate::leader::Shards;
use crate::metadata::Metadata;
use crate::metrics::{Metrics, Operation};
use crate::ports::{Forward, Groups, Mailer, Members};
use crate::router::Router;

/// What an operator decides about a node's service. Data only; the parts that do things are in [`Ports`].
#[derive(Clone, Debug)]
pub struct Options {
    /// This node.
    pub node: NodeId,
    /// Peer addresses of the nodes that found the cluster, this one among them.
    pub seeds: Vec<String>,
    /// Allows the password `root` for root. Only `larder dev` sets it.
    pub dev: bool,
    /// Limits.
    pub limits: Limits,
    /// How accounts are made and confirmed.
    pub accounts: Accounts,
}

/// The layers beside the service.
#[derive(Clone)]
pub struct Ports {
    /// Raft groups of this node.
    pub groups: Arc<dyn Groups>,
    /// Connections to other nodes.
    pub forward: Arc<dyn Forward>,
    /// Making nodes members.
    pub members: Arc<dyn Members>,
    /// This node's copy of the metadata.
    pub metadata: cluster::machine::StateHandle,
    /// Parties outside that vouch for users.
    pub identities: Arc<dyn Identities>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Sending mails.
    pub mailer: Arc<dyn Mailer>,
    /// Sending changes to the targets of consumers.
    pub courier: Arc<dyn Courier>,
}

/// The facade. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    core: Arc<Core>,
}

/// All parts of the service of one node.
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) groups: Arc<dyn Groups>,
    pub(crate) forward: Arc<dyn Forward>,
    pub(crate) members: Arc<dyn Members>,
    pub(crate) identities: Arc<dyn Identities>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metadata: Metadata,
    pub(crate) evidence: Arc<Evidence>,
    pub(crate) router: Router,
    pub(crate) shards: Shards,
    pub(crate) unique: Arc<unique::Unique>,
    pub(crate) passwords: auth::password::Hasher,
    pub(crate) sessions: users::Rechecks,
    pub(crate) attempts: users::Attempts,
    pub(crate) resets: users::Resets,
    pub(crate) mailer: Arc<dyn Mailer>,
    pub(crate) courier: Arc<dyn Courier>,
    pub(crate) rights: rights::Rights,
    pub(crate) stale: cache::StaleKeys,
    pub(crate) ends: Arc<rights::Ends>,
    pub(crate) audit: audit::Audit,
    pub(crate) metrics: Metrics,
    pub(crate) slowest_shard: std::sync::OnceLock<::metrics::Histogram>,
    /// One permit for each query at work.
    pub(crate) queries: tokio::sync::Semaphore,
    /// One permit for each open feed.
    pub(crate) feeds: Arc<tokio::sync::Semaphore>,
    pub(crate) live: Arc<live::Live>,
}

impl Core {
    /// The parts, put together. Those that send requests themselves get at the whole by `core`.
    fn new(options: Options, ports: Ports, core: &Weak<Core>) -> Core {
        let limits = &options.limits;
        let metadata = Metadata::new(ports.metadata.clone());
        let evidence = Arc::new(Evidence::new(Arc::clone(&ports.groups)));
        let unique = unique::Unique::new(core.clone());
        let ends = rights::Ends::new(core.clone());
        Core {
            shards: Shards::new(
                options.node,
                limits,
                &ports,
                metadata.clone(),
                Arc::clone(&evidence),
                Arc::clone(&unique),
                Arc::clone(&ends),
            ),
            unique,
            evidence,
            router: Router::new(
                options.node,
                Arc::clone(&ports.groups),
                Arc::clone(&ports.forward),
            ),
            passwords: auth::password::Hasher::new(
                limits.password_hashes_max,
                limits.password_waiting_max,
            ),
            sessions: users::Rechecks::default(),
            attempts: users::Attempts::new(Arc::clone(&ports.clock)),
            resets: users::Resets::default(),
            mailer: ports.mailer,
            courier: ports.courier,
            rights: rights::Rights::default(),
            stale: cache::StaleKeys::default(),
            ends,
            audit: audit::Audit::new(Arc::clone(&ports.clock)),
            metrics: Metrics::default(),
            slowest_shard: std::sync::OnceLock::new(),
            queries: tokio::sync::Semaphore::new(limits.queries_at_once_max),
            feeds: Arc::new(tokio::sync::Semaphore::new(limits.feeds_max)),
            live: live::Live::new(core.clone(), limits),
            groups: ports.groups,
            forward: ports.forward,
            members: ports.members,
            identities: ports.identities,
            clock: ports.clock,
            metadata,
            options,
        }
    }
}

impl Service {
    /// Puts the service together. Starts nothing: requests are refused as unavailable until the cluster is founded, and the work of
    /// [`Service::jobs`] must be run by the caller.
    pub fn new(options: Options, ports: Ports) -> Service {
        Service {
            core: Arc::new_cyclic(|core| Core::new(options, ports, core)),
        }
    }

    /// The background work of this node.
    pub fn jobs(&self) -> jobs::Jobs {
        jobs::Jobs::new(Arc::clone(&self.core))
    }

    /// Answers a request that another node forwarded here; never forwards it on. The deadline is inside the request.
    pub async fn handle_forward(&self, body: Bytes) -> Bytes {
        self.core.handle_forward(body).await
    }

    /// Reads one document, as fresh as [`Freshness`] says or fresher.
    ///
    /// # Errors
    /// `ObjectNotFound` also for a document that the caller may not read. `Unavailable` also if nobody can give it so fresh.
    pub async fn get(
        &self,
        ctx: &Context,
        bucket: &str,
        key: &str,
        freshness: impl Into<Freshness>,
    ) -> Result<Document> {
        let freshness = freshness.into();
        self.core
            .metrics
            .observe(Operation::Get, self.core.get(ctx, bucket, key, &freshness))
            .await
    }

    /// Writes one whole document: `body` is a JSON object with the members of the class and `acl`.
    ///
    /// Without `key` the id of the body names the document; without that too the service makes a key.
    ///
    /// # Errors
    /// By the condition: `ObjectExists`, `ObjectOutOfDate`. By rights: `PermissionDenied`, `InvalidPermissionModification`. By content:
    /// `SyntaxError`, `InvalidTypeValue`, `BadRequest`, `BodyTooLarge`, `KeyTooLong`. `OutcomeUnknown`: it may have happened.
    pub async fn put(
        &self,
        ctx: &Context,
        bucket: &str,
        key: Option<&str>,
        body: Bytes,
        condition: Condition,
    ) -> Result<Written> {
        self.core
            .metrics
            .observe(
                Operation::Put,
                self.core.put(ctx, bucket, key, body, condition),
            )
            .await
    }

    /// Changes parts of one document where it is stored, and gives the whole of it: `operations` is a JSON object, operation → path →
    /// argument (contract section 6).
    ///
    /// # Errors
    /// `ObjectNotFound`: there is none, and no condition. `ObjectOutOfDate` by the condition. `PermissionDenied` also if the caller may
    /// not read it. `BadRequest`: an operation is not for such a value, or such an argument. `InvalidTypeValue`, `SyntaxError`,
    /// `BodyTooLarge` as for puts. `OutcomeUnknown`: it may have happened.
    pub async fn update(
        &self,
        ctx: &Context,
        bucket: &str,
        key: &str,
        operations: Bytes,
        condition: Condition,
    ) -> Result<Document> {
        let update = self.core.update(ctx, bucket, key, operations, condition);
        self.core.metrics.observe(Operation::Update, update).await
    }

    /// The same for a single field: `operations` is a JSON object, operation → argument.
    ///
    /// # Errors
    /// Those of [`Service::update`].
    pub async fn update_field(
        &self,
        ctx: &Context,
        bucket: &str,
        key: &str,
        field: &str,
        operations: Bytes,
        condition: Condition,
    ) -> Result<Document> {
        let update = self
            .core
            .update_field(ctx, bucket, key, field, &operations, condition);
        self.core.metrics.observe(Operation::Update, update).await
    }

    /// Deletes one document; says whether it existed.
    ///
    /// # Errors
    /// `ObjectOutOfDate` if the condition does not hold. Without a condition a missing document is no error.
    pub async fn delete(
        &self,
        ctx: &Context,
        bucket: &str,
        key: &str,
        condition: Condition,
    ) -> Result<Deleted> {
        self.core
            .metrics
            .observe(
                Operation::Delete,
                self.core.delete(ctx, bucket, key, condition),
            )
            .await
    }

    /// Applies several writes of one shard, all or nothing; gives one document for each, in order.
    ///
    /// # Errors
    /// `CrossShard` unless all documents lie in one shard; else those of [`Service::put`] and [`Service::delete`].
    pub async fn batch(&self, ctx: &Context, writes: Vec<BatchWrite>) -> Result<Vec<Document>> {
        self.core
            .metrics
            .observe(Operation::Batch, self.core.batch(ctx, writes))
            .await
    }

    /// Carries out several writes each for itself, whatever their shards; gives the result of each, in order. Writes of one document
    /// happen in order, others side by side.
    ///
    /// Under an idempotency key each write takes effect once, if it has the same place in the repeated batch.
    ///
    /// # Errors
    /// Of the batch as a whole: `BodyTooLarge`, and what makes no sense to try. All else is in the results.
    pub async fn batch_each(
        &self,
        ctx: &Context,
        writes: Vec<BatchWrite>,
    ) -> Result<Vec<Result<Document>>> {
        self.core
            .metrics
            .observe(Operation::Batch, self.core.batch_each(ctx, writes))
            .await
    }

    /// One page of a bucket, bounded in bytes and documents. Callers loop over [`ScanPage::continuation`].
    ///
    /// Every page is as fresh as the range says, by default linearizable; together they are not one view.
    pub async fn scan(&self, ctx: &Context, bucket: &str, range: ScanRange) -> Result<ScanPage> {
        self.core
            .metrics
            .observe(Operation::Scan, self.core.scan(ctx, bucket, range))
            .await
    }

    /// Like [`Service::scan`] for admins: every document whatever its ACL, with the members that are never served otherwise (`_password`
    /// of a user).
    ///
    /// # Errors
    /// `PermissionDenied` for everybody else.
    pub async fn export(&self, ctx: &Context, bucket: &str, range: ScanRange) -> Result<ScanPage> {
        let is_first = range.continuation.is_none();
        let export = self.core.export(ctx, bucket, range);
        let page = self.core.metrics.observe(Operation::Scan, export).await?;
        if is_first {
            self.note_of_caller(
                ctx,
                audit::Event::of(ctx, audit::Action::BucketExported).on(bucket),
            );
        }
        Ok(page)
    }

    /// Writes documents as an export gave them, for admins: one result for each, in order. What is stored under their ids is replaced,
    /// hidden members included; other documents stay.
    ///
    /// # Errors
    /// Of the whole: `PermissionDenied`, `BucketNotFound`, `BodyTooLarge` past the bounds of a batch; nothing happened. Of one document:
    /// those of [`Service::put`].
    pub async fn import(
        &self,
        ctx: &Context,
        bucket: &str,
        documents: Vec<Bytes>,
    ) -> Result<Vec<Result<()>>> {
        let import = self.core.import(ctx, bucket, documents);
        let results = self.core.metrics.observe(Operation::Import, import).await?;
        // Parts of one import that come close together are one record with a count.
        self.note_of_caller(
            ctx,
            audit::Event::of(ctx, audit::Action::BucketImported).on(bucket),
        );
        Ok(results)
    }

    /// Deletes one page of a bucket, for admins; callers loop over [`Truncated::continuation`]. Predefined users and roles stay.
    ///
    /// # Errors
    /// `PermissionDenied`, `BucketNotFound`; else those of [`Service::delete`]: a part of the page may be deleted, and calling again
    /// deletes the rest.
    pub async fn truncate(
        &self,
        ctx: &Context,
        bucket: &str,
        continuation: Option<Bytes>,
    ) -> Result<Truncated> {
        let truncated = self.core.truncate(ctx, bucket, continuation);
        self.core
            .metrics
            .observe(Operation::Truncate, truncated)
            .await
    }

    /// The documents that match a filter and that the caller may read, in order, as one bounded result.
    ///
    /// Every shard of the bucket answers, or the whole query fails: a result never lacks a part. Each shard's part is as fresh as the
    /// request says, by default linearizable; together they are not one view.
    ///
    /// # Errors
    /// By the texts: `SyntaxError`, `QueryNotSupported`, `InvalidTypeValue`, `BadRequest`. `QueryNotSupported` also past a limit of rows
    /// or of bytes. `PermissionDenied` for others than admins who want to scan without limit. `Unavailable` if a shard does not answer.
    pub async fn query(
        &self,
        ctx: &Context,
        bucket: &str,
        request: QueryRequest,
    ) -> Result<QueryPage> {
        let query = query::result(&self.core, ctx, bucket, request);
        self.core.metrics.observe(Operation::Query, query).await
    }

    /// Begins a query whose result is read page by page, however long it is. Nothing is read from shards yet.
    ///
    /// # Errors
    /// Those of [`Service::query`] about the request itself.
    pub async fn open_query(
        &self,
        ctx: &Context,
        bucket: &str,
        request: QueryRequest,
    ) -> Result<Query> {
        let open = Query::open(Arc::clone(&self.core), ctx, bucket, request);
        self.core.metrics.observe(Operation::Query, open).await
    }

    /// How each shard finds its first page of a query, with what it looked at; for admins, since that tells of documents that the caller
    /// may not read. A shard's refusal is part of the answer.
    ///
    /// # Errors
    /// `PermissionDenied`; else those of [`Service::query`] about the request itself.
    pub async fn explain(
        &self,
        ctx: &Context,
        bucket: &str,
        request: QueryRequest,
    ) -> Result<Vec<ShardExplanation>> {
        let explain = query::explain(&self.core, ctx, bucket, request, None);
        self.core.metrics.observe(Operation::Query, explain).await
    }

    /// What somebody may do and why, rule by rule; for admins. Nothing is done.
    ///
    /// # Errors
    /// `PermissionDenied`, `BucketNotFound`; `ObjectNotFound` if there is no such user.
    pub async fn check_access(
        &self,
        ctx: &Context,
        question: AccessQuestion,
    ) -> Result<AccessAnswer> {
        let check = self.core.check_access(ctx, question);
        self.core.metrics.observe(Operation::Get, check).await
    }

    /// The same as [`Service::explain`] for the eyes of a user: how its query would be carried out. For admins.
    ///
    /// # Errors
    /// Those of [`Service::explain`]; `ObjectNotFound` if there is no such user.
    pub async fn explain_as(
        &self,
        ctx: &Context,
        user: &str,
        bucket: &str,
        request: QueryRequest,
    ) -> Result<Vec<ShardExplanation>> {
        let explain = query::explain(&self.core, ctx, bucket, request, Some(user));
        self.core.metrics.observe(Operation::Query, explain).await
    }

    /// How many documents match a filter and may be read by the caller. `sort`, `start` and `count` mean nothing here.
    ///
    /// # Errors
    /// Those of [`Service::query`].
    pub async fn count(
        &self,
        ctx: &Context,
        bucket: &str,
        request: QueryRequest,
    ) -> Result<Counted> {
        let count = query::count(&self.core, ctx, bucket, request);
        self.core.metrics.observe(Operation::Count, count).await
    }

    /// Opens a feed of what changes in the database, as far as the caller may see it.
    ///
    /// # Errors
    /// `TooManyRequests`: too many are open at this node. `BucketNotFound`, `PermissionDenied` of the bucket; those of the filter;
    /// `BadRequest` of a resume token that is none, or of another cluster or database. `Unavailable`: a shard does not answer.
    pub async fn feed(&self, ctx: &Context, request: FeedRequest) -> Result<Feed> {
        let reader = changes::Reader::Caller;
        let open = Feed::open(Arc::clone(&self.core), ctx, reader, request);
        self.core.metrics.observe(Operation::Feed, open).await
    }

    /// Opens a real-time query: its result, if that is asked for, and what changes in it from then on, as far as the caller may see it.
    ///
    /// # Errors
    /// `TooManyRequests`: too many are open at this node. Those of [`Service::query`] about the request; `QueryNotSupported` also for more
    /// documents than a result may have.
    pub async fn subscribe(&self, ctx: &Context, request: LiveRequest) -> Result<LiveQuery> {
        let open = LiveQuery::open(Arc::clone(&self.core), ctx, request);
        self.core.metrics.observe(Operation::Subscribe, open).await
    }

    /// The wall time of this node in microseconds since 1970, for what people read.
    pub fn now_us(&self) -> u64 {
        self.core.clock.wall_us()
    }

    /// The versions of a document that the change log still has and that the caller may read, the newest first; with `at`, a resume
    /// token, the one that it had there.
    ///
    /// # Errors
    /// `PermissionDenied` by the class; `BadRequest` of the token. With a token also `ObjectNotFound`: there was no document, none for the
    /// caller, or its version is not kept any more.
    pub async fn history(
        &self,
        ctx: &Context,
        bucket: &str,
        key: &str,
        at: Option<&str>,
    ) -> Result<Vec<FeedEvent>> {
        let history = self.core.history(ctx, bucket, key, at);
        self.core.metrics.observe(Operation::History, history).await
    }

    /// All class descriptors, as an array.
    pub async fn schema(&self, ctx: &Context) -> Result<Value> {
        self.core
            .metrics
            .observe(Operation::ReadSchema, self.core.read_schema(ctx))
            .await
    }

    /// One class descriptor, by bare name.
    pub async fn schema_class(&self, ctx: &Context, bucket: &str) -> Result<Value> {
        self.core
            .metrics
            .observe(Operation::ReadSchema, self.core.read_class(ctx, bucket))
            .await
    }

    /// Merges descriptors and operations into the schema; gives the resulting schema. For admins.
    ///
    /// Acknowledged when every shard applied it. All schema changes fail with `PermissionDenied` for others, and as
    /// [`document::SchemaError`] says for changes that do not fit. An error with effect `applied` means: stored, not yet confirmed.
    pub async fn add_schema(&self, ctx: &Context, body: Bytes) -> Result<Value> {
        self.core
            .metrics
            .observe(Operation::ChangeSchema, self.core.add_schema(ctx, body))
            .await
    }

    /// Replaces the whole schema; classes that are left out are dropped, system classes stay. For admins.
    pub async fn replace_schema(&self, ctx: &Context, body: Bytes) -> Result<Value> {
        self.core
            .metrics
            .observe(Operation::ChangeSchema, self.core.replace_schema(ctx, body))
            .await
    }

    /// Adds the missing fields of one class, or the class; gives its descriptor. For admins.
    pub async fn add_class(&self, ctx: &Context, bucket: &str, body: Bytes) -> Result<Value> {
        self.core
            .metrics
            .observe(
                Operation::ChangeSchema,
                self.core.add_class(ctx, bucket, body),
            )
            .await
    }

    /// Replaces one class; gives its descriptor. For admins.
    pub async fn replace_class(&self, ctx: &Context, bucket: &str, body: Bytes) -> Result<Value> {
        self.core
            .metrics
            .observe(
                Operation::ChangeSchema,
                self.core.replace_class(ctx, bucket, body),
            )
            .await
    }

    /// Drops one class. For admins.
    pub async fn drop_class(&self, ctx: &Context, bucket: &str) -> Result<()> {
        self.core
            .metrics
            .observe(Operation::ChangeSchema, self.core.drop_class(ctx, bucket))
            .await
    }

    /// The indexes of a bucket, oldest first, with how far each is.
    ///
    /// # Errors
    /// `BucketNotFound`.
    pub async fn indexes(&self, ctx: &Context, bucket: &str) -> Result<Vec<IndexStatus>> {
        self.core
            .metrics
            .observe(Operation::ReadSchema, self.core.indexes(ctx, bucket))
            .await
    }

    /// Makes an index of a bucket, or drops one: `definition` is the JSON form of contract section 4.4 with `drop`. For admins.
    ///
    /// Returns once every shard keeps a new index up, or a dropped one no more; a new one is then filled in the background and shows its
    /// progress. One that is there, and dropping one that is not, changes nothing.
    ///
    /// # Errors
    /// `PermissionDenied`, `BucketNotFound`. By the definition: `SyntaxError`, `QueryNotSupported`, `InvalidTypeValue`, `BadRequest`. An
    /// error with effect `applied` means: stored, not yet confirmed by all shards.
    pub async fn change_index(&self, ctx: &Context, bucket: &str, definition: Bytes) -> Result<()> {
        let change = self.core.change_index(ctx, bucket, definition);
        self.core
            .metrics
            .observe(Operation::ChangeSchema, change)
            .await
    }

    /// Drops all indexes of a bucket. For admins.
    ///
    /// # Errors
    /// Those of [`Service::change_index`].
    pub async fn drop_indexes(&self, ctx: &Context, bucket: &str) -> Result<()> {
        self.core
            .metrics
            .observe(Operation::ChangeSchema, self.core.drop_indexes(ctx, bucket))
            .await
    }

    /// What a client needs to begin: the schema, and its session if the token is good. A bad token is no error.
    pub async fn connect(&self, ctx: &Context) -> Result<Connect> {
        self.core
            .metrics
            .observe(Operation::Connect, self.core.connect(ctx))
            .await
    }

    /// Logs in by name and password.
    ///
    /// # Errors
    /// `BadCredentials`, never saying which of the two is wrong; `TooManyRequests` when too many log-ins wait.
    pub async fn login(&self, ctx: &Context, username: &str, password: &str) -> Result<Session> {
        let session = self
            .core
            .metrics
            .observe(Operation::Login, self.core.login(ctx, username, password))
            .await;
        if let Some(action) = audit::of_login(&session) {
            self.note(audit::Event::of(ctx, action).by(username));
        }
        session
    }

    /// The filter of what web caches may hold old copies of; `None`: no bucket of the database was ever cached. Never refused: what cannot
    /// be told is a filter that has everything in it.
    pub async fn filter(&self, database: &str) -> Option<Arc<Filter>> {
        Box::pin(self.core.filter(database)).await
    }

    /// The level of a read over HTTP that names none.
    pub fn plain_level(&self, database: &str, bucket: &str) -> Consistency {
        self.core.plain_level(database, bucket)
    }

    /// How old a cached answer can be at most, for requests that take `flight`; `None`: no bucket of the database was ever cached.
    pub fn staleness(&self, database: &str, flight: Duration) -> Option<Staleness> {
        self.core.staleness(database, flight)
    }

    /// The cache policies of all buckets that have one.
    pub fn cache_policies(&self) -> Vec<BucketCaching> {
        self.core.cache_policies()
    }

    /// Sets the cache policy of a bucket.
    ///
    /// # Errors
    /// `BadRequest`: bounds out of order. With effect `applied`: not every shard has confirmed it yet.
    pub async fn set_cache_policy(
        &self,
        database: &str,
        bucket: &str,
        policy: CachePolicy,
        deadline: std::time::Instant,
    ) -> Result<BucketCaching> {
        self.core
            .set_cache_policy(database, bucket, policy, deadline)
            .await
    }

    /// The quotas of all databases that have one, as this node knows them.
    pub fn quotas(&self) -> Vec<QuotaStatus> {
        self.core.quotas()
    }

    /// Sets what a database may take, 0 for no limit, and has it counted from now on; gives what it takes.
    ///
    /// # Errors
    /// `BucketNotFound`: no such database. `OutcomeUnknown`: it may be set.
    pub async fn set_quota(
        &self,
        database: &str,
        documents_max: u64,
        bytes_max: u64,
        deadline: std::time::Instant,
    ) -> Result<QuotaStatus> {
        self.core
            .set_quota(database, documents_max, bytes_max, deadline)
            .await
    }

    /// The records of a shard's audit log behind a place, at most a page, linearizably.
    ///
    /// # Errors
    /// `BadRequest`: no such shard.
    pub async fn trail(
        &self,
        shard: proto::ShardId,
        after: u64,
        deadline: std::time::Instant,
    ) -> Result<TrailPage> {
        self.core.trail(shard, after, deadline).await
    }

    /// The numbers of all shards, the metadata group (0) first.
    pub fn shard_numbers(&self) -> Vec<u32> {
        self.core.shard_numbers()
    }

    /// Has the heads of audit logs written down in the metadata group's.
    ///
    /// # Errors
    /// `Unavailable` without a metadata leader; they may be written down nevertheless.
    pub async fn anchor_audit(
        &self,
        heads: Vec<proto::log::AuditHead>,
        deadline: std::time::Instant,
    ) -> Result<()> {
        self.core.anchor(heads, deadline).await
    }

    /// Whether limits on how often somebody may ask do not concern the caller: an admin or a node, by a token whose signature is good and
    /// by this node's copy of the rights, whatever its age. Waits for a copy, a second at most, where this node has none yet; without one
    /// nobody is exempt. It grants nothing else.
    pub async fn is_exempt(&self, database: &str, caller: &Caller) -> bool {
        self.core.is_exempt(database, caller).await
    }

    /// The id of the user that a token names, for audit logs; `None` for nobody, and for a token whose signature is not good.
    pub fn claimed_user(&self, database: &str, caller: &Caller) -> Option<String> {
        self.core.claimed_user(database, caller)
    }

    /// Notes an event with the user of the caller's token.
    pub(crate) fn note_of_caller(&self, ctx: &Context, event: audit::Event) {
        let user = self.claimed_user(&ctx.database, &ctx.caller);
        self.note(event.by(user.as_deref().unwrap_or_default()));
    }

    /// Puts an event into this node's audit log, soon. Does not wait; what comes faster than it can be kept is counted.
    pub fn note(&self, event: audit::Event) {
        self.core.audit.note(event);
    }

    /// Waits until events for the audit log are there.
    pub async fn audit_arrived(&self) {
        self.core.audit.arrived().await;
    }

    /// The events for the audit log that wait; they wait no more.
    pub fn audit_taken(&self) -> Vec<audit::Noted> {
        self.core.audit.taken()
    }

    /// The caller's user, and a renewed token. Reads user and roles again.
    ///
    /// # Errors
    /// `BadCredentials` without a valid session.
    pub async fn me(&self, ctx: &Context) -> Result<Session> {
        self.core
            .metrics
            .observe(Operation::Me, self.core.me(ctx))
            .await
    }

    /// Ends a session as far as the server is concerned, which is not at all: the client forgets its token. A token that was copied before
    /// is good until it expires; [`Service::logout_everywhere`] ends it.
    pub async fn logout(&self, ctx: &Context) -> Result<()> {
        self.core
            .metrics
            .observe(Operation::Logout, async { self.core.logout(ctx) })
            .await
    }

    /// Whether this node can serve: the cluster is founded and bootstrapped, and every shard with a replica here has a leader.
    ///
    /// # Errors
    /// The reason, for people.
    pub fn ready(&self) -> Result<(), String> {
        self.core.ready()
    }

    /// Says whether this node wants to lead. While it does not, it is not ready, and the other nodes do not hand it shards. Returns when
    /// the others have been told, or at the deadline.
    pub async fn set_declines(&self, declines: bool, deadline: std::time::Instant) {
        self.core.evidence.set_declines(declines);
        self.core.evidence.round(deadline).await;
    }

    /// Whether another node lately said so of itself, or that its disk is nearly full.
    pub fn is_declining(&self, node: NodeId) -> bool {
        self.core.evidence.is_declining(node)
    }

    /// Whether this node does not want to lead: it stops, or its log disk stalls.
    pub fn declines(&self) -> bool {
        self.core.evidence.declines()
    }

    /// Why this node takes no writes for the shards that it leads, if it does not: its disk is nearly full. It is ready all the same.
    pub fn refuses_writes(&self) -> Option<String> {
        self.core.groups.no_room()
    }

    /// What this node knows of the cluster.
    pub fn cluster_status(&self) -> ClusterStatus {
        self.core.cluster_status()
    }

    /// Tells the cluster where this node can be reached, if that has changed since it last said so.
    ///
    /// # Errors
    /// `Unavailable` without a metadata leader.
    pub async fn announce_node(
        &self,
        node: proto::log::Node,
        deadline: std::time::Instant,
    ) -> Result<()> {
        self.core.announce(node, deadline).await
    }

    /// Begins to replace one replica of a shard by a fresh one on another node, or on the same; finds it begun if it was.
    ///
    /// Returns once the metadata says so. The rest is done by the shard's leaders, over any crash, and shows in the status.
    ///
    /// # Errors
    /// `BadRequest`: no such shard, node or replica, or another replacement is under way. `Unavailable`: a node that is needed is down.
    pub async fn replace_replica(&self, request: ReplaceRequest) -> Result<ReplaceOutcome> {
        self.core.replace_replica(request).await
    }

    /// Those of `replicas` that belong to their shards no more and never will, by what is committed in the metadata now.
    ///
    /// # Errors
    /// `Unavailable`: the metadata could not be read linearizably.
    pub async fn retired(
        &self,
        replicas: &[(proto::ShardId, proto::ReplicaId)],
        deadline: std::time::Instant,
    ) -> Result<Vec<(proto::ShardId, proto::ReplicaId)>> {
        self.core.retired(replicas, deadline).await
    }

    /// Founds the cluster out of the seed nodes, or finds it founded.
    ///
    /// Waits until documents can be written. Can be repeated after any failure.
    ///
    /// # Errors
    /// `BadRequest`: numbers out of range, or a password that is not allowed. `Unavailable`: a seed does not answer. `ObjectExists`: a
    /// seed belongs to another cluster.
    pub async fn init_cluster(&self, request: InitRequest) -> Result<InitOutcome> {
        self.core.init_cluster(request).await
    }
}
