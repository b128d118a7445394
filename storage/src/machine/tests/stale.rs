//! What writes leave behind for web caches: lifetimes in documents, stale rows, marks, and their end.

use std::collections::BTreeMap;

use document::bloom::Hashes;
use proptest::prelude::*;
use proto::log::command::Operation;
use proto::log::{self, CachePolicy, CacheScope, Command, Tick};

use super::harness::{
    BUCKET, DATABASE, Node, bucket, command, delete, entry, mutation, principal, put, write,
};
use crate::ids::StoreId;
use crate::keys::ChangeKey;
use crate::machine::lifetime::{Caching, Lifetime};
use crate::tables::stale::{self, Part, horizon_us};
use crate::tables::{buckets, change_log, documents};

const SECOND: u64 = 1_000_000;

fn policy(scope: CacheScope, ttl_max_ms: u32, prior_ms: u32) -> CachePolicy {
    CachePolicy {
        scope: scope.into(),
        ttl_min_ms: 1_000,
        ttl_max_ms,
        prior_ms,
        edge_max_ms: 0,
    }
}

fn set_policy(version: u64, policy: Option<CachePolicy>, readers: u64) -> Command {
    let bucket = log::Bucket {
        cache: policy,
        readers,
        ..bucket(BUCKET, version, false)
    };
    let buckets = vec![bucket];
    command(0, Operation::SetBuckets(log::SetBuckets { buckets }))
}

