//! Memory of both proxies: with nothing to do, and with clients that have asked once and stay.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use super::{
    super::Results,
    Node, Proxy,
    process::{connections_at, resident_mb},
};
use crate::{
    wait,
    world::{Pod, kill},
};

/// The redirector admits 4,096 connections of one client.
const CLIENTS: usize = 3;
/// Memory that has not changed by a hundredth for so long will not.
const SETTLED: Duration = Duration::from_secs(6);
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures both, each with as many connections.
pub fn measure(node: &Node, results: &mut Results) -> Result<()> {
    raise_file_limit()?;
    for connections in [0, 1_000, 10_000] {
        let mut used = Vec::new();
        for proxy in &node.proxies {
            let held = hold_all(node, proxy, connections)?;
            let (asked, memory) = (resident_mb(proxy.pid)?, settled_mb(proxy.pid)?);
            drop(held);
            wait::until("they are gone", || match connections_at(proxy.pid, proxy.port) {
                Ok(0) => Ok(()),
                other => Err(other),
            });
            used.push(memory);
            eprintln!("    {}: {connections} connections: {asked:.1} MB, then {memory:.1} MB", proxy.name);
            results.runs.push(json!({"connections": connections, "way": proxy.name, "residentMb": memory,
                "residentMbOnceAsked": asked}));
        }
        let label = match connections {
            0 => "memory with nothing to do / Envoy's".to_owned(),
            some => format!("memory with {some} connections / Envoy's"),
        };
        results.at_most(&label, used[0] / used[1], 0.334, "ratio");
    }
    Ok(())
}

/// What it is at once all clients have their answers and the proxy has come to rest: the same for some seconds.
fn settled_mb(pid: u32) -> Result<f64> {
    let mut last = (resident_mb(pid)?, Instant::now());
    wait::until_within(PATIENCE, "memory stays the same", || {
        let now = resident_mb(pid).map_err(|error| error.to_string())?;
        if (now - last.0).abs() > last.0 / 100.0 {
            last = (now, Instant::now());
        }
        if last.1.elapsed() > SETTLED { Ok(now) } else { Err(format!("{now} MB")) }
    });
    resident_mb(pid)
}

/// Connections that are open until this is dropped.
struct Held(Vec<Child>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(kill);
    }
}

fn hold_all(node: &Node, proxy: &Proxy, connections: usize) -> Result<Held> {
    let mut held = Held(Vec::new());
    for (index, pod) in node.clients.iter().take(CLIENTS).enumerate() {
        let own = connections / CLIENTS + usize::from(index < connections % CLIENTS);
        held.0.push(start(pod, proxy, own)?);
    }
    for child in &mut held.0 {
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        ensure!(line.trim() == "held", "connections to {} cannot be held: {line}", proxy.name);
    }
    let open = connections_at(proxy.pid, proxy.port)?;
    ensure!(open == connections, "{} has {open} connections, not {connections}", proxy.name);
    Ok(held)
}

/// This program again, in the pod.
fn start(pod: &Pod, proxy: &Proxy, connections: usize) -> Result<Child> {
    let mut command = pod.command(&std::env::current_exe()?.display().to_string());
    command.args(["hold", &proxy.address, &connections.to_string()]);
    Ok(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?)
}

/// `hold ADDRESS NUMBER`: opens connections one after the other, asks once on each, says so, and keeps them until its input
/// ends.
///
/// # Errors
/// A connection or an answer is missing.
pub fn hold(words: &[String]) -> Result<()> {
    let [address, number] = words else { anyhow::bail!("hold ADDRESS NUMBER") };
    let mut held = Vec::new();
    for _ in 0..number.parse::<usize>()? {
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        socket.write_all(format!("GET /kb HTTP/1.1\r\nhost: {address}\r\n\r\n").as_bytes())?;
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        // The body has 1,024 bytes, and ends the answer.
        while !answer.ends_with(&[b'x'; 1024]) {
            let read = socket.read(&mut part)?;
            ensure!(read > 0, "{address}: an answer ended early: {:?}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&part[..read]);
        }
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "{address}: {:?}", String::from_utf8_lossy(&answer));
        held.push(socket);
    }
    println!("held");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// As high as it may be: children have it too.
fn raise_file_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}
