//! The target of every consumer of a test cluster: it takes what it is sent, or fails by a script.

use std::collections::VecDeque;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::courier::{Address, Batch, Courier, Undelivered};
use crate::ports::PortError;

/// What becomes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It does not arrive.
    Lost,
    /// It arrives, and its answer is lost.
    AnswerLost,
    /// It does not arrive, and nobody says so.
    Hangs,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Targets {
    /// Consumed one a batch; without one it is taken.
    pub(crate) script: Mutex<VecDeque<Fate>>,
    /// All that arrived.
    pub(crate) arrived: Mutex<Vec<(Address, Batch)>>,
    changed: Notify,
}

impl Targets {
    /// Waits until what arrived is as wanted.
    pub(crate) async fn wait(&self, wanted: impl Fn(&[(Address, Batch)]) -> bool) {
        loop {
            let changed = self.changed.notified();
            if wanted(&self.arrived.lock()) {
                return;
            }
            let in_time = tokio::time::timeout(Duration::from_secs(30), changed).await;
            in_time.expect("something arrives");
        }
    }
}

impl Courier for Targets {
    fn check(&self, url: &str) -> Result<(), PortError> {
        match url.starts_with("https://") {
            true => Ok(()),
            false => Err(PortError("a target is an https:// address".to_owned())),
        }
    }

    fn send<'a>(
        &'a self,
        address: &'a Address,
        batch: &'a Batch,
    ) -> BoxFuture<'a, Result<(), Undelivered>> {
        async move {
            let fate = self.script.lock().pop_front();
            if matches!(fate, None | Some(Fate::AnswerLost)) {
                let sent = (address.clone(), batch.clone());
                self.arrived.lock().push(sent);
            }
            self.changed.notify_waiters();
            match fate {
                None => Ok(()),
                Some(Fate::Hangs) => std::future::pending().await,
                Some(Fate::Lost | Fate::AnswerLost) => Err(Undelivered {
                    reason: "no answer".to_owned(),
                    retry_after: None,
                }),
            }
        }
        .boxed()
    }
}
