//! Descriptors as JSON: what clients send and what they are shown (contract sections 4.1 and 4.3).
//!
//! Reading keeps the difference between "absent" and "empty", because clients leave out what they do not know (flags, validation code)
//! and an omission must not delete it. Types stay texts here: which classes they may name is known only once the request is laid over a
//! schema.
//!
//! Invariant of writing: a descriptor shown to a client always has `fields` and field names, and only operations that the client knows;
//! otherwise its connect fails.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Class, ClassAcl, Field, Flags, Operation, Schema};
use crate::acl::{Access, Rules};
use crate::error::{Error, SchemaError};
use crate::{id, json};

/// Requests for schema changes may nest this deep; real ones have five levels.
const DEPTH_MAX: usize = 32;

/// One element of the body of a schema request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// A class as it should be (PUT), or as it should at least be (POST).
    Class(Box<Descriptor>),
    /// The operation `updateClassAcl`: the class gets exactly these rules.
    UpdateClassAcl {
        /// Bare name of the class.
        class: String,
        /// Its new rules.
        acl: ClassAcl,
    },
}

/// A class descriptor as sent. `None` means that the member was absent or `null`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Descriptor {
    /// Bare name, without `/db/`.
    pub name: String,
    /// Bare name of the superclass.
    pub super_class: Option<String>,
    /// Whether the class is the type of embedded values.
    pub embedded: Option<bool>,
    /// Rules by operation.
    pub acl: Option<ClassAcl>,
    /// Annotations.
    pub metadata: Option<IndexMap<String, String>>,
    /// Own fields by name.
    pub fields: IndexMap<String, FieldDescriptor>,
    /// Validation code; the empty text removes it.
    pub validation_code: Option<String>,
}

/// A field as sent. `None` means that the member was absent or `null`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FieldDescriptor {
    /// Wire text of the type.
    pub ty: String,
    /// Position among the fields of the class.
    pub order: Option<i64>,
    /// Flags.
    pub flags: Option<Flags>,
    /// Annotations.
    pub metadata: Option<IndexMap<String, String>>,
}

impl Schema {
    /// Reads the body of a schema request: an array of descriptors and operations, or a single one.
    ///
    /// The only operation is `{"operation":"updateClassAcl","bucket":"/db/<Class>","acl":{…}}`. Class names are taken with or without
    /// `/db/`. Unknown members are ignored; unknown operations, flags and class rights are not.
    ///
    /// # Errors
    /// [`Error::Syntax`]: not JSON. [`Error::TooDeep`]. [`Error::BadRequest`]: an unknown operation. [`Error::Schema`] with
    /// [`SchemaError::Invalid`]: not the shape of a descriptor; the message has its position in the array, counted from 0.
    pub fn parse_changes(body: &[u8]) -> Result<Vec<Change>, Error> {
        let text = std::str::from_utf8(body)
            .map_err(|error| Error::Syntax(format!("body is not UTF-8: {error}")))?;
        if !json::is_within_depth(text, DEPTH_MAX) {
            return Err(Error::TooDeep { limit: DEPTH_MAX });
        }
        let value: Value =
            serde_json::from_str(text).map_err(|error| Error::Syntax(error.to_string()))?;
        let elements = match value {
            Value::Array(elements) => elements,
            single => vec![single],
        };
        elements
            .into_iter()
            .enumerate()
            .map(|(at, element)| change(element).map_err(|error| located(error, at)))
            .collect()
    }

    /// The schema as clients are shown it: an array of descriptors in the contract's form.
    ///
    /// Internal fields are left out, and so are operations without rules.
    pub fn to_json(&self) -> Value {
        self.classes().map(Class::to_json).collect()
    }

    /// The descriptor of one class; `None` if there is no such class.
    pub fn class_json(&self, name: &str) -> Option<Value> {
        self.class(name).map(Class::to_json)
    }
}

impl Class {
    /// The descriptor in the contract's form, see [`Schema::to_json`].
    pub fn to_json(&self) -> Value {
        let mut members = Map::new();
        members.insert("class".to_owned(), class_reference(&self.name));
        if let Some(super_class) = &self.super_class {
            members.insert("superClass".to_owned(), class_reference(super_class));
        }
        if self.embedded {
            members.insert("embedded".to_owned(), Value::Bool(true));
        }
        let acl: Map<String, Value> = self
            .acl
            .iter()
            .filter(|(operation, _)| !self.embedded || operation.is_for_embedded())
            .map(|(operation, rules)| (operation.as_str().to_owned(), rules_json(rules)))
            .collect();
        members.insert("acl".to_owned(), Value::Object(acl));
        members.insert("metadata".to_owned(), annotations_json(&self.metadata));
        let fields: Map<String, Value> = self
            .fields_in_order()
            .into_iter()
            .filter(|field| !field.is_internal())
            .map(|field| (field.name.clone(), field.to_json()))
            .collect();
        members.insert("fields".to_owned(), Value::Object(fields));
        if let Some(code) = &self.validation_code {
            members.insert("validationCode".to_owned(), Value::String(code.clone()));
        }
        Value::Object(members)
    }
}

