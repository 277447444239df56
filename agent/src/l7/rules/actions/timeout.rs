//! Timeouts: the lower limit of every duration, and the deadline of a request. Clocks are the caller's.

use std::time::Duration;

use http::HeaderMap;

use super::super::objects::{Messages, Span};

const LEAST: Duration = Duration::from_millis(1);

/// A duration of 1 ms at least.
pub(crate) fn compile(raw: Option<Span>, path: &str, messages: &mut Messages) -> Option<Duration> {
    let Span(duration) = raw?;
    if duration < LEAST {
        messages.error(path, "is less than 1ms; leave the field out for none");
        return None;
    }
    Some(duration)
}

/// How long a request may take from its end to the end of the response, retries included; `None` is forever.
///
/// A gRPC client's own `grpc-timeout` counts when it is shorter than the rule's.
pub fn request_deadline(rule: Option<Duration>, request: &HeaderMap) -> Option<Duration> {
    let asked = request.get("grpc-timeout").and_then(|value| grpc_timeout(value.to_str().ok()?));
    match (rule, asked) {
        (Some(rule), Some(asked)) => Some(rule.min(asked)),
        (rule, asked) => rule.or(asked),
    }
}

/// The `grpc-timeout` to send on: the client's, cut to `deadline`. `None` leaves the header as it is.
pub fn capped_grpc_timeout(deadline: Option<Duration>, request: &HeaderMap) -> Option<String> {
    let asked = grpc_timeout(request.get("grpc-timeout")?.to_str().ok()?)?;
    let limit = deadline.filter(|limit| *limit < asked)?;
    // At most eight digits are allowed.
    let millis = limit.as_millis();
    Some(if millis < 100_000_000 {
        format!("{millis}m")
    } else {
        format!("{}S", limit.as_secs().min(99_999_999))
    })
}

/// One to eight digits and a unit.
/// Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>
fn grpc_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse::<u64>().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(number * 3_600)),
        'M' => Some(Duration::from_secs(number * 60)),
        'S' => Some(Duration::from_secs(number)),
        'm' => Some(Duration::from_millis(number)),
        'u' => Some(Duration::from_micros(number)),
        'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}
