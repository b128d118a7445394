//! Keeps this node's copies of the rights young: one question after the other for each database that tokens are used in, each waiting a
//! while for news at the leader ([`crate::rights`]).
//!
//! A question waits for a part of the bound only, since its answer proves nothing later than the moment at which it was sent.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use metrics::gauge;
use tokio_util::sync::CancellationToken;

use crate::Core;
use crate::error::Error;
use crate::metrics::{RIGHTS_AGE, RIGHTS_ENDED, RIGHTS_ROLES};
use crate::rights::Followed;

/// How much of the bound a question waits for news: two may fail before the copy is too old.
const WAIT_PART: u32 = 6;
/// How long an answer may take on top of the wait.
const ANSWER_TIME: Duration = Duration::from_millis(500);
/// Between the beginnings of two questions: rights that change all the time are told in parts, and not one by one.
const PACE: Duration = Duration::from_millis(20);
/// After a question that failed.
const PAUSE: Duration = Duration::from_millis(50);
/// After one whose answers were more than a copy may hold: it reads everything.
const TOO_LARGE_PAUSE: Duration = Duration::from_secs(5);
/// A copy that nobody used for so long is given up: it is read again when somebody does.
const UNUSED: Duration = Duration::from_secs(15 * 60);
/// The set of databases is looked at again at least so often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The job.
pub struct Rights {
    core: Arc<Core>,
}

impl Rights {
    pub(super) fn new(core: Arc<Core>) -> Rights {
        Rights { core }
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut asked: HashSet<u32> = HashSet::new();
        let mut questions: FuturesUnordered<BoxFuture<'_, u32>> = FuturesUnordered::new();
        loop {
            let now = self.core.clock.elapsed();
            self.core.rights.forget_unused(now.saturating_sub(UNUSED));
            for (database, followed) in self.core.rights.followed() {
                if asked.insert(database) {
                    questions.push(Box::pin(self.ask(database, followed)));
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.core.rights.wanted() => {}
                Some(database) = questions.next() => {
                    asked.remove(&database);
                }
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// One question about a database.
    async fn ask(&self, database: u32, followed: Arc<Followed>) -> u32 {
        let bound = self.core.options.limits.metadata_age_max;
        let wait = bound / WAIT_PART;
        let started = Instant::now();
        let deadline = started + wait + ANSWER_TIME;
        let state = self.core.metadata.current();
        let known = state.databases.values().find(|known| known.id == database);
        let asked = match known {
            Some(known) => {
                let copy = &followed.copy;
                let follow = self.core.follow_rights(&state, known, copy, wait, deadline);
                // A question whose wait is cut short by nobody ends by itself; one that is lost must not keep the next.
                tokio::time::timeout_at(deadline.into(), follow)
                    .await
                    .unwrap_or_else(|_| Err(Error::unavailable("no answer in time")))
            }
            None => Err(Error::unavailable("the database is not known yet")),
        };
        let now = self.core.clock.elapsed();
        if let Some(confirmed) = followed.copy.confirmed() {
            gauge!(RIGHTS_AGE).set(now.saturating_sub(confirmed).as_secs_f64());
        }
        let (ended, roles) = followed.copy.size();
        gauge!(RIGHTS_ENDED).set(ended as f64);
        gauge!(RIGHTS_ROLES).set(roles as f64);
        match asked {
            Ok(()) => {}
            Err(error) if followed.copy.is_too_large() => {
                tracing::error!(database, %error, "no token can be judged");
                tokio::time::sleep(TOO_LARGE_PAUSE).await;
            }
            Err(error) => {
                tracing::debug!(database, %error, "the rights are not confirmed");
                tokio::time::sleep(PAUSE).await;
            }
        }
        tokio::time::sleep_until((started + PACE).into()).await;
        database
    }
}
