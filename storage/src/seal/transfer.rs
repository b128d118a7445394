//! Files of a snapshot on their way between two nodes, of which one seals its disk: sealed by a key that is made for one snapshot and
//! lives in memory.
//!
//! ```text
//! file   "lardersn" | frames
//! frame  length of sealed and tag, u32 big-endian | whether it is the last, u8 | sealed: pairs | tag, 16 bytes
//! pairs  LZ4 block behind its length, u32 little-endian, of: length, key without store id, length, value, …
//! ```
//!
//! Frames are bound to column, place and whether they are the last: none can be left out, moved or added. They hold keys too, and
//! compress what many rows have in common, which sealed rows cannot.
//!
//! The key goes to the receiver in the snapshot's header, so it is as safe on the wire as the documents themselves: by TLS. A receiver
//! that starts anew forgets it, and gets it again with the header.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use aes_gcm_siv::aead::inout::InOutBuf;
use aes_gcm_siv::{AeadInOut as _, Aes256GcmSiv, KeyInit as _, Nonce, Tag};
use bytes::Bytes;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use zeroize::Zeroizing;

use super::master::KEY_BYTES;
use crate::codec::{self, RECORD_BYTES_MAX, Reader};
use crate::engine::{Column, Pair, Pairs, SstInfo};
use crate::error::{Error, Result};
use crate::ids::StoreId;
use crate::open::checksum_file;

const MAGIC: &[u8; 8] = b"lardersn";
/// Pairs of one frame, before they are compressed; one pair may pass it.
const FRAME_BYTES: usize = 128 << 10;
/// A frame is never longer: one pair, and what compression may add.
const FRAME_BYTES_MAX: usize = RECORD_BYTES_MAX + (1 << 20);
const TAG_BYTES: usize = 16;

/// The key of one snapshot's files. Wiped when it is dropped, and never printed.
#[derive(Clone)]
pub struct TransferKey(Arc<Zeroizing<[u8; KEY_BYTES]>>);

impl TransferKey {
    /// A new one.
    ///
    /// # Errors
    /// The system's generator fails.
    pub fn random() -> Result<Self> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        OsRng
            .try_fill_bytes(&mut bytes[..])
            .map_err(std::io::Error::other)?;
        Ok(Self(Arc::new(bytes)))
    }

    /// One that another node made; `None`: that is no key.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; KEY_BYTES] = bytes.try_into().ok()?;
        Some(Self(Arc::new(Zeroizing::new(bytes))))
    }

    /// For the other node.
    pub fn as_slice(&self) -> &[u8] {
        &self.0[..]
    }

    fn cipher(&self) -> Aes256GcmSiv {
        Aes256GcmSiv::new((&**self.0).into())
    }
}

impl fmt::Debug for TransferKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TransferKey(..)")
    }
}

impl PartialEq for TransferKey {
    /// Whether it is the very same one.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for TransferKey {}

/// Nonce of a frame: no two of one key are alike.
fn nonce(column: Column, frame: u64) -> Nonce {
    let mut nonce = Nonce::default();
    nonce[0] = column as u8;
    nonce[4..].copy_from_slice(&frame.to_be_bytes());
    nonce
}

/// Writes `pairs` to a new file; it is synced. `None`, and no file, if there are none.
pub(crate) fn write(
    key: &TransferKey,
    pairs: Pairs<'_>,
    column: Column,
    path: &Path,
) -> Result<Option<SstInfo>> {
    let mut pairs = pairs.peekable();
    if pairs.peek().is_none() {
        return Ok(None);
    }
    let mut writer = Writer {
        cipher: key.cipher(),
        column,
        frame: 0,
        out: BufWriter::new(File::create(path)?),
    };
    writer.out.write_all(MAGIC)?;
    let mut plain = Vec::with_capacity(FRAME_BYTES);
    while let Some(pair) = pairs.next() {
        let (key, value) = pair?;
        let key = key
            .get(StoreId::LEN..)
            .ok_or_else(|| Error::corrupt("key shorter than a store id"))?;
        codec::put_bytes(&mut plain, key);
        codec::put_bytes(&mut plain, &value);
        let is_last = pairs.peek().is_none();
        if is_last || plain.len() >= FRAME_BYTES {
            writer.frame(&plain, is_last)?;
            plain.clear();
        }
    }
    writer
        .out
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error)?
        .sync_all()?;
    let (bytes, checksum) = checksum_file(path)?;
    Ok(Some(SstInfo { bytes, checksum }))
}

struct Writer {
    cipher: Aes256GcmSiv,
    column: Column,
    /// Number of the next one.
    frame: u64,
    out: BufWriter<File>,
}

impl Writer {
    fn frame(&mut self, plain: &[u8], is_last: bool) -> Result<()> {
        let mut sealed = lz4_flex::block::compress_prepend_size(plain);
        let (nonce, last) = (nonce(self.column, self.frame), [u8::from(is_last)]);
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce, &last, InOutBuf::from(&mut sealed[..]))
            .map_err(|_| Error::Engine("a frame is too long to be sealed".to_owned()))?;
        let length = u32::try_from(sealed.len() + TAG_BYTES)
            .map_err(|_| Error::Engine("a frame is too long".to_owned()))?;
        self.out.write_all(&length.to_be_bytes())?;
        self.out.write_all(&last)?;
        self.out.write_all(&sealed)?;
        self.out.write_all(&tag)?;
        self.frame += 1;
        Ok(())
    }
}

