//! What happens at this node and matters to security, on its way into the node's audit log.
//!
//! Any part of the service, and the edges, may [`Audit::note`] an event; the caller never waits. Equal events that come close together
//! become one with a count, so that a flood of failed log-ins is a few rows. The node takes what has gathered ([`Audit::taken`]) and
//! writes it to its own hash chain, in batches.
//!
//! Invariants:
//! - At most [`WAITING_MAX`] different events wait; what comes on top is counted and the count is written.
//! - No secret is part of an event: texts are names, ids and reasons that the service itself wrote. They are cut at [`TEXT_BYTES_MAX`].
//!
//! Lacks: what is replicated. Changes of users, roles, schema and the like are in the log of their shard, and apply writes their rows.

use std::net::IpAddr;
use std::sync::Arc;

use indexmap::IndexMap;
use parking_lot::Mutex;
use proto::ErrorCode;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::context::Context;
use crate::error::Result;

/// Different events that wait to be written. With texts at their limit about 8 MiB.
pub const WAITING_MAX: usize = 4_096;

/// Longest text of an event.
pub const TEXT_BYTES_MAX: usize = 512;

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident $text:literal;)*) => {
        /// What happened. Sorted by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Action { $($(#[$doc])* $name,)* }

        impl Action {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable name in the log.
            pub fn as_str(self) -> &'static str { match self { $(Self::$name => $text,)* } }
        }
    };
}

actions! {
    /// A request that only admins may make was refused.
    AdminDenied "admin_denied";
    /// Documents of a bucket were exported, hidden members included.
    BucketExported "bucket_exported";
    /// Documents were imported into a bucket as an export gives them.
    BucketImported "bucket_imported";
    /// Certificates were read again.
    CertificatesReloaded "certificates_reloaded";
    /// New data keys seal this node's disk from now on.
    DataKeysRotated "data_keys_rotated";
    /// Somebody logged in.
    LoggedIn "logged_in";
    /// Somebody logged out.
    LoggedOut "logged_out";
    /// A log-in was refused.
    LoginFailed "login_failed";
    /// Events came faster than they could be kept; the count says how many are missing.
    Lost "lost";
    /// Mail with a link that lets its reader in was asked for.
    MailRequested "mail_requested";
    /// This node's data keys were wrapped by the master key as it is now.
    MasterKeyChanged "master_key_changed";
    /// The node started, with this configuration.
    NodeStarted "node_started";
    /// The node stopped in order.
    NodeStopped "node_stopped";
    /// A second factor was asked for, given, set up or removed; the detail says which.
    SecondFactor "second_factor";
    /// A token other than that of a log-in was made: for an API, a role, a mail.
    TokenIssued "token_issued";
    /// A token was refused for more than its age: forged, of another database, or revoked.
    TokenRefused "token_refused";
    /// Tokens and sessions of a user were revoked.
    TokenRevoked "token_revoked";
}

/// An event. Two with the same members are the same one, twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Event {
    /// What happened.
    pub action: Action,
    /// In which database; empty: the default one, or none.
    pub database: String,
    /// Who did it: an id, or the name that was given where nobody is known.
    pub user: String,
    /// From where.
    pub address: Option<IpAddr>,
    /// What it was done to.
    pub target: String,
    /// More of it, for people.
    pub detail: String,
}

/// An event and how often it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The event.
    pub event: Event,
    /// When it happened first, microseconds since 1970.
    pub time_us: u64,
    /// How often, from 1.
    pub count: u64,
}

impl Event {
    /// An event that no request is known of.
    pub fn new(action: Action) -> Event {
        Event {
            action,
            database: String::new(),
            user: String::new(),
            address: None,
            target: String::new(),
            detail: String::new(),
        }
    }

    /// An event of a request. Who asks is not taken over: it is not verified there.
    pub fn of(ctx: &Context, action: Action) -> Event {
        Event {
            database: cut(&ctx.database),
            address: ctx.address,
            ..Event::new(action)
        }
    }

    /// The same with who did it.
    pub fn by(mut self, user: &str) -> Event {
        self.user = cut(user);
        self
    }

