//! How a consumer is shown.

use std::time::Duration;

use document::time::format_datetime;
use serde_json::{Value, json};

use crate::forward::{ConsumerRow, ConsumerTrouble};

/// A consumer and how far it is.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerStatus {
    /// Its name.
    pub name: String,
    /// The only bucket that it is told of.
    pub bucket: Option<String>,
    /// Its filter, JSON text; empty: everything.
    pub filter: String,
    /// The address that changes are sent to.
    pub target: Option<String>,
    /// What signs them; only in the answer to the request that had it made.
    pub secret: Option<String>,
    /// Whether it gets on.
    pub state: ConsumerState,
    /// When it was made, microseconds since 1970.
    pub created_us: u64,
    /// When its position moved last.
    pub moved_us: u64,
    /// Events that it took over since it was made; those that came again count again.
    pub events: u64,
    /// Age of the oldest event that it has not acknowledged; `None`: not known yet.
    pub lag: Option<Duration>,
    /// Tries to send that failed since the last one that did not.
    pub tries: u64,
    /// Why the last one did.
    pub reason: Option<String>,
}

/// Whether a consumer gets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumerState {
    /// It fetches, or is sent to.
    Active,
    /// Its target does not take a batch, which is sent again and again.
    Retrying,
    /// Its target has not for long: it is probed now and then.
    Sick,
    /// Somebody paused it.
    Paused,
}

impl ConsumerState {
    /// The word in answers to clients.
    pub fn name(self) -> &'static str {
        match self {
            ConsumerState::Active => "active",
            ConsumerState::Retrying => "retrying",
            ConsumerState::Sick => "sick",
            ConsumerState::Paused => "paused",
        }
    }
}

impl ConsumerStatus {
    pub(super) fn of(row: ConsumerRow) -> ConsumerStatus {
        let is_sick = |trouble: &ConsumerTrouble| trouble.is_sick;
        let state = match row.trouble.as_ref().map(is_sick) {
            _ if row.is_paused => ConsumerState::Paused,
            Some(true) => ConsumerState::Sick,
            Some(false) => ConsumerState::Retrying,
            None => ConsumerState::Active,
        };
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let position = row.position.unwrap_or_default();
        let trouble = row.trouble.unwrap_or_default();
        ConsumerStatus {
            name: row.name,
            bucket: some(row.bucket),
            filter: row.filter,
            target: some(row.url),
            secret: None,
            state,
            created_us: row.created_us,
            moved_us: position.moved_us,
            events: position.events,
            lag: row.lag_us.map(Duration::from_micros),
            tries: trouble.tries,
            reason: some(trouble.reason),
        }
    }

    /// The form for clients. What there is nothing to say of is left out.
    pub fn to_json(&self) -> Value {
        let moment = |us: u64| format_datetime(i64::try_from(us).unwrap_or(i64::MAX));
        let mut value = json!({
            "name": self.name,
            "state": self.state.name(),
            "createdAt": moment(self.created_us),
            "acknowledgedAt": moment(self.moved_us),
            "events": self.events,
        });
        let filter: Option<Value> = serde_json::from_str(&self.filter).ok();
        let optional = [
            ("bucket", self.bucket.clone().map(Value::from)),
            ("filter", filter),
            ("target", self.target.clone().map(Value::from)),
            ("secret", self.secret.clone().map(Value::from)),
            ("lagSeconds", self.lag.map(|lag| json!(lag.as_secs_f64()))),
            ("failedTries", (self.tries > 0).then(|| json!(self.tries))),
            ("failure", self.reason.clone().map(Value::from)),
        ];
        for (name, found) in optional {
            if let Some(found) = found {
                value[name] = found;
            }
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(is_paused: bool, trouble: Option<bool>) -> ConsumerRow {
        ConsumerRow {
            name: "orders".to_owned(),
            filter: r#"{"n":1}"#.to_owned(),
            is_paused,
            trouble: trouble.map(|is_sick| ConsumerTrouble {
                tries: 3,
                reason: "refused".to_owned(),
                is_sick,
            }),
            ..ConsumerRow::default()
        }
    }

    #[test]
    fn a_consumer_shows_what_keeps_it() {
        for (is_paused, trouble, state) in [
            (false, None, "active"),
            (false, Some(false), "retrying"),
            (false, Some(true), "sick"),
            (true, Some(true), "paused"),
        ] {
            let shown = ConsumerStatus::of(row(is_paused, trouble)).to_json();
            assert_eq!(shown["state"], state);
            assert_eq!(shown["filter"], json!({"n": 1}));
            assert_eq!(shown["failedTries"].as_u64(), trouble.map(|_| 3));
            assert!(shown.get("bucket").is_none() && shown.get("secret").is_none());
        }
    }
}
