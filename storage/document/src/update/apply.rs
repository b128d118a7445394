//! The steps of an update on stored fields. Pure, and part of the replicated state machine: what it gives for an update that is in a
//! log never changes.

use std::borrow::Cow;

use super::edit::{self, Missing, array, distinct_members, edit, elements, object};
use super::identity::{identity, inside};
use super::{Kind, Misfit, Operation, Refusal, Segment, Step, Update, arithmetic};
use crate::body::{members, text};
use crate::{json, time};

/// The fields after the update. `fields` are members without braces in normal form, as in [`crate::body::Parsed::fields`]; `now_us` is the
/// time of the write, microseconds since 1970.
///
/// # Errors
/// [`Refusal`]: a step does not fit what is stored; nothing is done.
pub fn apply(fields: &[u8], update: &Update, now_us: i64) -> Result<Vec<u8>, Refusal> {
    let mut document: Document<'_> = members(fields)
        .map(|(name, value)| (name, Cow::Borrowed(value)))
        .collect();
    for (at, step) in update.steps.iter().enumerate() {
        do_step(&mut document, step, &update.shapes, now_us)
            .map_err(|misfit| Refusal { step: at, misfit })?;
    }
    let mut out = Vec::with_capacity(fields.len() + 64);
    for (name, value) in document {
        if !out.is_empty() {
            out.push(b',');
        }
        json::write_string(&mut out, &name);
        out.push(b':');
        out.extend_from_slice(value.as_bytes());
    }
    Ok(out)
}

/// Members of the document: name and value as JSON text.
type Document<'f> = Vec<(Cow<'f, str>, Cow<'f, str>)>;

fn do_step(
    document: &mut Document<'_>,
    step: &Step,
    shapes: &[Vec<String>],
    now_us: i64,
) -> Result<(), Misfit> {
    let Some((field, path)) = step.path.split_first() else {
        return Ok(());
    };
    if path.is_empty() && step.operation == Operation::Rename {
        rename_field(document, &field.name, &step.operand);
        return Ok(());
    }
    let at = document.iter().position(|(name, _)| *name == field.name);
    let stored = at.map(|at| document[at].1.as_ref());
    if let Some(changed) = change(stored, path, step, shapes, now_us)? {
        match at {
            Some(at) => document[at].1 = Cow::Owned(changed),
            None => document.push((Cow::Owned(field.name.clone()), Cow::Owned(changed))),
        }
    }
    Ok(())
}

/// What becomes of the value of a field; `None`: it stays.
fn change(
    field: Option<&str>,
    path: &[Segment],
    step: &Step,
    shapes: &[Vec<String>],
    now_us: i64,
) -> Result<Option<String>, Misfit> {
    let operand = step.operand.as_str();
    match step.operation {
        // These two are about a part of what holds it.
        Operation::Replace | Operation::Rename => {
            let Some((last, holder)) = path.split_last() else {
                return Err(Misfit::NotAList);
            };
            if step.operation == Operation::Replace {
                let leaf = |list: Option<&str>| replaced(list, &last.name, operand).map(Some);
                return edit(field, holder, shapes, Missing::Refuse, &leaf);
            }
            let leaf = |map: Option<&str>| renamed(map, &last.name, operand);
            edit(field, holder, shapes, Missing::Keep, &leaf)
        }
        Operation::Pop | Operation::Shift | Operation::Remove => {
            let leaf = |stored: Option<&str>| shortened(stored, step);
            edit(field, path, shapes, Missing::Keep, &leaf)
        }
        operation => {
            let leaf = |stored: Option<&str>| match operation {
                Operation::Set => Ok(Some(operand.to_owned())),
                Operation::CurrentDate => Ok(Some(moment(step.kind, now_us))),
                Operation::Push | Operation::Unshift | Operation::Add => lengthened(stored, step),
                Operation::Put => put(stored, operand).map(Some),
                _ => arithmetic::compute(operation, step.kind, stored, operand),
            };
            edit(field, path, shapes, Missing::Create, &leaf)
        }
    }
}

/// `$currentDate`: the time of the write, cut to the kind.
fn moment(kind: Kind, now_us: i64) -> String {
    let full = time::format_datetime(now_us);
    let cut = match kind {
        Kind::Date => time::normalise_date(&full),
        Kind::Time => time::normalise_time(&full),
        _ => None,
    };
    format!("\"{}\"", cut.unwrap_or(full))
}

