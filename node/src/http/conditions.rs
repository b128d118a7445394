//! `If-Match` and `If-None-Match` (contract sections 1.2 and 3.3): what must hold of the stored version.
//!
//! The version is the entity tag. It names a state of the document, not a sequence of bytes, so a tag that a proxy weakened (`W/"7"`) or
//! marked with a content coding (`"7--gzip"`) still means version 7.
//!
//! Empty conditions are noise of some clients (`""`, and `"-"` in `If-None-Match`) and count as absent.

use http::header::{HeaderMap, HeaderName, IF_MATCH, IF_NONE_MATCH};
use proto::ErrorCode;
use service::{Condition, Error};

use super::error::refuse;

/// One header of conditions.
#[derive(Debug, PartialEq, Eq)]
enum Tags {
    /// Nothing is asked.
    Absent,
    /// `*`
    Any,
    /// The listed tags; never empty.
    Listed(Vec<Tag>),
}

/// An entity tag of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    /// A version that a document can have.
    Version(u64),
    /// Well-formed, and of no document of ours.
    Foreign,
}

/// The condition on a write.
///
/// # Errors
/// `bad_request` if a header is malformed, or asks for what a single condition cannot say: several tags, a foreign tag, both headers.
pub(crate) fn of_write(headers: &HeaderMap) -> Result<Condition, Error> {
    let matching = match tags(headers, &IF_MATCH)? {
        Tags::Absent => Condition::None,
        Tags::Any => Condition::Exists,
        Tags::Listed(listed) => match listed[..] {
            [Tag::Version(version)] => Condition::Version(version),
            [Tag::Foreign] => return Err(malformed(&IF_MATCH, "a version, as \"7\"")),
            _ => return Err(malformed(&IF_MATCH, "one version, not a list")),
        },
    };
    let absent = match tags(headers, &IF_NONE_MATCH)? {
        Tags::Absent => false,
        Tags::Any => true,
        Tags::Listed(_) => return Err(malformed(&IF_NONE_MATCH, "* on a write")),
    };
    match (matching, absent) {
        (Condition::None, true) => Ok(Condition::Absent),
        (_, true) => Err(refuse(
            ErrorCode::BadRequest,
            "if-match and if-none-match exclude each other",
        )),
        (matching, false) => Ok(matching),
    }
}

/// The conditions on a read.
#[derive(Debug)]
pub(crate) struct OfRead {
    matching: Tags,
    none_matching: Tags,
}

/// What a read answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The document.
    Full,
    /// 304: the client has it.
    NotModified,
    /// 412: it is not the version that was asked for.
    OutOfDate,
}

impl OfRead {
    /// # Errors
    /// `bad_request` if a header is malformed.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Result<Self, Error> {
        Ok(Self {
            matching: tags(headers, &IF_MATCH)?,
            none_matching: tags(headers, &IF_NONE_MATCH)?,
        })
    }

    /// Judges a document that exists, in the order of RFC 9110, 13.2.2.
    pub(crate) fn judge(&self, version: u64) -> Verdict {
        if self.matching != Tags::Absent && !self.matching.include(version) {
            Verdict::OutOfDate
        } else if self.none_matching.include(version) {
            Verdict::NotModified
        } else {
            Verdict::Full
        }
    }
}

impl Tags {
    fn include(&self, version: u64) -> bool {
        match self {
            Self::Absent => false,
            Self::Any => true,
            Self::Listed(listed) => listed.contains(&Tag::Version(version)),
        }
    }
}

/// Reads all lines of one header.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Tags, Error> {
    let mut listed = Vec::new();
    for line in headers.get_all(name) {
        let line = line
            .to_str()
            .map_err(|_| malformed(name, "visible ASCII"))?
            .trim();
        if line == "*" {
            return Ok(Tags::Any);
        }
        for text in line.split(',').map(str::trim) {
            if is_noise(name, text) {
                continue;
            }
            listed.push(tag(text).ok_or_else(|| malformed(name, "a version in quotes, or *"))?);
        }
    }
    Ok(if listed.is_empty() {
        Tags::Absent
    } else {
        Tags::Listed(listed)
    })
}

/// Conditions that some clients send without meaning one.
fn is_noise(name: &HeaderName, text: &str) -> bool {
    text.is_empty() || text == "\"\"" || (*name == IF_NONE_MATCH && text == "\"-\"")
}

/// One tag: in quotes, or a bare version.
fn tag(text: &str) -> Option<Tag> {
    let text = text.strip_prefix("W/").unwrap_or(text);
    if let Some(inner) = text.strip_prefix('"') {
        let inner = inner.strip_suffix('"')?;
        let fits = inner.bytes().all(|b| b.is_ascii_graphic() && b != b'"');
        return fits.then(|| version(inner).map_or(Tag::Foreign, Tag::Version));
    }
    version(text).map(Tag::Version)
}

