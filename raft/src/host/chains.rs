//! Comparing replicas: each node asks the others for the chain hashes of their replicas and judges its own.
//!
//! A chain hash covers all effects of all entries up to an index, so two replicas that differ at a common index do not hold the same,
//! for whatever reason. Where a majority of all voters agrees on another hash than the own one, the own replica is the damaged one. A
//! replica only ever judges itself, so a damaged one cannot accuse a sound one.
//!
//! Without a majority for either side nobody can tell who is right, and what is served may be wrong: the replicas that differ are
//! **contested**. They serve nothing until a later comparison finds a majority, or no difference any more. That costs the shard's
//! service where a third replica is down just when two differ; a wrong answer would cost more.
//!
//! A quarantined replica serves no reads, does not lead and does not stand for election; it votes and keeps its log, which is sound as
//! far as is known, so that the shard keeps its quorum. It leaves quarantine by being replaced.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use proto::peer::envelope::Body;
use proto::peer::{ChainPoint, ChainsRequest, ChainsResponse, ReplicaChain};
use proto::{NodeId, ReplicaId, ShardId};

use super::Host;
use super::group::Group;
use crate::transport::Class;

/// Which replicas serve nothing, on this node and, as they say, on others.
#[derive(Default)]
pub(super) struct Quarantine {
    own: RwLock<HashMap<ShardId, ReplicaId>>,
    /// As of the last comparison.
    contested: RwLock<HashMap<ShardId, ReplicaId>>,
    others: RwLock<HashMap<NodeId, HashSet<ShardId>>>,
}

/// Replicas of a shard hold different state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The shard.
    pub shard: ShardId,
    /// This node's replica.
    pub replica: ReplicaId,
    /// The highest index at which they were compared.
    pub index: u64,
    /// Who is wrong.
    pub verdict: Verdict,
}

/// What a comparison says of this node's replica, if others differ from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A majority of all voters holds something else: this one is damaged.
    Outvoted,
    /// A majority of all voters holds the same: another one is damaged, and will find that out itself.
    Upheld,
    /// Neither: nobody can tell, so this one is not served.
    Contested,
}

impl Host {
    /// The group of a shard, unless its replica is quarantined or contested.
    pub(super) fn sound(&self, shard: ShardId) -> Option<Arc<Group>> {
        self.group(shard)
            .filter(|group| !self.is_withheld(shard, group.replica_id()))
    }

    /// Whether the replica must not be served: quarantined, or nobody knows whether it is right.
    fn is_withheld(&self, shard: ShardId, replica: ReplicaId) -> bool {
        let contested = self.inner.quarantine.contested.read();
        self.is_quarantined(shard, replica) || contested.get(&shard) == Some(&replica)
    }

    pub(super) fn is_quarantined(&self, shard: ShardId, replica: ReplicaId) -> bool {
        let own = self.inner.quarantine.own.read();
        !own.is_empty() && own.get(&shard) == Some(&replica)
    }

    /// Takes this node's replica out of service until it is replaced. Gives whether it was in service.
    pub fn quarantine(&self, shard: ShardId, replica: ReplicaId) -> bool {
        let Some(group) = self
            .group(shard)
            .filter(|group| group.replica_id() == replica)
        else {
            return false;
        };
        let before = self.inner.quarantine.own.write().insert(shard, replica);
        group.raft().runtime_config().elect(false);
        before != Some(replica)
    }

    /// This node's quarantined replicas.
    pub fn quarantined(&self) -> Vec<(ShardId, ReplicaId)> {
        let own = self.inner.quarantine.own.read();
        let mut own: Vec<_> = own
            .iter()
            .map(|(shard, replica)| (*shard, *replica))
            .collect();
        own.retain(|(shard, replica)| {
            self.group(*shard)
                .is_some_and(|group| group.replica_id() == *replica)
        });
        own.sort_unstable();
        own
    }

