//! `POST /batch`: several writes in one request.
//!
//! ```json
//! {"atomic": true, "writes": [
//!   {"put": {"id": "/db/Order/{7}", "sum": 3}, "if": {"absent": true}},
//!   {"id": "/db/Line/{7}a", "update": {"$inc": {"count": 1}}, "if": {"version": 4}},
//!   {"id": "/db/Line/{7}b", "delete": true}
//! ]}
//! ```
//!
//! Each write has one of `put`, `update` and `delete`, and the `id` of its document; a put may name it in its object instead, or only a
//! `bucket`, and then the server makes the key. Answer: `{"results": […]}`, one for each write in order: `{"id", "version", "object"}`, or
//! `{"id", "deleted": true}`, or, with `atomic: false` only, `{"error": {…}}` with the status besides what error bodies have.

use axum::response::Response;
use bytes::Bytes;
use document::id::{object_id, parse_object_id};
use proto::ErrorCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use service::{BatchOperation, BatchWrite, Condition, Document, Error};

use super::edge::Call;
use super::error::refuse;
use super::respond;

/// The body of a request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch<'a> {
    #[serde(default = "yes")]
    atomic: bool,
    #[serde(borrow)]
    writes: Vec<Write<'a>>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Write<'a> {
    id: Option<String>,
    bucket: Option<String>,
    #[serde(borrow)]
    put: Option<&'a RawValue>,
    #[serde(borrow)]
    update: Option<&'a RawValue>,
    delete: Option<bool>,
    #[serde(rename = "if")]
    condition: Option<If>,
}

/// What must hold of the stored document.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum If {
    Version(u64),
    Absent(bool),
    Exists(bool),
}

#[derive(Serialize)]
struct Results {
    results: Vec<ResultOf>,
}

#[derive(Default, Serialize)]
struct ResultOf {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Refused>,
}

/// Why a write of a batch that is not atomic was refused.
#[derive(Serialize)]
struct Refused {
    status: u16,
    code: &'static str,
    effect: &'static str,
    message: String,
}

/// Answers the request.
pub(crate) async fn write(mut call: Call<'_>) -> Result<Response, Error> {
    let ctx = call.context()?;
    let body = call.read_batch().await?;
    let batch: Batch<'_> = serde_json::from_slice(&body)
        .map_err(|error| refuse(ErrorCode::SyntaxError, format!("the batch: {error}")))?;
    let writes = batch.writes.into_iter().enumerate();
    let writes = writes
        .map(|(ordinal, write)| batch_write(write, &body).map_err(|error| located(error, ordinal)))
        .collect::<Result<Vec<_>, Error>>()?;
    let service = &call.shared.service;
    if batch.atomic {
        let documents = service.batch(&ctx, writes).await?;
        let served = documents.first().and_then(|document| document.served);
        let results = documents.into_iter().map(result).collect();
        let response = respond::value(&Results { results });
        return Ok(respond::served(response, served.as_ref()));
    }
    let results = service.batch_each(&ctx, writes).await?.into_iter();
    let results = results.map(|one| one.map_or_else(|error| refused(&error), result));
    Ok(respond::value(&Results {
        results: results.collect(),
    }))
}

/// # Errors
/// `bad_request` for what has two readings, or none.
fn batch_write(write: Write<'_>, body: &Bytes) -> Result<BatchWrite, Error> {
    let bad = |message: &str| refuse(ErrorCode::BadRequest, message);
    let operation = match (write.put, write.update, write.delete) {
        (Some(put), None, None) => BatchOperation::Put(slice(body, put)),
        (None, Some(update), None) => BatchOperation::Update(slice(body, update)),
        (None, None, Some(true)) => BatchOperation::Delete,
        _ => return Err(bad("needs one of put, update, and delete: true")),
    };
    let condition = match write.condition {
        None => Condition::None,
        Some(If::Version(version)) => Condition::Version(version),
        Some(If::Absent(true)) => Condition::Absent,
        Some(If::Exists(true)) => Condition::Exists,
        Some(If::Absent(false) | If::Exists(false)) => {
            return Err(bad("absent and exists must be true or left out"));
        }
    };
    let id = match (write.id, write.put) {
        (Some(id), _) => Some(id),
        (None, Some(put)) => id_of(put),
        (None, None) => None,
    };
    let (bucket, key) = match (id, write.bucket) {
        (Some(id), bucket) => {
            let (named, key) = parse_object_id(&id).ok_or_else(|| bad("the id is malformed"))?;
            if bucket.is_some_and(|bucket| bucket != named) {
                return Err(bad("the id is of another bucket"));
            }
            (named.to_owned(), key)
        }
        (None, Some(bucket)) if write.put.is_some() => (bucket, String::new()),
        (None, _) => return Err(bad("names no document: it needs an id")),
    };
    Ok(BatchWrite {
        bucket,
        key,
        condition,
        operation,
    })
}

