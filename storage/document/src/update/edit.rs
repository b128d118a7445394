//! Replacing one value inside JSON text in normal form, and lists as text.
//!
//! Only the objects and arrays on the path are split into their parts; what lies beside it is copied unseen. So nothing loses a digit,
//! and an update costs about the length of the field that it changes.

use std::borrow::Cow;

use super::identity::inside;
use super::{Misfit, Segment};
use crate::body::members;
use crate::json;

/// What to do about a value that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Make it, and the objects on the way to it.
    Create,
    /// Leave it so.
    Keep,
    /// Refuse.
    Refuse,
}

/// What becomes of the value at the end of the path: another one, or `None`: it stays. Unset values are `None`.
pub(super) type Leaf<'l> = &'l dyn Fn(Option<&str>) -> Result<Option<String>, Misfit>;

/// The value with another one at the end of `path`; `None`: nothing changes.
pub(super) fn edit(
    value: Option<&str>,
    path: &[Segment],
    shapes: &[Vec<String>],
    missing: Missing,
    leaf: Leaf<'_>,
) -> Result<Option<String>, Misfit> {
    let value = value.filter(|value| *value != "null");
    let Some((first, rest)) = path.split_first() else {
        return leaf(value);
    };
    let Some(value) = value else {
        return match missing {
            Missing::Create if !first.is_index => {
                let made = edit(None, rest, shapes, missing, leaf)?;
                Ok(made.map(|made| with_member("{}", first, &made, shapes)))
            }
            Missing::Create | Missing::Refuse => Err(Misfit::NoElement),
            Missing::Keep => Ok(None),
        };
    };
    match value.as_bytes().first() {
        Some(b'{') if first.is_index => Err(Misfit::NotAList),
        Some(b'{') => {
            let found = member(value, &first.name);
            let changed = edit(found, rest, shapes, missing, leaf)?;
            Ok(changed.map(|changed| with_member(value, first, &changed, shapes)))
        }
        Some(b'[') => {
            let index = index(&first.name).ok_or(Misfit::NoElement)?;
            let element = elements(value).nth(index);
            if element.is_none() && missing == Missing::Keep {
                return Ok(None);
            }
            let element = element.ok_or(Misfit::NoElement)?;
            let changed = edit(Some(element), rest, shapes, missing, leaf)?;
            Ok(changed.map(|changed| with_element(value, index, &changed)))
        }
        _ => Err(Misfit::NotAnObject),
    }
}

/// The index that a part of a path names, in its one canonical form.
pub(super) fn index(name: &str) -> Option<usize> {
    let canonical =
        name.bytes().all(|byte| byte.is_ascii_digit()) && (name == "0" || !name.starts_with('0'));
    if canonical { name.parse().ok() } else { None }
}

/// The elements of an array.
pub(super) fn elements(array: &str) -> impl Iterator<Item = &str> {
    let mut rest = inside(array);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (element, after) = rest.split_at_checked(json::value_end(rest))?;
        rest = after.strip_prefix(',').unwrap_or_default();
        Some(element)
    })
}

/// An array of these elements.
pub(super) fn array<'e>(elements: impl Iterator<Item = &'e str>) -> String {
    let mut out = String::from("[");
    for element in elements {
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(element);
    }
    out.push(']');
    out
}

/// The array with another element at `index`, which is there.
pub(super) fn with_element(value: &str, index: usize, changed: &str) -> String {
    let all = elements(value).enumerate();
    array(all.map(|(at, element)| if at == index { changed } else { element }))
}

/// The member of an object; of several with one name the last.
fn member<'v>(object: &'v str, name: &str) -> Option<&'v str> {
    members(inside(object).as_bytes())
        .filter(|(member, _)| member == name)
        .last()
        .map(|(_, value)| value)
}

/// Members in order: name and value as JSON text.
pub(super) type Members<'v> = Vec<(Cow<'v, str>, &'v str)>;

/// The members of an object, each name once: of several the last counts.
pub(super) fn distinct_members(object: &str) -> Members<'_> {
    let mut all = indexmap::IndexMap::new();
    for (name, value) in members(inside(object).as_bytes()) {
        all.insert(name, value);
    }
    all.into_iter().collect()
}

/// An object of these members.
pub(super) fn object<'v>(members: impl Iterator<Item = (&'v str, &'v str)>) -> String {
    let mut out = vec![b'{'];
    for (name, value) in members {
        if out.len() > 1 {
            out.push(b',');
        }
        json::write_string(&mut out, name);
        out.push(b':');
        out.extend_from_slice(value.as_bytes());
    }
    out.push(b'}');
    // Only whole strings and ASCII were written, so nothing is ever replaced here.
    String::from_utf8_lossy(&out).into_owned()
}

/// The object with another value for one member; a new one has its place in the order of its class, or comes last.
fn with_member(value: &str, part: &Segment, changed: &str, shapes: &[Vec<String>]) -> String {
    let mut all = distinct_members(value);
    match all.iter_mut().find(|(name, _)| *name == part.name) {
        Some((_, value)) => *value = changed,
        None => {
            let order = part.shape.and_then(|shape| shapes.get(shape));
            let rank = |name: &str| order?.iter().position(|known| known == name);
            let own = rank(&part.name);
            let follows = |name: &str| own.is_some() && rank(name) > own;
            let at = all
                .iter()
                .position(|(name, _)| follows(name))
                .unwrap_or(all.len());
            all.insert(at, (Cow::Borrowed(&part.name), changed));
        }
    }
    object(all.iter().map(|(name, value)| (name.as_ref(), *value)))
}
