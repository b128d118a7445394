//! Promise: SIGTERM under load: no failed request through the other nodes, and on the stopping node every request is answered or
//! refused with effect none; a second signal ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use tests::cluster::READY;
use tests::grpc::{self, Documents};
use tests::{Api, Cluster, Options, eventually, is_soak};
use tokio::task::JoinSet;
use tonic::Code;

/// Clients of each node that speak HTTP, each over a connection of its own.
const CLIENTS: usize = 4;
/// Clients of each node that speak gRPC, all over one connection.
const GRPC_CLIENTS: usize = 8;
const DEADLINE: Duration = Duration::from_secs(10);

async fn start() -> Cluster {
    Cluster::start(Options {
        shards: 8,
        root_password: Some("a planned stop".to_owned()),
        ..Options::default()
    })
    .await
}

/// Clients of one node each, which write and read until they are told to stop, and note what was not answered well.
struct Clients {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<(usize, Tally)>,
}

#[derive(Default)]
struct Tally {
    answered: u64,
    refused: u64,
    unknown: Vec<String>,
}

impl Clients {
    fn start(cluster: &Cluster) -> Clients {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for node in cluster.all() {
            let http = Client::Http(cluster.api(node));
            let grpc = Client::Grpc(grpc::documents(&cluster.nodes[node].client));
            let all =
                std::iter::repeat_n(http, CLIENTS).chain(std::iter::repeat_n(grpc, GRPC_CLIENTS));
            for (number, client) in all.enumerate() {
                let (stop, name) = (Arc::clone(&stop), format!("stop-{node}-{number}"));
                tasks.spawn(async move { (node, talk(client, &name, &stop).await) });
            }
        }
        Clients { stop, tasks }
    }

    async fn stop(mut self, nodes: usize) -> Vec<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all: Vec<Tally> = (0..nodes).map(|_| Tally::default()).collect();
        while let Some(client) = self.tasks.join_next().await {
            let (node, tally) = client.expect("a client panicked");
            all[node].answered += tally.answered;
            all[node].refused += tally.refused;
            all[node].unknown.extend(tally.unknown);
        }
        all
    }
}

/// What became of a request.
enum Outcome {
    Answered,
    /// Effect none: the node says so, or it was never sent.
    Refused,
    Unknown(String),
}

#[derive(Clone)]
enum Client {
    Http(Api),
    Grpc(Documents),
}

impl Client {
    /// A read or a write of a document, in turn.
    async fn call(&mut self, key: &str, n: u64) -> Outcome {
        match self {
            Client::Http(api) => over_http(api, key, n).await,
            Client::Grpc(documents) => {
                let call = over_grpc(documents, key, n);
                let late = |_| Outcome::Unknown("no answer over gRPC".to_owned());
                tokio::time::timeout(DEADLINE, call)
                    .await
                    .unwrap_or_else(late)
            }
        }
    }
}

fn is_read(n: u64) -> bool {
    n % 4 == 3
}

async fn over_http(api: &Api, key: &str, n: u64) -> Outcome {
    let path = format!("/db/Demo/{key}");
    let call = match is_read(n) {
        true => api.get(&path),
        false => api.put(&path).json(&json!({ "n": n })),
    };
    match call.try_send().await {
        // A document that is not there yet is an answer too.
        Ok(answer) if matches!(answer.status, 200 | 404) => Outcome::Answered,
        Ok(answer) if answer.header("larder-effect").as_deref() == Some("none") => Outcome::Refused,
        // Nobody listens any more, so nothing was sent.
        Err(error) if error.is_connect() => Outcome::Refused,
        other => Outcome::Unknown(format!("{other:?}")),
    }
}

