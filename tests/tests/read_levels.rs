//! Promise: bounded reads are as fresh as they say or refused, local ones go on without a quorum, and "at least what I saw" holds at
//! every node.

use std::time::{Duration, Instant};

use serde_json::json;
use tests::cluster::READY;
use tests::{Answer, Api, Cluster, eventually};

const BOUND: Duration = Duration::from_millis(1_000);
const DEADLINE: Duration = Duration::from_secs(20);

async fn read(api: &Api, path: &str, level: &str, at_least: Option<&str>) -> Answer {
    let call = api.get(path).header("larder-consistency", level);
    let call = match at_least {
        Some(position) => call.header("larder-at-least", position),
        None => call,
    };
    call.send().await
}

async fn write(api: &Api, path: &str, n: u64) -> String {
    let written = api.put(path).json(&json!({ "n": n })).send().await;
    let position = written.expect(200).header("larder-position");
    position.expect("a write says where it is")
}

fn number(answer: &Answer) -> u64 {
    answer.json()["n"].as_u64().expect("a number")
}

/// The level that an answer has, and its age in milliseconds.
fn as_of(answer: &Answer) -> (String, Option<u64>) {
    let text = answer.header("larder-as-of").expect("a read says its age");
    match text.split_once(";age-ms=") {
        Some((level, age)) => (level.to_owned(), Some(age.parse().expect("milliseconds"))),
        None => (text, None),
    }
}

#[tokio::test]
async fn levels_hold_what_they_say() {
    let mut cluster = Cluster::dev().await;
    let nodes: Vec<Api> = cluster.all().map(|node| cluster.api(node)).collect();
    each_level_is_named(&nodes).await;
    positions_are_never_undercut(&nodes).await;
    a_node_that_stood_still_knows_its_age(&mut cluster, &nodes).await;
    without_a_quorum(&mut cluster, &nodes).await;
}

async fn each_level_is_named(nodes: &[Api]) {
    let path = "/db/Demo/named";
    let position = write(&nodes[0], path, 1).await;
    for api in nodes {
        let linearizable = api.get(path).send().await.expect(200);
        assert_eq!(as_of(&linearizable), ("linearizable".to_owned(), Some(0)));
        assert!(linearizable.header("larder-position").expect("a position") >= position);
        for (level, wanted) in [("bounded=1000", "bounded"), ("local", "local")] {
            // Right after the start a replica may have no evidence yet; then the leader answers.
            let what = format!("{level} is served near {}", api.base());
            let answer = eventually(&what, DEADLINE, || async {
                let answer = read(api, path, level, Some(&position)).await.expect(200);
                (as_of(&answer).0 == wanted).then_some(answer)
            })
            .await;
            assert_eq!(number(&answer), 1);
            let age = as_of(&answer).1.expect("evidence");
            assert!(age <= 1_000, "{level}: {age} ms");
        }
        let unchanged = api.get(path).header("if-none-match", "\"1\"").send().await;
        assert!(unchanged.expect(304).header("larder-position").is_some());
        read(api, path, "bounded=x", None)
            .await
            .refused(400, "bad_request");
        read(api, path, "local", Some("7"))
            .await
            .refused(400, "bad_request");
    }
}

/// Written at one node, read locally at the next one at once: a replica that lags waits, or asks.
async fn positions_are_never_undercut(nodes: &[Api]) {
    let mut lagging = 0;
    for n in 0..60 {
        let (writer, reader) = (&nodes[n % 3], &nodes[(n + 1) % 3]);
        let path = format!("/db/Demo/seen-{}", n % 4);
        let n = n as u64 + 1;
        let position = write(writer, &path, n).await;
        let without = read(reader, &path, "local", None).await;
        lagging += u64::from(without.status != 200 || number(&without) < n);
        let position = if n.is_multiple_of(2) {
            format!("{position}, {position}")
        } else {
            position
        };
        let answer = read(reader, &path, "local", Some(&position))
            .await
            .expect(200);
        assert_eq!(number(&answer), n);
    }
    eprintln!("{lagging} of 60 replicas lagged behind what was written");
}

