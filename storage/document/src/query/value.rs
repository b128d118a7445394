//! Values as filters compare them, and their total order.
//!
//! The order over kinds is MongoDB's, restricted to the kinds that there are: null, numbers, texts, objects, arrays, booleans, moments.
//! Objects compare member by member: kind, then name, then value; the one that ends first is less. So the order of members matters,
//! except in embedded values, whose members stand in class order on both sides and where `null` and absent are the same.
//!
//! A value is read with the type of its field, since JSON has no moments: the texts `…:01Z` and `…:01.5Z` do not order as the moments
//! do.

use std::borrow::Cow;
use std::cmp::Ordering;

use indexmap::IndexMap;

use super::number::Number;
use super::{moment, raw};
use crate::schema::{FieldType, Layout};

/// A value, owned: what a filter compares with, or an array or object of a document that has to be compared as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Number(Number),
    Text(String),
    Object(Vec<(String, Value)>),
    Array(Vec<Value>),
    Boolean(bool),
    /// Milliseconds since 1970 UTC, since midnight for times of day.
    Moment(i64),
}

/// The kinds in their order. The numbers begin the bytes of sort keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Kind {
    Null = 0x10,
    Number = 0x20,
    Text = 0x30,
    Object = 0x40,
    Array = 0x50,
    Boolean = 0x60,
    Moment = 0x70,
}

impl Value {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Value::Null => Kind::Null,
            Value::Number(_) => Kind::Number,
            Value::Text(_) => Kind::Text,
            Value::Object(_) => Kind::Object,
            Value::Array(_) => Kind::Array,
            Value::Boolean(_) => Kind::Boolean,
            Value::Moment(_) => Kind::Moment,
        }
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Value) -> Ordering {
        match (self, other) {
            (Value::Number(one), Value::Number(two)) => one.cmp(two),
            (Value::Text(one), Value::Text(two)) => one.cmp(two),
            (Value::Object(one), Value::Object(two)) => {
                let members = |object: &'_ [(String, Value)]| object.len();
                one.iter()
                    .zip(two)
                    .map(|((name, value), (other_name, other))| {
                        let kinds = value.kind().cmp(&other.kind());
                        kinds
                            .then_with(|| name.cmp(other_name))
                            .then_with(|| value.cmp(other))
                    })
                    .find(|ordering| ordering.is_ne())
                    .unwrap_or_else(|| members(one).cmp(&members(two)))
            }
            (Value::Array(one), Value::Array(two)) => one.cmp(two),
            (Value::Boolean(one), Value::Boolean(two)) => one.cmp(two),
            (Value::Moment(one), Value::Moment(two)) => one.cmp(two),
            _ => self.kind().cmp(&other.kind()),
        }
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Value) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// How to read the values of one field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Typing<'a> {
    /// The type of the value, or of its elements if it is an array; `None` for JSON and members that are no fields.
    pub(crate) ty: Option<&'a FieldType>,
    pub(crate) layout: &'a Layout,
}

impl<'a> Typing<'a> {
    /// That of a value of type `ty`.
    pub(crate) fn of(ty: Option<&'a FieldType>, layout: &'a Layout) -> Typing<'a> {
        let ty = match ty {
            Some(FieldType::List(element) | FieldType::Set(element)) => Some(&**element),
            other => other,
        };
        let ty = ty.filter(|ty| !matches!(ty, FieldType::JsonArray | FieldType::JsonObject));
        Typing { ty, layout }
    }

    /// That of the member `name` of a value with this typing.
    pub(crate) fn member(self, name: &str) -> Typing<'a> {
        let ty = match self.ty {
            Some(FieldType::Map(_, value)) => Some(&**value),
            Some(FieldType::Embedded(class)) => self
                .layout
                .embedded(class)
                .and_then(|shape| shape.slot(name))
                .map(|slot| &slot.ty),
            _ => None,
        };
        Typing::of(ty, self.layout)
    }

    pub(crate) fn is_embedded(self) -> bool {
        matches!(self.ty, Some(FieldType::Embedded(_)))
    }
}

