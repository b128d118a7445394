//! Reads that may wait for a disk run on blocking threads, a bounded number at a time.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::error::{Error, Result};

/// The pool. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ReadPool {
    permits: Arc<Semaphore>,
}

impl ReadPool {
    /// At most `reads_max` at a time.
    pub(crate) fn new(reads_max: usize) -> ReadPool {
        ReadPool {
            permits: Arc::new(Semaphore::new(reads_max)),
        }
    }

    /// Runs `read` on a blocking thread.
    ///
    /// A read that has begun is not stopped by the deadline or by dropping the future; it keeps its place in the pool to its end.
    pub(crate) async fn run<T, F>(&self, deadline: Instant, read: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        let permit =
            tokio::time::timeout_at(deadline.into(), Arc::clone(&self.permits).acquire_owned())
                .await;
        let permit = match permit {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => {
                return Err(Error::unavailable("too many reads wait for the disk"));
            }
        };
        let read = tokio::task::spawn_blocking(move || {
            let result = read();
            drop(permit);
            result
        });
        read.await
            .unwrap_or_else(|failed| Err(Error::internal(&failed).with_effect(proto::Effect::None)))
    }
}
