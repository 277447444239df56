//! `sluice redirector`: puts its listeners into the kernel's map, gives its privileges up, takes snapshots from the agent,
//! and says every second that it is well. It needs no agent to start, and none to go on.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::Notify,
};

use super::{Options, Redirector};
use crate::{
    l7::snapshot::{Snapshot, USER, agent_socket, snapshot_file},
    maps::{Pins, bpf::Listeners},
    sys::SharedNumber,
};

const BEAT: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(200);
/// How long connections may take to end when another redirector has taken over, or when we are told to stop.
const DRAIN: Duration = Duration::from_secs(60);
/// Larger than any snapshot: a length beyond it is not the agent's.
const LARGEST_SNAPSHOT: u32 = 1 << 30;

/// What the command line says.
#[derive(Debug)]
pub struct ProcessOptions {
    /// Where the agent's socket and the last snapshot are.
    pub run_dir: PathBuf,
    /// Folder of pins.
    pub bpffs: PathBuf,
    /// Threads; one for each CPU without it.
    pub workers: Option<u32>,
    /// Settings of the data plane.
    pub options: Options,
}

/// Runs until SIGTERM, SIGINT, or until another redirector takes over.
///
/// # Errors
/// What keeps it from starting.
pub fn run(options: ProcessOptions) -> Result<()> {
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    let workers = options.workers.unwrap_or(cpus).clamp(1, Listeners::MOST_WORKERS);
    let mut maps = Listeners::open(&Pins::at(&options.bpffs))?;
    let listeners = (0..workers).map(|_| listen()).collect::<Result<Vec<_>>>()?;
    let heartbeat = SharedNumber::map(maps.heartbeat()).context("cannot map HEARTBEAT")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut agent = Agent { socket: agent_socket(&options.run_dir), stream: None };
        let first = match last_snapshot(&options.run_dir) {
            Some(snapshot) => snapshot,
            None => agent.next().await?.context("the agent ended before it said anything")?,
        };
        maps.steer(&listeners)?;
        drop(maps);
        give_privileges_up()?;
        let sets = listeners.into_iter().map(|(v4, v6)| vec![v4, v6]).collect();
        let redirector = Redirector::start(sets, options.options)?;
        let version = first.version;
        redirector.apply(first);
        tracing::info!(workers, version, "the redirector is up");
        let taken_over = Arc::new(Notify::new());
        tokio::select! {
            never = beat(&heartbeat) => never,
            result = follow(&mut agent, &redirector, version, &taken_over) => result?,
            () = taken_over.notified() => {}
            result = stop_signal() => result?,
        }
        // New connections went to another redirector, or will be balanced without one.
        redirector.drain(DRAIN);
        Ok(())
    })
}

fn listen() -> Result<(TcpListener, TcpListener)> {
    // The address does not matter, but that nobody else can dial it.
    let v4 = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .context("cannot listen on 127.0.0.1")?;
    let v6 = TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))).context("cannot listen on ::1")?;
    Ok((v4, v6))
}

fn last_snapshot(run_dir: &Path) -> Option<Snapshot> {
    let bytes = fs::read(snapshot_file(run_dir)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Becomes nobody: hostile bytes meet a process that may do nothing.
fn give_privileges_up() -> Result<()> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    setgroups(&[]).context("cannot leave the groups")?;
    setresgid(Gid::from_raw(USER), Gid::from_raw(USER), Gid::from_raw(USER))
        .context("cannot change the group")?;
    setresuid(Uid::from_raw(USER), Uid::from_raw(USER), Uid::from_raw(USER))
        .context("cannot change the user")?;
    rustix::thread::set_no_new_privs(true).context("cannot renounce new privileges")
}

/// Says that we are well, for as long as this thread runs.
async fn beat(heartbeat: &SharedNumber) {
    let mut ticks = tokio::time::interval(BEAT);
    loop {
        ticks.tick().await;
        let now = clock_gettime(ClockId::Monotonic);
        heartbeat.set(now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs());
    }
}

/// The agent's end of the socket, connected again whenever it comes back.
struct Agent {
    socket: PathBuf,
    stream: Option<UnixStream>,
}

impl Agent {
    /// The next snapshot; `None` when another redirector takes over.
    async fn next(&mut self) -> Result<Option<Snapshot>> {
        loop {
            match self.read().await {
                Ok(bytes) if bytes.is_empty() => return Ok(None),
                Ok(bytes) => match serde_json::from_slice(&bytes) {
                    Ok(snapshot) => return Ok(Some(snapshot)),
                    Err(error) => {
                        tracing::error!(%error, "the agent's snapshot is not one of this version; the last one stays");
                        self.stream = None;
                    }
                },
                Err(error) => {
                    tracing::debug!("the agent is away: {error:#}");
                    self.stream = None;
                }
            }
            if self.stream.is_none() {
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    async fn read(&mut self) -> Result<Vec<u8>> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(UnixStream::connect(&self.socket).await?),
        };
        let length = stream.read_u32().await?;
        if length > LARGEST_SNAPSHOT {
            bail!("a snapshot of {length} bytes");
        }
        let mut bytes = vec![0; length as usize];
        stream.read_exact(&mut bytes).await?;
        Ok(bytes)
    }

    async fn acknowledge(&mut self, version: u64) {
        if let Some(stream) = &mut self.stream
            && stream.write_u64(version).await.is_err()
        {
            self.stream = None;
        }
    }
}

async fn follow(agent: &mut Agent, redirector: &Redirector, first: u64, taken_over: &Notify) -> Result<()> {
    agent.acknowledge(first).await;
    while let Some(snapshot) = agent.next().await? {
        let version = snapshot.version;
        redirector.apply(snapshot);
        agent.acknowledge(version).await;
    }
    taken_over.notify_one();
    std::future::pending().await
}

async fn stop_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
