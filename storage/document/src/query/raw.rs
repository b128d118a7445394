//! Stored JSON as bytes: what kind of value stands there, what is in it, and where it ends.
//!
//! Works on valid JSON without blanks between tokens, which is what is stored. On anything else the results mean nothing, but nothing
//! panics and every iteration ends.

use std::borrow::Cow;

use memchr::memchr2;

/// Length of the value that `bytes` begin with.
pub(crate) fn value_end(bytes: &[u8]) -> usize {
    match bytes.first() {
        Some(b'"') => string_end(bytes),
        Some(b'{' | b'[') => nested_end(bytes),
        _ => bytes
            .iter()
            .position(|byte| matches!(byte, b',' | b'}' | b']' | b':'))
            .unwrap_or(bytes.len()),
    }
}

/// Length of the string, quotes included, that `bytes` begin with.
fn string_end(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(offset) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += offset;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

fn nested_end(bytes: &[u8]) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at += string_end(&bytes[at..]);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// The elements of an array in order.
pub(crate) fn elements(array: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = inside(array);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (value, after) = rest.split_at(value_end(rest));
        rest = after.strip_prefix(b",").unwrap_or_default();
        Some(value)
    })
}

/// The members of an object in order: names, still quoted, and values.
pub(crate) fn members(object: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    bare_members(inside(object))
}

/// The same of an object that lacks its braces, as stored fields do.
pub(crate) fn bare_members(fields: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = fields;
    std::iter::from_fn(move || {
        if rest.first() != Some(&b'"') {
            return None;
        }
        let (name, after) = rest.split_at(string_end(rest));
        let after = after.strip_prefix(b":")?;
        let (value, after) = after.split_at(value_end(after));
        rest = after.strip_prefix(b",").unwrap_or_default();
        Some((name, value))
    })
}

fn inside(bracketed: &[u8]) -> &[u8] {
    bracketed
        .len()
        .checked_sub(1)
        .and_then(|end| bracketed.get(1..end))
        .unwrap_or_default()
}

/// The text that a quoted string denotes; `None` if it is none.
pub(crate) fn text(quoted: &[u8]) -> Option<Cow<'_, str>> {
    let inner = quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if memchr::memchr(b'\\', inner).is_none() {
        return std::str::from_utf8(inner).ok().map(Cow::Borrowed);
    }
    serde_json::from_slice(quoted).ok().map(Cow::Owned)
}

/// A member name as it is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) text: Box<str>,
    /// The text as a JSON string with the fewest escapes: how names are nearly always stored.
    quoted: Box<[u8]>,
}

impl Name {
    pub(crate) fn new(text: &str) -> Name {
        let mut quoted = Vec::with_capacity(text.len() + 2);
        crate::json::write_string(&mut quoted, text);
        Name {
            text: text.into(),
            quoted: quoted.into_boxed_slice(),
        }
    }

    /// Whether a quoted name is this one.
    pub(crate) fn is(&self, quoted: &[u8]) -> bool {
        *self.quoted == *quoted
            || (quoted.contains(&b'\\') && text(quoted).is_some_and(|text| text == *self.text))
    }

    /// The member of an object with this name. Of several the last, as in JavaScript.
    pub(crate) fn of<'a>(&self, object: &'a [u8]) -> Option<&'a [u8]> {
        members(object)
            .filter(|(name, _)| self.is(name))
            .last()
            .map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn elements_and_members_are_found() {
        let found: Vec<&[u8]> = elements(br#"[1,"a,]\"",[2,[3]],{"b":[4]},null,-1.5e3]"#).collect();
        let expected: [&[u8]; 6] = [
            b"1",
            br#""a,]\"""#,
            b"[2,[3]]",
            br#"{"b":[4]}"#,
            b"null",
            b"-1.5e3",
        ];
        assert_eq!(found, expected);
        assert_eq!(elements(b"[]").count(), 0);
        assert_eq!(members(b"{}").count(), 0);
        let object = br#"{"a":1,"\u0061":{"a":2},"b":true}"#;
        assert_eq!(Name::new("a").of(object), Some(&br#"{"a":2}"#[..]));
        assert_eq!(Name::new("b").of(object), Some(&b"true"[..]));
        assert_eq!(Name::new("c").of(object), None);
    }

    proptest! {
        #[test]
        fn nothing_panics_and_all_ends(bytes in "[\\[\\]{}\",:\\\\a1]{0,24}") {
            let bytes = bytes.as_bytes();
            prop_assert!(elements(bytes).count() <= bytes.len());
            prop_assert!(members(bytes).count() <= bytes.len());
            let _ = text(bytes);
            let _ = Name::new("a").of(bytes);
        }
    }
}
