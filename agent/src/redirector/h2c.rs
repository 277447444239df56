//! HTTP/2 by upgrade (RFC 7540 section 3.2): the request that asks for it becomes the first stream of the connection.
//!
//! That stream is written into what the client sends, behind its SETTINGS, so that the server reads it as any other.

use http::{HeaderMap, Method, Request, Version, header, request::Parts};
use hyper::body::{Body as _, Incoming};

use super::{
    connection::PREFACE,
    headers::{strip_hop, takes_trailers},
};

const FRAME_HEADER: usize = 9;
/// What a frame may have without being asked, RFC 9113 section 4.2.
const FRAME_MAX: usize = 16 << 10;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Whether HTTP/2 is wanted and can be had. A request with a body is answered as it came: its body would have to be read
/// before the connection is another.
pub fn is_wanted(request: &Request<Incoming>) -> bool {
    request.version() == Version::HTTP_11
        && request.method() != Method::CONNECT
        && request.body().is_end_stream()
        && asks(request.headers())
}

fn asks(headers: &HeaderMap) -> bool {
    let mut settings = headers.get_all("http2-settings").iter();
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_=".contains(byte);
    let one = settings.next().is_some_and(|value| value.as_bytes().iter().all(legal));
    one && settings.next().is_none()
        && names(headers, header::CONNECTION, "upgrade")
        && names(headers, header::CONNECTION, "http2-settings")
        && names(headers, header::UPGRADE, "h2c")
        && !headers.contains_key(header::TRANSFER_ENCODING)
}

fn names(headers: &HeaderMap, list: header::HeaderName, wanted: &str) -> bool {
    let lines = headers.get_all(list);
    let mut words = lines.iter().filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
    words.any(|word| word.trim().eq_ignore_ascii_case(wanted))
}

/// The frames of a stream 1 that asks what `parts` do, of `authority`.
pub fn first_stream(parts: &Parts, authority: &str) -> Vec<u8> {
    let mut headers = parts.headers.clone();
    let trailers = takes_trailers(&headers);
    strip_hop(&mut headers);
    headers.remove(header::HOST);
    // It has none, and says so by its end.
    headers.remove(header::CONTENT_LENGTH);
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut block = Vec::new();
    let pseudo =
        [(":method", parts.method.as_str()), (":scheme", "http"), (":authority", authority), (":path", path)];
    for (name, value) in pseudo.into_iter().filter(|(_, value)| !value.is_empty()) {
        field(&mut block, name, value.as_bytes());
    }
    headers.iter().for_each(|(name, value)| field(&mut block, name.as_str(), value.as_bytes()));
    if trailers {
        field(&mut block, "te", b"trailers");
    }
    let mut frames = Vec::with_capacity(block.len() + FRAME_HEADER);
    let mut parts = block.chunks(FRAME_MAX).peekable();
    let (mut kind, mut flags) = (HEADERS, END_STREAM);
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            flags |= END_HEADERS;
        }
        frames.extend_from_slice(&(part.len() as u32).to_be_bytes()[1..]);
        frames.extend_from_slice(&[kind, flags, 0, 0, 0, 1]);
        frames.extend_from_slice(part);
        (kind, flags) = (CONTINUATION, 0);
    }
    frames
}

/// A literal that no table remembers, RFC 7541 section 6.2.2: the client's encoder knows nothing of it.
fn field(block: &mut Vec<u8>, name: &str, value: &[u8]) {
    block.push(0);
    for text in [name.as_bytes(), value] {
        length(block, text.len());
        block.extend_from_slice(text);
    }
}

