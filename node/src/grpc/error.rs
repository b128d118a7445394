//! Errors over gRPC: the status of the code, and what HTTP says in headers and body as metadata.

use service::Error;
use tonic::Status;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::http::retry_after_seconds;

/// The metadata key of the error code.
pub(super) const LARDER_CODE: &str = "larder-code";

/// The status of a failed call.
pub(super) fn status(error: &Error, request_id: &str) -> Status {
    let mut metadata = MetadataMap::with_capacity(4);
    metadata.insert(LARDER_CODE, MetadataValue::from_static(error.code.as_str()));
    metadata.insert(
        "larder-effect",
        MetadataValue::from_static(error.effect.as_str()),
    );
    if let Ok(id) = MetadataValue::try_from(request_id) {
        metadata.insert("larder-request-id", id);
    }
    if let Some(seconds) = retry_after_seconds(error) {
        metadata.insert("retry-after", MetadataValue::from(seconds));
    }
    Status::with_metadata(error.code.grpc_code(), error.message.as_str(), metadata)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::{Effect, ErrorCode};

    use super::*;

    #[test]
    fn a_status_carries_code_effect_and_request_id() {
        let error = Error::new(ErrorCode::ObjectOutOfDate, "the stored version is 4");
        let status = status(&error, "r-1");
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert_eq!(status.message(), "the stored version is 4");
        assert_eq!(
            status.metadata().get("larder-code").expect("code"),
            "object_out_of_date"
        );
        assert_eq!(
            status.metadata().get("larder-effect").expect("effect"),
            "none"
        );
        assert_eq!(
            status.metadata().get("larder-request-id").expect("id"),
            "r-1"
        );
        assert!(status.metadata().get("retry-after").is_none());
    }

    #[test]
    fn an_unknown_outcome_is_never_retried_by_clients() {
        let error =
            Error::new(ErrorCode::OutcomeUnknown, "lost").with_retry_after(Duration::from_secs(1));
        let status = status(&error, "r");
        assert_eq!(status.code(), tonic::Code::Unknown);
        assert_eq!(
            status.metadata().get("larder-effect").expect("effect"),
            Effect::Unknown.as_str()
        );
        assert_eq!(status.metadata().get("retry-after").expect("retry"), "1");
    }
}
