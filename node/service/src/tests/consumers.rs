//! Durable consumers: they go on where they acknowledged, whoever leads; what is sent to a target is sent until it is taken.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proto::log::ConsumerPosition;
use proto::{ErrorCode, NodeId, ShardId};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::put;
use crate::courier::{Address, Batch};
use crate::testing::targets::Fate;
use crate::testing::{SHARDS, TestCluster, anonymous, soon};
use crate::{
    Condition, ConsumerRequest, ConsumerState, Context, Error, Feed, FeedRequest, Frame, Limits,
    NewTarget, Service, Start,
};

fn consumer(name: &str, start: Start) -> ConsumerRequest {
    ConsumerRequest {
        name: name.to_owned(),
        bucket: Some("Demo".to_owned()),
        start,
        ..ConsumerRequest::default()
    }
}

fn hook(name: &str, start: Start) -> ConsumerRequest {
    let url = "https://shop.test/hook".to_owned();
    ConsumerRequest {
        target: Some(NewTarget { url, secret: None }),
        ..consumer(name, start)
    }
}

async fn feed(
    service: &Service,
    ctx: &Context,
    name: &str,
    from: Option<String>,
) -> Result<Feed, Error> {
    let name = name.to_owned();
    let request = FeedRequest {
        start: Start::Consumer { name, from },
        ..FeedRequest::default()
    };
    service.feed(ctx, request).await
}

/// The next `count` events or more, as key and version, and the token behind them.
async fn events(feed: &mut Feed, count: usize) -> (Vec<(String, u64)>, String) {
    let (mut told, mut last) = (Vec::new(), String::new());
    while told.len() < count {
        if let Frame::Events { events, token } = feed.next().await.expect("a frame") {
            let event = |event: crate::FeedEvent| (event.change.key, event.change.version);
            told.extend(events.into_iter().map(event));
            last = token;
        }
    }
    (told, last)
}

async fn write(cluster: &TestCluster, key: &str, n: u64) {
    let text = format!("{{\"n\":{n}}}");
    let written = put(cluster, &anonymous(), key, &text, Condition::None).await;
    written.expect("written");
}

fn refused<T: std::fmt::Debug>(result: Result<T, Error>, code: ErrorCode, about: &str) {
    let error = result.expect_err("refused");
    assert_eq!(error.code, code, "{error:?}");
    assert!(error.message.contains(about), "{error:?}");
}

