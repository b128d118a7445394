//! Faults of processes: one node, a majority or all of them are killed or paused, and come back.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::Fault;
use crate::db::Db;
use crate::history::{Kind, Recorder};

/// How long a fault lasts: from shorter than an election to several of them.
const LASTS_MS: std::ops::Range<u64> = 200..3_000;
/// How long the cluster is left alone afterwards.
const PEACE_MS: std::ops::Range<u64> = 500..3_000;
/// Between two looks whether a node has crashed.
const LOOK: Duration = Duration::from_millis(100);
/// A node that came back serves within this.
const BACK_WITHIN: Duration = Duration::from_secs(30);

/// Draws and applies faults.
pub struct Nemesis {
    random: StdRng,
    faults: Vec<Fault>,
    recorder: Recorder,
    /// How often each fault happened, in the order of `faults`.
    counts: Vec<usize>,
}

/// What is drawn for one fault.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    fault: usize,
    nodes: Vec<usize>,
    lasts: Duration,
    peace: Duration,
}

impl Nemesis {
    /// A nemesis that knows `faults`; none at all is allowed.
    pub fn new(seed: u64, faults: Vec<Fault>, recorder: Recorder) -> Nemesis {
        let counts = vec![0; faults.len()];
        Nemesis {
            random: StdRng::seed_from_u64(!seed),
            faults,
            recorder,
            counts,
        }
    }

    /// Hurts the cluster until `end`, then waits until every node serves again.
    ///
    /// # Errors
    /// If a node ends by itself, or does not come back.
    pub async fn run(&mut self, db: &mut Db, end: Instant) -> anyhow::Result<()> {
        while Instant::now() < end {
            let plan = self.plan(db.nodes().len());
            watch(db, plan.peace, end).await?;
            if self.faults.is_empty() || Instant::now() >= end {
                continue;
            }
            let fault = self.faults[plan.fault];
            self.note(fault, "begin", &plan.nodes)?;
            for &node in &plan.nodes {
                match fault {
                    Fault::Kill => db.kill(node)?,
                    Fault::Pause => db.pause(node)?,
                }
            }
            watch(db, plan.lasts, end + BACK_WITHIN).await?;
            for &node in &plan.nodes {
                match fault {
                    Fault::Kill => db.start(node)?,
                    Fault::Pause => db.resume(node)?,
                }
            }
            self.note(fault, "end", &plan.nodes)?;
            self.counts[plan.fault] += 1;
        }
        for node in db.nodes() {
            db.wait_ready(node, BACK_WITHIN).await?;
        }
        Ok(())
    }

    /// Faults that were asked for and never happened: such a run shows nothing about them.
    pub fn missing(&self) -> Vec<&'static str> {
        let missing = self
            .faults
            .iter()
            .zip(&self.counts)
            .filter(|(_, count)| **count == 0);
        missing.map(|(fault, _)| fault.name()).collect()
    }

    fn plan(&mut self, nodes: usize) -> Plan {
        let fault = self.random.random_range(0..self.faults.len().max(1));
        let mut all: Vec<usize> = (0..nodes).collect();
        all.shuffle(&mut self.random);
        // Mostly one, which must go unnoticed; sometimes a majority or all, which must lose nothing.
        let hit = match self.random.random_range(0..10) {
            0..6 => 1,
            6..8 => nodes / 2 + 1,
            _ => nodes,
        };
        all.truncate(hit);
        all.sort_unstable();
        let lasts = Duration::from_millis(self.random.random_range(LASTS_MS));
        let peace = Duration::from_millis(self.random.random_range(PEACE_MS));
        Plan {
            fault,
            nodes: all,
            lasts,
            peace,
        }
    }

    fn note(&self, fault: Fault, phase: &str, nodes: &[usize]) -> anyhow::Result<()> {
        let kind = Kind::Fault {
            fault: fault.name().to_owned(),
            phase: phase.to_owned(),
            nodes: nodes.to_vec(),
        };
        self.recorder.record("nemesis", kind)
    }
}

/// Lets time pass, and notices a crash.
async fn watch(db: &mut Db, lasts: Duration, end: Instant) -> anyhow::Result<()> {
    let until = (Instant::now() + lasts).min(end);
    while Instant::now() < until {
        db.check_alive()?;
        tokio::time::sleep(LOOK.min(until.saturating_duration_since(Instant::now()))).await;
    }
    db.check_alive()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plans(seed: u64) -> Vec<Plan> {
        let dir = tempfile::tempdir().expect("temporary folder");
        let recorder = Recorder::create(&dir.path().join("history")).expect("a file");
        let mut nemesis = Nemesis::new(seed, vec![Fault::Kill, Fault::Pause], recorder);
        (0..50).map(|_| nemesis.plan(3)).collect()
    }

    #[test]
    fn a_seed_is_a_plan_with_every_fault_on_one_most_and_all() {
        let seven = plans(7);
        assert_eq!(seven, plans(7));
        assert_ne!(seven, plans(8));
        for fault in [0, 1] {
            assert!(seven.iter().any(|plan| plan.fault == fault));
        }
        for hit in 1..=3 {
            assert!(
                seven.iter().any(|plan| plan.nodes.len() == hit),
                "{hit} nodes"
            );
        }
    }
}
