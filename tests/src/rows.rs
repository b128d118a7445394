//! What somebody can do to a stopped node's data who has its disk and a tool for RocksDB, but no key.

use std::path::Path;

use rocksdb::{DB, IteratorMode, Options, WriteOptions};

/// A column, a key and a value.
type Row<'a> = (&'a str, Box<[u8]>, Box<[u8]>);

/// Changes a byte in the middle of the longest value whose key ends with `key`. The table that it goes into has sound checksums.
///
/// # Panics
/// If `dir` holds no such database, or no such value.
pub fn tamper(dir: &Path, key: &str) {
    let options = Options::default();
    let columns = DB::list_cf(&options, dir).expect("a database");
    let db = DB::open_cf(&options, dir, &columns).expect("opens");
    let mut found: Option<Row<'_>> = None;
    for column in &columns {
        let handle = db.cf_handle(column).expect("was listed");
        for row in db.iterator_cf(handle, IteratorMode::Start) {
            let (at, value) = row.expect("reads");
            let is_longer = found
                .as_ref()
                .is_none_or(|(_, _, known)| known.len() < value.len());
            if at.ends_with(key.as_bytes()) && is_longer {
                found = Some((column.as_str(), at, value));
            }
        }
    }
    let (column, at, mut value) = found.expect("a row of that key");
    let middle = value.len() / 2;
    value[middle] ^= 0x01;
    let handle = db.cf_handle(column).expect("was listed");
    // A node has no write-ahead log of its data, and looks for none.
    let mut unlogged = WriteOptions::default();
    unlogged.disable_wal(true);
    db.put_cf_opt(handle, at, value, &unlogged)
        .expect("written");
    db.flush_cf(handle).expect("flushed");
}
