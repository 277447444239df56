//! What happens to nodes.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::{Cluster, Kill, Shared};
use crate::wait;

/// How long a redirector that goes may take.
const LONGEST_END: Duration = sluice::redirector::LONGEST_END;

/// Something that happens. Between its parts it lets sessions go on.
pub struct Event {
    /// In words.
    pub name: &'static str,
    /// Whether a redirector goes in good order, which closes connections; in all other events none may be closed.
    pub redirector_goes: bool,
    /// Does it.
    pub happen: Happening,
}

/// Gets a way to let sessions go on meanwhile.
type Happening = Box<dyn FnOnce(&mut Cluster, &mut dyn FnMut()) -> Result<()>>;

/// One in which no redirector is told to go.
pub fn event(
    name: &'static str,
    happen: impl FnOnce(&mut Cluster, &mut dyn FnMut()) -> Result<()> + 'static,
) -> Event {
    Event { name, redirector_goes: false, happen: Box::new(happen) }
}

/// Maps of other sizes are made anew beside the old ones and switched to in one step, and what programs remember is copied.
/// That is not what becomes of maps of another layout: what those remember is lost, and no upgrade here shows it.
const OTHER_SIZES: [&str; 8] = [
    "--max-services",
    "32768",
    "--max-slots",
    "131072",
    "--max-flows",
    "262144",
    "--max-udp-flows",
    "131072",
];

/// All of them, in order.
pub fn all(other: Option<PathBuf>, shared: &Arc<Shared>) -> Vec<Event> {
    let (upgrade, shared) = (other, Arc::clone(shared));
    vec![
        Event {
            redirector_goes: true,
            ..event("the redirector is told to end, and another one comes", |cluster, go_on| {
                redirector_leaves(cluster, go_on)
            })
        },
        Event {
            redirector_goes: true,
            ..event("another redirector takes over, and the first is told to end", redirector_taken_over)
        },
        event("the redirector is killed, and another one comes", move |cluster, _| {
            redirector_killed(cluster, &shared)
        }),
        event("node-1's agent is killed, stays away, and another one comes", |cluster, go_on| {
            killed(cluster, 1, go_on);
            Ok(())
        }),
        event("node-2's agent is killed, stays away, and another one comes", |cluster, go_on| {
            killed(cluster, 2, go_on);
            Ok(())
        }),
        event("upgrade of both nodes, one after the other", move |cluster, go_on| {
            let flags: &[&str] = if upgrade.is_some() { &[] } else { &OTHER_SIZES };
            [1, 2]
                .into_iter()
                .try_for_each(|number| replaced(cluster, number, upgrade.as_deref(), flags, go_on))
        }),
        event("downgrade of both nodes", |cluster, go_on| {
            [1, 2].into_iter().try_for_each(|number| replaced(cluster, number, None, &[], go_on))
        }),
        event("the API server goes for a while; endpoints come meanwhile", |cluster, go_on| {
            cluster.api.down();
            go_on();
            cluster.spare(true);
            go_on();
            cluster.api.up();
            cluster.wait_spare(true);
            go_on();
            cluster.spare(false);
            cluster.wait_spare(false);
            Ok(())
        }),
        event("watches are lost and versions compacted", |cluster, go_on| {
            cluster.api.drop_watches();
            cluster.api.compact();
            go_on();
            Ok(())
        }),
        event("an endpoint of each Service comes and goes fifty times", |cluster, go_on| {
            // What begins meanwhile may be at an endpoint that goes, and stays there: its pod lives on.
            for round in 0..50 {
                for is_there in [true, false] {
                    cluster.spare(is_there);
                    std::thread::sleep(Duration::from_millis(10));
                }
                if round % 10 == 0 {
                    cluster.spare(true);
                    cluster.wait_spare(true);
                    go_on();
                }
            }
            cluster.spare(false);
            cluster.wait_spare(false);
            Ok(())
        }),
    ]
}

fn killed(cluster: &mut Cluster, number: usize, go_on: &mut dyn FnMut()) {
    if let Some(agent) = cluster.agents[number - 1].take() {
        agent.kill();
    }
    go_on();
    cluster.agent(number, None, &[]);
}

