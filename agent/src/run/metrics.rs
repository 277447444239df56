//! What `/metrics` tells. Names are stable; README lists them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::admin::Told;
use crate::{
    flows::Removal,
    health::State,
    maps::{Pins, bpf::BpfMaps},
    metrics::{
        Kind::{Counter, Gauge},
        Page, RouteCounts,
    },
};

/// kube-proxy's bounds of the time that the network takes to follow a change, in seconds: dashboards know them.
pub fn programming_bounds() -> Vec<f64> {
    let every = |from: u32, step: u32, count: u32| (0..count).map(move |n| f64::from(from + n * step));
    [0.25, 0.5].into_iter().chain(every(1, 1, 59)).chain(every(60, 5, 12)).chain(every(120, 30, 7)).collect()
}

/// kube-proxy's bounds of the time that a round takes, in seconds: from 1 ms on, each twice the last.
pub const SYNC_BOUNDS: [f64; 15] = [
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
];

/// The page.
pub fn page(state: &State, pins: &Pins, told: &Told) -> String {
    let mut page = Page::default();
    of_agent(&mut page, state);
    of_health(&mut page, told);
    of_programming(&mut page, state);
    of_redirector(&mut page, state);
    of_maps(&mut page, state, pins);
    of_process(&mut page);
    page.text()
}

fn of_agent(page: &mut Page, state: &State) {
    let version = [("version", state.version.as_str())];
    page.metric(Gauge, "sluice_build_info", "Always 1; the version is in the label.").sample(&version, 1);
    let text = "1 when programs run, the self-probe passes and nothing is wrong.";
    page.one(Gauge, "sluice_healthy", text, state.is_healthy());
    let text = "1 when this node forwards: what /livez says.";
    page.one(Gauge, "sluice_forwarding", text, state.is_forwarding());
    let text = "0 when the node is about to be deleted (KEP-3836).";
    page.one(Gauge, "sluice_node_eligible", text, !state.node_leaving);
    let mut synced = page.metric(Gauge, "sluice_source_synced", "1 when the source was listed completely.");
    state.sources.iter().for_each(|source| synced.sample(&[("source", &source.name)], source.synced));
    let text = "What keeps the node from working right; `sluice status` tells which.";
    page.one(Gauge, "sluice_problems", text, state.problems.len() as u64);
    let text = "What is wrong with objects or settings; `sluice status` and `sluice config` tell which.";
    page.one(Gauge, "sluice_warnings", text, state.warnings.len() as u64);
}

/// kube-proxy's names: what load balancers and the kubelet were told.
fn of_health(page: &mut Page, told: &Told) {
    for (name, text, counts) in [
        ("kubeproxy_proxy_healthz_total", "Answers of /healthz on --healthz, by code.", told.healthz()),
        ("kubeproxy_proxy_livez_total", "Answers of /livez on --healthz, by code.", told.livez()),
    ] {
        let mut answers = page.metric(Counter, name, text);
        counts.iter().for_each(|(code, count)| answers.sample(&[("code", code)], *count));
    }
}

fn of_programming(page: &mut Page, state: &State) {
    let text = "Time from a change of endpoints, as its object tells, to the maps.";
    page.histogram("kubeproxy_network_programming_duration_seconds", text).spread(
        &[],
        &programming_bounds(),
        &state.programming,
    );
    let text = "Time that compiling and writing what changed took.";
    page.histogram("kubeproxy_sync_proxy_rules_duration_seconds", text).spread(
        &[],
        &SYNC_BOUNDS,
        &state.sync,
    );
    let updated = state.updated.unwrap_or(UNIX_EPOCH).duration_since(UNIX_EPOCH).unwrap_or_default();
    let text = "When everything that was told was last in the maps, seconds since 1970.";
    page.one(Gauge, "kubeproxy_sync_proxy_rules_last_timestamp_seconds", text, updated.as_secs_f64());
    let text = "Map entries written or deleted since the start.";
    page.one(Counter, "sluice_map_writes_total", text, state.writes);
    let text = "Sockets told that their backend is gone, or that rules hold for what they dialled.";
    page.one(Counter, "sluice_sockets_destroyed_total", text, state.sockets_destroyed);
    let text = "Connections of the packet path that the agent made the kernel forget.";
    let mut removed = page.metric(Counter, "sluice_flows_removed_total", text);
    for removal in Removal::ALL {
        let count = state.flows_removed.get(removal.name()).copied().unwrap_or(0);
        removed.sample(&[("reason", removal.name())], count);
    }
    let text = "Connections of the packet path that the kernel forgot for new ones, for FLOWS was full.";
    page.one(Counter, "sluice_flows_forgotten_total", text, state.flows_forgotten);
}

fn of_redirector(page: &mut Page, state: &State) {
    let text = "Processes that asked for the redirector's snapshots without its token or unreadably.";
    page.one(Counter, "sluice_feed_refused_total", text, state.feed_refused);
    let text = "What happened in the redirector since its start.";
    let mut events = page.metric(Counter, "sluice_redirector_total", text);
    state.redirector.iter().for_each(|(event, count)| events.sample(&[("event", event)], *count));
    let text = "Requests under way and connections to endpoints, at the moment.";
    let mut gauges = page.metric(Gauge, "sluice_redirector_open", text);
    state.redirector_open.iter().for_each(|(what, count)| gauges.sample(&[("what", what)], *count));
    of_destinations(page, state);
    let text = "Requests, by the rule that took them, where it sent them, and class of the answer.";
    let mut requests = page.metric(Counter, "sluice_redirector_requests_total", text);
    for (route, counts) in &state.routes {
        for (class, count) in &counts.answers {
            let labels = [route.labels().as_slice(), &[("code", class.as_str())]].concat();
            requests.sample(&labels, *count);
        }
    }
    let text = "Time from a request's head to the end of its answer.";
    let mut durations = page.histogram("sluice_redirector_request_duration_seconds", text);
    for (route, counts) in &state.routes {
        durations.spread(&route.labels(), &RouteCounts::BOUNDS, &counts.took);
    }
}

