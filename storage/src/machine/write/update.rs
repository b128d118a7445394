//! A partial update: the steps of the command on the stored document, then the way of a put.
//!
//! The result is bounded twice, since neither bound shows in the length of the command: the document by the limit that the command
//! names, and all documents that the updates of one entry make by [`UPDATED_BYTES_MAX`].

use document::acl;
use document::body::{fields_of, without_expiry};
use document::update::apply;
use proto::log::{Put, Update};

use super::{Site, Stop, Writer, signed};
use crate::machine::outcome::{Rejection, Written};
use crate::machine::update::{from_log, stored_misfit};

/// Bytes of the documents that the updates of one entry make together. Part of the state machine: it bounds what one entry costs.
const UPDATED_BYTES_MAX: u64 = 8 << 20;

impl Writer<'_, '_> {
    /// Updates the document of the site, whose rights to write and conditions are checked.
    pub(super) fn update(&mut self, site: &Site<'_>, update: &Update) -> Result<Written, Stop> {
        let Some(live) = &site.live else {
            return Err(Rejection::NotFound.into());
        };
        let record = &live.record;
        // The answer shows the document, and a refusal tells what kind of value is in it.
        if !acl::may_read(record.acl.as_ref(), self.principal) {
            return Err(Rejection::Denied.into());
        }
        let bytes_max = u64::from(update.bytes_max);
        let steps = from_log(update)?;
        let stored = fields_of(&record.body);
        let stored = record
            .expiry
            .map_or(stored, |expiry| without_expiry(stored, expiry.at_us));
        let fields =
            apply(stored, &steps, signed(self.time_us)).map_err(|refusal| Rejection::Misfit {
                step: u32::try_from(refusal.step).unwrap_or(u32::MAX),
                why: stored_misfit(refusal.misfit),
            })?;
        if fields.len() as u64 > bytes_max {
            return Err(Rejection::TooLarge { bytes_max }.into());
        }
        let put = Put {
            fields: fields.into(),
            expiry: update.expiry,
            ..Put::default()
        };
        let written = self.put(site, &put, record.acl.as_ref());
        self.updated_bytes = self.updated_bytes.saturating_add(written.body.len() as u64);
        if self.updated_bytes > UPDATED_BYTES_MAX {
            let bytes_max = UPDATED_BYTES_MAX;
            return Err(Rejection::TooLarge { bytes_max }.into());
        }
        Ok(written)
    }
}
