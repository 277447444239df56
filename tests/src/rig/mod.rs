//! The real programs, run on packets of a test's own (`BPF_PROG_TEST_RUN`), in a node's network with real devices and
//! routes. No packet leaves: what a program decides and what it makes of the bytes is all that happens.
//!
//! ```text
//!   192.168.50.2 client ── eth0 192.168.50.11 node-1 ── pod1, pod2: 10.244.1.10, .11 (the local pods)
//!                           │ vxlan0 (MTU 1450): 10.244.2.12
//!                           └ by 192.168.50.12 (MTU 1500): 10.245.2.9
//! ```

use std::{
    collections::BTreeMap,
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd as _,
};

use aya::{
    maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues},
    programs::{Program, TestRun as _, TestRunOptions},
    util::nr_cpus,
};
use bytemuck::{Zeroable as _, must_cast};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sluice::{
    devices::{self, Link},
    loader::{self, Loaded, Point, Tc},
    maps::{
        Sizes,
        bpf::{BpfMaps, Devices, Flows, now_ns},
    },
};
use sluice_common::{
    Addr, Reason,
    layout::{
        ANSWERS_CAPACITY, ANY_DEVICE, DeviceValue, FLOW_REPLY, FlowKey, FlowValue, FragmentKey,
        FragmentValue, OPTION_VIP_PING,
    },
};

use crate::{
    packet::{Ends, on_wire},
    programmed::Programmed,
    world::{TwoNodes, ip},
};

pub mod exchange;
pub mod judge;
mod services;

pub use services::{Dialled, SERVICES, served};

/// How many pods are on the node: the first of [`Rig::pods`].
pub const LOCAL_PODS: usize = 2;
/// All pods.
pub const PODS: usize = 4;
/// Whoever sends a frame, as far as its hardware address goes.
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 0x99];
/// The most bytes that a frame may have: what fits into a page with room on both sides.
pub const MOST_BYTES: usize = 3_400;

/// Which program, and where.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Place {
    /// XDP at `eth0`.
    Early,
    /// tc at `eth0`, ingress.
    FromNetwork,
    /// tc at `eth0`, egress.
    ToNetwork,
    /// tc at the end of that local pod's wire, ingress.
    FromPod(usize),
    /// The same, egress.
    ToPod(usize),
}

impl Place {
    /// The program's name.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Early => "early",
            Self::FromNetwork => "from_network",
            Self::ToNetwork => "to_network",
            Self::FromPod(_) => "from_pod",
            Self::ToPod(_) => "to_pod",
        }
    }
}

/// What a program decided.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Verdict {
    /// The packet goes on.
    Pass,
    /// It ends.
    Drop,
    /// It goes out by a device that the program named.
    Redirect,
    /// XDP: it goes back out by the device that it came by.
    Back,
    /// Anything else, which no program may say.
    Illegal(u32),
}

/// What came of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Met {
    /// The verdict.
    pub verdict: Verdict,
    /// The frame as it is afterwards.
    pub frame: Vec<u8>,
    /// Mean time of a run, ns.
    pub ns: u64,
}

/// A node with programs that nothing but tests send packets to.
pub struct Rig {
    /// The maps and who writes them.
    pub node: Programmed,
    loaded: Loaded,
    answers: PerCpuArray<MapData, [u8; 16]>,
    heartbeat: Array<MapData, u64>,
    flows: HashMap<MapData, [u8; 40], [u8; size_of::<FlowValue>()]>,
    links: BTreeMap<String, Link>,
    out: Vec<u8>,
    // Last, for everything above lives in it.
    world: TwoNodes,
}

