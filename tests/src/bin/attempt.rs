//! Confines itself as the redirector does (`enforce` or `off`), tries one thing, and prints what came of it.

#![allow(clippy::expect_used, reason = "a test's helper may panic")]

use std::{
    fs::File,
    io,
    net::{TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket},
    os::unix::process::CommandExt as _,
    process::Command,
};

use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    process::{Pid, Resource, Signal, getppid, getrlimit, kill_process, setrlimit},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use sluice::redirector::{Confinement, confine};

fn main() {
    let mut words = std::env::args().skip(1);
    let (how, what) = (words.next().expect("a confinement"), words.next().expect("an attempt"));
    let namespace = File::open("/proc/self/ns/net").expect("the own namespace");
    let parent = getppid().unwrap_or(Pid::INIT);
    rustix::thread::set_no_new_privs(true).expect("no new privileges");
    confine(if how == "off" { Confinement::Off } else { Confinement::Enforce }).expect("a filter");
    let result = attempt(&what, &namespace, parent);
    println!("{}", result.map_or_else(|error| error.to_string(), |()| "done".to_owned()));
}

/// What it wants is harmless wherever it is allowed.
fn attempt(what: &str, namespace: &File, parent: Pid) -> io::Result<()> {
    let socket = |family, kind, protocol| {
        socket_with(family, kind, SocketFlags::CLOEXEC, protocol).map(drop).map_err(io::Error::from)
    };
    match what {
        "execve" => Err(Command::new("true").exec()),
        "ptrace" => Ok(nix::sys::ptrace::attach(nix::unistd::Pid::this())?),
        "mount" => Ok(mount("none", "/nowhere", "tmpfs", MountFlags::empty(), None)?),
        "umount" => Ok(unmount("/nowhere", UnmountFlags::empty())?),
        "setns" => Ok(move_into_link_name_space(
            std::os::fd::AsFd::as_fd(namespace),
            Some(LinkNameSpaceType::Network),
        )?),
        "bpf" => aya::maps::MapData::from_pin("/nowhere").map(drop).map_err(io::Error::other),
        "process" => Command::new("true").status().map(drop),
        "packet socket" => socket(AddressFamily::PACKET, SocketType::RAW, None),
        "raw socket" => socket(AddressFamily::INET, SocketType::RAW, Some(rustix::net::ipproto::ICMP)),
        "netlink of netfilter" => {
            socket(AddressFamily::NETLINK, SocketType::RAW, Some(rustix::net::netlink::NETFILTER))
        }
        "write a file" => File::options().write(true).open("/dev/null").map(drop),
        "make a file" => File::create("/nowhere/file").map(drop),
        "another's signal" => Ok(kill_process(parent, Signal::CONT)?),
        "a limit" => Ok(setrlimit(Resource::Core, getrlimit(Resource::Core))?),
        "serve" => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let client = TcpStream::connect(listener.local_addr()?)?;
            client.set_nonblocking(true)?;
            listener.accept().map(drop)
        }
        "datagram" => UdpSocket::bind("[::1]:0").map(drop),
        "thread" => std::thread::Builder::new()
            .name("another".to_owned())
            .spawn(|| ())?
            .join()
            .map_err(|_| io::ErrorKind::Other.into()),
        "resolve" => ("localhost", 80).to_socket_addrs().map(drop),
        "read a file" => std::fs::read("/proc/self/status").map(drop),
        "memory" => {
            drop(vec![1_u8; 64 << 20]);
            Ok(())
        }
        "mount a bpffs" => Ok(mount("bpf", "/dev", "bpf", MountFlags::empty(), None)?),
        "list maps" => aya::maps::loaded_maps().next().map_or(Ok(()), |map| map.map(drop)).map_err(explained),
        other => with_argument(other),
    }
}

/// Those that name something: `pin:PATH`, `map:ID`.
fn with_argument(what: &str) -> io::Result<()> {
    let opened = match what.split_once(':') {
        Some(("pin", path)) => aya::maps::MapData::from_pin(path),
        Some(("map", id)) => aya::maps::MapData::from_id(id.parse().map_err(io::Error::other)?),
        Some(_) | None => return Err(io::Error::other(format!("no attempt has the name {what}"))),
    };
    opened.map(drop).map_err(explained)
}

/// With the kernel's reason, which these errors do not show by themselves.
fn explained(error: impl std::fmt::Debug) -> io::Error {
    io::Error::other(format!("{error:?}"))
}
