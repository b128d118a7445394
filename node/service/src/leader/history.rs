//! The versions of a document that the change log still has, by following each event to the one before it.

use std::ops::ControlFlow;
use std::time::Instant;

use bytes::Bytes;
use document::acl::may_read;
use document::id::object_id;
use document::schema::Operation;
use proto::ErrorCode;
use storage::keys::ChangeKey;
use storage::machine::ReplicaView;
use storage::tables::change_log::{self, ChangeEvent};
use storage::tables::documents::{self, Entry};

use super::changes::{Judge, Verdict};
use super::{Shards, find_bucket, find_database};
use crate::auth::policy::check_class;
use crate::error::{Error, Result};
use crate::forward::{Answer, Change, ChangeKind, ChangesPage, Failure, History, PageEnd, Request};

impl Shards {
    /// Versions behind a read barrier, the newest first, each as the caller may see it; or the one of a moment.
    ///
    /// # Errors
    /// `PermissionDenied` by the class. Of the version of a moment also `ObjectNotFound`: there was none that the caller may read, or it
    /// is gone from the log.
    pub(super) async fn history(
        &self,
        request: &Request,
        history: &History,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let state = self.metadata.current();
        let database = find_database(&state, &history.database)?;
        let bucket = find_bucket(database, &history.bucket)?.id;
        check_class(
            database,
            &history.bucket,
            Operation::Load,
            &request.principal,
        )?;
        let judge = self.judge(request, &history.database, &history.bucket, b"")?;
        let replica = self.replica(request.shard)?;
        self.barrier(request.shard, deadline).await?;
        let (principal, history) = (request.principal.clone(), history.clone());
        let database = database.id;
        let read = move || {
            let view = replica.view();
            let mut events = Vec::new();
            let at = history.at.as_ref().map(|at| at.position());
            let mut bytes = 0;
            let mut reached = false;
            let mut versions = Versions {
                view: &view,
                judge: &judge,
                may_read: &|acl| may_read(acl, &principal),
                bucket: &history.bucket,
                key: &history.key,
            };
            versions.visit(database, bucket, &mut |position, change| {
                if at.is_some_and(|at| position > at) {
                    return ControlFlow::Continue(());
                }
                reached = true;
                if let Some(change) = change {
                    bytes += change.bytes();
                    events.push(change);
                }
                let is_full =
                    events.len() as u64 >= history.events_max || bytes as u64 >= history.bytes_max;
                match at.is_some() || is_full {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            })?;
            if at.is_some() {
                events.retain(|event| !event.body.is_empty());
                if events.is_empty() {
                    return Err(no_version(&history, reached));
                }
            }
            Ok(events)
        };
        let events = self.log_reads.run(deadline, read).await?;
        Ok(Answer::Changes(ChangesPage {
            events,
            cursor: None,
            end: PageEnd::AtEnd as i32,
            known_us: 0,
        }))
    }
}

fn no_version(history: &History, reached: bool) -> Error {
    let id = object_id(&history.bucket, &history.key);
    let message = match reached {
        true => format!("no document {id} at that moment"),
        false => format!("the version of {id} at that moment is not kept any more, or never was"),
    };
    Error::new(ErrorCode::ObjectNotFound, message)
}

/// The versions of one document.
struct Versions<'v> {
    view: &'v ReplicaView<'v>,
    judge: &'v Judge,
    may_read: &'v dyn Fn(Option<&document::acl::Acl>) -> bool,
    bucket: &'v str,
    key: &'v str,
}

impl Versions<'_> {
    /// Hands each version to `each`, the newest first, with its position; without it, if the caller may not see it.
    fn visit(
        &mut self,
        database: u32,
        bucket: u32,
        each: &mut dyn FnMut(ChangeKey, Option<Change>) -> ControlFlow<()>,
    ) -> Result<()> {
        let stored = documents::entry(self.view, database, bucket, self.key)?;
        let mut position = match &stored {
            None => return Ok(()),
            Some(Entry::Live { position, .. }) => *position,
            Some(Entry::Tombstone(tombstone)) => tombstone.position,
        };
        let Some(mut event) = change_log::get(self.view, position)? else {
            // Its event is gone, but what is there now is known.
            if let Some(Entry::Live { record, .. }) = stored {
                let is_readable = (self.may_read)(record.acl.as_ref());
                let change = self.state(position, record.version, record.updated_us, record.body);
                let _ = each(position, is_readable.then_some(change));
            }
            return Ok(());
        };
        loop {
            let before = event.before.clone();
            let next = before
                .as_ref()
                .map(|before| before.position)
                .or(event.deleted_at);
            if each(position, self.shown(position, event)?).is_break() {
                return Ok(());
            }
            let Some(next) = next else {
                return Ok(());
            };
            if let Some(older) = change_log::get(self.view, next)? {
                (position, event) = (next, older);
                continue;
            }
            if let Some(before) = before
                && let Some(body) = before.body
            {
                let is_readable = (self.may_read)(before.acl.as_ref());
                let change = self.state(next, before.version, 0, body);
                let _ = each(next, is_readable.then_some(change));
            }
            return Ok(());
        }
    }

    fn shown(&self, position: ChangeKey, event: ChangeEvent) -> Result<Option<Change>> {
        Ok(match self.judge.event(self.view, position, event)? {
            Verdict::Shown(change) => Some(change),
            Verdict::Hidden | Verdict::Unknown => None,
        })
    }

    fn state(&self, position: ChangeKey, version: u64, time_us: u64, body: Bytes) -> Change {
        Change {
            index: position.index,
            ordinal: position.ordinal,
            time_us,
            bucket: self.bucket.to_owned(),
            key: self.key.to_owned(),
            kind: ChangeKind::State as i32,
            version,
            body,
            by_expiry: false,
            compacted: true,
        }
    }
}
