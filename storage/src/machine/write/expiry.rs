//! What a mutation does to its document's expiry, and the delete of an expired one.

use std::borrow::Cow;

use document::body::{EXPIRES_AT, member, with_expiry};
use proto::log::{self, Mutation};

use super::{Site, Writer};
use crate::error::Error;
use crate::keys::{DocumentKey, ExpiryKey};
use crate::tables::buckets;
use crate::tables::documents::{Expiry, Record};
use crate::tables::expiry;

impl Writer<'_, '_> {
    /// Deletes a document whose time has come; gives the bytes that it had. Nobody's rights are asked, and no condition.
    pub(in crate::machine) fn expire(&mut self, due: ExpiryKey<'_>) -> Result<u64, Error> {
        let mutation = Mutation {
            database: due.database,
            bucket: due.bucket,
            key: due.key.to_owned(),
            ..Mutation::default()
        };
        let bucket = self.bucket(&mutation)?;
        let bucket = bucket.as_deref().map(buckets::decode).transpose()?;
        let site = self.site(&mutation, &bucket.unwrap_or_default())?;
        let stored = site.live.as_ref().map(|live| &live.record);
        let bytes = stored.map_or(0, |record| record.body.len() as u64);
        let is_meant = stored
            .and_then(|record| record.expiry)
            .is_some_and(|expiry| expiry.due_us == due.due_us);
        if is_meant {
            self.by_expiry = true;
            self.remove(&site)?;
        } else {
            // The row goes all the same, or it would be looked at for ever.
            let (at_us, due_us) = (0, due.due_us);
            expiry::remove(self.tx, document_key(&mutation), Expiry { at_us, due_us });
        }
        Ok(bytes)
    }

    /// When the document expires after a put of `fields`, and the fields with the member that says so.
    ///
    /// A class may have got a field of that name since the expiry was set. Then the member is the field's, and the document stays.
    pub(super) fn expiry_after<'f>(
        &self,
        asked: Option<&log::Expiry>,
        stored: Option<&Record>,
        fields: Cow<'f, [u8]>,
    ) -> (Option<Expiry>, Cow<'f, [u8]>) {
        let expiry = match asked {
            None => stored.and_then(|record| record.expiry),
            Some(log::Expiry { at_us }) => at_us.map(|at_us| self.due(at_us)),
        };
        let Some(expiry) = expiry.filter(|_| member(&fields, EXPIRES_AT).is_none()) else {
            return (None, fields);
        };
        let fields = with_expiry(&fields, expiry.at_us);
        (Some(expiry), Cow::Owned(fields))
    }

    /// What is past at the stamp is due at once.
    fn due(&self, at_us: i64) -> Expiry {
        let at = u64::try_from(at_us).unwrap_or_default();
        let left_us = at.saturating_sub(self.stamp_us);
        let due_us = self.tx.time_us().saturating_add(left_us);
        Expiry { at_us, due_us }
    }

    /// Moves the document's place among those that expire.
    pub(super) fn reschedule(&mut self, site: &Site<'_>, expiry: Option<Expiry>) {
        let live = site.live.as_ref();
        let stored = live.and_then(|live| live.record.expiry);
        if stored.map(|stored| stored.due_us) == expiry.map(|expiry| expiry.due_us) {
            return;
        }
        let document = document_key(site.mutation);
        if let Some(stored) = stored {
            expiry::remove(self.tx, document, stored);
        }
        if let Some(expiry) = expiry {
            expiry::put(self.tx, document, expiry);
        }
    }
}

fn document_key(mutation: &Mutation) -> DocumentKey<'_> {
    DocumentKey {
        database: mutation.database,
        bucket: mutation.bucket,
        key: &mutation.key,
    }
}
