//! A request that goes to an endpoint, and its answer on the way back. Trying is in `attempts.rs`.

use std::{rc::Rc, time::Duration};

use crate::l7::rules::{
    actions::{RetryPolicy, capped_grpc_timeout, request_deadline},
    protocol::Speech,
    table::{Route, Selected, Target},
};
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode, Uri,
    header::{
        CONNECTION, CONTENT_LENGTH, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SET_COOKIE, TE, UPGRADE,
    },
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::body::Incoming;

use super::{
    access::Record,
    attempts::{Attempts, Trouble},
    balance::{Candidates, InFlight, wants_tls},
    body::Body,
    circuit::What,
    counters::Counter,
    deadline::{Deadline, passed},
    hash::{Stick, makes_cookies},
    head::Head,
    headers::{append_client, strip_hop, takes_trailers},
    mirror,
    outliers::Event,
    replay::Replay,
    replies::reply,
    request::{Call, too_much_work},
    tunnel::{self, Near},
    view::View,
    worker::Worker,
};

/// Where one request goes.
#[derive(Debug)]
pub struct Forward<'a> {
    /// The worker.
    pub worker: &'a Rc<Worker>,
    /// The frontend as the client sees it.
    pub view: &'a Rc<View>,
    /// The rule that took the request; `None` is the Service itself.
    pub selected: Option<Selected<'a>>,
    /// Number of the destination in the rule.
    pub index: usize,
    /// The destination.
    pub target: &'a Target,
}

/// The answer to a request whose destination does not exist or has no endpoint.
pub fn no_destination(worker: &Worker, call: &Call) -> Response<Body> {
    worker.count(Counter::NoEndpoints);
    let (status, text) = Trouble::NoEndpoints.reply();
    reply(&call.headers, status, text)
}

impl<'a> Forward<'a> {
    /// Sends the request on and answers it; every answer has the rule's response headers.
    pub async fn run(&self, mut call: Call, incoming: Incoming, record: &mut Record) -> Response<Body> {
        record.destination(self.target);
        let tunnel = call.tunnel.take();
        let mut response = self.answer(&call, incoming, tunnel, record).await;
        if let Some(selected) = &self.selected {
            let headers = response.headers_mut();
            selected.change_response(Some(self.index), headers, &call.headers, &call.facts());
        }
        response
    }

    async fn answer(
        &self,
        call: &Call,
        incoming: Incoming,
        tunnel: Option<Near>,
        record: &mut Record,
    ) -> Response<Body> {
        if wants_tls(self.target) {
            self.worker.count(Counter::NoEndpoints);
            let text = "TLS to endpoints is not supported yet\n";
            return reply(&call.headers, StatusCode::SERVICE_UNAVAILABLE, text);
        }
        let config = &self.view.config;
        let Some(candidates) = self.worker.balancer.candidates(self.worker, config, self.target).await else {
            return self.trouble(call, self.worker.balancer.why_none(self.worker, config, self.target));
        };
        let circuit = self.worker.shared.circuits.circuit(call.client, self.target);
        let place = match circuit.as_ref().map(|circuit| circuit.enter(What::Request)) {
            Some(None) => {
                self.worker.count(Counter::OverflowRequests);
                return self.trouble(call, Trouble::Busy);
            }
            Some(place) => place.map(Rc::new),
            None => None,
        };
        // Only HTTP/1.1 can change to another protocol.
        let http2 = call.upgrade.is_none() && (call.http2 || candidates.speech == Some(Speech::Http2));
        let limit = request_deadline(self.route().and_then(|route| route.timeout), &call.headers);
        let Some(head) = self.head(call, http2, limit) else {
            if call.work.is_spent() {
                return too_much_work(self.worker, call);
            }
            return reply(&call.headers, StatusCode::BAD_REQUEST, "the rewritten path is no path\n");
        };
        let defaults = RetryPolicy::default();
        let retries = self.route().map_or(&defaults, |route| &route.retries);
        let mirrored = self.route().is_some_and(|route| !route.mirrors.is_empty());
        let replay = Replay::new(incoming, retries.attempts > 0 || mirrored);
        if let Some(selected) = self.selected.as_ref().filter(|_| tunnel.is_none()) {
            mirror::start(self.worker, self.view, call, selected, &head, &replay);
        }
        let mut deadline = limit.map(|limit| Deadline::new(replay.end(), limit));
        let stick = self.stick(call, &candidates);
        let attempts = Attempts {
            worker: self.worker,
            view: self.view,
            client: call.client,
            candidates: &candidates,
            policy: self.target.policy.as_deref(),
            retries,
            hash: stick.hash,
            circuit: circuit.as_ref(),
        };
        let sent = tokio::select! {
            biased;
            sent = attempts.run(&head, &replay, record) => sent,
            () = passed(&mut deadline) => Err(Trouble::Timeout),
        };
        match sent {
            Ok((response, mut in_flight)) => {
                in_flight.hold(place);
                let mut answer = self.back(call, response, in_flight, deadline, tunnel);
                if let Some(cookie) = stick.cookie {
                    answer.headers_mut().append(SET_COOKIE, cookie);
                }
                answer
            }
            Err(trouble) => {
                if let Some(endpoint) = record.endpoint().filter(|_| trouble == Trouble::Timeout) {
                    candidates.note(self.worker, endpoint, Event::Failure(504));
                }
                self.trouble(call, trouble)
            }
        }
    }

