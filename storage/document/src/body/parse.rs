//! A body as a whole: which members it has, which of them are kept, and in which order they are stored.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use indexmap::IndexMap;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::expiry::{self, EXPIRES_AT, Expiry};
use super::members::{merge_readonly, readonly};
use super::value::{Name, Writer, text};
use crate::acl::Acl;
use crate::error::Error;
use crate::schema::{Layout, Schema};
use crate::{id, json};

/// What bodies may ask of us. Their size is limited where they are read from the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How deep objects and arrays may nest, the body itself being level 1. Values above 127 have no effect: there `serde_json` stops.
    pub depth_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { depth_max: 100 }
    }
}

/// What a body says, checked against its class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The member `id` as sent, a full id; `None` if absent or `null`. See [`Parsed::key`].
    pub id: Option<String>,
    /// The member `acl`. `None` is public, and so are absent, `null` and an ACL without rules, which become `None`.
    pub acl: Option<Acl>,
    /// The member `expiresAt`, if the class has no field of that name.
    pub expiry: Expiry,
    /// All other members that are stored, in the normal form of the module; empty if there are none. Read-only fields are `null` here.
    pub fields: Vec<u8>,
    /// The read-only fields that the body has, with their values as JSON text in normal form. What to do with them depends on the
    /// caller, see [`Parsed::into_fields`].
    pub readonly: Vec<(String, String)>,
}

impl Parsed {
    /// The decoded key of the id in the body; `None` if the body has no id.
    ///
    /// # Errors
    /// [`Error::BadRequest`]: the id is malformed, or of another bucket than `bucket`.
    pub fn key(&self, bucket: &str) -> Result<Option<String>, Error> {
        let Some(sent) = &self.id else {
            return Ok(None);
        };
        match id::parse_object_id(sent) {
            Some((named, key)) if named == bucket => Ok(Some(key)),
            Some(_) => Err(Error::BadRequest(format!(
                "the id in the body is of another bucket than {bucket}"
            ))),
            None => Err(Error::BadRequest(
                "the id in the body is malformed".to_owned(),
            )),
        }
    }

