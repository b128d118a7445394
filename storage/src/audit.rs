//! Records of the audit log, and the hash chain that they form.
//!
//! A record is a JSON text; its hash is SHA-256 over the hash of the one before it and the text, so nobody changes, removes or inserts a
//! record without changing every hash behind it. There is one chain for each shard, whose rows apply writes ([`crate::tables::audit`]), and
//! one for each node, in files of its own. What is checked is the text as it is stored: an export can be checked without the node.
//!
//! Lacks: secrecy, and signatures. Who can rewrite a whole chain and every place where its hash was written down can forge it.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A hash of the chain.
pub type Hash = [u8; 32];

/// What the first record of a chain is linked to.
pub const BEGINNING: Hash = [0; 32];

/// Longest text of a member, in bytes; longer ones are cut.
pub const TEXT_BYTES_MAX: usize = 512;

/// One record. Members that say nothing are left out of the text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// Its place in the chain, from 1.
    pub sequence: u64,
    /// When it happened, microseconds since 1970, by the clock of the node that stamped it.
    pub time_us: u64,
    /// What happened.
    pub action: String,
    /// Who did it: the id of a user, or the name that somebody gave. Empty: an operator at a node, or the cluster itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// In which database: its name, or in chains of document shards its number.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub database: String,
    /// What it was done to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// More of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// From where.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// How often, if more than once.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub count: u64,
}

fn once() -> u64 {
    1
}

fn is_once(count: &u64) -> bool {
    *count == 1
}

impl Record {
    /// The text that is stored and hashed, with long members cut.
    pub fn text(mut self) -> String {
        for member in [
            &mut self.user,
            &mut self.database,
            &mut self.target,
            &mut self.detail,
            &mut self.address,
        ] {
            member.truncate(member.floor_char_boundary(TEXT_BYTES_MAX));
        }
        // Texts and numbers always have a JSON form.
        serde_json::to_string(&self).unwrap_or_default()
    }
}

/// The hash of a record with this text behind one with the hash `before`.
pub fn link(before: &Hash, text: &[u8]) -> Hash {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(text);
    hash.finalize().into()
}

/// Checks a chain record by record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checker {
    /// The place of the next record.
    pub next: u64,
    /// The hash that it is linked to.
    pub hash: Hash,
}

impl Checker {
    /// Goes on behind a record; from the beginning with 0 and [`BEGINNING`].
    pub fn behind(sequence: u64, hash: Hash) -> Self {
        Self {
            next: sequence.saturating_add(1),
            hash,
        }
    }

    /// Takes the next record. What does not fit is not taken.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn take(&mut self, text: &[u8], hash: &Hash) -> Result<Record, String> {
        let record: Record =
            serde_json::from_slice(text).map_err(|error| format!("is no audit record: {error}"))?;
        if record.sequence != self.next {
            return Err(format!("is number {}, not {}", record.sequence, self.next));
        }
        if link(&self.hash, text) != *hash {
            return Err(
                "does not fit its hash, or was not written behind the one before it".into(),
            );
        }
        *self = Self::behind(record.sequence, *hash);
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three records and their hashes.
    fn chain() -> Vec<(String, Hash)> {
        let mut hash = BEGINNING;
        (1..=3)
            .map(|sequence| {
                let record = Record {
                    sequence,
                    time_us: 7,
                    action: "logged_in".into(),
                    user: format!("user {sequence}"),
                    count: 1,
                    ..Record::default()
                };
                let text = record.text();
                hash = link(&hash, text.as_bytes());
                (text, hash)
            })
            .collect()
    }

    /// The place of the first record that does not fit.
    fn first_bad(chain: &[(String, Hash)]) -> Option<usize> {
        let mut checker = Checker::behind(0, BEGINNING);
        chain
            .iter()
            .position(|(text, hash)| checker.take(text.as_bytes(), hash).is_err())
    }

    #[test]
    fn a_chain_fits_and_every_change_of_it_shows() {
        assert_eq!(first_bad(&chain()), None);
        let mut changed = chain();
        changed[1].0 = changed[1].0.replace("user 2", "user 9");
        assert_eq!(first_bad(&changed), Some(1));
        // With its hash made to fit, the next one tells.
        changed[1].1 = link(&changed[0].1, changed[1].0.as_bytes());
        assert_eq!(first_bad(&changed), Some(2));
        let mut removed = chain();
        removed.remove(1);
        assert_eq!(first_bad(&removed), Some(1));
        let mut swapped = chain();
        swapped.swap(0, 1);
        assert_eq!(first_bad(&swapped), Some(0));
    }

    #[test]
    fn a_text_says_only_what_there_is_to_say() {
        let (text, _) = chain().swap_remove(0);
        assert_eq!(
            text,
            r#"{"sequence":1,"timeUs":7,"action":"logged_in","user":"user 1"}"#
        );
        let long = Record {
            detail: "\u{20ac}".repeat(TEXT_BYTES_MAX),
            count: 2,
            ..Record::default()
        };
        let back: Record = serde_json::from_str(&long.text()).expect("a record");
        assert_eq!((back.detail.len(), back.count), (510, 2));
    }
}
