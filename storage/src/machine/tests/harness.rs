//! What the tests share: commands that are quick to write, a replica over the memory engine, and all of its rows.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use document::body::Expiry;
use document::index::{Definition, Index, ValueHash};
use document::query::Subject;
use document::schema::Schema;
use parking_lot::Mutex;
use prost::Message as _;
use proto::ShardId;
use proto::log::command::Operation;
use proto::log::mutation::Operation as MutationOperation;
use proto::log::precondition::Condition;
use proto::log::{self, Command, Mutation};

use super::show;
use crate::engine::Column;
use crate::engine::memory::Memory;
use crate::error::Result;
use crate::ids::{LogId, StoreId};
use crate::machine::documents::DocumentMachine;
use crate::machine::outcome::Outcome;
use crate::machine::update::to_log;
use crate::machine::{Entry, Machine, Payload, Replica, Transaction};

pub(super) const DATABASE: u32 = 1;
pub(super) const BUCKET: u32 = 7;

/// The document machine, keeping the effects of each command as text.
#[derive(Default)]
pub(super) struct Recorder(pub(super) Mutex<Vec<String>>);

impl Machine for Recorder {
    fn apply(&self, tx: &mut Transaction<'_>, id: LogId, command: &Bytes) -> Result<Bytes> {
        let reply = DocumentMachine.apply(tx, id, command)?;
        self.0.lock().extend(
            tx.effects()
                .map(|(column, key, value)| show::effect(column, key, value)),
        );
        Ok(reply)
    }
}

/// A replica in memory.
pub(super) struct Node {
    pub(super) engine: Arc<Memory>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) replica: Arc<Replica>,
}

impl Node {
    pub(super) fn new(store: u64) -> Self {
        Self::over(Memory::new(), store)
    }

    pub(super) fn over(engine: Memory, store: u64) -> Self {
        let (engine, recorder) = (Arc::new(engine), Arc::new(Recorder::default()));
        let replica = Replica::open(engine.clone(), recorder.clone(), ShardId(1), StoreId(store))
            .expect("an empty store opens");
        Self {
            engine,
            recorder,
            replica,
        }
    }

    /// Applies one entry behind the last one.
    pub(super) fn apply(&self, payload: Payload) -> Result<Bytes> {
        let id = self.next_id();
        Ok(self.replica.apply(vec![Entry { id, payload }])?.remove(0))
    }

    pub(super) fn outcome(&self, command: &Command) -> Result<Outcome> {
        Outcome::decode(&self.apply(payload(command))?)
    }

    pub(super) fn next_id(&self) -> LogId {
        LogId {
            term: 1,
            leader: 1,
            index: self.replica.applied().id.map_or(1, |id| id.index + 1),
        }
    }

    /// Every row of the store, with keys without store id.
    pub(super) fn rows(&self) -> Vec<(Column, Bytes, Bytes)> {
        let view = self.replica.view();
        let mut rows = Vec::new();
        for column in Column::ALL {
            for pair in view.scan(column, Bound::Unbounded, Bound::Unbounded) {
                let (key, value) = pair.expect("memory reads");
                rows.push((column, key, value));
            }
        }
        rows
    }
}

pub(super) fn payload(command: &Command) -> Payload {
    Payload::Command(command.encode_to_vec().into())
}

pub(super) fn entry(index: u64, command: &Command) -> Entry {
    Entry {
        id: LogId {
            term: 1,
            leader: 1,
            index,
        },
        payload: payload(command),
    }
}

pub(super) fn command(stamp_us: u64, operation: Operation) -> Command {
    Command {
        tick: None,
        stamp_us,
        operation: Some(operation),
    }
}

pub(super) fn bucket(bucket: u32, version: u64, dropped: bool) -> log::Bucket {
    log::Bucket {
        database: DATABASE,
        bucket,
        version,
        name: format!("B{bucket}"),
        dropped,
        indexes: Vec::new(),
        ..log::Bucket::default()
    }
}

pub(super) fn set_bucket() -> Command {
    command(
        0,
        Operation::SetBuckets(log::SetBuckets {
            buckets: vec![bucket(BUCKET, 1, false)],
        }),
    )
}

pub(super) fn mutation(
    key: &str,
    condition: Option<Condition>,
    operation: MutationOperation,
) -> Mutation {
    Mutation {
        database: DATABASE,
        bucket: BUCKET,
        key: key.to_owned(),
        bucket_version: 1,
        precondition: condition.map(|condition| log::Precondition {
            condition: Some(condition),
        }),
        operation: Some(operation),
        claims: None,
        ends_sessions: false,
    }
}

pub(super) fn put(fields: &str, acl: &str) -> MutationOperation {
    let fields = Bytes::copy_from_slice(fields.as_bytes());
    MutationOperation::Put(log::Put {
        fields,
        acl: acl.to_owned(),
        hidden: Bytes::new(),
        readonly: Vec::new(),
        expiry: None,
    })
}

