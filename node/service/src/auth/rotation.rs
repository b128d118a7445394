//! Rotating the keys that tokens are signed with ([`cluster::signing_keys`]).

use std::time::{Duration, Instant};

use cluster::signing_keys::SIGNING_KEY_BYTES;
use cluster::state::ClusterState;
use document::acl::Principal;
use prost::Message as _;
use proto::ShardId;
use proto::log::RotateSigningKey;
use rand::RngCore as _;

use crate::Core;
use crate::documents::unexpected;
use crate::error::{Error, Result};
use crate::forward::{Answer, Operation, Request};

/// A retired key is kept this much longer than a session may live: clocks of nodes differ.
const KEPT_SLACK: Duration = Duration::from_secs(60 * 60);

impl Core {
    /// Whether the key that signs is old enough to be replaced.
    pub(crate) fn is_signing_key_due(&self, state: &ClusterState) -> bool {
        let Some(current) = state.signing_keys.current() else {
            return false;
        };
        let age_us = self.clock.wall_us().saturating_sub(current.since_us);
        Duration::from_micros(age_us) >= self.options.limits.signing_key_age_max
    }

    /// Has another key sign tokens, on all nodes when this returns has been heard by them; gives its id. The old ones go on to verify for
    /// the long life of a session, or, with `only`, not at all: then every session and every other token is over.
    ///
    /// # Errors
    /// `BadRequest`: too many keys are kept already. `Unavailable`, `OutcomeUnknown`: it may have happened; a repetition does it once more.
    pub(crate) async fn rotate_signing_key(
        &self,
        state: &ClusterState,
        only: bool,
        deadline: Instant,
    ) -> Result<u32> {
        let current = state.signing_keys.current();
        let current = current
            .ok_or_else(|| Error::unavailable("there is no cluster yet"))?
            .id;
        let mut secret = vec![0; SIGNING_KEY_BYTES];
        rand::rng().fill_bytes(&mut secret);
        let kept = self.options.limits.token_long_life + KEPT_SLACK;
        let kept_us = u64::try_from(kept.as_micros()).unwrap_or(u64::MAX);
        let command = RotateSigningKey {
            replaces: current,
            secret: secret.into(),
            forget_us: self.clock.wall_us().saturating_sub(kept_us),
            only,
        };
        let request = Request {
            shard: ShardId::META,
            principal: Principal::root(),
            idempotency_key: None,
            metadata_version: state.version,
            near: None,
            operation: Operation::RotateSigningKey(command.encode_to_vec().into()),
        };
        match Box::pin(self.route(state, &request, deadline)).await? {
            Answer::Version(version) => {
                let known = self
                    .metadata
                    .wait(deadline, |state| state.version >= version);
                let known = known.await;
                let known = known
                    .ok_or_else(|| Error::unavailable("the metadata of this node is behind"))?;
                Ok(known.signing_keys.current().map_or(0, |key| key.id))
            }
            _ => Err(unexpected()),
        }
    }
}
