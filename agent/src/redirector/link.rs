//! The connection to the agent: snapshots come, reports go. What the frames are is told in `run/feed.rs`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt as _},
    net::{UnixStream, unix::OwnedWriteHalf},
    sync::{mpsc, watch},
};

use super::Redirector;
use crate::{
    l7::snapshot::{LARGEST_REPORT, REFUSED, REPLACED, Report, Snapshot},
    metrics::{DestinationCounts, RouteCounts, RouteName},
};

const AGAIN: Duration = Duration::from_millis(200);
const REPORT_EVERY: Duration = Duration::from_secs(2);
/// Larger than any snapshot: a length beyond it is not the agent's.
const LARGEST_SNAPSHOT: u32 = 1 << 30;
/// Bytes of rows in one report: what else is in it is far less than the rest of what there is room for.
const ROWS_MAX: usize = LARGEST_REPORT as usize / 2;

/// What the agent says.
#[derive(Debug)]
enum Word {
    Snapshot(Snapshot),
    Ended(Ended),
}

/// Why it says nothing more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ended {
    /// Another redirector has taken over.
    Replaced,
    /// Our token is not that of its folder, or our maps are not its own.
    Refused,
}

/// The connection to the agent.
pub struct Link<'r> {
    /// Where it listens.
    pub socket: PathBuf,
    /// What snapshots are for.
    pub redirector: &'r Redirector,
    /// What shows that we are one.
    pub token: String,
    /// When our listeners came into the map, ns of `CLOCK_MONOTONIC`: of two redirectors the later one serves.
    pub epoch: u64,
    /// The version in effect.
    pub version: u64,
    /// The kernel's numbers of our maps.
    pub maps: Vec<u32>,
    /// What the agent is to warn of.
    pub notes: Vec<String>,
    /// Requests as the agent knows them.
    pub told: BTreeMap<RouteName, RouteCounts>,
    /// What is open to destinations as the agent knows it.
    pub told_destinations: BTreeMap<String, DestinationCounts>,
    /// Whether we go; set too when this agent will never have us.
    pub going: &'r watch::Sender<bool>,
}

