//! Rows of the top-level table: who sees which VirtualService, which one wins, what happens without a match.

use super::*;

fn vs(name: &str, created_s: u32, hosts: &[&str], export_to: &[&str]) -> Arc<VirtualService> {
    let rule = json!({"name": name, "route": to(REVIEWS)});
    accept(name, created_s, json!({"hosts": hosts, "exportTo": export_to, "http": [rule]}))
}

#[test]
fn hosts() {
    for (case, host, want) in [
        ("short name by namespace", "reviews", "vs"),
        ("in full", REVIEWS, "vs"),
        ("upper case", "Reviews", "vs"),
        ("wildcard", "*.shop.svc.cluster.local", "vs"),
        ("another Service", "ratings", "service"),
        ("two labels are not short", "reviews.shop", "service"),
    ] {
        let routes = routes(vec![vs("vs", 0, &[host], &[])], Vec::new());
        assert_eq!(decide(&routes, &Pod::new(None, ""), "GET /"), want, "{case}");
    }
}

#[test]
fn gateways() {
    for (case, gateways, want) in [
        ("empty is mesh", json!([]), "http[0]"),
        ("mesh among others", json!(["istio/gw", "mesh"]), "http[0]"),
        ("gateway only", json!(["gw"]), "service"),
    ] {
        let spec = json!({"hosts": ["reviews"], "gateways": gateways, "http": [{"route": to("reviews")}]});
        let routes = routes(vec![accept("vs", 0, spec)], Vec::new());
        assert_eq!(decide(&routes, &Pod::new(None, ""), "GET /"), want, "{case}");
    }
}

#[test]
fn several_virtual_services_for_one_host() {
    let public = |name, created_s| vs(name, created_s, &[REVIEWS], &[]);
    for (case, objects, namespace, want) in [
        ("oldest", vec![public("b", 1), public("a", 2)], Some("web"), "b"),
        ("same age: by name", vec![public("b", 1), public("a", 1)], Some("web"), "a"),
        ("same age and name: by namespace", vec![public("b/x", 1), public("a/x", 1)], Some("web"), "a/x"),
        (
            "private before older public",
            vec![public("a", 1), vs("web/own", 2, &[REVIEWS], &["."])],
            Some("web"),
            "web/own",
        ),
        (
            "private is not seen elsewhere",
            vec![public("a", 2), vs("web/own", 1, &[REVIEWS], &["."])],
            Some("shop"),
            "a",
        ),
        (
            "exported before older public",
            vec![public("a", 1), vs("b", 2, &[REVIEWS], &["web"])],
            Some("web"),
            "b",
        ),
        (
            "private before older exported",
            vec![vs("b", 1, &[REVIEWS], &["web"]), vs("web/own", 2, &[REVIEWS], &["."])],
            Some("web"),
            "web/own",
        ),
        (
            "no namespace sees public only",
            vec![public("a", 2), vs("b", 1, &[REVIEWS], &["web", "."])],
            None,
            "a",
        ),
        ("exported to nobody", vec![vs("a", 1, &[REVIEWS], &["~"])], Some("shop"), "service"),
        ("exact before older wildcard", vec![vs("a", 1, &["*.local"], &[]), public("b", 2)], None, "b"),
        (
            "longer wildcard first",
            vec![vs("a", 1, &["*.local"], &[]), vs("b", 2, &["*.cluster.local"], &[])],
            None,
            "b",
        ),
        (
            "exact before private wildcard",
            vec![vs("web/a", 1, &["*.local"], &["."]), public("b", 2)],
            Some("web"),
            "b",
        ),
    ] {
        let routes = routes(objects, Vec::new());
        assert_eq!(decide(&routes, &Pod::new(namespace, ""), "GET /"), want, "{case}");
    }
}

#[test]
fn losers_are_told_who_won() {
    let public = |name, created_s| vs(name, created_s, &[REVIEWS], &[]);
    for (case, objects, want) in [
        ("alone", vec![public("a", 1)], json!({})),
        (
            "two",
            vec![public("a", 1), public("b", 2)],
            json!({"shop/b": [format!("spec.hosts: {REVIEWS} is superseded by VirtualService shop/a")]}),
        ),
        (
            "for some clients",
            vec![public("a", 1), vs("web/own", 2, &[REVIEWS], &["."])],
            json!({"shop/a": [format!(
                "spec.hosts: {REVIEWS} is superseded by VirtualService web/own for clients of web"
            )]}),
        ),
        (
            "for different clients",
            vec![vs("api/a", 1, &[REVIEWS], &["."]), vs("web/b", 2, &[REVIEWS], &["."])],
            json!({}),
        ),
    ] {
        let set = RuleSet::new(Mesh::default(), objects, Vec::new());
        assert_eq!(json!(findings(&set)), want, "{case}");
    }
    let set = RuleSet::new(Mesh::default(), vec![public("a", 1), public("b", 2)], Vec::new());
    let lost = set.superseded();
    assert_eq!(lost.len(), 1);
    assert_eq!((lost[0].winner.to_string(), &lost[0].for_namespaces), ("shop/a".to_owned(), &None));
    assert_eq!(set.superseded_by(&lost[0].loser), Some(lost[0].winner.clone()));
    assert_eq!(set.superseded_by(&lost[0].winner), None);
    let explained = explain(
        &set.routes(REVIEWS, 80, &known()),
        &Pod::new(None, "").client(),
        &Request::new("GET /").view(),
    );
    assert_eq!(explained.skipped[0].rule, "VirtualService shop/b");
    assert_eq!(explained.skipped[0].reason, "superseded by shop/a, which is older");
}

