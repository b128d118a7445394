//! How a schema may change: merge (POST), replace (PUT), drop (DELETE), and the rights that each needs (contract section 4.3).
//!
//! All changes have the same shape: build the wanted schema, check it as a whole, compare it with the present one, and ask for the
//! rights that the differences need. So a client that sends back what it was given, as the SDK does with every class, needs no right
//! for what it did not touch.
//!
//! - A merge only adds: classes, fields, annotations. The ACL of an existing class changes by `updateClassAcl` alone.
//! - A replacement gives exactly the fields of the request, with three exceptions that clients cannot know or send: system fields, flags,
//!   and validation code stay if not mentioned. An ACL that is not mentioned stays too, so that an omission never widens rights.
//! - No change gives a field that exists another type, nor one that was removed: stored documents are served as they are, and nobody would
//!   convert them.

use std::collections::HashMap;

use indexmap::IndexMap;
use indexmap::map::Entry;

use super::check::{FIELDS_MAX, missing};
use super::types::TypeError;
use super::wire::{Change, Descriptor, FieldDescriptor};
use super::{Class, ClassAcl, Field, FieldType, OBJECT, Operation, Schema, system};
use crate::acl::Principal;
use crate::error::SchemaError;

type Result<T, E = SchemaError> = std::result::Result<T, E>;

impl Schema {
    /// The schema after a POST of `changes`: what is missing is added, nothing is removed, retyped or opened up.
    ///
    /// A new class gets the ACL of its descriptor, with the admins' rules for schema operations that have none, and the superclass
    /// `Object` if none is named. Fields that the superclass already has with the same type are passed over.
    ///
    /// # Errors
    /// [`SchemaError::NotCompatible`]: another type, superclass or kind than the present one. [`SchemaError::StillExists`]: another type
    /// than a field of this name had before it was removed. [`SchemaError::UnknownClass`]: an operation
    /// on a class that does not exist. [`SchemaError::Invalid`]: the result would break a rule of schemas. [`SchemaError::Denied`]:
    /// `principal` lacks `schemaAdd` on a changed class, `schemaSubclass` on the superclass of a new one, or `schemaReplace` where the
    /// ACL changes. Nothing took effect in any of these cases.
    pub fn merge(&self, changes: &[Change], principal: &Principal) -> Result<Schema> {
        let kinds = self.kinds(self, changes);
        let mut next = self.clone();
        for change in changes {
            match change {
                Change::Class(descriptor) => {
                    self.merge_descriptor(&mut next, descriptor, &kinds)?
                }
                Change::UpdateClassAcl { class, acl } => {
                    let class = next
                        .classes
                        .get_mut(class)
                        .ok_or_else(|| SchemaError::UnknownClass(class.clone()))?;
                    class.acl = acl.clone().with_schema_protected(class.embedded);
                }
            }
        }
        self.finish(next, principal, Operation::SchemaAdd)
    }

    /// The schema after a PUT of the whole: exactly the classes of `changes`, and with them the system classes and the namespaces
    /// `logs`, `speedKit` and `rum`, which stay as they are unless the request names them.
    ///
    /// # Errors
    /// As [`Schema::merge`], with `schemaReplace` for every class that changes or vanishes. [`SchemaError::AlreadyExists`]: a class
    /// occurs twice. [`SchemaError::StillReferenced`]: a class vanishes that a remaining one names. [`SchemaError::Invalid`] also for
    /// operations, which belong into a POST.
    pub fn replace(&self, changes: &[Change], principal: &Principal) -> Result<Schema> {
        let mut next = Schema::default();
        for class in self
            .classes()
            .filter(|class| system::survives_replacement(&class.name))
        {
            next.classes.insert(class.name.clone(), class.clone());
        }
        let kinds = self.kinds(&next, changes);
        let mut named = HashMap::new();
        for change in changes {
            let descriptor = only_descriptor(change)?;
            if named.insert(&descriptor.name, ()).is_some() {
                return Err(SchemaError::AlreadyExists(format!(
                    "class {} is defined twice",
                    descriptor.name
                )));
            }
            let class = self.replaced(descriptor, &kinds)?;
            next.classes.insert(class.name.clone(), class);
        }
        self.finish(next, principal, Operation::SchemaReplace)
    }

    /// The schema after a POST of one class; it is created if it does not exist.
    ///
    /// # Errors
    /// As [`Schema::merge`]; [`SchemaError::Invalid`] also if the change is about another class than `name`.
    pub fn merge_class(
        &self,
        name: &str,
        change: &Change,
        principal: &Principal,
    ) -> Result<Schema> {
        is_about(name, change)?;
        self.merge(std::slice::from_ref(change), principal)
    }

