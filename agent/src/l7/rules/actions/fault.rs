//! Injected faults: delays and aborts. They come before timeouts and retries, which do not act on them.

use std::{fmt, time::Duration};

use super::super::objects::{self, Messages, Percent};
use super::{Share, timeout};

/// Names of gRPC status codes, by number.
const GRPC_NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A compiled fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    delay: Option<(Share, Duration)>,
    abort: Option<(Share, Abort)>,
}

/// How a request is answered instead of being sent on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Abort {
    /// With this HTTP status, 200 to 600.
    Http(u16),
    /// With this gRPC status; to a client that does not speak gRPC, with [`grpc_to_http`] of it.
    Grpc(u8),
}

/// What happens to one request: the delay first, then the abort.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Injected {
    /// Wait so long, before the route's timeout starts.
    pub delay: Option<Duration>,
    /// Answer so.
    pub abort: Option<Abort>,
}

impl Fault {
    /// Compiles `raw`.
    pub(crate) fn compile(raw: &objects::Fault, path: &str, messages: &mut Messages) -> Option<Self> {
        if raw.delay.is_none() && raw.abort.is_none() {
            messages.error(path, "says nothing: set delay or abort");
        }
        let delay = raw.delay.as_ref().and_then(|raw| delay(raw, &format!("{path}.delay"), messages));
        let abort = raw.abort.as_ref().and_then(|raw| abort(raw, &format!("{path}.abort"), messages));
        Some(Self { delay, abort })
    }

    /// Decides for one request; the draws are independent and uniform over all of `u32`.
    pub fn decide(&self, delay_draw: u32, abort_draw: u32) -> Injected {
        Injected {
            delay: self.delay.filter(|(share, _)| share.hits(delay_draw)).map(|(_, delay)| delay),
            abort: self.abort.filter(|(share, _)| share.hits(abort_draw)).map(|(_, abort)| abort),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((share, delay)) = &self.delay {
            write!(f, "delays {share} by {delay:?}")?;
        }
        if self.delay.is_some() && self.abort.is_some() {
            f.write_str(", ")?;
        }
        match &self.abort {
            Some((share, Abort::Http(status))) => write!(f, "aborts {share} with {status}"),
            Some((share, Abort::Grpc(code))) => {
                let name = GRPC_NAMES.get(usize::from(*code)).unwrap_or(&"?");
                write!(f, "aborts {share} with gRPC's {name}")
            }
            None => Ok(()),
        }
    }
}

fn delay(raw: &objects::Delay, path: &str, messages: &mut Messages) -> Option<(Share, Duration)> {
    if raw.exponential_delay.is_some() {
        messages.unsupported(format!("{path}.exponentialDelay"), "use fixedDelay");
        return None;
    }
    let old = raw.percent.map(|value| Percent { value: f64::from(value) });
    if old.is_some() {
        messages.warn(format!("{path}.percent"), "is deprecated; use percentage.value");
    }
    let place = if raw.percentage.is_some() { "percentage" } else { "percent" };
    let share = Share::compile(raw.percentage.or(old), Share::NONE, &format!("{path}.{place}"), messages);
    warn_if_never(raw.percentage.is_none() && old.is_none(), path, messages);
    if raw.fixed_delay.is_none() {
        messages.error(format!("{path}.fixedDelay"), "is missing");
    }
    Some((share, timeout::compile(raw.fixed_delay, &format!("{path}.fixedDelay"), messages)?))
}

fn abort(raw: &objects::Abort, path: &str, messages: &mut Messages) -> Option<(Share, Abort)> {
    if raw.http2_error.is_some() {
        messages.unsupported(format!("{path}.http2Error"), "use httpStatus or grpcStatus");
        return None;
    }
    let share = Share::compile(raw.percentage, Share::NONE, &format!("{path}.percentage"), messages);
    warn_if_never(raw.percentage.is_none(), path, messages);
    let abort = match (raw.http_status, &raw.grpc_status) {
        (Some(code), None) => match u16::try_from(code).ok().filter(|code| (200..=600).contains(code)) {
            Some(code) => Abort::Http(code),
            None => {
                messages.error(format!("{path}.httpStatus"), format!("{code} is not within 200 to 600"));
                return None;
            }
        },
        (None, Some(name)) => match GRPC_NAMES.iter().position(|known| known == name) {
            Some(code) => Abort::Grpc(code as u8),
            None => {
                messages.error(
                    format!("{path}.grpcStatus"),
                    format!("{name:?} is no gRPC status; they read like UNAVAILABLE or NOT_FOUND"),
                );
                return None;
            }
        },
        (None, None) | (Some(_), Some(_)) => {
            messages.error(path, "needs exactly one of httpStatus and grpcStatus");
            return None;
        }
    };
    Some((share, abort))
}

fn warn_if_never(absent: bool, path: &str, messages: &mut Messages) {
    if absent {
        messages.warn(format!("{path}.percentage"), "is absent, which means 0: this fault never happens");
    }
}

/// The HTTP status that says the same as a gRPC status, for clients that do not speak gRPC.
/// Source: <https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto>
pub const fn grpc_to_http(code: u8) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}
