//! Partial updates (contract section 6): reading the operations, fitting them to a class, and applying them to stored fields.
//!
//! Two steps, because they happen at different places. [`parse()`] knows the class: the leader calls it and puts the result, an
//! [`Update`], into the log. [`apply()`] knows the stored document and nothing else, no class, no clock: every replica calls it with
//! the same bytes and gets the same bytes. So what a step needs to know of a type is in the step: how numbers count ([`Kind`]), and
//! the order of members of embedded values ([`Update::shapes`]).
//!
//! | part | owns |
//! |---|---|
//! | `operation` | the operations and their names |
//! | `parse` | the JSON of a request, its limits, and paths that may not be written |
//! | `path` | walking a path through the class |
//! | `operand` | checking an argument against the target's type, and its normal form |
//! | `apply` | the steps in order on stored fields |
//! | `edit` | replacing one value inside JSON text that is in normal form |
//! | `arithmetic` | numbers |
//! | `identity` | when two values are equal |
//!
//! Rules that the contract leaves open, or that are easily overlooked:
//! - A path is member names, map keys and list indexes with dots between them. The rest of a path into a map is one key, dots included,
//!   unless the map's values have members themselves. Members whose names hold a dot cannot be addressed.
//! - `expiresAt`, where it is no field, is only changed by `$set`. It is no step: [`Update::expiry`].
//! - Metadata and read-only fields are refused, for everybody. So are unknown fields, unless the class is open.
//! - Below `JsonObject`, `JsonArray` and unknown members of open classes values have no type: what is stored decides whether an operation
//!   fits. Whole numbers stay whole there, and exact.
//! - An unset value counts as 0 for `$inc $dec $mul $and $or $xor`, as an empty list, set or map for `$push $unshift $add $put`, and
//!   `$min` and `$max` set it. `$pop $shift $remove $rename` of what is not there change nothing; `$replace` refuses.
//! - Objects on the way to an unset value are made; elements of lists are not.
//! - `$remove` takes all equal elements out of a list. Numbers are equal by value, objects whatever the order of their members.
//! - `$rename` is for keys of maps and members of JSON objects; another member of the new name is replaced. The new name may stand behind
//!   the path of the object (`map.a` to `map.b`) or alone.
//! - Integers never lose digits: what does not fit into 64 bits is refused. `$mul` drops the fraction of a result, and a factor that is
//!   one by a whole number, which is how clients divide, divides.
//! - Steps are done in the order in which they were sent; each sees what those before it did. If one fails, nothing is done.
//!
//! Invariant: fields in normal form give fields in normal form, with two exceptions: a field that the document lacked, since its class
//! got it later, comes last, and so do new members of JSON objects.

mod apply;
mod arithmetic;
mod edit;
mod identity;
mod operand;
mod operation;
mod parse;
mod path;
#[cfg(test)]
mod tests;

pub use self::apply::apply;
pub use self::operation::Operation;
pub use self::parse::{PATH_SEGMENTS_MAX, STEPS_MAX, of_field, parse};

use crate::body::Expiry;

/// Operations on one document, fitted to its class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// In the order in which they are done; no two have the same path.
    pub steps: Vec<Step>,
    /// Member names of embedded classes that paths go through, in class order; [`Segment::shape`] is an index here.
    pub shapes: Vec<Vec<String>>,
    /// What becomes of the document's expiry. No step touches it.
    pub expiry: Expiry,
}

/// One operation on one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What to do.
    pub operation: Operation,
    /// Where, from the top of the document; never empty.
    pub path: Vec<Segment>,
    /// How the value there, or its elements, are to be taken.
    pub kind: Kind,
    /// The argument as JSON text in normal form; empty where the operation takes none.
    pub operand: String,
}

impl Step {
    /// The path as a client writes it.
    pub fn path_text(&self) -> String {
        let names: Vec<&str> = self.path.iter().map(|part| part.name.as_str()).collect();
        names.join(".")
    }
}

/// One part of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Name of a member, key of a map, or index of an element as decimal text.
    pub name: String,
    /// Only an element of a list can be meant.
    pub is_index: bool,
    /// The value that holds this member is of an embedded class: its index in [`Update::shapes`].
    pub shape: Option<usize>,
}

/// How values are taken where the type matters and cannot be seen in the stored text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// As JSON: by what is stored. Also where the type makes no difference.
    #[default]
    Json,
    /// A number of 64 bits.
    Integer,
    /// A floating-point number; of lists and sets, the elements.
    Double,
    /// A moment.
    DateTime,
    /// A date.
    Date,
    /// A time of day.
    Time,
}

/// Why an update does not fit the stored document. Nothing of it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("step {step}: {misfit}")]
pub struct Refusal {
    /// Which step, from 0.
    pub step: usize,
    /// Why.
    pub misfit: Misfit,
}

/// What is wrong with a stored value, as far as a step goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// The stored value is no number.
    #[error("the stored value is not a number")]
    NotANumber,
    /// The stored value is no whole number of 64 bits.
    #[error("the stored value is not an integer")]
    NotAnInteger,
    /// The stored value is no array.
    #[error("the stored value is not a list")]
    NotAList,
    /// The stored value, or one on the way to it, is no object.
    #[error("the stored value has no members")]
    NotAnObject,
    /// The list has no such element.
    #[error("the stored list has no such element")]
    NoElement,
    /// The key to remove from an object is no text.
    #[error("the key of a member must be a string")]
    NotAKey,
    /// The result does not fit the number's range.
    #[error("the result is beyond the range of the number")]
    Overflow,
}
