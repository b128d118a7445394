//! The data keys of one data directory: which is current for what, which are on their way out.
//!
//! Readers take the state as it is, one reference count; whoever changes it first brings the new one to the disk.
//!
//! Invariants:
//! - Every scope has at most one current key. A scope without one gets one when something is first sealed for it.
//! - A key that was dropped from the disk stays in memory until the process ends: a view may show what was sealed with it.
//! - The same holds for taking values that are not sealed, once a disk is converted.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use zeroize::Zeroizing;

use super::Masters;
use super::file::Keys;
use super::master::{KEY_BYTES, MasterKey};
use super::value::{self, DataKey, Scratch};
use crate::error::{Error, Result};
use crate::keys::KeyKind;

/// What a data key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// What belongs to no database, or to several: entries of the log, the change log, the metadata.
    Node,
    /// The rows of one database.
    Database(u32),
}

impl Scope {
    /// What the row under `key`, which has no store id, belongs to.
    pub(crate) fn of(key: &[u8]) -> Self {
        let database = |at: usize| {
            let id = key.get(at..)?.first_chunk()?;
            Some(Self::Database(u32::from_be_bytes(*id)))
        };
        let scope = match KeyKind::of(key) {
            Some(
                KeyKind::Bucket
                | KeyKind::Reservation
                | KeyKind::Fence
                | KeyKind::IndexProgress
                | KeyKind::Document
                | KeyKind::IndexEntry,
            ) => database(1),
            // Behind the due time.
            Some(KeyKind::Expiry) => database(1 + size_of::<u64>()),
            // Kinds without a database.
            _ => None,
        };
        scope.unwrap_or(Self::Node)
    }

    fn number(self) -> u64 {
        match self {
            Self::Node => 0,
            Self::Database(id) => u64::from(id) + 1,
        }
    }

    fn from_number(number: u64) -> Option<Self> {
        match number.checked_sub(1) {
            None => Some(Self::Node),
            Some(id) => u32::try_from(id).ok().map(Self::Database),
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Database(id) => write!(f, "database {id}"),
        }
    }
}

/// One key, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyState {
    /// Its id, which stands in each value that it seals.
    pub id: u32,
    /// What it is for.
    pub scope: Scope,
    /// Whether it only opens what is not rewritten yet.
    pub is_retired: bool,
}

/// The keys at one moment.
pub(crate) struct State {
    keys: HashMap<u32, Arc<DataKey>>,
    current: HashMap<Scope, Arc<DataKey>>,
    /// Whether a value that is not sealed is taken for what it is.
    is_converting: bool,
}

/// What is stored, and what stores it. Its lock is held while keys change.
struct Stored {
    keys: Keys,
    master: MasterKey,
}

/// See the module.
pub struct Ring {
    state: RwLock<Arc<State>>,
    stored: Mutex<Stored>,
    /// `None`: keys of a test, which are nowhere.
    dir: Option<PathBuf>,
    /// No file of keys was found.
    is_fresh: AtomicBool,
}

impl Ring {
    /// The keys of the data directory `dir`; `None`: it is not sealed and is not to be. Nothing is written, except that what the
    /// previous master key wraps is wrapped by the current one.
    ///
    /// # Errors
    /// [`Error::Sealed`], [`Error::WrongMasterKey`], [`Error::KeysLost`]: nothing was written.
    pub fn open(dir: &Path, masters: &Masters) -> Result<Option<Arc<Self>>> {
        let found = Keys::load(dir)?;
        let (current, previous) = match (masters, &found) {
            (Masters::Off, None) => return Ok(None),
            (Masters::Off, Some(_)) => {
                return Err(Error::Sealed {
                    path: dir.to_owned(),
                });
            }
            (Masters::On { current, previous }, _) => (current, previous.as_ref()),
        };
        let is_fresh = found.is_none();
        let mut keys = match found {
            Some(keys) => keys,
            None => Keys::new(current, dir.join("log").join("CURRENT").exists())?,
        };
        if !keys.is_of(current) {
            let previous =
                previous
                    .filter(|master| keys.is_of(master))
                    .ok_or(Error::WrongMasterKey {
                        path: dir.to_owned(),
                    })?;
            keys.rewrap(previous, current)?;
            keys.save(dir)?;
        }
        let ring = Self::of(keys, current.clone(), Some(dir.to_owned()))?;
        ring.is_fresh.store(is_fresh, Ordering::Relaxed);
        Ok(Some(Arc::new(ring)))
    }

