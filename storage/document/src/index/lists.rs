//! Whether a document may have several values at the end of a path, by the types of the class.

use serde::{Deserialize, Serialize};

use crate::query::path::{Path, Start};
use crate::schema::{FieldType, Layout};

/// Whether the values of a component come from a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Lists {
    /// One value a document, as far as documents are of their class.
    Never,
    /// The types do not say.
    Maybe,
    /// A list by its type.
    Always,
}

impl Lists {
    /// Walks the types along a path of the class; also says what is at its end, lists taken off, or `None` where the types do not say.
    pub(super) fn of<'a>(
        path: &Path,
        text: &str,
        layout: &'a Layout,
    ) -> (Lists, Option<&'a FieldType>) {
        if !matches!(path.start, Start::Field(_)) {
            return (Lists::Never, Some(&FieldType::String));
        }
        let field = text.split('.').next().unwrap_or_default();
        let Some(slot) = layout.shape().slot(field) else {
            return (Lists::Maybe, None);
        };
        let mut ty = &slot.ty;
        let mut lists = Lists::Never;
        let mut steps = path.steps();
        loop {
            let is_list = match ty {
                FieldType::List(element) | FieldType::Set(element) => {
                    ty = element;
                    true
                }
                FieldType::JsonArray => true,
                _ => false,
            };
            let step = steps.next();
            if is_list {
                // An index takes one element, but elements that are objects may have a member of that name.
                lists = match step {
                    Some((_, true)) => Lists::Maybe,
                    _ => Lists::Always,
                };
            }
            let Some((name, is_index)) = step else {
                return (lists, Some(ty));
            };
            ty = match ty {
                FieldType::Map(_, value) => value,
                FieldType::Embedded(class) => {
                    let field = layout.embedded(class).and_then(|shape| shape.slot(name));
                    match field {
                        Some(slot) => &slot.ty,
                        // The step was an index into a list.
                        None if is_list && is_index => ty,
                        None => return (lists.or_maybe(), None),
                    }
                }
                FieldType::JsonArray | FieldType::JsonObject => return (lists.or_maybe(), None),
                _ if is_list && is_index => ty,
                // A part of a place, or nothing: in any case no list, and no place.
                _ => return (lists, Some(&FieldType::Double)),
            };
        }
    }

    fn or_maybe(self) -> Lists {
        match self {
            Lists::Never => Lists::Maybe,
            other => other,
        }
    }
}
