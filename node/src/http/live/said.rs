//! What a client says on the WebSocket of real-time queries (contract section 10.2).

use bytes::Bytes;
use proto::ErrorCode;
use serde_json::{Map, Value};
use service::{Error, LiveOperation, LiveRequest, MatchType};

use super::super::error::refuse;

/// Bytes of the name of a subscription.
const ID_BYTES_MAX: usize = 128;

/// A message of a client that can be answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// The name of the subscription, as the client chose it.
    pub(super) id: String,
    pub(super) verb: Result<Verb, Error>,
}

/// What the client wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Subscribe {
        request: LiveRequest,
        /// Of the caller; `None`: that of the handshake.
        token: Option<String>,
    },
    Unsubscribe,
}

/// Reads a message.
///
/// # Errors
/// It names no subscription that could be answered.
pub(super) fn read(text: &str) -> Result<Said, Error> {
    let said: Value = serde_json::from_str(text).map_err(|error| {
        let message = format!("the message is not JSON: {error}");
        refuse(ErrorCode::SyntaxError, message)
    })?;
    let Value::Object(members) = said else {
        return Err(refuse(ErrorCode::SyntaxError, "the message is no object"));
    };
    let members = Members(members);
    let id = members.text("id")?.unwrap_or_default();
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        let message = format!("id must be a text of 1 to {ID_BYTES_MAX} bytes");
        return Err(refuse(ErrorCode::BadRequest, message));
    }
    Ok(Said {
        id,
        verb: members.verb(),
    })
}

struct Members(Map<String, Value>);

impl Members {
    fn verb(&self) -> Result<Verb, Error> {
        match self.text("type")?.as_deref() {
            Some("subscribe") => Ok(Verb::Subscribe {
                request: self.request()?,
                token: self.text("token")?,
            }),
            Some("unsubscribe") => Ok(Verb::Unsubscribe),
            _ => Err(refuse(
                ErrorCode::BadRequest,
                "type must be subscribe or unsubscribe",
            )),
        }
    }

    fn request(&self) -> Result<LiveRequest, Error> {
        let text = |name| Ok::<_, Error>(Bytes::from(self.text(name)?.unwrap_or_default()));
        Ok(LiveRequest {
            bucket: self
                .text("bucket")?
                .ok_or_else(|| refuse(ErrorCode::BadRequest, "bucket is missing"))?,
            filter: text("query")?,
            sort: text("sort")?,
            offset: self.number("offset")?.unwrap_or(0),
            limit: self.number("limit")?,
            initial: self.is_initial()?,
            match_types: words(
                "matchTypes",
                "all",
                self.texts("matchTypes")?,
                MatchType::parse,
            )?,
            operations: words(
                "operations",
                "any",
                self.texts("operations")?,
                LiveOperation::parse,
            )?,
        })
    }

    /// A member; `null` is none.
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn text(&self, name: &str) -> Result<Option<String>, Error> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(malformed(name, "a text")),
        }
    }

    fn number(&self, name: &str) -> Result<Option<usize>, Error> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let number = value
            .as_u64()
            .and_then(|number| usize::try_from(number).ok());
        number
            .map(Some)
            .ok_or_else(|| malformed(name, "a whole number, not below 0"))
    }

    fn is_initial(&self) -> Result<bool, Error> {
        match self.get("initial") {
            None => Ok(true),
            Some(Value::Bool(initial)) => Ok(*initial),
            Some(_) => Err(malformed("initial", "true or false")),
        }
    }

    fn texts(&self, name: &str) -> Result<Vec<&str>, Error> {
        let Some(value) = self.get(name) else {
            return Ok(Vec::new());
        };
        let texts = value.as_array().and_then(|all| {
            let texts = all.iter().map(Value::as_str);
            texts.collect::<Option<Vec<_>>>()
        });
        texts.ok_or_else(|| malformed(name, "a list of texts"))
    }
}

