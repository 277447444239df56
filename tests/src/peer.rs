//! A process in a pod that opens real sockets when told so: commands as JSON lines in, answers out.
//! `src/bin/peer.rs` is that process; [`Peer`] is the test's end.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr},
    process::{Child, ChildStdin, ChildStdout},
};

use serde::{Deserialize, Serialize};

use crate::flood::Flood;

/// What to do. Sockets that stay open are named by a number of the caller's choice.
#[derive(Serialize, Deserialize, Debug, Clone)]
pub enum Command {
    /// Answers TCP connections and UDP datagrams on this port, all addresses, with `NAME CLIENT`; or with what was sent,
    /// for the `Echo` commands.
    Serve {
        /// Who answers.
        name: String,
        /// Where.
        port: u16,
        /// UDP instead of TCP.
        udp: bool,
    },
    /// Connects, asks once, keeps the socket.
    Tcp {
        /// Names the socket.
        id: u32,
        /// Where to.
        to: SocketAddr,
    },
    /// The same, from a source of the caller's choice; port 0 is any.
    TcpFrom {
        /// Names the socket.
        id: u32,
        /// Where from.
        from: SocketAddr,
        /// Where to.
        to: SocketAddr,
    },
    /// Sends this many bytes on a connection that is open while it reads them back, and compares.
    TcpEcho {
        /// The socket.
        id: u32,
        /// How many.
        bytes: u64,
    },
    /// Asks again on a connection that is open.
    AskAgain {
        /// The socket.
        id: u32,
    },
    /// Opens an unconnected UDP socket, of IPv6 (for both versions) or IPv4.
    UdpOpen {
        /// Names the socket.
        id: u32,
        /// AF_INET6.
        v6: bool,
    },
    /// Opens an unconnected UDP socket on a source of the caller's choice; port 0 is any.
    UdpFrom {
        /// Names the socket.
        id: u32,
        /// Where from.
        from: SocketAddr,
    },
    /// Sends a datagram of this many bytes, to `to` unless the socket is connected, reads it back, and compares.
    UdpEcho {
        /// The socket.
        id: u32,
        /// Where to.
        to: Option<SocketAddr>,
        /// How many.
        bytes: usize,
        /// Until one returns.
        again: bool,
    },
    /// Connects a UDP socket; nothing is sent.
    UdpConnect {
        /// The socket.
        id: u32,
        /// Where to.
        to: SocketAddr,
    },
    /// Opens a socket, connects, asks and closes, `count` times over; answered by [`Measured`].
    Measure {
        /// Where to.
        to: SocketAddr,
        /// How often.
        count: u32,
        /// UDP instead of TCP.
        udp: bool,
    },
    /// Sends small datagrams as fast as one CPU can; answered by [`Flood`].
    Flood {
        /// Where to.
        to: SocketAddr,
        /// From how many ports.
        flows: u16,
        /// For how long.
        millis: u64,
        /// On which CPU.
        cpu: usize,
    },
    /// Sends on a UDP socket, to `to` unless it is connected, and waits for the answer.
    UdpAsk {
        /// The socket.
        id: u32,
        /// Where to.
        to: Option<SocketAddr>,
    },
}

/// What came of it.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Name of the server that answered; empty if nobody was asked.
    pub by: String,
    /// The client's address as the server saw it.
    pub client: String,
    /// getpeername of the socket, or the source of the datagram for unconnected ones.
    pub peer: Option<SocketAddr>,
}

impl Answer {
    /// Who the server saw: a pod, the client itself, or the node that stands for it.
    ///
    /// # Panics
    /// Nobody was asked.
    pub fn client_ip(&self) -> IpAddr {
        // A server on all addresses sees IPv4 clients mapped.
        address(&self.client).ip().to_canonical()
    }
}

/// What [`Command::Measure`] found, carried in [`Answer::by`] as JSON.
#[derive(Serialize, Deserialize, Debug, Clone, Copy)]
pub struct Measured {
    /// Connections per second.
    pub per_second: f64,
    /// Median time of one, µs.
    pub p50_us: f64,
    /// The time that one in a hundred exceeds, µs.
    pub p99_us: f64,
}

/// An error's name, such as `ECONNREFUSED` or `timeout`.
pub type Outcome = Result<Answer, String>;

