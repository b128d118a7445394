//! Feeds: everything once or again, in the order of versions, to those who may see it, from any cut on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proto::{ErrorCode, NodeId, ShardId};

use super::{body, json, put};
use crate::forward::ChangeKind;
use crate::testing::{SHARDS, TestCluster, anonymous, with_token};
use crate::{Condition, Context, Feed, FeedEvent, FeedRequest, Frame, Limits, Service, Start};

/// What a consumer knows that does nothing but take over what it is told.
#[derive(Clone, Default, PartialEq, Debug)]
struct Consumer {
    /// By key: version and the member `n`; `None`: not there.
    documents: BTreeMap<String, (u64, Option<i64>)>,
    /// Ids of events, with what they said.
    seen: BTreeMap<String, (String, u64)>,
    token: String,
    resyncs: usize,
    compacted: usize,
    in_snapshot: bool,
    kinds: BTreeSet<&'static str>,
}

impl Consumer {
    fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Events { events, token } => {
                for event in events {
                    self.take_event(&event);
                }
                self.token = token;
            }
            Frame::Progress { token, .. } => self.token = token,
            Frame::Resync { token, .. } => {
                self.documents.clear();
                self.seen.clear();
                self.resyncs += 1;
                self.in_snapshot = true;
                self.token = token;
            }
            Frame::Live { token } => {
                self.in_snapshot = false;
                self.token = token;
            }
        }
    }

    fn take_event(&mut self, event: &FeedEvent) {
        let change = &event.change;
        let kind = ChangeKind::try_from(change.kind).expect("a kind");
        self.kinds.insert(kind.name());
        self.compacted += usize::from(change.compacted);
        if kind == ChangeKind::Rules {
            return;
        }
        let said = (change.key.clone(), change.version);
        let known = self.seen.insert(event.id(), said.clone());
        assert!(
            known.is_none_or(|known| known == said),
            "an id tells one thing"
        );
        let n = match kind {
            ChangeKind::Delete | ChangeKind::Leave => None,
            _ => Some(json(&change.body)["n"].as_i64().expect("a number")),
        };
        let stored = self.documents.entry(change.key.clone()).or_default();
        if change.version >= stored.0 {
            *stored = (change.version, n);
        } else {
            panic!(
                "{} went back from {} to {}",
                change.key, stored.0, change.version
            );
        }
    }

    fn live(&self) -> BTreeMap<&str, i64> {
        let live = self.documents.iter();
        live.filter_map(|(key, (_, n))| Some((key.as_str(), (*n)?)))
            .collect()
    }
}

async fn open(service: &Service, ctx: &Context, start: Start) -> Feed {
    open_with(service, ctx, start, "{}").await
}

async fn open_with(service: &Service, ctx: &Context, start: Start, filter: &str) -> Feed {
    let request = FeedRequest {
        bucket: Some("Demo".to_owned()),
        filter: body(filter),
        start,
        by_time: false,
    };
    service.feed(ctx, request).await.expect("a feed")
}

/// Reads until two frames in a row say that there is nothing more: the first may have been due before any shard was asked.
async fn drain(feed: &mut Feed, consumer: &mut Consumer) {
    let mut quiet = 0;
    while quiet < 2 || consumer.in_snapshot {
        let frame = feed.next().await.expect("a frame");
        quiet = match frame {
            Frame::Progress { .. } => quiet + 1,
            _ => 0,
        };
        consumer.take(frame);
    }
}

/// Trims every change log down to nothing.
async fn trim(cluster: &TestCluster) {
    let jobs = cluster.service.jobs();
    for shard in 1..=SHARDS {
        jobs.change_age.age(ShardId(shard)).await.expect("aged");
    }
}

fn no_room() -> Limits {
    Limits {
        changes_bytes_max: 0,
        ..Limits::default()
    }
}

fn n(n: i64) -> String {
    format!("{{\"n\":{n}}}")
}

