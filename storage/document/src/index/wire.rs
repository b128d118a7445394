//! Compiled indexes as bytes: JSON, so that it shows what it is and may gain members.

use serde::{Deserialize, Serialize};

use super::compiled::{Classes, Index, Part};
use super::definition::{KEYS_MAX, Kind};
use super::hashed::HashKey;
use super::lists::Lists;
use crate::schema::FieldType;

/// What the values of an index are made of. Another form of values is another format.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Wire {
    format: u32,
    unique: bool,
    keys: Vec<Key>,
    #[serde(default, skip_serializing_if = "Classes::is_empty")]
    classes: Classes,
}

#[derive(Serialize, Deserialize)]
struct Key {
    path: String,
    kind: String,
    lists: Lists,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    ty: Option<FieldType>,
    /// Of a hashed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl Index {
    /// The form for logs and shards' state. Equal indexes of equal types have equal bytes, also if types differ that do not matter to how
    /// values are read.
    pub fn to_bytes(&self) -> Vec<u8> {
        let wire = Wire {
            format: FORMAT,
            unique: self.0.definition.unique,
            keys: self
                .0
                .components
                .iter()
                .map(|component| Key {
                    path: component.path.text().to_owned(),
                    kind: component.kind.name().to_owned(),
                    lists: component.lists,
                    ty: component.path.ty().cloned(),
                    key: component.key.as_ref().map(HashKey::to_hex),
                })
                .collect(),
            classes: self.0.classes.clone(),
        };
        // Texts, numbers and maps of texts only: nothing that JSON has no form for.
        serde_json::to_vec(&wire).unwrap_or_default()
    }

    /// Reads what [`Index::to_bytes`] gave.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Index, String> {
        let wire: Wire =
            serde_json::from_slice(bytes).map_err(|error| format!("index definition: {error}"))?;
        if wire.format != FORMAT {
            return Err(format!(
                "index definition of format {}, known is {FORMAT}",
                wire.format
            ));
        }
        if wire.keys.is_empty() || wire.keys.len() > KEYS_MAX {
            return Err(format!("index definition with {} keys", wire.keys.len()));
        }
        let parts = wire
            .keys
            .into_iter()
            .map(|key| {
                let unknown = || format!("index definition with a key of kind {}", key.kind);
                let kind = Kind::of_name(&key.kind).ok_or_else(unknown)?;
                let hash_key = key.key.as_deref().and_then(HashKey::of_hex);
                if (kind == Kind::Hashed) != hash_key.is_some() {
                    return Err(
                        "index definition without the key of hashes, or with one beside".into(),
                    );
                }
                Ok(Part {
                    kind,
                    path: key.path,
                    lists: key.lists,
                    ty: key.ty,
                    key: hash_key,
                })
            })
            .collect::<Result<Vec<Part>, String>>()?;
        Index::assemble(wire.unique, parts, wire.classes).map_err(|error| error.to_string())
    }
}
