//! Reading pages of shards: of one, or of several with one request to each node that leads some of them. A query that need not ask leaders
//! is answered here where replicas are fresh enough, or by one request to each of the nearest holders.
//!
//! What a node cannot answer for a shard, as it does not lead it any more, is behind or is busy, is asked for again shard by shard, with all the
//! patience of other reads. So asking for several is never less reliable than asking for each, only quicker.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, Stream, StreamExt};
use proto::{NodeId, ShardId};

use crate::Core;
use crate::context::{Consistency, Freshness, Served};
use crate::documents::{Session, unexpected};
use crate::error::Result;
use crate::forward::{self, Answer, Failure, Operation, Queries, Request};
use crate::near::check_positions;

/// Requests on the way at the same time for one query: a cluster of usual size at once, and a large one without a thousand requests.
const REQUESTS_AT_ONCE: usize = 16;
/// Shards that are asked for in one request.
const SHARDS_A_REQUEST: usize = 32;
/// One try of a request for several shards. Longer than a failover, so that a slow try is not given up for nothing.
const TRY_MAX: Duration = Duration::from_millis(2_500);

/// How shards are read for one page of a result.
pub(super) struct Reads<'a> {
    pub(super) core: &'a Core,
    pub(super) session: &'a Session,
    pub(super) freshness: &'a Freshness,
    pub(super) deadline: Instant,
}

/// A page of one shard.
pub(super) struct Page {
    pub(super) found: forward::Found,
    pub(super) served: Option<Served>,
    /// Until the answer was here.
    pub(super) took: Duration,
}

/// A shard and what it is asked.
type Question = (ShardId, forward::Query);

/// Questions on their way: answers, each with the place of its question.
type Asking<'a> = BoxFuture<'a, Vec<(usize, Result<Page>)>>;

