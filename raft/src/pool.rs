//! Threads for work that may block on RocksDB, apply aside: building and installing snapshots.
//!
//! No order between jobs is promised.

use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// Jobs that may wait; each group has at most a few under way, so this is far above their number.
const JOBS_MAX: usize = 8192;

/// A fixed set of threads. Dropping the last handle ends them after the jobs they hold.
#[derive(Clone)]
pub struct Pool {
    jobs: Sender<Job>,
}

impl Pool {
    /// Starts `threads` threads named `name`.
    ///
    /// # Errors
    /// The system refused a thread.
    pub fn new(name: &str, threads: usize) -> std::io::Result<Self> {
        let (jobs, receive) = bounded::<Job>(JOBS_MAX);
        for number in 0..threads.max(1) {
            let receive = receive.clone();
            thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || work(&receive))?;
        }
        Ok(Self { jobs })
    }

    /// Runs `job` on a thread of the pool; `None` if it panicked or the pool has ended.
    ///
    /// Dropping the future does not stop the job.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (done, wait) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Nobody may wait any more; the job's effects stand all the same.
            let _ = done.send(job());
        });
        self.jobs.send(job).ok()?;
        wait.await.ok()
    }
}

fn work(jobs: &Receiver<Job>) {
    for job in jobs {
        // A panicking job drops its sender, which its waiter sees; the thread goes on.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn results_come_back_and_a_panic_is_seen_as_none() {
        let pool = Pool::new("test", 2).expect("threads");
        assert_eq!(pool.run(|| 7).await, Some(7));
        assert_eq!(pool.run(|| -> u32 { panic!("on purpose") }).await, None);
        assert_eq!(pool.run(|| 8).await, Some(8));
    }
}
