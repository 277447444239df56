//! Rules of `tcp` in the kernel: real connections, and no proxy between.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use sluice_tests::{
    manifest,
    peer::Peer,
    wait,
    world::{Agent, Pod, World},
};

const VIP: &str = "10.96.0.1:5432";

struct Database {
    client: Peer,
    _servers: Vec<Peer>,
    agent: Option<Agent>,
    pods: Vec<Pod>,
    world: World,
}

/// A rule for the database with these destinations, each a subset and a weight.
fn rule(destinations: &[(&str, u32)]) -> String {
    let routes: String = destinations
        .iter()
        .map(|(subset, weight)| {
            format!("    - {{destination: {{host: db, subset: {subset}}}, weight: {weight}}}\n")
        })
        .collect();
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: db, namespace: shop}}\n\
         spec:\n  hosts: [db]\n  tcp:\n  - route:\n{routes}"
    )
}

const SUBSETS: &str = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
    metadata: {name: db, namespace: shop}\nspec:\n  host: db\n  subsets:\n\
    \x20 - {name: v1, labels: {version: v1}}\n  - {name: v2, labels: {version: v2}}\n\
    \x20 - {name: v3, labels: {version: v3}}\n";

impl Database {
    /// Three pods: two of v1, one of v2, and one that is in no subset.
    fn start(rules: &str) -> Self {
        let mut world = World::new();
        let started = ["v1-a", "v1-b", "v2-a", "other"].map(|name| world.server(name, &[(8080, false)]));
        let (pods, servers) = started.into_iter().unzip();
        let client = world.pod("client");
        let yaml = |pod: &Pod| {
            let version = pod.name.split('-').next().unwrap();
            let text = manifest::pod(&pod.name, "db", &[&pod.v4.to_string()]);
            text.replace("app: db}", &format!("app: db, version: {version}}}"))
        };
        let service = manifest::service("db", &["10.96.0.1"], &["tcp:5432:8080"]);
        let pods: Vec<Pod> = pods;
        let pods_yaml: String = pods.iter().map(yaml).collect();
        let client_yaml = manifest::pod("client", "client", &[&client.v4.to_string()]);
        world.apply("shop", &(service + &pods_yaml + &client_yaml + SUBSETS));
        world.apply("rules", rules);
        let agent = Some(world.agent());
        world.wait_healthy();
        Self { client: world.peer(&client), _servers: servers, agent, pods, world }
    }

    /// Who answers each of `count` connections; an error is a name too.
    fn spread(&mut self, count: u32) -> BTreeMap<String, u32> {
        let mut by = BTreeMap::new();
        for _ in 0..count {
            let who = self.client.tcp(VIP).map_or_else(|error| error, |answer| answer.by);
            *by.entry(who).or_default() += 1;
        }
        by
    }

    /// The weight of each endpoint, as `sluice service` shows it.
    fn weights(&self) -> BTreeMap<String, u64> {
        let row = self.world.json(&["service", "shop/db"]);
        let endpoints = row[0]["ports"][0]["endpoints"].as_array().cloned().unwrap_or_default();
        let name = |address: &str| {
            let pod = self.pods.iter().find(|pod| pod.v4.to_string() == address);
            pod.map_or_else(|| address.to_owned(), |pod| pod.name.clone())
        };
        endpoints
            .iter()
            .map(|row| (name(row["address"].as_str().unwrap()), row["weight"].as_u64().unwrap()))
            .collect()
    }

    fn wait_for(&self, wanted: &[(&str, u64)]) {
        let wanted = wanted.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
        wait::until("the weights", || {
            let weights = self.weights();
            if weights == wanted { Ok(()) } else { Err((weights, self.world.log())) }
        });
    }

    fn explain(&self) -> serde_json::Value {
        let run_dir = self.world.folder().join("run").display().to_string();
        self.world.json(&["explain", "--run-dir", &run_dir, VIP])
    }
}

