//! The values that a document has in an index.

use sha2::{Digest, Sha256};

use super::cell;
use super::compiled::{Component, Index};
use super::encoding::{self, COMPONENT_BYTES_MAX, EMPTY, NO_PLACE};
use super::lists::Lists;
use crate::query::Subject;
use crate::query::geo::Point;
use crate::query::ordered::{self, NOWHERE};
use crate::query::path::{Ending, Found, View};
use crate::query::value::{Kind, Seen, Typing};

/// The hash of a value of a unique index.
pub type ValueHash = [u8; 32];

/// A document would have more values in an index than [`Index::VALUES_MAX`], or two components that are lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyValues;

/// What the bytes are for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Entries: cut off, in the order of the index.
    Entries,
    /// Hashes: whole, the same for all indexes; values with a part that is null or nothing are left out.
    Unique,
}

impl Index {
    /// The most values of one document in one index.
    pub const VALUES_MAX: usize = 1_000;

    /// The values of a document, ascending, each once; never none.
    ///
    /// # Errors
    /// [`TooManyValues`].
    pub fn values(&self, subject: &Subject<'_>) -> Result<Vec<Vec<u8>>, TooManyValues> {
        self.values_as(Form::Entries, subject)
    }

    /// Hashes of the values that no other document may have, ascending, each once; none for an index that is not unique and for exempt
    /// documents. Never of cut-off values; keyed where a component is hashed.
    ///
    /// A value with a component that is null, missing or an empty list is exempt.
    ///
    /// # Errors
    /// [`TooManyValues`].
    pub fn unique_values(&self, subject: &Subject<'_>) -> Result<Vec<ValueHash>, TooManyValues> {
        if !self.0.definition.unique {
            return Ok(Vec::new());
        }
        let mut keys = self.0.components.iter().filter_map(|one| one.key.as_ref());
        let key = keys.next();
        let hash = |value: &Vec<u8>| match key {
            Some(key) => key.unique(value),
            None => Sha256::digest(value).into(),
        };
        let values = self.values_as(Form::Unique, subject)?;
        let mut hashes: Vec<ValueHash> = values.iter().map(hash).collect();
        hashes.sort_unstable();
        Ok(hashes)
    }

    /// Whether the document has a list where the types leave it open whether there are any.
    pub fn meets_list(&self, subject: &Subject<'_>) -> bool {
        let mut open = self.0.components.iter();
        self.is_open()
            && self.view(subject, |view| {
                open.any(|component| {
                    component.lists == Lists::Maybe && component.path.meets_array(view)
                })
            })
    }

    /// Shows the document as the paths of the components see it.
    fn view<R>(&self, subject: &Subject<'_>, then: impl FnOnce(&View<'_>) -> R) -> R {
        self.0.projection.of(subject.fields, |fields| {
            then(&View {
                subject,
                fields,
                element: None,
                layout: &self.0.layout,
            })
        })
    }

    fn values_as(&self, form: Form, subject: &Subject<'_>) -> Result<Vec<Vec<u8>>, TooManyValues> {
        self.view(subject, |view| {
            // Room for two numbers or moments, or a short text.
            let mut values = vec![Vec::with_capacity(24)];
            for component in &self.0.components {
                component.append(form, view, &mut values)?;
            }
            Ok(values)
        })
    }
}

impl Component {
    /// Appends what the document has here to each of the values; to a single one also several things, which makes several of it.
    fn append(
        &self,
        form: Form,
        view: &View<'_>,
        values: &mut Vec<Vec<u8>>,
    ) -> Result<(), TooManyValues> {
        if let [value] = values.as_mut_slice() {
            // The usual case: one more component of one value, written where it belongs.
            let start = value.len();
            let mut parts = Parts {
                start,
                first: std::mem::take(value),
                has_first: false,
                more: Vec::new(),
            };
            self.write_all(form, view, &mut parts)?;
            let Parts {
                has_first,
                first,
                mut more,
                ..
            } = parts;
            values.clear();
            if more.is_empty() {
                values.extend(has_first.then_some(first));
                return Ok(());
            }
            more.push(first);
            more.sort_unstable();
            more.dedup();
            if more.len() > Index::VALUES_MAX {
                return Err(TooManyValues);
            }
            *values = more;
            return Ok(());
        }
        if values.is_empty() {
            return Ok(());
        }
        let mut parts = Parts {
            start: 0,
            first: Vec::new(),
            has_first: false,
            more: Vec::new(),
        };
        self.write_all(form, view, &mut parts)?;
        if !parts.more.is_empty() {
            return Err(TooManyValues);
        }
        if !parts.has_first {
            values.clear();
        }
        for value in values {
            value.extend_from_slice(&parts.first);
        }
        Ok(())
    }

