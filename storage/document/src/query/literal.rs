//! Values in filters, read by the type of the field that they are compared with.

use serde_json::{Map, Value as Json};

use super::number::Number;
use super::path::{Path, Start};
use super::value::{Typing, Value};
use super::{Error, moment};
use crate::id;
use crate::json::excerpt;
use crate::schema::{FieldType, Layout};

/// Whether it is `{"$date":…}`, which the client writes for dates of all kinds.
pub(super) fn is_date(members: &Map<String, Json>) -> bool {
    members.len() == 1 && members.contains_key("$date")
}

/// The value to compare with what `path` leads to.
///
/// # Errors
/// [`Error::InvalidValue`]: a text that is no date for a field of dates. [`Error::Unsupported`]: an operator inside of a value.
pub(super) fn read(json: &Json, path: &Path, layout: &Layout) -> Result<Value, Error> {
    let typing = path.typing(layout);
    if let (Start::Id, Json::String(text)) = (path.start, json) {
        return Ok(Value::Text(object_id(text)));
    }
    value(json, typing).map_err(|error| match error {
        Error::InvalidValue(message) => {
            Error::InvalidValue(format!("field {}: {message}", excerpt(path.text())))
        }
        other => other,
    })
}

fn value(json: &Json, typing: Typing<'_>) -> Result<Value, Error> {
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(boolean) => Value::Boolean(*boolean),
        Json::Number(number) => Number::of_json(number).map_or(Value::Null, Value::Number),
        Json::String(text) => self::text(text, typing)?,
        Json::Array(elements) => Value::Array(
            elements
                .iter()
                .map(|element| value(element, typing))
                .collect::<Result<_, Error>>()?,
        ),
        Json::Object(members) => object(members, typing)?,
    })
}

fn text(text: &str, typing: Typing<'_>) -> Result<Value, Error> {
    if let Some(moment) = moment::of_text(text, typing.ty) {
        return Ok(Value::Moment(moment));
    }
    match typing.ty {
        Some(ty) if moment::is_moment(Some(ty)) => Err(Error::InvalidValue(format!(
            "expected {ty}, found another text"
        ))),
        Some(FieldType::Reference(_)) => Ok(Value::Text(object_id(text))),
        _ => Ok(Value::Text(text.to_owned())),
    }
}

fn object(members: &Map<String, Json>, typing: Typing<'_>) -> Result<Value, Error> {
    if is_date(members) {
        let date = members["$date"].as_str().ok_or_else(|| {
            Error::InvalidValue("expected the text of a date in $date".to_owned())
        })?;
        return text(date, typing);
    }
    if let Some(name) = members.keys().find(|name| name.starts_with('$')) {
        return Err(Error::Unsupported(format!(
            "operator {} inside of a value",
            excerpt(name)
        )));
    }
    match typing.ty {
        // What some clients send for a loaded object.
        Some(FieldType::Reference(_) | FieldType::File) => {
            if let Some(Json::String(id)) = members.get("id") {
                return text(id, typing);
            }
        }
        Some(FieldType::GeoPoint) => return in_order(members, &["latitude", "longitude"], typing),
        Some(FieldType::Embedded(class)) => {
            let names: Vec<&str> = typing
                .layout
                .embedded(class)
                .map(|shape| {
                    shape
                        .slots()
                        .iter()
                        .map(|slot| slot.name.as_str())
                        .collect()
                })
                .unwrap_or_default();
            let Value::Object(mut members) = in_order(members, &names, typing)? else {
                return Ok(Value::Null);
            };
            members.retain(|(_, value)| *value != Value::Null);
            return Ok(Value::Object(members));
        }
        _ => {}
    }
    in_order(members, &[], typing)
}

/// The members named first, in that order, then the others as they come.
fn in_order(
    members: &Map<String, Json>,
    first: &[&str],
    typing: Typing<'_>,
) -> Result<Value, Error> {
    let named = first.iter().filter_map(|name| members.get_key_value(*name));
    let others = members
        .iter()
        .filter(|(name, _)| !first.contains(&name.as_str()));
    let read =
        |(name, json): (&String, &Json)| Ok((name.clone(), value(json, typing.member(name))?));
    named
        .chain(others)
        .map(read)
        .collect::<Result<_, Error>>()
        .map(Value::Object)
}

/// The id in its normal form, in which ids are stored; another text as it is.
fn object_id(text: &str) -> String {
    id::parse_object_id(text).map_or_else(
        || text.to_owned(),
        |(bucket, key)| id::object_id(bucket, &key),
    )
}
