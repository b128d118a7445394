//! The classes of a database: what a document of a bucket may hold, and how that may change (contract section 4).
//!
//! A [`Schema`] is a value. A change takes a schema and a request and gives a new schema or an error, never half of one, so the metadata
//! group can apply it as one step and a failed request leaves nothing behind.
//!
//! | part | owns |
//! |---|---|
//! | `types` | [`FieldType`] and its wire text |
//! | `system` | the classes that every database has |
//! | `wire` | descriptors as JSON, in and out; [`Change`] |
//! | `change` | merge, replace, drop, and the rights they need |
//! | `check` | the rules that every schema obeys |
//! | `sensitive` | fields that indexes may hold by their hashes alone |
//! | `layout` | [`Layout`], the compiled form that bodies are checked against |
//!
//! Invariants of every schema that these functions return, also listed in `check`:
//! - all system classes are there, with their system fields;
//! - every superclass and every class named by a field type exists, entities where an entity is due;
//! - inheritance has no cycle, and no field is defined twice along it;
//! - names, counts and class operations are within the contract.
//!
//! Lacks: bucket and field ids, indexes, versions of schemas (crate `cluster`), and the documents: nothing here looks at data.

mod change;
mod check;
mod layout;
mod sensitive;
mod system;
mod types;
mod wire;

use std::collections::BTreeMap;
use std::fmt;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

pub use self::check::{CLASSES_MAX, FIELDS_MAX, NAME_BYTES_MAX};
pub use self::layout::{Layout, Shape, Slot};
pub use self::sensitive::SENSITIVE;
pub use self::types::FieldType;
pub use self::wire::{Change, Descriptor, FieldDescriptor};
use crate::acl::{Principal, Rules};
use crate::decision::{Decision, decide};

/// The root of all entity classes.
pub const OBJECT: &str = "Object";

/// The class metadata key which says, with the value `true`, that unknown members of bodies are kept.
pub const OPEN: &str = "larder.open";

/// All classes of a database, in the order in which they were created.
///
/// The serde form is for our own storage: it has every detail, also internal fields. It may gain members, so store it in a
/// self-describing format. The form for clients is [`Schema::to_json`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Schema {
    classes: IndexMap<String, Class>,
}

impl Schema {
    /// The class with this bare name (`Todo`, `logs.AppLog`).
    pub fn class(&self, name: &str) -> Option<&Class> {
        self.classes.get(name)
    }

    /// All classes, system classes first.
    pub fn classes(&self) -> impl Iterator<Item = &Class> {
        self.classes.values()
    }

    /// Whether `name` is `ancestor` or one of its subclasses.
    pub fn is_a(&self, name: &str, ancestor: &str) -> bool {
        name == ancestor || self.ancestors(name).any(|class| class.name == ancestor)
    }

    /// The superclasses of `name`, nearest first, without itself. Ends even if the schema has a cycle.
    pub(crate) fn ancestors<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Class> {
        let parent = |class: &'a Class| {
            class
                .super_class
                .as_deref()
                .and_then(|parent| self.class(parent))
        };
        std::iter::successors(self.class(name).and_then(parent), move |class| {
            parent(class)
        })
        .take(self.classes.len())
    }
}

/// A class: the type of the documents of one bucket, or of values embedded in documents.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Class {
    /// Bare name, without `/db/`.
    pub name: String,
    /// Bare name of the superclass; `None` for `Object` and for embedded classes.
    pub super_class: Option<String>,
    /// Whether it is the type of embedded values. Such a class has no bucket, no id and no superclass.
    pub embedded: bool,
    /// Who may do what with its documents and with itself.
    pub acl: ClassAcl,
    /// Annotations. Those beginning with `larder.` mean something to this server.
    pub metadata: IndexMap<String, String>,
    /// Its own fields by name, in the order in which they were added; inherited ones are not repeated.
    pub fields: IndexMap<String, Field>,
    /// Body of a JavaScript function that clients compile; never run here.
    pub validation_code: Option<String>,
    /// Fields that it had once, own or inherited, with their types: stored documents may still hold such values. Not shown to clients.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub removed: BTreeMap<String, FieldType>,
}

impl Class {
    /// Whether members of bodies that are no fields are kept losslessly, instead of dropped.
    pub fn is_open(&self) -> bool {
        !self.embedded && self.metadata.get(OPEN).is_some_and(|value| value == "true")
    }

    /// Whether `principal` may do `operation`, as far as the class is concerned.
    ///
    /// Admins may everything, except what is denied to everybody in the namespace `logs`: a log that its admin can rewrite proves
    /// nothing.
    pub fn permits(&self, operation: Operation, principal: &Principal) -> bool {
        let rules = self.acl.rules(operation);
        if rules.denies_everybody() && self.name.starts_with("logs.") {
            return rules.permits_by_rule(principal);
        }
        rules.permits(principal)
    }

    /// Why [`Class::permits`] says what it says.
    pub fn decide(&self, operation: Operation, principal: &Principal) -> Decision {
        let rules = self.acl.rules(operation);
        let binds_admins = rules.denies_everybody() && self.name.starts_with("logs.");
        decide(rules, principal, binds_admins)
    }

