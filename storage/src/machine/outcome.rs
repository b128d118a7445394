//! What a command led to: the reply of the document machine. It stays within the process; only rejections are stored
//! ([`crate::tables::idempotency`]).
//!
//! Bytes: a tag (1 written, 2 rejected, 3 done, 4 progress, 5 reserved, 6 fenced). Written: a varint count, and for each version, created and updated as varints, a byte of
//! flags (1 existed, 2 replayed), the body as varint length and bytes. Rejected: the ordinal as varint, then the rejection's record. Progress: its
//! record. Reserved: a byte, 1 if it is the asking document's, then the reservation's record. Fenced: a byte, 1 if the document holds the
//! value.

use bincode::{Decode, Encode};
use bytes::Bytes;

use crate::codec::{self, Reader, Record, put_bytes, put_varint};
use crate::error::Result;

const WRITTEN: u8 = 1;
const REJECTED: u8 = 2;
const DONE: u8 = 3;
const PROGRESS: u8 = 4;
const RESERVED: u8 = 5;
const FENCED: u8 = 6;
const EXISTED: u8 = 1;
const REPLAYED: u8 = 2;

/// What a command led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All mutations took effect; one of these for each, in their order.
    Written(Vec<Written>),
    /// Nothing took effect.
    Rejected {
        /// Place of the first mutation that was rejected, from 0; 0 too for what concerns the whole request.
        ordinal: usize,
        /// Why.
        rejection: Rejection,
    },
    /// Done; there is nothing to say.
    Done,
    /// Of `BackfillIndex` and `PurgeIndex`: how far it is. As the next two rejected, as the schema having changed or the bucket being
    /// dropped, where the shard's bucket does not list the index (of a purge: still lists it): ask again when it has been told.
    Progress(Progress),
    /// Of `ReserveValue`: the value is the asking document's, or another one's.
    Reserved {
        /// Whose it is now.
        holder: Reservation,
        /// Whether that is the document that asked.
        is_own: bool,
    },
    /// Of `FenceClaims`.
    Fenced {
        /// Whether the document holds the value, as of this entry.
        holds: bool,
    },
}

/// How far the work on an index is in a shard.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Progress {
    /// There is more, behind this key (of backfilling; empty for purging).
    More {
        /// The last document that was looked at.
        after: String,
    },
    /// Nothing is left to do.
    Complete,
    /// Of backfilling: this document has more values than an index takes of one. Nothing behind it was taken in; asked again, the answer
    /// is the same unless the document has changed.
    Impossible {
        /// Its key.
        key: String,
    },
}

impl Progress {
    /// Nothing is done yet.
    pub(crate) fn begun() -> Self {
        Self::More {
            after: String::new(),
        }
    }
}

impl Record for Progress {
    const FORMAT: u8 = 1;
    const WHAT: &'static str = "progress";
}

/// To which document a value of a unique index belongs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Reservation {
    /// Key of the document.
    pub owner: String,
    /// Index of the entry that reserved it last.
    pub reserved: u64,
    /// Whether the write that it was reserved for is known to have taken effect. Even so the document may have given it up since.
    pub confirmed: bool,
}

impl Record for Reservation {
    const FORMAT: u8 = 1;
    const WHAT: &'static str = "reservation";
}

/// What became of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The version that the write took; 0: a delete of a document that was not there, which takes none.
    pub version: u64,
    /// Time of the insert, microseconds since 1970; of a deleted document, its last; 0 where there was none.
    pub created_us: u64,
    /// Time of this write, microseconds since 1970; 0 for a delete of what was not there.
    pub updated_us: u64,
    /// Whether the document was there before.
    pub existed: bool,
    /// Whether this tells of an earlier request with the same idempotency key.
    pub replayed: bool,
    /// The complete JSON as it is served; empty for a delete, and when a put is replayed.
    pub body: Bytes,
}

