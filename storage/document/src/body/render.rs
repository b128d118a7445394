//! Writing a stored document as the JSON that clients see.
//!
//! Called for every read and write, so it copies: one allocation of the right size, no parsing, no tree.

use crate::acl::Acl;
use crate::{id, time};

/// The document as JSON, in one allocation:
/// `{"id":"/db/<bucket>/<key>","version":3,"acl":…|null,"createdAt":"…","updatedAt":"…",<fields>}`.
///
/// `key` is the decoded key; times are microseconds since 1970 UTC; `fields` are members without braces, as in
/// [`Parsed::fields`](super::Parsed::fields), and are copied unseen.
pub fn render(
    bucket: &str,
    key: &str,
    version: u64,
    acl: Option<&Acl>,
    created_us: i64,
    updated_us: i64,
    fields: &[u8],
) -> Vec<u8> {
    let acl_bytes = acl.map_or(NULL.len(), Acl::json_bytes);
    let write_acl = |out: &mut Vec<u8>| match acl {
        Some(acl) => acl.write_json(out),
        None => out.extend_from_slice(NULL),
    };
    render_with(
        bucket, key, version, acl_bytes, write_acl, created_us, updated_us, fields,
    )
}

/// As [`render`], with the ACL as JSON text (an object or `null`), which is copied unseen.
pub fn render_with_acl_json(
    bucket: &str,
    key: &str,
    version: u64,
    acl_json: &str,
    created_us: i64,
    updated_us: i64,
    fields: &[u8],
) -> Vec<u8> {
    let write_acl = |out: &mut Vec<u8>| out.extend_from_slice(acl_json.as_bytes());
    render_with(
        bucket,
        key,
        version,
        acl_json.len(),
        write_acl,
        created_us,
        updated_us,
        fields,
    )
}

const NULL: &[u8] = b"null";

#[expect(
    clippy::too_many_arguments,
    reason = "the envelope of a document has that many parts"
)]
fn render_with(
    bucket: &str,
    key: &str,
    version: u64,
    acl_bytes: usize,
    write_acl: impl FnOnce(&mut Vec<u8>),
    created_us: i64,
    updated_us: i64,
    fields: &[u8],
) -> Vec<u8> {
    // Names and punctuation of the envelope, twenty digits of version, two times of day.
    const ENVELOPE_BYTES: usize = 64 + 20 + 2 * time::DATETIME_BYTES_MAX;
    let key = id::encode_key(key);
    let bytes =
        ENVELOPE_BYTES + id::PREFIX.len() + bucket.len() + key.len() + acl_bytes + fields.len();
    let mut out = Vec::with_capacity(bytes);
    // Class names and encoded keys have no character that JSON escapes.
    out.extend_from_slice(b"{\"id\":\"/db/");
    out.extend_from_slice(bucket.as_bytes());
    out.push(b'/');
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\",\"version\":");
    write_number(&mut out, version);
    out.extend_from_slice(b",\"acl\":");
    write_acl(&mut out);
    out.extend_from_slice(b",\"createdAt\":\"");
    time::write_datetime(&mut out, created_us);
    out.extend_from_slice(b"\",\"updatedAt\":\"");
    time::write_datetime(&mut out, updated_us);
    out.push(b'"');
    if !fields.is_empty() {
        out.push(b',');
        out.extend_from_slice(fields);
    }
    out.push(b'}');
    out
}

fn write_number(out: &mut Vec<u8>, mut value: u64) {
    let start = out.len();
    loop {
        out.push(b'0' + (value % 10) as u8);
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out[start..].reverse();
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::acl::{Access, Rules};

    #[test]
    fn the_envelope_comes_first() {
        let out = render(
            "Todo",
            "a b",
            3,
            None,
            1_500_000,
            2_000_000,
            br#""name":"x","n":1"#,
        );
        assert_eq!(
            String::from_utf8(out).expect("UTF-8"),
            concat!(
                r#"{"id":"/db/Todo/a%20b","version":3,"acl":null,"createdAt":"1970-01-01T00:00:01.5Z","#,
                r#""updatedAt":"1970-01-01T00:00:02Z","name":"x","n":1}"#
            )
        );
    }

    #[test]
    fn no_fields_leave_no_comma() {
        let out = render("Todo", "1", u64::MAX, None, 0, 0, b"");
        let value: Value = serde_json::from_slice(&out).expect("valid");
        assert_eq!(value["version"], json!(u64::MAX));
        assert_eq!(value.as_object().expect("object").len(), 5);
    }

    #[test]
    fn acl_text_and_acl_render_alike_in_one_allocation() {
        let acl = Acl {
            read: Rules::new().with("/db/User/10", Access::Allow),
            write: Rules::nobody(),
        };
        let key = "ключ/ä".repeat(20);
        let rendered = render(
            "logs.AppLog",
            &key,
            7,
            Some(&acl),
            i64::MIN,
            i64::MAX,
            b"\"a\":null",
        );
        let same = render_with_acl_json(
            "logs.AppLog",
            &key,
            7,
            &acl.to_json(),
            i64::MIN,
            i64::MAX,
            b"\"a\":null",
        );
        assert_eq!(rendered, same);
        let value: Value = serde_json::from_slice(&rendered).expect("valid");
        assert_eq!(
            value["acl"],
            json!({"read":{"/db/User/10":"allow"},"write":{"*":"deny"}})
        );
        assert_eq!(value["id"], json!(id::object_id("logs.AppLog", &key)));
        // A vector that has never grown has the capacity that it was asked for.
        let bound = 64 + 20 + 54 + 4 + 11 + id::encode_key(&key).len() + acl.json_bytes() + 8;
        assert!(rendered.capacity() <= bound);
    }
}
