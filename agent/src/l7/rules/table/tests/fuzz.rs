//! Rule objects that are nearly right: reading returns, and what is accepted compiles, decides and is explained.

use super::{super::super::fuzz::Random, hostile::*, *};

/// Words that mean something somewhere.
const WORDS: [&str; 16] = [
    "reviews",
    "*",
    "",
    "/",
    "1s",
    "0s",
    "5xx",
    "http",
    "GET",
    "%PROTOCOL%",
    "(",
    "a.*",
    "LEAST_REQUEST",
    "mesh",
    "503",
    "::/0",
];

/// A pair of objects to begin with: VirtualService and DestinationRule.
fn corpus() -> Vec<(Value, Value)> {
    let small = json!({"hosts": ["reviews"], "http": [
        {"match": [{"uri": {"exact": "/a"}}], "directResponse": {"status": 200}},
        {"match": [{"uri": {"prefix": "/a"}, "headers": {"x": {"exact": "1"}}}], "route": to("reviews")},
        {"route": [{"destination": {"host": "reviews", "subset": "v1"}, "weight": 1}], "timeout": "1s"},
    ]});
    let tcp = json!({"hosts": ["reviews"], "tcp": [{"match": [{"port": 80}], "route": to("reviews")}],
        "tls": [{"match": [{"sniHosts": ["reviews"]}], "route": to("reviews")}]});
    let rule = json!({"host": "reviews", "subsets": [{"name": "v1", "labels": {"v": "1"}}],
        "trafficPolicy": {"outlierDetection": {"interval": "1s"}, "loadBalancer": {"simple": "RANDOM"}}});
    vec![
        (small, rule.clone()),
        (tcp, rule),
        (json!({"hosts": ["reviews"], "http": [{"redirect": {"uri": "/b"}}]}), json!({"host": "*.local"})),
        (whole_virtual_service(), whole_destination_rule()),
    ]
}

/// Changes one place of `object`.
fn change(random: &mut Random, object: &mut Value) {
    let mut places = Vec::new();
    pointers(object, "", &mut places);
    let other = object.pointer(random.of::<String>(&places)).cloned().unwrap_or_default();
    let Some(place) = object.pointer_mut(random.of::<String>(&places)) else { return };
    match (random.below(6), place) {
        (0, place) => *place = other,
        (1, place) => *place = json!(random.of(&WORDS)),
        (2, place) => *place = json!([-1, 0, 1, 65_536, i64::MAX][random.below(5)]),
        (_, Value::String(text)) => {
            let mut bytes = text.clone().into_bytes();
            random.mutate(&mut bytes, random_word());
            *text = String::from_utf8_lossy(&bytes).into_owned();
        }
        (_, Value::Array(list)) if random.once_in(2) => drop(list.pop()),
        (_, Value::Array(list)) => list.push(other),
        (_, Value::Object(fields)) => {
            let name = fields.keys().nth(random.below(fields.len())).cloned();
            drop(name.and_then(|name| fields.remove(&name)));
        }
        (_, Value::Number(_) | Value::Bool(_) | Value::Null) => {}
    }
}

fn random_word() -> &'static [u8] {
    b"reviews.shop.svc.cluster.local:80/\\1(?i)%%"
}

#[test]
fn objects_of_any_kind() {
    let (mut random, seed, cases) = Random::start(30_000);
    let corpus = corpus();
    let requests = ["GET reviews/a?q=1\nx: 1", "POST reviews/\ncookie: c=d"].map(Request::new);
    let mut accepted = 0;
    for case in 0..cases {
        // The whole objects take as long as fifty others.
        let which = if random.once_in(50) { corpus.len() - 1 } else { random.below(corpus.len() - 1) };
        let (mut service, mut rule) = corpus[which].clone();
        for _ in 0..=random.below(3) {
            change(&mut random, &mut service);
            change(&mut random, &mut rule);
        }
        let text = format!("SLUICE_SEED={seed}, case {case}: {service} {rule}");
        let guarded = std::panic::catch_unwind(|| {
            let (service, rule) = (read("vs", 0, service), read_rule("dr", json!({}), rule));
            let good = service.value.is_some();
            let set = RuleSet::new(
                Mesh::default(),
                service.value.into_iter().collect(),
                rule.value.into_iter().collect(),
            );
            drop(set.report(&known(), &Scope::Cluster));
            let table = set.routes(REVIEWS, 80, &known());
            let client = Pod::new(Some("shop"), "app=web");
            // Says that the index and the order of the rules agree.
            for request in &requests {
                drop(explain(&table, &client.client(), &request.view()));
            }
            let routes = table.for_client(&client.client());
            let picked = routes.select_tcp().and_then(|rule| rule.pick(7)).is_some();
            assert!(picked || routes.select_tcp().is_none(), "a rule that was accepted leads somewhere");
            good
        });
        accepted += u32::from(guarded.unwrap_or_else(|_| panic!("{text}")));
    }
    assert!(
        (cases / 20..cases).contains(&accepted),
        "some are good, and some are not: {accepted} of {cases}"
    );
}
