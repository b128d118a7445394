//! Queries and counts (contract section 5): by parameters, or with the filter as body where it is long.
//!
//! A result is one JSON array with one entity tag over the ids and versions in it. `Larder-Continuation` leads to what comes behind it,
//! where a limit cut it; `after=` takes it back. `/explain/:bucket` takes the same and answers how each shard finds its part.

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use document::id::object_id;
use http::header::{ETAG, HeaderMap, IF_NONE_MATCH};
use http::{HeaderValue, Method, StatusCode};
use proto::ErrorCode;
use serde_json::json;
use service::{Document, Error, QueryPage, QueryRequest, ShardExplanation};
use xxhash_rust::xxh3::Xxh3;

use super::context;
use super::edge::Call;
use super::error::refuse;
use super::fields::{Fields, decode, parameters};
use super::respond;

/// The page token of what comes behind an answer.
pub(crate) const LARDER_CONTINUATION: &str = "larder-continuation";

/// Longest token that is put into a header. It holds the sort values of a document, which may be as long as documents are.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// What stands in the header in place of a longer token.
const TOKEN_TOO_LONG: HeaderValue = HeaderValue::from_static("too-long!");

/// `GET|POST /explain/:bucket`; with `as=` and the id or key of a user as that user's query would be carried out.
pub(crate) async fn explain(mut call: Call<'_>, bucket: &str) -> Result<Response, Error> {
    let parameters = Parameters::read(&mut call).await?;
    let ctx = call.context()?;
    let service = &call.shared.service;
    let shards = match as_user(call.head.uri.query().unwrap_or_default())? {
        Some(user) => {
            let explain = service.explain_as(&ctx, &user, bucket, parameters.request);
            explain.await?
        }
        None => service.explain(&ctx, bucket, parameters.request).await?,
    };
    Ok(respond::value(&ShardExplanation::to_json(&shards)))
}

/// The user through whose eyes to look.
fn as_user(query: &str) -> Result<Option<String>, Error> {
    let named = parameters(query).find(|(name, _)| *name == "as");
    let user = named.map(|(name, value)| decode(name, value));
    Ok(user.transpose()?.filter(|user| !user.is_empty()))
}

/// `GET|POST /db/:bucket/query`.
pub(crate) async fn query(mut call: Call<'_>, bucket: &str) -> Result<Response, Error> {
    let parameters = Parameters::read(&mut call).await?;
    let ctx = call.context()?;
    let page = call
        .shared
        .service
        .query(&ctx, bucket, parameters.request)
        .await?;
    let tag = entity_tag(&page, parameters.eager, parameters.fields.as_ref());
    let is_get = call.head.method != Method::POST;
    let is_known = is_get && has_tag(call.headers(), &tag);
    let continuation = page.continuation.as_deref().map(token_value);
    let served = page.served;
    let mut response = if is_known {
        respond::empty(StatusCode::NOT_MODIFIED)
    } else if parameters.eager {
        let fields = parameters.fields.as_ref();
        respond::json(StatusCode::OK, array(page.documents, fields))
    } else {
        respond::json(StatusCode::OK, id_entries(&page.documents))
    };
    if parameters.fields.is_some() {
        response = respond::cut(response);
    }
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(ETAG, tag);
    }
    if let Some(continuation) = continuation {
        headers.insert(LARDER_CONTINUATION, continuation);
    }
    Ok(respond::served_by_all(response, &served))
}

/// `GET|POST /db/:bucket/count`.
pub(crate) async fn count(mut call: Call<'_>, bucket: &str) -> Result<Response, Error> {
    let parameters = Parameters::read(&mut call).await?;
    let ctx = call.context()?;
    let counted = call
        .shared
        .service
        .count(&ctx, bucket, parameters.request)
        .await?;
    let response = respond::value(&json!({ "count": counted.count }));
    Ok(respond::served_by_all(response, &counted.served))
}

/// What a query's parameters say. `hinted`, `triggeredBy` and `ttl` are taken and mean nothing here.
#[derive(Debug, PartialEq, Eq)]
struct Parameters {
    request: QueryRequest,
    /// Whole documents, not entries of ids.
    eager: bool,
    fields: Option<Fields>,
}

impl Parameters {
    async fn read(call: &mut Call<'_>) -> Result<Self, Error> {
        let mut parameters = Self::parse(call.head.uri.query().unwrap_or_default())?;
        parameters.request.freshness = context::freshness(call.headers())?;
        if call.head.method == Method::POST {
            parameters.request.filter = call.read_body().await?;
        }
        Ok(parameters)
    }