#[test]
fn weights_split_connections_in_the_kernel_and_change_with_the_rule() {
    let mut db = Database::start(&rule(&[("v1", 80), ("v2", 20)]));
    // Two endpoints of v1 share what is four times v2's.
    db.wait_for(&[("v1-a", 2), ("v1-b", 2), ("v2-a", 1), ("other", 0)]);
    let by = db.spread(300);
    let v1 = by.get("v1-a").unwrap_or(&0) + by.get("v1-b").unwrap_or(&0);
    // 240 of 300 are expected; six standard deviations are 42.
    assert!((198..=282).contains(&v1) && v1 + by["v2-a"] == 300, "{by:?}");
    let explained = db.explain();
    assert_eq!((&explained["path"], &explained["reason"]), (&"kernel".into(), &"connect_translated".into()));
    assert_eq!(explained["route"]["virtualService"], "shop/db", "{explained}");
    let first = explained["route"]["destination"][0].as_str().unwrap();
    assert!(first.ends_with("subset v1 (80 %)"), "{first}");
    assert_eq!(explained["excluded"][0]["reason"], "rule", "{explained}");
    let run_dir = db.world.folder().join("run").display().to_string();
    let rows = db.world.json(&["route", "--run-dir", &run_dir]);
    let line = &rows[0]["rules"][0];
    assert_eq!((&rows[0]["path"], &line["place"]), (&"kernel".into(), &"tcp[0]".into()), "{rows}");
    assert_eq!(
        (&line["destinations"][0]["weight"], &line["destinations"][0]["fault"]),
        (&80.into(), &serde_json::Value::Null)
    );
    let frontends = db.world.json(&["frontend"]);
    assert!(frontends.as_array().unwrap().iter().all(|row| row["path"] == "kernel"), "{frontends}");

    db.world.apply("rules", &rule(&[("v1", 0), ("v2", 100)]));
    db.wait_for(&[("v1-a", 0), ("v1-b", 0), ("v2-a", 1), ("other", 0)]);
    assert_eq!(db.spread(20), BTreeMap::from([("v2-a".to_owned(), 20)]));

    // Without the rule everybody serves again.
    db.world.apply("rules", "");
    db.wait_for(&[("v1-a", 1), ("v1-b", 1), ("v2-a", 1), ("other", 1)]);
}

#[test]
fn a_destination_without_endpoints_refuses_its_share() {
    let mut db = Database::start(&rule(&[("v1", 50), ("v3", 50)]));
    db.wait_for(&[("v1-a", 1), ("v1-b", 1), ("v2-a", 0), ("other", 0)]);
    let by = db.spread(200);
    let refused: u32 = by.iter().filter(|(who, _)| !who.starts_with("v1")).map(|(_, count)| count).sum();
    // 100 of 200 are expected; six standard deviations are 42.
    assert!((58..=142).contains(&refused), "{by:?}");
    assert!(by.keys().any(|who| who.contains("REFUSED")), "{by:?}");
    assert!(db.explain()["steps"].to_string().contains("2 of 4 connections are refused"), "{}", db.explain());

    db.world.apply("rules", &rule(&[("v3", 1)]));
    wait::until("nobody", || {
        let explained = db.explain();
        if explained["verdict"] == "reject" && explained["reason"] == "no_endpoints" {
            Ok(())
        } else {
            Err(explained)
        }
    });
    assert!(db.spread(5).keys().all(|who| who.contains("REFUSED")));
}

#[test]
fn a_split_outlives_the_agent_and_follows_the_pods_labels() {
    let mut db = Database::start(&rule(&[("v1", 80), ("v2", 20)]));
    let split = [("v1-a", 2), ("v1-b", 2), ("v2-a", 1), ("other", 0)];
    db.wait_for(&split);
    let before = db.world.log().len();
    db.agent.take().unwrap().kill();
    let by = db.spread(40);
    assert!(!by.contains_key("other"), "{by:?}");
    db.agent = Some(db.world.agent());
    db.world.wait_healthy();
    db.wait_for(&split);
    // The next agent adopted the range: it wrote nothing for a Service that had not changed.
    let log = db.world.log().split_off(before);
    assert!(log.contains("adopted pinned maps") && !log.contains("brought up to date"), "{log}");
    let other = manifest::pod("other", "db", &[&db.pods[3].v4.to_string()])
        .replace("app: db}", "app: db, version: v2}");
    let file = db.world.manifests().join("shop.yaml");
    let text = std::fs::read_to_string(file).unwrap();
    let old = manifest::pod("other", "db", &[&db.pods[3].v4.to_string()])
        .replace("app: db}", "app: db, version: other}");
    assert!(text.contains(&old));
    db.world.apply("shop", &text.replace(&old, &other));
    db.wait_for(&[("v1-a", 4), ("v1-b", 4), ("v2-a", 1), ("other", 1)]);
}

#[test]
fn what_the_kernel_cannot_decide_stays_with_the_redirector() {
    let by_label =
        rule(&[("v1", 1)]).replace("  - route:", "  - match: [{sourceLabels: {app: client}}]\n    route:");
    let mut db = Database::start(&by_label);
    wait::until("steered", || {
        let path = db.explain()["path"].clone();
        if path == "redirector" { Ok(()) } else { Err(path) }
    });
    db.world.wait_healthy();
    let by = db.spread(20);
    assert!(by.keys().all(|who| who.starts_with("v1")), "{by:?}");
    // The same without the label: from the redirector to the kernel.
    db.world.apply("rules", &rule(&[("v2", 1)]));
    wait::until("in the kernel", || {
        let path = db.explain()["path"].clone();
        if path == "kernel" { Ok(()) } else { Err(path) }
    });
    db.wait_for(&[("v1-a", 0), ("v1-b", 0), ("v2-a", 1), ("other", 0)]);
    assert_eq!(db.spread(10), BTreeMap::from([("v2-a".to_owned(), 10)]));
}
