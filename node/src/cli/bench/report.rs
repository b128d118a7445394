//! What a benchmark measured: latencies per operation, errors, gaps per shard; as a table and as one line of JSON.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::client::Failure;
use super::workload::Operation;
use crate::cli::cluster::new_table;

/// A minute in microseconds: longer waits are cut off by every time-out.
const LATENCY_US_MAX: u64 = 60_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// Successes and failures of the clients of one thread.
pub(super) struct Recorder {
    /// In the order of [`Operation::ALL`]; microseconds.
    latencies: Vec<Histogram<u64>>,
    errors: BTreeMap<(Operation, String, &'static str), u64>,
    /// Reads of keys that should exist.
    missing: u64,
}

impl Recorder {
    pub(super) fn new() -> anyhow::Result<Self> {
        let histogram = |_| Histogram::new_with_bounds(1, LATENCY_US_MAX, SIGNIFICANT_DIGITS);
        let latencies = Operation::ALL
            .iter()
            .map(histogram)
            .collect::<Result<_, _>>();
        Ok(Self {
            latencies: latencies?,
            errors: BTreeMap::new(),
            missing: 0,
        })
    }

    pub(super) fn success(&mut self, operation: Operation, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latencies[operation as usize].saturating_record(micros.max(1));
    }

    pub(super) fn failure(&mut self, operation: Operation, failure: &Failure) {
        *self
            .errors
            .entry((operation, failure.code.to_string(), failure.effect.name()))
            .or_default() += 1;
    }

    pub(super) fn missing(&mut self) {
        self.missing += 1;
    }

    pub(super) fn merge(&mut self, other: &Self) -> anyhow::Result<()> {
        for (mine, theirs) in self.latencies.iter_mut().zip(&other.latencies) {
            mine.add(theirs)?;
        }
        for (key, count) in &other.errors {
            *self.errors.entry(key.clone()).or_default() += count;
        }
        self.missing += other.missing;
        Ok(())
    }

    pub(super) fn successes(&self) -> u64 {
        self.latencies.iter().map(Histogram::len).sum()
    }

    /// Successes of operations that write.
    pub(super) fn writes(&self) -> u64 {
        self.by_operation()
            .filter(|(operation, _)| operation.is_write())
            .map(|(_, histogram)| histogram.len())
            .sum()
    }

    fn by_operation(&self) -> impl Iterator<Item = (Operation, &Histogram<u64>)> {
        Operation::ALL
            .into_iter()
            .zip(&self.latencies)
            .filter(|(_, histogram)| !histogram.is_empty())
    }
}

/// The longest time without a success, per shard, over all clients and threads.
#[derive(Debug)]
pub(super) struct Gaps {
    start: Instant,
    /// Index 0 stands for a cluster whose shards are not known.
    shards: Vec<Gap>,
}

#[derive(Debug, Default)]
struct Gap {
    last_us: AtomicU64,
    longest_us: AtomicU64,
    used: AtomicBool,
}

impl Gaps {
    pub(super) fn new(start: Instant, shards: u32) -> Self {
        Self {
            start,
            shards: (0..=shards).map(|_| Gap::default()).collect(),
        }
    }

    pub(super) fn success(&self, shard: u32, at: Instant) {
        if let Some(gap) = self.shards.get(shard as usize) {
            gap.used.store(true, Ordering::Relaxed);
            gap.note(self.since_start(at));
        }
    }

    /// A shard that only ever fails has been without a success from the start.
    pub(super) fn failure(&self, shard: u32) {
        if let Some(gap) = self.shards.get(shard as usize) {
            gap.used.store(true, Ordering::Relaxed);
        }
    }

    /// Shards that were asked, with their longest gaps; the time from the start and until `end` counts.
    pub(super) fn finish(&self, end: Instant) -> BTreeMap<u32, Duration> {
        let mut gaps = BTreeMap::new();
        for (shard, gap) in (0..).zip(&self.shards) {
            if gap.used.load(Ordering::Relaxed) {
                gap.note(self.since_start(end));
                gaps.insert(
                    shard,
                    Duration::from_micros(gap.longest_us.load(Ordering::Relaxed)),
                );
            }
        }
        gaps
    }

