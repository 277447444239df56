//! Whether what a program made of a packet, any packet, is something that it may make of it.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use super::{Met, Rig, SERVICES, Verdict};
use crate::{
    packet::{ETHERNET, Ends, Head, ICMP, ICMPV6, SCTP, TCP, UDP, read, read_quoted, residue, verify},
    reference::packets::Kind,
};

mod tunnels;

/// Where the ports begin that stand for a client's own when that serves for another address of the Service already.
const FIRST_OTHER_PORT: u16 = 32_768;

/// Knows what is dialled and who serves it.
#[derive(Clone, Debug)]
pub struct Judge {
    /// Address, port and protocol dialled, and the endpoint.
    dialled: HashMap<(SocketAddr, u8), Option<SocketAddr>>,
    /// NodePorts at the other node, which sends what dials them here in tunnels: answers are in its name.
    elsewhere: HashMap<(SocketAddr, u8), Option<SocketAddr>>,
    /// What came in tunnels so far, which say who serves it: what was dialled, and the endpoint. A later piece whose first has
    /// come by itself may begin a connection too: its ports are not in it, and 0 here.
    taken: RefCell<HashSet<(SocketAddr, u8, SocketAddr)>>,
    /// In whose name the node speaks.
    own: Vec<IpAddr>,
    /// The transports that go to other nodes in tunnels: TCP, UDP.
    tunnels: [bool; 2],
}

type Judged = Result<&'static str, String>;
type Way = fn(&Judge, &[u8], &Head, &Met, &Head) -> Judged;

/// What may be made of a packet, and what is said when that was not it.
const WAYS: [(&str, Way); 6] = [
    ("no translation", Judge::translation),
    ("no answer", Judge::answer),
    ("no error translated", Judge::error),
    ("not put into a tunnel", Judge::tunnelled),
    ("not taken out of one", Judge::taken_out),
    ("not told of one", Judge::told_of_tunnel),
];

impl Judge {
    /// For a rig with [`SERVICES`].
    pub fn new(rig: &Rig) -> Self {
        let own = rig.both();
        let mut dialled = HashMap::new();
        for (row, is_v6, kind) in SERVICES.into_iter().flat_map(|row| {
            [false, true].into_iter().flat_map(move |is_v6| Kind::ALL.map(|kind| (row, is_v6, kind)))
        }) {
            let protocol = match row.protocol {
                "TCP" => TCP,
                "UDP" => UDP,
                _ => SCTP,
            };
            let endpoint = row.pod.map(|_| row.endpoint(is_v6));
            dialled.insert((row.at(kind, is_v6, &own), protocol), endpoint);
        }
        let other: [IpAddr; 2] =
            ["192.168.50.12", "fd00:50::12"].map(|text| text.parse().expect("an address"));
        let node_ports = dialled.iter().filter(|((at, _), _)| own.contains(&at.ip()));
        let elsewhere = node_ports.map(|((at, protocol), endpoint)| {
            ((SocketAddr::new(other[usize::from(at.is_ipv6())], at.port()), *protocol), *endpoint)
        });
        let elsewhere = elsewhere.collect();
        let overlay = ["10.244.1.0", "fd00:10:244:1::"].map(|text| text.parse().expect("an address"));
        Self {
            dialled,
            elsewhere,
            taken: RefCell::default(),
            own: own.into_iter().chain(overlay).collect(),
            tunnels: [false; 2],
        }
    }

    /// What was done with `frame`.
    ///
    /// # Errors
    /// Why that must not be.
    pub fn judge(&self, frame: &[u8], met: &Met) -> Judged {
        match met.verdict {
            Verdict::Illegal(code) => return Err(format!("{code} is no verdict")),
            Verdict::Drop => return Ok("dropped"),
            Verdict::Pass if met.frame == frame => return Ok("passed"),
            Verdict::Pass | Verdict::Redirect | Verdict::Back => {}
        }
        let before = read(frame).ok_or("nobody can read it, and it was changed or sent")?;
        let after = read(&met.frame).ok_or("nobody can read what became of it")?;
        let mut why = Vec::new();
        for (name, way) in WAYS {
            match way(self, frame, &before, met, &after) {
                Ok(name) => return Ok(name),
                Err(error) => why.push(format!("{name}: {error}")),
            }
        }
        Err(why.join("; "))
    }

