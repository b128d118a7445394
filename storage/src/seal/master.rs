//! The master key: 256 bits that the operator gives at each start. It wraps data keys and touches no data.

use std::fmt;
use std::sync::Arc;

use aes_gcm_siv::{Aes256GcmSiv, KeyInit as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Bytes of every key here.
pub(crate) const KEY_BYTES: usize = 32;

/// See the module. Wiped when the last clone is dropped, and never printed.
#[derive(Clone)]
pub struct MasterKey(Arc<Zeroizing<[u8; KEY_BYTES]>>);

/// The text is not a master key. Does not repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a master key is 32 random bytes, written as 64 hexadecimal digits or in base64: make one with `openssl rand -hex 32`"
)]
pub struct MasterKeyError;

impl MasterKey {
    /// The key that `text` writes in hexadecimal or in base64; white space around it does not count.
    ///
    /// # Errors
    /// [`MasterKeyError`]: neither of the two, or not 32 bytes.
    pub fn parse(text: &str) -> Result<Self, MasterKeyError> {
        let text = text.trim();
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        if text.len() == 2 * KEY_BYTES {
            hex::decode_to_slice(text, &mut key[..]).map_err(|_| MasterKeyError)?;
        } else {
            let bytes = Zeroizing::new(STANDARD.decode(text).map_err(|_| MasterKeyError)?);
            if bytes.len() != KEY_BYTES {
                return Err(MasterKeyError);
            }
            key.copy_from_slice(&bytes);
        }
        Ok(Self(Arc::new(key)))
    }

    /// A key of these bytes.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }

    pub(super) fn cipher(&self) -> Aes256GcmSiv {
        Aes256GcmSiv::new((&**self.0).into())
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_writing_a_key_are_read_and_nothing_else() {
        let bytes = [0xa7; KEY_BYTES];
        for text in [
            hex::encode(bytes),
            format!(" {}\n", hex::encode_upper(bytes)),
            format!("{}\n", STANDARD.encode(bytes)),
        ] {
            assert_eq!(**MasterKey::parse(&text).unwrap().0, bytes, "{text}");
        }
        let short = STANDARD.encode([1; KEY_BYTES - 1]);
        for text in ["", "hunter2", &"g".repeat(64), &"ab".repeat(31), &short] {
            let error = MasterKey::parse(text).unwrap_err().to_string();
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
    }

    #[test]
    fn a_key_is_not_printed() {
        let shown = format!("{:?}", MasterKey::from_bytes([0x41; KEY_BYTES]));
        assert_eq!(shown, "MasterKey(..)");
    }
}