    /// This node's contested replicas.
    pub fn contested(&self) -> Vec<(ShardId, ReplicaId)> {
        let contested = self.inner.quarantine.contested.read();
        let mut contested: Vec<_> = contested.iter().map(|(s, r)| (*s, *r)).collect();
        contested.sort_unstable();
        contested
    }

    /// The nodes whose replica of the shard is known to be quarantined, this one also where it is contested.
    pub fn quarantined_nodes(&self, shard: ShardId) -> Vec<NodeId> {
        let others = self.inner.quarantine.others.read();
        let others = others
            .iter()
            .filter(|(_, shards)| shards.contains(&shard))
            .map(|(node, _)| *node);
        let own = self
            .group(shard)
            .filter(|group| self.is_withheld(shard, group.replica_id()));
        others.chain(own.map(|_| self.inner.node)).collect()
    }

    /// What this node's replicas hold, for others to compare.
    pub fn chains(&self) -> ChainsResponse {
        let replica = |shard: ShardId| {
            let group = self.group(shard)?;
            let points = group.machine().chain_points();
            Some(ReplicaChain {
                shard: shard.0,
                replica: group.replica_id().0,
                points: points
                    .into_iter()
                    .map(|point| ChainPoint {
                        index: point.index,
                        chain: Bytes::copy_from_slice(&point.chain.to_be_bytes()),
                    })
                    .collect(),
                quarantined: self.is_quarantined(shard, group.replica_id()),
            })
        };
        ChainsResponse {
            replicas: self.shards().into_iter().filter_map(replica).collect(),
        }
    }

    /// Compares this node's replicas with those of all nodes that answer within `timeout`; gives the shards that differ. What is
    /// contested is withheld from then on, and what was and is no more is served again; to quarantine is the caller's.
    pub async fn compare_chains(&self, timeout: Duration) -> Vec<Divergence> {
        let statuses: Vec<_> = self
            .shards()
            .into_iter()
            .filter_map(|shard| Some((shard, self.status(shard)?)))
            .collect();
        let nodes: HashSet<NodeId> = statuses
            .iter()
            .flat_map(|(_, status)| status.members.values().map(|member| member.node))
            .filter(|node| *node != self.inner.node)
            .collect();
        let answers = nodes.into_iter().map(|node| async move {
            let body = Body::ChainsRequest(ChainsRequest {});
            let answer = self.inner.transport.call(node, Class::Bulk, body, timeout);
            match answer.await {
                Ok(Body::ChainsResponse(chains)) => Some((node, chains)),
                // Down, or of a release that does not know the question.
                Ok(_) | Err(_) => None,
            }
        });
        let answers: Vec<_> = futures::future::join_all(answers)
            .await
            .into_iter()
            .flatten()
            .collect();
        self.note_others(&answers);
        let found: Vec<_> = statuses
            .into_iter()
            .filter_map(|(shard, status)| {
                // After the answers: what they hold is by now applied here too, most likely.
                let own = self.group(shard)?.machine().chain_points();
                let own = own
                    .into_iter()
                    .map(|point| (point.index, point.chain))
                    .collect();
                let voters = status
                    .members
                    .values()
                    .filter(|member| member.voter)
                    .count();
                let others: Vec<HashMap<u64, u128>> = answers
                    .iter()
                    .flat_map(|(_, chains)| &chains.replicas)
                    .filter(|chain| chain.shard == shard.0 && !chain.quarantined)
                    .filter(|chain| {
                        let member = status.members.get(&ReplicaId(chain.replica));
                        member.is_some_and(|member| member.voter)
                    })
                    .map(|chain| chain.points.iter().filter_map(point).collect())
                    .collect();
                let votes = status.members.get(&status.replica);
                let votes = votes.is_some_and(|member| member.voter);
                let (index, verdict) = judge(&own, votes, &others, voters)?;
                Some(Divergence {
                    shard,
                    replica: status.replica,
                    index,
                    verdict,
                })
            })
            .collect();
        let contested = found
            .iter()
            .filter(|found| found.verdict == Verdict::Contested)
            .map(|found| (found.shard, found.replica));
        *self.inner.quarantine.contested.write() = contested.collect();
        found
    }

