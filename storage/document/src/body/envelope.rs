//! Taking a stored document apart into its envelope and its fields, without parsing either.

use crate::json;

/// The parts of a document as [`render`](super::render()) wrote it, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The full id, `/db/<bucket>/<encoded key>`.
    pub id: &'a str,
    /// The moment of the insert, as it is shown.
    pub created: &'a str,
    /// The moment of the last write, as it is shown.
    pub updated: &'a str,
    /// The stored fields: members without braces, in normal form.
    pub fields: &'a [u8],
}

/// Takes a rendered document apart; `None`: it is not in that form.
///
/// Looks only at the envelope, so that its cost does not grow with the document.
pub fn envelope(body: &[u8]) -> Option<Envelope<'_>> {
    let rest = body.strip_prefix(b"{\"id\":\"")?;
    // An id has no character that JSON escapes.
    let (id, rest) = until_quote(rest)?;
    let rest = rest.strip_prefix(b",\"version\":")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let rest = rest.get(digits..)?.strip_prefix(b",\"acl\":")?;
    let rest = match rest.strip_prefix(b"null") {
        Some(rest) => rest,
        None => {
            let text = std::str::from_utf8(rest).ok()?;
            rest.get(json::value_end(text)..)?
        }
    };
    let (created, rest) = until_quote(rest.strip_prefix(b",\"createdAt\":\"")?)?;
    let (updated, rest) = until_quote(rest.strip_prefix(b",\"updatedAt\":\"")?)?;
    let fields = rest.strip_suffix(b"}")?;
    let fields = match fields {
        [] => fields,
        _ => fields.strip_prefix(b",")?,
    };
    Some(Envelope {
        id: std::str::from_utf8(id).ok()?,
        created: std::str::from_utf8(created).ok()?,
        updated: std::str::from_utf8(updated).ok()?,
        fields,
    })
}

/// What lies before the next quote, and after it.
fn until_quote(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == b'"')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::render;
    use super::*;
    use crate::acl::{Access, Acl, Rules};
    use crate::id::object_id;

    proptest! {
        #[test]
        fn what_was_rendered_comes_apart_again(
            key in "\\PC{1,20}",
            version: u64,
            user in proptest::option::of("[a-z]{1,9}"),
            times in any::<(i32, i32)>(),
            fields in prop_oneof![Just(""), Just(r#""a":1"#), Just(r#""acl":{"x":"}"},"b":",\"}""#)],
        ) {
            let acl = user.map(|user| Acl {
                read: Rules::new().with(&format!("/db/User/{user}"), Access::Allow),
                write: Rules::new(),
            });
            let (created, updated) = (i64::from(times.0), i64::from(times.1));
            let body = render("Todo", &key, version, acl.as_ref(), created, updated, fields.as_bytes());
            let id = object_id("Todo", &key);
            let [created, updated] = [created, updated].map(crate::time::format_datetime);
            let parts = Envelope { id: &id, created: &created, updated: &updated, fields: fields.as_bytes() };
            prop_assert_eq!(envelope(&body), Some(parts));
        }

        #[test]
        fn other_bytes_have_no_envelope_and_do_no_harm(bytes: Vec<u8>, cut in 0..90_usize) {
            prop_assert_eq!(envelope(&bytes), None);
            let body = render("Todo", "k", 3, None, 0, 0, br#""a":1"#);
            let cut = cut.min(body.len() - 1);
            prop_assert_eq!(envelope(&body[..cut]), None);
        }
    }
}
