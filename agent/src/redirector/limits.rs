//! What each client has open, over all workers: connections and requests. A pod is one client, whatever its addresses.
//!
//! There is room for so many of all clients together, and nobody has more than is left for the others: one that takes what it can
//! gets half, the next one half of the rest. So whoever comes then with a few finds room.

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
pub struct Clients {
    connections: Mutex<Connections>,
    /// Of all clients.
    requests: AtomicU32,
}

#[derive(Default, Debug)]
struct Connections {
    by_client: HashMap<IpAddr, Usage>,
    all: u32,
}

#[derive(Debug)]
struct Usage {
    connections: u32,
    /// Shared with the connections, so that a request needs no lock.
    requests: Arc<AtomicU32>,
}

/// How many there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    /// Of one client.
    pub each: u32,
    /// Of all together.
    pub all: u32,
}

/// What there is too much of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Excess {
    /// The client's own.
    Client,
    /// Of all clients: what is left is others'.
    All,
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

impl Limit {
    /// Whether a client that has `own` may have one more where there are `all`.
    const fn admits(self, own: u32, all: u32) -> Result<(), Excess> {
        if own >= self.each {
            return Err(Excess::Client);
        }
        if own >= self.all.saturating_sub(all) { Err(Excess::All) } else { Ok(()) }
    }
}

impl Clients {
    /// A place for one more connection of `client`.
    ///
    /// # Errors
    /// There are too many of what it says.
    pub fn enter(self: &Arc<Self>, client: IpAddr, limit: Limit) -> Result<Place, Excess> {
        let mut all = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.by_client.get(&client).map_or(0, |usage| usage.connections);
        limit.admits(own, all.all)?;
        all.all += 1;
        let usage = all.by_client.entry(client);
        let usage = usage.or_insert_with(|| Usage { connections: 0, requests: Arc::default() });
        usage.connections += 1;
        Ok(Place { clients: self.clone(), client, requests: usage.requests.clone() })
    }
}

impl Place {
    /// A place for one more request of the client.
    ///
    /// # Errors
    /// There are too many of what it says.
    pub fn request(self: &Rc<Self>, limit: Limit) -> Result<RequestPlace, Excess> {
        let own = self.requests.fetch_add(1, Ordering::Relaxed);
        let all = self.clients.requests.fetch_add(1, Ordering::Relaxed);
        // One that is refused gives its place back at once.
        let place = RequestPlace(self.clone());
        limit.admits(own, all).map(|()| place)
    }
}

impl Drop for RequestPlace {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
        self.0.clients.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.clients.connections.lock().unwrap_or_else(PoisonError::into_inner);
        all.all = all.all.saturating_sub(1);
        if let Some(usage) = all.by_client.get_mut(&self.client) {
            usage.connections = usage.connections.saturating_sub(1);
            if usage.connections == 0 {
                all.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: u32 = 1_000;

    fn client(number: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        [10, 0, high, low].into()
    }

    fn each(each: u32) -> Limit {
        Limit { each, all: MANY }
    }

    #[test]
    fn a_client_has_so_many_places() {
        let clients = Arc::new(Clients::default());
        let (a, b) = (client(1), client(2));
        let first = clients.enter(a, each(1));
        assert!(first.is_ok());
        assert_eq!(clients.enter(a, each(1)).err(), Some(Excess::Client), "second of the same client");
        assert!(clients.enter(b, each(1)).is_ok(), "another client");
        drop(first);
        assert!(clients.enter(a, each(1)).is_ok(), "after the first has gone");
        let connections = clients.connections.lock().unwrap();
        assert!(connections.by_client.is_empty() && connections.all == 0);
    }

    #[test]
    fn whoever_comes_next_finds_room_where_some_take_what_they_can() {
        let clients = Arc::new(Clients::default());
        let limit = Limit { each: MANY, all: MANY };
        let mut held = Vec::new();
        for greedy in 1..=8 {
            let before = held.len();
            let refused = loop {
                match clients.enter(client(greedy), limit) {
                    Ok(place) => held.push(place),
                    Err(excess) => break excess,
                }
            };
            assert_eq!(refused, Excess::All);
            let own = held.len() - before;
            assert!((1..=500).contains(&own), "client {greedy} has {own}");
        }
        let first = held.iter().filter(|place| place.client == client(1)).count();
        assert_eq!(first, 500, "one that is alone has half");
        held.push(clients.enter(client(9), limit).unwrap());
        held.clear();
        assert_eq!(clients.connections.lock().unwrap().all, 0);
    }

    #[test]
    fn requests_of_all_connections_of_a_client_count_together() {
        let clients = Arc::new(Clients::default());
        let (a, b) = (client(1), client(2));
        let enter = |client| Rc::new(clients.enter(client, each(9)).unwrap());
        let (one, two, other) = (enter(a), enter(a), enter(b));
        let first = one.request(each(2));
        let second = two.request(each(2));
        assert!(first.is_ok() && second.is_ok());
        for connection in [&one, &two] {
            assert_eq!(
                connection.request(each(2)).err(),
                Some(Excess::Client),
                "a third, of either connection"
            );
        }
        assert!(other.request(each(2)).is_ok(), "another client's");
        assert_eq!(other.request(Limit { each: 2, all: 2 }).err(), Some(Excess::All), "two are under way");
        drop(first);
        assert!(two.request(each(2)).is_ok(), "after one has ended, and those refused do not count");
        drop((one, two, other));
        assert_eq!(clients.connections.lock().unwrap().all, 1, "a request keeps its connection's place");
        drop(second);
        assert_eq!(clients.connections.lock().unwrap().all, 0);
        assert_eq!(clients.requests.load(Ordering::Relaxed), 0);
    }
}
