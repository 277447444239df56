//! Gives the redirector complete snapshots over a Unix socket, and leaves the last one in a file beside it, for a
//! redirector that starts without an agent and for the command line.
//!
//! A frame is a length in four bytes, network byte order, and that much JSON: snapshots one way, reports the other. Two
//! lengths that no snapshot has tell the redirector that another one has taken over, or that it has not the token.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::watch,
};

mod bounds;

use super::token;
use crate::{
    health::Shared,
    l7::snapshot::{
        LARGEST_REPORT, REFUSED, REPLACED, Report, Snapshot, USER, agent_socket, snapshot_file, token_file,
    },
    model::Change,
};

/// Who may read: root, and the user that the redirector becomes; both must know the token.
const READERS: [u32; 2] = [0, USER];
/// How long a reader may take to say who it is.
const HELLO: Duration = Duration::from_secs(5);

/// The last snapshot, and who has it.
pub struct Feed {
    folder: PathBuf,
    current: watch::Sender<Option<Arc<Vec<u8>>>>,
    acked: AtomicU64,
    /// Connections of redirectors so far.
    connections: AtomicU64,
    readers: watch::Sender<Readers>,
    /// The latest redirector's epoch: earlier ones are told to go, for their listeners are in no map any more.
    latest: watch::Sender<u64>,
    /// The kernel's numbers of the maps that a redirector has to have opened.
    maps: OnceLock<Vec<u32>>,
    /// Woken by sending no change at all.
    programmer: mpsc::Sender<Vec<Change>>,
    shared: Arc<Shared>,
}

impl Feed {
    /// Nothing to read yet.
    pub fn new(folder: &Path, programmer: mpsc::Sender<Vec<Change>>, shared: Arc<Shared>) -> Self {
        let (acked, connections) = (AtomicU64::new(0), AtomicU64::new(0));
        let readers = watch::Sender::default();
        let (current, latest) = (watch::channel(None).0, watch::channel(0).0);
        let (folder, maps) = (folder.to_owned(), OnceLock::new());
        Self { folder, current, acked, connections, readers, latest, maps, programmer, shared }
    }

    /// From now on a redirector is only fed if it has opened these maps: it steers by others where they were made anew.
    pub fn want_maps(&self, maps: Vec<u32>) {
        let _once = self.maps.set(maps);
    }

    /// Replaces what is to be read.
    ///
    /// # Errors
    /// The file cannot be written; the socket has the snapshot all the same.
    pub fn publish(&self, snapshot: &Snapshot) -> Result<()> {
        let bytes = serde_json::to_vec(snapshot).context("a snapshot cannot be written")?;
        let file = snapshot_file(&self.folder);
        let hidden = file.with_extension("new");
        // Nobody is started to serve nothing.
        if snapshot.needs_redirector() || self.current.borrow().is_some() {
            self.current.send_replace(Some(Arc::new(bytes.clone())));
        }
        let mut options = fs::OpenOptions::new();
        let private = options.create(true).truncate(true).write(true).mode(0o600).open(&hidden);
        let written =
            private.and_then(|mut to| to.write_all(&bytes)).and_then(|()| fs::rename(&hidden, &file));
        written.with_context(|| format!("cannot write {}", file.display()))
    }

    /// What an earlier agent published last, if it can be read.
    pub fn last(&self) -> Option<Snapshot> {
        serde_json::from_slice(&fs::read(snapshot_file(&self.folder)).ok()?).ok()
    }

    /// The last version that a redirector has in effect.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Waits until a redirector reads that does not go.
    pub async fn is_read(&self) {
        let mut readers = self.readers.subscribe();
        // The sender lives as long as we do.
        let _never_closed = readers.wait_for(|readers| readers.staying > 0).await;
    }

