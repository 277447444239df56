//! Random clusters, random changes, real programs, real sockets: what happens must be what the reference model says.
//! `SLUICE_SEED` repeats a run, `SLUICE_STATES` makes it longer.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use sluice::{
    inspect, loader,
    maps::{Sizes, Tables},
};
use sluice_tests::{
    peer::Outcome,
    programmed::Programmed,
    reference::{
        Cluster, Endpoint, Expectation, Random, Service, mutate, number, random::PODS, random::PORTS,
    },
    world::{World, ip},
};

const STATES: u64 = 2000;

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
    let mut node = Programmed::new(maps, &[], &[]);
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
        &inspect::Query {
            from: "client".into(),
            left_alone: false,
            sender: None,
            from_port: None,
            options: 0,
            destination,
        },
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
