//! Web caches: what they are told, and that the filter has whatever is old in them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use document::bloom::{Bloom, Hashes};
use document::id::object_id;
use proptest::prelude::*;
use proto::{ErrorCode, NodeId, ShardId};

use super::{body, put};
use crate::jobs::Jobs;
use crate::testing::{SHARDS, TestCluster, anonymous, soon};
use crate::{CachePolicy, CacheScope, Condition, Consistency, Context, Document, Filter, Limits};

const PUBLIC: CachePolicy = CachePolicy {
    scope: CacheScope::Public,
    ttl_min_seconds: 1,
    ttl_max_seconds: 600,
    prior_seconds: 600,
    edge_max_seconds: 1,
};

/// Nodes whose bucket `Demo` is cached; node 1 leads.
async fn cached(nodes: u64, policy: CachePolicy) -> TestCluster {
    let cluster = TestCluster::with_nodes(nodes, Limits::default()).await;
    set(&cluster, policy).await;
    cluster
}

async fn set(cluster: &TestCluster, policy: CachePolicy) {
    let set = cluster.service.set_cache_policy("", "Demo", policy, soon());
    let set = set.await.expect("set");
    assert_eq!((set.policy, set.pending), (policy, false));
}

async fn get(cluster: &TestCluster, node: usize, key: &str, level: Consistency) -> Document {
    let ctx = anonymous();
    let got = cluster.node(node).get(&ctx, "Demo", key, level).await;
    got.expect("there")
}