    fn since_start(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_micros()).unwrap_or(u64::MAX)
    }
}

impl Gap {
    fn note(&self, now_us: u64) {
        let last = self.last_us.fetch_max(now_us, Ordering::Relaxed);
        self.longest_us
            .fetch_max(now_us.saturating_sub(last), Ordering::Relaxed);
    }
}

/// Everything about one run.
pub(super) struct Report {
    /// What was run: workload, protocol, clients and so on.
    pub(super) setting: Map<String, Value>,
    pub(super) elapsed: Duration,
    pub(super) recorder: Recorder,
    pub(super) write_gaps: BTreeMap<u32, Duration>,
    pub(super) read_gaps: BTreeMap<u32, Duration>,
    /// CPU time of this process.
    pub(super) client_cpu: Duration,
    /// CPU and memory of other processes.
    pub(super) processes: Vec<Value>,
    /// What all nodes did together, and what they counted.
    pub(super) servers: Value,
    pub(super) verify: Option<Value>,
    pub(super) outages: Option<Value>,
}

impl Report {
    fn throughput(&self) -> f64 {
        self.recorder.successes() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// One line.
    pub(super) fn json(&self) -> Value {
        let mut line = self.setting.clone();
        let operations = self.recorder.successes();
        line.insert(
            "seconds".to_owned(),
            json!(round(self.elapsed.as_secs_f64(), 3)),
        );
        line.insert("operations".to_owned(), json!(operations));
        line.insert("throughput".to_owned(), json!(round(self.throughput(), 1)));
        let latency: Map<String, Value> = self
            .recorder
            .by_operation()
            .map(|(operation, histogram)| {
                (operation.name().to_owned(), self.latency_json(histogram))
            })
            .collect();
        line.insert("latencyUs".to_owned(), latency.into());
        let errors: Vec<Value> = self
            .recorder
            .errors
            .iter()
            .map(|((operation, code, effect), count)| {
                json!({ "operation": operation.name(), "code": code, "effect": effect, "count": count })
            })
            .collect();
        line.insert("errors".to_owned(), errors.into());
        line.insert("missing".to_owned(), json!(self.recorder.missing));
        line.insert(
            "longestGapMs".to_owned(),
            json!({
                "write": gap_json(&self.write_gaps), "read": gap_json(&self.read_gaps),
            }),
        );
        line.insert(
            "clientCpuUsPerOperation".to_owned(),
            per_operation(self.client_cpu, operations),
        );
        line.insert("processes".to_owned(), self.processes.clone().into());
        line.insert("servers".to_owned(), self.servers.clone());
        if let Some(verify) = &self.verify {
            line.insert("verify".to_owned(), verify.clone());
        }
        if let Some(outages) = &self.outages {
            line.insert("outages".to_owned(), outages.clone());
        }
        line.into()
    }

    fn latency_json(&self, histogram: &Histogram<u64>) -> Value {
        json!({
            "count": histogram.len(),
            "perSecond": round(histogram.len() as f64 / self.elapsed.as_secs_f64().max(1e-9), 1),
            "mean": round(histogram.mean(), 1), "min": histogram.min(),
            "p50": histogram.value_at_quantile(0.50), "p90": histogram.value_at_quantile(0.90),
            "p99": histogram.value_at_quantile(0.99), "p999": histogram.value_at_quantile(0.999),
            "max": histogram.max(),
        })
    }

    /// For people, on standard error.
    pub(super) fn print(&self) {
        let mut table = new_table(&[
            "operation",
            "count",
            "per second",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "p99.9 ms",
            "max ms",
        ]);
        let millis = |micros: u64| format!("{:.2}", micros as f64 / 1000.0);
        for (operation, histogram) in self.recorder.by_operation() {
            let quantiles = [0.5, 0.9, 0.99, 0.999].map(|q| millis(histogram.value_at_quantile(q)));
            let mut row = vec![operation.name().to_owned(), histogram.len().to_string()];
            row.push(format!(
                "{:.0}",
                histogram.len() as f64 / self.elapsed.as_secs_f64().max(1e-9)
            ));
            row.extend(quantiles);
            row.push(millis(histogram.max()));
            table.add_row(row);
        }
        eprintln!("{table}");
        for ((operation, code, effect), count) in &self.recorder.errors {
            eprintln!(
                "{count} x {} failed: {code}, effect {effect}",
                operation.name()
            );
        }
        if self.recorder.missing > 0 {
            eprintln!(
                "{} reads of documents that were not there: use --load",
                self.recorder.missing
            );
        }
        for (what, gaps) in [("write", &self.write_gaps), ("read", &self.read_gaps)] {
            if let Some((shard, gap)) = gaps.iter().max_by_key(|(_, gap)| **gap) {
                eprintln!(
                    "longest time without a {what} on any shard: {} ms (shard {shard})",
                    gap.as_millis()
                );
            }
        }
        if let Some(outages) = &self.outages {
            let member = |name: &str| outages.get(name).cloned().unwrap_or_default();
            eprintln!(
                "{} outages: writes to all shards back after {} ms (p50), {} ms (p99), {} ms (longest)",
                member("count"),
                member("p50Ms"),
                member("p99Ms"),
                member("maxMs")
            );
        }
        eprintln!("{:.0} operations per second in all\n", self.throughput());
    }
}

fn gap_json(gaps: &BTreeMap<u32, Duration>) -> Value {
    let millis: Map<String, Value> = gaps
        .iter()
        .map(|(shard, gap)| (shard.to_string(), json!(gap.as_millis() as u64)))
        .collect();
    let max = gaps.values().max().map(|gap| gap.as_millis() as u64);
    json!({ "max": max, "shards": millis })
}

/// CPU microseconds for each operation.
pub(super) fn per_operation(cpu: Duration, operations: u64) -> Value {
    if operations == 0 {
        Value::Null
    } else {
        json!(round(cpu.as_micros() as f64 / operations as f64, 1))
    }
}

pub(super) fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::super::client::Effect;
    use super::*;