    /// Keys that are nowhere but in memory.
    #[cfg(test)]
    pub(crate) fn in_memory(is_converting: bool) -> Arc<Self> {
        let master = MasterKey::from_bytes([0x4d; KEY_BYTES]);
        let keys = Keys::new(&master, is_converting).unwrap();
        Arc::new(Self::of(keys, master, None).unwrap())
    }

    fn of(keys: Keys, master: MasterKey, dir: Option<PathBuf>) -> Result<Self> {
        let mut state = State {
            keys: HashMap::new(),
            current: HashMap::new(),
            is_converting: keys.is_converting,
        };
        for row in &keys.rows {
            let scope = Scope::from_number(row.scope)
                .ok_or_else(|| Error::corrupt(format!("data key {} is for nothing", row.id)))?;
            let key = Arc::new(DataKey::new(row.id, scope, &*keys.key(&master, row)?));
            if !row.is_retired {
                state.current.insert(scope, Arc::clone(&key));
            }
            state.keys.insert(row.id, key);
        }
        Ok(Self {
            state: RwLock::new(Arc::new(state)),
            stored: Mutex::new(Stored { keys, master }),
            dir,
            is_fresh: AtomicBool::new(false),
        })
    }

    /// Whether no file of keys was there: then nothing in the directory can be sealed.
    pub(crate) fn is_fresh(&self) -> bool {
        self.is_fresh.load(Ordering::Relaxed)
    }

    /// Brings a ring that was just made to the disk. Before anything says that the directory is sealed.
    pub(crate) fn settle(&self) -> Result<()> {
        if self.is_fresh() {
            self.current(Scope::Node)?;
            self.is_fresh.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The keys as they are now.
    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read())
    }

    /// The key that values of `scope` are sealed with now, made at the first call.
    pub(crate) fn current(&self, scope: Scope) -> Result<Arc<DataKey>> {
        if let Some(key) = self.state.read().current.get(&scope) {
            return Ok(Arc::clone(key));
        }
        self.change(|stored, state| match state.current.get(&scope) {
            Some(key) => Ok(Arc::clone(key)),
            None => stored.add(state, scope),
        })
    }

    /// `value`, sealed with the current key of its scope, for the place that `bound` names.
    pub(crate) fn seal(&self, scope: Scope, bound: &[u8], value: &[u8]) -> Result<Vec<u8>> {
        value::seal(&*self.current(scope)?, bound, value)
    }

    /// Gives every scope, or the one asked for, a new key. The old ones still open what they sealed, until [`Self::drop_retired`].
    ///
    /// # Errors
    /// [`Error::Io`]: the keys on disk may be the old or the new ones; those in use are the old ones.
    pub fn rotate(&self, scope: Option<Scope>) -> Result<Vec<KeyState>> {
        self.change(|stored, state| {
            let all: Vec<_> = state.current.keys().copied().collect();
            for of in all
                .into_iter()
                .filter(|of| scope.is_none_or(|only| only == *of))
            {
                let number = of.number();
                for row in stored
                    .keys
                    .rows
                    .iter_mut()
                    .filter(|row| row.scope == number)
                {
                    row.is_retired = true;
                }
                stored.add(state, of)?;
            }
            Ok(())
        })?;
        Ok(self.keys())
    }

    /// Wraps all data keys by another master key, which the next start must be given.
    ///
    /// # Errors
    /// [`Error::Io`]: either master may be the one from now on; give one of them as the previous.
    pub fn rewrap(&self, master: &MasterKey) -> Result<()> {
        self.change(|stored, _| {
            let old = std::mem::replace(&mut stored.master, master.clone());
            stored.keys.rewrap(&old, master)
        })
    }

    /// The keys that only open, by id; and whether values that are not sealed may be left.
    pub(crate) fn outdated(&self) -> (Vec<u32>, bool) {
        let stored = self.stored.lock();
        let retired = stored.keys.rows.iter().filter(|row| row.is_retired);
        (
            retired.map(|row| row.id).collect(),
            stored.keys.is_converting,
        )
    }

    /// Forgets these retired keys, with which nothing is sealed any more; and, if `is_converted`, that there may be values that are not
    /// sealed. From the next start on: until then a view may show either.
    pub(crate) fn drop_retired(&self, ids: &[u32], is_converted: bool) -> Result<()> {
        self.change(|stored, _| {
            let rows = &mut stored.keys.rows;
            rows.retain(|row| !row.is_retired || !ids.contains(&row.id));
            stored.keys.is_converting &= !is_converted;
            Ok(())
        })
    }

