//! How stored values become bytes and back: the only module that knows `bincode`, and the tools for rows that are laid out by hand.
//!
//! Every stored value begins with one byte that says its format. Small rows are [`Record`]s: that byte, then `bincode` 2 with variable-length
//! integers in little endian. Rows that hold a document body are laid out by hand (`tables::documents`, `tables::change_log`), so that a
//! reader slices the body out of the row and copies nothing; they use `Reader` and the `put_*` functions.
//!
//! Invariants:
//! - Decoding never panics and never reserves more than [`RECORD_BYTES_MAX`]: bytes that do not fit are [`Error::Corrupt`].
//! - Decoding accepts exactly what encoding writes: left-over bytes are corrupt too.
//! - A format byte is never given a second meaning; a changed layout takes the next number and keeps the decoder of the old one.

use bincode::config::{self, Configuration, Limit, LittleEndian, Varint};
use bincode::{BorrowDecode, Encode};
use bytes::Bytes;

use crate::error::{Error, Result};

/// The largest value that a [`Record`] may decode to, in bytes: bounds what a corrupt length can make us reserve.
pub const RECORD_BYTES_MAX: usize = 64 << 20;

const CONFIG: Configuration<LittleEndian, Varint, Limit<RECORD_BYTES_MAX>> =
    config::standard().with_limit::<RECORD_BYTES_MAX>();

/// A row that is stored as a format byte and its `bincode` form.
///
/// Fields are encoded in their order without names: a change of fields needs a new [`Record::FORMAT`].
pub trait Record {
    /// Format of the bytes that are written today, from 1 up.
    const FORMAT: u8;
    /// What the row is, for error messages.
    const WHAT: &'static str;
}

/// The stored form of `record`.
///
/// # Errors
/// [`Error::Corrupt`]: a value that `bincode` refuses, which no record of ours holds.
pub fn encode<T: Record + Encode>(record: &T) -> Result<Bytes> {
    let mut out = vec![T::FORMAT];
    bincode::encode_into_std_write(record, &mut out, CONFIG)
        .map_err(|error| Error::corrupt(format!("{} does not encode: {error}", T::WHAT)))?;
    Ok(out.into())
}

/// Reads what [`encode`] wrote. Texts and byte strings of the record may borrow from `bytes`.
///
/// # Errors
/// [`Error::Corrupt`]: an unknown format, bytes that are not such a record, or bytes left over.
pub fn decode<'de, T: Record + BorrowDecode<'de, ()>>(bytes: &'de [u8]) -> Result<T> {
    let corrupt = |why: String| Error::corrupt(format!("{}: {why}", T::WHAT));
    let Some((&format, rest)) = bytes.split_first() else {
        return Err(corrupt("empty row".to_owned()));
    };
    if format != T::FORMAT {
        return Err(corrupt(format!("unknown format {format}")));
    }
    let (record, read) = bincode::borrow_decode_from_slice(rest, CONFIG)
        .map_err(|error| corrupt(error.to_string()))?;
    if read != rest.len() {
        return Err(corrupt(format!("{} bytes left over", rest.len() - read)));
    }
    Ok(record)
}

