//! What is done to the cluster while the workload runs. Each fault has a start and an end in the history; between two
//! the cluster may heal, so that a run shows both going on and coming back.

pub mod partition;
pub mod plan;
mod run;

use std::str::FromStr;

use anyhow::bail;

use crate::db::Equipment;
pub use run::Nemesis;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// kill -9, later a start on the same data.
    Kill,
    /// SIGSTOP, later SIGCONT: clocks run on, leases expire.
    Pause,
    /// All nodes are stopped in order and started again, one after the other.
    Restart,
    /// Packets between groups of nodes are lost.
    Partition,
    /// Connections between groups of nodes are reset, and new ones refused.
    Reject,
    /// Some packets to some nodes are lost.
    Loss,
    /// What some nodes send goes slowly.
    Bandwidth,
    /// Wall clocks jump, forth or back, and later right.
    Clock,
    /// Disks lose what was not synced, with their nodes.
    Power,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Fault; 9] = [
        Fault::Kill,
        Fault::Pause,
        Fault::Restart,
        Fault::Partition,
        Fault::Reject,
        Fault::Loss,
        Fault::Bandwidth,
        Fault::Clock,
        Fault::Power,
    ];

    /// Its name in histories and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::Pause => "pause",
            Fault::Restart => "restart",
            Fault::Partition => "partition",
            Fault::Reject => "reject",
            Fault::Loss => "loss",
            Fault::Bandwidth => "bandwidth",
            Fault::Clock => "clock",
            Fault::Power => "power",
        }
    }

    /// What nodes must be prepared for.
    pub fn equipment(self) -> Option<Equipment> {
        match self {
            Fault::Kill | Fault::Pause | Fault::Restart => None,
            Fault::Partition | Fault::Reject | Fault::Loss | Fault::Bandwidth => {
                Some(Equipment::Network)
            }
            Fault::Clock => Some(Equipment::Clock),
            Fault::Power => Some(Equipment::Disk),
        }
    }

    /// Whether both can go on at once: two faults of one layer would get in each other's way, and a rolling restart
    /// waits for each node to serve.
    pub fn may_go_on_with(self, other: Fault) -> bool {
        let is_alone = |fault: Fault| fault == Fault::Restart;
        self.layer() != other.layer() && !is_alone(self) && !is_alone(other)
    }

    /// Where it takes place.
    pub fn layer(self) -> Layer {
        match self {
            Fault::Kill | Fault::Pause | Fault::Restart | Fault::Power => Layer::Process,
            Fault::Partition | Fault::Reject | Fault::Loss => Layer::Packets,
            Fault::Bandwidth => Layer::Rate,
            Fault::Clock => Layer::Clock,
        }
    }
}

/// Where a fault takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The process and its disk.
    Process,
    /// Which packets arrive.
    Packets,
    /// How fast they go.
    Rate,
    /// The wall clock.
    Clock,
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Fault> {
        match Fault::ALL.into_iter().find(|fault| fault.name() == text) {
            Some(fault) => Ok(fault),
            None => bail!(
                "no fault `{text}`: {}",
                Fault::ALL.map(Fault::name).join(", ")
            ),
        }
    }
}