    fn note_others(&self, answers: &[(NodeId, ChainsResponse)]) {
        let mut others = self.inner.quarantine.others.write();
        for (node, chains) in answers {
            let quarantined = chains.replicas.iter().filter(|chain| chain.quarantined);
            others.insert(
                *node,
                quarantined.map(|chain| ShardId(chain.shard)).collect(),
            );
        }
    }
}

fn point(point: &ChainPoint) -> Option<(u64, u128)> {
    let chain = <[u8; 16]>::try_from(&point.chain[..]).ok()?;
    Some((point.index, u128::from_be_bytes(chain)))
}

/// Compares at the highest index that the own replica has in common with one that differs there, and counts, the own one too if it
/// votes.
fn judge(
    own: &HashMap<u64, u128>,
    own_votes: bool,
    others: &[HashMap<u64, u128>],
    voters: usize,
) -> Option<(u64, Verdict)> {
    let differ = |index: &&u64| {
        let chain = own.get(*index);
        others.iter().any(|other| {
            other
                .get(*index)
                .is_some_and(|theirs| Some(theirs) != chain)
        })
    };
    let index = *own.keys().filter(differ).max()?;
    let mut votes: HashMap<u128, usize> = HashMap::new();
    for chain in others.iter().filter_map(|other| other.get(&index)) {
        *votes.entry(*chain).or_default() += 1;
    }
    let own = *own.get(&index)?;
    *votes.entry(own).or_default() += usize::from(own_votes);
    let majority = votes.into_iter().find(|(_, count)| *count > voters / 2);
    let verdict = match majority {
        Some((chain, _)) if chain == own => Verdict::Upheld,
        Some(_) => Verdict::Outvoted,
        None => Verdict::Contested,
    };
    Some((index, verdict))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(points: &[(u64, u128)]) -> HashMap<u64, u128> {
        points.iter().copied().collect()
    }

    #[test]
    fn only_a_majority_of_all_voters_condemns() {
        let own = points(&[(64, 1), (128, 2), (130, 3)]);
        for (others, voters, verdict) in [
            // Equal, or nothing in common.
            (
                vec![points(&[(64, 1), (128, 2)]), points(&[(131, 9)])],
                3,
                None,
            ),
            // Two of three say otherwise.
            (
                vec![points(&[(128, 7)]), points(&[(64, 1), (128, 7)])],
                3,
                Some((128, Verdict::Outvoted)),
            ),
            // One does, and the other agrees with us.
            (
                vec![points(&[(128, 7)]), points(&[(128, 2)])],
                3,
                Some((128, Verdict::Upheld)),
            ),
            // One does, and the other is down: nobody can tell.
            (
                vec![points(&[(128, 7)])],
                3,
                Some((128, Verdict::Contested)),
            ),
            // All three differ.
            (
                vec![points(&[(64, 7)]), points(&[(64, 8)])],
                3,
                Some((64, Verdict::Contested)),
            ),
            // Two of five are no majority, three are.
            (
                vec![points(&[(64, 7)]), points(&[(64, 7)])],
                5,
                Some((64, Verdict::Contested)),
            ),
            (
                vec![points(&[(64, 7)]), points(&[(64, 7)]), points(&[(64, 7)])],
                5,
                Some((64, Verdict::Outvoted)),
            ),
            // Of two there is never one.
            (vec![points(&[(64, 7)])], 2, Some((64, Verdict::Contested))),
        ] {
            assert_eq!(judge(&own, true, &others, voters), verdict, "{others:?}");
        }
        // A learner's own opinion does not count.
        let others = [points(&[(128, 7)]), points(&[(128, 2)])];
        let verdict = Some((128, Verdict::Contested));
        assert_eq!(judge(&own, false, &others, 3), verdict);
    }
}
