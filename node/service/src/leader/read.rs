//! Reads at the leader: one document, a page, and the two look-ups behind log-in.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use document::id::object_id;

use document::schema::Operation;
use proto::{ErrorCode, ShardId};
use serde::Deserialize;
use storage::machine::Replica;
use storage::machine::outcome::Progress;
use storage::tables::documents::{self, CachedRecord};
use storage::tables::readers;

use super::near::see;
use super::query::cheaper_references;
use super::stale::keep;
use super::{Shards, find_database};
use crate::auth::grant::Grant;
use crate::auth::policy::USERS;
use crate::error::{Error, Result};
use crate::forward::{Answer, Failure, FindUser, Get, Page, Record, Request, Scan};

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
        let grant = match get.internal {
            true => Grant::of_service(database, &get.bucket)?,
            false => Grant::of_caller(database, &get.bucket, Operation::Load, &request.principal)?,
        };
        let caching = match get.internal {
            true => None,
            false => self.caching(replica, database, &get.bucket)?,
        };
        let record = self.record(replica, &grant, &get.key, deadline).await?;
        match record {
            Some(record) if get.internal => Ok(Answer::Record(internal(get.key.clone(), record))),
            Some(record) if grant.may_read(record.acl.as_ref()) => {
                let keep =
                    caching.map(|caching| keep(caching, replica, database, &get.bucket, &record));
                Ok(Answer::Record(Record {
                    keep,
                    ..served(get.key.clone(), record)
                }))
            }
            None if get.internal => Ok(Answer::Done(false)),
            Some(_) | None => {
                let message = format!("no document {}", object_id(&get.bucket, &get.key));
                Err(Error::new(ErrorCode::ObjectNotFound, message))
            }
        }
    }

    /// The stored document, from memory if it is there, else from a thread that may wait for the disk. Its own rules are the caller's to ask.
    pub(super) async fn record(
        &self,
        replica: &Arc<Replica>,
        grant: &Grant<'_>,
        key: &str,
        deadline: Instant,
    ) -> Result<Option<documents::Record>> {
        let (database, bucket) = (grant.database(), grant.bucket());
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
        let caller = &request.principal;
        let grant = Grant::of_caller(database, &scan.bucket, Operation::Query, caller)?;
        let (scan, readable) = (scan.clone(), grant.clone().into_owned());
        let place = (request.shard, grant.database(), grant.bucket());
        let has_refused = Arc::new(AtomicBool::new(false));
        let refused = Arc::clone(&has_refused);
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
        let form = if scan.hidden && caller.is_admin() {
            internal
        } else {
            served
        };
        let take = move |key: String, record: documents::Record, page: &mut Page| {
            visits += 1;
            let is_readable = readable.may_read(record.acl.as_ref());
            let next = is_readable.then(|| form(key.clone(), record));
            if !is_readable {
                refused.store(true, Ordering::Relaxed);
            }
            if let Some(record) = next {
                bytes += record.body.len();
                page.records.push(record);
            }
            let full =
                page.records.len() >= documents_max || bytes >= bytes_max || visits >= visits_max;
            page.is_last_hidden = full && !is_readable;
            page.last = full.then_some(key);
            Ok(full)
        };
        page = self
            .walk(request.shard, grant, from, barrier, deadline, page, take)
            .await?;
        if has_refused.load(Ordering::Relaxed) {
            let replica = self.replica(request.shard)?;
            let progress = readers::progress(&replica, place.1, place.2).map_err(Error::from)?;
            if progress != Progress::Complete {
                self.readers.want(place);
            }
        }
        Ok(Answer::Page(page))
    }

    /// The user with this name, with hidden members. Walks all users of the shard: no index is made for it.
    pub(super) async fn find_user(
        &self,
        request: &Request,
        find: &FindUser,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let state = self.metadata.current();
        let grant = Grant::of_service(find_database(&state, &find.database)?, USERS)?;
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
                grant,
                Bound::Unbounded,
                true,
                deadline,
                None,
                take,
            )
            .await?;
        Ok(found.map_or(Answer::Done(false), Answer::Record))
    }

    /// Takes a barrier, if told to, and walks a bucket's part in this shard on a reading thread, until `take` says that it has enough.
    ///
    /// Shows all documents, or, where that is cheaper, those that are entered under the readers of the grant; so `take` asks their rules.
    #[expect(
        clippy::too_many_arguments,
        reason = "a walk is a place, a start, a bound and a fold"
    )]
    async fn walk<T, F>(
        &self,
        shard: ShardId,
        grant: Grant<'_>,
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
        let replica = self.replica(shard)?;
        if barrier {
            self.barrier(shard, deadline).await?;
        }
        let grant = grant.into_owned();
        let walk = move || {
            let view = replica.view();
            let (database, bucket) = (grant.database(), grant.bucket());
            let from = from.as_ref().map(String::as_str);
            let mut seen = 0;
            let mut is_late = || {
                seen += 1;
                seen % WALK_CHECK == 0 && Instant::now() >= deadline
            };
            let late = || Error::unavailable("the walk took too long");
            if let Some(references) = cheaper_references(&view, &grant)? {
                readers::visit(&view, database, bucket, &references, from, &mut |key| {
                    if is_late() {
                        return Err(late());
                    }
                    let Some(record) = documents::get_at(&view, database, bucket, key)? else {
                        return Ok(ControlFlow::Continue(()));
                    };
                    Ok(match take(key.to_owned(), record, &mut found)? {
                        true => ControlFlow::Break(()),
                        false => ControlFlow::Continue(()),
                    })
                })?;
                return Ok(found);
            }
            for row in documents::scan(&view, database, bucket, from) {
                if is_late() {
                    return Err(late());
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
        ..Record::default()
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
