//! Small tools over JSON text that is kept as text: escaping, checking depth and escapes, removing blanks.
//!
//! They exist so that a body is read once, by `serde_json`, and never turned into a tree of values. All of them work on bytes and rely
//! on one fact: outside strings JSON is ASCII, and a backslash occurs only inside a string.

/// Appends `text` as a JSON string, quotes included, with the fewest escapes (RFC 8259, section 7), as `JSON.stringify` does.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    out.push(b'"');
    let mut copied = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[copied..at]);
        copied = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
    }
    out.extend_from_slice(&bytes[copied..]);
    out.push(b'"');
}

/// Whether objects and arrays are nested at most `limit` deep. Says nothing about whether the text is JSON.
///
/// Must run before anything that recurses. Flat bodies pay one vectorised count: fewer brackets than `limit` cannot nest deeper.
pub(crate) fn is_within_depth(text: &str, limit: usize) -> bool {
    let bytes = text.as_bytes();
    if bytes
        .iter()
        .filter(|&&byte| byte == b'{' || byte == b'[')
        .count()
        <= limit
    {
        return true;
    }
    let mut depth = 0usize;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = end_of_string(bytes, at),
            b'{' | b'[' => {
                depth += 1;
                if depth > limit {
                    return false;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    true
}

/// Index of the quote that ends the string which begins at `start`; the last index if it never ends.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len().saturating_sub(1)
}

/// Position of the first `\u` escape that is half of a surrogate pair without its other half.
///
/// `serde_json` accepts such escapes in values that it only skips over, and everything we keep as text is only skipped over. They have
/// no UTF-8 form, so no later reader could return them.
pub(crate) fn lone_surrogate(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let unit = |at: usize| -> Option<u16> {
        if bytes.get(at) != Some(&b'\\') || bytes.get(at + 1) != Some(&b'u') {
            return None;
        }
        u16::from_str_radix(text.get(at + 2..at + 6)?, 16).ok()
    };
    let mut at = 0;
    while let Some(offset) = bytes
        .get(at..)
        .and_then(|rest| rest.iter().position(|&byte| byte == b'\\'))
    {
        at += offset;
        match unit(at) {
            Some(0xd800..=0xdbff) => match unit(at + 6) {
                Some(0xdc00..=0xdfff) => at += 12,
                _ => return Some(at),
            },
            Some(0xdc00..=0xdfff) => return Some(at),
            // Any other escape is two bytes as far as finding the next backslash goes.
            _ => at += 2,
        }
    }
    None
}

/// Appends the valid JSON `raw` without the blanks between its tokens. The tokens keep their bytes.
///
/// Without this a pretty-printed member would carry line breaks into the stored form, and from there into formats where a line is a
/// record: NDJSON exports and server-sent events.
pub(crate) fn write_compact(out: &mut Vec<u8>, raw: &str) {
    let bytes = raw.as_bytes();
    let mut copied = 0;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = end_of_string(bytes, at),
            b' ' | b'\n' | b'\r' | b'\t' => {
                out.extend_from_slice(&bytes[copied..at]);
                copied = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    out.extend_from_slice(&bytes[copied..]);
}

/// The beginning of a text from outside that goes into a message: enough to recognise it.
pub(crate) fn excerpt(text: &str) -> &str {
    text.char_indices()
        .nth(100)
        .map_or(text, |(end, _)| &text[..end])
}

/// Length of the value, or of the member name, that valid JSON without blanks begins with.
pub(crate) fn value_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut depth = 0usize;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = end_of_string(bytes, at),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' | b':' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// ` at line L column C`, both counted from 1, the column in bytes, as `serde_json` words it.
pub(crate) fn position(text: &str, at: usize) -> String {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let column = before
        .iter()
        .rev()
        .take_while(|&&byte| byte != b'\n')
        .count()
        + 1;
    format!(" at line {line} column {column}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert!(is_within_depth("[[]]", 2));
        assert!(!is_within_depth("[[[]]]", 2));
        assert!(is_within_depth(r#"["[[[[\"[["]"#, 1));
        assert!(is_within_depth("[[],[],[]]", 2));
        assert!(is_within_depth("{\"unterminated [[[[", 1));
        assert!(!is_within_depth(&"[".repeat(1_000_000), 100));
    }

    #[test]
    fn surrogates_must_come_in_pairs() {
        for good in [
            r#""\ud83d\ude00""#,
            r#""\u0041""#,
            r#""\\ud800""#,
            r#""plain""#,
            r#""\uD83D\uDE00\n""#,
        ] {
            assert_eq!(lone_surrogate(good), None, "{good}");
        }
        for bad in [
            r#""\ud800""#,
            r#""\udc00""#,
            r#""\ud800\u0041""#,
            r#""\ud800x""#,
            r#""\ude00\ud83d""#,
        ] {
            assert_eq!(lone_surrogate(bad), Some(1), "{bad}");
        }
        assert_eq!(lone_surrogate(r#""\\\ud800""#), Some(3));
    }

    #[test]
    fn blanks_inside_strings_stay() {
        let mut out = Vec::new();
        write_compact(&mut out, "{ \"a b\" :\n[1 , \"\\\" x\"\t]\r\n}");
        assert_eq!(out, br#"{"a b":[1,"\" x"]}"#);
    }

    #[test]
    fn positions_count_from_one() {
        assert_eq!(position("ab\ncd", 0), " at line 1 column 1");
        assert_eq!(position("ab\ncd", 4), " at line 2 column 2");
    }

    proptest! {
        #[test]
        fn strings_round_trip(text in "\\PC{0,20}|[\\x00-\\x7f]{0,20}") {
            let mut out = Vec::new();
            write_string(&mut out, &text);
            prop_assert_eq!(&out, &serde_json::to_vec(&text).expect("strings are JSON"));
            prop_assert_eq!(serde_json::from_slice::<String>(&out).expect("valid"), text);
        }

        #[test]
        fn compacting_keeps_the_value(keys in proptest::collection::vec("[ \"\\\\a]{0,6}", 0..5)) {
            let value: Value = keys.iter().map(|key| (key.clone(), Value::from(vec![key.clone()]))).collect();
            let mut out = Vec::new();
            write_compact(&mut out, &serde_json::to_string_pretty(&value).expect("values are JSON"));
            prop_assert_eq!(out, serde_json::to_vec(&value).expect("values are JSON"));
        }
    }
}
