//! `fields=a,b`: documents cut to some of their members, and the metadata.

use bytes::Bytes;
use document::body::members;
use document::id::decode_segment;
use proto::ErrorCode;
use service::Error;

use super::error::refuse;

/// Members that every document keeps.
const METADATA: [&str; 6] = [
    "id",
    "version",
    "acl",
    "createdAt",
    "updatedAt",
    "expiresAt",
];

/// Names in one list: more than any class has, and little work a document.
const NAMES_MAX: usize = 256;

/// The members that a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fields(Vec<String>);

impl Fields {
    /// The parameter `fields` of a raw query string, if it is there.
    ///
    /// # Errors
    /// `bad_request`.
    pub(crate) fn of_query(query: &str) -> Result<Option<Fields>, Error> {
        parameters(query).try_fold(None, |last, (name, value)| match name {
            "fields" => Fields::parse(&decode(name, value)?).map(Some),
            _ => Ok(last),
        })
    }

    /// Reads a list of names, separated by commas; an empty one leaves the metadata.
    ///
    /// # Errors
    /// `bad_request` for paths into a member, and for too many names.
    pub(crate) fn parse(text: &str) -> Result<Fields, Error> {
        let names = text.split(',').map(str::trim);
        let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
        if names.len() > NAMES_MAX {
            let message = format!("fields takes at most {NAMES_MAX} names");
            return Err(refuse(ErrorCode::BadRequest, message));
        }
        if let Some(path) = names.iter().find(|name| name.contains('.')) {
            let message = format!("fields takes top-level members, not paths like {path:?}");
            return Err(refuse(ErrorCode::BadRequest, message));
        }
        Ok(Fields(names.into_iter().map(str::to_owned).collect()))
    }

    /// The document without the other members, in the same order.
    pub(crate) fn project(&self, body: &Bytes) -> Bytes {
        let inner = body
            .strip_prefix(b"{")
            .and_then(|rest| rest.strip_suffix(b"}"));
        let mut out = vec![b'{'];
        for (name, value) in members(inner.unwrap_or_default()) {
            if !METADATA.contains(&&*name) && !self.0.iter().any(|wanted| *wanted == *name) {
                continue;
            }
            if out.len() > 1 {
                out.push(b',');
            }
            out.extend_from_slice(&super::respond::to_json(&name));
            out.push(b':');
            out.extend_from_slice(value.as_bytes());
        }
        out.push(b'}');
        out.into()
    }

    /// The names, for entity tags.
    pub(crate) fn names(&self) -> &[String] {
        &self.0
    }
}

/// The parameters of a raw query string, not decoded; one without `=` has an empty value.
pub(crate) fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// The text of a parameter. Forms send blanks as `+`, and a plus as `%2B` as everybody does.
///
/// # Errors
/// `bad_request` for what is not percent-encoded UTF-8.
pub(crate) fn decode(name: &str, value: &str) -> Result<String, Error> {
    decode_segment(&value.replace('+', " ")).ok_or_else(|| {
        let message = format!("{name} is not percent-encoded UTF-8");
        refuse(ErrorCode::BadRequest, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(query: &str) -> Result<Option<Vec<String>>, ErrorCode> {
        Fields::of_query(query)
            .map(|fields| fields.map(|fields| fields.0))
            .map_err(|error| error.code)
    }

    #[test]
    fn lists_are_read_and_paths_refused() {
        let names = |names: &[&str]| Ok(Some(names.iter().map(ToString::to_string).collect()));
        assert_eq!(of(""), Ok(None));
        assert_eq!(of("BCB&q=%7B%7D"), Ok(None));
        assert_eq!(of("fields=a,b"), names(&["a", "b"]));
        assert_eq!(of("fields=a%2C+%C3%A4&x=1"), names(&["a", "ä"]));
        assert_eq!(of("fields="), names(&[]));
        for bad in [
            "fields=a.b",
            "fields=%",
            "fields=%ff",
            &format!("fields={}", "a,".repeat(257)),
        ] {
            assert_eq!(of(bad), Err(ErrorCode::BadRequest), "{bad}");
        }
    }

    #[test]
    fn a_cut_document_keeps_metadata_and_order() {
        let body = Bytes::from_static(
            br#"{"id":"/db/T/1","version":2,"acl":null,"createdAt":"c","updatedAt":"u","b":[1,"}"],"a\"":{"b":1},"c":null}"#,
        );
        let cut = |names: &str| Fields::parse(names).expect("names").project(&body);
        let meta = r#"{"id":"/db/T/1","version":2,"acl":null,"createdAt":"c","updatedAt":"u""#;
        assert_eq!(cut(""), format!("{meta}}}"));
        assert_eq!(
            cut("a\",b,zz"),
            format!(r#"{meta},"b":[1,"}}"],"a\"":{{"b":1}}}}"#)
        );
    }
}
