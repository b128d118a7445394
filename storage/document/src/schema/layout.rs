//! The compiled form of a class: its fields in the order in which bodies hold them, found by name at the cost of a hash.
//!
//! A layout is made once per schema version and class, and shared. It owns its data, so it can outlive the schema; references are
//! checked against the schema itself, because subclasses of their class may come and go.

use std::collections::HashMap;

use super::{Class, FieldType, OBJECT, Schema};
use crate::json;

/// What bodies of one entity class look like.
#[derive(Clone, Debug)]
pub struct Layout {
    class: String,
    open: bool,
    shape: Shape,
    /// Shapes of all embedded classes that can occur anywhere in a body, by name.
    embedded: HashMap<String, Shape>,
}

impl Layout {
    /// A layout that knows embedded classes alone, each by the fields that matter to it.
    pub(crate) fn of_embedded<'a>(
        classes: impl Iterator<Item = (&'a String, Vec<(&'a String, &'a FieldType)>)>,
    ) -> Layout {
        let embedded = classes
            .map(|(class, fields)| {
                let mut shape = Shape::default();
                for (name, ty) in fields {
                    shape.push(name, ty, false);
                }
                (class.clone(), shape)
            })
            .collect();
        Layout {
            class: String::new(),
            open: false,
            shape: Shape::default(),
            embedded,
        }
    }

    /// Bare name of the class, which is the bucket.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// Whether unknown members are kept, see [`Class::is_open`].
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// The members of a document, without its metadata.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The members of values of an embedded class; `None` if no field reaches that class.
    pub fn embedded(&self, class: &str) -> Option<&Shape> {
        self.embedded.get(class)
    }

    /// Whether some field takes no values from ordinary callers, so that writes need the stored ones.
    pub fn has_read_only(&self) -> bool {
        self.shape.slots.iter().any(|slot| slot.read_only)
    }
}

/// Fields in order: inherited ones first, then by their `order`; internal fields and those of `Object` are not among them.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    slots: Vec<Slot>,
    by_name: HashMap<String, usize>,
}

impl Shape {
    /// All fields in order.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The field with this name.
    pub fn slot(&self, name: &str) -> Option<&Slot> {
        self.position(name, 0).map(|at| &self.slots[at])
    }

    /// Index of the field `name`. Looks at `guess` first: clients send members in class order, so the guess "the next one" is nearly
    /// always right and saves the hash.
    pub(crate) fn position(&self, name: &str, guess: usize) -> Option<usize> {
        if self.slots.get(guess).is_some_and(|slot| slot.name == name) {
            return Some(guess);
        }
        self.by_name.get(name).copied()
    }

    /// All classes that the types of the fields name.
    fn classes(&self) -> Vec<String> {
        self.slots
            .iter()
            .flat_map(|slot| slot.ty.classes())
            .map(str::to_owned)
            .collect()
    }

    fn of<'a>(classes: impl Iterator<Item = &'a Class>) -> Shape {
        let mut shape = Shape::default();
        for class in classes {
            for field in class.fields_in_order() {
                if field.is_internal() || class.name == OBJECT {
                    continue;
                }
                shape.push(&field.name, &field.ty, field.flags.read_only);
            }
        }
        shape
    }

    fn push(&mut self, name: &str, ty: &FieldType, read_only: bool) {
        let mut label = Vec::with_capacity(name.len() + 3);
        json::write_string(&mut label, name);
        label.push(b':');
        self.by_name.insert(name.to_owned(), self.slots.len());
        self.slots.push(Slot {
            name: name.to_owned(),
            ty: ty.clone(),
            read_only,
            label: label.into_boxed_slice(),
        });
    }
}

/// One member of a document or an embedded value.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Name of the member.
    pub name: String,
    /// What its value may be.
    pub ty: FieldType,
    /// Whether ordinary callers cannot set it.
    pub read_only: bool,
    /// The name as JSON text with its colon, ready to be copied.
    pub(crate) label: Box<[u8]>,
}

impl Schema {
    /// Compiles the class `name`; `None` if there is no such entity class.
    pub fn layout(&self, name: &str) -> Option<Layout> {
        let class = self.class(name).filter(|class| !class.embedded)?;
        let mut line: Vec<&Class> = self.ancestors(name).collect();
        line.reverse();
        line.push(class);
        let shape = Shape::of(line.into_iter());

        let mut embedded = HashMap::new();
        let mut found = shape.classes();
        while let Some(name) = found.pop() {
            let Some(class) = self.class(&name).filter(|class| class.embedded) else {
                continue;
            };
            embedded.entry(name).or_insert_with(|| {
                let shape = Shape::of(std::iter::once(class));
                found.extend(shape.classes());
                shape
            });
        }
        Some(Layout {
            class: name.to_owned(),
            open: class.is_open(),
            shape,
            embedded,
        })
    }
}
