//! `sluice route`: the ports that rules hold for, and the compiled table of each.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
};

use anyhow::Result;
use serde::Serialize;

use super::{Reading, output, request::snapshot};
use crate::l7::{
    rules::{
        hosts::Mesh,
        protocol::declared,
        table::{self, KnownService, Line, RuleSet},
    },
    snapshot::{Port, Service, Snapshot},
};

/// One port.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PortRow {
    service: String,
    port: u16,
    /// `redirector`, or `kernel` for one that the kernel splits.
    path: &'static str,
    frontends: Vec<SocketAddr>,
    endpoints: usize,
    virtual_services: Vec<String>,
    http: bool,
    tls: bool,
    tcp: bool,
    rules: Vec<RuleRow>,
}

/// One rule and one of its matches.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RuleRow {
    virtual_service: String,
    /// Namespaces of the clients that it is for, where it is not for all.
    clients: Option<BTreeSet<String>>,
    name: String,
    place: String,
    /// All of which must hold.
    r#match: Vec<String>,
    /// What the rule answers by itself.
    answer: Option<String>,
    destinations: Vec<DestinationRow>,
    /// Faults, mirrors, rewrites, limits of time.
    also: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DestinationRow {
    name: String,
    weight: u32,
    /// Why its share is answered 503, or refused.
    fault: Option<&'static str>,
}

/// Prints the table.
pub fn route(reading: &Reading, run_dir: &Path) -> Result<()> {
    let rows = rows(&snapshot(run_dir)?);
    output::print(reading.output, &rows, || {
        let lines: Vec<[String; 7]> = rows.iter().flat_map(lines).collect();
        output::table(["SERVICE", "PORT", "BY", "VIRTUALSERVICE", "RULE", "MATCH", "THEN"], &lines)
    })
}

/// Every port that rules hold for, and those that are balanced request by request without any.
fn rows(snapshot: &Snapshot) -> Vec<PortRow> {
    let mesh = Mesh { domain: snapshot.domain.clone(), ..Mesh::default() };
    let read = |object| table::read_virtual_service(object, &mesh).value;
    let accepted: Vec<_> = snapshot.virtual_services.iter().filter_map(read).collect();
    let read = |object| table::read_destination_rule(object, &mesh).value;
    let policies = snapshot.destination_rules.iter().filter_map(read).collect();
    let set = RuleSet::new(mesh.clone(), accepted.clone(), policies);
    let host = |service: &Service| mesh.resolve(&service.name, &service.namespace);
    let known = snapshot.services.iter().map(|service| {
        let ports = service.ports.iter().map(|port| port.port).collect();
        (host(service), KnownService { namespace: service.namespace.clone(), ports })
    });
    let known: BTreeMap<String, KnownService> = known.collect();
    let row = |name: String, host: String, number: u16, port: Option<&Port>| {
        let routes = set.routes(&host, number, &known);
        let speech = port.and_then(|port| declared(number, &port.name, port.app_protocol.as_deref()));
        let lines = routes.lines().into_iter().filter(|line| line.list.fits(speech));
        let owners =
            accepted.iter().filter(|one| one.hosts.iter().any(|own| own.specificity(&host).is_some()));
        PortRow {
            service: name,
            port: number,
            path: if port.is_some() { "redirector" } else { "kernel" },
            frontends: port
                .map_or_else(Vec::new, |port| port.frontends.iter().chain(&port.led).copied().collect()),
            endpoints: port.map_or(0, |port| port.endpoints.len()),
            virtual_services: owners.map(|one| one.meta.name.to_string()).collect(),
            http: routes.has_http(),
            tls: routes.has_tls(),
            tcp: routes.has_tcp(),
            rules: lines.map(rule).collect(),
        }
    };
    let mut rows = Vec::new();
    for service in &snapshot.services {
        let name = format!("{}/{}", service.namespace, service.name);
        for port in service.ports.iter().filter(|port| !port.frontends.is_empty()) {
            rows.push(row(name.clone(), host(service), port.port, Some(port)));
        }
    }
    for split in &snapshot.splits {
        let host = mesh.resolve(&split.name, &split.namespace);
        let mut port = row(format!("{}/{}", split.namespace, split.name), host, split.port, None);
        // The kernel knows one rule; what it splits is the same for all clients.
        let is_it = |rule: &RuleRow| rule.place.split('.').next() == Some(split.split.place.as_str());
        port.rules.retain(is_it);
        rows.push(port);
    }
    rows.sort_by(|one, other| (&one.service, one.port).cmp(&(&other.service, other.port)));
    rows
}

fn rule(line: Line) -> RuleRow {
    let destination =
        |share: table::Share| DestinationRow { name: share.name, weight: share.weight, fault: share.fault };
    RuleRow {
        virtual_service: line.virtual_service.to_string(),
        clients: line.clients,
        name: line.rule,
        place: line.place,
        r#match: line.conditions,
        answer: line.answer,
        destinations: line.destinations.into_iter().map(destination).collect(),
        also: line.also,
    }
}