#[tokio::test]
async fn a_feed_tells_what_is_written_after_it_was_opened() {
    let cluster = TestCluster::start().await;
    let anyone = anonymous();
    put(&cluster, &anyone, "before", &n(0), Condition::None)
        .await
        .expect("put");
    let mut feed = open(&cluster.service, &anyone, Start::Now).await;
    let mut consumer = Consumer::default();
    for (key, value) in [("a", 1), ("b", 2), ("a", 3)] {
        put(&cluster, &anyone, key, &n(value), Condition::None)
            .await
            .expect("put");
    }
    let service = &cluster.service;
    service
        .delete(&anyone, "Demo", "b", Condition::None)
        .await
        .expect("deleted");
    drain(&mut feed, &mut consumer).await;
    assert_eq!(consumer.live(), BTreeMap::from([("a", 3)]));
    assert_eq!(consumer.documents["b"], (2, None));
    assert_eq!(consumer.seen.len(), 4);
    assert_eq!(
        consumer.kinds,
        BTreeSet::from(["insert", "update", "delete"])
    );
}

#[tokio::test]
async fn a_filter_tells_who_comes_and_who_leaves() {
    let cluster = TestCluster::start().await;
    let anyone = anonymous();
    let filter = r#"{"n":{"$gte":10}}"#;
    let mut feed = open_with(&cluster.service, &anyone, Start::Now, filter).await;
    for value in [1, 11, 12, 2, 3] {
        put(&cluster, &anyone, "a", &n(value), Condition::None)
            .await
            .expect("put");
    }
    let mut told = Vec::new();
    while told.len() < 3 {
        if let Frame::Events { events, .. } = feed.next().await.expect("a frame") {
            told.extend(events.into_iter().map(|event| {
                let kind = ChangeKind::try_from(event.change.kind).expect("a kind");
                (
                    kind.name(),
                    event.change.version,
                    event.change.body.is_empty(),
                )
            }));
        }
    }
    // That it came is told as what happened; the last change is outside on both sides.
    assert_eq!(
        told,
        [
            ("update", 2, false),
            ("update", 3, false),
            ("leave", 4, true)
        ]
    );
}