/// The pairs of a file of [`write`], with keys below store 0. After an error they end.
///
/// # Errors
/// The file cannot be opened, or is another's. In a pair: [`Error::Corrupt`].
pub(crate) fn read(key: &TransferKey, column: Column, path: &Path) -> Result<Pairs<'static>> {
    let mut input = BufReader::new(File::open(path)?);
    let mut magic = [0; MAGIC.len()];
    input.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(Error::corrupt("a snapshot file that is not sealed"));
    }
    Ok(Box::new(Walk {
        cipher: key.cipher(),
        column,
        frame: 0,
        input,
        pairs: Bytes::new(),
        is_over: false,
    }))
}

struct Walk {
    cipher: Aes256GcmSiv,
    column: Column,
    frame: u64,
    input: BufReader<File>,
    /// What is left of the frame.
    pairs: Bytes,
    /// Nothing comes after this frame.
    is_over: bool,
}

impl Walk {
    fn next_frame(&mut self) -> Result<()> {
        let (mut length, mut last) = ([0; size_of::<u32>()], [0]);
        self.input.read_exact(&mut length)?;
        self.input.read_exact(&mut last)?;
        let length = u32::from_be_bytes(length) as usize;
        if !(TAG_BYTES..=FRAME_BYTES_MAX).contains(&length) {
            return Err(self.damaged());
        }
        let mut sealed = vec![0; length];
        self.input.read_exact(&mut sealed)?;
        let Some((sealed, tag)) = sealed.split_last_chunk_mut::<TAG_BYTES>() else {
            return Err(self.damaged());
        };
        let (nonce, tag) = (nonce(self.column, self.frame), Tag::from(*tag));
        let buffer = InOutBuf::from(&mut sealed[..]);
        self.cipher
            .decrypt_inout_detached(&nonce, &last, buffer, &tag)
            .map_err(|_| self.damaged())?;
        self.is_over = last == [1];
        let (size, _) = lz4_flex::block::uncompressed_size(sealed).map_err(|_| self.damaged())?;
        if size > FRAME_BYTES_MAX {
            return Err(self.damaged());
        }
        let plain =
            lz4_flex::block::decompress_size_prepended(sealed).map_err(|_| self.damaged())?;
        self.pairs = plain.into();
        self.frame += 1;
        Ok(())
    }

    fn damaged(&self) -> Error {
        Error::corrupt(format!(
            "frame {} of a snapshot file of column {:?} does not open",
            self.frame, self.column
        ))
    }

    fn pair(&mut self) -> Pair {
        while self.pairs.is_empty() {
            self.next_frame()?;
        }
        let frame = self.pairs.clone();
        let mut reader = Reader::new("frame of a snapshot", &frame);
        let key = [&StoreId(0).prefix(), reader.sized()?].concat();
        let value = frame.slice_ref(reader.sized()?);
        self.pairs = frame.slice(reader.position()..);
        Ok((key.into(), value))
    }
}

impl Iterator for Walk {
    type Item = Pair;

    fn next(&mut self) -> Option<Pair> {
        if self.is_over && self.pairs.is_empty() {
            return None;
        }
        let pair = self.pair();
        if pair.is_err() {
            self.is_over = true;
            self.pairs = Bytes::new();
        }
        Some(pair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(count: usize) -> Vec<(Bytes, Bytes)> {
        let pair = |at: usize| {
            let key = [&StoreId(4).prefix()[..], format!("{at:06}").as_bytes()].concat();
            (key.into(), Bytes::from(at.to_string().repeat(at % 50)))
        };
        (0..count).map(pair).collect()
    }

    fn written(key: &TransferKey, count: usize, path: &Path) -> Option<SstInfo> {
        let pairs = pairs(count).into_iter().map(Ok);
        write(key, Box::new(pairs), Column::Documents, path).unwrap()
    }

    #[test]
    fn pairs_arrive_below_no_store_and_nothing_shows_on_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.sst");
        let key = TransferKey::random().unwrap();
        assert_eq!(written(&key, 0, &path), None);
        for count in [1, 20_000] {
            let info = written(&key, count, &path).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(info.bytes, bytes.len() as u64);
            assert!(!bytes.windows(6).any(|part| part == b"000000"));
            let got = read(&key, Column::Documents, &path).unwrap();
            let got: Vec<_> = got.map(Result::unwrap).collect();
            let wanted: Vec<(Bytes, Bytes)> = pairs(count)
                .into_iter()
                .map(|(key, value)| ([&[0; 8], &key[8..]].concat().into(), value))
                .collect();
            assert!(got == wanted, "{} of {count}", got.len());
        }
    }

    #[test]
    fn a_file_that_was_changed_anywhere_does_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.sst");
        let key = TransferKey::random().unwrap();
        written(&key, 20_000, &path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let fails = |key: &TransferKey, column, bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read(key, column, &path).map_or(true, |mut pairs| pairs.any(|pair| pair.is_err()))
        };
        assert!(!fails(&key, Column::Documents, &bytes));
        assert!(fails(
            &TransferKey::random().unwrap(),
            Column::Documents,
            &bytes
        ));
        assert!(fails(&key, Column::State, &bytes));
        let first = 13 + u32::from_be_bytes(bytes[8..12].try_into().unwrap()) as usize;
        let without_first = [&bytes[..8], &bytes[first..]].concat();
        assert!(fails(&key, Column::Documents, &without_first));
        // Cut between two frames, where nothing but the missing last one tells.
        assert!(fails(&key, Column::Documents, &bytes[..first]));
        for at in [3, 9, 20, first / 2, first - 1, bytes.len() - 1] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            assert!(fails(&key, Column::Documents, &flipped), "{at}");
        }
    }
}