fn of_destinations(page: &mut Page, state: &State) {
    let text = "Requests and connections of the redirector to a destination, at the moment.";
    let mut open = page.metric(Gauge, "sluice_redirector_destination_open", text);
    for (destination, counts) in &state.destinations {
        let mut sample = |(what, count)| open.sample(&[("destination", destination), ("what", what)], count);
        counts.open().into_iter().for_each(&mut sample);
    }
    let text = "Endpoints of a destination that outlier detection watches.";
    let mut endpoints = page.metric(Gauge, "sluice_redirector_destination_endpoints", text);
    for (destination, counts) in &state.destinations {
        let mut sample =
            |(what, count)| endpoints.sample(&[("destination", destination), ("state", what)], count);
        counts.endpoints().for_each(&mut sample);
    }
}

fn of_maps(page: &mut Page, state: &State, pins: &Pins) {
    let text = "Entries that a map holds; of those that no agent mirrors, when they were last counted.";
    let mut entries = page.metric(Gauge, "sluice_map_entries", text);
    state.map_entries.iter().for_each(|(map, count)| entries.sample(&[("map", map)], *count));
    let text = "Writes to a map that did not succeed: refused by the kernel, or without room.";
    let mut failures = page.metric(Counter, "sluice_map_write_failures_total", text);
    state.write_failures.iter().for_each(|(map, count)| failures.sample(&[("map", map)], *count));
    if !state.service_connections.is_empty() {
        let text = "Connections through packets that are remembered, by Service port.";
        let mut connections = page.metric(Gauge, "sluice_service_connections", text);
        for ([namespace, service, port], count) in &state.service_connections {
            connections.sample(&[("namespace", namespace), ("service", service), ("port", port)], *count);
        }
    }
    if !state.service_bytes.is_empty() {
        let text = "Bytes of TCP connections that sockets of this node made to a Service port, once they have ended.";
        let mut bytes = page.metric(Counter, "sluice_service_bytes_total", text);
        for ([namespace, service, port], counts) in &state.service_bytes {
            for (direction, count) in ["sent", "received"].into_iter().zip(counts) {
                let labels = [("namespace", namespace.as_str()), ("service", service), ("port", port)];
                bytes.sample(&[labels.as_slice(), &[("direction", direction)]].concat(), *count);
            }
        }
    }
    let Ok(maps) = BpfMaps::open(pins) else { return };
    let mut capacity = page.metric(Gauge, "sluice_map_capacity", "Entries that a map can hold.");
    maps.capacities().iter().for_each(|(map, count)| capacity.sample(&[("map", map)], u64::from(*count)));
    let mut reasons = page.metric(Counter, "sluice_reasons_total", "Outcomes of all hooks, by reason.");
    for (reason, count) in maps.reasons().unwrap_or_default() {
        reasons.sample(&[("reason", reason.name())], count);
    }
}

/// What every client library of Prometheus tells of its process.
fn of_process(page: &mut Page) {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let pages = read("statm").split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    let size = rustix::param::page_size() as u64;
    page.one(Gauge, "process_resident_memory_bytes", "Resident memory.", pages * size);
    // Fields 14, 15 and 22, counted behind the name, which may hold anything.
    let stat = read("stat");
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks = |first: usize, count: usize| {
        let ticks = fields.split(' ').skip(first).take(count).filter_map(|ticks| ticks.parse::<u64>().ok());
        ticks.sum::<u64>() as f64 / rustix::param::clock_ticks_per_second() as f64
    };
    let (seconds, started) = (ticks(11, 2), ticks(19, 1));
    page.one(Counter, "process_cpu_seconds_total", "User and system time.", seconds);
    let boot = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime ")?.parse::<u64>().ok()).unwrap_or(0);
    let text = "When the agent started, seconds since 1970.";
    page.one(Gauge, "process_start_time_seconds", text, boot as f64 + started);
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    page.one(Gauge, "process_open_fds", "Open file descriptors.", files);
}

/// What a trigger time says about how long it took until now; `None` for changes that came before `start` or will come.
pub fn since(trigger: SystemTime, start: SystemTime, now: SystemTime) -> Option<Duration> {
    if trigger < start { None } else { now.duration_since(trigger).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_kube_proxys() {
        let bounds = programming_bounds();
        assert_eq!(bounds.len(), 80);
        assert_eq!(
            (bounds[0], bounds[2], bounds[60], bounds[61], bounds[79]),
            (0.25, 1.0, 59.0, 60.0, 300.0)
        );
        assert!(bounds.is_sorted());
        assert!((0..15).all(|n| SYNC_BOUNDS[n] == 0.001 * f64::from(1 << n)), "as by ExponentialBuckets");
    }

    #[test]
    fn changes_from_before_the_start_say_nothing() {
        let at = |s: u64| UNIX_EPOCH + Duration::from_secs(s);
        assert_eq!(since(at(5), at(6), at(9)), None);
        assert_eq!(since(at(7), at(6), at(9)), Some(Duration::from_secs(2)));
        assert_eq!(since(at(10), at(6), at(9)), None, "a clock that is ahead");
    }
}