#[tokio::test]
async fn a_reader_sees_its_own_and_their_deletes() {
    let cluster = TestCluster::start().await;
    let root = cluster.root().await;
    let mine = |n: i64| format!(r#"{{"n":{n},"acl":{{"read":{{"/db/User/1":"allow"}}}}}}"#);
    let anyone = anonymous();
    let mut theirs = open(&cluster.service, &anyone, Start::Now).await;
    let mut roots = open(&cluster.service, &root, Start::Now).await;
    for text in [&n(1), &mine(2), &mine(3)] {
        put(&cluster, &root, "turned", text, Condition::None)
            .await
            .expect("put");
    }
    put(&cluster, &root, "secret", &mine(1), Condition::None)
        .await
        .expect("put");
    put(&cluster, &root, "open", &n(1), Condition::None)
        .await
        .expect("put");
    for key in ["turned", "secret", "open"] {
        let service = &cluster.service;
        service
            .delete(&root, "Demo", key, Condition::None)
            .await
            .expect("deleted");
    }
    let (mut anyone, mut root) = (Consumer::default(), Consumer::default());
    drain(&mut theirs, &mut anyone).await;
    drain(&mut roots, &mut root).await;
    let versions = |consumer: &Consumer| {
        let mut seen: Vec<_> = consumer.seen.values().cloned().collect();
        seen.sort();
        seen
    };
    let said = |all: &[(&str, u64)]| -> Vec<(String, u64)> {
        all.iter().map(|(key, v)| ((*key).to_owned(), *v)).collect()
    };
    // It is told that one left its sight, and nothing of it from then on.
    assert_eq!(
        versions(&anyone),
        said(&[("open", 1), ("open", 2), ("turned", 1), ("turned", 2)])
    );
    assert_eq!(root.seen.len(), 8);
}

#[tokio::test]
async fn what_the_log_has_no_more_is_told_from_the_documents() {
    let cluster = TestCluster::with_nodes(1, no_room()).await;
    let anyone = anonymous();
    for key in ["kept", "changed", "deleted"] {
        put(&cluster, &anyone, key, &n(1), Condition::None)
            .await
            .expect("put");
    }
    let mut feed = open(&cluster.service, &anyone, Start::Oldest).await;
    let mut consumer = Consumer::default();
    drain(&mut feed, &mut consumer).await;
    drop(feed);
    assert_eq!((consumer.live().len(), consumer.compacted), (3, 0));
    for value in [2, 3] {
        put(&cluster, &anyone, "changed", &n(value), Condition::None)
            .await
            .expect("put");
    }
    cluster
        .service
        .delete(&anyone, "Demo", "deleted", Condition::None)
        .await
        .expect("deleted");
    trim(&cluster).await;
    put(&cluster, &anyone, "new", &n(4), Condition::None)
        .await
        .expect("put");
    let start = Start::Token(consumer.token.clone());
    let mut feed = open(&cluster.service, &anyone, start).await;
    drain(&mut feed, &mut consumer).await;
    assert_eq!(
        consumer.live(),
        BTreeMap::from([("kept", 1), ("changed", 3), ("new", 4)])
    );
    assert_eq!(consumer.resyncs, 0);
    assert!(consumer.compacted >= 2, "{}", consumer.compacted);
}

#[tokio::test]
async fn what_a_reader_cannot_be_told_leads_to_a_resync() {
    let cluster = TestCluster::with_nodes(1, no_room()).await;
    let (root, anyone) = (cluster.root().await, anonymous());
    for key in ["a", "b"] {
        put(&cluster, &root, key, &n(1), Condition::None)
            .await
            .expect("put");
    }
    let mut feed = open(&cluster.service, &anyone, Start::Snapshot).await;
    let mut consumer = Consumer {
        in_snapshot: true,
        ..Consumer::default()
    };
    drain(&mut feed, &mut consumer).await;
    assert_eq!(consumer.live().len(), 2);
    drop(feed);
    let hidden = r#"{"n":2,"acl":{"read":{"/db/User/1":"allow"}}}"#;
    put(&cluster, &root, "a", hidden, Condition::None)
        .await
        .expect("put");
    trim(&cluster).await;
    let start = Start::Token(consumer.token.clone());
    let mut feed = open(&cluster.service, &anyone, start).await;
    drain(&mut feed, &mut consumer).await;
    assert_eq!(consumer.resyncs, 1);
    assert_eq!(consumer.live(), BTreeMap::from([("b", 1)]));
    // Who may see everything needs none.
    put(&cluster, &anyone, "b", &n(2), Condition::None)
        .await
        .expect("put");
    drain(&mut feed, &mut consumer).await;
    assert_eq!(consumer.live(), BTreeMap::from([("b", 2)]));
}

#[tokio::test]
async fn a_feed_goes_on_at_another_node_and_without_a_replica() {
    let cluster = TestCluster::with_nodes(3, Limits::default()).await;
    let anyone = anonymous();
    cluster.world.bystanders.lock().insert(NodeId(3));
    let mut consumer = Consumer::default();
    let mut feed = open(cluster.node(1), &anyone, Start::Now).await;
    for (at, node) in [(0, 2), (1, 3), (2, 1)] {
        put(
            &cluster,
            &anyone,
            &format!("k{at}"),
            &n(at),
            Condition::None,
        )
        .await
        .expect("put");
        drain(&mut feed, &mut consumer).await;
        let start = Start::Token(consumer.token.clone());
        feed = open(cluster.node(node), &anyone, start).await;
    }
    drain(&mut feed, &mut consumer).await;
    assert_eq!(consumer.live().len(), 3);
    assert_eq!(consumer.seen.len(), 3);
}

/// Pages meet without a gap, whether one feed reads them all or each frame is read by another one.
#[tokio::test]
async fn nothing_is_left_out_between_two_pages() {
    const EVENTS: i64 = 1_000;
    let limits = Limits {
        feed_bytes_max: 1,
        ..Limits::default()
    };
    let cluster = TestCluster::with_nodes(1, limits).await;
    let anyone = anonymous();
    let text = "x".repeat(200);
    for at in 0..EVENTS {
        let body = format!(r#"{{"n":{at},"text":"{text}"}}"#);
        put(
            &cluster,
            &anyone,
            &format!("k{}", at % 16),
            &body,
            Condition::None,
        )
        .await
        .expect("put");
    }
    for cuts in [false, true] {
        let mut consumer = Consumer::default();
        let mut feed = open(&cluster.service, &anyone, Start::Oldest).await;
        let (mut frames, mut quiet) = (0, 0);
        while consumer.seen.len() < EVENTS as usize {
            let frame = feed.next().await.expect("a frame");
            match frame {
                Frame::Progress { .. } => quiet += 1,
                _ => (frames, quiet) = (frames + 1, 0),
            }
            assert!(quiet < 5, "only {} were told", consumer.seen.len());
            consumer.take(frame);
            if cuts {
                let start = Start::Token(consumer.token.clone());
                feed = open(&cluster.service, &anyone, start).await;
            }
        }
        assert!(frames > 2 * SHARDS, "{frames} frames are no pages");
        assert_eq!(consumer.live().len(), 16);
    }
}

/// A feed waits for the replica here; it must not wait for one that is not here any more.
#[tokio::test]
async fn a_feed_leaves_a_replica_that_is_taken_away() {
    let cluster = TestCluster::with_nodes(2, Limits::default()).await;
    let anyone = anonymous();
    let mut consumer = Consumer::default();
    let mut feed = open(cluster.node(2), &anyone, Start::Now).await;
    drain(&mut feed, &mut consumer).await;
    cluster.world.bystanders.lock().insert(NodeId(2));
    put(&cluster, &anyone, "k", &n(1), Condition::None)
        .await
        .expect("put");
    let told = async {
        while consumer.seen.is_empty() {
            let frame = feed.next().await.expect("a frame");
            consumer.take(frame);
        }
    };
    tokio::time::timeout(Duration::from_secs(30), told)
        .await
        .expect("what was written elsewhere is told");
}

/// The leader's clock is set forward and back: nothing is held up or told twice, and no time goes back.
#[tokio::test]
async fn a_clock_that_jumps_changes_nothing_but_times() {
    const HOUR_US: i64 = 3_600_000_000;
    let cluster = TestCluster::start().await;
    let anyone = anonymous();
    let request = FeedRequest {
        bucket: Some("Demo".to_owned()),
        ..FeedRequest::default()
    };
    let feed = cluster.service.feed(&anyone, request).await;
    let (mut feed, mut consumer) = (feed.expect("a feed"), Consumer::default());
    let (mut last_us, mut watermark) = (BTreeMap::new(), 0);
    for (at, jump_us) in [HOUR_US, -2 * HOUR_US, 3 * HOUR_US, 0]
        .into_iter()
        .enumerate()
    {
        cluster.clock.jump(jump_us);
        for key in 0..8 {
            cluster.clock.advance(Duration::from_millis(1));
            let at = i64::try_from(at).expect("small");
            put(
                &cluster,
                &anyone,
                &format!("k{key}"),
                &n(at),
                Condition::None,
            )
            .await
            .expect("put");
        }
        while consumer.seen.len() < 8 * (at + 1) {
            let frame = feed.next().await.expect("a frame");
            match &frame {
                Frame::Events { events, .. } => {
                    for event in events {
                        let last = last_us.insert(event.shard, event.change.time_us);
                        assert!(last < Some(event.change.time_us));
                    }
                }
                Frame::Progress { watermark_us, .. } => {
                    assert!(*watermark_us >= watermark);
                    watermark = *watermark_us;
                }
                Frame::Resync { .. } | Frame::Live { .. } => panic!("{frame:?}"),
            }
            consumer.take(frame);
        }
    }
    assert_eq!(consumer.live().len(), 8);
    assert!(consumer.live().values().all(|n| *n == 3));
}

#[tokio::test]
async fn by_time_all_shards_are_one_order() {
    let cluster = TestCluster::start().await;
    let anyone = anonymous();
    let request = FeedRequest {
        by_time: true,
        ..FeedRequest::default()
    };
    let mut feed = cluster
        .service
        .feed(&anyone, request)
        .await
        .expect("a feed");
    for at in 0..40 {
        cluster.clock.advance(Duration::from_millis(1));
        put(
            &cluster,
            &anyone,
            &format!("k{at}"),
            &n(at),
            Condition::None,
        )
        .await
        .expect("put");
    }
    cluster.clock.advance(Duration::from_secs(5));
    let mut told = Vec::new();
    while told.len() < 40 {
        if let Frame::Events { events, .. } = feed.next().await.expect("a frame") {
            told.extend(events.into_iter().map(|event| event.change));
        }
    }
    let expected: Vec<_> = (0..40).map(|at| format!("k{at}")).collect();
    let keys: Vec<_> = told.iter().map(|change| change.key.clone()).collect();
    assert_eq!(keys, expected);
    assert!(
        told.windows(2)
            .all(|pair| pair[0].time_us <= pair[1].time_us)
    );
}

#[tokio::test]
async fn new_rules_are_told() {
    let cluster = TestCluster::start().await;
    let root = cluster.root().await;
    let mut feed = cluster
        .service
        .feed(&root, FeedRequest::default())
        .await
        .expect("a feed");
    cluster
        .add_class(r#"{"class":"/db/Note","fields":{"text":{"name":"text","type":"/db/String"}}}"#)
        .await;
    let mut shards = BTreeSet::new();
    while shards.len() < SHARDS as usize {
        if let Frame::Events { events, .. } = feed.next().await.expect("a frame") {
            let told = events.iter().filter(|event| event.change.key == "Note");
            shards.extend(told.map(|event| event.shard));
        }
    }
}

#[tokio::test]
async fn what_cannot_be_a_feed_is_refused() {
    let limits = Limits {
        feeds_max: 1,
        ..Limits::default()
    };
    let cluster = TestCluster::with_nodes(1, limits).await;
    let anyone = anonymous();
    let refused = async |request: FeedRequest| {
        let refused = cluster.service.feed(&anyone, request).await;
        refused.err().expect("refused").code
    };
    let in_demo = FeedRequest {
        bucket: Some("Demo".to_owned()),
        ..FeedRequest::default()
    };
    for (request, code) in [
        (
            FeedRequest {
                bucket: Some("None".to_owned()),
                ..FeedRequest::default()
            },
            ErrorCode::BucketNotFound,
        ),
        (
            FeedRequest {
                filter: body("{"),
                ..in_demo.clone()
            },
            ErrorCode::SyntaxError,
        ),
        (
            FeedRequest {
                filter: body("{\"n\":1}"),
                ..FeedRequest::default()
            },
            ErrorCode::BadRequest,
        ),
        (
            FeedRequest {
                start: Start::Token("x".to_owned()),
                ..in_demo.clone()
            },
            ErrorCode::BadRequest,
        ),
    ] {
        assert_eq!(refused(request).await, code);
    }
    let held = open(&cluster.service, &anyone, Start::Now).await;
    assert_eq!(refused(in_demo.clone()).await, ErrorCode::TooManyRequests);
    drop(held);
    open(&cluster.service, &anyone, Start::Now).await;
    let other = TestCluster::start().await;
    let foreign = open(&other.service, &anyone, Start::Now).await.token();
    let start = Start::Token(foreign);
    assert_eq!(
        refused(FeedRequest { start, ..in_demo }).await,
        ErrorCode::BadRequest
    );
}

#[tokio::test]
async fn a_feed_ends_with_the_session() {
    let cluster = TestCluster::start().await;
    let ctx = with_token("not a token");
    let refused = cluster.service.feed(&ctx, FeedRequest::default()).await;
    assert_eq!(
        refused.err().expect("refused").code,
        ErrorCode::BadCredentials
    );
    let root = cluster.root().await;
    let mut feed = open(&cluster.service, &root, Start::Now).await;
    cluster.clock.advance(Limits::default().token_long_life * 2);
    let over = loop {
        if let Err(error) = feed.next().await {
            break error;
        }
    };
    assert_eq!(over.code, ErrorCode::BadCredentials);
    assert!(feed.next().await.is_err());
}

#[tokio::test]
async fn the_versions_of_a_document_are_listed_and_read() {
    let cluster = TestCluster::start().await;
    let anyone = anonymous();
    let mut feed = open(&cluster.service, &anyone, Start::Now).await;
    let mut tokens = vec![feed.token()];
    let mut consumer = Consumer::default();
    for value in [1, 2, 3] {
        put(&cluster, &anyone, "a", &n(value), Condition::None)
            .await
            .expect("put");
        if value == 2 {
            cluster
                .service
                .delete(&anyone, "Demo", "a", Condition::None)
                .await
                .expect("deleted");
        }
        drain(&mut feed, &mut consumer).await;
        tokens.push(consumer.token.clone());
    }
    let service = &cluster.service;
    let versions = service.history(&anyone, "Demo", "a", None).await;
    let versions = versions.expect("versions").into_iter();
    let versions: Vec<_> = versions.map(|event| event.change.version).collect();
    assert_eq!(versions, [4, 3, 2, 1]);
    for (token, expected) in tokens.iter().zip([None, Some(1), None, Some(3)]) {
        let read = service.history(&anyone, "Demo", "a", Some(token)).await;
        match expected {
            Some(value) => assert_eq!(json(&read.expect("a version")[0].change.body)["n"], value),
            None => {
                let refused = read.expect_err("there is none");
                assert_eq!(refused.code, ErrorCode::ObjectNotFound, "{refused}");
            }
        }
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, i8),
    Delete(u8),
    Trim,
    /// The consumer reads some frames and is cut off, having kept what it was told.
    Read(u8),
    /// The consumer is cut off and goes on at another node.
    Cut(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..6u8, any::<i8>()).prop_map(|(key, n)| Step::Put(key, n)),
        2 => (0..6u8).prop_map(Step::Delete),
        1 => Just(Step::Trim),
        2 => (1..6u8).prop_map(Step::Read),
        2 => (1..3u8).prop_map(Step::Cut),
    ];
    proptest::collection::vec(step, 1..40)
}

async fn run(steps: Vec<Step>, filter: &str, wanted: impl Fn(i64) -> bool) {
    let cluster = TestCluster::with_nodes(2, no_room()).await;
    let anyone = anonymous();
    let mut stored: BTreeMap<String, i64> = BTreeMap::new();
    let mut consumer = Consumer::default();
    let mut feed = open_with(&cluster.service, &anyone, Start::Oldest, filter).await;
    for step in steps {
        match step {
            Step::Put(key, value) => {
                let key = format!("k{key}");
                put(&cluster, &anyone, &key, &n(value.into()), Condition::None)
                    .await
                    .expect("put");
                stored.insert(key, value.into());
            }
            Step::Delete(key) => {
                let key = format!("k{key}");
                let service = &cluster.service;
                service
                    .delete(&anyone, "Demo", &key, Condition::None)
                    .await
                    .expect("deleted");
                stored.remove(&key);
            }
            Step::Trim => trim(&cluster).await,
            Step::Read(frames) => {
                for _ in 0..frames {
                    // A frame that is on its way when the consumer is cut off is lost with it.
                    let frame = tokio::time::timeout(Duration::from_millis(5), feed.next());
                    match frame.await {
                        Ok(frame) => consumer.take(frame.expect("a frame")),
                        Err(_) => break,
                    }
                }
            }
            Step::Cut(node) => {
                let start = match consumer.token.as_str() {
                    "" => Start::Oldest,
                    token => Start::Token(token.to_owned()),
                };
                feed = open_with(cluster.node(node.into()), &anyone, start, filter).await;
            }
        }
    }
    drain(&mut feed, &mut consumer).await;
    let stored = stored.iter().filter(|(_, n)| wanted(**n));
    let stored: BTreeMap<&str, i64> = stored.map(|(key, n)| (key.as_str(), *n)).collect();
    assert_eq!(consumer.live(), stored);
    assert_eq!(consumer.resyncs, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever is written, trimmed and cut off: in the end the consumer has what is stored.
    #[test]
    fn a_consumer_ends_up_with_what_is_stored(steps in steps(), filtered: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            match filtered {
                true => run(steps, r#"{"n":{"$gte":0}}"#, |n| n >= 0).await,
                false => run(steps, "{}", |_| true).await,
            }
        });
    }
}
