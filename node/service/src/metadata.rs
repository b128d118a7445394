//! This node's copy of the cluster metadata, and waiting for a newer one.

use std::sync::Arc;
use std::time::Instant;

use cluster::machine::StateHandle;
use cluster::state::ClusterState;
use tokio::sync::watch;

use crate::error::{Error, Result};

/// The newest applied metadata. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Metadata {
    states: watch::Receiver<Arc<ClusterState>>,
}

impl Metadata {
    /// Follows the handle.
    pub(crate) fn new(handle: StateHandle) -> Metadata {
        let (sender, states) = watch::channel(handle.current());
        let publish = sender.clone();
        handle.subscribe(Box::new(move |state| {
            publish.send_replace(state);
        }));
        // What was published between the first look and the subscription, unless the subscription was told more since.
        sender.send_if_modified(|held| {
            let now = handle.current();
            let newer = now.version > held.version;
            if newer {
                *held = now;
            }
            newer
        });
        Metadata { states }
    }

    /// The state as it is now.
    pub(crate) fn current(&self) -> Arc<ClusterState> {
        Arc::clone(&self.states.borrow())
    }

    /// The state as it is now, if the cluster is founded.
    pub(crate) fn founded(&self) -> Result<Arc<ClusterState>> {
        let state = self.current();
        if state.is_initialized() {
            Ok(state)
        } else {
            Err(Error::unavailable("the cluster is not initialized"))
        }
    }

    /// Waits until `wanted` holds, and gives the first state for which it does; `None` when the deadline comes first.
    pub(crate) async fn wait(
        &self,
        deadline: Instant,
        wanted: impl FnMut(&Arc<ClusterState>) -> bool,
    ) -> Option<Arc<ClusterState>> {
        let mut states = self.states.clone();
        let found = tokio::time::timeout_at(deadline.into(), states.wait_for(wanted)).await;
        match found {
            Ok(Ok(state)) => Some(Arc::clone(&state)),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// For jobs that run at every change.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.states.clone()
    }
}
