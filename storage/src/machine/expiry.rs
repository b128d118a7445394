//! Documents that expire: what a write says about it, and the entry that deletes what is due.
//!
//! A lifetime is the time from the leader's stamp of the write to the moment that was asked for. From then on only T counts, which runs
//! slow but never fast: a document lives at least as long as it was given, by whatever clock. Nothing is hidden before the entry that
//! deletes it; until then the document is there like any other.

use document::acl::Principal;
use document::body::Expiry;
use proto::log;

use super::Transaction;
use super::write::Writer;
use crate::error::Result;
use crate::ids::LogId;
use crate::keys::ExpiryKey;
use crate::tables::expiry;

/// Documents that one entry deletes at most, whatever it asks for: bounds the time of its apply.
pub const EXPIRY_PAGE_MAX: usize = 1_000;

/// Bytes of deleted documents after which an entry stops: they are held until its batch is written.
const EXPIRY_BYTES_MAX: u64 = 8 << 20;

/// What a write says, for the log.
pub fn to_log(expiry: Expiry) -> Option<log::Expiry> {
    match expiry {
        Expiry::Kept => None,
        Expiry::Never => Some(log::Expiry { at_us: None }),
        Expiry::At(at_us) => Some(log::Expiry { at_us: Some(at_us) }),
    }
}

/// Deletes a page of what is due, the longest due first. Each delete has its version, tombstone and event, as if somebody had asked.
///
/// # Errors
/// [`crate::Error::Corrupt`]: a row does not decode.
pub(super) fn expire(
    tx: &mut Transaction<'_>,
    id: LogId,
    stamp_us: u64,
    command: &log::ExpireDocuments,
) -> Result<()> {
    let page = usize::try_from(command.page)
        .unwrap_or(usize::MAX)
        .min(EXPIRY_PAGE_MAX);
    let now_us = tx.time_us();
    let first = expiry::first_keys(tx, page)?;
    let time_us = tx.next_stamp(stamp_us);
    let nobody = Principal::anonymous();
    let mut writer = Writer::new(tx, &nobody, id.index, stamp_us, time_us);
    let mut bytes = 0;
    for key in &first {
        let key = ExpiryKey::decode(key)?;
        if key.due_us > now_us || bytes > EXPIRY_BYTES_MAX {
            break;
        }
        bytes += writer.expire(key)?;
    }
    if writer.has_written() {
        tx.set_stamp(time_us);
    }
    Ok(())
}
