//! `--outages`: takes the leader away again and again, and measures how long writes to its shards wait.
//!
//! What takes the node away, and brings it back, is a command of the caller's. A shard is back with the first
//! successful write that was sent after the command had ended; time counts from before the command was started, so
//! that the figure is never too good.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::process::Command;

use super::targets::{Guide, Targets};

/// How often the shards and the cluster are looked at.
const POLL: Duration = Duration::from_millis(20);
/// After all nodes say that they are well, time for the one that came back to catch up.
const SETTLE: Duration = Duration::from_secs(2);
/// How long a shard may take no write, and a cluster not be well, before the run is given up.
pub(super) const GIVE_UP: Duration = Duration::from_secs(60);
const SIGNIFICANT_DIGITS: u8 = 3;

/// Which shards have taken a write since a moment; shared with the clients.
#[derive(Debug)]
pub(super) struct Returns {
    state: Mutex<State>,
    /// Set once no more writes are needed.
    done: AtomicBool,
}

#[derive(Debug)]
struct State {
    /// Writes sent before it do not count.
    since: Option<Instant>,
    /// By shard; index 0 stands for a cluster whose shards are not known.
    returned: Vec<Option<Instant>>,
}

impl Returns {
    pub(super) fn new(shards: u32) -> Self {
        Self {
            state: Mutex::new(State {
                since: None,
                returned: vec![None; shards as usize + 1],
            }),
            done: AtomicBool::new(false),
        }
    }

