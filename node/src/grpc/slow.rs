//! Messages that do not arrive: a body that is read until a deadline, and then broken off.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::BoxError;
use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::Sleep;

/// The same body, which fails when it has not arrived after `time`.
pub(super) fn within(time: Duration, body: Body) -> Body {
    Body::new(Timely {
        body,
        until: Instant::now() + time,
        alarm: None,
    })
}

struct Timely {
    body: Body,
    until: Instant,
    /// Set at the first wait: most messages have arrived by the time that they are read.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for Timely {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let until = self.until;
        let alarm = self
            .alarm
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until.into())));
        alarm
            .as_mut()
            .poll(cx)
            .map(|()| Some(Err("the message did not arrive in time".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn what_drips_in_is_broken_off() {
        let drips = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some((Ok::<_, BoxError>(Bytes::from_static(b"x")), ()))
        });
        let body = within(Duration::from_millis(50), Body::from_stream(drips));
        let error = body.collect().await.expect_err("it never ends");
        assert!(error.to_string().contains("in time"), "{error}");
    }

    #[tokio::test]
    async fn what_is_there_is_read() {
        let body = within(Duration::from_secs(30), Body::from("all of it"));
        assert_eq!(body.size_hint().exact(), Some(9));
        let read = body.collect().await.expect("a body").to_bytes();
        assert_eq!(read, "all of it");
    }
}
