//! What a new schema does to the buckets of its database.
//!
//! Invariants:
//! - a bucket keeps its id for as long as its class exists; a class that comes back gets a new one;
//! - a bucket's version is the schema version that last changed what apply or validation needs to know of it, so every
//!   shard that knows all buckets of a schema version judges documents as that schema does;
//! - a dropped bucket stays known, or a shard that missed the change would still take its writes.

use std::collections::{BTreeMap, BTreeSet};

use document::schema::{Class, ClassAcl, Field, Schema};

use crate::clearing::Cleared;
use crate::error::{Error, Result};
use crate::rows::DatabaseRow;
use crate::state::BucketInfo;

/// The database row after the schema `old` was replaced by `new`.
///
/// # Errors
/// [`Error::Exhausted`]: no bucket id is left.
pub(crate) fn apply(row: &DatabaseRow, old: &Schema, new: &Schema) -> Result<DatabaseRow> {
    let mut row = row.clone();
    row.schema_version += 1;
    let version = row.schema_version;
    let mut known = BTreeSet::new();
    for bucket in row.buckets.iter_mut().filter(|bucket| !bucket.dropped) {
        let rules = rules(new, &bucket.name);
        if rules != self::rules(old, &bucket.name) {
            bucket.version = version;
        }
        bucket.dropped = rules.is_none();
        if !bucket.dropped {
            known.insert(bucket.name.clone());
        }
    }
    for class in new
        .classes()
        .filter(|class| !class.embedded && !known.contains(&class.name))
    {
        let id = row.next_bucket;
        row.next_bucket = id.checked_add(1).ok_or(Error::Exhausted("bucket ids"))?;
        row.buckets.push(BucketInfo {
            id,
            version,
            name: class.name.clone(),
            dropped: false,
            cleared: Cleared::default(),
            cache: None,
        });
    }
    Ok(row)
}

/// Everything of a schema that decides how a document of one bucket is checked. Equal rules: nothing to fence.
#[derive(PartialEq)]
struct Rules<'a> {
    acl: &'a ClassAcl,
    open: bool,
    /// Fields of the class, then of its superclasses, nearest first.
    line: Vec<(&'a str, Vec<&'a Field>)>,
    /// Fields of all embedded classes that its values can hold.
    embedded: BTreeMap<&'a str, Vec<&'a Field>>,
}

/// `None` if the class has no bucket.
fn rules<'a>(schema: &'a Schema, name: &str) -> Option<Rules<'a>> {
    let class = schema.class(name).filter(|class| !class.embedded)?;
    let parent = |class: &&'a Class| {
        class
            .super_class
            .as_deref()
            .and_then(|parent| schema.class(parent))
    };
    // No line is longer than the schema; a cycle, which no checked schema has, ends there.
    let line = std::iter::successors(Some(class), parent).take(schema.classes().count());
    let line: Vec<_> = line
        .map(|class| (class.name.as_str(), fields(class)))
        .collect();
    let mut embedded = BTreeMap::new();
    let mut found: Vec<&Field> = line
        .iter()
        .flat_map(|(_, fields)| fields.iter().copied())
        .collect();
    while let Some(field) = found.pop() {
        for class in field
            .ty
            .classes()
            .filter_map(|name| schema.class(name))
            .filter(|class| class.embedded)
        {
            if embedded
                .insert(class.name.as_str(), fields(class))
                .is_none()
            {
                found.extend(class.fields.values());
            }
        }
    }
    Some(Rules {
        acl: &class.acl,
        open: class.is_open(),
        line,
        embedded,
    })
}

fn fields(class: &Class) -> Vec<&Field> {
    class.fields.values().collect()
}
