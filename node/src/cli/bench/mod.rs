//! `larder bench`: closed-loop load, measured; and with `--verify`, judged.
//!
//! Every client sends its next request when the last was answered. The client side is made to cost little CPU, since
//! it usually runs on the machine that it measures; what it costs is part of the report.

mod client;
mod grpc;
mod http;
mod process;
mod report;
mod runner;
mod targets;
mod verify;
mod workload;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use reqwest::Method;
use serde_json::{Map, Value, json};

use self::report::{Gaps, Recorder, Report, per_operation};
use self::runner::{Outcome, Run, Task};
use self::targets::{Route, Targets};
use self::verify::Findings;
use self::workload::{Distribution, Keys, Mix, Operation, Workload, key_name};
use super::client::{Client, Connect, Output, OutputArgs, Request, segment, usage};
use super::cluster::AdminClient;
use super::exit::{Exit, Status};
use super::import::create_bucket;

/// A new bucket becomes known to the admin API's node within this time.
const BUCKET_KNOWN_WITHIN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// Measures a cluster under load
///
/// Prints one line of JSON per number of clients on standard output, and a table on standard error. With --verify it
/// also checks that no acknowledged write is lost, whatever happens to the nodes meanwhile.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  larder bench --clients 1,64,256 --workload a\n  \
    larder bench --mix read=0,update=100 --protocol grpc --route leader --duration 60s\n  \
    larder bench --verify --duration 60s   # kill nodes meanwhile; exit status 1 on any loss"
)]
pub struct Bench {
    /// A mix of YCSB
    #[arg(long, value_enum, default_value = "a", conflicts_with = "mix")]
    workload: Workload,
    /// A mix of your own, in percent, for example read=50,update=40,insert=5,scan=5
    #[arg(long, value_name = "SHARES")]
    mix: Option<Mix>,
    /// Which keys are hit [default: zipfian; latest with workload d]
    #[arg(long, value_enum)]
    distribution: Option<Distribution>,
    /// Documents to work on
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    keys: u64,
    /// Bytes of the text in each document
    #[arg(long, default_value_t = 1024)]
    value_bytes: u32,
    /// Clients at once; several numbers are run one after another
    #[arg(long, default_value = "64", value_delimiter = ',', value_name = "N,...",
        value_parser = clap::value_parser!(u32).range(1..=65_536))]
    clients: Vec<u32>,
    /// How long to measure
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    duration: Duration,
    /// How long to run before measuring
    #[arg(long, default_value = "3s", value_parser = duration, value_name = "TIME")]
    warmup: Duration,
    /// How to speak to the nodes; scans are gRPC in any case
    #[arg(long, value_enum, default_value = "http")]
    protocol: Protocol,
    /// Which node is asked
    #[arg(long, value_enum, default_value = "any")]
    route: Route,
    /// A node's client address; repeat for each [default: all that the admin API names]
    #[arg(long, env = "LARDER_URL", value_delimiter = ',', value_name = "URL")]
    url: Vec<String>,
    /// A node's admin address, to find nodes, shards and leaders; repeat for more
    #[arg(
        long,
        env = "LARDER_ADMIN_URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7402",
        value_name = "URL"
    )]
    admin: Vec<String>,
    /// The bucket to use; made as an open one if it is missing
    #[arg(long, default_value = "Bench", value_parser = bucket_name, value_name = "NAME")]
    bucket: String,
    /// Write all documents first, also where they seem to be there
    #[arg(long)]
    load: bool,
    /// One writer per key; judge every read, and in the end read each key from each node
    #[arg(long, conflicts_with = "load")]
    verify: bool,
    /// Threads of the load generator
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Processes on this machine whose CPU time and memory to report, usually the nodes
    #[arg(long, value_delimiter = ',', value_name = "PID,...")]
    pid: Vec<u32>,
    /// A file that holds a token, to make the bucket with
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    token_file: Option<PathBuf>,
    /// The user to make the bucket with
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// A file that holds the user's password
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// How clients speak to nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Http,
    Grpc,
}

/// `30s`, `500ms`, `2m`, or seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("`{text}` is no time such as 30s, 500ms or 2m"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "" | "s" => Ok(Duration::from_secs(number)),
        "m" if number <= u64::MAX / 60 => Ok(Duration::from_secs(number * 60)),
        _ => Err(format!("`{unit}` is none of ms, s, m")),
    }
}

/// Names that need no encoding in a path.
fn bucket_name(text: &str) -> Result<String, String> {
    let plain = !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
    if plain {
        Ok(text.to_owned())
    } else {
        Err("letters, digits, `_` and `.`".to_owned())
    }
}

/// Runs `larder bench`.
pub(crate) fn run(bench: &Bench) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(bench.run())
}

