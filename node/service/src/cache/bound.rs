//! How old what a page shows can be: the sum of everything between a write and a reader who takes a cached copy (`docs/caching.md`).

use std::time::Duration;

use metrics::gauge;
use serde::{Serialize, Serializer};

use super::{ANSWER_AGE_MAX, SILENCE_MAX, is_cached};
use crate::Core;
use crate::metrics::STALENESS_SECONDS;

/// How often a client asks for a new filter.
const REFRESH: Duration = Duration::from_secs(60);
/// What a filter takes from this node to the client. No cache may keep it meanwhile.
const TRANSIT: Duration = Duration::from_secs(1);

/// The parts of the bound, and the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Staleness {
    /// R: age of a client's filter before it asks for another.
    #[serde(serialize_with = "seconds", rename = "refreshSeconds")]
    pub refresh: Duration,
    /// A: age of a filter when it arrives.
    #[serde(serialize_with = "seconds", rename = "transitSeconds")]
    pub transit: Duration,
    /// G: from the commit of a write to every filter.
    #[serde(serialize_with = "seconds", rename = "filterSeconds")]
    pub filter: Duration,
    /// L: age of the state that a revalidation is answered from, shared caches included.
    #[serde(serialize_with = "seconds", rename = "answerSeconds")]
    pub answer: Duration,
    /// D: an answer that is on its way while a filter arrives.
    #[serde(serialize_with = "seconds", rename = "flightSeconds")]
    pub flight: Duration,
    /// All of it.
    #[serde(serialize_with = "seconds", rename = "totalSeconds")]
    pub total: Duration,
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_millis().div_ceil(1_000) as u64)
}

impl Core {
    /// The bound of a database, for requests that take `flight` at most; `None`: nothing of it is cached.
    pub(crate) fn staleness(&self, database: &str, flight: Duration) -> Option<Staleness> {
        let state = self.metadata.current();
        let database = state.database(database).filter(|it| is_cached(it))?;
        let policies = database.buckets.values().filter_map(|bucket| bucket.cache);
        let edge = policies.map(|policy| policy.edge_max_seconds).max();
        let answer = ANSWER_AGE_MAX + Duration::from_secs(edge.unwrap_or(0).into());
        let (refresh, transit, filter) = (REFRESH, TRANSIT, SILENCE_MAX);
        let total = refresh + transit + filter + answer + flight;
        for (term, part) in [
            ("refresh", refresh),
            ("transit", transit),
            ("filter", filter),
            ("answer", answer),
            ("flight", flight),
            ("total", total),
        ] {
            gauge!(STALENESS_SECONDS, "term" => term, "database" => database.name.clone())
                .set(part.as_secs_f64());
        }
        Some(Staleness {
            refresh,
            transit,
            filter,
            answer,
            flight,
            total,
        })
    }
}
