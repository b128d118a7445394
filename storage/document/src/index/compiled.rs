//! Indexes compiled for a class: what apply needs to know, without the schema.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::definition::{Definition, Kind};
use super::hashed::{HashKey, IndexSecret};
use super::lists::Lists;
use crate::json::excerpt;
use crate::query::path::{Path, Projection};
use crate::query::{Error, Limits};
use crate::schema::{FieldType, Layout};

/// An index, compiled for a class. Cheap to clone. Knows all that apply needs, without the schema.
#[derive(Clone, Debug)]
pub struct Index(pub(super) Arc<Compiled>);

#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) definition: Definition,
    pub(super) components: Vec<Component>,
    pub(super) projection: Projection,
    /// Knows embedded classes alone.
    pub(super) layout: Layout,
    /// Fields of the embedded classes that values at the ends of the paths are read with, as far as their types matter.
    pub(super) classes: Classes,
}

pub(super) type Classes = BTreeMap<String, BTreeMap<String, FieldType>>;

#[derive(Clone, Debug)]
pub(super) struct Component {
    pub(super) path: Path,
    pub(super) kind: Kind,
    pub(super) lists: Lists,
    /// Of a hashed one.
    pub(super) key: Option<HashKey>,
}

impl Component {
    pub(super) fn is_descending(&self) -> bool {
        self.kind == Kind::Descending
    }

    pub(super) fn is_geo(&self) -> bool {
        self.kind == Kind::Geo
    }
}

/// A component before its path is read: how it is written down.
pub(super) struct Part {
    pub(super) path: String,
    pub(super) kind: Kind,
    pub(super) lists: Lists,
    pub(super) ty: Option<FieldType>,
    pub(super) key: Option<HashKey>,
}

impl Index {
    /// Compiles a definition for documents of a class.
    ///
    /// # Errors
    /// [`Error::InvalidValue`]: a geo component that holds no places. [`Error::Unsupported`]: two components that are lists, or a path
    /// that queries cannot look at, or a hashed component. [`Error::Syntax`], [`Error::Limit`]: no path, or one that is too long.
    pub fn compile(definition: &Definition, layout: &Arc<Layout>) -> Result<Index, Error> {
        Index::compile_with(definition, layout, &|path| {
            let path = excerpt(path);
            Err(Error::Unsupported(format!(
                "index: {path} is hashed, and there is no secret for it"
            )))
        })
    }

    /// The same with hashed components, for a bucket of the database that has this secret.
    ///
    /// # Errors
    /// As [`Index::compile`], but for hashed components.
    pub fn compile_hashed(
        definition: &Definition,
        layout: &Arc<Layout>,
        secret: &IndexSecret,
        bucket: u32,
    ) -> Result<Index, Error> {
        Index::compile_with(definition, layout, &|path| Ok(secret.key(bucket, path)))
    }

    fn compile_with(
        definition: &Definition,
        layout: &Arc<Layout>,
        key: &dyn Fn(&str) -> Result<HashKey, Error>,
    ) -> Result<Index, Error> {
        let mut classes = Classes::new();
        let mut parts = Vec::with_capacity(definition.keys.len());
        for (text, kind) in &definition.keys {
            let mut projection = Projection::default();
            let path = Path::of_document(text, layout, &mut projection, &Limits::default())?;
            let (lists, end) = Lists::of(&path, text, layout);
            if *kind == Kind::Geo && !holds_places(end) {
                return Err(Error::InvalidValue(format!(
                    "index: {} holds no places",
                    excerpt(text)
                )));
            }
            parts.push(Part {
                path: text.clone(),
                kind: *kind,
                lists,
                // Places are read from objects without types.
                ty: path
                    .ty()
                    .filter(|_| *kind != Kind::Geo)
                    .and_then(|ty| reading(ty, layout, &mut classes)),
                key: (*kind == Kind::Hashed).then(|| key(text)).transpose()?,
            });
        }
        let mut lists = parts.iter().filter(|part| part.lists == Lists::Always);
        if let (Some(one), Some(two)) = (lists.next(), lists.next()) {
            return Err(Error::Unsupported(format!(
                "index: {} and {} are both lists",
                excerpt(&one.path),
                excerpt(&two.path)
            )));
        }
        Index::assemble(definition.unique, parts, classes)
    }

