//! Which nodes hold a shard's replicas, and which of them should lead it.
//!
//! A pure function of (nodes, zones, weights, shard count, replica count). Each shard takes the nodes that follow it
//! clockwise on the [`Ring`], one per zone as long as there are zones, and walks past nodes that are full.
//!
//! Invariants of every placement:
//! - each shard has min(replicas, nodes) distinct nodes;
//! - no node holds more than its [`bounds`]: 1.25 times its weighted mean;
//! - if the bounds leave room for all replicas of all shards to be in distinct zones, they are;
//! - nobody can be relieved of a lead without somebody else getting a larger share than it had.
//!
//! The walk alone keeps none of the first three: whoever goes first can use up what the last shard needs. So each step
//! keeps a reserve (`Reserve`).
//!
//! Lacks: the steps from one placement to another (the rebalancer), and any knowledge of the present leaders.

use std::collections::{BTreeMap, VecDeque};

use proto::{NodeId, ShardId};

use crate::hash_ring::Ring;

/// The largest weight of a node: bounds the size of the ring.
pub const WEIGHT_MAX: u32 = 100;

/// What placement needs to know of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeInfo {
    /// Who it is.
    pub id: NodeId,
    /// What fails together with it. Nodes that state none share the zone with the empty name.
    pub zone: String,
    /// Its capacity relative to the others, from 1 to [`WEIGHT_MAX`]; what lies outside counts as the nearest of them.
    pub weight: u32,
}

/// The nodes of each shard; index 0 is shard 1. The first node of a shard is its preferred leader, the others follow
/// in the order of the ring.
///
/// The order of `nodes` does not matter; of a repeated id the smallest entry counts. Without nodes all lists are empty.
pub fn place(nodes: &[NodeInfo], shards: u32, replicas: u32) -> Vec<Vec<NodeId>> {
    let nodes = normalized(nodes);
    let replicas = (replicas as usize).min(nodes.len());
    let ring = Ring::new(nodes.iter().map(|node| (node.id, node.weight)));
    let index: BTreeMap<NodeId, usize> = nodes
        .iter()
        .enumerate()
        .map(|(at, node)| (node.id, at))
        .collect();
    let mut room = Room::new(&nodes, shards, replicas);
    let mut placement: Vec<Vec<usize>> = (1..=shards)
        .map(|shard| {
            let walk: Vec<usize> = ring
                .walk(ShardId(shard))
                .iter()
                .filter_map(|id| index.get(id).copied())
                .collect();
            room.take(&walk, shards - shard + 1, replicas)
        })
        .collect();
    let weights: Vec<u64> = nodes.iter().map(|node| u64::from(node.weight)).collect();
    spread_leaders(&mut placement, &weights);
    let ids = |list: Vec<usize>| list.into_iter().map(|at| nodes[at].id).collect();
    placement.into_iter().map(ids).collect()
}

/// How many replicas each node may hold: 1.25 times its weighted mean, rounded up, and at most one of each shard.
///
/// A node whose weight would earn it more than one replica of each shard has that one, and the others' mean is over
/// what is left: else the bounds of light nodes could leave no room for all replicas.
pub fn bounds(nodes: &[NodeInfo], shards: u32, replicas: u32) -> BTreeMap<NodeId, u32> {
    let nodes = normalized(nodes);
    let bounds = bounds_of(&nodes, shards, (replicas as usize).min(nodes.len()));
    nodes.iter().map(|node| node.id).zip(bounds).collect()
}

/// Sorted by id, each id once, weights within their limits.
fn normalized(nodes: &[NodeInfo]) -> Vec<NodeInfo> {
    let mut nodes = nodes.to_vec();
    nodes.sort();
    nodes.dedup_by_key(|node| node.id);
    for node in &mut nodes {
        node.weight = node.weight.clamp(1, WEIGHT_MAX);
    }
    nodes
}

