//! One line of JSON per request, for those that are drawn for it; and the counters that each request has.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    harmless,
    l7::rules::table::{Selected, Target},
    metrics::shortened,
};
use http::StatusCode;
use serde::Serialize;

use super::{
    counters::{Counter, OneOpen, Open},
    destinations::Name,
    requests::{Way, whole_name},
    worker::Worker,
};

/// A request under way; it is counted and logged when this is dropped.
#[derive(Debug)]
pub struct Record {
    worker: Rc<Worker>,
    status: Option<StatusCode>,
    attempts: u32,
    endpoint: Option<SocketAddr>,
    started: Instant,
    /// `None` for a copy.
    way: Option<Way>,
    _open: Option<OneOpen>,
    /// Only where a line will be written.
    line: Option<Box<Line>>,
}

#[derive(Default, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    /// Seconds since 1970.
    time: f64,
    client: Option<IpAddr>,
    authority: String,
    method: String,
    path: String,
    /// 0 when the client left before the answer.
    status: u16,
    virtual_service: Option<String>,
    rule: Option<String>,
    destination: Option<String>,
    endpoint: Option<SocketAddr>,
    #[serde(rename = "duration_ms")]
    duration_ms: f64,
    attempts: u32,
}

impl Record {
    /// Begins; `share` is the share of requests that are logged.
    pub fn new(worker: &Rc<Worker>, client: IpAddr) -> Self {
        worker.count(Counter::Requests);
        let share = worker.options().access_log.unwrap_or(0.0);
        let drawn = share > 0.0 && f64::from(worker.draws.next()) < share * 4_294_967_296.0;
        let line = drawn.then(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Box::new(Line { time: since.as_secs_f64(), client: Some(client), ..Line::default() })
        });
        Self {
            worker: worker.clone(),
            status: None,
            attempts: 0,
            endpoint: None,
            started: Instant::now(),
            way: Some(Way::default()),
            _open: Some(OneOpen::new(&worker.counters, Open::Requests)),
            line,
        }
    }

    /// For a copy, which is neither counted nor logged.
    pub fn silent(worker: &Rc<Worker>) -> Self {
        Self {
            worker: worker.clone(),
            status: Some(StatusCode::OK),
            attempts: 0,
            endpoint: None,
            started: Instant::now(),
            way: None,
            _open: None,
            line: None,
        }
    }

    /// What was asked for.
    pub fn request(&mut self, method: &str, authority: &str, path: &str) {
        if let Some(line) = &mut self.line {
            (line.method, line.authority, line.path) = (method.into(), authority.into(), path.into());
        }
    }

    /// The rule that took it.
    pub fn rule(&mut self, selected: &Selected<'_>) {
        if let Some(way) = &mut self.way {
            way.rule(selected);
        }
        if let Some(line) = &mut self.line {
            line.virtual_service = Some(whole_name(&selected.rule().virtual_service));
            line.rule = Some(shortened(&selected.label()).to_owned());
        }
    }

    /// Where it goes.
    pub fn destination(&mut self, target: &Target) {
        if let Some(way) = &mut self.way {
            way.destination(target);
        }
        if let Some(line) = &mut self.line {
            line.destination = Some(Name::of(target).to_string());
        }
    }

    /// One more try, at `endpoint`.
    pub fn attempt(&mut self, endpoint: SocketAddr) {
        self.attempts += 1;
        self.endpoint = Some(endpoint);
    }

    /// Where it was tried last.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        self.endpoint
    }

    /// How it is answered.
    pub fn status(&mut self, status: StatusCode) {
        self.worker.counters.count_response(status);
        self.status = Some(status);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.worker.count(Counter::Abandoned);
        }
        if let Some(way) = self.way.take() {
            self.worker.counters.requests.count(way, self.status, self.started.elapsed());
        }
        let Some(line) = &mut self.line else { return };
        line.status = self.status.map_or(0, |status| status.as_u16());
        (line.endpoint, line.attempts) = (self.endpoint, self.attempts);
        line.duration_ms = self.started.elapsed().as_secs_f64() * 1e3;
        if let Some(text) = text(line) {
            // A log that nobody reads any more must not stop requests.
            let _written = std::io::stderr().lock().write_all(text.as_bytes());
        }
    }
}

/// As it is written: a terminal that shows the log obeys none of it.
fn text(line: &Line) -> Option<String> {
    Some(harmless::json(&serde_json::to_string(line).ok()?) + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_was_asked_for_and_moves_no_cursor() {
        let path = "/\u{9b}2J\u{1b}[2J\u{202e}\n{\"status\":200}\u{7f}ß";
        let shown = text(&Line { path: path.to_owned(), ..Line::default() }).unwrap();
        assert!(harmless::is_harmless(&shown) && shown.lines().count() == 1, "{shown:?}");
        let value: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(value["path"], path);
    }
}
