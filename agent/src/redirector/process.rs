//! `sluice redirector`: puts its listeners into the kernel's map, gives its privileges up, takes snapshots from the agent,
//! and says every second that it is well. It needs no agent to start, and none to go on.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Confinement, Options, Redirector, SourceAddress, confine,
    handover::{self, Heart, Life, OnceReplaced, leave, outlive},
    link::{self, Link},
    memory,
};
use crate::{
    capabilities::Capabilities,
    l7::snapshot::{Snapshot, USER, agent_socket, snapshot_file, token_file},
    maps::{Pins, bpf::Listeners},
    sys::SharedNumber,
};
use anyhow::{Context as _, Result};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_keep_capabilities},
};
use socket2::{Domain, Socket, Type};
use tokio::sync::watch;

const AGAIN: Duration = Duration::from_millis(200);
/// How long connections may take to end when another redirector has taken over, or when we are told to stop.
const DRAIN: Duration = Duration::from_secs(60);
/// Connections of all clients that wait to be taken, per listener; the kernel takes `net.core.somaxconn` where that is less.
const BACKLOG: i32 = 4096;
/// How long it takes to end at most, once it is told to: what whoever would kill it later must allow.
pub const LONGEST_END: Duration = DRAIN.saturating_add(handover::SUCCESSOR);

/// What the command line says.
#[derive(Debug)]
pub struct ProcessOptions {
    /// Where the agent's socket and the last snapshot are.
    pub run_dir: PathBuf,
    /// Folder of pins.
    pub bpffs: PathBuf,
    /// Threads; one for each CPU without it.
    pub workers: Option<u32>,
    /// What follows when another one has taken over.
    pub once_replaced: OnceReplaced,
    /// What becomes of system calls that are not ours.
    pub confinement: Confinement,
    /// Settings of the data plane.
    pub options: Options,
}

/// Runs until another redirector takes over; after SIGTERM or SIGINT it waits a while for one.
///
/// # Errors
/// What keeps it from starting.
pub fn run(options: ProcessOptions) -> Result<()> {
    raise_file_limit();
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    let workers = options.workers.unwrap_or(cpus).clamp(1, Listeners::MOST_WORKERS);
    if Uid::effective().is_root() {
        Capabilities::effective()?.for_redirecting()?;
    }
    wait_for_maps(&Pins::at(&options.bpffs))?;
    wait_for(&token_file(&options.run_dir))?;
    let pins = Pins::at(&options.bpffs);
    // Before they are opened: maps that are made anew in between are noticed.
    let ids = Listeners::ids(&pins);
    let mut maps = Listeners::open(&pins)?;
    let listeners = (0..workers).map(|_| listen()).collect::<Result<Vec<_>>>()?;
    let heart = Heart::new(SharedNumber::map(maps.heartbeat()).context("cannot map HEARTBEAT")?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = agent_socket(&options.run_dir);
        let first = match last_snapshot(&options.run_dir) {
            Some(snapshot) => snapshot,
            None => link::first_snapshot(&socket, || token(&options.run_dir)).await?,
        };
        let token = token(&options.run_dir)?;
        // Compiled before anything is steered here: a connection that waits meanwhile is served, and not closed.
        let version = first.version;
        let compiled = Redirector::compile(first);
        maps.steer(&listeners)?;
        drop(maps);
        let epoch = handover::now_ns();
        let mut settings = options.options;
        let mut notes = Vec::from_iter(give_privileges_up(&mut settings.source)?.map(str::to_owned));
        // Last of all that only this thread does; those that serve are started under the filter.
        notes.extend(confined(options.confinement));
        let sets = listeners.into_iter().map(|(v4, v6)| vec![v4, v6]).collect();
        let redirector = Redirector::start_with(sets, settings, compiled)?;
        tracing::info!(workers, version, "the redirector is up");
        let (told, told_destinations) = (BTreeMap::new(), BTreeMap::new());
        let going = watch::Sender::new(false);
        let mut link = Link {
            socket,
            redirector: &redirector,
            token,
            epoch,
            version,
            maps: ids,
            notes,
            told,
            told_destinations,
            going: &going,
        };
        let mut is_replaced = true;
        tokio::select! {
            ended = heart.beat(&redirector, &going) => match ended {
                Life::Replaced => tracing::info!("another redirector has taken over"),
                Life::Hung => {
                    // Its connections are lost in any case; whoever started us starts another.
                    tracing::error!("a worker has hung for too long: this process ends");
                    std::process::exit(1);
                }
            },
            () = link.follow() => tracing::info!("another redirector takes over"),
            () = memory::give_back(&redirector) => {}
            result = leave(&going) => {
                // From now on new connections are balanced without us, or refused, as the agent was told.
                heart.stop();
                is_replaced = false;
                tracing::info!("no other redirector has come");
                result?;
            }
        }
        redirector.drain(DRAIN);
        if is_replaced && options.once_replaced == OnceReplaced::Wait && !*going.borrow() {
            outlive(&heart).await?;
        }
        Ok(())
    })
}