    /// The schema after a PUT of one class; it is created if it does not exist. All other classes stay.
    ///
    /// # Errors
    /// As [`Schema::replace`]; [`SchemaError::Invalid`] also if the change is about another class than `name`.
    pub fn replace_class(
        &self,
        name: &str,
        change: &Change,
        principal: &Principal,
    ) -> Result<Schema> {
        is_about(name, change)?;
        let descriptor = only_descriptor(change)?;
        let mut next = self.clone();
        let class = self.replaced(descriptor, &self.kinds(self, std::slice::from_ref(change)))?;
        next.classes.insert(class.name.clone(), class);
        self.finish(next, principal, Operation::SchemaReplace)
    }

    /// The schema without the class `name`.
    ///
    /// # Errors
    /// [`SchemaError::UnknownClass`]; [`SchemaError::NotCompatible`]: a system class; [`SchemaError::StillReferenced`]: the superclass
    /// of another class or the type of a field; [`SchemaError::Denied`]: no `schemaReplace` on it.
    pub fn drop_class(&self, name: &str, principal: &Principal) -> Result<Schema> {
        if self.class(name).is_none() {
            return Err(SchemaError::UnknownClass(name.to_owned()));
        }
        if system::system_class(name).is_some() {
            return Err(SchemaError::NotCompatible(format!(
                "class {name} is a system class; it stays"
            )));
        }
        let mut next = self.clone();
        next.classes.shift_remove(name);
        // A class may refer to itself, so its own fields do not keep it: the check looks at what remains.
        self.finish(next, principal, Operation::SchemaReplace)
    }

    /// For each class of the result, whether it is an embedded class: those that are `kept`, and those that the request has.
    ///
    /// A class that exists keeps its kind if the request does not say.
    fn kinds(&self, kept: &Schema, changes: &[Change]) -> HashMap<String, bool> {
        let mut kinds: HashMap<String, bool> = kept
            .classes()
            .map(|class| (class.name.clone(), class.embedded))
            .collect();
        for change in changes {
            if let Change::Class(descriptor) = change {
                let name = &descriptor.name;
                let present = || self.class(name).is_some_and(|class| class.embedded);
                kinds
                    .entry(name.clone())
                    .or_insert(descriptor.embedded.unwrap_or_else(present));
            }
        }
        kinds
    }