impl Reads<'_> {
    /// One page of one shard.
    pub(super) async fn page(&self, shard: ShardId, query: forward::Query) -> Result<Page> {
        let began = Instant::now();
        let request = self.session.request(shard, None, Operation::Query(query));
        let state = &self.session.state;
        let read = self
            .core
            .read(state, request, self.freshness, self.deadline);
        let (Answer::Found(found), level) = Box::pin(read).await? else {
            return Err(unexpected());
        };
        Ok(Page::new(shard, found, level, began))
    }

    /// One page of each of several shards, in the order of the questions, which differ in nothing but what [`Queries`] lets them.
    ///
    /// # Errors
    /// The first of any shard.
    pub(super) async fn pages(&self, questions: &[Question]) -> Result<Vec<Page>> {
        let mut answers = self.answers(questions)?;
        let mut pages = Vec::with_capacity(questions.len());
        while let Some(several) = answers.next().await {
            for (at, page) in several {
                pages.push((at, page?));
            }
        }
        pages.sort_unstable_by_key(|(at, _)| *at);
        Ok(pages.into_iter().map(|(_, page)| page).collect())
    }

    /// The same, and of each shard that cannot answer why.
    ///
    /// # Errors
    /// The caller has seen a position that no shard can have.
    pub(super) async fn all(&self, questions: &[Question]) -> Result<Vec<Result<Page>>> {
        let answers: Vec<Vec<(usize, Result<Page>)>> = self.answers(questions)?.collect().await;
        let mut answers: Vec<_> = answers.into_iter().flatten().collect();
        answers.sort_unstable_by_key(|(at, _)| *at);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }

    /// What shards answer, each with the place of its question, as it comes.
    fn answers<'r>(
        &'r self,
        questions: &'r [Question],
    ) -> Result<impl Stream<Item = Vec<(usize, Result<Page>)>> + Unpin + 'r> {
        check_positions(&self.session.state, self.freshness)?;
        let mut works: Vec<Asking<'r>> = Vec::new();
        for (node, shards) in self.by_node(questions) {
            for several in shards.chunks(SHARDS_A_REQUEST) {
                match (node, several) {
                    (Some(node), [_, _, ..]) => {
                        let several = several.to_vec();
                        works.push(self.of_node(node, questions, several).boxed());
                    }
                    _ => works.extend(several.iter().map(|&at| {
                        let one = self.of_shard(questions, at);
                        one.map(|answer| vec![answer]).boxed()
                    })),
                }
            }
        }
        Ok(stream::iter(works).buffer_unordered(REQUESTS_AT_ONCE))
    }

    /// The places of the questions by the node that is to be asked first: the one that is thought to lead the shard, or where that need not
    /// be asked the nearest; `None`: to be asked one by one.
    fn by_node(&self, questions: &[Question]) -> BTreeMap<Option<NodeId>, Vec<usize>> {
        let core = self.core;
        let mut places: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (at, (shard, _)) in questions.iter().enumerate() {
            let node = match core.near(*shard, self.freshness) {
                None => core.router.leader(*shard),
                Some(_) => core.nearest(&self.session.state, *shard),
            };
            places.entry(node).or_default().push(at);
        }
        places
    }

    async fn of_shard(&self, questions: &[Question], at: usize) -> (usize, Result<Page>) {
        let (shard, query) = questions[at].clone();
        (at, self.page(shard, query).await)
    }

    /// Pages of some of the questions, at first from one node.
    async fn of_node(
        &self,
        node: NodeId,
        questions: &[Question],
        places: Vec<usize>,
    ) -> Vec<(usize, Result<Page>)> {
        let began = Instant::now();
        let asked: Vec<Question> = places.iter().map(|&at| questions[at].clone()).collect();
        let replies = self.replies(node, &asked).await;
        let level = self.freshness.consistency;
        let mut answers = Vec::with_capacity(places.len());
        let mut left = Vec::new();
        for (at, reply) in places.into_iter().zip(replies) {
            let shard = questions[at].0;
            match reply {
                Ok(Answer::Found(found)) => {
                    answers.push((at, Ok(Page::new(shard, found, level, began))));
                }
                Err(Failure::Refused(error)) => answers.push((at, Err(error))),
                Ok(_) | Err(_) => left.push(at),
            }
        }
        let left = left.into_iter().map(|at| self.of_shard(questions, at));
        let left: Vec<_> = stream::iter(left)
            .buffer_unordered(REQUESTS_AT_ONCE)
            .collect()
            .await;
        answers.extend(left);
        answers
    }

    /// What a node says to each question; no answer at all where it does not say.
    async fn replies(
        &self,
        node: NodeId,
        asked: &[Question],
    ) -> Vec<std::result::Result<Answer, Failure>> {
        let core = self.core;
        let unanswered = || vec![Err(Failure::Unknown); asked.len()];
        let Some((first, _)) = asked.first() else {
            return Vec::new();
        };
        let near = core.near(*first, self.freshness);
        let at_least = |shard| {
            let near = core.near(shard, self.freshness);
            near.map_or(0, |near| near.at_least)
        };
        let Some(queries) = Queries::of(asked, at_least) else {
            return Vec::new();
        };
        let operation = Operation::Queries(queries);
        let request = Request {
            near,
            ..self.session.request(*first, None, operation)
        };
        let until = self.deadline.min(Instant::now() + TRY_MAX);
        let answer = match near {
            _ if node != core.options.node => {
                Box::pin(core.router.send(node, &request, until)).await
            }
            Some(near) => Box::pin(core.shards.near(&request, near, until)).await,
            None => core.shards.execute(&request, until).await,
        };
        match answer {
            Ok(Answer::Replies(replies)) => {
                let replies = replies.into_results();
                if replies.len() == asked.len() {
                    replies.collect()
                } else {
                    unanswered()
                }
            }
            Ok(_) | Err(_) => unanswered(),
        }
    }
}

impl Page {
    fn new(shard: ShardId, found: forward::Found, level: Consistency, began: Instant) -> Page {
        Page {
            served: Served::of(shard, found.seen, level),
            found,
            took: began.elapsed(),
        }
    }
}
