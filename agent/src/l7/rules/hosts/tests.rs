//! Tables for host names and visibility.

use super::*;

#[test]
fn a_short_name_is_a_service_of_the_namespace() {
    for (case, host, want) in [
        ("short", "Reviews", "reviews.shop.svc.cluster.local"),
        ("with a dot", "reviews.Prod", "reviews.prod"),
        ("star", "*", "*"),
        ("wildcard", "*.Foo.com", "*.foo.com"),
        ("address", "10.0.0.1", "10.0.0.1"),
        ("address of version 6", "fd00::1", "fd00::1"),
    ] {
        assert_eq!(Mesh::default().resolve(host, "shop"), want, "{case}");
    }
}

#[test]
fn an_exact_host_beats_a_wildcard_and_a_long_wildcard_a_short_one() {
    let host = "a.b.com";
    let rank = |pattern: &str| HostPattern::new(pattern).specificity(host);
    assert!(rank("a.b.com") > rank("*.b.com"));
    assert!(rank("*.b.com") > rank("*.com"));
    assert!(rank("*.com") > rank("*"));
    for other in ["b.com", "*.a.b.com", "*.a.com"] {
        assert_eq!(rank(other), None, "{other}");
    }
}

#[test]
fn hosts_overlap() {
    for (case, a, b, want) in [
        ("same", "a.com", "a.com", true),
        ("different", "a.com", "b.com", false),
        ("wildcards", "*.foo.com", "*.com", true),
        ("wildcards apart", "*.foo.com", "*.bar.com", false),
        ("exact within", "a.foo.com", "*.foo.com", true),
        ("wildcard's own suffix", "foo.com", "*.foo.com", false),
    ] {
        assert_eq!(HostPattern::new(a).overlaps(&HostPattern::new(b)), want, "{case}");
        assert_eq!(HostPattern::new(b).overlaps(&HostPattern::new(a)), want, "{case}, turned");
    }
}

#[test]
fn hosts_and_gateways_are_checked() {
    for (case, hosts, gateways, want) in [
        ("fine", vec!["a", "*.foo.com"], vec![], vec![]),
        (
            "overlap",
            vec!["*.foo.com", "*.com"],
            vec![],
            vec!["spec.hosts[1]: *.com overlaps *.foo.com, which this object names too"],
        ),
        (
            "short and full",
            vec!["a", "a.shop.svc.cluster.local"],
            vec![],
            vec![
                "spec.hosts[1]: a.shop.svc.cluster.local overlaps a.shop.svc.cluster.local, which this \
                 object names too",
            ],
        ),
        (
            "star on mesh",
            vec!["*"],
            vec!["mesh"],
            vec!["spec.hosts[0]: `*` is not allowed on mesh: name the hosts, or bind to a gateway only"],
        ),
        (
            "star on a gateway",
            vec!["*"],
            vec!["istio/gw"],
            vec!["spec.gateways: not bound to mesh: these rules do nothing on this node"],
        ),
        ("gateway and mesh", vec!["a"], vec!["./gw", "mesh"], vec![]),
        (
            "bad gateway",
            vec!["a"],
            vec!["a/b/c", "mesh"],
            vec!["spec.gateways[0]: \"a/b/c\" is neither `mesh` nor the name of a Gateway"],
        ),
        (
            "bad wildcard",
            vec!["a*.com"],
            vec![],
            vec!["spec.hosts[0]: \"a*.com\": a wildcard must be `*` or begin with `*.`"],
        ),
        ("bad name", vec!["a b"], vec![], vec!["spec.hosts[0]: \"a b\": is no DNS name"]),
    ] {
        let own = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect();
        let spec = VirtualServiceSpec {
            hosts: own(hosts),
            gateways: own(gateways),
            ..VirtualServiceSpec::default()
        };
        let mut messages = Messages::default();
        compile_hosts(&spec, &ObjectName::new("shop", "vs"), &Mesh::default(), &mut messages);
        let texts: Vec<_> = messages.into_vec().iter().map(ToString::to_string).collect();
        assert_eq!(texts, want, "{case}");
    }
}

#[test]
fn export_to_decides_who_sees_an_object_and_how_close_it_is() {
    for (case, raw, client, want) in [
        ("empty is everyone", vec![], Some("web"), Some(Tier::Public)),
        ("star", vec!["*"], Some("web"), Some(Tier::Public)),
        ("star, no namespace", vec!["*"], None, Some(Tier::Public)),
        ("own, same", vec!["."], Some("shop"), Some(Tier::Private)),
        ("own, other", vec!["."], Some("web"), None),
        ("own by name", vec!["shop"], Some("shop"), Some(Tier::Private)),
        ("named", vec![".", "web"], Some("web"), Some(Tier::Exported)),
        ("named, no namespace", vec!["web"], None, None),
        ("nobody", vec!["~"], Some("shop"), None),
    ] {
        let raw: Vec<_> = raw.into_iter().map(str::to_owned).collect();
        let mut messages = Messages::default();
        let export = Export::compile(&raw, "shop", &mut messages);
        assert_eq!(export.tier("shop", client), want, "{case}");
        assert!(!messages.has_errors(), "{case}");
    }
}

#[test]
fn a_contradictory_export_to_is_refused() {
    for (case, raw) in [
        ("star beside a name", vec!["*", "web"]),
        ("nobody beside a name", vec!["web", "~"]),
        ("twice", vec!["web", "web"]),
        ("own namespace twice", vec![".", "shop"]),
        ("no name", vec!["a b"]),
    ] {
        let raw: Vec<_> = raw.into_iter().map(str::to_owned).collect();
        let mut messages = Messages::default();
        Export::compile(&raw, "shop", &mut messages);
        assert!(messages.has_errors(), "{case}");
    }
}
