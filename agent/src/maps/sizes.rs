//! Names, capacities and layouts of the maps, and the flags that set the capacities.

use sluice_common::{
    Addr,
    layout::{
        ANSWERS_CAPACITY, AffinityKey, AffinityValue, AnswersValue, BackendValue, CONFIG_CAPACITY,
        DEVICES_CAPACITY, DeviceValue, EVENTS_BYTES, FlowKey, FlowValue, FragmentKey, FragmentValue,
        FrontendKey, FrontendValue, LISTENERS_CAPACITY, NodeValue, PathValue, PodValue, RevnatKey,
        RevnatValue, SCHEMAS_CAPACITY, ServiceValue, SlotValue, SocketValue,
    },
    reason,
};

/// A map that the kernel programs define and that is pinned by its name.
#[derive(Clone, Copy, Debug)]
pub struct MapSpec {
    /// As in `ebpf/src/maps.rs`.
    pub name: &'static str,
    /// What its bytes mean. To be raised when that changes and the sizes do not: the map is made anew then, as for another
    /// size. Maps that say nothing of it are of number 1.
    pub schema: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries; `None` where the kernel decides.
    pub capacity: fn(&Sizes) -> Option<u32>,
    /// The flag that sets the capacity.
    pub flag: &'static str,
}

/// How large a map is and what it is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// The kernel's number of the map, which no other gets.
    pub id: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries; of a ring buffer, bytes.
    pub capacity: u32,
}

macro_rules! spec {
    ($name:literal, $schema:literal, $key:ty, $value:ty, $capacity:expr, $flag:literal) => {
        MapSpec {
            name: $name,
            schema: $schema,
            key_size: size_of::<$key>() as u32,
            value_size: size_of::<$value>() as u32,
            capacity: $capacity,
            flag: $flag,
        }
    };
}

/// Room for the addresses of the node beside those of Services.
const NODE_ADDRESSES: u32 = 1_024;

/// Every pinned map.
pub const SPECS: [MapSpec; 24] = [
    // With a place for the self-probe's.
    spec!(
        "FRONTENDS",
        1,
        FrontendKey,
        FrontendValue,
        |sizes| Some(sizes.max_frontends + 1),
        "--max-frontends"
    ),
    spec!("SLOTS", 1, u32, SlotValue, |sizes| Some(sizes.max_slots), "--max-slots"),
    spec!("BACKENDS", 1, u32, BackendValue, |sizes| Some(sizes.max_backends), "--max-backends"),
    spec!("SERVICES", 1, u32, ServiceValue, |sizes| Some(sizes.max_services), "--max-services"),
    spec!("NODES", 1, u32, NodeValue, |sizes| Some(sizes.max_nodes), "--max-nodes"),
    spec!("PODS", 1, Addr, PodValue, |sizes| Some(sizes.max_backends), "--max-backends"),
    spec!("ADDRESSES", 1, Addr, u32, |sizes| Some(sizes.max_frontends + NODE_ADDRESSES), "--max-frontends"),
    spec!("CONFIG", 1, u32, u64, |_| Some(CONFIG_CAPACITY), ""),
    spec!("OPT_OUTS", 1, u64, PodValue, |_| Some(4_096), ""),
    spec!("RESERVED", 1, u32, u32, |_| Some(65_536), ""),
    spec!("UDP_REVNAT", 1, RevnatKey, RevnatValue, |sizes| Some(sizes.max_udp_flows), "--max-udp-flows"),
    spec!("AFFINITY", 1, AffinityKey, AffinityValue, |sizes| Some(sizes.max_affinities), "--max-affinities"),
    spec!("SOCKETS", 1, u32, SocketValue, |_| None, ""),
    spec!("LISTENERS", 1, u32, u32, |_| Some(LISTENERS_CAPACITY), ""),
    spec!("HEARTBEAT", 1, u32, u64, |_| Some(1), ""),
    spec!("FLOWS", 1, FlowKey, FlowValue, |sizes| Some(sizes.max_flows), "--max-flows"),
    spec!("FRAGMENTS", 1, FragmentKey, FragmentValue, |_| Some(8_192), ""),
    spec!("PATHS", 1, Addr, PathValue, |_| Some(4_096), ""),
    spec!("DEVICES", 1, u32, DeviceValue, |_| Some(DEVICES_CAPACITY), ""),
    spec!("SOURCE_RANGES", 1, [u32; 6], u32, |sizes| Some(sizes.max_source_ranges), "--max-source-ranges"),
    spec!("ANSWERS", 1, u32, AnswersValue, |_| Some(ANSWERS_CAPACITY), ""),
    spec!("REASONS", 1, u32, u64, |_| Some(reason::CAPACITY), ""),
    // By id of a map.
    spec!("SCHEMAS", 1, u32, u32, |_| Some(SCHEMAS_CAPACITY), ""),
    // A ring buffer has neither keys nor values, and its capacity is in bytes.
    spec!("EVENTS", 1, (), (), |_| Some(EVENTS_BYTES), ""),
];

/// Capacities of the maps, in entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::Args)]
pub struct Sizes {
    /// Addresses and ports that clients can dial
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(16..=16_777_216))]
    pub max_frontends: u32,
    /// Places of endpoints in Services; an endpoint takes one for each service port it serves
    #[arg(long, default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(16..=16_777_216))]
    pub max_slots: u32,
    /// Distinct endpoint addresses and ports
    #[arg(long, default_value_t = 131_072, value_parser = clap::value_parser!(u32).range(16..=16_777_216))]
    pub max_backends: u32,
    /// Service ports, counted once for each IP family
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(16..=16_777_216))]
    pub max_services: u32,
    /// Nodes that endpoints name
    #[arg(long, default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(16..=16_777_216))]
    pub max_nodes: u32,
    /// Remembered UDP exchanges; the least recently used make room
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(16..=16_777_216))]
    pub max_udp_flows: u32,
    /// Remembered choices of session affinity; the least recently used make room
    #[arg(long, default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(16..=16_777_216))]
    pub max_affinities: u32,
    /// Remembered connections through packets, two for each; the least recently used make room
    #[arg(long, default_value_t = 131_072, value_parser = clap::value_parser!(u32).range(16..=16_777_216))]
    pub max_flows: u32,
    /// Networks in the loadBalancerSourceRanges of all Services
    #[arg(long, default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(16..=16_777_216))]
    pub max_source_ranges: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            max_frontends: 65_536,
            max_slots: 262_144,
            max_backends: 131_072,
            max_services: 65_536,
            max_nodes: 16_384,
            max_udp_flows: 65_536,
            max_affinities: 65_536,
            max_flows: 131_072,
            max_source_ranges: 16_384,
        }
    }
}
