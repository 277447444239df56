//! `sluice monitor`: what hooks decide, while they do.

use std::{
    collections::HashMap,
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use sluice_common::{Addr, Reason, layout::EventValue};

use super::{Reading, clients::Clients, connections, output, output::Format};
use crate::{
    devices, harmless,
    inspect::{EventClient, EventFilter, EventNames, EventRow, SocketClient, event_row, is_of_probe},
    loader::WatchLock,
    maps::{
        Pins,
        bpf::{BpfMaps, Events, PodNames, Record, now_ns},
    },
    model::{ObjectName, Protocol},
    signals,
};

/// How often programs are told that somebody watches, and lost events are asked for.
const TICK: Duration = Duration::from_millis(500);
/// How long it may take to notice Ctrl-C.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// Records read at most before anything else is looked at.
const BATCH: usize = 256;

/// Which events, for how long, and how to show them.
#[derive(Args)]
pub struct Monitor {
    /// Only with this reason (`sluice reasons` lists them); repeatable
    #[arg(long, value_parser = reason, conflicts_with = "drops")]
    reason: Vec<Reason>,
    /// Only what is rejected or dropped
    #[arg(long)]
    drops: bool,
    /// Only this Service's, `NAMESPACE/NAME`
    #[arg(long, value_parser = connections::service)]
    service: Option<ObjectName>,
    /// Only what is led to this pod, or comes from it, `NAMESPACE/NAME`; of pods that are endpoints
    #[arg(long, value_parser = connections::service)]
    pod: Option<ObjectName>,
    /// Only this client's: an address, or `host` for the node itself
    #[arg(long, value_parser = client)]
    from: Option<EventClient>,
    /// Only what is dialled at `ADDRESS[:PORT]`
    #[arg(long, value_parser = dialled)]
    to: Option<(IpAddr, Option<u16>)>,
    /// Only `tcp`, `udp` or `sctp`
    #[arg(long, value_parser = protocol)]
    protocol: Option<Protocol>,
    /// Each datagram and each reply that a socket's hook translates, not only the first of an exchange
    #[arg(long)]
    each: bool,
    /// End after this many
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this many seconds
    #[arg(long)]
    duration: Option<u32>,
    #[command(flatten)]
    reading: Reading,
}

fn reason(name: &str) -> Result<Reason, String> {
    let found = Reason::ALL.iter().copied().find(|reason| reason.name() == name);
    let found = found.ok_or_else(|| "there is no such reason; `sluice reasons` lists them".to_owned())?;
    let in_sight = found.is_told() || COUNTED_BESIDES.contains(&found) || found == Reason::ReplyTranslated;
    if in_sight { Ok(found) } else { Err("it is only counted, see `sluice reasons`".to_owned()) }
}

/// Reasons that show beside the outcome.
const COUNTED_BESIDES: [Reason; 3] = [Reason::AffinityKept, Reason::TunnelSent, Reason::TunnelReceived];

fn client(text: &str) -> Result<EventClient, String> {
    if text == "host" {
        return Ok(EventClient::Host);
    }
    text.parse().map(EventClient::Address).map_err(|_| "write an address, or host".to_owned())
}

fn dialled(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok((socket.ip(), Some(socket.port())));
    }
    let address = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = address.parse().map_err(|_| "write ADDRESS or ADDRESS:PORT, an IPv6 address in [ ]")?;
    Ok((address, None))
}

fn protocol(text: &str) -> Result<Protocol, String> {
    Protocol::from_name(text).ok_or_else(|| "write tcp, udp or sctp".to_owned())
}

/// `sluice monitor`.
pub fn monitor(asked: &Monitor) -> Result<()> {
    let pins = Pins::at(&asked.reading.bpffs);
    let _lock = WatchLock::take(&pins)?;
    let maps = BpfMaps::open(&pins)?;
    let clients = Clients::new(maps.host_netns());
    let each = asked.each || asked.reason.contains(&Reason::ReplyTranslated);
    let mut watch = Watch {
        events: Events::open(&pins, each)?,
        known: Known { maps, pods: PodNames::open(&pins).ok(), clients, devices: HashMap::new() },
        filter: EventFilter {
            reasons: asked.reason.clone(),
            drops: asked.drops,
            service: asked.service.clone(),
            pod: asked.pod.clone(),
            from: asked.from,
            to: asked.to,
            protocol: asked.protocol,
        },
        format: asked.reading.output,
        sums: Sums::default(),
    };
    let stopped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stopped);
    signals::on_stop(move || flag.store(true, Ordering::Relaxed)).context("cannot wait for Ctrl-C")?;
    let until = asked.duration.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
    let is_over = |shown: u64| {
        stopped.load(Ordering::Relaxed)
            || until.is_some_and(|until| Instant::now() >= until)
            || asked.count.is_some_and(|count| shown >= count)
    };
    match watch.run(is_over) {
        // Whoever reads us has seen enough.
        Err(error) if is_broken_pipe(&error) => return Ok(()),
        result => result?,
    }
    let Sums { shown, filtered, lost, unknown } = watch.sums;
    eprintln!("{shown} shown, {filtered} filtered out, {lost} lost");
    if unknown > 0 {
        bail!("{unknown} events were of programs of another version than this command");
    }
    Ok(())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[derive(Default)]
struct Sums {
    shown: u64,
    filtered: u64,
    lost: u64,
    unknown: u64,
}

struct Watch {
    events: Events,
    known: Known,
    filter: EventFilter,
    format: Format,
    sums: Sums,
}

