//! The promise under everything that can go wrong at once: drivers that stop after any step, lost replies, commands that are applied
//! much later, lost work in the background, leaders that change, an index that is being built.
//!
//! `LARDER_SOAK=1` runs many more seeds. A failure names its seed.

use std::cell::Cell;

use futures::future::{join_all, select};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::testing::chaos::crash_after;
use crate::testing::soon;

const NAMES: [&str; 4] = ["anna", "emil", "ida", "otto"];
const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "{t}g", "{t}h"];
const ACTORS: u64 = 12;
const WRITES: usize = 24;
/// Polls of a driver before it stops; most writes need fewer than 60.
const STEPS_MAX: usize = 60;

/// What happened in a run.
#[derive(Default)]
struct Tally {
    written: Cell<u32>,
    taken: Cell<u32>,
    crashed: Cell<u32>,
    unknown: Cell<u32>,
}

impl Tally {
    fn count(&self, result: Option<Result<()>>) {
        let cell = match result.map(|result| result.map_err(|error| error.code)) {
            None => &self.crashed,
            Some(Ok(())) => &self.written,
            Some(Err(ErrorCode::ValueTaken)) => &self.taken,
            Some(Err(ErrorCode::OutcomeUnknown)) => &self.unknown,
            Some(Err(_)) => return,
        };
        cell.set(cell.get() + 1);
    }
}

#[tokio::test]
async fn no_crash_gives_a_value_to_two_documents() {
    let tally = Tally::default();
    for seed in 0..seeds(6) {
        let cluster = with_indexes().await;
        run(&cluster, seed, &tally).await;
    }
    let Tally {
        written,
        taken,
        crashed,
        unknown,
    } = tally;
    let all = [written, taken, crashed, unknown].map(Cell::into_inner);
    assert!(
        all.iter().all(|count| *count > 20),
        "nothing to see: {all:?}"
    );
}

#[tokio::test]
async fn an_index_that_gets_ready_under_load_and_crashes_is_unique() {
    let (tally, ready) = (Tally::default(), Cell::new(0));
    for seed in 0..seeds(60) {
        // Not every history leaves the names apart; enough of them do.
        if seed >= seeds(6) && ready.get() > 0 {
            break;
        }
        let cluster = without_indexes().await;
        for (key, name) in KEYS.iter().zip(NAMES) {
            put(&cluster.service, key, named(name))
                .await
                .expect("written");
        }
        tokio::join!(run(&cluster, seed, &tally), async {
            create(&cluster, BY_NAME).await;
        });
        // Writes that took a name which an older document had make it fail; then it says so.
        match built(&cluster, BY_NAME).await {
            ("ready", _) => ready.set(ready.get() + 1),
            (state, reason) => assert!(state == "failed" && !reason.is_empty(), "{state}"),
        }
    }
    assert!(ready.get() > 0, "no index got ready");
}

fn seeds(bounded: u64) -> u64 {
    match std::env::var("LARDER_SOAK") {
        Ok(soak) if soak == "1" => bounded * 50,
        _ => bounded,
    }
}

/// Many writers and whatever can go wrong, then quiet, then the books.
async fn run(cluster: &TestCluster, seed: u64, tally: &Tally) {
    cluster.world.begin_chaos(seed);
    let actors = (0..ACTORS).map(|actor| act(cluster, seed, actor, tally));
    let nemesis = async {
        loop {
            trouble(cluster);
            check(cluster, seed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    select(Box::pin(join_all(actors)), Box::pin(nemesis)).await;
    cluster.world.end_chaos();
    check(cluster, seed);
    quiet(cluster).await;
    check(cluster, seed);
    if is_ready(cluster) {
        settle_up(cluster, seed).await;
    }
}

/// One client: random writes through random nodes, some of which stop at a random step.
async fn act(cluster: &TestCluster, seed: u64, actor: u64, tally: &Tally) {
    let mut dice = StdRng::seed_from_u64(seed * ACTORS + actor);
    for at in 0..WRITES {
        let node = dice.random_range(1..=3);
        let service = cluster.node(node);
        let key = KEYS[dice.random_range(0..KEYS.len())];
        let name = NAMES[dice.random_range(0..NAMES.len())];
        let other = NAMES[dice.random_range(0..NAMES.len())];
        let kind = dice.random_range(0..8);
        let ctx = Context {
            deadline: soon(),
            ..anonymous()
        };
        let writing = async {
            match kind {
                0 => insert(service, &ctx, key, named(name)).await.map(drop),
                1 => put(service, key, named(name)).await.map(drop),
                2 => {
                    let ctx = keyed(&ctx, &format!("{actor} {at}"));
                    insert(service, &ctx, key, named(name)).await.map(drop)
                }
                3 => {
                    let set = value!({ "$set": { "name": name } });
                    update(service, key, &set.to_string()).await.map(drop)
                }
                4 => {
                    let tag = value!({ "$add": { "tags": name }, "$inc": { "n": 1 } });
                    update(service, key, &tag.to_string()).await.map(drop)
                }
                5 => {
                    let batch = vec![write("{t}g", Some(name)), write("{t}h", Some(other))];
                    service.batch(&ctx, batch).await.map(drop)
                }
                _ => service
                    .delete(&ctx, BUCKET, key, Condition::None)
                    .await
                    .map(drop),
            }
        };
        let result = if dice.random_range(0..3) == 0 {
            let result = Box::pin(crash_after(dice.random_range(1..STEPS_MAX), writing)).await;
            if dice.random() {
                service.core.unique.lose();
            }
            result
        } else {
            Some(writing.await)
        };
        tally.count(result);
        check(cluster, seed);
    }
}

/// Something goes wrong, perhaps.
fn trouble(cluster: &TestCluster) {
    let world = &cluster.world;
    match world.throw(6) {
        0 => {
            let shard = ShardId(world.throw(SHARDS) + 1);
            world.elect(shard, Some(NodeId(u64::from(world.throw(3)) + 1)));
        }
        1 => cluster.node(world.throw(3) as usize + 1).core.unique.lose(),
        _ => world.deliver_late(),
    }
}

fn is_ready(cluster: &TestCluster) -> bool {
    let state = cluster.metadata();
    let database = state.database("").expect("the default database");
    let mut indexes = database.indexes.values();
    indexes.any(|index| index.state == cluster::state::IndexState::Ready)
}

/// The promise, at this moment.
#[track_caller]
fn check(cluster: &TestCluster, seed: u64) {
    if !is_ready(cluster) {
        return;
    }
    for (name, keys) in holders(cluster) {
        let is_tag = name.starts_with("tag ");
        if !is_tag || has_tags(cluster) {
            assert!(keys.len() <= 1, "seed {seed}: {name} is held by {keys:?}");
        }
    }
}

/// Whether tags must be unique, too.
fn has_tags(cluster: &TestCluster) -> bool {
    let state = cluster.metadata();
    let database = state.database("").expect("the default database");
    database.indexes.len() == 2
}

/// In the end every name can be had, unless a document holds it.
async fn settle_up(cluster: &TestCluster, seed: u64) {
    for name in NAMES {
        let held = holders(cluster).contains_key(name);
        let key = format!("last {name}");
        let result = code(insert(&cluster.service, &anonymous(), &key, named(name)).await);
        let expected = held.then_some(ErrorCode::ValueTaken);
        assert_eq!(result, expected, "seed {seed}: {name}");
    }
    check(cluster, seed);
}
