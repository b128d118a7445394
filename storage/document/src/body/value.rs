//! One value against its type: checked and written in normal form while it is read.
//!
//! `serde_json` drives: a [`Value`] seed is told what stands next in the text and appends the normal form to the writer's buffer, so
//! nested values are read once, however deep they are, and no tree is built. Scalars, and JSON that is kept as it is, come as raw text.
//!
//! Depth is bounded by the caller before this recursion starts.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::number;
use crate::error::Error;
use crate::schema::{FieldType, Layout, Schema, Shape};
use crate::{id, json, time};

/// Where normal forms go, and where in the document the reader is.
pub(super) struct Writer<'a> {
    pub(super) layout: &'a Layout,
    schema: &'a Schema,
    pub(super) out: Vec<u8>,
    path: Vec<Step<'a>>,
    /// What stopped the reader, if it was not the syntax. `serde_json` can only carry text.
    failure: Option<Error>,
}

/// One step from the top of the document towards the value being read.
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(String),
}

impl<'a> Writer<'a> {
    /// A writer for one body of about `bytes` bytes.
    pub(super) fn new(layout: &'a Layout, schema: &'a Schema, bytes: usize) -> Writer<'a> {
        Writer {
            layout,
            schema,
            out: Vec::with_capacity(bytes),
            path: Vec::new(),
            failure: None,
        }
    }

    /// Stops the reader with `error`.
    pub(super) fn fail<E: serde::de::Error>(&mut self, error: Error) -> E {
        self.failure = Some(error);
        E::custom("refused")
    }

    /// Stops the reader because the value at the present path does not fit.
    fn refuse<E: serde::de::Error>(&mut self, message: String) -> E {
        let error = Error::Type {
            field: self.path_text(),
            message,
        };
        self.fail(error)
    }

    /// What the end of the reader with `error` means.
    pub(super) fn explain(self, error: &serde_json::Error) -> Error {
        self.failure
            .unwrap_or_else(|| Error::Syntax(error.to_string()))
    }

    fn path_text(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            let dot = if text.is_empty() { "" } else { "." };
            match step {
                Step::Field(name) => text.extend([dot, name]),
                Step::Key(key) => text.extend([dot, json::excerpt(key)]),
                Step::Index(index) => text.push_str(&format!("[{index}]")),
            }
        }
        text
    }

    /// Reads the value of the field at `position` of `shape`; returns where its normal form is.
    pub(super) fn field<'de, M: MapAccess<'de>>(
        &mut self,
        shape: &'a Shape,
        position: usize,
        map: &mut M,
    ) -> Result<Range<usize>, M::Error> {
        let slot = &shape.slots()[position];
        self.path.push(Step::Field(&slot.name));
        let start = self.out.len();
        map.next_value_seed(Value {
            writer: self,
            ty: &slot.ty,
        })?;
        self.path.pop();
        Ok(start..self.out.len())
    }

    /// Appends the normal form of a value that is read as raw text.
    fn write_raw(&mut self, ty: &FieldType, raw: &str) -> Result<(), String> {
        if raw == "null" {
            self.out.extend_from_slice(b"null");
            return Ok(());
        }
        let unexpected = || format!("expected {ty}, found {}", kind(raw));
        match ty {
            FieldType::Boolean if raw == "true" || raw == "false" => {
                self.out.extend_from_slice(raw.as_bytes())
            }
            FieldType::Integer if is_number(raw) => {
                let value = number::integer(raw).ok_or("the number does not fit into 64 bits")?;
                self.out.extend_from_slice(value.to_string().as_bytes());
            }
            FieldType::Double if is_number(raw) => {
                number::double(raw).ok_or("the number is beyond the range of doubles")?;
                self.out.extend_from_slice(raw.as_bytes());
            }
            FieldType::String => match text(raw).ok_or_else(unexpected)? {
                // Without a backslash the text is its own shortest form.
                Cow::Borrowed(_) => self.out.extend_from_slice(raw.as_bytes()),
                Cow::Owned(text) => json::write_string(&mut self.out, &text),
            },
            FieldType::DateTime | FieldType::Date | FieldType::Time => {
                let text = text(raw).ok_or_else(unexpected)?;
                let normal = self
                    .normal_text(ty, &text)
                    .ok_or_else(|| format!("expected {ty}, found no such text"))?;
                json::write_string(&mut self.out, &normal);
            }
            FieldType::File | FieldType::Reference(_) => {
                let text = id_text(raw)
                    .ok_or_else(|| format!("{}, nor an object with an id", unexpected()))?;
                let normal = self
                    .normal_text(ty, &text)
                    .ok_or_else(|| format!("expected the id of {ty}, found another text"))?;
                json::write_string(&mut self.out, &normal);
            }
            FieldType::GeoPoint => self.write_point(raw)?,
            FieldType::JsonArray if raw.starts_with('[') => json::write_compact(&mut self.out, raw),
            FieldType::JsonObject if raw.starts_with('{') => {
                json::write_compact(&mut self.out, raw)
            }
            _ => return Err(unexpected()),
        }
        Ok(())
    }

    /// The normal form of a text of this type: a value that JSON writes as a string, or the key of a map.
    fn normal_text<'t>(&self, ty: &FieldType, text: &'t str) -> Option<Cow<'t, str>> {
        match ty {
            FieldType::String => Some(Cow::Borrowed(text)),
            FieldType::Boolean => matches!(text, "true" | "false").then_some(Cow::Borrowed(text)),
            FieldType::Integer => Some(Cow::Owned(number::integer(text)?.to_string())),
            FieldType::Double => number::double(text).map(|_| Cow::Borrowed(text)),
            FieldType::DateTime => time::normalise_datetime(text).map(Cow::Owned),
            FieldType::Date => time::normalise_date(text).map(Cow::Owned),
            FieldType::Time => time::normalise_time(text).map(Cow::Owned),
            FieldType::File => is_file_id(text).then_some(Cow::Borrowed(text)),
            FieldType::Reference(class) => {
                let (bucket, key) = id::parse_object_id(text)?;
                self.schema
                    .is_a(bucket, class)
                    .then(|| Cow::Owned(id::object_id(bucket, &key)))
            }
            _ => None,
        }
    }

    fn write_point(&mut self, raw: &str) -> Result<(), String> {
        #[derive(Deserialize)]
        struct Point<'a> {
            #[serde(borrow)]
            latitude: &'a RawValue,
            #[serde(borrow)]
            longitude: &'a RawValue,
        }
        let shape = "expected an object with latitude and longitude";
        if !raw.starts_with('{') {
            return Err(format!("{shape}, found {}", kind(raw)));
        }
        let point: Point<'_> = serde_json::from_str(raw).map_err(|_| shape.to_owned())?;
        let degrees = |name: &str, value: &RawValue, limit: f64| {
            number::double(value.get())
                .filter(|degrees| degrees.abs() <= limit)
                .ok_or_else(|| format!("{name} must be a number from -{limit} to {limit}"))
        };
        degrees("latitude", point.latitude, 90.0)?;
        degrees("longitude", point.longitude, 180.0)?;
        for part in [
            "{\"latitude\":",
            point.latitude.get(),
            ",\"longitude\":",
            point.longitude.get(),
            "}",
        ] {
            self.out.extend_from_slice(part.as_bytes());
        }
        Ok(())
    }
}