    /// All keys, by id.
    pub fn keys(&self) -> Vec<KeyState> {
        let stored = self.stored.lock();
        let rows: BTreeMap<_, _> = stored.keys.rows.iter().map(|row| (row.id, row)).collect();
        let state = |row: &&super::file::KeyRow| {
            Some(KeyState {
                id: row.id,
                scope: Scope::from_number(row.scope)?,
                is_retired: row.is_retired,
            })
        };
        rows.values().filter_map(state).collect()
    }

    /// Changes copies of what is stored and of the state, brings the first to the disk, and only then takes them.
    fn change<T>(&self, change: impl FnOnce(&mut Stored, &mut State) -> Result<T>) -> Result<T> {
        let mut stored = self.stored.lock();
        let now = self.state();
        let mut next = State {
            keys: now.keys.clone(),
            current: now.current.clone(),
            is_converting: now.is_converting,
        };
        let mut changed = Stored {
            keys: stored.keys.clone(),
            master: stored.master.clone(),
        };
        let value = change(&mut changed, &mut next)?;
        if let Some(dir) = &self.dir {
            changed.keys.save(dir)?;
        }
        *stored = changed;
        *self.state.write() = Arc::new(next);
        Ok(value)
    }
}

impl Stored {
    /// A new current key.
    fn add(&mut self, state: &mut State, scope: Scope) -> Result<Arc<DataKey>> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        OsRng
            .try_fill_bytes(&mut bytes[..])
            .map_err(std::io::Error::other)?;
        let id = self.keys.push(&self.master, scope.number(), &bytes)?;
        let key = Arc::new(DataKey::new(id, scope, &bytes));
        state.keys.insert(id, Arc::clone(&key));
        state.current.insert(scope, Arc::clone(&key));
        Ok(key)
    }
}

impl State {
    /// The value of `stored`, which lies at the place that `bound` names.
    ///
    /// # Errors
    /// [`Error::Corrupt`]: it does not open, by whatever cause; says which.
    pub(crate) fn open(&self, bound: &[u8], stored: Bytes) -> Result<Bytes> {
        match self.key(&stored)? {
            None => Ok(stored),
            Some(key) => value::open(key, bound, &stored).ok_or_else(|| does_not_open(key, bound)),
        }
    }

    /// As [`Self::open`], without copies where there need be none.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn open_in<'s>(
        &self,
        bound: &[u8],
        stored: &'s [u8],
        scratch: &'s mut Scratch,
    ) -> Result<&'s [u8]> {
        match self.key(stored)? {
            None => Ok(stored),
            Some(key) => scratch
                .open(key, bound, stored)
                .ok_or_else(|| does_not_open(key, bound)),
        }
    }

    /// Whether `stored`, at the place of `scope`, is sealed with another key than its current one, or not at all.
    pub(crate) fn is_outdated(&self, scope: Scope, stored: &[u8]) -> bool {
        let id = value::key_id(stored);
        id.is_none() || id != self.current.get(&scope).map(|key| key.id)
    }

    /// The key of a stored value; `None`: it is not sealed, and may be so.
    fn key(&self, stored: &[u8]) -> Result<Option<&DataKey>> {
        let Some(id) = value::key_id(stored) else {
            if self.is_converting && stored.first() != Some(&value::MARK) {
                return Ok(None);
            }
            return Err(Error::corrupt("a value is not sealed, or cut off"));
        };
        let key = self.keys.get(&id).map(|key| &**key);
        key.map(Some).ok_or_else(|| {
            Error::corrupt(format!("no data key {id}, which a value is sealed with"))
        })
    }
}

