//! Threads that apply committed entries, those of several groups in one write.
//!
//! A shard belongs to one thread. The thread takes what waits, of all its shards, into one round: under load a round
//! costs one wake-up and one write for many groups, and without load nothing waits for anything.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use storage::machine::{self, Entry, Replica};
use tokio::sync::{mpsc, oneshot};

/// Batches that may wait for a thread; each group has at most one under way, so this is far above their number.
const QUEUE_LENGTH: usize = 8192;

/// Bytes of commands in one round, soft (design §6).
pub(crate) const ROUND_BYTES_MAX: usize = 4 << 20;

/// Groups of one round: how long the first of them may wait for the others.
const ROUND_GROUPS_MAX: usize = 64;

type Replies = storage::Result<Vec<Bytes>>;

/// Committed entries of one group.
struct Work {
    replica: Arc<Replica>,
    entries: Vec<Entry>,
    /// Bytes of their commands.
    bytes: usize,
    done: oneshot::Sender<Replies>,
}

/// The threads. Cheap to clone; dropping the last handle ends them after the work they hold.
#[derive(Clone)]
pub struct Applier {
    threads: Arc<[mpsc::Sender<Work>]>,
}

impl Applier {
    /// Starts `threads` threads named `name` and a number; at least one.
    ///
    /// # Errors
    /// The system refused a thread.
    pub fn new(name: &str, threads: usize) -> std::io::Result<Self> {
        let start = |number| {
            let (send, mut receive) = mpsc::channel(QUEUE_LENGTH);
            thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || run(&mut receive))?;
            Ok(send)
        };
        let threads = (0..threads.max(1)).map(start);
        Ok(Self {
            threads: threads.collect::<std::io::Result<_>>()?,
        })
    }

    /// Applies committed entries of a replica, see [`machine::apply_together`]; `None` if the thread panicked or has
    /// ended. The next entries of the replica may be given only after the answer.
    ///
    /// Dropping the future does not stop it.
    pub(crate) async fn apply(
        &self,
        replica: Arc<Replica>,
        entries: Vec<Entry>,
        bytes: usize,
    ) -> Option<Replies> {
        let (done, wait) = oneshot::channel();
        let thread = replica.shard().0 as usize % self.threads.len();
        let work = Work {
            replica,
            entries,
            bytes,
            done,
        };
        self.threads.get(thread)?.send(work).await.ok()?;
        wait.await.ok()
    }
}

fn run(waiting: &mut mpsc::Receiver<Work>) {
    while let Some(first) = waiting.blocking_recv() {
        let mut bytes = first.bytes;
        let mut round = vec![first];
        while bytes < ROUND_BYTES_MAX && round.len() < ROUND_GROUPS_MAX {
            let Ok(next) = waiting.try_recv() else { break };
            bytes += next.bytes;
            round.push(next);
        }
        // A panic drops the senders of its round, which their groups see; the thread goes on.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| apply(round)));
    }
}

fn apply(round: Vec<Work>) {
    let started = Instant::now();
    let mut replicas = Vec::with_capacity(round.len());
    let mut waiting = Vec::with_capacity(round.len());
    let mut count = 0;
    for work in round {
        count += work.entries.len();
        replicas.push((work.replica, work.entries));
        waiting.push(work.done);
    }
    let entries = replicas
        .iter_mut()
        .map(|(replica, entries)| (&**replica, std::mem::take(entries)));
    let answers = machine::apply_together(entries);
    metrics::histogram!("larder_apply_batch_entries").record(count as f64);
    metrics::histogram!("larder_apply_seconds").record(started.elapsed());
    for (done, answer) in waiting.into_iter().zip(answers) {
        // The group may have been stopped meanwhile; the effects stand all the same.
        let _ = done.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use proto::ShardId;
    use storage::engine::Engine;
    use storage::engine::memory::Memory;
    use storage::ids::{LogId, StoreId};
    use storage::machine::Payload;
    use storage::machine::documents::DocumentMachine;

    use super::*;

    fn replica(engine: &Arc<dyn Engine>, shard: u32) -> Arc<Replica> {
        let store = StoreId(u64::from(shard));
        Replica::open(
            Arc::clone(engine),
            Arc::new(DocumentMachine),
            ShardId(shard),
            store,
        )
        .expect("a replica")
    }

    fn entry(index: u64, payload: Payload) -> Entry {
        let id = LogId {
            term: 1,
            leader: 1,
            index,
        };
        Entry { id, payload }
    }

    #[tokio::test]
    async fn a_group_that_fails_does_not_take_the_others_along() {
        let engine: Arc<dyn Engine> = Arc::new(Memory::new());
        let applier = Applier::new("test", 1).expect("a thread");
        let (good, bad) = (replica(&engine, 1), replica(&engine, 2));
        let garbage = Payload::Command(Bytes::from_static(b"\xff"));
        let (good_answer, bad_answer) = tokio::join!(
            applier.apply(Arc::clone(&good), vec![entry(1, Payload::Blank)], 0),
            applier.apply(Arc::clone(&bad), vec![entry(1, garbage)], 1),
        );
        assert_eq!(good_answer.expect("alive").expect("applied").len(), 1);
        assert!(bad_answer.expect("alive").is_err());
        assert_eq!(good.applied().id.map(|id| id.index), Some(1));
        assert_eq!(bad.applied().id, None);
    }
}
