//! What the leader of the metadata knows of consumers besides their rows: acknowledgements on their way there, lags, and troubles.
//!
//! Acknowledgements are gathered, so that however many there are, each consumer costs the metadata group at most one entry a second, and
//! all consumers together share it. One that waits is already part of what [`Desk::joined`] gives; it leaves when it is on disk.
//!
//! Invariant: what waits of a consumer only grows.

use std::collections::HashMap;
use std::time::Duration;

use cluster::consumers::join;
use parking_lot::Mutex;
use prost::Message as _;
use proto::log::{ConsumerAck, ConsumerPosition};
use tokio::sync::Notify;

use crate::forward::ConsumerTrouble;

/// Bytes of positions after which an entry is full.
const ENTRY_BYTES_MAX: usize = 512 * 1024;

/// See the module.
#[derive(Default)]
pub(crate) struct Desk {
    held: Mutex<Held>,
    arrived: Notify,
}

#[derive(Default)]
struct Held {
    /// By consumer. At most one of each, so there are no more than consumers.
    acks: HashMap<u64, ConsumerPosition>,
    lags: HashMap<u64, Duration>,
    troubles: HashMap<u64, ConsumerTrouble>,
    is_closed: bool,
}

impl Desk {
    /// Takes an acknowledgement; false: the node stops, and nothing happened.
    pub(crate) fn take(&self, consumer: u64, position: &ConsumerPosition) -> bool {
        let mut held = self.held.lock();
        if held.is_closed {
            return false;
        }
        let waiting = held.acks.entry(consumer).or_default();
        *waiting = join(waiting, position);
        drop(held);
        self.arrived.notify_one();
        true
    }

    /// Where a consumer is, with what waits.
    pub(crate) fn joined(&self, consumer: u64, stored: ConsumerPosition) -> ConsumerPosition {
        match self.held.lock().acks.get(&consumer) {
            Some(waiting) => join(&stored, waiting),
            None => stored,
        }
    }

    /// Waits until an acknowledgement waits.
    pub(crate) async fn arrived(&self) {
        while self.held.lock().acks.is_empty() {
            self.arrived.notified().await;
        }
    }

    /// What waits, in as few entries as hold it.
    pub(crate) fn waiting(&self) -> Vec<Vec<ConsumerAck>> {
        let (mut entries, mut entry, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (&consumer, position) in &self.held.lock().acks {
            bytes += position.encoded_len();
            entry.push(ConsumerAck {
                consumer,
                position: Some(position.clone()),
            });
            if bytes >= ENTRY_BYTES_MAX {
                entries.push(std::mem::take(&mut entry));
                bytes = 0;
            }
        }
        if !entry.is_empty() {
            entries.push(entry);
        }
        entries
    }

    /// These are on disk.
    pub(crate) fn kept(&self, acks: &[ConsumerAck]) {
        let mut held = self.held.lock();
        for ack in acks {
            // What came meanwhile stays.
            if held.acks.get(&ack.consumer) == ack.position.as_ref() {
                held.acks.remove(&ack.consumer);
            }
        }
    }

    /// Takes no more acknowledgements.
    pub(crate) fn close(&self) {
        self.held.lock().is_closed = true;
    }

    pub(crate) fn lag(&self, consumer: u64) -> Option<Duration> {
        self.held.lock().lags.get(&consumer).copied()
    }

    /// Takes the lags of all consumers.
    pub(crate) fn set_lags(&self, lags: HashMap<u64, Duration>) {
        self.held.lock().lags = lags;
    }

    pub(crate) fn trouble(&self, consumer: u64) -> Option<ConsumerTrouble> {
        self.held.lock().troubles.get(&consumer).cloned()
    }

    /// Notes what is wrong with a target; `None`: nothing.
    pub(crate) fn set_trouble(&self, consumer: u64, trouble: Option<ConsumerTrouble>) {
        let troubles = &mut self.held.lock().troubles;
        match trouble {
            Some(trouble) => troubles.insert(consumer, trouble),
            None => troubles.remove(&consumer),
        };
    }
}

#[cfg(test)]
mod tests {
    use proto::log::ConsumerCursor;

    use super::*;

    fn at(index: u64) -> ConsumerPosition {
        let cursor = ConsumerCursor {
            index,
            ..ConsumerCursor::default()
        };
        ConsumerPosition {
            epoch: 1,
            cursors: vec![cursor],
            ..ConsumerPosition::default()
        }
    }

    #[test]
    fn what_came_while_an_entry_was_written_waits_for_the_next() {
        let desk = Desk::default();
        assert!(desk.take(1, &at(5)) && desk.take(1, &at(3)) && desk.take(2, &at(9)));
        let first = desk.waiting().concat();
        assert_eq!(first.len(), 2);
        assert_eq!(desk.joined(1, at(4)), at(5));
        desk.take(1, &at(7));
        desk.kept(&first);
        let second = desk.waiting().concat();
        assert_eq!((second.len(), second[0].position.clone()), (1, Some(at(7))));
        desk.kept(&second);
        assert!(desk.waiting().is_empty());
        assert_eq!(desk.joined(1, at(7)), at(7));
    }

    #[test]
    fn a_closed_desk_takes_nothing_and_keeps_what_waits() {
        let desk = Desk::default();
        desk.take(1, &at(5));
        desk.close();
        assert!(!desk.take(1, &at(6)));
        assert_eq!(desk.waiting()[0][0].position, Some(at(5)));
    }
}
