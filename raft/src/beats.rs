//! Heartbeats of all groups to one node in one message.
//!
//! A heartbeat that nobody waits for joins those of the other groups to the same node: the first one opens a message, which leaves a
//! short window later, or at once when somebody begins to wait. One that a read or a write of its group waits for joins nothing.
//!
//! Invariants: a heartbeat leaves within the window; a group that somebody waits for is never held up by it, neither before nor after
//! it joined; what a replica answers reaches its own group only. A lost message is a lost heartbeat of each group in it, no more.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use proto::NodeId;
use proto::peer::beat_result::Result as BeatResultKind;
use proto::peer::envelope::Body;
use proto::peer::{AppendResponse, Beat, BeatsRequest, BeatsResponse};
use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, oneshot};

use crate::transport::{CallError, Class, Transport};

/// Heartbeats of one message, soft: with so many it leaves.
const BEATS_MAX: usize = 4096;

/// The window as a part of the time between two heartbeats: as much older a follower's news of its leader may be.
const WINDOW_PART: u32 = 32;

/// What became of a heartbeat.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// The replica's answer.
    Answered(AppendResponse),
    /// Send it by itself: somebody waits for the group, or the message was not taken.
    Busy,
    /// Send it by itself: the replica was slower than its neighbours.
    Slow,
    /// It may have arrived, or the replica refused it.
    Failed(CallError),
}

/// What waits for a group: reads for proof, writes for a quorum.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    now: AtomicUsize,
    /// Heartbeats of the group that joined others and have no answer yet.
    joined: AtomicUsize,
}

impl Waiting {
    /// Whether heartbeats must not be held up.
    fn is_any(&self) -> bool {
        self.now.load(Ordering::SeqCst) > 0
    }
}

/// Counts one more as long as it lives.
pub(crate) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The heartbeats of this node's groups on their way to other nodes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Beats {
    inner: Arc<Inner>,
}

struct Inner {
    transport: Arc<dyn Transport>,
    window: Duration,
    /// How long an answer may take.
    timeout: Duration,
    open: Mutex<HashMap<NodeId, Vec<Joined>>>,
    /// Ends the windows of all that are open.
    hurry: Arc<Notify>,
}

/// A heartbeat in an open message.
struct Joined {
    beat: Beat,
    outcome: oneshot::Sender<Outcome>,
}

impl Beats {
    /// For groups with this much time between two heartbeats.
    pub(crate) fn new(transport: Arc<dyn Transport>, heartbeat: Duration) -> Self {
        let inner = Inner {
            transport,
            window: heartbeat / WINDOW_PART,
            timeout: heartbeat,
            open: Mutex::default(),
            hurry: Arc::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Notes that somebody waits for a group, as long as the result lives; a heartbeat of it that has joined others leaves at once.
    pub(crate) fn wait<'a>(&self, waiting: &'a Waiting) -> Counted<'a> {
        // Before looking whether one has joined, as `send` joins before it looks whether anybody waits: one of both sees the other.
        let counted = Counted::new(&waiting.now);
        if waiting.joined.load(Ordering::SeqCst) > 0 {
            self.inner.hurry.notify_waiters();
        }
        counted
    }

    /// Sends a heartbeat of a group together with those of others.
    pub(crate) async fn send(&self, to: NodeId, beat: Beat, waiting: &Waiting) -> Outcome {
        if waiting.is_any() {
            return Outcome::Busy;
        }
        let _joined = Counted::new(&waiting.joined);
        let (outcome, answer) = oneshot::channel();
        let is_full = self.join(to, Joined { beat, outcome });
        if is_full || waiting.is_any() {
            self.inner.hurry.notify_waiters();
        }
        // Its message is dropped with the runtime only.
        answer
            .await
            .unwrap_or(Outcome::Failed(CallError::Lost("the node stops")))
    }

    /// Whether the message is full now.
    fn join(&self, to: NodeId, joined: Joined) -> bool {
        let mut open = self.inner.open.lock();
        let message = open.entry(to).or_default();
        message.push(joined);
        if message.len() == 1 {
            // Made before anybody else can join: no hurry is missed.
            let hurry = Arc::clone(&self.inner.hurry).notified_owned();
            tokio::spawn(self.clone().leave(to, hurry));
        }
        message.len() >= BEATS_MAX
    }

    /// One message, from its opening to its answer.
    async fn leave(self, to: NodeId, hurry: OwnedNotified) {
        // Either way it leaves.
        let _ = tokio::time::timeout(self.inner.window, hurry).await;
        let joined = self.inner.open.lock().remove(&to).unwrap_or_default();
        let (beats, groups): (Vec<_>, Vec<_>) = joined
            .into_iter()
            .map(|joined| (joined.beat, joined.outcome))
            .unzip();
        let request = Body::BeatsRequest(BeatsRequest { beats });
        let answer = self
            .inner
            .transport
            .call(to, Class::Consensus, request, self.inner.timeout)
            .await;
        let mut outcomes = outcomes(answer, groups.len()).into_iter();
        for group in groups {
            // A group that has stopped in the meantime does not listen.
            let _ = group.send(outcomes.next().unwrap_or(Outcome::Busy));
        }
    }
}

