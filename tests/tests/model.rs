//! Random clusters, random changes, real programs, real sockets: what happens must be what the reference model says.
//! `SLUICE_SEED` repeats a run, `SLUICE_STATES` makes it longer.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use serde_json::Value;
use sluice::{
    compile, inspect, loader,
    maps::{Sizes, Tables, bpf::BpfMaps},
    model::{Change, Node, ObjectName, Store},
    objects,
    reconcile::Reconciler,
};
use sluice_tests::{
    peer::Outcome,
    reference::{
        Cluster, Endpoint, Expectation, NODE, Random, Service, ZONE, mutate, random::PODS, random::PORTS,
    },
    world::{World, ip},
};

const STATES: u64 = 2000;
const GRACE_NS: u64 = sluice::reconcile::GRACE_NS;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// The agent's parts, driven by hand: no polling, so that thousands of states fit in a test.
struct Node1 {
    store: Store,
    reconciler: Reconciler,
    maps: BpfMaps,
    now_ns: u64,
}

impl Node1 {
    fn apply(&mut self, service: Option<&Service>, name: &str, slices: Vec<Value>) {
        let value = service.map(|service| {
            let object = serde_json::from_value(service.object()).expect("a Service");
            Box::new(objects::service(&object).value.expect("usable").service)
        });
        self.store.apply(Change::Service(ObjectName::new("random", name), value));
        for slice in slices {
            let converted = objects::slice(&serde_json::from_value(slice).expect("a slice"));
            assert!(converted.problems.is_empty(), "{:?}", converted.problems);
            let slice = converted.value.expect("usable");
            self.store.apply(Change::Slice(slice.name.clone(), Some(Box::new(slice))));
        }
    }

    fn program(&mut self) {
        let dirty = self.store.take_dirty();
        let compiled = dirty.into_iter().map(|name| (name.clone(), compile::service(&self.store, &name)));
        self.now_ns += GRACE_NS / 3;
        let outcome = self.reconciler.reconcile(&mut self.maps, compiled.collect(), self.now_ns);
        assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        self.reconciler.collect(&mut self.maps, self.now_ns).expect("writes work");
    }

    /// As a new agent would: everything is read from the maps again.
    fn restart(&mut self) {
        let dump = self.maps.dump().expect("maps can be read");
        self.reconciler = Reconciler::new(dump, Sizes::default());
        self.reconciler.purge(&mut self.maps).expect("writes work");
    }
}

