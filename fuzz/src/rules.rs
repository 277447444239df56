//! Rule objects, from the bytes of a file on: reading, checks, compilation, and requests through the table.

use std::{collections::BTreeMap, path::Path, sync::LazyLock};

use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use sluice::{
    l7::{
        self,
        rules::{
            Client, Labels, Message, RequestView, Severity,
            hosts::Mesh,
            table::{
                self, KnownService, KnownServices, RuleSet, Selected, Selection, Verdict,
                read_destination_rule, read_virtual_service,
            },
        },
    },
    manifests::{self, Object},
    model::RuleKind,
    redirector::{Answer, Question, Snapshot, explain},
};

/// Reads a file in YAML or JSON and asks what becomes of requests under its rules.
///
/// # Panics
/// A refusal does not say what it is about, a refused object does something, or requests are decided in two ways.
pub fn run(bytes: &[u8]) {
    let contents = manifests::read_text(Path::new("fuzz.yaml"), bytes);
    for finding in &contents.findings {
        assert!(!finding.message.is_empty() && finding.line > 0, "{finding:?} says nothing");
    }
    let (mut good, mut all) = (EMPTY.clone(), EMPTY.clone());
    for placed in &contents.objects {
        let Object::Rule(kind, name, object) = &placed.object else { continue };
        let messages = l7::messages(*kind, object);
        messages.iter().for_each(|message| says_where(message, object));
        let refused = messages.iter().any(|message| message.severity == Severity::Error);
        let title = format!("{} {name}", kind.name());
        let told = contents
            .findings
            .iter()
            .any(|finding| finding.object == title && finding.severity == manifests::Severity::Error);
        assert!(!refused || told, "{title} is refused without a word: {messages:?}");
        put(&mut all, *kind, object);
        if !refused {
            put(&mut good, *kind, object);
        }
    }
    let question = &QUESTIONS[bytes.len() % QUESTIONS.len()];
    let answer = explain(good.clone(), question);
    says_something(question, answer.as_ref());
    // An object is taken whole or not at all, and compiling says the same of it as reading alone.
    if all != good {
        assert_eq!(explain(all, question), answer, "refused objects do something: {question:?}");
    }
    tables(&good);
}

/// The table of each Service says of a request what is explained of it, and each destination that it draws is one of its own.
fn tables(good: &Snapshot) {
    let mesh = Mesh::default();
    let virtual_services =
        good.virtual_services.iter().filter_map(|object| read_virtual_service(object, &mesh).value).collect();
    let destination_rules = good
        .destination_rules
        .iter()
        .filter_map(|object| read_destination_rule(object, &mesh).value)
        .collect();
    let rules = RuleSet::new(mesh.clone(), virtual_services, destination_rules);
    for question in QUESTIONS.iter() {
        let host = if question.authority == "ratings" { "ratings" } else { "reviews" };
        let routes = rules.routes(&mesh.resolve(host, "shop"), 80, &HOSTS);
        let request = question.request();
        let client = Client { namespace: Some("shop"), labels: &WEB, dialled: Some(question.dialled.ip()) };
        let explained = table::explain(&routes, &client, &request).verdict;
        match (routes.for_client(&client).select(&request), &explained) {
            (Selection::Service(_), Verdict::Service) | (Selection::NotFound, Verdict::NotFound) => {}
            (Selection::Rule(selected), Verdict::Rule { name, .. }) => {
                assert_eq!(*selected.rule().name, **name, "{question:?}");
                acts(&selected, &request);
            }
            (other, _) => panic!("{other:?} is explained as {explained:?}: {question:?}"),
        }
    }
}

/// What a rule says of a request can be said at all.
fn acts(selected: &Selected<'_>, request: &RequestView<'_>) {
    let _may_be_none = (selected.rewritten(request), selected.location(request), selected.pick(7).is_some());
}

fn put(snapshot: &mut Snapshot, kind: RuleKind, object: &Value) {
    let objects = match kind {
        RuleKind::VirtualService => &mut snapshot.virtual_services,
        RuleKind::DestinationRule => &mut snapshot.destination_rules,
    };
    objects.push(object.clone());
}

