//! Whole buckets (contract section 3.4): which there are, the ids in one, and its export.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use document::id::object_id;
use futures::stream;
use http::StatusCode;
use proto::ErrorCode;
use serde_json::Value;
use service::{Document, Error, ScanPage, ScanRange};
use tokio::sync::OwnedSemaphorePermit;

use super::context;
use super::edge::Call;
use super::error::refuse;
use super::respond;
use super::scan::{Pages, Show};

/// The class that all others extend. It has no documents of its own.
const ROOT_CLASS: &str = "/db/Object";

/// `GET /db`: the buckets of the database, as `/db/<class>`.
pub(crate) async fn list(call: Call<'_>) -> Result<Response, Error> {
    let ctx = call.context()?;
    let schema = call.shared.service.schema(&ctx).await?;
    Ok(respond::value(&bucket_paths(&schema)))
}

/// All classes that can hold documents.
fn bucket_paths(schema: &Value) -> Vec<&str> {
    let classes = schema.as_array().map(Vec::as_slice).unwrap_or_default();
    let with_documents = classes
        .iter()
        .filter(|class| class["embedded"] != Value::Bool(true));
    with_documents
        .filter_map(|class| class["class"].as_str())
        .filter(|class| *class != ROOT_CLASS)
        .collect()
}

/// `GET /db/:bucket/ids?start=0&count=-1`: the ids that the caller may read, streamed.
///
/// An error behind the first page breaks the response off: a shortened list must not look like a whole one.
pub(crate) async fn ids(call: Call<'_>, bucket: &str) -> Result<Response, Error> {
    let window = Window::parse(call.head.uri.query().unwrap_or_default())?;
    stream_of(call, bucket, Show::Readable, window, |document| {
        respond::to_json(&object_id(&document.bucket, &document.key))
    })
    .await
}

/// `GET /db/:bucket`: every document with all of its members, for admins. Streamed and broken off like [`ids`].
pub(crate) async fn export(call: Call<'_>, bucket: &str) -> Result<Response, Error> {
    stream_of(call, bucket, Show::All, Window::ALL, |document| {
        document.body.clone()
    })
    .await
}

/// A JSON array of one item for each document of the window, written page by page as the client reads.
async fn stream_of(
    call: Call<'_>,
    bucket: &str,
    show: Show,
    window: Window,
    item: fn(&Document) -> Bytes,
) -> Result<Response, Error> {
    let ctx = call.context()?;
    let scan = call.shared.scan_permit()?;
    let range = ScanRange {
        limit: window.documents_to_visit(),
        freshness: context::freshness(call.headers())?,
        ..ScanRange::default()
    };
    let mut pages = Pages::new(
        call.shared.service.clone(),
        ctx,
        bucket,
        show,
        range,
        call.shared.limits.request_time,
        None,
    );
    // The first page decides the status.
    let first = pages.next().await?;
    let walk = Walk {
        pages,
        first,
        window,
        item,
        array: Array::default(),
        _permits: [call.permit, scan],
    };
    Ok(respond::json(
        StatusCode::OK,
        Body::from_stream(stream::try_unfold(Some(walk), Walk::chunk)),
    ))
}

/// A part of a list: skip `start`, then take `count`.
#[derive(Debug, PartialEq, Eq)]
struct Window {
    start: u64,
    /// `None`: all.
    count: Option<u64>,
}

impl Window {
    const ALL: Window = Window {
        start: 0,
        count: None,
    };

    /// Reads `start` and `count`; other parameters mean nothing here.
    fn parse(query: &str) -> Result<Self, Error> {
        let mut window = Self::ALL;
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "start" => window.start = number(name, value)?,
                "count" if value == "-1" => window.count = None,
                "count" => window.count = Some(number(name, value)?),
                _ => {}
            }
        }
        Ok(window)
    }

    /// A limit for the scan, 0 meaning none.
    fn documents_to_visit(&self) -> u64 {
        // At least one: a bucket that does not exist must be refused even where no id is wanted.
        self.count
            .map_or(0, |count| self.start.saturating_add(count).max(1))
    }

    /// Whether the next document is part of the list; counts it.
    fn takes(&mut self) -> bool {
        if self.start > 0 {
            self.start -= 1;
            return false;
        }
        match &mut self.count {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }
}

