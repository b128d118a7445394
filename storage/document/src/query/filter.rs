//! A whole condition: what it asks, what it looks at, and its text.

use std::sync::Arc;

use serde_json::Value as Json;

use super::expression::Expression;
use super::geo;
use super::parse::Parser;
use super::path::{Path, Projection, View};
use super::{Error, Limits, Sort, Subject};
use crate::json;
use crate::schema::Layout;

/// A condition on documents of one class. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Filter(Option<Arc<Condition>>);

/// The text of the filter without conditions.
const ALL: &str = "{}";

#[derive(Debug)]
struct Condition {
    layout: Arc<Layout>,
    projection: Projection,
    expression: Expression,
    near: Option<(Path, geo::Point)>,
    canonical: String,
}

impl Filter {
    /// The filter that every document meets, `{}`.
    pub fn all() -> Filter {
        Filter(None)
    }

    /// Reads the JSON text of a filter for documents of the class of `layout`. An empty text is `{}`.
    ///
    /// Values are read by the type of their field: texts and `{"$date":…}` as moments where the field holds moments, ids in their normal
    /// form. A value that no document can have there is fine where MongoDB finds nothing, and refused where it is surely a mistake.
    ///
    /// # Errors
    /// [`Error::Syntax`]: not JSON, or an operator with an argument of another form. [`Error::Unsupported`]: an operator that is not
    /// offered, or not here. [`Error::InvalidValue`]: no date, no place on earth. [`Error::Limit`]: too much of something.
    pub fn parse(text: &[u8], layout: &Arc<Layout>, limits: &Limits) -> Result<Filter, Error> {
        if text.is_empty() {
            return Ok(Filter::all());
        }
        let json = read_json(text, limits)?;
        let mut parser = Parser::new(layout, limits);
        let expression = parser.document(&json)?;
        if expression.is_always() {
            return Ok(Filter::all());
        }
        let Parser {
            projection, near, ..
        } = parser;
        Ok(Filter(Some(Arc::new(Condition {
            layout: Arc::clone(layout),
            projection,
            expression,
            near,
            canonical: json.to_string(),
        }))))
    }

    /// Whether the document meets the condition. Fields that are not in the stored form give some answer; nothing panics.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let Some(condition) = &self.0 else {
            return true;
        };
        condition.projection.of(subject.fields, |fields| {
            condition.expression.holds(&View {
                subject,
                fields,
                element: None,
                layout: &condition.layout,
            })
        })
    }

    /// The condition and the class that it was read for; `None` if there is no condition.
    pub(crate) fn condition(&self) -> Option<(&Arc<Layout>, &Expression)> {
        self.0
            .as_ref()
            .map(|condition| (&condition.layout, &condition.expression))
    }

    /// Whether every document meets it, because it has no condition.
    pub fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Whether it looks at places on earth (`$nearSphere`, `$geoWithin`).
    pub fn is_geo(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|condition| condition.expression.is_geo())
    }

    /// The order of results: `sort` if it names fields, else from near to far if this has `$nearSphere`, else by id.
    pub fn order(&self, sort: Sort) -> Sort {
        let Some(condition) = self.0.as_ref().filter(|_| sort.is_empty()) else {
            return sort;
        };
        match &condition.near {
            Some((path, point)) => {
                Sort::by_distance(&condition.layout, &condition.projection, path, *point)
            }
            None => sort,
        }
    }

    /// The filter as JSON text that [`Filter::parse`] reads, without blanks and needless escapes. Equal texts are equal filters of a
    /// class; equal filters may have different texts.
    pub fn canonical(&self) -> &str {
        self.0
            .as_ref()
            .map_or(ALL, |condition| condition.canonical.as_str())
    }
}

/// Reads JSON within the limits of size and depth.
pub(super) fn read_json(text: &[u8], limits: &Limits) -> Result<Json, Error> {
    if text.len() > limits.text_bytes_max {
        return Err(Error::Limit {
            what: "bytes of a filter or sort order",
            limit: limits.text_bytes_max,
        });
    }
    let text = std::str::from_utf8(text)
        .map_err(|error| Error::Syntax(format!("not UTF-8 after {} bytes", error.valid_up_to())))?;
    if !json::is_within_depth(text, limits.depth_max) {
        return Err(Error::Limit {
            what: "nesting of a filter or sort order",
            limit: limits.depth_max,
        });
    }
    serde_json::from_str(text).map_err(|error| Error::Syntax(error.to_string()))
}
