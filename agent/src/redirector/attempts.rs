//! Tries of one request until one is good enough: endpoints, limits, waits. What counts as good is the rules'.

use std::{net::IpAddr, rc::Rc};

use crate::l7::rules::{
    actions::{Outcome, RetryPolicy},
    table::Policy,
};
use http::{Response, StatusCode};
use hyper::body::Incoming;

use super::{
    access::Record,
    balance::{Candidates, InFlight, Wish},
    circuit::{Circuit, Held, What},
    connect::Peer,
    counters::Counter,
    deadline::Deadline,
    destinations::Use,
    head::Head,
    outliers::Event,
    replay::Replay,
    replies,
    upstream::{Failure, Line, Sent},
    view::View,
    worker::Worker,
};

/// All that the tries of one request have in common.
#[derive(Debug)]
pub struct Attempts<'a> {
    /// The worker.
    pub worker: &'a Rc<Worker>,
    /// The frontend as the client sees it.
    pub view: &'a View,
    /// The client.
    pub client: IpAddr,
    /// The endpoints.
    pub candidates: &'a Candidates,
    /// What the DestinationRule says.
    pub policy: Option<&'a Policy>,
    /// When to try again.
    pub retries: &'a RetryPolicy,
    /// Hash of the request, where the policy wants one.
    pub hash: Option<u64>,
    /// Limits of the client for the destination.
    pub circuit: Option<&'a Circuit>,
}

/// Why a request got no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// There is no endpoint.
    NoEndpoints,
    /// The name of the destination stands for nothing but what names must not stand for.
    NameRefused,
    /// The client has too many requests under way to the destination.
    Busy,
    /// The last try failed.
    Failed(Failure),
    /// The last try took too long.
    TryTimeout,
    /// All tries together took too long.
    Timeout,
}

impl Trouble {
    /// The answer, as status and text.
    pub fn reply(self) -> (StatusCode, &'static str) {
        match self {
            Self::NoEndpoints => (StatusCode::SERVICE_UNAVAILABLE, "no endpoint is ready\n"),
            Self::NameRefused => {
                (StatusCode::SERVICE_UNAVAILABLE, "the destination's name leads to the node itself\n")
            }
            Self::Failed(Failure::Connect) => {
                (StatusCode::SERVICE_UNAVAILABLE, "no endpoint can be reached\n")
            }
            Self::Failed(Failure::Overflow) => {
                (StatusCode::SERVICE_UNAVAILABLE, "too many requests wait for the endpoints\n")
            }
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "too many requests are under way\n"),
            Self::Failed(Failure::Refused) => (StatusCode::SERVICE_UNAVAILABLE, "the endpoint refused\n"),
            Self::Failed(Failure::BeforeRequest | Failure::Reset) => {
                (StatusCode::SERVICE_UNAVAILABLE, "the endpoint broke off\n")
            }
            Self::TryTimeout | Self::Timeout => (StatusCode::GATEWAY_TIMEOUT, "the endpoint took too long\n"),
        }
    }
}

