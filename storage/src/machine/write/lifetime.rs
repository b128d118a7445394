//! What a mutation does to copies of its document in web caches.

use document::bloom::Hashes;
use document::id::object_id;

use super::{Site, Writer};
use crate::error::Error;
use crate::keys::ChangeKey;
use crate::machine::lifetime::Lifetime;
use crate::tables::stale::{self, StaleRow};

impl Site<'_> {
    /// How long caches may have been told to keep the document that is there, milliseconds; 0: not at all, or there is none.
    pub(super) fn superseded_ms(&self) -> u32 {
        match (self.caching, &self.live) {
            (Some(caching), Some(live)) => caching.superseded_ms(live.record.lifetime),
            (Some(_), None) | (None, _) => 0,
        }
    }

    /// The lifetime of the version that is written now.
    pub(super) fn next_lifetime(&self, time_us: u64) -> Option<Lifetime> {
        let caching = self.caching?;
        let stored = self.live.as_ref().map(|live| &live.record);
        let since_us = stored.map(|record| time_us.saturating_sub(record.updated_us));
        caching.next(stored.and_then(|record| record.lifetime), since_us)
    }
}

impl Writer<'_, '_> {
    /// After a write that took effect, if one did: copies of what it superseded are stale.
    pub(super) fn outdate(&mut self, site: &Site<'_>) -> Result<(), Error> {
        let lifetime_ms = site.superseded_ms();
        if lifetime_ms == 0 {
            return Ok(());
        }
        let mutation = site.mutation;
        let id = object_id(site.bucket_name, &mutation.key);
        let row = StaleRow {
            database: mutation.database,
            bucket: mutation.bucket,
            lifetime_ms,
            document: Some(Hashes::of(&id)),
        };
        // The event that was just made.
        let at = ChangeKey {
            index: self.next.index,
            ordinal: self.next.ordinal.saturating_sub(1),
        };
        stale::put(self.tx, at, &row)
    }
}
