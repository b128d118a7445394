//! `[webhooks]`: where consumers may have changes sent to, and how patiently.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::validate::{Rule, within};

/// A day: a target that is asked less often is as good as paused.
const SECONDS_CEILING: usize = 24 * 60 * 60;
/// A target that needs longer should take a batch first and work on it then.
const TIMEOUT_CEILING_MS: usize = 60_000;

/// `[webhooks]`. The same on every node, as any of them may be the one that sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhooks {
    /// Targets may lie in private networks and on the node's own machine. Always so with `security.insecure`.
    pub allow_private: bool,
    /// Certificates (PEM) that vouch for targets, in place of the system's. Empty: the system's.
    pub ca: PathBuf,
    /// How long a target may take to answer, in milliseconds.
    pub timeout_ms: u64,
    /// After so many seconds without success a target counts as sick.
    pub sick_after_s: u64,
    /// A sick target is tried again every so many seconds.
    pub probe_s: u64,
}

impl Default for Webhooks {
    fn default() -> Self {
        Self {
            allow_private: false,
            ca: PathBuf::new(),
            timeout_ms: 10_000,
            sick_after_s: 600,
            probe_s: 300,
        }
    }
}

impl Webhooks {
    pub(super) fn validate(&self) -> Result<(), Rule> {
        for (key, value, ceiling) in [
            ("webhooks.timeout_ms", self.timeout_ms, TIMEOUT_CEILING_MS),
            ("webhooks.sick_after_s", self.sick_after_s, SECONDS_CEILING),
            ("webhooks.probe_s", self.probe_s, SECONDS_CEILING),
        ] {
            let value = usize::try_from(value).unwrap_or(usize::MAX);
            within(key, value, 1, ceiling)?;
        }
        Ok(())
    }
}
