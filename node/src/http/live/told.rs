//! What a client is told by real-time queries (contract section 10.3).

use document::id::object_id;
use document::time::format_datetime;
use serde_json::json;
use service::{Error, LiveFrame, LiveMatch};

use super::super::error::body_text;

/// The name in an error that no subscription can be named in: without any name the SDK takes it for the end of all subscriptions.
const NOBODY: &str = "-";

/// A frame as JSON text; `id` names the subscription.
pub(super) fn frame(id: &str, frame: &LiveFrame) -> String {
    match frame {
        LiveFrame::Result { documents, time_us } => {
            let mut out = head(id, "result", *time_us);
            out.push_str(",\"data\":[");
            for (at, document) in documents.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                out.push_str(&String::from_utf8_lossy(&document.body));
            }
            out.push_str("]}");
            out
        }
        LiveFrame::Match(found) => {
            let LiveMatch {
                match_type,
                operation,
                index,
                ..
            } = found;
            let mut out = head(id, "match", found.time_us);
            let (match_type, operation) = (match_type.name(), operation.name());
            out.push_str(&format!(
                ",\"matchType\":\"{match_type}\",\"operation\":\"{operation}\""
            ));
            if let Some(index) = index {
                out.push_str(&format!(",\"index\":{index}"));
            }
            out.push_str(",\"data\":");
            match &found.body[..] {
                // Without a version: so the client knows that there is none any more.
                [] => {
                    out.push_str(&json!({ "id": object_id(&found.bucket, &found.key) }).to_string())
                }
                body => out.push_str(&String::from_utf8_lossy(body)),
            }
            out.push('}');
            out
        }
    }
}

/// An error, with which the subscription ends; `None`: it is about none.
pub(super) fn error(id: Option<&str>, error: &Error, time_us: u64) -> String {
    let mut out = head(id.unwrap_or(NOBODY), "error", time_us);
    let status = error.code.http_status();
    let body = body_text(error, "");
    // The client looks for the status outside, people inside.
    let body = body.strip_prefix('{').unwrap_or(&body);
    out.push_str(&format!(
        ",\"status\":{status},\"error\":{{\"status\":{status},{body}}}"
    ));
    out
}

fn head(id: &str, kind: &str, time_us: u64) -> String {
    let date = format_datetime(i64::try_from(time_us).unwrap_or(i64::MAX));
    format!(
        "{{\"id\":{},\"type\":\"{kind}\",\"date\":\"{date}\"",
        json!(id)
    )
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proto::ErrorCode;
    use serde_json::Value;
    use service::{Document, LiveOperation, MatchType};

    use super::*;

    fn parsed(text: &str) -> Value {
        serde_json::from_str(text).expect(text)
    }

    #[test]
    fn results_have_their_documents_as_they_are_stored() {
        let document = |body: &'static str| Document {
            bucket: "Todo".to_owned(),
            key: "1".to_owned(),
            version: 1,
            body: Bytes::from_static(body.as_bytes()),
            served: None,
            keep: None,
        };
        let result = LiveFrame::Result {
            documents: vec![document(r#"{"n":1.0}"#), document(r#"{"n":2}"#)],
            time_us: 1_500_000,
        };
        let text = frame("a\"b", &result);
        assert!(text.contains(r#""data":[{"n":1.0},{"n":2}]"#), "{text}");
        assert_eq!(parsed(&text)["id"], "a\"b");
        assert_eq!(parsed(&text)["date"], "1970-01-01T00:00:01.5Z");
    }

    #[test]
    fn what_is_gone_has_an_id_and_no_version() {
        let mut found = LiveMatch {
            match_type: MatchType::Remove,
            operation: LiveOperation::Delete,
            time_us: 0,
            bucket: "Todo".to_owned(),
            key: "a b".to_owned(),
            body: Bytes::new(),
            index: None,
        };
        let gone = parsed(&frame("s", &LiveFrame::Match(found.clone())));
        assert_eq!(gone["data"], json!({ "id": "/db/Todo/a%20b" }));
        assert_eq!(
            (&gone["matchType"], &gone["operation"]),
            (&json!("remove"), &json!("delete"))
        );
        assert!(gone.get("index").is_none());
        found.body = Bytes::from_static(br#"{"id":"/db/Todo/a%20b","version":3}"#);
        found.index = Some(-1);
        let left = parsed(&frame("s", &LiveFrame::Match(found)));
        assert_eq!(
            (&left["data"]["version"], &left["index"]),
            (&json!(3), &json!(-1))
        );
    }

    #[test]
    fn errors_say_their_status_twice() {
        let refused = Error::new(ErrorCode::SyntaxError, "no \"JSON\"");
        for (id, named) in [(Some("s"), "s"), (None, "-")] {
            let told = parsed(&error(id, &refused, 0));
            assert_eq!(
                (&told["id"], &told["type"]),
                (&json!(named), &json!("error"))
            );
            assert_eq!(
                (&told["status"], &told["error"]["status"]),
                (&json!(471), &json!(471))
            );
            assert_eq!(told["error"]["message"], "no \"JSON\"");
            assert_eq!(told["error"]["className"], "SyntaxError");
            assert!(told["error"]["reason"].is_string());
        }
    }
}
