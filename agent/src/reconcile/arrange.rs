//! What stands in a port's range: each endpoint once or by its weight, or Maglev tables where they are wanted and fit.

use sluice_common::layout::SlotValue;

use super::{
    Outcome, Reconciler,
    encode::{self, Order},
};
use crate::compile::{CompiledPort, maglev};

/// Of all slots, this part is no table's: a Service that is chosen for by chance must always fit.
const KEPT_FROM_TABLES: u32 = 4;

impl Reconciler {
    /// The port's slots and their order. What keeps a table out is noted in `outcome`: the port is served all the same, by
    /// chance, as it was before.
    pub(super) fn arrange(
        &self,
        port: &CompiledPort,
        (service_id, backend_ids): (u32, &[u32]),
        outcome: &mut Outcome,
    ) -> (Order, Vec<SlotValue>) {
        if port.maglev {
            match self.tables_of(port, service_id, backend_ids) {
                Ok(found) => return found,
                Err(why) => {
                    outcome.without_table.entry(port.id.service.clone()).or_insert(why);
                }
            }
        }
        let order = Order::of(port, backend_ids);
        let slots = encode::slots(port, &order, service_id, backend_ids);
        (order, slots)
    }

    fn tables_of(
        &self,
        port: &CompiledPort,
        service_id: u32,
        backend_ids: &[u32],
    ) -> Result<(Order, Vec<SlotValue>), String> {
        let too_many = || {
            format!(
                "a Maglev table has room for {} endpoints; they are chosen at random",
                maglev::MOST_ENDPOINTS
            )
        };
        let order = Order::maglev(port).ok_or_else(too_many)?;
        let slots = encode::slots(port, &order, service_id, backend_ids);
        let now = self.units.get(&port.id).map_or(&[][..], |unit| &unit.current.slots);
        let (needed, free, capacity) = (slots.len() as u32, self.slots.free(), self.slots.capacity());
        // Single endpoints take no more room than without a table; and who has one keeps having one, the old one resting.
        let is_small = |slots: &[SlotValue]| slots.len() <= port.endpoints.len() * 2;
        let spares = !is_small(now) || free.saturating_sub(needed) >= capacity / KEPT_FROM_TABLES;
        if now == slots || is_small(&slots) || (spares && self.slots.fits(needed)) {
            return Ok((order, slots));
        }
        Err(format!(
            "its Maglev table needs {needed} slots, and {free} of {capacity} are free, a quarter of which tables leave to \
             others: endpoints are chosen at random; raise --max-slots"
        ))
    }
}