/// The put with what it says about its document's expiry.
pub(super) fn expiring(mut put: MutationOperation, expiry: Expiry) -> MutationOperation {
    if let MutationOperation::Put(put) = &mut put {
        put.expiry = crate::machine::expiry::to_log(expiry);
    }
    put
}

/// A schema with the open class `Script`.
fn schema() -> Schema {
    let class = r#"[{"class":"/db/Script","metadata":{"larder.open":"true"},"fields":{
        "n":{"name":"n","type":"/db/Integer"},"at":{"name":"at","type":"/db/DateTime"}}}]"#;
    let changes = Schema::parse_changes(class.as_bytes()).expect("descriptors");
    Schema::system()
        .merge(&changes, &document::acl::Principal::root())
        .expect("compatible")
}

/// An index of the class `Script`.
pub(super) fn index(definition: &str) -> Index {
    let definition = Definition::parse(definition.as_bytes()).expect("a definition");
    let layout = schema().layout("Script").expect("an entity");
    Index::compile(&definition, &Arc::new(layout)).expect("fits")
}

/// The hashes of the unique values of a document with these fields.
pub(super) fn hashes(index: &Index, fields: &str) -> Vec<ValueHash> {
    let subject = Subject {
        id: "/db/B7/x",
        version: 1,
        created_us: 0,
        updated_us: 0,
        fields: fields.as_bytes(),
    };
    index.unique_values(&subject).expect("few")
}

pub(super) fn value(index: u32, hash: &ValueHash) -> Option<log::UniqueValue> {
    Some(log::UniqueValue {
        database: DATABASE,
        bucket: BUCKET,
        index,
        value: Bytes::copy_from_slice(hash),
    })
}

/// The bucket that writes go to, with these indexes.
pub(super) fn set_indexes(version: u64, indexes: &[(u32, &Index)]) -> Command {
    let mut bucket = bucket(BUCKET, version, false);
    bucket.indexes = indexes
        .iter()
        .map(|(id, index)| log::Index {
            id: *id,
            definition: index.to_bytes().into(),
        })
        .collect();
    let buckets = vec![bucket];
    command(0, Operation::SetBuckets(log::SetBuckets { buckets }))
}

pub(super) fn backfill(index: u32, page: u32) -> Command {
    let backfill = log::BackfillIndex {
        database: DATABASE,
        bucket: BUCKET,
        index,
        page,
        ..log::BackfillIndex::default()
    };
    command(0, Operation::BackfillNotingLists(backfill))
}

pub(super) fn purge(index: u32, page: u32) -> Command {
    let purge = log::PurgeIndex {
        database: DATABASE,
        bucket: BUCKET,
        index,
        page,
    };
    command(0, Operation::PurgeIndex(purge))
}

pub(super) fn clear(stamp_us: u64, bucket: u32, page: u32) -> Command {
    let clear = log::ClearBucket {
        database: DATABASE,
        bucket,
        page,
    };
    command(stamp_us, Operation::ClearBucket(clear))
}

/// An update of the open class `Script`, fitted to it as a leader does.
pub(super) fn update(operations: &str, bytes_max: u32) -> MutationOperation {
    let schema = schema();
    let layout = schema.layout("Script").expect("an entity");
    let limits = document::body::Limits::default();
    let update = document::update::parse(operations.as_bytes(), &layout, &schema, &limits);
    MutationOperation::Update(to_log(update.expect("fits"), bytes_max))
}

pub(super) fn delete() -> MutationOperation {
    MutationOperation::Delete(log::Delete {})
}

pub(super) fn principal(user: &str, roles: &[&str]) -> log::Principal {
    log::Principal {
        user: user.to_owned(),
        roles: roles.iter().map(|&role| role.to_owned()).collect(),
    }
}

/// The key hashed in place of a whole request.
pub(super) fn idempotency(key: &str, request: &str) -> log::Idempotency {
    let fingerprint = xxhash_rust::xxh3::xxh3_128(request.as_bytes()).to_be_bytes();
    log::Idempotency {
        key: key.to_owned(),
        fingerprint: Bytes::copy_from_slice(&fingerprint),
    }
}

pub(super) fn write(
    stamp_us: u64,
    principal: log::Principal,
    idempotency: Option<log::Idempotency>,
    mutation: Mutation,
) -> Command {
    command(
        stamp_us,
        Operation::Write(log::Write {
            principal: Some(principal),
            idempotency,
            mutation: Some(mutation),
        }),
    )
}

pub(super) fn batch(
    stamp_us: u64,
    principal: log::Principal,
    idempotency: Option<log::Idempotency>,
    mutations: Vec<Mutation>,
) -> Command {
    command(
        stamp_us,
        Operation::Batch(log::Batch {
            principal: Some(principal),
            idempotency,
            mutations,
        }),
    )
}
