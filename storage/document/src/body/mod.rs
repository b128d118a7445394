//! The JSON form of objects (contract section 3.1): checking what a client sends, and writing what it is shown.
//!
//! A body is normalised once, when it comes in, and stored as the bytes that will be served: a read copies them between an envelope of
//! metadata. So the work is in [`parse()`], and [`render()`] does none.
//!
//! | part | owns |
//! |---|---|
//! | `parse` | the document as a whole: metadata members, class fields, unknown members, depth |
//! | `value` | one value against its type, and its normal form |
//! | `number` | integers and doubles as decimal text |
//! | `members` | reading members out of stored fields, and replacing them |
//! | `render` | the envelope |
//! | `envelope` | taking a rendered document apart again |
//! | `expiry` | when a document expires: the member `expiresAt` |
//!
//! The normal form of `fields`, which all stored documents have:
//! - members `"name":value` separated by commas, without the outer braces, without blanks outside strings;
//! - first every field of the class in class order, `null` where unset, then, in open classes, unknown members in the order in which they
//!   came;
//! - last of all `expiresAt`, if the document expires and the class has no field of that name;
//! - in embedded values the fields that were sent, in class order; unset ones are not filled in;
//! - each value in the form that its type prescribes, so that one value has one text; JSON and unknown members keep their tokens.
//!
//! Lacks: deciding about ids, versions and rights, which takes more than a body.

mod envelope;
pub(crate) mod expiry;
mod members;
pub(crate) mod number;
mod parse;
mod render;
#[cfg(test)]
mod tests;
mod value;

pub use self::envelope::{Envelope, envelope};
pub use self::expiry::{EXPIRES_AT, Expiry, has_expiry, with_expiry, without_expiry};
pub use self::members::{fields_of, member, members, merge_readonly, readonly};
pub(crate) use self::parse::check_object;
pub use self::parse::{Limits, Parsed, parse};
pub use self::render::{render, render_with_acl_json};
pub(crate) use self::value::{Name, id_text, kind as kind_of, normalise, normalise_key, text};