fn a_write(stamp_us: u64, key: &str, version: u64, is_delete: bool) -> Command {
    let operation = if is_delete {
        delete()
    } else {
        put(r#""n":1"#, "")
    };
    let mut mutation = mutation(key, None, operation);
    mutation.bucket_version = version;
    write(stamp_us, principal("", &[]), None, mutation)
}

/// The command at T `base_us` and so much later, by a proposer who knew that the index was committed.
fn ticked(command: Command, base_us: u64, elapsed_us: u64, commit_index: u64) -> Command {
    let tick = Some(Tick {
        base_us,
        elapsed_us,
        commit_index,
    });
    Command { tick, ..command }
}

fn idle(base_us: u64, elapsed_us: u64, commit_index: u64) -> Command {
    let idle = command(0, Operation::Idle(log::Idle {}));
    ticked(idle, base_us, elapsed_us, commit_index)
}

fn expire(base_us: u64, elapsed_us: u64) -> Command {
    let expire = command(0, Operation::ExpireStale(log::ExpireStale { page: 10 }));
    ticked(expire, base_us, elapsed_us, 0)
}

fn apply(node: &Node, command: &Command) {
    node.outcome(command).expect("applies");
}

fn part(node: &Node) -> Part {
    let view = node.replica.view();
    stale::read(&view, ChangeKey::default(), 0, usize::MAX).expect("reads")
}

/// Whether the filter must hold the document now.
fn is_stale(part: &Part, key: &str) -> bool {
    let id = Hashes::of(&format!("/db/B{BUCKET}/{key}"));
    part.rows.iter().any(|(at, row)| {
        let mark = part.marks.iter().find(|mark| mark.index >= at.index);
        let is_over = mark.is_some_and(|mark| horizon_us(*mark, row.lifetime_ms) <= part.time_us);
        row.document.is_none_or(|document| document == id) && !is_over
    })
}

fn stored(node: &Node, key: &str) -> Option<Option<Lifetime>> {
    let record = documents::get(&node.replica, DATABASE, BUCKET, key).expect("reads");
    record.map(|record| record.lifetime)
}

#[test]
fn a_key_is_stale_until_its_longest_copy_has_run_out() {
    let node = Node::new(1);
    let policy = policy(CacheScope::Public, 600_000, 100_000);
    apply(&node, &set_policy(1, Some(policy), 0));
    apply(&node, &a_write(SECOND, "a", 1, false));
    let first = stored(&node, "a").expect("there").expect("a lifetime");
    assert_eq!((first.interval_ms, first.ttl_ms), (100_000, 69_300));
    assert!(part(&node).rows.is_empty(), "nothing was superseded");

    // Entry 3 supersedes it. Copies may live on until their lifetime is over.
    apply(&node, &a_write(21 * SECOND, "a", 1, false));
    let second = stored(&node, "a").expect("there").expect("a lifetime");
    assert_eq!(second.interval_ms, 80_000);
    assert!(is_stale(&part(&node), "a"));
    let view = node.replica.view();
    let at = ChangeKey {
        index: 3,
        ordinal: 0,
    };
    let event = change_log::get(&view, at).expect("reads").expect("there");
    assert_eq!(event.lifetime_ms, 69_300);

    // A tick whose proposer does not know of entry 3 closes nothing, however late it is.
    apply(&node, &idle(0, 1_000 * SECOND, 2));
    assert!(part(&node).marks.iter().all(|mark| mark.index < 3));
    apply(&node, &idle(1_000 * SECOND, SECOND, 3));
    let horizon = 1_001 * SECOND + 69_300_000 + SECOND + 69_300;
    apply(
        &node,
        &idle(1_001 * SECOND, horizon - 1 - 1_001 * SECOND, 3),
    );
    assert!(is_stale(&part(&node), "a"));
    apply(&node, &expire(horizon - 1, 0));
    assert_eq!(part(&node).rows.len(), 1, "it is not over yet");
    apply(&node, &expire(horizon - 1, 1));
    assert!(!is_stale(&part(&node), "a"));
    assert!(part(&node).rows.is_empty() && part(&node).expired == at);
}

#[test]
fn a_short_lifetime_does_not_hide_a_longer_one() {
    let node = Node::new(1);
    apply(
        &node,
        &set_policy(1, Some(policy(CacheScope::Public, 600_000, 600_000)), 0),
    );
    apply(&node, &a_write(SECOND, "a", 1, false));
    // Entry 3 supersedes 416 s; so many writes in one second make the last lifetime short.
    for at in 0..30 {
        apply(&node, &a_write(2 * SECOND + at, "a", 1, false));
    }
    assert_eq!(
        stored(&node, "a").flatten().map(|known| known.ttl_ms),
        Some(1_000)
    );
    apply(&node, &a_write(3 * SECOND, "a", 1, true));
    let last = node.replica.applied().id.expect("applied").index;
    apply(&node, &idle(0, SECOND, last));
    apply(&node, &idle(SECOND, 100 * SECOND, last));
    apply(&node, &expire(101 * SECOND, 0));
    assert!(
        is_stale(&part(&node), "a"),
        "copies of the first version are fresh until 417 s"
    );
    apply(&node, &expire(101 * SECOND, 400 * SECOND));
    assert!(!is_stale(&part(&node), "a"));
}

#[test]
fn a_bucket_that_was_never_cached_leaves_nothing() {
    let node = Node::new(1);
    apply(&node, &set_policy(1, None, 9));
    for at in 1..5 {
        apply(&node, &a_write(at, "a", 1, at == 3));
    }
    apply(&node, &idle(0, SECOND, 4));
    assert_eq!(stored(&node, "a"), Some(None));
    let part = part(&node);
    assert!(part.rows.is_empty() && part.marks.is_empty());
}

#[test]
fn new_rules_about_readers_outdate_the_whole_bucket() {
    let node = Node::new(1);
    let public = Some(policy(CacheScope::Public, 60_000, 60_000));
    apply(&node, &set_policy(1, public, 7));
    apply(&node, &set_policy(2, public, 7));
    assert!(!is_stale(&part(&node), "any"));
    apply(&node, &set_policy(3, public, 8));
    assert!(is_stale(&part(&node), "any"));
}

#[test]
fn what_was_written_before_the_policy_is_superseded_by_its_prior() {
    let node = Node::new(1);
    apply(&node, &set_policy(1, None, 0));
    apply(&node, &a_write(1, "a", 1, false));
    apply(
        &node,
        &set_policy(2, Some(policy(CacheScope::Public, 600_000, 100_000)), 0),
    );
    // A policy that hands out less does not shorten what was handed out.
    apply(
        &node,
        &set_policy(3, Some(policy(CacheScope::Public, 2_000, 1_000)), 0),
    );
    apply(&node, &a_write(2, "a", 3, false));
    assert_eq!(part(&node).rows[0].1.lifetime_ms, 69_300);
}

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    Write {
        key: usize,
        is_delete: bool,
    },
    /// A browser asks, and is answered with what is stored.
    Issue {
        key: usize,
    },
    Policy {
        max_ms: u32,
        prior_ms: u32,
        is_on: bool,
    },
    /// The leader ticks; it knows of all but the last so many entries that they are committed.
    Tick {
        behind: u64,
    },
    Expire,
}

