//! `larder bench`: closed-loop load, measured; and with `--verify`, judged.
//!
//! Every client sends its next request when the last was answered. The client side is made to cost little CPU, since
//! it usually runs on the machine that it measures; what it costs is part of the report.

mod client;
mod counters;
mod etcd;
mod grpc;
mod http;
mod outage;
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

use clap::{Args, ValueEnum as _};
use reqwest::Method;
use serde_json::{Map, Value, json};

use self::client::{Access, Level, Protocol, System};
use self::counters::Counters;
use self::outage::{Outages, Returns};
use self::report::{Gaps, Recorder, Report, per_operation, round};
use self::runner::{Outcome, Run, Task};
use self::targets::{Guide, Route, Targets};
use self::verify::Findings;
use self::workload::{Distribution, Keys, Mix, Operation, Workload, key_name};
use super::client::{Client, Connect, Output, OutputArgs, Request, segment, usage};
use super::cluster::AdminClient;
use super::exit::{Exit, Status};
use super::import::create_bucket;
use super::tls::{TlsArgs, is_secure};

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
    larder bench --target etcd http://127.0.0.1:2379,http://127.0.0.1:22379 --mix read=100\n  \
    larder bench --verify --duration 60s   # kill nodes meanwhile; exit status 1 on any loss"
)]
pub struct Bench {
    /// Nodes to ask, as with --url, before which they go
    #[arg(value_delimiter = ',', value_name = "URL")]
    nodes: Vec<String>,
    /// What is measured; members of etcd must be named
    #[arg(long, value_enum, default_value = "larder")]
    target: System,
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
    /// How to speak to the nodes; scans, and all of etcd, are gRPC in any case [default: http; grpc for etcd]
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// What reads promise
    #[arg(long, value_enum, default_value = "linearizable")]
    consistency: Level,
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
    /// Take the node that leads most shards away so many times, and measure until writes to its shards are back;
    /// ends when done, whatever --duration says
    #[arg(long, requires = "outage_command", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    outages: Option<u32>,
    /// Takes away the node whose host:port is its argument; something must bring it back
    #[arg(long, requires = "outages", value_name = "PROGRAM")]
    outage_command: Option<String>,
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
    tls: TlsArgs,
    #[command(flatten)]
    output: OutputArgs,
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
        self.check(mix)?;
        let guide = self.guide()?;
        let first = guide.find(self.urls(), &self.bucket, Route::Any).await?;
        let loaded = match self.target {
            System::Larder => self.ensure_bucket(&first.hosts).await?,
            System::Etcd => self.is_loaded(&first.hosts).await?,
        };
        let targets = Arc::new(self.find_targets(&guide, first).await?);
        if !self.verify && (self.load || !loaded) {
            self.load(&targets, &guide).await?;
        }
        let mut clean = true;
        for &clients in &self.clients {
            let (report, findings) = self
                .measure(&targets, &guide, clients as usize, mix)
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

    /// Refuses what cannot be.
    fn check(&self, mix: Mix) -> anyhow::Result<()> {
        if self.verify {
            if mix.share(Operation::Read) == 100 {
                return Err(usage("--verify needs a mix that writes"));
            }
            if self.consistency != Level::Linearizable {
                return Err(usage("--verify judges linearizable reads only"));
            }
        }
        let writes = Operation::ALL
            .into_iter()
            .any(|operation| operation.is_write() && mix.share(operation) > 0);
        if self.outages.is_some() && !writes {
            return Err(usage("--outages needs a mix that writes"));
        }
        if self.target == System::Etcd {
            if self.nodes.is_empty() {
                return Err(usage("--target etcd needs the members' client URLs"));
            }
            if self.protocol == Some(Protocol::Http) {
                return Err(usage("--target etcd speaks gRPC only"));
            }
            if self.scheme() == "https" {
                return Err(usage("--target etcd is measured over http:// only"));
            }
            // Both need a condition on the write.
            if self.verify || mix.share(Operation::Insert) > 0 {
                return Err(usage("--target etcd has neither --verify nor inserts"));
            }
        }
        Ok(())
    }

    fn urls(&self) -> &[String] {
        if self.nodes.is_empty() {
            &self.url
        } else {
            &self.nodes
        }
    }

    fn protocol(&self) -> Protocol {
        match self.target {
            System::Larder => self.protocol.unwrap_or(Protocol::Http),
            System::Etcd => Protocol::Grpc,
        }
    }

    fn access(&self) -> anyhow::Result<Access> {
        Ok(Access {
            system: self.target,
            protocol: self.protocol(),
            bucket: self.bucket.clone(),
            level: self.consistency,
            secure: self.tls.secure(self.speaks().iter().map(String::as_str))?,
        })
    }

    /// The addresses whose scheme is that of the nodes' client ports: their own, or those of the admin ports beside them.
    fn speaks(&self) -> &[String] {
        match self.urls() {
            [] => &self.admin,
            urls => urls,
        }
    }

    /// `http` or `https`, of the nodes' client ports.
    fn scheme(&self) -> &'static str {
        match self.speaks().iter().any(|url| is_secure(url)) {
            true => "https",
            false => "http",
        }
    }