impl Bench {
    fn mix(&self) -> Mix {
        self.mix.unwrap_or_else(|| Mix::of(self.workload))
    }

    fn distribution(&self) -> Distribution {
        self.distribution.unwrap_or(match self.workload {
            Workload::D if self.mix.is_none() => Distribution::Latest,
            _ => Distribution::Zipfian,
        })
    }

    async fn run(&self) -> anyhow::Result<()> {
        let mix = self.mix();
        if self.verify && mix.share(Operation::Read) == 100 {
            return Err(usage("--verify needs a mix that writes"));
        }
        let admins = self
            .admin
            .iter()
            .map(|url| AdminClient::new(url))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let first = Targets::find(&self.url, &admins, &self.bucket, Route::Any).await?;
        let loaded = self.ensure_bucket(&first.hosts).await?;
        let targets = Arc::new(self.find_targets(&admins, first).await?);
        if !self.verify && (self.load || !loaded) {
            self.load(&targets, &admins).await?;
        }
        let mut clean = true;
        for &clients in &self.clients {
            let (report, findings) = self
                .measure(&targets, &admins, clients as usize, mix)
                .await?;
            if self.output.output == Output::Text {
                eprintln!("{clients} clients:");
                report.print();
                if self.verify {
                    findings.print();
                }
            }
            println!("{}", report.json());
            clean &= findings.is_clean();
        }
        if clean {
            Ok(())
        } else {
            Err(Exit::silent(Status::Error).into())
        }
    }

    /// Makes the bucket if it is missing; true if its last document is there.
    async fn ensure_bucket(&self, hosts: &[String]) -> anyhow::Result<bool> {
        let path = format!("/db/{}/{}", segment(&self.bucket), key_name(self.keys - 1));
        let mut last = anyhow::anyhow!("there are no nodes");
        for host in hosts {
            let url = format!("http://{host}");
            let failure = match Client::anonymous(&url)?
                .send(Method::GET, &path, Request::default())
                .await
            {
                Ok(_) => return Ok(true),
                Err(failure) => failure,
            };
            match failure.status {
                404 => return Ok(false),
                461 => {
                    let root = Client::connect_as_root(&self.connect(url)).await?;
                    create_bucket(&root, &self.bucket)
                        .await
                        .map_err(|failure| failure.report(Output::Text))?;
                    return Ok(false);
                }
                _ => last = failure.report(Output::Text),
            }
        }
        Err(last)
    }

    fn connect(&self, url: String) -> Connect {
        Connect {
            url,
            token_file: self.token_file.clone(),
            user: self.user.clone(),
            password_file: self.password_file.clone(),
        }
    }