    fn stick(&self, call: &Call, candidates: &Candidates) -> Stick {
        let policy = self.target.policy.as_deref();
        let draw = || u64::from(self.worker.draws.next()) << 32 | u64::from(self.worker.draws.next());
        let new = makes_cookies(policy).then(draw);
        let (affinity, query) = (candidates.affinity(), call.uri.query());
        Stick::of_request(policy, affinity, call.client, &call.headers, query, new)
    }

    fn trouble(&self, call: &Call, trouble: Trouble) -> Response<Body> {
        match trouble {
            Trouble::Timeout => self.worker.count(Counter::Timeouts),
            Trouble::NoEndpoints | Trouble::NameRefused => self.worker.count(Counter::NoEndpoints),
            Trouble::Failed(_) | Trouble::TryTimeout | Trouble::Busy => {}
        }
        let (status, text) = trouble.reply();
        reply(&call.headers, status, text)
    }

    /// The head for the endpoint; `None` when rewriting made a path that is none, or took too long.
    fn head(&self, call: &Call, http2: bool, limit: Option<Duration>) -> Option<Head> {
        let mut headers = call.headers.clone();
        strip_hop(&mut headers);
        append_client(&mut headers, call.client);
        if let Some(selected) = &self.selected {
            selected.change_request(self.index, &mut headers, &call.facts());
            // Rules may not decide how messages are framed.
            strip_hop(&mut headers);
        }
        if let Some(capped) = capped_grpc_timeout(limit, &call.headers) {
            headers.insert("grpc-timeout", HeaderValue::try_from(capped).ok()?);
        }
        headers.remove(HOST);
        // hyper writes the length that the body really has.
        headers.remove(CONTENT_LENGTH);
        if takes_trailers(&call.headers) {
            headers.insert(TE, HeaderValue::from_static("trailers"));
            if !http2 {
                headers.insert(CONNECTION, HeaderValue::from_static("te"));
            }
        }
        if let Some(protocol) = &call.upgrade {
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, protocol.clone());
            if call.extended && !headers.contains_key(SEC_WEBSOCKET_KEY) {
                // HTTP/2 has no use for it (RFC 8441 section 5), and HTTP/1.1 does not without.
                headers.insert(
                    SEC_WEBSOCKET_KEY,
                    HeaderValue::try_from(self.worker.draws.websocket_key()).ok()?,
                );
            }
        }
        let uri = self.uri(call, http2, &mut headers)?;
        Some(Head { method: call.method.clone(), uri, headers, http2 })
    }

    /// The target, with the host where the protocol wants it.
    fn uri(&self, call: &Call, http2: bool, headers: &mut HeaderMap) -> Option<Uri> {
        let own = Some(call.authority.as_str()).filter(|authority| !authority.is_empty());
        let ruled = self.selected.as_ref().and_then(|selected| selected.authority(self.index));
        let host = match (ruled, own) {
            (Some(ruled), _) => ruled.clone(),
            (None, Some(own)) => HeaderValue::try_from(own).ok()?,
            (None, None) => HeaderValue::try_from(&*self.target.host).ok()?,
        };
        let authority = Authority::try_from(host.as_bytes()).ok()?;
        let mut parts = http::uri::Parts::default();
        if call.method == Method::CONNECT {
            parts.authority = Some(authority);
            if !http2 {
                headers.insert(HOST, host);
            }
            return Uri::from_parts(parts).ok();
        }
        let rewritten = self.selected.as_ref().and_then(|selected| selected.rewritten(&call.view()));
        if call.work.is_spent() {
            return None;
        }
        parts.path_and_query = match rewritten {
            Some(path) => Some(PathAndQuery::try_from(path).ok()?),
            None => call.uri.path_and_query().cloned(),
        };
        if http2 {
            parts.scheme = Some(Scheme::HTTP);
            parts.authority = Some(authority);
        } else {
            headers.insert(HOST, host);
        }
        Uri::from_parts(parts).ok()
    }

    /// The answer for the client.
    fn back(
        &self,
        call: &Call,
        mut response: Response<Incoming>,
        in_flight: InFlight,
        deadline: Option<Deadline>,
        tunnel: Option<Near>,
    ) -> Response<Body> {
        let status = response.status();
        let changed = response.headers().get(UPGRADE).cloned();
        let connected = call.method == Method::CONNECT && status.is_success();
        let switched = status == StatusCode::SWITCHING_PROTOCOLS;
        let endpoint = (connected || switched).then(|| hyper::upgrade::on(&mut response));
        let (mut parts, incoming) = response.into_parts();
        strip_hop(&mut parts.headers);
        let mut answer = Response::new(());
        *answer.status_mut() = status;
        *answer.headers_mut() = parts.headers;
        let Some(endpoint) = endpoint else {
            return answer.map(|()| Body::stream(incoming, deadline, in_flight));
        };
        let Some(client) = tunnel else {
            // The endpoint changed the protocol and nobody had asked for it.
            return reply(&call.headers, StatusCode::BAD_GATEWAY, "an upgrade that nobody asked for\n");
        };
        tunnel::start(self.worker, client, endpoint, in_flight);
        if switched && call.extended {
            *answer.status_mut() = StatusCode::OK;
            answer.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
            answer.extensions_mut().insert(tunnel::Switched);
        } else if switched {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            answer.headers_mut().extend(changed.map(|protocol| (UPGRADE, protocol)));
        }
        answer.map(|()| Body::whole(""))
    }

    fn route(&self) -> Option<&'a Route> {
        self.selected.as_ref()?.rule().route()
    }
}
