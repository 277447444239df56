//! VirtualService and DestinationRule, as clients that we did not write meet them: curl asks, nginx answers.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use sluice_tests::{
    http::{Nginx, Response, curl, logged, nginx},
    manifest, wait,
    world::{Agent, Pod, World, text},
};

const VIP: &str = "http://10.96.0.1";

struct Canary {
    world: World,
    client: Pod,
    v1: Pod,
    v2: Pod,
    _servers: [Nginx; 2],
    agent: Option<Agent>,
}

const SUBSETS: &str = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
    metadata: {name: reviews, namespace: shop}\nspec:\n  host: reviews\n  subsets:\n\
    \x20 - {name: v1, labels: {version: v1}}\n  - {name: v2, labels: {version: v2}}\n";

/// A VirtualService for reviews with these entries of `http`.
fn rules(http: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews, namespace: shop}}\n\
         spec:\n  hosts: [reviews]\n  http:\n{http}"
    )
}

/// The entry that takes everything, to one subset.
fn to(subset: &str) -> String {
    format!("  - route: [{{destination: {{host: reviews, subset: {subset}}}}}]\n")
}

impl Canary {
    fn start(http: &str) -> Self {
        let mut world = World::new();
        let (v1, v2, client) = (world.pod("v1"), world.pod("v2"), world.pod("client"));
        let servers = [nginx(&world, &v1, 8080), nginx(&world, &v2, 8080)];
        let pod = |pod: &Pod| {
            let text = manifest::pod(&pod.name, "reviews", &[&pod.v4.to_string(), &pod.v6.to_string()]);
            text.replace("app: reviews}", &format!("app: reviews, version: {}}}", pod.name))
        };
        let client_pod = manifest::pod("client", "client", &[&client.v4.to_string()]);
        let service = manifest::service("reviews", &["10.96.0.1", "fd00:96::1"], &["http:80:8080"]);
        let plain = manifest::service("plain", &["10.96.0.2"], &["http:80:8080"])
            .replace("app: plain", "app: reviews");
        world.apply("shop", &(service + &plain + &pod(&v1) + &pod(&v2) + &client_pod + SUBSETS));
        world.apply("rules", &rules(http));
        let agent = world.agent();
        let canary = Self { world, client, v1, v2, _servers: servers, agent: Some(agent) };
        wait::until("rules hold", || {
            let path = canary.world.json(&["explain", "10.96.0.1:80"])["path"].clone();
            if path == "redirector" { Ok(()) } else { Err((path, canary.world.log())) }
        });
        canary.world.wait_healthy();
        canary
    }

    fn get(&self, words: &[&str]) -> Response {
        curl(&self.client, words)
    }

    /// Who answers each of `count` requests.
    fn spread(&self, count: usize, words: &[&str]) -> BTreeMap<String, usize> {
        let mut by = BTreeMap::new();
        for _ in 0..count {
            let response = self.get(words);
            let who =
                if response.status == 200 { response.seen("by").to_owned() } else { format!("{response:?}") };
            *by.entry(who).or_default() += 1;
        }
        by
    }

    /// Replaces the rules and waits until a request meets what `check` wants.
    fn change(&self, http: &str, check: impl Fn(&Self) -> Result<(), Response>) {
        self.world.apply("rules", &rules(http));
        wait::until("the new rules", || check(self));
    }

    fn restart_agent(&mut self) {
        drop(self.agent.take());
        self.agent = Some(self.world.agent());
    }

    /// Gives the Service `plain` a rule and waits until it holds: what the agent knew before counts then too.
    fn wait_planned(&self, status: u16) {
        let rule = format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: plain, namespace: shop}}\n\
             spec:\n  hosts: [plain]\n  http:\n  - directResponse: {{status: {status}}}\n"
        );
        self.world.apply("plain", &rule);
        wait::until("another rule", || {
            let response = self.get(&["http://10.96.0.2"]);
            if response.status == status { Ok(()) } else { Err(response) }
        });
    }

    fn explain(&self, words: &[&str]) -> serde_json::Value {
        let run_dir = self.world.folder().join("run").display().to_string();
        self.world.json(&[&["explain", "--run-dir", &run_dir], words].concat())
    }
}

