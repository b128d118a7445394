//! The header of requests and replies as bytes. Operations and answers are wire messages already.

use std::time::{Duration, Instant};

use bytes::Bytes;
use document::acl::Principal;
use prost::Message;
use proto::{Effect, ErrorCode, NodeId, ShardId};

use super::{Answer, Failure, Near, Operation, Request};
use crate::error::Error;

#[derive(Clone, PartialEq, Message)]
struct WireRequest {
    #[prost(uint32, tag = "1")]
    shard: u32,
    #[prost(string, optional, tag = "2")]
    user: Option<String>,
    #[prost(string, repeated, tag = "3")]
    roles: Vec<String>,
    #[prost(string, optional, tag = "4")]
    idempotency_key: Option<String>,
    #[prost(uint64, tag = "5")]
    metadata_version: u64,
    /// Left of the deadline when it was sent.
    #[prost(uint64, tag = "6")]
    timeout_us: u64,
    #[prost(message, optional, tag = "7")]
    near: Option<Near>,
    #[prost(
        oneof = "Operation",
        tags = "10, 11, 12, 13, 15, 16, 17, 18, 19, 20, 26, 30, 31, 32, 40, 41, 50, 51, 52, 53, 60, 61, 85, 86, 90, 91, 92, 95, 100, 101, 110"
    )]
    operation: Option<Operation>,
}

#[derive(Clone, PartialEq, Message)]
struct WireReply {
    #[prost(message, optional, tag = "1")]
    failure: Option<WireFailure>,
    #[prost(
        oneof = "Answer",
        tags = "10, 11, 12, 14, 15, 16, 20, 21, 41, 50, 51, 52, 53, 60, 86, 90, 95, 100, 110"
    )]
    answer: Option<Answer>,
}

#[derive(Clone, PartialEq, Message)]
struct WireFailure {
    #[prost(enumeration = "FailureKind", tag = "1")]
    kind: i32,
    /// With NOT_LEADER.
    #[prost(uint64, optional, tag = "2")]
    hint: Option<u64>,
    /// With BUSY and REFUSED: [`ErrorCode::as_str`].
    #[prost(string, tag = "3")]
    code: String,
    /// [`Effect::as_str`].
    #[prost(string, tag = "4")]
    effect: String,
    #[prost(string, tag = "5")]
    message: String,
    #[prost(uint64, optional, tag = "6")]
    retry_after_us: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
enum FailureKind {
    /// Also what a newer release may say and this one does not understand.
    Unknown = 0,
    NotLeader = 1,
    Busy = 2,
    Refused = 3,
}

impl Request {
    /// The wire form, with what is left until the deadline.
    pub fn encode(&self, deadline: Instant) -> Bytes {
        let left = deadline.saturating_duration_since(Instant::now());
        let wire = WireRequest {
            shard: self.shard.0,
            user: self.principal.user.clone(),
            roles: self.principal.roles.clone(),
            idempotency_key: self.idempotency_key.clone(),
            metadata_version: self.metadata_version,
            timeout_us: u64::try_from(left.as_micros()).unwrap_or(u64::MAX),
            near: self.near,
            operation: Some(self.operation.clone()),
        };
        wire.encode_to_vec().into()
    }

    /// Reads the wire form: the request and its deadline. `None`: not a request, or an operation of a newer release.
    pub fn decode(bytes: Bytes) -> Option<(Request, Instant)> {
        let wire = WireRequest::decode(bytes).ok()?;
        let deadline = Instant::now().checked_add(Duration::from_micros(wire.timeout_us))?;
        let request = Request {
            shard: ShardId(wire.shard),
            principal: Principal {
                user: wire.user,
                roles: wire.roles,
            },
            idempotency_key: wire.idempotency_key,
            metadata_version: wire.metadata_version,
            near: wire.near,
            operation: wire.operation?,
        };
        Some((request, deadline))
    }
}

/// Replies of several shards, in the order in which they were asked.
#[derive(Clone, PartialEq, Message)]
pub struct Replies {
    #[prost(message, repeated, tag = "1")]
    replies: Vec<WireReply>,
}

impl Replies {
    pub(crate) fn new(replies: impl IntoIterator<Item = Result<Answer, Failure>>) -> Replies {
        Replies {
            replies: replies.into_iter().map(WireReply::from).collect(),
        }
    }

