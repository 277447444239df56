//! Fixed answers. Response headers of the rule are applied by the caller.

use bytes::Bytes;
use http::StatusCode;

use super::super::objects::{DirectResponse, Messages};

const BODY_MAX: usize = 1 << 20;
const BODY_LARGE: usize = 100 << 10;

/// A compiled directResponse.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Direct {
    /// 200 to 599.
    pub status: StatusCode,
    /// Empty if the rule has none.
    pub body: Bytes,
    /// `text/plain` for a string, as Envoy; none for bytes or no body.
    pub content_type: Option<&'static str>,
}

impl Direct {
    /// Compiles `raw`.
    pub(crate) fn compile(raw: &DirectResponse, path: &str, messages: &mut Messages) -> Option<Self> {
        let code = u16::try_from(raw.status).ok().filter(|code| (200..=599).contains(code));
        let Some(status) = code.and_then(|code| StatusCode::from_u16(code).ok()) else {
            messages.error(format!("{path}.status"), format!("{} is not within 200 to 599", raw.status));
            return None;
        };
        let (string, bytes) =
            raw.body.as_ref().map_or((None, None), |body| (body.string.as_ref(), body.bytes.as_ref()));
        let (body, content_type) = match (string, bytes) {
            (Some(_), Some(_)) => {
                messages.error(format!("{path}.body"), "has both string and bytes; keep one");
                return None;
            }
            (Some(text), None) => {
                (Bytes::from(text.clone()), Some("text/plain").filter(|_| !text.is_empty()))
            }
            (None, Some(text)) => match decode_base64(text) {
                Some(body) => (Bytes::from(body), None),
                None => {
                    messages.error(format!("{path}.body.bytes"), "is not base64");
                    return None;
                }
            },
            (None, None) => (Bytes::new(), None),
        };
        if body.len() > BODY_MAX {
            messages.error(
                format!("{path}.body"),
                format!("has {} bytes, at most {BODY_MAX} are allowed", body.len()),
            );
            return None;
        }
        if body.len() > BODY_LARGE {
            messages.warn(
                format!("{path}.body"),
                format!("has {} bytes, which every node keeps in memory", body.len()),
            );
        }
        Some(Self { status, body, content_type })
    }
}

/// Standard or URL-safe alphabet, padding or none, as protobuf's JSON allows.
pub(super) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    for chunk in text.as_bytes().chunks(4) {
        let mut bits = 0_u32;
        for letter in chunk {
            let six = match letter {
                b'A'..=b'Z' => letter - b'A',
                b'a'..=b'z' => letter - b'a' + 26,
                b'0'..=b'9' => letter - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(six);
        }
        let bytes = (bits << (6 * (4 - chunk.len()))).to_be_bytes();
        // Two letters make one byte, three two; one alone makes none.
        let length = chunk.len().checked_sub(1).filter(|length| *length > 0)?;
        out.extend_from_slice(&bytes[1..=length]);
    }
    Some(out)
}
