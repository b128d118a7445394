//! When two JSON values are equal: numbers by value, objects whatever the order of their members, all else as written.

use std::collections::BTreeMap;

use crate::body::{members, number, text};
use crate::json;

use super::edit::elements;

/// Bytes that two values share exactly if they are equal. `as_double`: whole numbers count as doubles too, so that those of a `Double`
/// that differ only past its precision are equal.
///
/// Costs about the length of the text, so that many values can be compared with one. Recurses as deep as the value.
pub(super) fn identity(value: &str, as_double: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    write(&mut out, value, as_double);
    out
}

fn write(out: &mut Vec<u8>, value: &str, as_double: bool) {
    match value.as_bytes().first() {
        Some(b'{') => {
            // Of members with one name the last counts.
            let by_name: BTreeMap<_, _> = members(inside(value).as_bytes()).collect();
            out.push(b'{');
            for (name, member) in by_name {
                json::write_string(out, &name);
                out.push(b':');
                write(out, member, as_double);
                out.push(b',');
            }
            out.push(b'}');
        }
        Some(b'[') => {
            out.push(b'[');
            for element in elements(value) {
                write(out, element, as_double);
                out.push(b',');
            }
            out.push(b']');
        }
        Some(b'"') => match text(value) {
            Some(text) => json::write_string(out, &text),
            None => out.extend_from_slice(value.as_bytes()),
        },
        Some(b'-' | b'0'..=b'9') => write_number(out, value, as_double),
        _ => out.extend_from_slice(value.as_bytes()),
    }
}

fn write_number(out: &mut Vec<u8>, token: &str, as_double: bool) {
    if let Some(whole) = token.parse::<i64>().ok().filter(|_| !as_double) {
        out.extend_from_slice(whole.to_string().as_bytes());
        return;
    }
    match number::double(token) {
        // A double that is a whole number of 64 bits is that number.
        Some(value) if !as_double && value.fract() == 0.0 && value.abs() < -(i64::MIN as f64) => {
            out.extend_from_slice((value as i64).to_string().as_bytes());
        }
        Some(value) => {
            out.push(b'd');
            // Adding zero makes one zero of the two.
            out.extend_from_slice(&(value + 0.0).to_bits().to_be_bytes());
        }
        // Beyond the range of doubles: equal only as written.
        None => out.extend_from_slice(token.as_bytes()),
    }
}

/// What is between the brackets.
pub(super) fn inside(value: &str) -> &str {
    value
        .get(1..value.len().saturating_sub(1))
        .unwrap_or_default()
}
