//! Requests through both proxies: as many as they take, and half as many as the slower one takes. And what a Service
//! without rules costs beside one that has some.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::json;

use super::{
    CONNECTIONS, Node, Speech,
    load::{Load, Pace, h2load, wrk},
    process::cpu,
};
use crate::bench::{Results, median};

const ROUNDS: usize = 5;

/// Values of all rounds by the way that was taken.
#[derive(Default)]
struct Rounds(BTreeMap<&'static str, Vec<f64>>);

impl Rounds {
    fn add(&mut self, way: &'static str, value: f64) {
        self.0.entry(way).or_default().push(value);
    }

    fn median(&self, way: &str) -> f64 {
        median(self.0.get(way).cloned().unwrap_or_default())
    }
}

const OURS: &str = "redirector";
const THEIRS: &str = "envoy";

/// What full load showed.
pub struct Full {
    /// The redirector's CPU time per request, µs.
    pub cpu_us: f64,
    /// Requests per second of the slower proxy.
    slower: f64,
}

fn label(rules: usize, speech: Speech, what: &str) -> String {
    format!("{rules} rules, {}: {what}", speech.name())
}

/// As fast as answers come, directly and through both, in turns.
///
/// # Errors
/// A load fails.
pub fn full(node: &Node, rules: usize, speech: Speech, results: &mut Results) -> Result<Full> {
    let [mut rates, mut latencies, mut user, mut system] = [(); 4].map(|()| Rounds::default());
    let load = |urls: &[String; 2]| -> Result<Load> {
        match speech {
            Speech::Http1 => wrk(&node.clients[0], &urls[0], CONNECTIONS),
            Speech::Http2 => h2load(&node.clients[0], &urls[1], CONNECTIONS, Pace::Full, node.world.folder()),
        }
    };
    for _ in 0..ROUNDS {
        rates.add("direct", load(&node.direct)?.per_second);
        for proxy in &node.proxies {
            let before = cpu(proxy.pid)?;
            let load = load(&proxy.urls)?;
            let used = cpu(proxy.pid)?.since(before);
            rates.add(proxy.name, load.per_second);
            latencies.add(proxy.name, load.p99_us);
            user.add(proxy.name, used.user_s * 1e6 / load.requests);
            system.add(proxy.name, used.system_s * 1e6 / load.requests);
            results.runs.push(json!({"rules": rules, "protocol": speech.name(), "way": proxy.name, "perSecond": load.per_second,
                "cpuUsPerRequest": used.sum_s() * 1e6 / load.requests, "userUsPerRequest": used.user_s * 1e6 / load.requests,
                "p50Us": load.p50_us, "p99Us": load.p99_us}));
        }
    }
    let cost = |way: &str| user.median(way) + system.median(way);
    let ratio = cost(THEIRS) / cost(OURS);
    results.at_least(&label(rules, speech, "requests per CPU second / Envoy's"), ratio, 1.5, "ratio");
    let ratio = latencies.median(OURS) / latencies.median(THEIRS);
    results.at_most(&label(rules, speech, "p99 at full load / Envoy's"), ratio, 1.0, "ratio");
    eprintln!("    direct {:.0}/s", rates.median("direct"));
    for way in [OURS, THEIRS] {
        eprintln!(
            "    {way} {:.0}/s, {:.1} µs CPU ({:.1} own, {:.1} in the kernel), p99 {:.0} µs",
            rates.median(way),
            cost(way),
            user.median(way),
            system.median(way),
            latencies.median(way),
        );
    }
    Ok(Full { cpu_us: cost(OURS), slower: rates.median(OURS).min(rates.median(THEIRS)) })
}

/// Half of what the slower one took, of each in turns: how long requests take while nobody is busy.
///
/// # Errors
/// A load fails.
pub fn half(node: &Node, rules: usize, speech: Speech, full: &Full, results: &mut Results) -> Result<()> {
    let per_second = full.slower / 2.0;
    let [mut p50, mut p99, mut p999] = [(); 3].map(|()| Rounds::default());
    let index = usize::from(speech == Speech::Http2);
    for _ in 0..ROUNDS {
        let ways = node.proxies.iter().map(|proxy| (proxy.name, &proxy.urls[index]));
        for (way, url) in ways.chain([("direct", &node.direct[index])]) {
            let pace = Pace::Of(speech, per_second);
            let load = h2load(&node.clients[0], url, CONNECTIONS, pace, node.world.folder())?;
            [(&mut p50, load.p50_us), (&mut p99, load.p99_us), (&mut p999, load.p999_us)]
                .into_iter()
                .for_each(|(rounds, value)| rounds.add(way, value));
            results.runs.push(json!({"rules": rules, "protocol": speech.name(), "way": way, "pacedPerSecond": per_second,
                "perSecond": load.per_second, "p50Us": load.p50_us, "p99Us": load.p99_us, "p999Us": load.p999_us}));
        }
    }
    for (name, rounds) in [("p50", &p50), ("p99", &p99), ("p99.9", &p999)] {
        let what = format!("{name} at half load / Envoy's");
        let ratio = rounds.median(OURS) / rounds.median(THEIRS);
        results.at_most(&label(rules, speech, &what), ratio, 1.0, "ratio");
    }
    for way in ["direct", OURS, THEIRS] {
        eprintln!(
            "    {way} at {per_second:.0}/s: p50 {:.0} µs, p99 {:.0} µs, p99.9 {:.0} µs",
            p50.median(way),
            p99.median(way),
            p999.median(way),
        );
    }
    Ok(())
}

/// Requests to a Service that has no rules, while another has, against the endpoint itself: pairs of rounds.
///
/// # Errors
/// A load fails.
pub fn beside(node: &Node, rules: usize, results: &mut Results) -> Result<()> {
    let mut ratios = Vec::new();
    for _ in 0..2 * ROUNDS {
        let direct = wrk(&node.clients[0], &node.direct[0], CONNECTIONS)?.per_second;
        let service = wrk(&node.clients[0], &node.without_rules, CONNECTIONS)?.per_second;
        ratios.push(service / direct);
        results.runs.push(
            json!({"rules": rules, "way": "no rules", "perSecond": service, "directPerSecond": direct}),
        );
    }
    let name = format!("{rules} rules elsewhere, HTTP/1.1: a Service without rules / direct");
    results.at_least(&name, median(ratios), 0.97, "ratio");
    Ok(())
}