    /// # Errors
    /// Those of paths.
    pub(super) fn assemble(
        unique: bool,
        parts: Vec<Part>,
        classes: Classes,
    ) -> Result<Index, Error> {
        let mut projection = Projection::default();
        let mut keys = Vec::with_capacity(parts.len());
        let mut components = Vec::with_capacity(parts.len());
        for part in parts {
            let path = Path::with_type(&part.path, part.ty, &mut projection, &Limits::default())?;
            components.push(Component {
                path,
                kind: part.kind,
                lists: part.lists,
                key: part.key,
            });
            keys.push((part.path, part.kind));
        }
        let layout = Layout::of_embedded(
            classes
                .iter()
                .map(|(class, fields)| (class, fields.iter().collect())),
        );
        Ok(Index(Arc::new(Compiled {
            definition: Definition { keys, unique },
            components,
            projection,
            layout,
            classes,
        })))
    }

    /// Whether documents may have lists where the types leave it open.
    pub fn is_open(&self) -> bool {
        let mut components = self.0.components.iter();
        components.any(|component| component.lists == Lists::Maybe)
    }

    /// The same index, for as long as [`Index::meets_list`] is false of every document in it: its order counts, and so do conditions that
    /// bound it together. The values of documents are the same.
    #[must_use]
    pub fn closed(&self) -> Index {
        let close = |component: &Component| Component {
            lists: match component.lists {
                Lists::Maybe => Lists::Never,
                lists => lists,
            },
            ..component.clone()
        };
        Index(Arc::new(Compiled {
            components: self.0.components.iter().map(close).collect(),
            definition: self.0.definition.clone(),
            projection: self.0.projection.clone(),
            layout: self.0.layout.clone(),
            classes: self.0.classes.clone(),
        }))
    }

    /// What it was compiled from.
    pub fn definition(&self) -> &Definition {
        &self.0.definition
    }
}

/// Whether values of the type, or unknown ones, may be places.
fn holds_places(end: Option<&FieldType>) -> bool {
    matches!(
        end,
        None | Some(FieldType::GeoPoint | FieldType::JsonObject | FieldType::JsonArray)
    )
}

/// The type as far as it matters to how values are read: so other changes of types leave an index as it is. `None`: it does not matter.
/// The embedded classes that it names are added to `classes`.
fn reading(ty: &FieldType, layout: &Layout, classes: &mut Classes) -> Option<FieldType> {
    match ty {
        FieldType::DateTime | FieldType::Date | FieldType::Time => Some(ty.clone()),
        FieldType::List(element) | FieldType::Set(element) => reading(element, layout, classes),
        FieldType::Map(_, value) => reading(value, layout, classes)
            .map(|value| FieldType::Map(Box::new(FieldType::String), Box::new(value))),
        FieldType::Embedded(class) => {
            if !classes.contains_key(class) {
                // Present before its fields are read: classes may contain themselves.
                classes.insert(class.clone(), BTreeMap::new());
                let slots = layout.embedded(class).map(|shape| shape.slots());
                let fields = slots
                    .unwrap_or_default()
                    .iter()
                    .filter_map(|slot| {
                        Some((slot.name.clone(), reading(&slot.ty, layout, classes)?))
                    })
                    .collect();
                classes.insert(class.clone(), fields);
            }
            Some(ty.clone())
        }
        FieldType::Boolean
        | FieldType::Double
        | FieldType::Integer
        | FieldType::String
        | FieldType::File
        | FieldType::GeoPoint
        | FieldType::JsonArray
        | FieldType::JsonObject
        | FieldType::Reference(_) => None,
    }
}