fn bounds_of(nodes: &[NodeInfo], shards: u32, replicas: usize) -> Vec<u32> {
    let one_of_each = u64::from(shards);
    let weight = |at: usize| u64::from(nodes[at].weight);
    let mut open: Vec<usize> = (0..nodes.len()).collect();
    let mut bounds = vec![shards; nodes.len()];
    loop {
        let total = one_of_each * (replicas + open.len()).saturating_sub(nodes.len()) as u64;
        let weights: u64 = open.iter().map(|&at| weight(at)).sum();
        let before = open.len();
        open.retain(|&at| weight(at) * total < one_of_each * weights);
        if open.len() == before {
            for at in open {
                bounds[at] = (5 * weight(at) * total)
                    .div_ceil(4 * weights)
                    .min(one_of_each) as u32;
            }
            return bounds;
        }
    }
}

/// What the nodes may still take.
struct Room {
    /// By node.
    left: Vec<u32>,
    /// Zone of each node, as an index.
    zones: Vec<usize>,
    zone_count: usize,
    /// Whether all replicas of all shards fit into distinct zones.
    distinct_zones: bool,
}

impl Room {
    fn new(nodes: &[NodeInfo], shards: u32, replicas: usize) -> Self {
        let mut names: Vec<&str> = nodes.iter().map(|node| node.zone.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let zone = |node: &NodeInfo| names.partition_point(|name| *name < node.zone.as_str());
        let mut room = Self {
            left: bounds_of(nodes, shards, replicas),
            zones: nodes.iter().map(zone).collect(),
            zone_count: names.len(),
            distinct_zones: false,
        };
        room.distinct_zones = Reserve::of(&room.left_by_zone(), shards, replicas).is_some();
        room
    }

    fn left_by_zone(&self) -> Vec<u32> {
        let mut left = vec![0; self.zone_count];
        for (node, zone) in self.zones.iter().enumerate() {
            left[*zone] += self.left[node];
        }
        left
    }

    /// Takes the nodes of one shard, in the order of `walk`. `shards` is the number of shards to go, with this one.
    fn take(&mut self, walk: &[usize], shards: u32, replicas: usize) -> Vec<usize> {
        let left = if self.distinct_zones {
            self.left_by_zone()
        } else {
            self.left.clone()
        };
        let mut reserve = Reserve::of(&left, shards, replicas).unwrap_or_default();
        let mut per_zone = vec![0; self.zone_count];
        let mut taken = Vec::with_capacity(replicas);
        // One per zone; then, where there are fewer zones with room than replicas, two, and so on.
        for zone_max in 1..=replicas {
            for &node in walk {
                let zone = self.zones[node];
                let group = if self.distinct_zones { zone } else { node };
                if taken.len() == replicas
                    || taken.contains(&node)
                    || per_zone[zone] >= zone_max
                    || self.left[node] == 0
                {
                    continue;
                }
                if reserve.allows(group, replicas - taken.len()) {
                    self.left[node] -= 1;
                    per_zone[zone] += 1;
                    taken.push(node);
                }
            }
        }
        // The passes over zones come first, but the list is in the order of the ring.
        walk.iter()
            .copied()
            .filter(|node| taken.contains(node))
            .collect()
    }
}

/// Which groups (zones or nodes) the next shard must take from, so that the last one still finds enough of them.
///
/// Groups with room for c₁, c₂, … replicas can serve m shards, each with r distinct groups, exactly if
/// Σ min(cᵢ, m) ≥ m·r. A step to m − 1 lowers the left side by one for each group that is taken, and for each group with
/// cᵢ ≥ m that is passed over, and the right side by r. So as many of the latter may be passed over as there is slack.
#[derive(Default)]
struct Reserve {
    /// Groups that hold as much as all remaining shards can take.
    saturated: Vec<bool>,
    /// How many of those must still be taken.
    due: usize,
}

impl Reserve {
    /// `None` if the groups cannot serve all shards.
    fn of(left: &[u32], shards: u32, replicas: usize) -> Option<Self> {
        let fits: u64 = left.iter().map(|&left| u64::from(left.min(shards))).sum();
        let slack = fits.checked_sub(u64::from(shards) * replicas as u64)?;
        let saturated: Vec<bool> = left.iter().map(|&left| left >= shards).collect();
        let count = saturated.iter().filter(|saturated| **saturated).count();
        Some(Self {
            due: count.saturating_sub(slack as usize),
            saturated,
        })
    }