#[test]
fn weights_split_requests_over_subsets() {
    let http = "  - route:\n    - {destination: {host: reviews, subset: v1}, weight: 80}\n\
                \x20   - {destination: {host: reviews, subset: v2}, weight: 20}\n";
    let canary = Canary::start(http);
    let by = canary.spread(200, &[VIP]);
    // 160 and 40 are expected; six standard deviations are 34.
    assert!((126..=194).contains(by.get("v1").unwrap_or(&0)) && by.len() == 2, "{by:?}");
    let plain = canary.spread(40, &["http://10.96.0.2"]);
    assert_eq!(plain.len(), 2, "a Service without rules has none of it: {plain:?}");
    assert_eq!(canary.world.json(&["explain", "10.96.0.2:80"])["path"], "kernel");
    let explained = canary.explain(&["--from", &canary.client.v4.to_string(), "http://reviews.shop/"]);
    let route = &explained["route"];
    assert_eq!(route["virtualService"], "shop/reviews", "{explained}");
    assert_eq!(route["destination"].as_array().unwrap().len(), 2);
    assert!(route["destination"][0].as_str().unwrap().ends_with("subset v1 (80 %)"), "{route}");

    let run_dir = canary.world.folder().join("run").display().to_string();
    let rows = canary.world.json(&["route", "--run-dir", &run_dir]);
    assert_eq!(rows.as_array().unwrap().len(), 1, "{rows}");
    let rule = &rows[0]["rules"][0];
    assert_eq!((&rows[0]["path"], &rule["place"]), (&"redirector".into(), &"http[0]".into()), "{rows}");
    assert_eq!(
        (&rule["destinations"][0]["weight"], &rule["destinations"][1]["weight"]),
        (&80.into(), &20.into())
    );
    let printed = text(&canary.world.sluice(&["route", "--run-dir", &run_dir]));
    let line =
        "80 % reviews.shop.svc.cluster.local:80 subset v1; 20 % reviews.shop.svc.cluster.local:80 subset v2";
    assert!(printed.contains("everything") && printed.contains(line), "{printed}");
}

#[test]
fn headers_paths_and_methods_choose_the_rule_and_explain_says_why() {
    let http = "  - name: testers\n    match:\n    - headers: {end-user: {exact: jason}}\n      uri: {prefix: /items}\n"
        .to_owned()
        + "    route: [{destination: {host: reviews, subset: v2}}]\n"
        + "  - match: [{method: {exact: DELETE}}]\n    directResponse: {status: 405, body: {string: \"no\"}}\n"
        + &to("v1");
    let canary = Canary::start(&http);
    for (case, words, by) in [
        ("nobody", vec!["http://10.96.0.1/items"], "v1"),
        ("jason", vec!["http://10.96.0.1/items/1", "-H", "End-User: jason"], "v2"),
        ("jason elsewhere", vec!["http://10.96.0.1/other", "-H", "end-user: jason"], "v1"),
        ("somebody else", vec!["http://10.96.0.1/items", "-H", "end-user: bob"], "v1"),
        ("IPv6", vec!["http://[fd00:96::1]/items", "-H", "end-user: jason"], "v2"),
    ] {
        let response = canary.get(&words);
        assert_eq!(response.seen("by"), by, "{case}: {response:?}");
    }
    let refused = canary.get(&[VIP, "-X", "DELETE"]);
    assert_eq!((refused.status, refused.body.as_str()), (405, "no"));
    let explained = canary.explain(&["http://10.96.0.1/items", "--header", "end-user: bob"]);
    assert_eq!(explained["route"]["match"], "http[2]", "{explained}");
    let skipped = explained["route"]["skipped"].to_string();
    assert!(skipped.contains("http[0].match[0]") && skipped.contains("bob"), "{skipped}");
    let explained = canary.explain(&["http://10.96.0.1/items", "--header", "end-user: jason"]);
    assert_eq!(explained["route"]["rule"], "testers", "{explained}");
    assert_eq!(explained["endpoints"][0]["address"], canary.v2.v4.to_string());
}

