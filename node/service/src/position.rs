//! How far a shard had got when an answer was given, in the form that clients carry around.
//!
//! Text of hexadecimal digits: form (2), shard (8), applied index (16). Opaque outside, so that the form may change: a client hands it
//! back as it is.

use std::fmt;

use proto::ShardId;

/// The only form so far.
const FORM: u8 = 1;
/// Digits of a whole position.
const DIGITS: usize = 2 + 8 + 16;

/// A shard and an index that was applied in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The shard.
    pub shard: ShardId,
    /// The log index. Every replica that has applied it has seen at least what the answer showed.
    pub index: u64,
}

impl Position {
    /// Reads the text form. `None`: not one of ours.
    pub fn parse(text: &str) -> Option<Position> {
        // The digits are looked at because the parser of numbers would take a sign.
        if text.len() != DIGITS || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let form = u8::from_str_radix(text.get(..2)?, 16).ok()?;
        let shard = u32::from_str_radix(text.get(2..10)?, 16).ok()?;
        let index = u64::from_str_radix(text.get(10..)?, 16).ok()?;
        (form == FORM).then_some(Position {
            shard: ShardId(shard),
            index,
        })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FORM:02x}{:08x}{:016x}", self.shard.0, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_round_trip() {
        for (shard, index) in [(1, 1), (1024, u64::MAX), (u32::MAX, 0)] {
            let position = Position {
                shard: ShardId(shard),
                index,
            };
            assert_eq!(Position::parse(&position.to_string()), Some(position));
        }
    }

    #[test]
    fn what_is_no_position_is_not_read_as_one() {
        let good = Position {
            shard: ShardId(3),
            index: 77,
        }
        .to_string();
        assert!(Position::parse(&good).is_some());
        for bad in [
            "",
            "1",
            &good[1..],
            &format!("{good}0"),
            &good.replacen("01", "02", 1),
            &good.replacen('0', "+", 1),
            &good.replacen('0', "g", 1),
            "\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}",
        ] {
            assert_eq!(Position::parse(bad), None, "{bad}");
        }
    }
}
