//! Whether the kernel alone can do what the rules of a port ask for, and what it then does. Pure.

use std::collections::BTreeMap;

use super::rules::{
    Client, SimpleBalancer, TlsMode,
    table::{Policy, Routes, Target, TargetState},
};
use crate::model::{ObjectName, Share, SharePort, Split};

/// Who serves a port that has rules of `tcp` and nothing else that concerns it.
pub enum Served {
    /// The kernel, as without rules: none of them holds.
    Plainly,
    /// The kernel, by weight.
    Split(Split),
    /// The redirector: the rules tell clients apart, or a DestinationRule asks for what the kernel cannot do.
    Redirector,
}

/// Decides for `routes`; `services` are those that have endpoints of their own, by host.
pub fn served(routes: &Routes, services: &BTreeMap<String, ObjectName>) -> Served {
    if !routes.is_same_for_all() {
        return Served::Redirector;
    }
    let client = routes.for_client(&Client::UNKNOWN);
    let Some(rule) = client.select_tcp() else { return Served::Plainly };
    let weights = rule.rule.weights.as_slice();
    let wanted = || weights.iter().zip(&rule.destinations).filter(|(weight, _)| **weight > 0);
    let by_kernel = |target: &Target| {
        // What does not exist is refused by either; what has no endpoints of its own is a name to be resolved.
        target.state != TargetState::Ready
            || (services.contains_key(&*target.host) && is_simple(target.policy.as_deref()))
    };
    if !wanted().all(|(_, target)| by_kernel(target)) {
        return Served::Redirector;
    }
    let share = |(weight, target): (&u32, &Target)| {
        let subset = target.subset.as_deref().map_or(String::new(), |subset| format!(" subset {subset}"));
        let service = services.get(&*target.host).filter(|_| target.state == TargetState::Ready);
        let to = service.map(|service| SharePort {
            namespace: service.namespace.clone(),
            service: service.name.clone(),
            port: target.port,
            labels: target.policy.as_ref().map_or_else(BTreeMap::new, |policy| policy.labels.clone()),
        });
        Share { name: format!("{}:{}{subset}", target.host, target.port), weight: *weight, to }
    };
    Served::Split(Split {
        virtual_service: rule.rule.virtual_service.to_string(),
        place: rule.rule.place.to_string(),
        shares: wanted().map(share).collect(),
    })
}

