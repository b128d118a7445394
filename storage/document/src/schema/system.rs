//! The classes that every database has (contract section 4.2).
//!
//! Their fields and flags never change by a request; requests may add fields of their own to all but `Object`.

use std::sync::LazyLock;

use indexmap::IndexMap;

use super::{Class, ClassAcl, Field, FieldType, Flags, OBJECT, Operation, Schema};
use crate::acl::Rules;

static SYSTEM: LazyLock<Schema> = LazyLock::new(build);

/// Namespaces of the server's own classes. Clients never send them back, so replacing a schema leaves them alone.
const NAMESPACES: [&str; 3] = ["logs.", "speedKit.", "rum."];

const PLAIN: Flags = Flags {
    metadata: false,
    read_only: false,
};
const METADATA: Flags = Flags {
    metadata: true,
    read_only: false,
};
const READ_ONLY: Flags = Flags {
    metadata: false,
    read_only: true,
};

impl Schema {
    /// The schema of a new database: `Object`, `User`, `Role`, `Device`, `logs.AppLog` and `logs.AccessLog`.
    pub fn system() -> Schema {
        SYSTEM.clone()
    }
}

/// The definition of a system class; `None` for all other names.
pub(super) fn system_class(name: &str) -> Option<&'static Class> {
    SYSTEM.class(name)
}

/// All system classes.
pub(super) fn system_classes() -> impl Iterator<Item = &'static Class> {
    SYSTEM.classes()
}

/// Whether a whole-schema replacement that does not name the class leaves it as it is.
pub(super) fn survives_replacement(name: &str) -> bool {
    system_class(name).is_some()
        || NAMESPACES
            .iter()
            .any(|namespace| name.starts_with(namespace))
}

fn build() -> Schema {
    let user = || FieldType::Reference("User".to_owned());
    let ordinary = ClassAcl::of_new_class(false);
    let log = ordinary
        .clone()
        .with(Operation::Load, Rules::admin_only())
        .with(Operation::Query, Rules::admin_only())
        .with(Operation::Update, Rules::nobody())
        .with(Operation::Delete, Rules::nobody())
        .with(Operation::SchemaAdd, Rules::nobody())
        .with(Operation::SchemaSubclass, Rules::nobody());
    let classes = [
        class(
            OBJECT,
            ordinary.clone(),
            [
                ("id", FieldType::String, METADATA),
                ("version", FieldType::Integer, METADATA),
                ("acl", FieldType::JsonObject, METADATA),
                ("createdAt", FieldType::DateTime, READ_ONLY),
                ("updatedAt", FieldType::DateTime, READ_ONLY),
            ],
        ),
        class(
            "User",
            ordinary.clone(),
            [
                ("username", FieldType::String, READ_ONLY),
                ("inactive", FieldType::Boolean, READ_ONLY),
            ],
        ),
        class(
            "Role",
            ordinary.clone(),
            [
                ("name", FieldType::String, PLAIN),
                ("users", FieldType::Set(Box::new(user())), PLAIN),
            ],
        ),
        class("Device", ordinary, [("deviceOs", FieldType::String, PLAIN)]),
        class(
            "logs.AppLog",
            log.clone(),
            [
                ("date", FieldType::DateTime, PLAIN),
                ("message", FieldType::String, PLAIN),
                ("level", FieldType::String, PLAIN),
                ("data", FieldType::JsonObject, PLAIN),
                ("user", user(), PLAIN),
            ],
        ),
        class(
            "logs.AccessLog",
            log.with(Operation::Insert, Rules::nobody()),
            [
                ("date", FieldType::DateTime, PLAIN),
                ("ip", FieldType::String, PLAIN),
                ("method", FieldType::String, PLAIN),
                ("server", FieldType::String, PLAIN),
                ("url", FieldType::String, PLAIN),
                ("status", FieldType::Integer, PLAIN),
                ("download", FieldType::Integer, PLAIN),
                ("upload", FieldType::Integer, PLAIN),
                ("latency", FieldType::Integer, PLAIN),
                ("cacheHit", FieldType::Boolean, PLAIN),
            ],
        ),
    ];
    Schema {
        classes: classes
            .into_iter()
            .map(|class| (class.name.clone(), class))
            .collect(),
    }
}

fn class<const N: usize>(
    name: &str,
    acl: ClassAcl,
    fields: [(&str, FieldType, Flags); N],
) -> Class {
    let field = |(order, (name, ty, flags)): (i64, (&str, FieldType, Flags))| {
        (
            name.to_owned(),
            Field {
                name: name.to_owned(),
                ty,
                order,
                flags,
                metadata: IndexMap::new(),
            },
        )
    };
    Class {
        name: name.to_owned(),
        super_class: (name != OBJECT).then(|| OBJECT.to_owned()),
        acl,
        fields: (0..).zip(fields).map(field).collect(),
        ..Class::default()
    }
}