/// Reads a choice of words; `wildcard`, and no word, mean all of them.
///
/// # Errors
/// `bad_request` names the word.
pub(super) fn words<T>(
    name: &str,
    wildcard: &str,
    texts: Vec<&str>,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, Error> {
    if texts.contains(&wildcard) {
        return Ok(Vec::new());
    }
    let word = |text: &str| {
        parse(text).ok_or_else(|| {
            let start: String = text.chars().take(32).collect();
            let message = format!("{name} has no {start:?}");
            refuse(ErrorCode::BadRequest, message)
        })
    };
    texts.into_iter().map(word).collect()
}

fn malformed(name: &str, expected: &str) -> Error {
    let message = format!("{name} must be {expected}");
    refuse(ErrorCode::BadRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_sdk_sends_is_read() {
        let text = r#"{"id":"s1","type":"subscribe","bucket":"Todo","query":"{\"a\":\"x\"}","sort":"{\"a\":1}","limit":3,
            "offset":1,"initial":true,"matchTypes":["all"],"operations":["any"],"reconnects":-1,"token":"t"}"#;
        let request = LiveRequest {
            bucket: "Todo".to_owned(),
            filter: Bytes::from_static(br#"{"a":"x"}"#),
            sort: Bytes::from_static(br#"{"a":1}"#),
            offset: 1,
            limit: Some(3),
            initial: true,
            match_types: Vec::new(),
            operations: Vec::new(),
        };
        let verb = Verb::Subscribe {
            request,
            token: Some("t".to_owned()),
        };
        let said = Said {
            id: "s1".to_owned(),
            verb: Ok(verb),
        };
        assert_eq!(read(text), Ok(said));
        let unsubscribe = read(r#"{"id":"s1","type":"unsubscribe"}"#).map(|said| said.verb);
        assert_eq!(unsubscribe, Ok(Ok(Verb::Unsubscribe)));
        let chosen = r#"{"id":"s","type":"subscribe","bucket":"B","matchTypes":["add","match"],"initial":false}"#;
        let Ok(Ok(Verb::Subscribe { request, .. })) = read(chosen).map(|said| said.verb) else {
            panic!("{chosen}");
        };
        assert_eq!(request.match_types, [MatchType::Add, MatchType::Match]);
        assert!(!request.initial);
    }

    #[test]
    fn what_is_wrong_is_refused_for_its_subscription_or_for_none() {
        for (text, code) in [
            ("", ErrorCode::SyntaxError),
            ("{", ErrorCode::SyntaxError),
            ("[]", ErrorCode::SyntaxError),
            ("{}", ErrorCode::BadRequest),
            (r#"{"id":1}"#, ErrorCode::BadRequest),
            (r#"{"id":""}"#, ErrorCode::BadRequest),
            (
                &format!(r#"{{"id":"{}"}}"#, "x".repeat(129)),
                ErrorCode::BadRequest,
            ),
        ] {
            assert_eq!(read(text).map_err(|error| error.code), Err(code), "{text}");
        }
        for members in [
            "",
            r#","type":"sing""#,
            r#","type":"subscribe""#,
            r#","type":"subscribe","bucket":5"#,
            r#","type":"subscribe","bucket":"B","query":{}"#,
            r#","type":"subscribe","bucket":"B","limit":-1"#,
            r#","type":"subscribe","bucket":"B","limit":1.5"#,
            r#","type":"subscribe","bucket":"B","initial":"yes""#,
            r#","type":"subscribe","bucket":"B","matchTypes":"all""#,
            r#","type":"subscribe","bucket":"B","matchTypes":["some"]"#,
            r#","type":"subscribe","bucket":"B","operations":["insert","sing"]"#,
        ] {
            let text = format!(r#"{{"id":"s"{members}}}"#);
            let said = read(&text).expect("a subscription to answer");
            assert_eq!(said.id, "s");
            assert_eq!(
                said.verb.map_err(|error| error.code),
                Err(ErrorCode::BadRequest),
                "{text}"
            );
        }
    }
}
