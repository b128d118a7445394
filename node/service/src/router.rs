//! Getting a request to the leader of its shard (design, sections 3 and 4).
//!
//! The asked node carries the request out if it leads, else sends it once to the node that it thinks leads. A node that does not lead
//! answers so, with a hint, and never sends on. The asked node tries again until the deadline as long as nothing has happened; an
//! unknown outcome is tried again only where a repetition is harmless: reads, and writes under an idempotency key.
//!
//! Between tries it waits for news of an election, not for a fixed time: a leader's death costs the election and nothing more.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::state::ClusterState;
use metrics::{Counter, counter};
use parking_lot::Mutex;
use proto::{Effect, ErrorCode, NodeId, ShardId};

use crate::Core;
use crate::error::{Error, Result};
use crate::forward::{Answer, Failure, Operation, Request, decode_reply, encode_reply};
use crate::metrics::{FORWARDS, RETRIES};
use crate::ports::{Forward, ForwardError, Groups, Leader};

/// First pause without news of an election.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
/// Longest pause without news: a leader may have changed where this node cannot see it.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// One try of a request that may be repeated. Longer than a failover, so that a slow try is not given up for nothing.
const TRY_MAX: Duration = Duration::from_millis(2_500);

/// What the asked node knows about leaders of shards.
pub(crate) struct Router {
    node: NodeId,
    groups: Arc<dyn Groups>,
    forward: Arc<dyn Forward>,
    /// Last known leaders of shards of which no replica here knows the leader, from hints and from answers.
    routes: Mutex<HashMap<ShardId, NodeId>>,
    forwards: OnceLock<Counter>,
    retries: OnceLock<Counter>,
}

impl Router {
    /// A router that knows nothing yet.
    pub(crate) fn new(node: NodeId, groups: Arc<dyn Groups>, forward: Arc<dyn Forward>) -> Router {
        Router {
            node,
            groups,
            forward,
            routes: Mutex::default(),
            forwards: OnceLock::new(),
            retries: OnceLock::new(),
        }
    }

    /// The node that leads the shard, as far as is known here.
    pub(crate) fn leader(&self, shard: ShardId) -> Option<NodeId> {
        if let Some(leader) = self.groups.leader(shard) {
            return Some(leader.node);
        }
        self.routes.lock().get(&shard).copied()
    }

    /// Where to send the next try: to the node that the last answer named, else to the known leader, else to the other holders one after
    /// the other. A replica of our own that knows no leader may be the only one: its disk stalls, or it is cut off from one of the others.
    fn target(&self, state: &ClusterState, course: &Course) -> Option<NodeId> {
        let shard = course.shard;
        let known = course
            .hint
            .or_else(|| self.leader(shard))
            .filter(|&node| node != self.node);
        if known.is_some() {
            return known;
        }
        let holders = state.assignments(shard);
        let others: Vec<NodeId> = holders
            .iter()
            .map(|holder| holder.node)
            .filter(|&node| node != self.node)
            .collect();
        others.get(course.tries % others.len().max(1)).copied()
    }

    /// Remembers what an answer said about the leader of a shard, if no replica here knows it.
    fn learn(&self, shard: ShardId, leader: Option<NodeId>) {
        if self.groups.leader(shard).is_some() {
            return;
        }
        let mut routes = self.routes.lock();
        match leader {
            Some(node) => routes.insert(shard, node),
            None => routes.remove(&shard),
        };
    }

    /// Sends a request to a node, once.
    pub(crate) async fn send(
        &self,
        node: NodeId,
        request: &Request,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        self.forwards
            .get_or_init(|| counter!(FORWARDS))
            .increment(1);
        let body = request.encode(deadline);
        let reply = if request.operation.is_read() {
            self.forward.forward_read(node, body, deadline)
        } else {
            self.forward.forward(node, body, deadline)
        };
        let reply = match reply.await {
            Ok(bytes) => decode_reply(bytes),
            Err(ForwardError::NotSent(reason)) => {
                tracing::debug!(%node, shard = %request.shard, reason, "forward was not sent");
                if request.near.is_none() {
                    self.learn(request.shard, None);
                }
                return Err(Failure::Busy(Error::unavailable(format!(
                    "node {node} cannot be reached"
                ))));
            }
            Err(ForwardError::Lost) => Err(Failure::Unknown),
        };
        match &reply {
            // Any replica answers these.
            _ if request.near.is_some() => {}
            // Each shard speaks for itself.
            Ok(Answer::Replies(_)) => {}
            Ok(_) => self.learn(request.shard, Some(node)),
            Err(Failure::NotLeader { hint }) => self.learn(request.shard, *hint),
            Err(Failure::Unknown) => self.learn(request.shard, None),
            Err(Failure::Busy(_) | Failure::Refused(_)) => {}
        }
        reply
    }
}

