//! The server name in a ClientHello, as the redirector collects it: what the first bytes told stays true when more come.

use sluice::l7::rules::{
    clienthello::{Hello, parse},
    protocol::{Speech, sniff},
};

/// Of longer inputs not every beginning is tried.
const EVERY_BEGINNING: usize = 400;

/// Reads them as if they came in any two parts; then a plain ClientHello with the name that was found.
///
/// # Panics
/// Something is told of the beginning that is not told of the whole, or a name is none.
pub fn run(bytes: &[u8]) {
    let whole = parse(bytes);
    let step = 1 + bytes.len() / EVERY_BEGINNING;
    for end in (0..bytes.len()).step_by(step) {
        let early = parse(&bytes[..end]);
        assert!(early == Hello::NeedMore || early == whole, "{early:?} of {end} bytes, {whole:?} of all");
    }
    speech_agrees(bytes, &whole);
    if let Hello::Sni(name) = &whole {
        assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?} is no name");
        assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()), "{name:?} is not in lower case");
        // It is there, though records may cut it up.
        assert!(bytes.len() > 50 + name.len(), "{name:?} out of {} bytes", bytes.len());
        // A final dot counts once: of two, one belongs to the name.
        let again = if name.ends_with('.') { format!("{name}.") } else { name.clone() };
        assert_eq!(parse(&plain(&again)), whole, "by itself");
    }
}

fn speech_agrees(bytes: &[u8], hello: &Hello) {
    let want = match hello {
        _ if bytes.first() != Some(&22) => {
            assert_ne!(sniff(bytes), Some(Speech::Tls), "TLS that begins otherwise");
            return;
        }
        Hello::NeedMore => None,
        Hello::NotTls => Some(Speech::Tcp),
        Hello::Sni(_) | Hello::NoSni => Some(Speech::Tls),
    };
    assert_eq!(sniff(bytes), want);
}

/// A ClientHello with nothing but that name, in one record.
fn plain(name: &str) -> Vec<u8> {
    let vector = |content: &[u8]| [&(content.len() as u16).to_be_bytes()[..], content].concat();
    let list = vector(&[&[0][..], &vector(name.as_bytes())].concat());
    let extensions = vector(&[&[0, 0][..], &vector(&list)].concat());
    let body = [&[3, 3][..], &[7; 32], &[0], &vector(&[0x13, 1]), &[1, 0], &extensions].concat();
    let message = [&[1][..], &(body.len() as u32).to_be_bytes()[1..], &body].concat();
    message.chunks(16_000).flat_map(|part| [&[22, 3, 1][..], &vector(part)].concat()).collect()
}