    fn write_all(
        &self,
        form: Form,
        view: &View<'_>,
        parts: &mut Parts,
    ) -> Result<(), TooManyValues> {
        if self.is_geo() {
            return self.write_places(view, parts);
        }
        let typing = self.path.typing(view.layout);
        let mut result = Ok(());
        let mut is_nothing = true;
        self.path.any_found(view, Ending::Indexed, &mut |found| {
            is_nothing = false;
            result = match found {
                Found::Bytes(bytes) => {
                    self.write(form, Some(&Seen::read(bytes, typing)), typing, parts)
                }
                Found::Known(seen) => self.write(form, Some(&seen), typing, parts),
                Found::Empty => self.write(form, None, typing, parts),
            };
            result.is_err()
        });
        if is_nothing {
            result = self.write(form, Some(&Seen::Missing), typing, parts);
        }
        result
    }

    /// Adds one thing; `None` is an empty list.
    fn write(
        &self,
        form: Form,
        seen: Option<&Seen<'_>>,
        typing: Typing<'_>,
        parts: &mut Parts,
    ) -> Result<(), TooManyValues> {
        let kind = seen.map(|seen| seen.kind().unwrap_or(Kind::Null));
        if form == Form::Unique && matches!(kind, None | Some(Kind::Null)) {
            return Ok(());
        }
        parts.add(|out| {
            let start = out.len();
            let end = match (form, &self.key) {
                (Form::Entries, None) => start + COMPONENT_BYTES_MAX,
                (Form::Entries, Some(_)) | (Form::Unique, _) => NOWHERE,
            };
            match seen {
                Some(seen) => ordered::write_seen(out, seen, typing, end),
                None => out.push(EMPTY),
            }
            match (form, &self.key) {
                (Form::Entries, Some(key)) => {
                    let hashed = key.entry(&out[start..]);
                    out.truncate(start);
                    out.extend_from_slice(&hashed);
                }
                (Form::Entries, None) if self.is_descending() => {
                    encoding::invert(&mut out[start..]);
                }
                (Form::Entries, None) | (Form::Unique, _) => {}
            }
        })
    }

    fn write_places(&self, view: &View<'_>, parts: &mut Parts) -> Result<(), TooManyValues> {
        let mut result = Ok(());
        self.path.any(view, Ending::Indexed, |seen, _| {
            if let Some(point) = Point::of_seen(seen) {
                result = parts.add(|out| cell::write(out, point));
            }
            result.is_err()
        });
        if !parts.has_first {
            result = parts.add(|out| out.push(NO_PLACE));
        }
        result
    }
}

/// What is to follow a value.
struct Parts {
    /// Length of the value.
    start: usize,
    /// The value and the first part, if there is one.
    first: Vec<u8>,
    has_first: bool,
    /// The value and others; each may occur more than once.
    more: Vec<Vec<u8>>,
}

impl Parts {
    fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), TooManyValues> {
        if !self.has_first {
            write(&mut self.first);
            self.has_first = true;
            return Ok(());
        }
        let mut next = self.first[..self.start].to_vec();
        write(&mut next);
        if next == self.first || self.more.last() == Some(&next) {
            return Ok(());
        }
        self.more.push(next);
        // Not at each beyond the limit, so that a list of many equal elements costs no more than sorting it.
        if self.more.len() > 2 * Index::VALUES_MAX {
            self.more.sort_unstable();
            self.more.dedup();
            if self.more.len() > Index::VALUES_MAX {
                return Err(TooManyValues);
            }
        }
        Ok(())
    }
}
