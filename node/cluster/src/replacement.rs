//! The steps from one replica of a shard to its successor (design, section 4).
//!
//! The metadata says what is wanted ([`Replacement`]), the shard's group says how far it is ([`Members`]); the next step follows from
//! the two alone. So whoever leads the shard next goes on where the last leader stopped, and a step that is done twice does nothing.
//!
//! Order: the old replica hands leadership away → the new one joins as learner → it has caught up → both change places in one joint
//! step → the metadata lets the old one go. Until the joint step is committed the old replica counts, after it the new one.
//!
//! Lacks: carrying steps out, and deciding who is replaced by whom.

use std::collections::{BTreeMap, BTreeSet};

use proto::{NodeId, ReplicaId};

use crate::state::Assignment;

/// One replica that is being replaced by another, on another node or on the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Goes.
    pub old: Assignment,
    /// Comes; in the shard's assignments already.
    pub new: Assignment,
}

/// A group's membership, as its leader knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// The replica that looks.
    pub own: ReplicaId,
    /// Whether two sets of voters are in force, since a change of them was not finished.
    pub is_joint: bool,
    /// All members, learners too.
    pub replicas: BTreeMap<ReplicaId, Member>,
}

/// One member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it is.
    pub node: NodeId,
    /// Whether it votes, in either set.
    pub is_voter: bool,
    /// Whether it holds nearly the whole log; known to the leader only.
    pub is_caught_up: bool,
}

/// What the leader does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Hands leadership to this replica: its own is the one that goes.
    HandOver(ReplicaId),
    /// Adds the new replica without a vote.
    AddLearner,
    /// Nothing but wait: the new replica, or the one that could lead, is behind.
    Wait,
    /// Makes these the voters; whoever is not among them is no member any more.
    ChangeVoters(BTreeSet<ReplicaId>),
    /// Tells the metadata that the old replica does not count any more.
    Confirm,
}

/// How far a replacement is, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The new replica is no member yet.
    Starting,
    /// It receives what it lacks.
    CatchingUp,
    /// It votes, or is about to, and the old one is still a member.
    ChangingVoters,
    /// The old one is out; the metadata is about to let it go.
    Retiring,
}

impl Replacement {
    /// The next step of the shard's leader. `is_alive` tells whether a node can take over.
    pub fn next_step(&self, members: &Members, is_alive: impl Fn(NodeId) -> bool) -> Step {
        let (old, new) = (self.old.replica, self.new.replica);
        if members.own == old {
            let mut others = members
                .replicas
                .iter()
                .filter(|(replica, member)| **replica != old && member.is_voter)
                .peekable();
            // Alone it has nobody to hand over to, and stays until the new replica votes.
            if others.peek().is_some() {
                return others
                    .find(|(_, member)| member.is_caught_up && is_alive(member.node))
                    .map_or(Step::Wait, |(replica, _)| Step::HandOver(*replica));
            }
        }
        let target = || {
            let voters = members
                .replicas
                .iter()
                .filter(|(_, member)| member.is_voter);
            let voters = voters.map(|(replica, _)| *replica);
            voters
                .filter(|replica| *replica != old)
                .chain([new])
                .collect()
        };
        match members.replicas.get(&new) {
            None => Step::AddLearner,
            Some(member) if !member.is_voter && !member.is_caught_up => Step::Wait,
            Some(member) if !member.is_voter => Step::ChangeVoters(target()),
            Some(_) if members.is_joint || members.replicas.contains_key(&old) => {
                Step::ChangeVoters(target())
            }
            Some(_) => Step::Confirm,
        }
    }

    /// How far it is, as far as any replica of the group can tell.
    pub fn progress(&self, members: &Members) -> Progress {
        match members.replicas.get(&self.new.replica) {
            None => Progress::Starting,
            Some(member) if !member.is_voter => Progress::CatchingUp,
            Some(_) if members.is_joint || members.replicas.contains_key(&self.old.replica) => {
                Progress::ChangingVoters
            }
            Some(_) => Progress::Retiring,
        }
    }
}

