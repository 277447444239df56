//! What each client has open, over all workers: connections and requests. A pod is one client, whatever its addresses.

use std::{
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

/// What is open by client. Looked at when connections come and go only.
#[derive(Default, Debug)]
pub struct Clients(Mutex<HashMap<IpAddr, Usage>>);

#[derive(Debug)]
struct Usage {
    connections: u32,
    /// Shared with the connections, so that a request needs no lock.
    requests: Arc<AtomicU32>,
}

/// A connection that counts until this is dropped.
#[derive(Debug)]
pub struct Place {
    clients: Arc<Clients>,
    client: IpAddr,
    requests: Arc<AtomicU32>,
}

/// A request, or a tunnel that one became, that counts until this is dropped; so does its connection.
#[derive(Debug)]
pub struct RequestPlace(Rc<Place>);

impl Clients {
    /// A place for one more connection of `client`; `None` when it has `limit` already.
    pub fn enter(self: &Arc<Self>, client: IpAddr, limit: u32) -> Option<Place> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let usage = all.entry(client).or_insert_with(|| Usage { connections: 0, requests: Arc::default() });
        if usage.connections >= limit {
            return None;
        }
        usage.connections += 1;
        Some(Place { clients: self.clone(), client, requests: usage.requests.clone() })
    }
}

impl Place {
    /// A place for one more request of the client; `None` when it has `limit` already.
    pub fn request(self: &Rc<Self>, limit: u32) -> Option<RequestPlace> {
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        let place = RequestPlace(self.clone());
        (before < limit).then_some(place)
    }
}

impl Drop for RequestPlace {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(usage) = all.get_mut(&self.client) {
            usage.connections = usage.connections.saturating_sub(1);
            if usage.connections == 0 {
                all.remove(&self.client);
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

    #[test]
    fn requests_of_all_connections_of_a_client_count_together() {
        let clients = Arc::new(Clients::default());
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let enter = |client| Rc::new(clients.enter(client, 9).unwrap());
        let (one, two, other) = (enter(a), enter(a), enter(b));
        let first = one.request(2);
        let second = two.request(2);
        assert!(first.is_some() && second.is_some());
        assert!(one.request(2).is_none() && two.request(2).is_none(), "a third, of either connection");
        assert!(other.request(2).is_some(), "another client's");
        drop(first);
        assert!(two.request(2).is_some(), "after one has ended, and those refused do not count");
        drop((one, two, other));
        assert_eq!(clients.0.lock().unwrap().len(), 1, "a request keeps its connection's place");
        drop(second);
        assert!(clients.0.lock().unwrap().is_empty());
    }
}