impl Attempts<'_> {
    /// Tries until an answer is good enough or no more tries are allowed.
    pub async fn run(
        &self,
        head: &Head,
        replay: &Replay,
        record: &mut Record,
    ) -> Result<(Response<Incoming>, InFlight), Trouble> {
        let peer = Peer::new(self.worker, self.view, self.client, self.policy);
        let (worker, policy, circuit) = (self.worker, self.policy, self.circuit);
        let line = Line { worker, peer: &peer, policy, circuit, row: &self.candidates.row };
        let mut retry = None;
        // A hash is for always the same endpoint, so only failing ones are left.
        let avoid_tried = self.retries.ignore_previous_hosts;
        let mut tried = Vec::new();
        let mut retried = 0;
        loop {
            let tried_before: &[_] = if self.hash.is_some() { &[] } else { &tried };
            let leaves_zone = retried > 0 && self.retries.remote_localities;
            let wish = Wish { hash: self.hash, tried: tried_before, avoid_tried, leaves_zone };
            let balancer = &self.worker.balancer;
            let endpoint = balancer.choose(&self.worker.draws, self.candidates, self.policy, wish);
            let endpoint = endpoint.ok_or(Trouble::NoEndpoints)?;
            record.attempt(endpoint);
            let mut in_flight = balancer.enter(endpoint, self.candidates, Use::Request);
            in_flight.hold(retry.take());
            let sent = tokio::select! {
                biased;
                sent = line.send(endpoint, head, replay) => sent.map_err(Trouble::Failed),
                () = self.try_limit(replay) => {
                    self.worker.count(Counter::TryTimeouts);
                    Err(Trouble::TryTimeout)
                }
            };
            if let Err(trouble) = &sent {
                tracing::debug!(%endpoint, retried, ?trouble, ?tried, "a try failed");
            }
            if let Some(event) = event(&sent) {
                self.candidates.note(self.worker, endpoint, event);
            }
            let wanted = replay.is_whole()
                && outcome(&sent).is_some_and(|outcome| self.retries.should_retry(outcome, retried));
            if !wanted || !self.may_retry(&mut retry) {
                return sent.map(|(response, place)| {
                    in_flight.hold(place);
                    (response, in_flight)
                });
            }
            // Before the wait, so that the endpoint is not thought busy with it.
            drop((sent, in_flight));
            retried += 1;
            self.worker.count(Counter::Retries);
            tried.push(endpoint);
            tokio::time::sleep(self.retries.backoff(retried, self.worker.draws.next())).await;
        }
    }

    /// Whether one more retry is allowed; `held` counts it then.
    fn may_retry(&self, held: &mut Option<Rc<Held>>) -> bool {
        let Some(circuit) = self.circuit else { return true };
        *held = circuit.enter(What::Retry).map(Rc::new);
        if held.is_none() {
            self.worker.count(Counter::OverflowRetries);
        }
        held.is_some()
    }

    async fn try_limit(&self, replay: &Replay) {
        match self.retries.per_try_timeout {
            Some(limit) => Deadline::new(replay.end(), limit).await,
            None => std::future::pending().await,
        }
    }
}

/// What rules for retries are asked; `None` is never tried again.
fn outcome(sent: &Result<Sent, Trouble>) -> Option<Outcome<'_>> {
    Some(match sent {
        Ok((response, _)) => Outcome::Response(response.status(), response.headers()),
        Err(Trouble::Failed(Failure::Connect) | Trouble::NoEndpoints) => Outcome::ConnectFailure,
        Err(Trouble::Failed(Failure::Refused)) => Outcome::RefusedStream,
        Err(Trouble::Failed(Failure::BeforeRequest)) => Outcome::ResetBeforeRequest,
        Err(Trouble::Failed(Failure::Reset)) => Outcome::Reset,
        Err(Trouble::TryTimeout | Trouble::Timeout) => Outcome::PerTryTimeout,
        Err(Trouble::Failed(Failure::Overflow) | Trouble::Busy | Trouble::NameRefused) => return None,
    })
}

/// What it says about the endpoint; `None` is nothing.
fn event(sent: &Result<Sent, Trouble>) -> Option<Event> {
    match sent {
        Ok((response, _)) => Some(Event::Answer(replies::status_of(response.status(), response.headers()))),
        Err(Trouble::Failed(
            Failure::Connect | Failure::Refused | Failure::BeforeRequest | Failure::Reset,
        )) => Some(Event::Failure(503)),
        Err(Trouble::TryTimeout | Trouble::Timeout) => Some(Event::Failure(504)),
        Err(
            Trouble::Failed(Failure::Overflow) | Trouble::Busy | Trouble::NoEndpoints | Trouble::NameRefused,
        ) => None,
    }
}