    /// Only the ends differ, hops and hardware addresses; and checksums are as right or as wrong as they were.
    fn translation(&self, frame: &[u8], before: &Head, met: &Met, after: &Head) -> Judged {
        let out = &met.frame;
        let later = before.piece.is_some_and(|(offset, _)| offset != 0);
        let (is_v6, at) = (before.ends.src.is_ipv6(), before.body_at);
        let mut may = may_in_ip(is_v6, ETHERNET, met.verdict);
        let check_at = match before.ends.protocol {
            _ if later => None,
            TCP => Some(at + 16),
            UDP => Some(at + 6),
            _ => None,
        };
        may.extend(check_at.into_iter().flat_map(|check_at| (at..at + 4).chain(check_at..check_at + 2)));
        differs_only(frame, out, &may)?;
        if (before.body_at, before.piece, before.ends.protocol)
            != (after.body_at, after.piece, after.ends.protocol)
        {
            return Err("its headers are others".to_owned());
        }
        hops(before, met, after)?;
        header_sum(frame, out, ETHERNET)?;
        if let Some(check_at) = check_at {
            let is_none =
                |bytes: &[u8]| before.ends.protocol == UDP && bytes[check_at..check_at + 2] == [0, 0];
            if is_none(frame) != is_none(out) {
                return Err("a checksum that is none came or went".to_owned());
            }
            let sum = |bytes: &[u8], ends: &Ends| {
                residue(Some((ends.src.ip(), ends.dst.ip(), ends.protocol)), &bytes[at..])
            };
            if !is_none(frame) && sum(frame, &before.ends) != sum(out, &after.ends) {
                return Err("the transport's checksum does not follow".to_owned());
            }
        }
        if later { self.is_piece_of_ours(before, after) } else { self.is_ours(&before.ends, &after.ends) }
    }

    /// There, to whoever serves what was dialled; or back, from what was dialled.
    fn is_ours(&self, before: &Ends, after: &Ends) -> Judged {
        let protocol = before.protocol;
        let taken = |dialled: SocketAddr, by: SocketAddr| {
            let whoever = |end: SocketAddr| SocketAddr::new(end.ip(), 0);
            let taken = self.taken.borrow();
            [(dialled, protocol, by), (whoever(dialled), protocol, whoever(by))]
                .iter()
                .any(|it| taken.contains(it))
        };
        if self.dialled.get(&(before.dst, protocol)) == Some(&Some(after.dst)) || taken(before.dst, after.dst)
        {
            let kept = before.src == after.src;
            if before.src.ip() == after.src.ip() && !kept && after.src.port() >= FIRST_OTHER_PORT {
                return Ok("led by another port");
            }
            if kept || self.own.contains(&after.src.ip()) {
                return Ok(if kept { "led" } else { "led in the node's name" });
            }
        }
        let spoken_for = [&self.dialled, &self.elsewhere].map(|map| map.get(&(after.src, protocol)));
        if spoken_for.contains(&Some(&Some(before.src))) || taken(after.src, before.src) {
            let kept = before.dst == after.dst;
            if before.dst.ip() == after.dst.ip() && !kept && before.dst.port() >= FIRST_OTHER_PORT {
                return Ok("led back from another port");
            }
            if kept || self.own.contains(&before.dst.ip()) {
                return Ok(if kept { "led back" } else { "led back from the node's name" });
            }
        }
        // What the node's stack cuts up in between gets its ends by halves.
        let is_endpoint = |at: SocketAddr| self.dialled.values().any(|endpoint| *endpoint == Some(at));
        let is_v4 = before.src.is_ipv4();
        if is_v4 && is_endpoint(before.src) && before.src == after.src && self.own.contains(&before.dst.ip())
        {
            return Ok("left to be cut on its way back");
        }
        if is_v4 && is_endpoint(before.dst) && before.dst == after.dst && self.own.contains(&after.src.ip()) {
            return Ok("a cut one led in the node's name");
        }
        Err(format!("{before:?} is not {after:?}"))
    }

