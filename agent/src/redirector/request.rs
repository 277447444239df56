//! One request: checked, given to the rule that takes it, answered. Sending it on is in `forward.rs`.

use std::{rc::Rc, time::Duration};

use crate::l7::rules::{
    RequestView, Work,
    actions::{CorsAnswer, Direct, Facts, Fault},
    table::{Action, Selected, Selection},
};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_TYPE, LOCATION, UPGRADE},
    request::Parts,
};
use hyper::{body::Incoming, ext::Protocol};
use rustix::time::{ClockId, clock_gettime};

use super::{
    access::Record,
    body::Body,
    checks,
    counters::Counter,
    forward::{Forward, no_destination},
    h2c,
    headers::wanted_upgrade,
    replies::{abort, reply},
    session::{HEADERS_MAX, Session},
    tunnel::{Near, Switched},
    view::View,
    worker::Worker,
};

/// A request as it came.
#[derive(Debug)]
pub struct Call {
    /// Method.
    pub method: Method,
    /// Its target.
    pub uri: Uri,
    /// Host header or `:authority`.
    pub authority: String,
    /// Headers; never changed, since rules look into them to the end.
    pub headers: HeaderMap,
    /// The client.
    pub client: std::net::IpAddr,
    /// Whether it came by HTTP/2.
    pub http2: bool,
    /// Protocol that the client wants to change to.
    pub upgrade: Option<HeaderValue>,
    /// Whether it wants that by a CONNECT of HTTP/2, RFC 8441; to rules and endpoints it is a GET, as to Envoy's.
    pub extended: bool,
    /// The rest of the client's connection, for upgrades and CONNECT.
    pub tunnel: Option<Near>,
    /// What regexes of rules have worked on it.
    pub work: Work,
}

impl Call {
    /// As rules see it.
    pub fn view(&self) -> RequestView<'_> {
        RequestView {
            method: self.method.as_str(),
            scheme: "http",
            authority: &self.authority,
            path: self.uri.path(),
            query: self.uri.query(),
            headers: &self.headers,
            work: Some(&self.work),
        }
    }

    /// What variables are made from.
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            method: self.method.as_str(),
            scheme: "http",
            authority: &self.authority,
            path_and_query: self.uri.path_and_query().map_or("", |path| path.as_str()),
            client: self.client,
            protocol: if self.http2 { "HTTP/2" } else { "HTTP/1.1" },
        }
    }
}

/// Answers one request.
pub async fn handle(session: Rc<Session>, mut received: Request<Incoming>) -> Response<Body> {
    let under_way = session.begin();
    if !session.http2 && !under_way.is_doubtful && h2c::is_wanted(&received) {
        let (parts, body) = received.into_parts();
        // What has no legal host is refused below.
        if let Ok(authority) = checks::authority(&parts) {
            session.go_on_by_http2(h2c::first_stream(&parts, &authority));
            return switched_to_http2();
        }
        received = Request::from_parts(parts, body);
    }
    let mut record = Record::new(&session.worker, session.client);
    let protocol = received.extensions().get::<Protocol>().map(|protocol| protocol.as_str().to_owned());
    let extended = protocol.is_some() && received.method() == Method::CONNECT;
    let upgrade = match protocol.filter(|_| extended) {
        Some(protocol) => HeaderValue::try_from(protocol).ok(),
        None => wanted_upgrade(received.headers()).filter(|_| received.version() == Version::HTTP_11),
    };
    let tunnels = upgrade.is_some() || received.method() == Method::CONNECT;
    let place = session.request_place();
    let tunnel = tunnels.then(|| session.socket(&mut received)).zip(place.clone());
    let (mut parts, incoming) = received.into_parts();
    if extended {
        parts.method = Method::GET;
    }
    let connects = parts.method == Method::CONNECT;
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let checked = if under_way.is_doubtful {
        Err("both Content-Length and Transfer-Encoding, or two lengths\n")
    } else {
        checks::authority(&parts)
    };
    let response = match checked {
        Ok(_) if session.http2 && header_list_size(&parts) > HEADERS_MAX => {
            record.request(parts.method.as_str(), "", path);
            session.worker.count(Counter::RefusedLargeHeaders);
            let text = "the headers are too long\n";
            reply(&parts.headers, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, text)
        }
        Ok(_) if place.is_none() => {
            record.request(parts.method.as_str(), "", path);
            reply(
                &parts.headers,
                StatusCode::SERVICE_UNAVAILABLE,
                "the client has too many requests under way\n",
            )
        }
        Ok(authority) => {
            record.request(parts.method.as_str(), &authority, path);
            let call = Call {
                method: parts.method,
                uri: parts.uri,
                authority,
                headers: parts.headers,
                client: session.client,
                http2: session.http2,
                upgrade,
                extended,
                tunnel: tunnel.map(|(socket, place)| {
                    let under_way = session.http2.then(|| session.begin());
                    Near { socket, place, under_way }
                }),
                work: Work::new(thread_time),
            };
            decide(&session, call, incoming, &mut record).await
        }
        Err(why) => {
            record.request(parts.method.as_str(), "", path);
            session.worker.count(Counter::RefusedMalformed);
            closing(&session, reply(&HeaderMap::new(), StatusCode::BAD_REQUEST, why))
        }
    };
    let is_tunnel = response.extensions().get::<Switched>().is_some();
    let response = if extended && response.status().is_success() && !is_tunnel {
        // With success the client would begin to speak the other protocol.
        reply(&HeaderMap::new(), StatusCode::BAD_GATEWAY, "the protocol was not changed\n")
    } else {
        response
    };
    let status = response.status();
    if !session.http2 && (status == StatusCode::SWITCHING_PROTOCOLS || (connects && status.is_success())) {
        session.leave();
    }
    record.status(status);
    response.map(|body| body.with(record, under_way, place))
}

