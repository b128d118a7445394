//! What a write does to the entries of its document, and whether it may take the values of unique indexes that it takes.
//!
//! Compares the document as it was with the document as it lies there after the write, so every way of writing has the same upkeep:
//! old values go, new ones come, in the batch of the write; a row that would stay the same is not written. Of an index that is being built
//! a document may have no entries yet: what the write leaves out then, the backfill adds. A list where the types leave it open is noted
//! in the index's row.
//!
//! A unique value that the stored document does not hold needs a claim: that it was reserved for this document, and that no fence came
//! since. What the stored document holds it keeps: nobody else can have got it, since that needs a fence that saw the document without it.

use document::index::{Index, TooManyValues, ValueHash};
use proto::log::Claims;

use super::{Site, Stop, Writer};
use crate::error::Error;
use crate::keys::{FenceKey, IndexProgressKey};
use crate::machine::indexes::subject;
use crate::machine::outcome::Rejection;
use crate::tables::documents::{self, Entry, Record};
use crate::tables::indexes::{self, KeptIndex, Places};
use crate::tables::reservations;

/// Bytes of the keys of entries, of indexes and of readers, that the writes of one entry of the log change. Part of the state machine: it bounds what one costs, since
/// a short list of short elements may make many entries, each with the document's whole key and the other components.
pub(super) const ENTRY_BYTES_MAX: u64 = 32 << 20;

/// What a write did to a document, as one index sees it.
struct Change<'c> {
    index: &'c KeptIndex,
    before: Option<&'c Record>,
    after: &'c Record,
}

impl Writer<'_, '_> {
    /// Brings the indexes of the site's bucket up to the document as it is now.
    pub(super) fn reindex(&mut self, site: &Site<'_>) -> Result<(), Stop> {
        if site.indexes.is_empty() {
            return Ok(());
        }
        let Some(Entry::Live { record: after, .. }) = documents::get_entry(self.tx, &site.key)?
        else {
            return Ok(self.unindex(site)?);
        };
        let before = site.live.as_ref().map(|live| &live.record);
        for index in &site.indexes {
            let change = Change {
                index,
                before,
                after: &after,
            };
            if index.index.definition().unique {
                self.check_claims(site, &change)?;
            }
            self.replace_entries(site, &change)?;
        }
        Ok(())
    }

    /// Removes the entries of the document of the site, which was deleted.
    pub(super) fn unindex(&mut self, site: &Site<'_>) -> Result<(), Error> {
        let Some(live) = &site.live else {
            return Ok(());
        };
        for KeptIndex { id, index } in &site.indexes {
            let places = places(site, *id);
            for value in stored_values(index, &live.record)? {
                places.remove(self.tx, &value);
            }
        }
        Ok(())
    }

    fn replace_entries(&mut self, site: &Site<'_>, change: &Change<'_>) -> Result<(), Stop> {
        let &Change {
            index: &KeptIndex { id, ref index },
            before,
            after,
        } = change;
        let old = match before {
            Some(record) => stored_values(index, record)?,
            None => Vec::new(),
        };
        let subject = subject(after)?;
        let new = index
            .values(&subject)
            .map_err(|TooManyValues| too_many(id))?;
        if index.meets_list(&subject) {
            self.note_list(site, id)?;
        }
        let is_public = is_public(after);
        let was_alike = before.is_some_and(|before| self::is_public(before) == is_public);
        let places = places(site, id);
        for value in &old {
            if new.binary_search(value).is_err() {
                self.entry_bytes += places.remove(self.tx, value);
            }
        }
        for value in &new {
            if !was_alike || old.binary_search(value).is_err() {
                self.entry_bytes += places.put(self.tx, value, is_public);
            }
        }
        if self.entry_bytes > ENTRY_BYTES_MAX {
            let bytes_max = ENTRY_BYTES_MAX;
            return Err(Rejection::TooLarge { bytes_max }.into());
        }
        Ok(())
    }

    /// The document of the site has a list where the types leave it open.
    fn note_list(&mut self, site: &Site<'_>, index: u32) -> Result<(), Error> {
        let (database, bucket) = (site.mutation.database, site.mutation.bucket);
        let key = IndexProgressKey {
            database,
            bucket,
            index,
        };
        indexes::note_list(self.tx, key)
    }

    fn check_claims(&mut self, site: &Site<'_>, change: &Change<'_>) -> Result<(), Stop> {
        let &Change {
            index: &KeptIndex { id, ref index },
            before,
            after,
        } = change;
        let new = index
            .unique_values(&subject(after)?)
            .map_err(|TooManyValues| too_many(id))?;
        if new.is_empty() {
            return Ok(());
        }
        let held = match before {
            Some(record) => index.unique_values(&subject(record)?).unwrap_or_default(),
            None => Vec::new(),
        };
        let claims = site.mutation.claims.as_ref();
        for value in new {
            if held.binary_search(&value).is_ok() {
                continue;
            }
            let claimed = claims.filter(|claims| has(claims, id, &value));
            let is_valid = match claimed {
                Some(claims) => claims.prepared >= self.fenced(site)?,
                None => false,
            };
            if !is_valid {
                return Err(Rejection::Unclaimed { index: id, value }.into());
            }
        }
        Ok(())
    }

    /// The index of the last fence that concerns the document.
    fn fenced(&mut self, site: &Site<'_>) -> Result<u64, Error> {
        let mutation = site.mutation;
        let key = FenceKey {
            database: mutation.database,
            bucket: mutation.bucket,
            slot: FenceKey::slot_of(&mutation.key),
        };
        reservations::fence(self.tx, key)
    }
}

fn places(site: &Site<'_>, index: u32) -> Places {
    let mutation = site.mutation;
    Places::new(mutation.database, mutation.bucket, index, &mutation.key)
}

/// The values that a stored document may have entries for; none for one with too many, which was never taken in.
fn stored_values(index: &Index, record: &Record) -> Result<Vec<Vec<u8>>, Error> {
    Ok(index.values(&subject(record)?).unwrap_or_default())
}

fn has(claims: &Claims, index: u32, value: &ValueHash) -> bool {
    claims
        .claims
        .iter()
        .any(|claim| claim.index == index && claim.value[..] == value[..])
}

fn too_many(index: u32) -> Rejection {
    Rejection::TooManyValues {
        index,
        values_max: Index::VALUES_MAX as u64,
    }
}

/// Whether everybody may read the document.
pub(in crate::machine) fn is_public(record: &Record) -> bool {
    record.acl.as_ref().is_none_or(|acl| acl.read.is_public())
}