impl Link<'_> {
    /// Takes snapshots and reports, over one connection after the other, until another redirector takes over.
    pub async fn follow(&mut self) {
        loop {
            match self.connection().await {
                Ok(Ended::Replaced) => return,
                Ok(Ended::Refused) => {
                    tracing::warn!("the agent has another token or other maps than ours: this process goes");
                    self.going.send_replace(true);
                    return std::future::pending().await;
                }
                Err(error) => tracing::debug!("the agent is away: {error:#}"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn connection(&mut self) -> Result<Ended> {
        let (mut reader, mut writer) = UnixStream::connect(&self.socket).await?.into_split();
        self.told.clear();
        self.told_destinations.clear();
        let mut going = self.going.subscribe();
        self.report(&mut writer, self.token.clone()).await?;
        let (sender, mut snapshots) = mpsc::channel(1);
        // Apart from the reports: a frame that is read in part must not be let go. What ends the connection is told by its
        // end, for the agent closes it at once, and that must not be seen before the word.
        let reading = async move {
            loop {
                match read(&mut reader).await? {
                    Word::Snapshot(snapshot) => sender.send(snapshot).await?,
                    Word::Ended(ended) => return Ok(ended),
                }
            }
        };
        let mut reading = std::pin::pin!(reading);
        let mut ticks = tokio::time::interval(REPORT_EVERY);
        loop {
            tokio::select! {
                ended = &mut reading => return ended,
                Some(snapshot) = snapshots.recv() => {
                    let version = snapshot.version;
                    apply(self.redirector, snapshot).await?;
                    self.version = version;
                }
                _ = ticks.tick() => {}
                // The sender is ours.
                _never_closed = going.changed() => {}
            }
            self.report(&mut writer, String::new()).await?;
        }
    }

    async fn report(&mut self, writer: &mut OwnedWriteHalf, token: String) -> Result<()> {
        let requests = self.redirector.requests();
        let news = requests.iter().filter(|(name, counts)| self.told.get(*name) != Some(counts));
        let rows = news.map(|(name, counts)| (name.clone(), counts.clone())).collect();
        self.told = requests;
        let destinations = self.redirector.destinations();
        let changed = changes(&self.told_destinations, &destinations);
        self.told_destinations = destinations;
        let report = Report {
            token,
            epoch: self.epoch,
            version: self.version,
            counters: self.redirector.counters(),
            notes: self.notes.clone(),
            open: self.redirector.open(),
            going: *self.going.borrow(),
            maps: self.maps.clone(),
            routes: Vec::new(),
            destinations: Vec::new(),
        };
        for report in parts(&report, rows, changed)? {
            write(writer, &report).await?;
        }
        Ok(())
    }
}

/// What the agent is to be told of destinations: counts that changed, and nothing of those that are gone.
fn changes(
    told: &BTreeMap<String, DestinationCounts>,
    now: &BTreeMap<String, DestinationCounts>,
) -> Vec<(String, Option<DestinationCounts>)> {
    let gone = told.keys().filter(|name| !now.contains_key(*name)).map(|name| (name.clone(), None));
    let changed = now.iter().filter(|(name, counts)| told.get(*name) != Some(counts));
    // The first make room for the others.
    gone.chain(changed.map(|(name, counts)| (name.clone(), Some(*counts)))).collect()
}

/// The report with these rows, in as many as it takes for each to fit into a frame. Only the first has the token.
fn parts(
    report: &Report,
    routes: Vec<(RouteName, RouteCounts)>,
    destinations: Vec<(String, Option<DestinationCounts>)>,
) -> Result<Vec<Report>> {
    let (mut parts, mut bytes) = (vec![report.clone()], 0);
    let mut with_room = |parts: &mut Vec<Report>, length: usize| {
        if bytes + length > ROWS_MAX {
            parts.push(Report { token: String::new(), ..report.clone() });
            bytes = 0;
        }
        bytes += length + 1;
    };
    for row in routes {
        with_room(&mut parts, serde_json::to_vec(&row)?.len());
        parts.last_mut().context("there is always one")?.routes.push(row);
    }
    for row in destinations {
        with_room(&mut parts, serde_json::to_vec(&row)?.len());
        parts.last_mut().context("there is always one")?.destinations.push(row);
    }
    Ok(parts)
}

/// Lets `snapshot` hold. It is compiled on a thread of its own, for the heart beats on this one, however long that takes.
async fn apply(redirector: &Redirector, snapshot: Snapshot) -> Result<()> {
    let compiled = tokio::task::spawn_blocking(move || Redirector::compile(snapshot));
    redirector.take(compiled.await.context("a snapshot could not be compiled")?);
    Ok(())
}

/// The first snapshot that an agent gives; it gives it again to the next connection.
///
/// # Errors
/// There is no token.
pub async fn first_snapshot(
    socket: &std::path::Path,
    token: impl Fn() -> Result<String>,
) -> Result<Snapshot> {
    loop {
        // Another agent may have made another one.
        let hello = Report { token: token()?, ..Report::default() };
        if let Ok(stream) = UnixStream::connect(socket).await {
            let (mut reader, mut writer) = stream.into_split();
            // An epoch of 0: we do not serve yet, and take nobody's place.
            if write(&mut writer, &hello).await.is_ok()
                && let Ok(Word::Snapshot(snapshot)) = read(&mut reader).await
            {
                return Ok(snapshot);
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// One frame.
async fn read(stream: &mut (impl AsyncReadExt + Unpin)) -> Result<Word> {
    let length = match stream.read_u32().await? {
        REPLACED => return Ok(Word::Ended(Ended::Replaced)),
        REFUSED => return Ok(Word::Ended(Ended::Refused)),
        length => length,
    };
    ensure!(length <= LARGEST_SNAPSHOT, "a snapshot of {length} bytes");
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes).await?;
    serde_json::from_slice(&bytes)
        .map(Word::Snapshot)
        .context("the agent's snapshot is not one of this version")
}

async fn write(writer: &mut OwnedWriteHalf, report: &Report) -> Result<()> {
    let bytes = serde_json::to_vec(report)?;
    if bytes.len() > LARGEST_REPORT as usize {
        bail!("a report of {} bytes, and the agent reads {LARGEST_REPORT} at most", bytes.len());
    }
    let frame = [&(bytes.len() as u32).to_be_bytes(), bytes.as_slice()].concat();
    Ok(writer.write_all(&frame).await?)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use serde_json::json;

    use super::{super::Options, *};

    #[test]
    fn a_report_of_any_rows_is_cut_into_frames_that_fit() {
        let longest = "\u{1}".repeat(RouteName::LONGEST);
        let row = |rule: usize| {
            let virtual_service = format!("{longest}/{longest}");
            let destination = format!("{longest}:65535 {longest}");
            let took = crate::metrics::Histogram::default();
            let answers = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];
            let answers = answers.map(|class| (class.to_owned(), u64::MAX)).into();
            let rule = format!("{rule}{longest}")[..RouteName::LONGEST].to_owned();
            (RouteName { virtual_service, rule, destination }, RouteCounts { answers, took })
        };
        for (case, count, several) in
            [("none", 0, false), ("few", 3, false), ("all", RouteName::MOST + 1, true)]
        {
            let report = Report { token: "word".repeat(16), epoch: 7, version: 9, ..Report::default() };
            let rows: Vec<_> = (0..count).map(row).collect();
            let open = DestinationCounts { requests: u64::MAX, ..DestinationCounts::default() };
            let destinations: Vec<_> = rows
                .iter()
                .map(|(name, _)| (format!("{}{}", name.rule, name.destination), Some(open)))
                .collect();
            let parts = parts(&report, rows.clone(), destinations.clone()).unwrap();
            assert_eq!(parts.len() > 1, several, "{case}: {} parts", parts.len());
            for (index, part) in parts.iter().enumerate() {
                let bytes = serde_json::to_vec(part).unwrap().len();
                assert!(bytes <= LARGEST_REPORT as usize, "{case}: {bytes}");
                assert_eq!((part.epoch, part.version, part.token.is_empty()), (7, 9, index > 0), "{case}");
            }
            let told: Vec<_> = parts.iter().flat_map(|part| part.routes.clone()).collect();
            assert!(told == rows, "{case}: each row once");
            let told: Vec<_> = parts.into_iter().flat_map(|part| part.destinations).collect();
            assert!(told == destinations, "{case}: each destination once");
        }
    }

    #[tokio::test]
    async fn the_heart_beats_on_while_a_snapshot_is_compiled() {
        let matches: Vec<_> =
            (0..200).map(|i| json!({"uri": {"regex": format!("/{i}/[a-z]{{90}}")}})).collect();
        let rule = |name: &str| {
            let route = json!([{"destination": {"host": "reviews"}}]);
            json!({
                "apiVersion": "networking.istio.io/v1",
                "kind": "VirtualService",
                "metadata": {"name": name, "namespace": "shop"},
                "spec": {"hosts": ["reviews"], "http": [{"match": matches, "route": route}]},
            })
        };
        let virtual_services = ["a", "b", "c"].map(rule).into();
        let redirector = Redirector::start(Vec::new(), Options::default()).unwrap();
        let snapshot = Snapshot { virtual_services, ..Snapshot::default() };
        let mut applying = std::pin::pin!(apply(&redirector, snapshot));
        // The heart is polled in turn with this: what returns at once and is not done leaves the thread to it.
        assert!(applying.as_mut().now_or_never().is_none());
        applying.await.unwrap();
    }

    #[test]
    fn of_destinations_what_changed_is_told_and_what_went() {
        let counts = |requests| DestinationCounts { requests, ..DestinationCounts::default() };
        let all = |rows: &[(&str, u64)]| -> BTreeMap<_, _> {
            rows.iter().map(|(name, requests)| ((*name).to_owned(), counts(*requests))).collect()
        };
        let told = all(&[("a", 1), ("b", 2), ("c", 0)]);
        let now = all(&[("b", 3), ("c", 0), ("d", 1)]);
        let (b, d) = (("b".to_owned(), Some(counts(3))), ("d".to_owned(), Some(counts(1))));
        assert_eq!(changes(&told, &now), [("a".to_owned(), None), b, d]);
        assert!(changes(&now, &now).is_empty());
    }
}