/// Why a command had no effect. Stored in idempotency records: variants and fields are only added, variants at the end.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Rejection {
    /// The document should have been absent.
    Exists {
        /// Its version.
        version: u64,
    },
    /// The document has another version than the command wanted, or does not exist.
    OutOfDate {
        /// Its version; `None`: there is none.
        stored: Option<u64>,
    },
    /// There is no document to update. Only partial updates without a condition say so (contract 6): whole ones refuse as out of date,
    /// since clients take "not found" on them for success.
    NotFound,
    /// The stored document's ACL does not let the caller write.
    Denied,
    /// Neither does it, and the command would have changed the ACL.
    AclChangeDenied,
    /// The command was validated under other rules of the bucket than the shard has. Never recorded: validate again and retry.
    SchemaChanged {
        /// The version that the shard has; `None`: it does not know the bucket yet.
        stored: Option<u64>,
    },
    /// The bucket takes no more writes.
    BucketDropped,
    /// The idempotency key belongs to another request. Never recorded.
    IdempotencyMismatch,
    /// The shard has no room for another idempotency record. Never recorded: retry later, or without a key.
    IdempotencyBudget,
    /// A step of a partial update does not fit the stored document.
    Misfit {
        /// Which one, from 0.
        step: u32,
        /// Why.
        why: Misfit,
    },
    /// A partial update would make the document, or all documents of its batch together, larger than this; or a write, or a batch, would
    /// change more than this of the entries of indexes.
    TooLarge {
        /// Bytes that are allowed.
        bytes_max: u64,
    },
    /// The document would hold a value of a unique index that the write has not reserved, or whose claim was fenced. Never recorded:
    /// reserve and try again.
    Unclaimed {
        /// Id of the index.
        index: u32,
        /// The value.
        value: [u8; 32],
    },
    /// The document would have too many values in an index.
    TooManyValues {
        /// Id of the index.
        index: u32,
        /// How many are allowed.
        values_max: u64,
    },
}

/// [`document::update::Misfit`] as it is stored: variants are only added, at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Misfit {
    /// The stored value is no number.
    NotANumber,
    /// The stored value is no whole number.
    NotAnInteger,
    /// The stored value is no list.
    NotAList,
    /// The stored value has no members.
    NotAnObject,
    /// There is no such element.
    NoElement,
    /// The key to remove is no text.
    NotAKey,
    /// The result is out of range.
    Overflow,
}

impl Record for Rejection {
    const FORMAT: u8 = 1;
    const WHAT: &'static str = "rejection";
}

impl Outcome {
    /// The reply.
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn encode(&self) -> Result<Bytes> {
        let mut out = Vec::new();
        match self {
            Self::Written(all) => {
                out.reserve(
                    8 + all
                        .iter()
                        .map(|written| 40 + written.body.len())
                        .sum::<usize>(),
                );
                out.push(WRITTEN);
                put_varint(&mut out, all.len() as u64);
                for written in all {
                    written.put(&mut out);
                }
            }
            Self::Rejected { ordinal, rejection } => {
                out.push(REJECTED);
                put_varint(&mut out, *ordinal as u64);
                out.extend_from_slice(&codec::encode(rejection)?);
            }
            Self::Done => out.push(DONE),
            Self::Progress(progress) => {
                out.push(PROGRESS);
                out.extend_from_slice(&codec::encode(progress)?);
            }
            Self::Reserved { holder, is_own } => {
                out.extend_from_slice(&[RESERVED, u8::from(*is_own)]);
                out.extend_from_slice(&codec::encode(holder)?);
            }
            Self::Fenced { holds } => out.extend_from_slice(&[FENCED, u8::from(*holds)]),
        }
        Ok(out.into())
    }

    /// Reads a reply. Bodies are slices of it.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: no reply of this machine.
    pub fn decode(reply: &Bytes) -> Result<Self> {
        let mut reader = Reader::new("outcome", reply);
        let outcome = match reader.u8()? {
            WRITTEN => {
                let count = reader.varint()?;
                Self::Written(
                    (0..count)
                        .map(|_| Written::read(&mut reader, reply))
                        .collect::<Result<_>>()?,
                )
            }
            REJECTED => {
                let ordinal = usize::try_from(reader.varint()?)
                    .map_err(|_| reader.corrupt("ordinal out of range"))?;
                Self::Rejected {
                    ordinal,
                    rejection: codec::decode(reader.rest())?,
                }
            }
            DONE => Self::Done,
            PROGRESS => Self::Progress(codec::decode(reader.rest())?),
            RESERVED => {
                let is_own = read_bool(&mut reader)?;
                let holder = codec::decode(reader.rest())?;
                Self::Reserved { holder, is_own }
            }
            FENCED => Self::Fenced {
                holds: read_bool(&mut reader)?,
            },
            _ => return Err(reader.corrupt("unknown tag")),
        };
        reader.finish()?;
        Ok(outcome)
    }
}

fn read_bool(reader: &mut Reader<'_>) -> Result<bool> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(reader.corrupt("neither 0 nor 1")),
    }
}