/// SIGSTOP of a follower: what waited in its sockets is old when it wakes up, and is not taken as news.
async fn a_node_that_stood_still_knows_its_age(cluster: &mut Cluster, nodes: &[Api]) {
    let (key, path) = ("still", "/db/Demo/still");
    write(&nodes[0], path, 1).await;
    let leader = cluster.leader_of("Demo", key, 0).await;
    let (still, other) = ((leader + 1) % 3, (leader + 2) % 3);
    for _ in 0..2 {
        cluster.pause(still);
        // When each number was acknowledged.
        let (start, mut acknowledged) = (Instant::now(), Vec::new());
        while start.elapsed() < BOUND * 2 {
            let n = acknowledged.len() as u64 + 2;
            write(&nodes[other], path, n).await;
            acknowledged.push((n, Instant::now()));
        }
        cluster.resume(still);
        let woken = Instant::now();
        let mut served = 0;
        while woken.elapsed() < BOUND * 2 {
            let asked = Instant::now();
            let answer = read(&nodes[still], path, "bounded=1000", None).await;
            if answer.status != 200 {
                answer.refused(503, "unavailable");
                continue;
            }
            served += 1;
            let old = |(_, at): &&(u64, Instant)| *at + BOUND <= asked;
            let least = acknowledged.iter().rev().find(old).expect("older ones").0;
            let found = number(&answer);
            assert!(
                found >= least,
                "{:?}: {found} is older than it says, {least} was acknowledged {BOUND:?} before",
                as_of(&answer)
            );
        }
        assert!(served > 0, "nothing was served, so nothing is shown");
        cluster.healthy(READY).await;
    }
}

async fn without_a_quorum(cluster: &mut Cluster, nodes: &[Api]) {
    let path = "/db/Demo/alone";
    write(&nodes[0], path, 1).await;
    let what = "the replica here has it and can prove its age";
    eventually(what, DEADLINE, || async {
        let answer = read(&nodes[0], path, "bounded=1000", None).await;
        (answer.status == 200 && as_of(&answer).0 == "bounded").then_some(())
    })
    .await;
    cluster.kill(1).await;
    cluster.kill(2).await;
    let api = &nodes[0];
    // Within its bound, and marked with its age.
    let answer = read(api, path, "bounded=120000", None).await.expect(200);
    assert_eq!(as_of(&answer).0, "bounded");
    // Past it: refused with the promise that nothing happened, while older and local ones go on.
    let refused = eventually("the bound passes", DEADLINE, || async {
        let answer = read(api, path, "bounded=1000", None).await;
        (answer.status != 200).then_some(answer)
    })
    .await
    .refused(503, "unavailable");
    assert!(refused.header("retry-after").is_some());
    let answer = read(api, path, "bounded=120000", None).await.expect(200);
    let (level, age) = as_of(&answer);
    assert!(level == "bounded" && age > Some(1_000), "{level} {age:?}");
    let local = read(api, path, "local", None).await.expect(200);
    assert_eq!((number(&local), as_of(&local).0.as_str()), (1, "local"));
    let put = api.put(path).json(&json!({ "n": 2 })).send().await;
    let put = put.refused(503, "unavailable");
    assert!(put.header("retry-after").is_some());
    // Rights too are judged by what is confirmed only: the node has heard of nobody for longer than 3 s.
    let what = "the node says that it cannot judge rights";
    eventually(what, DEADLINE, || async {
        let refused = api.put(path).json(&json!({ "n": 2 })).send().await;
        let refused = refused.refused(503, "unavailable");
        refused.text().contains("cannot judge rights").then_some(())
    })
    .await;
    assert!(!cluster.answers(0, "/readyz").await);
    assert!(cluster.answers(0, "/healthz").await);
    cluster.restart(1).await;
    cluster.node_ready(0, READY).await;
    write(api, path, 3).await;
}