    pub(crate) fn into_results(self) -> impl ExactSizeIterator<Item = Result<Answer, Failure>> {
        self.replies.into_iter().map(WireReply::into_result)
    }
}

/// The wire form of a leader's reply.
pub fn encode_reply(reply: Result<Answer, Failure>) -> Bytes {
    WireReply::from(reply).encode_to_vec().into()
}

/// Reads a reply. What cannot be read may have happened.
pub fn decode_reply(bytes: Bytes) -> Result<Answer, Failure> {
    let wire = WireReply::decode(bytes).map_err(|_| Failure::Unknown)?;
    wire.into_result()
}

impl From<Result<Answer, Failure>> for WireReply {
    fn from(reply: Result<Answer, Failure>) -> WireReply {
        match reply {
            Ok(answer) => WireReply {
                failure: None,
                answer: Some(answer),
            },
            Err(failure) => WireReply {
                failure: Some(failure.into()),
                answer: None,
            },
        }
    }
}

impl WireReply {
    fn into_result(self) -> Result<Answer, Failure> {
        match (self.failure, self.answer) {
            (None, Some(answer)) => Ok(answer),
            (Some(failure), _) => Err(failure.into()),
            (None, None) => Err(Failure::Unknown),
        }
    }
}

impl From<Failure> for WireFailure {
    fn from(failure: Failure) -> WireFailure {
        match failure {
            Failure::NotLeader { hint } => WireFailure {
                kind: FailureKind::NotLeader as i32,
                hint: hint.map(|node| node.0),
                ..WireFailure::default()
            },
            Failure::Unknown => WireFailure::default(),
            Failure::Busy(error) => wire_error(FailureKind::Busy, error),
            Failure::Refused(error) => wire_error(FailureKind::Refused, error),
        }
    }
}

fn wire_error(kind: FailureKind, error: Error) -> WireFailure {
    WireFailure {
        kind: kind as i32,
        hint: None,
        code: error.code.as_str().to_owned(),
        effect: error.effect.as_str().to_owned(),
        message: error.message,
        retry_after_us: error
            .retry_after
            .map(|after| u64::try_from(after.as_micros()).unwrap_or(u64::MAX)),
    }
}

impl From<WireFailure> for Failure {
    fn from(wire: WireFailure) -> Failure {
        match wire.kind() {
            FailureKind::Unknown => Failure::Unknown,
            FailureKind::NotLeader => Failure::NotLeader {
                hint: wire.hint.map(NodeId),
            },
            FailureKind::Busy => Failure::Busy(domain_error(wire)),
            FailureKind::Refused => Failure::Refused(domain_error(wire)),
        }
    }
}

fn domain_error(wire: WireFailure) -> Error {
    let effects = [Effect::None, Effect::Applied, Effect::Unknown];
    Error {
        code: ErrorCode::parse(&wire.code).unwrap_or(ErrorCode::Internal),
        effect: effects
            .into_iter()
            .find(|effect| effect.as_str() == wire.effect)
            .unwrap_or(Effect::Unknown),
        message: wire.message,
        retry_after: wire.retry_after_us.map(Duration::from_micros),
        second_factor: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{WireCondition, Write, Writes};
    use super::*;
    use crate::context::Condition;

    fn request(operation: Operation) -> Request {
        Request {
            shard: ShardId(7),
            principal: Principal {
                user: Some("/db/User/1".to_owned()),
                roles: vec!["/db/Role/1".to_owned()],
            },
            idempotency_key: Some("k".to_owned()),
            metadata_version: 12,
            near: Some(Near {
                age_us_max: Some(5),
                at_least: 9,
            }),
            operation,
        }
    }

    #[test]
    fn requests_round_trip_with_their_deadline() {
        let write = Write {
            bucket: "Todo".to_owned(),
            key: "a/b".to_owned(),
            condition: Condition::Version(3).into(),
            body: Bytes::from_static(b"{}"),
            hidden: Bytes::new(),
            delete: false,
            update: false,
            ends_sessions: false,
        };
        let operation = Operation::Write(Writes {
            database: "v1".to_owned(),
            writes: vec![write],
            batch: true,
        });
        let sent = request(operation);
        let deadline = Instant::now() + Duration::from_secs(5);
        let (got, until) = Request::decode(sent.encode(deadline)).expect("decodes");
        assert_eq!(got, sent);
        assert!(until <= deadline + Duration::from_secs(1));
        assert!(until + Duration::from_secs(4) > deadline);
    }

    #[test]
    fn an_unknown_operation_is_no_request() {
        let empty = WireRequest {
            shard: 1,
            ..WireRequest::default()
        };
        assert!(Request::decode(empty.encode_to_vec().into()).is_none());
        assert!(Request::decode(Bytes::from_static(b"\xff\xff")).is_none());
    }

    #[test]
    fn conditions_round_trip_and_unknown_ones_are_noticed() {
        for condition in [
            Condition::None,
            Condition::Absent,
            Condition::Exists,
            Condition::Version(9),
        ] {
            let write = Write {
                condition: condition.into(),
                ..Write::default()
            };
            assert_eq!(write.condition(), Some(condition));
        }
        let newer = Write {
            condition: Some(WireCondition {
                kind: 9,
                version: 0,
            }),
            ..Write::default()
        };
        assert_eq!(newer.condition(), None);
    }

    #[test]
    fn replies_round_trip() {
        let error = Error::unavailable("later").with_effect(Effect::None);
        let several = [Ok(Answer::Done(true)), Err(Failure::Busy(error.clone()))];
        let replies = Replies::new(several.clone());
        assert!(replies.clone().into_results().eq(several));
        for reply in [
            Ok(Answer::Replies(replies)),
            Ok(Answer::Done(true)),
            Ok(Answer::Version(4)),
            Err(Failure::NotLeader {
                hint: Some(NodeId(3)),
            }),
            Err(Failure::NotLeader { hint: None }),
            Err(Failure::Unknown),
            Err(Failure::Busy(error.clone())),
            Err(Failure::Refused(error)),
        ] {
            assert_eq!(decode_reply(encode_reply(reply.clone())), reply);
        }
    }

    #[test]
    fn a_reply_that_cannot_be_read_may_have_happened() {
        assert_eq!(
            decode_reply(Bytes::from_static(b"\xff")),
            Err(Failure::Unknown)
        );
        assert_eq!(decode_reply(Bytes::new()), Err(Failure::Unknown));
    }
}