async fn over_grpc(documents: &mut Documents, key: &str, n: u64) -> Outcome {
    let called = match is_read(n) {
        true => documents.get(grpc::get("Demo", key)).await.map(drop),
        false => {
            let json = json!({ "n": n }).to_string();
            let put = documents.put(grpc::put("Demo", key, &json));
            put.await.map(drop)
        }
    };
    let Err(status) = called else {
        return Outcome::Answered;
    };
    let effect = status.metadata().get("larder-effect");
    match effect.map(|effect| effect.as_bytes()) {
        Some(b"none") if status.code() == Code::NotFound => Outcome::Answered,
        Some(b"none") => Outcome::Refused,
        None if grpc::was_not_sent(&status) => Outcome::Refused,
        _ => Outcome::Unknown(format!("{status:?}")),
    }
}

async fn talk(mut client: Client, name: &str, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    for n in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let began = Instant::now();
        match client.call(&format!("{name}-{}", n % 16), n).await {
            Outcome::Answered => tally.answered += 1,
            Outcome::Refused => {
                tally.refused += 1;
                // The next try may find the same, at once.
                tokio::task::yield_now().await;
            }
            Outcome::Unknown(what) => tally
                .unknown
                .push(format!("{what} after {:?}", began.elapsed())),
        }
    }
    tally
}

#[tokio::test]
async fn a_stop_under_load_fails_no_request() {
    let mut cluster = start().await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    let rounds = if is_soak() { 12 } else { 2 };
    for round in 0..rounds {
        let leaving = round % nodes.len();
        // So that there is something to hand over.
        let what = format!("node {leaving} leads");
        eventually(&what, READY, || async {
            let status = cluster.try_status(leaving).await?;
            (status.led_by(&cluster.nodes[leaving].id) > 0).then_some(())
        })
        .await;
        let clients = Clients::start(&cluster);
        let others = nodes[(leaving + 1) % nodes.len()].clone();
        eventually("the load runs", DEADLINE, || async {
            let path = format!("/db/Demo/stop-{leaving}-0-8");
            (others.get(&path).send().await.status == 200).then_some(())
        })
        .await;
        cluster.signal(leaving, Signal::SIGTERM);
        // Load balancers are told before anything is refused.
        let client = Api::new(&cluster.nodes[leaving].client);
        let not_ready = eventually("it says that it is not ready", DEADLINE, || async {
            let answer = client.get("/readyz").try_send().await.ok()?;
            (answer.status != 200).then_some(answer)
        })
        .await;
        assert_eq!(not_ready.status, 503);
        let stopped = cluster.ended(leaving).await;
        assert_eq!(stopped, Some(0), "exit status");
        let tallies = clients.stop(nodes.len()).await;
        for (node, tally) in tallies.iter().enumerate() {
            eprintln!(
                "round {round}, node {node}: {} answered, {} refused, {} unknown",
                tally.answered,
                tally.refused,
                tally.unknown.len()
            );
            assert!(
                tally.unknown.is_empty(),
                "node {node} (node {leaving} stopped) left {} requests unanswered:\n{}",
                tally.unknown.len(),
                tally.unknown[..tally.unknown.len().min(5)].join("\n")
            );
            assert!(tally.answered > 0, "node {node} was not asked");
            assert!(
                node == leaving || tally.refused == 0,
                "{} requests failed through node {node}",
                tally.refused
            );
        }
        cluster.restart(leaving).await;
        cluster.healthy(READY).await;
    }
    // It takes its part again.
    eventually("leaders are spread again", READY, || async {
        let status = cluster.try_status(0).await?;
        cluster
            .all()
            .all(|node| status.led_by(&cluster.nodes[node].id) > 0)
            .then_some(())
    })
    .await;

    // A second signal while the first is being obeyed.
    cluster.signal(2, Signal::SIGTERM);
    let client = Api::new(&cluster.nodes[2].client);
    eventually("the stop has begun", DEADLINE, || async {
        let answer = client.get("/readyz").try_send().await.ok()?;
        (answer.status != 200).then_some(())
    })
    .await;
    let second = Instant::now();
    assert_eq!(cluster.stop(2).await, Some(1), "exit status");
    assert!(second.elapsed() < Duration::from_secs(1), "at once");
}
