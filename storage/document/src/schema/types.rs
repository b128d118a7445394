//! Field types and their wire text: `/db/String`, `/db/Todo`, `/db/collection.List[/db/String]`.
//!
//! A named class is a reference if it is an entity and an embedded value otherwise. The text does not say which, so reading it takes
//! somebody who knows the classes; printing does not.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the value of a field may be. Every field may also be `null`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FieldType {
    /// `true` or `false`.
    Boolean,
    /// A finite number.
    Double,
    /// A whole number of 64 bits.
    Integer,
    /// A text.
    String,
    /// A moment, milliseconds in UTC.
    DateTime,
    /// A date without time.
    Date,
    /// A time of day in UTC.
    Time,
    /// The id of a file, `/file/<bucket>/<path>`.
    File,
    /// A point on earth: latitude and longitude in degrees.
    GeoPoint,
    /// Any JSON array.
    JsonArray,
    /// Any JSON object.
    JsonObject,
    /// The id of an object of this class or of a subclass.
    Reference(String),
    /// An object with the fields of this class.
    Embedded(String),
    /// An array of elements in order; duplicates and `null` are fine.
    List(Box<FieldType>),
    /// An array of distinct elements.
    Set(Box<FieldType>),
    /// An object whose member names are the text of keys of the first type.
    Map(Box<FieldType>, Box<FieldType>),
}

/// The types without parameters, by their name.
const BASIC: [(&str, FieldType); 11] = [
    ("Boolean", FieldType::Boolean),
    ("Double", FieldType::Double),
    ("Integer", FieldType::Integer),
    ("String", FieldType::String),
    ("DateTime", FieldType::DateTime),
    ("Date", FieldType::Date),
    ("Time", FieldType::Time),
    ("File", FieldType::File),
    ("GeoPoint", FieldType::GeoPoint),
    ("JsonArray", FieldType::JsonArray),
    ("JsonObject", FieldType::JsonObject),
];

/// Why a text is no field type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TypeError {
    /// It does not have the form of a type, or combines types in a way that has no meaning.
    Malformed(String),
    /// It names a class that does not exist.
    UnknownClass(String),
}

impl FieldType {
    /// Reads the wire text; blanks around parameters are tolerated.
    ///
    /// `is_embedded` tells for the bare name of a class whether it is an embedded one, or `None` if there is no such class.
    pub(crate) fn parse(
        text: &str,
        is_embedded: &dyn Fn(&str) -> Option<bool>,
    ) -> Result<FieldType, TypeError> {
        let malformed = |why: &str| TypeError::Malformed(format!("type {text:?} {why}"));
        let name = text
            .trim()
            .strip_prefix("/db/")
            .ok_or_else(|| malformed("does not begin with /db/"))?;
        let Some(parameters) = name.strip_prefix("collection.") else {
            return named(name, is_embedded)
                .ok_or_else(|| TypeError::UnknownClass(name.to_owned()));
        };
        let (kind, parameters) = parameters
            .strip_suffix(']')
            .and_then(|parameters| parameters.split_once('['))
            .ok_or_else(|| malformed("lacks its parameters in brackets"))?;
        let parameter = |text: &str| -> Result<FieldType, TypeError> {
            let ty = FieldType::parse(text, is_embedded)?;
            if ty.is_collection() {
                return Err(malformed("nests collections"));
            }
            Ok(ty)
        };
        let key = |text: &str| -> Result<FieldType, TypeError> {
            let ty = parameter(text)?;
            if !ty.is_comparable() {
                return Err(malformed(
                    "has elements or keys that cannot be told apart by value",
                ));
            }
            Ok(ty)
        };
        match kind.trim() {
            "List" => Ok(FieldType::List(Box::new(parameter(parameters)?))),
            "Set" => Ok(FieldType::Set(Box::new(key(parameters)?))),
            "Map" => {
                let (keys, values) = parameters
                    .split_once(',')
                    .ok_or_else(|| malformed("needs two parameters"))?;
                Ok(FieldType::Map(
                    Box::new(key(keys)?),
                    Box::new(parameter(values)?),
                ))
            }
            _ => Err(malformed("is no known collection")),
        }
    }

    /// Whether `name` is the name of a basic type, which no class may have.
    pub fn is_basic_name(name: &str) -> bool {
        BASIC.iter().any(|(basic, _)| *basic == name)
    }