fn says_where(message: &Message, object: &Value) {
    assert!(!message.path.is_empty() && !message.text.is_empty(), "{message:?} about {object}");
}

fn says_something(question: &Question, answer: Option<&Answer>) {
    let Some(answer) = answer else {
        panic!("{question:?} is not for the redirector");
    };
    assert!(!answer.outcome.is_empty(), "{answer:?}");
    // The only rules are those of VirtualServices.
    assert!(answer.rule.is_none() || answer.virtual_service.is_some(), "{answer:?}");
    for to in &answer.destinations {
        let known = to.endpoints.iter().all(|at| KNOWN.contains(at));
        assert!(known, "{:?} are endpoints of nobody", to.endpoints);
    }
}

/// Two Services with endpoints, and a client.
static EMPTY: LazyLock<Snapshot> = LazyLock::new(|| {
    let service = |number: u8, name: &str, port: &str| {
        let endpoints: Vec<Value> = (1..=2)
            .map(|pod| {
                json!({"address": format!("10.0.{number}.{pod}:8080"), "pod": format!("shop/{name}-{pod}"),
                "zone": format!("zone-{pod}")})
            })
            .collect();
        json!({"namespace": "shop", "name": name, "ports": [{"name": port, "port": 80,
            "frontends": [format!("10.96.0.{number}:80")], "endpoints": endpoints}]})
    };
    let pod = |number: u8, name: &str, app: &str, version: &str| {
        json!({"namespace": "shop", "name": name, "addresses": [format!("10.0.{number}.{}", &name[name.len() - 1..])],
            "labels": {"app": app, "version": version, "v": version}})
    };
    let snapshot = json!({
        "domain": "cluster.local",
        "zone": "zone-1",
        "services": [service(1, "reviews", "http"), service(2, "ratings", "")],
        "pods": [pod(1, "reviews-1", "reviews", "v1"), pod(1, "reviews-2", "reviews", "v2"),
            pod(2, "ratings-1", "ratings", "v1"), pod(9, "web-1", "web", "v1")],
    });
    serde_json::from_value(snapshot).expect("a snapshot")
});

/// The same, as tables know them.
static HOSTS: LazyLock<KnownServices> = LazyLock::new(|| {
    let service = KnownService { namespace: "shop".to_owned(), ports: vec![80] };
    let names =
        ["reviews", "ratings"].map(|name| (format!("{name}.shop.svc.cluster.local"), service.clone()));
    names.into()
});

static WEB: LazyLock<Labels> = LazyLock::new(|| {
    BTreeMap::from([("app", "web"), ("version", "v1")].map(|(key, value)| (key.to_owned(), value.to_owned())))
});

static KNOWN: LazyLock<Vec<std::net::SocketAddr>> = LazyLock::new(|| {
    let ports = EMPTY.services.iter().flat_map(|service| &service.ports);
    ports.flat_map(|port| &port.endpoints).map(|endpoint| endpoint.address).collect()
});

static QUESTIONS: LazyLock<Vec<Question>> = LazyLock::new(|| {
    let question = |from: &str,
                    number: u8,
                    method: &str,
                    path: &str,
                    headers: &[(&'static str, &'static str)]| Question {
        from: from.to_owned(),
        dialled: ([10, 96, 0, number], 80).into(),
        authority: if number == 1 { "reviews.shop" } else { "ratings" }.to_owned(),
        method: method.to_owned(),
        path: path.to_owned(),
        headers: headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect::<HeaderMap>(),
    };
    vec![
        question("web-1", 1, "GET", "/a/b?q=1", &[("x", "1"), ("end-user", "jason")]),
        question("host", 1, "POST", "/", &[("cookie", "user=1"), ("origin", "a")]),
        question("shop/web-1", 2, "OPTIONS", "/ratings/7", &[("origin", "https://a.example.com")]),
    ]
});