    fn guide(&self) -> anyhow::Result<Guide> {
        Ok(match self.target {
            System::Larder => Guide::Larder(
                self.admin
                    .iter()
                    .map(|url| AdminClient::new(url, &self.tls))
                    .collect::<anyhow::Result<Vec<_>>>()?,
            ),
            System::Etcd => Guide::Etcd,
        })
    }

    /// True if the last key is there; the first member that answers decides.
    async fn is_loaded(&self, hosts: &[String]) -> anyhow::Result<bool> {
        let access = self.access()?;
        let pool = grpc::Pool::new(hosts, 1, access.secure.as_ref())?;
        let mut client = access.client(hosts, &pool);
        let key = key_name(self.keys - 1);
        let mut last = anyhow::anyhow!("there are no members");
        for (node, host) in hosts.iter().enumerate() {
            match client.read(node, &key).await {
                Ok(found) => return Ok(found.is_some()),
                Err(failure) => last = anyhow::anyhow!("{host}: {}", failure.code),
            }
        }
        Err(last)
    }

    /// Makes the bucket if it is missing; true if its last document is there.
    async fn ensure_bucket(&self, hosts: &[String]) -> anyhow::Result<bool> {
        let path = format!("/db/{}/{}", segment(&self.bucket), key_name(self.keys - 1));
        let mut last = anyhow::anyhow!("there are no nodes");
        for host in hosts {
            let url = format!("{}://{host}", self.scheme());
            let failure = match Client::anonymous(&url, &self.tls)?
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
            tls: self.tls.clone(),
        }
    }

