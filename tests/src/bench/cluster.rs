//! A node whose Services are as many as wanted, driven through the agent's own parts.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use sluice::{
    compile,
    loader::{self, Loaded},
    maps::{Sizes, Tables, bpf::BpfMaps},
    model::{
        Change, Endpoint, EndpointSlice, EndpointState, Node, ObjectName, Protocol, Service, ServiceKind,
        ServicePort, SlicePort, Store,
    },
    reconcile::Reconciler,
};

use super::{Results, median};
use crate::{
    peer::Peer,
    world::{Pod, World},
};

/// Two clients, one server, and the programs.
pub struct Cluster {
    /// In the agent's cgroup.
    pub client: Peer,
    /// In a cgroup that no hook is attached to.
    pub clean: Peer,
    server: (Pod, Peer),
    store: Store,
    reconciler: Reconciler,
    maps: BpfMaps,
    // The programs go before the world that they are pinned in.
    _loaded: Loaded,
    _world: World,
}

impl Cluster {
    /// Starts it, without Services.
    pub fn start() -> Result<Self> {
        let mut world = World::new();
        let server = world.server("server", &[(8080, false), (5353, true)]);
        let (inside, outside) = (world.routed_pod("client"), world.routed_pod("clean"));
        let claim = loader::claim(&world.bpffs(), Some(&inside.cgroup))?;
        let mut loaded = loader::load(claim, &Sizes::default())?;
        loaded.attach()?;
        let maps = loaded.maps()?;
        let (client, clean) = (world.peer(&inside), world.peer(&outside));
        let store = Store::new(Node { name: "node-1".to_owned(), ..Node::default() });
        let reconciler = Reconciler::new(Tables::default(), Sizes::default());
        Ok(Self { client, clean, server, store, reconciler, maps, _loaded: loaded, _world: world })
    }

    /// Makes it this many Services, with this many endpoints each; the first endpoint of the first is the server.
    pub fn grow_to(&mut self, services: u32, endpoints: u32) -> Result<Duration> {
        for number in 0..services {
            self.put(number, endpoints);
        }
        self.program().map(|(time, _)| time)
    }

    fn put(&mut self, number: u32, endpoints: u32) {
        let name = ObjectName::new("bench", format!("service-{number}"));
        let service = service(name.clone(), number);
        self.store.apply(Change::Service(name.clone(), Some(Box::new(service))));
        let server = (number == 0).then_some(self.server.0.v4);
        let slice = slice(name, number, endpoints, server);
        self.store.apply(Change::Slice(slice.name.clone(), Some(Box::new(slice))));
    }

    fn program(&mut self) -> Result<(Duration, u64)> {
        let start = Instant::now();
        let dirty = self.store.take_dirty();
        let compiled: BTreeMap<_, _> =
            dirty.into_iter().map(|name| (name.clone(), compile::service(&self.store, &name))).collect();
        let outcome = self.reconciler.reconcile(&mut self.maps, compiled, 0);
        if let Some((name, error)) = outcome.failed.into_iter().next() {
            return Err(error).with_context(|| format!("{name} does not fit"));
        }
        Ok((start.elapsed(), outcome.writes))
    }

    /// The server's own address.
    pub fn direct(&self, udp: bool) -> SocketAddr {
        SocketAddr::from((self.server.0.v4, if udp { 5353 } else { 8080 }))
    }

    /// The Service that leads to it.
    pub fn service(&self, udp: bool) -> SocketAddr {
        SocketAddr::from(([10, 96, 0, 0], if udp { 53 } else { 80 }))
    }
}

fn service(name: ObjectName, number: u32) -> Service {
    let address = 0x0a60_0000 + number;
    // One port each, as most have; the server's Service has both.
    let mut ports = vec![ServicePort::new("http", Protocol::Tcp, 80)];
    if number == 0 {
        ports.push(ServicePort::new("dns", Protocol::Udp, 53));
    }
    Service {
        name,
        kind: ServiceKind::ClusterIp,
        created_s: 0,
        external_name: None,
        cluster_ips: vec![std::net::Ipv4Addr::from(address).into()],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        ports,
        internal_local: false,
        external_local: false,
        source_ranges: sluice::model::SourceRanges::default(),
        health_check_node_port: 0,
        affinity_timeout_s: None,
        translate_headless_port: true,
        per_request: false,
        algorithm: Default::default(),
    }
}

fn slice(
    service: ObjectName,
    number: u32,
    endpoints: u32,
    server: Option<std::net::Ipv4Addr>,
) -> EndpointSlice {
    let endpoint = |index: u32| Endpoint {
        addresses: vec![server.unwrap_or_else(|| (0x0b00_0000 + number * 16 + index).into()).into()],
        state: EndpointState::Ready,
        pod: None,
        node: Some(format!("node-{}", index % 100).into()),
        zone: None,
        zone_hints: Default::default(),
        node_hints: Default::default(),
    };
    let port = |name: &str, protocol, port| SlicePort { name: name.to_owned(), protocol, port: Some(port) };
    EndpointSlice {
        changed: None,
        name: ObjectName::new("bench", format!("{}-1", service.name)),
        service,
        ports: vec![port("http", Protocol::Tcp, 8080), port("dns", Protocol::Udp, 5353)],
        endpoints: (0..if server.is_some() { 1 } else { endpoints }).map(endpoint).collect(),
    }
}

/// Ten thousand Services with ten endpoints each, from cold, and then one endpoint at a time.
pub fn programming(results: &mut Results) -> Result<()> {
    let mut colds = Vec::new();
    for round in 0..3 {
        let mut cluster = Cluster::start()?;
        colds.push(cluster.grow_to(10_000, 10)?.as_secs_f64());
        if round == 0 {
            // First, before earlier rounds have left their memory behind.
            changes(&mut cluster, results)?;
            let maps = map_memory().context("cannot read the maps' memory")?;
            results.at_most("maps, at that size", maps / 1e6, 64.0, "MB");
            let resident = resident_memory().context("cannot read this process's memory")?;
            results.at_most("this process, objects and mirror included", resident / 1e6, 120.0, "MB");
        }
    }
    results.at_most("10,000 Services, 100,000 endpoints from cold", median(colds), 1.0, "s");
    Ok(())
}

fn changes(cluster: &mut Cluster, results: &mut Results) -> Result<()> {
    let (mut times, mut most) = (Vec::new(), 0);
    for number in 1..=1_000 {
        cluster.put(number * 7, 9 + number % 2);
        let (time, writes) = cluster.program()?;
        times.push(time.as_secs_f64() * 1e3);
        most = most.max(writes);
    }
    if most == 0 {
        bail!("the changes changed nothing");
    }
    times.sort_by(f64::total_cmp);
    results.at_most("one endpoint change at that size, p99", times[times.len() * 99 / 100], 5.0, "ms");
    results.at_most("map writes for it (its Service has ten endpoints)", most as f64, 16.0, "writes");
    Ok(())
}

/// Bytes that the kernel accounts for the BPF maps that this process has open, each once.
fn map_memory() -> Option<f64> {
    let mut maps = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/fdinfo").ok()?.flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let field =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    Some(maps.values().sum::<u64>() as f64)
}

fn resident_memory() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? * 1024.0)
}
