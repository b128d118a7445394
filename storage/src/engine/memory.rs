//! An engine in memory, for tests and simulation: the same contract, no threads, every run alike.
//!
//! A column is a copy-on-write ordered map. A view is three reference counts; the price is paid by writers: the first write after a
//! view or a flush, as long as that one is held, copies the whole column. That is fine for the thousands of keys of a test and wrong
//! for anything else.
//!
//! [`Memory::crash`] forgets what was not flushed, so that a test can restart a node on "the same disk".

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use super::{
    Batch, Cached, Column, Direction, Each, Engine, EngineStats, Op, Pairs, Scrubbed, SstInfo,
    View, Visitor,
};
use crate::error::{Error, Result};
use crate::ids::StoreId;
use crate::machine::KeptRows;

type Map = BTreeMap<Bytes, Bytes>;

/// All columns at one moment.
#[derive(Clone, Debug, Default)]
struct Columns([Arc<Map>; Column::ALL.len()]);

impl Columns {
    fn map(&self, column: Column) -> &Map {
        &self.0[column as usize]
    }

    fn map_mut(&mut self, column: Column) -> &mut Map {
        Arc::make_mut(&mut self.0[column as usize])
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Put { column, key, value } => {
                self.map_mut(column).insert(key, value);
            }
            Op::Delete { column, key } => {
                self.map_mut(column).remove(&key);
            }
            Op::DeleteRange { column, from, to } if from < to => {
                let map = self.map_mut(column);
                let mut tail = map.split_off(&from);
                let mut rest = tail.split_off(&to);
                map.append(&mut rest);
            }
            Op::DeleteRange { .. } => {}
        }
    }
}

#[derive(Debug, Default)]
struct State {
    live: Columns,
    persisted: Columns,
}

/// The engine of tests, see the module.
#[derive(Debug, Default)]
pub struct Memory {
    state: RwLock<State>,
    kept_rows: Option<KeptRows>,
}

impl Memory {
    /// An empty engine.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty engine that replicas keep rows beside.
    pub fn keeping(rows: KeptRows) -> Self {
        Self {
            kept_rows: Some(rows),
            ..Self::default()
        }
    }

    /// Loses power: back to what was flushed or ingested. Views that are out keep what they saw.
    pub fn crash(&self) {
        let mut state = self.state.write();
        state.live = state.persisted.clone();
    }
}

impl Engine for Memory {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.state.read().live.map(column).get(key).cloned())
    }

    fn get_cached(&self, column: Column, key: &[u8]) -> Result<Cached> {
        Ok(self.get(column, key)?.map_or(Cached::Absent, Cached::Found))
    }

    fn get_persisted(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.state.read().persisted.map(column).get(key).cloned())
    }

    fn write(&self, batch: Batch) -> Result<()> {
        let mut state = self.state.write();
        for op in batch {
            state.live.apply(op);
        }
        Ok(())
    }

    fn view(&self) -> Box<dyn View> {
        Box::new(self.state.read().live.clone())
    }

    fn flush(&self) -> Result<()> {
        let mut state = self.state.write();
        state.persisted = state.live.clone();
        Ok(())
    }

    fn ingest(&self, files: &[(Column, PathBuf)]) -> Result<()> {
        for (column, path) in files {
            let pairs = read_pairs(path)?;
            let mut state = self.state.write();
            state.live.map_mut(*column).extend(pairs.iter().cloned());
            state.persisted.map_mut(*column).extend(pairs);
        }
        Ok(())
    }

    fn write_sst(
        &self,
        pairs: Pairs<'_>,
        _: Column,
        to: StoreId,
        path: &Path,
    ) -> Result<Option<SstInfo>> {
        let mut bytes = Vec::new();
        for pair in pairs {
            let (key, value) = pair?;
            let moved = [&to.prefix(), &key[StoreId::LEN..]].concat();
            for part in [&moved[..], &value[..]] {
                bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
                bytes.extend_from_slice(part);
            }
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        let mut file = fs::File::create(path)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        Ok(Some(SstInfo {
            bytes: bytes.len() as u64,
            checksum: xxhash_rust::xxh3::xxh3_64(&bytes),
        }))
    }

    fn scrub_each(
        &self,
        column: Column,
        from: &[u8],
        to: &[u8],
        bytes_max: usize,
        each: &mut Each<'_>,
    ) -> Result<Scrubbed> {
        let view = self.view();
        let mut scrubbed = Scrubbed::default();
        for pair in view.scan(column, Bound::Included(from), Bound::Excluded(to)) {
            let (key, value) = pair?;
            if scrubbed.bytes >= bytes_max {
                scrubbed.next = Some(key);
                break;
            }
            scrubbed.bytes += key.len() + value.len();
            each(&key, &value)?;
        }
        Ok(scrubbed)
    }

    fn kept_rows(&self) -> Option<&KeptRows> {
        self.kept_rows.as_ref()
    }

    fn stats(&self) -> EngineStats {
        let state = self.state.read();
        let pairs = state.live.0.iter().flat_map(|map| map.iter());
        let bytes = pairs
            .map(|(key, value)| key.len() + value.len())
            .sum::<usize>();
        EngineStats {
            memtable_bytes: bytes as u64,
            ..EngineStats::default()
        }
    }
}