    /// The same for what shows no ports.
    fn is_piece_of_ours(&self, before: &Head, after: &Head) -> Judged {
        let pair = |map: &HashMap<_, _>, dialled: SocketAddr, by: SocketAddr| {
            map.iter().any(|((at, protocol), endpoint): (&(SocketAddr, u8), &Option<SocketAddr>)| {
                at.ip() == dialled.ip()
                    && *protocol == before.ends.protocol
                    && endpoint.is_some_and(|endpoint| endpoint.ip() == by.ip())
            })
        };
        let taken = |dialled: SocketAddr, by: SocketAddr| {
            let is_it = |(at, protocol, endpoint): &(SocketAddr, u8, SocketAddr)| {
                (at.ip(), *protocol, endpoint.ip()) == (dialled.ip(), before.ends.protocol, by.ip())
            };
            self.taken.borrow().iter().any(is_it)
        };
        let (from, to) = (&before.ends, &after.ends);
        if pair(&self.dialled, from.dst, to.dst)
            || pair(&self.dialled, to.src, from.src)
            || pair(&self.elsewhere, to.src, from.src)
            || taken(from.dst, to.dst)
            || taken(to.src, from.src)
        {
            return Ok("a piece led");
        }
        // By halves, as in `is_ours`.
        let is_endpoint =
            |at: SocketAddr| self.dialled.values().flatten().any(|endpoint| endpoint.ip() == at.ip());
        let on_its_way_back =
            is_endpoint(from.src) && from.src == to.src && self.own.contains(&from.dst.ip());
        let in_our_name = is_endpoint(from.dst) && from.dst == to.dst && self.own.contains(&to.src.ip());
        if from.src.is_ipv4() && (on_its_way_back || in_our_name) {
            return Ok("a piece left to be cut");
        }
        Err(format!("{before:?} is not a piece of {after:?}"))
    }

    /// A reset, an ICMP error or a pong, from what was dialled to whoever dialled it.
    fn answer(&self, frame: &[u8], before: &Head, met: &Met, after: &Head) -> Judged {
        let (out, is_v6) = (&met.frame, before.ends.src.is_ipv6());
        if met.verdict != Verdict::Redirect {
            return Err(format!("{:?}", met.verdict));
        }
        let to = before.ends.dst.ip();
        let ours = self.own.contains(&to) || self.dialled.keys().any(|(at, _)| at.ip() == to);
        let icmp = if is_v6 { ICMPV6 } else { ICMP };
        let body = out.get(after.body_at..).unwrap_or_default();
        let is_of_router = after.ends.protocol == icmp
            && body.first() == Some(&if is_v6 { 3 } else { 11 })
            && before.ttl <= 1;
        let speaker = after.ends.src.ip() == before.ends.dst.ip()
            || (is_of_router && self.own.contains(&after.ends.src.ip()));
        let turned = speaker && after.ends.dst.ip() == before.ends.src.ip();
        let macs = out[..6] == frame[6..12] && out[6..12] == frame[..6];
        if !ours || !turned || !macs {
            return Err(format!("not turned round, or nobody's: {ours} {turned} {macs}"));
        }
        if before.ends.protocol == icmp && out.len() == frame.len() {
            let mut may = may_in_ip(is_v6, ETHERNET, met.verdict);
            may.extend([after.body_at, after.body_at + 2, after.body_at + 3]);
            differs_only(frame, out, &may)?;
            header_sum(frame, out, ETHERNET)?;
            let ends = |head: &Head| is_v6.then_some((head.ends.src.ip(), head.ends.dst.ip(), icmp));
            let same = residue(ends(before), &frame[before.body_at..]) == residue(ends(after), body);
            let types = (frame[before.body_at], body[0]);
            let right = types == if is_v6 { (128, 129) } else { (8, 0) };
            return if same && right { Ok("pong") } else { Err(format!("a wrong pong: {same}, {types:?}")) };
        }
        if before.piece.is_some_and(|(offset, _)| offset != 0) {
            // RFC 1812 §4.3.2.7.
            return Err("pieces without a header are nothing to answer".to_owned());
        }
        verify(out)?;
        if before.ends.protocol == TCP && after.ends.protocol == TCP {
            let reversed = (after.ends.src, after.ends.dst) == (before.ends.dst, before.ends.src);
            return if reversed && body[13] & 4 != 0 { Ok("reset") } else { Err("no reset".to_owned()) };
        }
        let kind = body.first_chunk::<2>().ok_or("it has no type")?;
        let is_error = matches!((is_v6, kind), (false, [3, 3 | 4] | [11, 0]) | (true, [1, 4] | [2 | 3, 0]));
        let quotes =
            body.get(8..).is_some_and(|quoted| frame[ETHERNET..].starts_with(quoted) && quoted.len() >= 28);
        if after.ends.protocol == icmp && is_error && quotes {
            Ok("told")
        } else {
            Err("no ICMP error".to_owned())
        }
    }

