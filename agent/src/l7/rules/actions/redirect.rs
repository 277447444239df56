//! Redirects: the status and the Location. Response headers of the rule are applied by the caller.

use std::fmt;

use http::{HeaderValue, StatusCode};

use super::super::{
    matching::RequestView,
    objects::{self, DerivePort, Messages},
};
use super::{MatchedUri, PathRewrite, destination::port_number};

/// A compiled redirect.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    path: NewPath,
    authority: Option<String>,
    port: NewPort,
    scheme: Option<&'static str>,
}

#[derive(Clone, Debug)]
enum NewPath {
    Same,
    Whole(String),
    Prefix(PathRewrite),
}

#[derive(Clone, Copy, Debug)]
enum NewPort {
    /// The one in the Host header, if there is one.
    Same,
    /// The scheme's, so none is written.
    SchemeDefault,
    /// The port that the request came to.
    Addressed,
    Number(u16),
}

impl Redirect {
    /// Compiles `raw`; `prefixes` says whether every match of the rule has a uri prefix.
    pub(crate) fn compile(
        raw: &objects::Redirect,
        prefixes: bool,
        path: &str,
        messages: &mut Messages,
    ) -> Option<Self> {
        let status = match raw.redirect_code {
            0 => StatusCode::MOVED_PERMANENTLY,
            code => match u16::try_from(code).ok().filter(|code| [301, 302, 303, 307, 308].contains(code)) {
                Some(code) => StatusCode::from_u16(code).ok()?,
                None => {
                    let text = format!("{code} is none of 301, 302, 303, 307, 308");
                    messages.error(format!("{path}.redirectCode"), text);
                    return None;
                }
            },
        };
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (uri, prefix, authority) = (given(&raw.uri), given(&raw.prefix_rewrite), given(&raw.authority));
        for (name, text) in [("uri", &uri), ("prefixRewrite", &prefix), ("authority", &authority)] {
            if text.as_ref().is_some_and(|text| text.bytes().any(|b| !b.is_ascii_graphic())) {
                messages.error(format!("{path}.{name}"), "has blanks, control or non-ASCII characters");
                return None;
            }
        }
        let new_path = match (uri, prefix) {
            (Some(_), Some(_)) => {
                messages.error(path, "has both uri and prefixRewrite; keep one");
                return None;
            }
            (None, Some(_)) if !prefixes => {
                messages
                    .error(format!("{path}.prefixRewrite"), "needs a uri prefix in every match of the rule");
                return None;
            }
            (Some(uri), None) => NewPath::Whole(uri),
            (None, Some(prefix)) => NewPath::Prefix(PathRewrite::Uri(prefix)),
            (None, None) => NewPath::Same,
        };
        let port = match (raw.port, raw.derive_port) {
            (Some(_), Some(_)) => {
                messages.error(path, "has both port and derivePort; keep one");
                return None;
            }
            (Some(port), None) => NewPort::Number(port_number(port, &format!("{path}.port"), messages)?),
            (None, Some(DerivePort::FromProtocolDefault)) => NewPort::SchemeDefault,
            (None, Some(DerivePort::FromRequestPort)) => NewPort::Addressed,
            (None, None) => NewPort::Same,
        };
        let scheme = match raw.scheme.as_deref() {
            None | Some("") => None,
            Some("http") => Some("http"),
            Some("https") => Some("https"),
            Some(other) => {
                messages.error(format!("{path}.scheme"), format!("{other:?} is neither http nor https"));
                return None;
            }
        };
        if let (NewPath::Same, None, NewPort::Same, None) = (&new_path, &authority, port, scheme) {
            let text =
                "leads clients back to where they are: set uri, prefixRewrite, authority, port or scheme";
            messages.warn(path, text);
        }
        Some(Self { status, path: new_path, authority, port, scheme })
    }

    /// The Location for a request that came to `port`; `None` if the request has no legal host.
    pub fn location(&self, request: &RequestView<'_>, matched: MatchedUri, port: u16) -> Option<HeaderValue> {
        let scheme = self.scheme.unwrap_or(request.scheme);
        let (host, old_port) = split_port(request.authority);
        let keeps_port = matches!(self.port, NewPort::Same);
        let mut location = format!("{scheme}://");
        match &self.authority {
            Some(authority) if keeps_port => location.push_str(authority),
            Some(authority) => location.push_str(split_port(authority).0),
            None => location.push_str(host),
        }
        let new_port = match self.port {
            NewPort::Same if self.authority.is_some() => None,
            // `:80` of http says nothing about https.
            NewPort::Same => old_port.filter(|port| {
                scheme == request.scheme
                    || default_port(request.scheme).is_none_or(|default| *port != default)
            }),
            NewPort::SchemeDefault => None,
            NewPort::Addressed => Some(port),
            NewPort::Number(number) => Some(number),
        };
        if let Some(port) = new_port.filter(|port| Some(*port) != default_port(scheme)) {
            location.push_str(&format!(":{port}"));
        }
        let query =
            |path: &str| request.query.filter(|_| !path.contains('?')).map(|query| format!("?{query}"));
        match &self.path {
            NewPath::Same => {
                location.push_str(request.path);
                location.push_str(&query("").unwrap_or_default());
            }
            NewPath::Whole(path) => {
                if !path.starts_with('/') {
                    location.push('/');
                }
                location.push_str(path);
                location.push_str(&query(path).unwrap_or_default());
            }
            NewPath::Prefix(rewrite) => location.push_str(&rewrite.apply(request, matched)),
        }
        HeaderValue::try_from(location).ok()
    }
}

impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redirects with {} to ", self.status.as_u16())?;
        if let Some(scheme) = self.scheme {
            write!(f, "{scheme}://")?;
        }
        f.write_str(self.authority.as_deref().unwrap_or("the same host"))?;
        match self.port {
            NewPort::Same => {}
            NewPort::SchemeDefault => f.write_str(", the scheme's port")?,
            NewPort::Addressed => f.write_str(", the port addressed")?,
            NewPort::Number(port) => write!(f, ":{port}")?,
        }
        match &self.path {
            NewPath::Same => Ok(()),
            NewPath::Whole(path) => write!(f, ", path {path}"),
            NewPath::Prefix(PathRewrite::Uri(prefix)) => write!(f, ", prefix {prefix}"),
            NewPath::Prefix(PathRewrite::Regex(..)) => f.write_str(", another path"),
        }
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// Host and port of an authority; the colons within `[…]` belong to the address.
fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (authority, None),
        },
        _ => (authority, None),
    }
}