/// The version that a tag's text names, in its one canonical form.
fn version(text: &str) -> Option<u64> {
    let digits = match text.split_once("--") {
        Some((digits, coding))
            if !coding.is_empty() && coding.bytes().all(|b| b.is_ascii_alphanumeric()) =>
        {
            digits
        }
        _ => text,
    };
    let canonical =
        digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if canonical { digits.parse().ok() } else { None }
}

fn malformed(name: &HeaderName, expected: &str) -> Error {
    refuse(
        ErrorCode::BadRequest,
        format!("{name}: expected {expected}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().expect("header value")))
            .collect()
    }

    fn write(lines: &[(HeaderName, &str)]) -> Result<Condition, ErrorCode> {
        of_write(&headers(lines)).map_err(|error| error.code)
    }

    fn read(version: u64, lines: &[(HeaderName, &str)]) -> Result<Verdict, ErrorCode> {
        Ok(OfRead::from_headers(&headers(lines))
            .map_err(|error| error.code)?
            .judge(version))
    }

    #[test]
    fn writes_take_a_version_anything_or_nothing() {
        for (value, expected) in [
            ("\"7\"", Condition::Version(7)),
            ("7", Condition::Version(7)),
            (" \"7\" ", Condition::Version(7)),
            ("\"7--gzip\"", Condition::Version(7)),
            ("7--gzip", Condition::Version(7)),
            ("W/\"7\"", Condition::Version(7)),
            ("\"18446744073709551615\"", Condition::Version(u64::MAX)),
            ("*", Condition::Exists),
            ("\"\"", Condition::None),
            ("", Condition::None),
        ] {
            assert_eq!(write(&[(IF_MATCH, value)]), Ok(expected), "{value}");
        }
        assert_eq!(write(&[]), Ok(Condition::None));
        assert_eq!(write(&[(IF_NONE_MATCH, "*")]), Ok(Condition::Absent));
        assert_eq!(write(&[(IF_NONE_MATCH, "\"-\"")]), Ok(Condition::None));
        assert_eq!(
            write(&[(IF_MATCH, "\"3\""), (IF_NONE_MATCH, "\"-\"")]),
            Ok(Condition::Version(3))
        );
    }

    #[test]
    fn malformed_conditions_are_refused() {
        for value in [
            "\"7",
            "7\"",
            "abc",
            "\"abc\"",
            "\"-1\"",
            "+7",
            "-7",
            "007",
            "\"1\", \"2\"",
            "\"a b\"",
            "W/7x",
            "\"18446744073709551616\"",
        ] {
            assert_eq!(
                write(&[(IF_MATCH, value)]),
                Err(ErrorCode::BadRequest),
                "{value}"
            );
        }
        assert_eq!(
            write(&[(IF_NONE_MATCH, "\"7\"")]),
            Err(ErrorCode::BadRequest)
        );
        assert_eq!(
            write(&[(IF_MATCH, "\"7\""), (IF_NONE_MATCH, "*")]),
            Err(ErrorCode::BadRequest)
        );
        assert_eq!(
            read(7, &[(IF_NONE_MATCH, "\"7")]),
            Err(ErrorCode::BadRequest)
        );
    }

    #[test]
    fn reads_revalidate() {
        for (value, expected) in [
            ("\"7\"", Verdict::NotModified),
            ("W/\"7\"", Verdict::NotModified),
            ("\"7--gzip\"", Verdict::NotModified),
            ("\"6\", \"7\"", Verdict::NotModified),
            ("*", Verdict::NotModified),
            ("\"6\"", Verdict::Full),
            ("\"abc\"", Verdict::Full),
            ("\"-\"", Verdict::Full),
            ("\"\"", Verdict::Full),
        ] {
            assert_eq!(read(7, &[(IF_NONE_MATCH, value)]), Ok(expected), "{value}");
        }
    }

    #[test]
    fn empty_conditions_of_a_forced_revalidation_never_decide() {
        assert_eq!(
            read(7, &[(IF_MATCH, "\"\""), (IF_NONE_MATCH, "\"-\"")]),
            Ok(Verdict::Full)
        );
        assert_eq!(
            read(7, &[(IF_MATCH, "\"\""), (IF_NONE_MATCH, "\"7\"")]),
            Ok(Verdict::NotModified)
        );
        assert_eq!(read(7, &[(IF_MATCH, "\"6\"")]), Ok(Verdict::OutOfDate));
        assert_eq!(read(7, &[(IF_MATCH, "\"7\"")]), Ok(Verdict::Full));
    }
}