/// The normal form of one value of the type `ty`, valid JSON; `field` names it in errors.
///
/// The depth of `raw` must have been checked.
///
/// # Errors
/// [`Error::Type`]: it does not fit the type.
pub(crate) fn normalise(
    raw: &str,
    ty: &FieldType,
    layout: &Layout,
    schema: &Schema,
    field: &str,
) -> Result<String, Error> {
    let mut writer = Writer::new(layout, schema, raw.len());
    writer.path.push(Step::Field(field));
    let mut reader = serde_json::Deserializer::from_str(raw);
    let value = Value {
        writer: &mut writer,
        ty,
    };
    if let Err(error) = value.deserialize(&mut reader) {
        return Err(writer.explain(&error));
    }
    // Normal forms are made of whole characters, so nothing is ever replaced here.
    Ok(String::from_utf8_lossy(&writer.out).into_owned())
}

/// The normal form of a text as the key of a map; `None`: it is none of this type.
pub(crate) fn normalise_key(
    ty: &FieldType,
    text: &str,
    layout: &Layout,
    schema: &Schema,
) -> Option<String> {
    Writer::new(layout, schema, 0)
        .normal_text(ty, text)
        .map(Cow::into_owned)
}

/// Reads one value of a type.
struct Value<'w, 'a> {
    writer: &'w mut Writer<'a>,
    ty: &'a FieldType,
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.ty {
            FieldType::List(_)
            | FieldType::Set(_)
            | FieldType::Map(..)
            | FieldType::Embedded(_) => deserializer.deserialize_any(self),
            ty => {
                let raw = <&RawValue>::deserialize(deserializer)?;
                self.writer
                    .write_raw(ty, raw.get())
                    .map_err(|message| self.writer.refuse(message))
            }
        }
    }
}

impl<'de> Visitor<'de> for Value<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.ty)
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        Err(self.mismatch("a boolean"))
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        Err(self.mismatch("a number"))
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        Err(self.mismatch("a number"))
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        Err(self.mismatch("a number"))
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        Err(self.mismatch("a string"))
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.writer.out.extend_from_slice(b"null");
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let (element, is_set) = match self.ty {
            FieldType::List(element) => (&**element, false),
            FieldType::Set(element) => (&**element, true),
            _ => return Err(self.mismatch("an array")),
        };
        let writer = self.writer;
        let mut seen = HashSet::new();
        let mut is_first = true;
        writer.out.push(b'[');
        for index in 0.. {
            let start = writer.out.len();
            if !is_first {
                writer.out.push(b',');
            }
            let value = writer.out.len();
            writer.path.push(Step::Index(index));
            let found = seq.next_element_seed(Value {
                writer: &mut *writer,
                ty: element,
            })?;
            writer.path.pop();
            let is_end = found.is_none();
            if is_end || (is_set && !seen.insert(identity(element, &writer.out[value..]))) {
                writer.out.truncate(start);
            } else {
                is_first = false;
            }
            if is_end {
                break;
            }
        }
        writer.out.push(b']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        match self.ty {
            FieldType::Map(key, value) => read_map(self.writer, key, value, map),
            FieldType::Embedded(class) => match self.writer.layout.embedded(class) {
                Some(shape) => read_embedded(self.writer, shape, map),
                None => Err(self
                    .writer
                    .refuse(format!("the class {class} has no layout"))),
            },
            _ => Err(self.mismatch("an object")),
        }
    }
}