/// Waits until an agent has made the maps. In a pod of their own the two start at once, and a restart would wait longer.
fn wait_for_maps(pins: &Pins) -> Result<()> {
    Listeners::NAMES.iter().try_for_each(|name| wait_for(&pins.map(name)))
}

fn wait_for(file: &Path) -> Result<()> {
    let is_there = || file.try_exists().with_context(|| format!("cannot look for {}", file.display()));
    if is_there()? {
        return Ok(());
    }
    tracing::info!("waiting for an agent to make {}", file.display());
    while !is_there()? {
        std::thread::sleep(AGAIN);
    }
    Ok(())
}

/// What shows the agent that we are the redirector, read while we may.
fn token(run_dir: &Path) -> Result<String> {
    let file = token_file(run_dir);
    fs::read_to_string(&file)
        .with_context(|| format!("cannot read {}; start the redirector as root", file.display()))
}

/// A connection takes two descriptors: as many as we may have.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays what it is");
    }
}

fn listen() -> Result<(TcpListener, TcpListener)> {
    // The address does not matter, but that nobody else can dial it.
    let bind = |address: IpAddr| {
        let socket = Socket::new(Domain::for_address((address, 0).into()), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(address, 0).into())?;
        socket.listen(BACKLOG)?;
        Ok::<_, io::Error>(TcpListener::from(socket))
    };
    let v4 = bind(Ipv4Addr::LOCALHOST.into()).context("cannot listen on 127.0.0.1")?;
    let v6 = bind(Ipv6Addr::LOCALHOST.into()).context("cannot listen on ::1")?;
    Ok((v4, v6))
}

fn last_snapshot(run_dir: &Path) -> Option<Snapshot> {
    let bytes = fs::read(snapshot_file(run_dir)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Becomes nobody: hostile bytes meet a process that may do nothing, or nothing but take addresses of pods for its
/// sockets (`IP_TRANSPARENT`). Where that is not to be had, `source` becomes the node's, and the text says so.
fn give_privileges_up(source: &mut SourceAddress) -> Result<Option<&'static str>> {
    const LACKING: &str = "endpoints see the node's address and X-Forwarded-For, not the address of a pod that asks: the \
        redirector lacks CAP_NET_RAW; add it to its container, or say --upstream-source node";
    let has = capabilities(None).is_ok_and(|sets| sets.permitted.contains(CapabilitySet::NET_RAW));
    let lacking = (*source == SourceAddress::Client && !has).then_some(LACKING);
    if let Some(text) = lacking {
        tracing::warn!("{text}");
        *source = SourceAddress::Node;
    }
    rustix::thread::set_no_new_privs(true).context("cannot renounce new privileges")?;
    if !Uid::effective().is_root() {
        return Ok(lacking);
    }
    let keeps = *source == SourceAddress::Client;
    if keeps {
        set_keep_capabilities(true).context("cannot keep CAP_NET_RAW")?;
    }
    setgroups(&[]).context("cannot leave the groups")?;
    setresgid(Gid::from_raw(USER), Gid::from_raw(USER), Gid::from_raw(USER))
        .context("cannot change the group")?;
    setresuid(Uid::from_raw(USER), Uid::from_raw(USER), Uid::from_raw(USER))
        .context("cannot change the user")?;
    if keeps {
        // The threads that serve are started by this one, and have what it has.
        let only = CapabilitySet::NET_RAW;
        let sets = CapabilitySets { effective: only, permitted: only, inheritable: CapabilitySet::empty() };
        set_capabilities(None, sets).context("cannot keep CAP_NET_RAW")?;
    }
    Ok(lacking)
}

/// Filters system calls; what keeps it from that, in words. Rules without a filter are better than none.
fn confined(how: Confinement) -> Option<String> {
    let error = confine(how).err()?;
    let text = format!("the redirector can make every system call of its user's: {error:#}");
    tracing::warn!("{text}");
    Some(text)
}
