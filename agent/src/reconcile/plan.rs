//! The writes of one service port, and those that remove what nobody wants.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{Held, Outcome, Placed, Reconciler, Unit, encode, ranges::Range};
use sluice_common::{
    Addr,
    layout::{EndpointState, SERVICE_CIDRS, SlotValue, SourceRangeKey},
};

use crate::{
    compile::{CompiledPort, Dialled, PortId},
    maps::{Op, WriteError, Writer},
    model::{ObjectName, Protocol},
};

impl Reconciler {
    /// Puts a Service's ports in. Where a map is full, what the Service itself should not have any more makes room for what it
    /// should, and those of its ports that failed are tried once more.
    pub(super) fn put_all(
        &mut self,
        writer: &mut impl Writer,
        name: &ObjectName,
        ports: Vec<CompiledPort>,
        now_ns: u64,
        outcome: &mut Outcome,
    ) -> Result<(), WriteError> {
        let ids: Vec<PortId> = ports.iter().map(|port| port.id.clone()).collect();
        let (mut result, mut full) = (Ok(()), Vec::new());
        for port in ports {
            match self.put(writer, &port, now_ns, outcome) {
                Err(WriteError::Full { .. }) => full.push(port.clone()),
                other => result = result.and(other),
            }
            self.note_compiled(port);
        }
        if !full.is_empty() {
            result = result.and(self.make_room(writer, name, &ids, now_ns));
        }
        for port in full {
            result = result.and(self.put(writer, &port, now_ns, outcome));
            self.note_compiled(port);
        }
        result
    }

    fn note_compiled(&mut self, port: CompiledPort) {
        if let Some(unit) = self.units.get_mut(&port.id) {
            unit.compiled = Some(port);
        }
    }

    /// Removes what the Service itself should not have, before all is in that it should. Ranges that frontends may name stay,
    /// and so does what another Service has won.
    fn make_room(
        &mut self,
        writer: &mut impl Writer,
        name: &ObjectName,
        wanted: &[PortId],
        now_ns: u64,
    ) -> Result<(), WriteError> {
        for id in self.by_service.get(name).cloned().unwrap_or_default() {
            let keep = wanted.contains(&id);
            self.remove_frontends(writer, &id, keep, |_| true)?;
            if !keep {
                self.remove_unit(writer, &id, now_ns)?;
                continue;
            }
            let Some(unit) = self.units.get(&id) else { continue };
            let ranges = unit.compiled.as_ref().map(|port| encode::source_ranges(port, unit.service_id));
            self.remove_source_ranges(writer, unit.service_id, &ranges.unwrap_or_default())?;
        }
        Ok(())
    }

    /// Puts a service port in. Safe to repeat after a failure: what is in already is not written again.
    pub(super) fn put(
        &mut self,
        writer: &mut impl Writer,
        port: &CompiledPort,
        now_ns: u64,
        outcome: &mut Outcome,
    ) -> Result<(), WriteError> {
        let service_id = self.unit_of(&port.id)?;

        let earlier = self.units.get_mut(&port.id).map(|unit| std::mem::take(&mut unit.held));
        let backend_ids = self.put_backends(writer, port);
        self.let_go(earlier.unwrap_or_default(), now_ns);
        let backend_ids = backend_ids?;
        let (order, slots) = self.arrange(port, (service_id, &backend_ids), outcome);
        self.udp_left |= port.protocol == Protocol::Udp && self.loses_backend(&port.id, &slots);
        let range = self.range_for(&port.id, &slots, now_ns)?;
        for (index, slot) in (range.start..).zip(&slots) {
            self.write(writer, &Op::PutSlot(index, *slot))?;
        }
        self.write(writer, &Op::PutService(service_id, encode::service_value(port, range)))?;
        // Who is admitted is known before anybody is, and nobody is put out before the frontends are as they should be.
        let ranges = encode::source_ranges(port, service_id);
        for (key, prefix) in &ranges {
            self.write(writer, &Op::PutSourceRange(*key, *prefix))?;
        }
        for (dialled, frontend) in &port.frontends {
            match self.claims.owner(dialled) {
                Some(owner) if *owner != port.id.service => {
                    outcome.conflicts.push((port.id.service.clone(), *dialled, owner.clone()));
                }
                Some(_) | None => {
                    let key = encode::frontend_key(dialled);
                    let value = encode::frontend_value(&key, port, frontend, &order, service_id, range);
                    self.write(writer, &Op::PutFrontend(key, value))?;
                }
            }
        }
        self.remove_source_ranges(writer, service_id, &ranges)?;
        if let Some(unit) = self.units.get_mut(&port.id) {
            let held = std::mem::take(&mut unit.held);
            self.let_go(held, now_ns);
        }
        Ok(())
    }

