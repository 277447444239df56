//! Header values with variables: the few of Envoy's format that we know. An unknown one is an error.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};

/// What variables are made from, besides headers.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// `:method` of the request as it came.
    pub method: &'a str,
    /// `:scheme`.
    pub scheme: &'a str,
    /// `:authority`, or the Host header.
    pub authority: &'a str,
    /// `:path`, with the query.
    pub path_and_query: &'a str,
    /// The client.
    pub client: IpAddr,
    /// `HTTP/1.1`, `HTTP/2`.
    pub protocol: &'a str,
}

/// A header's value.
#[derive(Clone, Debug)]
pub(super) enum Format {
    /// The same for every request.
    Fixed(HeaderValue),
    /// Put together for each request.
    Pieces(Vec<Piece>),
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Piece {
    Text(String),
    ClientAddress,
    Protocol,
    Header(HeaderName),
    Method,
    Scheme,
    Authority,
    Path,
}

impl Format {
    /// Compiles `text`; the error says what is wrong with it.
    pub(super) fn compile(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut fixed = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            fixed.push_str(before);
            let Some((name, tail)) = after.split_once('%') else {
                return Err(
                    "`%` begins a variable that does not end; a percent sign is written `%%`".to_owned()
                );
            };
            rest = tail;
            if name.is_empty() {
                fixed.push('%');
                continue;
            }
            if !fixed.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut fixed)));
            }
            pieces.push(variable(name)?);
        }
        fixed.push_str(rest);
        if !fixed.is_empty() {
            HeaderValue::from_str(&fixed).map_err(|_| "has characters that no header value may have")?;
            pieces.push(Piece::Text(fixed));
        }
        match pieces.as_slice() {
            [] => Ok(Self::Fixed(HeaderValue::from_static(""))),
            [Piece::Text(text)] => {
                Ok(Self::Fixed(HeaderValue::from_str(text).map_err(|_| "is no header value")?))
            }
            _ => Ok(Self::Pieces(pieces)),
        }
    }

    /// The value for one request; `None` when it is empty, which Envoy does not write either.
    pub(super) fn render(&self, facts: &Facts<'_>, request: &HeaderMap) -> Option<HeaderValue> {
        let value = match self {
            Self::Fixed(value) => value.clone(),
            Self::Pieces(pieces) => {
                let mut bytes = Vec::with_capacity(64);
                for piece in pieces {
                    piece.append(&mut bytes, facts, request);
                }
                HeaderValue::from_bytes(&bytes).ok()?
            }
        };
        (!value.is_empty()).then_some(value)
    }
}

impl Piece {
    fn append(&self, bytes: &mut Vec<u8>, facts: &Facts<'_>, request: &HeaderMap) {
        match self {
            Self::Text(text) => bytes.extend_from_slice(text.as_bytes()),
            Self::ClientAddress => {
                bytes.extend_from_slice(facts.client.to_canonical().to_string().as_bytes())
            }
            Self::Protocol => bytes.extend_from_slice(facts.protocol.as_bytes()),
            Self::Header(name) => {
                bytes.extend_from_slice(request.get(name).map(HeaderValue::as_bytes).unwrap_or_default());
            }
            Self::Method => bytes.extend_from_slice(facts.method.as_bytes()),
            Self::Scheme => bytes.extend_from_slice(facts.scheme.as_bytes()),
            Self::Authority => bytes.extend_from_slice(facts.authority.as_bytes()),
            Self::Path => bytes.extend_from_slice(facts.path_and_query.as_bytes()),
        }
    }
}

fn variable(name: &str) -> Result<Piece, String> {
    let header = name.strip_prefix("REQ(").and_then(|rest| rest.strip_suffix(')'));
    match (name, header) {
        ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", _) => Ok(Piece::ClientAddress),
        ("PROTOCOL", _) => Ok(Piece::Protocol),
        (_, Some(header)) => match header.to_ascii_lowercase().as_str() {
            ":method" => Ok(Piece::Method),
            ":scheme" => Ok(Piece::Scheme),
            ":authority" | "host" => Ok(Piece::Authority),
            ":path" => Ok(Piece::Path),
            header => HeaderName::try_from(header)
                .map(Piece::Header)
                .map_err(|_| format!("%{name}% does not name a header")),
        },
        (_, None) => Err(format!(
            "%{name}% is unknown; known are %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%, %PROTOCOL%, \
             %REQ(header)% and %% for a percent sign"
        )),
    }
}