impl Field {
    fn to_json(&self) -> Value {
        let mut flags = Vec::new();
        if self.flags.metadata {
            flags.push(Value::from("METADATA"));
        }
        if self.flags.read_only {
            flags.push(Value::from("READONLY"));
        }
        let mut members = Map::new();
        members.insert("name".to_owned(), Value::from(self.name.as_str()));
        members.insert("type".to_owned(), Value::from(self.ty.to_string()));
        members.insert("order".to_owned(), Value::from(self.order));
        members.insert("flags".to_owned(), Value::Array(flags));
        members.insert("metadata".to_owned(), annotations_json(&self.metadata));
        Value::Object(members)
    }
}

fn class_reference(name: &str) -> Value {
    Value::String(format!("{}{name}", id::PREFIX))
}

fn annotations_json(annotations: &IndexMap<String, String>) -> Value {
    annotations
        .iter()
        .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
        .collect()
}

fn rules_json(rules: &Rules) -> Value {
    let word = |access| match access {
        Access::Allow => "allow",
        Access::Deny => "deny",
    };
    rules
        .iter()
        .map(|(reference, access)| (reference.to_owned(), Value::from(word(access))))
        .collect()
}

/// The descriptor as serde reads it, before names and rules are checked.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireClass {
    class: String,
    super_class: Option<String>,
    embedded: Option<bool>,
    acl: Option<WireAcl>,
    metadata: Option<IndexMap<String, String>>,
    fields: Option<IndexMap<String, WireField>>,
    validation_code: Option<String>,
}

#[derive(Deserialize)]
struct WireField {
    name: String,
    #[serde(rename = "type")]
    ty: String,
    order: Option<i64>,
    flags: Option<Vec<String>>,
    metadata: Option<IndexMap<String, String>>,
}

#[derive(Deserialize)]
struct WireOperation {
    operation: String,
    bucket: Option<String>,
    acl: Option<WireAcl>,
}

type WireAcl = IndexMap<String, Option<BTreeMap<String, Access>>>;

fn change(element: Value) -> Result<Change, Error> {
    // `serde` reads structures from arrays too, member by member.
    let fields = element.get("fields").and_then(Value::as_object);
    if !element.is_object()
        || !fields
            .into_iter()
            .flatten()
            .all(|(_, field)| field.is_object())
    {
        return Err(invalid(
            "descriptors, operations and fields must be objects",
        ));
    }
    if element.get("operation").is_some() {
        operation(serde_json::from_value(element).map_err(shape)?)
    } else {
        let descriptor = descriptor(serde_json::from_value(element).map_err(shape)?)?;
        Ok(Change::Class(Box::new(descriptor)))
    }
}

fn operation(wire: WireOperation) -> Result<Change, Error> {
    if wire.operation != "updateClassAcl" {
        return Err(Error::BadRequest(format!(
            "unknown schema operation {:?}",
            wire.operation
        )));
    }
    let (Some(bucket), Some(acl)) = (wire.bucket, wire.acl) else {
        return Err(invalid("updateClassAcl needs bucket and acl"));
    };
    Ok(Change::UpdateClassAcl {
        class: bare(bucket),
        acl: class_acl(acl)?,
    })
}

fn descriptor(wire: WireClass) -> Result<Descriptor, Error> {
    let name = bare(wire.class);
    let mut fields = IndexMap::new();
    for (member, field) in wire.fields.unwrap_or_default() {
        if field.name != member {
            return Err(invalid(format!(
                "field {name}.{member} has the name {:?}",
                field.name
            )));
        }
        let flags = field
            .flags
            .map(|flags| parse_flags(&name, &member, &flags))
            .transpose()?;
        fields.insert(
            member,
            FieldDescriptor {
                ty: field.ty,
                order: field.order,
                flags,
                metadata: field.metadata,
            },
        );
    }
    Ok(Descriptor {
        name,
        super_class: wire.super_class.map(bare),
        embedded: wire.embedded,
        acl: wire.acl.map(class_acl).transpose()?,
        metadata: wire.metadata,
        fields,
        validation_code: wire.validation_code,
    })
}

fn parse_flags(class: &str, field: &str, words: &[String]) -> Result<Flags, Error> {
    let mut flags = Flags::default();
    for word in words {
        match word.as_str() {
            "METADATA" => flags.metadata = true,
            "READONLY" => flags.read_only = true,
            _ => {
                return Err(invalid(format!(
                    "field {class}.{field} has the unknown flag {word:?}"
                )));
            }
        }
    }
    Ok(flags)
}

fn class_acl(wire: WireAcl) -> Result<ClassAcl, Error> {
    let mut acl = ClassAcl::new();
    for (name, rules) in wire {
        let operation = Operation::parse(&name)
            .ok_or_else(|| invalid(format!("unknown operation {name:?} in a class acl")))?;
        acl = acl.with(operation, Rules::checked(rules.unwrap_or_default())?);
    }
    Ok(acl)
}

/// The name without `/db/`.
fn bare(mut reference: String) -> String {
    if reference.starts_with(id::PREFIX) {
        reference.drain(..id::PREFIX.len());
    }
    reference
}

fn invalid(message: impl Into<String>) -> Error {
    Error::Schema(SchemaError::Invalid(message.into()))
}

fn shape(error: serde_json::Error) -> Error {
    invalid(error.to_string())
}

fn located(error: Error, at: usize) -> Error {
    match error {
        Error::Schema(SchemaError::Invalid(message)) => invalid(format!("element {at}: {message}")),
        Error::BadRequest(message) => Error::BadRequest(format!("element {at}: {message}")),
        other => other,
    }
}