impl Progress {
    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::CatchingUp => "catching_up",
            Self::ChangingVoters => "changing_voters",
            Self::Retiring => "retiring",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(replica: u64) -> Assignment {
        Assignment {
            replica: ReplicaId(replica),
            node: NodeId(replica),
        }
    }

    fn replacement() -> Replacement {
        Replacement {
            old: at(3),
            new: at(9),
        }
    }

    /// `9l` is a learner, `9L` one that has caught up, `1v` a voter that is behind, `1V` one that is not.
    fn members(own: u64, is_joint: bool, text: &str) -> Members {
        let replicas = text.split(' ').map(|word| {
            let (number, kind) = word.split_at(word.len() - 1);
            let replica: u64 = number.parse().expect("a number");
            let member = Member {
                node: NodeId(replica),
                is_voter: kind.eq_ignore_ascii_case("v"),
                is_caught_up: kind == kind.to_uppercase(),
            };
            (ReplicaId(replica), member)
        });
        Members {
            own: ReplicaId(own),
            is_joint,
            replicas: replicas.collect(),
        }
    }

    fn voters(list: &[u64]) -> Step {
        Step::ChangeVoters(list.iter().copied().map(ReplicaId).collect())
    }

    #[test]
    fn each_state_of_the_group_has_its_step() {
        let step = |own, joint, text: &str| {
            replacement().next_step(&members(own, joint, text), |node| node != NodeId(2))
        };
        assert_eq!(step(1, false, "1V 2V 3V"), Step::AddLearner);
        assert_eq!(step(1, false, "1V 2V 3V 9l"), Step::Wait);
        assert_eq!(step(1, false, "1V 2V 3V 9L"), voters(&[1, 2, 9]));
        // The leader died between the two halves of the change, and its successor finishes it.
        assert_eq!(step(1, true, "1V 2V 3V 9V"), voters(&[1, 2, 9]));
        assert_eq!(step(1, true, "1V 2V 9V"), voters(&[1, 2, 9]));
        assert_eq!(step(1, false, "1V 2V 9V"), Step::Confirm);
        // The one that goes leads: to a voter that is alive and has the log.
        assert_eq!(step(3, false, "1V 2V 3V"), Step::HandOver(ReplicaId(1)));
        assert_eq!(step(3, false, "1v 2V 3V"), Step::Wait);
        assert_eq!(step(3, false, "3V 9L"), voters(&[9]));
    }

    /// Whatever the group answers, repeating the next step ends, and a crash in between only repeats one.
    #[test]
    fn the_steps_lead_to_the_end() {
        for crash_after in 0..8 {
            let mut group = members(3, false, "1V 2V 3V");
            let mut steps = Vec::new();
            for turn in 0.. {
                let step = replacement().next_step(&group, |_| true);
                steps.push(step.clone());
                match step {
                    Step::HandOver(to) => group.own = to,
                    Step::AddLearner => {
                        group.replicas.insert(
                            ReplicaId(9),
                            Member {
                                node: NodeId(9),
                                is_voter: false,
                                is_caught_up: false,
                            },
                        );
                    }
                    Step::Wait => {
                        group
                            .replicas
                            .get_mut(&ReplicaId(9))
                            .expect("9")
                            .is_caught_up = true;
                    }
                    Step::ChangeVoters(set) => {
                        for (replica, member) in &mut group.replicas {
                            member.is_voter |= set.contains(replica);
                        }
                        group.is_joint = turn == crash_after;
                        if !group.is_joint {
                            group.replicas.retain(|replica, _| set.contains(replica));
                        }
                    }
                    Step::Confirm => break,
                }
                assert!(turn < 10, "{steps:?}");
            }
            assert_eq!(
                group
                    .replicas
                    .keys()
                    .map(|replica| replica.0)
                    .collect::<Vec<_>>(),
                [1, 2, 9]
            );
        }
    }
}
