//! `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP/2, "Timeout").

use std::time::Duration;

use http::header::HeaderMap;

/// The header's name.
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// Most digits that the header may have.
const DIGITS_MAX: usize = 8;

/// How long the client waits, if it says so in the form of the specification; anything else counts as not said.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.bytes().all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit() {
        let read = |text: &str| {
            timeout(&HeaderMap::from_iter([(
                http::HeaderName::from_static(GRPC_TIMEOUT),
                text.parse().expect("header value"),
            )]))
        };
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("5S", Some(Duration::from_secs(5))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("10n", Some(Duration::from_nanos(10))),
            ("", None),
            ("S", None),
            ("5", None),
            ("5x", None),
            ("-5S", None),
            ("123456789S", None),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }
}
