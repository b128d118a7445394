//! Dotted paths: where in a document a condition looks.
//!
//! As in MongoDB, a step that meets an array goes on in each element that is an object, and, if it is a number, also in the element
//! with this index. Arrays within arrays are entered by index only. So one path may lead to many values; a condition asks for one that
//! satisfies it.

use super::number::Number;
use super::raw::{self, Name};
use super::value::{Seen, Typing};
use super::{Error, Limits, Subject, moment};
use crate::body::EXPIRES_AT;
use crate::schema::{FieldType, Layout};

/// A path with what it starts from and the type of what it leads to.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub(crate) start: Start,
    steps: Vec<Step>,
    /// The type of the values at the end, or of their elements.
    ty: Option<FieldType>,
    text: Box<str>,
}

/// What a path starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// A member of the document, by its place in the projection; the steps go on from its value.
    Field(usize),
    Id,
    Version,
    CreatedAt,
    UpdatedAt,
    /// An element of an array, inside of `$elemMatch`.
    Element,
}

#[derive(Clone, Debug)]
struct Step {
    name: Name,
    index: Option<usize>,
}

/// What to do with an array at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Its elements, then itself.
    Expanded,
    /// Itself alone.
    Whole,
    /// Its elements, or [`Found::Empty`]; and `Missing` for elements that a path cannot enter. What sorting needs.
    Sorted,
    /// The same, and with numeric steps also what [`Ending::Expanded`] finds: whatever a filter or an order may ask for, but for whole
    /// arrays that are not elements.
    Indexed,
}

/// What a path leads to.
#[derive(Clone, Debug)]
pub(crate) enum Found<'a> {
    /// Stored JSON, or nothing.
    Bytes(Option<&'a [u8]>),
    /// Metadata, which is not stored as JSON.
    Known(Seen<'a>),
    /// An array without elements that is to be sorted by them.
    Empty,
}

/// The names of the members of a document that paths start from, each once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Projection(Vec<Name>);

/// Paths look at this many members of a document without taking memory for them.
const FIELDS_INLINE: usize = 8;

impl Projection {
    fn place(&mut self, name: &str) -> usize {
        if let Some(at) = self.0.iter().position(|known| *known.text == *name) {
            return at;
        }
        self.0.push(Name::new(name));
        self.0.len() - 1
    }

    /// Finds the members in the stored fields and hands them over by place. Stops looking when it has them all.
    pub(crate) fn of<'a, R>(
        &self,
        fields: &'a [u8],
        then: impl FnOnce(&[Option<&'a [u8]>]) -> R,
    ) -> R {
        let mut inline = [None; FIELDS_INLINE];
        let mut more = Vec::new();
        let found = match inline.get_mut(..self.0.len()) {
            Some(found) => found,
            None => {
                more.resize(self.0.len(), None);
                &mut more[..]
            }
        };
        let mut left = found.len();
        let mut members = raw::bare_members(fields);
        while left > 0 {
            let Some((name, value)) = members.next() else {
                break;
            };
            if let Some(at) = self.0.iter().position(|wanted| wanted.is(name)) {
                found[at] = Some(value);
                left -= 1;
            }
        }
        then(found)
    }
}

/// A document as paths see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) subject: &'a Subject<'a>,
    pub(crate) fields: &'a [Option<&'a [u8]>],
    pub(crate) element: Option<&'a [u8]>,
    pub(crate) layout: &'a Layout,
}

impl Path {
    /// A path from the top of a document.
    pub(crate) fn of_document(
        text: &str,
        layout: &Layout,
        projection: &mut Projection,
        limits: &Limits,
    ) -> Result<Path, Error> {
        let mut path = Path::with_type(text, None, projection, limits)?;
        let ty = match path.start {
            Start::CreatedAt | Start::UpdatedAt => Some(&FieldType::DateTime),
            Start::Field(at) => {
                let name = &*projection.0[at].text;
                let slot = layout.shape().slot(name).map(|slot| &slot.ty);
                slot.or((name == EXPIRES_AT).then_some(&FieldType::DateTime))
            }
            Start::Id | Start::Version | Start::Element => None,
        };
        path.ty = type_at(Typing::of(ty, layout), &path.steps);
        Ok(path)
    }

