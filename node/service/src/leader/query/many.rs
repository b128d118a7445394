//! One query of several shards that this node leads: read once, proven for all at once, and walked on few threads.
//!
//! Most parts of a query look at little, and then going to a thread costs more than the walk. So a thread plans one shard after the other
//! and carries out at once what is light; heavy walks get threads of their own, side by side.
//!
//! Each shard answers for itself: one that cannot answer here leaves the others as they are.

use std::sync::Arc;
use std::time::Instant;

use futures::future::join_all;
use proto::ShardId;
use storage::machine::Replica;

use super::super::near::seen;
use super::{Shards, Walk, Walked};
use crate::error::{Error, Result};
use crate::forward::{Answer, Failure, Found, Hit, Near, Queries, Replies, Request, Seen};

/// Shards that one thread walks through one after the other.
const SHARDS_A_THREAD: usize = 8;
/// Entries and documents that a light walk is expected to look at: about as much as going to another thread costs, a few times over.
const LIGHT_MAX: u64 = 1_000;
/// What the answers of all parts may hold together: twice what the asked node wants of all shards, and well below what a connection takes.
/// Parts beyond are to be asked for again, one by one.
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// A shard that is ready to be walked through.
struct Ready {
    replica: Arc<Replica>,
    /// How old the replica is at most, in microseconds.
    age_us: Option<u64>,
    walk: Walk,
}

/// What became of it on a thread.
#[expect(
    clippy::large_enum_variant,
    reason = "one for each shard of a query, at once taken apart: a box would cost more than the room"
)]
enum Ran {
    Done(Seen, Result<Walked>),
    Heavy(Ready),
}

impl Shards {
    /// Answers for each shard of a query, behind a read barrier each, or from replicas as they are if they are as fresh as `near` wants them.
    pub(in crate::leader) async fn queries(
        &self,
        request: &Request,
        queries: &Queries,
        near: Option<Near>,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let Some(query) = &queries.query else {
            return Err(Error::bad_request("a query of several shards without the query").into());
        };
        let asked = self.ask(request, query, deadline)?;
        let ready = queries.parts.iter().map(|part| async {
            let (replica, age_us) = self.fresh(part, near, deadline).await?;
            let walk = asked.walk(ShardId(part.shard), &replica, &part.question(query));
            Ok(Ready {
                replica,
                age_us,
                walk,
            })
        });
        let mut replies = Vec::with_capacity(queries.parts.len());
        let mut threads: Vec<Vec<(usize, Ready)>> = Vec::new();
        for (at, ready) in join_all(ready).await.into_iter().enumerate() {
            let ready: Result<Ready, Failure> = ready;
            // In place of an answer until there is one.
            replies.push(Err(Failure::Unknown));
            match (ready, threads.last_mut()) {
                (Err(failure), _) => replies[at] = Err(failure),
                (Ok(ready), Some(last)) if last.len() < SHARDS_A_THREAD => last.push((at, ready)),
                (Ok(ready), _) => threads.push(vec![(at, ready)]),
            }
        }
        let walked = threads.into_iter();
        let walked = walked.map(|thread| self.walk_all(thread, deadline));
        let mut bytes = 0;
        for (at, found) in join_all(walked).await.into_iter().flatten() {
            bytes += found.as_ref().map_or(0, size);
            replies[at] = match bytes <= BYTES_MAX {
                true => found.map(Answer::Found),
                false => Err(Failure::Busy(Error::unavailable("the answer is too large"))),
            };
        }
        Ok(Answer::Replies(Replies::new(replies)))
    }

    /// Walks through shards on one thread, and through those with much to look at on one each.
    async fn walk_all(
        &self,
        ready: Vec<(usize, Ready)>,
        deadline: Instant,
    ) -> Vec<(usize, Result<Found, Failure>)> {
        let places: Vec<usize> = ready.iter().map(|(at, _)| *at).collect();
        let run = move || {
            let ran = ready
                .into_iter()
                .map(|(at, ready)| (at, ready.run_if_light()));
            Ok(ran.collect::<Vec<_>>())
        };
        let ran = match self.walks.run(deadline, run).await {
            Ok(ran) => ran,
            Err(error) => {
                let failed = |at| (at, Err(Failure::Refused(error.clone())));
                return places.into_iter().map(failed).collect();
            }
        };
        let done = ran.into_iter().map(|(at, ran)| async move {
            let (seen, walked) = match ran {
                Ran::Done(seen, walked) => (seen, walked),
                Ran::Heavy(ready) => {
                    let (replica, age_us) = (Arc::clone(&ready.replica), ready.age_us);
                    let run = move || ready.walk.run(&ready.replica);
                    let walked = self.walks.run(deadline, run).await;
                    (seen(&replica, age_us), walked)
                }
            };
            let found = walked.map(|walked| Found {
                seen: Some(seen),
                ..self.walked(walked)
            });
            (at, found.map_err(Failure::from))
        });
        join_all(done).await
    }
}

/// Bytes of what a shard found.
fn size(found: &Found) -> usize {
    found.hits.iter().map(Hit::bytes).sum()
}

impl Ready {
    fn run_if_light(self) -> Ran {
        let began = Instant::now();
        let view = self.replica.view();
        let planned = match self.walk.plan(&view) {
            Ok(planned) if planned.plan.estimated > LIGHT_MAX => {
                drop(view);
                return Ran::Heavy(self);
            }
            planned => planned,
        };
        let walked = planned.and_then(|planned| self.walk.carry_out(&view, &planned, began));
        drop(view);
        Ran::Done(seen(&self.replica, self.age_us), walked)
    }
}
