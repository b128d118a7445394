//! Object ids: `/db/<bucket>/<encodeURIComponent(key)>`.
//!
//! The id is the text that clients compare, cache and hash, so a key has exactly one id: the one JavaScript's `encodeURIComponent`
//! writes. Reading is more tolerant than writing (`%61` is read as `a`), and whoever stores an id that came from outside stores
//! [`object_id`] of its parts.
//!
//! Invariant: `parse_object_id(&object_id(b, k)) == Some((b, k))` for every bucket without a slash and every non-empty key.
//!
//! Lacks: limits on key length and reserved keys, which are rules of the service.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What all object ids begin with.
pub const PREFIX: &str = "/db/";

/// All that `encodeURIComponent` escapes: everything but letters, digits and ``- _ . ! ~ * ' ( )`` (ECMA-262, 19.2.6.4).
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// The key as it stands in an id or a path, exactly as JavaScript's `encodeURIComponent` writes it: upper-case `%XX` of its UTF-8.
///
/// Borrowed when nothing needs escaping, which is so for UUIDs.
pub fn encode_key(key: &str) -> Cow<'_, str> {
    utf8_percent_encode(key, COMPONENT).into()
}

/// The full id of the object `key` in `bucket`.
pub fn object_id(bucket: &str, key: &str) -> String {
    let mut id = String::with_capacity(PREFIX.len() + bucket.len() + 1 + key.len());
    id.push_str(PREFIX);
    id.push_str(bucket);
    id.push('/');
    id.extend(utf8_percent_encode(key, COMPONENT));
    id
}

/// Splits a full id into its bucket and its decoded key.
///
/// `None` unless the text is `/db/`, a bucket, a slash and a key, both non-empty, the key without a bare slash and decodable by
/// [`decode_segment`]. Whether the bucket exists is not looked at.
pub fn parse_object_id(id: &str) -> Option<(&str, String)> {
    let (bucket, key) = id.strip_prefix(PREFIX)?.split_once('/')?;
    if bucket.is_empty() || key.is_empty() || key.contains('/') {
        return None;
    }
    Some((bucket, decode_segment(key)?))
}

/// Percent-decodes one path segment.
///
/// `None` if a `%` is not followed by two hex digits, or if the bytes are not UTF-8: JavaScript's `decodeURIComponent` throws on the
/// same inputs, and a text with two readings must not name a document.
pub fn decode_segment(raw: &str) -> Option<String> {
    let bytes = raw.as_bytes();
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|&b| b == b'%') {
        let digits = rest.get(at + 1..at + 3)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        rest = &rest[at + 3..];
    }
    percent_decode_str(raw)
        .decode_utf8()
        .ok()
        .map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_encoded_like_encode_uri_component() {
        // Right-hand sides are what Node prints for encodeURIComponent of the left.
        for (key, encoded) in [
            (
                "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
                "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
            ),
            ("-_.!~*'()", "-_.!~*'()"),
            ("a b", "a%20b"),
            ("a/b", "a%2Fb"),
            ("100%", "100%25"),
            ("ä中😀", "%C3%A4%E4%B8%AD%F0%9F%98%80"),
            (
                "\";:@&=+$,?#[]{}|^`<>\\",
                "%22%3B%3A%40%26%3D%2B%24%2C%3F%23%5B%5D%7B%7D%7C%5E%60%3C%3E%5C",
            ),
            ("\u{0}\u{7f}", "%00%7F"),
        ] {
            assert_eq!(encode_key(key), encoded);
        }
        assert!(matches!(encode_key("plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn ids_split_into_bucket_and_key() {
        assert_eq!(
            parse_object_id("/db/Todo/a%20b"),
            Some(("Todo", "a b".to_owned()))
        );
        assert_eq!(
            parse_object_id("/db/logs.AppLog/1"),
            Some(("logs.AppLog", "1".to_owned()))
        );
        assert_eq!(
            parse_object_id("/db/Todo/%61%2f"),
            Some(("Todo", "a/".to_owned()))
        );
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in [
            "",
            "/db",
            "/db/",
            "/db/Todo",
            "/db/Todo/",
            "/db//1",
            "/db/Todo/1/2",
            "db/Todo/1",
            "/file/www/a",
            "/db/Todo/%",
            "/db/Todo/%4",
            "/db/Todo/%zz",
            "/db/Todo/%FF",
            "/db/Todo/%ED%A0%80",
        ] {
            assert_eq!(parse_object_id(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn keys_round_trip(bucket in "[A-Za-z0-9_.]{1,20}", key in "\\PC{1,40}|[\\x00-\\x7f]{1,20}") {
            let id = object_id(&bucket, &key);
            prop_assert!(id.ends_with(encode_key(&key).as_ref()));
            prop_assert_eq!(parse_object_id(&id), Some((bucket.as_str(), key.clone())));
            prop_assert_eq!(decode_segment(&encode_key(&key)), Some(key));
        }

        #[test]
        fn decoding_never_panics(raw in "[%0-9a-fA-F/]{0,12}|\\PC{0,12}") {
            let _ = decode_segment(&raw);
            let _ = parse_object_id(&raw);
        }
    }
}
