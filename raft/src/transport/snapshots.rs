//! Snapshot files on their way: cut into chunks with checksums, and put together again; over any connection, and over several.
//!
//! A sender asks how much of each file the receiver holds and goes on from there, so that a cut connection costs what was under way and
//! no more. The receiver holds files by shard and store id: a store id names one transfer of one view, and is never used twice. It writes
//! nothing that does not match its chunk's checksum and offset; whole files are verified once more when they are installed.
//!
//! Back-pressure: a sender reads [`CHUNKS_WAITING`] chunks ahead of the connection, whose window does the rest.
//!
//! A receiver that was restarted goes on with the files that it finds, for as long as a sender may still be trying. What a power cut left
//! of them may be shorter than it was, or wrong: such files are read to their end and compared with the header before anybody takes them.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{Stream, StreamExt as _};
use parking_lot::Mutex;
use proto::peer::snapshot_part::Part;
use proto::peer::{SnapshotChunk, SnapshotHeader, SnapshotPart};
use proto::{ReplicaId, ShardId, log};
use storage::ids::StoreId;
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::sync::{OwnedMutexGuard, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use crate::error::Error;
use crate::host::Host;

/// Bytes of one chunk.
pub(super) const CHUNK_BYTES: usize = 512 << 10;

/// Snapshot chunks read ahead of the connection.
const CHUNKS_WAITING: usize = 4;

/// How long files from before a restart are kept for their sender: longer than one tries to reach a receiver.
const FOUND_FOR: Duration = Duration::from_secs(60);

/// Chunks that did not arrive as they were sent.
const CHUNKS_REFUSED: &str = "larder_snapshot_chunks_refused_total";
/// Bytes of snapshot files that arrived.
const BYTES_RECEIVED: &str = "larder_snapshot_bytes_received_total";

/// Why files did not arrive. What was written before stays, and the transfer can go on from there.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    #[error("snapshot file: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Malformed(&'static str),
    #[error("file {file}, offset {offset}: the chunk did not arrive as it was sent")]
    Changed { file: u32, offset: u64 },
    #[error("file {file}: a chunk at {offset}, though {held} bytes are held")]
    Order { file: u32, offset: u64, held: u64 },
    #[error("file {file} ends at {held} bytes of {bytes}")]
    Short { file: usize, held: u64, bytes: u64 },
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("another connection went on with the transfer")]
    Overtaken,
    #[error(
        "file {file} is not what was sent: what was held of it from before a restart is damaged"
    )]
    Damaged { file: usize },
}

/// A snapshot's parts, header first, then what is missing of its files in order, until done or until nobody takes them. A read error
/// ends the stream early, which the receiver sees as a short file.
///
/// `held` is what the receiver has of each file; files past its end are sent whole.
pub(super) fn parts(
    header: SnapshotHeader,
    files: Vec<PathBuf>,
    held: Vec<u64>,
    chunk_bytes: usize,
) -> ReceiverStream<SnapshotPart> {
    let (parts, receive) = mpsc::channel(CHUNKS_WAITING);
    tokio::spawn(async move {
        let part = Some(Part::Header(header));
        if parts.send(SnapshotPart { part }).await.is_err() {
            return;
        }
        for (number, path) in files.iter().enumerate() {
            let from = held.get(number).copied().unwrap_or(0);
            match send_file(&parts, number, path, from, chunk_bytes).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "snapshot file not readable");
                    return;
                }
            }
        }
    });
    ReceiverStream::new(receive)
}

/// The rest of one file in chunks; false if nobody takes them any more.
async fn send_file(
    parts: &mpsc::Sender<SnapshotPart>,
    number: usize,
    path: &Path,
    from: u64,
    chunk_bytes: usize,
) -> io::Result<bool> {
    let number = u32::try_from(number).map_err(io::Error::other)?;
    let mut file = File::open(path).await?;
    file.seek(io::SeekFrom::Start(from)).await?;
    let mut offset = from;
    loop {
        let mut data = Vec::with_capacity(chunk_bytes);
        let read = (&mut file)
            .take(chunk_bytes as u64)
            .read_to_end(&mut data)
            .await?;
        if read == 0 {
            return Ok(true);
        }
        let chunk = SnapshotChunk {
            file: number,
            offset,
            checksum: xxh3_64(&data),
            data: Bytes::from(data),
        };
        let part = Some(Part::Chunk(chunk));
        if parts.send(SnapshotPart { part }).await.is_err() {
            return Ok(false);
        }
        offset += read as u64;
    }
}

/// Where received files wait until they are installed.
pub(super) struct Receiver {
    dir: PathBuf,
    transfers: Mutex<HashMap<ShardId, Transfer>>,
}

