//! An engine over another one: values are sealed on their way down and opened on their way up. See [`seal`](crate::seal).
//!
//! A value is bound to its key without the store id, whose first byte names kind and column: so it may move to another store, as raw
//! copies of a salvage do, and nowhere else.
//!
//! A node that does not seal does not have this: nothing of it is on that node's way.
//!
//! Invariants:
//! - What the engine below holds is sealed with the key that is current when it is written, also while keys change: writes hold
//!   `writing` from the choice of the key until they are below.
//! - A value is rewritten as it is then, never as it was: [`Sealed::rewrite`] holds off writes meanwhile.

use std::collections::HashSet;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::{
    Batch, Cached, Column, Direction, Each, Engine, EngineStats, Op, Pairs, Scrubbed, SstInfo,
    View, Visitor,
};
use crate::error::{Error, Result};
use crate::ids::StoreId;
use crate::machine::KeptRows;
use crate::seal::value::Scratch;
use crate::seal::{Ring, Scope};

/// What is rewritten while writes wait: a millisecond or so.
const HELD_OFF_BYTES: usize = 128 << 10;

/// See the module.
pub struct Sealed<E> {
    inner: E,
    ring: Arc<Ring>,
    /// Shared by writes, exclusive for rewriting.
    writing: RwLock<()>,
    /// Files that were written and not taken in yet: sealed with keys of then.
    waiting: Mutex<HashSet<PathBuf>>,
    /// Files taken in since the start.
    taken_in: AtomicU64,
}

/// What a piece of rewriting has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rewritten {
    /// Bytes of keys and values that were looked at.
    pub(crate) read: usize,
    /// Values that are sealed anew.
    pub(crate) values: usize,
    /// Where to go on; `None`: at the end of the column.
    pub(crate) next: Option<Bytes>,
}

impl<E: Engine> Sealed<E> {
    /// Seals what goes to `inner` with the keys of `ring`.
    pub fn new(inner: E, ring: Arc<Ring>) -> Self {
        Self {
            inner,
            ring,
            writing: RwLock::new(()),
            waiting: Mutex::default(),
            taken_in: AtomicU64::default(),
        }
    }

    /// The engine below.
    pub(crate) fn inner(&self) -> &E {
        &self.inner
    }

    fn open(&self, key: &[u8], stored: Bytes) -> Result<Bytes> {
        self.ring.state().open(bound(key)?, stored)
    }

    fn seal(&self, key: &[u8], value: &[u8]) -> Result<Bytes> {
        let bound = bound(key)?;
        Ok(self.ring.seal(Scope::of(bound), bound, value)?.into())
    }

    /// Waits until everything that was sealed with a key of before is below.
    pub(crate) fn settle_writes(&self) {
        drop(self.writing.write());
    }

    /// Files that were taken in so far; `None`: some may still be, sealed with whatever key was current when they were written.
    pub(crate) fn files_taken_in(&self) -> Option<u64> {
        let is_none_waiting = self.waiting.lock().is_empty();
        is_none_waiting.then(|| self.taken_in.load(Ordering::SeqCst))
    }

    /// Looks at about `bytes_max` bytes of a column from `from` on, and seals anew what is not sealed with its current key.
    pub(crate) fn rewrite(
        &self,
        column: Column,
        from: &[u8],
        bytes_max: usize,
    ) -> Result<Rewritten> {
        let (state, view) = (self.ring.state(), self.inner.view());
        let mut piece = Rewritten::default();
        let mut outdated = Vec::new();
        view.visit(
            column,
            Bound::Included(from),
            Bound::Unbounded,
            Direction::Forward,
            &mut |key, stored| {
                if piece.read >= bytes_max {
                    piece.next = Some(Bytes::copy_from_slice(key));
                    return Ok(ControlFlow::Break(()));
                }
                piece.read += key.len() + stored.len();
                if state.is_outdated(Scope::of(bound(key)?), stored) {
                    outdated.push(Bytes::copy_from_slice(key));
                }
                Ok(ControlFlow::Continue(()))
            },
        )?;
        drop(view);
        let mut keys = outdated.into_iter().peekable();
        while keys.peek().is_some() {
            piece.values += self.rewrite_some(column, &mut keys)?;
        }
        Ok(piece)
    }

    /// Seals the first of these keys anew, as they are now.
    fn rewrite_some(
        &self,
        column: Column,
        keys: &mut impl Iterator<Item = Bytes>,
    ) -> Result<usize> {
        let _alone = self.writing.write();
        let mut batch = Batch::new();
        while batch.bytes() < HELD_OFF_BYTES {
            let Some(key) = keys.next() else { break };
            // Deleted or written meanwhile: then there is nothing to do, or nothing is lost by doing it once more.
            if let Some(stored) = self.inner.get(column, &key)? {
                let value = self.open(&key, stored)?;
                let sealed = self.seal(&key, &value)?;
                batch.put(column, key, sealed);
            }
        }
        let count = batch.len();
        self.inner.write(batch)?;
        Ok(count)
    }
}