/// Appends `value` in seven-bit groups, lowest first, the top bit set on all but the last (LEB128): at most 10 bytes.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends the length of `bytes` as a varint, then the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads a value or a key from its front, with errors that name it.
///
/// Integers of fixed width are little endian in values and big endian in keys, where byte order must be the order of the numbers.
pub(crate) struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the front of `bytes`, which are said to be `what`.
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Reader<'a> {
        Reader { what, bytes, at: 0 }
    }

    /// The error for bytes that are not what they are said to be.
    pub(crate) fn corrupt(&self, why: &str) -> Error {
        Error::corrupt(format!(
            "{}: {why}, at byte {} of {}",
            self.what,
            self.at,
            self.bytes.len()
        ))
    }

    /// How many bytes have been read.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self
            .at
            .checked_add(count)
            .filter(|&end| end <= self.bytes.len());
        let Some(end) = end else {
            return Err(self.corrupt("cut short"));
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| self.corrupt("cut short"))
    }

    /// One byte.
    pub(crate) fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// Four bytes, little endian.
    pub(crate) fn u32_le(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes, little endian.
    pub(crate) fn u64_le(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Four bytes, big endian.
    pub(crate) fn u32_be(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes, big endian.
    pub(crate) fn u64_be(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Sixteen bytes, big endian.
    pub(crate) fn u128_be(&mut self) -> Result<u128> {
        self.array().map(u128::from_be_bytes)
    }

    /// What [`put_varint`] wrote. Longer forms of the same number are corrupt.
    pub(crate) fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let group = u64::from(byte & 0x7f);
            if (group << shift) >> shift != group || (byte == 0 && shift > 0) {
                return Err(self.corrupt("bad varint"));
            }
            value |= group << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.corrupt("bad varint"))
    }

    /// What [`put_bytes`] wrote.
    pub(crate) fn sized(&mut self) -> Result<&'a [u8]> {
        let length = self.varint()?;
        let length = usize::try_from(length).map_err(|_| self.corrupt("length out of range"))?;
        self.take(length)
    }

    /// What [`put_bytes`] wrote of a text.
    pub(crate) fn text(&mut self) -> Result<&'a str> {
        let bytes = self.sized()?;
        std::str::from_utf8(bytes).map_err(|_| self.corrupt("not UTF-8"))
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        self.at = self.bytes.len();
        rest
    }

    /// Refuses left-over bytes.
    pub(crate) fn finish(&self) -> Result<()> {
        if self.at == self.bytes.len() {
            Ok(())
        } else {
            Err(self.corrupt("bytes left over"))
        }
    }
}

#[cfg(test)]
mod tests {
    use bincode::Decode;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Encode, Decode)]
    struct Sample {
        number: u64,
        text: String,
    }

    impl Record for Sample {
        const FORMAT: u8 = 3;
        const WHAT: &'static str = "sample";
    }

    fn is_corrupt<T>(result: Result<T>) -> bool {
        matches!(result, Err(Error::Corrupt { .. }))
    }

    #[test]
    fn formats_are_checked() {
        let mut bytes = encode(&Sample {
            number: 1,
            text: "x".to_owned(),
        })
        .expect("encodes")
        .to_vec();
        assert_eq!(bytes[0], 3);
        bytes[0] = 4;
        assert!(is_corrupt(decode::<Sample>(&bytes)));
        assert!(is_corrupt(decode::<Sample>(&[])));
    }

    #[test]
    fn left_over_bytes_are_corrupt() {
        let mut bytes = encode(&Sample {
            number: 1,
            text: "x".to_owned(),
        })
        .expect("encodes")
        .to_vec();
        bytes.push(0);
        assert!(is_corrupt(decode::<Sample>(&bytes)));
    }

    #[test]
    fn a_huge_length_is_refused_without_reserving_it() {
        // Format, number 0, then a text length of 2^63.
        let mut bytes = vec![3, 0, 253];
        bytes.extend_from_slice(&(1u64 << 63).to_le_bytes());
        assert!(is_corrupt(decode::<Sample>(&bytes)));
        let mut reader = Reader::new(
            "test",
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        );
        assert!(is_corrupt(reader.sized()));
    }

    #[test]
    fn varints_have_one_form() {
        for bad in [
            &[0x80, 0x00][..],
            &[0xff; 10],
            &[0x80],
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02],
        ] {
            assert!(is_corrupt(Reader::new("test", bad).varint()), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn records_round_trip(number: u64, text: String) {
            let record = Sample { number, text };
            let bytes = encode(&record).expect("encodes");
            prop_assert_eq!(decode::<Sample>(&bytes).expect("decodes"), record);
        }

        #[test]
        fn any_bytes_decode_or_are_corrupt(bytes: Vec<u8>) {
            let result = decode::<Sample>(&bytes);
            prop_assert!(result.is_ok() || is_corrupt(result));
        }

        #[test]
        fn varints_round_trip(value: u64, bytes: Vec<u8>) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert!(out.len() <= 10);
            put_bytes(&mut out, &bytes);
            let mut reader = Reader::new("test", &out);
            prop_assert_eq!(reader.varint().expect("reads"), value);
            prop_assert_eq!(reader.sized().expect("reads"), &bytes[..]);
            prop_assert!(reader.finish().is_ok());
        }
    }
}
