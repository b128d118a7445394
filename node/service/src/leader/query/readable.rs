//! Whether the caller of a query may read a document, decided once for all documents with the same rules.

use std::collections::HashMap;

use document::acl::{Principal, may_read};
use storage::tables::documents::Row;

use crate::error::Result;

/// Different rules whose verdict is kept; past it they are judged each time.
const VERDICTS_MAX: usize = 1_024;

/// The object ACL as a predicate.
pub(super) struct Readable {
    principal: Principal,
    /// By the stored bytes of the rules.
    verdicts: HashMap<Box<[u8]>, bool>,
}

impl Readable {
    pub(super) fn new(principal: Principal) -> Readable {
        Readable {
            principal,
            verdicts: HashMap::new(),
        }
    }

    /// # Errors
    /// The rules do not decode.
    pub(super) fn may_read(&mut self, row: &Row<'_>) -> Result<bool> {
        let Some(bytes) = row.acl else {
            return Ok(may_read(None, &self.principal));
        };
        if let Some(verdict) = self.verdicts.get(bytes) {
            return Ok(*verdict);
        }
        let verdict = may_read(row.acl()?.as_ref(), &self.principal);
        if self.verdicts.len() < VERDICTS_MAX {
            self.verdicts.insert(bytes.into(), verdict);
        }
        Ok(verdict)
    }
}
