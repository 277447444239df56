//! The process that [`sluice_tests::peer`] describes. Only std's sockets: what any program would do.

use std::{
    collections::HashMap,
    io::{self, BufRead as _, Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket},
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketType, sockopt};
use sluice_tests::{
    echo, flood,
    peer::{Answer, Command, Measured, Outcome},
    wait::patiently,
};

/// How long a client waits for an answer.
fn timeout() -> Duration {
    patiently(Duration::from_secs(2))
}

#[derive(Default)]
struct Sockets {
    tcp: HashMap<u32, TcpStream>,
    udp: HashMap<u32, UdpSocket>,
}

fn main() {
    let mut sockets = Sockets::default();
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let command: Command = serde_json::from_str(&line).expect("commands parse");
        let outcome: Outcome = sockets.run(command).map_err(|error| name(&error));
        println!("{}", serde_json::to_string(&outcome).expect("answers serialize"));
    }
}

fn name(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "ECONNREFUSED".to_owned(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "timeout".to_owned(),
        _ => error.to_string(),
    }
}

impl Sockets {
    fn run(&mut self, command: Command) -> io::Result<Answer> {
        match command {
            Command::Serve { name, port, udp } => serve(name, port, udp).map(|()| nobody(None)),
            Command::Tcp { id, to } => {
                self.tcp.remove(&id);
                self.ask_first(id, TcpStream::connect_timeout(&to, timeout())?)
            }
            Command::TcpFrom { id, from, to } => {
                self.tcp.remove(&id);
                self.ask_first(id, connect_from(from, to)?)
            }
            Command::TcpEcho { id, bytes } => {
                let stream = self.tcp.get(&id).ok_or(io::ErrorKind::NotFound)?;
                echo::tcp(stream, bytes)?;
                Ok(nobody(Some(stream.peer_addr()?)))
            }
            Command::AskAgain { id } => ask(self.tcp.get_mut(&id).ok_or(io::ErrorKind::NotFound)?),
            Command::UdpOpen { id, v6 } => self.udp_socket(id, if v6 { "[::]:0" } else { "0.0.0.0:0" }),
            Command::UdpFrom { id, from } => self.udp_socket(id, from),
            Command::UdpEcho { id, to, bytes, again } => {
                let socket = self.udp.get(&id).ok_or(io::ErrorKind::NotFound)?;
                let echo = if again { echo::udp_again } else { echo::udp_once };
                echo(socket, to, bytes).map(|source| nobody(Some(source)))
            }
            Command::UdpConnect { id, to } => {
                let socket = self.udp.get(&id).ok_or(io::ErrorKind::NotFound)?;
                socket.connect(to)?;
                Ok(nobody(Some(socket.peer_addr()?)))
            }
            Command::Flood { to, flows, millis, cpu } => {
                let flood = flood::flood(to, flows, Duration::from_millis(millis), cpu)?;
                Ok(Answer { by: serde_json::to_string(&flood)?, ..nobody(None) })
            }
            Command::Measure { to, count, udp } => measure(to, count, udp),
            Command::UdpAsk { id, to } => {
                let socket = self.udp.get(&id).ok_or(io::ErrorKind::NotFound)?;
                match to {
                    Some(to) => socket.send_to(b"?", to)?,
                    None => socket.send(b"?")?,
                };
                let mut buffer = [0; 256];
                let (length, source) = socket.recv_from(&mut buffer)?;
                Ok(parse(&buffer[..length], Some(source)))
            }
        }
    }

    fn ask_first(&mut self, id: u32, mut stream: TcpStream) -> io::Result<Answer> {
        stream.set_read_timeout(Some(timeout()))?;
        stream.set_write_timeout(Some(timeout()))?;
        let answer = ask(&mut stream)?;
        self.tcp.insert(id, stream);
        Ok(answer)
    }

    fn udp_socket(&mut self, id: u32, from: impl ToSocketAddrs) -> io::Result<Answer> {
        // The one it had may be bound to the same port.
        self.udp.remove(&id);
        let socket = UdpSocket::bind(from)?;
        socket.set_read_timeout(Some(timeout()))?;
        self.udp.insert(id, socket);
        Ok(nobody(None))
    }
}

/// Like [`TcpStream::connect_timeout`], from a source of the caller's choice.
fn connect_from(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(timeout()))?;
    rustix::net::bind(&socket, &from)?;
    rustix::net::connect(&socket, &to).map_err(|error| match error {
        // What the kernel says when a blocking connect ran out of the time that it had for sending.
        rustix::io::Errno::INPROGRESS => io::ErrorKind::TimedOut.into(),
        other => io::Error::from(other),
    })?;
    Ok(TcpStream::from(socket))
}

fn measure(to: SocketAddr, count: u32, udp: bool) -> io::Result<Answer> {
    let mut times = Vec::with_capacity(count as usize);
    let start = Instant::now();
    for _ in 0..count {
        let one = Instant::now();
        if udp {
            once_udp(to)?
        } else {
            once_tcp(to)?
        };
        times.push(one.elapsed().as_secs_f64() * 1e6);
    }
    let per_second = f64::from(count) / start.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let measured = Measured { per_second, p50_us: at(0.5), p99_us: at(0.99) };
    let by = serde_json::to_string(&measured)?;
    Ok(Answer { by, client: String::new(), peer: None })
}

fn once_tcp(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    // Closed by reset: no port stays in TIME_WAIT, however many connections a run makes.
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])
}

fn once_udp(to: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(timeout()))?;
    socket.connect(to)?;
    socket.send(b"?")?;
    socket.recv(&mut [0; 64]).map(drop)
}

fn ask(stream: &mut TcpStream) -> io::Result<Answer> {
    stream.write_all(b"?")?;
    let mut buffer = [0; 256];
    let length = stream.read(&mut buffer)?;
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(parse(&buffer[..length], Some(stream.peer_addr()?)))
}

fn nobody(peer: Option<SocketAddr>) -> Answer {
    Answer { by: String::new(), client: String::new(), peer }
}

fn parse(text: &[u8], peer: Option<SocketAddr>) -> Answer {
    let text = String::from_utf8_lossy(text);
    let (by, client) = text.split_once(' ').unwrap_or((&text, ""));
    Answer { by: by.to_owned(), client: client.to_owned(), peer }
}

/// Answers for as long as the process lives.
fn serve(name: String, port: u16, udp: bool) -> io::Result<()> {
    let all = (Ipv6Addr::UNSPECIFIED, port);
    if udp {
        let socket = UdpSocket::bind(all)?;
        std::thread::spawn(move || {
            let mut buffer = vec![0; echo::LONGEST_DATAGRAM];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                let named = format!("{name} {client}");
                let is_echo = buffer[..length].first() == Some(&echo::MARK);
                let answer = if is_echo { &buffer[..length] } else { named.as_bytes() };
                let _client_gone = socket.send_to(answer, client);
            }
        });
        return Ok(());
    }
    let listener = TcpListener::bind(all)?;
    std::thread::spawn(move || {
        while let Ok((mut stream, client)) = listener.accept() {
            let name = name.clone();
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() {
                    let answered = match byte {
                        [echo::MARK] => echo::answer_tcp(&stream),
                        _ => stream.write_all(format!("{name} {client}").as_bytes()),
                    };
                    if answered.is_err() {
                        break;
                    }
                }
            });
        }
    });
    Ok(())
}