/// The id in an object; the service says what is wrong with one that cannot be read.
fn id_of(put: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Identified {
        id: Option<String>,
    }
    let identified: Option<Identified> = serde_json::from_str(put.get()).ok();
    identified.and_then(|identified| identified.id)
}

/// A part of the body without copying it.
fn slice(body: &Bytes, part: &RawValue) -> Bytes {
    body.slice_ref(part.get().as_bytes())
}

fn located(mut error: Error, ordinal: usize) -> Error {
    error.message = format!("write {ordinal}: {}", error.message);
    error
}

fn result(document: Document) -> ResultOf {
    let id = Some(object_id(&document.bucket, &document.key));
    // Only deletes have no body.
    let object = String::from_utf8(document.body.into()).ok();
    match object.and_then(|object| RawValue::from_string(object).ok()) {
        Some(object) => ResultOf {
            id,
            version: Some(document.version),
            object: Some(object),
            ..ResultOf::default()
        },
        None => ResultOf {
            id,
            deleted: Some(true),
            ..ResultOf::default()
        },
    }
}

fn refused(error: &Error) -> ResultOf {
    ResultOf {
        error: Some(Refused {
            status: error.code.http_status(),
            code: error.code.as_str(),
            effect: error.effect.as_str(),
            message: error.message.clone(),
        }),
        ..ResultOf::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BatchWrite, String> {
        let body = Bytes::copy_from_slice(text.as_bytes());
        let write: Write<'_> = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        batch_write(write, &body).map_err(|error| error.message)
    }

    #[test]
    fn writes_have_one_reading() {
        for (text, bucket, key, condition, operation) in [
            (
                r#"{"put":{"id":"/db/A/%7Bt%7D1","n":1}}"#,
                "A",
                "{t}1",
                Condition::None,
                BatchOperation::Put(Bytes::from_static(br#"{"id":"/db/A/%7Bt%7D1","n":1}"#)),
            ),
            (
                r#"{"bucket":"A","put":{},"if":{"absent":true}}"#,
                "A",
                "",
                Condition::Absent,
                BatchOperation::Put(Bytes::from_static(b"{}")),
            ),
            (
                r#"{"id":"/db/A/1","update":{"$inc":{"n":1}},"if":{"version":3}}"#,
                "A",
                "1",
                Condition::Version(3),
                BatchOperation::Update(Bytes::from_static(br#"{"$inc":{"n":1}}"#)),
            ),
            (
                r#"{"id":"/db/A/1","delete":true,"if":{"exists":true}}"#,
                "A",
                "1",
                Condition::Exists,
                BatchOperation::Delete,
            ),
        ] {
            let expected = BatchWrite {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
                condition,
                operation,
            };
            assert_eq!(read(text), Ok(expected), "{text}");
        }
        for text in [
            "{}",
            r#"{"id":"/db/A/1"}"#,
            r#"{"id":"/db/A/1","delete":false}"#,
            r#"{"id":"/db/A/1","put":{},"delete":true}"#,
            r#"{"id":"/db/A/1","put":{},"if":{"absent":false}}"#,
            r#"{"id":"/db/A/1","put":{},"if":{"version":1,"absent":true}}"#,
            r#"{"id":"/db/A/1","put":{},"fi":{"version":1}}"#,
            r#"{"id":"A/1","put":{}}"#,
            r#"{"id":"/db/A/1","bucket":"B","put":{}}"#,
            r#"{"bucket":"A","update":{}}"#,
            r#"{"bucket":"A","delete":true}"#,
            r#"{"put":{}}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
