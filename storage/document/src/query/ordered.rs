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

use super::number::Number;
use super::value::{Kind, Seen, Typing, Value};

/// What an array without elements is sorted as.
pub(crate) const EMPTY: u8 = 0x08;

/// Where to cut values off that may take any length.
pub(crate) const NOWHERE: usize = usize::MAX;

/// Appends a value of a document; missing is null.
///
/// What begins at `end` of `out` or behind is left out, the closing bytes excepted. So the bytes before `end` are those of the whole value,
/// and values that agree in them become equal: the order of cut-off values is weakly that of the values.
pub(crate) fn write_seen(out: &mut Vec<u8>, seen: &Seen<'_>, typing: Typing<'_>, end: usize) {
    out.push(seen.kind().unwrap_or(Kind::Null) as u8);
    match seen {
        Seen::Missing | Seen::Null => {}
        Seen::Number(number) => write_number(out, *number, end),
        Seen::Text(text) => write_text(out, text, end),
        Seen::Boolean(boolean) => write_boolean(out, *boolean, end),
        Seen::Moment(moment) => write_moment(out, *moment, end),
        Seen::Object(_) | Seen::Array(_) => write_payload(out, &seen.to_value(typing), end),
    }
}

/// Appends a value, cut off likewise.
pub(crate) fn write(out: &mut Vec<u8>, value: &Value, end: usize) {
    out.push(value.kind() as u8);
    write_payload(out, value, end);
}

// Whether something is left out depends on the bytes before it alone. Otherwise two values that differ in it could change places.

fn write_payload(out: &mut Vec<u8>, value: &Value, end: usize) {
    match value {
        Value::Null => {}
        Value::Number(number) => write_number(out, *number, end),
        Value::Text(text) => write_text(out, text, end),
        Value::Object(members) => {
            for (name, value) in members {
                if out.len() >= end {
                    break;
                }
                out.push(value.kind() as u8);
                write_text(out, name, end);
                write_payload(out, value, end);
            }
            out.push(0);
        }
        Value::Array(elements) => {
            for element in elements {
                if out.len() >= end {
                    break;
                }
                write(out, element, end);
            }
            out.push(0);
        }
        Value::Boolean(boolean) => write_boolean(out, *boolean, end),
        Value::Moment(moment) => write_moment(out, *moment, end),
    }
}

fn write_number(out: &mut Vec<u8>, number: Number, end: usize) {
    if out.len() < end {
        number.write_ordered(out);
    } else {
        out.extend_from_slice(&[0; 10]);
    }
}

fn write_text(out: &mut Vec<u8>, text: &str, end: usize) {
    let mut rest = text.as_bytes();
    loop {
        rest = &rest[..rest.len().min(end.saturating_sub(out.len()))];
        let Some(at) = memchr::memchr(0, rest) else {
            break;
        };
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(&[0, 0xff]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(&[0, 0]);
}

fn write_boolean(out: &mut Vec<u8>, boolean: bool, end: usize) {
    out.push(u8::from(boolean && out.len() < end));
}

fn write_moment(out: &mut Vec<u8>, moment: i64, end: usize) {
    let ordered = if out.len() < end {
        moment ^ i64::MIN
    } else {
        0
    };
    out.extend_from_slice(&ordered.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
            write(&mut out, value, NOWHERE);
        }
        if descending {
            out.iter_mut().for_each(|byte| *byte = !*byte);
        }
        out
    }

    #[test]
    fn what_follows_a_name_that_is_cut_off_does_not_count() {
        let object = |name: &str, value| {
            let member = (name.to_owned(), Value::Number(Number::Integer(value)));
            let mut out = Vec::new();
            write(&mut out, &Value::Object(vec![member]), 3);
            out
        };
        assert_eq!(object("aa", 2), object("ab", 1));
        assert!(object("a", 2) < object("b", 1));
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

        #[test]
        fn cut_off_values_never_change_places(one in value(), two in value(), end in 1usize..24) {
            let cut = |value| {
                let mut out = Vec::new();
                write(&mut out, value, end);
                out
            };
            let whole = bytes(std::slice::from_ref(&one), false);
            prop_assert!(cut(&one).cmp(&cut(&two)) == one.cmp(&two) || cut(&one) == cut(&two));
            let kept = whole.len().min(end);
            prop_assert_eq!(&cut(&one)[..kept], &whole[..kept]);
            prop_assert!(cut(&one) == whole || cut(&one).len() >= end);
            prop_assert!(cut(&one) == cut(&two) || !cut(&one).starts_with(&cut(&two)));
        }
    }
}
