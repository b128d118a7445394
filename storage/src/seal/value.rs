//! One sealed value, byte by byte.
//!
//! ```text
//! 0xe5 | key id u32, big-endian | nonce, 12 bytes | sealed: form u8, content | tag, 16 bytes
//!
//! form 0    content is the value
//! form 1    content is the length of the value, u32 little-endian, and the value in LZ4's block format
//! ```
//!
//! AES-256-GCM-SIV with random nonces: a nonce that comes twice, which at 96 random bits takes some 2^48 values, would tell that two
//! values are equal and no more.
//!
//! No row of ours begins with 0xe5: rows begin with a format, counted from 1. So a disk that is being converted tells sealed from plain.

use aes_gcm_siv::aead::inout::InOutBuf;
use aes_gcm_siv::{AeadInOut as _, Aes256GcmSiv, KeyInit as _, Nonce, Tag};
use bytes::Bytes;
use rand::RngCore as _;

use super::master::KEY_BYTES;
use super::ring::Scope;
use crate::codec::RECORD_BYTES_MAX;
use crate::error::{Error, Result};

/// The first byte of a sealed value.
pub(crate) const MARK: u8 = 0xe5;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// What stands before the sealed part.
const HEAD_BYTES: usize = 1 + size_of::<u32>() + NONCE_BYTES;
/// What a seal adds to a value that is not compressed.
#[cfg(test)]
const OVERHEAD_BYTES: usize = HEAD_BYTES + 1 + TAG_BYTES;
/// Shorter values do not get shorter.
const COMPRESSED_FROM: usize = 64;

const PLAIN: u8 = 0;
const LZ4: u8 = 1;

/// A data key, ready for use. Wiped when it is dropped, and never printed.
pub(crate) struct DataKey {
    pub(crate) id: u32,
    pub(crate) scope: Scope,
    cipher: Aes256GcmSiv,
}

impl DataKey {
    pub(super) fn new(id: u32, scope: Scope, bytes: &[u8; KEY_BYTES]) -> Self {
        let cipher = Aes256GcmSiv::new(bytes.into());
        Self { id, scope, cipher }
    }
}

/// The id of the key that `stored` is sealed with; `None`: it is not sealed.
pub(crate) fn key_id(stored: &[u8]) -> Option<u32> {
    let (&mark, rest) = stored.split_first()?;
    let id = rest.first_chunk()?;
    (mark == MARK && stored.len() > HEAD_BYTES + TAG_BYTES).then(|| u32::from_be_bytes(*id))
}

/// `value`, sealed for the place that `bound` names.
///
/// # Errors
/// [`Error::Engine`]: values of 64 GiB, which there are none of.
pub(crate) fn seal(key: &DataKey, bound: &[u8], value: &[u8]) -> Result<Vec<u8>> {
    let is_tried = (COMPRESSED_FROM..RECORD_BYTES_MAX).contains(&value.len());
    let room = match is_tried {
        true => size_of::<u32>() + lz4_flex::block::get_maximum_output_size(value.len()),
        false => value.len(),
    };
    let mut out = Vec::with_capacity(HEAD_BYTES + 1 + room + TAG_BYTES);
    out.push(MARK);
    out.extend_from_slice(&key.id.to_be_bytes());
    let mut nonce = Nonce::default();
    rand::rng().fill_bytes(&mut nonce);
    out.extend_from_slice(&nonce);
    out.push(PLAIN);
    if !is_tried || !compress(&mut out, value, room) {
        out.extend_from_slice(value);
    }
    let sealed = InOutBuf::from(&mut out[HEAD_BYTES..]);
    let tag = key
        .cipher
        .encrypt_inout_detached(&nonce, bound, sealed)
        .map_err(|_| Error::Engine("a value is too long to be sealed".to_owned()))?;
    out.extend_from_slice(&tag);
    Ok(out)
}

/// Appends `value` compressed and says so in the form; false, and nothing appended, if it would not get shorter.
fn compress(out: &mut Vec<u8>, value: &[u8], room: usize) -> bool {
    let start = out.len();
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    let content = out.len();
    out.resize(start + room, 0);
    let length = lz4_flex::block::compress_into(value, &mut out[content..]).unwrap_or(usize::MAX);
    if length.saturating_add(size_of::<u32>()) >= value.len() {
        out.truncate(start);
        return false;
    }
    out.truncate(content + length);
    out[start - 1] = LZ4;
    true
}

