//! Proposals and reads of one group that come at the same time reach openraft together.
//!
//! A task that hands something to the group's core wakes it, and the runtime lets it run next, before the other requests that are
//! ready: each would be a round of its own, with its messages and its share of a sync. So what comes waits for one turn of the
//! scheduler. On an idle node a turn is over at once; on a busy one all requests that were ready have joined.
//!
//! Proposals leave with every turn, however many rounds are under way. Of reads one round is under way at a time, since whoever
//! comes later is not proven by it, and openraft sends no second heartbeat to a follower before the first is answered.
//!
//! Invariants: a read is answered by a round that began after it came; whatever ends a round, also a panic, lets the next begin.

use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use openraft::alias::WriteResponderOf;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::linearizable_read::LinearizerOption;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::group::Group;
use crate::error::ReadError;
use crate::type_config::{Command, TypeConfig};

type Proposal = (Command, WriteResponderOf<TypeConfig>);

/// Proposals of a group that wait for the end of a turn. The group's permits bound them.
#[derive(Default)]
pub(crate) struct Proposals(Mutex<Vec<Proposal>>);

/// A read that waits for a proof of leadership.
struct Read {
    deadline: Instant,
    proven: oneshot::Sender<Result<(), ReadError>>,
}

/// Reads of a group that wait for the next round. The node's limit of requests bounds them.
#[derive(Default)]
pub(crate) struct Reads(Mutex<Next>);

#[derive(Default)]
struct Next {
    reads: Vec<Read>,
    /// Whether somebody carries out rounds until no read is left.
    is_driven: bool,
}

/// Ends when the tasks that are ready now have run.
pub(crate) async fn turn() {
    let mut is_over = false;
    poll_fn(|cx| {
        if mem::replace(&mut is_over, true) {
            return Poll::Ready(());
        }
        // A task that wakes itself goes behind all that are ready.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Group {
    /// Hands a proposal to openraft with those of this turn. If the group has stopped, the responder is dropped.
    pub(super) fn propose(
        self: &Arc<Self>,
        command: Command,
        responder: WriteResponderOf<TypeConfig>,
    ) {
        let mut waiting = self.proposals().0.lock();
        waiting.push((command, responder));
        if waiting.len() > 1 {
            return;
        }
        drop(waiting);
        let group = Arc::clone(self);
        tokio::spawn(async move {
            turn().await;
            let proposals = mem::take(&mut *group.proposals().0.lock());
            for (command, responder) in proposals {
                if group
                    .raft()
                    .write(command)
                    .responder(responder)
                    .await
                    .is_err()
                {
                    // Stopped: dropping the rest tells them.
                    return;
                }
            }
        });
    }

    /// Returns when a round that began after the call has proven that this replica leads, and what was committed before is applied.
    pub(super) async fn prove(self: &Arc<Self>, deadline: Instant) -> Result<(), ReadError> {
        let (proven, answer) = oneshot::channel();
        let must_drive = {
            let mut next = self.reads().0.lock();
            next.reads.push(Read { deadline, proven });
            !mem::replace(&mut next.is_driven, true)
        };
        if must_drive {
            let driver = Driver {
                group: Arc::clone(self),
                is_over: false,
            };
            tokio::spawn(driver.run());
        }
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(proven)) => proven,
            Ok(Err(_)) => Err(ReadError::NoGroup),
            Err(_) => Err(ReadError::NoQuorum),
        }
    }

    /// One round: a quorum's votes, looked at after now; or, where those prove nothing, its answers to heartbeats that are sent after now.
    async fn round(&self, deadline: Instant) -> Result<(), ReadError> {
        let stood_by = tokio::time::timeout_at(deadline, self.is_stood_by(deadline));
        if stood_by.await == Ok(true) {
            return Ok(());
        }
        let _waits = self.beats().wait(self.waiting());
        let left = deadline.saturating_duration_since(Instant::now());
        // An age of zero asks for a quorum's answer that was sent after now: ReadIndex, never a lease.
        let option = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(left);
        let proof = self.raft().ensure_linearizable(option);
        match tokio::time::timeout_at(deadline, proof).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to)))) => {
                Err(ReadError::NotLeader {
                    hint: to.leader_node.map(|member| member.node),
                })
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) | Err(_) => {
                Err(ReadError::NoQuorum)
            }
            Ok(Err(RaftError::Fatal(_))) => Err(ReadError::NoGroup),
        }
    }
}

/// Carries out rounds until no read is left.
struct Driver {
    group: Arc<Group>,
    /// Whether it ended because no read was left.
    is_over: bool,
}

impl Driver {
    async fn run(mut self) {
        loop {
            turn().await;
            let reads = {
                let mut next = self.group.reads().0.lock();
                next.is_driven = !next.reads.is_empty();
                mem::take(&mut next.reads)
            };
            let Some(deadline) = reads.iter().map(|read| read.deadline).max() else {
                self.is_over = true;
                return;
            };
            let proven = self.group.round(deadline).await;
            for read in reads {
                // A reader who has given up does not listen.
                let _ = read.proven.send(proven.clone());
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // It panicked, or the runtime ends. Whoever waits is told so, and the next read finds no driver.
        let mut next = self.group.reads().0.lock();
        *next = Next::default();
    }
}