    /// Checks that the body, if it has an id, has this one. The encoding of the key does not matter.
    ///
    /// # Errors
    /// [`Error::BadRequest`]: another id.
    pub fn check_id(&self, bucket: &str, key: &str) -> Result<(), Error> {
        match self.key(bucket)? {
            Some(named) if named != key => Err(Error::BadRequest(
                "the id in the body is not that of the request".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// The fields to store, with values for the read-only ones: those of the stored document, if there is one, and over them, for an
    /// admin, those that the body has.
    ///
    /// A body without a read-only field never clears it, not even an admin's: clients leave out what they do not know.
    pub fn into_fields(self, layout: &Layout, stored: Option<&[u8]>, is_admin: bool) -> Vec<u8> {
        if !layout.has_read_only() {
            return self.fields;
        }
        let mut values = stored
            .map(|fields| readonly(fields, layout))
            .unwrap_or_default();
        if is_admin {
            // Later values win.
            values.extend(self.readonly);
        }
        merge_readonly(&self.fields, &values)
    }
}

/// Reads the body of an insert or an update of the class `layout`.
///
/// `schema` must be the one that `layout` was made from, or a later one. Members that are neither metadata nor fields are dropped, or
/// kept as they are if the class is open. `version`, `createdAt` and `updatedAt` are passed over whatever they hold. Of members with the
/// same name the last wins. Unset fields become `null`; an `expiresAt` that is absent says nothing, and one that is `null` that the
/// document does not expire.
///
/// # Errors
/// [`Error::Syntax`]: not UTF-8, not JSON, not an object, or half a surrogate pair. [`Error::TooDeep`]: decided before anything
/// recurses. [`Error::Type`]: a value does not fit its field. [`Error::BadRequest`]: `id` is no text, or `acl` no ACL.
pub fn parse(
    body: &[u8],
    layout: &Layout,
    schema: &Schema,
    limits: &Limits,
) -> Result<Parsed, Error> {
    let body = check_object(body, limits)?;
    let mut reader = serde_json::Deserializer::from_str(body);
    let mut writer = Writer::new(layout, schema, body.len());
    let document = Document {
        writer: &mut writer,
    };
    let parsed = reader
        .deserialize_any(document)
        .and_then(|parsed| reader.end().map(|()| parsed));
    parsed.map_err(|error| writer.explain(&error))
}

/// Checks what must hold before a body is read: UTF-8, depth, escapes, and that it begins as an object. Says nothing more of the syntax.
///
/// # Errors
/// [`Error::Syntax`], [`Error::TooDeep`].
pub(crate) fn check_object<'b>(body: &'b [u8], limits: &Limits) -> Result<&'b str, Error> {
    let body = std::str::from_utf8(body).map_err(|error| {
        Error::Syntax(format!(
            "body is not UTF-8 after {} bytes",
            error.valid_up_to()
        ))
    })?;
    if !json::is_within_depth(body, limits.depth_max) {
        return Err(Error::TooDeep {
            limit: limits.depth_max,
        });
    }
    if let Some(at) = json::lone_surrogate(body) {
        return Err(Error::Syntax(format!(
            "half of a surrogate pair{}",
            json::position(body, at)
        )));
    }
    let blanks = body.bytes().take_while(u8::is_ascii_whitespace).count();
    if !body[blanks..].starts_with('{') && blanks < body.len() {
        let position = json::position(body, blanks);
        return Err(Error::Syntax(format!("expected a JSON object{position}")));
    }
    Ok(body)
}

/// Reads the outermost object.
struct Document<'w, 'a> {
    writer: &'w mut Writer<'a>,
}

impl<'de> Visitor<'de> for Document<'_, '_> {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed, A::Error> {
        let writer = self.writer;
        let layout = writer.layout;
        let shape = layout.shape();
        let mut parsed = Parsed::default();
        let mut ranges: Vec<Option<Range<usize>>> = vec![None; shape.slots().len()];
        let mut unknown: IndexMap<Cow<'de, str>, Range<usize>> = IndexMap::new();
        let mut guess = 0;
        while let Some(Name(name)) = map.next_key()? {
            if let Some(position) = shape.position(&name, guess) {
                guess = position + 1;
                ranges[position] = Some(writer.field(shape, position, &mut map)?);
                continue;
            }
            match name.as_ref() {
                "id" => {
                    let raw: &RawValue = map.next_value()?;
                    parsed.id = read_id(raw.get()).map_err(|error| writer.fail(error))?;
                }
                "acl" => {
                    let raw: &RawValue = map.next_value()?;
                    parsed.acl = read_acl(raw.get()).map_err(|error| writer.fail(error))?;
                }
                "version" | "createdAt" | "updatedAt" => {
                    map.next_value::<IgnoredAny>()?;
                }
                EXPIRES_AT => {
                    let raw: &RawValue = map.next_value()?;
                    parsed.expiry = expiry::read(raw.get()).map_err(|error| writer.fail(error))?;
                }
                _ if layout.is_open() => {
                    let raw: &RawValue = map.next_value()?;
                    let start = writer.out.len();
                    json::write_compact(&mut writer.out, raw.get());
                    unknown.insert(name, start..writer.out.len());
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }

        let values = std::mem::take(&mut writer.out);
        let labels: usize = shape
            .slots()
            .iter()
            .map(|slot| slot.label.len() + ",null".len())
            .sum();
        let names: usize = unknown.keys().map(|name| name.len() + ",\"\":".len()).sum();
        let mut fields = Vec::with_capacity(values.len() + labels + names);
        for (slot, range) in shape.slots().iter().zip(ranges) {
            if !fields.is_empty() {
                fields.push(b',');
            }
            fields.extend_from_slice(&slot.label);
            match range {
                Some(range) if slot.read_only => {
                    // Normal forms are made of whole characters, so nothing is ever replaced here.
                    let value = String::from_utf8_lossy(&values[range]).into_owned();
                    parsed.readonly.push((slot.name.clone(), value));
                    fields.extend_from_slice(b"null");
                }
                Some(range) => fields.extend_from_slice(&values[range]),
                None => fields.extend_from_slice(b"null"),
            }
        }
        for (name, range) in unknown {
            if !fields.is_empty() {
                fields.push(b',');
            }
            json::write_string(&mut fields, &name);
            fields.push(b':');
            fields.extend_from_slice(&values[range]);
        }
        parsed.fields = fields;
        Ok(parsed)
    }
}

fn read_id(raw: &str) -> Result<Option<String>, Error> {
    if raw == "null" {
        return Ok(None);
    }
    match text(raw) {
        Some(id) => Ok(Some(id.into_owned())),
        None => Err(Error::BadRequest(
            "the id in the body must be a string".to_owned(),
        )),
    }
}

/// The ACL, `None` if it has no rules: one meaning, one stored form.
fn read_acl(raw: &str) -> Result<Option<Acl>, Error> {
    Ok(Acl::from_json(raw)?.filter(|acl| !acl.is_public()))
}
