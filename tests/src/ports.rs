//! Free ports for a cluster: blocks below the range that the system hands out by itself.

use std::net::TcpListener;
use std::ops::Range;

use rand::Rng as _;

/// Linux takes the ports of outgoing connections from 32768 up; below, only listeners are in the way.
const BASES: Range<u16> = 20_000..32_000;
/// Ports per node: client, peer, admin.
const PER_NODE: u16 = 3;
/// Distance from one node's ports to the next one's, as `larder dev` lays them out.
pub const STEP: u16 = 10;
const TRIES: usize = 200;

/// A base port such that base + 10·node + {0, 1, 2} are free for all `nodes`, at this moment.
///
/// # Panics
/// If there is no such block to be found.
pub fn free_base(nodes: u16) -> u16 {
    for _ in 0..TRIES {
        let base = rand::rng().random_range(BASES);
        let mut ports =
            (0..nodes).flat_map(|node| (0..PER_NODE).map(move |port| base + node * STEP + port));
        if ports.all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return base;
        }
    }
    panic!("no {nodes} blocks of {PER_NODE} free ports among {BASES:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_not_given() {
        let base = free_base(3);
        assert!(BASES.contains(&base));
        let _taken = TcpListener::bind(("127.0.0.1", base + STEP)).expect("was free");
        for _ in 0..100 {
            assert_ne!(free_base(3), base);
        }
    }
}
