//! A reader of HTTP/1 requests that forgives nothing (RFC 9112): what it takes has one meaning only. Slow and small on purpose.

/// A request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// As it stands in front of the first blank.
    pub method: String,
    /// What it carries, out of its chunks; `None` when not all of it is there.
    pub body: Option<Vec<u8>>,
}

/// Takes a request off the front; `None` when there is no whole head.
///
/// # Errors
/// Why others may read it otherwise.
pub fn message(bytes: &mut &[u8]) -> Option<Result<Message, &'static str>> {
    let mut lines = Vec::new();
    let mut rest = *bytes;
    loop {
        let line = take_line(&mut rest)?;
        match (line.is_empty(), lines.is_empty()) {
            // Empty lines in front of a request are passed over, section 2.2.
            (true, true) => {}
            (true, false) => break,
            (false, _) => lines.push(line),
        }
    }
    *bytes = rest;
    Some(head(&lines).map(|(method, framing)| Message { method, body: body(framing, bytes) }))
}

enum Framing {
    Length(u64),
    Chunked,
}

fn head(lines: &[&[u8]]) -> Result<(String, Framing), &'static str> {
    if lines.iter().any(|line| line.iter().any(|byte| matches!(byte, b'\r' | 0))) {
        return Err("a CR or NUL within a line");
    }
    let (mut length, mut chunked) = (None, false);
    for line in &lines[1..] {
        let colon = line.iter().position(|byte| *byte == b':').ok_or("a line without a colon")?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || name.iter().any(|byte| *byte <= b' ') {
            return Err("a blank before a colon, or a folded line");
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            let number = digits(value, 10).ok_or("a length that is no number")?;
            if length.replace(number).is_some() {
                return Err("two lengths of a kind");
            }
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err("a coding that is not chunked alone");
            }
            chunked = true;
        }
    }
    let method = lines[0].split(|byte| *byte == b' ').next().unwrap_or_default();
    let framing = match (length, chunked) {
        (Some(_), true) => return Err("both a length and chunks"),
        (None, true) => Framing::Chunked,
        (length, false) => Framing::Length(length.unwrap_or(0)),
    };
    Ok((String::from_utf8_lossy(method).into_owned(), framing))
}

/// `None` when it is not whole, or broken, which ends a connection too.
fn body(framing: Framing, bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    let mut size = match framing {
        Framing::Length(length) => return take(bytes, length).map(<[u8]>::to_vec),
        Framing::Chunked => chunk_size(bytes)?,
    };
    while size != 0 {
        body.extend_from_slice(take(bytes, size)?);
        take(bytes, 2).filter(|end| *end == b"\r\n")?;
        size = chunk_size(bytes)?;
    }
    while !take_strict_line(bytes)?.is_empty() {}
    Some(body)
}

fn chunk_size(bytes: &mut &[u8]) -> Option<u64> {
    let line = take_strict_line(bytes)?;
    let size = line.split(|byte| *byte == b';').next()?;
    digits(size.trim_ascii_end(), 16)
}

fn digits(text: &[u8], radix: u32) -> Option<u64> {
    let all = text.iter().all(|byte| char::from(*byte).is_digit(radix));
    u64::from_str_radix(str::from_utf8(text).ok()?, radix).ok().filter(|_| all)
}

fn take<'b>(bytes: &mut &'b [u8], length: u64) -> Option<&'b [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(taken)
}

/// A line that ends in LF, with CR or without.
fn take_line<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = &bytes[..end];
    *bytes = &bytes[end + 1..];
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

/// A line that ends in CR and LF, as all around chunks must.
fn take_strict_line<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
    let end = bytes.windows(2).position(|end| end == b"\r\n")?;
    let line = &bytes[..end];
    *bytes = &bytes[end + 2..];
    Some(line).filter(|line| !line.contains(&b'\n'))
}
