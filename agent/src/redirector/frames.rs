//! Which frame an HTTP/2 client is in the middle of, and how long its header blocks are. Pure; what frames mean is hyper's.

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const HEADER_LENGTH: usize = 9;

/// How far a client has come, from its preface on.
#[derive(Debug)]
pub struct Frames {
    header: [u8; HEADER_LENGTH],
    /// Bytes of `header` that have come.
    have: usize,
    /// Bytes of the frame that are to come.
    left: usize,
    kind: u8,
    /// A header block goes on in the next frame.
    block: bool,
    block_length: usize,
    /// The last thing that was begun, if it has not ended.
    open: bool,
    begun: u64,
}

impl Frames {
    /// `preface` bytes come before the first frame.
    pub fn after(preface: usize) -> Self {
        Self {
            header: [0; HEADER_LENGTH],
            have: 0,
            left: preface,
            kind: DATA,
            block: false,
            block_length: 0,
            open: false,
            begun: 0,
        }
    }

    /// Reads what came. True when a header block has become longer than `longest` with it.
    pub fn take(&mut self, mut bytes: &[u8], longest: usize) -> bool {
        let mut large = false;
        while !bytes.is_empty() {
            if self.left > 0 {
                let passed = self.left.min(bytes.len());
                self.left -= passed;
                bytes = &bytes[passed..];
            } else {
                let part = (HEADER_LENGTH - self.have).min(bytes.len());
                self.header[self.have..self.have + part].copy_from_slice(&bytes[..part]);
                self.have += part;
                bytes = &bytes[part..];
                if self.have == HEADER_LENGTH {
                    large |= self.frame(longest);
                }
            }
            let open = self.have > 0 || (self.left > 0 && self.kind != DATA) || self.block;
            self.begun += u64::from(open && !self.open);
            self.open = open;
        }
        large
    }

    /// The number of what has begun and not ended: a frame that is no DATA, or a header block. A slow body is its own affair.
    pub fn open(&self) -> Option<u64> {
        self.open.then_some(self.begun)
    }

    fn frame(&mut self, longest: usize) -> bool {
        let [a, b, c, kind, flags, ..] = self.header;
        self.have = 0;
        self.kind = kind;
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if kind == HEADERS {
            self.block_length = 0;
        }
        if kind != HEADERS && kind != CONTINUATION {
            return false;
        }
        self.block = flags & END_HEADERS == 0;
        let before = self.block_length;
        self.block_length = before.saturating_add(self.left);
        before <= longest && self.block_length > longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0, (length >> 8) as u8, length as u8, kind, flags, 0, 0, 0, 1];
        bytes.resize(bytes.len() + length, 7);
        bytes
    }

    #[test]
    fn what_must_not_be_slow_is_open() {
        let whole = [frame(4, 0, 6), frame(HEADERS, 4, 20), frame(DATA, 0, 9)].concat();
        let settings = frame(4, 0, 6);
        let headers = frame(HEADERS, 0, 20);
        let rest = frame(CONTINUATION, 4, 20);
        let data = frame(DATA, 0, 9);
        for (case, bytes, open) in [
            ("nothing", &[][..], false),
            ("whole frames", &whole, false),
            ("part of a frame's header", &settings[..3], true),
            ("part of SETTINGS", &settings[..10], true),
            ("part of DATA", &data[..10], false),
            ("a block that goes on", &headers, true),
            ("part of its second frame", &[&headers[..], &rest[..12]].concat(), true),
            ("a block that has ended", &[&headers[..], &rest].concat(), false),
        ] {
            for part in [1, 5, 1000] {
                let mut frames = Frames::after(24);
                let bytes = [&[1; 24], bytes].concat();
                bytes.chunks(part).for_each(|bytes| assert!(!frames.take(bytes, 100)));
                assert_eq!(frames.open().is_some(), open, "{case}, {part} bytes at a time");
            }
        }
    }

    #[test]
    fn frames_are_told_apart_and_parts_of_a_block_are_not() {
        let mut frames = Frames::after(0);
        let mut opened = |bytes: &[u8]| {
            frames.take(bytes, 100);
            frames.open()
        };
        assert_eq!(opened(&frame(HEADERS, 0, 20)), Some(1));
        assert_eq!(opened(&frame(CONTINUATION, 0, 20)), Some(1), "one block");
        assert_eq!(opened(&frame(CONTINUATION, 4, 20)), None);
        assert_eq!(opened(&frame(HEADERS, 4, 20)[..12]), Some(2), "another");
    }

    #[test]
    fn long_blocks_are_told_once() {
        let mut frames = Frames::after(0);
        assert!(!frames.take(&frame(HEADERS, 0, 60), 100));
        assert!(!frames.take(&frame(CONTINUATION, 0, 40), 100));
        assert!(frames.take(&frame(CONTINUATION, 0, 1), 100));
        assert!(!frames.take(&frame(CONTINUATION, 4, 1), 100), "already told");
        assert!(!frames.take(&frame(HEADERS, 4, 60), 100), "another block");
    }
}
