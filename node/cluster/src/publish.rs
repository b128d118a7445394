//! The newest state, for everybody on this node.
//!
//! Published by the thread that applies metadata entries, one after the other, and versions only rise: a replica that is behind what is
//! published, such as a renewed one, publishes nothing. Readers never wait for apply: they take the `Arc` and are done.

use std::fmt;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::state::ClusterState;

/// Called with each new state, on the apply thread: it must hand over (wake a task, send without waiting) and return.
pub type Subscriber = Box<dyn Fn(Arc<ClusterState>) + Send + Sync>;

/// Where the newest state is found. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct StateHandle(Arc<Shared>);

#[derive(Default)]
struct Shared {
    current: RwLock<Arc<ClusterState>>,
    subscribers: Mutex<Vec<Arc<Subscriber>>>,
}

impl StateHandle {
    /// The newest state; the default one before the metadata is loaded. Does not wait.
    pub fn current(&self) -> Arc<ClusterState> {
        self.0.current.read().clone()
    }

    /// Calls `subscriber` with every state that is published from now on, for as long as the handle lives.
    ///
    /// By then [`Self::current`] gives that state, too, or a later one. It is not called with the present state: whoever
    /// needs it asks for it after subscribing, and misses nothing.
    pub fn subscribe(&self, subscriber: Subscriber) {
        self.0.subscribers.lock().push(Arc::new(subscriber));
    }

    /// Makes `state` the newest, then tells the subscribers in the order in which they came.
    pub(crate) fn publish(&self, state: ClusterState) {
        let state = Arc::new(state);
        *self.0.current.write() = Arc::clone(&state);
        // Without the lock: a subscriber may use this handle.
        let subscribers = self.0.subscribers.lock().clone();
        for subscriber in subscribers {
            (*subscriber)(Arc::clone(&state));
        }
    }
}

impl fmt::Debug for StateHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StateHandle")
            .field(&self.current().version)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(version: u64) -> ClusterState {
        ClusterState {
            version,
            ..ClusterState::default()
        }
    }

    #[test]
    fn subscribers_see_what_current_gives() {
        let handle = StateHandle::default();
        let seen = Arc::new(Mutex::new(Vec::new()));
        handle.publish(version(1));
        let (inside, log) = (handle.clone(), Arc::clone(&seen));
        handle.subscribe(Box::new(move |state| {
            log.lock().push((state.version, inside.current().version))
        }));
        handle.publish(version(2));
        handle.publish(version(3));
        assert_eq!(*seen.lock(), [(2, 2), (3, 3)]);
    }

    #[test]
    fn a_subscriber_may_subscribe_another() {
        let handle = StateHandle::default();
        let calls = Arc::new(Mutex::new(0));
        let (inside, count) = (handle.clone(), Arc::clone(&calls));
        handle.subscribe(Box::new(move |_| {
            let count = Arc::clone(&count);
            inside.subscribe(Box::new(move |_| *count.lock() += 1));
        }));
        handle.publish(version(1));
        assert_eq!(*calls.lock(), 0);
        handle.publish(version(2));
        assert_eq!(*calls.lock(), 1);
    }

    #[test]
    fn a_state_that_was_taken_does_not_change() {
        let handle = StateHandle::default();
        let taken = handle.current();
        handle.publish(version(1));
        assert_eq!((taken.version, handle.current().version), (0, 1));
    }
}
