//! Several named checks on one cluster: a failed one does not hide the others.
//!
//! Starting a cluster costs seconds, so tests that do not disturb each other share one inside a single test function.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;

/// Runs checks and remembers which failed.
#[derive(Default)]
pub struct Checks {
    passed: usize,
    failed: Vec<String>,
}

impl Checks {
    /// No check has run.
    pub fn new() -> Checks {
        Checks::default()
    }

    /// Runs one check; a panic inside marks it as failed and is printed as usual.
    pub async fn check<F: Future<Output = ()>>(&mut self, name: &str, check: F) {
        match AssertUnwindSafe(Box::pin(check)).catch_unwind().await {
            Ok(()) => self.passed += 1,
            Err(_) => {
                eprintln!("check failed: {name}");
                self.failed.push(name.to_owned());
            }
        }
    }

    /// Ends the test.
    ///
    /// # Panics
    /// If a check failed, with the names of all that did.
    pub fn finish(self) {
        assert!(
            self.failed.is_empty(),
            "{} passed, {} failed: {}",
            self.passed,
            self.failed.len(),
            self.failed.join("; ")
        );
        assert!(self.passed > 0, "no check has run");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_check_is_named_and_the_next_one_still_runs() {
        let mut checks = Checks::new();
        checks.check("fails", async { panic!("on purpose") }).await;
        checks.check("holds", async {}).await;
        assert_eq!(
            (checks.passed, checks.failed.clone()),
            (1, vec!["fails".to_owned()])
        );
        assert!(std::panic::catch_unwind(|| checks.finish()).is_err());
    }
}
