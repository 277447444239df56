//! Where the heads of requests lie in what an HTTP/1 client sends, and which of them state two lengths. Pure.
//!
//! hyper drops the `Content-Length` of a request that has `Transfer-Encoding` too before anybody sees it, and one that reads
//! the other length sees another request. This reads no more of a message than where it ends; what is not legal is hyper's
//! to refuse.

use std::io::BufRead as _;

/// Of a line that comes in parts so much is kept: a name, and a length with some blanks around it.
const LINE_KEPT: usize = 64;

/// Of a chunk's size: as many as the largest has.
const MOST_DIGITS: usize = 16;

/// How far a client has come.
#[derive(Debug)]
pub struct Heads {
    at: At,
    /// The beginning of a line that has not ended.
    line: Vec<u8>,
    /// The last byte that came of it is a CR.
    after_cr: bool,
    /// Some byte of the head has come.
    begun: bool,
    /// Its request line has.
    asked: bool,
    length: Option<u64>,
    chunked: bool,
    complete: u64,
    doubtful: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    /// In a head, or before one.
    Head,
    /// So many bytes of a body are to come.
    Body(u64),
    /// At the line with a chunk's size.
    Size,
    /// So many bytes of a chunk are to come.
    Chunk(u64),
    /// At the end of a chunk's line.
    ChunkEnd,
    /// In the trailers.
    Trailers,
    /// There is no telling where the next head begins.
    Lost,
}

impl Default for Heads {
    fn default() -> Self {
        Self {
            at: At::Head,
            line: Vec::new(),
            after_cr: false,
            begun: false,
            asked: false,
            length: None,
            chunked: false,
            complete: 0,
            doubtful: None,
        }
    }
}

impl Heads {
    /// Reads what came.
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.at {
                At::Body(left) | At::Chunk(left) => {
                    let passed = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= passed as u64;
                    bytes = &bytes[passed..];
                    self.at = match self.at {
                        At::Body(0) => At::Head,
                        At::Chunk(0) => At::ChunkEnd,
                        other => other,
                    };
                }
                At::Lost => return,
                At::Head | At::Size | At::ChunkEnd | At::Trailers => {
                    self.begun |= self.at == At::Head;
                    let all = bytes;
                    // Of a slice it cannot fail.
                    let length = bytes.skip_until(b'\n').unwrap_or(all.len());
                    let (part, ended) = match all[..length].strip_suffix(b"\n") {
                        Some(part) => (part, true),
                        None => (&all[..length], false),
                    };
                    self.after_cr = part.last().map_or(self.after_cr, |last| *last == b'\r');
                    if ended && self.line.is_empty() {
                        self.line_ended(part);
                        continue;
                    }
                    let room = LINE_KEPT.saturating_sub(self.line.len()).min(part.len());
                    self.line.extend_from_slice(&part[..room]);
                    if ended {
                        let line = std::mem::take(&mut self.line);
                        self.line_ended(&line);
                    }
                }
            }
        }
    }

    /// The number of the head that has begun and not ended.
    pub fn open(&self) -> Option<u64> {
        (self.at == At::Head && self.begun).then_some(self.complete)
    }

    /// Whether nothing of a message has come that has not come whole.
    pub fn is_between(&self) -> bool {
        self.at == At::Head && !self.begun
    }

    /// The number of the first request that is to be refused, and so are those after it.
    pub fn doubtful(&self) -> Option<u64> {
        self.doubtful
    }

    fn line_ended(&mut self, line: &[u8]) {
        let after_cr = std::mem::take(&mut self.after_cr);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.at {
            // To hyper a lone LF ends no line around chunks, and what is behind it is no request yet.
            At::Size | At::ChunkEnd | At::Trailers if !after_cr => self.lose(self.complete),
            At::Head => self.head_line(line),
            At::Size => match chunk_size(line) {
                Some(0) => self.at = At::Trailers,
                Some(size) => self.at = At::Chunk(size),
                None => self.lose(self.complete),
            },
            At::ChunkEnd => self.at = At::Size,
            At::Trailers if line.is_empty() => self.at = At::Head,
            At::Trailers | At::Body(_) | At::Chunk(_) | At::Lost => {}
        }
    }

    fn head_line(&mut self, line: &[u8]) {
        if !self.asked {
            // Empty lines in front of a request count for nothing, RFC 9112 section 2.2.
            self.asked = !line.is_empty();
            return;
        }
        match line.first() {
            None => self.head_ended(),
            Some(b'c' | b'C') => {
                if let Some(value) = value_of(line, b"content-length:") {
                    match (self.length, length(value)) {
                        (None, Some(length)) => self.length = Some(length),
                        (Some(before), Some(length)) if before == length => {}
                        (_, None) | (Some(_), Some(_)) => self.doubtful = Some(self.complete),
                    }
                }
            }
            Some(b't' | b'T') => self.chunked |= value_of(line, b"transfer-encoding:").is_some(),
            Some(_) => {}
        }
    }

    fn head_ended(&mut self) {
        let number = self.complete;
        self.complete += 1;
        let (length, chunked) = (self.length.take(), std::mem::take(&mut self.chunked));
        (self.begun, self.asked) = (false, false);
        match length {
            Some(_) if chunked => self.lose(number),
            _ if self.doubtful.is_some() => self.lose(number),
            _ if chunked => self.at = At::Size,
            Some(length @ 1..) => self.at = At::Body(length),
            Some(0) | None => self.at = At::Head,
        }
    }

    fn lose(&mut self, first: u64) {
        self.at = At::Lost;
        self.doubtful.get_or_insert(first);
    }
}

