//! Does to the cluster what was planned, and undoes it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::plan::{Act, Episode, Plan};
use super::{Fault, Layer};
use crate::db::{self, Db, Effect, READY, Rule};
use crate::history::{Kind, Process, Record, Recorder};

/// Between two looks whether a node has crashed.
const LOOK: Duration = Duration::from_millis(100);
/// Jumps of wall clocks, in seconds, forth and back.
const JUMP_S: std::ops::Range<i64> = 1..600;
/// Percent of packets that get lost.
const LOSS: std::ops::Range<u8> = 10..31;
/// Rates of slow links.
const KBIT: std::ops::Range<u32> = 500..8_000;

/// Hurts a cluster by a plan.
pub struct Nemesis {
    plan: Plan,
    is_idle: bool,
    recorder: Recorder,
    random: StdRng,
}

/// A fault that goes on.
struct Ongoing {
    fault: Fault,
    nodes: Vec<usize>,
    rules: Vec<Rule>,
    /// A shard's leader that must be deposed, with its shard.
    deposing: Option<(u64, usize)>,
    value: Value,
}

impl Nemesis {
    /// A nemesis that knows `faults`; none at all is allowed.
    pub fn new(seed: u64, faults: &[Fault], recorder: Recorder) -> Nemesis {
        Nemesis {
            plan: Plan::new(seed, faults.to_vec()),
            is_idle: faults.is_empty(),
            recorder,
            random: StdRng::seed_from_u64(seed.rotate_left(32)),
        }
    }

    /// Hurts the cluster until `end`, then waits until every node serves again, and says how long that took. The last
    /// fault may have been over for a while by then.
    ///
    /// # Errors
    /// If a node ends by itself or does not come back, or the system refuses.
    pub async fn run(&mut self, db: &mut Db, end: Instant) -> anyhow::Result<Duration> {
        while Instant::now() < end {
            let episode = self.plan.next_episode();
            watch(db, (Instant::now() + episode.peace).min(end)).await?;
            if !self.is_idle && Instant::now() < end {
                self.play(db, &episode).await?;
            }
        }
        let healed = Instant::now();
        for node in db.nodes() {
            db.wait_ready(node, READY).await?;
        }
        Ok(healed.elapsed())
    }

    async fn play(&mut self, db: &mut Db, episode: &Episode) -> anyhow::Result<()> {
        let all: Vec<usize> = db.nodes().collect();
        // Asked before the first of them begins: nodes that stand still do not say.
        let leaders = db.leaders(&all).await;
        let mut ongoing = Vec::new();
        for act in &episode.acts {
            ongoing.push(self.begin(db, act, &leaders).await?);
        }
        watch(db, Instant::now() + episode.lasts).await?;
        for fault in ongoing.into_iter().rev() {
            self.end(db, fault).await?;
        }
        Ok(())
    }

    async fn begin(
        &mut self,
        db: &mut Db,
        act: &Act,
        leaders: &BTreeMap<u64, usize>,
    ) -> anyhow::Result<Ongoing> {
        let nodes = db.nodes().len();
        let shard = self.random.random_range(1..=u64::from(db.shards().max(1)));
        let leader = leaders.get(&shard).copied();
        let hit = leader.unwrap_or(0);
        let mut ongoing = Ongoing {
            fault: act.fault,
            nodes: act.nodes(nodes, hit),
            rules: Vec::new(),
            deposing: leader
                .filter(|_| act.is_meant_to_depose())
                .map(|leader| (shard, leader)),
            value: Value::Null,
        };
        ongoing.value = self.describe(&mut ongoing, act, hit, nodes);
        self.note(&ongoing, "start")?;
        self.apply(db, &ongoing).await?;
        Ok(ongoing)
    }

