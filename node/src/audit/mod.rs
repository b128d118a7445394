//! This node's own audit log: events that no shard's log has, such as log-ins and refusals, as a hash chain in files.
//!
//! | module | owns |
//! |---|---|
//! | `files` | the lines on disk: reading them, finding the end, what is wrong with them |
//! | `anchors` | what the cluster wrote down of a chain |
//! | [`Log`] | appending, parts for exports, ageing |
//!
//! Files and not rows of a database: the log should be readable, and checkable, when the node is not, and by other programs.
//!
//! Invariants:
//! - A line is on disk, synced, before [`Log::append`] returns; a crash cuts off at most the batch that was being written.
//! - What is damaged is never written over: the chain goes on in a new file, and checking names the place.

mod anchors;
mod files;

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use storage::audit::{Checker, Hash, Record, link};

pub use self::anchors::Anchors;
pub use self::files::{Checked, check};
use self::files::{Segment, first_line, line, segments};

/// The folder in the data directory.
pub const FOLDER: &str = "audit";

/// Bytes of a file, after which another one is begun.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes of texts after which a part of an export ends.
const PART_BYTES: usize = 512 * 1024;

/// What is kept.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Records younger than this.
    pub time: Duration,
    /// As long as all files together have no more bytes than this, give or take one file.
    pub bytes: u64,
}

/// The log. One for a node.
pub struct Log {
    dir: PathBuf,
    end: Mutex<End>,
}

/// Where the chain stands, and the file that it goes on in.
struct End {
    sequence: u64,
    hash: Hash,
    file: File,
    bytes: u64,
}

/// A part of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What the first record is linked to.
    pub before: Checker,
    /// Hash and JSON text of each record.
    pub records: Vec<(Hash, String)>,
    /// The place of the last record that the log has.
    pub last: u64,
}

impl Log {
    /// Opens the log in a data directory, or begins it.
    ///
    /// # Errors
    /// Of the file system.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let dir = data_dir.join(FOLDER);
        std::fs::create_dir_all(&dir)?;
        let (mut sequence, mut hash) = (0, storage::audit::BEGINNING);
        let mut goes_on = None;
        if let Some(last) = segments(&dir)?.pop() {
            let read = files::read(&last.path, &Anchors::default())?;
            (sequence, hash) = (read.sequence.max(last.behind), read.hash);
            let is_whole = read.trouble.is_none() && read.bytes < SEGMENT_BYTES;
            if read.is_cut {
                // A crash within the last batch, of which nobody was told that it is there.
                let file = OpenOptions::new().write(true).open(&last.path)?;
                file.set_len(read.bytes)?;
                file.sync_all()?;
            }
            goes_on = is_whole.then_some((last.path, read.bytes));
        }
        let (file, bytes) = match goes_on {
            Some((path, bytes)) => (OpenOptions::new().append(true).open(path)?, bytes),
            None => begin(&dir, sequence, &hash)?,
        };
        Ok(Self {
            dir,
            end: Mutex::new(End {
                sequence,
                hash,
                file,
                bytes,
            }),
        })
    }

    /// Adds records, whose places are given here; they are on disk when it returns.
    ///
    /// # Errors
    /// Of the file system. Some may be on disk; the chain holds, and the next call goes on behind what is known to be there.
    pub fn append(&self, records: Vec<Record>) -> io::Result<()> {
        let mut end = self.end.lock();
        if end.bytes >= SEGMENT_BYTES {
            let (file, bytes) = begin(&self.dir, end.sequence, &end.hash)?;
            (end.file, end.bytes) = (file, bytes);
        }
        let (mut sequence, mut hash) = (end.sequence, end.hash);
        let mut lines = Vec::new();
        for record in records {
            sequence += 1;
            let text = Record { sequence, ..record }.text();
            hash = link(&hash, text.as_bytes());
            lines.extend(line(&hash, &text));
        }
        let written = end
            .file
            .write_all(&lines)
            .and_then(|()| end.file.sync_data());
        if let Err(error) = written {
            // What is there of the batch would stand between this and the next one.
            let _ = end.file.set_len(end.bytes);
            return Err(error);
        }
        end.bytes += lines.len() as u64;
        (end.sequence, end.hash) = (sequence, hash);
        Ok(())
    }

    /// Where the chain stands: the place of the last record, and its hash.
    pub fn head(&self) -> (u64, Hash) {
        let end = self.end.lock();
        (end.sequence, end.hash)
    }

    /// The records behind a place, or behind the first one that is left.
    ///
    /// # Errors
    /// Of the file system.
    pub fn part(&self, after: u64) -> io::Result<Part> {
        let last = self.head().0;
        let segments = segments(&self.dir)?;
        let at = segments.partition_point(|segment| segment.behind <= after);
        let mut part = Part {
            before: Checker::behind(after, storage::audit::BEGINNING),
            records: Vec::new(),
            last,
        };
        let Some(first) = segments.get(at.saturating_sub(1)) else {
            return Ok(part);
        };
        let (behind, mut hash) = first_line(&first.path)?;
        let after = after.max(behind);
        let mut bytes = 0;
        for Segment { path, .. } in &segments[at.saturating_sub(1)..] {
            for (sequence, of_it, text) in files::records(path)? {
                if sequence <= after {
                    hash = of_it;
                    continue;
                }
                if part.records.is_empty() {
                    part.before = Checker::behind(after, hash);
                }
                bytes += text.len();
                part.records.push((of_it, text));
                if bytes >= PART_BYTES {
                    return Ok(part);
                }
            }
        }
        if part.records.is_empty() {
            part.before = Checker::behind(after, hash);
        }
        Ok(part)
    }

    /// Removes the oldest files that need not be kept. The one that is written to stays.
    ///
    /// # Errors
    /// Of the file system.
    pub fn age(&self, now_us: u64, kept: Kept) -> io::Result<()> {
        let segments = segments(&self.dir)?;
        let mut bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let kept_us = u64::try_from(kept.time.as_micros()).unwrap_or(u64::MAX);
        for (segment, next) in segments.iter().zip(segments.iter().skip(1)) {
            // What begins the next one is younger than all of this one.
            let is_old = files::first_time(&next.path)?
                .is_some_and(|time_us| time_us.saturating_add(kept_us) <= now_us);
            if bytes <= kept.bytes && !is_old {
                break;
            }
            std::fs::remove_file(&segment.path)?;
            bytes -= segment.bytes;
        }
        Ok(())
    }
}

/// A new file that goes on behind a record. One of that name holds no record, and is begun anew.
fn begin(dir: &Path, sequence: u64, hash: &Hash) -> io::Result<(File, u64)> {
    let head = files::head(sequence, hash);
    let path = files::path(dir, sequence);
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    if file.metadata()?.len() > 0 {
        file.set_len(0)?;
    }
    file.write_all(&head)?;
    file.sync_all()?;
    File::open(dir)?.sync_all()?;
    Ok((file, head.len() as u64))
}

#[cfg(test)]
mod tests;
