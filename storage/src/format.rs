//! The version of everything on disk.
//!
//! One number for both databases, in the log database's directory. It is raised when a release that does not know the change would
//! read wrongly; a new kind of key or a new format byte of a row (`codec`) that old releases never meet needs no new number.

use std::path::Path;

use crate::error::{Error, Result};

/// What this release writes, and the newest that it reads.
///
/// | version | since | change |
/// |---|---|---|
/// | 1 | 0.1 | the first |
/// | 2 | 0.1 | entries and values may be sealed ([`seal`](mod@crate::seal)); a directory that is not stays at 1 |
pub const VERSION: u32 = 2;

/// What a directory has that is not sealed.
pub(crate) const PLAIN_VERSION: u32 = 1;
/// What a directory has that is.
pub(crate) const SEALED_VERSION: u32 = 2;

/// Whether this release may open a data directory of version `found`.
///
/// # Errors
/// [`Error::Format`]: a newer release wrote it.
pub fn check(found: u32, path: &Path) -> Result<()> {
    if found > VERSION {
        return Err(Error::Format {
            found,
            supported: VERSION,
            path: path.to_owned(),
        });
    }
    if found == 0 {
        return Err(Error::corrupt(format!(
            "{} has data format 0, which no release wrote",
            path.display()
        )));
    }
    Ok(())
}
