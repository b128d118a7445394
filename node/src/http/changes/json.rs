//! A change event as one line of JSON, the document in it as it is stored.
//!
//! Written piece by piece: a feed that reads a long log writes little else.

use std::fmt::Write as _;

use document::id::object_id;
use document::time::format_datetime;
use service::FeedEvent;
use service::forward::{Change, ChangeKind};

/// Adds an event; `head` are members to put in front, each with a comma behind it.
pub(crate) fn event_json(out: &mut String, head: &str, event: &FeedEvent) {
    let Change {
        bucket,
        key,
        version,
        time_us,
        body,
        ..
    } = &event.change;
    let kind = ChangeKind::try_from(event.change.kind).unwrap_or(ChangeKind::Unspecified);
    out.reserve(160 + head.len() + bucket.len() + key.len() + body.len());
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "{{{head}\"event\":\"{}\",\"op\":\"{}\",\"bucket\":",
        event.id(),
        kind.name()
    );
    text(out, bucket);
    let _ = write!(out, ",\"version\":{version}");
    if *time_us > 0 {
        let _ = write!(out, ",\"time\":\"{}\"", moment(*time_us));
    }
    if kind != ChangeKind::Rules {
        out.push_str(",\"id\":");
        text(out, &object_id(bucket, key));
    }
    for (name, is_so) in [
        ("compacted", event.change.compacted),
        ("expired", event.change.by_expiry),
    ] {
        if is_so {
            let _ = write!(out, ",\"{name}\":true");
        }
    }
    match std::str::from_utf8(body) {
        Ok(body) if !body.is_empty() => {
            let name = match kind {
                ChangeKind::Rules => "rules",
                _ => "document",
            };
            let _ = write!(out, ",\"{name}\":{body}");
        }
        _ => {}
    }
    out.push('}');
}

/// A time as answers have it.
pub(super) fn moment(us: u64) -> String {
    format_datetime(i64::try_from(us).unwrap_or(i64::MAX))
}

fn text(out: &mut String, text: &str) {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if text.bytes().all(is_plain) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        let _ = write!(out, "{}", serde_json::Value::from(text));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::Bytes;
    use proto::ShardId;
    use serde_json::json;

    use super::*;

    pub(in super::super) fn event(kind: ChangeKind, body: &'static str) -> FeedEvent {
        FeedEvent {
            shard: ShardId(3),
            change: Change {
                index: 17,
                ordinal: 1,
                time_us: 1_500_000,
                bucket: "Demo".to_owned(),
                key: "a b".to_owned(),
                kind: kind as i32,
                version: 4,
                body: Bytes::from_static(body.as_bytes()),
                by_expiry: false,
                compacted: kind == ChangeKind::State,
            },
        }
    }

    #[test]
    fn events_are_json_with_the_document_as_it_is() {
        for (event, expected) in [
            (event(ChangeKind::Update, r#"{"n":1.0}"#), r#"{"n":1.0}"#),
            (event(ChangeKind::State, r#"{"n":1.0}"#), r#"{"n":1.0}"#),
        ] {
            let mut out = String::new();
            event_json(&mut out, "", &event);
            assert!(out.contains(&format!("\"document\":{expected}")), "{out}");
            let value: serde_json::Value = serde_json::from_str(&out).expect("JSON");
            assert_eq!(value["id"], "/db/Demo/a%20b");
            assert_eq!(
                (&value["event"], &value["time"]),
                (&json!("3-17-1"), &json!("1970-01-01T00:00:01.5Z"))
            );
            assert_eq!(value["compacted"].is_null(), value["op"] != "state");
        }
        let mut out = String::new();
        event_json(
            &mut out,
            "\"type\":\"change\",",
            &event(ChangeKind::Delete, ""),
        );
        let value: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(
            (&value["op"], &value["type"]),
            (&json!("delete"), &json!("change"))
        );
        assert!(value.get("document").is_none());
    }

    #[test]
    fn names_are_json_whatever_is_in_them() {
        for name in ["Demo", "", "a\"b", "a\\b", "ä\n", "\u{2028}"] {
            let mut out = String::new();
            text(&mut out, name);
            assert_eq!(serde_json::from_str::<String>(&out).expect("JSON"), name);
        }
    }
}
