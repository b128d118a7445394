//! Values of indexes as bytes.
//!
//! A value is its components one after the other, each in the bytes of [`ordered`], cut off at [`COMPONENT_BYTES_MAX`], those of
//! descending ones inverted. A place is [`PLACE`] and the eight bytes of its cell; no place is null. A hashed one is as long as all of them
//! (`hashed`). Each component shows its own end, and none is the beginning of another one.
//!
//! A component that is shorter than [`COMPONENT_BYTES_MAX`] is whole. Others may stand for several values of documents.

use crate::query::ordered;
use crate::query::value::Kind;

use super::compiled::{Component, Index};
use super::hashed::HASHED_BYTES;

/// What of a component may be left out begins here.
pub const COMPONENT_BYTES_MAX: usize = 512;

/// Where no document has a place in a geo component.
pub(super) const NO_PLACE: u8 = Kind::Null as u8;

/// What places begin with.
pub(super) const PLACE: u8 = 0x80;

/// The least bytes that are greater than all that begin with these; empty: there are none.
pub(super) fn after(prefix: &[u8]) -> Vec<u8> {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff);
    let mut end = prefix[..kept.map_or(0, |at| at + 1)].to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

pub(super) fn invert(bytes: &mut [u8]) {
    bytes.iter_mut().for_each(|byte| *byte = !*byte);
}

impl Index {
    /// Where the value ends that `bytes` begin with. Anything else than a value gives some place in them.
    pub fn value_end(&self, bytes: &[u8]) -> usize {
        self.end_of(bytes, self.0.components.len())
    }

    /// The bytes of the first `components` components of a value.
    pub fn prefix<'v>(&self, value: &'v [u8], components: usize) -> &'v [u8] {
        &value[..self.end_of(value, components)]
    }

    fn end_of(&self, value: &[u8], components: usize) -> usize {
        let components = self.0.components.iter().take(components);
        components.fold(0, |at, component| {
            at + component.end(value.get(at..).unwrap_or_default())
        })
    }
}

impl Component {
    /// Length of the component that `bytes` begin with; never beyond them.
    pub(super) fn end(&self, bytes: &[u8]) -> usize {
        if self.is_geo() {
            let end = match bytes.first() {
                Some(&NO_PLACE) => 1,
                _ => 9,
            };
            return end.min(bytes.len());
        }
        if self.key.is_some() {
            return HASHED_BYTES.min(bytes.len());
        }
        ordered_end(bytes, self.is_descending())
    }
}

/// Length of the value in the form of [`ordered`] that `bytes` begin with; never beyond them.
pub(super) fn ordered_end(bytes: &[u8], descending: bool) -> usize {
    end(bytes, if descending { 0xff } else { 0 }).min(bytes.len())
}

/// Length of the ordered value that the bytes begin with after each of them is combined with `mask`.
fn end(bytes: &[u8], mask: u8) -> usize {
    let mut at = 0;
    // Whether each value that is open is an object.
    let mut open: Vec<bool> = Vec::new();
    loop {
        let kind = bytes.get(at).map(|byte| byte ^ mask);
        at += 1;
        let is_value = kind != Some(0);
        match kind {
            None => return bytes.len(),
            // The end of an object or an array.
            Some(0) => {
                open.pop();
            }
            Some(kind) => {
                if open.last() == Some(&true) {
                    at = text_end(bytes, at, mask);
                }
                at = match kind {
                    NUMBER => at + 10,
                    TEXT => text_end(bytes, at, mask),
                    BOOLEAN => at + 1,
                    MOMENT => at + 8,
                    _ => at,
                };
                if kind == OBJECT || kind == ARRAY {
                    open.push(kind == OBJECT);
                }
            }
        }
        if open.is_empty() || (is_value && at >= bytes.len()) {
            return at;
        }
    }
}

const NUMBER: u8 = Kind::Number as u8;
const TEXT: u8 = Kind::Text as u8;
const OBJECT: u8 = Kind::Object as u8;
const ARRAY: u8 = Kind::Array as u8;
const BOOLEAN: u8 = Kind::Boolean as u8;
const MOMENT: u8 = Kind::Moment as u8;

/// Behind the two zeros that end the text that begins at `at`.
fn text_end(bytes: &[u8], mut at: usize, mask: u8) -> usize {
    while let Some(offset) = bytes.get(at..).and_then(|rest| memchr::memchr(mask, rest)) {
        at += offset + 2;
        if bytes.get(at - 1).is_none_or(|next| *next ^ mask != 0xff) {
            return at;
        }
    }
    bytes.len()
}

/// What an array without elements is indexed as.
pub(super) const EMPTY: u8 = ordered::EMPTY;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_after_a_prefix_are_the_least_ones() {
        assert_eq!(after(&[1, 2]), [1, 3]);
        assert_eq!(after(&[1, 0xff, 0xff]), [2]);
        assert_eq!(after(&[0xff]), [0u8; 0]);
        assert_eq!(after(&[]), [0u8; 0]);
    }

    proptest! {
        #[test]
        fn ends_are_within_any_bytes(bytes in any::<Vec<u8>>(), kinds in prop::collection::vec(0x0u8..0x8, 0..9)) {
            let typed: Vec<u8> = kinds.iter().map(|kind| kind << 4).chain(bytes.clone()).collect();
            for bytes in [bytes, typed] {
                for mask in [0, 0xff] {
                    let _ = end(&bytes, mask);
                }
            }
        }
    }
}
