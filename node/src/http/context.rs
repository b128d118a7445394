//! Request headers that both protocols share: who asks, under which request id, with which key and how fresh.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use http::HeaderValue;
use http::header::{AUTHORIZATION, HeaderMap};
use proto::ErrorCode;
use service::{Caller, Consistency, Context, Error, Freshness, Position};

use super::error::refuse;

/// Names a request in logs, errors and answers.
pub(crate) const X_REQUEST_ID: &str = "x-request-id";

/// Makes a repeated write take effect once.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// How fresh a read must be.
pub(crate) const LARDER_CONSISTENCY: &str = "larder-consistency";

/// What a read must have seen: positions of earlier answers.
pub(crate) const LARDER_AT_LEAST: &str = "larder-at-least";

/// The scheme of our tokens in `authorization`.
const TOKEN_SCHEME: &str = "BAT";

/// The scheme of JWTs.
const BEARER_SCHEME: &str = "Bearer";

/// Longest request id that is taken over from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Longest idempotency key.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// The client's request id if it is fit for logs and headers, else a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> String {
    request_id_from(headers.get(X_REQUEST_ID))
}

/// The same from the header's value alone.
pub(crate) fn request_id_from(sent: Option<&HeaderValue>) -> String {
    match sent.and_then(|value| visible(value, REQUEST_ID_BYTES_MAX)) {
        Some(id) => id.to_owned(),
        None => format!("{:016x}", rand::random::<u64>()),
    }
}

/// What the service must know of a request besides its content.
///
/// # Errors
/// `bad_credentials` for an authorization of another scheme, `bad_request` for an unusable idempotency key.
pub(crate) fn build(
    headers: &HeaderMap,
    request_id: &str,
    database: &str,
    address: Option<IpAddr>,
    wait: Duration,
) -> Result<Context, Error> {
    Ok(Context {
        request_id: request_id.to_owned(),
        database: database.to_owned(),
        caller: caller(headers)?,
        address,
        deadline: Instant::now() + wait,
        idempotency_key: idempotency_key(headers)?,
    })
}

/// The context of a request whose credentials do not matter.
pub(crate) fn anonymous(
    request_id: &str,
    database: &str,
    address: Option<IpAddr>,
    wait: Duration,
) -> Context {
    Context {
        request_id: request_id.to_owned(),
        database: database.to_owned(),
        caller: Caller::Anonymous,
        address,
        deadline: Instant::now() + wait,
        idempotency_key: None,
    }
}

/// The caller as the request names it; not verified.
pub(crate) fn caller(headers: &HeaderMap) -> Result<Caller, Error> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(Caller::Anonymous);
    };
    // Which of two counts would depend on who reads them: a proxy may have looked at the other one.
    if values.next().is_some() {
        return Err(refuse(
            ErrorCode::BadCredentials,
            "more than one authorization was sent",
        ));
    }
    let parts = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().split_once(' '));
    match parts {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(TOKEN_SCHEME) => {
            Ok(Caller::Token(token.trim().to_owned()))
        }
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(BEARER_SCHEME) => {
            Ok(Caller::Bearer(token.trim().to_owned()))
        }
        _ => Err(refuse(
            ErrorCode::BadCredentials,
            "authorization must be \"BAT\" and a token, or \"Bearer\" and a JWT",
        )),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    match visible(value, IDEMPOTENCY_KEY_BYTES_MAX) {
        Some(key) => Ok(Some(key.to_owned())),
        None => Err(refuse(
            ErrorCode::BadRequest,
            "idempotency-key must be 1 to 255 characters of visible ASCII",
        )),
    }
}

/// How fresh the client wants its read, and what it has seen.
///
/// # Errors
/// `bad_request` for a level that does not exist, or a position that no answer gave.
pub(crate) fn freshness(headers: &HeaderMap) -> Result<Freshness, Error> {
    let mut at_least = Vec::new();
    for line in headers.get_all(LARDER_AT_LEAST) {
        for text in line.to_str().unwrap_or_default().split(',') {
            let position = Position::parse(text.trim()).ok_or_else(not_a_position)?;
            at_least.push(position);
        }
    }
    Ok(Freshness {
        consistency: consistency(headers)?,
        at_least,
    })
}

/// Whether the client says itself how fresh its read must be.
pub(crate) fn names_consistency(headers: &HeaderMap) -> bool {
    headers.contains_key(LARDER_CONSISTENCY)
}

fn not_a_position() -> Error {
    refuse(
        ErrorCode::BadRequest,
        "larder-at-least takes values of larder-position as answers gave them, separated by commas",
    )
}

