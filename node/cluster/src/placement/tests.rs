//! Placement against its promises: bounds, zones, evenness, little movement, and the recorded golden.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

fn node(id: u64, zone: u64, weight: u32) -> NodeInfo {
    NodeInfo {
        id: NodeId(id),
        zone: format!("z{zone}"),
        weight,
    }
}

/// Nodes 1, 2, … in turn in each of `zones`, with the weights of `weights` in turn.
fn nodes(count: u64, zones: u64, weights: &[u32]) -> Vec<NodeInfo> {
    let weights = weights.iter().cycle();
    (0..count)
        .zip(weights)
        .map(|(at, &weight)| node(at + 1, at % zones, weight))
        .collect()
}

fn held(placement: &[Vec<NodeId>]) -> BTreeMap<NodeId, u32> {
    let mut held = BTreeMap::new();
    placement
        .iter()
        .flatten()
        .for_each(|node| *held.entry(*node).or_default() += 1);
    held
}

/// Leads of each node, those without any included.
fn leads(nodes: &[NodeInfo], placement: &[Vec<NodeId>]) -> Vec<usize> {
    let of = |node: &NodeInfo| {
        placement
            .iter()
            .filter(|list| list.first() == Some(&node.id))
            .count()
    };
    nodes.iter().map(of).collect()
}

fn zones_of(nodes: &[NodeInfo], list: &[NodeId]) -> usize {
    let zone = |id: &NodeId| {
        nodes
            .iter()
            .find(|node| node.id == *id)
            .map(|node| &node.zone)
    };
    list.iter().map(zone).collect::<BTreeSet<_>>().len()
}

/// Replicas of `after` that were not there before.
fn moved(before: &[Vec<NodeId>], after: &[Vec<NodeId>]) -> usize {
    before
        .iter()
        .zip(after)
        .map(|(before, after)| after.iter().filter(|node| !before.contains(node)).count())
        .sum()
}

/// 1,000 shards of six clusters. A change here moves the data of every cluster that is rebalanced after an upgrade.
#[test]
fn placements_are_as_they_always_were() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/placement/golden.txt");
    let mut text = String::new();
    for (title, nodes, shards, replicas) in [
        ("3 nodes, 3 replicas", nodes(3, 1, &[1]), 8, 3),
        ("5 nodes in 5 zones, 3 replicas", nodes(5, 5, &[1]), 32, 3),
        ("6 nodes in 3 zones, 3 replicas", nodes(6, 3, &[1]), 64, 3),
        (
            "7 nodes with weights 1, 2, 3, 3 replicas",
            nodes(7, 1, &[1, 2, 3]),
            128,
            3,
        ),
        ("9 nodes in 2 zones, 5 replicas", nodes(9, 2, &[1]), 256, 5),
        (
            "12 nodes in 4 zones with weights 2, 3, 2 replicas",
            nodes(12, 4, &[2, 3]),
            512,
            2,
        ),
    ] {
        let _ = writeln!(text, "# {title}");
        for (shard, list) in (1..).zip(place(&nodes, shards, replicas)) {
            let list: Vec<String> = list.iter().map(|node| node.0.to_string()).collect();
            let _ = writeln!(text, "{shard}: {}", list.join(" "));
        }
    }
    if std::env::var("UPDATE_GOLDENFILES").is_ok_and(|value| value == "1") {
        std::fs::write(path, &text).expect("writable");
    }
    let golden = std::fs::read_to_string(path).expect("golden.txt is in the repository");
    assert_eq!(
        golden.lines().filter(|line| !line.starts_with('#')).count(),
        1000
    );
    assert!(
        text == golden,
        "placements differ from {path}; UPDATE_GOLDENFILES=1 writes them anew"
    );
}

#[test]
fn no_nodes_hold_nothing() {
    assert_eq!(place(&[], 2, 3), [[], []] as [[NodeId; 0]; 2]);
    assert!(bounds(&[], 2, 3).is_empty());
}

#[test]
fn no_replicas_are_empty_lists() {
    assert_eq!(
        place(&nodes(3, 1, &[1]), 2, 0),
        [[], []] as [[NodeId; 0]; 2]
    );
}

#[test]
fn three_nodes_hold_everything_and_lead_a_third_each() {
    let nodes = nodes(3, 1, &[1]);
    let placement = place(&nodes, 16, 3);
    assert!(held(&placement).values().all(|held| *held == 16));
    let mut leads = leads(&nodes, &placement);
    leads.sort();
    assert_eq!(leads, [5, 5, 6]);
}

#[test]
fn leads_follow_weights() {
    let nodes = nodes(3, 1, &[1, 1, 2]);
    assert_eq!(leads(&nodes, &place(&nodes, 64, 3)), [16, 16, 32]);
}

#[test]
fn a_node_too_heavy_to_be_served_holds_one_of_each_and_leaves_the_rest_to_the_others() {
    let nodes = nodes(4, 1, &[100, 1, 1, 1]);
    let bounds = bounds(&nodes, 64, 2);
    // One replica of each shard remains for three nodes: 64 / 3 × 1.25, rounded up.
    assert_eq!(
        bounds.values().copied().collect::<Vec<_>>(),
        [64, 27, 27, 27]
    );
    assert_eq!(held(&place(&nodes, 64, 2))[&NodeId(1)], 64);
}

