//! Reads at the leader: one document, a page, and the two look-ups behind log-in.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use document::acl::may_read;
use document::id::object_id;
use document::schema::Operation;
use proto::{ErrorCode, ShardId};
use serde::Deserialize;
use storage::machine::Replica;
use storage::tables::documents::{self, CachedRecord};

use super::near::see;
use super::{Shards, find_bucket, find_database};
use crate::auth::policy::{ROLES, USERS, check_class};
use crate::error::{Error, Result};
use crate::forward::{
    Answer, Failure, FindRoles, FindUser, Get, Page, Record, Request, Roles, Scan,
};

/// Documents between two looks at the clock during a walk.
const WALK_CHECK: usize = 256;

impl Shards {
    /// Reads one document behind a barrier.
    pub(super) async fn get(
        &self,
        request: &Request,
        get: &Get,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let replica = self.replica(request.shard)?;
        self.barrier(request.shard, deadline).await?;
        let mut answer = self.get_applied(&replica, request, get, deadline).await?;
        see(&mut answer, &replica, Some(0));
        Ok(answer)
    }

    /// Reads one document as it is applied in the local replica, however old.
    pub(crate) async fn get_applied(
        &self,
        replica: &Arc<Replica>,
        request: &Request,
        get: &Get,
        deadline: Instant,
    ) -> Result<Answer> {
        let state = self.metadata.current();
        let database = find_database(&state, &get.database)?;
        let bucket = find_bucket(database, &get.bucket)?;
        if !get.internal {
            check_class(database, &get.bucket, Operation::Load, &request.principal)?;
        }
        let record = self
            .record(replica, database.id, bucket.id, &get.key, deadline)
            .await?;
        match record {
            Some(record) if get.internal => Ok(Answer::Record(internal(get.key.clone(), record))),
            Some(record) if may_read(record.acl.as_ref(), &request.principal) => {
                Ok(Answer::Record(served(get.key.clone(), record)))
            }
            None if get.internal => Ok(Answer::Done(false)),
            Some(_) | None => {
                let message = format!("no document {}", object_id(&get.bucket, &get.key));
                Err(Error::new(ErrorCode::ObjectNotFound, message))
            }
        }
    }

    /// The stored document, from memory if it is there, else from a thread that may wait for the disk.
    pub(super) async fn record(
        &self,
        replica: &Arc<Replica>,
        database: u32,
        bucket: u32,
        key: &str,
        deadline: Instant,
    ) -> Result<Option<documents::Record>> {
        match documents::get_cached(replica, database, bucket, key)? {
            CachedRecord::Found(record) => return Ok(Some(record)),
            CachedRecord::Absent => return Ok(None),
            CachedRecord::NeedsDisk => {}
        }
        let (replica, key) = (Arc::clone(replica), key.to_owned());
        self.reads
            .run(deadline, move || {
                Ok(documents::get(&replica, database, bucket, &key)?)
            })
            .await
    }

    /// One page of a bucket's part in this shard. Every page takes its own barrier, so each is linearizable by itself.
    pub(super) async fn scan(
        &self,
        request: &Request,
        scan: &Scan,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let replica = self.replica(request.shard)?;
        let mut answer = self.page(request, scan, true, deadline).await?;
        see(&mut answer, &replica, Some(0));
        Ok(answer)
    }

    /// One page, behind a barrier or of the replica as it is.
    pub(super) async fn page(
        &self,
        request: &Request,
        scan: &Scan,
        barrier: bool,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let state = self.metadata.current();
        let database = find_database(&state, &scan.database)?;
        check_class(database, &scan.bucket, Operation::Query, &request.principal)?;
        let (scan, principal) = (scan.clone(), request.principal.clone());
        let visits_max = self.limits.scan_page_visits;
        let documents_max = usize::try_from(scan.documents_max)
            .unwrap_or(usize::MAX)
            .min(self.limits.scan_page_documents);
        let bytes_max = usize::try_from(scan.bytes_max)
            .unwrap_or(usize::MAX)
            .min(self.limits.scan_page_bytes);
        let mut page = Page::default();
        let (mut bytes, mut visits) = (0, 0);
        let from = if scan.after {
            Bound::Excluded(scan.from)
        } else {
            Bound::Included(scan.from)
        };
        let form = if scan.hidden && principal.is_admin() {
            internal
        } else {
            served
        };
        let take = move |key: String, record: documents::Record, page: &mut Page| {
            visits += 1;
            let next = may_read(record.acl.as_ref(), &principal).then(|| form(key.clone(), record));
            if let Some(record) = next {
                bytes += record.body.len();
                page.records.push(record);
            }
            let full =
                page.records.len() >= documents_max || bytes >= bytes_max || visits >= visits_max;
            page.last = full.then_some(key);
            Ok(full)
        };
        page = self
            .walk(
                request.shard,
                &scan.database,
                &scan.bucket,
                from,
                barrier,
                deadline,
                page,
                take,
            )
            .await?;
        Ok(Answer::Page(page))
    }

