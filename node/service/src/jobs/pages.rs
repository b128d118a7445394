//! Work that a shard does page by page, each an entry of its log.
//!
//! It must not crowd out writes: after each page there is a pause as long as the page took, so it takes half of what the shard can do at most.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::state::ClusterState;
use proto::ShardId;
use proto::log::command;
use storage::machine::outcome::{Outcome, Progress};

use super::leads_metadata;
use crate::Core;
use crate::error::{Error, Result};

/// Longest pause between two pages of a shard.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// One page must be answered within this; longer than a failover.
pub(super) const PAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks a shard for page after page, on the metadata leader; gives what the last one said: complete, or that it cannot be done. `is_wanted` is
/// asked before each, `done` told after each.
///
/// # Errors
/// `Unavailable`: another node leads the metadata, the work is not wanted any more, or a page was not answered. What was done stays.
pub(super) async fn all_pages(
    core: &Core,
    state: &Arc<ClusterState>,
    shard: ShardId,
    page: &command::Operation,
    is_wanted: impl Fn() -> bool,
    done: impl Fn(),
) -> Result<Progress> {
    loop {
        if !leads_metadata(core) || !is_wanted() {
            return Err(Error::unavailable("the metadata has changed"));
        }
        let began = Instant::now();
        let outcome = core
            .command(state, shard, page.clone(), began + PAGE_TIMEOUT)
            .await?;
        done();
        match outcome {
            Outcome::Progress(Progress::More { .. }) => {}
            Outcome::Progress(progress) => return Ok(progress),
            outcome => {
                return Err(Error::unavailable(format!(
                    "shard {shard} answers to a page of work: {outcome:?}"
                )));
            }
        }
        tokio::time::sleep(began.elapsed().min(PAUSE_MAX)).await;
    }
}
