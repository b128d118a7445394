//! `--verify`: every key has one writer, who knows what may be read.
//!
//! A writer numbers its writes and sends each on the condition that the document still has the version it knows of.
//! So a write of unknown outcome cannot take effect after a later one was acknowledged, and at every moment exactly
//! these values are allowed: the last acknowledged one, and those of unknown outcome sent after it. A write that was
//! promised to have no effect must never be seen.

use serde_json::{Value, json};

use super::client::{Condition, Stored};

/// Violations that are spelt out in the report.
const EXAMPLES_MAX: usize = 20;

/// What a read tells: sequence number and version; `None`: no document.
pub(super) type Seen = Option<(u64, u64)>;

/// What one writer knows about its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Register {
    pub(super) key: String,
    /// The sequence number of the last write known to have taken effect; 0: none.
    acked: u64,
    /// The document's version since then; 0: no document.
    version: u64,
    /// Writes after `acked` of unknown outcome. All carry the condition on `version`: at most one took effect.
    unknown: Vec<u64>,
    /// The condition of the next write may be out of date: read first.
    doubt: bool,
    next: u64,
}

/// A reading that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    /// An acknowledged write is gone.
    Lost {
        key: String,
        acknowledged: u64,
        seen: Seen,
    },
    /// A value that was never acknowledged, nor of unknown outcome: refused with no effect, or not written at all.
    Phantom {
        key: String,
        acknowledged: u64,
        seen: Seen,
    },
}

impl Register {
    pub(super) fn new(key: String) -> Self {
        Self {
            key,
            acked: 0,
            version: 0,
            unknown: Vec::new(),
            doubt: false,
            next: 1,
        }
    }

    /// The next write: its sequence number and its condition.
    pub(super) fn begin(&mut self) -> (u64, Condition) {
        let sequence = self.next;
        self.next += 1;
        let condition = if self.version == 0 {
            Condition::Absent
        } else {
            Condition::Version(self.version)
        };
        (sequence, condition)
    }

    /// The write took effect.
    pub(super) fn acknowledge(&mut self, sequence: u64, version: u64) {
        (self.acked, self.version) = (sequence, version);
        self.unknown.clear();
    }

    /// The write may have taken effect, or may still.
    pub(super) fn leave_unknown(&mut self, sequence: u64) {
        self.unknown.push(sequence);
        self.doubt = true;
    }

    /// The write was refused since its condition did not hold: an earlier one has taken effect, or one was lost.
    pub(super) fn conflict(&mut self) {
        self.doubt = true;
    }

    /// Whether a read must come before the next write.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.doubt
    }

    /// Judges a linearizable read that no write of this writer overlapped, and learns from it.
    pub(super) fn observe(&mut self, seen: Seen) -> Result<(), Violation> {
        let (sequence, version) = seen.unwrap_or((0, 0));
        self.doubt = false;
        if (sequence, version) == (self.acked, self.version) {
            return Ok(());
        }
        // Seen once, it is as good as acknowledged, and no other write on the same condition can take effect.
        if self.unknown.contains(&sequence) && version == self.version + 1 {
            self.acknowledge(sequence, version);
            return Ok(());
        }
        let (key, acknowledged) = (self.key.clone(), self.acked);
        if sequence < self.acked || version < self.version {
            return Err(Violation::Lost {
                key,
                acknowledged,
                seen,
            });
        }
        Err(Violation::Phantom {
            key,
            acknowledged,
            seen,
        })
    }
}

/// The body of a write: the sequence number and padding.
pub(super) fn body(sequence: u64, padding: &str) -> Vec<u8> {
    format!("{{\"sequence\":{sequence},\"value\":\"{padding}\"}}").into_bytes()
}

/// What a stored document tells; a body that is none of ours counts as sequence number `u64::MAX`.
pub(super) fn seen(stored: Option<&Stored>) -> Seen {
    stored.map(|stored| {
        let json: Value = serde_json::from_slice(&stored.body).unwrap_or_default();
        (
            json.get("sequence")
                .and_then(Value::as_u64)
                .unwrap_or(u64::MAX),
            stored.version,
        )
    })
}

/// What was found, over all writers.
#[derive(Debug, Default)]
pub(super) struct Findings {
    keys: u64,
    acknowledged: u64,
    unknown: u64,
    lost: u64,
    phantoms: u64,
    unreadable: u64,
    reads: u64,
    examples: Vec<String>,
}

impl Findings {
    /// Counts a key when all is done.
    pub(super) fn key(&mut self) {
        self.keys += 1;
    }

    /// Counts an acknowledged write.
    pub(super) fn acknowledged(&mut self) {
        self.acknowledged += 1;
    }

    /// Counts a write of unknown outcome.
    pub(super) fn unknown(&mut self) {
        self.unknown += 1;
    }

    /// Counts a read that was judged.
    pub(super) fn judged(&mut self, host: &str, verdict: Result<(), Violation>) {
        self.reads += 1;
        let Err(violation) = verdict else { return };
        let (what, key, acknowledged, seen) = match violation {
            Violation::Lost {
                key,
                acknowledged,
                seen,
            } => {
                self.lost += 1;
                ("lost", key, acknowledged, seen)
            }
            Violation::Phantom {
                key,
                acknowledged,
                seen,
            } => {
                self.phantoms += 1;
                ("phantom", key, acknowledged, seen)
            }
        };
        let found = seen.map_or_else(
            || "no document".to_owned(),
            |(n, version)| format!("write {n}, version {version}"),
        );
        self.example(format!(
            "{what}: {key} at {host}: write {acknowledged} was acknowledged, found {found}"
        ));
    }

