//! Shapes of partitions: who no longer hears whom.

use rand::Rng;
use rand::seq::SliceRandom as _;

/// A shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Two groups, the larger one a majority.
    Halves,
    /// Each node hears a majority, no two the same one. With fewer than five nodes, a bridge.
    MajorityRing,
    /// Two groups that only one node hears, which hears both.
    Bridge,
    /// One group does not hear the other, which hears it.
    OneWay,
    /// A leader is in a minority.
    LeaderInMinority,
    /// A leader is in a majority.
    LeaderInMajority,
    /// Two nodes do not hear each other.
    SinglePeer,
}

impl Shape {
    /// All shapes.
    pub const ALL: [Shape; 7] = [
        Shape::Halves,
        Shape::MajorityRing,
        Shape::Bridge,
        Shape::OneWay,
        Shape::LeaderInMinority,
        Shape::LeaderInMajority,
        Shape::SinglePeer,
    ];

    /// Its name in histories.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Halves => "halves",
            Shape::MajorityRing => "majority ring",
            Shape::Bridge => "bridge",
            Shape::OneWay => "one way",
            Shape::LeaderInMinority => "leader in the minority",
            Shape::LeaderInMajority => "leader in the majority",
            Shape::SinglePeer => "single peer",
        }
    }

    /// Which packets are lost, as (from, to), among `nodes` of which one leads.
    pub fn cuts(self, nodes: usize, leader: usize, random: &mut impl Rng) -> Vec<(usize, usize)> {
        let mut all: Vec<usize> = (0..nodes).collect();
        all.shuffle(random);
        let majority = nodes / 2 + 1;
        match self {
            Shape::Halves => both_ways(&all[..majority], &all[majority..]),
            Shape::OneWay => one_way(&all[..majority], &all[majority..]),
            Shape::MajorityRing if nodes >= 5 => ring(&all),
            Shape::MajorityRing | Shape::Bridge => {
                let half = (nodes - 1) / 2;
                both_ways(&all[..half], &all[half..nodes - 1])
            }
            Shape::LeaderInMinority => {
                put(&mut all, leader, nodes - 1);
                both_ways(&all[..majority], &all[majority..])
            }
            Shape::LeaderInMajority => {
                put(&mut all, leader, 0);
                both_ways(&all[..majority], &all[majority..])
            }
            Shape::SinglePeer => both_ways(&all[..1], &all[1..2]),
        }
    }
}

fn put(all: &mut [usize], node: usize, place: usize) {
    if let Some(at) = all.iter().position(|other| *other == node) {
        all.swap(at, place);
    }
}

fn one_way(from: &[usize], to: &[usize]) -> Vec<(usize, usize)> {
    from.iter()
        .flat_map(|from| to.iter().map(|to| (*from, *to)))
        .collect()
}

fn both_ways(one: &[usize], other: &[usize]) -> Vec<(usize, usize)> {
    [one_way(one, other), one_way(other, one)].concat()
}

/// Each node hears its neighbours in the ring, so many that they are a majority with itself.
fn ring(all: &[usize]) -> Vec<(usize, usize)> {
    let nodes = all.len();
    let reach = (nodes / 2).div_ceil(2);
    let apart = |at: usize, other: usize| at.abs_diff(other).min(nodes - at.abs_diff(other));
    let pairs = (0..nodes).flat_map(|at| (0..nodes).map(move |other| (at, other)));
    pairs
        .filter(|(at, other)| apart(*at, *other) > reach)
        .map(|(at, other)| (all[at], all[other]))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    /// Whom each node hears in both directions, itself too.
    fn heard(nodes: usize, cuts: &[(usize, usize)]) -> Vec<BTreeSet<usize>> {
        let hears = |node: usize, other: usize| {
            !cuts.contains(&(node, other)) && !cuts.contains(&(other, node))
        };
        (0..nodes)
            .map(|node| (0..nodes).filter(|other| hears(node, *other)).collect())
            .collect()
    }

    #[test]
    fn shapes_are_what_they_are_called() {
        let mut random = StdRng::seed_from_u64(1);
        for nodes in [3, 5] {
            let majority = nodes / 2 + 1;
            for leader in 0..nodes {
                for shape in Shape::ALL {
                    let cuts = shape.cuts(nodes, leader, &mut random);
                    let heard = heard(nodes, &cuts);
                    let of_majority = heard.iter().filter(|heard| heard.len() >= majority).count();
                    let expected = match shape {
                        Shape::Halves | Shape::OneWay => majority,
                        Shape::LeaderInMinority => {
                            assert!(heard[leader].len() < majority);
                            majority
                        }
                        Shape::LeaderInMajority => {
                            assert!(heard[leader].len() >= majority);
                            majority
                        }
                        Shape::Bridge if nodes == 3 => 3,
                        Shape::MajorityRing | Shape::SinglePeer | Shape::Bridge => nodes,
                    };
                    assert_eq!(of_majority, expected, "{shape:?} of {nodes}: {cuts:?}");
                    let is_one_way = cuts.iter().any(|(from, to)| !cuts.contains(&(*to, *from)));
                    assert_eq!(is_one_way, shape == Shape::OneWay);
                    assert!(!cuts.is_empty());
                }
            }
        }
        let ring = heard(5, &Shape::MajorityRing.cuts(5, 0, &mut random));
        assert_eq!(
            ring.iter().collect::<BTreeSet<_>>().len(),
            5,
            "no two hear the same majority"
        );
    }
}