    /// Its own fields by their `order`.
    pub(crate) fn fields_in_order(&self) -> Vec<&Field> {
        let mut fields: Vec<&Field> = self.fields.values().collect();
        fields.sort_by_key(|field| field.order);
        fields
    }
}

/// What can be allowed or denied for a class as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Operation {
    /// Load an object by id.
    Load,
    /// Insert an object.
    Insert,
    /// Replace or partially update an object.
    Update,
    /// Delete an object.
    Delete,
    /// Query and count.
    Query,
    /// Add fields to the class.
    SchemaAdd,
    /// Replace or drop the class, and change its ACL.
    SchemaReplace,
    /// Derive a class from it.
    SchemaSubclass,
}

impl Operation {
    /// All operations, in the order in which they are shown.
    pub const ALL: [Operation; 8] = [
        Operation::Load,
        Operation::Insert,
        Operation::Update,
        Operation::Delete,
        Operation::Query,
        Operation::SchemaAdd,
        Operation::SchemaReplace,
        Operation::SchemaSubclass,
    ];

    /// The name in descriptors: `load`, `schemaAdd`.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Load => "load",
            Operation::Insert => "insert",
            Operation::Update => "update",
            Operation::Delete => "delete",
            Operation::Query => "query",
            Operation::SchemaAdd => "schemaAdd",
            Operation::SchemaReplace => "schemaReplace",
            Operation::SchemaSubclass => "schemaSubclass",
        }
    }

    /// The operation with this name in descriptors.
    pub fn parse(name: &str) -> Option<Operation> {
        Operation::ALL
            .into_iter()
            .find(|operation| operation.as_str() == name)
    }

    /// Whether it changes the schema rather than documents.
    pub fn is_schema(self) -> bool {
        matches!(
            self,
            Operation::SchemaAdd | Operation::SchemaReplace | Operation::SchemaSubclass
        )
    }

    /// Whether embedded classes have it. With any other one the client refuses the whole schema.
    pub fn is_for_embedded(self) -> bool {
        matches!(self, Operation::SchemaAdd | Operation::SchemaReplace)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The rules of a class by operation. An operation without rules is public.
///
/// Invariant: no entry has empty rules, so equal rights are equal values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClassAcl(BTreeMap<Operation, Rules>);

impl ClassAcl {
    /// No rules: everything is public, also changing the class.
    pub fn new() -> ClassAcl {
        ClassAcl::default()
    }

    /// The rules of an ordinary class: documents are public, the schema is the admins'.
    pub fn of_new_class(embedded: bool) -> ClassAcl {
        ClassAcl::new().with_schema_protected(embedded)
    }

    /// The rules for `operation`, empty if there are none.
    pub fn rules(&self, operation: Operation) -> &Rules {
        static NONE: std::sync::LazyLock<Rules> = std::sync::LazyLock::new(Rules::new);
        self.0.get(&operation).unwrap_or(&NONE)
    }

    /// This ACL with other rules for one operation.
    pub fn with(mut self, operation: Operation, rules: Rules) -> ClassAcl {
        if rules.is_empty() {
            self.0.remove(&operation);
        } else {
            self.0.insert(operation, rules);
        }
        self
    }

    /// This ACL with the admins' rule for each schema operation that has none.
    ///
    /// Clients send `"schemaAdd":{}` for every class that they create, which by the letter would let anybody change it. Who wants that
    /// can still say it, with `{"*":"allow"}`.
    pub fn with_schema_protected(mut self, embedded: bool) -> ClassAcl {
        for operation in Operation::ALL {
            if operation.is_schema() && (!embedded || operation.is_for_embedded()) {
                self.0.entry(operation).or_insert_with(Rules::admin_only);
            }
        }
        self
    }

    /// All operations that have rules.
    pub fn iter(&self) -> impl Iterator<Item = (Operation, &Rules)> {
        self.0.iter().map(|(operation, rules)| (*operation, rules))
    }

    /// Whether every caller may do `operation`.
    pub fn is_public(&self, operation: Operation) -> bool {
        self.rules(operation).is_public()
    }
}

/// A field of a class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Field {
    /// Name of the member that holds the value.
    pub name: String,
    /// What the value may be.
    pub ty: FieldType,
    /// Position among the fields of its class; need not be dense or unique.
    pub order: i64,
    /// How it differs from ordinary fields.
    pub flags: Flags,
    /// Annotations. Only [`SENSITIVE`] means something to this server.
    pub metadata: IndexMap<String, String>,
}

impl Field {
    /// Whether it is internal: stored with the class, never shown and never taken from a body.
    pub fn is_internal(&self) -> bool {
        self.name.starts_with('_')
    }
}

/// How a field differs from ordinary ones. Both make clients refresh it from the response of a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flags {
    /// `METADATA`: id, version and acl, which no class but `Object` has.
    pub metadata: bool,
    /// `READONLY`: values sent by callers who are no admins are not taken.
    pub read_only: bool,
}