/// The value that was sealed with `key` for the place that `bound` names; `None`: that was another value, key or place.
pub(crate) fn open(key: &DataKey, bound: &[u8], stored: &[u8]) -> Option<Bytes> {
    let mut opened = Vec::new();
    unseal(key, bound, stored, &mut opened)?;
    match opened.split_first()? {
        (&PLAIN, _) => Some(Bytes::from(opened).slice(1..)),
        (&LZ4, content) => {
            let mut value = Vec::new();
            decompress(content, &mut value)?;
            Some(value.into())
        }
        _ => None,
    }
}

/// Buffers of a walk, which opens one value after the other.
#[derive(Default)]
pub(crate) struct Scratch {
    opened: Vec<u8>,
    value: Vec<u8>,
}

impl Scratch {
    /// As [`open`], in these buffers.
    pub(crate) fn open(&mut self, key: &DataKey, bound: &[u8], stored: &[u8]) -> Option<&[u8]> {
        unseal(key, bound, stored, &mut self.opened)?;
        match self.opened.split_first()? {
            (&PLAIN, value) => Some(value),
            (&LZ4, content) => {
                decompress(content, &mut self.value)?;
                Some(&self.value)
            }
            _ => None,
        }
    }
}

/// Replaces what `out` holds by form and content.
fn unseal(key: &DataKey, bound: &[u8], stored: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (head, rest) = stored.split_at_checked(HEAD_BYTES)?;
    let (sealed, tag) = rest.split_last_chunk::<TAG_BYTES>()?;
    let nonce: &[u8; NONCE_BYTES] = head.last_chunk()?;
    out.clear();
    out.resize(sealed.len(), 0);
    let buffer = InOutBuf::new(sealed, out).ok()?;
    let opened =
        key.cipher
            .decrypt_inout_detached(&Nonce::from(*nonce), bound, buffer, &Tag::from(*tag));
    opened.ok()
}

fn decompress(content: &[u8], value: &mut Vec<u8>) -> Option<()> {
    let (length, content) = content.split_first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > RECORD_BYTES_MAX {
        return None;
    }
    value.clear();
    value.resize(length, 0);
    let written = lz4_flex::block::decompress_into(content, value).ok()?;
    (written == length).then_some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(id: u32, byte: u8) -> DataKey {
        DataKey::new(id, Scope::Node, &[byte; KEY_BYTES])
    }

    #[test]
    fn json_gets_shorter_and_noise_only_a_little_longer() {
        let key = key(7, 1);
        let json = br#"{"title":"a","text":"b"}"#.repeat(40);
        assert!(seal(&key, b"k", &json).unwrap().len() < json.len() / 2);
        let mut noise = vec![0; 1_000];
        rand::rng().fill_bytes(&mut noise);
        assert_eq!(
            seal(&key, b"k", &noise).unwrap().len(),
            noise.len() + OVERHEAD_BYTES
        );
    }

    #[test]
    fn the_same_value_is_never_sealed_the_same() {
        let key = key(7, 1);
        let seal = || seal(&key, b"k", b"value").unwrap();
        assert_ne!(seal(), seal());
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens(value: Vec<u8>, bound: Vec<u8>, times in 1..40_usize) {
            let (key, value) = (key(7, 1), value.repeat(times));
            let stored = seal(&key, &bound, &value).unwrap();
            prop_assert_eq!(key_id(&stored), Some(7));
            prop_assert_eq!(open(&key, &bound, &stored), Some(value.clone().into()));
            let mut scratch = Scratch::default();
            prop_assert_eq!(scratch.open(&key, &bound, &stored), Some(&value[..]));
            prop_assert_eq!(scratch.open(&key, &bound, &stored), Some(&value[..]));
        }

        #[test]
        fn nothing_else_opens(value: Vec<u8>, bound: Vec<u8>, at: prop::sample::Index, bit in 0..8_u32) {
            let key = key(7, 1);
            let stored = seal(&key, &bound, &value).unwrap();
            let elsewhere = [&bound[..], b"x"].concat();
            prop_assert_eq!(open(&key, &elsewhere, &stored), None);
            prop_assert_eq!(open(&self::key(7, 2), &bound, &stored), None);
            prop_assert_eq!(open(&key, &bound, &stored[..stored.len() - 1]), None);
            // Mark and key id say where to look; the seal covers all after them.
            let mut flipped = stored.clone();
            let at = 1 + size_of::<u32>() + at.index(stored.len() - 1 - size_of::<u32>());
            flipped[at] ^= 1 << bit;
            prop_assert_eq!(open(&key, &bound, &flipped), None);
        }

        #[test]
        fn any_bytes_open_or_do_not(stored: Vec<u8>) {
            let _ = key_id(&stored);
            prop_assert_eq!(open(&key(7, 1), b"k", &stored), None);
        }
    }
}
