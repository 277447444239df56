//! The server name in the first bytes of a TLS connection (RFC 8446, RFC 6066). Reading sockets is not here.

/// What the first bytes of a connection are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hello {
    /// Too little to tell; ask again with more bytes.
    NeedMore,
    /// No TLS, or none that can be read: treat the connection as opaque.
    NotTls,
    /// A ClientHello with this server name, in lower case.
    Sni(String),
    /// A ClientHello without one.
    NoSni,
}

/// More than this is not looked at: real ones have some hundred bytes, with post-quantum keys two thousand.
pub const HELLO_MAX: usize = 64 << 10;

const RECORD_HEADER: usize = 5;
const RECORD_MAX: usize = 1 << 14;
const HANDSHAKE_HEADER: usize = 4;
const CONTENT_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_HOST: u8 = 0;

/// Reads `bytes`, all that came so far. Never panics, whatever they are.
///
/// Says [`Hello::NeedMore`] only below [`HELLO_MAX`] bytes, so that no client makes a reader collect more.
pub fn parse(bytes: &[u8]) -> Hello {
    match parse_records(bytes) {
        Hello::NeedMore if bytes.len() >= HELLO_MAX => Hello::NotTls,
        hello => hello,
    }
}

fn parse_records(bytes: &[u8]) -> Hello {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        match handshake(&message) {
            Handshake::Partial => {}
            Handshake::Other => return Hello::NotTls,
            Handshake::Whole(body) => return server_name(body).unwrap_or(Hello::NotTls),
        }
        if rest.is_empty() {
            return Hello::NeedMore;
        }
        // The first bytes must fit even before the header is whole: a client of another protocol may wait.
        let fits = |at: usize, ok: fn(u8) -> bool| rest.get(at).is_none_or(|byte| ok(*byte));
        if !fits(0, |byte| byte == CONTENT_HANDSHAKE)
            || !fits(1, |byte| byte == 3)
            || !fits(2, |byte| byte <= 4)
        {
            return Hello::NotTls;
        }
        let Some((header, tail)) = rest.split_at_checked(RECORD_HEADER) else {
            return Hello::NeedMore;
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > RECORD_MAX {
            return Hello::NotTls;
        }
        // A record that is not whole yet may still end the message.
        let (part, next) = tail.split_at(length.min(tail.len()));
        message.extend_from_slice(part);
        rest = next;
    }
}

enum Handshake<'a> {
    Partial,
    Other,
    Whole(&'a [u8]),
}

fn handshake(message: &[u8]) -> Handshake<'_> {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Handshake::Other;
    }
    let Some((header, body)) = message.split_at_checked(HANDSHAKE_HEADER) else {
        return Handshake::Partial;
    };
    let length =
        usize::try_from(u32::from_be_bytes([0, header[1], header[2], header[3]])).unwrap_or(usize::MAX);
    if length > HELLO_MAX - HANDSHAKE_HEADER {
        return Handshake::Other;
    }
    body.get(..length).map_or(Handshake::Partial, Handshake::Whole)
}

/// `None` when the structure is broken.
fn server_name(body: &[u8]) -> Option<Hello> {
    let mut body = Reader(body);
    // Version and random.
    body.take(2 + 32)?;
    let session = usize::from(body.byte()?);
    body.take(session)?;
    body.vector()?;
    let compression = usize::from(body.byte()?);
    body.take(compression)?;
    // Before TLS 1.2, extensions could be left out.
    if body.0.is_empty() {
        return Some(Hello::NoSni);
    }
    let mut extensions = Reader(body.vector()?);
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let content = extensions.vector()?;
        if kind != EXTENSION_SERVER_NAME {
            continue;
        }
        let mut names = Reader(Reader(content).vector()?);
        while !names.0.is_empty() {
            let kind = names.byte()?;
            let name = names.vector()?;
            if kind == NAME_HOST {
                return Some(hello(name));
            }
        }
    }
    Some(Hello::NoSni)
}

