//! What is done to the cluster while the workload runs. Each fault has a begin and an end; between two faults the
//! cluster may heal, so that a run shows both going on and coming back.

pub mod process;

use std::str::FromStr;

use anyhow::bail;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// kill -9, later a start on the same data.
    Kill,
    /// SIGSTOP, later SIGCONT: clocks run on, leases expire.
    Pause,
}

impl Fault {
    /// Its name in histories and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::Pause => "pause",
        }
    }
}

impl FromStr for Fault {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Fault> {
        match text {
            "kill" => Ok(Fault::Kill),
            "pause" => Ok(Fault::Pause),
            other => bail!("no fault `{other}`: kill or pause"),
        }
    }
}
