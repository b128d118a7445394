//! What clients say about an index (contract section 4.4), and its normal form.

use serde_json::{Map, Value as Json, json};

use crate::json::excerpt;
use crate::query::Error;

/// The most keys of one index.
pub const KEYS_MAX: usize = 16;

/// The most bytes of one path of an index.
pub const PATH_BYTES_MAX: usize = 512;

/// An index as clients give it: `{"unique":false,"keys":[{"name":"asc"},{"location":"geo"}]}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Dotted paths, in order.
    pub keys: Vec<(String, Kind)>,
    /// Whether no two documents may have the same value. Documents with a null or missing component are exempt.
    pub unique: bool,
}

/// How a component is indexed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From small to great.
    Ascending,
    /// From great to small.
    Descending,
    /// By place on earth.
    Geo,
    /// By a keyed hash: equality is all that shows of a value, and all that is answered.
    Hashed,
}

impl Kind {
    /// As in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Ascending => "asc",
            Kind::Descending => "desc",
            Kind::Geo => "geo",
            Kind::Hashed => "hashed",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Kind> {
        match name {
            "asc" => Some(Kind::Ascending),
            "desc" => Some(Kind::Descending),
            "geo" => Some(Kind::Geo),
            "hashed" => Some(Kind::Hashed),
            _ => None,
        }
    }
}

impl Definition {
    /// Reads the JSON form. Unknown members are ignored (`drop` comes with it).
    ///
    /// # Errors
    /// [`Error::Syntax`]: another form. [`Error::Unsupported`]: a unique index of places. [`Error::Limit`]: more than [`KEYS_MAX`] keys,
    /// or a path beyond [`PATH_BYTES_MAX`].
    pub fn parse(json: &[u8]) -> Result<Definition, Error> {
        let json: Map<String, Json> = serde_json::from_slice(json)
            .map_err(|error| Error::Syntax(format!("index: {error}")))?;
        let unique = match json.get("unique") {
            None | Some(Json::Null) => false,
            Some(Json::Bool(unique)) => *unique,
            Some(_) => return Err(syntax("unique must be true or false")),
        };
        let keys = json
            .get("keys")
            .and_then(Json::as_array)
            .filter(|keys| !keys.is_empty())
            .ok_or_else(|| syntax("keys must be a list of objects, not an empty one"))?;
        if keys.len() > KEYS_MAX {
            return Err(Error::Limit {
                what: "keys of an index",
                limit: KEYS_MAX,
            });
        }
        let keys = keys.iter().map(key).collect::<Result<Vec<_>, Error>>()?;
        for (at, (path, kind)) in keys.iter().enumerate() {
            if keys[..at].iter().any(|(other, _)| other == path) {
                return Err(syntax(&format!("{} is named twice", excerpt(path))));
            }
            if unique && *kind == Kind::Geo {
                return Err(Error::Unsupported(format!(
                    "index: {} is a place, and those cannot be unique",
                    excerpt(path)
                )));
            }
        }
        Ok(Definition { keys, unique })
    }

    /// Whether a component is hashed, which takes a secret.
    pub fn is_hashed(&self) -> bool {
        self.keys.iter().any(|(_, kind)| *kind == Kind::Hashed)
    }

    /// The JSON text, normalised: equal indexes have equal texts.
    pub fn to_json(&self) -> String {
        let keys: Vec<Json> = self
            .keys
            .iter()
            .map(|(path, kind)| json!({ path: kind.name() }))
            .collect();
        json!({ "unique": self.unique, "keys": keys }).to_string()
    }
}

fn key(json: &Json) -> Result<(String, Kind), Error> {
    let mut members = json.as_object().into_iter().flatten();
    let (Some((path, kind)), None) = (members.next(), members.next()) else {
        return Err(syntax("each key must be an object with one member"));
    };
    if path.len() > PATH_BYTES_MAX {
        return Err(Error::Limit {
            what: "bytes of a path of an index",
            limit: PATH_BYTES_MAX,
        });
    }
    let kind = kind.as_str().and_then(Kind::of_name);
    let kind = kind.ok_or_else(|| {
        syntax(&format!(
            "the kind of {} must be asc, desc, geo or hashed",
            excerpt(path)
        ))
    })?;
    Ok((path.clone(), kind))
}

fn syntax(message: &str) -> Error {
    Error::Syntax(format!("index: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_normalised() {
        let text = r#"{"keys":[ {"name":"asc"}, {"at.x":"desc"},{"place":"geo"}],"drop":false}"#;
        let index = Definition::parse(text.as_bytes()).expect(text);
        let normal = r#"{"unique":false,"keys":[{"name":"asc"},{"at.x":"desc"},{"place":"geo"}]}"#;
        assert_eq!(index.to_json(), normal);
        assert_eq!(Definition::parse(normal.as_bytes()), Ok(index));
    }

    #[test]
    fn what_is_no_index_is_refused() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"keys":[]}"#,
            r#"{"keys":{"a":"asc"}}"#,
            r#"{"keys":["a"]}"#,
            r#"{"keys":[{"a":1}]}"#,
            r#"{"keys":[{"a":"up"}]}"#,
            r#"{"keys":[{"a":"asc","b":"asc"}]}"#,
            r#"{"keys":[{"a":"asc"},{"a":"desc"}]}"#,
            r#"{"unique":1,"keys":[{"a":"asc"}]}"#,
        ] {
            let found = Definition::parse(text.as_bytes());
            assert!(matches!(found, Err(Error::Syntax(_))), "{text}: {found:?}");
        }
        let unique = Definition::parse(br#"{"unique":true,"keys":[{"a":"geo"}]}"#);
        assert!(matches!(unique, Err(Error::Unsupported(_))));
        let keys: Vec<Json> = (0..=KEYS_MAX)
            .map(|at| json!({ format!("k{at}"): "asc" }))
            .collect();
        let many = Definition::parse(json!({ "keys": keys }).to_string().as_bytes());
        assert!(matches!(
            many,
            Err(Error::Limit {
                limit: KEYS_MAX,
                ..
            })
        ));
        let long = json!({ "keys": [{ "a".repeat(PATH_BYTES_MAX + 1): "asc" }] }).to_string();
        assert!(matches!(
            Definition::parse(long.as_bytes()),
            Err(Error::Limit { .. })
        ));
    }
}
