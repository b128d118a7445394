//! Where data keys lie, wrapped: one small file, kept twice, that is read before anything else of a data directory.
//!
//! ```text
//! "larderks" | XXH3-64 of the rest, big-endian | record
//! ```
//!
//! Both copies are written for each change, one after the other, each in full beside the old one and then renamed over it. A change
//! counts when both are on disk; of two that differ the later is taken, and one that is damaged does no harm alone.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use aes_gcm_siv::aead::inout::InOutBuf;
use aes_gcm_siv::{AeadInOut as _, Nonce, Tag};
use bincode::{Decode, Encode};
use rand::RngCore as _;
use xxhash_rust::xxh3::xxh3_64;
use zeroize::Zeroizing;

use super::master::{KEY_BYTES, MasterKey};
use crate::codec::{self, Record};
use crate::error::{Error, Result};

/// Names in the data directory.
pub(crate) const NAMES: [&str; 2] = ["sealing-keys", "sealing-keys.copy"];
const MAGIC: &[u8; 8] = b"larderks";
const NONCE_BYTES: usize = 12;
/// What the master key's own check value is bound to.
const CHECK: &[u8] = b"larder master key";

/// All that is stored of a ring.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Keys {
    /// Counts changes.
    pub(super) sequence: u64,
    /// Whether values from before the disk was sealed may be left.
    pub(super) is_converting: bool,
    /// The id of the next key.
    pub(super) next: u32,
    /// Nothing, wrapped: tells whether a master key is the right one.
    check: Wrapped,
    pub(super) rows: Vec<KeyRow>,
}

/// One data key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct KeyRow {
    pub(super) id: u32,
    /// 0: the node; otherwise the database's id and one.
    pub(super) scope: u64,
    /// No new value is sealed with it.
    pub(super) is_retired: bool,
    key: Wrapped,
}

/// Something sealed by the master key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct Wrapped {
    nonce: [u8; NONCE_BYTES],
    sealed: Vec<u8>,
    tag: [u8; 16],
}

impl Record for Keys {
    const FORMAT: u8 = 1;
    const WHAT: &'static str = "file of data keys";
}

impl Keys {
    /// No keys yet, for this master.
    pub(super) fn new(master: &MasterKey, is_converting: bool) -> Result<Self> {
        Ok(Self {
            sequence: 0,
            is_converting,
            next: 1,
            check: wrap(master, CHECK, &[])?,
            rows: Vec::new(),
        })
    }

    /// Whether `master` is the key that all of this is wrapped with.
    pub(super) fn is_of(&self, master: &MasterKey) -> bool {
        unwrap(master, CHECK, &self.check).is_some()
    }

    /// Takes up a key.
    pub(super) fn push(
        &mut self,
        master: &MasterKey,
        scope: u64,
        key: &[u8; KEY_BYTES],
    ) -> Result<u32> {
        let id = self.next;
        self.next += 1;
        self.rows.push(KeyRow {
            id,
            scope,
            is_retired: false,
            key: wrap(master, &bound(id, scope), key)?,
        });
        Ok(id)
    }

    /// The bytes of a key.
    ///
    /// # Errors
    /// [`Error::Corrupt`]: `master` does not open it.
    pub(super) fn key(
        &self,
        master: &MasterKey,
        row: &KeyRow,
    ) -> Result<Zeroizing<[u8; KEY_BYTES]>> {
        unwrap(master, &bound(row.id, row.scope), &row.key)
            .filter(|key| key.len() == KEY_BYTES)
            .map(|bytes| {
                let mut key = Zeroizing::new([0; KEY_BYTES]);
                key.copy_from_slice(&bytes);
                key
            })
            .ok_or_else(|| Error::corrupt(format!("data key {} does not open", row.id)))
    }

    /// Wraps everything anew, from `old` to `new`.
    pub(super) fn rewrap(&mut self, old: &MasterKey, new: &MasterKey) -> Result<()> {
        for at in 0..self.rows.len() {
            let row = &self.rows[at];
            let key = self.key(old, row)?;
            self.rows[at].key = wrap(new, &bound(row.id, row.scope), &key[..])?;
        }
        self.check = wrap(new, CHECK, &[])?;
        Ok(())
    }

