//! The votes of other nodes' replicas, asked for by all groups of this node together: what is asked of one node in a turn of the
//! scheduler travels in one message, and has one answer.
//!
//! Invariant: a vote that is given was looked at after it was asked for. A lost message is one lost answer for each group in it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proto::peer::envelope::Body;
use proto::peer::{Voter, VotesRequest, VotesResponse};
use proto::{NodeId, log};
use tokio::sync::oneshot;

use crate::host::turn;
use crate::transport::{Class, Transport};

/// What waits for the end of a turn. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Votes {
    inner: Arc<Inner>,
}

struct Inner {
    transport: Arc<dyn Transport>,
    /// How long an answer may take.
    timeout: Duration,
    /// Each group asks once for each of its voters at a time, which bounds it.
    open: Mutex<HashMap<NodeId, Vec<Asked>>>,
}

struct Asked {
    voter: Voter,
    answer: oneshot::Sender<log::Vote>,
}

impl Votes {
    pub(crate) fn new(transport: Arc<dyn Transport>, timeout: Duration) -> Self {
        let inner = Inner {
            transport,
            timeout,
            open: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The vote of a replica of another node; `None`: there was no answer, or the node is of a release that gives none.
    pub(crate) async fn of(&self, node: NodeId, voter: Voter) -> Option<log::Vote> {
        let (answer, vote) = oneshot::channel();
        let is_first = {
            let mut open = self.inner.open.lock();
            let asked = open.entry(node).or_default();
            asked.push(Asked { voter, answer });
            asked.len() == 1
        };
        if is_first {
            tokio::spawn(self.clone().ask(node));
        }
        vote.await.ok()
    }

    /// One message. Without an answer whoever waits for one finds that out.
    async fn ask(self, node: NodeId) {
        turn().await;
        let asked = self.inner.open.lock().remove(&node).unwrap_or_default();
        let (voters, waiting): (Vec<_>, Vec<_>) = asked
            .into_iter()
            .map(|asked| (asked.voter, asked.answer))
            .unzip();
        let request = Body::VotesRequest(VotesRequest { voters });
        let timeout = self.inner.timeout;
        let answer = self
            .inner
            .transport
            .call(node, Class::Consensus, request, timeout)
            .await;
        let Ok(Body::VotesResponse(VotesResponse { votes })) = answer else {
            return;
        };
        for (waiting, vote) in waiting.into_iter().zip(votes) {
            // A group that has its majority does not listen.
            let _ = waiting.send(vote);
        }
    }
}
