//! The consistent-hash ring: which nodes follow a shard clockwise.
//!
//! Fences the crate `hashring`, pinned to one version. It knows no weights, its `get_with_replicas` counts virtual
//! nodes (one too many, with repeats), and it hashes through std's `Hash`, whose bytes for a type are no promise.
//! So this module brings its own virtual nodes, whose `Hash` writes fixed bytes, its own fixed hasher, and its own walk.
//!
//! Invariants:
//! - A ring depends on nothing but the set of (node id, weight): not on order, platform, process or std's hashers.
//! - A walk is one full rotation and names every node exactly once.
//! - Adding a node changes no order among the others.
//!
//! Lacks: zones and loads, see [`crate::placement`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, Hash, Hasher};

use hashring::HashRing;
use proto::{NodeId, ShardId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Virtual nodes per unit of weight: enough that the shares of equal nodes lie within some ten percent.
const VIRTUAL_NODES_PER_WEIGHT: u32 = 128;

/// Seed of every hash on the ring. Changing it would move nearly all replicas of every cluster.
const SEED: u64 = 0x6c61_7264_6572_0002;

/// First byte of what a virtual node hashes.
const KIND_VIRTUAL_NODE: u8 = 1;
/// First byte of what a shard hashes: no shard ever hashes the bytes of a virtual node.
const KIND_SHARD: u8 = 2;

/// XXH3-64 under a constant seed. Several writes chain: the hash of the first is the seed of the next.
#[derive(Clone, Copy, Debug)]
struct FixedHasher(u64);

impl Hasher for FixedHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Clone, Copy, Debug)]
struct FixedState;

impl BuildHasher for FixedState {
    type Hasher = FixedHasher;

    fn build_hasher(&self) -> FixedHasher {
        FixedHasher(SEED)
    }
}

/// One of a node's points on the ring.
#[derive(Clone, Copy, Debug)]
struct VirtualNode {
    node: NodeId,
    number: u32,
}

impl Hash for VirtualNode {
    /// 13 bytes in one write: kind, node id and number, little-endian.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = [0; 13];
        bytes[0] = KIND_VIRTUAL_NODE;
        bytes[1..9].copy_from_slice(&self.node.0.to_le_bytes());
        bytes[9..].copy_from_slice(&self.number.to_le_bytes());
        state.write(&bytes);
    }
}

/// Where a shard stands on the ring.
struct ShardPoint(ShardId);

impl Hash for ShardPoint {
    /// 5 bytes in one write: kind and shard number, little-endian.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = [0; 5];
        bytes[0] = KIND_SHARD;
        bytes[1..].copy_from_slice(&self.0.0.to_le_bytes());
        state.write(&bytes);
    }
}

/// A ring of weighted nodes.
pub struct Ring {
    ring: HashRing<VirtualNode, FixedState>,
    /// The node of each point, clockwise.
    clockwise: Vec<NodeId>,
    /// Index in `clockwise` of each point, by (node, number).
    positions: HashMap<(NodeId, u32), usize>,
    nodes: usize,
}

impl Ring {
    /// A ring of these (node, weight). Of a repeated node the larger weight counts; a weight of 0 means 1.
    pub fn new(nodes: impl IntoIterator<Item = (NodeId, u32)>) -> Self {
        let mut weights: BTreeMap<NodeId, u32> = BTreeMap::new();
        for (node, weight) in nodes {
            let known = weights.entry(node).or_insert(1);
            *known = weight.max(*known);
        }
        let mut ring = HashRing::with_hasher(FixedState);
        ring.batch_add(points(&weights));
        // One less than all: the crate returns one more than it is asked for.
        let rotation =
            ring.get_with_replicas(&ShardPoint(ShardId::META), ring.len().saturating_sub(1));
        let in_order = rotation.unwrap_or_default();
        let positions = in_order
            .iter()
            .enumerate()
            .map(|(at, point)| ((point.node, point.number), at))
            .collect();
        let clockwise = in_order.into_iter().map(|point| point.node).collect();
        Self {
            ring,
            clockwise,
            positions,
            nodes: weights.len(),
        }
    }

    /// All nodes in the order in which they first appear clockwise from `shard`; each exactly once.
    pub fn walk(&self, shard: ShardId) -> Vec<NodeId> {
        let start = self
            .ring
            .get(&ShardPoint(shard))
            .and_then(|point| self.positions.get(&(point.node, point.number)));
        let Some(&start) = start else {
            return Vec::new();
        };
        let mut seen = HashSet::with_capacity(self.nodes);
        let (before, after) = self.clockwise.split_at(start);
        let rotation = after.iter().chain(before).copied();
        rotation
            .filter(|node| seen.insert(*node))
            .take(self.nodes)
            .collect()
    }
}

/// The points of all nodes, sorted by node and number. Two points with one hash would make the order depend on how a
/// search treats equals, so only the first of them stays.
fn points(weights: &BTreeMap<NodeId, u32>) -> Vec<VirtualNode> {
    let mut hashes = HashSet::new();
    let all = weights.iter().flat_map(|(&node, &weight)| {
        (0..weight.saturating_mul(VIRTUAL_NODES_PER_WEIGHT))
            .map(move |number| VirtualNode { node, number })
    });
    all.filter(|point| hashes.insert(FixedState.hash_one(point)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(nodes: &[u64]) -> Ring {
        Ring::new(nodes.iter().map(|&node| (NodeId(node), 1)))
    }

    #[test]
    fn an_empty_ring_leads_nowhere() {
        assert_eq!(ring(&[]).walk(ShardId(1)), []);
    }

    #[test]
    fn a_walk_names_every_node_once() {
        let ring = ring(&[5, 1, 9, 7]);
        for shard in 1..=100 {
            let mut walk = ring.walk(ShardId(shard));
            walk.sort();
            assert_eq!(walk, [1, 5, 7, 9].map(NodeId));
        }
    }

    #[test]
    fn hashes_never_change() {
        let point = VirtualNode {
            node: NodeId(0x0123_4567_89ab_cdef),
            number: 7,
        };
        assert_eq!(FixedState.hash_one(point), 12786146247200388149);
        assert_eq!(
            FixedState.hash_one(ShardPoint(ShardId(1))),
            10811026036072870739
        );
    }

    #[test]
    fn a_new_node_leaves_the_order_of_the_others() {
        let (before, after) = (ring(&[1, 2, 3, 4]), ring(&[1, 2, 3, 4, 5]));
        for shard in (1..=100).map(ShardId) {
            let mut walk = after.walk(shard);
            walk.retain(|node| *node != NodeId(5));
            assert_eq!(walk, before.walk(shard));
        }
    }

    #[test]
    fn weight_is_the_chance_to_be_first() {
        let ring = Ring::new([(NodeId(1), 1), (NodeId(2), 3), (NodeId(3), 0)]);
        let firsts = (1..=5000)
            .filter(|&shard| ring.walk(ShardId(shard))[0] == NodeId(2))
            .count();
        assert!(
            (2500..=3500).contains(&firsts),
            "three fifths of 5000 expected: {firsts}"
        );
    }
}