async fn write(cluster: &TestCluster, key: &str) {
    let ctx = anonymous();
    let written = put(cluster, &ctx, key, r#"{"n":1}"#, Condition::None);
    written.await.expect("written");
}

fn holds(filter: &Filter, key: &str) -> bool {
    let bloom = Bloom {
        bits: filter.m,
        hashes: filter.h,
        bytes: STANDARD.decode(&filter.b).expect("base64"),
    };
    bloom.contains(Hashes::of(&object_id("Demo", key)))
}

async fn filter(cluster: &TestCluster, node: usize) -> Filter {
    let filter = cluster.node(node).filter("").await;
    (*filter.expect("a cached bucket")).clone()
}

/// What the leader's job does once a second.
async fn look(cluster: &TestCluster) {
    Jobs::new(cluster.service.core.clone())
        .stale_keys
        .look()
        .await;
}

#[tokio::test]
async fn without_a_policy_nothing_is_said_and_plain_reads_are_linearizable() {
    let cluster = TestCluster::start().await;
    write(&cluster, "a").await;
    let level = cluster.service.plain_level("", "Demo");
    assert_eq!(level, Consistency::Linearizable);
    assert_eq!(get(&cluster, 1, "a", level).await.keep, None);
    assert_eq!(cluster.service.filter("").await, None);
    assert_eq!(cluster.service.staleness("", Duration::ZERO), None);
}

#[tokio::test]
async fn a_document_has_a_lifetime_if_everybody_may_read_it() {
    let cluster = TestCluster::start().await;
    // Written before the policy: it has the lifetime of one of which nothing is known.
    write(&cluster, "old").await;
    set(&cluster, PUBLIC).await;
    write(&cluster, "new").await;
    let own = r#"{"acl":{"read":{"/db/User/9":"allow"},"write":{}}}"#;
    let root = cluster.root().await;
    put(&cluster, &root, "own", own, Condition::None)
        .await
        .expect("written");
    let level = cluster.service.plain_level("", "Demo");
    assert_eq!(level, Consistency::Bounded(Duration::from_secs(1)));
    for key in ["old", "new"] {
        let keep = get(&cluster, 1, key, level).await.keep.expect("cached");
        assert!(keep.is_public);
        assert_eq!(keep.ttl, Duration::from_millis(415_800), "{key}");
    }
    let read = |policy| {
        let (cluster, root) = (&cluster, &root);
        async move {
            set(cluster, policy).await;
            let got = cluster.service.get(root, "Demo", "own", level).await;
            got.expect("root reads").keep.expect("cached")
        }
    };
    let scope = CacheScope::Private;
    let keep = read(CachePolicy { scope, ..PUBLIC }).await;
    assert!(!keep.is_public && keep.ttl > Duration::ZERO);
    let keep = read(PUBLIC).await;
    assert!(!keep.is_public && keep.ttl == Duration::ZERO);
}

#[tokio::test]
async fn a_document_is_not_kept_past_its_own_end() {
    let cluster = cached(1, PUBLIC).await;
    let end = r#"{"expiresAt":"2023-11-14T22:13:50Z"}"#;
    put(&cluster, &anonymous(), "a", end, Condition::None)
        .await
        .expect("written");
    let keep = get(&cluster, 1, "a", Consistency::Linearizable).await.keep;
    assert_eq!(keep.expect("cached").ttl, Duration::from_secs(30));
}

#[tokio::test]
async fn a_write_is_in_the_next_filter_of_every_node() {
    let cluster = cached(2, PUBLIC).await;
    write(&cluster, "a").await;
    for node in [1, 2] {
        cluster.node(node).core.evidence.round(soon()).await;
        let empty = filter(&cluster, node).await;
        assert_eq!(empty.keys, Some(0), "nothing was superseded");
    }
    write(&cluster, "a").await;
    for node in [1, 2] {
        let filter = filter(&cluster, node).await;
        assert!(filter.keys == Some(1) && holds(&filter, "a"), "node {node}");
        assert!(!holds(&filter, "b"));
    }
    // A delete is a write; what was never there leaves nothing.
    let gone = cluster
        .service
        .delete(&anonymous(), "Demo", "a", Condition::None)
        .await;
    assert!(gone.expect("deleted").existed);
    write(&cluster, "c").await;
    let filter = filter(&cluster, 2).await;
    assert_eq!((filter.keys, holds(&filter, "a")), (Some(1), true));
}

#[tokio::test]
async fn stale_keys_end_by_ticks_alone_and_an_idle_shard_writes_nothing() {
    let cluster = cached(1, PUBLIC).await;
    write(&cluster, "a").await;
    write(&cluster, "a").await;
    cluster.clock.advance(Duration::from_secs(1));
    look(&cluster).await;
    let marked = cluster.world.document_proposals();
    cluster.clock.advance(Duration::from_secs(100));
    look(&cluster).await;
    look(&cluster).await;
    assert_eq!(cluster.world.document_proposals(), marked, "nothing is due");
    assert!(holds(&filter(&cluster, 1).await, "a"));
    // 415.8 s, and what is added for rounding and for clocks.
    cluster.clock.advance(Duration::from_secs(318));
    look(&cluster).await;
    look(&cluster).await;
    assert_eq!(filter(&cluster, 1).await.keys, Some(0));
    let ended = cluster.world.document_proposals();
    assert!(ended > marked);
    look(&cluster).await;
    assert_eq!(cluster.world.document_proposals(), ended);
    let shard = cluster.shard_of("Demo", "a");
    let stale = cluster.world.replica(shard).applied().stale;
    assert_eq!(stale.expired, stale.last, "the row is gone, too");
}

#[tokio::test]
async fn a_shard_that_is_silent_saturates_the_filter() {
    let cluster = cached(1, PUBLIC).await;
    assert_eq!(filter(&cluster, 1).await.keys, Some(0));
    let shard = ShardId(SHARDS);
    cluster.world.elect(shard, None);
    cluster.world.bystanders.lock().insert(NodeId(1));
    // As long as its last word is young it counts.
    assert_eq!(filter(&cluster, 1).await.keys, Some(0));
    cluster.clock.advance(Duration::from_secs(6));
    let silent = filter(&cluster, 1).await;
    assert_eq!(silent, Filter::saturated());
    assert!(holds(&silent, "whatever"));
}

#[tokio::test]
async fn rules_that_take_readers_away_outdate_the_bucket() {
    let cluster = cached(1, PUBLIC).await;
    write(&cluster, "a").await;
    let index = r#"{"keys":[{"n":"asc"}]}"#;
    let made = cluster
        .service
        .change_index(&cluster.root().await, "Demo", body(index))
        .await;
    made.expect("made");
    assert_eq!(
        filter(&cluster, 1).await.keys,
        Some(0),
        "readers are the same"
    );
    let rules = r#"[{"operation":"updateClassAcl","bucket":"/db/Demo","acl":{"load":{"/db/User/9":"allow"}}}]"#;
    let added = cluster
        .service
        .add_schema(&cluster.root().await, body(rules))
        .await;
    added.expect("changed");
    assert_eq!(filter(&cluster, 1).await, Filter::saturated());
    let denied = cluster
        .service
        .get(&anonymous(), "Demo", "a", Consistency::Linearizable)
        .await;
    assert_eq!(
        denied.map_err(|error| error.code).err(),
        Some(ErrorCode::PermissionDenied)
    );
}

#[tokio::test]
async fn a_policy_out_of_bounds_is_refused_and_one_that_ends_leaves_the_filter() {
    let cluster = cached(1, PUBLIC).await;
    let ttl_min_seconds = 601;
    let wrong = CachePolicy {
        ttl_min_seconds,
        ..PUBLIC
    };
    let refused = cluster.service.set_cache_policy("", "Demo", wrong, soon());
    assert_eq!(
        refused.await.expect_err("refused").code,
        ErrorCode::BadRequest
    );
    write(&cluster, "a").await;
    set(
        &cluster,
        CachePolicy {
            scope: CacheScope::Off,
            ..PUBLIC
        },
    )
    .await;
    assert_eq!(
        get(&cluster, 1, "a", Consistency::Linearizable).await.keep,
        None
    );
    write(&cluster, "a").await;
    assert!(holds(&filter(&cluster, 1).await, "a"), "copies live on");
}

#[tokio::test]
async fn the_bound_is_the_sum_of_its_parts() {
    let cluster = cached(1, PUBLIC).await;
    let flight = Duration::from_secs(30);
    let bound = cluster.service.staleness("", flight).expect("cached");
    let parts = [
        bound.refresh,
        bound.transit,
        bound.filter,
        bound.answer,
        bound.flight,
    ];
    assert_eq!(bound.total, parts.into_iter().sum());
    assert_eq!(
        bound.answer,
        Duration::from_secs(2),
        "the node's second, and a shared cache's"
    );
}

/// What the world does next.
#[derive(Clone, Debug)]
enum Step {
    Write {
        key: usize,
        is_delete: bool,
    },
    Read {
        browser: usize,
        node: usize,
        key: usize,
    },
    Wait {
        ms: u64,
    },
    Elect {
        node: u64,
    },
    /// The lifetimes that the bucket's documents may have.
    Policy {
        max: u32,
        prior: u32,
    },
    Look,
}

const KEYS: [&str; 4] = ["a", "b", "c", "d"];
const BROWSERS: usize = 3;
const NODES: u64 = 2;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..KEYS.len(), prop::bool::weighted(0.2))
            .prop_map(|(key, is_delete)| Step::Write { key, is_delete }),
        12 => (0..BROWSERS, 1..=NODES as usize, 0..KEYS.len())
            .prop_map(|(browser, node, key)| Step::Read { browser, node, key }),
        4 => prop_oneof![0..2_000u64, 0..90_000u64].prop_map(|ms| Step::Wait { ms }),
        1 => (1..=NODES).prop_map(|node| Step::Elect { node }),
        1 => (2..600u32, 1..900u32).prop_map(|(max, prior)| Step::Policy { max, prior }),
        2 => Just(Step::Look),
    ];
    prop::collection::vec(step, 1..80)
}