    fn parse(query: &str) -> Result<Self, Error> {
        let mut parsed = Self {
            request: QueryRequest::default(),
            eager: true,
            fields: Fields::of_query(query)?,
        };
        let request = &mut parsed.request;
        for (name, value) in parameters(query) {
            match name {
                "q" => request.filter = decode(name, value)?.into(),
                "sort" => request.sort = decode(name, value)?.into(),
                "start" => request.start = number(name, value)?,
                "count" if value == "-1" => request.count = None,
                "count" => request.count = Some(number(name, value)?),
                "after" => request.continuation = Some(token(value)?),
                "allowScan" => request.allow_scan = truth(name, value)?,
                "eager" => parsed.eager = truth(name, value)?,
                _ => {}
            }
        }
        Ok(parsed)
    }
}

pub(crate) fn number(name: &str, value: &str) -> Result<u64, Error> {
    // The parser of numbers would take a sign.
    let digits = value.bytes().all(|digit| digit.is_ascii_digit());
    let number = value.parse().ok().filter(|_| digits);
    number.ok_or_else(|| {
        let message = format!("{name} must be a number from 0 up");
        refuse(ErrorCode::BadRequest, message)
    })
}

fn truth(name: &str, value: &str) -> Result<bool, Error> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(refuse(
            ErrorCode::BadRequest,
            format!("{name} must be true or false"),
        )),
    }
}

/// A page token as `after=` has it.
pub(super) fn token(value: &str) -> Result<Bytes, Error> {
    let bytes = URL_SAFE_NO_PAD.decode(value).ok();
    bytes.map(Bytes::from).ok_or_else(|| {
        refuse(
            ErrorCode::BadRequest,
            "after takes values of larder-continuation as answers gave them",
        )
    })
}

/// A page token for [`LARDER_CONTINUATION`].
pub(super) fn token_value(token: &[u8]) -> HeaderValue {
    let text = URL_SAFE_NO_PAD.encode(token);
    let value = HeaderValue::try_from(text).ok();
    value
        .filter(|value| value.len() <= TOKEN_BYTES_MAX)
        .unwrap_or(TOKEN_TOO_LONG)
}

/// The array of the documents, whole or cut.
fn array(documents: Vec<Document>, fields: Option<&Fields>) -> Bytes {
    let bytes: usize = documents
        .iter()
        .map(|document| document.body.len() + 1)
        .sum();
    let mut out = Vec::with_capacity(bytes + 1);
    out.push(b'[');
    for document in documents {
        if out.len() > 1 {
            out.push(b',');
        }
        match fields {
            Some(fields) => out.extend_from_slice(&fields.project(&document.body)),
            None => out.extend_from_slice(&document.body),
        }
    }
    out.push(b']');
    out.into()
}

/// One object for each document: its id, and its version as the value.
fn id_entries(documents: &[Document]) -> Bytes {
    let entry = |document: &Document| json!({ id_of(document): document.version });
    respond::to_json(&documents.iter().map(entry).collect::<Vec<_>>())
}

fn id_of(document: &Document) -> String {
    object_id(&document.bucket, &document.key)
}

/// A strong tag: equal tags are equal bodies, as a version of an id has one body.
fn entity_tag(page: &QueryPage, eager: bool, fields: Option<&Fields>) -> String {
    let mut hash = Xxh3::new();
    hash.update(&[u8::from(eager), u8::from(fields.is_some())]);
    for name in fields.map(Fields::names).unwrap_or_default() {
        text(&mut hash, name.as_bytes());
    }
    for document in &page.documents {
        text(&mut hash, document.key.as_bytes());
        hash.update(&document.version.to_le_bytes());
    }
    text(&mut hash, page.continuation.as_deref().unwrap_or_default());
    format!("\"{:032x}\"", hash.digest128())
}