#[test]
fn random_clusters_behave_as_the_reference_model_says() {
    let seed = number("SLUICE_SEED", u64::from(std::process::id()));
    let states = number("SLUICE_STATES", STATES);
    println!("SLUICE_SEED={seed} SLUICE_STATES={states}");
    let mut world = World::new();
    let claim = loader::claim(&world.bpffs(), Some(world.cgroup())).unwrap();
    let mut loaded = loader::load(claim, &Sizes::default()).unwrap();
    loaded.attach().unwrap();
    let servers: Vec<_> = (0..PODS)
        .map(|index| {
            let (pod, mut peer) = world.server(&format!("pod-{index}"), &[]);
            for port in PORTS {
                [false, true]
                    .into_iter()
                    .for_each(|udp| peer.serve(&format!("pod-{index}:{port}"), port, udp));
            }
            (pod, peer)
        })
        .collect();
    let pods_v4: Vec<IpAddr> = servers.iter().map(|(pod, _)| pod.v4.into()).collect();
    let pods_v6: Vec<IpAddr> = servers.iter().map(|(pod, _)| pod.v6.into()).collect();
    let client_pod = world.pod("client");
    let mut client = world.peer(&client_pod);
    // What passes untranslated fails at once instead of after a time-out.
    for network in ["10.96.0.0/16", "fd00:96::/64"] {
        ip(&format!("-n {} route add unreachable {network}", client_pod.netns));
    }
    let maps = loaded.maps().unwrap();
    let node = Node { name: NODE.to_owned(), zone: Some(ZONE.to_owned()), ..Node::default() };
    let reconciler = Reconciler::new(Tables::default(), Sizes::default());
    let mut node = Node1 { store: Store::new(node), reconciler, maps, now_ns: 0 };
    let (mut cluster, mut random) = (Cluster::default(), Random::new(seed));
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    // Who a Service with affinity answered by last, by address: forgotten with the address, and with the endpoint,
    // for one that comes back may be another pod.
    let mut kept: BTreeMap<IpAddr, SocketAddr> = BTreeMap::new();
    for state in 0..states {
        for touched in mutate(&mut cluster, &mut random) {
            let service = cluster.services.iter().find(|service| service.number == touched);
            let slices = service.map_or_else(Vec::new, |service| service.slices(&pods_v4, &pods_v6));
            node.apply(service, &format!("service-{touched}"), slices);
        }
        node.program();
        if random.once_in(20) {
            node.restart();
        }
        let tables = node.maps.dump().unwrap();
        kept.retain(|address, by| {
            let service = cluster.services.iter().find(|service| service.addresses().contains(address));
            let pods = if address.is_ipv4() { &pods_v4 } else { &pods_v6 };
            let is_by = |endpoint: &Endpoint| SocketAddr::new(pods[endpoint.pod], endpoint.port) == *by;
            service.is_some_and(|service| service.endpoints.iter().any(is_by))
        });
        for service in &cluster.services {
            for address in service.addresses() {
                let pods = if address.is_ipv4() { &pods_v4 } else { &pods_v6 };
                let wanted = service.expectation(pods);
                let case = || format!("SLUICE_SEED={seed}, state {state}, {address}: {service:#?}");
                assert_eq!(explained(&tables, service, address), wanted, "explain, {}", case());
                let bound = kept.get(&address).filter(|_| service.affinity).copied();
                let wanted = match (bound, wanted) {
                    (Some(bound), Expectation::Answer(usable)) if usable.contains(&bound) => {
                        Expectation::Answer(BTreeSet::from([bound]))
                    }
                    (_, wanted) => wanted,
                };
                let to = SocketAddr::new(address, service.port).to_string();
                let met = if service.udp { client.udp(&to) } else { client.tcp(&to) };
                assert!(agrees(&met, &wanted, pods, &to), "{met:?} instead of {wanted:?}, {}", case());
                if let Ok(answer) = &met
                    && service.affinity
                {
                    kept.insert(address, server(&answer.by, pods));
                }
                *seen.entry(name(&wanted)).or_default() += 1;
                // The same port by the other protocol is no port of this cluster IP.
                let other = if service.udp { client.tcp(&to) } else { client.udp(&to) };
                assert_eq!(other, Err("ECONNREFUSED".to_owned()), "the other protocol, {}", case());
            }
        }
    }
    println!("{seen:?}");
    assert!(seen.len() == 3 || states < STATES, "every kind of outcome occurs: {seen:?}");
}

const fn name(expectation: &Expectation) -> &'static str {
    match expectation {
        Expectation::Answer(_) => "answer",
        Expectation::Refused => "refused",
        Expectation::Dropped => "dropped",
    }
}

fn explained(tables: &Tables, service: &Service, address: IpAddr) -> Expectation {
    let protocol = if service.udp { "udp" } else { "tcp" };
    let destination = format!("{}/{protocol}", SocketAddr::new(address, service.port)).parse().unwrap();
    let answer = inspect::explain(
        tables,
        &inspect::Query { from: "client".into(), left_alone: false, outside: None, destination },
    )
    .unwrap();
    match answer.verdict {
        "translate" => Expectation::Answer(
            answer
                .endpoints
                .iter()
                .map(|endpoint| SocketAddr::new(endpoint.address, endpoint.port))
                .collect::<BTreeSet<_>>(),
        ),
        "reject" => Expectation::Refused,
        "drop" => Expectation::Dropped,
        other => panic!("{other}: {answer:?}"),
    }
}

fn agrees(met: &Outcome, wanted: &Expectation, pods: &[IpAddr], to: &str) -> bool {
    match (met, wanted) {
        (Ok(answer), Expectation::Answer(wanted)) => {
            wanted.contains(&server(&answer.by, pods)) && answer.peer == Some(to.parse().unwrap())
        }
        (Err(error), Expectation::Refused) => error == "ECONNREFUSED",
        (Err(error), Expectation::Dropped) => error != "ECONNREFUSED",
        (Ok(_) | Err(_), _) => false,
    }
}

/// The address of the server that calls itself `pod-INDEX:PORT`.
fn server(name: &str, pods: &[IpAddr]) -> SocketAddr {
    let (pod, port) = name.split_once(':').unwrap();
    let index: usize = pod.strip_prefix("pod-").unwrap().parse().unwrap();
    SocketAddr::new(pods[index], port.parse().unwrap())
}
