//! Which fault comes next, on whom, and for how long: drawn from a seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};

use super::partition::Shape;
use super::{Fault, Layer};

/// How long faults last: from shorter than an election to several of them.
const LASTS_MS: std::ops::Range<u64> = 300..4_500;
/// A leader is not deposed in less.
const DEPOSED_MS: u64 = 4_000;
/// How long the cluster is left alone afterwards.
const PEACE_MS: std::ops::Range<u64> = 1_000..4_000;
/// Nodes are asked for so much before the first fault, so that a run shows what is usual.
const FIRST_PEACE: Duration = Duration::from_secs(3);
/// At most so many faults at once.
const AT_ONCE_MAX: usize = 3;

/// Who is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any node.
    One,
    /// A leader.
    Leader,
    /// As many as may fail.
    Minority,
    /// One more than may fail.
    Majority,
    /// All nodes.
    All,
}

/// One fault of an episode.
#[derive(Clone, Debug, PartialEq)]
pub struct Act {
    /// Its kind.
    pub fault: Fault,
    /// Who is hit, where that is not a matter of [`Act::shape`].
    pub target: Target,
    /// Of packets: between whom.
    pub shape: Shape,
    /// From which the rest is drawn.
    pub seed: u64,
}

/// Faults that go on at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Episode {
    /// How long the cluster is left alone before.
    pub peace: Duration,
    /// How long they last.
    pub lasts: Duration,
    /// They.
    pub acts: Vec<Act>,
}

/// Draws episodes.
pub struct Plan {
    random: StdRng,
    faults: Vec<Fault>,
    /// Kinds that have not had their turn in this round.
    round: Vec<Fault>,
    /// Shapes that have not had their turn.
    shapes: Vec<Shape>,
    targets: Vec<Target>,
    is_first: bool,
}

impl Plan {
    /// A plan of these kinds; none at all is allowed.
    pub fn new(seed: u64, faults: Vec<Fault>) -> Plan {
        Plan {
            random: StdRng::seed_from_u64(!seed),
            faults,
            round: Vec::new(),
            shapes: Vec::new(),
            targets: Vec::new(),
            is_first: true,
        }
    }

    /// The next episode. Every kind has its turn in each round, alone or with others.
    pub fn next_episode(&mut self) -> Episode {
        let mut kinds: Vec<Fault> = Vec::new();
        let at_once = *[1, 1, 1, 2, 2, AT_ONCE_MAX]
            .choose(&mut self.random)
            .unwrap_or(&1);
        for _ in 0..at_once.min(self.faults.len()) {
            refill(&mut self.round, &self.faults, &mut self.random);
            let free = |fault: &Fault| kinds.iter().all(|kind| kind.may_go_on_with(*fault));
            if let Some(at) = self.round.iter().rposition(free) {
                kinds.push(self.round.remove(at));
            }
        }
        let mut acts: Vec<Act> = kinds.into_iter().map(|fault| self.act(fault)).collect();
        let must_depose = acts.iter().any(Act::is_meant_to_depose);
        if must_depose {
            // The others must be able to elect somebody: what would keep them from it waits for its next turn.
            let waiting = acts.extract_if(.., |act| {
                !act.is_meant_to_depose() && act.may_block_elections()
            });
            self.round.extend(waiting.map(|act| act.fault));
        }
        let lasts = self.random.random_range(LASTS_MS);
        let peace = Duration::from_millis(self.random.random_range(PEACE_MS));
        let peace = if std::mem::take(&mut self.is_first) {
            FIRST_PEACE
        } else {
            peace
        };
        Episode {
            peace,
            lasts: Duration::from_millis(if must_depose {
                lasts.max(DEPOSED_MS)
            } else {
                lasts
            }),
            acts,
        }
    }

