//! The JSON of a request: operation → (path → argument).

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::operand::Site;
use super::path::resolve;
use super::{Operation, Step, Update};
use crate::body::{self, EXPIRES_AT, Expiry, Limits, Name};
use crate::error::Error;
use crate::json;
use crate::schema::{Layout, Schema};

/// Operations of one update: each may cost a pass over the field that it changes, in apply.
pub const STEPS_MAX: usize = 128;

/// Parts of a path.
pub const PATH_SEGMENTS_MAX: usize = 32;

/// Reads an update of a document of the class `layout`: `{"$inc":{"n":1},"$push":{"tags":"new"}}`.
///
/// `schema` must be the one that `layout` was made from, or a later one. `null` in place of the paths of an operation is none.
///
/// # Errors
/// [`Error::Syntax`]: not UTF-8, not JSON, not an object, or half a surrogate pair. [`Error::TooDeep`]: it is nested too deep, or would
/// make the document so. [`Error::Type`]: a value does not fit its field. [`Error::BadRequest`]: everything else, see [`super`].
pub fn parse(
    body: &[u8],
    layout: &Layout,
    schema: &Schema,
    limits: &Limits,
) -> Result<Update, Error> {
    let body = body::check_object(body, limits)?;
    let mut update = Update::default();
    let mut seen = HashSet::new();
    for (name, paths) in &read(body)?.0 {
        let operation = Operation::parse(name)
            .ok_or_else(|| Error::BadRequest(format!("no operation {:?}", json::excerpt(name))))?;
        for (path, raw) in &paths_of(operation, paths)?.0 {
            if body::has_expiry(layout) && names_expiry(path) {
                update.expiry = expiry(operation, path, raw.get())?;
                if !seen.insert(EXPIRES_AT.to_owned()) {
                    return Err(two_operations(path));
                }
                continue;
            }
            let site = Site {
                operation,
                path,
                layout,
                schema,
            };
            let step = step(&site, raw.get(), limits, &mut update)?;
            if !seen.insert(step.path_text()) {
                return Err(two_operations(path));
            }
            if update.steps.len() == STEPS_MAX {
                return Err(Error::BadRequest(format!(
                    "an update has at most {STEPS_MAX} operations"
                )));
            }
            update.steps.push(step);
        }
    }
    Ok(update)
}

/// Whether a path leads to the expiry of the document, or below.
fn names_expiry(path: &str) -> bool {
    path.split('.').next() == Some(EXPIRES_AT)
}

/// What an operation on the expiry asks for: it is set, as a whole, and nothing else.
fn expiry(operation: Operation, path: &str, raw: &str) -> Result<Expiry, Error> {
    if operation != Operation::Set || path != EXPIRES_AT {
        return Err(Error::BadRequest(format!(
            "path {:?}: {EXPIRES_AT} is only changed by $set, as a whole",
            json::excerpt(path)
        )));
    }
    body::expiry::read(raw)
}

fn two_operations(path: &str) -> Error {
    Error::BadRequest(format!("two operations on {:?}", json::excerpt(path)))
}

/// The update of one field as an update of its document: `{"$inc":1}` of `n` is `{"$inc":{"n":1}}`. Arguments stay as they are.
///
/// # Errors
/// [`Error::Syntax`] and [`Error::TooDeep`] as [`parse()`].
pub fn of_field(body: &[u8], field: &str, limits: &Limits) -> Result<Vec<u8>, Error> {
    let body = body::check_object(body, limits)?;
    let mut out = vec![b'{'];
    for (name, raw) in &read(body)?.0 {
        if out.len() > 1 {
            out.push(b',');
        }
        json::write_string(&mut out, name);
        out.extend_from_slice(b":{");
        json::write_string(&mut out, field);
        out.push(b':');
        out.extend_from_slice(raw.get().as_bytes());
        out.push(b'}');
    }
    out.push(b'}');
    Ok(out)
}

fn step(site: &Site<'_>, raw: &str, limits: &Limits, update: &mut Update) -> Result<Step, Error> {
    let resolved = resolve(site.path, site.layout, site.schema, update)?;
    let (kind, operand, below) = site.fit(raw, &resolved)?;
    // The document is level 1, and a value at the end of the path stands as many levels below as the path has parts.
    let deep = limits
        .depth_max
        .checked_sub(resolved.path.len() + below)
        .is_some_and(|left| json::is_within_depth(&operand, left));
    if !deep {
        return Err(Error::TooDeep {
            limit: limits.depth_max,
        });
    }
    Ok(Step {
        operation: site.operation,
        path: resolved.path,
        kind,
        operand,
    })
}

fn read(body: &str) -> Result<Pairs<'_>, Error> {
    serde_json::from_str(body).map_err(|error| Error::Syntax(error.to_string()))
}

fn paths_of<'a>(operation: Operation, raw: &'a RawValue) -> Result<Pairs<'a>, Error> {
    match raw.get() {
        "null" => Ok(Pairs(Vec::new())),
        text if text.starts_with('{') => read(text),
        _ => Err(Error::BadRequest(format!(
            "{operation} needs an object of paths"
        ))),
    }
}

/// The members of an object in order, also those whose names occur twice.
struct Pairs<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pairs<'a>, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    pairs.push((name, map.next_value()?));
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor)
    }
}
