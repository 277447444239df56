//! Random clusters and random changes to them, from a seed that a failure prints.

use super::{Cluster, Endpoint, NODE, Service, ZONE};

/// Pods that endpoints may be on, and the ports that each serves.
pub const PODS: usize = 3;
/// See [`PODS`].
pub const PORTS: [u16; 2] = [8081, 8082];
const SERVICES: u8 = 5;

/// The number in this environment variable, which repeats a run or makes it longer.
///
/// # Panics
/// It is none.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and good enough to make test cases.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True once in `times`.
    pub const fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of `choices`.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// Changes a few things; returns the numbers of the Services touched.
pub fn mutate(cluster: &mut Cluster, random: &mut Random) -> Vec<u8> {
    let mut touched = Vec::new();
    for _ in 0..=random.below(3) {
        let number = 1 + random.below(u64::from(SERVICES)) as u8;
        touched.push(number);
        let position = cluster.services.iter().position(|service| service.number == number);
        match position {
            None => cluster.services.push(service(number, random)),
            Some(position) if random.once_in(8) => drop(cluster.services.remove(position)),
            Some(position) if random.once_in(4) => cluster.services[position] = service(number, random),
            Some(position) => change_endpoints(&mut cluster.services[position], random),
        }
    }
    touched
}

fn service(number: u8, random: &mut Random) -> Service {
    let (count, affinity) = (random.below(5), random.once_in(3));
    let mut service = Service {
        number,
        families: random.of(&[(true, false), (false, true), (true, true)]),
        udp: random.once_in(2),
        port: random.of(&[80, 8081]),
        internal_local: random.once_in(3),
        affinity,
        // With affinity a table may move a client that chance would keep.
        maglev: !affinity && random.once_in(4),
        redirected: false,
        exposed: None,
        endpoints: Vec::new(),
    };
    (0..count).for_each(|_| add(&mut service, random));
    service
}

fn change_endpoints(service: &mut Service, random: &mut Random) {
    if !service.endpoints.is_empty() && random.once_in(2) {
        let index = random.below(service.endpoints.len() as u64) as usize;
        service.endpoints.remove(index);
    } else {
        add(service, random);
    }
}

/// Adds an endpoint, or replaces the one on the same pod and port.
fn add(service: &mut Service, random: &mut Random) {
    let usual = |random: &mut Random| if random.once_in(2) { None } else { Some(true) };
    let ready = if random.once_in(3) { Some(false) } else { usual(random) };
    let (pod, port) = (random.below(PODS as u64) as usize, random.of(&PORTS));
    let endpoint = Endpoint {
        pod,
        port,
        // A pod does not move: what comes back on another node is another pod.
        here: (usize::from(service.number) + pod + usize::from(port)).is_multiple_of(2),
        ready,
        serving: random.of(&[None, Some(true), Some(false)]),
        terminating: random.of(&[None, Some(true), Some(false)]),
        zone_hint: random.of(&[None, Some(ZONE), Some(ZONE), Some("zone-2")]),
        node_hint: random.of(&[None, None, None, Some(NODE), Some("node-2")]),
    };
    service.endpoints.retain(|other| (other.pod, other.port) != (endpoint.pod, endpoint.port));
    service.endpoints.push(endpoint);
}