/// A browser with the released client in it: a cache by the rules of HTTP, and a filter.
#[derive(Default)]
struct Browser {
    /// Version and until when it is fresh, by key.
    copies: HashMap<usize, (u64, Duration)>,
    filter: Option<(Filter, Duration)>,
    /// Loaded since the filter came.
    whitelist: HashSet<usize>,
}

/// When a client asks for another filter.
const REFRESH: Duration = Duration::from_secs(60);

impl Browser {
    /// Loads a document; gives the version that the page shows.
    async fn load(&mut self, cluster: &TestCluster, node: usize, key: usize) -> Option<u64> {
        let clock = &cluster.service.core.clock;
        let is_old = |at: &Duration| clock.elapsed().saturating_sub(*at) > REFRESH;
        if self.filter.as_ref().is_none_or(|(_, at)| is_old(at)) {
            self.filter = Some((filter(cluster, node).await, clock.elapsed()));
            self.whitelist.clear();
        }
        let now = clock.elapsed();
        let is_suspect = self
            .filter
            .as_ref()
            .is_some_and(|(filter, _)| holds(filter, KEYS[key]));
        let revalidates = is_suspect && !self.whitelist.contains(&key);
        self.whitelist.insert(key);
        if let Some((version, fresh_until)) = self.copies.get(&key)
            && !revalidates
            && now < *fresh_until
        {
            return Some(*version);
        }
        let level = match revalidates {
            true => Consistency::Linearizable,
            false => cluster.service.plain_level("", "Demo"),
        };
        self.copies.remove(&key);
        let got = cluster
            .node(node)
            .get(&anonymous(), "Demo", KEYS[key], level)
            .await;
        let document = got.ok()?;
        let age = document.served.and_then(|served| served.age);
        let keep = document.keep.expect("a cached bucket");
        let fresh = keep.ttl.saturating_sub(age.expect("proven"));
        self.copies.insert(
            key,
            (document.version, now + Duration::from_secs(fresh.as_secs())),
        );
        Some(document.version)
    }
}

