//! Promise: SIGTERM under load: no failed request through the other nodes, and on the stopping node every request is answered or
//! refused with effect none; a second signal ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use tests::cluster::READY;
use tests::{Api, Cluster, Options, eventually, is_soak};
use tokio::task::JoinSet;

const CLIENTS: usize = 6;
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
    fn start(nodes: &[Api]) -> Clients {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for (node, api) in nodes.iter().enumerate() {
            for client in 0..CLIENTS {
                let (stop, api) = (Arc::clone(&stop), api.clone());
                tasks.spawn(async move { (node, talk(&api, node, client, &stop).await) });
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

async fn talk(api: &Api, node: usize, client: usize, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    for n in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let path = format!("/db/Demo/stop-{node}-{client}-{}", n % 16);
        let began = Instant::now();
        let call = if n % 4 == 3 {
            api.get(&path)
        } else {
            api.put(&path).json(&json!({ "n": n }))
        };
        match call.try_send().await {
            // A document that is not there yet is an answer too.
            Ok(answer) if matches!(answer.status, 200 | 404) => tally.answered += 1,
            Ok(answer) if answer.header("larder-effect").as_deref() == Some("none") => {
                tally.refused += 1;
            }
            // Nobody listens any more, so nothing was sent. The next try soon finds the same.
            Err(error) if error.is_connect() => {
                tally.refused += 1;
                tokio::task::yield_now().await;
            }
            other => tally
                .unknown
                .push(format!("{other:?} after {:?}", began.elapsed())),
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
        let clients = Clients::start(&nodes);
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
