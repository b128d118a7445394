//! `larder.v1.Documents`: each call parses, makes one call into the service, and converts the answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use prost::Message;
use proto::ErrorCode;
use proto::v1::precondition::Condition as WireCondition;
use proto::v1::{self, documents_server};
use service::{
    Condition, Consistency, Context, Document, Error, Freshness, Position, ScanPage, ScanRange,
    Served,
};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Response, Status};

use super::changes::ChangesStream;
use super::deadline::timeout;
use super::error::status;
use super::query::QueryStream;
use crate::http::{
    Pages, Shared, Show, build_context, client_address, database_name, refuse, request_id,
};

/// Metric label of a call that succeeded.
const OK: &str = "ok";

/// The service behind `larder.v1.Documents`.
pub(super) struct Documents {
    pub(super) shared: Arc<Shared>,
}

/// A call on its way through: what every method needs.
pub(super) struct Call {
    pub(super) ctx: Context,
    /// Held until the call, or the stream it answers with, is over.
    pub(super) permit: OwnedSemaphorePermit,
    /// Room for the message.
    _room: OwnedSemaphorePermit,
}

impl Documents {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(super) async fn call<T: Message>(
        &self,
        request: &Request<T>,
        request_id: &str,
        database: &str,
    ) -> Result<Call, Error> {
        let database = match database {
            "" => "",
            name => database_name(name).ok_or_else(|| {
                refuse(
                    ErrorCode::BadRequest,
                    "a database is 1 to 63 of A-Z a-z 0-9 _",
                )
            })?,
        };
        let headers = request.metadata().as_ref();
        self.shared
            .gate
            .admit_database(&self.shared.service, headers, database)
            .await
            .map_err(|too_often| too_often.error)?;
        let address = client_address(request.extensions());
        let longest = self.shared.limits.request_time;
        let wait = timeout(headers).map_or(longest, |asked| asked.min(longest));
        Ok(Call {
            ctx: build_context(headers, request_id, database, address, wait)?,
            permit: self.shared.permit()?,
            _room: self.shared.room(request.get_ref().encoded_len())?,
        })
    }

    /// Runs one call: measures it, and turns its error into a status.
    async fn answer<T, R, F>(
        &self,
        method: &'static str,
        request: Request<T>,
        run: impl FnOnce(Request<T>, String) -> F,
    ) -> Result<Response<R>, Status>
    where
        F: Future<Output = Result<R, Error>>,
    {
        let started = Instant::now();
        let id = request_id(request.metadata().as_ref());
        let outcome = run(request, id.clone()).await;
        let elapsed = started.elapsed();
        let code = outcome
            .as_ref()
            .map_or_else(|error| error.code.as_str(), |_| OK);
        self.shared.grpc_meter.record(method, code, elapsed);
        tracing::debug!(
            target: "larder::access",
            request_id = id,
            method,
            code,
            micros = elapsed.as_micros() as u64,
            "call"
        );
        outcome
            .map(Response::new)
            .map_err(|error| status(&error, &id))
    }

    async fn get_document(
        &self,
        request: Request<v1::GetRequest>,
        id: String,
    ) -> Result<v1::GetResponse, Error> {
        let call = self
            .call(&request, &id, &request.get_ref().database)
            .await?;
        let request = request.into_inner();
        let freshness = freshness(request.consistency(), request.bound_ms, &request.at_least)?;
        let document = self
            .shared
            .service
            .get(&call.ctx, &request.bucket, &request.key, freshness)
            .await?;
        Ok(v1::GetResponse {
            served: document.served.as_ref().map(served),
            document: Some(to_wire(document)),
        })
    }

    async fn put_document(
        &self,
        request: Request<v1::PutRequest>,
        id: String,
    ) -> Result<v1::PutResponse, Error> {
        let call = self
            .call(&request, &id, &request.get_ref().database)
            .await?;
        let request = request.into_inner();
        let condition = condition(request.precondition)?;
        let key = Some(request.key.as_str()).filter(|key| !key.is_empty());
        let written = self
            .shared
            .service
            .put(&call.ctx, &request.bucket, key, request.json, condition)
            .await?;
        Ok(v1::PutResponse {
            position: position(written.document.served.as_ref()),
            document: Some(to_wire(written.document)),
        })
    }