    /// Counts a key that a node did not let be read.
    pub(super) fn unreadable(&mut self, key: &str, host: &str, code: &str) {
        self.unreadable += 1;
        self.example(format!("unreadable: {key} at {host}: {code}"));
    }

    fn example(&mut self, text: String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(text);
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.keys += other.keys;
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.lost += other.lost;
        self.phantoms += other.phantoms;
        self.unreadable += other.unreadable;
        self.reads += other.reads;
        for example in other.examples {
            self.example(example);
        }
    }

    /// Nothing is wrong, and everything was looked at.
    pub(super) fn is_clean(&self) -> bool {
        self.lost + self.phantoms + self.unreadable == 0
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "ok": self.is_clean(), "keys": self.keys, "acknowledged": self.acknowledged, "unknown": self.unknown,
            "judgedReads": self.reads, "lost": self.lost, "phantoms": self.phantoms, "unreadable": self.unreadable,
            "examples": self.examples,
        })
    }

    pub(super) fn print(&self) {
        eprintln!(
            "verify: {} keys, {} acknowledged writes, {} of unknown outcome, {} reads judged: {} lost, {} phantoms, \
             {} unreadable",
            self.keys,
            self.acknowledged,
            self.unknown,
            self.reads,
            self.lost,
            self.phantoms,
            self.unreadable
        );
        for example in &self.examples {
            eprintln!("  {example}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register whose writes up to `sequence` are acknowledged.
    fn written(sequence: u64) -> Register {
        let mut register = Register::new("k".to_owned());
        for version in 1..=sequence {
            let (sequence, _) = register.begin();
            register.acknowledge(sequence, version);
        }
        register
    }

    #[test]
    fn the_last_acknowledged_value_is_accepted() {
        let mut register = written(3);
        assert_eq!(register.observe(Some((3, 3))), Ok(()));
        assert_eq!(Register::new("k".to_owned()).observe(None), Ok(()));
    }

    #[test]
    fn a_lost_acknowledged_write_is_caught() {
        for seen in [None, Some((2, 2)), Some((2, 9)), Some((9, 2))] {
            let verdict = written(3).observe(seen);
            assert!(
                matches!(
                    verdict,
                    Err(Violation::Lost {
                        acknowledged: 3,
                        ..
                    })
                ),
                "{seen:?}: {verdict:?}"
            );
        }
    }

    #[test]
    fn a_later_value_of_unknown_outcome_is_accepted_once_and_for_all() {
        let mut register = written(3);
        let (sequence, condition) = register.begin();
        assert_eq!(condition, Condition::Version(3));
        register.leave_unknown(sequence);
        assert!(register.is_in_doubt());
        // Not yet applied: both are possible.
        assert_eq!(register.observe(Some((3, 3))), Ok(()));
        assert!(!register.is_in_doubt());
        assert_eq!(register.observe(Some((4, 4))), Ok(()));
        // Once read, it must not vanish.
        assert!(matches!(
            register.observe(Some((3, 3))),
            Err(Violation::Lost {
                acknowledged: 4,
                ..
            })
        ));
    }

    #[test]
    fn an_unknown_write_cannot_come_back_after_a_later_acknowledged_one() {
        let mut register = written(3);
        let (fourth, _) = register.begin();
        register.leave_unknown(fourth);
        let (fifth, condition) = register.begin();
        assert_eq!(condition, Condition::Version(3));
        register.acknowledge(fifth, 4);
        assert!(matches!(
            register.observe(Some((fourth, 5))),
            Err(Violation::Lost { .. })
        ));
    }

    #[test]
    fn a_write_that_was_refused_with_no_effect_must_not_be_seen() {
        let mut register = written(3);
        let (refused, _) = register.begin();
        assert!(matches!(
            register.observe(Some((refused, 4))),
            Err(Violation::Phantom { .. })
        ));
    }

    #[test]
    fn a_value_that_took_effect_twice_is_caught() {
        assert!(matches!(
            written(3).observe(Some((3, 4))),
            Err(Violation::Phantom { .. })
        ));
        let mut register = written(3);
        let (sequence, _) = register.begin();
        register.leave_unknown(sequence);
        assert!(matches!(
            register.observe(Some((4, 5))),
            Err(Violation::Phantom { .. })
        ));
    }

    #[test]
    fn the_first_write_demands_that_there_is_no_document() {
        let mut register = Register::new("k".to_owned());
        let (first, condition) = register.begin();
        assert_eq!(condition, Condition::Absent);
        register.leave_unknown(first);
        assert_eq!(register.begin().1, Condition::Absent);
        assert_eq!(register.observe(Some((1, 1))), Ok(()));
        assert_eq!(register.begin().1, Condition::Version(1));
    }

    #[test]
    fn bodies_carry_the_sequence_number() {
        let stored = Stored {
            version: 4,
            body: body(7, "xyz").into(),
        };
        assert_eq!(seen(Some(&stored)), Some((7, 4)));
        assert_eq!(seen(None), None);
        let foreign = Stored {
            version: 4,
            body: bytes::Bytes::from_static(b"[]"),
        };
        assert_eq!(seen(Some(&foreign)), Some((u64::MAX, 4)));
    }

    #[test]
    fn any_loss_spoils_the_findings() {
        let mut findings = Findings::default();
        findings.judged("a:1", Ok(()));
        assert!(findings.is_clean());
        findings.judged("a:1", written(3).observe(None));
        assert!(!findings.is_clean());
        assert_eq!(findings.json()["lost"], 1);
        assert!(
            findings.json()["examples"][0]
                .as_str()
                .unwrap()
                .contains("no document")
        );
    }
}
