//! The one thread that writes: a bounded queue in front, one batch and at most one sync a round, callbacks after it.
//!
//! Requests past [`QUEUE_BYTES_MAX`] or [`QUEUE_LENGTH_MAX`] block the caller until the writer has taken what waits. The writer always
//! takes everything, so the bound is met only while a sync hangs; then a blocked thread is the honest answer, since nothing of this node
//! can be acknowledged anyway, and consensus bounds what it has in flight far below.

use std::collections::HashMap;
use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};
use rocksdb::{DB, WriteBatch, WriteOptions};

use super::group::Group;
use super::layout::{self, Kind};
use super::tail::Budget;
use super::watermark::Watermark;
use super::{Done, LogEntry, LogOptions, LogResealed, LogStats, database, reseal};
use crate::engine::health;
use crate::error::{Error, Result};
use crate::ids::{LogId, StoreId};
use crate::seal::Ring;

/// Bytes that may wait; one request may pass it.
pub(super) const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Requests that may wait.
pub(super) const QUEUE_LENGTH_MAX: usize = 65_536;
/// What a request weighs beside its entries.
const REQUEST_BYTES: usize = 256;

/// One row to write.
pub(super) enum Write {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    /// From the first key to before the second.
    DeleteRange(Vec<u8>, Vec<u8>),
}

/// Entries of one log to be sealed anew where their seal is of an old key.
pub(super) struct Reseal {
    pub(super) store: StoreId,
    pub(super) from: u64,
    pub(super) bytes_max: usize,
    pub(super) answer: SyncSender<Result<LogResealed>>,
}

/// What one call wants written, atomically.
pub(super) struct Request {
    /// Entries of a group, with the number of the append.
    pub(super) append: Option<(Arc<Group>, u64, Vec<LogEntry>)>,
    /// Rows beside them, in order.
    pub(super) rows: Vec<Write>,
    /// Called when the request is durable. Without it, the request needs no sync.
    pub(super) done: Option<Done>,
}

impl Request {
    /// Rows that may ride unsynced.
    pub(super) fn rows(rows: Vec<Write>) -> Self {
        Self {
            append: None,
            rows,
            done: None,
        }
    }

    /// Rows that are synced.
    pub(super) fn durable(rows: Vec<Write>, done: Done) -> Self {
        Self {
            append: None,
            rows,
            done: Some(done),
        }
    }

    fn bytes(&self) -> usize {
        let entries = self.append.as_ref().map_or(0, |(_, _, entries)| {
            entries.iter().map(|entry| entry.bytes.len()).sum()
        });
        REQUEST_BYTES + entries
    }
}

#[derive(Default)]
struct Queue {
    requests: Vec<Request>,
    bytes: usize,
    /// Newest committed points, which wait for somebody else's batch.
    committed: HashMap<StoreId, Option<LogId>>,
    /// Asked for by one job, one piece at a time.
    reseal: Option<Reseal>,
    closed: Option<Closed>,
}

#[derive(Clone)]
enum Closed {
    Stopped,
    Failed(String),
}

impl Closed {
    fn error(&self) -> Error {
        match self {
            Self::Stopped => Error::Closed,
            Self::Failed(reason) => Error::LogFailed {
                reason: reason.clone(),
            },
        }
    }
}

type OnFailure = Box<dyn FnOnce(&Error) + Send>;

/// The writer and what it shares with its callers, see the module.
pub(super) struct Writer {
    db: DB,
    /// Keys that entries are sealed with; `None`: they are not.
    ring: Option<Arc<Ring>>,
    tails: Arc<Budget>,
    /// What was synced, for the next start.
    watermark: Watermark,
    queue: Mutex<Queue>,
    /// Something waits, or the queue was closed.
    work: Condvar,
    /// The writer took what waited.
    space: Condvar,
    groups: Mutex<HashMap<StoreId, Arc<Group>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    on_failure: Mutex<Option<OnFailure>>,
    batches: AtomicU64,
    syncs: AtomicU64,
    entries: AtomicU64,
    /// When the write under way began; `None`: none is.
    writing: Mutex<Option<Instant>>,
    #[cfg(test)]
    fail_next: std::sync::atomic::AtomicBool,
}

