//! What may leave in a tunnel, what may come out of one, and what may be told of one.

use std::net::{IpAddr, SocketAddr};

use super::{Judge, Judged, differs_only, header_sum};
use crate::{
    packet::{ETHERNET, Ends, Head, ICMP, ICMPV6, TCP, UDP, read, read_quoted, verify},
    rig::{LOCAL_PODS, Met, Rig, Verdict, exchange::in_tunnel},
};

/// Protocol number of a tunnel of that family.
pub const fn tunnel(is_v6: bool) -> u8 {
    if is_v6 { 41 } else { 4 }
}

impl Judge {
    /// Which transports go to other nodes in tunnels from now on: TCP, UDP. Connections before that are forgotten.
    pub fn set_tunnels(&mut self, tunnels: [bool; 2]) {
        self.tunnels = tunnels;
        self.taken.borrow_mut().clear();
    }

    /// All that came, one hop shorter, behind a header that leads to the endpoint of what was dialled, on another node.
    pub(super) fn tunnelled(&self, frame: &[u8], before: &Head, met: &Met, after: &Head) -> Judged {
        let is_v6 = before.ends.src.is_ipv6();
        let overhead = overhead(is_v6);
        if met.frame.len() != frame.len() + overhead || after.ends.protocol != tunnel(is_v6) {
            return Err("no header was put in front of it".to_owned());
        }
        if !matches!(met.verdict, Verdict::Redirect | Verdict::Back) || before.ttl < 2 {
            return Err(format!("{:?} with {} hops", met.verdict, before.ttl));
        }
        let inside = without_outer(&met.frame, overhead);
        let hops_at = ETHERNET + if is_v6 { 7 } else { 8 };
        let mut may: Vec<usize> = (0..12).chain([hops_at]).collect();
        if !is_v6 {
            may.extend(ETHERNET + 10..ETHERNET + 12);
        }
        // Among them its ends: nothing is translated.
        differs_only(frame, &inside, &may)?;
        header_sum(frame, &inside, ETHERNET)?;
        if inside[hops_at] + 1 != before.ttl {
            return Err(format!("{} hops became {}", before.ttl, inside[hops_at]));
        }
        let at = if is_v6 { ETHERNET + 2 } else { ETHERNET + 4 };
        let to = SocketAddr::new(after.ends.dst.ip(), u16::from_be_bytes([met.frame[at], met.frame[at + 1]]));
        // The outer header says as much as the inner one, whatever that is worth, and is of the node.
        let stated = usize::from(u16::from_be_bytes([frame[ETHERNET + 2], frame[ETHERNET + 3]]));
        let stated_v6 = 40 + usize::from(u16::from_be_bytes([frame[ETHERNET + 4], frame[ETHERNET + 5]]));
        let length = if is_v6 { stated_v6 } else { stated };
        let own = self.own.iter().find(|own| own.is_ipv6() == is_v6).ok_or("the node has no address")?;
        let by_overlay = self.own.iter().rfind(|own| own.is_ipv6() == is_v6).unwrap_or(own);
        let is_header = |own: &IpAddr| met.frame[ETHERNET..ETHERNET + overhead] == header(*own, to, length);
        if !is_header(own) && !is_header(by_overlay) {
            return Err(format!("the outer header is not that of {length} bytes to {to}"));
        }
        self.is_remote(to)?;
        self.is_for(frame, before, to)
    }

    /// An endpoint of another node.
    fn is_remote(&self, to: SocketAddr) -> Result<(), String> {
        let remote = &Rig::pods(to.is_ipv6())[LOCAL_PODS..];
        let serves = self.dialled.values().any(|endpoint| *endpoint == Some(to));
        if serves && remote.contains(&to.ip()) {
            Ok(())
        } else {
            Err(format!("{to} is no endpoint elsewhere"))
        }
    }

    /// Whether a client's packet, a piece of one, or an error about an answer to one is for that endpoint.
    fn is_for(&self, frame: &[u8], before: &Head, to: SocketAddr) -> Judged {
        let is_v6 = to.is_ipv6();
        if before.ends.protocol == if is_v6 { ICMPV6 } else { ICMP } {
            let quoted =
                read_quoted(frame, before.body_at + 8, is_v6).ok_or("nobody can read what it quotes")?;
            let Ends { src, protocol, .. } = quoted.ends;
            let is_ours = self.dialled.get(&(src, protocol)) == Some(&Some(to));
            let is_on = self.is_on(protocol);
            return if is_ours && is_on {
                Ok("an error put into a tunnel")
            } else {
                Err(format!("{quoted:?}, {is_on}"))
            };
        }
        if !self.is_on(before.ends.protocol) {
            return Err("its transport goes in no tunnels".to_owned());
        }
        if before.piece.is_some_and(|(offset, _)| offset != 0) {
            let is_ours = self.dialled.iter().any(|((at, protocol), by)| {
                (at.ip(), *protocol, *by) == (before.ends.dst.ip(), before.ends.protocol, Some(to))
            });
            return if is_ours { Ok("a piece put into a tunnel") } else { Err(format!("no piece for {to}")) };
        }
        if self.dialled.get(&(before.ends.dst, before.ends.protocol)) == Some(&Some(to)) {
            Ok("put into a tunnel")
        } else {
            Err(format!("{} is not served by {to}", before.ends.dst))
        }
    }

    fn is_on(&self, protocol: u8) -> bool {
        match protocol {
            TCP => self.tunnels[0],
            UDP => self.tunnels[1],
            _ => false,
        }
    }

