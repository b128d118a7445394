//! Proof of leadership by what voters say of their votes, without troubling their groups.
//!
//! A leader is one as long as no majority has voted for somebody else. A voter's log knows its vote, and knows it before the vote is
//! given out (`GroupLog::save_vote`). So if, at some moment after a read came, each voter of a majority still had its vote for this
//! leader, then nobody else had been elected when the read came: every majority that elects shares a voter with this one, and that voter
//! votes later. All that was acknowledged until then is committed here, once an entry of this leader's own term is: what its predecessors
//! acknowledged lies before that entry, and the rest it acknowledged itself.
//!
//! The leader's vote, its voters and how far it has committed are read in one step of the group's core, so they belong together. That the
//! followers' cores are not asked is the gain: for many groups of one node there is one message to each other node, and one answer.
//!
//! This only proves; whatever it cannot prove is openraft's to decide (`gathering`).

use std::collections::BTreeSet;

use futures::stream::{FuturesUnordered, StreamExt as _};
use openraft::{RaftState, ServerState};
use proto::peer::{Voter, VotesRequest, VotesResponse};
use proto::{NodeId, ReplicaId, ShardId, log};
use tokio::time::Instant;

use super::Host;
use super::group::Group;
use crate::codec;
use crate::type_config::{TypeConfig, Vote};

/// A leader at one moment.
struct Led {
    vote: Vote,
    /// Voters, each with its node; several sets while their change is under way.
    sets: Vec<Vec<(u64, NodeId)>>,
    /// Index of the last committed entry, which is of its own term.
    committed: u64,
}

impl Led {
    /// `None`: the replica does not lead, or has committed nothing of its own yet.
    fn of(state: &RaftState<TypeConfig>) -> Option<Self> {
        let (vote, committed) = (*state.vote_ref(), state.local_committed()?);
        if state.server_state != ServerState::Leader || committed.leader_id != vote.leader_id {
            return None;
        }
        let membership = state.membership_state.effective().membership();
        let node = |replica: &u64| Some((*replica, membership.get_node(replica)?.node));
        let sets = membership.get_joint_config().iter();
        Some(Self {
            vote,
            sets: sets
                .map(|set| set.iter().map(node).collect::<Option<_>>())
                .collect::<Option<_>>()?,
            committed: committed.index,
        })
    }

    /// Whether the vote of another replica is for this leader.
    fn is_stood_by(&self, vote: &log::Vote) -> bool {
        let leader = &self.vote.leader_id;
        (vote.term, vote.replica) == (leader.term, leader.node_id)
    }

    /// Whether these are a majority of each set of voters.
    fn is_quorum(&self, voters: &BTreeSet<u64>) -> bool {
        self.sets.iter().all(|set| {
            let standing = set.iter().filter(|(voter, _)| voters.contains(voter));
            standing.count() * 2 > set.len()
        })
    }
}

impl Group {
    /// Whether it is proven, by votes that were looked at after the call, that this replica leads; what was committed before is then
    /// applied here.
    pub(super) async fn is_stood_by(&self, deadline: Instant) -> bool {
        let Ok(Some(led)) = self.raft().with_raft_state(Led::of).await else {
            return false;
        };
        let own = self.replica_id().0;
        let mut standing = BTreeSet::from([own]);
        let others: BTreeSet<_> = led.sets.iter().flatten().copied().collect();
        let mut answers: FuturesUnordered<_> = others
            .into_iter()
            .filter(|(voter, _)| *voter != own)
            .map(|(voter, node)| {
                let (led, shard) = (&led, self.shard().0);
                let asked = Voter {
                    shard,
                    target: voter,
                };
                async move {
                    let vote = self.votes().of(node, asked).await?;
                    led.is_stood_by(&vote).then_some(voter)
                }
            })
            .collect();
        while !led.is_quorum(&standing) {
            match answers.next().await {
                Some(voter) => standing.extend(voter),
                None => return false,
            }
        }
        self.reaches(led.committed, deadline).await
    }
}

impl Host {
    /// The votes of replicas of this node, for a leader who asks whether they still stand by it. The default vote for those that are
    /// not here.
    pub fn votes(&self, request: &VotesRequest) -> VotesResponse {
        let vote = |voter: &Voter| {
            let group = self.addressed(ShardId(voter.shard), ReplicaId(voter.target))?;
            let vote = group.log().state().vote?;
            Some(codec::vote_to_proto(&codec::vote_from_storage(vote)))
        };
        let votes = request.voters.iter();
        VotesResponse {
            votes: votes.map(|voter| vote(voter).unwrap_or_default()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::type_config::LeaderId;

    fn led(sets: &[&[u64]]) -> Led {
        let leader_id = LeaderId {
            term: 7,
            node_id: 1,
        };
        let set = |set: &&[u64]| set.iter().map(|voter| (*voter, NodeId(*voter))).collect();
        Led {
            vote: Vote {
                leader_id,
                committed: true,
            },
            sets: sets.iter().map(set).collect(),
            committed: 1,
        }
    }

    #[test]
    fn only_a_vote_for_this_leader_in_this_term_stands_by_it() {
        let led = led(&[&[1, 2, 3]]);
        let vote = |term, replica| log::Vote {
            term,
            replica,
            committed: true,
        };
        assert!(led.is_stood_by(&vote(7, 1)));
        for other in [vote(8, 1), vote(8, 2), vote(7, 2), vote(6, 1), vote(0, 0)] {
            assert!(!led.is_stood_by(&other), "{other:?}");
        }
    }

    #[test]
    fn a_majority_of_each_set_is_needed() {
        let is_quorum = |sets: &[&[u64]], voters: &[u64]| {
            led(sets).is_quorum(&voters.iter().copied().collect())
        };
        assert!(is_quorum(&[&[1]], &[1]));
        assert!(is_quorum(&[&[1, 2, 3]], &[1, 3]));
        assert!(!is_quorum(&[&[1, 2, 3]], &[1]));
        assert!(!is_quorum(&[&[1, 2, 3, 4]], &[1, 2]));
        assert!(!is_quorum(&[&[1, 2, 3], &[1, 4, 5]], &[1, 2, 3]));
        assert!(is_quorum(&[&[1, 2, 3], &[1, 4, 5]], &[1, 2, 4]));
        // A leader that is leaving does not count for those who stay.
        assert!(!is_quorum(&[&[2, 3, 4]], &[1, 2]));
    }
}