    /// The user with this name, with hidden members. Walks all users of the shard: no index is made for it.
    pub(super) async fn find_user(
        &self,
        request: &Request,
        find: &FindUser,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let username = find.username.clone();
        let take = move |key: String, record: documents::Record, found: &mut Option<Record>| {
            if named(&record.body).is_some_and(|name| name == username) {
                *found = Some(internal(key, record));
            }
            Ok(found.is_some())
        };
        let found = self
            .walk(
                request.shard,
                &find.database,
                USERS,
                Bound::Unbounded,
                true,
                deadline,
                None,
                take,
            )
            .await?;
        Ok(found.map_or(Answer::Done(false), Answer::Record))
    }

    /// The roles whose members include a user.
    pub(super) async fn find_roles(
        &self,
        request: &Request,
        find: &FindRoles,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let user = find.user.clone();
        let take = move |key: String, record: documents::Record, roles: &mut Vec<String>| {
            if members(&record.body).contains(&user) {
                roles.push(object_id(ROLES, &key));
            }
            Ok(false)
        };
        let ids = self
            .walk(
                request.shard,
                &find.database,
                ROLES,
                Bound::Unbounded,
                true,
                deadline,
                Vec::new(),
                take,
            )
            .await?;
        Ok(Answer::Roles(Roles { ids }))
    }

    /// Takes a barrier, if told to, and walks a bucket's part in this shard on a reading thread, until `take` says that it has enough.
    #[expect(
        clippy::too_many_arguments,
        reason = "a walk is a place, a start, a bound and a fold"
    )]
    async fn walk<T, F>(
        &self,
        shard: ShardId,
        database: &str,
        bucket: &str,
        from: Bound<String>,
        barrier: bool,
        deadline: Instant,
        mut found: T,
        mut take: F,
    ) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnMut(String, documents::Record, &mut T) -> Result<bool> + Send + 'static,
    {
        let state = self.metadata.current();
        let database = find_database(&state, database)?;
        let (database_id, bucket_id) = (database.id, find_bucket(database, bucket)?.id);
        let replica = self.replica(shard)?;
        if barrier {
            self.barrier(shard, deadline).await?;
        }
        let walk = move || {
            let view = replica.view();
            let from = from.as_ref().map(String::as_str);
            for (at, row) in documents::scan(&view, database_id, bucket_id, from).enumerate() {
                if at % WALK_CHECK == WALK_CHECK - 1 && Instant::now() >= deadline {
                    return Err(Error::unavailable("the walk took too long"));
                }
                let (key, record) = row?;
                if take(key, record, &mut found)? {
                    break;
                }
            }
            Ok(found)
        };
        Ok(self.reads.run(deadline, walk).await?)
    }
}

fn served(key: String, record: documents::Record) -> Record {
    Record {
        key,
        version: record.version,
        body: record.body,
        ..Record::default()
    }
}

fn internal(key: String, record: documents::Record) -> Record {
    Record {
        key,
        version: record.version,
        body: record.body,
        hidden: record.hidden.unwrap_or_default(),
        seen: None,
    }
}

/// The member `username` of a user.
fn named(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct User {
        username: Option<String>,
    }
    serde_json::from_slice::<User>(body).ok()?.username
}

/// The member `users` of a role.
pub(super) fn members(body: &[u8]) -> Vec<String> {
    #[derive(Deserialize)]
    struct Role {
        users: Option<Vec<Option<String>>>,
    }
    let role = serde_json::from_slice::<Role>(body).ok();
    role.and_then(|role| role.users)
        .unwrap_or_default()
        .into_iter()
        .flatten()
        .collect()
}