    /// Writes both copies; on return they are on disk.
    ///
    /// # Errors
    /// [`Error::Io`]: the earlier ones may stand, or these.
    pub(super) fn save(&mut self, dir: &Path) -> Result<()> {
        self.sequence += 1;
        let record = codec::encode(self)?;
        let bytes = [&MAGIC[..], &xxh3_64(&record).to_be_bytes(), &record].concat();
        for name in NAMES {
            let (path, fresh) = (dir.join(name), dir.join(format!("{name}.new")));
            let mut file = private(&fresh)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    }

    /// The later one of the copies in `dir` that read; `None`: there is none.
    ///
    /// # Errors
    /// [`Error::KeysLost`]: there is one, and none reads. [`Error::Io`].
    pub(super) fn load(dir: &Path) -> Result<Option<Self>> {
        let mut newest: Option<Self> = None;
        let mut damaged = None;
        for name in NAMES {
            let path = dir.join(name);
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            match decode(&bytes) {
                Some(keys) if newest.as_ref().is_none_or(|of| of.sequence < keys.sequence) => {
                    newest = Some(keys);
                }
                Some(_) => {}
                None => damaged = Some(path),
            }
        }
        match (newest, damaged) {
            (Some(keys), Some(path)) => {
                tracing::error!(path = %path.display(), "a copy of the data keys is damaged; the other one is used");
                Ok(Some(keys))
            }
            (None, Some(path)) => Err(Error::KeysLost { path }),
            (keys, None) => Ok(keys),
        }
    }
}

fn decode(bytes: &[u8]) -> Option<Keys> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (sum, record) = rest.split_first_chunk()?;
    (u64::from_be_bytes(*sum) == xxh3_64(record)).then_some(())?;
    codec::decode(record).ok()
}

/// A new file that its owner alone may read.
fn private(path: &PathBuf) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)
}

/// What a wrapped key is bound to.
fn bound(id: u32, scope: u64) -> Vec<u8> {
    [
        &b"larder data key"[..],
        &id.to_be_bytes(),
        &scope.to_be_bytes(),
    ]
    .concat()
}

fn wrap(master: &MasterKey, bound: &[u8], content: &[u8]) -> Result<Wrapped> {
    let mut nonce = [0; NONCE_BYTES];
    rand::rng().fill_bytes(&mut nonce);
    let mut sealed = content.to_vec();
    let tag = master
        .cipher()
        .encrypt_inout_detached(&Nonce::from(nonce), bound, InOutBuf::from(&mut sealed[..]))
        .map_err(|_| Error::Engine("a data key does not wrap".to_owned()))?;
    Ok(Wrapped {
        nonce,
        sealed,
        tag: tag.into(),
    })
}

fn unwrap(master: &MasterKey, bound: &[u8], wrapped: &Wrapped) -> Option<Zeroizing<Vec<u8>>> {
    let mut content = Zeroizing::new(wrapped.sealed.clone());
    master
        .cipher()
        .decrypt_inout_detached(
            &Nonce::from(wrapped.nonce),
            bound,
            InOutBuf::from(&mut content[..]),
            &Tag::from(wrapped.tag),
        )
        .ok()?;
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(dir: &Path) -> (MasterKey, Keys) {
        let master = MasterKey::from_bytes([1; KEY_BYTES]);
        let mut keys = Keys::new(&master, false).unwrap();
        keys.push(&master, 0, &[2; KEY_BYTES]).unwrap();
        keys.push(&master, 5, &[3; KEY_BYTES]).unwrap();
        keys.save(dir).unwrap();
        (master, keys)
    }

    #[test]
    fn keys_come_back_and_only_their_master_opens_them() {
        let dir = tempfile::tempdir().unwrap();
        let (master, keys) = saved(dir.path());
        let mut found = Keys::load(dir.path()).unwrap().unwrap();
        assert_eq!(found, keys);
        let key = |keys: &Keys, master: &MasterKey| keys.key(master, &keys.rows[1]);
        assert_eq!(*key(&found, &master).unwrap(), [3; KEY_BYTES]);
        let other = MasterKey::from_bytes([9; KEY_BYTES]);
        assert!(found.is_of(&master) && !found.is_of(&other));
        assert!(key(&found, &other).is_err());

        found.rewrap(&master, &other).unwrap();
        assert!(!found.is_of(&master) && found.is_of(&other));
        assert_eq!(*key(&found, &other).unwrap(), [3; KEY_BYTES]);

        // A wrapped key under another id or scope is another key.
        found.rows[1].scope = 6;
        assert!(key(&found, &other).is_err());
    }

    #[test]
    fn one_copy_is_enough_and_the_later_one_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (master, mut keys) = saved(dir.path());
        let [first, second] = NAMES.map(|name| dir.path().join(name));
        let old = fs::read(&second).unwrap();
        keys.push(&master, 7, &[4; KEY_BYTES]).unwrap();
        keys.save(dir.path()).unwrap();
        fs::write(&second, old).unwrap();
        assert_eq!(Keys::load(dir.path()).unwrap().unwrap(), keys);
        fs::copy(&first, &second).unwrap();
        fs::write(&first, b"larderks and rot").unwrap();
        assert_eq!(Keys::load(dir.path()).unwrap().unwrap(), keys);
        fs::write(&second, b"").unwrap();
        assert!(matches!(
            Keys::load(dir.path()),
            Err(Error::KeysLost { .. })
        ));
        for path in [first, second] {
            fs::remove_file(path).unwrap();
        }
        assert_eq!(Keys::load(dir.path()).unwrap(), None);
    }
}
