//! The maps. Sizes are defaults: the loader sets them from the agent's flags and pins every map by its name.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{
        Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, SkStorage, SockMap,
    },
    macros::btf_map,
};
use sluice_common::{
    Addr,
    layout::{
        ANSWERS_CAPACITY, AffinityKey, AffinityValue, AnswersValue, BackendValue, CONFIG_CAPACITY,
        DEVICES_CAPACITY, DeviceValue, EVENTS_BYTES, EventValue, FlowKey, FlowValue, FragmentKey,
        FragmentValue, FrontendKey, FrontendValue, LISTENERS_CAPACITY, NodeValue, PathValue, PodValue,
        RevnatKey, RevnatValue, SCHEMAS_CAPACITY, ServiceValue, SlotValue, SocketValue, SourceRangeKey,
    },
    reason,
};

use crate::packet::Work;

// Entries come and go with the cluster: memory by need, not by the limit.
const BY_NEED: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub static FRONTENDS: HashMap<FrontendKey, FrontendValue, 65_536, BY_NEED> = HashMap::new();

#[btf_map]
pub static SLOTS: Array<SlotValue, 262_144> = Array::new();

#[btf_map]
pub static BACKENDS: Array<BackendValue, 131_072> = Array::new();

/// Written for people and for the next agent; programs read the cluster IP of services with rules.
#[btf_map]
pub static SERVICES: HashMap<u32, ServiceValue, 65_536, BY_NEED> = HashMap::new();

/// Written for people and for the next agent; no program reads it.
#[btf_map]
pub static NODES: HashMap<u32, NodeValue, 16_384, BY_NEED> = HashMap::new();

/// Whose an endpoint's address is. Written for people; no program reads it.
#[btf_map]
pub static PODS: HashMap<Addr, PodValue, 131_072, BY_NEED> = HashMap::new();

/// What an address is: the node's own, where NodePorts are served, or a cluster IP.
#[btf_map]
pub static ADDRESSES: HashMap<Addr, u32, 65_536, BY_NEED> = HashMap::new();

/// Numbers for all programs, at the indices `CONFIG_*`.
#[btf_map]
pub static CONFIG: Array<u64, { CONFIG_CAPACITY as usize }> = Array::new();

/// Network namespaces, by cookie, whose sockets are left alone.
#[btf_map]
pub static OPT_OUTS: HashMap<u64, PodValue, 4_096, BY_NEED> = HashMap::new();

/// Ports that the agent reserved on this node; no program reads it.
#[btf_map]
pub static RESERVED: HashMap<u32, u32, 65_536, BY_NEED> = HashMap::new();

/// What the bytes of a map mean, by its id; no program reads it.
#[btf_map]
pub static SCHEMAS: HashMap<u32, u32, { SCHEMAS_CAPACITY as usize }, BY_NEED> = HashMap::new();

#[btf_map]
pub static UDP_REVNAT: LruHashMap<RevnatKey, RevnatValue, 65_536> = LruHashMap::new();

#[btf_map]
pub static AFFINITY: LruHashMap<AffinityKey, AffinityValue, 65_536> = LruHashMap::new();

#[btf_map]
pub static SOCKETS: SkStorage<SocketValue> = SkStorage::new();

/// The redirector's listeners: IPv4 at twice the worker's number, IPv6 after it. A listener that is closed leaves.
#[btf_map]
pub static LISTENERS: SockMap<{ LISTENERS_CAPACITY as usize }> = SockMap::new();

/// Entry 0: when the redirector last said that it is well, ns of `CLOCK_MONOTONIC`; it writes here without a system call.
#[btf_map]
pub static HEARTBEAT: Array<u64, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Connections of the packet path, one entry for each direction.
#[btf_map]
pub static FLOWS: LruHashMap<FlowKey, FlowValue, 131_072> = LruHashMap::new();

/// Ports of datagrams in pieces.
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue, 8_192> = LruHashMap::new();

/// Pods to which tunnels have less room than their first link, by what routers on the way said.
#[btf_map]
pub static PATHS: LruHashMap<Addr, PathValue, 4_096> = LruHashMap::new();

/// The node's devices, by interface index.
#[btf_map]
pub static DEVICES: HashMap<u32, DeviceValue, { DEVICES_CAPACITY as usize }, BY_NEED> = HashMap::new();

/// The networks of a service's clients, and those of cluster IPs.
#[btf_map]
pub static SOURCE_RANGES: LpmTrie<SourceRangeKey, u32, 16_384> = LpmTrie::new();

/// What each CPU may still answer.
#[btf_map]
pub static ANSWERS: PerCpuArray<AnswersValue, { ANSWERS_CAPACITY as usize }> = PerCpuArray::new();

/// What a packet under way leaves nothing behind in; not pinned.
#[btf_map]
pub static WORK: PerCpuArray<Work, 1> = PerCpuArray::new();

#[btf_map]
pub static REASONS: PerCpuArray<u64, { reason::CAPACITY as usize }> = PerCpuArray::new();

/// What sockets have sent to service ports and received from them, in bytes, where that is counted; not pinned.
#[btf_map]
pub static SERVICE_BYTES: PerCpuHashMap<u32, [u64; 2], 65_536, BY_NEED> = PerCpuHashMap::new();

/// What hooks tell whoever watches.
#[btf_map]
pub static EVENTS: RingBuf<EventValue, { EVENTS_BYTES as usize }> = RingBuf::new();
