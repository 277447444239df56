//! The self-probe: a real connection through the hooks, to an address that only they make reachable.
//! "Attached" does not prove that a cgroup is the one that processes live in.

use std::{
    fs,
    io::Read as _,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use sluice_common::{
    Addr,
    layout::{
        BackendValue, FLAG_HAS_ENDPOINTS, FrontendKey, FrontendKind, FrontendValue, PROBE_ID, SlotValue, TCP,
    },
};

use super::own;
use crate::maps::{Op, Writer as _, bpf::BpfMaps};

/// On the loopback network, so that an untranslated probe never leaves the machine, and used by nobody.
const PROBE_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 254, 254, 254);
const TIMEOUT: Duration = Duration::from_secs(2);

/// Connects to the probe's frontend from inside `cgroup` and expects to reach our own listener.
///
/// # Errors
/// What was seen instead.
pub fn probe(maps: &mut BpfMaps, cgroup: &Path) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on 127.0.0.1")?;
    let port_be = listener.local_addr()?.port().to_be();
    let key = FrontendKey { addr: Addr::from(IpAddr::V4(PROBE_ADDRESS)), port_be, protocol: TCP, scope: 0 };
    let value = FrontendValue {
        service_id: PROBE_ID,
        flags: FLAG_HAS_ENDPOINTS,
        kind: FrontendKind::ClusterIp as u8,
        pad: 0,
        affinity_timeout_s: 0,
        cluster_start: PROBE_ID,
        cluster_count: 1,
        local_start: 0,
        local_count: 0,
        check: key.check(),
    };
    let slot = SlotValue {
        backend_id: PROBE_ID,
        service_id: PROBE_ID,
        state: 1,
        excluded: 0,
        local: 1,
        pad: 0,
        pad2: 0,
    };
    let backend =
        BackendValue { addr: Addr::from(IpAddr::V4(Ipv4Addr::LOCALHOST)), port_be, pad: 0, node_id: 0 };
    maps.put_probe(key, value, slot, backend)?;
    let target = SocketAddr::from((PROBE_ADDRESS, u16::from_be(port_be)));
    let result =
        if crate::loader::lives_in(cgroup) { connect(target) } else { connect_from_child(cgroup, target) };
    maps.write(&Op::DeleteFrontend(key))?;
    result.with_context(|| format!("from the cgroup {}", cgroup.display()))
}

fn connect(target: SocketAddr) -> Result<()> {
    let stream =
        TcpStream::connect_timeout(&target, TIMEOUT).with_context(|| format!("connect to {target}"))?;
    let peer = stream.peer_addr()?;
    if peer != target {
        bail!("the peer of a connection to {target} is shown as {peer}");
    }
    Ok(())
}

/// Connects from a child process in a cgroup of its own below `cgroup`.
fn connect_from_child(cgroup: &Path, target: SocketAddr) -> Result<()> {
    let leaf = Leaf::create(cgroup)?;
    let mut child = own::program()
        .args(["probe-connect", &target.to_string()])
        .arg(&leaf.0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start a process for the probe")?;
    let mut stderr = String::new();
    if let Some(pipe) = &mut child.stderr {
        pipe.read_to_string(&mut stderr)?;
    }
    if !child.wait()?.success() {
        bail!("{}", stderr.trim().trim_start_matches("error: "));
    }
    Ok(())
}

/// The child's side: enters the cgroup `leaf`, then connects.
///
/// # Errors
/// What the connection met.
pub fn connect_from_cgroup(leaf: &Path, target: SocketAddr) -> Result<()> {
    fs::write(leaf.join("cgroup.procs"), "0").with_context(|| format!("cannot enter {}", leaf.display()))?;
    connect(target)
}

/// A cgroup that goes away with the value.
struct Leaf(PathBuf);

impl Leaf {
    fn create(parent: &Path) -> Result<Self> {
        let leaf = parent.join(format!("sluice-probe-{}", std::process::id()));
        match fs::create_dir(&leaf) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot create {}", leaf.display())),
        }
        Ok(Self(leaf))
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            tracing::warn!(%error, cgroup = %self.0.display(), "left a cgroup behind");
        }
    }
}