fn text(hash: &mut Xxh3, bytes: &[u8]) {
    hash.update(&(bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// Whether the client has what the tag names. A tag that a proxy weakened or marked with a content coding still names it.
fn has_tag(headers: &HeaderMap, tag: &str) -> bool {
    let plain = tag.trim_matches('"');
    let lines = headers.get_all(IF_NONE_MATCH).iter();
    let mut texts = lines.flat_map(|line| line.to_str().unwrap_or_default().split(','));
    texts.any(|text| {
        let text = text.trim();
        let text = text.strip_prefix("W/").unwrap_or(text).trim_matches('"');
        text == "*" || text.split_once("--").map_or(text, |(text, _)| text) == plain
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(key: &str, version: u64) -> Document {
        Document {
            bucket: "Todo".to_owned(),
            key: key.to_owned(),
            version,
            body: Bytes::from(format!("{{\"id\":\"/db/Todo/{key}\"}}")),
            served: None,
            keep: None,
        }
    }

    fn page(documents: &[(&str, u64)]) -> QueryPage {
        QueryPage {
            documents: documents
                .iter()
                .map(|(key, version)| document(key, *version))
                .collect(),
            ..QueryPage::default()
        }
    }

    #[test]
    fn parameters_of_the_sdk_are_read() {
        let query = "q=%7B%22a%22%3A%22x%2By%22%7D&start=2&count=-1&sort=%7B%22b%22%3A-1%7D&eager=false&hinted=true&ttl=60&BCB";
        let parsed = Parameters::parse(query).expect("parameters");
        assert_eq!(parsed.request.filter, r#"{"a":"x+y"}"#);
        assert_eq!(parsed.request.sort, r#"{"b":-1}"#);
        assert_eq!((parsed.request.start, parsed.request.count), (2, None));
        assert!(!parsed.eager);
        let plain = Parameters::parse("").expect("parameters");
        assert_eq!(plain.request, QueryRequest::default());
        assert!(plain.eager);
        let more = Parameters::parse("count=7&allowScan=true&after=AAE").expect("parameters");
        assert_eq!(more.request.count, Some(7));
        assert!(more.request.allow_scan);
        assert_eq!(more.request.continuation, Some(Bytes::from_static(&[0, 1])));
    }

    #[test]
    fn parameters_that_mean_nothing_are_refused() {
        for query in [
            "start=-1",
            "start=",
            "start=+1",
            "count=-2",
            "count=x",
            "eager=1",
            "allowScan=",
            "after=%",
            "after=too-long!",
            "q=%zz",
            "sort=%ff",
            "fields=a.b",
        ] {
            let refused = Parameters::parse(query).map_err(|error| error.code);
            assert_eq!(refused, Err(ErrorCode::BadRequest), "{query}");
        }
    }

    #[test]
    fn tags_name_ids_versions_and_form() {
        let tag = |page: &QueryPage| entity_tag(page, true, None);
        let one = page(&[("a", 1), ("b", 2)]);
        assert_eq!(tag(&one), tag(&one.clone()));
        let fields = Fields::parse("a").expect("names");
        let others = [
            tag(&page(&[("a", 1), ("b", 3)])),
            tag(&page(&[("b", 2), ("a", 1)])),
            tag(&page(&[("a", 1)])),
            tag(&QueryPage {
                continuation: Some(Bytes::from_static(b"t")),
                ..one.clone()
            }),
            entity_tag(&one, false, None),
            entity_tag(&one, true, Some(&fields)),
        ];
        for other in others {
            assert_ne!(other, tag(&one));
        }
    }

    #[test]
    fn known_tags_are_recognised_as_clients_send_them() {
        let tag = "\"ab12\"";
        for (value, expected) in [
            ("\"ab12\"", true),
            ("W/\"ab12\"", true),
            ("\"ab12--gzip\"", true),
            ("\"x\", \"ab12\"", true),
            ("*", true),
            ("\"ab1\"", false),
            ("\"-\"", false),
            ("\"\"", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(IF_NONE_MATCH, value.parse().expect("header"))]);
            assert_eq!(has_tag(&headers, tag), expected, "{value}");
        }
        assert!(!has_tag(&HeaderMap::new(), tag));
    }

    #[test]
    fn arrays_and_entries_are_json() {
        assert_eq!(array(Vec::new(), None), "[]");
        let documents = page(&[("a", 1), ("b", 2)]).documents;
        assert_eq!(
            id_entries(&documents),
            r#"[{"/db/Todo/a":1},{"/db/Todo/b":2}]"#
        );
        assert_eq!(
            array(documents, None),
            r#"[{"id":"/db/Todo/a"},{"id":"/db/Todo/b"}]"#
        );
    }

    #[test]
    fn a_token_that_no_header_takes_is_said_to_be_too_long() {
        assert_eq!(
            token(token_value(b"\x00\xff").to_str().expect("ascii")),
            Ok(Bytes::from_static(b"\x00\xff"))
        );
        assert_eq!(token_value(&[7; 8 * 1024]), "too-long!");
        // And is not a token.
        assert!(token("too-long!").is_err());
    }
}