/// The transfer of one snapshot, over however many connections.
#[derive(Clone)]
struct Transfer {
    store: StoreId,
    /// Whether files of it may be from before a restart.
    is_found: bool,
    /// Counts connections: all but the newest give up.
    newest: watch::Sender<u64>,
    /// Held by the one that writes.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Transfer {
    fn new(store: StoreId, is_found: bool) -> Self {
        Self {
            store,
            is_found,
            newest: watch::Sender::new(0),
            turn: Arc::default(),
        }
    }
}

/// Files that have arrived. Nobody else touches them while this is held.
pub(super) struct Received {
    dir: PathBuf,
    files: Vec<PathBuf>,
    _turn: OwnedMutexGuard<()>,
}

impl Receiver {
    /// `dir` must be on the file system of the data directory: files are linked into place. Of what is found there only files of `known`
    /// transfers stay, and those not for ever.
    pub(super) fn new(dir: PathBuf, known: &[(ShardId, StoreId)]) -> Arc<Self> {
        let receiver = Self {
            dir,
            transfers: Mutex::default(),
        };
        let mut wanted = HashMap::new();
        for (shard, store) in known {
            wanted.insert(receiver.dir(*shard, *store), (*shard, *store));
        }
        let found = std::fs::read_dir(&receiver.dir).into_iter().flatten();
        for path in found.flatten().map(|entry| entry.path()) {
            match wanted.get(&path) {
                Some((shard, store)) => {
                    let transfer = Transfer::new(*store, true);
                    receiver.transfers.lock().insert(*shard, transfer);
                }
                // It is not wanted, so nobody misses it if it stays.
                None => drop(std::fs::remove_dir_all(&path)),
            }
        }
        let receiver = Arc::new(receiver);
        if !receiver.transfers.lock().is_empty() {
            tokio::spawn(Arc::clone(&receiver).give_up_found());
        }
        receiver
    }

    /// Removes what was found at the start and nobody has gone on with.
    async fn give_up_found(self: Arc<Self>) {
        tokio::time::sleep(FOUND_FOR).await;
        let mut left = Vec::new();
        self.transfers.lock().retain(|shard, transfer| {
            let is_left = transfer.is_found && *transfer.newest.borrow() == 0;
            if is_left {
                left.push(self.dir(*shard, transfer.store));
            }
            !is_left
        });
        for dir in left {
            let _ = fs::remove_dir_all(dir).await;
        }
    }

    fn dir(&self, shard: ShardId, store: StoreId) -> PathBuf {
        self.dir.join(format!("shard-{shard}-store-{store}"))
    }

    /// The transfer under this store id. A newer one of the same shard takes the place of the older, whose files go.
    fn transfer(&self, shard: ShardId, store: StoreId) -> Result<Transfer, ReceiveError> {
        let mut transfers = self.transfers.lock();
        match transfers.get(&shard) {
            Some(known) if known.store == store => return Ok(known.clone()),
            Some(known) if known.store > store => return Err(ReceiveError::Overtaken),
            Some(known) => {
                known.newest.send_modify(|newest| *newest += 1);
                let left = self.dir(shard, known.store);
                tokio::spawn(async move {
                    let _ = fs::remove_dir_all(left).await;
                });
            }
            None => {}
        }
        let transfer = Transfer::new(store, false);
        transfers.insert(shard, transfer.clone());
        Ok(transfer)
    }

