//! Random clusters and random packets through the real programs: what becomes of them, of the answers, and of what
//! follows must be what the reference model says. `SLUICE_SEED` repeats a run, `SLUICE_STATES` makes it longer.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use sluice_common::layout::{OPTION_DSR_TCP, OPTION_DSR_UDP, OPTION_SERVICE_CIDRS, OPTION_VIP_PING};
use sluice_tests::{
    packet::{ACK, Carried, DESTINATION, ETHERNET, HOP_BY_HOP, Packet, RST, SYN, icmp_error, read, verify},
    reference::{
        Cluster, Endpoint, Random, Service, number,
        packets::{CIDRS, Fate, Sender, mutate},
        way::{REDIRECTOR, Way},
    },
    rig::{
        LOCAL_PODS, Met, Place, Rig, Verdict,
        exchange::{led_to, tunnelled},
    },
};

const STATES: u64 = 300;
const PER_STATE: u64 = 20;
/// Clients outside, on the wire: .64 to .191 (halves of what source ranges admit).
const CLIENTS: u64 = 128;
/// Source ports in use, below those that the node takes for others.
const PORTS: u64 = 59_000;

/// A dial: who, from where, to what, how.
struct Dial {
    sender: Sender,
    packet: Packet,
    udp: bool,
}

struct Run {
    rig: Rig,
    cluster: Cluster,
    random: Random,
    dials: u64,
    /// Whom a client of a Service with affinity was led to last, by family.
    kept: HashMap<(IpAddr, u8), SocketAddr>,
    /// Whom a Maglev table gave a client of a Service with affinity, by family; and the choice that there was.
    placed: HashMap<(IpAddr, u8), (BTreeSet<SocketAddr>, SocketAddr)>,
    /// The transports that go to other nodes in tunnels: TCP, UDP.
    tunnels: [bool; 2],
    seen: BTreeMap<&'static str, u64>,
    case: String,
}

#[test]
fn packets_go_where_the_reference_model_says_and_so_do_their_answers() {
    let seed = number("SLUICE_SEED", u64::from(std::process::id()));
    let states = number("SLUICE_STATES", STATES);
    println!("SLUICE_SEED={seed} SLUICE_STATES={states}");
    let mut run = Run {
        rig: Rig::new(),
        cluster: Cluster::default(),
        random: Random::new(seed),
        dials: 0,
        kept: HashMap::new(),
        placed: HashMap::new(),
        tunnels: [false; 2],
        seen: BTreeMap::new(),
        case: String::new(),
    };
    run.rig.node.guard(&CIDRS.iter().map(|(network, _)| network.parse().unwrap()).collect());
    for state in 0..states {
        run.change();
        run.switch();
        for _ in 0..PER_STATE {
            run.case = format!("SLUICE_SEED={seed}, state {state}, dial {}", run.dials);
            run.one();
        }
    }
    println!("{} dials: {:?}", run.dials, run.seen);
    assert!(run.seen.len() == 13 || states < STATES, "every kind of outcome occurs: {:?}", run.seen);
}

impl Run {
    /// The next state of the cluster.
    fn change(&mut self) {
        let [v4, v6] = [false, true].map(Rig::pods);
        for touched in mutate(&mut self.cluster, &mut self.random) {
            let service = self.cluster.services.iter().find(|service| service.number == touched);
            let slices = service.map_or_else(Vec::new, |service| service.slices(&v4, &v6));
            self.rig.node.apply(service, &format!("service-{touched}"), slices);
        }
        let ports = self.cluster.services.iter().filter(|service| service.redirected);
        self.rig.node.redirect(ports.map(|service| (service.name(), service.port)));
        self.rig.node.program();
        if self.random.once_in(20) {
            self.rig.node.restart();
        }
        if self.random.once_in(3) {
            self.rig.forget_and_tell();
        }
        let services = &self.cluster.services;
        self.kept.retain(|(client, number), by| {
            let service = services.iter().find(|service| service.number == *number);
            let pods = Rig::pods(client.is_ipv6());
            let is_by = |endpoint: &Endpoint| SocketAddr::new(pods[endpoint.pod], endpoint.port) == *by;
            let of_family = |families: (bool, bool)| if client.is_ipv6() { families.1 } else { families.0 };
            service.is_some_and(|service| of_family(service.families) && service.endpoints.iter().any(is_by))
        });
    }