impl Writer {
    /// Starts the thread on `db`.
    pub(super) fn start(
        db: DB,
        ring: Option<Arc<Ring>>,
        dir: &Path,
        options: &LogOptions,
    ) -> Result<Arc<Self>> {
        let writer = Arc::new(Self {
            db,
            ring,
            tails: Budget::new(options.tail_bytes),
            watermark: Watermark::open(dir)?,
            queue: Mutex::default(),
            work: Condvar::new(),
            space: Condvar::new(),
            groups: Mutex::default(),
            thread: Mutex::default(),
            on_failure: Mutex::default(),
            batches: AtomicU64::default(),
            syncs: AtomicU64::default(),
            entries: AtomicU64::default(),
            writing: Mutex::default(),
            #[cfg(test)]
            fail_next: Default::default(),
        });
        let running = Arc::clone(&writer);
        let thread = thread::Builder::new()
            .name("larder-log".to_owned())
            .spawn(move || running.run())?;
        *writer.thread.lock() = Some(thread);
        Ok(writer)
    }

    /// How long the write under way has taken so far; `None`: none is. A failed one stays under way: nothing follows it.
    pub(super) fn writing_for(&self) -> Option<std::time::Duration> {
        self.writing.lock().map(|since| since.elapsed())
    }

    pub(super) fn db(&self) -> &DB {
        &self.db
    }

    pub(super) fn ring(&self) -> Option<&Ring> {
        self.ring.as_deref()
    }

    /// Has entries sealed anew, and waits until that is on disk. One at a time: a second one takes the first one's place.
    pub(super) fn reseal(
        &self,
        store: StoreId,
        from: u64,
        bytes_max: usize,
    ) -> Result<LogResealed> {
        let (answer, resealed) = sync_channel(1);
        let mut queue = self.queue.lock();
        if let Some(closed) = &queue.closed {
            return Err(closed.error());
        }
        queue.reseal = Some(Reseal {
            store,
            from,
            bytes_max,
            answer,
        });
        drop(queue);
        self.work.notify_one();
        resealed.recv().map_err(|_| Error::Closed)?
    }

    /// The state of a log in memory, loaded at the first call.
    pub(super) fn group(&self, store: StoreId) -> Result<Arc<Group>> {
        let mut groups = self.groups.lock();
        if let Some(group) = groups.get(&store) {
            return Ok(Arc::clone(group));
        }
        let (state, first) = database::load(&self.db, store)?;
        let sizes = database::measure(&self.db, store, first)?;
        let tails = Arc::clone(&self.tails);
        let group = Arc::new(Group::new(store, state, first, sizes, tails));
        groups.insert(store, Arc::clone(&group));
        Ok(group)
    }

    /// Forgets a log whose store was dropped.
    pub(super) fn forget(&self, store: StoreId) {
        self.groups.lock().remove(&store);
    }

    /// Waits until the queue is below its bound. Not part of [`Writer::push`], so that nobody waits with a group's lock in hand; the
    /// bound can be passed by as many requests as there are threads.
    pub(super) fn wait_for_space(&self) -> Result<()> {
        let mut queue = self.queue.lock();
        while queue.closed.is_none()
            && (queue.bytes > QUEUE_BYTES_MAX || queue.requests.len() > QUEUE_LENGTH_MAX)
        {
            self.space.wait(&mut queue);
        }
        queue
            .closed
            .as_ref()
            .map_or(Ok(()), |closed| Err(closed.error()))
    }

    /// Queues a request.
    ///
    /// # Errors
    /// [`Error::LogFailed`], [`Error::Closed`]: it was not taken, its callback is dropped.
    pub(super) fn push(&self, request: Request) -> Result<()> {
        let mut queue = self.queue.lock();
        if let Some(closed) = &queue.closed {
            return Err(closed.error());
        }
        queue.bytes += request.bytes();
        queue.requests.push(request);
        drop(queue);
        self.work.notify_one();
        Ok(())
    }