/// The request is answered by HTTP/2, and is one then: it is counted and logged there.
fn switched_to_http2() -> Response<Body> {
    let mut response = Response::new(Body::whole(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("h2c"));
    response
}

/// How long the headers are as HTTP/2 counts, RFC 9113 section 6.5.2.
fn header_list_size(parts: &Parts) -> usize {
    let lines = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
    let target = parts.uri.path_and_query().map_or(0, |path| path.as_str().len());
    lines.sum::<usize>() + target
}

/// The same answer, after which the connection ends.
fn closing(session: &Session, mut response: Response<Body>) -> Response<Body> {
    if !session.http2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn decide(session: &Session, call: Call, incoming: Incoming, record: &mut Record) -> Response<Body> {
    let worker = &session.worker;
    let Some(view) = session.view() else {
        worker.count(Counter::RefusedUnknownFrontend);
        let text = "no Service has this address any more\n";
        return closing(session, reply(&call.headers, StatusCode::SERVICE_UNAVAILABLE, text));
    };
    let routes = view.routes.clone();
    worker.pulse.note();
    match routes.select(&call.view()) {
        Selection::NotFound => {
            worker.count(Counter::NoRoute);
            reply(&call.headers, StatusCode::NOT_FOUND, "no rule matches\n")
        }
        Selection::Spent => too_much_work(worker, &call),
        Selection::Service(target) => {
            let forward = Forward { worker, view: &view, selected: None, index: 0, target };
            forward.run(call, incoming, record).await
        }
        Selection::Rule(selected) => by_rule(worker, &view, selected, call, incoming, record).await,
    }
}

async fn by_rule(
    worker: &Rc<Worker>,
    view: &Rc<View>,
    selected: Selected<'_>,
    call: Call,
    incoming: Incoming,
    record: &mut Record,
) -> Response<Body> {
    record.rule(&selected);
    let rule = selected.rule();
    let cors =
        match rule.cors.as_ref().map(|cors| cors.evaluate(&call.method, &call.headers, Some(&call.work))) {
            Some(CorsAnswer::Preflight(headers)) => {
                let mut response = Response::new(Body::whole(""));
                *response.headers_mut() = headers;
                return response;
            }
            Some(CorsAnswer::Spent) => return too_much_work(worker, &call),
            Some(CorsAnswer::Response(headers)) => Some(headers),
            Some(CorsAnswer::Pass) | None => None,
        };
    let mut response = match &rule.action {
        Action::Redirect(redirect) => redirected(redirect.status, selected, &call),
        Action::Direct(direct) => direct_response(direct, selected, &call),
        Action::Route(route) => match inject(worker, route.fault.as_ref(), &call).await {
            Some(response) => response,
            None => match selected.pick(worker.draws.next()) {
                Some((index, target)) => {
                    let forward = Forward { worker, view, selected: Some(selected), index, target };
                    forward.run(call, incoming, record).await
                }
                None => no_destination(worker, &call),
            },
        },
    };
    if let Some(cors) = cors {
        response.headers_mut().extend(cors);
    }
    response
}

/// How long this thread has run.
fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// The answer to a request on which regexes have worked too long: what is so long is a header or the path, which HTTP counts
/// among them (RFC 6585 section 5).
pub fn too_much_work(worker: &Worker, call: &Call) -> Response<Body> {
    worker.count(Counter::RefusedRegexWork);
    let text = "regexes of rules take too long for values that are so long\n";
    reply(&call.headers, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, text)
}

fn redirected(status: StatusCode, selected: Selected<'_>, call: &Call) -> Response<Body> {
    let Some(location) = selected.location(&call.view()) else {
        return reply(&call.headers, StatusCode::BAD_REQUEST, "no host to redirect to\n");
    };
    let mut response = Response::new(Body::whole(""));
    *response.status_mut() = status;
    response.headers_mut().insert(LOCATION, location);
    selected.change_response(None, response.headers_mut(), &call.headers, &call.facts());
    response
}

fn direct_response(direct: &Direct, selected: Selected<'_>, call: &Call) -> Response<Body> {
    let mut response = Response::new(Body::whole(direct.body.clone()));
    *response.status_mut() = direct.status;
    if let Some(kind) = direct.content_type {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    selected.change_response(None, response.headers_mut(), &call.headers, &call.facts());
    response
}

/// Injects what is drawn: waits, and answers if the request goes no further.
async fn inject(worker: &Worker, fault: Option<&Fault>, call: &Call) -> Option<Response<Body>> {
    let injected = fault?.decide(worker.draws.next(), worker.draws.next());
    if let Some(delay) = injected.delay {
        worker.count(Counter::FaultDelays);
        tokio::time::sleep(delay).await;
    }
    let answer = injected.abort?;
    worker.count(Counter::FaultAborts);
    Some(abort(&call.headers, answer))
}
