//! `Query`, `Explain` and `Count`. A result is streamed page by page as the client reads, so its length is not limited.

use std::pin::Pin;
use std::time::{Duration, Instant};

use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use proto::v1;
use service::{Error, Query, QueryPage, QueryRequest, ShardExplanation};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Status};

use super::deadline::timeout;
use super::documents::{Documents, freshness, served, to_wire};
use super::error::status;

/// Documents of one message.
const PAGE_DOCUMENTS: usize = 1_000;
/// Bytes of the documents of one message; the last one may go past it.
const PAGE_BYTES: usize = 512 * 1024;

/// The messages of a query.
pub(super) type QueryStream = Pin<Box<dyn Stream<Item = Result<v1::QueryResponse, Status>> + Send>>;

impl Documents {
    pub(super) async fn query_bucket(
        &self,
        request: Request<v1::QueryRequest>,
        id: String,
    ) -> Result<QueryStream, Error> {
        let call = self
            .call(&request, &id, &request.get_ref().database)
            .await?;
        // A stream has the client's own time as a whole, and the usual time for each page.
        let end = timeout(request.metadata().as_ref())
            .and_then(|asked| Instant::now().checked_add(asked));
        let scan = self.shared.scan_permit()?;
        let (bucket, asked) = asked(request.into_inner())?;
        let query = self
            .shared
            .service
            .open_query(&call.ctx, &bucket, asked)
            .await?;
        let mut pages = Pages {
            query,
            page_time: self.shared.limits.request_time,
            end,
            _permits: [call.permit, scan],
        };
        // The first page decides the status of the call.
        let first = pages.next().await?;
        let rest = stream::try_unfold(pages, |mut pages| async move {
            Ok::<_, Error>(pages.next().await?.map(|page| (page, pages)))
        });
        let all = stream::iter(first.map(Ok)).chain(rest);
        let messages = all
            .map_ok(page_to_wire)
            .map_err(move |error| status(&error, &id));
        Ok(messages.boxed())
    }

    pub(super) async fn explain_query(
        &self,
        request: Request<v1::QueryRequest>,
        id: String,
    ) -> Result<v1::ExplainResponse, Error> {
        let call = self
            .call(&request, &id, &request.get_ref().database)
            .await?;
        let (bucket, asked) = asked(request.into_inner())?;
        let service = &self.shared.service;
        let shards = service.explain(&call.ctx, &bucket, asked).await?;
        Ok(v1::ExplainResponse {
            json: ShardExplanation::to_json(&shards).to_string(),
        })
    }

    pub(super) async fn count_bucket(
        &self,
        request: Request<v1::CountRequest>,
        id: String,
    ) -> Result<v1::CountResponse, Error> {
        let call = self
            .call(&request, &id, &request.get_ref().database)
            .await?;
        let request = request.into_inner();
        let asked = QueryRequest {
            freshness: freshness(request.consistency(), request.bound_ms, &request.at_least)?,
            filter: request.filter.into(),
            allow_scan: request.allow_scan,
            ..QueryRequest::default()
        };
        let counted = self
            .shared
            .service
            .count(&call.ctx, &request.bucket, asked)
            .await?;
        Ok(v1::CountResponse {
            count: counted.count,
            served: counted.served.iter().map(served).collect(),
        })
    }
}

/// The bucket, and what is asked of it.
fn asked(request: v1::QueryRequest) -> Result<(String, QueryRequest), Error> {
    let asked = QueryRequest {
        freshness: freshness(request.consistency(), request.bound_ms, &request.at_least)?,
        filter: request.filter.into(),
        sort: request.sort.into(),
        start: request.start,
        count: Some(request.limit).filter(|limit| *limit > 0),
        continuation: Some(request.continuation).filter(|bytes| !bytes.is_empty()),
        allow_scan: request.allow_scan,
    };
    Ok((request.bucket, asked))
}

/// The pages of a query, one at a time.
struct Pages {
    query: Query,
    page_time: Duration,
    end: Option<Instant>,
    _permits: [OwnedSemaphorePermit; 2],
}

impl Pages {
    async fn next(&mut self) -> Result<Option<QueryPage>, Error> {
        let page_end = Instant::now() + self.page_time;
        let deadline = self.end.map_or(page_end, |end| end.min(page_end));
        self.query
            .next_page(deadline, PAGE_DOCUMENTS, PAGE_BYTES)
            .await
    }
}

fn page_to_wire(page: QueryPage) -> v1::QueryResponse {
    v1::QueryResponse {
        served: page.served.iter().map(served).collect(),
        documents: page.documents.into_iter().map(to_wire).collect(),
        continuation: page.continuation.unwrap_or_default(),
    }
}