const KEYS: [&str; 3] = ["a", "b", "c"];

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let step = prop_oneof![
        4 => (0..KEYS.len(), any::<bool>()).prop_map(|(key, is_delete)| Step::Write { key, is_delete }),
        4 => (0..KEYS.len()).prop_map(|key| Step::Issue { key }),
        1 => (1_000..60_000u32, 1_000..90_000u32, any::<bool>())
            .prop_map(|(max_ms, prior_ms, is_on)| Step::Policy { max_ms, prior_ms, is_on }),
        4 => (0..3u64).prop_map(|behind| Step::Tick { behind }),
        2 => Just(Step::Expire),
    ];
    // Steps lie up to twenty seconds apart.
    prop::collection::vec((0..20 * SECOND, step), 1..60)
}

/// A copy in a browser: of which version, and until when it is fresh there, in real time.
struct Copy {
    key: usize,
    version: u64,
    fresh_until: u64,
}

/// Plays a history in real time; after each step every copy that is fresh and old must be found stale.
fn play(steps: &[(u64, Step)]) -> Node {
    let node = Node::new(1);
    let mut version = 1;
    apply(
        &node,
        &set_policy(1, Some(policy(CacheScope::Public, 60_000, 30_000)), 0),
    );
    let (mut now, mut ticked_at) = (0, 0);
    let mut copies: Vec<Copy> = Vec::new();
    for (pause, step) in steps {
        now += pause;
        let applied = node.replica.applied();
        let index = applied.id.map_or(0, |id| id.index);
        match step {
            Step::Write { key, is_delete } => {
                apply(&node, &a_write(now, KEYS[*key], version, *is_delete));
            }
            Step::Issue { key } => {
                let record = documents::get(&node.replica, DATABASE, BUCKET, KEYS[*key]);
                let caching = buckets::caching(&node.replica, DATABASE, BUCKET).expect("reads");
                if let (Some(record), Some((_, caching))) = (record.expect("reads"), caching) {
                    let lifetime_ms = Caching::lifetime_ms(caching, record.lifetime);
                    copies.push(Copy {
                        key: *key,
                        version: record.version,
                        fresh_until: now + u64::from(lifetime_ms) * 1_000,
                    });
                }
            }
            Step::Policy {
                max_ms,
                prior_ms,
                is_on,
            } => {
                version += 1;
                let scope = if *is_on {
                    CacheScope::Public
                } else {
                    CacheScope::Off
                };
                apply(
                    &node,
                    &set_policy(version, Some(policy(scope, *max_ms, *prior_ms)), 0),
                );
            }
            Step::Tick { behind } => {
                let elapsed = now - ticked_at;
                apply(
                    &node,
                    &idle(applied.time_us, elapsed, index.saturating_sub(*behind)),
                );
                ticked_at = now;
            }
            Step::Expire => apply(&node, &expire(0, 0)),
        }
        let part = part(&node);
        let newest: BTreeMap<usize, u64> = (0..KEYS.len())
            .filter_map(|key| {
                let record = documents::get(&node.replica, DATABASE, BUCKET, KEYS[key]);
                Some((key, record.expect("reads")?.version))
            })
            .collect();
        for copy in copies.iter().filter(|copy| copy.fresh_until > now) {
            let is_old = newest.get(&copy.key) != Some(&copy.version);
            assert!(
                !is_old || is_stale(&part, KEYS[copy.key]),
                "version {} of {} is old and fresh at {now}",
                copy.version,
                KEYS[copy.key]
            );
        }
    }
    node
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_fresh_copy_that_is_old_is_ever_missed(steps in steps()) {
        play(&steps);
    }

    /// What a snapshot carries is what was there, and both replicas go on alike.
    #[test]
    fn snapshots_carry_what_is_stale(steps in steps(), later in steps()) {
        let node = play(&steps);
        let other = Node::new(2);
        for (column, key, value) in node.rows() {
            let mut batch = crate::engine::Batch::new();
            batch.put(column, crate::keys::with_store(StoreId(3), &key), value);
            crate::engine::Engine::write(&*other.engine, batch).expect("memory writes");
        }
        let copied = other.replica.switch_store(StoreId(3));
        prop_assert!(copied.is_ok());
        prop_assert_eq!(part(&other), part(&node));
        for (index, (at, (pause, _))) in (node.next_id().index..).zip(later.iter().enumerate()) {
            let base_us = node.replica.applied().time_us;
            let command = match at % 2 {
                0 => idle(base_us, *pause, index - 1),
                _ => expire(base_us, *pause),
            };
            for replica in [&node.replica, &other.replica] {
                replica.apply(vec![entry(index, &command)]).expect("applies");
            }
        }
        prop_assert_eq!(part(&other), part(&node));
        prop_assert_eq!(other.replica.applied().chain, node.replica.applied().chain);
    }
}