    /// The targets once the bucket is known to the admin API; without it shards are not told apart.
    async fn find_targets(
        &self,
        admins: &[AdminClient],
        first: Targets,
    ) -> anyhow::Result<Targets> {
        if first.shards > 0 && self.route == Route::Any {
            return Ok(first);
        }
        let deadline = Instant::now() + BUCKET_KNOWN_WITHIN;
        loop {
            match Targets::find(&self.url, admins, &self.bucket, self.route).await {
                Ok(targets) if targets.shards > 0 || Instant::now() >= deadline => {
                    return Ok(targets);
                }
                Err(error) if Instant::now() >= deadline => return Err(error),
                Ok(_) | Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    async fn load(&self, targets: &Arc<Targets>, admins: &[AdminClient]) -> anyhow::Result<()> {
        eprintln!(
            "loading {} documents of {} bytes into {}",
            self.keys, self.value_bytes, self.bucket
        );
        let now = Instant::now();
        let clients = self.clients.iter().copied().max().unwrap_or(1) as usize;
        let run = self.prepare(targets, clients, Task::Load(self.keys), now, now);
        self.finish(&run, run.start(), targets, admins).await?;
        eprintln!("loaded in {:.1} s", now.elapsed().as_secs_f64());
        Ok(())
    }

    fn prepare(
        &self,
        targets: &Arc<Targets>,
        clients: usize,
        task: Task,
        from: Instant,
        to: Instant,
    ) -> Arc<Run> {
        Arc::new(Run {
            targets: Arc::clone(targets),
            bucket: self.bucket.clone(),
            protocol: self.protocol,
            clients,
            threads: usize::from(self.threads).min(clients),
            value_bytes: self.value_bytes as usize,
            keys: Keys::new(
                self.distribution(),
                self.keys,
                clients as u64,
                rand::random(),
            ),
            task,
            measure_from: from,
            stop_at: to,
            write_gaps: Gaps::new(from, targets.shards),
            read_gaps: Gaps::new(from, targets.shards),
            loading: AtomicU64::new(0),
        })
    }

    async fn measure(
        &self,
        targets: &Arc<Targets>,
        admins: &[AdminClient],
        clients: usize,
        mix: Mix,
    ) -> anyhow::Result<(Report, Findings)> {
        let task = if self.verify {
            let keys_per_client = (self.keys / clients as u64).max(1);
            Task::Verify {
                mix,
                keys_per_client,
                run: rand::random(),
            }
        } else {
            Task::Mix(mix)
        };
        let from = Instant::now() + self.warmup;
        let run = self.prepare(targets, clients, task, from, from + self.duration);
        let threads = run.start();
        let watch = async {
            tokio::time::sleep_until(from.into()).await;
            let before = self.processor_times();
            tokio::time::sleep_until(run.stop_at.into()).await;
            (before, self.processor_times())
        };
        let (outcome, (before, after)) =
            tokio::join!(self.finish(&run, threads, targets, admins), watch);
        let (recorder, findings, ended) = outcome?;
        let operations = recorder.successes();
        let report = Report {
            setting: self.setting(targets, clients),
            elapsed: ended.saturating_duration_since(from),
            write_gaps: run.write_gaps.finish(run.stop_at),
            read_gaps: run.read_gaps.finish(run.stop_at),
            recorder,
            client_cpu: spent(before[0], after[0]).unwrap_or_default(),
            processes: self.processes(&before[1..], &after[1..], operations),
            verify: self.verify.then(|| findings.json()),
        };
        Ok((report, findings))
    }

    /// Waits for the threads; follows the leaders meanwhile if the route needs them.
    async fn finish(
        &self,
        run: &Run,
        threads: Vec<std::thread::JoinHandle<anyhow::Result<Outcome>>>,
        targets: &Targets,
        admins: &[AdminClient],
    ) -> anyhow::Result<(Recorder, Findings, Instant)> {
        let done = async {
            while threads.iter().any(|thread| !thread.is_finished()) {
                tokio::time::sleep(POLL).await;
            }
        };
        match targets.route {
            Route::Any => done.await,
            Route::Leader => tokio::select! {
                () = done => {}
                () = targets.follow(admins) => {}
            },
        }
        let (mut recorder, mut findings, mut ended) =
            (Recorder::new()?, Findings::default(), run.measure_from);
        for thread in threads {
            let outcome = thread
                .join()
                .map_err(|_| anyhow::anyhow!("a load thread panicked"))??;
            recorder.merge(&outcome.recorder)?;
            findings.merge(outcome.findings);
            ended = ended.max(outcome.ended);
        }
        Ok((recorder, findings, ended))
    }

    fn setting(&self, targets: &Targets, clients: usize) -> Map<String, Value> {
        let shares: Map<String, Value> = Operation::ALL
            .into_iter()
            .filter(|operation| self.mix().share(*operation) > 0)
            .map(|operation| {
                (
                    operation.name().to_owned(),
                    json!(self.mix().share(operation)),
                )
            })
            .collect();
        let name = |value: Option<clap::builder::PossibleValue>| {
            value.map(|value| value.get_name().to_owned())
        };
        let setting = json!({
            "workload": if self.mix.is_some() { None } else { name(self.workload.to_possible_value()) },
            "mix": shares, "distribution": self.distribution().name(), "protocol": name(self.protocol.to_possible_value()),
            "route": name(self.route.to_possible_value()), "clients": clients, "threads": self.threads, "keys": self.keys,
            "valueBytes": self.value_bytes, "nodes": targets.hosts.len(), "shards": targets.shards,
        });
        setting.as_object().cloned().unwrap_or_default()
    }

    /// CPU time of this process, then of each named one.
    fn processor_times(&self) -> Vec<Option<Duration>> {
        std::iter::once(std::process::id())
            .chain(self.pid.iter().copied())
            .map(process::cpu)
            .collect()
    }

    fn processes(
        &self,
        before: &[Option<Duration>],
        after: &[Option<Duration>],
        operations: u64,
    ) -> Vec<Value> {
        let spent = before
            .iter()
            .zip(after)
            .map(|(before, after)| spent(*before, *after));
        let processes = self.pid.iter().zip(spent).map(|(pid, cpu)| {
            let (memory, peak) = process::memory(*pid).unzip();
            json!({
                "pid": pid, "cpuSeconds": cpu.map(|cpu| cpu.as_secs_f64()), "memoryBytes": memory,
                "memoryPeakBytes": peak, "cpuUsPerOperation": cpu.map(|cpu| per_operation(cpu, operations)),
            })
        });
        processes.collect()
    }
}

fn spent(before: Option<Duration>, after: Option<Duration>) -> Option<Duration> {
    Some(after?.saturating_sub(before?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "s", "-1s", "1h", "1.5s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bucket_names_need_no_encoding() {
        assert!(bucket_name("logs.AppLog").is_ok());
        assert!(bucket_name("a/b").is_err());
        assert!(bucket_name("").is_err());
    }
}
