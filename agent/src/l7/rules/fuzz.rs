//! A small fuzzer: inputs that are nearly right, from a seed. `SLUICE_SEED` repeats a run, `SLUICE_CASES` makes it longer.

use super::{
    clienthello::{HELLO_MAX, Hello, parse},
    protocol::{Speech, sniff},
};

/// Numbers that are wrong more often than others.
const EDGES: [u8; 8] = [0, 1, 3, 22, 0x7f, 0x80, 0xfe, 0xff];

/// Numbers from a seed; the constants are Knuth's for MMIX.
pub(crate) struct Random(u64);

impl Random {
    /// From `SLUICE_SEED`, which is printed, else from this process's id; and how many cases to try.
    pub(crate) fn start(cases: u32) -> (Self, u64, u32) {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let seed = number("SLUICE_SEED").unwrap_or_else(|| u64::from(std::process::id()));
        let cases = number("SLUICE_CASES").map_or(cases, |cases| u32::try_from(cases).unwrap_or(u32::MAX));
        println!("SLUICE_SEED={seed} SLUICE_CASES={cases}");
        (Self(seed), seed, cases)
    }

    /// A number below `end`; 0 when there is none.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % end.max(1)
    }

    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// Changes a few places of `bytes`; `other` is something to take parts from.
    pub(crate) fn mutate(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let end = (at + 1 + self.below(16)).min(bytes.len());
            match self.below(8) {
                _ if bytes.is_empty() => bytes.push(*self.of(&EDGES)),
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = *self.of(&EDGES),
                2 => bytes[at] = bytes[at].wrapping_add(if self.once_in(2) { 1 } else { 0xff }),
                3 => bytes.insert(at, *self.of(&EDGES)),
                4 => drop(bytes.drain(at..end)),
                5 => bytes.truncate(at),
                6 => {
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
                _ => {
                    let from = self.below(other.len());
                    let to = (from + 1 + self.below(32)).min(other.len());
                    bytes.splice(at..end, other[from..to].iter().copied());
                }
            }
        }
    }
}

fn vector(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    [&length.to_be_bytes()[..], content].concat()
}

/// A ClientHello with these extensions, in records of `size` bytes at most.
fn client_hello(extensions: &[(u16, Vec<u8>)], size: usize) -> Vec<u8> {
    let extensions: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, content)| [kind.to_be_bytes().to_vec(), vector(content)].concat())
        .collect();
    let head = [&[3, 3][..], &[7; 32], &[4, 1, 2, 3, 4], &vector(&[0x13, 1, 0x13, 2]), &[1, 0]].concat();
    let body = [head, vector(&extensions)].concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    message.chunks(size).flat_map(|part| [&[22, 3, 1][..], &vector(part)].concat()).collect()
}

fn corpus() -> Vec<Vec<u8>> {
    let name = |name: &str| (0_u16, vector(&[&[0][..], &vector(name.as_bytes())].concat()));
    let alpn = (16, vector(b"\x02h2\x08http/1.1"));
    vec![
        client_hello(&[name("blue.example.com")], 16_000),
        client_hello(&[alpn.clone(), name("UPPER.example.com."), (43, vec![2, 3, 4])], 16_000),
        client_hello(&[alpn.clone(), (51, vec![9; 1_200]), name("far.example.com")], 16_000),
        client_hello(std::slice::from_ref(&alpn), 16_000),
        client_hello(&[], 16_000),
        client_hello(&[name("in.many.records.example.com"), alpn], 7),
        client_hello(&[name("")], 16_000),
        b"GET /path HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
    ]
}

#[test]
fn first_bytes_of_any_kind() {
    let (mut random, seed, cases) = Random::start(200_000);
    let corpus = corpus();
    let mut told = [0_u32; 4];
    for case in 0..cases {
        let mut bytes = random.of(&corpus).clone();
        random.mutate(&mut bytes, random_other(&corpus, case));
        let hello = parse(&bytes);
        let context = || format!("SLUICE_SEED={seed}, case {case}: {bytes:02x?}");
        // What was told of some bytes stays true when more come; the redirector decides with the first that tell.
        let part = random.below(bytes.len() + 1);
        let early = parse(&bytes[..part]);
        assert!(early == Hello::NeedMore || early == hello, "{early:?} of {part}, {hello:?}: {}", context());
        if let Hello::Sni(name) = &hello {
            let legal = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
            assert!(legal && !name.contains(|c: char| c.is_ascii_uppercase()), "{name:?}: {}", context());
        }
        let speech = sniff(&bytes);
        if bytes.first() == Some(&22) {
            let want = match hello {
                Hello::NeedMore => None,
                Hello::NotTls => Some(Speech::Tcp),
                Hello::Sni(_) | Hello::NoSni => Some(Speech::Tls),
            };
            assert_eq!(speech, want, "{}", context());
        } else {
            assert!(speech != Some(Speech::Tls), "{}", context());
        }
        told[match hello {
            Hello::NeedMore => 0,
            Hello::NotTls => 1,
            Hello::Sni(_) => 2,
            Hello::NoSni => 3,
        }] += 1;
    }
    // Whoever collects bytes must come to an end.
    let endless: Vec<u8> = client_hello(&[(99, vec![0; 60_000])], 1).into_iter().take(HELLO_MAX).collect();
    assert_eq!(parse(&endless), Hello::NotTls);
    assert!(told.iter().all(|count| *count > cases / 100), "each of them comes up: {told:?}");
}

fn random_other(corpus: &[Vec<u8>], case: u32) -> &[u8] {
    &corpus[case as usize % corpus.len()]
}
