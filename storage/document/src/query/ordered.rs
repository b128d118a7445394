//! Values as bytes that order as the values do.
//!
//! Each value is the byte of its [`Kind`] and a payload that shows its own end, so values can follow one another and no value's bytes
//! are the beginning of another's: inverted bytes order in reverse. Layout of the payloads, by kind:
//!
//! | kind | payload |
//! |---|---|
//! | null | none |
//! | number | ten bytes, see `number` |
//! | text | UTF-8 with `00` as `00 FF`, then `00 00` |
//! | object | each member: kind, name as text, payload; then `00` |
//! | array | each element; then `00` |
//! | boolean | `00` or `01` |
//! | moment | eight bytes, big endian, the sign bit inverted |
//!
//! An empty array that is sorted by its elements is the byte `08`, before null.

use super::value::{Kind, Seen, Typing, Value};

/// What an array without elements is sorted as.
pub(super) const EMPTY: u8 = 0x08;

/// Appends a value of a document; missing is null.
pub(super) fn write_seen(out: &mut Vec<u8>, seen: &Seen<'_>, typing: Typing<'_>) {
    out.push(seen.kind().unwrap_or(Kind::Null) as u8);
    match seen {
        Seen::Missing | Seen::Null => {}
        Seen::Number(number) => number.write_ordered(out),
        Seen::Text(text) => write_text(out, text),
        Seen::Boolean(boolean) => out.push(u8::from(*boolean)),
        Seen::Moment(moment) => write_moment(out, *moment),
        Seen::Object(_) | Seen::Array(_) => write_payload(out, &seen.to_value(typing)),
    }
}

/// Appends a value.
pub(super) fn write(out: &mut Vec<u8>, value: &Value) {
    out.push(value.kind() as u8);
    write_payload(out, value);
}

fn write_payload(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => {}
        Value::Number(number) => number.write_ordered(out),
        Value::Text(text) => write_text(out, text),
        Value::Object(members) => {
            for (name, value) in members {
                out.push(value.kind() as u8);
                write_text(out, name);
                write_payload(out, value);
            }
            out.push(0);
        }
        Value::Array(elements) => {
            for element in elements {
                write(out, element);
            }
            out.push(0);
        }
        Value::Boolean(boolean) => out.push(u8::from(*boolean)),
        Value::Moment(moment) => write_moment(out, *moment),
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    while let Some(at) = memchr::memchr(0, rest) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(&[0, 0xff]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(&[0, 0]);
}

fn write_moment(out: &mut Vec<u8>, moment: i64) {
    out.extend_from_slice(&(moment ^ i64::MIN).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::query::number::Number;

    fn value() -> impl Strategy<Value = Value> {
        let text = "[\\x00\\x01ab\u{ff}]{0,3}";
        let leaf = prop_oneof![
            Just(Value::Null),
            (-3i64..3).prop_map(|n| Value::Number(Number::Integer(n))),
            (-9i32..9).prop_filter_map("NaN", |n| Number::of_double(f64::from(n) / 2.0)
                .map(Value::Number)),
            text.prop_map(Value::Text),
            any::<bool>().prop_map(Value::Boolean),
            (-3i64..3).prop_map(Value::Moment),
        ];
        leaf.prop_recursive(3, 12, 3, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
                prop::collection::vec((text, inner), 0..3).prop_map(Value::Object),
            ]
        })
    }

    fn bytes(values: &[Value], descending: bool) -> Vec<u8> {
        let mut out = Vec::new();
        for value in values {
            write(&mut out, value);
        }
        if descending {
            out.iter_mut().for_each(|byte| *byte = !*byte);
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn bytes_order_as_values(
            one in prop::collection::vec(value(), 2),
            two in prop::collection::vec(value(), 2),
        ) {
            let order = one.cmp(&two);
            prop_assert_eq!(bytes(&one, false).cmp(&bytes(&two, false)), order);
            prop_assert_eq!(bytes(&one, true).cmp(&bytes(&two, true)), order.reverse());
            prop_assert_eq!(order, two.cmp(&one).reverse());
        }
    }
}