    /// The same with what it was done to.
    pub fn on(mut self, target: &str) -> Event {
        self.target = cut(target);
        self
    }

    /// The same with more of it. Never what a client sent as a secret.
    pub fn saying(mut self, detail: &str) -> Event {
        self.detail = cut(detail);
        self
    }
}

/// The beginning of a text, at most [`TEXT_BYTES_MAX`] bytes.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}

/// What a log-in is in the log: refused credentials are, a node that could not answer is not.
pub(crate) fn of_login<T>(session: &Result<T>) -> Option<Action> {
    match session {
        Ok(_) => Some(Action::LoggedIn),
        Err(error) => match error.code {
            ErrorCode::BadCredentials | ErrorCode::TooManyRequests => Some(Action::LoginFailed),
            _ => None,
        },
    }
}

/// Events that wait to be written.
pub(crate) struct Audit {
    clock: Arc<dyn Clock>,
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

#[derive(Default)]
struct Waiting {
    /// When each came first, and how often.
    events: IndexMap<Event, (u64, u64)>,
    lost: u64,
}

impl Audit {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Audit {
        Audit {
            clock,
            waiting: Mutex::default(),
            arrived: Notify::new(),
        }
    }

    /// Takes an event. Does not wait.
    pub(crate) fn note(&self, event: Event) {
        let now_us = self.clock.wall_us();
        let mut waiting = self.waiting.lock();
        if let Some((_, count)) = waiting.events.get_mut(&event) {
            *count += 1;
            return;
        }
        if waiting.events.len() >= WAITING_MAX {
            waiting.lost += 1;
            return;
        }
        waiting.events.insert(event, (now_us, 1));
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Waits until something is there.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// All that waits, in the order in which it first came; it waits no more.
    pub(crate) fn taken(&self) -> Vec<Noted> {
        let now_us = self.clock.wall_us();
        let Waiting { events, lost } = std::mem::take(&mut *self.waiting.lock());
        let mut noted: Vec<Noted> = events
            .into_iter()
            .map(|(event, (time_us, count))| Noted {
                event,
                time_us,
                count,
            })
            .collect();
        noted.extend((lost > 0).then(|| Noted {
            event: Event::new(Action::Lost),
            time_us: now_us,
            count: lost,
        }));
        noted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::testing::anonymous;

    fn audit() -> Audit {
        Audit::new(Arc::new(SystemClock::new()))
    }

    #[test]
    fn names_are_sorted_and_unique() {
        let names: Vec<_> = Action::ALL.iter().map(|action| action.as_str()).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
    }

    #[test]
    fn equal_events_become_one_with_a_count() {
        let audit = audit();
        let failed = Event::of(&anonymous(), Action::LoginFailed).by("ada");
        for _ in 0..1_000 {
            audit.note(failed.clone());
        }
        audit.note(Event::of(&anonymous(), Action::LoggedIn).by("ada"));
        let taken = audit.taken();
        let counts: Vec<_> = taken
            .iter()
            .map(|noted| (noted.event.action, noted.count))
            .collect();
        assert_eq!(
            counts,
            [(Action::LoginFailed, 1_000), (Action::LoggedIn, 1)]
        );
        assert!(taken[0].time_us > 0);
        assert!(audit.taken().is_empty());
    }

    #[test]
    fn what_has_no_room_is_counted() {
        let audit = audit();
        for user in 0..WAITING_MAX + 7 {
            audit.note(Event::new(Action::LoginFailed).by(&user.to_string()));
        }
        let taken = audit.taken();
        assert_eq!(taken.len(), WAITING_MAX + 1);
        let lost = taken.last().expect("a last one");
        assert_eq!((lost.event.action, lost.count), (Action::Lost, 7));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let event = Event::new(Action::LoginFailed).by(&"\u{20ac}".repeat(TEXT_BYTES_MAX));
        assert!(event.user.len() <= TEXT_BYTES_MAX);
        assert!(event.user.len() > TEXT_BYTES_MAX - 3);
    }

    #[tokio::test]
    async fn an_event_wakes_the_writer() {
        let audit = audit();
        audit.note(Event::new(Action::NodeStarted));
        audit.arrived().await;
        assert_eq!(audit.taken().len(), 1);
    }
}
