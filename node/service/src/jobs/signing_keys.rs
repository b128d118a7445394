//! Rotates the keys that tokens are signed with, by their age. Run by the leader of the metadata.
//!
//! A retired key stays for as long as a session may live, so nobody is logged out by it. Clocks decide only when it happens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::leads_metadata;
use crate::Core;

/// How often the age is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// One rotation must be done within this; the next look tries again.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The job.
pub struct SigningKeys {
    core: Arc<Core>,
}

impl SigningKeys {
    pub(super) fn new(core: Arc<Core>) -> SigningKeys {
        SigningKeys { core }
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
            let state = self.core.metadata.current();
            if !leads_metadata(&self.core) || !self.core.is_signing_key_due(&state) {
                continue;
            }
            let rotated = self
                .core
                .rotate_signing_key(&state, false, Instant::now() + TIMEOUT);
            tokio::select! {
                () = stop.cancelled() => return,
                rotated = rotated => match rotated {
                    Ok(key) => tracing::info!(key, "tokens are signed with a new key"),
                    Err(error) => tracing::warn!(%error, "the key that signs tokens could not be rotated"),
                },
            }
        }
    }
}
