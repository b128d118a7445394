//! openraft's log storage over [`storage::raft_log::GroupLog`].
//!
//! Adds nothing to durability: order, group commit and poisoning are the storage layer's. Lacks: a cache of its own,
//! the group log keeps the tail in memory.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use futures::{Stream, StreamExt as _};
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use storage::raft_log::{GroupLog, LogEntry};
use tokio::sync::oneshot;

use crate::codec;
use crate::options::APPEND_BYTES_MAX;
use crate::type_config::{Entry, LogId, TypeConfig, Vote};

/// The log of one replica.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: GroupLog,
}

impl LogStore {
    pub(crate) fn new(log: GroupLog) -> Self {
        Self { log }
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if from >= to {
            return Ok(Vec::new());
        }
        let entries = self
            .log
            .read(from, to, bytes_max)
            .map_err(io::Error::other)?;
        entries
            .into_iter()
            .map(|entry| codec::decode_entry(entry.bytes).map_err(io::Error::other))
            .collect()
    }

    fn bounds(&self, range: impl RangeBounds<u64>) -> (u64, u64) {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let state = self.log.state();
        let first = state.purged.map_or(0, |id| id.index + 1);
        let end = state.last.map_or(0, |id| id.index + 1);
        (from.max(first), to.min(end))
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (from, to) = self.bounds(range);
        self.read(from, to, usize::MAX)
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (from, to) = self.bounds(range);
        let store = self.clone();
        // A restart may replay a long tail: pages keep it from being in memory at once.
        let pages = futures::stream::unfold(from, move |next| {
            let store = store.clone();
            async move {
                if next >= to {
                    return None;
                }
                match store.read(next, to, APPEND_BYTES_MAX) {
                    Ok(entries) => {
                        let after = entries.last().map_or(to, |entry| entry.index() + 1);
                        Some((entries.into_iter().map(Ok).collect::<Vec<_>>(), after))
                    }
                    Err(error) => Some((vec![Err(error)], to)),
                }
            }
        });
        Box::pin(pages.flat_map(futures::stream::iter).fuse())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.state().vote.map(codec::vote_from_storage))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, APPEND_BYTES_MAX)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.log.state();
        let last_purged_log_id = state.purged.map(codec::log_id_from_storage);
        let last_log_id = state
            .last
            .map(codec::log_id_from_storage)
            .or(last_purged_log_id);
        Ok(LogState {
            last_purged_log_id,
            last_log_id,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, wait) = oneshot::channel();
        self.log
            .save_vote(
                codec::vote_to_storage(vote),
                Box::new(move |result| {
                    // The group may have been stopped meanwhile: then nobody waits.
                    let _ = done.send(result);
                }),
            )
            .map_err(io::Error::other)?;
        wait.await.map_err(io::Error::other)?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.log
            .save_committed(committed.as_ref().map(codec::log_id_to_storage));
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.log.state().committed.map(codec::log_id_from_storage))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries = entries
            .into_iter()
            .map(|entry| LogEntry {
                id: codec::log_id_to_storage(&entry.log_id),
                bytes: codec::encode_entry(&entry),
            })
            .collect();
        self.log
            .append(
                entries,
                Box::new(move |result| callback.io_completed(result)),
            )
            .map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        self.log
            .truncate_after(last_log_id.as_ref().map(codec::log_id_to_storage))
            .map_err(io::Error::other)
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.log
            .purge(codec::log_id_to_storage(&log_id))
            .map_err(io::Error::other)
    }
}
