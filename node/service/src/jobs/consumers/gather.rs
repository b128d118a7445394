//! Batches out of a feed: as much as is there, within bounds, in the feed's order.
//!
//! The feed is read only while a batch is gathered, so a target that is slow costs the pages of a feed and one batch, and no more. A frame
//! is never cut, as its token covers all of it.

use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use crate::changes::{Feed, FeedEvent, Frame};
use crate::courier::Batch;
use crate::error::Result;

/// Events of one batch, at most.
const EVENTS_MAX: usize = 1_000;
/// Bytes of events after which a batch is full. A frame that is larger, by a large document, is a batch by itself.
const BYTES_MAX: usize = 1024 * 1024;
/// How long a batch waits for more of what is there already.
const LINGER: Duration = Duration::from_millis(20);

/// A feed with the frame that did not fit into the last batch.
pub(super) struct Gather {
    feed: Feed,
    ahead: Option<Frame>,
    consumer: u64,
}

/// What a feed brought.
pub(super) enum Gathered {
    /// Something to send.
    Batch(Batch),
    /// Nothing for this consumer, but it is behind this token.
    Nothing(String),
}

impl Gather {
    pub(super) fn new(feed: Feed, consumer: u64) -> Gather {
        Gather {
            feed,
            ahead: None,
            consumer,
        }
    }

    /// The next batch; waits for it, but not longer than the feed does.
    ///
    /// # Errors
    /// Those of the feed, which is over then.
    pub(super) async fn next(&mut self) -> Result<Gathered> {
        let (mut batch, mut bytes) = (Batch::default(), 0);
        while let Some(frame) = self.frame(&batch).await? {
            match frame {
                Frame::Progress { token, .. } if is_empty(&batch) => {
                    return Ok(Gathered::Nothing(token));
                }
                Frame::Progress { token, .. } => {
                    batch.token = token;
                    break;
                }
                Frame::Resync { reason, token } if is_empty(&batch) => {
                    batch.resync = Some(reason);
                    batch.token = token;
                }
                Frame::Live { token } => {
                    batch.is_live = true;
                    batch.token = token;
                    break;
                }
                Frame::Events { events, token } if has_room(&batch, bytes, &events) => {
                    bytes += bytes_of(&events);
                    batch.events.extend(events);
                    batch.token = token;
                }
                later => {
                    self.ahead = Some(later);
                    break;
                }
            }
        }
        batch.id = name(self.consumer, &batch);
        Ok(Gathered::Batch(batch))
    }

    /// The next frame; once something is gathered, only one that is there already.
    async fn frame(&mut self, batch: &Batch) -> Result<Option<Frame>> {
        if let Some(frame) = self.ahead.take() {
            return Ok(Some(frame));
        }
        if is_empty(batch) {
            return self.feed.next().await.map(Some);
        }
        match tokio::time::timeout(LINGER, self.feed.next()).await {
            Ok(frame) => frame.map(Some),
            Err(_) => Ok(None),
        }
    }
}

fn is_empty(batch: &Batch) -> bool {
    batch.events.is_empty() && batch.resync.is_none()
}

fn bytes_of(events: &[FeedEvent]) -> usize {
    events.iter().map(|event| event.change.bytes()).sum()
}

fn has_room(batch: &Batch, bytes: usize, events: &[FeedEvent]) -> bool {
    let fits = batch.events.len() + events.len() <= EVENTS_MAX;
    batch.events.is_empty() || fits && bytes + bytes_of(events) <= BYTES_MAX
}

/// The same for the same changes, whoever gathers them.
fn name(consumer: u64, batch: &Batch) -> String {
    let mut hash = Xxh3::new();
    hash.update(&consumer.to_le_bytes());
    hash.update(&[batch.resync.is_some().into(), batch.is_live.into()]);
    for event in &batch.events {
        hash.update(event.id().as_bytes());
        hash.update(b" ");
    }
    if batch.events.is_empty() {
        hash.update(batch.token.as_bytes());
    }
    format!("{:032x}", hash.digest128())
}

#[cfg(test)]
mod tests {
    use proto::ShardId;

    use super::*;
    use crate::forward::Change;

    fn event(index: u64) -> FeedEvent {
        FeedEvent {
            shard: ShardId(1),
            change: Change {
                index,
                ..Change::default()
            },
        }
    }

    fn batch(indexes: &[u64]) -> Batch {
        Batch {
            events: indexes.iter().copied().map(event).collect(),
            token: indexes.len().to_string(),
            ..Batch::default()
        }
    }

    #[test]
    fn a_batch_is_named_by_what_is_in_it() {
        let first = name(1, &batch(&[3, 4]));
        let again = Batch {
            token: "another".to_owned(),
            ..batch(&[3, 4])
        };
        assert_eq!(name(1, &again), first);
        let marked = Batch {
            resync: Some("why"),
            ..batch(&[3, 4])
        };
        for other in [batch(&[3]), batch(&[34]), batch(&[4, 3]), marked] {
            assert_ne!(name(1, &other), first);
        }
        assert_ne!(name(2, &batch(&[3, 4])), first);
    }

    #[test]
    fn a_batch_is_bounded_but_takes_a_frame_whatever_its_size() {
        let many: Vec<FeedEvent> = (0..EVENTS_MAX as u64 + 1).map(event).collect();
        assert!(has_room(&batch(&[]), 0, &many));
        assert!(has_room(&batch(&[1]), 100, &many[..EVENTS_MAX - 1]));
        assert!(!has_room(&batch(&[1]), 100, &many[..EVENTS_MAX]));
        assert!(!has_room(&batch(&[1]), BYTES_MAX, &many[..1]));
    }
}