/// Whether all that `policy` asks for is a choice at random, which is the kernel's.
fn is_simple(policy: Option<&Policy>) -> bool {
    let Some(traffic) = policy.map(|policy| &policy.traffic) else { return true };
    let at_random = traffic.load_balancer.as_ref().is_none_or(|balancer| {
        let simple = match balancer.simple {
            None
            | Some(SimpleBalancer::Unspecified | SimpleBalancer::Random | SimpleBalancer::Passthrough) => {
                true
            }
            Some(SimpleBalancer::LeastRequest | SimpleBalancer::LeastConn | SimpleBalancer::RoundRobin) => {
                false
            }
        };
        simple && balancer.consistent_hash.is_none()
    });
    let unlimited = traffic.connection_pool.as_ref().is_none_or(|pool| pool.tcp.is_none());
    let plain = traffic.tls.as_ref().is_none_or(|tls| tls.mode == TlsMode::Disable);
    at_random && unlimited && plain && traffic.outlier_detection.is_none() && traffic.proxy_protocol.is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::l7::rules::{
        hosts::Mesh,
        table::{KnownService, KnownServices, RuleSet, read_destination_rule, read_virtual_service},
    };

    const DB: &str = "db.shop.svc.cluster.local";

    fn decide(tcp: &Value, traffic: &Value) -> Served {
        let object = |kind: &str, spec: Value| {
            json!({"apiVersion": "networking.istio.io/v1", "kind": kind,
                "metadata": {"name": "db", "namespace": "shop"}, "spec": spec})
        };
        let mesh = Mesh::default();
        let rules = object("VirtualService", json!({"hosts": ["db"], "tcp": tcp}));
        let subsets = json!([{"name": "v1", "labels": {"version": "v1"}}]);
        let rule =
            object("DestinationRule", json!({"host": "db", "subsets": subsets, "trafficPolicy": traffic}));
        let known: KnownServices = [DB, "outside.shop.svc.cluster.local"]
            .map(|host| (host.to_owned(), KnownService { namespace: "shop".to_owned(), ports: vec![5432] }))
            .into();
        let set = RuleSet::new(
            mesh.clone(),
            read_virtual_service(&rules, &mesh).value.into_iter().collect(),
            read_destination_rule(&rule, &mesh).value.into_iter().collect(),
        );
        let services = [(DB.to_owned(), ObjectName::new("shop", "db"))].into();
        served(&set.routes(DB, 5432, &known), &services)
    }

    #[test]
    fn the_kernel_takes_what_is_the_same_for_all_and_random() {
        let to = |host: &str| json!([{"destination": {"host": host}}]);
        let one = |entry: Value| json!([{"match": [entry], "route": to("db")}]);
        let plain = json!([{"route": to("db")}]);
        for (case, tcp, traffic, want) in [
            ("all", plain.clone(), json!({}), "split"),
            ("this port", one(json!({"port": 5432})), json!({}), "split"),
            ("another port", one(json!({"port": 1})), json!({}), "plain"),
            ("labels", one(json!({"sourceLabels": {"a": "b"}})), json!({}), "redirector"),
            ("namespace", one(json!({"sourceNamespace": "a"})), json!({}), "redirector"),
            ("subnets", one(json!({"destinationSubnets": ["10.0.0.0/8"]})), json!({}), "redirector"),
            ("random", plain.clone(), json!({"loadBalancer": {"simple": "RANDOM"}}), "split"),
            ("in turn", plain.clone(), json!({"loadBalancer": {"simple": "ROUND_ROBIN"}}), "redirector"),
            (
                "by client",
                plain.clone(),
                json!({"loadBalancer": {"consistentHash": {"useSourceIp": true}}}),
                "redirector",
            ),
            (
                "limits",
                plain.clone(),
                json!({"connectionPool": {"tcp": {"maxConnections": 1}}}),
                "redirector",
            ),
            ("http limits", plain.clone(), json!({"connectionPool": {"http": {"maxRetries": 1}}}), "split"),
            ("outliers", plain.clone(), json!({"outlierDetection": {}}), "redirector"),
            ("tls", plain.clone(), json!({"tls": {"mode": "SIMPLE"}}), "redirector"),
            ("no tls", plain, json!({"tls": {"mode": "DISABLE"}}), "split"),
            ("a name", json!([{"route": to("outside")}]), json!({}), "redirector"),
            ("nobody", json!([{"route": to("nobody")}]), json!({}), "split"),
        ] {
            let got = match decide(&tcp, &traffic) {
                Served::Plainly => "plain",
                Served::Split(_) => "split",
                Served::Redirector => "redirector",
            };
            assert_eq!(got, want, "{case}");
        }
    }

    #[test]
    fn destinations_and_weights() {
        let to = |host: &str, subset: Value, weight: u32| json!({"destination": {"host": host, "subset": subset}, "weight": weight});
        let tcp = json!([{"route": [to("db", json!("v1"), 80), to("db", json!("v9"), 15), to("nobody", json!(null), 5),
            to("db", json!(null), 0)]}]);
        let Served::Split(split) = decide(&tcp, &json!({})) else { panic!("no split") };
        assert_eq!((&*split.virtual_service, &*split.place), ("shop/db", "tcp[0]"));
        let rows: Vec<_> = split
            .shares
            .iter()
            .map(|share| (&*share.name, share.weight, share.to.as_ref().map(|to| to.labels.len())))
            .collect();
        assert_eq!(
            rows,
            [
                ("db.shop.svc.cluster.local:5432 subset v1", 80, Some(1)),
                ("db.shop.svc.cluster.local:5432 subset v9", 15, None),
                ("nobody.shop.svc.cluster.local:5432", 5, None),
            ]
        );
    }
}