#[tokio::test]
async fn a_consumer_goes_on_where_it_acknowledged() {
    let cluster = TestCluster::with_nodes(3, Limits::default()).await;
    let (service, root) = (&cluster.service, cluster.root().await);
    write(&cluster, "before", 1).await;
    let made = service.create_consumer(&root, consumer("orders", Start::Now));
    assert_eq!(made.await.expect("made").state, ConsumerState::Active);
    for key in ["a", "b", "c"] {
        write(&cluster, key, 1).await;
    }
    let mut first = feed(service, &root, "orders", None).await.expect("a feed");
    let (told, behind) = events(&mut first, 3).await;
    let all = BTreeSet::from(["a", "b", "c"].map(|key| (key.to_owned(), 1)));
    assert_eq!(told.iter().cloned().collect::<BTreeSet<_>>(), all);
    // Not acknowledged: all of it comes again, at any node.
    let other = cluster.node(2);
    let mut again = feed(other, &root, "orders", None).await.expect("a feed");
    assert_eq!(events(&mut again, 3).await.0.len(), 3);
    let acked = service.ack_consumer(&root, "orders", &behind).await;
    acked.expect("acknowledged");
    write(&cluster, "d", 1).await;
    let mut rest = feed(other, &root, "orders", None).await.expect("a feed");
    let (told, _) = events(&mut rest, 1).await;
    assert_eq!(told, [("d".to_owned(), 1)]);
    let status = service.consumer(&root, "orders").await.expect("shown");
    assert_eq!(status.events, 3);
    // One that lost its connection goes on behind what it got, acknowledged or not.
    let mut here = feed(service, &root, "orders", Some(behind.clone())).await;
    let (told, _) = events(here.as_mut().expect("a feed"), 1).await;
    assert_eq!(told, [("d".to_owned(), 1)]);
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_the_reason() {
    let cluster = TestCluster::start().await;
    let (service, root) = (&cluster.service, cluster.root().await);
    let create = |request| service.create_consumer(&root, request);
    create(consumer("one", Start::Now)).await.expect("made");
    create(consumer("two", Start::Now)).await.expect("made");
    // Again alike, it is there.
    create(consumer("one", Start::Oldest)).await.expect("there");
    refused(
        create(hook("one", Start::Now)).await,
        ErrorCode::ObjectExists,
        "another name",
    );
    for name in ["", "a b", "a/b", &"x".repeat(64)] {
        refused(
            create(consumer(name, Start::Now)).await,
            ErrorCode::BadRequest,
            "1 to 63",
        );
    }
    let mut plain = hook("plain", Start::Now);
    plain.target.as_mut().expect("a target").url = "http://shop.test".to_owned();
    refused(create(plain).await, ErrorCode::BadRequest, "https://");
    let mut short = hook("short", Start::Now);
    short.target.as_mut().expect("a target").secret = Some("short".to_owned());
    refused(create(short).await, ErrorCode::BadRequest, "16 to 256");
    let mut nowhere = consumer("nowhere", Start::Now);
    nowhere.bucket = Some("Nowhere".to_owned());
    refused(create(nowhere).await, ErrorCode::BucketNotFound, "Nowhere");

    // Tokens belong to a consumer, and to one that is there.
    let mut two = feed(service, &root, "two", None).await.expect("a feed");
    write(&cluster, "a", 1).await;
    let (_, of_two) = events(&mut two, 1).await;
    let ack = |name, token| service.ack_consumer(&root, name, token);
    let bad = ErrorCode::BadRequest;
    refused(ack("one", &of_two).await, bad, "another consumer");
    refused(ack("one", "AAAA").await, bad, "damaged");
    let bucket = Some("Demo".to_owned());
    let request = FeedRequest {
        bucket,
        ..FeedRequest::default()
    };
    let plain = service.feed(&root, request).await.expect("a feed");
    let of_nobody = plain.token();
    refused(ack("one", &of_nobody).await, bad, "of no consumer");
    let missing = ErrorCode::ObjectNotFound;
    refused(ack("three", &of_two).await, missing, "three");
    refused(
        feed(service, &root, "three", None).await.map(|_| ()),
        missing,
        "three",
    );
    refused(
        service.run_consumer(&root, "one", false).await,
        bad,
        "no target",
    );
    service.delete_consumer(&root, "two").await.expect("gone");
    refused(service.delete_consumer(&root, "two").await, missing, "two");
    create(consumer("two", Start::Now)).await.expect("made");
    refused(ack("two", &of_two).await, bad, "another consumer");

    let anyone = anonymous();
    let denied = ErrorCode::PermissionDenied;
    refused(service.consumers(&anyone).await, denied, "admins");
    refused(
        service.ack_consumer(&anyone, "one", &of_two).await,
        denied,
        "admins",
    );
    refused(
        feed(service, &anyone, "one", None).await.map(|_| ()),
        denied,
        "admins",
    );
    let create = service.create_consumer(&anyone, consumer("x", Start::Now));
    refused(create.await, denied, "admins");
}

/// A feed of a consumer that is deleted ends, and is not taken for one of the next of its name.
#[tokio::test]
async fn the_feed_of_a_deleted_consumer_ends() {
    let cluster = TestCluster::start().await;
    let (service, root) = (&cluster.service, cluster.root().await);
    let create = || service.create_consumer(&root, consumer("orders", Start::Now));
    create().await.expect("made");
    let mut feed = feed(service, &root, "orders", None).await.expect("a feed");
    service
        .delete_consumer(&root, "orders")
        .await
        .expect("gone");
    create().await.expect("made");
    let error = loop {
        match feed.next().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.code, ErrorCode::ObjectNotFound);
}

/// Writes acknowledgements down at a node until it is stopped.
fn write_down(service: &Service) -> (CancellationToken, JoinHandle<()>) {
    let (stop, job) = (CancellationToken::new(), service.jobs().consumers);
    let until = stop.clone();
    let running = tokio::spawn(async move { job.write_down(until).await });
    (stop, running)
}

async fn stored(cluster: &TestCluster) -> ConsumerPosition {
    let id = cluster.metadata().consumers[&1]["orders"].id;
    let view = cluster.world.replica(ShardId::META);
    let position = cluster::consumers::position(&view.view(), id);
    position.expect("read").expect("a position")
}

fn meta_proposals(cluster: &TestCluster) -> u64 {
    let proposals = cluster.world.proposals.lock();
    proposals.get(&ShardId::META).copied().unwrap_or_default()
}

#[tokio::test]
async fn many_acknowledgements_are_few_entries_and_the_last_one_is_kept() {
    let cluster = TestCluster::start().await;
    let (service, root) = (&cluster.service, cluster.root().await);
    let made = service.create_consumer(&root, consumer("orders", Start::Now));
    made.await.expect("made");
    let mut feed = feed(service, &root, "orders", None).await.expect("a feed");
    let before = meta_proposals(&cluster);
    let (stop, running) = write_down(service);
    let mut token = String::new();
    for n in 1..=50 {
        write(&cluster, "a", n).await;
        token = events(&mut feed, 1).await.1;
        let acked = service.ack_consumer(&root, "orders", &token).await;
        acked.expect("acknowledged");
    }
    stop.cancel();
    running.await.expect("ended");
    let entries = meta_proposals(&cluster) - before;
    assert!((1..20).contains(&entries), "{entries} entries");
    assert_eq!(stored(&cluster).await.events, 50);
    let late = service.ack_consumer(&root, "orders", &token).await;
    refused(late, ErrorCode::Unavailable, "stopping");
}

/// What becomes of acknowledgements.
#[derive(Clone, Debug)]
enum Step {
    /// Of one of the tokens, at one of the nodes.
    Ack {
        token: prop::sample::Index,
        node: usize,
    },
    /// Another node leads, with or without the last one's acknowledgements written down.
    Elect { node: u64, is_orderly: bool },
    /// What waits anywhere is written down.
    Write { node: usize },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<prop::sample::Index>(), 1..4_usize)
            .prop_map(|(token, node)| Step::Ack { token, node }),
        1 => (1..4_u64, any::<bool>()).prop_map(|(node, is_orderly)| Step::Elect { node, is_orderly }),
        1 => (1..4_usize).prop_map(|node| Step::Write { node }),
    ]
}