impl Rig {
    /// A node without Services. The calling thread lives in its network from now on.
    ///
    /// # Panics
    /// The machine lacks something; the message says what.
    pub fn new() -> Self {
        let mut world = TwoNodes::new();
        for (node, name) in [(1, "here-0"), (1, "here-1"), (2, "there")] {
            world.pod(node, name);
        }
        let netns = world.node(1).host.netns.clone();
        for (network, via) in [("10.245.2.0/24", "192.168.50.12"), ("fd00:10:245:2::/64", "fd00:50::12")] {
            ip(&format!("-n {netns} route add {network} via {via}"));
        }
        let on_wire =
            ["192.168.50.2", "192.168.50.12", "fd00:50::2", "fd00:50::12"].map(|next| (next, "eth0"));
        let local = [("10.244.1.10", "pod1"), ("fd00:10:244:1::a", "pod1")];
        let other = [("10.244.1.11", "pod2"), ("fd00:10:244:1::b", "pod2")];
        for (next, device) in on_wire.into_iter().chain(local).chain(other) {
            ip(&format!(
                "-n {netns} neigh replace {next} lladdr 02:00:00:00:00:77 dev {device} nud permanent"
            ));
        }
        let file = File::open(format!("/run/netns/{netns}")).expect("a namespace");
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may move");
        let claim = loader::claim(&world.node(1).bpffs(), Some(world.node(1).cgroup())).expect("a claim");
        let mut loaded = loader::load(claim, &Sizes::default()).expect("programs load");
        let links = devices::links().expect("devices can be listed");
        let links: BTreeMap<String, Link> = links.into_iter().map(|link| (link.name.clone(), link)).collect();
        // A veth has queues for XDP only while it has a program.
        let wanted = BTreeMap::from([((links["eth0"].index, Point::EarlyNative), "eth0".to_owned())]);
        let problems = loaded.attach_devices(&wanted, Tc::Auto);
        assert!(problems.is_empty(), "{problems:?}");
        let mut known = Devices::open(loaded.pins()).expect("maps open");
        known.set(&values(&links)).expect("writes work");
        known.set_options(OPTION_VIP_PING).expect("writes work");
        let map = |name: &str| MapData::from_pin(loaded.pins().map(name)).expect("a pinned map");
        let maps = loaded.maps().expect("maps open");
        let node = Programmed::new(maps, &links["eth0"].addresses, &links["vxlan0"].addresses);
        Self {
            heartbeat: Map::Array(map("HEARTBEAT")).try_into().expect("an array"),
            answers: Map::PerCpuArray(map("ANSWERS")).try_into().expect("an array"),
            flows: Map::LruHashMap(map("FLOWS")).try_into().expect("a hash"),
            node,
            loaded,
            links,
            out: vec![0; 2 * MOST_BYTES],
            world,
        }
    }

    /// The pods' addresses of a family: two of this node, one behind an overlay, one behind a router.
    pub fn pods(is_v6: bool) -> [IpAddr; PODS] {
        if is_v6 {
            let pod = |c: u16, node: u16, number: u16| Ipv6Addr::new(0xfd00, 0x10, c, node, 0, 0, 0, number);
            return [pod(0x244, 1, 10), pod(0x244, 1, 11), pod(0x244, 2, 12), pod(0x245, 2, 9)]
                .map(IpAddr::V6);
        }
        [[10, 244, 1, 10], [10, 244, 1, 11], [10, 244, 2, 12], [10, 245, 2, 9]]
            .map(|of| Ipv4Addr::from(of).into())
    }

    /// The node's own address.
    pub fn own(&self, is_v6: bool) -> IpAddr {
        let host = &self.world.node(1).host;
        if is_v6 { host.v6.into() } else { host.v4.into() }
    }

    fn link(&self, place: Place) -> &Link {
        match place {
            Place::Early | Place::FromNetwork | Place::ToNetwork => &self.links["eth0"],
            Place::FromPod(pod) | Place::ToPod(pod) => &self.links[&format!("pod{}", pod + 1)],
        }
    }

