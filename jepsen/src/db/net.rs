//! Where nodes listen, and what stands between them.
//!
//! With the right to do so every node gets a network namespace, joined to a bridge by a veth pair; the host, where the
//! clients run, has an address on the bridge too. Without it nodes share the loopback, and no network fault is offered.
//! What was made is removed when dropped.

use std::fmt;
use std::net::TcpListener;

use anyhow::{Context as _, bail};
use rand::Rng as _;

use super::command::system;

/// Below the ports that the system gives to outgoing connections.
const BASES: std::ops::Range<u16> = 20_000..32_000;
const PORT_STEP: u16 = 10;
const TRIES: usize = 200;

/// A listener of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    Client = 0,
    Peer = 1,
    Admin = 2,
}

const PORTS: [Port; 3] = [Port::Client, Port::Peer, Port::Admin];

/// A network for some nodes.
pub(super) enum Network {
    /// All on 127.0.0.1, from this port on.
    Loopback(u16),
    /// One namespace each.
    Namespaces(Namespaces),
}

impl Network {
    /// Namespaces, or the loopback and why.
    ///
    /// # Errors
    /// If there are no free ports either.
    pub(super) fn make(nodes: usize) -> anyhow::Result<(Network, Option<String>)> {
        match Namespaces::make(nodes) {
            Ok(namespaces) => Ok((Network::Namespaces(namespaces), None)),
            Err(error) => Ok((
                Network::Loopback(free_base(nodes)?),
                Some(format!("{error:#}")),
            )),
        }
    }

    /// `host:port`.
    pub(super) fn address(&self, node: usize, port: Port) -> String {
        match self {
            Network::Loopback(base) => format!("127.0.0.1:{}", loopback_port(*base, node, port)),
            Network::Namespaces(namespaces) => {
                format!("{}:{}", namespaces.ip(node), 7400 + port as u16)
            }
        }
    }

    /// What stands before a command so that it runs where the node does.
    pub(super) fn prefix(&self, node: usize) -> Vec<String> {
        match self {
            Network::Loopback(_) => Vec::new(),
            // `ip netns exec` would give each node mounts of its own, and a disk that one of them still has mounted
            // does not come back from a loss of power.
            Network::Namespaces(namespaces) => vec![
                "nsenter".to_owned(),
                format!("--net=/run/netns/{}", namespaces.name(node)),
            ],
        }
    }

    /// The namespaces.
    ///
    /// # Errors
    /// On the loopback.
    pub(super) fn namespaces(&self) -> anyhow::Result<&Namespaces> {
        match self {
            Network::Namespaces(namespaces) => Ok(namespaces),
            Network::Loopback(_) => bail!("network faults need namespaces"),
        }
    }
}

fn loopback_port(base: u16, node: usize, port: Port) -> u16 {
    // There are at most a few nodes.
    base + node as u16 * PORT_STEP + port as u16
}

/// A base port such that all ports of all nodes are free at this moment.
fn free_base(nodes: usize) -> anyhow::Result<u16> {
    let is_free = |base: &u16| {
        let all = (0..nodes).flat_map(|node| PORTS.map(|port| (node, port)));
        all.into_iter().all(|(node, port)| {
            TcpListener::bind(("127.0.0.1", loopback_port(*base, node, port))).is_ok()
        })
    };
    let mut bases = std::iter::repeat_with(|| rand::rng().random_range(BASES)).take(TRIES);
    bases
        .find(is_free)
        .with_context(|| format!("no free ports for {nodes} nodes among {BASES:?}"))
}

/// What happens to packets that come to a node from another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The node that sent them.
    pub from: usize,
    /// The node that they come to.
    pub to: usize,
    /// What happens.
    pub effect: Effect,
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is lost.
    Drop,
    /// Its connection is reset.
    Reset,
    /// So many percent of them are lost.
    Lose(u8),
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Effect::Drop => f.write_str("-j DROP"),
            Effect::Reset => f.write_str("-p tcp -j REJECT --reject-with tcp-reset"),
            Effect::Lose(percent) => {
                write!(
                    f,
                    "-m statistic --mode random --probability 0.{percent:02} -j DROP"
                )
            }
        }
    }
}

/// A namespace for each node, and the bridge between them.
pub(super) struct Namespaces {
    /// Tells these apart from those of other runs on the host.
    number: u8,
    nodes: usize,
}

