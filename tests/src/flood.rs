//! Small datagrams, as many as one CPU makes: what loads a node's packet path in a bench.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use rustix::{
    thread::CpuSet,
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};

/// Bytes in each datagram.
pub const PAYLOAD: usize = 64;
/// Datagrams of one flow that follow each other. A receive ring of a veth holds 256.
const BURST: usize = 64;
const FIRST_PORT: u16 = 20_000;

/// What was sent.
#[derive(Serialize, Deserialize, Debug, Clone, Copy)]
pub struct Flood {
    /// Datagrams.
    pub sent: u64,
    /// Time it took, s.
    pub seconds: f64,
    /// CPU time of the sender, s. What the kernel did with the datagrams on this CPU is in it, for the work of one that
    /// passes a veth is done when it leaves the sender.
    pub cpu_s: f64,
}

/// Sends to `to` from as many ports as there are `flows`, on the CPU of that number.
///
/// One system call makes a burst: the kernel cuts it into datagrams (UDP_SEGMENT) before the device, if that cannot
/// (`ethtool -K DEVICE tx off`), and they pass the wire one by one. So the sender costs little beside what is measured.
///
/// # Errors
/// Those of the sockets, but for refusals, which may come from afar.
pub fn flood(to: SocketAddr, flows: u16, time: Duration, cpu: usize) -> io::Result<Flood> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    rustix::thread::sched_setaffinity(None, &cpus)?;
    let any = if to.is_ipv4() { "0.0.0.0" } else { "[::]" };
    let sockets: Vec<UdpSocket> = (0..flows)
        .map(|flow| {
            let socket = UdpSocket::bind(format!("{any}:{}", FIRST_PORT + flow))?;
            socket.connect(to)?;
            nix::sys::socket::setsockopt(
                &socket,
                nix::sys::socket::sockopt::UdpGsoSegment,
                &(PAYLOAD as i32),
            )?;
            Ok(socket)
        })
        .collect::<io::Result<_>>()?;
    let burst = [b'.'; PAYLOAD * BURST];
    let (mut sent, start, cpu_start) = (0, Instant::now(), cpu_time());
    while start.elapsed() < time {
        for socket in &sockets {
            match socket.send(&burst) {
                Ok(_) => sent += BURST as u64,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error),
            }
        }
    }
    let cpu_s = (cpu_time() - cpu_start).as_secs_f64();
    Ok(Flood { sent, seconds: start.elapsed().as_secs_f64(), cpu_s })
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