    /// The service id of `id`, given out if it is new.
    fn unit_of(&mut self, id: &PortId) -> Result<u32, WriteError> {
        if let Some(unit) = self.units.get(id) {
            return Ok(unit.service_id);
        }
        let full =
            WriteError::Full { map: "SERVICES", capacity: self.sizes.max_services, flag: "--max-services" };
        let service_id = self.service_ids.allocate().ok_or(full)?;
        self.units.insert(id.clone(), Unit { service_id, ..Unit::default() });
        self.by_service.entry(id.service.clone()).or_default().push(id.clone());
        Ok(service_id)
    }

    fn let_go(&mut self, held: Held, now_ns: u64) {
        for id in held.backends {
            self.backends.unrefer(id, now_ns);
        }
        for id in held.nodes {
            self.nodes.unrefer(id, now_ns);
        }
    }

    /// Notes in the unit that a put needs these ids, until it succeeds.
    fn hold(&mut self, id: &PortId, backend: Option<u32>, node: Option<u32>) {
        backend.into_iter().for_each(|id| self.backends.refer(id));
        node.into_iter().for_each(|id| self.nodes.refer(id));
        if let Some(unit) = self.units.get_mut(id) {
            unit.held.backends.extend(backend);
            unit.held.nodes.extend(node);
        }
    }

    /// Puts nodes and backends in; returns the backend id of each endpoint.
    fn put_backends(
        &mut self,
        writer: &mut impl Writer,
        port: &CompiledPort,
    ) -> Result<Vec<u32>, WriteError> {
        let mut ids = Vec::with_capacity(port.endpoints.len());
        for endpoint in &port.endpoints {
            let node_id = match encode::node_value(endpoint) {
                None => 0,
                Some(node) => {
                    let capacity = self.nodes.capacity();
                    let full = WriteError::Full { map: "NODES", capacity, flag: "--max-nodes" };
                    let id = self.nodes.id_of(node).ok_or(full)?;
                    self.hold(&port.id, None, Some(id));
                    self.write(writer, &Op::PutNode(id, node))?;
                    id
                }
            };
            let capacity = self.backends.capacity();
            let full = WriteError::Full { map: "BACKENDS", capacity, flag: "--max-backends" };
            let value = encode::backend_value(endpoint, node_id);
            let id = self.backends.id_of(value).ok_or(full)?;
            self.hold(&port.id, Some(id), None);
            self.write(writer, &Op::PutBackend(id, value))?;
            ids.push(id);
        }
        Ok(ids)
    }

    /// Whether with `slots` some backend does not serve any more that does now.
    fn loses_backend(&self, id: &PortId, slots: &[SlotValue]) -> bool {
        let serves = |slot: &&SlotValue| slot.state != EndpointState::NotReady as u8;
        let stay: BTreeSet<u32> = slots.iter().filter(serves).map(|slot| slot.backend_id).collect();
        let now = self.units.get(id).into_iter().flat_map(|unit| &unit.current.slots);
        now.filter(serves).any(|slot| !stay.contains(&slot.backend_id))
    }

