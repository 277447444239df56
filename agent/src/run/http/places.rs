//! Who may be connected at once. Whoever comes gets a place; if there is none, somebody older loses theirs, and first of all
//! whoever has the most: a client that holds connections takes none from others.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Places of one source: an IPv4 address, or a network of IPv6 that a host has to itself.
const EACH: usize = 16;
/// Places of all sources. The node itself has as many besides, that nobody else can take.
const ALL: usize = 128;

/// Places of a listener, or of several that share them.
#[derive(Debug, Default)]
pub struct Places(Mutex<Taken>);

/// Those that are taken, the oldest first.
#[derive(Debug, Default)]
struct Taken {
    connections: BTreeMap<u64, Connection>,
    /// The next one's number.
    next: u64,
}

#[derive(Debug)]
struct Connection {
    source: IpAddr,
    near: bool,
    /// Dropped when the place is another's.
    _keeps: oneshot::Sender<()>,
}

/// A place, for as long as this lives.
#[derive(Debug)]
pub struct Place {
    number: u64,
    lost: oneshot::Receiver<()>,
    places: Arc<Places>,
}

impl Place {
    /// Waits until somebody else needs it.
    pub async fn is_lost(&mut self) {
        // Nobody sends.
        let _gone = (&mut self.lost).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().connections.remove(&self.number);
    }
}

impl Places {
    /// A place for `peer`; `near` says that it is this node itself.
    pub fn take(self: &Arc<Self>, peer: IpAddr, near: bool) -> Place {
        let (keeps, lost) = oneshot::channel();
        let connection = Connection { source: source(peer), near, _keeps: keeps };
        Place { number: self.lock().add(connection), lost, places: Arc::clone(self) }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn add(&mut self, connection: Connection) -> u64 {
        if let Some(number) = self.loser(&connection) {
            self.connections.remove(&number);
        }
        let number = self.next;
        self.next += 1;
        self.connections.insert(number, connection);
        number
    }

    /// Who has to go for `new`.
    fn loser(&self, new: &Connection) -> Option<u64> {
        let mut by_source: BTreeMap<IpAddr, Vec<u64>> = BTreeMap::new();
        for (number, connection) in self.connections.iter().filter(|(_, old)| old.near == new.near) {
            by_source.entry(connection.source).or_default().push(*number);
        }
        let own = by_source.get(&new.source).filter(|own| own.len() >= EACH);
        let all: usize = by_source.values().map(Vec::len).sum();
        let most = || by_source.values().max_by_key(|numbers| (numbers.len(), std::cmp::Reverse(numbers[0])));
        own.or_else(|| most().filter(|_| all >= ALL)).map(|numbers| numbers[0])
    }
}

/// What counts as one client.
fn source(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(place: &mut Place) -> bool {
        place.lost.try_recv() == Err(oneshot::error::TryRecvError::Empty)
    }

    fn peer(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn who_has_the_most_loses_the_oldest_and_nobody_is_refused() {
        let places = Arc::new(Places::default());
        let mut node = places.take(peer("127.0.0.1"), true);
        let mut check = places.take(peer("192.0.2.9"), false);
        let mut holder: Vec<_> = (0..3 * ALL).map(|_| places.take(peer("192.0.2.1"), false)).collect();
        let kept: Vec<bool> = holder.iter_mut().map(has).collect();
        assert_eq!(kept.iter().filter(|has| **has).count(), EACH);
        assert!(kept[3 * ALL - EACH..].iter().all(|has| *has), "the newest are served");
        assert!(has(&mut check), "nobody else's");
        let stranger = |n: usize| places.take(peer(&format!("198.51.{}.{}", n / 256, n % 256)), false);
        let mut strangers: Vec<_> = (0..ALL - 2).map(stranger).collect();
        assert!(has(&mut check) && strangers.iter_mut().all(has), "who has the most gives way");
        assert_eq!(holder.iter_mut().filter_map(|place| has(place).then_some(())).count(), 1);
        strangers.push(stranger(ALL));
        assert!(!has(&mut check) && has(&mut strangers[0]), "of those that have one each the oldest");
        assert!(has(&mut node), "the node's own places are its own");
        let mut near: Vec<_> = (0..2 * EACH).map(|_| places.take(peer("127.0.0.1"), true)).collect();
        assert!(has(&mut near[2 * EACH - 1]) && !has(&mut node));
    }

    #[test]
    fn a_place_that_is_left_is_free() {
        let places = Arc::new(Places::default());
        let mut first = places.take(peer("2001:db8::1"), false);
        (0..3 * EACH).for_each(|n| drop(places.take(peer(&format!("2001:db8::{n}")), false)));
        assert!(has(&mut first));
        let _held: Vec<_> = (0..EACH).map(|n| places.take(peer(&format!("2001:db8::{n}")), false)).collect();
        assert!(!has(&mut first), "addresses of one network are one client");
    }
}