    /// The same if it is known what the values at the end are.
    pub(crate) fn with_type(
        text: &str,
        ty: Option<FieldType>,
        projection: &mut Projection,
        limits: &Limits,
    ) -> Result<Path, Error> {
        let mut steps = steps(text, limits)?;
        let first = steps.remove(0).name;
        let start = match &*first.text {
            "id" => Start::Id,
            "version" => Start::Version,
            "createdAt" => Start::CreatedAt,
            "updatedAt" => Start::UpdatedAt,
            "acl" => {
                return Err(Error::Unsupported(
                    "the access rules (acl) cannot be looked at by queries".to_owned(),
                ));
            }
            name => Start::Field(projection.place(name)),
        };
        Ok(Path {
            start,
            steps,
            ty,
            text: text.into(),
        })
    }

    /// A path from an element of the array that `outer` leads to; with `None` the element itself.
    pub(crate) fn of_element(
        text: Option<&str>,
        outer: &Path,
        layout: &Layout,
        limits: &Limits,
    ) -> Result<Path, Error> {
        let steps = text.map_or(Ok(Vec::new()), |text| steps(text, limits))?;
        let ty = type_at(outer.typing(layout), &steps);
        Ok(Path {
            start: Start::Element,
            steps,
            ty,
            text: text.unwrap_or(&outer.text).into(),
        })
    }

    /// The type of the values at the end, or of their elements.
    pub(crate) fn ty(&self) -> Option<&FieldType> {
        self.ty.as_ref()
    }

    /// The steps, but for the first one of a path from the top of a document: names, and whether they could be indexes.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (&str, bool)> {
        self.steps
            .iter()
            .map(|step| (&*step.name.text, step.index.is_some()))
    }

    /// Whether a step could be an index into an array.
    pub(crate) fn has_index(&self) -> bool {
        self.steps.iter().any(|step| step.index.is_some())
    }

    /// The path as it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn typing<'a>(&'a self, layout: &'a Layout) -> Typing<'a> {
        Typing::of(self.ty.as_ref(), layout)
    }

    /// Whether `test` holds for one of the values that the path leads to. `test` sees them in order until it holds.
    pub(crate) fn any<'a>(
        &self,
        view: &View<'a>,
        ending: Ending,
        mut test: impl FnMut(&Seen<'a>, Typing<'_>) -> bool,
    ) -> bool {
        let typing = self.typing(view.layout);
        self.any_found(view, ending, &mut |found| match found {
            Found::Bytes(bytes) => test(&Seen::read(bytes, typing), typing),
            Found::Known(seen) => test(&seen, typing),
            Found::Empty => false,
        })
    }

    /// The same without reading the values.
    pub(crate) fn any_found<'a>(
        &self,
        view: &View<'a>,
        ending: Ending,
        test: &mut dyn FnMut(Found<'a>) -> bool,
    ) -> bool {
        let known = match self.start {
            Start::Field(at) => {
                let value = view.fields.get(at).copied().flatten();
                return walk(value, &self.steps, ending, test);
            }
            // A condition on an element is on this one, even if it is itself an array.
            Start::Element if self.steps.is_empty() => {
                return test(Found::Bytes(view.element));
            }
            Start::Element => return walk(view.element, &self.steps, ending, test),
            _ if !self.steps.is_empty() => Seen::Missing,
            Start::Id => Seen::Text(view.subject.id.into()),
            Start::Version => Seen::Number(Number::Integer(
                i64::try_from(view.subject.version).unwrap_or(i64::MAX),
            )),
            Start::CreatedAt => Seen::Moment(moment::of_us(view.subject.created_us)),
            Start::UpdatedAt => Seen::Moment(moment::of_us(view.subject.updated_us)),
        };
        test(Found::Known(known))
    }

    /// Whether there is an array on the way or at the end, so that the path may lead to several values or to none.
    pub(crate) fn meets_array(&self, view: &View<'_>) -> bool {
        let Start::Field(at) = self.start else {
            return false;
        };
        let mut value = view.fields.get(at).copied().flatten();
        let mut steps = self.steps.iter();
        loop {
            match value.and_then(|bytes| Some((bytes, bytes.first()?))) {
                Some((_, b'[')) => return true,
                Some((object, b'{')) => match steps.next() {
                    Some(step) => value = step.name.of(object),
                    None => return false,
                },
                _ => return false,
            }
        }
    }
}