fn hello(name: &[u8]) -> Hello {
    let name = name.strip_suffix(b".").unwrap_or(name);
    match str::from_utf8(name) {
        Ok(name) if !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic()) => {
            Hello::Sni(name.to_ascii_lowercase())
        }
        Ok(_) | Err(_) => Hello::NoSni,
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Two bytes of length, then so many bytes.
    fn vector(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.number()?);
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(content: &[u8]) -> Vec<u8> {
        let mut out = u16::try_from(content.len()).unwrap().to_be_bytes().to_vec();
        out.extend_from_slice(content);
        out
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [kind.to_be_bytes().to_vec(), vector(content)].concat()
    }

    fn names(kind: u8, name: &[u8]) -> Vec<u8> {
        extension(0, &vector(&[vec![kind], vector(name)].concat()))
    }

    /// A handshake message; `None` has no extensions at all.
    fn message(extensions: Option<Vec<u8>>) -> Vec<u8> {
        let mut body = [&[3, 3][..], &[7; 32], &[2, 1, 1], &vector(&[0x13, 1]), &[1, 0]].concat();
        body.extend(extensions.map(|extensions| vector(&extensions)).unwrap_or_default());
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[1][..], &length[1..], &body].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|part| [vec![22, 3, 1], vector(part)].concat()).collect()
    }

    #[test]
    fn the_server_name_is_found() {
        let other = extension(16, &[0; 200]);
        let found = |name: &str| Hello::Sni(name.to_owned());
        for (case, extensions, want) in [
            ("name", Some(names(0, b"a.example")), found("a.example")),
            ("upper case, final dot", Some(names(0, b"A.Example.")), found("a.example")),
            ("after others", Some([other.clone(), names(0, b"a")].concat()), found("a")),
            ("other extensions only", Some(other), Hello::NoSni),
            ("no extensions", None, Hello::NoSni),
            ("other kind of name", Some(names(1, b"a")), Hello::NoSni),
            ("empty name", Some(names(0, b"")), Hello::NoSni),
            ("no text", Some(names(0, &[0xff, 0xfe])), Hello::NoSni),
            ("names longer than said", Some(extension(0, &[0, 9, 0, 0, 1])), Hello::NotTls),
        ] {
            let message = message(extensions);
            for size in [1, 3, 100, RECORD_MAX] {
                let bytes = records(&message, size);
                assert_eq!(parse(&bytes), want, "{case} in records of {size}");
                for end in 0..bytes.len() {
                    assert_eq!(parse(&bytes[..end]), Hello::NeedMore, "{case}, {end} bytes of {size}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_client_hello_is_opaque() {
        let hello = records(&message(Some(names(0, b"a"))), RECORD_MAX);
        let changed = |at: usize, byte: u8| {
            let mut bytes = hello.clone();
            bytes[at] = byte;
            bytes
        };
        for (case, bytes) in [
            ("http", b"GET / HTTP/1.1\r\n".to_vec()),
            ("one byte of http", b"G".to_vec()),
            ("ssh", b"SSH-2.0-x".to_vec()),
            ("alert", changed(0, 21)),
            ("version", changed(1, 2)),
            ("server hello", changed(5, 2)),
            ("message beyond the limit", changed(6, 1)),
            ("session longer than the message", changed(9 + 34, 255)),
            ("empty record", vec![22, 3, 1, 0, 0]),
            (
                "too many bytes and no end",
                records(&message(Some(extension(16, &[0; 20_000]))), 1)[..HELLO_MAX].to_vec(),
            ),
            ("record beyond the limit", vec![22, 3, 1, 0x40, 1]),
        ] {
            assert_eq!(parse(&bytes), Hello::NotTls, "{case}");
        }
    }

    #[test]
    fn no_byte_makes_it_panic() {
        let hello = records(&message(Some(names(0, b"a.example"))), 20);
        for at in 0..hello.len() {
            for byte in 0..=255 {
                let mut bytes = hello.clone();
                bytes[at] = byte;
                let _any = parse(&bytes);
            }
        }
    }
}