impl View for Columns {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.map(column).get(key).cloned())
    }

    fn scan(&self, column: Column, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Pairs<'_> {
        if !is_range(from, to) {
            return Box::new(std::iter::empty());
        }
        Box::new(
            self.map(column)
                .range::<[u8], _>((from, to))
                .map(|(key, value)| Ok((key.clone(), value.clone()))),
        )
    }

    fn scan_rev(&self, column: Column, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Pairs<'_> {
        if !is_range(from, to) {
            return Box::new(std::iter::empty());
        }
        Box::new(
            self.map(column)
                .range::<[u8], _>((from, to))
                .rev()
                .map(|(key, value)| Ok((key.clone(), value.clone()))),
        )
    }

    fn visit(
        &self,
        column: Column,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        each: &mut Visitor<'_>,
    ) -> Result<()> {
        if !is_range(from, to) {
            return Ok(());
        }
        let mut pairs = self.map(column).range::<[u8], _>((from, to));
        let mut next = || match direction {
            Direction::Forward => pairs.next(),
            Direction::Backward => pairs.next_back(),
        };
        while let Some((key, value)) = next() {
            if each(key, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Everything is only in memory.
    fn file_bytes(&self, _: Column, _: &[u8], _: &[u8]) -> Result<u64> {
        Ok(0)
    }
}

/// Whether the standard map takes the range: it panics on one that ends before it starts, where RocksDB finds nothing.
pub(crate) fn is_range(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => true,
        (Bound::Included(from), Bound::Included(to)) => from <= to,
        (
            Bound::Included(from) | Bound::Excluded(from),
            Bound::Included(to) | Bound::Excluded(to),
        ) => from < to,
    }
}

/// The pairs of a file of [`Engine::write_sst`]: length (u64) and bytes, of key and value in turn.
fn read_pairs(path: &Path) -> Result<Vec<(Bytes, Bytes)>> {
    let mut rest = Bytes::from(fs::read(path)?);
    let mut pairs = Vec::new();
    while !rest.is_empty() {
        let pair = take(&mut rest).and_then(|key| Some((key, take(&mut rest)?)));
        pairs.push(
            pair.ok_or_else(|| Error::corrupt(format!("{} ends within a record", path.display())))?,
        );
    }
    Ok(pairs)
}

fn take(rest: &mut Bytes) -> Option<Bytes> {
    let length = u64::from_be_bytes(*rest.first_chunk()?);
    let end = usize::try_from(length)
        .ok()?
        .checked_add(size_of::<u64>())?;
    if rest.len() < end {
        return None;
    }
    Some(rest.split_to(end).slice(size_of::<u64>()..))
}
