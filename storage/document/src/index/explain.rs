//! Ranges as people read them.

use super::bounds::END;
use super::compiled::{Component, Index};
use super::encoding::{EMPTY, NO_PLACE, after, invert};
use super::hashed::HASHED_BYTES;
use super::ranges::Range;
use crate::json::excerpt;
use crate::query::number::Number;
use crate::query::ordered;
use crate::query::value::{Kind, Value};
use crate::time;

impl Index {
    /// A range as people read it: `name = "a", year from 1990 up to 2000`. For eyes only; long values are shortened.
    pub fn describe(&self, range: &Range) -> String {
        let mut parts = Vec::new();
        let (mut from, mut to) = (range.from.as_slice(), range.to.as_slice());
        for component in &self.0.components {
            let name = component.path.text();
            let (value, behind) = from.split_at(component.end(from));
            let shown = component.read(value).filter(|_| !value.is_empty());
            match (shown, to.strip_prefix(value)) {
                (Some(shown), Some(rest)) => {
                    parts.push(format!("{name} = {shown}"));
                    (from, to) = (behind, rest);
                }
                (Some(shown), None) if *to == *after(value) => {
                    parts.push(format!("{name} = {shown}"));
                    (from, to) = (behind, &[]);
                }
                _ => {
                    let bounds = component.bounds(from, to);
                    if !bounds.is_empty() {
                        parts.push(format!("{name}{bounds}"));
                    }
                    break;
                }
            }
        }
        if parts.is_empty() {
            return "all".to_owned();
        }
        parts.join(", ")
    }
}

impl Component {
    /// The value that the bytes are, if they are one.
    fn read(&self, bytes: &[u8]) -> Option<String> {
        if self.is_geo() {
            return (bytes == [NO_PLACE]).then(|| "no place".to_owned());
        }
        if self.key.is_some() {
            return (bytes.len() == HASHED_BYTES).then(|| "a hash".to_owned());
        }
        let mut bytes = bytes.to_vec();
        if self.is_descending() {
            invert(&mut bytes);
        }
        read(&bytes)
    }

    /// From where to where, from small to great whatever the direction.
    fn bounds(&self, from: &[u8], to: &[u8]) -> String {
        let (low, high) = if self.is_descending() {
            (inverted(to), inverted(from))
        } else {
            (from.to_vec(), to.to_vec())
        };
        let mut text = String::new();
        if !low.is_empty() {
            text += " from ";
            text += &match self.before(&low) {
                Some(value) => format!("after {value}"),
                None => self.text(&low),
            };
        }
        if !high.is_empty() && high != [END] {
            text += &match self.before(&high) {
                Some(value) => format!(" up to {value}"),
                None => format!(" to before {}", self.text(&high)),
            };
        }
        text
    }

    /// The value that the bytes are the end of.
    fn before(&self, bound: &[u8]) -> Option<String> {
        let mut bytes = bound.to_vec();
        let last = bytes.last_mut()?;
        *last = last.wrapping_sub(1);
        (!self.is_opaque() && read(bound).is_none()).then(|| read(&bytes))?
    }

    /// Whether its bytes are no values.
    fn is_opaque(&self) -> bool {
        self.is_geo() || self.key.is_some()
    }

    fn text(&self, bytes: &[u8]) -> String {
        if let Some(text) = read(bytes).filter(|_| !self.is_opaque()) {
            return text;
        }
        let kind = |byte: u8| KINDS.iter().find(|(kind, _)| *kind as u8 == byte);
        match bytes {
            _ if self.is_opaque() => hex(bytes),
            [byte] if let Some((_, name)) = kind(*byte) => format!("the first {name}"),
            [byte] if let Some((_, name)) = kind(byte.wrapping_sub(1)) => {
                format!("the end of {name}s")
            }
            [first, begin @ ..] if *first == Kind::Text as u8 => {
                format!("{:?}…", excerpt(&String::from_utf8_lossy(begin)))
            }
            _ => hex(bytes),
        }
    }
}

/// A bound of a descending component as it was before it was inverted.
fn inverted(bound: &[u8]) -> Vec<u8> {
    let mut bytes = bound.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last = last.wrapping_sub(1);
    }
    invert(&mut bytes);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().take(HEX_MAX).map(|byte| format!("{byte:02x}"));
    format!("bytes {}", digits.collect::<String>())
}

/// The most bytes that are shown as such.
const HEX_MAX: usize = 16;

const KINDS: [(Kind, &str); 7] = [
    (Kind::Null, "null"),
    (Kind::Number, "number"),
    (Kind::Text, "text"),
    (Kind::Object, "object"),
    (Kind::Array, "array"),
    (Kind::Boolean, "boolean"),
    (Kind::Moment, "date"),
];

fn read(bytes: &[u8]) -> Option<String> {
    let (kind, payload) = bytes.split_first()?;
    let value = match *kind {
        EMPTY if payload.is_empty() => return Some("[]".to_owned()),
        kind if kind == Kind::Null as u8 => Value::Null,
        kind if kind == Kind::Boolean as u8 => Value::Boolean(*payload.first()? == 1),
        kind if kind == Kind::Number as u8 => Value::Number(number(payload)?),
        kind if kind == Kind::Moment as u8 => {
            Value::Moment(i64::from_be_bytes(payload.try_into().ok()?) ^ i64::MIN)
        }
        kind if kind == Kind::Text as u8 => Value::Text(text(payload)?),
        _ => return None,
    };
    // Bytes beside a value would be read as one, too.
    let mut same = Vec::with_capacity(bytes.len());
    ordered::write(&mut same, &value, ordered::NOWHERE);
    if same != bytes {
        return None;
    }
    Some(match value {
        Value::Number(Number::Integer(integer)) => integer.to_string(),
        Value::Number(Number::Double(double)) => double.to_string(),
        Value::Text(text) => format!("{:?}", excerpt(&text)),
        Value::Boolean(boolean) => boolean.to_string(),
        Value::Moment(ms) => time::format_datetime(ms.saturating_mul(1_000)),
        Value::Null | Value::Object(_) | Value::Array(_) => "null".to_owned(),
    })
}

fn number(payload: &[u8]) -> Option<Number> {
    let (nearest, rest) = payload.split_first_chunk::<8>()?;
    let ordered = u64::from_be_bytes(*nearest);
    let bits = if ordered >> 63 == 1 {
        ordered ^ 1 << 63
    } else {
        !ordered
    };
    let nearest = f64::from_bits(bits);
    let rest = i128::from(u16::from_be_bytes(rest.try_into().ok()?)) - 0x8000;
    match i64::try_from(nearest as i128 + rest) {
        Ok(integer) if nearest.fract() == 0.0 => Some(Number::Integer(integer)),
        _ => Number::of_double(nearest),
    }
}

fn text(payload: &[u8]) -> Option<String> {
    let payload = payload.strip_suffix(&[0, 0])?;
    let mut text = Vec::with_capacity(payload.len());
    let mut bytes = payload.iter();
    while let Some(byte) = bytes.next() {
        text.push(*byte);
        if *byte == 0 {
            bytes.next();
        }
    }
    String::from_utf8(text).ok()
}
