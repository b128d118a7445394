//! The edge: one service for everything that arrives at the client port.
//!
//! gRPC is told apart by its content type. An HTTP request is routed on its raw path, answered by one handler, and every outcome passes
//! the same end: error body, request id, CORS, HEAD, compression, metrics, log. Nothing here knows a rule of the product.
//!
//! Requests that reach the service hold a permit, `requests_in_flight_max` at a time; more are refused at once with effect none. Probes
//! need none: a full node is still alive. Bodies and open scans have limits of their own.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::{ALLOW, CONNECTION, HeaderMap};
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode, Version};
use proto::ErrorCode;
use service::audit::{Action, Event};
use service::{Caller, Error, Service};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::context::{self, X_REQUEST_ID};
use super::error::{self, not_offered, refuse};
use super::rates::{Gate, Standing, TooOften};
use super::route::{self, Malformed, Route, Target};
use super::{
    Limits, access, address, batch, body, buckets, bulk, caching, changes, consumers, cors,
    documents, health, indexes, live, query, respond, schema, sessions, spec, updates, users,
};
use crate::grpc;
use crate::telemetry::{GrpcMeter, HttpMeter};

/// Header names and values of one request together; hyper's own limits lie above.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// When to try again for a WebSocket: they are open for long, and another node may have room.
const WEBSOCKET_RETRY: Duration = Duration::from_secs(5);

/// What all requests of a node share.
pub(crate) struct Shared {
    pub(crate) service: Service,
    pub(crate) limits: Limits,
    pub(crate) grpc_meter: GrpcMeter,
    pub(crate) gate: Gate,
    http_meter: HttpMeter,
    permits: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    scans: Arc<Semaphore>,
    websockets: Arc<Semaphore>,
}

impl Shared {
    pub(crate) fn new(service: Service, limits: Limits) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(limits.requests_in_flight_max));
        let bytes = Arc::new(Semaphore::new(limits.request_bytes_in_flight_max));
        let scans = Arc::new(Semaphore::new(limits.scans_open_max));
        let websockets = Arc::new(Semaphore::new(limits.websockets_max));
        let (grpc_meter, http_meter) = (GrpcMeter::default(), HttpMeter::default());
        Arc::new(Self {
            gate: Gate::new(&limits.rates),
            service,
            limits,
            grpc_meter,
            http_meter,
            permits,
            bytes,
            scans,
            websockets,
        })
    }

    /// The right to use the service, until dropped.
    ///
    /// # Errors
    /// `unavailable` if too many requests are in flight.
    pub(crate) fn permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.permits)
            .try_acquire_owned()
            .map_err(|_| Error::unavailable("too many requests in flight"))
    }

    /// Room for a request body, until dropped.
    ///
    /// # Errors
    /// `unavailable` if too much is held already.
    pub(crate) fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        // What is longer than the whole room takes all of it, and is refused for its length where that is judged.
        let bytes = bytes.min(self.limits.request_bytes_in_flight_max);
        u32::try_from(bytes)
            .ok()
            .and_then(|bytes| Arc::clone(&self.bytes).try_acquire_many_owned(bytes).ok())
            .ok_or_else(|| Error::unavailable("too many bytes of requests in flight"))
    }

    /// The right to an open scan, until dropped.
    ///
    /// # Errors
    /// `unavailable` if too many are open.
    pub(crate) fn scan_permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.scans)
            .try_acquire_owned()
            .map_err(|_| Error::unavailable("too many scans are open"))
    }

    /// The right to an open WebSocket, until dropped.
    ///
    /// # Errors
    /// `too_many_requests` if too many are open.
    pub(crate) fn websocket_permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.websockets)
            .try_acquire_owned()
            .map_err(|_| {
                let message = "too many WebSockets are open at this node";
                refuse(ErrorCode::TooManyRequests, message).with_retry_after(WEBSOCKET_RETRY)
            })
    }
}

/// A request on its way to a handler.
pub(crate) struct Call<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) head: &'a Parts,
    pub(crate) permit: OwnedSemaphorePermit,
    request_id: &'a str,
    database: &'a str,
    body: Body,
    /// Of the body, once it is read.
    room: Option<OwnedSemaphorePermit>,
}

