//! Tables for actions, each through an object and a request; this file has only what the tables share.

use http::HeaderMap;
use serde_json::{Value, json};

use super::super::table::{
    ClientRoutes, Selected, Selection,
    tests::{Pod, Request, http_routes, read, to},
};
use super::*;

mod answers;
mod headers;
mod retries;
mod traffic;

/// The routes of one rule: `fields` laid over a plain one.
fn routes(fields: &Value) -> ClientRoutes {
    let mut rule = json!({"route": to("reviews")});
    for (key, value) in fields.as_object().unwrap() {
        rule[key] = value.clone();
    }
    http_routes(json!([rule])).for_client(&Pod::new(Some("shop"), "").client())
}

/// The rule that takes `request`.
fn selected<'a>(routes: &'a ClientRoutes, request: &Request) -> Selected<'a> {
    match routes.select(&request.view()) {
        Selection::Rule(selected) => selected,
        Selection::Service(_) | Selection::NotFound | Selection::Spent => panic!("no rule"),
    }
}

/// Headers as `name: value` lines, in the order of names.
fn lines(headers: &HeaderMap) -> String {
    let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        format!("{name}: {}", value.to_str().unwrap())
    };
    let mut lines: Vec<_> = headers.iter().map(line).collect();
    lines.sort_by(|a, b| a.split(':').next().cmp(&b.split(':').next()));
    lines.join("\n")
}

/// A draw that falls on `percent` of all draws.
fn draw(percent: f64) -> u32 {
    (percent / 100.0 * f64::from(u32::MAX)) as u32
}