    fn act(&mut self, fault: Fault) -> Act {
        // One node must go unnoticed; a majority or all must lose nothing. Leaders are hit more often than others.
        refill(
            &mut self.targets,
            &[
                Target::Leader,
                Target::One,
                Target::Leader,
                Target::Minority,
                Target::Majority,
                Target::All,
            ],
            &mut self.random,
        );
        refill(&mut self.shapes, &Shape::ALL, &mut self.random);
        Act {
            fault,
            target: self.targets.pop().unwrap_or(Target::One),
            shape: self.shapes.pop().unwrap_or(Shape::Halves),
            seed: self.random.random(),
        }
    }
}

/// A fresh shuffled round when the last one is used up.
fn refill<T: Copy>(round: &mut Vec<T>, all: &[T], random: &mut StdRng) {
    if round.is_empty() {
        round.extend_from_slice(all);
        round.shuffle(random);
    }
}

impl Act {
    /// Whether a leader must lose its place by it.
    pub fn is_meant_to_depose(&self) -> bool {
        match self.fault {
            Fault::Kill => self.target == Target::Leader,
            Fault::Partition => self.shape == Shape::LeaderInMinority,
            Fault::Pause
            | Fault::Restart
            | Fault::Reject
            | Fault::Loss
            | Fault::Bandwidth
            | Fault::Clock
            | Fault::Power => false,
        }
    }

    /// Whether those that it leaves alone may lack a majority.
    fn may_block_elections(&self) -> bool {
        matches!(self.fault.layer(), Layer::Process | Layer::Packets)
    }

    /// The nodes of its target.
    pub fn nodes(&self, nodes: usize, leader: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..nodes).collect();
        all.shuffle(&mut StdRng::seed_from_u64(self.seed));
        let hit = match self.target {
            Target::Leader => return vec![leader],
            Target::One => 1,
            Target::Minority => ((nodes - 1) / 2).max(1),
            Target::Majority => nodes / 2 + 1,
            Target::All => nodes,
        };
        all.truncate(hit);
        all.sort_unstable();
        all
    }

    /// Which packets it concerns.
    pub fn cuts(&self, nodes: usize, leader: usize) -> Vec<(usize, usize)> {
        self.shape
            .cuts(nodes, leader, &mut StdRng::seed_from_u64(self.seed))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn episodes(seed: u64) -> Vec<Episode> {
        let mut plan = Plan::new(seed, Fault::ALL.to_vec());
        (0..60).map(|_| plan.next_episode()).collect()
    }

    #[test]
    fn a_seed_is_a_plan() {
        assert_eq!(episodes(7), episodes(7));
        assert_ne!(episodes(7), episodes(8));
        assert!(Plan::new(1, Vec::new()).next_episode().acts.is_empty());
    }

    #[test]
    fn every_kind_has_its_turn_and_layers_do_not_meet() {
        let episodes = episodes(7);
        let first: BTreeSet<Fault> = episodes[..20]
            .iter()
            .flat_map(|episode| &episode.acts)
            .map(|act| act.fault)
            .collect();
        assert_eq!(first.len(), Fault::ALL.len());
        assert!(episodes.iter().any(|episode| episode.acts.len() > 1));
        for episode in &episodes {
            for (at, act) in episode.acts.iter().enumerate() {
                assert!(
                    episode.acts[..at]
                        .iter()
                        .all(|other| other.fault.may_go_on_with(act.fault))
                );
                if act.is_meant_to_depose() {
                    assert!(episode.lasts >= Duration::from_millis(DEPOSED_MS));
                    let blocking = episode.acts.iter().filter(|act| act.may_block_elections());
                    assert_eq!(blocking.count(), 1);
                }
            }
        }
    }

    #[test]
    fn targets_are_as_large_as_they_are_called() {
        let count = |target| {
            let act = Act {
                fault: Fault::Kill,
                target,
                shape: Shape::Halves,
                seed: 3,
            };
            act.nodes(5, 4).len()
        };
        let counts = [
            Target::One,
            Target::Leader,
            Target::Minority,
            Target::Majority,
            Target::All,
        ]
        .map(count);
        assert_eq!(counts, [1, 1, 2, 3, 5]);
    }
}