impl Namespaces {
    fn make(nodes: usize) -> anyhow::Result<Namespaces> {
        let taken = |number: &u8| system(&format!("ip link show {}", bridge(*number))).is_ok();
        let mut numbers = std::iter::repeat_with(|| rand::rng().random_range(1..=254)).take(TRIES);
        let number = numbers
            .find(|number| !taken(number))
            .context("no free network")?;
        // From here on it is removed again if something fails.
        let namespaces = Namespaces { number, nodes };
        let bridge = bridge(number);
        system(&format!("ip link add {bridge} type bridge"))?;
        system(&format!("ip addr add 10.77.{number}.254/24 dev {bridge}"))?;
        system(&format!("ip link set {bridge} up"))?;
        for node in 0..nodes {
            let (name, ip, link) = (
                namespaces.name(node),
                namespaces.ip(node),
                namespaces.link(node),
            );
            for line in [
                format!("ip netns add {name}"),
                format!("ip link add {link} type veth peer name eth0 netns {name}"),
                format!("ip link set {link} master {bridge} up"),
                format!("ip -n {name} addr add {ip}/24 dev eth0"),
                format!("ip -n {name} link set eth0 up"),
                format!("ip -n {name} link set lo up"),
                // Asked once, so that a host without iptables is known before the first fault.
                format!("ip netns exec {name} iptables -n -L INPUT"),
            ] {
                system(&line)?;
            }
        }
        Ok(namespaces)
    }

    fn name(&self, node: usize) -> String {
        format!("lj{}n{}", self.number, node + 1)
    }

    fn link(&self, node: usize) -> String {
        format!("ljv{}n{}", self.number, node + 1)
    }

    fn ip(&self, node: usize) -> String {
        format!("10.77.{}.{}", self.number, node + 1)
    }

    /// Adds a rule behind the others.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn add(&self, rule: &Rule) -> anyhow::Result<()> {
        self.table(rule, "-A")
    }

    /// Removes a rule.
    ///
    /// # Errors
    /// If it is not there.
    pub(super) fn remove(&self, rule: &Rule) -> anyhow::Result<()> {
        self.table(rule, "-D")
    }

    fn table(&self, rule: &Rule, change: &str) -> anyhow::Result<()> {
        let (name, from) = (self.name(rule.to), self.ip(rule.from));
        system(&format!(
            "ip netns exec {name} iptables -w {change} INPUT -s {from} {}",
            rule.effect
        ))
        .map(|_| ())
    }

    /// How many packets the rules of a node have caught since they were added.
    ///
    /// # Errors
    /// If the system does not say.
    pub(super) fn caught(&self, node: usize) -> anyhow::Result<u64> {
        let list = system(&format!(
            "ip netns exec {} iptables -w -n -v -x -L INPUT",
            self.name(node)
        ))?;
        Ok(list
            .lines()
            .skip(2)
            .filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok())
            .sum())
    }

    /// All that a node sends goes at this rate from now on.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn slow_down(&self, node: usize, kbit: u32) -> anyhow::Result<()> {
        let name = self.name(node);
        system(&format!("ip netns exec {name} tc qdisc add dev eth0 root tbf rate {kbit}kbit burst 32k latency 400ms"))
            .map(|_| ())
    }

    /// How many packets have gone through the bottleneck of a node.
    ///
    /// # Errors
    /// If the system does not say.
    pub(super) fn slowed(&self, node: usize) -> anyhow::Result<u64> {
        let said = system(&format!(
            "ip netns exec {} tc -s qdisc show dev eth0",
            self.name(node)
        ))?;
        let words: Vec<&str> = said.split_whitespace().collect();
        let packets = words
            .windows(2)
            .find(|pair| pair[1].starts_with("pkt"))
            .and_then(|pair| pair[0].parse().ok());
        packets.with_context(|| format!("no packets in: {said}"))
    }

    /// The end of [`Namespaces::slow_down`].
    ///
    /// # Errors
    /// If it had not begun.
    pub(super) fn speed_up(&self, node: usize) -> anyhow::Result<()> {
        system(&format!(
            "ip netns exec {} tc qdisc del dev eth0 root",
            self.name(node)
        ))
        .map(|_| ())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for node in 0..self.nodes {
            let _ = system(&format!("ip link del {}", self.link(node)));
            let _ = system(&format!("ip netns del {}", self.name(node)));
        }
        let _ = system(&format!("ip link del {}", bridge(self.number)));
    }
}

fn bridge(number: u8) -> String {
    format!("ljb{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_are_words_of_iptables() {
        assert_eq!(
            Effect::Lose(5).to_string(),
            "-m statistic --mode random --probability 0.05 -j DROP"
        );
        assert_eq!(Effect::Drop.to_string(), "-j DROP");
    }

    #[test]
    fn addresses_of_nodes_differ() {
        let network = Network::Loopback(20_000);
        let all = (0..3).flat_map(|node| PORTS.map(|port| network.address(node, port)));
        let all: std::collections::BTreeSet<String> = all.collect();
        assert_eq!(all.len(), 9);
        assert!(network.namespaces().is_err());
    }
}