    /// The targets once the bucket is known to the admin API; without it shards are not told apart.
    async fn find_targets(&self, guide: &Guide, first: Targets) -> anyhow::Result<Targets> {
        if self.target == System::Etcd {
            return guide.find(self.urls(), &self.bucket, self.route).await;
        }
        if first.shards > 0 && self.route == Route::Any {
            return Ok(first);
        }
        let deadline = Instant::now() + BUCKET_KNOWN_WITHIN;
        loop {
            match guide.find(self.urls(), &self.bucket, self.route).await {
                Ok(targets) if targets.shards > 0 || Instant::now() >= deadline => {
                    return Ok(targets);
                }
                Err(error) if Instant::now() >= deadline => return Err(error),
                Ok(_) | Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    async fn load(&self, targets: &Arc<Targets>, guide: &Guide) -> anyhow::Result<()> {
        eprintln!(
            "loading {} documents of {} bytes into {}",
            self.keys, self.value_bytes, self.bucket
        );
        let now = Instant::now();
        let clients = self.clients.iter().copied().max().unwrap_or(1) as usize;
        let run = self.prepare(targets, clients, Task::Load(self.keys), now, now)?;
        self.finish(&run, run.start(), targets, guide).await?;
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
    ) -> anyhow::Result<Arc<Run>> {
        Ok(Arc::new(Run {
            targets: Arc::clone(targets),
            access: self.access()?,
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
            returns: self.outages.map(|_| Returns::new(targets.shards)),
            loading: AtomicU64::new(0),
        }))
    }

    async fn measure(
        &self,
        targets: &Arc<Targets>,
        guide: &Guide,
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
        // Outages end when they are done; a lost one is given up long before this.
        let duration = match self.outages {
            Some(count) => (outage::GIVE_UP * 2).saturating_mul(count),
            None => self.duration,
        };
        let run = self.prepare(targets, clients, task, from, from + duration)?;
        let threads = run.start();
        let watch = async {
            tokio::time::sleep_until(from.into()).await;
            let before = self.usage(targets).await;
            let outages = self.outages(&run, guide).await;
            if self.outages.is_none() {
                tokio::time::sleep_until(run.stop_at.into()).await;
            }
            (before, self.usage(targets).await, outages)
        };
        let (outcome, (before, after, outages)) =
            tokio::join!(self.finish(&run, threads, targets, guide), watch);
        let (recorder, findings, ended) = outcome?;
        let outages = outages?;
        let end = run.stop_at.min(ended);
        let report = Report {
            setting: self.setting(targets, clients),
            elapsed: ended.saturating_duration_since(from),
            write_gaps: run.write_gaps.finish(end),
            read_gaps: run.read_gaps.finish(end),
            client_cpu: spent(before.own_cpu, after.own_cpu).unwrap_or_default(),
            processes: self.processes(&before, &after, recorder.successes()),
            servers: self.servers(&before, &after, &recorder),
            recorder,
            verify: self.verify.then(|| findings.json()),
            outages: outages.map(|outages| outages.json()),
        };
        Ok((report, findings))
    }

    /// Causes the outages if there are to be any; the clients stop after them, or when one did not end.
    async fn outages(&self, run: &Run, guide: &Guide) -> anyhow::Result<Option<Outages>> {
        let (Some(count), Some(command), Some(returns)) =
            (self.outages, &self.outage_command, &run.returns)
        else {
            return Ok(None);
        };
        let outages = Outages::run(count, command, &run.targets, guide, returns).await;
        returns.stop();
        outages.map(Some)
    }

    /// Waits for the threads; follows the leaders meanwhile if the route needs them.
    async fn finish(
        &self,
        run: &Run,
        threads: Vec<std::thread::JoinHandle<anyhow::Result<Outcome>>>,
        targets: &Targets,
        guide: &Guide,
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
                () = targets.follow(guide) => {}
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
            "mix": shares, "distribution": self.distribution().name(),
            "target": name(self.target.to_possible_value()), "protocol": name(self.protocol().to_possible_value()),
            "consistency": name(self.consistency.to_possible_value()),
            "route": name(self.route.to_possible_value()), "clients": clients, "threads": self.threads, "keys": self.keys,
            "valueBytes": self.value_bytes, "nodes": targets.hosts.len(), "shards": targets.shards,
        });
        setting.as_object().cloned().unwrap_or_default()
    }

    /// What this process, each named one and the nodes have used so far.
    async fn usage(&self, targets: &Targets) -> Usage {
        let origins = match self.target {
            System::Larder => self.admin.clone(),
            System::Etcd => targets
                .hosts
                .iter()
                .map(|host| format!("http://{host}"))
                .collect(),
        };
        // As those that are asked: made before, so it can be made.
        let http = self.tls.http(origins.iter().map(String::as_str));
        let counters = match http.map(reqwest::ClientBuilder::build) {
            Ok(Ok(http)) => counters::read(&http, self.target, &origins).await,
            Ok(Err(_)) | Err(_) => None,
        };
        Usage {
            own_cpu: process::cpu(std::process::id()),
            cpu: self.pid.iter().copied().map(process::cpu).collect(),
            written: self.pid.iter().copied().map(process::written).collect(),
            counters,
        }
    }

    fn processes(&self, before: &Usage, after: &Usage, operations: u64) -> Vec<Value> {
        let times = before.cpu.iter().zip(&after.cpu);
        let processes = self.pid.iter().zip(times).map(|(pid, (before, after))| {
            let cpu = spent(*before, *after);
            let (memory, peak) = process::memory(*pid).unzip();
            json!({
                "pid": pid, "cpuSeconds": cpu.map(|cpu| cpu.as_secs_f64()), "memoryBytes": memory,
                "memoryPeakBytes": peak, "cpuUsPerOperation": cpu.map(|cpu| per_operation(cpu, operations)),
            })
        });
        processes.collect()
    }

    /// All named processes together, and the counters of all nodes whose addresses were given.
    fn servers(&self, before: &Usage, after: &Usage, recorder: &Recorder) -> Value {
        let cpu: Option<Duration> = before
            .cpu
            .iter()
            .zip(&after.cpu)
            .map(|(before, after)| spent(*before, *after))
            .sum();
        let written: Option<u64> = before
            .written
            .iter()
            .zip(&after.written)
            .map(|(before, after)| after.zip(*before).map(|(after, before)| after - before))
            .sum();
        let named = !self.pid.is_empty();
        let writes = recorder.writes();
        let per_write = |count: f64| (writes > 0).then(|| round(count / writes as f64, 3));
        let counters = match (&before.counters, &after.counters) {
            (Some(before), Some(after)) => counters::difference(before, after),
            _ => Counters::new(),
        };
        let per_sync = counters
            .get("logEntries")
            .zip(counters.get("logSyncs"))
            .filter(|(_, syncs)| **syncs > 0.0)
            .map(|(entries, syncs)| round(entries / syncs, 2));
        json!({
            "cpuUsPerOperation": cpu.filter(|_| named).map(|cpu| per_operation(cpu, recorder.successes())),
            "writtenBytes": written.filter(|_| named),
            "writtenBytesPerUserByte": written
                .filter(|_| named)
                .and_then(|written| per_write(written as f64 / f64::from(self.value_bytes.max(1)))),
            "logSyncsPerWrite": counters.get("logSyncs").and_then(|syncs| per_write(*syncs)),
            "logEntriesPerSync": per_sync,
            "counters": counters,
        })
    }
}

/// What was used up to a moment.
struct Usage {
    own_cpu: Option<Duration>,
    /// In the order of the named processes.
    cpu: Vec<Option<Duration>>,
    written: Vec<Option<u64>>,
    counters: Option<Counters>,
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

