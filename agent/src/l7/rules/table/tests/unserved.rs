//! Rows of rules that have no effect on the cluster that there is.

use super::{super::super::protocol::Speech, *};

/// reviews: 80 (HTTP), 443 (TLS), 9000 (TCP), 7000 (nothing declared); plain: 9000 (TCP); and two that have no address.
fn hosts() -> Hosts {
    let host = |name: &str, steering, ports: &[(u16, Option<Speech>)]| {
        (format!("{name}.shop.svc.cluster.local"), Host { steering, ports: ports.to_vec() })
    };
    let several =
        [(80, Some(Speech::Http)), (443, Some(Speech::Tls)), (9000, Some(Speech::Tcp)), (7000, None)];
    let (http, tcp) = ((80, Some(Speech::Http)), (9000, Some(Speech::Tcp)));
    [
        host("reviews", Steering::ByAddress, &several),
        host("web", Steering::ByAddress, &[http]),
        host("plain", Steering::ByAddress, &[tcp]),
        host("search", Steering::Headless, &[http]),
        host("outside", Steering::ExternalName, &[http]),
    ]
    .into()
}

fn told(spec: Value, scope: &Scope) -> Vec<String> {
    let set = RuleSet::new(Mesh::default(), vec![accept("vs", 0, spec)], Vec::new());
    set.unserved(&hosts(), scope).into_values().flat_map(|messages| texts(&messages)).collect()
}

#[test]
fn hosts_that_rules_cannot_hold_for() {
    let shop = Scope::Namespaces(["shop".to_owned()].into());
    let other = Scope::Namespaces(["other".to_owned()].into());
    let missing =
        "spec.hosts[0]: there is no Service nobody.shop.svc.cluster.local: the rules do nothing for it";
    let outside = "spec.hosts[0]: api.example.com is no Service of the cluster: rules hold for what clients dial by a Service's address";
    let wild = "spec.hosts[0]: no Service has a host like *.example.com: the rules do nothing for it";
    let cluster = &Scope::Cluster;
    for (case, hosts, scope, want) in [
        ("a Service", json!(["reviews"]), cluster, ""),
        ("no Service", json!(["nobody"]), cluster, missing),
        ("no Service, of a namespace that is known", json!(["nobody"]), &shop, missing),
        ("no Service, as far as is known", json!(["nobody"]), &other, ""),
        ("outside", json!(["api.example.com"]), cluster, outside),
        ("outside, whatever is known", json!(["api.example.com"]), &other, outside),
        ("wildcard", json!(["*.shop.svc.cluster.local"]), cluster, ""),
        ("wildcard of nobody", json!(["*.example.com"]), cluster, wild),
        ("wildcard of what is not known", json!(["*.local"]), &other, ""),
        (
            "headless, the second of two",
            json!(["web", "search"]),
            cluster,
            "spec.hosts[1]: Service search.shop.svc.cluster.local is headless: clients dial its pods, past the rules; give it a cluster IP",
        ),
        (
            "a name",
            json!(["outside"]),
            cluster,
            "spec.hosts[0]: Service outside.shop.svc.cluster.local has no address of its own, for externalName: clients dial past the rules",
        ),
    ] {
        let spec = json!({"hosts": hosts, "http": [{"route": to("reviews")}]});
        assert_eq!(told(spec, scope).join("\n"), want, "{case}");
    }
    let tls = |hosts: Value| {
        let route = json!([{"match": [{"sniHosts": ["a.example.com"]}], "route": to("reviews")}]);
        told(json!({"hosts": hosts, "tls": route}), cluster).len()
    };
    assert_eq!(tls(json!(["reviews", "*.example.com"])), 0, "a server name beside a Service");
    assert_eq!(tls(json!(["*.example.com"])), 1, "a server name alone");
    assert_eq!(
        tls(json!(["reviews", "*.example.com", "b.org"])),
        1,
        "one that is no server name of the rules"
    );
    let gateway = json!({"hosts": ["nobody"], "gateways": ["gw"], "http": [{"route": to("reviews")}]});
    assert_eq!(told(gateway, cluster), Vec::<String>::new(), "only for a gateway");
}

#[test]
fn ports_that_speak_something_else() {
    let route = || to("reviews");
    let at = |port: u16| json!([{"match": [{"port": port}], "route": route()}]);
    let tls = |port: Value| json!([{"match": [{"port": port, "sniHosts": ["reviews"]}], "route": route()}]);
    let says = |path: &str, port: &str, host: &str, list: &str| {
        let (port, speech) = port.split_once(' ').unwrap();
        format!(
            "spec.{path}: port {port} of Service {host}.shop.svc.cluster.local is declared {speech} (by appProtocol, its name \
             or number): rules of {list} do not hold there"
        )
    };
    let no = String::new;
    for (case, hosts, list, rules, want) in [
        ("one port of several", "reviews", "http", json!([{"route": route()}]), no()),
        ("http on HTTP", "reviews", "http", at(80), no()),
        ("http on nothing declared", "reviews", "http", at(7000), no()),
        (
            "http on TCP",
            "reviews",
            "http",
            at(9000),
            says("http[0].match[0].port", "9000 TCP", "reviews", "http"),
        ),
        (
            "http on TLS",
            "reviews",
            "http",
            at(443),
            says("http[0].match[0].port", "443 TLS", "reviews", "http"),
        ),
        ("tcp on HTTP", "reviews", "tcp", at(80), says("tcp[0].match[0].port", "80 HTTP", "reviews", "tcp")),
        ("tcp on TCP", "reviews", "tcp", at(9000), no()),
        (
            "tls on TCP",
            "reviews",
            "tls",
            tls(json!(9000)),
            says("tls[0].match[0].port", "9000 TCP", "reviews", "tls"),
        ),
        ("tls on TLS", "reviews", "tls", tls(json!(443)), no()),
        (
            "no port named, and none fits",
            "plain",
            "http",
            json!([{"route": route()}]),
            says("http[0]", "9000 TCP", "plain", "http"),
        ),
        (
            "tcp, no port named, and none fits",
            "web",
            "tcp",
            json!([{"route": route()}]),
            says("tcp[0]", "80 HTTP", "web", "tcp"),
        ),
        (
            "no such port",
            "web",
            "http",
            at(81),
            "spec.http[0].match[0].port: no Service of these hosts has TCP port 81: this does nothing"
                .to_owned(),
        ),
    ] {
        assert_eq!(told(json!({"hosts": [hosts], list: rules}), &Scope::Cluster).join("\n"), want, "{case}");
    }
}

#[test]
fn a_delegates_rule_is_told_of_at_the_delegate() {
    let root = json!({"hosts": ["reviews"], "http": [{"delegate": {"name": "leaf"}}]});
    let leaf = json!({"http": [{"match": [{"port": 9000}], "route": to("reviews")}]});
    let set =
        RuleSet::new(Mesh::default(), vec![accept("root", 0, root), accept("leaf", 0, leaf)], Vec::new());
    let found = set.unserved(&hosts(), &Scope::Cluster);
    let names: Vec<_> = found.keys().map(|(_, name)| name.to_string()).collect();
    assert_eq!(names, ["shop/leaf"]);
    assert!(found.values().flatten().all(|message| message.path == "spec.http[0]"), "{found:?}");
}
