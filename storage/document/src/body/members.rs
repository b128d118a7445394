//! Reading members out of stored fields, and replacing some of them, without parsing the values.
//!
//! Works only on the normal form of [`body`](super): no blanks between tokens. On anything else the results mean nothing, but nothing
//! panics.

use std::borrow::Cow;

use super::value::text;
use crate::json;
use crate::schema::Layout;

/// The members of stored fields in order: name and value as JSON text.
pub fn members(fields: &[u8]) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    let mut rest = std::str::from_utf8(fields).unwrap_or_default();
    std::iter::from_fn(move || {
        let name_end = json::value_end(rest);
        let (name, after) = (
            text(rest.get(..name_end)?)?,
            rest.get(name_end..)?.strip_prefix(':')?,
        );
        let value_end = json::value_end(after);
        let (value, after) = after.split_at_checked(value_end)?;
        rest = after.strip_prefix(',').unwrap_or(after);
        Some((name, value))
    })
}

/// The fields of a rendered document: what is between its metadata and its closing brace; empty if there is nothing.
pub fn fields_of(document: &[u8]) -> &[u8] {
    /// Members that [`render`](super::render()) writes in front of the fields.
    const METADATA: usize = 5;
    let inside = document
        .get(1..document.len().saturating_sub(1))
        .and_then(|inside| std::str::from_utf8(inside).ok())
        .unwrap_or_default();
    let mut rest = inside;
    for _ in 0..METADATA {
        let value = rest.get(json::value_end(rest) + 1..).unwrap_or_default();
        let after = value.get(json::value_end(value)..).unwrap_or_default();
        rest = after.strip_prefix(',').unwrap_or_default();
    }
    rest.as_bytes()
}

/// The value of one member of stored fields as JSON text; `None` if there is no such member.
pub fn member<'a>(fields: &'a [u8], name: &str) -> Option<&'a str> {
    members(fields)
        .find(|(member, _)| member == name)
        .map(|(_, value)| value)
}

/// The read-only fields of a stored document with their values as JSON text.
pub fn readonly(fields: &[u8], layout: &Layout) -> Vec<(String, String)> {
    members(fields)
        .filter(|(name, _)| layout.shape().slot(name).is_some_and(|slot| slot.read_only))
        .map(|(name, value)| (name.into_owned(), value.to_owned()))
        .collect()
}

/// The same fields with other values for those that `values` names, as JSON text in normal form.
///
/// Of several values for one name the last is taken; names that are no members are passed over.
pub fn merge_readonly(fields: &[u8], values: &[(String, String)]) -> Vec<u8> {
    if values.is_empty() {
        return fields.to_vec();
    }
    let mut out = Vec::with_capacity(
        fields.len() + values.iter().map(|(_, value)| value.len()).sum::<usize>(),
    );
    for (name, present) in members(fields) {
        if !out.is_empty() {
            out.push(b',');
        }
        json::write_string(&mut out, &name);
        out.push(b':');
        let value = values
            .iter()
            .rev()
            .find(|(named, _)| *named == name)
            .map_or(present, |(_, value)| value);
        out.extend_from_slice(value.as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[u8] = br#""a":"x,\"}","b":{"c":[1,"]"]},"q\"":null,"n":-1.5"#;

    #[test]
    fn members_are_found_without_parsing() {
        let found: Vec<(String, &str)> = members(FIELDS)
            .map(|(name, value)| (name.into_owned(), value))
            .collect();
        let expected = [
            ("a", r#""x,\"}""#),
            ("b", r#"{"c":[1,"]"]}"#),
            ("q\"", "null"),
            ("n", "-1.5"),
        ];
        assert_eq!(
            found,
            expected.map(|(name, value)| (name.to_owned(), value))
        );
        assert_eq!(member(FIELDS, "n"), Some("-1.5"));
        assert_eq!(member(FIELDS, "c"), None);
        assert_eq!(members(b"").count(), 0);
    }

    #[test]
    fn the_fields_of_a_document_are_what_it_was_rendered_from() {
        for fields in ["", r#""a":{"version":1},"b":"},{""#] {
            let acl = crate::acl::Acl {
                read: crate::acl::Rules::admin_only(),
                ..crate::acl::Acl::default()
            };
            for acl in [None, Some(&acl)] {
                let document = super::super::render("B", "k,\"", 3, acl, 1, 2, fields.as_bytes());
                assert_eq!(fields_of(&document), fields.as_bytes());
            }
        }
        for other in [
            &b""[..],
            b"{",
            b"{}",
            b"{\"a\":1}",
            b"nonsense",
            b"\xff\xff\xff",
        ] {
            assert_eq!(fields_of(other), b"");
        }
    }

    #[test]
    fn merging_replaces_values_in_place() {
        let values = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect()
        };
        let merged = merge_readonly(
            FIELDS,
            &values(&[("b", "1"), ("zz", "2"), ("q\"", "3"), ("b", "4")]),
        );
        assert_eq!(
            String::from_utf8(merged).expect("UTF-8"),
            r#""a":"x,\"}","b":4,"q\"":3,"n":-1.5"#
        );
        assert_eq!(merge_readonly(FIELDS, &[]), FIELDS);
    }

    #[test]
    fn text_in_another_form_does_not_panic() {
        for fields in [
            "{",
            "\"",
            "\"a",
            "\"a\"",
            "\"a\":",
            ",",
            "\"a\":[",
            "\"a\\",
            "nonsense",
            "\"a\":1,,",
        ] {
            assert!(members(fields.as_bytes()).count() <= 2);
        }
        assert_eq!(members(b"\xff").count(), 0);
    }
}