    /// Waits until none does; whether the last one had said so before.
    pub async fn is_left(&self) -> bool {
        let mut readers = self.readers.subscribe();
        let left = readers.wait_for(|readers| readers.staying == 0).await;
        left.is_ok_and(|readers| readers.had_said)
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
        let token: Arc<str> = token::load(&self.folder)?.into();
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
            let (feed, token) = (Arc::clone(&self), Arc::clone(&token));
            tokio::spawn(async move {
                let ended = feed.admit(stream, &token).await;
                tracing::debug!(?ended, "a redirector left");
                feed.wake();
            });
        }
    }

    /// Serves a process that knows the token; it speaks first. Who says what cannot be read is told nothing at all: it may
    /// be a redirector all the same.
    async fn admit(&self, mut stream: UnixStream, token: &str) -> Result<()> {
        let peer = stream.peer_cred()?;
        let pid = peer.pid().map_or_else(|| "?".to_owned(), |pid| pid.to_string());
        let who = format!("process {pid} of user {}", peer.uid());
        if READERS.contains(&peer.uid()) {
            let hello = tokio::time::timeout(HELLO, read(&mut stream)).await;
            match hello.unwrap_or_else(|_| bail!("nothing for {HELLO:?}")) {
                Ok(hello) if token::is_same(&hello.token, token) => {
                    let number = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
                    let ended = self.feed(stream, hello).await;
                    // What it had open it may have no more; who comes again tells all again.
                    if number == self.connections.load(Ordering::Relaxed) {
                        self.shared.update(|state| {
                            state.destinations.clear();
                            state.redirector_open.clear();
                        });
                    }
                    return ended;
                }
                Ok(_) => {}
                Err(error) => {
                    self.refuse(
                        "feed/unreadable",
                        format!("{who} said to the redirector's socket: {error:#}"),
                    );
                    return Ok(());
                }
            }
        }
        let text = format!(
            "{who} asked for the redirector's snapshots without its token, and was refused; the token is in {}",
            token_file(&self.folder).display()
        );
        self.refuse("feed/refused", text);
        Ok(stream.write_u32(REFUSED).await?)
    }

    fn refuse(&self, topic: &str, text: String) {
        tracing::warn!("{text}");
        self.shared.warn(topic, text);
        self.shared.update(|state| state.feed_refused += 1);
    }

    /// Serves one redirector, which has said who it is.
    async fn feed(&self, mut stream: UnixStream, hello: Report) -> Result<()> {
        let (mut reader, mut writer) = stream.split();
        let hello_epoch = hello.epoch;
        let mut current = self.current.subscribe();
        current.mark_changed();
        if hello_epoch == 0 {
            let first = current.wait_for(Option::is_some).await?.clone();
            return write(&mut writer, first.as_deref()).await;
        }
        if !hello.maps.is_empty() && self.maps.get().is_some_and(|maps| *maps != hello.maps) {
            tracing::warn!("a redirector has maps of an earlier agent: it goes, and another one comes");
            return Ok(writer.write_u32(REFUSED).await?);
        }
        self.latest
            .send_if_modified(|latest| std::mem::replace(latest, (*latest).max(hello_epoch)) < hello_epoch);
        let mut latest = self.latest.subscribe();
        latest.mark_changed();
        let mut staying = Some(Reader::new(&self.readers));
        let mut hear = |report: Report| {
            if report.going
                && let Some(reader) = staying.take()
            {
                reader.goes();
            }
            self.hear(report);
        };
        hear(hello);
        // Apart from the rest: a report that is read in part must not be let go.
        let hearing = async {
            loop {
                hear(read(&mut reader).await?);
            }
        };
        let mut hearing = std::pin::pin!(hearing);
        loop {
            tokio::select! {
                ended = &mut hearing => return ended,
                changed = latest.changed() => {
                    changed?;
                    if *latest.borrow_and_update() > hello_epoch {
                        return Ok(writer.write_u32(REPLACED).await?);
                    }
                }
                changed = current.changed() => {
                    changed?;
                    let bytes = current.borrow_and_update().clone();
                    write(&mut writer, bytes.as_deref()).await?;
                }
            }
        }
    }

    fn hear(&self, report: Report) {
        if report.epoch < *self.latest.borrow() {
            return;
        }
        let epoch = report.epoch;
        self.shared.clear("redirector/");
        for note in bounds::notes(report.notes) {
            self.shared.warn(&format!("redirector/{note}"), note);
        }
        self.shared.update(|state| {
            if std::mem::replace(&mut state.redirector_epoch, epoch) != epoch {
                state.routes.clear();
                state.destinations.clear();
            }
            if !report.token.is_empty() {
                // It tells all from the beginning.
                state.destinations.clear();
            }
            state.redirector = bounds::counters(report.counters);
            state.redirector_open = bounds::counters(report.open);
            bounds::add_rows(&mut state.routes, report.routes);
            bounds::note_destinations(&mut state.destinations, report.destinations);
        });
        if self.acked.swap(report.version, Ordering::Relaxed) != report.version {
            self.wake();
        }
    }

    fn wake(&self) {
        let _agent_ends = self.programmer.send(Vec::new());
    }
}

/// Who reads.
#[derive(Clone, Copy, Default, Debug)]
struct Readers {
    /// Redirectors that have not said that they go.
    staying: usize,
    /// The last that went had said so.
    had_said: bool,
}

/// Counts a redirector for as long as it is fed and stays.
struct Reader<'c> {
    readers: &'c watch::Sender<Readers>,
    has_said: bool,
}

impl<'c> Reader<'c> {
    fn new(readers: &'c watch::Sender<Readers>) -> Self {
        readers.send_modify(|readers| readers.staying += 1);
        Self { readers, has_said: false }
    }

    /// It says that it goes.
    fn goes(mut self) {
        self.has_said = true;
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.readers.send_modify(|readers| {
            readers.staying -= 1;
            readers.had_said = self.has_said;
        });
    }
}

async fn write(writer: &mut (impl AsyncWriteExt + Unpin), snapshot: Option<&Vec<u8>>) -> Result<()> {
    if let Some(bytes) = snapshot {
        writer.write_u32(u32::try_from(bytes.len())?).await?;
        writer.write_all(bytes).await?;
    }
    Ok(())
}

async fn read(reader: &mut (impl AsyncReadExt + Unpin)) -> Result<Report> {
    let length = reader.read_u32().await?;
    ensure!(length <= LARGEST_REPORT, "a report of {length} bytes, more than {LARGEST_REPORT}");
    let mut bytes = vec![0; length as usize];
    reader.read_exact(&mut bytes).await?;
    serde_json::from_slice(&bytes).context("a report that is none")
}
