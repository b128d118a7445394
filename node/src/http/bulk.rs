//! Writing whole buckets (contract section 3.4), for admins: `PUT /db/:bucket` imports, `DELETE /db/:bucket` truncates.
//!
//! Both work page by page and hold one page in memory. What goes wrong in the middle leaves the earlier pages done, and says so; the
//! same request again finishes them.

use std::time::Instant;

use axum::response::Response;
use bytes::Bytes;
use document::id::object_id;
use http_body_util::BodyExt;
use proto::{Effect, ErrorCode};
use serde::Serialize;
use serde_json::json;
use service::{Context, Error};
use tokio::time::timeout;

use super::edge::{Call, Shared};
use super::error::refuse;
use super::fields::parameters;
use super::query::{LARDER_CONTINUATION, number, token, token_value};
use super::respond;
use crate::records::Splitter;

/// Bytes of documents that are written together.
const PAGE_BYTES: usize = 1024 * 1024;
/// Documents that are written together.
const PAGE_DOCUMENTS: usize = 500;
/// Failures that an answer lists; all are counted.
const FAILURES_LISTED_MAX: usize = 1_000;

/// `PUT /db/:bucket`: a JSON array of documents as the export gives them, or one document a line. Existing ids are replaced, others stay.
///
/// 200 with `{"imported":n,"failed":n,"failures":[{"position","code","message","effect"}]}`, whatever becomes of single documents.
///
/// # Errors
/// `syntax_error` where the body cannot be cut into documents; those before are imported.
pub(crate) async fn import(mut call: Call<'_>, bucket: &str) -> Result<Response, Error> {
    let ctx = call.context()?;
    let _room = call.shared.room(PAGE_BYTES)?;
    let _scan = call.shared.scan_permit()?;
    let mut import = Import {
        shared: call.shared,
        bucket,
        ctx,
        page: Vec::new(),
        page_bytes: 0,
        report: Report::default(),
        position: 0,
    };
    // Who may not import learns it before sending much.
    import.write().await?;
    let mut splitter = Splitter::new();
    let mut body = call.take_body();
    loop {
        let frame = timeout(call.shared.limits.body_read_time, body.frame()).await;
        let frame = frame.map_err(|_| import.broken("the request body did not arrive in time"))?;
        let mut documents = Vec::new();
        let Some(frame) = frame else {
            let cut = splitter.finish(|document| documents.push(document));
            import.take(documents).await?;
            cut.map_err(|error| import.broken(&error.to_string()))?;
            import.write().await?;
            return Ok(respond::value(&import.report));
        };
        let frame = frame.map_err(|_| import.broken("the request body broke off"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let cut = splitter.feed(&data, |document| documents.push(document));
        import.take(documents).await?;
        cut.map_err(|error| import.broken(&error.to_string()))?;
    }
}

/// An import on its way.
struct Import<'a> {
    shared: &'a Shared,
    bucket: &'a str,
    ctx: Context,
    page: Vec<(u64, Bytes)>,
    page_bytes: usize,
    report: Report,
    /// Documents seen so far.
    position: u64,
}

impl Import<'_> {
    /// Adds documents, and writes what fills a page.
    async fn take(&mut self, documents: Vec<Vec<u8>>) -> Result<(), Error> {
        let bytes_max = self.shared.limits.body_bytes_max;
        for document in documents {
            let position = self.position;
            self.position += 1;
            if document.len() > bytes_max {
                let message = format!("the document is larger than {bytes_max} bytes");
                self.report
                    .fail(position, refuse(ErrorCode::BodyTooLarge, message));
                continue;
            }
            let full =
                self.page_bytes + document.len() > PAGE_BYTES || self.page.len() == PAGE_DOCUMENTS;
            if full {
                self.write().await?;
            }
            self.page_bytes += document.len();
            self.page.push((position, document.into()));
        }
        Ok(())
    }

    /// Writes the page.
    async fn write(&mut self) -> Result<(), Error> {
        self.ctx.deadline = Instant::now() + self.shared.limits.request_time;
        self.page_bytes = 0;
        let (positions, documents): (Vec<u64>, Vec<Bytes>) = self.page.drain(..).unzip();
        let service = &self.shared.service;
        let results = service.import(&self.ctx, self.bucket, documents).await;
        let results = results.map_err(|error| self.after(error))?;
        for (position, result) in positions.into_iter().zip(results) {
            match result {
                Ok(()) => self.report.imported += 1,
                Err(error) => self.report.fail(position, error),
            }
        }
        Ok(())
    }

    fn broken(&self, why: &str) -> Error {
        self.after(refuse(ErrorCode::SyntaxError, why))
    }

    /// The error of an import that has written something before.
    fn after(&self, mut error: Error) -> Error {
        let imported = self.report.imported;
        if imported == 0 {
            return error;
        }
        error.message = format!(
            "{}; {imported} documents before it were imported",
            error.message
        );
        error.with_effect(Effect::Applied)
    }
}

/// What the client hears.
#[derive(Default, Serialize)]
struct Report {
    imported: u64,
    failed: u64,
    /// The first ones.
    failures: Vec<Failure>,
}

/// A document that was not imported.
#[derive(Serialize)]
struct Failure {
    /// Its place in the body, from 0.
    position: u64,
    code: &'static str,
    message: String,
    effect: &'static str,
}

impl Report {
    fn fail(&mut self, position: u64, error: Error) {
        self.failed += 1;
        if self.failures.len() < FAILURES_LISTED_MAX {
            self.failures.push(Failure {
                position,
                code: error.code.as_str(),
                effect: error.effect.as_str(),
                message: error.message,
            });
        }
    }
}

/// `DELETE /db/:bucket`: 200 with `{"bucket","deleted"}`. Each document's deletion is an event and takes a version, as a single one does.
///
/// With `count=N` it ends with the page that reaches this many, and `Larder-Continuation` leads to what is left: `after=` goes on there.
pub(crate) async fn truncate(call: Call<'_>, bucket: &str) -> Result<Response, Error> {
    let mut ctx = call.context()?;
    let (count, mut continuation) = part(call.head.uri.query().unwrap_or_default())?;
    let _scan = call.shared.scan_permit()?;
    let mut deleted = 0;
    loop {
        ctx.deadline = Instant::now() + call.shared.limits.request_time;
        let page = call.shared.service.truncate(&ctx, bucket, continuation);
        let page = page.await.map_err(|mut error| {
            if deleted == 0 {
                return error;
            }
            error.message = format!("{}; {deleted} documents were deleted", error.message);
            error.with_effect(Effect::Applied)
        })?;
        deleted += page.deleted;
        continuation = page.continuation;
        if continuation.is_some() && count.is_none_or(|count| deleted < count) {
            continue;
        }
        let bucket = object_id(bucket, "");
        let bucket = bucket.trim_end_matches('/');
        let mut response = respond::value(&json!({ "bucket": bucket, "deleted": deleted }));
        if let Some(rest) = continuation {
            let headers = response.headers_mut();
            headers.insert(LARDER_CONTINUATION, token_value(&rest));
        }
        return Ok(response);
    }
}

/// Which part of a bucket a truncation takes: `count` (-1: all) and `after`.
fn part(query: &str) -> Result<(Option<u64>, Option<Bytes>), Error> {
    let (mut count, mut after) = (None, None);
    for (name, value) in parameters(query) {
        match name {
            "count" if value == "-1" => count = None,
            "count" => count = Some(number(name, value)?),
            "after" => after = Some(token(value)?),
            _ => {}
        }
    }
    Ok((count, after))
}