#[test]
fn rewrites_redirects_and_header_operations_reach_the_server_and_the_client() {
    let http = "  - match: [{uri: {prefix: /old}}]\n    rewrite: {uri: /new, authority: elsewhere.example}\n\
                \x20   headers: {request: {set: {x-added: \"1\"}, remove: [x-removed]}, response: {remove: [x-secret]}}\n\
                \x20   route: [{destination: {host: reviews, subset: v1}}]\n\
                \x20 - match: [{uri: {exact: /moved}}]\n    redirect: {uri: /there, redirectCode: 302}\n"
        .to_owned()
        + &to("v2");
    let canary = Canary::start(&http);
    let response = canary.get(&["http://10.96.0.1/old/page?q=1", "-H", "x-removed: yes"]);
    let seen =
        ["by", "uri", "host", "added", "removed", "forwarded"].map(|name| response.seen(name).to_owned());
    let client = canary.client.v4.to_string();
    assert_eq!(seen, ["v1", "/new/page?q=1", "elsewhere.example", "1", "", &client], "{response:?}");
    assert!(!response.headers.contains_key("x-secret") && response.headers["x-upstream"] == "v1");
    let moved = canary.get(&["http://10.96.0.1/moved"]);
    assert_eq!((moved.status, moved.headers["location"].as_str()), (302, "http://10.96.0.1/there"));
    let other = canary.get(&["http://10.96.0.1/", "-H", "Host: reviews"]);
    assert_eq!((other.seen("by"), other.seen("host")), ("v2", "reviews"), "the Host is the client's");
}

#[test]
fn faults_mirrors_and_retries() {
    let http = "  - match: [{uri: {exact: /fault}}]\n    fault: {abort: {httpStatus: 418, percentage: {value: 100}}}\n\
                \x20   route: [{destination: {host: reviews, subset: v1}}]\n\
                \x20 - match: [{uri: {prefix: /mirrored}}]\n    route: [{destination: {host: reviews, subset: v1}}]\n\
                \x20   mirror: {host: reviews, subset: v2}\n"
        .to_owned()
        + "  - route: [{destination: {host: reviews}}]\n";
    let mut canary = Canary::start(&http);
    assert_eq!(canary.get(&["http://10.96.0.1/fault"]).status, 418);
    assert_eq!(logged(&canary.world, &canary.v1, "/fault"), 0, "an injected fault reaches nobody");
    assert_eq!(canary.get(&["http://10.96.0.1/mirrored"]).seen("by"), "v1");
    wait::until("the mirror", || match logged(&canary.world, &canary.v2, "/mirrored") {
        1 => Ok(()),
        count => Err(count),
    });
    // One of the two endpoints refuses: the default policy tries the other one.
    let Canary { _servers: [_v1, v2], .. } = &mut canary;
    v2.stop();
    let by = canary.spread(20, &[VIP]);
    assert_eq!(by, BTreeMap::from([("v1".to_owned(), 20)]), "connections that are refused are tried again");
}

