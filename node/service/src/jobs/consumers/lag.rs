//! How late consumers are: the age of the oldest event that one has not acknowledged, whether it fetches, is sent to, or is paused.
//!
//! A shard is asked for the first event behind the consumer's place, and asked again only when the consumer came past it. Where the log is
//! trimmed beyond the place, nobody knows that event any more, and the time since the consumer last got on stands for its age.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::consumers::Consumer;
use cluster::state::{ClusterState, Database};
use document::acl::Principal;
use futures::stream::{self, StreamExt as _};
use metrics::gauge;
use proto::ShardId;
use storage::keys::ChangeKey;
use tokio_util::sync::CancellationToken;

use crate::Core;
use crate::changes::first_behind;
use crate::consumers::told;
use crate::documents::Session;
use crate::error::Result;
use crate::forward::{ChangesPage, Cursor, PageEnd};
use crate::jobs::leads_metadata;
use crate::metrics::CONSUMER_LAG;

/// Between two rounds.
const INTERVAL: Duration = Duration::from_secs(5);
/// Reading the positions must be done within this.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Shards asked at the same time, so that measuring does not crowd out feeds.
const PARALLEL: usize = 4;

/// The measuring.
pub(super) struct Lags {
    core: Arc<Core>,
    /// What is known of each consumer in each shard.
    seen: HashMap<(u64, ShardId), Seen>,
    /// Databases and consumers with a gauge.
    shown: HashSet<(String, String)>,
}

/// What comes first behind a consumer's place.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    /// An event of this time.
    Event(ChangeKey, u64),
    /// None up to here.
    None(Cursor),
    /// Nobody knows: the log is trimmed.
    Trimmed,
}

impl Seen {
    fn of(page: ChangesPage, asked: Cursor) -> Seen {
        match page.events.first() {
            Some(event) => {
                let (index, ordinal) = (event.index, event.ordinal);
                Seen::Event(ChangeKey { index, ordinal }, event.time_us)
            }
            None if page.end == PageEnd::Trimmed as i32 => Seen::Trimmed,
            None => Seen::None(page.cursor.unwrap_or(asked)),
        }
    }

    /// Whether it still says what comes first behind a place.
    fn holds(&self, place: &Cursor) -> bool {
        match self {
            Seen::Event(event, _) => place.position() < *event,
            Seen::None(_) | Seen::Trimmed => false,
        }
    }
}

impl Lags {
    pub(super) fn new(core: Arc<Core>) -> Lags {
        Lags {
            core,
            seen: HashMap::new(),
            shown: HashSet::new(),
        }
    }

    /// Runs until `stop` is cancelled.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.round() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    /// Measures all consumers, if that is for this node.
    async fn round(&mut self) {
        let state = self.core.metadata.current();
        let (mut lags, mut shown) = (HashMap::new(), HashSet::new());
        if leads_metadata(&self.core) {
            for database in state.databases.values() {
                for (name, consumer) in state.consumers.get(&database.id).into_iter().flatten() {
                    shown.insert((database.name.clone(), name.clone()));
                    let measured = self.lag(&state, database, consumer).await;
                    let known = self.core.shards.consumers.lag(consumer.id);
                    let lag = measured.or_else(|error| known.ok_or(error));
                    match lag {
                        Ok(lag) => {
                            show(&database.name, name, lag);
                            lags.insert(consumer.id, lag);
                        }
                        Err(error) => {
                            tracing::debug!(consumer = name, %error, "a consumer is measured in the next round");
                        }
                    }
                }
            }
        }
        self.seen
            .retain(|(consumer, _), _| lags.contains_key(consumer));
        for (database, name) in self.shown.difference(&shown) {
            // Deleted, or for another node to tell.
            show(database, name, Duration::ZERO);
        }
        self.shown = shown;
        self.core.shards.consumers.set_lags(lags);
    }

    async fn lag(
        &mut self,
        state: &Arc<ClusterState>,
        database: &Database,
        consumer: &Consumer,
    ) -> Result<Duration> {
        let position = self
            .core
            .own_position(consumer.id, Instant::now() + TIMEOUT)
            .await?;
        let session = Session {
            state: Arc::clone(state),
            principal: Principal::root(),
        };
        let (core, told) = (&self.core, told(consumer));
        let places = (1..)
            .map(ShardId)
            .zip(position.cursors.iter().map(Cursor::from));
        let looks = places.map(|(shard, place)| {
            let known = self.seen.get(&(consumer.id, shard)).cloned();
            let (session, told) = (&session, &told);
            async move {
                let seen = match known {
                    _ if place.walk.is_some() => Seen::Trimmed,
                    Some(seen) if seen.holds(&place) => seen,
                    known => {
                        let from = later(place, known);
                        let name = &database.name;
                        let page =
                            first_behind(core, session, shard, told, name, from.clone()).await?;
                        Seen::of(page, from)
                    }
                };
                Ok((shard, seen))
            }
        });
        let looks: Vec<_> = looks.collect();
        let looked = stream::iter(looks).buffer_unordered(PARALLEL);
        let looked: Vec<Result<(ShardId, Seen)>> = looked.collect().await;
        let mut oldest_us = None;
        for found in looked {
            let (shard, seen) = found?;
            let time_us = match &seen {
                Seen::Event(_, time_us) => Some(*time_us),
                Seen::None(_) => None,
                Seen::Trimmed => Some(position.moved_us),
            };
            self.seen.insert((consumer.id, shard), seen);
            oldest_us = [oldest_us, time_us].into_iter().flatten().min();
        }
        let now_us = self.core.clock.wall_us();
        let lag_us = oldest_us.map_or(0, |oldest_us| now_us.saturating_sub(oldest_us));
        Ok(Duration::from_micros(lag_us))
    }
}

/// Where to look: behind the place, and behind what was looked at before without finding anything.
fn later(place: Cursor, known: Option<Seen>) -> Cursor {
    match known {
        Some(Seen::None(upto)) if upto.position() > place.position() => upto,
        _ => place,
    }
}

fn show(database: &str, consumer: &str, lag: Duration) {
    let labels = [
        ("database", database.to_owned()),
        ("consumer", consumer.to_owned()),
    ];
    gauge!(CONSUMER_LAG, &labels).set(lag.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::Change;

    fn at(index: u64) -> Cursor {
        Cursor::behind(index)
    }

    #[test]
    fn a_shard_is_asked_again_only_behind_what_is_known() {
        let event = Change {
            index: 9,
            time_us: 5,
            ..Change::default()
        };
        let page = ChangesPage {
            events: vec![event],
            cursor: Some(at(9)),
            ..ChangesPage::default()
        };
        let seen = Seen::of(page, at(3));
        assert!(seen.holds(&at(3)) && seen.holds(&at(8)) && !seen.holds(&at(9)));
        let none = ChangesPage {
            cursor: Some(at(20)),
            ..ChangesPage::default()
        };
        let none = Seen::of(none, at(9));
        assert!(!none.holds(&at(9)));
        assert_eq!(later(at(9), Some(none.clone())), at(20));
        assert_eq!(later(at(30), Some(none)), at(30));
        let trimmed = ChangesPage {
            end: PageEnd::Trimmed as i32,
            ..ChangesPage::default()
        };
        assert_eq!(Seen::of(trimmed, at(1)), Seen::Trimmed);
    }
}
