//! The index against the order of the rules, on random tables and requests. `SLUICE_SEED` repeats a run.

use super::*;

const TABLES: u32 = 200;
const REQUESTS: u32 = 60;

const PATHS: [&str; 11] = ["", "/", "/a", "/A", "/a/", "/ab", "/a/b", "/a/B/c", "/b", "/é", "/a/b/c/d"];
const METHODS: [&str; 3] = ["GET", "POST", "get"];
const HOSTS: [&str; 3] = ["reviews", "reviews:80", "other"];
const NAMES: [&str; 3] = ["x-a", "X-B", "x-c"];
const VALUES: [&str; 5] = ["", "1", "2", "1,2", "12"];
const LABELS: [&str; 3] = ["app=web", "app=other", ""];

struct Random(u64);

impl Random {
    /// A number below `end`; the constants are Knuth's for MMIX.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % end
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn pattern(&mut self, choices: &[&str]) -> Value {
        let text = self.of(choices);
        match self.below(8) {
            0..4 => json!({"exact": text}),
            4..6 => json!({"prefix": text}),
            6 => json!({"regex": format!("{text}.*")}),
            _ => json!({"regex": "*"}),
        }
    }

    /// Conditions of every kind, few enough that requests meet some.
    fn entry(&mut self) -> Value {
        let mut entry = json!({});
        if !self.once_in(3) {
            entry["uri"] = self.pattern(&PATHS);
            entry["ignoreUriCase"] = json!(self.once_in(3));
        }
        if self.once_in(4) {
            entry["method"] = self.pattern(&METHODS);
        }
        if self.once_in(6) {
            entry["authority"] = self.pattern(&HOSTS);
        }
        for (field, often) in [("headers", 3), ("withoutHeaders", 6), ("queryParams", 5)] {
            if self.once_in(often) {
                entry[field] = json!({(self.of(&NAMES)): self.pattern(&VALUES)});
            }
        }
        if self.once_in(8) {
            entry["headers"] = json!({":path": self.pattern(&PATHS)});
        }
        if self.once_in(6) {
            entry["sourceLabels"] = json!({"app": self.of(&["web", "other"])});
        }
        if self.once_in(10) {
            entry["port"] = json!([80, 81][self.below(2)]);
        }
        entry
    }

    fn table(&mut self) -> Value {
        let rules = (0..1 + self.below(30)).map(|number| {
            let entries: Vec<Value> = (0..1 + self.below(3)).map(|_| self.entry()).collect();
            let entries = if self.once_in(40) { Vec::new() } else { entries };
            json!({"name": format!("r{number}"), "match": entries, "route": to("reviews")})
        });
        rules.collect()
    }

    fn request(&mut self) -> Request {
        let mut path = self.of(&PATHS[1..]).to_owned();
        if self.once_in(3) {
            path += self.of(&["/", "x", "/b"]);
        }
        for joint in ["?", "&"] {
            if self.once_in(2) && (joint == "?" || path.contains('?')) {
                path += &format!("{joint}{}={}", self.of(&NAMES), self.of(&VALUES));
            }
        }
        let mut text = format!("{} {}{path}", self.of(&METHODS), self.of(&HOSTS));
        for _ in 0..self.below(4) {
            text += &format!("\n{}: {}", self.of(&NAMES), self.of(&VALUES));
        }
        Request::new(&text)
    }
}

/// A rule and the number of the match that was met, if it has matches.
fn told(selection: &Selection<'_>) -> Option<(String, Option<usize>)> {
    match selection {
        Selection::Rule(selected) => {
            Some((selected.rule().name.to_string(), selected.matched.map(|matched| matched.index)))
        }
        Selection::NotFound => None,
        Selection::Service(_) => Some(("service".to_owned(), None)),
        Selection::Spent => Some(("spent".to_owned(), None)),
    }
}

#[test]
fn the_index_finds_what_trying_in_order_finds() {
    let seed = std::env::var("SLUICE_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("SLUICE_SEED={seed}");
    let mut random = Random(seed);
    let mut outcomes = BTreeMap::new();
    for number in 0..TABLES {
        let rules = random.table();
        let routes = http_routes(rules.clone());
        for _ in 0..REQUESTS {
            let pod = Pod::new(Some("shop"), random.of(&LABELS));
            let client = routes.for_client(&pod.client());
            let request = random.request();
            let (indexed, in_order) =
                (client.select(&request.view()), client.select_in_order(&request.view()));
            let (indexed, in_order) = (told(&indexed), told(&in_order));
            assert_eq!(indexed, in_order, "SLUICE_SEED={seed}, table {number}: {:?} {rules}", request.view());
            let kind = match &indexed {
                None => "404",
                Some((name, _)) if name == "r0" => "first",
                Some(_) => "later",
            };
            *outcomes.entry(kind).or_insert(0_u32) += 1;
        }
    }
    // A comparison of nothing with nothing would prove nothing.
    assert!(["404", "first", "later"].iter().all(|kind| outcomes[kind] > 100), "{outcomes:?}");
}

#[test]
fn a_rule_among_many_is_found_by_its_rarest_condition() {
    let rules = (0..300).map(|number| {
        let uri = if number % 2 == 0 { json!({"prefix": "/"}) } else { json!({"exact": "/same"}) };
        let entry =
            json!({"uri": uri, "method": {"exact": "GET"}, "headers": {"x": {"exact": number.to_string()}}});
        json!({"name": format!("r{number}"), "match": [entry], "route": to("reviews")})
    });
    let routes = http_routes(rules.collect());
    let client = routes.for_client(&Client::UNKNOWN);
    let request = Request::new("GET reviews/same\nx: 177");
    let tried = std::cell::Cell::new(0);
    let found = client.index.first(&request.view(), |rule, _| {
        tried.set(tried.get() + 1);
        rule == 177
    });
    assert_eq!((found, tried.get()), (Some((177, Some(0))), 1));
}