    /// Leaves a committed point for the next batch. Wakes nobody.
    pub(super) fn set_committed(&self, store: StoreId, id: Option<LogId>) {
        self.queue.lock().committed.insert(store, id);
    }

    /// Writes rows and waits until they are synced.
    pub(super) fn write_durably(&self, rows: Vec<Write>) -> Result<()> {
        let (done, written) = wait();
        self.wait_for_space()?;
        self.push(Request::durable(rows, done))?;
        written()
    }

    pub(super) fn on_failure(&self, callback: OnFailure) {
        let failed = match &self.queue.lock().closed {
            Some(closed @ Closed::Failed(_)) => closed.error(),
            _ => {
                *self.on_failure.lock() = Some(callback);
                return;
            }
        };
        callback(&failed);
    }

    /// Closes the queue and waits until the thread has written what was in it.
    pub(super) fn shutdown(&self) {
        self.queue.lock().closed.get_or_insert(Closed::Stopped);
        self.work.notify_all();
        self.space.notify_all();
        let thread = self.thread.lock().take();
        // A callback may have held the last handle: the thread ends by itself then.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id())
            && thread.join().is_err()
        {
            tracing::error!("log writer panicked");
        }
    }

    pub(super) fn stats(&self) -> LogStats {
        LogStats {
            batches: self.batches.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
            entries: self.entries.load(Ordering::Relaxed),
            queue_length: self.queue.lock().requests.len() as u64,
            tail_bytes: self.tails.held() as u64,
            database: health::stats(&self.db, &[database::COLUMN]),
        }
    }

    #[cfg(test)]
    pub(super) fn fail_next_write(&self) {
        self.fail_next.store(true, Ordering::SeqCst);
    }

    fn run(&self) {
        let mut queue = self.queue.lock();
        loop {
            if queue.requests.is_empty() && queue.reseal.is_none() && queue.closed.is_none() {
                self.work.wait(&mut queue);
                continue;
            }
            let stopping = queue.closed.is_some();
            // Before the requests: what the database holds now is what they were made for, or is replaced by them.
            let reseal = queue.reseal.take();
            let (requests, committed) = self.take(queue);
            let written = match reseal {
                Some(reseal) => self.reseal_piece(reseal),
                None => Ok(()),
            };
            let written = written.and_then(|()| self.round(requests, committed, stopping));
            if let Err(error) = written {
                self.fail(&error);
                return;
            }
            queue = self.queue.lock();
            if stopping && queue.requests.is_empty() {
                return;
            }
        }
    }

    fn take(
        &self,
        mut queue: MutexGuard<'_, Queue>,
    ) -> (Vec<Request>, HashMap<StoreId, Option<LogId>>) {
        let requests = mem::take(&mut queue.requests);
        let committed = mem::take(&mut queue.committed);
        queue.bytes = 0;
        drop(queue);
        self.space.notify_all();
        metrics::gauge!("larder_log_queue_length").set(requests.len() as f64);
        (requests, committed)
    }

    /// Writes one batch, and syncs it if `sync` or if one of the requests must be durable.
    fn round(
        &self,
        requests: Vec<Request>,
        committed: HashMap<StoreId, Option<LogId>>,
        sync: bool,
    ) -> Result<()> {
        let sync = sync || requests.iter().any(|request| request.done.is_some());
        let bytes = requests.iter().map(Request::bytes).sum();
        let mut batch = WriteBatch::with_capacity_bytes(bytes);
        let mut entries = 0;
        for request in &requests {
            match encode(request, self.ring(), &mut batch) {
                Ok(count) => entries += count,
                Err(error) => {
                    finish(requests, || Err(error.to_io()));
                    return Err(error);
                }
            }
        }
        for (store, id) in committed {
            let key = layout::state_key(store, Kind::Committed);
            match id {
                Some(id) => batch.put(&key, layout::seal(&key, &[&layout::log_id_fields(id)])),
                None => batch.delete(&key),
            }
        }
        if let Err(error) = self.write(batch, sync) {
            finish(requests, || Err(error.to_io()));
            return Err(error);
        }
        self.count(entries, sync);
        for (group, number, _) in requests
            .iter()
            .filter_map(|request| request.append.as_ref())
        {
            group.written(*number);
        }
        finish(requests, || Ok(()));
        Ok(())
    }

