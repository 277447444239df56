//! What is open to each destination at the moment, for metrics. One set of rows for each worker; sums are made when someone
//! asks. A row lives as long as somebody may use it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{self, Display, Formatter},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    l7::rules::table::Target,
    metrics::{DestinationCounts, RouteName, shortened},
};

/// Host, port and subset, as metrics and logs name them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Name {
    host: Arc<str>,
    port: u16,
    subset: Option<Arc<str>>,
}

impl Name {
    /// That of `target`.
    pub fn of(target: &Target) -> Self {
        let subset = target.subset.as_ref().map(short);
        Self { host: short(&target.host), port: target.port, subset }
    }
}

impl Display for Name {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)?;
        self.subset.as_ref().map_or(Ok(()), |subset| write!(f, " {subset}"))
    }
}

/// The same text, unless it is too long to be kept.
pub fn short(text: &Arc<str>) -> Arc<str> {
    if text.len() > RouteName::LONGEST { shortened(text).into() } else { text.clone() }
}

/// Something that a destination has some of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// A request under way.
    Request,
    /// A request that waits for a connection.
    Waiting,
    /// An HTTP connection to an endpoint.
    Connection,
    /// One that no request uses.
    Idle,
    /// A connection that is passed through.
    Passed,
}

const USES: usize = 5;

/// What is open to one destination.
#[derive(Default, Debug)]
pub struct Row([AtomicU64; USES]);

/// One of them, for as long as this lives.
#[derive(Debug)]
pub struct OneUse(Arc<Row>, Use);

impl Row {
    /// One more.
    pub fn one(self: &Arc<Self>, what: Use) -> OneUse {
        self.0[what as usize].fetch_add(1, Ordering::Relaxed);
        OneUse(self.clone(), what)
    }

    fn counts(&self) -> DestinationCounts {
        let [requests, waiting, connections, idle, passed] =
            [0, 1, 2, 3, 4].map(|index: usize| self.0[index].load(Ordering::Relaxed));
        DestinationCounts { requests, waiting, connections, idle, passed, ..DestinationCounts::default() }
    }
}

impl Drop for OneUse {
    fn drop(&mut self) {
        self.0.0[self.1 as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

/// The rows of one worker.
#[derive(Default, Debug)]
pub struct Destinations(Mutex<Rows>);

#[derive(Default, Debug)]
struct Rows {
    by_name: HashMap<Name, Arc<Row>>,
    /// Those for which there is no room.
    others: Arc<Row>,
}

impl Destinations {
    /// The row of `target`, or the one of all those for which there is no room.
    pub fn row(&self, target: &Target) -> Arc<Row> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = Name::of(target);
        if rows.by_name.len() >= DestinationCounts::MOST && !rows.by_name.contains_key(&name) {
            return rows.others.clone();
        }
        rows.by_name.entry(name).or_default().clone()
    }

    /// Forgets the rows that nobody can use any more.
    pub fn sweep(&self) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.by_name.retain(|_, row| Arc::strong_count(row) > 1);
    }

    /// Adds all rows to `sums`.
    pub fn add_to(&self, sums: &mut BTreeMap<String, DestinationCounts>) {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, row) in &rows.by_name {
            sums.entry(name.to_string()).or_default().add(&row.counts());
        }
        let others = rows.others.counts();
        if others != DestinationCounts::default() {
            sums.entry(DestinationCounts::OTHERS.to_owned()).or_default().add(&others);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::rules::table::TargetState;
    use crate::redirector::bounded::Bounded;

    fn target(number: usize) -> Target {
        let host = format!("cart-{number:04}.shop.svc.cluster.local").into();
        Target { host, port: 80, subset: Some("v2".into()), state: TargetState::Ready, policy: None }
    }

    fn sums(workers: &[Destinations]) -> BTreeMap<String, DestinationCounts> {
        let mut sums = BTreeMap::new();
        workers.iter().for_each(|destinations| destinations.add_to(&mut sums));
        sums
    }

    #[test]
    fn what_is_open_rises_and_falls_and_a_row_that_nobody_uses_goes() {
        let worker = [Destinations::default()];
        let name = "cart-0001.shop.svc.cluster.local:80 v2";
        let row = worker[0].row(&target(1));
        let uses = [Use::Request, Use::Waiting, Use::Connection, Use::Idle, Use::Passed];
        for (number, what) in uses.into_iter().enumerate() {
            let held = [row.one(what), row.one(what)];
            let open = sums(&worker)[name].open().map(|(_, count)| count);
            let want: [u64; USES] = std::array::from_fn(|index| if index == number { 2 } else { 0 });
            assert_eq!(open, want, "{what:?}");
            drop(held);
        }
        worker[0].sweep();
        assert_eq!(sums(&worker)[name], DestinationCounts::default(), "still there, with nothing");
        let last = row.one(Use::Connection);
        drop(row);
        worker[0].sweep();
        assert_eq!(sums(&worker)[name].connections, 1, "its connection is still open");
        drop(last);
        worker[0].sweep();
        assert!(sums(&worker).is_empty());
    }

    #[test]
    fn more_destinations_than_there_is_room_for_are_counted_together() {
        const MOST: usize = DestinationCounts::MOST;
        let workers = [Destinations::default(), Destinations::default()];
        let mut told = Bounded::new(DestinationCounts::OTHERS.to_owned());
        let mut bound = |sums| told.bound(sums, DestinationCounts::add);
        let open = |worker: usize, numbers: std::ops::Range<usize>| -> Vec<_> {
            numbers.map(|number| workers[worker].row(&target(number)).one(Use::Request)).collect()
        };
        let first = open(0, 100..MOST);
        assert_eq!(bound(sums(&workers)).len(), MOST - 100);
        let before: Vec<_> = sums(&workers).into_keys().collect();
        // Those that sort in front, and more than one worker has room for.
        let second = open(1, 0..MOST + 7);
        let bounded = bound(sums(&workers));
        assert_eq!(bounded.len(), MOST + 1);
        assert!(before.iter().all(|name| bounded.contains_key(name)), "one that was told of goes on");
        let all: u64 = bounded.values().map(|counts| counts.requests).sum();
        assert_eq!(all, (MOST - 100 + MOST + 7) as u64, "and nothing is left out");
        drop((first, second));
        workers.iter().for_each(Destinations::sweep);
        assert!(bound(sums(&workers)).is_empty());
        let _third = open(0, 9_000..9_001);
        assert_eq!(bound(sums(&workers)).len(), 1, "there is room again, and nothing of the others");
    }
}