    async fn delete_document(
        &self,
        request: Request<v1::DeleteRequest>,
        id: String,
    ) -> Result<v1::DeleteResponse, Error> {
        let call = self
            .call(&request, &id, &request.get_ref().database)
            .await?;
        let request = request.into_inner();
        let condition = condition(request.precondition)?;
        let deleted = self
            .shared
            .service
            .delete(&call.ctx, &request.bucket, &request.key, condition)
            .await?;
        Ok(v1::DeleteResponse {
            existed: deleted.existed,
            position: position(deleted.served.as_ref()),
        })
    }

    async fn update_document(
        &self,
        request: Request<v1::UpdateRequest>,
        id: String,
    ) -> Result<v1::UpdateResponse, Error> {
        let call = self
            .call(&request, &id, &request.get_ref().database)
            .await?;
        let v1::UpdateRequest {
            bucket,
            key,
            operations,
            precondition,
            ..
        } = request.into_inner();
        let condition = condition(precondition)?;
        let service = &self.shared.service;
        let document = service
            .update(&call.ctx, &bucket, &key, operations, condition)
            .await?;
        Ok(v1::UpdateResponse {
            position: position(document.served.as_ref()),
            document: Some(to_wire(document)),
        })
    }

    async fn scan_bucket(
        &self,
        request: Request<v1::ScanRequest>,
        id: String,
    ) -> Result<ScanStream, Error> {
        let call = self
            .call(&request, &id, &request.get_ref().database)
            .await?;
        // A stream has the client's own time as a whole, and the usual time for each page.
        let end = timeout(request.metadata().as_ref())
            .and_then(|asked| Instant::now().checked_add(asked));
        let request = request.into_inner();
        let scan = self.shared.scan_permit()?;
        let freshness = freshness(request.consistency(), request.bound_ms, &request.at_least)?;
        let range = ScanRange {
            freshness,
            limit: request.limit,
            continuation: Some(request.continuation).filter(|bytes| !bytes.is_empty()),
            start_key: Some(request.start_key).filter(|key| !key.is_empty()),
        };
        let page_time = self.shared.limits.request_time;
        let mut pages = Pages::new(
            self.shared.service.clone(),
            call.ctx,
            &request.bucket,
            Show::Readable,
            range,
            page_time,
            end,
        );
        // The first page decides the status of the call.
        let first = pages.next().await?;
        Ok(stream_of(first, pages, [call.permit, scan], id))
    }
}

/// The messages of a scan.
type ScanStream = Pin<Box<dyn Stream<Item = Result<v1::ScanResponse, Status>> + Send>>;

/// The first page and then the others, each read when the client is ready for it.
fn stream_of(
    first: Option<ScanPage>,
    pages: Pages,
    permits: [OwnedSemaphorePermit; 2],
    id: String,
) -> ScanStream {
    let rest = stream::try_unfold((pages, permits), |(mut pages, permits)| async move {
        Ok::<_, Error>(pages.next().await?.map(|page| (page, (pages, permits))))
    });
    let all = stream::iter(first.map(Ok)).chain(rest);
    all.map_ok(page_to_wire)
        .map_err(move |error| status(&error, &id))
        .boxed()
}

fn page_to_wire(page: ScanPage) -> v1::ScanResponse {
    v1::ScanResponse {
        served: page.served.iter().map(served).collect(),
        documents: page.documents.into_iter().map(to_wire).collect(),
        continuation: page.continuation.unwrap_or_default(),
    }
}

pub(super) fn to_wire(document: Document) -> v1::Document {
    v1::Document {
        bucket: document.bucket,
        key: document.key,
        version: document.version,
        json: document.body,
    }
}

/// # Errors
/// `bad_request` for a bound without its level or the other way round, and for a position that no answer gave.
pub(super) fn freshness(
    consistency: v1::Consistency,
    bound_ms: u32,
    at_least: &[String],
) -> Result<Freshness, Error> {
    let consistency = match (consistency, bound_ms) {
        (v1::Consistency::Linearizable, 0) => Consistency::Linearizable,
        (v1::Consistency::Local, 0) => Consistency::Local,
        (v1::Consistency::Bounded, ms) if ms > 0 => {
            Consistency::Bounded(Duration::from_millis(ms.into()))
        }
        _ => {
            return Err(refuse(
                ErrorCode::BadRequest,
                "bound_ms goes with CONSISTENCY_BOUNDED, and is above 0 there",
            ));
        }
    };
    let positions = at_least.iter().map(|text| Position::parse(text));
    let at_least = positions.collect::<Option<Vec<_>>>().ok_or_else(|| {
        refuse(
            ErrorCode::BadRequest,
            "at_least takes positions as answers gave them",
        )
    })?;
    Ok(Freshness {
        consistency,
        at_least,
    })
}