fn value_of<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then_some(value)
}

fn length(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    if value.len() + b"content-length:".len() >= LINE_KEPT || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    // With more of them, zeros in front, the last may be among what is not kept.
    if digits > MOST_DIGITS {
        return None;
    }
    u64::from_str_radix(str::from_utf8(&line[..digits]).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOUBLE: &str = "POST / HTTP/1.1\r\ncontent-length: 4\r\nTransfer-Encoding: chunked\r\n\r\n";
    const CHUNKED: &str = "POST / HTTP/1.1\r\nx: y\r\ntransfer-encoding: chunked\r\n\r\n";
    const LENGTH: &str = "POST / HTTP/1.1\r\nContent-Length:  74\r\n\r\n";
    const PLAIN: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    #[test]
    fn heads_are_found_wherever_they_lie() {
        let swapped = "\r\n\r\nPOST / HTTP/1.1\ntransfer-encoding: chunked\ncontent-length: 4\n\n";
        let hidden = format!("{:x};x=y\r\n{DOUBLE}\r\n0\r\nt: 1\r\n\r\n", DOUBLE.len());
        // What comes, complete heads, the first that is refused, whether all of the last has come.
        for (case, bytes, complete, doubtful, between) in [
            ("nothing", String::new(), 0, None, true),
            ("one", PLAIN.into(), 1, None, true),
            ("three", [PLAIN, PLAIN, PLAIN].concat(), 3, None, true),
            ("part of a second", [PLAIN, "GET"].concat(), 1, None, false),
            ("an empty line", [PLAIN, "\r\n"].concat(), 1, None, false),
            ("two lengths", DOUBLE.into(), 1, Some(0), false),
            ("in the other order, without CR", swapped.into(), 1, Some(0), false),
            ("after another", [PLAIN, DOUBLE, PLAIN].concat(), 2, Some(1), false),
            ("a body that looks like it", [LENGTH, DOUBLE, "12345678"].concat(), 1, None, true),
            ("a body that ends", [LENGTH, DOUBLE, "12345678", PLAIN].concat(), 2, None, true),
            ("two lengths after a body", [LENGTH, DOUBLE, "12345678", DOUBLE].concat(), 2, Some(1), false),
            ("a body that goes on", [LENGTH, DOUBLE].concat(), 1, None, false),
            ("a chunk that looks like it", [CHUNKED, &hidden].concat(), 1, None, true),
            ("after chunks", [CHUNKED, &hidden, DOUBLE].concat(), 2, Some(1), false),
            ("chunks that go on", [CHUNKED, "5\r\nabcde\r\n"].concat(), 1, None, false),
            ("no size", [CHUNKED, "x\r\n", PLAIN].concat(), 1, Some(1), false),
            ("zeros in front", [CHUNKED, &"0".repeat(70), "5\r\n", PLAIN].concat(), 1, Some(1), false),
            ("a lone LF behind a size", [CHUNKED, "5\nabcde\r\n0\r\n\r\n"].concat(), 1, Some(1), false),
            ("a lone LF in the trailers", [CHUNKED, "0\r\nt: 1\n\n", PLAIN].concat(), 1, Some(1), false),
            (
                "a long trailer",
                [CHUNKED, "0\r\nt: ", &"1".repeat(99), "\r\n\r\n", PLAIN].concat(),
                2,
                None,
                true,
            ),
            ("too large a size", [CHUNKED, "11111111111111111\r\n", PLAIN].concat(), 1, Some(1), false),
            (
                "the same twice",
                "GET / HTTP/1.1\r\ncontent-length: 0\r\ncontent-length: 0\r\n\r\n".into(),
                1,
                None,
                true,
            ),
            (
                "differing",
                "GET / HTTP/1.1\r\ncontent-length: 0\r\ncontent-length: 1\r\n\r\n".into(),
                1,
                Some(0),
                false,
            ),
            ("no number", "GET / HTTP/1.1\r\ncontent-length: +1\r\n\r\n".into(), 1, Some(0), false),
            ("other names", "GET / HTTP/1.1\r\ncontent-lengths: 1\r\nte: x\r\n\r\n".into(), 1, None, true),
            ("a request line that looks like it", "content-length: 1 HTTP/1.1\r\n\r\n".into(), 1, None, true),
        ] {
            for part in [1, 2, 7, 1000] {
                let mut heads = Heads::default();
                bytes.as_bytes().chunks(part).for_each(|bytes| heads.take(bytes));
                assert_eq!(
                    (heads.complete, heads.doubtful(), heads.is_between()),
                    (complete, doubtful, between),
                    "{case}, {part} bytes at a time"
                );
            }
        }
    }

    #[test]
    fn a_head_is_open_from_its_first_byte_to_its_last() {
        let mut heads = Heads::default();
        let mut opened = Vec::new();
        for byte in [PLAIN, LENGTH].concat().bytes() {
            heads.take(&[byte]);
            opened.push(heads.open());
        }
        let last = |text: &str| text.len() - 1;
        assert!(opened[..last(PLAIN)].iter().all(|open| *open == Some(0)));
        assert_eq!(opened[last(PLAIN)], None);
        assert!(opened[PLAIN.len()..opened.len() - 1].iter().all(|open| *open == Some(1)));
        assert_eq!(heads.open(), None, "bodies may be slow");
    }
}