fn steps(text: &str, limits: &Limits) -> Result<Vec<Step>, Error> {
    let steps: Vec<Step> = text
        .split('.')
        .map(|name| Step {
            name: Name::new(name),
            index: index(name),
        })
        .collect();
    if steps.len() > limits.path_steps_max {
        return Err(Error::Limit {
            what: "steps of a path",
            limit: limits.path_steps_max,
        });
    }
    if steps.iter().any(|step| step.name.text.is_empty()) {
        return Err(Error::Syntax(format!(
            "the path {:?} has an empty step",
            crate::json::excerpt(text)
        )));
    }
    Ok(steps)
}

/// The index that a step names if it meets an array.
fn index(name: &str) -> Option<usize> {
    let is_plain = name == "0" || name.starts_with(|first: char| ('1'..='9').contains(&first));
    is_plain.then(|| name.parse().ok()).flatten()
}

/// The type of what the steps lead to from a value with this typing.
fn type_at(mut typing: Typing<'_>, steps: &[Step]) -> Option<FieldType> {
    for step in steps {
        let member = typing.member(&step.name.text);
        // The typing of a list is that of its elements, so an index into it changes nothing. In a map a number is a name.
        if step.index.is_none() || member.ty.is_some() {
            typing = member;
        }
    }
    typing.ty.cloned()
}

fn walk<'a>(
    value: Option<&'a [u8]>,
    steps: &[Step],
    ending: Ending,
    test: &mut dyn FnMut(Found<'a>) -> bool,
) -> bool {
    let Some((step, rest)) = steps.split_first() else {
        return end(value, ending, test);
    };
    match value.map(|bytes| (bytes, bytes.first())) {
        Some((object, Some(b'{'))) => walk(step.name.of(object), rest, ending, test),
        Some((array, Some(b'['))) => raw::elements(array).enumerate().any(|(at, element)| {
            let is_object = element.first() == Some(&b'{');
            // Orders by an element look at this one only; MongoDB refuses what could mean both.
            let is_entered = ending != Ending::Sorted || step.index.is_none();
            if is_object && is_entered && walk(Some(element), steps, ending, test) {
                return true;
            }
            if step.index == Some(at) {
                return match (rest.is_empty(), element.first()) {
                    // An element that is named is not searched through, even if it is an array.
                    (true, _) => test(Found::Bytes(Some(element))),
                    (false, Some(b'{' | b'[')) => walk(Some(element), rest, ending, test),
                    (false, _) => false,
                };
            }
            let is_null = matches!(ending, Ending::Sorted | Ending::Indexed)
                && step.index.is_none()
                && !is_object;
            is_null && test(Found::Bytes(None))
        }),
        _ => test(Found::Bytes(None)),
    }
}

fn end<'a>(
    value: Option<&'a [u8]>,
    ending: Ending,
    test: &mut dyn FnMut(Found<'a>) -> bool,
) -> bool {
    let array = value.filter(|bytes| bytes.first() == Some(&b'['));
    match (array, ending) {
        (Some(array), Ending::Expanded) => {
            raw::elements(array).any(|element| test(Found::Bytes(Some(element))))
                || test(Found::Bytes(value))
        }
        (Some(array), Ending::Sorted | Ending::Indexed) => {
            let mut elements = raw::elements(array).peekable();
            if elements.peek().is_none() {
                return test(Found::Empty);
            }
            elements.any(|element| test(Found::Bytes(Some(element))))
        }
        _ => test(Found::Bytes(value)),
    }
}
