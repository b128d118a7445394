//! The lines on disk. A file begins with where it goes on: `{"behind":N,"hash":"…"}`; then come `{"hash":"…","record":{…}}`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use storage::audit::{BEGINNING, Checker, Hash, Record};

use super::Anchors;

const PREFIX: &str = "audit-";
const SUFFIX: &str = ".ndjson";

/// A file of the log.
pub(super) struct Segment {
    pub(super) path: PathBuf,
    /// The place of the record that it goes on behind.
    pub(super) behind: u64,
    pub(super) bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct Head {
    behind: u64,
    hash: String,
}

#[derive(Serialize, Deserialize)]
struct Line<'l> {
    hash: String,
    #[serde(borrow)]
    record: &'l RawValue,
}

/// What a whole log came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Records that fit.
    pub records: u64,
    /// The place of the last record that fits.
    pub last: u64,
    /// The first thing that is wrong.
    pub trouble: Option<String>,
}

/// What a file holds.
pub(super) struct Read {
    /// The place of the last record that fits, and its hash.
    pub(super) sequence: u64,
    pub(super) hash: Hash,
    records: u64,
    /// Bytes up to the end of the last line.
    pub(super) bytes: u64,
    /// The last line has no end.
    pub(super) is_cut: bool,
    /// The first thing that is wrong.
    pub(super) trouble: Option<String>,
}

pub(super) fn path(dir: &Path, behind: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{behind:020}{SUFFIX}"))
}

/// All files of the log, in order.
pub(super) fn segments(dir: &Path) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let behind = name.to_str().and_then(|name| {
            name.strip_prefix(PREFIX)?
                .strip_suffix(SUFFIX)?
                .parse()
                .ok()
        });
        if let Some(behind) = behind {
            segments.push(Segment {
                path: entry.path(),
                behind,
                bytes: entry.metadata()?.len(),
            });
        }
    }
    segments.sort_by_key(|segment| segment.behind);
    Ok(segments)
}

pub(super) fn head(behind: u64, hash: &Hash) -> Vec<u8> {
    let hash = hex::encode(hash);
    ended(serde_json::to_vec(&Head { behind, hash }))
}

pub(super) fn line(hash: &Hash, text: &str) -> Vec<u8> {
    format!("{{\"hash\":\"{}\",\"record\":{text}}}\n", hex::encode(hash)).into_bytes()
}

fn ended(json: serde_json::Result<Vec<u8>>) -> Vec<u8> {
    // Numbers and texts always have a JSON form.
    let mut line = json.unwrap_or_default();
    line.push(b'\n');
    line
}

fn hash(text: &str) -> Option<Hash> {
    hex::decode(text).ok()?.try_into().ok()
}

/// What a file goes on behind; the beginning where its first line does not say.
pub(super) fn first_line(path: &Path) -> io::Result<(u64, Hash)> {
    let text = fs::read(path)?;
    let first = text.split(|byte| *byte == b'\n').next();
    let head = first.and_then(|first| serde_json::from_slice::<Head>(first).ok());
    Ok(head
        .and_then(|head| Some((head.behind, hash(&head.hash)?)))
        .unwrap_or((0, BEGINNING)))
}

/// Place, hash and text of each record that can be read. Whether they fit is for a [`Checker`].
pub(super) fn records(path: &Path) -> io::Result<Vec<(u64, Hash, String)>> {
    let text = fs::read(path)?;
    let lines = text.split(|byte| *byte == b'\n').skip(1);
    let read = |line: &[u8]| {
        let line: Line<'_> = serde_json::from_slice(line).ok()?;
        let record: Record = serde_json::from_str(line.record.get()).ok()?;
        Some((
            record.sequence,
            hash(&line.hash)?,
            line.record.get().to_owned(),
        ))
    };
    Ok(lines.filter_map(read).collect())
}

/// When the first record of a file happened; `None`: it has none.
pub(super) fn first_time(path: &Path) -> io::Result<Option<u64>> {
    let first = records(path)?.into_iter().next();
    Ok(first.and_then(|(_, _, text)| Some(serde_json::from_str::<Record>(&text).ok()?.time_us)))
}

/// Reads a file and checks its chain, and that it holds what was written down of it.
pub(super) fn read(path: &Path, anchors: &Anchors) -> io::Result<Read> {
    let text = fs::read(path)?;
    let (behind, base) = first_line(path)?;
    let mut read = Read {
        sequence: behind,
        hash: base,
        records: 0,
        bytes: 0,
        is_cut: false,
        trouble: None,
    };
    let mut checker = Checker::behind(behind, base);
    for (at, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let Some(whole) = line.strip_suffix(b"\n") else {
            read.is_cut = true;
            break;
        };
        read.bytes += line.len() as u64;
        let taken = match at {
            0 => serde_json::from_slice::<Head>(whole)
                .map(|_| ())
                .map_err(|error| format!("the head is not readable: {error}")),
            _ => take(&mut checker, whole, anchors),
        };
        if let Err(why) = taken {
            let name = path.file_name().unwrap_or_default().display();
            let trouble = format!("{name}, line {}: {why}", at + 1);
            read.trouble = read.trouble.or(Some(trouble));
            break;
        }
        read.records += u64::from(at > 0);
    }
    (read.sequence, read.hash) = (checker.next - 1, checker.hash);
    Ok(read)
}

fn take(checker: &mut Checker, line: &[u8], anchors: &Anchors) -> Result<(), String> {
    let line: Line<'_> = serde_json::from_slice(line)
        .map_err(|error| format!("the record is not readable: {error}"))?;
    let hash = hash(&line.hash).ok_or("the record has no hash")?;
    let record = checker
        .take(line.record.get().as_bytes(), &hash)
        .map_err(|why| format!("the record {why}"))?;
    anchors
        .trouble_at(record.sequence, &hash)
        .map_or(Ok(()), Err)
}

/// Checks the log in a data directory, and that it holds what was written down of it; changes nothing. The last line may be cut: it was
/// being written.
///
/// # Errors
/// Of the file system; there may be no log.
pub fn check(data_dir: &Path, anchors: &Anchors) -> io::Result<Checked> {
    let mut checked = Checked {
        records: 0,
        last: 0,
        trouble: None,
    };
    let mut before: Option<(u64, Hash)> = None;
    for segment in segments(&data_dir.join(super::FOLDER))? {
        let base = first_line(&segment.path)?;
        let name = segment.path.file_name().unwrap_or_default().display();
        if before.is_some_and(|before| before != base) {
            checked.trouble = Some(format!(
                "{name} does not go on behind the file before it: records are missing or were changed"
            ));
            return Ok(checked);
        }
        let read = read(&segment.path, anchors)?;
        checked.records += read.records;
        checked.last = read.sequence;
        if read.trouble.is_some() {
            checked.trouble = read.trouble;
            return Ok(checked);
        }
        before = Some((read.sequence, read.hash));
    }
    checked.trouble = anchors.trouble_of_end(checked.last);
    Ok(checked)
}