pub(super) fn served(served: &Served) -> v1::Served {
    let consistency = match served.consistency {
        Consistency::Linearizable => v1::Consistency::Linearizable,
        Consistency::Bounded(_) => v1::Consistency::Bounded,
        Consistency::Local => v1::Consistency::Local,
    };
    let age_ms = |age: Duration| u64::try_from(age.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
    v1::Served {
        position: served.position.to_string(),
        consistency: consistency.into(),
        age_ms: served.age.map(age_ms),
    }
}

pub(super) fn position(served: Option<&Served>) -> String {
    served.map_or_else(String::new, |served| served.position.to_string())
}

/// # Errors
/// `bad_request` for `absent: false` and `exists: false`, which could be read in two ways.
pub(super) fn condition(precondition: Option<v1::Precondition>) -> Result<Condition, Error> {
    match precondition.and_then(|precondition| precondition.condition) {
        None => Ok(Condition::None),
        Some(WireCondition::Version(version)) => Ok(Condition::Version(version)),
        Some(WireCondition::Absent(true)) => Ok(Condition::Absent),
        Some(WireCondition::Exists(true)) => Ok(Condition::Exists),
        Some(WireCondition::Absent(false) | WireCondition::Exists(false)) => Err(refuse(
            ErrorCode::BadRequest,
            "absent and exists must be true or left out",
        )),
    }
}

#[tonic::async_trait]
impl documents_server::Documents for Documents {
    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        self.answer("Get", request, |request, id| self.get_document(request, id))
            .await
    }

    async fn put(
        &self,
        request: Request<v1::PutRequest>,
    ) -> Result<Response<v1::PutResponse>, Status> {
        self.answer("Put", request, |request, id| self.put_document(request, id))
            .await
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        self.answer("Delete", request, |request, id| {
            self.delete_document(request, id)
        })
        .await
    }

    async fn update(
        &self,
        request: Request<v1::UpdateRequest>,
    ) -> Result<Response<v1::UpdateResponse>, Status> {
        self.answer("Update", request, |request, id| {
            self.update_document(request, id)
        })
        .await
    }

    async fn batch(
        &self,
        request: Request<v1::BatchRequest>,
    ) -> Result<Response<v1::BatchResponse>, Status> {
        self.answer("Batch", request, |request, id| {
            self.write_batch(request, id)
        })
        .await
    }

    type ScanStream = ScanStream;

    async fn scan(
        &self,
        request: Request<v1::ScanRequest>,
    ) -> Result<Response<ScanStream>, Status> {
        self.answer("Scan", request, |request, id| self.scan_bucket(request, id))
            .await
    }

    type QueryStream = QueryStream;

    async fn query(
        &self,
        request: Request<v1::QueryRequest>,
    ) -> Result<Response<QueryStream>, Status> {
        self.answer("Query", request, |request, id| {
            self.query_bucket(request, id)
        })
        .await
    }

    async fn explain(
        &self,
        request: Request<v1::QueryRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        self.answer("Explain", request, |request, id| {
            self.explain_query(request, id)
        })
        .await
    }

    async fn count(
        &self,
        request: Request<v1::CountRequest>,
    ) -> Result<Response<v1::CountResponse>, Status> {
        self.answer("Count", request, |request, id| {
            self.count_bucket(request, id)
        })
        .await
    }

    type ChangesStream = ChangesStream;

    async fn changes(
        &self,
        request: Request<v1::ChangesRequest>,
    ) -> Result<Response<ChangesStream>, Status> {
        self.answer("Changes", request, |request, id| {
            self.stream_changes(request, id)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(condition: WireCondition) -> Option<v1::Precondition> {
        Some(v1::Precondition {
            condition: Some(condition),
        })
    }

    #[test]
    fn preconditions_have_one_reading() {
        for (precondition, expected) in [
            (None, Condition::None),
            (Some(v1::Precondition { condition: None }), Condition::None),
            (wire(WireCondition::Version(7)), Condition::Version(7)),
            (wire(WireCondition::Absent(true)), Condition::Absent),
            (wire(WireCondition::Exists(true)), Condition::Exists),
        ] {
            assert_eq!(condition(precondition), Ok(expected));
        }
        for ambiguous in [WireCondition::Absent(false), WireCondition::Exists(false)] {
            assert_eq!(
                condition(wire(ambiguous)).map_err(|error| error.code),
                Err(ErrorCode::BadRequest)
            );
        }
    }
}