fn number(name: &str, value: &str) -> Result<u64, Error> {
    let refused = |_| {
        refuse(
            ErrorCode::BadRequest,
            format!("{name} must be a number from 0 up"),
        )
    };
    value.parse().map_err(refused)
}

/// The state of a list on its way to the client.
struct Walk {
    pages: Pages,
    first: Option<ScanPage>,
    window: Window,
    /// What stands in the list for a document, as JSON.
    item: fn(&Document) -> Bytes,
    array: Array,
    _permits: [OwnedSemaphorePermit; 2],
}

impl Walk {
    /// The next piece of the body.
    async fn chunk(walk: Option<Self>) -> Result<Option<(Bytes, Option<Self>)>, Error> {
        let Some(mut walk) = walk else {
            return Ok(None);
        };
        let page = match walk.first.take() {
            Some(page) => Some(page),
            None => walk.pages.next().await?,
        };
        let Some(page) = page else {
            return Ok(Some((walk.array.end(), None)));
        };
        let mut out = Vec::new();
        for document in &page.documents {
            if walk.window.takes() {
                walk.array.push(&mut out, &(walk.item)(document));
            }
        }
        Ok(Some((out.into(), Some(walk))))
    }
}

/// Writes a JSON array piece by piece.
#[derive(Default)]
struct Array {
    started: bool,
}

impl Array {
    fn push(&mut self, out: &mut Vec<u8>, json: &[u8]) {
        out.push(if self.started { b',' } else { b'[' });
        self.started = true;
        out.extend_from_slice(json);
    }

    fn end(&self) -> Bytes {
        Bytes::from_static(if self.started { b"]" } else { b"[]" })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn buckets_are_the_classes_with_documents() {
        let schema = json!([
            {"class": "/db/Object"}, {"class": "/db/User"}, {"class": "/db/Address", "embedded": true},
            {"class": "/db/logs.AppLog", "embedded": false},
        ]);
        assert_eq!(bucket_paths(&schema), ["/db/User", "/db/logs.AppLog"]);
        assert!(bucket_paths(&json!({})).is_empty());
    }

    #[test]
    fn windows_are_read_and_refused() {
        for (query, start, count) in [
            ("", 0, None),
            ("start=0&count=-1", 0, None),
            ("start=5", 5, None),
            ("BCB&start=5&count=10", 5, Some(10)),
            ("count=0", 0, Some(0)),
        ] {
            assert_eq!(Window::parse(query), Ok(Window { start, count }), "{query}");
        }
        for query in [
            "start=-1",
            "count=-2",
            "start=",
            "count=x",
            "count",
            "start=1.5",
        ] {
            assert_eq!(
                Window::parse(query).map_err(|error| error.code),
                Err(ErrorCode::BadRequest),
                "{query}"
            );
        }
    }

    #[test]
    fn a_window_takes_its_part() {
        let mut window = Window {
            start: 2,
            count: Some(3),
        };
        let taken: Vec<_> = (0..7).filter(|_| window.takes()).collect();
        assert_eq!(taken, [2, 3, 4]);
        assert_eq!(
            Window {
                start: 0,
                count: Some(0)
            }
            .documents_to_visit(),
            1
        );
        assert_eq!(
            Window {
                start: u64::MAX,
                count: Some(2)
            }
            .documents_to_visit(),
            u64::MAX
        );
    }

    #[test]
    fn arrays_are_whole_when_written_in_pieces() {
        let mut array = Array::default();
        assert_eq!(array.end(), "[]");
        let mut out = Vec::new();
        for item in ["1", "{}"] {
            array.push(&mut out, item.as_bytes());
        }
        out.extend_from_slice(&array.end());
        assert_eq!(out, b"[1,{}]");
    }
}