fn place(position: &ConsumerPosition) -> Vec<(u64, u32)> {
    let cursors = position.cursors.iter();
    let place = cursors.map(|at| (at.index, at.ordinal.unwrap_or(u32::MAX)));
    place.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Acknowledged in any order, over any leaders: what is stored never goes back, nothing that was not acknowledged is skipped, and
    /// once all is written down it is what was acknowledged.
    #[test]
    fn positions_only_go_forward(steps in proptest::collection::vec(any_step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(forward_only(steps))?;
    }
}

async fn forward_only(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let cluster = TestCluster::with_nodes(3, Limits::default()).await;
    let (service, root) = (&cluster.service, cluster.root().await);
    let made = service.create_consumer(&root, consumer("orders", Start::Now));
    made.await.expect("made");
    let mut reader = feed(service, &root, "orders", None).await.expect("a feed");
    let mut tokens = Vec::new();
    for n in 0..12 {
        write(&cluster, &format!("k{n}"), 1).await;
        tokens.push(events(&mut reader, 1).await.1);
    }
    let (mut held, mut acked) = (stored(&cluster).await, 0);
    for step in steps {
        match step {
            Step::Ack { token, node } => {
                let token = token.index(tokens.len());
                let ack = cluster
                    .node(node)
                    .ack_consumer(&root, "orders", &tokens[token]);
                ack.await.expect("acknowledged");
                acked = acked.max(token as u64 + 1);
            }
            Step::Elect { node, is_orderly } => {
                if is_orderly {
                    write_all(&cluster).await;
                }
                cluster.world.elect(ShardId::META, Some(NodeId(node)));
            }
            Step::Write { node } => write_at(cluster.node(node)).await,
        }
        let now = stored(&cluster).await;
        let pairs = place(&held).into_iter().zip(place(&now));
        prop_assert!(
            pairs.into_iter().all(|(was, is)| was <= is),
            "{held:?} {now:?}"
        );
        prop_assert!(now.events <= acked, "{} events of {acked}", now.events);
        held = now;
    }
    write_all(&cluster).await;
    prop_assert_eq!(stored(&cluster).await.events, acked);
    Ok(())
}

/// One round of the job at every node.
async fn write_all(cluster: &TestCluster) {
    for node in 1..=3 {
        write_at(cluster.node(node)).await;
    }
}

async fn write_at(service: &Service) {
    service.jobs().consumers.write_all().await;
}

/// The jobs of a node that concern consumers.
fn run_jobs(service: &Service, stop: &CancellationToken) -> JoinHandle<()> {
    tokio::spawn(service.jobs().consumers.run(stop.clone()))
}

/// Versions by key, in the order of arrival; refuses one that goes back, other than by a repetition.
fn check_order(arrived: &[(Address, Batch)]) -> BTreeMap<String, u64> {
    let (mut latest, mut seen) = (BTreeMap::new(), BTreeSet::new());
    for event in arrived.iter().flat_map(|(_, batch)| &batch.events) {
        if !seen.insert(event.id()) {
            continue;
        }
        let (key, version) = (event.change.key.clone(), event.change.version);
        let before = latest.insert(key, version).unwrap_or_default();
        assert!(version == before + 1, "{version} after {before}");
    }
    latest
}

#[tokio::test]
async fn what_a_target_does_not_take_is_sent_again_under_its_name() {
    let cluster = TestCluster::start().await;
    let (service, root) = (&cluster.service, cluster.root().await);
    let targets = &cluster.world.targets;
    targets.script.lock().extend([Fate::Lost, Fate::AnswerLost]);
    let made = service
        .create_consumer(&root, hook("orders", Start::Now))
        .await;
    let secret = made.expect("made").secret.expect("shown once");
    let stop = CancellationToken::new();
    let running = run_jobs(service, &stop);
    write(&cluster, "a", 1).await;
    targets.wait(|arrived| arrived.len() >= 2).await;
    {
        let arrived = targets.arrived.lock();
        assert_eq!(arrived[0].1.id, arrived[1].1.id);
        assert_eq!(
            (arrived[0].0.secret.as_str(), secret.len()),
            (secret.as_str(), 43)
        );
    }
    for n in 2..=20 {
        write(&cluster, "a", n).await;
    }
    targets
        .wait(|arrived| check_order(arrived)["a"] == 20)
        .await;
    stop.cancel();
    running.await.expect("ended");
    assert_eq!(stored(&cluster).await.events, 20);
    let status = service.consumer(&root, "orders").await.expect("shown");
    assert_eq!((status.state, status.secret), (ConsumerState::Active, None));
}

#[tokio::test]
async fn another_leader_goes_on_and_skips_nothing() {
    let cluster = TestCluster::with_nodes(3, Limits::default()).await;
    let (service, root) = (&cluster.service, cluster.root().await);
    let made = service
        .create_consumer(&root, hook("orders", Start::Now))
        .await;
    made.expect("made");
    let stop = CancellationToken::new();
    let jobs: Vec<_> = (1..=3)
        .map(|node| run_jobs(cluster.node(node), &stop))
        .collect();
    let targets = &cluster.world.targets;
    for round in 1..=4 {
        // The leader waits for an answer that never comes, and leads no more.
        targets.script.lock().push_back(Fate::Hangs);
        for key in ["a", "b", "c"] {
            write(&cluster, key, round).await;
        }
        targets.wait(|_| targets.script.lock().is_empty()).await;
        let next = NodeId(round % 3 + 1);
        cluster.world.elect(ShardId::META, Some(next));
        let all_there = |arrived: &[(Address, Batch)]| {
            let latest = check_order(arrived);
            ["a", "b", "c"]
                .iter()
                .all(|key| latest.get(*key) == Some(&round))
        };
        targets.wait(all_there).await;
    }
    stop.cancel();
    for job in jobs {
        job.await.expect("ended");
    }
}

#[tokio::test]
async fn a_paused_consumer_is_sent_nothing_and_catches_up() {
    let limits = Limits {
        changes_bytes_max: 0,
        webhook_sick_after: std::time::Duration::ZERO,
        ..Limits::default()
    };
    let cluster = TestCluster::with_nodes(1, limits).await;
    let (service, root) = (&cluster.service, cluster.root().await);
    let made = service
        .create_consumer(&root, hook("orders", Start::Now))
        .await;
    made.expect("made");
    let paused = service.run_consumer(&root, "orders", false).await;
    paused.expect("paused");
    let stop = CancellationToken::new();
    let running = run_jobs(service, &stop);
    for n in 1..=3 {
        write(&cluster, "a", n).await;
        write(&cluster, "b", n).await;
    }
    // Past what the logs keep.
    let jobs = service.jobs();
    for shard in 1..=SHARDS {
        jobs.change_age.age(ShardId(shard)).await.expect("aged");
    }
    let status = service.consumer(&root, "orders").await.expect("shown");
    assert_eq!(status.state, ConsumerState::Paused);
    let targets = &cluster.world.targets;
    assert!(targets.arrived.lock().is_empty());
    // The first try after it goes on fails, and that is long enough for it to count as sick, until somebody has it try again.
    targets.script.lock().push_back(Fate::Lost);
    let go_on = || service.run_consumer(&root, "orders", true);
    go_on().await.expect("goes on");
    let deadline = soon();
    loop {
        let status = service.consumer(&root, "orders").await.expect("shown");
        if status.state == ConsumerState::Sick {
            assert_eq!(
                (status.tries, status.reason.as_deref()),
                (1, Some("no answer"))
            );
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{status:?}");
        tokio::task::yield_now().await;
    }
    go_on().await.expect("goes on");
    let is_caught_up = |arrived: &[(Address, Batch)]| {
        let events = arrived.iter().flat_map(|(_, batch)| &batch.events);
        let states = events.filter(|event| event.change.compacted && event.change.version == 3);
        states.count() == 2
    };
    targets.wait(is_caught_up).await;
    stop.cancel();
    running.await.expect("ended");
}
