//! Whether the caller of a query may read a document, decided once for all documents with the same rules.

use std::collections::HashMap;

use storage::tables::documents::Row;

use crate::auth::grant::Grant;
use crate::error::Result;

/// Different rules whose verdict is kept; past it they are judged each time.
const VERDICTS_MAX: usize = 1_024;

/// The object ACL as a predicate.
pub(super) struct Readable {
    grant: Grant<'static>,
    /// By the stored bytes of the rules.
    verdicts: HashMap<Box<[u8]>, bool>,
    has_refused: bool,
}

impl Readable {
    pub(super) fn new(grant: Grant<'static>) -> Readable {
        Readable {
            grant,
            verdicts: HashMap::new(),
            has_refused: false,
        }
    }

    pub(super) fn grant(&self) -> &Grant<'static> {
        &self.grant
    }

    /// Whether there was a document that the caller may not read.
    pub(super) fn has_refused(&self) -> bool {
        self.has_refused
    }

    /// # Errors
    /// The rules do not decode.
    pub(super) fn may_read(&mut self, row: &Row<'_>) -> Result<bool> {
        let Some(bytes) = row.acl else {
            return Ok(self.grant.may_read(None));
        };
        if let Some(verdict) = self.verdicts.get(bytes) {
            self.has_refused |= !verdict;
            return Ok(*verdict);
        }
        let verdict = self.grant.may_read(row.acl()?.as_ref());
        self.has_refused |= !verdict;
        if self.verdicts.len() < VERDICTS_MAX {
            self.verdicts.insert(bytes.into(), verdict);
        }
        Ok(verdict)
    }
}
