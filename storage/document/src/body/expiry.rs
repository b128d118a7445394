//! When a document expires: the member `expiresAt`, which is metadata wherever the class has no field of that name.
//!
//! It stands behind all other members, so that it comes off and goes on without a look at them.

use super::value::text;
use crate::error::Error;
use crate::schema::Layout;
use crate::time;

/// The member.
pub const EXPIRES_AT: &str = "expiresAt";

/// What a request says about the expiry of its document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// Nothing: it stays as it is. Clients that do not know of it leave it out.
    #[default]
    Kept,
    /// It does not expire.
    Never,
    /// It expires at this moment, microseconds since 1970.
    At(i64),
}

/// Whether `expiresAt` is metadata in this class, and no field.
pub fn has_expiry(layout: &Layout) -> bool {
    layout.shape().slot(EXPIRES_AT).is_none()
}

/// Reads the member.
///
/// # Errors
/// [`Error::Type`]: neither a moment nor `null`.
pub(crate) fn read(raw: &str) -> Result<Expiry, Error> {
    if raw == "null" {
        return Ok(Expiry::Never);
    }
    let moment = text(raw).and_then(|text| time::parse_datetime(&text));
    moment.map(Expiry::At).ok_or_else(|| Error::Type {
        field: EXPIRES_AT.to_owned(),
        message: "expected a date and time, or null".to_owned(),
    })
}

/// The fields with the member behind them. They must not have it.
pub fn with_expiry(fields: &[u8], at_us: i64) -> Vec<u8> {
    let member = member(at_us);
    let mut out = Vec::with_capacity(fields.len() + 1 + member.len());
    out.extend_from_slice(fields);
    if !fields.is_empty() {
        out.push(b',');
    }
    out.extend_from_slice(&member);
    out
}

/// The fields without the member that [`with_expiry`] put behind them; as they are if it is not there.
pub fn without_expiry(fields: &[u8], at_us: i64) -> &[u8] {
    let Some(rest) = fields.strip_suffix(&member(at_us)[..]) else {
        return fields;
    };
    match rest {
        [] => rest,
        _ => rest.strip_suffix(b",").unwrap_or(fields),
    }
}

fn member(at_us: i64) -> Vec<u8> {
    let mut member = Vec::with_capacity(EXPIRES_AT.len() + 5 + time::DATETIME_BYTES_MAX);
    member.push(b'"');
    member.extend_from_slice(EXPIRES_AT.as_bytes());
    member.extend_from_slice(b"\":\"");
    time::write_datetime(&mut member, at_us);
    member.push(b'"');
    member
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn moments_and_null_are_read_and_nothing_else() {
        let second = Ok(Expiry::At(1_000_000));
        for raw in [
            r#""1970-01-01T00:00:01Z""#,
            r#""1970-01-01T01:00:01+01:00""#,
            r#""1970-01-01T00:00:01.000000Z""#,
        ] {
            assert_eq!(read(raw), second, "{raw}");
        }
        assert_eq!(read("null"), Ok(Expiry::Never));
        for raw in [
            "1",
            "true",
            "{}",
            "[]",
            r#""""#,
            r#""soon""#,
            r#""2026-02-30""#,
        ] {
            assert!(matches!(read(raw), Err(Error::Type { .. })), "{raw}");
        }
    }

    #[test]
    fn only_the_member_at_the_end_comes_off() {
        for fields in [
            &br#""a":1,"expiresAt":"1970-01-01T00:00:02Z""#[..],
            br#""expiresAt":"1970-01-01T00:00:01Z","a":1"#,
            br#""a":{"expiresAt":"1970-01-01T00:00:01Z"}"#,
        ] {
            assert_eq!(without_expiry(fields, 1_000_000), fields);
        }
    }

    proptest! {
        #[test]
        fn what_goes_on_comes_off(fields in prop_oneof![Just(""), Just(r#""a":1"#), Just(r#""a":"x","b":{}"#)], at_us: i64) {
            let with = with_expiry(fields.as_bytes(), at_us);
            let object = [b"{", &with[..], b"}"].concat();
            let is_json = serde_json::from_slice::<serde_json::Value>(&object).is_ok();
            prop_assert!(is_json);
            prop_assert_eq!(without_expiry(&with, at_us), fields.as_bytes());
        }
    }
}
