//! Fields whose values must not lie open on a disk: annotated with [`SENSITIVE`], and therefore indexed by keyed hashes alone.
//!
//! Encryption at rest covers values and not keys, and an index has the values of its fields in its keys, unless they are hashed
//! ([`Kind::Hashed`](crate::index::Kind::Hashed)).

use std::collections::BTreeSet;

use super::{Field, FieldType, Schema};

/// The annotation of a field which says, with the value `true`, that no index may hold its value but as a keyed hash.
pub const SENSITIVE: &str = "larder.sensitive";

impl Field {
    /// Whether its value must not lie open on a disk.
    pub fn is_sensitive(&self) -> bool {
        self.metadata
            .get(SENSITIVE)
            .is_some_and(|value| value == "true")
    }
}

impl Schema {
    /// The sensitive field that an index over the dotted `path` of documents of `class` would lay open: one on the way, or one inside of
    /// what the path ends at. `None`: there is none.
    pub fn sensitive_in(&self, class: &str, path: &str) -> Option<&Field> {
        let mut class = class;
        let mut end = None;
        for segment in path.split('.') {
            // Positions of lists and keys of maps are no fields: what follows belongs to the same class.
            let Some(field) = self.field(class, segment) else {
                continue;
            };
            if field.is_sensitive() {
                return Some(field);
            }
            end = Some(field);
            match embedded(&field.ty) {
                Some(inner) => class = inner,
                // A value without fields, or another document.
                None => return None,
            }
        }
        let inner = embedded(&end?.ty)?;
        self.any_sensitive(inner, &mut BTreeSet::new())
    }

    fn field(&self, class: &str, name: &str) -> Option<&Field> {
        let own = self.class(class)?.fields.get(name);
        own.or_else(|| {
            self.ancestors(class)
                .find_map(|ancestor| ancestor.fields.get(name))
        })
    }

    /// The first sensitive field of an embedded class, or of those embedded in it.
    fn any_sensitive<'s>(
        &'s self,
        class: &'s str,
        seen: &mut BTreeSet<&'s str>,
    ) -> Option<&'s Field> {
        if !seen.insert(class) {
            return None;
        }
        let fields = &self.class(class)?.fields;
        fields.values().find_map(|field| {
            if field.is_sensitive() {
                return Some(field);
            }
            self.any_sensitive(embedded(&field.ty)?, seen)
        })
    }
}

/// The class whose fields a value of this type has, itself or in its elements.
fn embedded(ty: &FieldType) -> Option<&str> {
    match ty {
        FieldType::Embedded(class) => Some(class),
        FieldType::List(of) | FieldType::Set(of) | FieldType::Map(_, of) => embedded(of),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;

    use super::*;
    use crate::schema::Class;

    fn class(name: &str, parent: Option<&str>, fields: &[(&str, FieldType, bool)]) -> Class {
        let field = |(name, ty, is_sensitive): &(&str, FieldType, bool)| {
            let mut metadata = IndexMap::new();
            metadata.insert(SENSITIVE.to_owned(), is_sensitive.to_string());
            let field = Field {
                name: (*name).to_owned(),
                ty: ty.clone(),
                order: 0,
                flags: Default::default(),
                metadata,
            };
            ((*name).to_owned(), field)
        };
        Class {
            name: name.to_owned(),
            super_class: parent.map(str::to_owned),
            embedded: parent.is_none(),
            fields: fields.iter().map(field).collect(),
            ..Class::default()
        }
    }

    #[test]
    fn what_an_index_would_lay_open_is_found_on_the_way_and_below_its_end() {
        let embedded = |class: &str| FieldType::Embedded(class.to_owned());
        let schema = Schema {
            classes: [
                class(
                    "Base",
                    Some("Object"),
                    &[("salary", FieldType::Double, true)],
                ),
                class(
                    "Person",
                    Some("Base"),
                    &[
                        ("name", FieldType::String, false),
                        ("home", embedded("Address"), false),
                        (
                            "past",
                            FieldType::List(Box::new(embedded("Address"))),
                            false,
                        ),
                        ("friend", FieldType::Reference("Person".to_owned()), false),
                    ],
                ),
                class(
                    "Address",
                    None,
                    &[
                        ("city", FieldType::String, false),
                        ("street", FieldType::String, true),
                        ("next", embedded("Address"), false),
                    ],
                ),
            ]
            .into_iter()
            .map(|class| (class.name.clone(), class))
            .collect(),
        };
        let found = |path| {
            let field = schema.sensitive_in("Person", path);
            field.map(|field| field.name.as_str())
        };
        for path in [
            "name",
            "home.city",
            "past.city",
            "past.0.city",
            "friend",
            "unknown",
            "",
        ] {
            assert_eq!(found(path), None, "{path}");
        }
        assert_eq!(found("salary"), Some("salary"));
        for path in [
            "home",
            "past",
            "past.1",
            "home.street",
            "past.0.street",
            "home.next.next",
        ] {
            assert_eq!(found(path), Some("street"), "{path}");
        }
    }
}