fn lines(port: &PortRow) -> Vec<[String; 7]> {
    let [service, number, path] = [port.service.clone(), port.port.to_string(), port.path.to_owned()];
    let line = |rule: &RuleRow| {
        let clients = rule
            .clients
            .iter()
            .map(|names| format!(" for {}", names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")));
        let own_name = !rule.place.starts_with(&rule.name);
        let conditions = rule.r#match.join(", ");
        [
            service.clone(),
            number.clone(),
            path.clone(),
            format!("{}{}", rule.virtual_service, clients.collect::<String>()),
            if own_name { format!("{} ({})", rule.place, rule.name) } else { rule.place.clone() },
            if conditions.is_empty() { "everything".to_owned() } else { conditions },
            then(rule),
        ]
    };
    if port.rules.is_empty() {
        let none = || "–".to_owned();
        return vec![[
            service,
            number,
            path,
            none(),
            none(),
            none(),
            "balanced request by request".to_owned(),
        ]];
    }
    port.rules.iter().map(line).collect()
}

fn then(rule: &RuleRow) -> String {
    let total: f64 = rule.destinations.iter().map(|to| f64::from(to.weight)).sum();
    let destination = |to: &DestinationRow| {
        let share = f64::from(to.weight) * 100.0 / total.max(1.0);
        let fault = to.fault.map_or(String::new(), |fault| format!(" ({fault})"));
        format!("{share:.0} % {}{fault}", to.name)
    };
    let parts = rule.answer.iter().cloned().chain(rule.destinations.iter().map(destination));
    parts.chain(rule.also.iter().cloned()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(kind: &str, name: &str, spec: Value) -> Value {
        json!({"apiVersion": "networking.istio.io/v1", "kind": kind,
            "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
    }

    fn snapshot() -> Snapshot {
        let to = |host: &str, subset: Value, weight: u32| json!({"destination": {"host": host, "subset": subset}, "weight": weight});
        let http = json!([
            {"match": [{"uri": {"exact": "/old"}}], "redirect": {"uri": "/new", "redirectCode": 302}},
            {"name": "testers", "match": [
                {"headers": {"end-user": {"exact": "jason"}}, "sourceLabels": {"app": "web"}},
                {"port": 81},
                {"method": {"exact": "PUT"}, "port": 80},
            ], "fault": {"abort": {"httpStatus": 418, "percentage": {"value": 0.5}}},
                "route": [to("reviews", json!("v1"), 1)]},
            {"route": [to("reviews", json!("v1"), 80), to("reviews", json!("v9"), 20)],
                "mirror": {"host": "nobody"}, "timeout": "2s"},
        ]);
        let rules = object("VirtualService", "reviews", json!({"hosts": ["reviews"], "http": http}));
        let own = object(
            "VirtualService",
            "own",
            json!({"hosts": ["reviews"], "exportTo": ["team"],
            "http": [{"directResponse": {"status": 503}}]}),
        );
        let db = object(
            "VirtualService",
            "db",
            json!({"hosts": ["db"], "tcp": [
            {"match": [{"port": 5432}], "route": [to("db", json!(null), 3), to("reviews", json!(null), 1)]}]}),
        );
        let subsets = json!([{"name": "v1", "labels": {"version": "v1"}}]);
        let policy = object("DestinationRule", "reviews", json!({"host": "reviews", "subsets": subsets}));
        let port = |number: u16, front: Value| json!({"name": "", "port": number, "frontends": front});
        let service = |name: &str, port: Value| json!({"namespace": "shop", "name": name, "ports": [port]});
        let shares = json!([]);
        let snapshot = json!({
            "domain": "cluster.local",
            "services": [
                service("reviews", port(80, json!(["10.96.0.1:80"]))),
                service("stream", port(80, json!(["10.96.0.2:80"]))),
                service("db", port(5432, json!([]))),
            ],
            "virtualServices": [rules, own, db],
            "destinationRules": [policy],
            "splits": [{"namespace": "shop", "name": "db", "port": 5432,
                "split": {"virtualService": "shop/db", "place": "tcp[0]", "shares": shares}}],
        });
        serde_json::from_value(snapshot).unwrap()
    }

    #[test]
    fn one_line_for_each_rule_and_match() {
        let rows = rows(&snapshot());
        let printed: Vec<String> = rows.iter().flat_map(lines).map(|line| line.join(" | ")).collect();
        let host = "reviews.shop.svc.cluster.local:80";
        let want = [
            format!("shop/db | 5432 | kernel | shop/db | tcp[0].match[0] | everything | 75 % db.shop.svc.cluster.local:5432; 25 % {host}"),
            "shop/reviews | 80 | redirector | shop/own for team | http[0] | everything | answers 503".to_owned(),
            "shop/reviews | 80 | redirector | shop/reviews | http[0].match[0] | uri exact \"/old\" | redirects with 302 to the same host, path /new".to_owned(),
            format!("shop/reviews | 80 | redirector | shop/reviews | http[1].match[0] (testers) | from pods with app=web, header \"end-user\" exact \"jason\" | 100 % {host} subset v1; aborts 0.5 % with 418"),
            format!("shop/reviews | 80 | redirector | shop/reviews | http[1].match[2] (testers) | method exact \"PUT\" | 100 % {host} subset v1; aborts 0.5 % with 418"),
            format!("shop/reviews | 80 | redirector | shop/reviews | http[2] | everything | 80 % {host} subset v1; 20 % {host} subset v9 (no DestinationRule has this subset); mirrors 100 % to nobody.shop.svc.cluster.local:80; within 2s"),
            "shop/stream | 80 | redirector | – | – | – | balanced request by request".to_owned(),
        ];
        assert_eq!(printed, want);
    }

    #[test]
    fn keys_for_scripts() {
        let json = serde_json::to_value(rows(&snapshot())).unwrap();
        let rule = &json[1]["rules"][4];
        assert_eq!(rule["virtualService"], "shop/reviews", "{rule}");
        assert_eq!(rule["destinations"][1]["weight"], 20);
        assert_eq!((&json[1]["http"], &json[0]["path"]), (&json!(true), &json!("kernel")));
    }
}
