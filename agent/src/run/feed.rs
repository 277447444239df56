//! Gives the redirector complete snapshots over a Unix socket, and leaves the last one in a file beside it, for a
//! redirector that starts without an agent and for the command line.
//!
//! A frame is a length in four bytes, network byte order, and that much JSON: snapshots one way, reports the other. A
//! length of zero tells the redirector that another one has taken over.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::watch,
};

use crate::{
    health::Shared,
    l7::snapshot::{Report, Snapshot, USER, agent_socket, snapshot_file},
    model::Change,
};

/// Larger than any report: a length beyond it is not the redirector's.
const LARGEST_REPORT: u32 = 1 << 20;

/// Who may read: root, and the user that the redirector becomes.
const READERS: [u32; 2] = [0, USER];

/// The last snapshot, and who has it.
pub struct Feed {
    folder: PathBuf,
    current: watch::Sender<Option<Arc<Vec<u8>>>>,
    acked: AtomicU64,
    readers: AtomicUsize,
    /// Rises with each reader: those before the last one are told to go.
    generation: watch::Sender<u64>,
    /// Woken by sending no change at all.
    programmer: mpsc::Sender<Vec<Change>>,
    shared: Arc<Shared>,
}

impl Feed {
    /// Nothing to read yet.
    pub fn new(folder: &Path, programmer: mpsc::Sender<Vec<Change>>, shared: Arc<Shared>) -> Self {
        let (acked, readers) = (AtomicU64::new(0), AtomicUsize::new(0));
        let (current, generation) = (watch::channel(None).0, watch::channel(0).0);
        Self { folder: folder.to_owned(), current, acked, readers, generation, programmer, shared }
    }

    /// Replaces what is to be read.
    ///
    /// # Errors
    /// The file cannot be written; the socket has the snapshot all the same.
    pub fn publish(&self, snapshot: &Snapshot) -> Result<()> {
        let bytes = serde_json::to_vec(snapshot).context("a snapshot cannot be written")?;
        let file = snapshot_file(&self.folder);
        let hidden = file.with_extension("new");
        self.current.send_replace(Some(Arc::new(bytes.clone())));
        let written = fs::write(&hidden, bytes).and_then(|()| fs::rename(&hidden, &file));
        written.with_context(|| format!("cannot write {}", file.display()))
    }

    /// The last version that a redirector has in effect.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Whether a redirector reads.
    pub fn is_read(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0
    }

    /// Waits until there is something to read.
    pub async fn is_needed(&self) {
        let mut current = self.current.subscribe();
        // The sender lives as long as we do.
        let _never_closed = current.wait_for(Option::is_some).await;
    }

    /// Serves readers for ever.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub async fn serve(self: Arc<Self>) -> Result<()> {
        let path = agent_socket(&self.folder);
        let _nothing_there = fs::remove_file(&path);
        let listener =
            UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            if !stream.peer_cred().is_ok_and(|peer| READERS.contains(&peer.uid())) {
                continue;
            }
            let feed = Arc::clone(&self);
            tokio::spawn(async move {
                feed.readers.fetch_add(1, Ordering::Relaxed);
                let ended = feed.feed(stream).await;
                feed.readers.fetch_sub(1, Ordering::Relaxed);
                tracing::debug!(?ended, "a redirector left");
                feed.wake();
            });
        }
    }

    async fn feed(&self, mut stream: UnixStream) -> Result<()> {
        let mut current = self.current.subscribe();
        current.mark_changed();
        self.generation.send_modify(|generation| *generation += 1);
        let mut generation = self.generation.subscribe();
        let (mut reader, mut writer) = stream.split();
        loop {
            tokio::select! {
                changed = current.changed() => {
                    changed?;
                    let bytes = current.borrow_and_update().clone();
                    if let Some(bytes) = bytes {
                        writer.write_u32(u32::try_from(bytes.len())?).await?;
                        writer.write_all(&bytes).await?;
                    }
                }
                later = generation.changed() => {
                    later?;
                    return Ok(writer.write_u32(0).await?);
                }
                length = reader.read_u32() => {
                    let length = length?;
                    ensure!(length <= LARGEST_REPORT, "a report of {length} bytes");
                    let mut bytes = vec![0; length as usize];
                    reader.read_exact(&mut bytes).await?;
                    self.hear(serde_json::from_slice(&bytes)?);
                }
            }
        }
    }

    fn hear(&self, report: Report) {
        self.shared.update(|state| state.redirector = report.counters);
        if self.acked.swap(report.version, Ordering::Relaxed) != report.version {
            self.wake();
        }
    }

    fn wake(&self) {
        let _agent_ends = self.programmer.send(Vec::new());
    }
}