    /// An ICMP error whose quoted packet has its sender's ends again.
    fn error(&self, frame: &[u8], before: &Head, met: &Met, after: &Head) -> Judged {
        let (out, is_v6) = (&met.frame, before.ends.src.is_ipv6());
        let icmp = if is_v6 { ICMPV6 } else { ICMP };
        if before.ends.protocol != icmp {
            return Err("it is not ICMP".to_owned());
        }
        let at = before.body_at + 8;
        let quoted = read_quoted(frame, at, is_v6).ok_or("nobody can read what it quotes")?;
        let now = read_quoted(out, at, is_v6).ok_or("nobody can read what it quotes now")?;
        let mut may = may_in_ip(is_v6, ETHERNET, met.verdict);
        may.extend(before.body_at + 2..before.body_at + 4);
        // The quoted packet's hops are as they were.
        may.extend(may_in_ip(is_v6, at, Verdict::Pass));
        may.extend(quoted.body_at..quoted.body_at + 4);
        differs_only(frame, out, &may)?;
        hops(before, met, after)?;
        header_sum(frame, out, ETHERNET)?;
        header_sum(frame, out, at)?;
        let ends = |head: &Head| is_v6.then_some((head.ends.src.ip(), head.ends.dst.ip(), icmp));
        let sum = |bytes: &[u8], head: &Head| residue(ends(head), &bytes[before.body_at..]);
        if sum(frame, before) != sum(out, after) {
            return Err("the checksum of ICMP does not follow".to_owned());
        }
        let back = |ends: &Ends| Ends { src: ends.dst, dst: ends.src, protocol: ends.protocol };
        self.is_ours(&back(&quoted.ends), &back(&now.ends)).map(|_| "an error led")
    }
}

/// Which bytes of a frame may differ for a packet's IP header at `at` to have other ends and fewer hops.
fn may_in_ip(is_v6: bool, at: usize, verdict: Verdict) -> Vec<usize> {
    let macs = if verdict == Verdict::Pass { 0..0 } else { 0..12 };
    let hops = if verdict == Verdict::Pass { 0 } else { 1 };
    if is_v6 {
        return macs.chain(at + 8..at + 40).chain((0..hops).map(|_| at + 7)).collect();
    }
    macs.chain(at + 10..at + 20).chain((0..hops).map(|_| at + 8)).collect()
}

fn differs_only(before: &[u8], after: &[u8], may: &[usize]) -> Result<(), String> {
    if before.len() != after.len() {
        return Err(format!("{} bytes became {}", before.len(), after.len()));
    }
    let mut differing = (0..before.len()).filter(|at| before[*at] != after[*at]);
    differing.find(|at| !may.contains(at)).map_or(Ok(()), |at| Err(format!("byte {at} is another")))
}

fn hops(before: &Head, met: &Met, after: &Head) -> Result<(), String> {
    let fewer = before.ttl.checked_sub(after.ttl).ok_or("it gained hops")?;
    let right =
        if met.verdict == Verdict::Pass { fewer == 0 } else { fewer == 0 || (fewer == 1 && after.ttl > 0) };
    if right { Ok(()) } else { Err(format!("{} hops became {}", before.ttl, after.ttl)) }
}

/// The IPv4 header's checksum is as right or as wrong as it was.
fn header_sum(before: &[u8], after: &[u8], at: usize) -> Result<(), String> {
    if before[at] >> 4 != 4 {
        return Ok(());
    }
    let end = at + usize::from(before[at] & 15) * 4;
    let sum = |bytes: &[u8]| residue(None, &bytes[at..end.min(bytes.len())]);
    if sum(before) == sum(after) {
        Ok(())
    } else {
        Err("the IPv4 header's checksum does not follow".to_owned())
    }
}
