//! The closed list of error codes: one place that knows HTTP status, gRPC code and effect.

use std::fmt;

/// Whether a request that failed changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Nothing happened and nothing will: safe to retry.
    None,
    /// It happened.
    Applied,
    /// It may have happened, or may still.
    Unknown,
}

impl Effect {
    /// The word in `Larder-Effect` and in error bodies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Applied => "applied",
            Self::Unknown => "unknown",
        }
    }
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident $text:literal $status:literal $grpc:ident $effect:ident $class:literal $reason:literal;)*) => {
        /// Every error that a client can see. Sorted by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }

        impl ErrorCode {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable name in error bodies and in gRPC metadata.
            pub fn as_str(self) -> &'static str { match self { $(Self::$name => $text,)* } }

            /// HTTP status, as the contract §1.5 and design §3 name it.
            pub fn http_status(self) -> u16 { match self { $(Self::$name => $status,)* } }

            /// gRPC status code.
            pub fn grpc_code(self) -> tonic::Code { match self { $(Self::$name => tonic::Code::$grpc,)* } }

            /// What the code promises about the request.
            pub fn effect(self) -> Effect { match self { $(Self::$name => Effect::$effect,)* } }

            /// `className` of the contract's error body.
            pub fn class_name(self) -> &'static str { match self { $(Self::$name => $class,)* } }

            /// `reason` of the contract's error body.
            pub fn reason(self) -> &'static str { match self { $(Self::$name => $reason,)* } }

            /// The code of a name, as [`Self::as_str`] gives it.
            pub fn parse(text: &str) -> Option<Self> { match text { $($text => Some(Self::$name),)* _ => None } }
        }
    };
}

error_codes! {
    /// Wrong user or password, or a token that is invalid, expired or revoked.
    BadCredentials "bad_credentials" 460 Unauthenticated None "BadCredentials" "Bad Credentials";
    /// A parameter, id or header is malformed.
    BadRequest "bad_request" 400 InvalidArgument None "BadRequest" "Bad Request";
    /// The request body is too large.
    BodyTooLarge "body_too_large" 413 ResourceExhausted None "BodyTooLarge" "Content Too Large";
    /// The bucket (class) or the database is unknown.
    BucketNotFound "bucket_not_found" 461 NotFound None "BucketNotFound" "Bucket Not Found";
    /// The writes of a batch belong to several shards.
    CrossShard "cross_shard" 400 InvalidArgument None "CrossShard" "Cross Shard Batch";
    /// The disk is nearly full; reads and deletes go on.
    DiskFull "disk_full" 507 ResourceExhausted None "DiskFull" "Insufficient Storage";
    /// The request headers are too large.
    HeadersTooLarge "headers_too_large" 431 ResourceExhausted None "HeadersTooLarge" "Request Header Fields Too Large";
    /// The idempotency key was used for another request.
    IdempotencyMismatch "idempotency_mismatch" 422 FailedPrecondition None "IdempotencyMismatch" "Idempotency Key Reused";
    /// A fault of the server; the request log has the cause.
    Internal "internal" 500 Internal Unknown "InternalError" "Internal Error";
    /// The change of an ACL is not allowed.
    InvalidPermissionModification "invalid_permission_modification" 462 PermissionDenied None "InvalidPermissionModification" "Invalid Permission Modification";
    /// A value does not fit its field's type.
    InvalidTypeValue "invalid_type_value" 463 InvalidArgument None "InvalidTypeValue" "Invalid Type Value";
    /// The key is too long.
    KeyTooLong "key_too_long" 414 InvalidArgument None "KeyTooLong" "Key Too Long";
    /// The method is not offered at this address.
    MethodNotAllowed "method_not_allowed" 405 Unimplemented None "MethodNotAllowed" "Method Not Allowed";
    /// The resource does not exist at this address.
    NoRoute "no_route" 404 Unimplemented None "NotFound" "Not Found";
    /// A document of this id exists.
    ObjectExists "object_exists" 409 AlreadyExists None "ObjectExists" "Object Exists";
    /// No such document, or not readable by the caller.
    ObjectNotFound "object_not_found" 404 NotFound None "ObjectNotFound" "Object Not Found";
    /// The precondition on the stored document does not hold.
    ObjectOutOfDate "object_out_of_date" 412 FailedPrecondition None "ObjectOutOfDate" "Object Out Of Date";
    /// The outcome is unknown: the write may have happened, or may still.
    OutcomeUnknown "outcome_unknown" 504 Unknown Unknown "OutcomeUnknown" "Outcome Unknown";
    /// The caller lacks the permission.
    PermissionDenied "permission_denied" 466 PermissionDenied None "PermissionDenied" "Permission Denied";
    /// The operation is not supported.
    QueryNotSupported "query_not_supported" 468 Unimplemented None "QueryNotSupported" "Query Not Supported";
    /// The database has used up its quota; deletes go on.
    QuotaExceeded "quota_exceeded" 507 ResourceExhausted None "QuotaExceeded" "Quota Exceeded";
    /// The schema change does not fit what exists.
    SchemaNotCompatible "schema_not_compatible" 469 FailedPrecondition None "SchemaNotCompatible" "Schema Not Compatible";
    /// The schema exists and was not replaced.
    SchemaStillExists "schema_still_exists" 470 FailedPrecondition None "SchemaStillExists" "Schema Still Exists";
    /// The password was right, and a code of the second factor is needed.
    SecondFactorRequired "second_factor_required" 403 Unauthenticated None "SecondFactorRequired" "Second Factor Required";
    /// The body cannot be parsed.
    SyntaxError "syntax_error" 471 InvalidArgument None "SyntaxError" "Syntax Error";
    /// A limit on requests was passed; retry after the stated time.
    TooManyRequests "too_many_requests" 429 ResourceExhausted None "TooManyRequests" "Too Many Requests";
    /// The class exists.
    TypeAlreadyExists "type_already_exists" 473 AlreadyExists None "TypeAlreadyExists" "Type Already Exists";
    /// The class is still referenced.
    TypeStillReferenced "type_still_referenced" 474 FailedPrecondition None "TypeStillReferenced" "Type Still Referenced";
    /// No quorum, no leader, starting, stopping or overloaded: nothing happened, retry.
    Unavailable "unavailable" 503 Unavailable None "ServiceStatusError" "Service Unavailable";
    /// Another document has the value of a unique index.
    ValueTaken "value_taken" 409 AlreadyExists None "ObjectExists" "Object Exists";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_unique_and_parse_back() {
        let names: Vec<_> = ErrorCode::ALL.iter().map(|c| c.as_str()).collect();
        assert!(names.is_sorted());
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(*code));
        }
    }

    #[test]
    fn unavailable_promises_no_effect_and_unknown_outcomes_are_never_unavailable() {
        for code in ErrorCode::ALL {
            if code.grpc_code() == tonic::Code::Unavailable {
                assert_eq!(code.effect(), Effect::None);
            }
        }
    }
}
