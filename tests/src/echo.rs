//! Bytes that go to a peer and come back, compared with what was sent.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

/// What an echo begins with: on TCP a length of eight bytes follows, most significant first.
pub const MARK: u8 = b'#';
/// Longest payload of a UDP datagram over IPv4.
pub const LONGEST_DATAGRAM: usize = 65_507;

/// The byte at this place of what is sent. Places that are mixed up or left out show.
const fn byte_at(place: u64) -> u8 {
    (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn differs(place: u64) -> io::Error {
    io::Error::other(format!("the byte at {place} is not what was sent"))
}

/// Sends this many bytes and reads them back at the same time.
///
/// # Errors
/// Those of the socket, whose timeouts hold; or a byte differs.
pub fn tcp(stream: &TcpStream, bytes: u64) -> io::Result<()> {
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(stream, bytes));
        let received = receive(stream, bytes);
        if received.is_err() {
            // Lest the sender wait for a window that never opens.
            let _closed_already = stream.shutdown(std::net::Shutdown::Both);
        }
        let sent = sender.join().expect("the sender does not panic");
        received.and(sent)
    })
}

fn send(mut stream: &TcpStream, bytes: u64) -> io::Result<()> {
    stream.write_all(&[&[MARK], &bytes.to_be_bytes()[..]].concat())?;
    for start in (0..bytes).step_by(CHUNK) {
        let end = bytes.min(start + CHUNK as u64);
        stream.write_all(&(start..end).map(byte_at).collect::<Vec<u8>>())?;
    }
    Ok(())
}

fn receive(mut stream: &TcpStream, bytes: u64) -> io::Result<()> {
    let (mut buffer, mut place) = (vec![0; CHUNK], 0);
    while place < bytes {
        let most = (bytes - place).min(CHUNK as u64) as usize;
        let length = stream.read(&mut buffer[..most])?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for byte in &buffer[..length] {
            if *byte != byte_at(place) {
                return Err(differs(place));
            }
            place += 1;
        }
    }
    Ok(())
}

const CHUNK: usize = 1 << 16;
/// After this long without an answer a datagram is sent again.
const AGAIN: Duration = Duration::from_millis(150);

/// The server's part, after [`MARK`] was read.
///
/// # Errors
/// Those of the socket.
pub fn answer_tcp(mut stream: &TcpStream) -> io::Result<()> {
    let mut length = [0; 8];
    stream.read_exact(&mut length)?;
    io::copy(&mut stream.take(u64::from_be_bytes(length)), &mut stream).map(drop)
}

/// [`udp_once`], again and again until one returns: whoever sends more than fits somewhere is told so, and nothing else.
///
/// # Errors
/// Those of the last time.
pub fn udp_again(socket: &UdpSocket, to: Option<SocketAddr>, bytes: usize) -> io::Result<SocketAddr> {
    let whole = socket.read_timeout()?;
    let last = whole.map(|whole| Instant::now() + whole);
    socket.set_read_timeout(Some(AGAIN))?;
    let outcome = loop {
        match udp_once(socket, to, bytes) {
            Err(_) if last.is_none_or(|last| Instant::now() < last) => {}
            outcome => break outcome,
        }
    };
    socket.set_read_timeout(whole)?;
    outcome
}

/// Sends one datagram of this many bytes and waits for its return, from whoever; says from whom.
///
/// # Errors
/// Those of the socket, whose timeouts hold; or a byte differs.
pub fn udp_once(socket: &UdpSocket, to: Option<SocketAddr>, bytes: usize) -> io::Result<SocketAddr> {
    let mut sent: Vec<u8> = (0..bytes as u64).map(byte_at).collect();
    *sent.first_mut().ok_or(io::ErrorKind::InvalidInput)? = MARK;
    match to {
        Some(to) => socket.send_to(&sent, to)?,
        None => socket.send(&sent)?,
    };
    let mut buffer = vec![0; LONGEST_DATAGRAM + 1];
    let (length, source) = socket.recv_from(&mut buffer)?;
    if length != bytes {
        return Err(io::Error::other(format!("{length} bytes came back of {bytes}")));
    }
    match sent.iter().zip(&buffer).position(|(sent, received)| sent != received) {
        Some(place) => Err(differs(place as u64)),
        None => Ok(source),
    }
}