/// `$push`, `$unshift`, `$add`.
fn lengthened(stored: Option<&str>, step: &Step) -> Result<Option<String>, Misfit> {
    let list = list(stored.unwrap_or("[]"))?;
    let element = step.operand.as_str();
    if step.operation == Operation::Add {
        let as_double = step.kind == Kind::Double;
        let added = identity(element, as_double);
        if elements(list).any(|present| identity(present, as_double) == added) {
            return Ok(None);
        }
    }
    let comma = if list == "[]" { "" } else { "," };
    Ok(Some(match step.operation {
        Operation::Unshift => format!("[{element}{comma}{}]", inside(list)),
        _ => format!("[{}{comma}{element}]", inside(list)),
    }))
}

/// `$pop`, `$shift`, `$remove`.
fn shortened(stored: Option<&str>, step: &Step) -> Result<Option<String>, Misfit> {
    let Some(stored) = stored else {
        return Ok(None);
    };
    if step.operation == Operation::Remove && stored.starts_with('{') {
        let key = text(&step.operand).ok_or(Misfit::NotAKey)?;
        let kept = distinct_members(stored);
        let kept = kept.iter().filter(|(name, _)| *name != key);
        return Ok(Some(object(
            kept.map(|(name, value)| (name.as_ref(), *value)),
        )));
    }
    let list = list(stored)?;
    Ok(Some(match step.operation {
        Operation::Shift => array(elements(list).skip(1)),
        Operation::Pop => array(elements(list).take(elements(list).count().saturating_sub(1))),
        _ => {
            let as_double = step.kind == Kind::Double;
            let removed = identity(&step.operand, as_double);
            array(elements(list).filter(|element| identity(element, as_double) != removed))
        }
    }))
}

fn list(stored: &str) -> Result<&str, Misfit> {
    if stored.starts_with('[') {
        return Ok(stored);
    }
    Err(Misfit::NotAList)
}

/// `$replace`.
fn replaced(stored: Option<&str>, index: &str, element: &str) -> Result<String, Misfit> {
    let list = list(stored.ok_or(Misfit::NoElement)?)?;
    let index = edit::index(index)
        .filter(|index| elements(list).nth(*index).is_some())
        .ok_or(Misfit::NoElement)?;
    Ok(edit::with_element(list, index, element))
}

/// `$put`: the members of `added` over those of the stored object.
fn put(stored: Option<&str>, added: &str) -> Result<String, Misfit> {
    let stored = stored.unwrap_or("{}");
    if !stored.starts_with('{') {
        return Err(Misfit::NotAnObject);
    }
    let mut all = indexmap::IndexMap::new();
    for (name, value) in members(inside(stored).as_bytes()).chain(members(inside(added).as_bytes()))
    {
        all.insert(name, value);
    }
    Ok(object(
        all.iter().map(|(name, value)| (name.as_ref(), *value)),
    ))
}

/// `$rename` of a key: the member keeps its place.
fn renamed(stored: Option<&str>, from: &str, to: &str) -> Result<Option<String>, Misfit> {
    let Some(stored) = stored else {
        return Ok(None);
    };
    if !stored.starts_with('{') {
        return Err(Misfit::NotAnObject);
    }
    let to = text(to).unwrap_or_default();
    let all = distinct_members(stored);
    if to == from || all.iter().all(|(name, _)| name != from) {
        return Ok(None);
    }
    let kept = all.iter().filter(|(name, _)| *name != to);
    Ok(Some(object(kept.map(|(name, value)| {
        let name = if name == from { &to } else { name };
        (name.as_ref(), *value)
    }))))
}

/// `$rename` of a member of the document itself, which is of an open class.
fn rename_field(document: &mut Document<'_>, from: &str, to: &str) {
    let to = text(to).unwrap_or_default();
    if to == from || document.iter().all(|(name, _)| name != from) {
        return;
    }
    document.retain(|(name, _)| *name != to);
    for (name, _) in document.iter_mut().filter(|(name, _)| name == from) {
        *name = Cow::Owned(to.clone().into_owned());
    }
}