    #[test]
    fn the_gap_is_the_longest_time_between_two_successes_or_to_the_end() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let gaps = Gaps::new(start, 2);
        gaps.success(1, at(100));
        gaps.success(1, at(400));
        // Clocks of two threads may be seen out of order.
        gaps.success(1, at(350));
        gaps.success(1, at(500));
        assert_eq!(
            gaps.finish(at(600)),
            BTreeMap::from([(1, Duration::from_millis(300))])
        );
        assert_eq!(
            gaps.finish(at(1600)),
            BTreeMap::from([(1, Duration::from_millis(1000))])
        );
    }

    #[test]
    fn a_shard_that_never_succeeded_counts_from_the_start_and_one_never_asked_not_at_all() {
        let start = Instant::now();
        let gaps = Gaps::new(start, 3);
        gaps.failure(2);
        gaps.success(3, start + Duration::from_millis(600));
        let found = gaps.finish(start + Duration::from_millis(1000));
        assert_eq!(
            found,
            BTreeMap::from([
                (2, Duration::from_millis(1000)),
                (3, Duration::from_millis(600))
            ])
        );
    }

    #[test]
    fn recorders_add_up_and_the_report_is_one_line() {
        let mut one = Recorder::new().unwrap();
        let mut two = Recorder::new().unwrap();
        one.success(Operation::Read, Duration::from_millis(2));
        two.success(Operation::Read, Duration::from_millis(4));
        two.failure(
            Operation::Update,
            &Failure::here("timeout", Effect::Unknown),
        );
        one.merge(&two).unwrap();
        let report = Report {
            setting: Map::new(),
            elapsed: Duration::from_secs(2),
            recorder: one,
            write_gaps: BTreeMap::new(),
            read_gaps: BTreeMap::from([(3, Duration::from_millis(5))]),
            client_cpu: Duration::from_micros(30),
            processes: Vec::new(),
            servers: Value::Null,
            verify: None,
            outages: None,
        };
        let json = report.json();
        assert_eq!(json["operations"], 2);
        assert_eq!(json["throughput"], 1.0);
        assert_eq!(json["clientCpuUsPerOperation"], 15.0);
        assert_eq!(json["longestGapMs"]["read"]["shards"]["3"], 5);
        assert_eq!(
            json["errors"][0],
            json!({"operation":"update","code":"timeout","effect":"unknown","count":1})
        );
        assert!(!json.to_string().contains('\n'));
    }
}