    /// The range for `slots`: the present one if it is theirs already, else a new one.
    /// The old one is kept as long as anybody may be led there.
    fn range_for(&mut self, id: &PortId, slots: &[SlotValue], now_ns: u64) -> Result<Range, WriteError> {
        let Some(unit) = self.units.get_mut(id) else {
            return Ok(Range::default());
        };
        if unit.current.slots == slots {
            return Ok(unit.current.range);
        }
        let capacity = self.slots.capacity();
        let full = WriteError::Full { map: "SLOTS", capacity, flag: "--max-slots" };
        let range = self.slots.allocate(slots.len() as u32).ok_or(full)?;
        let old = std::mem::replace(&mut unit.current, Placed { range, slots: slots.to_vec() });
        unit.stale.push(old);
        self.refer(slots);
        self.retire_unnamed(id, now_ns);
        Ok(range)
    }

    /// Lets ranges rest that nothing in the maps names any more: a put that fails again and again, each time with other
    /// endpoints, must not keep a range for each try.
    fn retire_unnamed(&mut self, id: &PortId, now_ns: u64) {
        let Some(unit) = self.units.get_mut(id) else { return };
        let (service_id, stale) = (unit.service_id, std::mem::take(&mut unit.stale));
        let (kept, gone): (Vec<_>, Vec<_>) =
            stale.into_iter().partition(|placed| self.is_named(service_id, placed.range));
        if let Some(unit) = self.units.get_mut(id) {
            unit.stale = kept;
        }
        gone.into_iter().for_each(|placed| self.retire(placed, now_ns, true));
    }

    /// Whether the maps lead into `range` from the service or from one of its frontends.
    fn is_named(&self, service_id: u32, range: Range) -> bool {
        // By numbers that cannot overflow: a damaged map may say anything.
        let meets = |start: u32, count: u32| {
            u64::from(start) < range.end() && u64::from(range.start) < u64::from(start) + u64::from(count)
        };
        let frontends = self.frontends_of.get(&service_id).into_iter().flatten();
        let named = frontends.filter_map(|key| self.actual.frontends.get(key)).any(|value| {
            meets(value.cluster_start, value.cluster_count) || meets(value.local_start, value.local_count)
        });
        let service = self.actual.services.get(&service_id);
        named || service.is_some_and(|value| meets(value.range_start, value.range_count))
    }

    /// Counts one reference for each slot.
    pub(super) fn refer(&mut self, slots: &[SlotValue]) {
        for slot in slots {
            self.backends.refer(slot.backend_id);
            if let Some(backend) = self.actual.backends.get(&slot.backend_id) {
                self.nodes.refer(backend.node_id);
            }
        }
    }

    /// Removes the frontends and ports of `name` that are not `wanted`, and lets old ranges rest.
    pub(super) fn remove_unwanted(
        &mut self,
        writer: &mut impl Writer,
        name: &ObjectName,
        wanted: &[PortId],
        now_ns: u64,
        failed: &BTreeMap<ObjectName, WriteError>,
    ) -> Result<(), WriteError> {
        for id in self.by_service.get(name).cloned().unwrap_or_default() {
            let keep = wanted.contains(&id);
            self.remove_frontends(writer, &id, keep, |winner| failed.contains_key(winner))?;
            if keep {
                self.retire_stale(&id, now_ns);
            } else {
                self.remove_unit(writer, &id, now_ns)?;
            }
        }
        Ok(())
    }

