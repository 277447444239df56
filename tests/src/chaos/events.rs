//! What happens to nodes.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::Cluster;
use crate::wait;

/// Something that happens. Between its parts it lets sessions go on.
pub struct Event {
    /// In words.
    pub name: &'static str,
    /// Requests that a redirector held may be lost.
    pub kills_redirector: bool,
    /// Does it.
    pub happen: Happening,
}

/// Gets a way to let sessions go on meanwhile.
type Happening = Box<dyn FnOnce(&mut Cluster, &mut dyn FnMut()) -> Result<()>>;

fn event(
    name: &'static str,
    happen: impl FnOnce(&mut Cluster, &mut dyn FnMut()) -> Result<()> + 'static,
) -> Event {
    Event { name, kills_redirector: false, happen: Box::new(happen) }
}

/// Maps of other sizes are made anew beside the old ones, and switched to in one step: as for another layout.
const OTHER_SIZES: [&str; 4] = ["--max-services", "32768", "--max-slots", "131072"];

/// All of them, in order.
pub fn all(other: Option<PathBuf>) -> Vec<Event> {
    let upgrade = other.clone();
    vec![
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
        event("the redirector is told to end, and another one comes", |cluster, _| {
            redirector_gone(cluster, Signal::TERM)
        }),
        Event {
            kills_redirector: true,
            ..event("the redirector is killed, and another one comes", |cluster, _| {
                redirector_gone(cluster, Signal::KILL)
            })
        },
        event("the API server goes for a while; an endpoint comes meanwhile", |cluster, go_on| {
            cluster.api.down();
            go_on();
            cluster.endpoints(&["near", "far", "spare"]);
            go_on();
            cluster.api.up();
            cluster.wait_endpoints(1, 3);
            cluster.endpoints(&["near", "far"]);
            cluster.wait_endpoints(1, 2);
            Ok(())
        }),
        event("watches are lost and versions compacted", |cluster, go_on| {
            cluster.api.drop_watches();
            cluster.api.compact();
            go_on();
            Ok(())
        }),
        event("an endpoint comes and goes a hundred times", |cluster, _| {
            for _ in 0..50 {
                cluster.endpoints(&["near", "far", "spare"]);
                std::thread::sleep(Duration::from_millis(10));
                cluster.endpoints(&["near", "far"]);
                std::thread::sleep(Duration::from_millis(10));
            }
            cluster.wait_endpoints(1, 2);
            cluster.wait_endpoints(2, 2);
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

/// Ends the redirector of node-1, and waits for the next one to be well.
fn redirector_gone(cluster: &Cluster, how: Signal) -> Result<()> {
    let find = || {
        let name = cluster.world.node(1).folder().join("run").display().to_string();
        let processes = std::fs::read_dir("/proc").ok()?.flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.find(|pid| {
            let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.contains("\0redirector\0") && words.contains(&name)
        })
    };
    let old = find().context("no redirector runs on node-1")?;
    signal(old, how)?;
    wait::until_within(Duration::from_secs(40), "another redirector", || match find() {
        Some(new) if new != old => Ok(()),
        other => Err(format!("{other:?}")),
    });
    cluster.world.node(1).wait_healthy();
    Ok(())
}

fn signal(pid: i32, how: Signal) -> Result<()> {
    let process = Pid::from_raw(pid).context("a process")?;
    kill_process(process, how).with_context(|| format!("cannot signal {pid}"))
}