impl Value<'_, '_> {
    /// Stops the reader because there is another kind of value. `serde` would quote the value, whatever its length and whatever it holds.
    fn mismatch<E: serde::de::Error>(self, found: &str) -> E {
        self.writer
            .refuse(format!("expected {}, found {found}", self.ty))
    }
}

/// What makes an element of a set the same as another one: its normal form, and for doubles, which keep the digits that they were sent
/// with, the number.
fn identity(ty: &FieldType, normal: &[u8]) -> Vec<u8> {
    if *ty == FieldType::Double
        && let Some(value) = std::str::from_utf8(normal).ok().and_then(number::double)
    {
        // Adding zero makes one zero of the two.
        return (value + 0.0).to_bits().to_le_bytes().to_vec();
    }
    normal.to_vec()
}

fn read_map<'a, 'de, A: MapAccess<'de>>(
    writer: &mut Writer<'a>,
    key_type: &'a FieldType,
    value_type: &'a FieldType,
    mut map: A,
) -> Result<(), A::Error> {
    let base = writer.out.len();
    // A repeated key keeps its first place and takes the last value, as in JavaScript.
    let mut entries: IndexMap<String, Range<usize>> = IndexMap::new();
    while let Some(Name(name)) = map.next_key()? {
        writer.path.push(Step::Key(name.to_string()));
        let Some(key) = writer.normal_text(key_type, &name).map(Cow::into_owned) else {
            return Err(writer.refuse(format!("expected a key of {key_type}")));
        };
        let start = writer.out.len();
        map.next_value_seed(Value {
            writer: &mut *writer,
            ty: value_type,
        })?;
        writer.path.pop();
        entries.insert(key, start..writer.out.len());
    }
    let values = writer.out.split_off(base);
    writer.out.push(b'{');
    for (at, (key, range)) in entries.into_iter().enumerate() {
        if at > 0 {
            writer.out.push(b',');
        }
        json::write_string(&mut writer.out, &key);
        writer.out.push(b':');
        writer.out.extend_from_slice(&values[shifted(range, base)]);
    }
    writer.out.push(b'}');
    Ok(())
}

fn read_embedded<'a, 'de, A: MapAccess<'de>>(
    writer: &mut Writer<'a>,
    shape: &'a Shape,
    mut map: A,
) -> Result<(), A::Error> {
    let base = writer.out.len();
    let mut ranges = vec![None; shape.slots().len()];
    let mut guess = 0;
    while let Some(Name(name)) = map.next_key()? {
        let Some(position) = shape.position(&name, guess) else {
            map.next_value::<IgnoredAny>()?;
            continue;
        };
        guess = position + 1;
        ranges[position] = Some(writer.field(shape, position, &mut map)?);
    }
    let values = writer.out.split_off(base);
    writer.out.push(b'{');
    let mut is_first = true;
    // Unlike in documents, unset fields are not filled in: a list of many `{}` would grow by the size of the class each.
    for (slot, range) in shape.slots().iter().zip(ranges) {
        let Some(range) = range else { continue };
        if !is_first {
            writer.out.push(b',');
        }
        is_first = false;
        writer.out.extend_from_slice(&slot.label);
        writer.out.extend_from_slice(&values[shifted(range, base)]);
    }
    writer.out.push(b'}');
    Ok(())
}

fn shifted(range: Range<usize>, base: usize) -> Range<usize> {
    range.start - base..range.end - base
}

/// A member name, borrowed from the text unless it has escapes.
pub(crate) struct Name<'de>(pub(crate) Cow<'de, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Name<'de>, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

/// The text that the raw JSON string denotes; `None` if it is no string.
pub(crate) fn text(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str(raw).ok().map(Cow::Owned)
}

/// The id in a raw value: a string, or the member `id` of an object, which is what clients send for loaded objects in some places.
pub(crate) fn id_text(raw: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Identified {
        id: String,
    }
    if raw.starts_with('{') {
        return serde_json::from_str(raw)
            .ok()
            .map(|Identified { id }| Cow::Owned(id));
    }
    text(raw)
}

/// `/file/<bucket>/<path>`, the path as it is.
fn is_file_id(text: &str) -> bool {
    text.strip_prefix("/file/")
        .and_then(|rest| rest.split_once('/'))
        .is_some_and(|(bucket, path)| !bucket.is_empty() && !path.is_empty())
}

fn is_number(raw: &str) -> bool {
    kind(raw) == "a number"
}

/// What kind of JSON value the valid text is.
pub(crate) fn kind(raw: &str) -> &'static str {
    match raw.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}
