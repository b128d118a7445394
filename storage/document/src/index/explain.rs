//! Ranges as people read them.

use super::compiled::{Component, Index};
use super::encoding::{EMPTY, NO_PLACE, after, invert};
use super::ranges::Range;
use crate::json::excerpt;
use crate::query::number::Number;
use crate::query::ordered;
use crate::query::value::{Kind, Value};
use crate::time;

impl Index {
    /// A range as people read it: `name = "a", year from 1990 to before 2000`. For eyes only; long values are shortened.
    pub fn describe(&self, range: &Range) -> String {
        let mut parts = Vec::new();
        let (mut from, mut to) = (range.from.as_slice(), range.to.as_slice());
        for component in &self.0.components {
            let name = component.path.text();
            let end = component.end(from);
            let is_same = end > 0
                && (to.get(..end) == Some(&from[..end]) || *to == *after(&from[..end]))
                && component.read(&from[..end]).is_some();
            if is_same {
                parts.push(format!("{name} = {}", component.text(&from[..end])));
                if to.len() < end || to[..end] != from[..end] {
                    return parts.join(", ");
                }
                (from, to) = (&from[end..], &to[end..]);
                continue;
            }
            let bound = |word: &str, bound: &[u8]| {
                (!bound.is_empty()).then(|| format!(" {word} {}", component.text(bound)))
            };
            let text: String = bound("from", from)
                .into_iter()
                .chain(bound("to before", to))
                .collect();
            if !text.is_empty() {
                parts.push(format!("{name}{text}"));
            }
            break;
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
        let mut bytes = bytes.to_vec();
        if self.is_descending() {
            invert(&mut bytes);
        }
        read(&bytes)
    }

    /// A bound: a value, or the place beside one.
    fn text(&self, bound: &[u8]) -> String {
        if let Some(text) = self.read(bound) {
            return text;
        }
        let neighbour = |step: fn(u8) -> u8| {
            let mut bytes = bound.to_vec();
            let last = bytes.last_mut()?;
            *last = step(*last);
            self.read(&bytes)
        };
        if let Some(text) = neighbour(|byte| byte.wrapping_sub(1)) {
            return format!("after {text}");
        }
        if let Some(text) = neighbour(|byte| byte.wrapping_add(1)) {
            return format!("before {text}");
        }
        let mut bytes = bound.to_vec();
        if self.is_descending() {
            invert(&mut bytes);
        }
        let kind = KINDS.iter().find(|(kind, _)| bytes == [*kind as u8]);
        match (kind, bytes.as_slice()) {
            (Some((_, name)), _) => (*name).to_owned(),
            (None, [first, begin @ ..]) if *first == Kind::Text as u8 => {
                format!("{:?}…", excerpt(&String::from_utf8_lossy(begin)))
            }
            _ => {
                let digits = bytes.iter().take(HEX_MAX).map(|byte| format!("{byte:02x}"));
                format!("bytes {}", digits.collect::<String>())
            }
        }
    }
}

/// The most bytes that are shown as such.
const HEX_MAX: usize = 16;

const KINDS: [(Kind, &str); 7] = [
    (Kind::Null, "null"),
    (Kind::Number, "numbers"),
    (Kind::Text, "texts"),
    (Kind::Object, "objects"),
    (Kind::Array, "arrays"),
    (Kind::Boolean, "booleans"),
    (Kind::Moment, "dates"),
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