#[test]
fn a_rule_that_fails_takes_no_effect_and_the_last_good_one_stays() {
    let canary = Canary::start(&to("v1"));
    assert_eq!(canary.get(&[VIP]).seen("by"), "v1");
    let broken = "  - route: [{destination: {host: reviews, subset: v2, weight: 100}}]\n";
    canary.world.apply("rules", &rules(broken));
    let row = |state: &str| {
        let rows = canary.world.json(&["config"]);
        let found = rows.as_array().unwrap().iter().find(|row| row["kind"] == "VirtualService").cloned();
        let right = found.as_ref().is_some_and(|row| row["state"] == state);
        if right { Ok(found.unwrap()) } else { Err(rows) }
    };
    let rejected = wait::until("rejected", || row("rejected"));
    let path = rejected["messages"][0]["path"].as_str().unwrap();
    assert_eq!(path, "spec.http[0].route[0].destination.weight", "{rejected}");
    assert_eq!(canary.get(&[VIP]).seen("by"), "v1", "the last good one stays");
    canary.change(&to("v2"), |canary| {
        let response = canary.get(&[VIP]);
        if response.seen("by") == "v2" { Ok(()) } else { Err(response) }
    });
    wait::until("accepted", || row("accepted"));
    let check = canary.world.sluice(&["check", &canary.world.manifests().display().to_string()]);
    assert!(check.status.success());
}

#[test]
fn what_counts_of_a_broken_rule_outlives_the_agent_and_not_the_rule() {
    let mut canary = Canary::start(&to("v1"));
    let broken = rules("  - route: [{destination: {host: reviews, subset: v2, weight: 100}}]\n");
    let only_v1 = |canary: &Canary, case: &str| {
        assert_eq!(canary.world.json(&["explain", "10.96.0.1:80"])["path"], "redirector", "{case}");
        let by = canary.spread(12, &[VIP]);
        assert_eq!(by, BTreeMap::from([("v1".to_owned(), 12)]), "{case}");
    };
    canary.world.apply("rules", &broken);
    for (round, case) in [(0, "broken while the agent starts"), (1, "and once more")] {
        canary.restart_agent();
        canary.wait_planned(418 + round);
        only_v1(&canary, case);
    }
    // Nobody can say what is in a file that is no YAML.
    canary.world.apply("rules", "hosts: [\n");
    canary.restart_agent();
    canary.wait_planned(420);
    only_v1(&canary, "not to be read");
    let in_kernel = || {
        let path = canary.world.json(&["explain", "10.96.0.1:80"])["path"].clone();
        if path == "kernel" { Ok(()) } else { Err((path, canary.world.log())) }
    };
    for name in ["rules.yaml", "plain.yaml"] {
        std::fs::remove_file(canary.world.manifests().join(name)).unwrap();
    }
    wait::until("the rule is gone", in_kernel);
    drop(canary.agent.take());
    canary.world.apply("rules", &broken);
    canary.restart_agent();
    canary.wait_planned(421);
    assert_eq!(canary.world.json(&["explain", "10.96.0.1:80"])["path"], "kernel", "not from its grave");
    assert_eq!(canary.spread(40, &[VIP]).len(), 2);
}

#[test]
fn a_subset_without_pods_and_a_service_that_is_not_there_answer_503() {
    let http = "  - match: [{uri: {exact: /nowhere}}]\n    route: [{destination: {host: nowhere}}]\n"
        .to_owned()
        + &to("v9");
    let canary = Canary::start(&http);
    assert_eq!(canary.get(&["http://10.96.0.1/nowhere"]).status, 503);
    assert_eq!(canary.get(&[VIP]).status, 503);
    let explained = canary.explain(&["http://10.96.0.1/"]);
    assert_eq!(explained["verdict"], "reject", "{explained}");
    let warnings = canary.world.json(&["status"])["warnings"].to_string();
    assert!(warnings.contains("there is no Service nowhere.shop.svc.cluster.local"), "{warnings}");
}

