//! gRPC on the client port: documents, health and reflection.
//!
//! The same service, limits and error codes as over HTTP; only the form differs. See `proto/larder/v1/documents.proto` for the interface.
//!
//! | module | owns |
//! |---|---|
//! | `documents` | `larder.v1.Documents` |
//! | `batch` | its call Batch |
//! | `query` | its calls Query and Count |
//! | `changes` | its call Changes |
//! | `health` | `grpc.health.v1.Health`, answered by the node's own readiness |
//! | `error` | errors as status and metadata |
//! | `refusal` | the same for errors that tonic makes by itself |
//! | `deadline` | `grpc-timeout` |
//! | `slow` | messages that do not arrive |
//!
//! Lacks: compression of messages, and gRPC-Web.

mod batch;
mod changes;
mod deadline;
mod documents;
mod error;
mod health;
mod query;
mod refusal;
mod slow;

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use futures::future::BoxFuture;
use http::Request;
use http::header::{CONTENT_TYPE, HeaderMap};
use proto::v1::documents_server::{DocumentsServer, SERVICE_NAME};
use tonic::service::Routes;
use tower::Service;

use crate::http::{Shared, X_REQUEST_ID, client_address, request_id_from};

/// What the content type of every gRPC request begins with.
const CONTENT_TYPE_PREFIX: &[u8] = b"application/grpc";

/// Room in a message for what surrounds a document: names, key, precondition.
const FRAME_BYTES: usize = 64 * 1024;

/// Whether these are the headers of a gRPC request.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers
        .get(CONTENT_TYPE)
        .map_or(&b""[..], |value| value.as_bytes());
    matches!(
        value.strip_prefix(CONTENT_TYPE_PREFIX),
        Some([] | [b'+' | b';', ..])
    )
}

/// All gRPC services of the client port. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api {
    shared: Arc<Shared>,
    documents: DocumentsServer<documents::Documents>,
    /// Health and reflection.
    others: Routes,
}

impl Api {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let mut others = Routes::default().add_service(health::server(shared.service.clone()));
        // Built from descriptors that are compiled in; if they were broken, the node would only lack reflection.
        match (reflection().build_v1(), reflection().build_v1alpha()) {
            (Ok(current), Ok(alpha)) => others = others.add_service(current).add_service(alpha),
            (Err(cause), _) | (_, Err(cause)) => tracing::error!(%cause, "gRPC reflection is off"),
        }
        // A document that HTTP takes must fit a message.
        let bytes_max = shared
            .limits
            .grpc_message_bytes_max
            .max(shared.limits.body_bytes_max + FRAME_BYTES);
        let documents = DocumentsServer::new(documents::Documents::new(Arc::clone(&shared)))
            .max_decoding_message_size(bytes_max);
        Self {
            shared,
            documents,
            others: others.prepare(),
        }
    }

    /// Answers a request. The documents are told apart by hand: a second router would only repeat what the server does.
    pub(crate) fn call(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response, Infallible>> {
        let mut api = self.clone();
        Box::pin(async move { api.serve(request).await })
    }

    async fn serve(&mut self, request: Request<Body>) -> Result<Response, Infallible> {
        let sent_id = request.headers().get(X_REQUEST_ID).cloned();
        let address = client_address(request.extensions());
        let gate = &self.shared.gate;
        // Its database is in the message, and counted once that is read.
        let admitted = gate
            .admit_caller(&self.shared.service, address, request.headers(), "")
            .await;
        if let Err(too_often) = admitted {
            let id = request_id_from(sent_id.as_ref());
            return Ok(error::status(&too_often.error, &id).into_http());
        }
        let longest = self.shared.limits.body_read_time;
        let request = request.map(|body| slow::within(longest, body));
        let is_documents = request
            .uri()
            .path()
            .strip_prefix('/')
            .is_some_and(|path| path.starts_with(SERVICE_NAME));
        let answer = match is_documents {
            true => self.documents.call(request).await?,
            false => self.others.call(request).await?,
        };
        Ok(refusal::complete(answer, sent_id))
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // Without the list it would show the services between nodes, which are not here.
        .with_service_name(SERVICE_NAME)
        .with_service_name(tonic_health::pb::health_server::SERVICE_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_apart_by_content_type() {
        let headers = |value: &str| {
            HeaderMap::from_iter([(CONTENT_TYPE, value.parse().expect("header value"))])
        };
        for value in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;x=1",
        ] {
            assert!(is_grpc(&headers(value)), "{value}");
        }
        for value in [
            "application/json",
            "application/grpc-web",
            "application/grpcx",
            "",
        ] {
            assert!(!is_grpc(&headers(value)), "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn reflection_knows_its_descriptors() {
        assert!(reflection().build_v1().is_ok());
        assert!(reflection().build_v1alpha().is_ok());
    }
}
