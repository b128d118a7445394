//! The rules that every schema obeys, checked on the whole result of every change.
//!
//! Checking the result, and not each step, is what lets one request define classes that refer to each other in any order. The cost is
//! that of the schema, which is small and changes rarely.

use std::collections::HashMap;

use super::{Class, FieldType, OBJECT, Operation, Schema, system};
use crate::error::SchemaError;

/// Classes in one schema, system classes included. Clients load the whole schema at every connect.
pub const CLASSES_MAX: usize = 1_000;
/// Fields of one class, inherited ones included.
pub const FIELDS_MAX: usize = 1_000;
/// Bytes of the name of a class or of a field.
pub const NAME_BYTES_MAX: usize = 128;

impl Schema {
    /// Checks all invariants of the module.
    ///
    /// `before` is the schema that this one replaces: what is missing now and was there then is "still referenced", everything else that
    /// is missing was never there.
    pub(super) fn check(&self, before: &Schema) -> Result<(), SchemaError> {
        if self.classes.len() > CLASSES_MAX {
            return Err(SchemaError::Invalid(format!(
                "more than {CLASSES_MAX} classes"
            )));
        }
        for class in self.classes() {
            check_class_name(&class.name)?;
            self.check_super_class(class, before)?;
            check_acl(class)?;
            self.check_fields(class, before)?;
        }
        self.check_system_classes()
    }

    fn check_super_class(&self, class: &Class, before: &Schema) -> Result<(), SchemaError> {
        let name = &class.name;
        let Some(parent) = class.super_class.as_deref() else {
            if class.embedded || name == OBJECT {
                return Ok(());
            }
            return Err(SchemaError::Invalid(format!(
                "class {name} has no superclass"
            )));
        };
        if class.embedded || name == OBJECT {
            return Err(SchemaError::Invalid(format!(
                "class {name} cannot have a superclass"
            )));
        }
        match self.class(parent) {
            None => {
                return Err(missing(
                    parent,
                    &format!("the superclass of {name}"),
                    before,
                ));
            }
            Some(parent) if parent.embedded => {
                return Err(SchemaError::Invalid(format!(
                    "the superclass of {name} is an embedded class"
                )));
            }
            Some(_) => {}
        }
        // `ancestors` ends after as many steps as there are classes; a chain without a cycle has come to `Object` by then. A broken
        // chain further up is reported for the class it belongs to.
        if self.ancestors(name).any(|ancestor| ancestor.name == *name) {
            return Err(SchemaError::Invalid(format!(
                "class {name} is its own superclass"
            )));
        }
        Ok(())
    }

    fn check_fields(&self, class: &Class, before: &Schema) -> Result<(), SchemaError> {
        let name = &class.name;
        let mut inherited: HashMap<&str, &str> = HashMap::new();
        for ancestor in self.ancestors(name) {
            inherited.extend(
                ancestor
                    .fields
                    .keys()
                    .map(|field| (field.as_str(), ancestor.name.as_str())),
            );
        }
        if class.fields.len() + inherited.len() > FIELDS_MAX {
            return Err(SchemaError::Invalid(format!(
                "class {name} has more than {FIELDS_MAX} fields"
            )));
        }
        for (key, field) in &class.fields {
            check_field_name(name, key)?;
            if let Some(ancestor) = inherited.get(key.as_str()) {
                return Err(SchemaError::NotCompatible(format!(
                    "field {name}.{key} is already a field of its superclass {ancestor}"
                )));
            }
            if field.flags.metadata && name != OBJECT {
                return Err(SchemaError::Invalid(format!(
                    "field {name}.{key} cannot have the flag METADATA"
                )));
            }
            self.check_type(&field.ty, &format!("field {name}.{key}"), before)?;
        }
        Ok(())
    }

    fn check_type(&self, ty: &FieldType, place: &str, before: &Schema) -> Result<(), SchemaError> {
        for (ty, name) in ty.class_types().zip(ty.classes()) {
            let Some(class) = self.class(name) else {
                return Err(missing(name, place, before));
            };
            if class.embedded != matches!(ty, FieldType::Embedded(_)) {
                return Err(SchemaError::NotCompatible(format!(
                    "{place} needs the class {name} as it was, entity or embedded"
                )));
            }
        }
        Ok(())
    }

    fn check_system_classes(&self) -> Result<(), SchemaError> {
        for system in system::system_classes() {
            let name = &system.name;
            let kept = self.class(name).is_some_and(|class| {
                class.super_class == system.super_class
                    && !class.embedded
                    && system.fields.iter().all(|(key, field)| {
                        class
                            .fields
                            .get(key)
                            .is_some_and(|kept| kept.ty == field.ty && kept.flags == field.flags)
                    })
            });
            if !kept {
                return Err(SchemaError::NotCompatible(format!(
                    "class {name} is a system class; it and its own fields stay"
                )));
            }
            // Whoever could lift these denials could do what they deny.
            let lifted = system.acl.iter().find(|(operation, rules)| {
                rules.denies_everybody()
                    && self
                        .class(name)
                        .is_some_and(|class| class.acl.rules(*operation) != *rules)
            });
            if let Some((operation, _)) = lifted {
                return Err(SchemaError::NotCompatible(format!(
                    "{operation} on class {name} is denied to everybody, and stays so"
                )));
            }
        }
        let object_fields = self.class(OBJECT).map_or(0, |object| object.fields.len());
        if Some(object_fields) != system::system_class(OBJECT).map(|object| object.fields.len()) {
            return Err(SchemaError::NotCompatible(format!(
                "class {OBJECT} takes no further fields"
            )));
        }
        Ok(())
    }
}

/// The error for a class that `place` names and that is not there.
pub(super) fn missing(class: &str, place: &str, before: &Schema) -> SchemaError {
    if before.class(class).is_some() {
        SchemaError::StillReferenced(format!("class {class} is still referenced by {place}"))
    } else {
        SchemaError::Invalid(format!("{place} names the unknown class {class}"))
    }
}

/// Words of letters, digits and underscores, separated by dots.
fn check_class_name(name: &str) -> Result<(), SchemaError> {
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if name.len() > NAME_BYTES_MAX || !name.split('.').all(is_word) {
        return Err(SchemaError::Invalid(format!(
            "{name:?} is no class name: words of letters, digits and _, separated by dots, at most {NAME_BYTES_MAX} bytes"
        )));
    }
    // `/db/String` and `/db/collection.List[…]` would have two meanings.
    if FieldType::is_basic_name(name) || name.split('.').next() == Some("collection") {
        return Err(SchemaError::Invalid(format!(
            "the class name {name} is reserved"
        )));
    }
    Ok(())
}

/// Whatever a path in a filter can name: no dots, and no leading `$`, which marks operators.
fn check_field_name(class: &str, name: &str) -> Result<(), SchemaError> {
    let bad = name.is_empty()
        || name.len() > NAME_BYTES_MAX
        || name.starts_with('$')
        || name
            .chars()
            .any(|character| character == '.' || character.is_control());
    if bad {
        return Err(SchemaError::Invalid(format!(
            "{name:?} is no field name for class {class}: no dots, no leading $, 1 to {NAME_BYTES_MAX} bytes"
        )));
    }
    Ok(())
}

fn check_acl(class: &Class) -> Result<(), SchemaError> {
    let mut operations = class.acl.iter().map(|(operation, _)| operation);
    match operations.find(|operation: &Operation| class.embedded && !operation.is_for_embedded()) {
        Some(operation) => Err(SchemaError::Invalid(format!(
            "embedded class {} cannot have rules for {operation}",
            class.name
        ))),
        None => Ok(()),
    }
}