    /// A frame with this IP packet, addressed to the device.
    pub fn frame(&self, place: Place, ip: &[u8]) -> Vec<u8> {
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&self.link(place).mac);
        macs[6..].copy_from_slice(&SENDER);
        on_wire(macs, ip)
    }

    /// Runs the program on this frame. `None` if the kernel takes no such frame, one that ends in its Ethernet header.
    pub fn try_run(&mut self, place: Place, frame: &[u8]) -> Option<Met> {
        self.repeat(place, frame, 1)
    }

    /// The same; the kernel takes it.
    ///
    /// # Panics
    /// It does not.
    pub fn run(&mut self, place: Place, frame: &[u8]) -> Met {
        self.try_run(place, frame).unwrap_or_else(|| panic!("the kernel does not take {frame:02x?}"))
    }

    /// The same again and again, each run on what the last one left.
    pub fn repeat(&mut self, place: Place, frame: &[u8], times: u32) -> Option<Met> {
        let ifindex = self.link(place).index;
        let name = place.program();
        let mut context = [0_u32; 48];
        let context: &[u32] = if place == Place::Early {
            // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
            context[1] = frame.len() as u32;
            context[3] = ifindex;
            &context[..6]
        } else {
            // `struct __sk_buff`: ifindex is its eleventh word.
            context[10] = ifindex;
            &context
        };
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut self.out),
            ctx_in: Some(bytemuck::cast_slice(context)),
            repeat: times,
            ..TestRunOptions::default()
        };
        let result = match self.loaded.program(name) {
            Some(Program::Xdp(program)) => program.test_run(options),
            Some(Program::SchedClassifier(program)) => program.test_run(options),
            other => panic!("{name} is {:?}", other.map(Program::prog_type)),
        };
        let result = result.ok()?;
        let verdict = match (place == Place::Early, result.return_value) {
            (false, u32::MAX) | (true, 2) => Verdict::Pass,
            (false, 2) | (true, 1) => Verdict::Drop,
            (false, 7) | (true, 4) => Verdict::Redirect,
            (true, 3) => Verdict::Back,
            (_, other) => Verdict::Illegal(other),
        };
        let frame = self.out[..result.data_size_out as usize].to_vec();
        Some(Met { verdict, frame, ns: result.duration.as_nanos() as u64 })
    }

    /// Sets bits of `OPTION_*`.
    ///
    /// # Panics
    /// The map cannot be written.
    pub fn set_options(&mut self, options: u64) {
        let mut known = Devices::open(self.loaded.pins()).expect("maps open");
        known.set_options(options).expect("writes work");
    }

    /// Makes the redirector be well just now, or be away.
    ///
    /// # Panics
    /// The map cannot be written.
    pub fn set_redirector(&mut self, is_well: bool) {
        let beat_ns = if is_well { now_ns() } else { 0 };
        self.heartbeat.set(0, beat_ns, 0).expect("writes work");
    }

    /// Fills the stores of answers up again.
    ///
    /// # Panics
    /// The map cannot be written.
    pub fn refill(&mut self) {
        for store in 0..ANSWERS_CAPACITY {
            let zeros = vec![[0; 16]; nr_cpus().expect("CPUs")];
            let zeros = PerCpuValues::try_from(zeros).expect("one each");
            self.answers.set(store, zeros, 0).expect("writes work");
        }
    }

    /// How often the reason was counted.
    ///
    /// # Panics
    /// The map cannot be read.
    pub fn count(&self, reason: Reason) -> u64 {
        BpfMaps::open(self.loaded.pins()).and_then(|maps| maps.count(reason)).expect("maps can be read")
    }

    /// Makes the first pieces of datagrams that came by have done so that much earlier.
    ///
    /// # Panics
    /// The map cannot be read or written.
    pub fn age_pieces(&mut self, by_ns: u64) {
        let map = MapData::from_pin(self.loaded.pins().map("FRAGMENTS")).expect("a pinned map");
        let mut pieces: HashMap<_, [u8; size_of::<FragmentKey>()], [u8; size_of::<FragmentValue>()]> =
            Map::LruHashMap(map).try_into().expect("a hash");
        let all: Vec<_> = pieces.iter().collect::<Result<_, _>>().expect("it can be read");
        for (key, value) in all {
            let mut value: FragmentValue = must_cast(value);
            value.seen_ns = value.seen_ns.saturating_sub(by_ns);
            pieces
                .insert(key, must_cast::<_, [u8; size_of::<FragmentValue>()]>(value), 0)
                .expect("writes work");
        }
    }

    /// Forgets all connections, and tells programs at pods' devices that there are none.
    ///
    /// # Panics
    /// The maps cannot be written.
    pub fn forget_and_tell(&mut self) {
        self.forget();
        let mut flows = Flows::open(self.loaded.pins()).expect("maps open");
        flows.set_none_at_pods(now_ns()).expect("writes work");
    }

    /// Forgets all connections.
    ///
    /// # Panics
    /// The map cannot be read.
    pub fn forget(&mut self) {
        let keys: Vec<_> = self.flows.keys().filter_map(Result::ok).collect();
        for key in keys {
            let _gone_already = self.flows.remove(&key);
        }
    }

    /// What becomes of packets with these ends, if that is known.
    pub fn flow(&self, ends: &Ends) -> Option<FlowValue> {
        self.flows.get(&must_cast(flow_key(ends)), 0).ok().map(must_cast)
    }

    /// Makes packets with these ends belong to a connection, which counts at no hook.
    ///
    /// # Panics
    /// The map cannot be written.
    pub fn remember(&mut self, ends: &Ends) {
        let flow = FlowValue { flags: FLOW_REPLY, last_seen_ns: now_ns(), ..FlowValue::zeroed() };
        let bytes: [u8; size_of::<FlowValue>()] = must_cast(flow);
        self.flows.insert(must_cast::<_, [u8; 40]>(flow_key(ends)), bytes, 0).expect("writes work");
    }
}

fn flow_key(ends: &Ends) -> FlowKey {
    FlowKey {
        src: Addr::from(ends.src.ip()),
        dst: Addr::from(ends.dst.ip()),
        src_port_be: ends.src.port().to_be(),
        dst_port_be: ends.dst.port().to_be(),
        protocol: ends.protocol,
        pad: [0; 3],
    }
}

impl Default for Rig {
    fn default() -> Self {
        Self::new()
    }
}

/// As the agent tells programs of them.
fn values(links: &BTreeMap<String, Link>) -> BTreeMap<u32, DeviceValue> {
    let value = |link: &Link| {
        let address = |is_v6: bool| {
            let global = |address: &&IpAddr| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
            let own = link.addresses.iter().filter(global).find(|address| address.is_ipv6() == is_v6);
            own.map_or(Addr::UNSPECIFIED, |address| Addr::from(*address))
        };
        DeviceValue { v4: address(false), v6: address(true), mac: link.mac, flags: 0, pad: 0 }
    };
    let mut values: BTreeMap<u32, DeviceValue> =
        links.values().filter(|link| !link.is_loopback).map(|link| (link.index, value(link))).collect();
    values.insert(ANY_DEVICE, DeviceValue { mac: [0; 6], ..value(&links["eth0"]) });
    values
}
