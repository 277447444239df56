//! Taking over maps that an earlier agent filled: ids and ranges in use stay what they are. What is damaged is
//! not trusted: it is written anew, and `purge` removes the rest.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sluice_common::layout::{BackendValue, NO_BACKEND, Name, NodeValue, ServiceValue, SlotValue};

use super::{
    Placed, Reconciler, Unit,
    addresses::Addresses,
    encode::port_id,
    interner::Interner,
    ranges::{Ids, Range, Ranges},
};
use crate::{
    compile::Claims,
    maps::{Sizes, Tables},
};

pub fn adopt(actual: Tables, sizes: Sizes) -> Reconciler {
    let mut reconciler = Reconciler {
        frontends_of: HashMap::new(),
        units: BTreeMap::new(),
        by_service: BTreeMap::new(),
        claims: Claims::default(),
        service_ids: Ids::new(sizes.max_services),
        // Arrays: the capacity counts entry 0, which is never used.
        backends: Interner::new(sizes.max_backends - 1),
        nodes: Interner::new(sizes.max_nodes),
        slots: Ranges::new(sizes.max_slots),
        sizes,
        writes: 0,
        node_ports_changed: true,
        addresses: Addresses::adopt(actual.addresses.keys().copied()),
        own: None,
        gone: Vec::new(),
        udp_left: false,
        actual,
    };
    for (key, value) in &reconciler.actual.frontends {
        reconciler.frontends_of.entry(value.service_id).or_default().insert(*key);
        reconciler.addresses.note(key, None, Some(value));
    }
    for (id, value) in in_order(&reconciler.actual.nodes) {
        reconciler.nodes.adopt(id, value);
    }
    for (id, value) in in_order(&reconciler.actual.backends) {
        if value.node_id != 0 && !reconciler.nodes.has(value.node_id) {
            // Its id stays taken as long as backends name it; no endpoint is on a node of such a name.
            let name = Name::new(&format!("?{}", value.node_id));
            reconciler.nodes.adopt(value.node_id, NodeValue { name, zone: Name::new("") });
        }
        reconciler.backends.adopt(id, value);
    }
    for (service_id, value) in in_order(&reconciler.actual.services) {
        adopt_unit(&mut reconciler, service_id, &value);
    }
    let placed = reconciler.units.values().flat_map(|unit| unit.stale.iter().chain([&unit.current]));
    let used: BTreeSet<u32> =
        placed.flat_map(|placed| placed.range.start..placed.range.start + placed.range.count).collect();
    reconciler.gone = orphans(&reconciler);
    reconciler.actual.slots.retain(|index, _| used.contains(index));
    reconciler.backends.rest_unreferred(0);
    reconciler.nodes.rest_unreferred(0);
    reconciler
}

/// Backends that nobody names any more: an agent may have died before it told their sockets. Who had them last, and
/// whether that Service is still there, stands in slots that nobody has used again since.
fn orphans(reconciler: &Reconciler) -> Vec<(u32, BackendValue, bool)> {
    let actual = &reconciler.actual;
    let staying = actual.slots.values().filter(|slot| actual.services.contains_key(&slot.service_id));
    let staying: BTreeSet<u32> = staying.map(|slot| slot.backend_id).collect();
    let unused = actual.backends.iter().filter(|(id, _)| reconciler.backends.is_unreferred(**id));
    unused.map(|(id, backend)| (*id, *backend, staying.contains(id))).collect()
}

fn adopt_unit(reconciler: &mut Reconciler, service_id: u32, value: &ServiceValue) {
    let Some(id) = port_id(value).filter(|id| !reconciler.units.contains_key(id)) else {
        return;
    };
    if !reconciler.service_ids.reserve(service_id) {
        return;
    }
    let current =
        placed(reconciler, service_id, Range { start: value.range_start, count: value.range_count });
    reconciler.refer(&current.slots);
    let stale = named_by_frontends(reconciler, service_id, current.range);
    reconciler.by_service.entry(id.service.clone()).or_default().push(id.clone());
    reconciler.units.insert(id, Unit { service_id, current, stale, ..Unit::default() });
}

/// The ranges that the service's frontends still name and that are not `current`: an agent died between writing the
/// service and switching its frontends. They are taken, so that nobody writes there, until the frontends are switched.
fn named_by_frontends(reconciler: &mut Reconciler, service_id: u32, current: Range) -> Vec<Placed> {
    let mut named = BTreeSet::new();
    for key in reconciler.frontends_of.get(&service_id).into_iter().flatten() {
        if let Some(value) = reconciler.actual.frontends.get(key) {
            named.extend(value.cluster_start..value.cluster_start.saturating_add(value.cluster_count));
            named.extend(value.local_start..value.local_start.saturating_add(value.local_count));
        }
    }
    let elsewhere =
        named.into_iter().filter(|index| !(current.start..current.start + current.count).contains(index));
    let mut stale = Vec::new();
    for index in elsewhere.collect::<Vec<_>>() {
        let range = Range { start: index, count: 1 };
        let slot = reconciler.actual.slots.get(&index).copied().filter(|slot| slot.service_id == service_id);
        if reconciler.slots.reserve(range) {
            let slots: Vec<SlotValue> =
                slot.filter(|slot| reconciler.backends.has(slot.backend_id)).into_iter().collect();
            reconciler.refer(&slots);
            stale.push(Placed { range, slots });
        }
    }
    stale
}

/// The slots of `range` if all of them are there, belong to the service and name backends; else nothing.
fn placed(reconciler: &mut Reconciler, service_id: u32, range: Range) -> Placed {
    if range.end() > u64::from(reconciler.slots.capacity()) {
        return Placed::default();
    }
    let indices = range.start..range.start + range.count;
    let slots: Option<Vec<SlotValue>> = indices
        .map(|index| {
            let slot = reconciler.actual.slots.get(&index).copied();
            slot.filter(|slot| {
                let known = slot.backend_id == NO_BACKEND || reconciler.backends.has(slot.backend_id);
                slot.service_id == service_id && known
            })
        })
        .collect();
    match slots {
        Some(slots) if reconciler.slots.reserve(range) => Placed { range, slots },
        Some(_) | None => Placed::default(),
    }
}

fn in_order<V: Copy>(map: &HashMap<u32, V>) -> BTreeMap<u32, V> {
    map.iter().map(|(id, value)| (*id, *value)).collect()
}

#[cfg(test)]
mod tests {
    use sluice_common::{Addr, layout::BackendValue};

    use super::*;

    #[test]
    fn the_id_of_a_node_that_is_not_there_is_nobody_elses_while_backends_name_it() {
        let addr = Addr::from(std::net::IpAddr::from([10, 0, 0, 1]));
        let backend = BackendValue { addr, port_be: 80, pad: 0, node_id: 1 };
        let tables = Tables { backends: HashMap::from([(1, backend)]), ..Tables::default() };
        let mut reconciler = adopt(tables, Sizes::default());
        let node = NodeValue { name: Name::new("node-1"), zone: Name::new("") };
        assert_eq!(reconciler.nodes.id_of(node), Some(2));
        let grace = super::super::GRACE_NS;
        assert_eq!((reconciler.backends.expired(grace), reconciler.nodes.expired(grace)), (vec![1], vec![1]));
    }
}