    /// Adds to `next` what `descriptor` has and the class lacks.
    fn merge_descriptor(
        &self,
        next: &mut Schema,
        descriptor: &Descriptor,
        kinds: &HashMap<String, bool>,
    ) -> Result<()> {
        let name = &descriptor.name;
        let class = match next.classes.entry(name.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                entry.insert(new_class(descriptor));
                return self.merge_descriptor(next, descriptor, kinds);
            }
        };
        same_kind(descriptor, class)?;
        if descriptor.super_class.is_some()
            && super_class(descriptor, class.embedded) != class.super_class
        {
            return Err(SchemaError::NotCompatible(format!(
                "the superclass of {name} is {}",
                class.super_class.as_deref().unwrap_or("none")
            )));
        }
        for (key, sent) in &descriptor.fields {
            let ty = self.field_type(name, key, sent, kinds)?;
            if let Some(field) = class.fields.get_mut(key) {
                if field.ty != ty {
                    return Err(retyped(name, key, &field.ty, &ty));
                }
                annotate(&mut field.metadata, sent.metadata.as_ref());
            } else {
                let field = new_field(class, key, ty, sent)?;
                class.fields.insert(key.clone(), field);
            }
        }
        annotate(&mut class.metadata, descriptor.metadata.as_ref());
        validate_with(class, descriptor);
        Ok(())
    }

    /// The class that `descriptor` describes, with what only the present one knows.
    fn replaced(&self, descriptor: &Descriptor, kinds: &HashMap<String, bool>) -> Result<Class> {
        let name = &descriptor.name;
        let present = self.class(name);
        let mut class = new_class(descriptor);
        if let Some(present) = present {
            same_kind(descriptor, present)?;
            class.embedded = present.embedded;
            class.super_class = match descriptor.super_class {
                Some(_) => super_class(descriptor, class.embedded),
                None => present.super_class.clone(),
            };
            if descriptor.acl.is_none() {
                class.acl = present.acl.clone();
            }
            class.removed.clone_from(&present.removed);
            class.validation_code.clone_from(&present.validation_code);
            let system_fields = system::system_class(name).map(|system| &system.fields);
            class.fields = present
                .fields
                .iter()
                .filter(|(key, field)| {
                    field.is_internal()
                        || system_fields.is_some_and(|fields| fields.contains_key(*key))
                })
                .map(|(key, field)| (key.clone(), field.clone()))
                .collect();
        }
        annotate(&mut class.metadata, descriptor.metadata.as_ref());
        validate_with(&mut class, descriptor);
        for (key, sent) in &descriptor.fields {
            let ty = self.field_type(name, key, sent, kinds)?;
            if let Some(kept) = class.fields.get(key) {
                if kept.ty != ty {
                    return Err(retyped(name, key, &kept.ty, &ty));
                }
                continue;
            }
            let mut field = new_field(&class, key, ty, sent)?;
            if let Some(present) = present.and_then(|class| class.fields.get(key)) {
                field.flags = sent.flags.unwrap_or(present.flags);
                field.order = sent.order.unwrap_or(present.order);
            }
            class.fields.insert(key.clone(), field);
        }
        Ok(class)
    }

    fn field_type(
        &self,
        class: &str,
        field: &str,
        sent: &FieldDescriptor,
        kinds: &HashMap<String, bool>,
    ) -> Result<FieldType> {
        FieldType::parse(&sent.ty, &|name| kinds.get(name).copied()).map_err(|error| match error {
            TypeError::Malformed(why) => {
                SchemaError::Invalid(format!("field {class}.{field}: {why}"))
            }
            TypeError::UnknownClass(name) => {
                missing(&name, &format!("field {class}.{field}"), self)
            }
        })
    }

    /// What every change ends with: the result obeys all rules, contradicts nothing that stays, and the caller may have it.
    fn finish(&self, mut next: Schema, principal: &Principal, right: Operation) -> Result<Schema> {
        self.pass_over_inherited(&mut next);
        next.check(self)?;
        self.check_types_stay(&next)?;
        next.check_removed()?;
        self.authorise(&next, principal, right)?;
        self.remember_removed(&mut next);
        Ok(next)
    }

    /// Removes new fields that only repeat what a superclass has. Hand-written descriptors list `id` and the like.
    fn pass_over_inherited(&self, next: &mut Schema) {
        let mut repeated: Vec<(String, String)> = Vec::new();
        for class in next.classes() {
            let present = self.class(&class.name);
            for (key, field) in &class.fields {
                let is_new = present.is_none_or(|class| !class.fields.contains_key(key));
                if is_new
                    && next.ancestors(&class.name).any(|ancestor| {
                        ancestor
                            .fields
                            .get(key)
                            .is_some_and(|inherited| inherited.ty == field.ty)
                    })
                {
                    repeated.push((class.name.clone(), key.clone()));
                }
            }
        }
        for (class, field) in repeated {
            if let Some(class) = next.classes.get_mut(&class) {
                class.fields.shift_remove(&field);
            }
        }
    }

    /// Checks that whatever exists before and after, own or inherited, has the same type.
    fn check_types_stay(&self, next: &Schema) -> Result<()> {
        for class in self.classes() {
            let name = &class.name;
            let types = next.types_of(name);
            for (field, ty) in self.types_of(name) {
                match types.get(field) {
                    Some(after) if *after != ty => return Err(retyped(name, field, ty, after)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Checks that no field comes back with another type than it had when it was removed.
    fn check_removed(&self) -> Result<()> {
        for class in self.classes() {
            let name = &class.name;
            let types = self.types_of(name);
            for (field, was) in &class.removed {
                if types.get(field.as_str()).is_some_and(|ty| **ty != *was) {
                    return Err(SchemaError::StillExists(format!(
                        "field {name}.{field} was {was} until it was removed, and stored documents may still hold such values: \
                         give it that type, or another name"
                    )));
                }
            }
            if types.len() + class.removed.len() > FIELDS_MAX {
                return Err(SchemaError::Invalid(format!(
                    "class {name} has more than {FIELDS_MAX} fields, with those that were removed"
                )));
            }
        }
        Ok(())
    }

    /// Notes in the classes of `next` which fields they have lost; one that is back is none.
    fn remember_removed(&self, next: &mut Schema) {
        let mut changes = Vec::new();
        for class in next.classes() {
            let after = next.types_of(&class.name);
            let mut removed = class.removed.clone();
            removed.retain(|field, _| !after.contains_key(field.as_str()));
            for (field, ty) in self.types_of(&class.name) {
                if !after.contains_key(field) {
                    removed.insert(field.to_owned(), ty.clone());
                }
            }
            if removed != class.removed {
                changes.push((class.name.clone(), removed));
            }
        }
        for (name, removed) in changes {
            if let Some(class) = next.classes.get_mut(&name) {
                class.removed = removed;
            }
        }
    }

    fn types_of(&self, name: &str) -> HashMap<&str, &FieldType> {
        let classes = self.class(name).into_iter().chain(self.ancestors(name));
        classes
            .flat_map(|class| &class.fields)
            .map(|(key, field)| (key.as_str(), &field.ty))
            .collect()
    }

    /// Checks the rights that the differences between this schema and `next` need; `right` is the one for a change without special rule.
    fn authorise(&self, next: &Schema, principal: &Principal, right: Operation) -> Result<()> {
        let demand = |class: &Class, operation: Operation| {
            if class.permits(operation, principal) {
                return Ok(());
            }
            Err(SchemaError::Denied(format!(
                "{operation} on class {} is not permitted",
                class.name
            )))
        };
        for class in next.classes() {
            match self.class(&class.name) {
                Some(present) if present == class => {}
                Some(present) if present.acl != class.acl => {
                    demand(present, Operation::SchemaReplace)?
                }
                Some(present) => demand(present, right)?,
                None => {
                    // Judged by the nearest superclass that exists already: a request cannot grant itself rights by a class that it
                    // brings along. Embedded classes have no superclass; `Object` stands in for it.
                    let judge = next
                        .ancestors(&class.name)
                        .find_map(|ancestor| self.class(&ancestor.name));
                    if let Some(judge) = judge.or_else(|| self.class(OBJECT)) {
                        demand(judge, Operation::SchemaSubclass)?;
                    }
                }
            }
        }
        for class in self
            .classes()
            .filter(|class| next.class(&class.name).is_none())
        {
            demand(class, Operation::SchemaReplace)?;
        }
        Ok(())
    }
}

/// A class with everything of the descriptor but its fields, annotations and code.
fn new_class(descriptor: &Descriptor) -> Class {
    let embedded = descriptor.embedded.unwrap_or(false);
    Class {
        name: descriptor.name.clone(),
        super_class: super_class(descriptor, embedded),
        embedded,
        acl: match &descriptor.acl {
            Some(acl) => acl.clone().with_schema_protected(embedded),
            None => ClassAcl::of_new_class(embedded),
        },
        ..Class::default()
    }
}

/// The superclass that is meant: `Object` if none is named. Some clients name it for embedded classes too, where it means nothing.
fn super_class(descriptor: &Descriptor, embedded: bool) -> Option<String> {
    match descriptor.super_class.as_deref() {
        Some(OBJECT) | None if embedded || descriptor.name == OBJECT => None,
        None => Some(OBJECT.to_owned()),
        named => named.map(str::to_owned),
    }
}

fn new_field(class: &Class, key: &str, ty: FieldType, sent: &FieldDescriptor) -> Result<Field> {
    if key.starts_with('_') {
        return Err(SchemaError::Invalid(format!(
            "field {}.{key}: names that begin with _ are internal",
            class.name
        )));
    }
    let last = class.fields.values().map(|field| field.order).max();
    Ok(Field {
        name: key.to_owned(),
        ty,
        order: sent
            .order
            .unwrap_or(last.map_or(0, |last| last.saturating_add(1))),
        flags: sent.flags.unwrap_or_default(),
        metadata: sent.metadata.clone().unwrap_or_default(),
    })
}

/// Checks that the descriptor does not make an entity of an embedded class, or the reverse.
fn same_kind(descriptor: &Descriptor, present: &Class) -> Result<()> {
    if descriptor
        .embedded
        .is_none_or(|embedded| embedded == present.embedded)
    {
        return Ok(());
    }
    let kind = if present.embedded {
        "an embedded class"
    } else {
        "no embedded class"
    };
    Err(SchemaError::NotCompatible(format!(
        "class {} is {kind}",
        present.name
    )))
}

fn annotate(present: &mut IndexMap<String, String>, sent: Option<&IndexMap<String, String>>) {
    for (key, value) in sent.into_iter().flatten() {
        present.insert(key.clone(), value.clone());
    }
}

fn validate_with(class: &mut Class, descriptor: &Descriptor) {
    if let Some(code) = &descriptor.validation_code {
        class.validation_code = (!code.is_empty()).then(|| code.clone());
    }
}

fn only_descriptor(change: &Change) -> Result<&Descriptor> {
    match change {
        Change::Class(descriptor) => Ok(descriptor),
        Change::UpdateClassAcl { class, .. } => Err(SchemaError::Invalid(format!(
            "updateClassAcl of {class} belongs into a POST"
        ))),
    }
}

fn is_about(name: &str, change: &Change) -> Result<()> {
    let named = match change {
        Change::Class(descriptor) => &descriptor.name,
        Change::UpdateClassAcl { class, .. } => class,
    };
    if named == name {
        return Ok(());
    }
    Err(SchemaError::Invalid(format!(
        "the request is for class {name}, its body describes {named}"
    )))
}

fn retyped(class: &str, field: &str, present: &FieldType, wanted: &FieldType) -> SchemaError {
    SchemaError::NotCompatible(format!(
        "field {class}.{field} has the type {present}, not {wanted}"
    ))
}
