//! The only reader of clocks. Wall time stamps what people read and dates tokens; nothing is decided by it in apply.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Two clocks: what time people would say it is, and one that never jumps.
pub trait Clock: Send + Sync + 'static {
    /// Microseconds since 1970.
    fn wall_us(&self) -> u64;

    /// Time since an arbitrary start, monotonic.
    fn elapsed(&self) -> Duration;
}

/// The clocks of the machine.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Starts the monotonic side at zero.
    pub fn new() -> SystemClock {
        SystemClock {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads wall time"
    )]
    fn wall_us(&self) -> u64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that moves when it is told to: for tests and simulation.
#[derive(Debug)]
pub struct ManualClock {
    start_us: u64,
    passed_us: AtomicU64,
    jumped_us: AtomicI64,
}

impl ManualClock {
    /// Begins at this wall time, in microseconds since 1970.
    pub fn at(start_us: u64) -> ManualClock {
        ManualClock {
            start_us,
            passed_us: AtomicU64::new(0),
            jumped_us: AtomicI64::new(0),
        }
    }

    /// Moves the wall time alone, as somebody who sets a clock does: by so many microseconds, back where they are below 0.
    pub fn jump(&self, by_us: i64) {
        self.jumped_us.fetch_add(by_us, Ordering::Relaxed);
    }

    /// Lets time pass on both sides.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.passed_us.fetch_add(by, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn wall_us(&self) -> u64 {
        self.start_us
            .saturating_add(self.passed_us.load(Ordering::Relaxed))
            .saturating_add_signed(self.jumped_us.load(Ordering::Relaxed))
    }

    fn elapsed(&self) -> Duration {
        Duration::from_micros(self.passed_us.load(Ordering::Relaxed))
    }
}