    /// Removes the port's frontends that it should not have. What a failed Service has won but not taken over yet
    /// stays with the loser, for one that answers is better than none.
    fn remove_frontends(
        &mut self,
        writer: &mut impl Writer,
        id: &PortId,
        keep: bool,
        has_failed: impl Fn(&ObjectName) -> bool,
    ) -> Result<(), WriteError> {
        let Some(unit) = self.units.get(id) else { return Ok(()) };
        let stays = |dialled: &&Dialled| {
            let owner = self.claims.owner(dialled);
            owner.is_none_or(|owner| *owner == id.service || has_failed(owner))
        };
        let ports = unit.compiled.iter().filter(|_| keep);
        let desired: BTreeSet<_> =
            ports.flat_map(|port| port.frontends.keys()).filter(stays).map(encode::frontend_key).collect();
        let present = self.frontends_of.get(&unit.service_id).into_iter().flatten();
        let unwanted: BTreeSet<_> = present.filter(|key| !desired.contains(key)).copied().collect();
        for key in unwanted {
            self.write(writer, &Op::DeleteFrontend(key))?;
        }
        Ok(())
    }

    fn remove_unit(&mut self, writer: &mut impl Writer, id: &PortId, now_ns: u64) -> Result<(), WriteError> {
        let Some(service_id) = self.units.get(id).map(|unit| unit.service_id) else { return Ok(()) };
        self.write(writer, &Op::DeleteService(service_id))?;
        self.remove_source_ranges(writer, service_id, &BTreeSet::new())?;
        let Some(unit) = self.units.remove(id) else { return Ok(()) };
        for placed in unit.stale.into_iter().chain([unit.current]) {
            self.retire(placed, now_ns, false);
        }
        self.let_go(unit.held, now_ns);
        self.service_ids.rest(service_id, now_ns);
        if let Some(ids) = self.by_service.get_mut(&id.service) {
            ids.retain(|other| other != id);
            if ids.is_empty() {
                self.by_service.remove(&id.service);
            }
        }
        Ok(())
    }

    /// Makes these the networks that cluster IPs are taken from.
    ///
    /// # Errors
    /// A write failed; it is safe to call again.
    pub fn set_service_cidrs(
        &mut self,
        writer: &mut impl Writer,
        networks: &BTreeSet<IpNet>,
    ) -> Result<(), WriteError> {
        let wanted: BTreeSet<_> =
            networks.iter().map(|network| encode::source_range(SERVICE_CIDRS, network)).collect();
        for (key, prefix) in &wanted {
            self.write(writer, &Op::PutSourceRange(*key, *prefix))?;
        }
        self.remove_source_ranges(writer, SERVICE_CIDRS, &wanted)
    }

    /// Removes the service's source ranges but for `keep`.
    fn remove_source_ranges(
        &mut self,
        writer: &mut impl Writer,
        service_id: u32,
        keep: &BTreeSet<(SourceRangeKey, u32)>,
    ) -> Result<(), WriteError> {
        let first = SourceRangeKey { service_id, addr: Addr::UNSPECIFIED };
        let own = self.actual.source_ranges.range((first, 0)..);
        let own = own.take_while(|(key, _)| key.service_id == service_id);
        let unwanted: Vec<_> = own.filter(|range| !keep.contains(range)).copied().collect();
        for (key, prefix) in unwanted {
            self.write(writer, &Op::DeleteSourceRange(key, prefix))?;
        }
        Ok(())
    }

    fn retire_stale(&mut self, id: &PortId, now_ns: u64) {
        let stale = self.units.get_mut(id).map(|unit| std::mem::take(&mut unit.stale));
        for placed in stale.unwrap_or_default() {
            self.retire(placed, now_ns, true);
        }
    }

    /// Lets a range rest that no frontend names any more, and its backends if nobody else uses them.
    fn retire(&mut self, placed: Placed, now_ns: u64, service_stays: bool) {
        for (index, slot) in (placed.range.start..).zip(&placed.slots) {
            self.actual.slots.remove(&index);
            let last = self.backends.unrefer(slot.backend_id, now_ns);
            if let Some(backend) = self.actual.backends.get(&slot.backend_id) {
                self.nodes.unrefer(backend.node_id, now_ns);
                if last {
                    self.gone.push((slot.backend_id, *backend, service_stays));
                }
            }
        }
        self.slots.rest(placed.range, now_ns);
    }
}