impl Call<'_> {
    /// The path of the database, without a slash at its end: what stands before all its routes, as this client wrote it.
    pub(crate) fn base(&self) -> &str {
        let path = self.head.uri.path();
        let (first, _) = path
            .strip_prefix('/')
            .unwrap_or(path)
            .split_once('/')
            .unwrap_or((path.trim_start_matches('/'), ""));
        match route::is_route_word(first) {
            true => "",
            false => &path[..=first.len()],
        }
    }

    /// The headers.
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// What the service must know besides the content.
    pub(crate) fn context(&self) -> Result<service::Context, Error> {
        context::build(
            self.headers(),
            self.request_id,
            self.database,
            address::of(&self.head.extensions),
            self.shared.limits.request_time,
        )
    }

    /// The same for a caller whose credentials do not matter.
    pub(crate) fn anonymous_context(&self) -> service::Context {
        context::anonymous(
            self.request_id,
            self.database,
            address::of(&self.head.extensions),
            self.shared.limits.request_time,
        )
    }

    /// The body, to be read piece by piece.
    pub(crate) fn take_body(&mut self) -> Body {
        std::mem::take(&mut self.body)
    }

    /// The whole body.
    pub(crate) async fn read_body(&mut self) -> Result<bytes::Bytes, Error> {
        let limits = self.shared.limits.clone();
        self.read_body_within(&limits).await
    }

    /// The whole body of a batch, which may be as long as one over gRPC.
    pub(crate) async fn read_batch(&mut self) -> Result<bytes::Bytes, Error> {
        let limits = Limits {
            body_bytes_max: self.shared.limits.grpc_message_bytes_max,
            ..self.shared.limits.clone()
        };
        self.read_body_within(&limits).await
    }

    async fn read_body_within(&mut self, limits: &Limits) -> Result<bytes::Bytes, Error> {
        let bytes = body::most_bytes(&self.head.headers, limits);
        self.room = Some(self.shared.room(bytes)?);
        body::read(&self.head.headers, std::mem::take(&mut self.body), limits).await
    }
}

/// The client port's service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Edge {
    shared: Arc<Shared>,
    grpc: grpc::Api,
}

impl Edge {
    pub(crate) fn new(service: Service, limits: Limits) -> Self {
        let shared = Shared::new(service, limits);
        Self {
            grpc: grpc::Api::new(Arc::clone(&shared)),
            shared,
        }
    }
}

impl tower::Service<Request<Body>> for Edge {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        address::resolve(&mut request, &self.shared.limits.trusted_proxies);
        if grpc::is_grpc(request.headers()) {
            return self.grpc.call(request);
        }
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { Ok(serve(&shared, request).await) })
    }
}

