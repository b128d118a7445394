//! What happened in a run, one JSON object a line: `history.jsonl`. The format is documented in the README and stable.
//!
//! Invariants, checked by [`History::read`]:
//! - lines stand in the order of their times, so the order of lines is real time: an operation whose end stands above
//!   the `invoke` of another was over before the other began;
//! - a process has at most one open operation, and ends what it invoked: same `f`, same key;
//! - a process whose operation ended `info` does nothing more: its worker goes on under a new number;
//! - an operation without an end, or with `info`, may have taken effect at any later time, or never.

mod edn;
mod reader;
mod recorder;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use edn::to_edn;
pub use reader::Operation;
pub use recorder::{Record, Recorder, now};

/// Who a line speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Process {
    /// A client. Never used again after `info`.
    Client(u64),
    /// `nemesis`, or who else is no client.
    Named(String),
}

impl Process {
    /// Who does the faults.
    pub const NEMESIS: &'static str = "nemesis";

    /// The process of faults.
    pub fn nemesis() -> Process {
        Process::Named(Process::NEMESIS.to_owned())
    }
}

/// What kind of line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A request is about to be sent.
    Invoke,
    /// It happened.
    Ok,
    /// It did not happen and never will.
    Fail,
    /// Nobody knows; of `nemesis`: something was done to the cluster.
    Info,
    /// Something that no client asked for.
    Event,
    /// What is there at the end.
    Final,
}

impl Kind {
    /// As in a line.
    pub fn text(self) -> &'static str {
        match self {
            Kind::Invoke => "invoke",
            Kind::Ok => "ok",
            Kind::Fail => "fail",
            Kind::Info => "info",
            Kind::Event => "event",
            Kind::Final => "final",
        }
    }
}

/// Members that only some lines have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct More {
    /// Of a register: the version made or found; 0 where nothing is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Of `cas` and `delete`: the version that must be stored; 0: nothing may be stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<u64>,
    /// Of a failure: `mismatch` (the condition did not hold), `absent` (there was nothing to change), or another code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of `final`: how it was read, for example `scan`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Of a fault: `start` or `end`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Of access: who.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Of access: to what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Of access: `read` or `write`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub right: Option<String>,
    /// Of a feed: the subscriber.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// Of a feed: the subscriber's own count of what it received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Of `feed-end`: the time up to which acknowledged writes must have arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upto: Option<u64>,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Who.
    pub process: Process,
    /// What kind of line.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Which function, or which fault.
    pub f: String,
    /// The document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What is written or was read; `null`: nothing.
    #[serde(default)]
    pub value: Value,
    /// Monotonic nanoseconds of the host.
    pub time: u64,
    /// The node that was asked, `n1` and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What only some lines have.
    #[serde(flatten)]
    pub more: More,
}

/// A well-formed history.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    events: Vec<Event>,
}

impl History {
    /// All lines.
    pub fn events(&self) -> &[Event] {
        &self.events
    }
}
