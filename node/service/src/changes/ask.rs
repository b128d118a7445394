//! Getting a page of a shard's changes from whoever has it, and the versions of one document.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::state::ClusterState;
use proto::{ErrorCode, ShardId};

use super::token::{self, Resumed};
use super::{FeedEvent, FeedRequest, LOOK_TIME, WAIT, find};
use crate::Core;
use crate::context::Context;
use crate::documents::{Session, unexpected};
use crate::error::{Error, Result};
use crate::forward::{
    Answer, Changes, ChangesPage, Cursor, Failure, History, Near, Operation, Request,
};

/// How old the state of the replica here may be: an older one hears nothing, and somebody else is asked.
pub(crate) const NEAR_AGE: Duration = Duration::from_secs(5);
/// How long another holder than the leader is asked to wait: within the time that such a try has.
const HOLDER_WAIT: Duration = Duration::from_millis(200);
/// Versions of one document in an answer.
const VERSIONS_MAX: u64 = 1_000;
/// Bytes of them.
const VERSIONS_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A page, and where it is from.
pub(super) struct Got {
    pub(super) page: ChangesPage,
    /// From the replica here: whoever waits for it to move on waits for the shard.
    pub(super) is_here: bool,
}

/// A page. The replica here is not waited for; others wait, so that they are not asked all the time.
///
/// # Errors
/// `Unavailable`: nobody who has the shard answers. Else what the request itself is refused for.
pub(super) fn page(
    core: Arc<Core>,
    session: &Session,
    shard: ShardId,
    changes: Changes,
) -> impl Future<Output = Result<Got>> + Send + 'static {
    let state = Arc::clone(&session.state);
    let at_once = Changes {
        wait_us: 0,
        ..changes.clone()
    };
    let mut request = session.request(shard, None, Operation::Changes(at_once));
    async move {
        let deadline = Instant::now() + WAIT + LOOK_TIME;
        let here = near(Some(NEAR_AGE));
        if core.holds_state(shard) {
            request.near = Some(here);
            match Box::pin(core.shards.near(&request, here, deadline)).await {
                Ok(answer) => return got(answer, true),
                Err(Failure::Refused(error)) => return Err(error),
                Err(_) => {}
            }
        }
        request.operation = Operation::Changes(changes.clone());
        let hurried = Operation::Changes(Changes {
            wait_us: u64::try_from(HOLDER_WAIT.as_micros()).unwrap_or(u64::MAX),
            ..changes
        });
        let answer = Box::pin(elsewhere(&core, &state, request, hurried, deadline)).await?;
        got(answer, false)
    }
}

/// Asks the leader of a shard what it has applied; without a leader any holder of a replica, with the `hurried` question.
///
/// # Errors
/// As [`page`].
pub(crate) async fn elsewhere(
    core: &Core,
    state: &ClusterState,
    mut request: Request,
    hurried: Operation,
    deadline: Instant,
) -> Result<Answer> {
    let shard = request.shard;
    request.near = None;
    let refused = match Box::pin(core.route(state, &request, deadline)).await {
        Err(error) if error.code == ErrorCode::Unavailable => error,
        answer => return answer,
    };
    // Without a leader: what others have applied is no less true for that.
    let any = near(None);
    request.near = Some(any);
    request.operation = hurried;
    let deadline = Instant::now() + LOOK_TIME;
    match core.ask_holders(state, &request, deadline).await {
        Some(Ok(answer)) => return Ok(answer),
        Some(Err(Failure::Refused(error))) => return Err(error),
        Some(Err(_)) | None => {}
    }
    if !core.holds_state(shard) {
        return Err(refused);
    }
    match Box::pin(core.shards.near(&request, any, deadline)).await {
        Ok(answer) => Ok(answer),
        Err(Failure::Refused(error)) => Err(error),
        Err(_) => Err(refused),
    }
}

/// A replica of this age, however far it is.
fn near(age_max: Option<Duration>) -> Near {
    Near {
        age_us_max: age_max.map(|age| u64::try_from(age.as_micros()).unwrap_or(u64::MAX)),
        at_least: 0,
    }
}

/// The first event behind a place, as root sees it, if the page that begins there has one.
///
/// # Errors
/// Those of [`page`].
pub(crate) async fn first_behind(
    core: &Arc<Core>,
    session: &Session,
    shard: ShardId,
    told: &FeedRequest,
    database: &str,
    cursor: Cursor,
) -> Result<ChangesPage> {
    let changes = Changes {
        database: database.to_owned(),
        bucket: told.bucket.clone().unwrap_or_default(),
        filter: told.filter.clone(),
        cursor: Some(cursor),
        events_max: 1,
        bytes_max: 1,
        wait_us: 0,
    };
    let got = page(Arc::clone(core), session, shard, changes).await?;
    Ok(got.page)
}

/// Has the leader of a shard put the time into the log. That it fails is no harm: the next second brings the next try.
pub(super) fn nudge(
    core: Arc<Core>,
    session: &Session,
    shard: ShardId,
) -> impl Future<Output = ()> + Send + 'static {
    let state = Arc::clone(&session.state);
    let request = session.request(shard, None, Operation::Watermark(true));
    async move {
        let deadline = Instant::now() + WAIT;
        if let Err(error) = Box::pin(core.route(&state, &request, deadline)).await {
            tracing::debug!(%shard, %error, "a shard does not say how late it is");
        }
    }
}

fn got(answer: Answer, is_here: bool) -> Result<Got> {
    let page = page_of(answer)?;
    Ok(Got { page, is_here })
}

fn page_of(answer: Answer) -> Result<ChangesPage> {
    match answer {
        Answer::Changes(page) => Ok(page),
        _ => Err(unexpected()),
    }
}

impl Core {
    /// The versions of a document, the newest first; or the one that it had where `at`, a resume token, is.
    pub(crate) async fn history(
        &self,
        ctx: &Context,
        bucket: &str,
        key: &str,
        at: Option<&str>,
    ) -> Result<Vec<FeedEvent>> {
        self.check_key(key)?;
        let session = self.begin(ctx, &[bucket]).await?;
        let (database, info) = session.find(ctx, bucket)?;
        let shard = session.state.shard_of(database, info, key);
        let at = match at {
            Some(text) => Some(cursor_of(&session, ctx, shard, text)?),
            None => None,
        };
        let history = History {
            database: database.name.clone(),
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            at,
            events_max: VERSIONS_MAX,
            bytes_max: VERSIONS_BYTES_MAX,
        };
        let request = session.request(shard, None, Operation::History(history));
        let page = page_of(self.route(&session.state, &request, ctx.deadline).await?)?;
        let events = page.events.into_iter();
        Ok(events.map(|change| FeedEvent { shard, change }).collect())
    }
}

/// Where a token is in a shard.
fn cursor_of(session: &Session, ctx: &Context, shard: ShardId, text: &str) -> Result<Cursor> {
    let database = find(session, ctx)?;
    let at = (shard.0 as usize).saturating_sub(1);
    let cursors = match token::decode(&session.state, database, 0, text)? {
        Resumed::At(cursors) => cursors,
        Resumed::Resync => Vec::new(),
    };
    cursors.into_iter().nth(at).ok_or_else(|| {
        Error::bad_request("the token is from before the cluster's data was restored or cut anew")
    })
}