fn replaced(
    cluster: &mut Cluster,
    number: usize,
    binary: Option<&std::path::Path>,
    flags: &[&str],
    go_on: &mut dyn FnMut(),
) -> Result<()> {
    if let Some(mut agent) = cluster.agents[number - 1].take() {
        signal(agent.pid().cast_signed(), Signal::TERM)?;
        wait::until("the agent ends", || if agent.ended().is_some() { Ok(()) } else { Err("it runs") });
    }
    go_on();
    cluster.agent(number, binary, flags);
    Ok(())
}

/// The redirectors of node-1 that run, the latest last.
fn redirectors(cluster: &Cluster) -> Vec<i32> {
    let name = cluster.world.node(1).folder().join("run").display().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut found: Vec<(u64, i32)> = pids
        .filter(|pid| {
            let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.contains("\0redirector\0") && words.contains(&name)
        })
        .filter_map(|pid| Some((started(pid)?, pid)))
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, pid)| pid).collect()
}

/// When a process was started, in ticks since the machine was; `None` once it has ended.
fn started(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Fields from the third on, behind the name, which may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    if matches!(fields.first(), Some(&("Z" | "X"))) { None } else { fields.get(19)?.parse().ok() }
}

/// The one that runs, once those before it have ended.
fn redirector(cluster: &Cluster) -> i32 {
    wait::until_within(LONGEST_END, "one redirector", || match *redirectors(cluster) {
        [one] => Ok(one),
        ref others => Err(others.to_vec()),
    })
}

/// Waits until another redirector serves.
fn wait_another(cluster: &Cluster, old: i32) {
    wait::until_within(Duration::from_secs(40), "another redirector", || {
        let now = redirectors(cluster);
        if now.last().is_some_and(|latest| *latest != old) { Ok(()) } else { Err(now) }
    });
    cluster.world.node(1).wait_healthy();
}

/// Tells the redirector of node-1 to end, and waits until the next one serves.
pub fn redirector_goes(cluster: &Cluster) -> Result<()> {
    let old = redirector(cluster);
    signal(old, Signal::TERM)?;
    wait_another(cluster, old);
    Ok(())
}

/// The same, and waits until it has gone.
fn redirector_leaves(cluster: &Cluster, go_on: &mut dyn FnMut()) -> Result<()> {
    redirector_goes(cluster)?;
    go_on();
    redirector(cluster);
    Ok(())
}

/// Another one comes first, as a DaemonSet's next pod does; then the old one is told to go.
fn redirector_taken_over(cluster: &mut Cluster, go_on: &mut dyn FnMut()) -> Result<()> {
    let old = redirector(cluster);
    let node = cluster.world.node(1);
    let log = node.log().len();
    let child = node.spawn_redirector(&["--once-replaced", "wait"]);
    cluster.redirectors.push(child);
    wait_another(cluster, old);
    wait::until("the first hears of it", || {
        let log = cluster.world.node(1).log()[log..].to_owned();
        if log.contains("another redirector takes over") { Ok(()) } else { Err(log) }
    });
    go_on();
    if started(old).is_some() {
        signal(old, Signal::TERM)?;
    }
    go_on();
    redirector(cluster);
    Ok(())
}

/// Kills it. What was sent before it was gone may be lost.
fn redirector_killed(cluster: &Cluster, shared: &Shared) -> Result<()> {
    let old = redirector(cluster);
    shared.kill(Kill::Now);
    signal(old, Signal::KILL)?;
    while !has_let_go(old) {
        std::thread::yield_now();
    }
    shared.kill(Kill::At(Instant::now()));
    wait_another(cluster, old);
    Ok(())
}

/// Whether nothing of a process that was killed holds its sockets any more: its first thread may be dead before others are.
fn has_let_go(pid: i32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    started(pid).is_none() && threads <= 1
}

fn signal(pid: i32, how: Signal) -> Result<()> {
    let process = Pid::from_raw(pid).context("a process")?;
    kill_process(process, how).with_context(|| format!("cannot signal {pid}"))
}