/// The bound on what a page shows: the refresh, and what a state may lag.
const BOUND: Duration = Duration::from_secs(60 + 5 + 1);

async fn play(steps: &[Step]) {
    let cluster = cached(NODES, PUBLIC).await;
    let clock = &cluster.service.core.clock;
    let mut browsers: Vec<Browser> = Vec::new();
    browsers.resize_with(BROWSERS, Browser::default);
    // When each version of each key was superseded.
    let mut superseded: HashMap<(usize, u64), Duration> = HashMap::new();
    let mut newest: HashMap<usize, u64> = HashMap::new();
    let ctx: Context = anonymous();
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Write {
                key,
                is_delete: true,
            } => {
                let gone = cluster
                    .service
                    .delete(&ctx, "Demo", KEYS[*key], Condition::None);
                gone.await.expect("deleted");
                if let Some(version) = newest.remove(key) {
                    superseded.insert((*key, version), clock.elapsed());
                }
            }
            Step::Write { key, .. } => {
                let written = put(&cluster, &ctx, KEYS[*key], "{}", Condition::None).await;
                let version = written.expect("written").document.version;
                if let Some(before) = newest.insert(*key, version) {
                    superseded.insert((*key, before), clock.elapsed());
                }
            }
            Step::Read { browser, node, key } => {
                let shown = browsers[*browser].load(&cluster, *node, *key).await;
                let end = shown.and_then(|version| superseded.get(&(*key, version)));
                let age = end.map(|end| clock.elapsed().saturating_sub(*end));
                assert!(age.is_none_or(|age| age <= BOUND), "step {at}: {age:?} old");
            }
            Step::Wait { ms } => cluster.clock.advance(Duration::from_millis(*ms)),
            Step::Elect { node } => cluster.world.elect_everywhere(NodeId(*node)),
            Step::Policy { max, prior } => {
                let (ttl_max_seconds, prior_seconds) = (*max, *prior);
                set(
                    &cluster,
                    CachePolicy {
                        ttl_max_seconds,
                        prior_seconds,
                        ..PUBLIC
                    },
                )
                .await;
            }
            Step::Look => look(&cluster).await,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The real code on the server's side, and browsers that do as the released client does.
    #[test]
    fn no_page_shows_what_is_older_than_the_bound(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(play(&steps));
    }
}