fn consistency(headers: &HeaderMap) -> Result<Consistency, Error> {
    let Some(value) = headers.get(LARDER_CONSISTENCY) else {
        return Ok(Consistency::Linearizable);
    };
    let text = value.to_str().unwrap_or_default().trim();
    match (text, bound(text)) {
        ("linearizable", _) => Ok(Consistency::Linearizable),
        ("local", _) => Ok(Consistency::Local),
        (_, Some(bound)) => Ok(Consistency::Bounded(bound)),
        _ => Err(refuse(
            ErrorCode::BadRequest,
            "larder-consistency must be linearizable, bounded=MS or local",
        )),
    }
}

fn bound(text: &str) -> Option<Duration> {
    let digits = text.strip_prefix("bounded=")?;
    // The parser of numbers would take a sign.
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let ms: u32 = digits.parse().ok()?;
    Some(Duration::from_millis(ms.into()))
}

/// The text of a header that is 1 to `bytes_max` characters of visible ASCII.
fn visible(value: &HeaderValue, bytes_max: usize) -> Option<&str> {
    let text = value.to_str().ok()?;
    (!text.is_empty() && text.len() <= bytes_max && text.bytes().all(|b| b.is_ascii_graphic()))
        .then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(
            http::HeaderName::from_static(name),
            value.parse().expect("header value"),
        )])
    }

    fn context(headers: &HeaderMap) -> Result<Context, ErrorCode> {
        build(headers, "r", "", None, Duration::from_secs(5)).map_err(|error| error.code)
    }

    #[test]
    fn tokens_are_taken_as_they_are_and_other_schemes_refused() {
        assert_eq!(
            context(&HeaderMap::new()).expect("context").caller,
            Caller::Anonymous
        );
        for value in ["BAT 5f00", "bat 5f00", "BAT  5f00 "] {
            assert_eq!(
                context(&headers("authorization", value))
                    .expect("context")
                    .caller,
                Caller::Token("5f00".into())
            );
        }
        assert_eq!(
            context(&headers("authorization", "Bearer a.b.c"))
                .expect("context")
                .caller,
            Caller::Bearer("a.b.c".into())
        );
        for value in ["Basic 5f00", "5f00", "", "BAT", "Bearer"] {
            assert_eq!(
                context(&headers("authorization", value)).err(),
                Some(ErrorCode::BadCredentials),
                "{value}"
            );
        }
    }

    #[test]
    fn idempotency_keys_are_short_visible_ascii() {
        let longest = "k".repeat(255);
        for value in ["a", longest.as_str()] {
            assert_eq!(
                context(&headers(IDEMPOTENCY_KEY, value))
                    .expect("context")
                    .idempotency_key
                    .as_deref(),
                Some(value)
            );
        }
        for value in ["", "a b", "k".repeat(256).as_str(), "\u{e4}"] {
            assert_eq!(
                context(&headers(IDEMPOTENCY_KEY, value)).err(),
                Some(ErrorCode::BadRequest),
                "{value}"
            );
        }
    }

    #[test]
    fn request_ids_are_echoed_only_if_fit() {
        assert_eq!(request_id(&headers(X_REQUEST_ID, "abc-1")), "abc-1");
        for unfit in ["", "a b", "x".repeat(129).as_str()] {
            assert_eq!(request_id(&headers(X_REQUEST_ID, unfit)).len(), 16);
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }

    #[test]
    fn consistency_levels_are_known_or_refused() {
        let level =
            |value| consistency(&headers(LARDER_CONSISTENCY, value)).map_err(|error| error.message);
        assert_eq!(
            consistency(&HeaderMap::new()),
            Ok(Consistency::Linearizable)
        );
        assert_eq!(level("linearizable"), Ok(Consistency::Linearizable));
        assert_eq!(level("local"), Ok(Consistency::Local));
        assert_eq!(
            level("bounded=500"),
            Ok(Consistency::Bounded(Duration::from_millis(500)))
        );
        for unknown in [
            "bounded",
            "bounded=",
            "bounded=x",
            "bounded=-1",
            "bounded=+1",
            "bounded=99999999999",
            "strong",
            "",
        ] {
            assert!(
                level(unknown).expect_err("unknown").contains("must be"),
                "{unknown}"
            );
        }
    }

    #[test]
    fn positions_are_taken_in_lists_and_others_refused() {
        let [one, two] = [1, 2].map(|shard| Position {
            shard: proto::ShardId(shard),
            index: 7,
        });
        let list = format!("{one}, {two}");
        let read = freshness(&headers(LARDER_AT_LEAST, &list)).expect("positions");
        assert_eq!(read.at_least, [one, two]);
        for bad in ["", "7", "x", &format!("{one},")] {
            let refused = freshness(&headers(LARDER_AT_LEAST, bad));
            assert_eq!(
                refused.map_err(|error| error.code),
                Err(ErrorCode::BadRequest),
                "{bad}"
            );
        }
    }
}
