//! Keys of what every node must know of a database's rights, in [`crate::engine::Column::State`]:
//!
//! | key | row |
//! |---|---|
//! | `store \| 0x12 \| database u32 \| 0` | how far the rows of the database are |
//! | `store \| 0x12 \| database u32 \| 1 \| subject u8 \| key` | the last change of a role, or end of a user's sessions |
//! | `store \| 0x12 \| database u32 \| 2 \| index u64 \| subject u8 \| key` | the same subjects in the order in which they changed |
//! | `store \| 0x13 \| database u32 \| key` | a user whose sessions are to be ended, in the user's own shard |

use std::fmt;

use super::{KeyKind, begin, open};
use crate::codec::Reader;
use crate::error::Result;

const HEAD: u8 = 0;
const SUBJECT: u8 = 1;
const ORDER: u8 = 2;

const ROLE: u8 = b'r';
const USER: u8 = b'u';

/// Whose rights changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject<'a> {
    /// A role with this key was written or deleted.
    Role(&'a str),
    /// The sessions of the user with this key were ended.
    User(&'a str),
}

/// Key of a row about rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RightsKey<'a> {
    /// How far the rows of a database are.
    Head {
        /// Id of the database.
        database: u32,
    },
    /// A subject's last change.
    Subject {
        /// Id of the database.
        database: u32,
        /// Whose.
        subject: Subject<'a>,
    },
    /// Its place among all of them.
    Order {
        /// Id of the database.
        database: u32,
        /// Index of the entry that changed it.
        index: u64,
        /// Whose.
        subject: Subject<'a>,
    },
}

impl<'a> RightsKey<'a> {
    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        match self {
            Self::Head { database } => part(database, HEAD, 0),
            Self::Subject { database, subject } => {
                let mut key = part(database, SUBJECT, subject.len());
                subject.append(&mut key);
                key
            }
            Self::Order {
                database,
                index,
                subject,
            } => {
                let mut key = part(database, ORDER, 8 + subject.len());
                key.extend_from_slice(&index.to_be_bytes());
                subject.append(&mut key);
                key
            }
        }
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &'a [u8]) -> Result<Self> {
        let mut reader = open(KeyKind::Rights, "rights key", key)?;
        let database = reader.u32_be()?;
        match reader.u8()? {
            HEAD => {
                reader.finish()?;
                Ok(Self::Head { database })
            }
            SUBJECT => Ok(Self::Subject {
                database,
                subject: Subject::read(&mut reader)?,
            }),
            ORDER => Ok(Self::Order {
                database,
                index: reader.u64_be()?,
                subject: Subject::read(&mut reader)?,
            }),
            _ => Err(reader.corrupt("no such part")),
        }
    }

    /// What the keys of all places of a database begin with.
    pub fn order_prefix(database: u32) -> Vec<u8> {
        part(database, ORDER, 0)
    }

    /// Where the places of entries after `index` begin.
    pub fn order_after(database: u32, index: u64) -> Vec<u8> {
        let mut key = part(database, ORDER, 8);
        key.extend_from_slice(&index.saturating_add(1).to_be_bytes());
        key
    }
}

impl fmt::Display for RightsKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head { database } => write!(f, "rights {database} head"),
            Self::Subject { database, subject } => write!(f, "rights {database} {subject}"),
            Self::Order {
                database,
                index,
                subject,
            } => write!(f, "rights {database} at {index} {subject}"),
        }
    }
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(key) => write!(f, "role {key:?}"),
            Self::User(key) => write!(f, "user {key:?}"),
        }
    }
}

impl<'a> Subject<'a> {
    fn len(self) -> usize {
        let (Self::Role(key) | Self::User(key)) = self;
        1 + key.len()
    }

    fn append(self, out: &mut Vec<u8>) {
        let (tag, key) = match self {
            Self::Role(key) => (ROLE, key),
            Self::User(key) => (USER, key),
        };
        out.push(tag);
        out.extend_from_slice(key.as_bytes());
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self> {
        let tag = reader.u8()?;
        let key = std::str::from_utf8(reader.rest()).map_err(|_| reader.corrupt("not UTF-8"))?;
        match tag {
            ROLE => Ok(Self::Role(key)),
            USER => Ok(Self::User(key)),
            _ => Err(reader.corrupt("no such subject")),
        }
    }
}

fn part(database: u32, part: u8, rest: usize) -> Vec<u8> {
    let mut key = begin(KeyKind::Rights, 5 + rest);
    key.extend_from_slice(&database.to_be_bytes());
    key.push(part);
    key
}

/// Key of a user whose sessions are to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionEndKey<'a> {
    /// Id of the database.
    pub database: u32,
    /// Decoded key of the user.
    pub user: &'a str,
}

impl<'a> SessionEndKey<'a> {
    /// The key without store id.
    pub fn encode(self) -> Vec<u8> {
        let mut key = begin(KeyKind::SessionEnd, 4 + self.user.len());
        key.extend_from_slice(&self.database.to_be_bytes());
        key.extend_from_slice(self.user.as_bytes());
        key
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`]: another layout.
    pub fn decode(key: &'a [u8]) -> Result<Self> {
        let mut reader = open(KeyKind::SessionEnd, "session end key", key)?;
        let database = reader.u32_be()?;
        let user = std::str::from_utf8(reader.rest()).map_err(|_| reader.corrupt("not UTF-8"))?;
        Ok(Self { database, user })
    }

    /// What the keys of all of them begin with.
    pub fn prefix() -> Vec<u8> {
        begin(KeyKind::SessionEnd, 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Parts = (u8, u32, u64, bool, String);

    fn parts() -> impl Strategy<Value = Parts> {
        (
            0..3u8,
            prop_oneof![0..3u32, any::<u32>()],
            prop_oneof![0..3u64, any::<u64>()],
            any::<bool>(),
            "[a-c\u{0}ä😀]{0,4}",
        )
    }

    fn key_of((part, database, index, is_role, key): &Parts) -> RightsKey<'_> {
        let (database, index) = (*database, *index);
        let subject = if *is_role {
            Subject::Role(key)
        } else {
            Subject::User(key)
        };
        match part {
            0 => RightsKey::Head { database },
            1 => RightsKey::Subject { database, subject },
            _ => RightsKey::Order {
                database,
                index,
                subject,
            },
        }
    }

    proptest! {
        #[test]
        fn round_trips(parts in parts()) {
            let bytes = key_of(&parts).encode();
            prop_assert_eq!(RightsKey::decode(&bytes).expect("decodes"), key_of(&parts));
        }

        #[test]
        fn places_are_in_the_order_of_their_entries(a in parts(), b in parts()) {
            let (a, b) = ((2, 1, a.2, a.3, a.4), (2, 1, b.2, b.3, b.4));
            let (a, b) = (key_of(&a), key_of(&b));
            prop_assert_eq!(a.encode().cmp(&b.encode()), a.cmp(&b));
        }

        #[test]
        fn what_comes_after_an_entry_begins_behind_it(parts in parts(), after in 0..5u64) {
            let parts = (2, 1, parts.2, parts.3, parts.4);
            let behind = key_of(&parts).encode() >= RightsKey::order_after(1, after);
            prop_assert_eq!(behind, parts.2 > after);
        }

        #[test]
        fn session_ends_round_trip(database: u32, user in "[a-c\u{0}ä😀]{0,4}") {
            let key = SessionEndKey { database, user: &user };
            let bytes = key.encode();
            prop_assert_eq!(SessionEndKey::decode(&bytes).expect("decodes"), key);
        }
    }
}
