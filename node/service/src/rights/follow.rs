//! Asking the shard of the roles what is new.

use std::time::{Duration, Instant};

use cluster::state::{ClusterState, Database};

use super::Followed;
use super::copy::{Asked, Copy, Taken};
use crate::Core;
use crate::auth::policy::{ROLES, USERS};
use crate::documents::unexpected;
use crate::error::{Error, Result};
use crate::forward::{Answer, FollowRights, Operation, Request, Rights, Write};
use crate::sessions::internal_request;

/// Parts of one answer: what does not come in so many is asked for again.
const PARTS_MAX: usize = 10_000;

impl Core {
    /// After a write that this node acknowledges: if it was of roles, no request here is judged by the roles of before.
    pub(crate) fn outdate_rights(&self, request: &Request) {
        let (Operation::Write(writes) | Operation::Update(writes)) = &request.operation else {
            return;
        };
        let is_of_rights =
            |write: &Write| write.bucket == ROLES || (write.bucket == USERS && write.delete);
        if !writes.writes.iter().any(is_of_rights) {
            return;
        }
        let state = self.metadata.current();
        if let Some(database) = state.database(&writes.database) {
            self.rights.outdate(database.id);
        }
    }

    /// Brings a copy up to date for somebody who waits: one question for all who do.
    ///
    /// # Errors
    /// `Unavailable`: the shard's leader did not answer, or nobody confirms it.
    pub(crate) async fn refresh_rights(
        &self,
        state: &ClusterState,
        database: &Database,
        followed: &Followed,
        deadline: Instant,
    ) -> Result<()> {
        let locked = tokio::time::timeout_at(deadline.into(), followed.asking.lock()).await;
        let _asking = locked.map_err(|_| Error::unavailable("the rights are being read"))?;
        let age_max = self.options.limits.metadata_age_max;
        let is_fresh = |confirmed| self.clock.elapsed().saturating_sub(confirmed) <= age_max;
        if followed.copy.confirmed().is_some_and(is_fresh) {
            return Ok(());
        }
        // Reading it again is for the job, which takes its time.
        if followed.copy.is_too_large() {
            return Err(self.too_large(database));
        }
        let wait = Duration::ZERO;
        self.follow_rights(state, database, &followed.copy, wait, deadline)
            .await
    }

    /// Brings a database's rights up to date: asks, waits `wait` at most for news if there are none, and takes in what comes. On return
    /// the copy is as new as the last question, at most `wait` and a round trip old.
    ///
    /// # Errors
    /// `Unavailable`: the shard's leader did not answer, or nobody confirms it.
    pub(crate) async fn follow_rights(
        &self,
        state: &ClusterState,
        database: &Database,
        copy: &Copy,
        mut wait: Duration,
        deadline: Instant,
    ) -> Result<()> {
        for _ in 0..PARTS_MAX {
            let mut asked = copy.asked();
            let Some(after) = asked.after else {
                copy.begin();
                asked = copy.asked();
                self.read_roles(state, database, copy, asked, deadline)
                    .await?;
                wait = Duration::ZERO;
                continue;
            };
            let follow = FollowRights {
                database: database.name.clone(),
                after,
                wait_us: u64::try_from(wait.as_micros()).unwrap_or(u64::MAX),
                roles_after: None,
            };
            let sent = self.clock.elapsed();
            let part = self.ask_rights(state, database, follow, deadline).await?;
            let more = part.more;
            match copy.take(asked, part, self.options.limits.rights_rows_max) {
                Taken::In => {}
                Taken::Forgotten => {
                    copy.begin();
                    continue;
                }
                Taken::TooLarge => return Err(self.too_large(database)),
            }
            if !more {
                copy.confirm(asked, sent);
                return Ok(());
            }
            wait = Duration::ZERO;
        }
        Err(Error::unavailable(
            "the rights change faster than they are read",
        ))
    }

    fn too_large(&self, database: &Database) -> Error {
        let rows_max = self.options.limits.rights_rows_max;
        Error::unavailable(format!(
            "database {} has more than {rows_max} members of roles and users whose sessions ended: have fewer, or raise \
             limits.rights_rows_max at every node",
            database.name
        ))
    }

    /// Reads all roles, page by page. What changes meanwhile comes with what changed before: all of it is asked for next.
    async fn read_roles(
        &self,
        state: &ClusterState,
        database: &Database,
        copy: &Copy,
        asked: Asked,
        deadline: Instant,
    ) -> Result<()> {
        let mut after = String::new();
        loop {
            let follow = FollowRights {
                database: database.name.clone(),
                roles_after: Some(after),
                ..FollowRights::default()
            };
            let part = self.ask_rights(state, database, follow, deadline).await?;
            let last = part.roles_last.clone();
            if copy.take(asked, part, self.options.limits.rights_rows_max) == Taken::TooLarge {
                return Err(self.too_large(database));
            }
            match last {
                Some(last) => after = last,
                None => break,
            }
        }
        copy.complete(asked);
        Ok(())
    }

    async fn ask_rights(
        &self,
        state: &ClusterState,
        database: &Database,
        follow: FollowRights,
        deadline: Instant,
    ) -> Result<Rights> {
        let roles = database
            .buckets
            .get(ROLES)
            .ok_or_else(|| Error::bucket_not_found(ROLES))?;
        // All roles of a database lie in one shard, whatever the key.
        let shard = state.shard_of(database, roles, "");
        let request = internal_request(state, shard, Operation::FollowRights(follow));
        match Box::pin(self.route(state, &request, deadline)).await? {
            Answer::Rights(part) => Ok(part),
            _ => Err(unexpected()),
        }
    }
}
