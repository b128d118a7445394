//! Walking a path through a class: which members it names, what type stands at its end, and what may not be written.

use super::edit;
use super::parse::PATH_SEGMENTS_MAX;
use super::{Segment, Update};
use crate::body::{EXPIRES_AT, normalise_key};
use crate::error::Error;
use crate::json;
use crate::schema::{FieldType, Layout, Schema};

/// Members that the server makes or that have an operation of their own.
const METADATA: [&str; 5] = ["id", "version", "acl", "createdAt", "updatedAt"];

/// What stands at the end of a path.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    /// A value of this type.
    Typed(&'a FieldType),
    /// Any JSON.
    Json,
}

/// What holds the value at the end of a path.
#[derive(Clone, Copy, Debug)]
pub(super) enum Holder<'a> {
    /// The document itself; the member is no field of its class.
    Document,
    /// A class: members have fixed names.
    Class,
    /// A map with keys of this type.
    Map(&'a FieldType),
    /// A list.
    List,
    /// Any JSON object or array.
    Json,
}

/// A path that fits the class.
pub(super) struct Resolved<'a> {
    pub(super) path: Vec<Segment>,
    pub(super) target: Target<'a>,
    pub(super) holder: Holder<'a>,
}

/// Finds the way of `path` from the top of a document. Shapes on it are added to `update`.
///
/// # Errors
/// [`Error::BadRequest`]: no such field, one that may not be written, or a part that cannot be in the value it would be a part of.
pub(super) fn resolve<'a>(
    path: &str,
    layout: &'a Layout,
    schema: &Schema,
    update: &mut Update,
) -> Result<Resolved<'a>, Error> {
    let refuse = |why: String| Error::BadRequest(format!("path {:?}: {why}", json::excerpt(path)));
    if path.split('.').any(str::is_empty) {
        return Err(refuse("a part of it is empty".to_owned()));
    }
    if path.split('.').count() > PATH_SEGMENTS_MAX {
        return Err(refuse(format!(
            "it has more than {PATH_SEGMENTS_MAX} parts"
        )));
    }
    let (field, mut rest) = split(path);
    let slot = check_field(field, layout).map_err(&refuse)?;
    let mut found = Resolved {
        path: vec![Segment {
            name: field.to_owned(),
            ..Segment::default()
        }],
        target: slot.map_or(Target::Json, Target::Typed),
        holder: if slot.is_some() {
            Holder::Class
        } else {
            Holder::Document
        },
    };
    while let Some(parts) = rest {
        let (part, after) = split(parts);
        rest = after;
        let mut segment = Segment {
            name: part.to_owned(),
            ..Segment::default()
        };
        (found.target, found.holder) = match found.target {
            Target::Json | Target::Typed(FieldType::JsonObject) => (Target::Json, Holder::Json),
            Target::Typed(FieldType::JsonArray) => {
                segment.is_index = true;
                (Target::Json, Holder::Json)
            }
            Target::Typed(FieldType::List(element)) => {
                segment.is_index = true;
                (Target::Typed(element), Holder::List)
            }
            Target::Typed(FieldType::Map(key, value)) => {
                if !has_members(value) {
                    // The key may hold dots: those of ids, numbers and times do.
                    segment.name = parts.to_owned();
                    rest = None;
                }
                let normal = normalise_key(key, &segment.name, layout, schema);
                segment.name = normal
                    .ok_or_else(|| refuse(format!("{:?} is no key of {key}", segment.name)))?;
                (Target::Typed(value), Holder::Map(key))
            }
            Target::Typed(FieldType::Embedded(class)) => {
                let slot = layout.embedded(class).and_then(|shape| shape.slot(part));
                let slot = slot.ok_or_else(|| refuse(format!("{class} has no field {part:?}")))?;
                segment.shape = Some(shape_index(class, layout, update));
                (Target::Typed(&slot.ty), Holder::Class)
            }
            Target::Typed(ty) => return Err(refuse(format!("{ty} has no parts"))),
        };
        if segment.is_index && edit::index(&segment.name).is_none() {
            return Err(refuse(format!("{:?} is no index", segment.name)));
        }
        found.path.push(segment);
    }
    Ok(found)
}

/// The type of a field; `None` for an unknown member of an open class.
fn check_field<'a>(field: &str, layout: &'a Layout) -> Result<Option<&'a FieldType>, String> {
    if METADATA.contains(&field) {
        return Err("metadata is not changed by partial updates".to_owned());
    }
    match layout.shape().slot(field) {
        Some(slot) if slot.read_only => Err("the field is read-only".to_owned()),
        Some(slot) => Ok(Some(&slot.ty)),
        None if layout.is_open() => Ok(None),
        None => Err(format!("{} has no such field", layout.class())),
    }
}

/// Whether `name` can be an unknown member of a document of an open class.
pub(super) fn is_unknown_member(name: &str, layout: &Layout) -> bool {
    !name.is_empty() && name != EXPIRES_AT && matches!(check_field(name, layout), Ok(None))
}

/// Whether a path can go on inside values of the type.
fn has_members(ty: &FieldType) -> bool {
    matches!(
        ty,
        FieldType::Embedded(_) | FieldType::JsonObject | FieldType::JsonArray
    )
}

/// The place of a class among the shapes of the update; it is added if it is new.
fn shape_index(class: &str, layout: &Layout, update: &mut Update) -> usize {
    let slots = layout.embedded(class).map(|shape| shape.slots());
    let names: Vec<String> = slots
        .unwrap_or_default()
        .iter()
        .map(|slot| slot.name.clone())
        .collect();
    let known = update.shapes.iter().position(|shape| *shape == names);
    known.unwrap_or_else(|| {
        update.shapes.push(names);
        update.shapes.len() - 1
    })
}

/// The first part, and what follows its dot.
fn split(path: &str) -> (&str, Option<&str>) {
    match path.split_once('.') {
        Some((part, rest)) => (part, Some(rest)),
        None => (path, None),
    }
}
