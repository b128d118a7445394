//! The right to touch documents, as values: what reads or writes documents for a caller demands one, and only here are they made, after the
//! rules of the class were asked. So a new way to documents cannot forget the rules: without asking there is nothing to hand over.
//!
//! The rules of single objects are asked for each document: by [`Grant::may_read`] where one is shown, and by apply where one is written.

use std::borrow::Cow;

use cluster::state::Database;
use document::acl::{self, Acl, Principal};
use document::schema::Operation;

use super::policy::check_class;
use crate::context::Condition;
use crate::error::{Error, Result};
use crate::forward::{Write, Writes};

/// The right to read documents of one bucket.
#[derive(Clone, Debug)]
pub(crate) struct Grant<'p> {
    database: u32,
    bucket: u32,
    readable: Readable<'p>,
}

/// Which documents of the bucket.
#[derive(Clone, Debug)]
enum Readable<'p> {
    /// Those whose own rules let the caller.
    By(Cow<'p, Principal>),
    /// All of them.
    All,
}

impl<'p> Grant<'p> {
    /// What the rules of the class let a caller read for `operation`.
    ///
    /// # Errors
    /// `PermissionDenied`: nothing. `BucketNotFound`: there is no such bucket.
    pub(crate) fn of_caller(
        database: &Database,
        bucket: &str,
        operation: Operation,
        caller: &'p Principal,
    ) -> Result<Grant<'p>> {
        check_class(database, bucket, operation, caller)?;
        Grant::new(database, bucket, Readable::By(Cow::Borrowed(caller)))
    }

    /// Every document, for what the service must know itself: who logs in, and whose roles there are. No caller may be shown any of it.
    ///
    /// # Errors
    /// `BucketNotFound`.
    pub(crate) fn of_service(database: &Database, bucket: &str) -> Result<Grant<'p>> {
        Grant::new(database, bucket, Readable::All)
    }

    /// What a caller wrote itself in this bucket, for the answer to a repetition of that write. Only the version that it wrote may be shown.
    pub(crate) fn of_repetition(database: u32, bucket: u32) -> Grant<'p> {
        Grant {
            database,
            bucket,
            readable: Readable::All,
        }
    }

    fn new(database: &Database, bucket: &str, readable: Readable<'p>) -> Result<Grant<'p>> {
        let info = database.buckets.get(bucket);
        let info = info.ok_or_else(|| Error::bucket_not_found(bucket))?;
        Ok(Grant {
            database: database.id,
            bucket: info.id,
            readable,
        })
    }

    /// The same, for another thread.
    pub(crate) fn into_owned(self) -> Grant<'static> {
        let readable = match self.readable {
            Readable::By(caller) => Readable::By(Cow::Owned(caller.into_owned())),
            Readable::All => Readable::All,
        };
        Grant {
            database: self.database,
            bucket: self.bucket,
            readable,
        }
    }

    /// Id of the database.
    pub(crate) fn database(&self) -> u32 {
        self.database
    }

    /// Id of the bucket.
    pub(crate) fn bucket(&self) -> u32 {
        self.bucket
    }

    /// Whether a document with this ACL may be read.
    pub(crate) fn may_read(&self, acl: Option<&Acl>) -> bool {
        match &self.readable {
            Readable::By(caller) => acl::may_read(acl, caller),
            Readable::All => true,
        }
    }

    /// Who finds less than everything; `None`: all documents are found.
    pub(crate) fn restricted(&self) -> Option<&Principal> {
        match &self.readable {
            Readable::By(caller) if !caller.is_admin() => Some(&**caller),
            Readable::By(_) | Readable::All => None,
        }
    }
}

/// The right to propose the writes of one request, as far as the classes go. Apply asks the rules of each stored object.
#[derive(Debug)]
pub(crate) struct WriteGrant(());

impl WriteGrant {
    /// Asks the rules of each write's class.
    ///
    /// # Errors
    /// The place of the first write that is refused, and why: see [`check_class`].
    pub(crate) fn of_caller(
        database: &Database,
        writes: &Writes,
        caller: &Principal,
    ) -> Result<WriteGrant, (usize, Error)> {
        for (ordinal, write) in writes.writes.iter().enumerate() {
            for &operation in needed(write) {
                check_class(database, &write.bucket, operation, caller)
                    .map_err(|error| (ordinal, error))?;
            }
        }
        Ok(WriteGrant(()))
    }
}

/// What a write takes, as far as its class goes (contract 7.3). It is not looked whether the document is there.
fn needed(write: &Write) -> &'static [Operation] {
    match write.condition() {
        _ if write.delete => &[Operation::Delete],
        _ if write.update => &[Operation::Update],
        Some(Condition::Absent) => &[Operation::Insert],
        Some(Condition::Exists | Condition::Version(_)) => &[Operation::Update],
        Some(Condition::None) | None => &[Operation::Insert, Operation::Update],
    }
}
