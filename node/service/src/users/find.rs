//! Reading a user with its hidden members, linearizably: by key, or by name through the unique index of names.
//!
//! The index says who holds a name, also while the write with it is on its way; so the document is read and asked. Where the index is
//! not ready (a class whose fields changed so that it is being made anew), all shards are asked instead.

use std::sync::Arc;
use std::time::Instant;

use cluster::state::{ClusterState, Database, IndexInfo, IndexState};
use document::id::object_id;
use document::index::Index;
use document::query::Subject;
use futures::future::try_join_all;
use proto::ShardId;

use super::User;
use super::record::USERNAME;
use crate::Core;
use crate::auth::policy::USERS;
use crate::documents::unexpected;
use crate::error::{Error, Result};
use crate::forward::{Answer, FindUser, Get, Operation, Request};
use crate::sessions::internal_request;
use crate::unique::Value;

impl Core {
    /// The user with a key.
    ///
    /// # Errors
    /// `Unavailable`: its shard does not answer.
    pub(crate) async fn user(
        &self,
        state: &ClusterState,
        database: &Database,
        key: &str,
        deadline: Instant,
    ) -> Result<Option<User>> {
        let users = database
            .buckets
            .get(USERS)
            .ok_or_else(|| Error::bucket_not_found(USERS))?;
        let get = Get {
            database: database.name.clone(),
            bucket: USERS.to_owned(),
            key: key.to_owned(),
            internal: true,
        };
        let shard = state.shard_of(database, users, key);
        let request = internal_request(state, shard, Operation::Get(get));
        match Box::pin(self.route(state, &request, deadline)).await? {
            Answer::Record(record) => Ok(Some(User::of(record)?)),
            Answer::Done(_) => Ok(None),
            _ => Err(unexpected()),
        }
    }

    /// The user with a name.
    ///
    /// # Errors
    /// `Unavailable`: a shard does not answer.
    pub(crate) async fn user_named(
        &self,
        state: &Arc<ClusterState>,
        database: &Database,
        name: &str,
        deadline: Instant,
    ) -> Result<Option<User>> {
        let Some(value) = name_value(database, name)? else {
            return Box::pin(self.search_user(state, database, name, deadline)).await;
        };
        let Some(holder) = self.find_holder(state, &value, deadline).await? else {
            return Ok(None);
        };
        let user = self.user(state, database, &holder.owner, deadline).await?;
        Ok(user.filter(|user| user.username() == Some(name)))
    }

    /// The user with a name, looked for in all shards at once.
    async fn search_user(
        &self,
        state: &ClusterState,
        database: &Database,
        name: &str,
        deadline: Instant,
    ) -> Result<Option<User>> {
        let find = FindUser {
            database: database.name.clone(),
            username: name.to_owned(),
        };
        let requests: Vec<Request> = (1..=state.shards)
            .map(|shard| internal_request(state, ShardId(shard), Operation::FindUser(find.clone())))
            .collect();
        let searches = requests
            .iter()
            .map(|request| self.route(state, request, deadline));
        for answer in try_join_all(searches).await? {
            if let Answer::Record(record) = answer {
                return Ok(Some(User::of(record)?));
            }
        }
        Ok(None)
    }
}

/// A name as a value of the index of names; `None`: that index is not ready.
fn name_value(database: &Database, name: &str) -> Result<Option<Value>> {
    let Some(users) = database.buckets.get(USERS) else {
        return Err(Error::bucket_not_found(USERS));
    };
    let mut indexes = database.indexes_of(users.id);
    let Some((info, index)) = indexes.find_map(of_names) else {
        return Ok(None);
    };
    let id = object_id(USERS, "");
    // Whatever document has the name has the value.
    let members = serde_json::json!({ USERNAME: name }).to_string();
    let subject = Subject {
        id: &id,
        version: 0,
        created_us: 0,
        updated_us: 0,
        fields: &members.as_bytes()[1..members.len() - 1],
    };
    let values = index.unique_values(&subject).unwrap_or_default();
    Ok(values.first().map(|hash| Value {
        database: database.id,
        bucket: users.id,
        index: info.id,
        hash: *hash,
    }))
}

/// The index, if it is that of the names and complete.
fn of_names(info: &IndexInfo) -> Option<(&IndexInfo, Index)> {
    if !info.unique || info.state != IndexState::Ready {
        return None;
    }
    let index = Index::from_bytes(&info.compiled_bytes()).ok()?;
    let keys = &index.definition().keys;
    let is_names = matches!(&keys[..], [(path, _)] if path == USERNAME);
    is_names.then_some((info, index))
}
