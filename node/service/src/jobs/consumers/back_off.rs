//! When a batch that a target did not take is sent again: after a second, then after twice as long each time, up to a minute; a part of it
//! by chance, so that many senders that failed together do not come together again. What the target asks for is longer, or is not needed.

use std::time::{Duration, Instant};

/// Before the second try.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause that is chosen here.
const LONGEST: Duration = Duration::from_secs(60);
/// The longest that a target may ask for.
const ASKED_LONGEST: Duration = Duration::from_secs(60 * 60);

/// Failures of one target, one after the other.
#[derive(Debug)]
pub(super) struct Failing {
    since: Instant,
    pub(super) tries: u64,
}

impl Failing {
    pub(super) fn begin() -> Failing {
        Failing {
            since: Instant::now(),
            tries: 0,
        }
    }

    /// For how long.
    pub(super) fn time(&self) -> Duration {
        self.since.elapsed()
    }

    /// How long to wait after the last failure; `chance` is from 0 to 1.
    pub(super) fn pause(&self, asked: Option<Duration>, chance: f64) -> Duration {
        let doublings = u32::try_from(self.tries.saturating_sub(1)).unwrap_or(u32::MAX);
        let factor = 1_u32.checked_shl(doublings.min(31)).unwrap_or(u32::MAX);
        let longest = FIRST.saturating_mul(factor).min(LONGEST);
        let own = longest.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0);
        own.max(asked.unwrap_or_default().min(ASKED_LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_heed_the_target() {
        let mut failing = Failing::begin();
        let mut pauses = Vec::new();
        for tries in 1..=9 {
            failing.tries = tries;
            let (least, most) = (failing.pause(None, 0.0), failing.pause(None, 1.0));
            assert_eq!(least * 2, most);
            pauses.push(most.as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        failing.tries = u64::MAX;
        assert_eq!(failing.pause(None, 1.0), LONGEST);
        let asked = |seconds| failing.pause(Some(Duration::from_secs(seconds)), 0.0);
        assert_eq!(asked(300).as_secs(), 300);
        assert_eq!(asked(5).as_secs(), 30);
        assert_eq!(asked(1_000_000), ASKED_LONGEST);
    }
}
