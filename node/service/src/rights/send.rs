//! Telling the shard of the roles that sessions ended, on the node that leads the users' shard.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Instant;

use cluster::state::Database;
use parking_lot::Mutex;
use proto::ShardId;
use proto::log::{EndSessions, SettleSessions, UserVersion, command};
use storage::tables::rights::SessionEnd;
use tokio::sync::Notify;

use crate::Core;
use crate::auth::policy::ROLES;
use crate::error::{Error, Result};

/// Users that are remembered as told. One that is not is told twice, which changes nothing.
const TOLD_MAX: usize = 4_096;

/// The leader's way to the shard of the roles.
pub(crate) struct Ends {
    /// Not counted: the core owns this.
    core: Weak<Core>,
    /// Notes wait to be settled.
    noted: Notify,
    /// What the shard of the roles has heard of from here: database and user, and the version.
    told: Mutex<HashMap<(u32, String), u64>>,
}

impl Ends {
    pub(crate) fn new(core: Weak<Core>) -> Arc<Ends> {
        Arc::new(Ends {
            core,
            noted: Notify::new(),
            told: Mutex::default(),
        })
    }

    /// Ends sessions on every node; returns when the shard of the roles has it.
    ///
    /// # Errors
    /// `Unavailable`, `OutcomeUnknown`: not yet. The note stays, and somebody tells it later.
    pub(crate) async fn tell(
        &self,
        database: &Database,
        users: Vec<UserVersion>,
        deadline: Instant,
    ) -> Result<()> {
        let core = self.core.upgrade();
        let core = core.ok_or_else(|| Error::unavailable("the node is stopping"))?;
        let state = core.metadata.current();
        let roles = database
            .buckets
            .get(ROLES)
            .ok_or_else(|| Error::bucket_not_found(ROLES))?;
        let shard = state.shard_of(database, roles, "");
        let end = EndSessions {
            database: database.id,
            users: users.clone(),
        };
        let operation = command::Operation::EndSessions(end);
        Box::pin(core.command(&state, shard, operation, deadline)).await?;
        core.rights.outdate(database.id);
        let mut told = self.told.lock();
        for user in users {
            if told.len() < TOLD_MAX {
                told.insert((database.id, user.key), user.version);
            }
        }
        drop(told);
        self.noted.notify_one();
        Ok(())
    }

    /// Those that the shard of the roles may not have heard of; the others are not remembered any more.
    fn untold(&self, database: u32, users: &[UserVersion]) -> Vec<UserVersion> {
        let mut told = self.told.lock();
        let mut is_untold = |user: &&UserVersion| {
            let told = told.remove(&(database, user.key.clone()));
            told.is_none_or(|version| version < user.version)
        };
        users
            .iter()
            .filter(|user| is_untold(user))
            .cloned()
            .collect()
    }

    /// Returns when there may be notes that are told and not settled yet.
    pub(crate) async fn noted(&self) {
        self.noted.notified().await;
    }
}

impl Core {
    /// Tells and settles the notes of one shard that this node leads.
    ///
    /// # Errors
    /// `Unavailable`, `OutcomeUnknown`: some are left.
    pub(crate) async fn settle_session_ends(
        &self,
        shard: ShardId,
        ends: Vec<SessionEnd>,
        deadline: Instant,
    ) -> Result<()> {
        let state = self.metadata.current();
        let mut users: BTreeMap<u32, Vec<UserVersion>> = BTreeMap::new();
        for end in ends {
            users.entry(end.database).or_default().push(UserVersion {
                key: end.user,
                version: end.version,
            });
        }
        for (id, users) in users {
            let database = state.databases.values().find(|known| known.id == id);
            if let Some(database) = database {
                let untold = self.ends.untold(id, &users);
                if !untold.is_empty() {
                    self.ends.tell(database, untold, deadline).await?;
                }
            }
            let settle = SettleSessions {
                database: id,
                users,
            };
            let operation = command::Operation::SettleSessions(settle);
            Box::pin(self.command(&state, shard, operation, deadline)).await?;
        }
        Ok(())
    }
}
