//! Waiting for conditions. The only place of the tests that sleeps, and only between two looks at a condition.

use std::future::Future;
use std::time::{Duration, Instant};

/// Between two looks. Short against an election, long against the cost of a look.
const LOOK: Duration = Duration::from_millis(25);

/// Waits until `condition` gives a value; looks again after each `None`.
///
/// A look that takes longer than the time left is given up, so a condition may wait for I/O without a limit of its own.
///
/// # Panics
/// After `deadline`, with `what` was waited for.
pub async fn eventually<T, F, Fut>(what: &str, deadline: Duration, condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    match within(deadline, condition).await {
        Some(value) => value,
        None => panic!("waited {deadline:?} in vain: {what}"),
    }
}

/// Like [`eventually`], with `None` instead of the panic.
pub async fn within<T, F, Fut>(deadline: Duration, mut condition: F) -> Option<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let end = Instant::now() + deadline;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if let Ok(Some(value)) = tokio::time::timeout(left, condition()).await {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The same for code that is not async.
pub fn within_blocking<T>(
    deadline: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_is_looked_at_until_it_holds() {
        let mut looks = 0;
        let seen = within(Duration::from_secs(5), || {
            looks += 1;
            let value = (looks == 3).then_some(looks);
            async move { value }
        });
        assert_eq!(seen.await, Some(3));
    }

    #[tokio::test]
    async fn waiting_ends_at_the_deadline_even_inside_a_look() {
        let never = within(
            Duration::from_millis(60),
            std::future::pending::<Option<()>>,
        );
        assert_eq!(
            tokio::time::timeout(Duration::from_secs(5), never)
                .await
                .expect("bounded"),
            None
        );
        assert_eq!(
            within_blocking(Duration::from_millis(60), || None::<()>),
            None
        );
    }
}
