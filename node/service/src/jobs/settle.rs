//! Confirms reservations of values of unique indexes and frees values that are not needed any more ([`crate::unique`]).
//!
//! Unlike the other jobs it finds its work in a queue of this node, which is lost with it: all of it is done by whoever meets the
//! reservation otherwise.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::Core;

/// Pieces of work at the same time: few beside the writes that they follow.
const PARALLEL: usize = 16;

/// The job.
pub struct Settle {
    core: Arc<Core>,
}

impl Settle {
    pub(super) fn new(core: Arc<Core>) -> Settle {
        Settle { core }
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let workers = (0..PARALLEL).map(|_| self.core.settle_values());
        tokio::select! {
            () = stop.cancelled() => {}
            _ = futures::future::join_all(workers) => {}
        }
    }
}