impl Written {
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.version);
        put_varint(out, self.created_us);
        put_varint(out, self.updated_us);
        out.push(if self.existed { EXISTED } else { 0 } | if self.replayed { REPLAYED } else { 0 });
        put_bytes(out, &self.body);
    }

    fn read(reader: &mut Reader<'_>, reply: &Bytes) -> Result<Self> {
        let (version, created_us, updated_us) =
            (reader.varint()?, reader.varint()?, reader.varint()?);
        let flags = reader.u8()?;
        if flags & !(EXISTED | REPLAYED) != 0 {
            return Err(reader.corrupt("unknown flags"));
        }
        Ok(Self {
            version,
            created_us,
            updated_us,
            existed: flags & EXISTED != 0,
            replayed: flags & REPLAYED != 0,
            body: reply.slice_ref(reader.sized()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written() -> impl Strategy<Value = Written> {
        (any::<(u64, u64, u64, bool, bool)>(), any::<Vec<u8>>()).prop_map(
            |((version, created_us, updated_us, existed, replayed), body)| Written {
                version,
                created_us,
                updated_us,
                existed,
                replayed,
                body: body.into(),
            },
        )
    }

    fn rejections() -> impl Strategy<Value = Rejection> {
        prop_oneof![
            any::<u64>().prop_map(|version| Rejection::Exists { version }),
            any::<Option<u64>>().prop_map(|stored| Rejection::OutOfDate { stored }),
            Just(Rejection::NotFound),
            Just(Rejection::Denied),
            Just(Rejection::AclChangeDenied),
            any::<Option<u64>>().prop_map(|stored| Rejection::SchemaChanged { stored }),
            Just(Rejection::BucketDropped),
            Just(Rejection::IdempotencyMismatch),
            Just(Rejection::IdempotencyBudget),
            any::<u32>().prop_map(|step| Rejection::Misfit {
                step,
                why: Misfit::NoElement
            }),
            any::<u64>().prop_map(|bytes_max| Rejection::TooLarge { bytes_max }),
            any::<(u32, [u8; 32])>()
                .prop_map(|(index, value)| Rejection::Unclaimed { index, value }),
            any::<(u32, u64)>()
                .prop_map(|(index, values_max)| Rejection::TooManyValues { index, values_max }),
        ]
    }

    fn outcomes() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            proptest::collection::vec(written(), 0..4).prop_map(Outcome::Written),
            (any::<usize>(), rejections())
                .prop_map(|(ordinal, rejection)| Outcome::Rejected { ordinal, rejection }),
            Just(Outcome::Done),
            any::<String>().prop_map(|after| Outcome::Progress(Progress::More { after })),
            Just(Outcome::Progress(Progress::Complete)),
            any::<String>().prop_map(|key| Outcome::Progress(Progress::Impossible { key })),
            any::<(String, u64, bool, bool)>().prop_map(|(owner, reserved, confirmed, is_own)| {
                let holder = Reservation {
                    owner,
                    reserved,
                    confirmed,
                };
                Outcome::Reserved { holder, is_own }
            }),
            any::<bool>().prop_map(|holds| Outcome::Fenced { holds }),
        ]
    }

    #[test]
    fn stored_rejections_keep_their_numbers() {
        // Format, then the variant. Records of every release since the first hold these.
        for (rejection, bytes) in [
            (Rejection::Exists { version: 7 }, &[1, 0, 7][..]),
            (Rejection::OutOfDate { stored: None }, &[1, 1, 0]),
            (Rejection::NotFound, &[1, 2]),
            (Rejection::Denied, &[1, 3]),
            (Rejection::AclChangeDenied, &[1, 4]),
            (Rejection::SchemaChanged { stored: Some(7) }, &[1, 5, 1, 7]),
            (Rejection::BucketDropped, &[1, 6]),
            (Rejection::IdempotencyMismatch, &[1, 7]),
            (Rejection::IdempotencyBudget, &[1, 8]),
            (
                Rejection::Misfit {
                    step: 3,
                    why: Misfit::Overflow,
                },
                &[1, 9, 3, 6],
            ),
            (Rejection::TooLarge { bytes_max: 7 }, &[1, 10, 7]),
            (
                Rejection::Unclaimed {
                    index: 3,
                    value: [7; 32],
                },
                &[&[1, 11, 3][..], &[7; 32]].concat(),
            ),
            (
                Rejection::TooManyValues {
                    index: 3,
                    values_max: 7,
                },
                &[1, 12, 3, 7],
            ),
        ] {
            assert_eq!(codec::encode(&rejection).expect("encodes"), bytes);
        }
    }

    proptest! {
        #[test]
        fn outcomes_round_trip(outcome in outcomes()) {
            let reply = outcome.encode().expect("encodes");
            prop_assert_eq!(Outcome::decode(&reply).expect("decodes"), outcome);
        }

        #[test]
        fn any_bytes_decode_or_are_corrupt(tag in 0..8u8, bytes: Vec<u8>) {
            let reply = Bytes::from([&[tag], &bytes[..]].concat());
            if let Err(error) = Outcome::decode(&reply) {
                let is_corrupt = matches!(error, crate::Error::Corrupt { .. });
                prop_assert!(is_corrupt);
            }
        }
    }
}
