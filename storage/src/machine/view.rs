//! One replica's state at one applied index, for as long as somebody looks at it.

use std::cell::OnceCell;
use std::ops::Bound;

use bytes::Bytes;

use super::Applied;
use super::replica::Damage;
use crate::engine::{Column, Direction, Engine, Pairs, View, Visitor};
use crate::error::Result;
use crate::ids::StoreId;
use crate::keys;
use crate::tables::applied;

/// An unchanging view of one store. Keys are without store id.
///
/// It holds back the compaction of what is overwritten meanwhile, so it is for one request or one transfer, not for keeping.
pub struct ReplicaView<'a> {
    engine: &'a dyn Engine,
    store: StoreId,
    view: OnceCell<Box<dyn View>>,
    damage: Option<&'a Damage>,
}

impl<'a> ReplicaView<'a> {
    /// A view of now.
    pub(super) fn new(engine: &'a dyn Engine, store: StoreId, damage: &'a Damage) -> Self {
        let view = Self {
            damage: Some(damage),
            ..Self::lazy(engine, store)
        };
        view.view();
        view
    }

    /// A view of the first use, for the thread that applies: nothing changes under it, and most machines do not look.
    pub(super) fn lazy(engine: &'a dyn Engine, store: StoreId) -> Self {
        Self {
            engine,
            store,
            view: OnceCell::new(),
            damage: None,
        }
    }

    fn view(&self) -> &dyn View {
        &**self.view.get_or_init(|| self.engine.view())
    }

    /// The store that is looked at.
    pub fn store(&self) -> StoreId {
        self.store
    }

    /// How far the store is in this view.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: the row does not decode.
    pub fn applied(&self) -> Result<Applied> {
        applied::get_view(self.view(), self.store)
    }

    /// The value of a key; `None`: absent. May wait for a disk.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn get(&self, column: Column, key: &[u8]) -> Result<Option<Bytes>> {
        let found = self.view().get(column, &keys::with_store(self.store, key));
        noted(self.damage, found)
    }

    /// The pairs of a range of keys, ascending. May wait for a disk at each step. After an error it ends.
    pub fn scan(&self, column: Column, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Pairs<'_> {
        let (from, to) = self.bounds(from, to);
        let pairs = self.view().scan(
            column,
            from.as_ref().map(Vec::as_slice),
            to.as_ref().map(Vec::as_slice),
        );
        let damage = self.damage;
        Box::new(pairs.map(move |pair| {
            noted(damage, pair).map(|(key, value)| (key.slice(StoreId::LEN..), value))
        }))
    }

    /// Shows each pair of a range of keys to `each` without copying it, until `each` breaks. May wait for a disk at each step.
    ///
    /// # Errors
    /// Those of the engine, and the first of `each`.
    pub fn visit(
        &self,
        column: Column,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
        each: &mut Visitor<'_>,
    ) -> Result<()> {
        let (from, to) = self.bounds(from, to);
        let (from, to) = (
            from.as_ref().map(Vec::as_slice),
            to.as_ref().map(Vec::as_slice),
        );
        let each = &mut |key: &[u8], value: &[u8]| each(&key[StoreId::LEN..], value);
        let visited = self.view().visit(column, from, to, direction, each);
        noted(self.damage, visited)
    }

    /// About how many bytes `from..to` takes in files, see [`View::file_bytes`].
    ///
    /// # Errors
    /// Those of the engine.
    pub fn file_bytes(&self, column: Column, from: &[u8], to: &[u8]) -> Result<u64> {
        let full = |key: &[u8]| keys::with_store(self.store, key);
        self.view().file_bytes(column, &full(from), &full(to))
    }

    /// The range with the store's id in front, and never past the store.
    fn bounds(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
        let full = |key: &[u8]| keys::with_store(self.store, key);
        let from = match from {
            Bound::Unbounded => Bound::Included(full(&[])),
            bound => bound.map(full),
        };
        let to = match to {
            Bound::Unbounded => Bound::Excluded(self.store.end().to_vec()),
            bound => bound.map(full),
        };
        (from, to)
    }

    /// The pairs whose keys begin with `prefix`, ascending; otherwise as [`Self::scan`].
    pub fn scan_prefix(&self, column: Column, prefix: &[u8]) -> Pairs<'_> {
        let to = keys::prefix_end(prefix);
        self.scan(
            column,
            Bound::Included(prefix),
            to.as_ref().map(Vec::as_slice),
        )
    }
}

fn noted<T>(damage: Option<&Damage>, result: Result<T>) -> Result<T> {
    match damage {
        Some(damage) => damage.noted(result),
        None => result,
    }
}