#[test]
fn no_match() {
    let on_port = |port: u16, uri: &str| {
        let entry = json!({"port": port, "uri": {"prefix": uri}});
        json!({"match": [entry], "route": to("reviews")})
    };
    for (case, rules, want) in [
        ("no rule survives", json!([on_port(8080, "/")]), "service"),
        ("one survives and does not match", json!([on_port(8080, "/"), on_port(80, "/x")]), "404"),
        ("one survives and matches", json!([on_port(8080, "/"), on_port(80, "/")]), "http[1]"),
    ] {
        assert_eq!(decide(&http_routes(rules), &Pod::new(None, ""), "GET /a"), want, "{case}");
    }
    let routes = routes(Vec::new(), Vec::new());
    assert_eq!(decide(&routes, &Pod::new(None, ""), "GET /a"), "service", "no VirtualService");
    assert!(!routes.has_http());
    assert!(!http_routes(json!([on_port(8080, "/")])).has_http());
}

#[test]
fn destinations() {
    let subset =
        accept_rule("dr", json!({"host": "reviews", "subsets": [{"name": "v1", "labels": {"v": "1"}}]}));
    for (case, destination, want) in [
        ("short name", json!({"host": "reviews"}), (80, TargetState::Ready)),
        ("only port of the Service", json!({"host": REVIEWS}), (80, TargetState::Ready)),
        ("port addressed", json!({"host": "ratings"}), (80, TargetState::Ready)),
        ("port named", json!({"host": "ratings", "port": {"number": 8080}}), (8080, TargetState::Ready)),
        ("no such port", json!({"host": "ratings", "port": {"number": 81}}), (81, TargetState::UnknownPort)),
        ("no such Service", json!({"host": "nobody"}), (80, TargetState::UnknownService)),
        ("subset", json!({"host": "reviews", "subset": "v1"}), (80, TargetState::Ready)),
        ("no such subset", json!({"host": "reviews", "subset": "v2"}), (80, TargetState::UnknownSubset)),
        (
            "no rule for the host",
            json!({"host": "ratings", "subset": "v1"}),
            (80, TargetState::UnknownSubset),
        ),
    ] {
        let spec = json!({"hosts": ["reviews"], "http": [{"route": [{"destination": destination}]}]});
        let routes = routes(vec![accept("vs", 0, spec)], vec![subset.clone()]);
        let client_routes = routes.for_client(&Pod::new(None, "").client());
        let request = Request::new("GET /");
        let Selection::Rule(selected) = client_routes.select(&request.view()) else { panic!("{case}") };
        let (_, target) = selected.pick(0).unwrap();
        assert_eq!((target.port, target.state), want, "{case}");
    }
}

#[test]
fn a_table_that_is_the_same_for_all_clients() {
    let public = |name| vs(name, 0, &[REVIEWS], &[]);
    let entry = |entry: Value| {
        let rule = json!({"match": [entry], "route": to(REVIEWS)});
        accept("vs", 0, json!({"hosts": [REVIEWS], "http": [rule]}))
    };
    let rule = |name: &str, export: &str| accept_rule(name, json!({"host": REVIEWS, "exportTo": [export]}));
    for (case, objects, rules, want) in [
        ("nothing", vec![], vec![], true),
        ("one public object", vec![public("a")], vec![], true),
        ("two public objects", vec![public("a"), public("b")], vec![], true),
        ("a private object", vec![public("a"), vs("web/b", 0, &[REVIEWS], &["."])], vec![], false),
        ("a port", vec![entry(json!({"port": 80}))], vec![], true),
        ("a label", vec![entry(json!({"sourceLabels": {"a": "b"}}))], vec![], false),
        ("a namespace", vec![entry(json!({"sourceNamespace": "web"}))], vec![], false),
        ("a public policy", vec![], vec![rule("a", "*")], true),
        ("a private policy", vec![], vec![rule("a", ".")], false),
        ("a policy of another namespace", vec![], vec![rule("web/a", "*")], false),
        ("policies of two namespaces", vec![], vec![rule("a", "*"), rule("istio-system/a", "*")], false),
    ] {
        assert_eq!(routes(objects, rules).is_same_for_all(), want, "{case}");
    }
}
