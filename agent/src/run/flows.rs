//! A thread that looks into the maps each half minute. It keeps what the packet path remembers true: it forgets connections
//! that are over, UDP ones whose backend does not serve any more, and TCP ones that would escape rules. Apart from the
//! programming thread, for there may be many.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use anyhow::Result;
use sluice_common::{
    Reason,
    layout::{FLOW_REPLY, FlowKey, FlowValue, FrontendKey, HOOKS_OF_PODS},
};

use super::services::{Name, Services};
use crate::{
    flows::{Ledger, Removal, Serving, by_service, dialled, is_of_client, removal},
    health::Shared,
    maps::{
        Pins,
        bpf::{BpfMaps, Flows, counts, now_ns},
    },
};

/// How often it looks though nobody asks. Also makes up for a packet that was led to a backend as that went.
const EVERY: Duration = Duration::from_secs(30);

/// Longer than a program takes from the beginning of a connection to its entries.
const STORED_NS: u64 = 1_000_000_000;

/// How long it is told after it happened last that connections were forgotten.
const TOLD: Duration = Duration::from_secs(600);
const FORGOTTEN: &str = "flows/forgotten";

/// Starts the thread, which looks whenever it is sent something and begins with that: before, what the maps say of
/// Services may be nothing yet. What it is sent is what was dialled of connections that go, since rules hold for it. It ends
/// with the sender.
pub fn spawn(
    pins: Pins,
    shared: Arc<Shared>,
    mut services: Services,
) -> Result<mpsc::Sender<BTreeSet<FrontendKey>>> {
    // Programs of another version may have run that say nothing of what they begin.
    Flows::open(&pins)?.set_none_at_pods(0)?;
    let (sender, receiver) = mpsc::channel::<BTreeSet<FrontendKey>>();
    std::thread::Builder::new().name("flows".to_owned()).spawn(move || {
        let mut asked = receiver.recv().ok();
        let mut ledger = Ledger::default();
        let mut last = None;
        while let Some(mut ruled) = asked {
            // However often it was asked, one look answers.
            ruled.extend(receiver.try_iter().flatten());
            match sweep(&pins, &ruled, &mut ledger, &mut services) {
                Ok(swept) => {
                    tell_forgotten(&shared, swept.forgotten, &mut last);
                    shared.update(|state| {
                        for (removal, count) in swept.removed {
                            *state.flows_removed.entry(removal.name().to_owned()).or_default() += count;
                        }
                        state.flows_forgotten = swept.forgotten;
                        state.map_entries.insert("FLOWS".to_owned(), swept.left);
                        state.service_connections = swept.by_service;
                        state.service_bytes = swept.bytes;
                    });
                }
                Err(error) => tracing::warn!("connections that are over are still remembered: {error:#}"),
            }
            match counts(&pins) {
                Ok(counts) => shared.update(|state| {
                    state.map_entries.extend(counts.map(|(map, count)| (map.to_owned(), count)));
                }),
                Err(error) => tracing::warn!("how full maps are is not known: {error:#}"),
            }
            asked = match receiver.recv_timeout(EVERY) {
                Ok(ruled) => Some(ruled),
                Err(mpsc::RecvTimeoutError::Timeout) => Some(BTreeSet::new()),
                Err(mpsc::RecvTimeoutError::Disconnected) => None,
            };
        }
    })?;
    Ok(sender)
}

/// Tells that connections were forgotten, for as long as it matters; `last` is how many were when there were last more.
fn tell_forgotten(shared: &Shared, forgotten: u64, last: &mut Option<(u64, Instant)>) {
    if forgotten > last.map_or(0, |(count, _)| count) {
        *last = Some((forgotten, Instant::now()));
    }
    match last {
        Some((_, since)) if since.elapsed() < TOLD => {
            let text = format!(
                "{forgotten} connections through packets were forgotten for new ones since the agent started, the last \
                 {} s ago, for FLOWS was full: those that were still open break; raise --max-flows",
                since.elapsed().as_secs()
            );
            shared.warn(FORGOTTEN, text);
        }
        Some(_) | None => shared.clear(FORGOTTEN),
    }
}

/// What a look came to.
struct Swept {
    /// Connections, by why they went.
    removed: BTreeMap<Removal, u64>,
    /// Entries that are left.
    left: u64,
    /// Connections that the kernel forgot for new ones, since the first look.
    forgotten: u64,
    /// Connections by Service port, if they are wanted.
    by_service: BTreeMap<Name, u64>,
    /// Bytes that sockets sent and received, likewise.
    bytes: BTreeMap<Name, [u64; 2]>,
}

fn sweep(
    pins: &Pins,
    ruled: &BTreeSet<FrontendKey>,
    ledger: &mut Ledger,
    services: &mut Services,
) -> Result<Swept> {
    let now_ns = now_ns();
    let mut flows = Flows::open(pins)?;
    let maps = BpfMaps::open(pins)?;
    let begun_before = maps.count(Reason::FlowBegun)?;
    let entries = flows.all()?;
    let live = entries.iter().filter(|(_, flow)| is_of_client(flow)).count() as u64;
    let forgotten = ledger.look((begun_before, maps.count(Reason::FlowBegun)?), live);
    let has_any = entries.iter().any(|(_, flow)| flow.hooks & HOOKS_OF_PODS != 0);
    // What began within the last second may have been stored behind our back. Of what is there, programs of another version
    // may have said nothing.
    flows.set_none_at_pods(if has_any { 0 } else { now_ns.saturating_sub(STORED_NS) })?;
    // Read after the connections: who serves is then never older than the choice of a backend.
    let asked: BTreeSet<_> = entries.iter().filter_map(|(key, flow)| dialled(key, flow)).collect();
    let serving = Serving::new(maps.dump_of(&asked)?);
    let left = entries.len() as u64;
    let (by_service, bytes) =
        (services.connections(&maps, by_service(&entries, now_ns)), services.bytes(&maps));
    let mut swept = Swept { removed: BTreeMap::new(), left, forgotten, by_service, bytes };
    for (key, seen) in &entries {
        let Some(reason) = removal(key, seen, &serving, ruled, now_ns) else { continue };
        // A packet may have come since, and made another connection of it.
        let Some(flow) = flows.get(key) else { continue };
        if removal(key, &flow, &serving, ruled, now_ns) != Some(reason) {
            continue;
        }
        // The client's entry first: its next packet then finds another backend, whatever comes back meanwhile.
        flows.remove(key)?;
        swept.left -= 1;
        if is_of_client(&flow) {
            ledger.remove();
        }
        if flow.flags & FLOW_REPLY == 0 {
            *swept.removed.entry(reason).or_default() += 1;
        }
        if reason != Removal::Expired {
            swept.left -= u64::from(remove_reply(&mut flows, key, &flow)?);
        }
    }
    Ok(swept)
}

/// Removes the entry of the connection's replies, unless another connection has taken its place.
fn remove_reply(flows: &mut Flows, key: &FlowKey, flow: &FlowValue) -> Result<bool> {
    let reply = flow.peer(key.protocol);
    let is_ours = flows.get(&reply).is_some_and(|back| back.peer(key.protocol) == *key);
    if is_ours {
        flows.remove(&reply)?;
    }
    Ok(is_ours)
}