impl Watch {
    /// Shows events until it is over.
    fn run(&mut self, is_over: impl Fn(u64) -> bool) -> Result<()> {
        let mut out = io::stdout();
        if self.format == Format::Table {
            out.write_all(EventRow::headings().as_bytes())?;
        }
        self.tick()?;
        eprintln!("watching; Ctrl-C ends it");
        let mut ticked = Instant::now();
        while !is_over(self.sums.shown) {
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.tick()?;
            }
            self.wait(&out)?;
            for _ in 0..BATCH {
                let Some(record) = self.events.take() else { break };
                self.take(record, &mut out)?;
                if is_over(self.sums.shown) {
                    break;
                }
            }
            out.flush()?;
        }
        self.look_for_lost()
    }

    /// Says that somebody watches, and looks whether all is as it was.
    fn tick(&mut self) -> Result<()> {
        if !self.events.is_current() {
            bail!("the pinned maps were removed or made anew; start `sluice monitor` again");
        }
        self.events.watch()?;
        self.look_for_lost()
    }

    fn look_for_lost(&mut self) -> Result<()> {
        let lost = self.events.lost()?;
        if lost > self.sums.lost {
            eprintln!("{} events lost: they come faster than they can be shown", lost - self.sums.lost);
            self.sums.lost = lost;
        }
        Ok(())
    }

    /// Waits for a record, not for long; fails once nobody reads what is written.
    fn wait(&self, out: &io::Stdout) -> Result<()> {
        let mut files = [PollFd::new(&self.events, PollFlags::IN), PollFd::new(out, PollFlags::empty())];
        match poll(&mut files, Some(&WAIT)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for events"),
        }
        if files[1].revents().intersects(PollFlags::ERR | PollFlags::NVAL) {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe).into());
        }
        Ok(())
    }

    fn take(&mut self, record: Record, out: &mut impl io::Write) -> Result<()> {
        let event = match record {
            Record::Event(event) if is_of_probe(&event) => return Ok(()),
            Record::Event(event) => event,
            Record::Unknown => {
                self.sums.unknown += 1;
                return Ok(());
            }
        };
        let names = self.known.names(&event);
        if !self.filter.admits(&event, &names) {
            self.sums.filtered += 1;
            return Ok(());
        }
        let row = event_row(&event, &names, unix_ns(&event));
        let text = match self.format {
            Format::Table => harmless::line(row.line().trim_end()) + "\n",
            Format::Json => harmless::json(&serde_json::to_string(&row)?) + "\n",
            Format::Yaml => "---\n".to_owned() + &output::yaml(&row)?,
        };
        out.write_all(text.as_bytes())?;
        self.sums.shown += 1;
        Ok(())
    }
}

/// When it happened, ns since 1970.
fn unix_ns(event: &EventValue) -> i128 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_nanos().cast_signed() - i128::from(now_ns()) + i128::from(event.at_ns)
}

/// What numbers stand for.
struct Known {
    maps: BpfMaps,
    /// None where the agent is older.
    pods: Option<PodNames>,
    clients: Clients,
    devices: HashMap<u32, String>,
}

impl Known {
    fn names(&mut self, event: &EventValue) -> EventNames {
        let backend = (event.backend_id != 0).then(|| self.maps.backend(event.backend_id)).flatten();
        // The id may be another's by now.
        let backend = backend.filter(|backend| backend.addr == event.backend);
        let client = (event.netns != 0).then(|| self.clients.get(event.netns)).flatten();
        let pod = |address: Addr| {
            self.pods.as_ref().filter(|_| address != Addr::UNSPECIFIED).and_then(|pods| pods.get(address))
        };
        EventNames {
            pod: pod(event.backend),
            client_pod: match &client {
                Some(SocketClient::Pod(own)) => own.iter().find_map(|own| pod(Addr::from(*own))),
                Some(SocketClient::Host) => None,
                None => pod(event.client),
            },
            service: (event.service_id != 0).then(|| self.maps.service(event.service_id)).flatten(),
            node: backend.and_then(|backend| self.maps.node(backend.node_id)),
            client,
            device: (event.ifindex != 0).then(|| self.device(event.ifindex)),
        }
    }

    fn device(&mut self, ifindex: u32) -> String {
        if !self.devices.contains_key(&ifindex) {
            let links = devices::links().unwrap_or_default();
            self.devices.extend(links.into_iter().map(|link| (link.index, link.name)));
        }
        self.devices.entry(ifindex).or_insert_with(|| format!("device {ifindex}")).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (text, want) in [
            ("10.96.0.1", Some((ip("10.96.0.1"), None))),
            ("10.96.0.1:80", Some((ip("10.96.0.1"), Some(80)))),
            ("fd00::1", Some((ip("fd00::1"), None))),
            ("[fd00::1]", Some((ip("fd00::1"), None))),
            ("[fd00::1]:80", Some((ip("fd00::1"), Some(80)))),
            ("10.96.0.1:", None),
            ("shop/cart", None),
        ] {
            assert_eq!(dialled(text).ok(), want, "{text}");
        }
        assert_eq!(client("host"), Ok(EventClient::Host));
        assert_eq!(client("10.0.0.1"), Ok(EventClient::Address(ip("10.0.0.1"))));
        assert!(client("shop/visitor").is_err());
        assert_eq!(protocol("udp"), Ok(Protocol::Udp));
        assert!(protocol("icmp").is_err());
        for (name, is_shown) in [
            ("no_endpoints", true),
            ("affinity_kept", true),
            ("reply_translated", true),
            ("not_ours", false),
            ("packet_known", false),
            ("no_such_reason", false),
        ] {
            assert_eq!(reason(name).is_ok(), is_shown, "{name}");
        }
    }
}