    /// What was in a tunnel to an endpoint of this node, led to that very endpoint; or an error about its answer.
    pub(super) fn taken_out(&self, frame: &[u8], before: &Head, met: &Met, after: &Head) -> Judged {
        let is_v6 = before.ends.src.is_ipv6();
        let overhead = overhead(is_v6);
        let outer_only = before.ends.protocol == tunnel(is_v6) && before.body_at == ETHERNET + overhead;
        if !outer_only || before.piece.is_some() || met.frame.len() + overhead != frame.len() {
            return Err("it was in no tunnel".to_owned());
        }
        if met.verdict != Verdict::Pass {
            return Err(format!("{:?}", met.verdict));
        }
        let to = before.ends.dst.ip();
        let local = &Rig::pods(is_v6)[..LOCAL_PODS];
        let serves = self.dialled.values().flatten().any(|by| by.ip() == to);
        if !serves || !local.contains(&to) {
            return Err(format!("{to} is no endpoint here"));
        }
        let inside = without_outer(frame, overhead);
        let inner = read(&inside).ok_or("nobody can read what was in it")?;
        // Which port of the endpoint, a connection's first tunnel says: its sender knows the cluster as well.
        let about = |frame: &[u8], head: &Head| {
            let is_icmp = matches!(head.ends.protocol, ICMP | ICMPV6);
            read_quoted(frame, head.body_at + 8, is_v6).filter(|_| is_icmp).map(|about| about.ends.src)
        };
        let asked = about(&inside, &inner).unwrap_or(inner.ends.dst);
        let there = SocketAddr::new(to, about(&met.frame, after).unwrap_or(after.ends.dst).port());
        let sent_there = self.all_served_by(there, asked);
        let led = sent_there.translation(&inside, &inner, met, after);
        match led {
            Ok("led" | "led by another port") if matches!(inner.ends.protocol, TCP | UDP) => {
                self.taken.borrow_mut().insert((inner.ends.dst, inner.ends.protocol, after.ends.dst));
                return Ok("taken out of a tunnel");
            }
            Ok("a piece led") => {
                let [dialled, by] = [inner.ends.dst, after.ends.dst].map(|end| SocketAddr::new(end.ip(), 0));
                self.taken.borrow_mut().insert((dialled, inner.ends.protocol, by));
                return Ok("a piece taken out of a tunnel");
            }
            Ok(_) | Err(_) => {}
        }
        let told = sent_there
            .error(&inside, &inner, met, after)
            .map_err(|error| format!("{led:?} for {:?}, {error}", inner.ends))?;
        if after.ends.dst.ip() == to { Ok("an error taken out of a tunnel") } else { Err(told.to_owned()) }
    }

    /// One that takes `by` for what serves everything that can be dialled, and NodePorts at `asked` too, which may be another
    /// node's address: of later pieces nobody knows the port.
    fn all_served_by(&self, by: SocketAddr, asked: SocketAddr) -> Self {
        let mut judge = self.clone();
        judge.dialled.values_mut().for_each(|endpoint| *endpoint = Some(by));
        for (at, protocol) in self.dialled.keys() {
            if self.own.contains(&at.ip()) && [at.port(), 0].contains(&asked.port()) {
                judge.dialled.insert((asked, *protocol), Some(by));
            }
        }
        judge
    }

    /// Of an error about a tunnel from here one about the packet in it, from whom that was for to its sender.
    pub(super) fn told_of_tunnel(&self, frame: &[u8], before: &Head, met: &Met, after: &Head) -> Judged {
        let is_v6 = before.ends.src.is_ipv6();
        let icmp = if is_v6 { ICMPV6 } else { ICMP };
        if (before.ends.protocol, after.ends.protocol) != (icmp, icmp) || met.verdict != Verdict::Redirect {
            return Err(format!("{:?}", met.verdict));
        }
        let at = before.body_at + 8;
        let outer = read_quoted(frame, at, is_v6).ok_or("nobody can read what it quotes")?;
        if outer.ends.protocol != tunnel(is_v6) || !self.own.contains(&outer.ends.src.ip()) {
            return Err("it quotes no tunnel of ours".to_owned());
        }
        let inner =
            read_quoted(frame, outer.body_at, is_v6).ok_or("nobody can read the packet in the tunnel")?;
        let by = self.dialled.get(&(inner.ends.dst, inner.ends.protocol)).copied().flatten();
        let is_ours = by.is_some_and(|by| by.ip() == outer.ends.dst.ip()) && self.is_on(inner.ends.protocol);
        let turned = (after.ends.src.ip(), after.ends.dst.ip()) == (inner.ends.dst.ip(), inner.ends.src.ip());
        let quoted = met.frame.get(after.body_at + 8..after.end).unwrap_or_default();
        let kind = met.frame.get(after.body_at..after.body_at + 2);
        let is_right = kind == Some(if is_v6 { &[2, 0] } else { &[3, 4] })
            && quoted.len() >= 28
            && frame[outer.body_at..].starts_with(quoted);
        verify(&met.frame)?;
        if is_ours && turned && is_right {
            Ok("told of a tunnel")
        } else {
            Err(format!("ours {is_ours}, turned round {turned}, right {is_right}"))
        }
    }
}

const fn overhead(is_v6: bool) -> usize {
    if is_v6 { 40 } else { 20 }
}

fn without_outer(frame: &[u8], overhead: usize) -> Vec<u8> {
    [&frame[..ETHERNET], &frame[ETHERNET + overhead..]].concat()
}

/// The header of a tunnel with so many bytes in it.
fn header(own: IpAddr, to: SocketAddr, length: usize) -> Vec<u8> {
    let mut whole = in_tunnel(&vec![0; length], own, to);
    whole.truncate(whole.len() - length);
    whole
}