    /// How much is held of each file of a transfer; ends the connection that it came over so far. `None`: it cannot go on.
    pub(super) async fn held(
        &self,
        host: &Host,
        shard: ShardId,
        target: ReplicaId,
        store: StoreId,
    ) -> Result<Option<Vec<u64>>, ReceiveError> {
        let is_wanted = || host.is_receiving(shard, target, store);
        if !is_wanted() {
            return Ok(None);
        }
        let transfer = self.transfer(shard, store)?;
        transfer.newest.send_modify(|newest| *newest += 1);
        let _turn = transfer.turn.lock().await;
        // It may have been installed while this waited.
        if !is_wanted() {
            return Ok(None);
        }
        let mut held = Vec::new();
        loop {
            let path = self.dir(shard, store).join(file_name(held.len()));
            match fs::metadata(&path).await {
                Ok(found) => held.push(found.len()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(held)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes the files of a transfer, or what is missing of them. Done once they are whole and synced.
    pub(super) async fn receive<E: std::fmt::Display>(
        &self,
        header: &SnapshotHeader,
        parts: impl Stream<Item = Result<SnapshotPart, E>>,
    ) -> Result<Received, ReceiveError> {
        let (shard, store) = (ShardId(header.shard), StoreId(header.store));
        let transfer = self.transfer(shard, store)?;
        transfer.newest.send_modify(|newest| *newest += 1);
        let mut newest = transfer.newest.subscribe();
        let turn = Arc::clone(&transfer.turn).lock_owned().await;
        let dir = self.dir(shard, store);
        fs::create_dir_all(&dir).await?;
        let mut files = Files::open(&dir, header.files.len()).await?;
        let mut parts = std::pin::pin!(parts);
        loop {
            let part = tokio::select! {
                part = parts.next() => part,
                _ = newest.changed() => return Err(ReceiveError::Overtaken),
            };
            let Some(part) = part else { break };
            let part = part.map_err(|error| ReceiveError::Broken(error.to_string()))?;
            let Some(Part::Chunk(chunk)) = part.part else {
                return Err(ReceiveError::Malformed("a second header"));
            };
            files.take(&chunk).await?;
        }
        let files = files.finish(header).await?;
        if transfer.is_found
            && let Err(error) = check(&files, header).await
        {
            // From the first byte on, then: which one is wrong cannot be told.
            fs::remove_dir_all(&dir).await?;
            return Err(error);
        }
        Ok(Received {
            dir,
            files,
            _turn: turn,
        })
    }

    /// Installs what has arrived. Goes on to its end, also if the connection that asked for it breaks meanwhile: the files must not be
    /// taken for those of a transfer under way.
    ///
    /// # Errors
    /// As [`Host::install_snapshot`].
    pub(super) async fn install(
        self: &Arc<Self>,
        host: Host,
        header: SnapshotHeader,
        received: Received,
    ) -> Result<log::Vote, Error> {
        let receiver = Arc::clone(self);
        let installing = tokio::spawn(async move {
            let shard = ShardId(header.shard);
            let (dir, files) = (received.dir.clone(), received.files.clone());
            let installed = host.install_snapshot(header, dir, files).await;
            receiver.forget(shard, received).await;
            installed
        });
        installing
            .await
            .unwrap_or_else(|_| Err(Error::Refused("the install was stopped".to_owned())))
    }

    /// The transfer has ended, well or not: nothing is held of it any more.
    async fn forget(&self, shard: ShardId, received: Received) {
        let _ = fs::remove_dir_all(&received.dir).await;
        let mut transfers = self.transfers.lock();
        if let Some(known) = transfers.get(&shard)
            && self.dir(shard, known.store) == received.dir
        {
            transfers.remove(&shard);
        }
    }
}

/// Compares whole files with what the header says of them.
async fn check(files: &[PathBuf], header: &SnapshotHeader) -> Result<(), ReceiveError> {
    for (file, (path, announced)) in files.iter().zip(&header.files).enumerate() {
        let mut hash = Xxh3Default::new();
        let mut source = File::open(path).await?;
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let read = source.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
        }
        if hash.digest() != announced.checksum {
            return Err(ReceiveError::Damaged { file });
        }
    }
    Ok(())
}

fn file_name(number: usize) -> String {
    format!("{number}.sst")
}

/// The files of a transfer, open for appending.
struct Files {
    paths: Vec<PathBuf>,
    /// Each with the bytes that it holds.
    handles: Vec<(File, u64)>,
}

impl Files {
    async fn open(dir: &Path, count: usize) -> io::Result<Self> {
        let (mut paths, mut handles) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for number in 0..count {
            let path = dir.join(file_name(number));
            let mut options = OpenOptions::new();
            let file = options.create(true).append(true).open(&path).await?;
            let held = file.metadata().await?.len();
            paths.push(path);
            handles.push((file, held));
        }
        Ok(Self { paths, handles })
    }

    async fn take(&mut self, chunk: &SnapshotChunk) -> Result<(), ReceiveError> {
        let SnapshotChunk { file, offset, .. } = *chunk;
        let (handle, held) = self
            .handles
            .get_mut(file as usize)
            .ok_or(ReceiveError::Malformed(
                "a chunk of a file that the header does not name",
            ))?;
        if *held != offset {
            let held = *held;
            return Err(ReceiveError::Order { file, offset, held });
        }
        if xxh3_64(&chunk.data) != chunk.checksum {
            metrics::counter!(CHUNKS_REFUSED).increment(1);
            return Err(ReceiveError::Changed { file, offset });
        }
        handle.write_all(&chunk.data).await?;
        // Whatever ends this transfer, the length of the file says what is held.
        handle.flush().await?;
        *held += chunk.data.len() as u64;
        metrics::counter!(BYTES_RECEIVED).increment(chunk.data.len() as u64);
        Ok(())
    }

    async fn finish(self, header: &SnapshotHeader) -> Result<Vec<PathBuf>, ReceiveError> {
        for (file, ((handle, held), announced)) in
            self.handles.into_iter().zip(&header.files).enumerate()
        {
            let bytes = announced.bytes;
            if held != bytes {
                return Err(ReceiveError::Short { file, held, bytes });
            }
            handle.sync_all().await?;
        }
        Ok(self.paths)
    }
}