/// The process in the pod.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    next_id: u32,
}

impl Peer {
    /// Takes over a started `sluice-peer` whose standard input and output are pipes.
    pub fn new(mut child: Child) -> Self {
        let stdin = child.stdin.take().expect("stdin is a pipe");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        Self { child, stdin, stdout, next_id: 0 }
    }

    /// Does one thing and waits for what came of it.
    pub fn command(&mut self, command: &Command) -> Outcome {
        let mut line = serde_json::to_string(command).expect("commands serialize");
        line.push('\n');
        self.stdin.write_all(line.as_bytes()).expect("the peer takes commands");
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).expect("the peer answers");
        assert!(!answer.is_empty(), "the peer ended: {:?}", self.child.try_wait());
        serde_json::from_str(&answer).expect("answers parse")
    }

    /// Runs a [`Command::Measure`].
    ///
    /// # Errors
    /// A connection failed.
    pub fn measure(&mut self, command: &Command) -> Result<Measured, String> {
        let answer = self.command(command)?;
        serde_json::from_str(&answer.by).map_err(|error| error.to_string())
    }

    /// Runs a [`Command::Flood`].
    ///
    /// # Errors
    /// It cannot send.
    pub fn flood(&mut self, command: &Command) -> Result<Flood, String> {
        let answer = self.command(command)?;
        serde_json::from_str(&answer.by).map_err(|error| error.to_string())
    }

    /// A socket number that no other call got.
    pub fn id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    /// Serves `port` from now on.
    pub fn serve(&mut self, name: &str, port: u16, udp: bool) {
        let served = self.command(&Command::Serve { name: name.to_owned(), port, udp });
        served.unwrap_or_else(|error| panic!("{name} cannot serve {port}: {error}"));
    }

    /// One TCP connection, closed again at the next one of the same number.
    pub fn tcp(&mut self, to: &str) -> Outcome {
        self.command(&Command::Tcp { id: 0, to: address(to) })
    }

    /// The same from `from`, an address and a port.
    pub fn tcp_from(&mut self, from: &str, to: &str) -> Outcome {
        self.command(&Command::TcpFrom { id: 0, from: address(from), to: address(to) })
    }

    /// One TCP connection that carries this many bytes there and back; whether they came back as they went.
    pub fn tcp_echo(&mut self, to: &str, bytes: u64) -> Outcome {
        self.tcp(to)?;
        self.command(&Command::TcpEcho { id: 0, bytes })
    }

    /// One datagram from `from`, an address and a port.
    pub fn udp_from(&mut self, from: &str, to: &str) -> Outcome {
        self.command(&Command::UdpFrom { id: 0, from: address(from) })?;
        self.command(&Command::UdpAsk { id: 0, to: Some(address(to)) })
    }

    /// One datagram of this many bytes there and back; whether they came back as they went.
    pub fn udp_echo(&mut self, to: &str, bytes: usize) -> Outcome {
        let to = address(to);
        self.command(&Command::UdpOpen { id: 0, v6: to.is_ipv6() })?;
        self.command(&Command::UdpEcho { id: 0, to: Some(to), bytes, again: false })
    }

    /// The same until one returns, as a sender does who is told that less would fit.
    pub fn udp_echo_again(&mut self, to: &str, bytes: usize) -> Outcome {
        let to = address(to);
        self.command(&Command::UdpOpen { id: 0, v6: to.is_ipv6() })?;
        self.command(&Command::UdpEcho { id: 0, to: Some(to), bytes, again: true })
    }

    /// One datagram from a fresh unconnected socket.
    pub fn udp(&mut self, to: &str) -> Outcome {
        let to = address(to);
        self.command(&Command::UdpOpen { id: 0, v6: to.is_ipv6() })?;
        self.command(&Command::UdpAsk { id: 0, to: Some(to) })
    }

    /// One datagram from a fresh connected socket.
    pub fn udp_connected(&mut self, to: &str) -> Outcome {
        let to = address(to);
        self.command(&Command::UdpOpen { id: 0, v6: to.is_ipv6() })?;
        self.command(&Command::UdpConnect { id: 0, to })?;
        self.command(&Command::UdpAsk { id: 0, to: None })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Reads `ADDRESS:PORT`.
pub fn address(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}