    /// A write of `shard`, sent at `started`, was acknowledged at `ended`.
    pub(super) fn success(&self, shard: u32, started: Instant, ended: Instant) {
        let mut state = self.state.lock();
        if state.since.is_some_and(|since| started >= since)
            && let Some(returned) = state.returned.get_mut(shard as usize)
        {
            returned.get_or_insert(ended);
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// The clients may end.
    pub(super) fn stop(&self) {
        self.done.store(true, Ordering::Relaxed);
    }

    /// From now on writes count.
    fn begin(&self) {
        let mut state = self.state.lock();
        state.returned.fill(None);
        state.since = Some(Instant::now());
    }

    /// When each of the shards was back; `None`: not all of them are.
    fn all(&self, shards: &[usize]) -> Option<Vec<Instant>> {
        let state = self.state.lock();
        shards.iter().map(|shard| state.returned[*shard]).collect()
    }
}

/// What was measured.
pub(super) struct Outages {
    /// Of each shard at each outage; microseconds.
    shards: Histogram<u64>,
    /// Of each outage, its last shard.
    longest: Vec<Duration>,
}

impl Outages {
    /// Takes the node that leads most shards away `count` times.
    ///
    /// # Errors
    /// The command fails, or writes or the cluster do not come back in [`GIVE_UP`].
    pub(super) async fn run(
        count: u32,
        command: &str,
        targets: &Targets,
        guide: &Guide,
        returns: &Returns,
    ) -> anyhow::Result<Self> {
        let mut outages = Self {
            shards: new_histogram()?,
            longest: Vec::new(),
        };
        for number in 1..=count {
            let (node, shards) = busiest(&settled(targets, guide).await?)
                .with_context(|| format!("outage {number}: nobody leads a shard"))?;
            let started = Instant::now();
            take_away(command, &targets.hosts[node]).await?;
            returns.begin();
            let back = loop {
                match returns.all(&shards) {
                    Some(back) => break back,
                    None => anyhow::ensure!(
                        started.elapsed() < GIVE_UP,
                        "outage {number}: a shard of {} takes no writes after {} s",
                        targets.hosts[node],
                        GIVE_UP.as_secs()
                    ),
                }
                tokio::time::sleep(POLL).await;
            };
            outages.note(back.iter().map(|back| *back - started));
        }
        Ok(outages)
    }

    fn note(&mut self, waits: impl Iterator<Item = Duration>) {
        let mut longest = Duration::ZERO;
        for wait in waits {
            longest = longest.max(wait);
            self.shards
                .saturating_record(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX));
        }
        self.longest.push(longest);
    }

    /// Milliseconds: per shard, and of each outage until its last shard was back.
    pub(super) fn json(&self) -> Value {
        let millis = |duration: &Duration| duration.as_millis() as u64;
        let mut sorted: Vec<u64> = self.longest.iter().map(millis).collect();
        sorted.sort_unstable();
        let rank = |q: f64| sorted.get(((sorted.len() as f64 * q).ceil() as usize).max(1) - 1);
        let shard = |q: f64| self.shards.value_at_quantile(q) / 1000;
        json!({
            "count": sorted.len(), "p50Ms": rank(0.5), "p90Ms": rank(0.9), "p99Ms": rank(0.99), "maxMs": sorted.last(),
            "eachMs": self.longest.iter().map(millis).collect::<Vec<_>>(),
            "perShard": {
                "count": self.shards.len(), "p50Ms": shard(0.5), "p90Ms": shard(0.9), "p99Ms": shard(0.99),
                "maxMs": self.shards.max() / 1000,
            },
        })
    }
}

fn new_histogram() -> Result<Histogram<u64>, hdrhistogram::CreationError> {
    Histogram::new_with_bounds(1, GIVE_UP.as_micros() as u64, SIGNIFICANT_DIGITS)
}

/// Waits until every node is well, and still is after a while; then gives the leaders by shard.
async fn settled(targets: &Targets, guide: &Guide) -> anyhow::Result<Vec<Option<usize>>> {
    let give_up = Instant::now() + GIVE_UP;
    while Instant::now() < give_up {
        if targets.are_well(guide).await {
            tokio::time::sleep(SETTLE).await;
            // An election may have come in between.
            if targets.are_well(guide).await && targets.look(guide).await.is_ok() {
                return Ok(targets.document_leaders());
            }
        }
        tokio::time::sleep(POLL).await;
    }
    anyhow::bail!("the nodes are not all well after {} s", GIVE_UP.as_secs())
}

/// The node that leads most shards, and these shards.
fn busiest(leaders: &[Option<usize>]) -> Option<(usize, Vec<usize>)> {
    let led = |node: usize| -> Vec<usize> {
        (0..leaders.len())
            .filter(|shard| leaders[*shard] == Some(node))
            .collect()
    };
    let nodes = leaders.iter().flatten().copied().max()? + 1;
    (0..nodes)
        .map(|node| (node, led(node)))
        .max_by_key(|(_, shards)| shards.len())
}

async fn take_away(command: &str, host: &str) -> anyhow::Result<()> {
    let status = Command::new(command)
        .arg(host)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .with_context(|| format!("cannot run {command}"))?;
    anyhow::ensure!(status.success(), "{command} {host}: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_was_under_way_does_not_bring_a_shard_back() {
        let returns = Returns::new(2);
        let before = Instant::now();
        returns.success(1, before, before);
        returns.begin();
        let after = Instant::now() + Duration::from_millis(1);
        returns.success(1, before, after);
        assert_eq!(returns.all(&[1]), None);
        returns.success(1, after, after + Duration::from_millis(3));
        returns.success(1, after, after + Duration::from_millis(9));
        assert_eq!(
            returns.all(&[1]),
            Some(vec![after + Duration::from_millis(3)])
        );
        assert_eq!(returns.all(&[1, 2]), None);
    }

    #[test]
    fn the_node_with_most_shards_is_taken() {
        let leaders = [None, Some(2), Some(0), Some(2), None];
        assert_eq!(busiest(&leaders), Some((2, vec![1, 3])));
        assert_eq!(busiest(&[None]), None);
    }

    #[test]
    fn an_outage_lasts_until_its_last_shard_is_back() {
        let mut outages = Outages {
            shards: new_histogram().unwrap(),
            longest: Vec::new(),
        };
        for (one, two) in [(100, 300), (200, 50), (20, 10)] {
            outages.note([one, two].map(Duration::from_millis).into_iter());
        }
        let json = outages.json();
        assert_eq!(json["eachMs"], json!([300, 200, 20]));
        assert_eq!(
            (&json["p50Ms"], &json["p99Ms"], &json["maxMs"]),
            (&json!(200), &json!(300), &json!(300))
        );
        assert_eq!(json["perShard"]["count"], 6);
        assert_eq!(json["perShard"]["maxMs"], 300);
    }
}
