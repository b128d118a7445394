//! Rights at a shard's leader: ending the sessions of users that a write has noted, telling other nodes what is new, and rotating the
//! keys that tokens are signed with.

use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cluster::MetaOutcome;
use prost::Message as _;
use proto::log::{RotateSigningKey, UserVersion, meta_command};
use proto::{Effect, ErrorCode, ShardId};
use storage::machine::Replica;
use storage::tables::documents::{self, Record};
use storage::tables::rights::{self, Changed};

use super::near;
use super::read::members;
use super::{Shards, find_bucket, find_database};
use crate::auth::policy::{ROLES, USERS};
use crate::error::{Error, Result};
use crate::forward::{Answer, EndedSessions, Failure, FollowRights, Rights, RoleMembers, Writes};
use crate::schema::meta_rejected;

/// Changed subjects in one part.
const PART_SUBJECTS: usize = 500;
/// A part ends with the role that reaches this many bytes of members. A role is a document, so one more may come on top.
const PART_BYTES: usize = 512 * 1024;
/// Roles that one part of all of them looks at.
const PART_ROLES: usize = 1_000;
/// The longest that a question waits for news.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Between the beginnings of two looks for news while a shard applies one entry after the other.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

impl Shards {
    /// After writes of users took effect: has the sessions ended everywhere that they end.
    ///
    /// # Errors
    /// With effect `applied`: the writes did take effect, and the shard of the roles could not be told in time. It will be.
    pub(super) async fn end_sessions(
        &self,
        shard: ShardId,
        writes: &Writes,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let users = writes.writes.iter().filter(|write| write.bucket == USERS);
        let users: Vec<String> = users.map(|write| write.key.clone()).collect();
        let replica = self.replica(shard)?;
        let state = self.metadata.current();
        let database = find_database(&state, &writes.database)?;
        let id = database.id;
        let noted = self
            .reads
            .run(deadline, move || {
                let mut noted = Vec::new();
                for key in users {
                    if let Some(version) = rights::session_end(&replica, id, &key)? {
                        noted.push(UserVersion { key, version });
                    }
                }
                Ok(noted)
            })
            .await;
        let told = match noted {
            Ok(noted) if noted.is_empty() => return Ok(()),
            Ok(noted) => Box::pin(self.ends.tell(database, noted, deadline)).await,
            Err(error) => Err(error),
        };
        told.map_err(|error| {
            let message = format!(
                "it is written, but open sessions of the user go on until the shard of the roles answers ({})",
                error.message
            );
            Failure::Refused(
                Error::new(ErrorCode::OutcomeUnknown, message).with_effect(Effect::Applied),
            )
        })
    }

    /// What is new about the rights of a database. Confirms itself first, and then waits for news if there are none.
    pub(super) async fn follow_rights(
        &self,
        shard: ShardId,
        follow: &FollowRights,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let replica = self.replica(shard)?;
        self.barrier(shard, deadline).await?;
        let state = self.metadata.current();
        let database = find_database(&state, &follow.database)?;
        let roles = find_bucket(database, ROLES)?.id;
        let (id, after) = (database.id, follow.after);
        if let Some(roles_after) = follow.roles_after.clone() {
            let read = move || all_roles(&replica, id, roles, roles_after);
            return Ok(Answer::Rights(self.reads.run(deadline, read).await?));
        }
        let wait = Duration::from_micros(follow.wait_us).min(WAIT_MAX);
        if !wait.is_zero() {
            let until = deadline.min(Instant::now() + wait);
            self.wait_for_news(shard, &replica, id, after, until)
                .await?;
        }
        let read = move || news(&replica, id, roles, after);
        Ok(Answer::Rights(self.reads.run(deadline, read).await?))
    }

    /// Returns when the rights of a database changed after `after`, or at `until`.
    async fn wait_for_news(
        &self,
        shard: ShardId,
        replica: &Arc<Replica>,
        database: u32,
        after: u64,
        until: Instant,
    ) -> Result<()> {
        loop {
            let looked = Instant::now();
            let applied = near::index(replica);
            let look = Arc::clone(replica);
            let head = self
                .reads
                .run(until, move || Ok(rights::head(&look, database)?))
                .await;
            match head {
                Ok(head) if head.changed > after => return Ok(()),
                // The time is over.
                Err(_) if Instant::now() >= until => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            if !self.groups.reaches(shard, applied + 1, until).await {
                return Ok(());
            }
            // A busy shard applies all the time, and hardly ever rights; in a quiet one what is applied next is looked at without a pause.
            tokio::time::sleep_until((looked + LOOK_PAUSE).into()).await;
        }
    }

    /// Proposes that another key signs tokens, on the metadata leader. Repeating it changes nothing.
    pub(super) async fn rotate_signing_key(
        &self,
        command: &Bytes,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let Ok(command) = RotateSigningKey::decode(command.clone()) else {
            return Err(Error::bad_request("malformed rotation of keys").into());
        };
        let operation = meta_command::Operation::RotateSigningKey(command);
        match self.propose_meta(operation, deadline).await? {
            MetaOutcome::Done => {
                let version = self.metadata_now().version;
                Ok(Answer::Version(version))
            }
            MetaOutcome::Rejected(rejection) => Err(meta_rejected(&rejection).into()),
        }
    }
}

/// A page of all roles.
fn all_roles(replica: &Replica, database: u32, roles: u32, after: String) -> Result<Rights> {
    let mut part = Rights {
        // Before the view: what is applied later only makes it newer.
        upto: near::index(replica),
        ..Rights::default()
    };
    let view = replica.view();
    let from = if after.is_empty() {
        Bound::Unbounded
    } else {
        Bound::Excluded(after.as_str())
    };
    let mut bytes = 0;
    for (at, row) in documents::scan(&view, database, roles, from).enumerate() {
        let (key, record) = row?;
        bytes += record.body.len();
        part.roles.push(role(key.clone(), &record));
        if bytes >= PART_BYTES || at + 1 >= PART_ROLES {
            part.roles_last = Some(key);
            break;
        }
    }
    Ok(part)
}

/// What changed after an index.
fn news(replica: &Replica, database: u32, roles: u32, after: u64) -> Result<Rights> {
    let applied = near::index(replica);
    let head = rights::head(replica, database)?;
    let (changed, mut more) =
        rights::changed_after(&replica.view(), database, after, PART_SUBJECTS)?;
    let mut part = Rights {
        upto: applied.max(after),
        forgotten: head.forgotten,
        ..Rights::default()
    };
    let (mut bytes, mut last) = (0, after);
    for Changed {
        index,
        is_role,
        key,
        version,
        ..
    } in changed
    {
        // Entries are told whole.
        if bytes >= PART_BYTES && index > last {
            more = true;
            break;
        }
        last = index;
        if !is_role {
            let user = Some(UserVersion { key, version });
            part.ended.push(EndedSessions { user, index });
            continue;
        }
        match documents::get(replica, database, roles, &key)? {
            Some(record) => {
                bytes += record.body.len();
                part.roles.push(role(key, &record));
            }
            None => part.gone.push(key),
        }
    }
    if more {
        part.upto = last;
        part.more = true;
    }
    Ok(part)
}

fn role(key: String, record: &Record) -> RoleMembers {
    RoleMembers {
        key,
        users: members(&record.body),
    }
}