/// What became of each of `count` heartbeats that travelled together.
fn outcomes(answer: Result<Body, CallError>, count: usize) -> Vec<Outcome> {
    match answer {
        Ok(Body::BeatsResponse(BeatsResponse { results })) => results
            .into_iter()
            .map(|result| match result.result {
                Some(BeatResultKind::Append(response)) => Outcome::Answered(response),
                Some(BeatResultKind::Refused(refused)) => {
                    Outcome::Failed(CallError::NotSent(refused.message))
                }
                None => Outcome::Slow,
            })
            .collect(),
        // The connection is down, which each finds out at no cost, or the node knows no such message.
        Ok(_) | Err(CallError::NotSent(_)) => Vec::new(),
        Err(lost) => vec![Outcome::Failed(lost); count],
    }
}

#[cfg(test)]
mod tests {
    use proto::peer::{BeatResult, Refused};

    use super::*;
    use crate::transport::memory::Network;

    const PEER: NodeId = NodeId(2);

    /// To nodes that do not exist.
    fn beats(network: &Network, window: Duration) -> Beats {
        let transport = Arc::new(network.endpoint(NodeId(1)));
        Beats::new(transport, window * WINDOW_PART)
    }

    /// Longer than any test.
    const LONG: Duration = Duration::from_secs(3600);

    fn beat(shard: u32) -> Beat {
        Beat {
            shard,
            ..Beat::default()
        }
    }

    #[tokio::test]
    async fn what_comes_within_the_window_leaves_together_at_its_end() {
        let (network, waiting) = (Network::default(), Waiting::default());
        let window = Duration::from_millis(50);
        let beats = beats(&network, window);
        let start = tokio::time::Instant::now();
        tokio::join!(
            beats.send(PEER, beat(1), &waiting),
            beats.send(PEER, beat(2), &waiting)
        );
        assert_eq!(network.beats(NodeId(1), PEER), [2]);
        assert!(start.elapsed() >= window);
        beats.send(PEER, beat(3), &waiting).await;
        assert_eq!(network.beats(NodeId(1), PEER), [2, 1]);
    }

    #[tokio::test]
    async fn whoever_begins_to_wait_ends_the_window_of_his_group_only() {
        let network = Network::default();
        let (idle, read) = (Waiting::default(), Waiting::default());
        let beats = beats(&network, LONG);
        let reader = async {
            drop(beats.wait(&Waiting::default()));
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            let none: [usize; 0] = [];
            assert_eq!(network.beats(NodeId(1), PEER), none, "nobody waits for it");
            let waits = beats.wait(&read);
            let next = beats.send(PEER, beat(2), &read).await;
            assert!(matches!(next, Outcome::Busy), "{next:?}");
            waits
        };
        let all = async {
            tokio::join!(
                beats.send(PEER, beat(1), &idle),
                beats.send(PEER, beat(2), &read),
                reader
            )
        };
        let ended = tokio::time::timeout(Duration::from_secs(20), all).await;
        let (_, _, waits) = ended.expect("the window ended");
        assert_eq!(network.beats(NodeId(1), PEER), [2], "the last joined none");
        assert!(read.is_any());
        drop(waits);
        assert!(!read.is_any());
    }

    #[tokio::test]
    async fn a_full_message_leaves_at_once() {
        let (network, waiting) = (Network::default(), Waiting::default());
        let beats = beats(&network, LONG);
        let all = (0..BEATS_MAX).map(|_| beats.send(PEER, beat(1), &waiting));
        let all = futures::future::join_all(all);
        let ended = tokio::time::timeout(Duration::from_secs(20), all).await;
        assert!(ended.is_ok(), "it waits for the end of its window");
        assert_eq!(network.beats(NodeId(1), PEER), [BEATS_MAX]);
    }

    #[test]
    fn each_group_gets_its_own_outcome() {
        let results = vec![
            BeatResult {
                result: Some(BeatResultKind::Append(AppendResponse::default())),
            },
            BeatResult { result: None },
            BeatResult {
                result: Some(BeatResultKind::Refused(Refused::default())),
            },
        ];
        let answer = Body::BeatsResponse(BeatsResponse { results });
        let each = outcomes(Ok(answer), 3);
        assert!(
            matches!(
                each[..],
                [
                    Outcome::Answered(_),
                    Outcome::Slow,
                    Outcome::Failed(CallError::NotSent(_))
                ]
            ),
            "{each:?}"
        );
        let lost = outcomes(Err(CallError::Lost("no answer in time")), 2);
        assert!(matches!(
            lost[..],
            [
                Outcome::Failed(CallError::Lost(_)),
                Outcome::Failed(CallError::Lost(_))
            ]
        ));
        // From a node that knows no such message: each asks by itself.
        let refused = Err(CallError::NotSent("not a request".to_owned()));
        assert!(outcomes(refused, 2).is_empty());
    }
}
