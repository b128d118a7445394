//! What commands and schema changes do to the indexes of a database.
//!
//! Invariants:
//! - an index keeps its id for as long as its compiled form is the same; whatever needs other entries is another index, so that entries of
//!   an earlier one never mislead;
//! - whenever the set of indexes that writes keep up changes, the version of their bucket rises, so that every shard hears of it before the
//!   change is fenced;
//! - what was dropped stays in the row until somebody says that nothing is left of it;
//! - the index of user names is there from the first entry on, and goes only to be made anew;
//! - a database gets its secret with the first hashed index and keeps it, since entries of another one would never be found.

use std::collections::BTreeSet;
use std::sync::Arc;

use document::index::{Definition, Index, IndexSecret, Kind};
use document::schema::{Layout, SENSITIVE, Schema};
use proto::log;

use crate::error::Error;
use crate::machine::{Stop, database, invalid};
use crate::rows::{self, DatabaseRow, IndexesRow, Rows};
use crate::state::{BucketInfo, INDEXES_MAX, IndexInfo, IndexState};

/// The index that every database begins with: no two users have one name. There is no document yet, so nothing is to be built.
const USER_NAMES: (&str, &[u8]) = ("User", br#"{"unique":true,"keys":[{"username":"asc"}]}"#);

/// The indexes of a new database, before it has any document.
pub(crate) fn begin(
    rows: &mut Rows<'_, '_>,
    database: &DatabaseRow,
    schema: &Schema,
) -> Result<(), Stop> {
    let (name, definition) = USER_NAMES;
    let Some(bucket) = database.buckets.iter().find(|bucket| bucket.name == name) else {
        return Ok(());
    };
    let definition = parse(definition)?;
    let layout = layout(database, schema, bucket.id)
        .ok_or_else(|| invalid(format!("no bucket {}", bucket.id)))?;
    let mut indexes = IndexesRow::default();
    let compiled = compile(&indexes.secret, bucket.id, &definition, &layout).map_err(invalid)?;
    add(&mut indexes, bucket.id, &definition, compiled)?;
    for index in &mut indexes.indexes {
        index.state = IndexState::Ready;
    }
    rows.put(&rows::indexes_name(database.id), &indexes)?;
    Ok(())
}

/// Whether an index belongs to the system.
fn is_built_in(database: &DatabaseRow, index: &IndexInfo) -> bool {
    let (name, definition) = USER_NAMES;
    let is_its_bucket = |bucket: &BucketInfo| bucket.id == index.bucket && bucket.name == name;
    database.buckets.iter().any(is_its_bucket)
        && Definition::parse(definition).is_ok_and(|own| own.to_json() == index.definition)
}

/// A new index. One that is there and was not given up changes nothing; one that failed is begun anew, under another id.
pub(crate) fn create(rows: &mut Rows<'_, '_>, command: &log::CreateIndex) -> Result<bool, Stop> {
    let mut database = database(rows, command.database)?;
    let mut indexes = read(rows, database.id)?;
    let definition = parse(&command.definition)?;
    let text = definition.to_json();
    let schema_name = rows::schema_name(database.id);
    let schema: Schema = rows
        .get(&schema_name)?
        .ok_or(Error::Missing { name: schema_name })?;
    let layout = layout(&database, &schema, command.bucket)
        .ok_or_else(|| invalid(format!("no bucket {}", command.bucket)))?;
    nothing_sensitive_open(&database, &schema, command.bucket, &definition).map_err(invalid)?;
    if definition.is_hashed() && indexes.secret.is_empty() {
        indexes.secret = hex::encode(&command.secret);
    }
    let compiled =
        compile(&indexes.secret, command.bucket, &definition, &layout).map_err(invalid)?;
    let is_here =
        |index: &IndexInfo| index.bucket == command.bucket && index.state != IndexState::Dropped;
    let known = |index: &&mut IndexInfo| is_here(index) && index.definition == text;
    match indexes.indexes.iter_mut().find(known) {
        Some(failed) if failed.state == IndexState::Failed => failed.state = IndexState::Dropped,
        Some(_) => return Ok(false),
        None => {}
    }
    if indexes
        .indexes
        .iter()
        .filter(|index| is_here(index))
        .count()
        >= INDEXES_MAX
    {
        return Err(invalid(format!(
            "a bucket has at most {INDEXES_MAX} indexes"
        )));
    }
    add(&mut indexes, command.bucket, &definition, compiled)?;
    touch(&mut database, &BTreeSet::from([command.bucket]));
    write(rows, &database, &indexes)?;
    Ok(true)
}

/// Drops one index of a bucket, or all but the system's.
pub(crate) fn drop_indexes(
    rows: &mut Rows<'_, '_>,
    command: &log::DropIndexes,
) -> Result<bool, Stop> {
    let mut database = database(rows, command.database)?;
    let mut indexes = read(rows, database.id)?;
    let one = match &command.definition[..] {
        [] => None,
        definition => Some(parse(definition)?.to_json()),
    };
    let (mut changed, mut kept_up) = (false, false);
    for index in &mut indexes.indexes {
        let is_meant = one.as_ref().is_none_or(|one| *one == index.definition);
        if is_meant && index.bucket == command.bucket && is_built_in(&database, index) {
            if one.is_some() {
                return Err(invalid("the index of user names cannot be dropped"));
            }
            continue;
        }
        if index.bucket == command.bucket && index.state != IndexState::Dropped && is_meant {
            kept_up |= index.state.is_kept_up();
            index.state = IndexState::Dropped;
            changed = true;
        }
    }
    if kept_up {
        touch(&mut database, &BTreeSet::from([command.bucket]));
    }
    if changed {
        write(rows, &database, &indexes)?;
    }
    Ok(changed)
}

/// What the work on an index led to. What comes too late changes nothing: the index was dropped, or its state is what it should be.
pub(crate) fn set_state(
    rows: &mut Rows<'_, '_>,
    command: &log::SetIndexState,
) -> Result<bool, Stop> {
    let mut database = database(rows, command.database)?;
    let mut indexes = read(rows, database.id)?;
    let at = indexes
        .indexes
        .iter()
        .position(|index| index.id == command.index);
    let Some(at) = at else {
        return Ok(false);
    };
    let index = &mut indexes.indexes[at];
    match (index.state, command.state()) {
        (IndexState::Building, log::IndexState::Ready) => index.state = IndexState::Ready,
        (IndexState::Building, log::IndexState::Failed) => {
            index.state = IndexState::Failed;
            index.reason.clone_from(&command.reason);
            let bucket = index.bucket;
            touch(&mut database, &BTreeSet::from([bucket]));
        }
        (IndexState::Dropped, log::IndexState::Dropped) => {
            indexes.indexes.remove(at);
        }
        _ => return Ok(false),
    }
    write(rows, &database, &indexes)?;
    Ok(true)
}

/// After a change of the schema, which `database` shows already: indexes of dropped buckets go; those that would have other entries now are
/// made anew, and those that cannot be any more are dropped.
pub(crate) fn follow_schema(
    rows: &mut Rows<'_, '_>,
    database: &mut DatabaseRow,
    schema: &Schema,
) -> Result<(), Stop> {
    let mut indexes = read(rows, database.id)?;
    let secret = indexes.secret.clone();
    let version = database.schema_version;
    let (mut touched, mut renewed) = (BTreeSet::new(), Vec::new());
    let mut changed = false;
    for index in &mut indexes.indexes {
        let bucket = database
            .buckets
            .iter()
            .find(|bucket| bucket.id == index.bucket);
        let is_gone = bucket.is_none_or(|bucket| bucket.dropped);
        let is_same = bucket.is_some_and(|bucket| bucket.version < version);
        if index.state == IndexState::Dropped || is_same {
            continue;
        }
        if is_gone {
            index.state = IndexState::Dropped;
            changed = true;
            continue;
        }
        if !index.state.is_kept_up() {
            continue;
        }
        let now = layout(database, schema, index.bucket).and_then(|layout| {
            let definition = Definition::parse(index.definition.as_bytes()).ok()?;
            nothing_sensitive_open(database, schema, index.bucket, &definition).ok()?;
            let compiled = compile(&secret, index.bucket, &definition, &layout).ok()?;
            Some((definition, compiled))
        });
        if now
            .as_ref()
            .is_some_and(|(_, compiled)| *compiled == index.compiled)
        {
            continue;
        }
        index.state = IndexState::Dropped;
        touched.insert(index.bucket);
        renewed.extend(now.map(|now| (index.bucket, now)));
        changed = true;
    }
    for (bucket, (definition, compiled)) in renewed {
        add(&mut indexes, bucket, &definition, compiled)?;
    }
    for bucket in &mut database.buckets {
        if touched.contains(&bucket.id) {
            bucket.version = version;
        }
    }
    if changed {
        rows.put(&rows::indexes_name(database.id), &indexes)?;
    }
    Ok(())
}

fn read(rows: &mut Rows<'_, '_>, database: u32) -> Result<IndexesRow, Stop> {
    Ok(rows.get(&rows::indexes_name(database))?.unwrap_or_default())
}

fn write(
    rows: &mut Rows<'_, '_>,
    database: &DatabaseRow,
    indexes: &IndexesRow,
) -> Result<(), Stop> {
    rows.put(&rows::indexes_name(database.id), indexes)?;
    rows.put(&rows::database_name(database.id), database)?;
    Ok(())
}

fn add(
    indexes: &mut IndexesRow,
    bucket: u32,
    definition: &Definition,
    compiled: String,
) -> Result<(), Stop> {
    indexes.last = indexes
        .last
        .checked_add(1)
        .ok_or(Error::Exhausted("index ids"))?;
    indexes.indexes.push(IndexInfo {
        id: indexes.last,
        bucket,
        definition: definition.to_json(),
        unique: definition.unique,
        compiled,
        state: IndexState::Building,
        reason: String::new(),
    });
    Ok(())
}

/// The next schema version, as that of these buckets.
fn touch(database: &mut DatabaseRow, buckets: &BTreeSet<u32>) {
    database.schema_version += 1;
    for bucket in &mut database.buckets {
        if buckets.contains(&bucket.id) {
            bucket.version = database.schema_version;
        }
    }
}

fn parse(definition: &[u8]) -> Result<Definition, Stop> {
    Definition::parse(definition).map_err(|error| invalid(error.to_string()))
}

fn layout(database: &DatabaseRow, schema: &Schema, bucket: u32) -> Option<Arc<Layout>> {
    schema.layout(class(database, bucket)?).map(Arc::new)
}

/// The class of a bucket that was not dropped.
fn class(database: &DatabaseRow, bucket: u32) -> Option<&str> {
    let mut live = database.buckets.iter().filter(|bucket| !bucket.dropped);
    live.find(|row| row.id == bucket)
        .map(|row| row.name.as_str())
}

/// Refuses an index that has the value of a sensitive field in its entries, whose keys lie open on every disk. A hashed component has not.
fn nothing_sensitive_open(
    database: &DatabaseRow,
    schema: &Schema,
    bucket: u32,
    definition: &Definition,
) -> Result<(), String> {
    let class = class(database, bucket).unwrap_or_default();
    let open = definition
        .keys
        .iter()
        .filter(|(_, kind)| *kind != Kind::Hashed);
    for (path, _) in open {
        if let Some(field) = schema.sensitive_in(class, path) {
            return Err(format!(
                "{path}: {} is annotated {SENSITIVE}, so no index may hold its value, which would lie open on the disk; \
                 index it as \"hashed\", which answers equality and neither ranges nor orders nor places",
                field.name
            ));
        }
    }
    Ok(())
}

/// The compiled form as rows hold it; `secret` is that of the database, if it has one.
fn compile(
    secret: &str,
    bucket: u32,
    definition: &Definition,
    layout: &Arc<Layout>,
) -> Result<String, String> {
    let secret = hex::decode(secret).map_err(|error| error.to_string())?;
    let index = match IndexSecret::of_bytes(&secret) {
        Some(secret) => Index::compile_hashed(definition, layout, &secret, bucket),
        None => Index::compile(definition, layout),
    };
    let index = index.map_err(|error| error.to_string())?;
    Ok(hex::encode(index.to_bytes()))
}