    /// Draws the rest, and says for the history what it is.
    fn describe(&mut self, ongoing: &mut Ongoing, act: &Act, leader: usize, nodes: usize) -> Value {
        let names = |nodes: &[usize]| nodes.iter().map(|node| db::name(*node)).collect::<Vec<_>>();
        match act.fault {
            Fault::Kill | Fault::Pause | Fault::Power => {
                json!({ "nodes": names(&ongoing.nodes), "target": format!("{:?}", act.target).to_lowercase() })
            }
            Fault::Restart => {
                ongoing.nodes = (0..nodes).collect();
                json!({ "nodes": names(&ongoing.nodes) })
            }
            Fault::Partition | Fault::Reject => {
                let effect = if act.fault == Fault::Partition {
                    Effect::Drop
                } else {
                    Effect::Reset
                };
                let cuts = act.cuts(nodes, leader);
                ongoing.rules = cuts
                    .iter()
                    .map(|&(from, to)| Rule { from, to, effect })
                    .collect();
                let cuts: Vec<_> = cuts
                    .into_iter()
                    .map(|(from, to)| [db::name(from), db::name(to)])
                    .collect();
                json!({ "shape": act.shape.name(), "lostFromTo": cuts })
            }
            Fault::Loss => {
                let percent = self.random.random_range(LOSS);
                let effect = Effect::Lose(percent);
                let from = |to: usize| {
                    (0..nodes)
                        .filter(move |from| *from != to)
                        .map(move |from| Rule { from, to, effect })
                };
                ongoing.rules = ongoing.nodes.iter().flat_map(|to| from(*to)).collect();
                json!({ "nodes": names(&ongoing.nodes), "percent": percent })
            }
            Fault::Bandwidth => {
                json!({ "nodes": names(&ongoing.nodes), "kbit": self.random.random_range(KBIT) })
            }
            Fault::Clock => {
                let seconds = self.random.random_range(JUMP_S);
                let seconds = if self.random.random() {
                    seconds
                } else {
                    -seconds
                };
                json!({ "nodes": names(&ongoing.nodes), "seconds": seconds })
            }
        }
    }

    async fn apply(&mut self, db: &mut Db, ongoing: &Ongoing) -> anyhow::Result<()> {
        if ongoing.fault.layer() == Layer::Packets {
            return db.add_rules(&ongoing.rules);
        }
        for &node in &ongoing.nodes {
            match ongoing.fault {
                Fault::Kill => db.kill(node)?,
                Fault::Pause => db.pause(node)?,
                Fault::Power => db.cut_power(node)?,
                Fault::Restart => {
                    db.stop(node).await?;
                    db.start(node)?;
                    db.wait_ready(node, READY).await?;
                }
                Fault::Bandwidth => {
                    let kbit = ongoing.value["kbit"].as_u64().unwrap_or_default();
                    db.slow_down(node, u32::try_from(kbit)?)?;
                }
                Fault::Clock => {
                    db.set_clock(node, ongoing.value["seconds"].as_i64().unwrap_or_default())?
                }
                Fault::Partition | Fault::Reject | Fault::Loss => {}
            }
        }
        Ok(())
    }

    async fn end(&mut self, db: &mut Db, mut ongoing: Ongoing) -> anyhow::Result<()> {
        if let Some((shard, deposed)) = ongoing.deposing {
            let others: Vec<usize> = db.nodes().filter(|node| *node != deposed).collect();
            let leader = db.leaders(&others).await.get(&shard).copied();
            ongoing.value["leaderChange"] = json!(leader.is_some_and(|leader| leader != deposed));
        }
        let mut packets = None;
        if ongoing.fault.layer() == Layer::Packets {
            packets = Some(db.remove_rules(&ongoing.rules)?);
        }
        for &node in &ongoing.nodes {
            match ongoing.fault {
                Fault::Kill | Fault::Power => db.start(node)?,
                Fault::Pause => db.resume(node)?,
                Fault::Bandwidth => {
                    packets = Some(packets.unwrap_or_default() + db.speed_up(node)?)
                }
                Fault::Clock => db.set_clock(node, 0)?,
                Fault::Restart | Fault::Partition | Fault::Reject | Fault::Loss => {}
            }
        }
        if let Some(packets) = packets {
            ongoing.value["packets"] = json!(packets);
        }
        self.note(&ongoing, "end")
    }

    fn note(&self, ongoing: &Ongoing, phase: &str) -> anyhow::Result<()> {
        let mut record = Record::new(Process::nemesis(), Kind::Info, ongoing.fault.name());
        record.more.phase = Some(phase.to_owned());
        record.value = ongoing.value.clone();
        self.recorder.record(record)
    }
}

/// Lets time pass, and notices a crash.
async fn watch(db: &mut Db, until: Instant) -> anyhow::Result<()> {
    while Instant::now() < until {
        db.check_alive()?;
        tokio::time::sleep(LOOK.min(until.saturating_duration_since(Instant::now()))).await;
    }
    db.check_alive()
}
