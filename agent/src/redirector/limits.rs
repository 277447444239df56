//! How many connections each client has, over all workers. Looked at when connections come and go only.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// Open connections by client.
#[derive(Default, Debug)]
pub struct Clients(Mutex<HashMap<IpAddr, u32>>);

/// A connection that counts until this is dropped.
#[derive(Debug)]
pub struct Place {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Clients {
    /// A place for one more connection of `client`; `None` when it has `limit` already.
    pub fn enter(self: &Arc<Self>, client: IpAddr, limit: u32) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Place { clients: self.clone(), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_so_many_places() {
        let clients = Arc::new(Clients::default());
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = clients.enter(a, 1);
        assert!(first.is_some());
        assert!(clients.enter(a, 1).is_none(), "second of the same client");
        assert!(clients.enter(b, 1).is_some(), "another client");
        drop(first);
        assert!(clients.enter(a, 1).is_some(), "after the first has gone");
        assert!(clients.0.lock().unwrap().is_empty());
    }
}