/// How the tries of one request went so far.
struct Course {
    shard: ShardId,
    tries: usize,
    pause: Duration,
    /// Who leads, by the answer to the last try.
    hint: Option<NodeId>,
    /// Some try may have happened.
    unknown: bool,
    /// Why the last try with a reason failed.
    reason: Option<Error>,
}

impl Course {
    fn new(shard: ShardId) -> Course {
        Course {
            shard,
            tries: 0,
            pause: PAUSE_FIRST,
            hint: None,
            unknown: false,
            reason: None,
        }
    }

    /// Every request ends here or with an answer.
    fn give_up(self) -> Error {
        if self.unknown {
            return Error::new(
                ErrorCode::OutcomeUnknown,
                "the write may have happened: its reply was lost or late",
            );
        }
        self.reason
            .unwrap_or_else(|| Error::unavailable(format!("shard {} has no leader", self.shard)))
    }

    /// A refusal after a try with unknown outcome says nothing about that try.
    fn refuse(&self, error: Error) -> Error {
        if self.unknown && error.effect == Effect::None {
            error.with_effect(Effect::Unknown)
        } else {
            error
        }
    }
}

impl Core {
    /// Gets a request answered by the leader of its shard, whoever that is, before the deadline.
    ///
    /// # Errors
    /// What the leader refused; `Unavailable` if nothing has happened; `OutcomeUnknown` if it may have.
    pub(crate) async fn route(
        &self,
        state: &ClusterState,
        request: &Request,
        deadline: Instant,
    ) -> Result<Answer> {
        let repeatable = request.operation.is_idempotent() || request.idempotency_key.is_some();
        let mut course = Course::new(request.shard);
        loop {
            let seen = self.groups.leader(request.shard);
            let until = if repeatable {
                deadline.min(Instant::now() + TRY_MAX)
            } else {
                deadline
            };
            let tried = self.attempt(state, request, &course, until).await;
            course.hint = None;
            match tried {
                Ok(answer) => return Ok(answer),
                Err(Failure::Refused(error)) => return Err(course.refuse(error)),
                Err(Failure::Unknown) => {
                    course.unknown |= !request.operation.is_read();
                    if !repeatable {
                        return Err(course.give_up());
                    }
                }
                Err(Failure::Busy(error)) => course.reason = Some(error),
                Err(Failure::NotLeader { hint }) => {
                    course.hint = hint.filter(|node| *node != self.router.node)
                }
            }
            // The first hint is followed at once. Later ones may lead in circles until an election is over.
            let is_first_hint = course.tries == 0 && course.hint.is_some();
            course.tries += 1;
            if Instant::now() >= deadline {
                return Err(course.give_up());
            }
            self.router
                .retries
                .get_or_init(|| counter!(RETRIES))
                .increment(1);
            if !is_first_hint {
                self.pause(&mut course, seen, deadline).await;
            }
        }
    }

    /// One try: here, or at one other node.
    async fn attempt(
        &self,
        state: &ClusterState,
        request: &Request,
        course: &Course,
        until: Instant,
    ) -> Result<Answer, Failure> {
        if self.groups.is_leader(request.shard) {
            return self.shards.execute(request, until).await;
        }
        match self.router.target(state, course) {
            Some(node) => Box::pin(self.router.send(node, request, until)).await,
            None => Err(Failure::NotLeader { hint: None }),
        }
    }

    /// Waits for another leader than the one before the failed try, but not for long. News of one are better than a hint.
    async fn pause(&self, course: &mut Course, seen: Option<Leader>, deadline: Instant) {
        let until = deadline.min(Instant::now() + course.pause);
        let leader = self.groups.leader_changed(course.shard, seen, until).await;
        if leader.is_some() && leader != seen {
            course.hint = None;
        }
        course.pause = (course.pause * 2).min(PAUSE_MAX);
    }

    /// Carries out what another node sent here.
    pub(crate) async fn handle_forward(&self, body: Bytes) -> Bytes {
        let Some((request, deadline)) = Request::decode(body) else {
            let error = Error::bad_request("this node does not understand the forwarded request");
            return encode_reply(Err(Failure::Refused(error)));
        };
        if let Operation::Probe(probe) = &request.operation {
            return encode_reply(Ok(self.answer_probe(probe)));
        }
        if let Some(near) = request.near {
            if !self.holds_state(request.shard) {
                let hint = self.groups.leader(request.shard).map(|leader| leader.node);
                return encode_reply(Err(Failure::NotLeader { hint }));
            }
            return encode_reply(self.shards.near(&request, near, deadline).await);
        }
        // Each shard of several answers for itself.
        let is_for_one = !matches!(request.operation, Operation::Queries(_));
        if is_for_one && !self.groups.is_leader(request.shard) {
            let hint = self.groups.leader(request.shard).map(|leader| leader.node);
            return encode_reply(Err(Failure::NotLeader { hint }));
        }
        encode_reply(self.shards.execute(&request, deadline).await)
    }
}
