//! Retries: the policy with its defaults, what is retried, how long to wait. Budgets and bodies are not here.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::super::objects::{Messages, Retries};
use super::timeout;

/// What upstream does when a rule does not mention retries. 503 is not among it.
const DEFAULT_ATTEMPTS: u32 = 2;
const DEFAULT_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
const BASE: Duration = Duration::from_millis(25);
/// Waiting never grows beyond so many times the base.
const CAP: u32 = 10;

/// How one try ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// No connection could be made.
    ConnectFailure,
    /// The endpoint refused the stream, `REFUSED_STREAM` or GOAWAY.
    RefusedStream,
    /// The connection broke before the request's headers were sent.
    ResetBeforeRequest,
    /// The connection broke, or the stream was reset, after that and before response headers.
    Reset,
    /// `perTryTimeout` ran out.
    PerTryTimeout,
    /// Response headers arrived.
    Response(StatusCode, &'a HeaderMap),
}

/// A compiled `retries`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RetryPolicy {
    /// Retries at most, not counting the first try; 0 is none.
    pub attempts: u32,
    /// Limit of each try; `None` leaves only the timeout of the route.
    pub per_try_timeout: Option<Duration>,
    /// Whether endpoints that were tried are avoided, with up to five choices of another.
    pub ignore_previous_hosts: bool,
    /// `retryRemoteLocalities`: whether a retry may go to a zone where no endpoint was tried yet.
    pub remote_localities: bool,
    base: Duration,
    on: Vec<Condition>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Condition {
    Any5xx,
    GatewayError,
    Reset,
    ResetBeforeRequest,
    ConnectFailure,
    Retriable4xx,
    RefusedStream,
    EnvoyRatelimited,
    Status(u16),
    Grpc(&'static str),
    /// Allowed, and never true here: it needs a list or a protocol that we do not have.
    Inert,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: DEFAULT_ATTEMPTS,
            per_try_timeout: None,
            ignore_previous_hosts: true,
            remote_localities: false,
            base: BASE,
            on: DEFAULT_ON.split(',').filter_map(Condition::from_name).collect(),
        }
    }
}

impl RetryPolicy {
    /// Tries to choose an endpoint that was not tried yet.
    pub const HOST_SELECTION_ATTEMPTS: u32 = 5;

    /// Compiles `raw`; an absent field has upstream's default.
    pub(crate) fn compile(raw: Option<&Retries>, path: &str, messages: &mut Messages) -> Self {
        let Some(raw) = raw else {
            return Self::default();
        };
        let attempts = u32::try_from(raw.attempts);
        if attempts.is_err() {
            messages.error(format!("{path}.attempts"), format!("{} is negative", raw.attempts));
        }
        let attempts = attempts.unwrap_or(0);
        let more = raw.per_try_timeout.is_some()
            || !raw.retry_on.is_empty()
            || raw.retry_remote_localities.is_some();
        if attempts == 0 && more {
            messages.error(
                path,
                "attempts 0 turns retries off; then perTryTimeout, retryOn and retryRemoteLocalities make no \
                 sense",
            );
        }
        let mut on = Vec::new();
        let text = if raw.retry_on.trim().is_empty() { DEFAULT_ON } else { &raw.retry_on };
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match Condition::from_name(name) {
                Some(condition) => on.push(condition),
                None => messages.error(
                    format!("{path}.retryOn"),
                    format!("{name:?} is neither a retry condition nor a status code"),
                ),
            }
        }
        Self {
            attempts,
            per_try_timeout: timeout::compile(
                raw.per_try_timeout,
                &format!("{path}.perTryTimeout"),
                messages,
            ),
            ignore_previous_hosts: raw.retry_ignore_previous_hosts.unwrap_or(true),
            remote_localities: raw.retry_remote_localities.unwrap_or(false),
            base: timeout::compile(raw.backoff, &format!("{path}.backoff"), messages).unwrap_or(BASE),
            on,
        }
    }

    /// Whether to try again after `outcome`, when `retried` retries were made already.
    pub fn should_retry(&self, outcome: Outcome<'_>, retried: u32) -> bool {
        if retried >= self.attempts {
            return false;
        }
        // A rate limiter's answer is final unless the rule says otherwise, whatever its status.
        let ratelimited =
            matches!(outcome, Outcome::Response(_, headers) if headers.contains_key("x-envoy-ratelimited"));
        if ratelimited {
            return self.on.contains(&Condition::EnvoyRatelimited);
        }
        self.on.iter().any(|condition| condition.holds(outcome))
    }

    /// How long to wait before retry number `retry`, counted from 1; `draw` is uniform over all of `u32`.
    ///
    /// Uniform from 0 to (2^retry − 1) times the base, and never more than ten times the base.
    pub fn backoff(&self, retry: u32, draw: u32) -> Duration {
        let steps = 1_u32.checked_shl(retry).map_or(CAP, |power| (power - 1).min(CAP));
        let upper = self.base.saturating_mul(steps).as_nanos();
        Duration::from_nanos(u64::try_from((upper * u128::from(draw)) >> 32).unwrap_or(u64::MAX))
    }
}

impl Condition {
    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "5xx" => Self::Any5xx,
            "gateway-error" => Self::GatewayError,
            "reset" => Self::Reset,
            "reset-before-request" => Self::ResetBeforeRequest,
            "connect-failure" => Self::ConnectFailure,
            "retriable-4xx" => Self::Retriable4xx,
            "refused-stream" => Self::RefusedStream,
            "envoy-ratelimited" => Self::EnvoyRatelimited,
            "cancelled" => Self::Grpc("1"),
            "deadline-exceeded" => Self::Grpc("4"),
            "resource-exhausted" => Self::Grpc("8"),
            "internal" => Self::Grpc("13"),
            "unavailable" => Self::Grpc("14"),
            "retriable-status-codes" | "retriable-headers" | "http3-post-connect-failure" => Self::Inert,
            number => Self::Status(number.parse().ok().filter(|code| (100..=599).contains(code))?),
        })
    }

    fn holds(self, outcome: Outcome<'_>) -> bool {
        match outcome {
            Outcome::Response(status, headers) => self.holds_for(status, headers),
            Outcome::ConnectFailure => {
                self.counts_resets() || matches!(self, Self::ConnectFailure | Self::ResetBeforeRequest)
            }
            Outcome::RefusedStream => self.counts_resets() || self == Self::RefusedStream,
            Outcome::ResetBeforeRequest => self.counts_resets() || self == Self::ResetBeforeRequest,
            Outcome::Reset | Outcome::PerTryTimeout => self.counts_resets(),
        }
    }

    /// Upstream counts an answer that never came as a 5xx.
    fn counts_resets(self) -> bool {
        matches!(self, Self::Any5xx | Self::GatewayError | Self::Reset)
    }

    fn holds_for(self, status: StatusCode, headers: &HeaderMap) -> bool {
        match self {
            Self::Any5xx => status.is_server_error(),
            Self::GatewayError => (502..=504).contains(&status.as_u16()),
            Self::Retriable4xx => status == StatusCode::CONFLICT,
            Self::Status(code) => status.as_u16() == code,
            // Only where the whole answer is headers is the gRPC status among them.
            Self::Grpc(code) => headers.get("grpc-status").is_some_and(|value| value == code),
            Self::Reset
            | Self::ResetBeforeRequest
            | Self::ConnectFailure
            | Self::RefusedStream
            | Self::EnvoyRatelimited
            | Self::Inert => false,
        }
    }
}