    #[test]
    fn what_cannot_be_is_refused_before_any_request() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            bench: Bench,
        }
        let refused = |arguments: &[&str]| {
            let line = std::iter::once("bench").chain(arguments.iter().copied());
            let bench = <Line as clap::Parser>::parse_from(line).bench;
            bench
                .check(bench.mix())
                .err()
                .map(|error| format!("{error:#}"))
        };
        let etcd = ["--target", "etcd", "http://a:1,http://b:1"];
        let with = |more: &[&'static str]| refused(&[&etcd[..], more].concat());
        assert_eq!(refused(&[]), None);
        assert_eq!(with(&[]), None);
        assert_eq!(with(&["--consistency", "local", "--workload", "f"]), None);
        for (refusal, word) in [
            (refused(&["--target", "etcd"]), "client URLs"),
            (with(&["--protocol", "http"]), "gRPC"),
            (with(&["--workload", "d"]), "inserts"),
            (with(&["--verify"]), "inserts"),
            (refused(&["--verify", "--workload", "c"]), "writes"),
            (
                refused(&["--verify", "--consistency", "local"]),
                "linearizable",
            ),
            (
                refused(&["--outages", "1", "--outage-command", "x", "--workload", "c"]),
                "writes",
            ),
        ] {
            assert!(
                refusal.as_ref().is_some_and(|text| text.contains(word)),
                "{word}: {refusal:?}"
            );
        }
    }
}