#[test]
fn a_small_zone_is_used_up_to_its_bound() {
    // Node 1 alone is zone 0. All shards in distinct zones would need it everywhere, twice its mean.
    let nodes = [node(1, 0, 1), node(2, 1, 1), node(3, 1, 1), node(4, 1, 1)];
    let placement = place(&nodes, 64, 2);
    assert_eq!(bounds(&nodes, 64, 2)[&NodeId(1)], 40);
    assert_eq!(
        placement
            .iter()
            .filter(|list| zones_of(&nodes, list) == 2)
            .count(),
        40
    );
}

#[test]
fn weights_beyond_the_limits_are_taken_as_the_limits() {
    let bad = [node(1, 0, 0), node(2, 0, u32::MAX)];
    let good = [node(1, 0, 1), node(2, 0, WEIGHT_MAX)];
    assert_eq!(place(&bad, 16, 1), place(&good, 16, 1));
}

fn any_nodes() -> impl Strategy<Value = Vec<NodeInfo>> {
    let node =
        (any::<u64>(), 0..5u64, 1..=4u32).prop_map(|(id, zone, weight)| node(id, zone, weight));
    proptest::collection::vec(node, 1..14)
}

fn any_shards() -> impl Strategy<Value = u32> {
    (0..=8u32).prop_map(|bits| 1 << bits)
}

/// At most one replica of each shard per zone, at most its nodes' bounds in all: enough for all shards?
fn zones_can_be_distinct(nodes: &[NodeInfo], shards: u32, replicas: u32) -> bool {
    let bounds = bounds(nodes, shards, replicas);
    let mut by_zone: BTreeMap<&str, u32> = BTreeMap::new();
    nodes
        .iter()
        .for_each(|node| *by_zone.entry(&node.zone).or_default() += bounds[&node.id]);
    by_zone.values().map(|room| *room.min(&shards)).sum::<u32>() >= shards * replicas
}

proptest! {
    #[test]
    fn every_shard_has_its_replicas_within_the_bounds(nodes in any_nodes(), shards in any_shards(), replicas in 1..6u32) {
        let placement = place(&nodes, shards, replicas);
        prop_assert_eq!(placement.len(), shards as usize);
        for list in &placement {
            prop_assert_eq!(list.len(), nodes.len().min(replicas as usize));
            prop_assert_eq!(list.iter().collect::<BTreeSet<_>>().len(), list.len());
        }
        let bounds = bounds(&nodes, shards, replicas);
        for (node, held) in held(&placement) {
            prop_assert!(held <= bounds[&node], "{held} of {}", bounds[&node]);
        }
    }

    #[test]
    fn zones_are_distinct_when_the_bounds_permit(nodes in any_nodes(), shards in any_shards(), replicas in 1..6u32) {
        if !zones_can_be_distinct(&nodes, shards, replicas) {
            return Ok(());
        }
        for list in place(&nodes, shards, replicas) {
            prop_assert_eq!(zones_of(&nodes, &list), list.len());
        }
    }

    #[test]
    fn equal_zones_are_all_used(per_zone in 1..5u64, zones in 1..6u64, shards in any_shards(), replicas in 1..6u32) {
        let nodes = nodes(per_zone * zones, zones, &[1]);
        for list in place(&nodes, shards, replicas) {
            prop_assert_eq!(zones_of(&nodes, &list), list.len().min(zones as usize));
        }
    }

    #[test]
    fn order_does_not_matter((nodes, mixed) in any_nodes().prop_flat_map(|nodes| (Just(nodes.clone()), Just(nodes).prop_shuffle()))) {
        prop_assert_eq!(place(&nodes, 32, 3), place(&mixed, 32, 3));
    }

    #[test]
    fn equal_nodes_lead_equally(count in 1..12u64, seed: u32, extra_bits in 0..4u32) {
        // From some five shards a node on, so that no node holds too few replicas to lead its share.
        let shards = (count as u32 * 5).next_power_of_two() << extra_bits;
        let nodes: Vec<_> = (0..count).map(|at| node((u64::from(seed) << 16) | at, 0, 1)).collect();
        let leads = leads(&nodes, &place(&nodes, shards, 3));
        let share = shards as usize / nodes.len();
        prop_assert!(leads.iter().all(|leads| (share..=share + 1).contains(leads)), "{leads:?}");
    }

    /// A node that comes or goes moves the replicas that it holds; beyond them at most a sixth of all.
    ///
    /// Measured for three replicas on 4 to 12 equal nodes with random ids, 200 runs each: without zones, or with a zone per node, at
    /// most 10.4 % at 16 shards and 1.0 % from 256 on (in the mean 3.8 % and 0.1 %). In 3 zones, where a new node is the only
    /// one to relieve the others of its zone, at most 12.5 % at 16 shards and 5.9 % from 256 on (in the mean 5.3 % and 4.2 %).
    #[test]
    fn a_node_that_comes_or_goes_moves_little_beyond_its_share(
        count in 4..=12u64, zones in prop_oneof![Just(1u64), Just(3), Just(100)], bits in 4..=8u32, seed: u32,
    ) {
        let shards = 1 << bits;
        let all: Vec<_> = (0..count).map(|at| node((u64::from(seed) << 16) | at, at % zones, 1)).collect();
        let (with, without) = (place(&all, shards, 3), place(&all[1..], shards, 3));
        let share = held(&with).get(&all[0].id).copied().unwrap_or(0) as usize;
        let bound = share + shards as usize * 3 / 6;
        prop_assert_eq!(moved(&with, &without), moved(&without, &with));
        prop_assert!(moved(&with, &without) <= bound, "{} of {share}", moved(&with, &without));
    }
}