    /// Whether a replica may go to `group`, with `open` replicas to go for this shard; counts it if so.
    fn allows(&mut self, group: usize, open: usize) -> bool {
        if self.saturated.get(group).copied().unwrap_or(false) {
            self.due = self.due.saturating_sub(1);
            return true;
        }
        open > self.due
    }
}

/// Rotates each list so that leads are shared out by weight as evenly as the lists permit.
///
/// Starts with the first of each list and moves leads along chains of shards for as long as that evens them out: the
/// minimum of Σ leads² / weight.
fn spread_leaders(placement: &mut [Vec<usize>], weights: &[u64]) {
    let mut leads = Leads::new(placement, weights);
    while leads.improve() {}
    for (list, leader) in placement.iter_mut().zip(leads.leaders) {
        let at = list.iter().position(|node| *node == leader).unwrap_or(0);
        list.rotate_left(at);
    }
}

struct Leads<'a> {
    placement: Vec<Vec<usize>>,
    weights: &'a [u64],
    /// Leader of each shard that has replicas.
    leaders: Vec<usize>,
    /// Number of leads by node.
    counts: Vec<u64>,
}

/// How a node was reached: the shard whose lead moves to it, and the node that gives it up.
type Step = (usize, usize);

impl<'a> Leads<'a> {
    fn new(placement: &[Vec<usize>], weights: &'a [u64]) -> Self {
        let leaders: Vec<usize> = placement
            .iter()
            .filter_map(|list| list.first().copied())
            .collect();
        let mut counts = vec![0; weights.len()];
        leaders.iter().for_each(|leader| counts[*leader] += 1);
        Self {
            placement: placement.to_vec(),
            weights,
            leaders,
            counts,
        }
    }

    /// Moves one lead, through others if need be, from a node with too many to one with too few. `false`: none is.
    fn improve(&mut self) -> bool {
        let mut givers: Vec<usize> = (0..self.counts.len())
            .filter(|node| self.counts[*node] > 0)
            .collect();
        givers.sort_by(|a, b| {
            self.cost_of_last(*b)
                .cmp_to(self.cost_of_last(*a))
                .then(a.cmp(b))
        });
        for giver in givers {
            let (reached, steps) = self.reach(giver);
            let best = reached
                .into_iter()
                .min_by(|a, b| self.cost_of_next(*a).cmp_to(self.cost_of_next(*b)));
            let Some(taker) = best else { continue };
            if self
                .cost_of_next(taker)
                .cmp_to(self.cost_of_last(giver))
                .is_lt()
            {
                self.shift(giver, taker, &steps);
                return true;
            }
        }
        false
    }

    /// All nodes that a lead of `from` can be passed on to, nearest first, with the last step to each.
    fn reach(&self, from: usize) -> (Vec<usize>, Vec<Option<Step>>) {
        let mut steps = vec![None; self.counts.len()];
        let mut reached = Vec::new();
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            for (shard, list) in self
                .placement
                .iter()
                .enumerate()
                .filter(|(shard, _)| self.leaders.get(*shard) == Some(&node))
            {
                for &next in list {
                    if next != from && steps[next].is_none() {
                        steps[next] = Some((shard, node));
                        reached.push(next);
                        queue.push_back(next);
                    }
                }
            }
        }
        (reached, steps)
    }

    fn shift(&mut self, giver: usize, taker: usize, steps: &[Option<Step>]) {
        let mut node = taker;
        while let Some((shard, previous)) = steps[node] {
            self.leaders[shard] = node;
            node = previous;
        }
        self.counts[giver] -= 1;
        self.counts[taker] += 1;
    }

    /// What the node's last lead adds to the sum.
    fn cost_of_last(&self, node: usize) -> Cost {
        Cost {
            over: (2 * self.counts[node]).saturating_sub(1),
            weight: self.weights[node],
        }
    }

    /// What one more lead would add to the sum.
    fn cost_of_next(&self, node: usize) -> Cost {
        Cost {
            over: 2 * self.counts[node] + 1,
            weight: self.weights[node],
        }
    }
}

/// A fraction.
#[derive(Clone, Copy)]
struct Cost {
    over: u64,
    weight: u64,
}

impl Cost {
    fn cmp_to(self, other: Self) -> std::cmp::Ordering {
        (self.over * other.weight).cmp(&(other.over * self.weight))
    }
}

#[cfg(test)]
mod tests;