    /// Flags of the agent that may be others each time, and whether the redirector is there.
    fn switch(&mut self) {
        let random = &mut self.random;
        self.tunnels = [random.once_in(3), random.once_in(3)];
        (self.cluster.is_guarded, self.cluster.is_redirecting) = (random.once_in(2), !random.once_in(3));
        let bits = [
            (true, OPTION_VIP_PING),
            (self.cluster.is_guarded, OPTION_SERVICE_CIDRS),
            (self.tunnels[0], OPTION_DSR_TCP),
            (self.tunnels[1], OPTION_DSR_UDP),
        ];
        self.rig.set_options(bits.into_iter().filter(|(is_on, _)| *is_on).map(|(_, bit)| bit).sum());
        self.rig.set_redirector(self.cluster.is_redirecting);
    }

    /// Somebody dials something, in a way that nobody has before.
    fn dial(&mut self) -> Option<Dial> {
        let own = [false, true].map(|is_v6| self.rig.own(is_v6));
        let random = &mut self.random;
        if self.cluster.services.is_empty() {
            return None;
        }
        let service = &self.cluster.services[random.below(self.cluster.services.len() as u64) as usize];
        let dialled = service.dialled(&own);
        let (_, mut to) = dialled[random.below(dialled.len() as u64) as usize];
        let mut udp = service.udp;
        match random.below(12) {
            0 => udp = !udp,
            1 => to.set_port(to.port() + 1),
            3 => to.set_ip(CIDRS[usize::from(to.is_ipv6())].1.parse().unwrap()),
            2 => to.set_ip(if to.is_ipv6() { Ipv6Addr::LOCALHOST.into() } else { [198, 51, 100, 7].into() }),
            _ => {}
        }
        self.dials += 1;
        let (client, port) = (self.dials % CLIENTS, 1_024 + (self.dials % PORTS) as u16);
        let sender = match random.below(8) {
            0..4 => Sender::Outside,
            4..7 => Sender::Pod(random.below(LOCAL_PODS as u64) as usize),
            _ => Sender::Node,
        };
        let src = match (sender, to.is_ipv6()) {
            (Sender::Outside, false) => Ipv4Addr::new(192, 168, 50, 64 + client as u8).into(),
            (Sender::Outside, true) => Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 64 + client as u16).into(),
            (Sender::Pod(pod), is_v6) => Rig::pods(is_v6)[pod],
            (Sender::Node, is_v6) => own[usize::from(is_v6)],
        };
        let carried = match udp {
            true => random.of(&[Carried::Udp, Carried::Udp, Carried::UdpWithoutSum]),
            false => Carried::Tcp(random.of(&[SYN, SYN, SYN, ACK])),
        };
        // IPv6 has no datagrams without a checksum, but for tunnels.
        let carried = if to.is_ipv6() && udp { Carried::Udp } else { carried };
        let mut packet = Packet::new(SocketAddr::new(src, port), to, carried);
        packet.payload.truncate(random.below(37) as usize);
        packet.options = random.of(&[0, 0, 0, 4, 40]);
        packet.extensions = random.of::<&[u8]>(&[&[], &[], &[], &[HOP_BY_HOP], &[DESTINATION; 4]]).to_vec();
        packet.ttl = random.of(&[2, 64, 255]);
        packet.dont_fragment = !random.once_in(3);
        Some(Dial { sender, packet, udp })
    }

    fn one(&mut self) {
        let Some(dial) = self.dial() else { return };
        if self.dials.is_multiple_of(PORTS) {
            // They come round again.
            self.rig.forget();
        }
        let to = dial.packet.dst;
        let pods = Rig::pods(to.is_ipv6());
        let own = [false, true].map(|is_v6| self.rig.own(is_v6));
        let fate = self.cluster.fate((dial.sender, dial.packet.src.ip()), (to, dial.udp), &own, &pods);
        let place = dial.sender.place();
        let frame = self.rig.frame(place, &dial.packet.ip());
        self.case = format!("{}: {:?} {:?} must be {fate:?}", self.case, dial.sender, dial.packet);
        if fate == Fate::Refused {
            self.rig.refill();
        }
        let (met, by_xdp) = self.pass(place, &frame);
        let name = match &fate {
            Fate::Pass => {
                self.untouched(&met, &frame, Verdict::Pass);
                if self.dialled(&dial).is_some() { "redirected" } else { "passed" }
            }
            Fate::Dropped => {
                self.check(met.verdict == Verdict::Drop, &met);
                "dropped"
            }
            Fate::Refused => {
                self.refused(&dial, &met);
                "refused"
            }
            Fate::Led(endpoints) => {
                let (met, by_xdp) = self.again(&dial, &frame, met, by_xdp);
                self.led(&dial, endpoints, &met, by_xdp)
            }
        };
        *self.seen.entry(name).or_default() += 1;
    }

    /// Through the program there; from the network also by XDP, which leaves alone what it does not send.
    fn pass(&mut self, place: Place, frame: &[u8]) -> (Met, bool) {
        if place == Place::FromNetwork && self.random.once_in(2) {
            let met = self.rig.run(Place::Early, frame);
            if met.verdict != Verdict::Pass {
                return (met, true);
            }
            self.untouched(&met, frame, Verdict::Pass);
        }
        (self.rig.run(place, frame), false)
    }

    fn check(&self, right: bool, met: &Met) {
        assert!(right, "{}\n{met:02x?}\nread as {:?}\n{:?}", self.case, read(&met.frame), self.cluster);
    }

    fn untouched(&self, met: &Met, frame: &[u8], verdict: Verdict) {
        self.check(met.verdict == verdict && met.frame == frame, met);
    }

    /// Whoever sent it hears so, from whom it dialled.
    fn refused(&self, dial: &Dial, met: &Met) {
        let (packet, sent) = (&dial.packet, dial.packet.ip());
        let want = match packet.carried {
            Carried::Tcp(flags) => {
                let taken = packet.payload.len() as u32 + u32::from(flags & SYN != 0);
                let mut answer = packet.between(packet.dst, packet.src).with_ttl(64);
                (answer.options, answer.id, answer.payload) = (0, 0, Vec::new());
                answer.dont_fragment = true;
                answer.extensions = Vec::new();
                (answer.carried, answer.sequence) = if flags & ACK != 0 {
                    (Carried::Tcp(RST), (packet.sequence.1, 0))
                } else {
                    (Carried::Tcp(RST | ACK), (0, packet.sequence.0.wrapping_add(taken)))
                };
                answer.ip()
            }
            _ => {
                let kind = if packet.dst.is_ipv6() { (1, 4) } else { (3, 3) };
                let headers = sent.len() - packet.body().len();
                icmp_error(packet.dst.ip(), packet.src.ip(), kind, 0, &sent[..headers + 8])
            }
        };
        self.check(met.verdict == Verdict::Redirect && met.frame[ETHERNET..] == want, met);
        verify(&met.frame).unwrap_or_else(|error| panic!("{}: {error}", self.case));
    }

    /// It goes to one of the endpoints, what comes back is what the client expects, and what follows goes there too.
    fn led(&mut self, dial: &Dial, among: &BTreeSet<SocketAddr>, met: &Met, by_xdp: bool) -> &'static str {
        let packet = &dial.packet;
        let head = read(&met.frame).unwrap_or_else(|| panic!("{}: unreadable", self.case));
        let (seen, by) = (head.ends.src, led_to(met));
        self.check(among.contains(&by), met);
        let way = Way::of(dial.sender, packet.src.ip(), by.ip(), self.rig.own(by.is_ipv6()));
        if !REDIRECTOR.contains(&way.name) {
            self.affinity(dial, among, by, met);
        }
        let whole_only = packet.dst.is_ipv6() || packet.dont_fragment;
        if way.name == "outside to there" && self.tunnels[usize::from(dial.udp)] && (dial.udp || whole_only) {
            return self.tunnelled(dial, by, &way, met, by_xdp);
        }
        let source = match way.source {
            None => seen == packet.src,
            Some(own) => seen.ip() == own && seen.port() >= 32_768,
        };
        self.check(source, met);
        self.led_on(packet, (seen, by), &way, met, by_xdp);
        let follows =
            if dial.udp { packet.clone() } else { Packet { carried: Carried::Tcp(ACK), ..packet.clone() } };
        let back = Packet {
            carried: if dial.udp { Carried::Udp } else { Carried::Tcp(SYN | ACK) },
            options: 0,
            extensions: Vec::new(),
            ttl: 63,
            ..packet.between(by, seen)
        };
        for _ in 0..2 {
            // The answer.
            let frame = self.rig.frame(way.back, &back.ip());
            let (met, by_xdp) = self.pass(way.back, &frame);
            let want =
                back.between(packet.dst, packet.src).with_ttl(if way.back_is_routed { 62 } else { 63 });
            self.check(met.frame[ETHERNET..] == want.ip(), &met);
            let verdict = match (way.back_is_routed || way.back_to_node, by_xdp) {
                (false, _) => Verdict::Pass,
                (true, false) => Verdict::Redirect,
                (true, true) => Verdict::Back,
            };
            self.check(met.verdict == verdict, &met);
            // What follows.
            let place = dial.sender.place();
            let frame = self.rig.frame(place, &follows.ip());
            let (met, by_xdp) = self.pass(place, &frame);
            self.led_on(&follows, (seen, by), &way, &met, by_xdp);
        }
        way.name
    }

    /// It goes to the other node as it is, and so does what follows; what comes back does not come by here.
    fn tunnelled(&mut self, dial: &Dial, by: SocketAddr, way: &Way, met: &Met, by_xdp: bool) -> &'static str {
        let packet = &dial.packet;
        let right = |packet: &Packet, met: &Met, by_xdp: bool| {
            let want = tunnelled(&packet.with_ttl(packet.ttl - 1), way.source.unwrap(), by);
            let verdict = if by_xdp { Verdict::Back } else { Verdict::Redirect };
            met.verdict == verdict && met.frame[ETHERNET..] == want
        };
        self.check(right(packet, met, by_xdp), met);
        let follows =
            if dial.udp { packet.clone() } else { Packet { carried: Carried::Tcp(ACK), ..packet.clone() } };
        let frame = self.rig.frame(Place::FromNetwork, &follows.ip());
        let (met, by_xdp) = self.pass(Place::FromNetwork, &frame);
        self.check(right(&follows, &met, by_xdp), &met);
        "outside to there in a tunnel"
    }

    fn led_on(
        &self,
        packet: &Packet,
        (seen, by): (SocketAddr, SocketAddr),
        way: &Way,
        met: &Met,
        by_xdp: bool,
    ) {
        let verdict = match (way.is_routed, by_xdp) {
            (false, _) => Verdict::Pass,
            (true, false) => Verdict::Redirect,
            (true, true) => Verdict::Back,
        };
        let want = packet.between(seen, by).with_ttl(packet.ttl - u8::from(way.is_routed));
        self.check(met.verdict == verdict && met.frame[ETHERNET..] == want.ip(), met);
    }

    /// The Service that is dialled.
    fn dialled(&self, dial: &Dial) -> Option<&Service> {
        let own = [false, true].map(|is_v6| self.rig.own(is_v6));
        let is_it = |service: &&Service| {
            service.udp == dial.udp && service.dialled(&own).iter().any(|(_, at)| *at == dial.packet.dst)
        };
        self.cluster.services.iter().find(is_it)
    }

    /// A Maglev table says the same again when nothing is remembered; now and then that is tried.
    fn again(&mut self, dial: &Dial, frame: &[u8], met: Met, by_xdp: bool) -> (Met, bool) {
        if !self.dialled(dial).is_some_and(|service| service.maglev) || !self.random.once_in(60) {
            return (met, by_xdp);
        }
        self.rig.forget();
        let (again, by_xdp) = self.pass(dial.sender.place(), frame);
        self.check(led_to(&again) == led_to(&met), &again);
        (again, by_xdp)
    }

    fn affinity(&mut self, dial: &Dial, among: &BTreeSet<SocketAddr>, by: SocketAddr, met: &Met) {
        let service = self.dialled(dial).unwrap();
        if !service.affinity {
            return;
        }
        let (client, is_maglev) = ((dial.packet.src.ip(), service.number), service.maglev);
        if is_maglev {
            // The same choice, whatever happened in between.
            let before = self.placed.get(&client).filter(|(choice, _)| choice == among);
            self.check(before.is_none_or(|(_, was)| *was == by), met);
            self.placed.insert(client, (among.clone(), by));
            self.kept.remove(&client);
            return;
        }
        let bound = self.kept.get(&client).is_none_or(|kept| *kept == by || !among.contains(kept));
        self.check(bound, met);
        self.kept.insert(client, by);
    }
}
