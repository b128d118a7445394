//! Sends the mails that reset passwords, one after the other: how long each takes is seen by nobody who asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::Core;

/// One mail must be on its way within this.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The job.
pub struct Mails {
    core: Arc<Core>,
}

impl Mails {
    pub(super) fn new(core: Arc<Core>) -> Mails {
        Mails { core }
    }

    /// Runs until `stop` is cancelled; wishes that wait then are lost, and their users ask again.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let wish = tokio::select! {
                () = stop.cancelled() => return,
                wish = self.core.resets.next() => wish,
            };
            let Some((database, name)) = wish else {
                return;
            };
            let deadline = Instant::now() + TIMEOUT;
            let mailed = self.core.mail_reset(&database, &name, deadline);
            tokio::select! {
                () = stop.cancelled() => return,
                mailed = tokio::time::timeout_at(deadline.into(), mailed) => match mailed {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "a mail that resets a password was not sent"),
                    Err(_) => tracing::warn!("a mail that resets a password was not sent in time"),
                },
            }
        }
    }
}