#[test]
fn an_address_that_another_service_has_cannot_be_taken_with_a_rule() {
    let canary = Canary::start(&to("v1"));
    let evil = manifest::service("evil", &["10.96.0.66"], &["http:80:8080"])
        .replace("namespace: shop", "namespace: zzz")
        .replace("spec:\n", "spec:\n  externalIPs: [10.96.0.1, \"fd00:96::1\"]\n");
    let rule = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: evil, namespace: zzz}\n\
                spec:\n  hosts: [evil]\n  http:\n  - directResponse: {status: 200, body: {string: HIJACKED}}\n";
    canary.world.apply("evil", &(evil + rule));
    wait::until("its own address has its rule", || {
        let response = canary.get(&["http://10.96.0.66"]);
        if response.body == "HIJACKED" { Ok(()) } else { Err(response) }
    });
    for url in [VIP, "http://[fd00:96::1]"] {
        assert_eq!(canary.get(&[url]).seen("by"), "v1", "{url}");
    }
}

/// A DestinationRule of reviews with one more subset, of v2's pods.
fn late(subset: &str) -> String {
    SUBSETS.split("  subsets:").next().unwrap().replace("name: reviews", &format!("name: {subset}"))
        + &format!("  subsets:\n  - {{name: {subset}, labels: {{version: v2}}}}\n")
}

#[test]
fn a_rule_that_comes_before_its_subset_waits_for_it_and_nobody_gets_503() {
    let canary = Canary::start(&to("v1"));
    let row = || {
        let rows = canary.world.json(&["config"]);
        let named = |row: &&serde_json::Value| row["kind"] == "VirtualService" && row["name"] == "reviews";
        rows.as_array().unwrap().iter().find(named).cloned().unwrap()
    };
    // On a busy machine the second may be over before the subset is there: then another one is tried.
    let in_time = (1..=10).any(|round| {
        let subset = format!("late-{round}");
        let start = std::time::Instant::now();
        let mut answers = Vec::new();
        canary.world.apply("rules", &rules(&to(&subset)));
        wait::until("it waits, or has", || {
            let response = canary.get(&[VIP]);
            let (status, row) = (response.status, row());
            answers.push(response);
            let waits = row["messages"].to_string().contains("what held before holds on");
            if waits || status == 503 { Ok(()) } else { Err(row) }
        });
        canary.world.apply(&subset, &late(&subset));
        wait::until("the new rule", || {
            let response = canary.get(&[VIP]);
            let done = response.status == 200 && response.seen("by") == "v2";
            answers.push(response.clone());
            if done { Ok(()) } else { Err(response) }
        });
        let in_time = start.elapsed() < std::time::Duration::from_secs(1);
        let refused: Vec<_> = answers.iter().filter(|response| response.status != 200).collect();
        assert!(!in_time || refused.is_empty(), "{refused:?}");
        canary.change(&to("v1"), |canary| {
            let response = canary.get(&[VIP]);
            if response.seen("by") == "v1" { Ok(()) } else { Err(response) }
        });
        in_time
    });
    assert!(in_time, "the machine was too slow ten times");
    assert_eq!((&row()["state"], &row()["messages"]), (&"accepted".into(), &serde_json::json!([])));
}

#[test]
fn a_subset_that_does_not_come_is_answered_503_after_a_second() {
    let canary = Canary::start(&to("v1"));
    let plain = rules(&to("never")).replace("name: reviews", "name: plain").replace("[reviews]", "[plain]");
    for (case, name, text, subset, url) in [
        ("another form", "rules", rules(&to("absent")), "absent", VIP),
        ("a first rule", "plain", plain, "never", "http://10.96.0.2"),
    ] {
        let start = std::time::Instant::now();
        canary.world.apply(name, &text);
        wait::until(case, || {
            let response = canary.get(&[url]);
            match response.status {
                503 => Ok(()),
                status => {
                    assert_eq!(status, 200, "{case}: {response:?}");
                    Err(response)
                }
            }
        });
        let waited = start.elapsed();
        assert!(waited >= std::time::Duration::from_secs(1), "{case}: {waited:?}");
        // It holds as it is from then on, and the subset may still come.
        canary.world.apply(name, &(text + &late(subset)));
        wait::until(case, || {
            let response = canary.get(&[url]);
            if response.status == 200 && response.seen("by") == "v2" { Ok(()) } else { Err(response) }
        });
    }
}
