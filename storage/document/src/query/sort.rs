//! Orders of documents, as bytes.
//!
//! An array is sorted by its least element, or by its greatest in descending order, and an empty one before null. Each field chooses
//! for itself: MongoDB lets two fields below one array choose the same element, which the contract does not need.

use std::sync::Arc;

use serde_json::Value as Json;

use super::ordered::NOWHERE;
use super::path::{Ending, Found, Path, Projection, View};
use super::value::Seen;
use super::{Error, Limits, Subject, filter, geo, ordered};
use crate::schema::Layout;

/// An order of documents. Cheap to clone. Always total: documents that are otherwise equal are ordered by id.
#[derive(Clone, Debug, Default)]
pub struct Sort(Option<Arc<Keys>>);

#[derive(Debug)]
struct Keys {
    layout: Arc<Layout>,
    projection: Projection,
    by: By,
}

#[derive(Debug)]
enum By {
    Fields(Vec<Field>),
    /// From near to far.
    Distance(Path, geo::Point),
}

#[derive(Debug)]
struct Field {
    path: Path,
    descending: bool,
}

impl Sort {
    /// Reads `{"field":1,"other":-1}`; the order of members is their priority. An empty text is `{}`, the order by id.
    ///
    /// # Errors
    /// [`Error::Syntax`], [`Error::Unsupported`] and [`Error::Limit`].
    pub fn parse(text: &[u8], layout: &Arc<Layout>, limits: &Limits) -> Result<Sort, Error> {
        if text.is_empty() {
            return Ok(Sort::default());
        }
        let Json::Object(members) = filter::read_json(text, limits)? else {
            return Err(Error::Syntax(
                "a sort order must be a JSON object".to_owned(),
            ));
        };
        if members.len() > limits.sort_keys_max {
            return Err(Error::Limit {
                what: "fields of a sort order",
                limit: limits.sort_keys_max,
            });
        }
        let mut projection = Projection::default();
        let fields = members
            .iter()
            .map(|(name, direction)| {
                let path = Path::of_document(name, layout, &mut projection, limits)?;
                let descending = match direction.as_f64() {
                    Some(1.0) => false,
                    Some(-1.0) => true,
                    _ => {
                        return Err(Error::Syntax(format!(
                            "sort order of {}: expected 1 or -1",
                            path.text()
                        )));
                    }
                };
                Ok(Field { path, descending })
            })
            .collect::<Result<Vec<Field>, Error>>()?;
        if fields.is_empty() {
            return Ok(Sort::default());
        }
        Ok(Sort::by(layout, projection, By::Fields(fields)))
    }

    /// From near to far.
    pub(super) fn by_distance(
        layout: &Arc<Layout>,
        projection: &Projection,
        path: &Path,
        point: geo::Point,
    ) -> Sort {
        Sort::by(
            layout,
            projection.clone(),
            By::Distance(path.clone(), point),
        )
    }

    fn by(layout: &Arc<Layout>, projection: Projection, by: By) -> Sort {
        Sort(Some(Arc::new(Keys {
            layout: Arc::clone(layout),
            projection,
            by,
        })))
    }

    /// Whether it names no field, so that documents come by id.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Paths and whether they are descending, in the order of their priority; `None` for the order from near to far.
    pub(crate) fn fields(&self) -> Option<Vec<(&str, bool)>> {
        match self.0.as_ref().map(|keys| &keys.by) {
            None => Some(Vec::new()),
            Some(By::Fields(fields)) => Some(
                fields
                    .iter()
                    .map(|field| (field.path.text(), field.descending))
                    .collect(),
            ),
            Some(By::Distance(..)) => None,
        }
    }

    /// Where the document stands in this order.
    pub fn key(&self, subject: &Subject<'_>) -> SortKey {
        // Room for the id and two numbers or moments.
        let mut out = Vec::with_capacity(subject.id.len() + 24);
        if let Some(keys) = &self.0 {
            keys.projection.of(subject.fields, |fields| {
                let view = View {
                    subject,
                    fields,
                    element: None,
                    layout: &keys.layout,
                };
                keys.by.write(&view, &mut out);
            });
        }
        out.extend_from_slice(subject.id.as_bytes());
        SortKey(out.into_boxed_slice())
    }

    /// As JSON text that [`Sort::parse`] reads. The order from near to far is `{}`: it comes with the filter.
    pub fn canonical(&self) -> String {
        let mut members = serde_json::Map::new();
        if let Some(By::Fields(fields)) = self.0.as_ref().map(|keys| &keys.by) {
            for field in fields {
                let direction = if field.descending { -1 } else { 1 };
                members.insert(field.path.text().to_owned(), direction.into());
            }
        }
        Json::Object(members).to_string()
    }
}

impl By {
    fn write(&self, view: &View<'_>, out: &mut Vec<u8>) {
        match self {
            By::Fields(fields) => fields.iter().for_each(|field| field.write(view, out)),
            By::Distance(path, point) => {
                let metres = geo::nearest(path, view, *point).unwrap_or(f64::INFINITY);
                // Distances are not negative, and the bits of such doubles order as they do.
                out.extend_from_slice(&metres.to_bits().to_be_bytes());
            }
        }
    }
}

impl Field {
    /// Appends the least of the values that the path leads to, or the greatest inverted.
    fn write(&self, view: &View<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        let typing = self.path.typing(view.layout);
        self.path.any_found(view, Ending::Sorted, &mut |found| {
            let end = out.len();
            match found {
                Found::Bytes(bytes) => {
                    ordered::write_seen(out, &Seen::read(bytes, typing), typing, NOWHERE);
                }
                Found::Known(seen) => ordered::write_seen(out, &seen, typing, NOWHERE),
                Found::Empty => out.push(ordered::EMPTY),
            }
            let (best, next) = out[start..].split_at(end - start);
            let is_better = best.is_empty()
                || if self.descending {
                    next > best
                } else {
                    next < best
                };
            if is_better {
                out.drain(start..end);
            } else {
                out.truncate(end);
            }
            false
        });
        if out.len() == start {
            ordered::write_seen(out, &Seen::Missing, typing, NOWHERE);
        }
        if self.descending {
            out[start..].iter_mut().for_each(|byte| *byte = !*byte);
        }
    }
}

/// The place of a document in an order: bytes that compare as the documents do, directions and the id included.
///
/// Keys of different orders must not be compared. A key is about as long as the values that it is made of, which are not cut off.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SortKey(Box<[u8]>);

impl SortKey {
    /// The bytes, for tokens and for the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A key from the bytes of [`SortKey::as_bytes`]. Any bytes will do: foreign ones are some place in the order.
    pub fn from_bytes(bytes: &[u8]) -> SortKey {
        SortKey(bytes.into())
    }
}