/// A value of a document, read as far as it costs nothing.
#[derive(Clone, Debug)]
pub(crate) enum Seen<'a> {
    Missing,
    Null,
    Number(Number),
    Text(Cow<'a, str>),
    Boolean(bool),
    Moment(i64),
    /// With its braces.
    Object(&'a [u8]),
    /// With its brackets.
    Array(&'a [u8]),
}

impl<'a> Seen<'a> {
    /// Reads stored JSON. What is not valid counts as missing.
    pub(crate) fn read(bytes: Option<&'a [u8]>, typing: Typing<'_>) -> Seen<'a> {
        let Some(bytes) = bytes else {
            return Seen::Missing;
        };
        match bytes.first() {
            Some(b'"') => match raw::text(bytes) {
                Some(text) => match moment::of_text(&text, typing.ty) {
                    Some(moment) => Seen::Moment(moment),
                    None => Seen::Text(text),
                },
                None => Seen::Missing,
            },
            Some(b'{') => Seen::Object(bytes),
            Some(b'[') => Seen::Array(bytes),
            Some(b'n') => Seen::Null,
            Some(b't') => Seen::Boolean(true),
            Some(b'f') => Seen::Boolean(false),
            _ => Number::parse(bytes).map_or(Seen::Missing, Seen::Number),
        }
    }

    /// `None` if it is missing.
    pub(crate) fn kind(&self) -> Option<Kind> {
        Some(match self {
            Seen::Missing => return None,
            Seen::Null => Kind::Null,
            Seen::Number(_) => Kind::Number,
            Seen::Text(_) => Kind::Text,
            Seen::Boolean(_) => Kind::Boolean,
            Seen::Moment(_) => Kind::Moment,
            Seen::Object(_) => Kind::Object,
            Seen::Array(_) => Kind::Array,
        })
    }

    /// Where it stands to `value` in the total order; missing is null.
    pub(crate) fn compare(&self, value: &Value, typing: Typing<'_>) -> Ordering {
        let kind = self.kind().unwrap_or(Kind::Null);
        kind.cmp(&value.kind()).then_with(|| match (self, value) {
            (Seen::Number(one), Value::Number(two)) => one.cmp(two),
            (Seen::Text(one), Value::Text(two)) => (**one).cmp(two.as_str()),
            (Seen::Boolean(one), Value::Boolean(two)) => one.cmp(two),
            (Seen::Moment(one), Value::Moment(two)) => one.cmp(two),
            (Seen::Object(_) | Seen::Array(_), two) => self.to_value(typing).cmp(two),
            _ => Ordering::Equal,
        })
    }

    /// The whole value; missing is null.
    pub(crate) fn to_value(&self, typing: Typing<'_>) -> Value {
        match self {
            Seen::Missing | Seen::Null => Value::Null,
            Seen::Number(number) => Value::Number(*number),
            Seen::Text(text) => Value::Text(text.clone().into_owned()),
            Seen::Boolean(boolean) => Value::Boolean(*boolean),
            Seen::Moment(moment) => Value::Moment(*moment),
            // Documents are stored up to a depth that this recursion bears.
            Seen::Array(bytes) => Value::Array(
                raw::elements(bytes)
                    .map(|element| Seen::read(Some(element), typing).to_value(typing))
                    .collect(),
            ),
            Seen::Object(bytes) => {
                let mut object = IndexMap::new();
                for (name, value) in raw::members(bytes) {
                    let Some(name) = raw::text(name) else {
                        continue;
                    };
                    let typing = typing.member(&name);
                    let value = Seen::read(Some(value), typing).to_value(typing);
                    object.insert(name.into_owned(), value);
                }
                if typing.is_embedded() {
                    object.retain(|_, value| *value != Value::Null);
                }
                Value::Object(object.into_iter().collect())
            }
        }
    }
}