fn does_not_open(key: &DataKey, bound: &[u8]) -> Error {
    let place = crate::keys::Key::decode(bound).map_or_else(
        |_| hex::encode(bound.get(..32).unwrap_or(bound)),
        |key| key.to_string(),
    );
    Error::corrupt(format!(
        "{place}: its seal by data key {} ({}) is broken",
        key.id, key.scope
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{ChangeKey, DocumentKey, ExpiryKey};

    fn masters(byte: u8, previous: Option<u8>) -> Masters {
        let key = |byte| MasterKey::from_bytes([byte; KEY_BYTES]);
        Masters::On {
            current: key(byte),
            previous: previous.map(key),
        }
    }

    #[test]
    fn rows_know_whose_they_are() {
        let document = DocumentKey {
            database: 7,
            bucket: 1,
            key: "a",
        };
        let expiry = ExpiryKey {
            due_us: 3,
            database: 8,
            bucket: 1,
            key: "a",
        };
        let change = ChangeKey {
            index: 7,
            ordinal: 1,
        };
        assert_eq!(Scope::of(&document.encode()), Scope::Database(7));
        assert_eq!(Scope::of(&expiry.encode()), Scope::Database(8));
        assert_eq!(Scope::of(&change.encode()), Scope::Node);
        assert_eq!(Scope::of(b""), Scope::Node);
        for scope in [Scope::Node, Scope::Database(0), Scope::Database(u32::MAX)] {
            assert_eq!(Scope::from_number(scope.number()), Some(scope));
        }
    }

    #[test]
    fn keys_are_on_disk_before_they_are_used_and_old_ones_open_until_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Ring::open(dir.path(), &masters(1, None)).unwrap().unwrap();
        let ring = open();
        assert!(ring.is_fresh());
        ring.settle().unwrap();
        let scope = Scope::Database(3);
        let old = ring.seal(scope, b"place", b"value").unwrap();
        let opens = |ring: &Ring, stored: &[u8]| {
            let stored = Bytes::copy_from_slice(stored);
            ring.state()
                .open(b"place", stored)
                .map(|value| value.to_vec())
        };
        assert_eq!(opens(&open(), &old).unwrap(), b"value");

        ring.rotate(None).unwrap();
        let new = ring.seal(scope, b"place", b"value").unwrap();
        assert_ne!(value::key_id(&old), value::key_id(&new));
        assert!(ring.state().is_outdated(scope, &old));
        assert!(!ring.state().is_outdated(scope, &new));
        for stored in [&old, &new] {
            assert_eq!(opens(&open(), stored).unwrap(), b"value");
        }

        let (retired, _) = ring.outdated();
        assert_eq!(retired.len(), 2);
        ring.drop_retired(&retired, false).unwrap();
        // What is in memory may still show it; the next start cannot.
        assert_eq!(opens(&ring, &old).unwrap(), b"value");
        let error = opens(&open(), &old).unwrap_err().to_string();
        assert!(error.contains("no data key"), "{error}");
        assert_eq!(opens(&open(), &new).unwrap(), b"value");
    }

    #[test]
    fn a_directory_opens_with_its_own_master_key_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Ring::open(dir.path(), &Masters::Off).unwrap().is_none());
        let ring = Ring::open(dir.path(), &masters(1, None)).unwrap().unwrap();
        ring.settle().unwrap();
        let refused = |masters| Ring::open(dir.path(), &masters).err();
        assert!(matches!(refused(Masters::Off), Some(Error::Sealed { .. })));
        assert!(matches!(
            refused(masters(2, None)),
            Some(Error::WrongMasterKey { .. })
        ));
        assert!(matches!(
            refused(masters(2, Some(3))),
            Some(Error::WrongMasterKey { .. })
        ));
        // From 1 to 2 at a start, and on to 3 while it runs.
        let ring = Ring::open(dir.path(), &masters(2, Some(1)))
            .unwrap()
            .unwrap();
        assert!(refused(masters(1, None)).is_some());
        ring.rewrap(&MasterKey::from_bytes([3; KEY_BYTES])).unwrap();
        assert!(refused(masters(2, None)).is_some());
        assert!(refused(masters(3, None)).is_none());
    }

    #[test]
    fn plain_values_are_taken_only_while_a_disk_is_converted() {
        let plain = || Bytes::from_static(&[1, 2, 3]);
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("log")).unwrap();
        std::fs::write(dir.path().join("log").join("CURRENT"), b"").unwrap();
        let open = || Ring::open(dir.path(), &masters(1, None)).unwrap().unwrap();
        let ring = open();
        ring.settle().unwrap();
        for ring in [&ring, &open()] {
            assert_eq!(ring.state().open(b"place", plain()).unwrap(), plain());
        }
        assert_eq!(ring.outdated(), (Vec::new(), true));
        ring.drop_retired(&[], true).unwrap();
        let error = open().state().open(b"place", plain()).unwrap_err();
        assert!(error.to_string().contains("not sealed"), "{error}");
    }
}