/// An integer behind a bit that says that no Huffman code follows, RFC 7541 section 5.1.
fn length(block: &mut Vec<u8>, length: usize) {
    const PREFIX: usize = 0x7f;
    let Some(mut rest) = length.checked_sub(PREFIX) else { return block.push(length as u8) };
    block.push(PREFIX as u8);
    while rest >= 0x80 {
        block.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
}

/// How far preface and SETTINGS reach, with which the client begins; `None` for more bytes, and within for something else.
pub fn beginning(bytes: &[u8]) -> Option<Option<usize>> {
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] != PREFACE[..common] {
        return Some(None);
    }
    let Some(&[a, b, c, kind, ..]) = bytes.get(PREFACE.len()..PREFACE.len() + FRAME_HEADER) else {
        return None;
    };
    let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
    if kind != SETTINGS || length > FRAME_MAX {
        return Some(None);
    }
    let end = PREFACE.len() + FRAME_HEADER + length;
    (bytes.len() >= end).then_some(Some(end))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (http::HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let mut headers = HeaderMap::new();
        for (name, value) in lines.iter().map(pair) {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn http2_is_asked_for_in_three_headers() {
        let settings = ("http2-settings", "AAMAAABkAAQCAAAA");
        for (case, lines, want) in [
            ("curl's", &[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), settings][..], true),
            (
                "one of two",
                &[("connection", "upgrade, http2-settings"), ("upgrade", "websocket, h2c"), settings],
                true,
            ),
            ("settings not named", &[("connection", "upgrade"), ("upgrade", "h2c"), settings], false),
            ("no settings", &[("connection", "upgrade, http2-settings"), ("upgrade", "h2c")], false),
            (
                "settings twice",
                &[("connection", "upgrade, http2-settings"), ("upgrade", "h2c"), settings, settings],
                false,
            ),
            (
                "no base64url",
                &[("connection", "upgrade, http2-settings"), ("upgrade", "h2c"), ("http2-settings", "A+/")],
                false,
            ),
            ("over TLS", &[("connection", "upgrade, http2-settings"), ("upgrade", "h2"), settings], false),
        ] {
            assert_eq!(asks(&map(lines)), want, "{case}");
        }
    }

    #[test]
    fn the_request_becomes_frames() {
        let request = Request::get("/p?q").body(()).unwrap();
        let (mut parts, ()) = request.into_parts();
        parts.headers =
            map(&[("host", "a"), ("connection", "upgrade, http2-settings"), ("upgrade", "h2c"), ("x", "y")]);
        let block =
            b"\0\x07:method\x03GET\0\x07:scheme\x04http\0\x0a:authority\x01a\0\x05:path\x04/p?q\0\x01x\x01y";
        let frame =
            [&[0, 0, block.len() as u8, HEADERS, END_STREAM | END_HEADERS, 0, 0, 0, 1], &block[..]].concat();
        assert_eq!(first_stream(&parts, "a"), frame);
        // Longer than a frame may be.
        parts.headers =
            HeaderMap::from_iter([(header::COOKIE, HeaderValue::try_from("c".repeat(40_000)).unwrap())]);
        let frames = first_stream(&parts, "a");
        let kinds: Vec<_> =
            [0, 1, 2].map(|number| number * (FRAME_MAX + FRAME_HEADER) + 3).into_iter().collect();
        let kinds: Vec<_> = kinds.into_iter().map(|at| (frames[at], frames[at + 1])).collect();
        assert_eq!(kinds, [(HEADERS, END_STREAM), (CONTINUATION, 0), (CONTINUATION, END_HEADERS)]);
        // 40,000 - 127 in groups of seven bits.
        let at = frames.windows(3).position(|bytes| bytes == [0x7f, 0xc1, 0xb7]).unwrap();
        assert_eq!(frames[at + 3], 0x02);
    }

    #[test]
    fn the_client_begins_with_its_preface_and_settings() {
        let settings = [0, 0, 6, SETTINGS, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6];
        let whole = [PREFACE, &settings, b"more"].concat();
        for (case, bytes, want) in [
            ("nothing", &b""[..], None),
            ("part of the preface", &PREFACE[..9], None),
            ("part of SETTINGS", &whole[..38], None),
            ("all", &whole, Some(Some(39))),
            ("HTTP/1", b"GET / HTTP/1.1", Some(None)),
            ("another frame", &[PREFACE, &[0, 0, 6, HEADERS, 0, 0, 0, 0, 0]].concat(), Some(None)),
        ] {
            assert_eq!(beginning(bytes), want, "{case}");
        }
    }
}