/// Answers one HTTP request, whatever happens.
async fn serve(shared: &Arc<Shared>, request: Request<Body>) -> Response {
    let started = Instant::now();
    let (head, body) = request.into_parts();
    let request_id = context::request_id(&head.headers);
    let target = route::parse(head.uri.path());
    let (standing, outcome) = match admit(shared, &head, &target).await {
        Ok(standing) => {
            let outcome = AssertUnwindSafe(dispatch(shared, &head, body, &request_id, &target))
                .catch_unwind()
                .await;
            let panicked = |_| Err(refuse(ErrorCode::Internal, "internal error"));
            (standing, outcome.unwrap_or_else(panicked))
        }
        Err(too_often) => (Some(too_often.standing), Err(too_often.error)),
    };
    if let (Err(error), Ok(target)) = (&outcome, &target) {
        note_denied(shared, &head, target, error);
    }
    let mut response = outcome.unwrap_or_else(|error| refusal(&error, &request_id, &target));
    if let Some(standing) = standing {
        standing.tell(response.headers_mut());
    }
    cors::apply(&head.headers, response.headers_mut());
    if let Ok(id) = HeaderValue::try_from(request_id.as_str()) {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    if shared.service.declines() && head.version <= Version::HTTP_11 {
        // The node stops, or is slow: clients should go elsewhere, and know it before the connection ends under a request.
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let response = match head.method {
        Method::HEAD => respond::without_body(response),
        _ => respond::compress(&head.headers, response).await,
    };
    observe(
        shared,
        &head,
        &request_id,
        &target,
        response.status(),
        started,
    );
    response
}

/// Counts a request by the limits of [`rates`](super::rates). Probes and preflights are for nobody in particular, and cost nothing.
async fn admit(
    shared: &Shared,
    head: &Parts,
    target: &Result<Target<'_>, Malformed>,
) -> Result<Option<Standing>, Box<TooOften>> {
    match target {
        _ if head.method == Method::OPTIONS => Ok(None),
        Ok(Target {
            route: Route::Live | Route::Ready,
            ..
        }) => Ok(None),
        Ok(Target { database, .. }) => shared.gate.admit(&shared.service, head, database).await,
        Err(_) => shared.gate.admit(&shared.service, head, "").await,
    }
}

/// Notes for the audit log that somebody was not let do what is for admins.
fn note_denied(shared: &Shared, head: &Parts, target: &Target<'_>, error: &Error) {
    let is_for_admins = match target.route {
        Route::Schema | Route::SchemaClass(_) | Route::Indexes(_) => head.method != Method::GET,
        Route::Bucket(_) => head.method != Method::POST,
        Route::Consumers(_) => true,
        _ => false,
    };
    if error.code != ErrorCode::PermissionDenied || !is_for_admins {
        return;
    }
    let caller = context::caller(&head.headers).unwrap_or(Caller::Anonymous);
    let user = shared.service.claimed_user(target.database, &caller);
    let event = Event {
        address: address::of(&head.extensions),
        database: target.database.to_owned(),
        ..Event::new(Action::AdminDenied)
    };
    let what = format!("{} {}", method_label(&head.method), head.uri.path());
    shared
        .service
        .note(event.by(user.as_deref().unwrap_or_default()).on(&what));
}

/// The response to a refused request.
fn refusal(error: &Error, request_id: &str, target: &Result<Target<'_>, Malformed>) -> Response {
    let mut response = error::response(error, request_id);
    if let (ErrorCode::MethodNotAllowed, Ok(target)) = (error.code, target) {
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static(target.route.methods()));
    }
    response
}

fn observe(
    shared: &Shared,
    head: &Parts,
    request_id: &str,
    target: &Result<Target<'_>, Malformed>,
    status: StatusCode,
    started: Instant,
) {
    let route = target
        .as_ref()
        .map_or("malformed", |target| target.route.name());
    let elapsed = started.elapsed();
    shared
        .http_meter
        .record(method_label(&head.method), route, status.as_u16(), elapsed);
    tracing::debug!(
        target: "larder::access",
        request_id,
        method = %head.method,
        path = head.uri.path(),
        status = status.as_u16(),
        micros = elapsed.as_micros() as u64,
        "request"
    );
}

/// Methods as labels: no client can make new ones.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Finds the handler for a request and calls it.
async fn dispatch(
    shared: &Arc<Shared>,
    head: &Parts,
    body: Body,
    request_id: &str,
    target: &Result<Target<'_>, Malformed>,
) -> Result<Response, Error> {
    if head.method == Method::OPTIONS {
        return Ok(cors::preflight());
    }
    check_headers(&head.headers)?;
    let target = target
        .as_ref()
        .map_err(|why| refuse(ErrorCode::BadRequest, why.to_string()))?;
    if let Some(response) = without_permit(shared, head, &target.route)? {
        return Ok(response);
    }
    let call = Call {
        shared,
        head,
        permit: shared.permit()?,
        request_id,
        database: target.database,
        body,
        room: None,
    };
    with_permit(call, &target.route).await
}

/// What needs no permit: probes, and all that is not offered.
fn without_permit(
    shared: &Shared,
    head: &Parts,
    route: &Route<'_>,
) -> Result<Option<Response>, Error> {
    let reads = matches!(head.method, Method::GET | Method::HEAD);
    match route {
        Route::Later(what) => return Err(not_offered(what)),
        Route::Unknown => return Err(refuse(ErrorCode::NoRoute, "nothing is at this address")),
        _ if !reads => return Ok(None),
        Route::Root => Ok(health::root()),
        Route::Live => Ok(health::live()),
        Route::Version => Ok(health::version()),
        Route::Ready | Route::Status => health::ready(&shared.service),
        _ => return Ok(None),
    }
    .map(Some)
}

/// The table of methods and routes.
async fn with_permit(call: Call<'_>, route: &Route<'_>) -> Result<Response, Error> {
    let method = match &call.head.method {
        &Method::HEAD => &Method::GET,
        method => method,
    };
    match (method, route) {
        (&Method::GET, Route::Document(bucket, key)) => documents::get(call, bucket, key).await,
        (&Method::PUT, Route::Document(bucket, key)) => documents::put(call, bucket, key).await,
        (&Method::POST, Route::Bucket(bucket)) => documents::insert(call, bucket).await,
        (&Method::DELETE, Route::Document(bucket, key)) => {
            documents::delete(call, bucket, key).await
        }
        (&Method::GET, Route::Ids(bucket)) => buckets::ids(call, bucket).await,
        (&Method::GET | &Method::POST, Route::Query(bucket)) => query::query(call, bucket).await,
        (&Method::GET | &Method::POST, Route::Count(bucket)) => query::count(call, bucket).await,
        (&Method::GET | &Method::POST, Route::Explain(bucket)) => {
            query::explain(call, bucket).await
        }
        (&Method::GET, Route::AclCheck) => access::check(call).await,
        (&Method::GET, Route::Buckets) => buckets::list(call).await,
        (&Method::GET, Route::Bucket(bucket)) => buckets::export(call, bucket).await,
        (&Method::PUT, Route::Bucket(bucket)) => bulk::import(call, bucket).await,
        (&Method::DELETE, Route::Bucket(bucket)) => bulk::truncate(call, bucket).await,
        (&Method::GET, Route::Spec) => spec::document(call).await,
        (&Method::GET, Route::Docs(file)) => spec::page(&call, *file),
        (&Method::GET, Route::Connect) => sessions::connect(call).await,
        (&Method::POST, Route::Connect) => sessions::connect_page(call).await,
        (&Method::POST, Route::Login) => sessions::login(call).await,
        (&Method::GET, Route::Me) => sessions::me(call).await,
        (&Method::GET, Route::Logout) => sessions::logout(call).await,
        (method, Route::User(route)) => users::dispatch(call, method, route).await,
        (&Method::GET, Route::Schema) => schema::read(call).await,
        (&Method::POST, Route::Schema) => schema::add(call).await,
        (&Method::PUT, Route::Schema) => schema::replace(call).await,
        (&Method::GET, Route::SchemaClass(bucket)) => schema::read_class(call, bucket).await,
        (&Method::POST, Route::SchemaClass(bucket)) => schema::add_class(call, bucket).await,
        (&Method::PUT, Route::SchemaClass(bucket)) => schema::replace_class(call, bucket).await,
        (&Method::DELETE, Route::SchemaClass(bucket)) => schema::drop_class(call, bucket).await,
        (&Method::GET, Route::Indexes(bucket)) => indexes::list(call, bucket).await,
        (&Method::POST, Route::Indexes(bucket)) => indexes::change(call, bucket).await,
        (&Method::DELETE, Route::Indexes(bucket)) => indexes::drop_all(call, bucket).await,
        (&Method::POST, Route::Document(bucket, key)) => updates::update(call, bucket, key).await,
        (&Method::POST, Route::Field(bucket, key, field)) => {
            updates::update_field(call, bucket, key, field).await
        }
        (&Method::POST, Route::Batch) => batch::write(call).await,
        (&Method::GET, Route::Changes) => changes::read(call).await,
        (&Method::GET, Route::Events) => live::open(call).await,
        (&Method::GET, Route::ChangesSocket) => changes::open_socket(call),
        (method, Route::Consumers(route)) => consumers::dispatch(call, method, route).await,
        (&Method::GET, Route::BloomFilter) => caching::filter(call).await,
        _ => Err(refuse(
            ErrorCode::MethodNotAllowed,
            "this address does not know the method",
        )),
    }
}

fn check_headers(headers: &HeaderMap) -> Result<(), Error> {
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if bytes > HEADER_BYTES_MAX {
        return Err(refuse(
            ErrorCode::HeadersTooLarge,
            format!("the headers are larger than {HEADER_BYTES_MAX} bytes"),
        ));
    }
    Ok(())
}
