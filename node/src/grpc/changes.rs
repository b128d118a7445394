//! `Changes`: a feed as a stream of messages.
//!
//! The next frame is read when the transport has taken the one before, and the transport takes what the client has room for: a client that
//! reads slowly holds one page a shard, and no more.

use std::pin::Pin;

use futures::stream::{self, Stream};
use proto::v1;
use proto::v1::changes_response::Frame as WireFrame;
use service::forward::ChangeKind;
use service::{Error, Feed, FeedEvent, FeedRequest, Frame, Service};
use tonic::{Request, Status};

use super::documents::{Call, Documents};
use super::error::status;
use crate::http::feed_start;

/// The messages of a feed.
pub(super) type ChangesStream =
    Pin<Box<dyn Stream<Item = Result<v1::ChangesResponse, Status>> + Send>>;

impl Documents {
    pub(super) async fn stream_changes(
        &self,
        request: Request<v1::ChangesRequest>,
        id: String,
    ) -> Result<ChangesStream, Error> {
        // Open feeds have a limit of their own: the permit ends with the opening.
        let Call { ctx, .. } = self
            .call(&request, &id, &request.get_ref().database)
            .await?;
        let service = self.shared.service.clone();
        let feed = service.feed(&ctx, asked(request.into_inner())).await?;
        let stream = stream::unfold(Some((feed, service)), move |following| {
            next(following, id.clone())
        });
        Ok(Box::pin(stream))
    }
}

fn asked(request: v1::ChangesRequest) -> FeedRequest {
    FeedRequest {
        bucket: Some(request.bucket).filter(|bucket| !bucket.is_empty()),
        filter: request.filter.into(),
        start: match request.from.as_str() {
            "" => Default::default(),
            from => feed_start(from),
        },
        by_time: request.by_time,
    }
}

type Following = Option<(Feed, Service)>;

async fn next(
    following: Following,
    id: String,
) -> Option<(Result<v1::ChangesResponse, Status>, Following)> {
    let (mut feed, service) = following?;
    match feed.next().await {
        // The node stops, or is slow: the client goes on elsewhere, behind this frame.
        Ok(frame) if service.declines() => Some((Ok(to_wire(frame)), None)),
        Ok(frame) => Some((Ok(to_wire(frame)), Some((feed, service)))),
        Err(error) => Some((Err(status(&error, &id)), None)),
    }
}

fn to_wire(frame: Frame) -> v1::ChangesResponse {
    let (token, frame) = match frame {
        Frame::Events { events, token } => {
            let events = events.into_iter().map(event_to_wire).collect();
            (token, WireFrame::Events(v1::ChangeEvents { events }))
        }
        Frame::Progress {
            token,
            watermark_us,
        } => {
            let watermark_us = Some(watermark_us).filter(|us| *us > 0);
            (
                token,
                WireFrame::Progress(v1::ChangeProgress { watermark_us }),
            )
        }
        Frame::Resync { reason, token } => (token, WireFrame::Resync(reason.to_owned())),
        Frame::Live { token } => (token, WireFrame::Live(true)),
    };
    v1::ChangesResponse {
        token,
        frame: Some(frame),
    }
}

fn event_to_wire(event: FeedEvent) -> v1::ChangeEvent {
    let name = event.id();
    let change = event.change;
    v1::ChangeEvent {
        event: name,
        operation: operation(change.kind).into(),
        bucket: change.bucket,
        key: change.key,
        version: change.version,
        time_us: change.time_us,
        json: change.body,
        compacted: change.compacted,
        expired: change.by_expiry,
    }
}

fn operation(kind: i32) -> v1::ChangeOperation {
    match ChangeKind::try_from(kind).unwrap_or(ChangeKind::Unspecified) {
        ChangeKind::Unspecified => v1::ChangeOperation::Unspecified,
        ChangeKind::Insert => v1::ChangeOperation::Insert,
        ChangeKind::Update => v1::ChangeOperation::Update,
        ChangeKind::Delete => v1::ChangeOperation::Delete,
        ChangeKind::Leave => v1::ChangeOperation::Leave,
        ChangeKind::Rules => v1::ChangeOperation::Rules,
        ChangeKind::State => v1::ChangeOperation::State,
    }
}

#[cfg(test)]
mod tests {
    use service::Start;

    use super::*;

    #[test]
    fn what_is_empty_is_the_default() {
        assert_eq!(asked(v1::ChangesRequest::default()), FeedRequest::default());
        let asked = asked(v1::ChangesRequest {
            bucket: "Demo".to_owned(),
            filter: "{}".to_owned(),
            from: "oldest".to_owned(),
            by_time: true,
            ..v1::ChangesRequest::default()
        });
        let expected = FeedRequest {
            bucket: Some("Demo".to_owned()),
            filter: "{}".into(),
            start: Start::Oldest,
            by_time: true,
        };
        assert_eq!(asked, expected);
    }

    #[test]
    fn a_watermark_that_is_not_known_is_absent() {
        for (known, expected) in [(0, None), (7, Some(7))] {
            let frame = Frame::Progress {
                token: "T".to_owned(),
                watermark_us: known,
            };
            let message = to_wire(frame);
            let progress = v1::ChangeProgress {
                watermark_us: expected,
            };
            assert_eq!(message.frame, Some(WireFrame::Progress(progress)));
            assert_eq!(message.token, "T");
        }
    }
}