    /// Whether it is a list, a set or a map.
    pub fn is_collection(&self) -> bool {
        matches!(
            self,
            FieldType::List(_) | FieldType::Set(_) | FieldType::Map(..)
        )
    }

    /// Whether two values are the same or not without looking inside them, which elements of sets and keys of maps need.
    fn is_comparable(&self) -> bool {
        matches!(
            self,
            FieldType::Boolean
                | FieldType::Double
                | FieldType::Integer
                | FieldType::String
                | FieldType::DateTime
                | FieldType::Date
                | FieldType::Time
                | FieldType::Reference(_)
        )
    }

    /// The bare names of the classes that it names, itself or as parameters.
    pub fn classes(&self) -> impl Iterator<Item = &str> {
        self.class_types().filter_map(|ty| match ty {
            FieldType::Reference(class) | FieldType::Embedded(class) => Some(class.as_str()),
            _ => None,
        })
    }

    /// Itself, or its parameters if it has any, as far as they name classes.
    pub(crate) fn class_types(&self) -> impl Iterator<Item = &FieldType> {
        let (first, second) = match self {
            FieldType::List(element) | FieldType::Set(element) => (&**element, None),
            FieldType::Map(key, value) => (&**key, Some(&**value)),
            _ => (self, None),
        };
        std::iter::once(first)
            .chain(second)
            .filter(|ty| matches!(ty, FieldType::Reference(_) | FieldType::Embedded(_)))
    }
}

fn named(name: &str, is_embedded: &dyn Fn(&str) -> Option<bool>) -> Option<FieldType> {
    if let Some((_, ty)) = BASIC.into_iter().find(|(basic, _)| *basic == name) {
        return Some(ty);
    }
    Some(match is_embedded(name)? {
        true => FieldType::Embedded(name.to_owned()),
        false => FieldType::Reference(name.to_owned()),
    })
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FieldType::Reference(class) | FieldType::Embedded(class) => write!(f, "/db/{class}"),
            FieldType::List(element) => write!(f, "/db/collection.List[{element}]"),
            FieldType::Set(element) => write!(f, "/db/collection.Set[{element}]"),
            FieldType::Map(key, value) => write!(f, "/db/collection.Map[{key},{value}]"),
            basic => {
                let name = BASIC
                    .iter()
                    .find(|(_, ty)| ty == basic)
                    .map_or("", |(name, _)| *name);
                write!(f, "/db/{name}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(name: &str) -> Option<bool> {
        match name {
            "Todo" | "logs.AppLog" => Some(false),
            "Address" => Some(true),
            _ => None,
        }
    }

    #[test]
    fn texts_round_trip() {
        for text in [
            "/db/Boolean",
            "/db/Double",
            "/db/Integer",
            "/db/String",
            "/db/DateTime",
            "/db/Date",
            "/db/Time",
            "/db/File",
            "/db/GeoPoint",
            "/db/JsonArray",
            "/db/JsonObject",
            "/db/Todo",
            "/db/Address",
            "/db/collection.List[/db/Address]",
            "/db/collection.Set[/db/Todo]",
            "/db/collection.Map[/db/logs.AppLog,/db/JsonObject]",
        ] {
            let ty = FieldType::parse(text, &classes).expect(text);
            assert_eq!(ty.to_string(), text);
        }
    }

    #[test]
    fn blanks_around_parameters_are_tolerated() {
        let ty = FieldType::parse("/db/collection.Map[ /db/String , /db/Todo ]", &classes);
        assert_eq!(
            ty.expect("valid").to_string(),
            "/db/collection.Map[/db/String,/db/Todo]"
        );
    }

    #[test]
    fn types_without_meaning_are_refused() {
        for text in [
            "",
            "String",
            "/db/",
            "/db/collection.List",
            "/db/collection.List[/db/String",
            "/db/collection.Bag[/db/String]",
            "/db/collection.List[/db/collection.List[/db/String]]",
            "/db/collection.Map[/db/String]",
            "/db/collection.Set[/db/Address]",
            "/db/collection.Set[/db/JsonObject]",
            "/db/collection.Map[/db/GeoPoint,/db/String]",
            "/db/collection.List[String]",
            "/db/Nothing",
        ] {
            assert!(FieldType::parse(text, &classes).is_err(), "{text}");
        }
        assert_eq!(
            FieldType::parse("/db/collection.List[/db/Nothing]", &classes),
            Err(TypeError::UnknownClass("Nothing".to_owned()))
        );
    }
}
