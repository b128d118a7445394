//! How far the log database was synced, remembered beside it: what tells a torn tail from lost entries.
//!
//! RocksDB reads its write-ahead log up to the first record that does not check, and takes the rest for a tail that was never synced.
//! After a power cut that is right. After rot it is not: everything from the damage on would be gone without a word, and with it votes
//! and entries that this node has acknowledged. So after each sync the writer notes the sequence number that is now on disk in the
//! file `SYNCED`, without a sync of its own, and an open that recovers less is refused.
//!
//! ```text
//! SYNCED  sequence u64 | crc32 u32 of it     big-endian, one sector, overwritten in place
//! ```
//!
//! - Never too high: it is written after the sync that it speaks of. So a torn tail of entries that nobody was promised starts.
//! - Exact as long as the machine runs on, also over kill -9: so rot of any acknowledged entry, the very last one too, is noticed.
//! - Perhaps too low after a power cut, when the kernel had not written it out: damage that comes with the cut, right at the end of
//!   the log, can then go unnoticed here; the committed point and the check of the log against the applied data remain.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rocksdb::DB;

use crate::error::{Error, Result};

const NAME: &str = "SYNCED";
const BYTES: usize = 12;

/// The open file.
pub(super) struct Watermark(File);

impl Watermark {
    /// Opens the file in the log database's folder, or makes it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(NAME);
        let existed = path.exists();
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        if !existed {
            // Its blocks are there before a full disk could refuse them.
            file.write_all_at(&encode(0), 0)?;
            file.sync_all()?;
            File::open(dir)?.sync_all()?;
        }
        Ok(Self(file))
    }

    /// Notes that everything up to `sequence` is synced.
    ///
    /// # Errors
    /// As the system tells; the log must be treated as failed, since a later start would not notice what it lost.
    pub(super) fn note(&self, sequence: u64) -> std::io::Result<()> {
        self.0.write_all_at(&encode(sequence), 0)
    }
}

/// Refuses a database that holds less than was synced.
///
/// # Errors
/// [`Error::Corrupt`]: entries or votes that were acknowledged are missing, or the file itself does not read.
pub(super) fn check(db: &DB, dir: &Path) -> Result<()> {
    let (synced, found) = (read(dir)?, db.latest_sequence_number());
    if synced <= found {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "{}: the log ends at sequence {found}, though {synced} was synced: its newest write-ahead log (*.log) is damaged or cut \
         short, and acknowledged entries or votes are missing; this node must not take part with it: remove it from the cluster \
         and start it anew with an empty data directory",
        dir.display()
    )))
}

/// The sequence noted last; 0 without a file: a database of an earlier release, or a new one.
fn read(dir: &Path) -> Result<u64> {
    let path = dir.join(NAME);
    let mut bytes = Vec::with_capacity(BYTES);
    match File::open(&path) {
        Ok(mut file) => file.read_to_end(&mut bytes)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    decode(&bytes).ok_or_else(|| damaged(&path))
}

fn damaged(path: &Path) -> Error {
    Error::corrupt(format!(
        "{} fails its checksum: it says how far the log was synced; check the directory with `larder data verify`, and remove \
         this file only if you know that the rest is sound",
        path.display()
    ))
}

fn encode(sequence: u64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..8].copy_from_slice(&sequence.to_be_bytes());
    bytes[8..].copy_from_slice(&crc32fast::hash(&sequence.to_be_bytes()).to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<u64> {
    let (sequence, sum) = bytes.split_first_chunk::<8>()?;
    (crc32fast::hash(sequence).to_be_bytes() == *sum).then(|| u64::from_be_bytes(*sequence))
}
