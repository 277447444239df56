//! What a Service port speaks: by declaration, and by its first bytes where nothing is declared. No reading here.

/// What is spoken on a port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Speech {
    /// HTTP/1.1, possibly upgraded to HTTP/2 by its preface.
    Http,
    /// HTTP/2 with prior knowledge, gRPC among it.
    Http2,
    /// TLS, passed through.
    Tls,
    /// Anything else, passed through.
    Tcp,
}

/// The lists of rules that a VirtualService has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum List {
    /// `http`.
    Http,
    /// `tls`.
    Tls,
    /// `tcp`.
    Tcp,
}

impl List {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tls => "tls",
            Self::Tcp => "tcp",
        }
    }

    /// Whether its rules hold for a port that is declared to speak so.
    pub fn fits(self, speech: Option<Speech>) -> bool {
        match speech {
            None => true,
            Some(Speech::Http | Speech::Http2) => self == Self::Http,
            Some(Speech::Tls) => self == Self::Tls,
            Some(Speech::Tcp) => self == Self::Tcp,
        }
    }
}

/// Ports of protocols in which the server speaks first, so that waiting for the client would hang.
const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A request line that is longer is not waited for.
const REQUEST_LINE_MAX: usize = 8 << 10;

/// What a port is declared to speak; `None` when its first bytes must tell.
///
/// `appProtocol` counts first, then the port's name up to a hyphen, then its number.
pub fn declared(port: u16, name: &str, app_protocol: Option<&str>) -> Option<Speech> {
    let by_protocol = app_protocol.and_then(|text| match text.to_ascii_lowercase().as_str() {
        "kubernetes.io/h2c" => Some(Speech::Http2),
        "kubernetes.io/ws" => Some(Speech::Http),
        "kubernetes.io/wss" => Some(Speech::Tls),
        other => by_name(other),
    });
    let name = name.to_ascii_lowercase();
    let by_name = || by_name(&name).or_else(|| by_name(name.split('-').next().unwrap_or_default()));
    by_protocol.or_else(by_name).or_else(|| SERVER_FIRST.contains(&port).then_some(Speech::Tcp))
}

fn by_name(name: &str) -> Option<Speech> {
    match name {
        "http" | "grpc-web" => Some(Speech::Http),
        "http2" | "grpc" => Some(Speech::Http2),
        "https" | "tls" => Some(Speech::Tls),
        "tcp" | "mongo" | "mysql" | "redis" => Some(Speech::Tcp),
        _ if name.starts_with("grpc-web-") => Some(Speech::Http),
        _ => None,
    }
}

/// What the first bytes of a connection speak; `None` when more are needed, which the caller limits in time.
pub fn sniff(bytes: &[u8]) -> Option<Speech> {
    if *bytes.first()? == 22 {
        return match super::clienthello::parse(bytes) {
            super::clienthello::Hello::NeedMore => None,
            super::clienthello::Hello::Sni(_) | super::clienthello::Hello::NoSni => Some(Speech::Tls),
            super::clienthello::Hello::NotTls => Some(Speech::Tcp),
        };
    }
    if bytes.starts_with(PREFACE) {
        return Some(Speech::Http2);
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    let method = bytes.split(|byte| *byte == b' ').next().unwrap_or_default();
    let is_method =
        method.len() <= 32 && method.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'-');
    if method.is_empty() || !is_method {
        return Some(Speech::Tcp);
    }
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if line.len() == bytes.len() {
        return (bytes.len() >= REQUEST_LINE_MAX).then_some(Speech::Tcp);
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let http = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
    Some(if http { Speech::Http } else { Speech::Tcp })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_choice() {
        for (case, port, name, app_protocol, want) in [
            ("h2c", 80, "", Some("kubernetes.io/h2c"), Some(Speech::Http2)),
            ("ws", 80, "", Some("kubernetes.io/ws"), Some(Speech::Http)),
            ("wss", 80, "", Some("kubernetes.io/wss"), Some(Speech::Tls)),
            ("appProtocol beats the name", 80, "http", Some("tcp"), Some(Speech::Tcp)),
            ("unknown appProtocol leaves the name", 80, "http", Some("x"), Some(Speech::Http)),
            ("name", 80, "http", None, Some(Speech::Http)),
            ("name with a suffix", 80, "grpc-api", None, Some(Speech::Http2)),
            ("upper case", 80, "HTTPS-web", None, Some(Speech::Tls)),
            ("grpc-web", 80, "grpc-web", None, Some(Speech::Http)),
            ("grpc-web with a suffix", 80, "grpc-web-x", None, Some(Speech::Http)),
            ("no hyphen", 80, "httpx", None, None),
            ("no name", 80, "", None, None),
            ("port 3306", 3306, "", None, Some(Speech::Tcp)),
            ("port 3306, named", 3306, "http", None, Some(Speech::Http)),
        ] {
            assert_eq!(declared(port, name, app_protocol), want, "{case}");
        }
    }

    #[test]
    fn first_bytes() {
        for (case, bytes, want) in [
            ("nothing", &b""[..], None),
            ("part of a method", b"GE", None),
            ("request line", b"GET / HTTP/1.1\r\n", Some(Speech::Http)),
            ("request line without its end", b"GET / HTTP/1.1", None),
            ("other version", b"GET / HTTP/0.9\r\n", Some(Speech::Tcp)),
            ("preface", PREFACE, Some(Speech::Http2)),
            ("part of the preface", b"PRI * HT", None),
            ("ssh", b"SSH-2.0-x\r\n", Some(Speech::Tcp)),
            ("smtp", b"EHLO a\r\n", Some(Speech::Tcp)),
            ("redis", b"*1\r\n", Some(Speech::Tcp)),
            ("zero", b"\0\0", Some(Speech::Tcp)),
            ("part of a ClientHello", &[22, 3, 1], None),
            ("broken TLS", &[22, 9], Some(Speech::Tcp)),
        ] {
            assert_eq!(sniff(bytes), want, "{case}");
        }
        assert_eq!(sniff(&[b"GET /".as_slice(), &[b'a'; REQUEST_LINE_MAX]].concat()), Some(Speech::Tcp));
    }
}