    /// Answers whoever asked; an error is one of writing.
    fn reseal_piece(&self, asked: Reseal) -> Result<()> {
        let mut batch = WriteBatch::default();
        let (ring, bytes_max) = (self.ring(), asked.bytes_max);
        let read = reseal::piece(
            &self.db,
            ring,
            asked.store,
            asked.from,
            bytes_max,
            &mut batch,
        );
        if read.is_ok() && !batch.is_empty() {
            self.write(batch, true)?;
        }
        // Nobody waits any more: then nobody needs the answer.
        let _ = asked.answer.send(read);
        Ok(())
    }

    fn write(&self, batch: WriteBatch, sync: bool) -> Result<()> {
        #[cfg(test)]
        if self.fail_next.load(Ordering::SeqCst) {
            return Err(Error::Engine("injected failure".to_owned()));
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        let started = Instant::now();
        *self.writing.lock() = Some(started);
        self.db.write_opt(batch, &options)?;
        *self.writing.lock() = None;
        if sync {
            // Only this thread writes: nothing later can be in that number.
            self.watermark.note(self.db.latest_sequence_number())?;
            metrics::histogram!("larder_log_sync_seconds").record(started.elapsed().as_secs_f64());
        }
        Ok(())
    }

    fn count(&self, entries: u64, sync: bool) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.syncs.fetch_add(u64::from(sync), Ordering::Relaxed);
        self.entries.fetch_add(entries, Ordering::Relaxed);
        if entries > 0 {
            metrics::histogram!("larder_log_batch_entries").record(entries as f64);
        }
    }

    /// Refuses everything from now on, answers what waits, and tells whoever asked to be told.
    fn fail(&self, error: &Error) {
        tracing::error!(%error, "log write failed, nothing is accepted any more");
        let mut queue = self.queue.lock();
        queue.closed = Some(Closed::Failed(error.to_string()));
        let requests = mem::take(&mut queue.requests);
        drop(queue);
        self.space.notify_all();
        finish(requests, || Err(error.to_io()));
        let callback = self.on_failure.lock().take();
        if let Some(callback) = callback {
            callback(error);
        }
    }
}

/// A callback, and a wait for it on another thread.
pub(super) fn wait() -> (Done, impl FnOnce() -> Result<()>) {
    let (sender, receiver) = sync_channel(1);
    let done = Box::new(move |result| {
        // Nobody waits any more: then nobody needs the answer.
        let _ = sender.send(result);
    });
    (done, move || {
        receiver
            .recv()
            .map_err(|_| Error::Closed)?
            .map_err(|error| Error::LogFailed {
                reason: error.to_string(),
            })
    })
}

/// Adds a request to the batch. Returns the number of its entries.
fn encode(request: &Request, ring: Option<&Ring>, batch: &mut WriteBatch) -> Result<u64> {
    for row in &request.rows {
        match row {
            Write::Put(key, value) => batch.put(key, value),
            Write::Delete(key) => batch.delete(key),
            Write::DeleteRange(from, to) => batch.delete_range(from, to),
        }
    }
    let Some((group, _, entries)) = &request.append else {
        return Ok(0);
    };
    for entry in entries {
        let key = layout::entry_key(group.store(), entry.id.index);
        batch.put(&key, layout::entry_value(&key, entry, ring)?);
    }
    Ok(entries.len() as u64)
}

fn finish(requests: Vec<Request>, result: impl Fn() -> std::io::Result<()>) {
    for done in requests.into_iter().filter_map(|request| request.done) {
        done(result());
    }
}