impl<E: Engine> Engine for Sealed<E> {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>> {
        let found = self.inner.get(column, key)?;
        found.map(|stored| self.open(key, stored)).transpose()
    }

    fn get_cached(&self, column: Column, key: &[u8]) -> Result<Cached> {
        match self.inner.get_cached(column, key)? {
            Cached::Found(stored) => self.open(key, stored).map(Cached::Found),
            answer @ (Cached::Absent | Cached::NeedsDisk) => Ok(answer),
        }
    }

    fn get_persisted(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>> {
        let found = self.inner.get_persisted(column, key)?;
        found.map(|stored| self.open(key, stored)).transpose()
    }

    fn write(&self, batch: Batch) -> Result<()> {
        let _shared = self.writing.read();
        let mut sealed = Batch::new();
        for op in batch {
            match op {
                Op::Put { column, key, value } => {
                    let value = self.seal(&key, &value)?;
                    sealed.put(column, key, value);
                }
                Op::Delete { column, key } => sealed.delete(column, key),
                Op::DeleteRange { column, from, to } => sealed.delete_range(column, from, to),
            }
        }
        self.inner.write(sealed)
    }

    fn view(&self) -> Box<dyn View> {
        Box::new(SealedView {
            inner: self.inner.view(),
            ring: Arc::clone(&self.ring),
        })
    }

    fn flush(&self) -> Result<()> {
        self.inner.flush()
    }

    fn compact(&self) -> Result<()> {
        self.inner.compact()
    }

    fn ingest(&self, files: &[(Column, PathBuf)]) -> Result<()> {
        self.inner.ingest(files)?;
        self.taken_in
            .fetch_add(files.len() as u64, Ordering::SeqCst);
        let mut waiting = self.waiting.lock();
        for (_, path) in files {
            waiting.remove(path);
        }
        Ok(())
    }

    fn write_sst(
        &self,
        pairs: Pairs<'_>,
        column: Column,
        to: StoreId,
        path: &Path,
    ) -> Result<Option<SstInfo>> {
        self.waiting.lock().insert(path.to_owned());
        let sealed = pairs.map(|pair| {
            let (key, value) = pair?;
            let value = self.seal(&key, &value)?;
            Ok((key, value))
        });
        let written = self.inner.write_sst(Box::new(sealed), column, to, path);
        if !matches!(written, Ok(Some(_))) {
            self.waiting.lock().remove(path);
        }
        written
    }

    fn is_sealed(&self) -> bool {
        true
    }

    fn kept_rows(&self) -> Option<&KeptRows> {
        self.inner.kept_rows()
    }

    fn stats(&self) -> EngineStats {
        self.inner.stats()
    }

    fn scrub_each(
        &self,
        column: Column,
        from: &[u8],
        to: &[u8],
        bytes_max: usize,
        each: &mut Each<'_>,
    ) -> Result<Scrubbed> {
        let (state, mut scratch) = (self.ring.state(), Scratch::default());
        self.inner
            .scrub_each(column, from, to, bytes_max, &mut |key, stored| {
                each(key, state.open_in(bound(key)?, stored, &mut scratch)?)
            })
    }
}

/// What the value under `key` is bound to.
fn bound(key: &[u8]) -> Result<&[u8]> {
    key.get(StoreId::LEN..)
        .ok_or_else(|| Error::corrupt("key shorter than a store id"))
}

struct SealedView {
    inner: Box<dyn View>,
    /// Keys are added while a view is out, and none that it needs is taken away.
    ring: Arc<Ring>,
}

impl SealedView {
    fn opened<'v>(&self, pairs: Pairs<'v>) -> Pairs<'v> {
        let state = self.ring.state();
        Box::new(pairs.map(move |pair| {
            let (key, stored) = pair?;
            let value = state.open(bound(&key)?, stored)?;
            Ok((key, value))
        }))
    }
}

impl View for SealedView {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>> {
        let found = self.inner.get(column, key)?;
        let open = |stored| self.ring.state().open(bound(key)?, stored);
        found.map(open).transpose()
    }

    fn scan(&self, column: Column, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Pairs<'_> {
        self.opened(self.inner.scan(column, from, to))
    }

    fn scan_rev(&self, column: Column, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Pairs<'_> {
        self.opened(self.inner.scan_rev(column, from, to))
    }

    fn visit(
        &self,
        column: Column,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        each: &mut Visitor<'_>,
    ) -> Result<()> {
        let (state, mut scratch) = (self.ring.state(), Scratch::default());
        let each = &mut |key: &[u8], stored: &[u8]| {
            each(key, state.open_in(bound(key)?, stored, &mut scratch)?)
        };
        self.inner.visit(column, from, to, direction, each)
    }

    fn file_bytes(&self, column: Column, from: &[u8], to: &[u8]) -> Result<u64> {
        self.inner.file_bytes(column, from, to)
    }
}

#[cfg(test)]
mod tests;
