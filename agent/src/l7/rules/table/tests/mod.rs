//! Tables for rules, from JSON to the decision; this file has only what the tables share.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::super::{Client, Labels, RequestView, hosts::Mesh};
use super::*;

mod delegates;
mod endpoints;
mod fuzz;
mod hostile;
mod index;
mod l4;
mod matching;
mod policies;
mod refused;
mod selection;
mod unserved;
mod walk;
mod warnings;

/// A VirtualService `shop/name`, as old as `created_s` seconds of one minute.
pub(crate) fn read(name: &str, created_s: u32, spec: Value) -> Read<VirtualService> {
    let (namespace, name) = name.split_once('/').unwrap_or(("shop", name));
    let object = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "creationTimestamp": format!("2026-08-01T10:00:{created_s:02}Z"),
        },
        "spec": spec,
    });
    read_virtual_service(&object, &Mesh::default())
}

/// The same, which must be accepted.
pub(crate) fn accept(name: &str, created_s: u32, spec: Value) -> Arc<VirtualService> {
    let read = read(name, created_s, spec);
    read.value.unwrap_or_else(|| panic!("{name}: {:?}", read.messages))
}

/// A DestinationRule `namespace/name`.
pub(crate) fn read_rule(name: &str, annotations: Value, spec: Value) -> Read<DestinationRule> {
    let (namespace, name) = name.split_once('/').unwrap_or(("shop", name));
    let object = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
        "spec": spec,
    });
    read_destination_rule(&object, &Mesh::default())
}

/// The same, which must be accepted.
pub(crate) fn accept_rule(name: &str, spec: Value) -> Arc<DestinationRule> {
    let read = read_rule(name, json!({}), spec);
    read.value.unwrap_or_else(|| panic!("{name}: {:?}", read.messages))
}

/// Services that all tables know: reviews (80), ratings (80 and 8080), both in shop.
pub(crate) fn known() -> KnownServices {
    let service = |ports: &[u16]| KnownService { namespace: "shop".to_owned(), ports: ports.to_vec() };
    [("reviews", service(&[80])), ("ratings", service(&[80, 8080]))]
        .into_iter()
        .map(|(name, service)| (format!("{name}.shop.svc.cluster.local"), service))
        .collect()
}

pub(crate) const REVIEWS: &str = "reviews.shop.svc.cluster.local";

pub(crate) fn routes(objects: Vec<Arc<VirtualService>>, rules: Vec<Arc<DestinationRule>>) -> Routes {
    RuleSet::new(Mesh::default(), objects, rules).routes(REVIEWS, 80, &known())
}

/// A table with one VirtualService for reviews that has these HTTP rules.
pub(crate) fn http_routes(rules: Value) -> Routes {
    routes(vec![accept("vs", 0, json!({"hosts": ["reviews"], "http": rules}))], Vec::new())
}

/// Where a rule sends requests, in most tables.
pub(crate) fn to(host: &str) -> Value {
    json!([{"destination": {"host": host}}])
}

/// A client: pod of a namespace with labels like `a=b,c=d`.
pub(crate) struct Pod {
    namespace: Option<&'static str>,
    labels: Labels,
}

impl Pod {
    pub(crate) fn new(namespace: Option<&'static str>, labels: &str) -> Self {
        let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
        Self { namespace, labels: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect() }
    }

    pub(crate) fn client(&self) -> Client<'_> {
        Client { namespace: self.namespace, labels: &self.labels, dialled: None }
    }
}

/// A request, written as `GET http://reviews/path?query` and `Name: value` lines.
pub(crate) struct Request {
    method: String,
    scheme: String,
    authority: String,
    path: String,
    query: Option<String>,
    pub(crate) headers: HeaderMap,
}

impl Request {
    pub(crate) fn new(text: &str) -> Self {
        let mut lines = text.lines();
        let (method, url) = lines.next().unwrap().split_once(' ').unwrap();
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let (authority, target) = rest.split_at(rest.find('/').unwrap());
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let header = |line: &str| {
            let (name, value) = line.split_once(':').unwrap();
            (HeaderName::try_from(name.trim()).unwrap(), HeaderValue::from_str(value.trim()).unwrap())
        };
        let mut headers = HeaderMap::new();
        for (name, value) in lines.map(header) {
            headers.append(name, value);
        }
        Self {
            method: method.to_owned(),
            scheme: scheme.to_owned(),
            authority: if authority.is_empty() { "reviews".to_owned() } else { authority.to_owned() },
            path: path.to_owned(),
            query: query.map(str::to_owned),
            headers,
        }
    }

    pub(crate) fn view(&self) -> RequestView<'_> {
        RequestView {
            method: &self.method,
            scheme: &self.scheme,
            authority: &self.authority,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
            work: None,
        }
    }
}

/// The decision in one word: a rule's name, `404`, or `service`.
pub(crate) fn decide(routes: &Routes, pod: &Pod, request: &str) -> String {
    let request = Request::new(request);
    let client_routes = routes.for_client(&pod.client());
    let decision = match client_routes.select(&request.view()) {
        Selection::Service(_) => "service".to_owned(),
        Selection::NotFound => "404".to_owned(),
        Selection::Spent => "spent".to_owned(),
        Selection::Rule(selected) => selected.label(),
    };
    // What explains must agree with what selects.
    let explained = explain(routes, &pod.client(), &request.view());
    match &explained.verdict {
        Verdict::Service => assert_eq!(decision, "service"),
        Verdict::NotFound => assert_eq!(decision, "404"),
        Verdict::Rule { name, .. } => assert!(decision.starts_with(name.as_str())),
    }
    decision
}

pub(crate) fn texts(messages: &[super::super::Message]) -> Vec<String> {
    messages.iter().map(ToString::to_string).collect()
}

pub(crate) fn findings(set: &RuleSet) -> BTreeMap<String, Vec<String>> {
    let report = set.report(&known(), &Scope::Cluster).into_iter();
    report.map(|((_, name), messages)| (name.to_string(), texts(&messages))).collect()
}
