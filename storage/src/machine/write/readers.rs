//! What a write does to the places where its document is found by those who may read it.
//!
//! Compares the ACL as it was with the one that it is now, so a write that leaves it alone writes nothing. What is written is bounded together
//! with entries of indexes.

use document::acl::Acl;

use super::indexes::ENTRY_BYTES_MAX;
use super::{Site, Stop, Writer};
use crate::keys::ReaderEntryKey;
use crate::machine::outcome::Rejection;
use crate::tables::readers::{self, of_object};

impl Writer<'_, '_> {
    /// The document of the site is there, with this ACL.
    pub(super) fn enter(&mut self, site: &Site<'_>, acl: Option<&Acl>) -> Result<(), Stop> {
        if !site.keeps_readers {
            return Ok(());
        }
        let live = site.live.as_ref();
        let before = live.map_or_else(Vec::new, |live| of_object(live.record.acl.as_ref()));
        let after = of_object(acl);
        for gone in before.iter().filter(|gone| !after.contains(gone)) {
            self.entry_bytes += readers::remove(self.tx, place(site, *gone));
        }
        // What a document of before the backfill lacks, the backfill adds.
        for new in after.iter().filter(|new| !before.contains(new)) {
            self.entry_bytes += readers::put(self.tx, place(site, *new));
        }
        if self.entry_bytes > ENTRY_BYTES_MAX {
            let bytes_max = ENTRY_BYTES_MAX;
            return Err(Rejection::TooLarge { bytes_max }.into());
        }
        Ok(())
    }

    /// The document of the site was deleted.
    pub(super) fn leave(&mut self, site: &Site<'_>) {
        let Some(live) = site.live.as_ref().filter(|_| site.keeps_readers) else {
            return;
        };
        for gone in of_object(live.record.acl.as_ref()) {
            readers::remove(self.tx, place(site, gone));
        }
    }
}

fn place<'s>(site: &Site<'s>, reader: u64) -> ReaderEntryKey<'s> {
    ReaderEntryKey {
        database: site.mutation.database,
        bucket: site.mutation.bucket,
        reader,
        key: &site.mutation.key,
    }
}
