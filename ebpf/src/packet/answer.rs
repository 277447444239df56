//! Answers to packets that go nowhere: resets, ICMP errors, echo replies, all from the address that was dialled.

use sluice_common::{
    Reason,
    layout::{
        ADDRESS_CLUSTER_IP, ADDRESS_VIP, ANSWERS_HOPS, ANSWERS_REFUSED, ANSWERS_TOO_BIG, CONFIG_OPTIONS,
        HOOK_TO_NETWORK, OPTION_VIP_PING, TCP,
    },
    packet::{
        Fragment, Kind,
        checksum::{Difference, fold, sum},
        reply::{self, MOST_QUOTED, Trouble},
    },
};

use super::{Frame, Sum, Verdict, Work, begin, known, remember::take_own_address, rewrite::v4_pair};
use crate::{
    maps::{CONFIG, DEVICES},
    raw::{self, flows},
};

/// Tells whoever sent the packet that nobody serves what it dials: a reset, or ICMP port unreachable.
#[inline(always)]
pub fn refuse<F: Frame>(frame: F, work: &mut Work) -> Result<(), Reason> {
    work.verdict = Verdict::Drop;
    if matches!(work.packet.fragment, Fragment::Later) {
        return Ok(());
    }
    if !flows::may_answer(ANSWERS_REFUSED, work.now_ns) {
        return Err(Reason::AnswersExhausted);
    }
    work.speaker = work.packet.key.dst;
    // What cannot be answered is dropped.
    let _answered = if work.packet.key.protocol == TCP {
        reset(frame, work)
    } else {
        error(frame, work, Trouble::PortUnreachable)
    };
    Ok(())
}

/// Tells whoever sent the packet that it does not fit.
#[inline(always)]
pub fn too_big<F: Frame>(frame: F, work: &mut Work, mtu: u32) -> Result<(), Reason> {
    work.speaker = work.packet.key.dst;
    tell(frame, work, Trouble::TooBig(mtu), Reason::TooBig)
}

/// Tells whoever sent the packet that it has no hops left, as routers do: in the node's own name.
#[inline(always)]
pub fn hops_exceeded<F: Frame>(frame: F, work: &mut Work) -> Result<(), Reason> {
    work.route.ifindex = frame.ifindex();
    take_own_address(work)?;
    work.speaker = work.flow.src;
    tell(frame, work, Trouble::HopsExceeded, Reason::HopsExceeded)
}

#[inline(always)]
fn tell<F: Frame>(frame: F, work: &mut Work, trouble: Trouble, reason: Reason) -> Result<(), Reason> {
    let store = if matches!(trouble, Trouble::HopsExceeded) { ANSWERS_HOPS } else { ANSWERS_TOO_BIG };
    work.verdict = Verdict::Drop;
    work.count_besides(reason);
    // Of a datagram in pieces only the first is answered, and of ICMP errors none (RFC 1812 §4.3.2.7).
    if matches!(work.packet.fragment, Fragment::Later) || matches!(work.packet.kind, Kind::Error) {
        return Ok(());
    }
    if !flows::may_answer(store, work.now_ns) {
        return Err(Reason::AnswersExhausted);
    }
    let _answered = error(frame, work, trouble);
    Ok(())
}

#[inline(never)]
fn reset<F: Frame>(frame: F, work: &mut Work) -> Option<()> {
    let packet = &work.packet;
    let head: [u8; 16] = frame.load(packet.l4_at)?;
    let header_length = u32::from(head[12] >> 4) * 4;
    let payload = packet.length.checked_sub(packet.l4_at - packet.ip_at + header_length)?;
    let header = reply::reset(packet, &head, payload)?;
    let at = packet.ip_at;
    let (src, dst) = (&packet.key.dst, &packet.key.src);
    if packet.is_v6 {
        frame.resize(at + 40 + 20)?;
        frame.store(at, &reply::ipv6_head(TCP, 20, 0))?;
        frame.store::<16>(at + 8, &bytemuck::must_cast(src.words_be))?;
        frame.store::<16>(at + 24, &bytemuck::must_cast(dst.words_be))?;
        frame.store(at + 40, &header)?;
    } else {
        frame.resize(at + 20 + 20)?;
        frame.store(at, &reply::ipv4_header((src, dst), TCP, 40, 0))?;
        frame.store(at + 20, &header)?;
    }
    turn_round(frame, work)
}

/// Makes of the packet an error about it, that it does not fit.
#[inline(never)]
pub fn make_too_big<F: Frame>(frame: F, work: &mut Work, mtu: u32) -> Option<()> {
    make(frame, work, Trouble::TooBig(mtu))?;
    // What it is now; the rest of it is nobody's business any more.
    work.packet.length = MOST_QUOTED;
    Some(())
}

#[inline(always)]
fn error<F: Frame>(frame: F, work: &mut Work, trouble: Trouble) -> Option<()> {
    make(frame, work, trouble)?;
    turn_round(frame, work)
}

/// An ICMP error about the packet; quotes its headers and the first eight bytes behind them, in which the ports are.
#[inline(always)]
fn make<F: Frame>(frame: F, work: &Work, trouble: Trouble) -> Option<()> {
    if work.packet.is_v6 { error_v6(frame, work, trouble) } else { error_v4(frame, work, trouble) }
}

#[inline(never)]
fn error_v4<F: Frame>(frame: F, work: &Work, trouble: Trouble) -> Option<()> {
    let (at, quoted) = (work.packet.ip_at, quoted(work)?);
    let mut header = trouble.header(false);
    let check = (!fold(sum_of(frame, at, quoted, sum(0, &header))?)).to_ne_bytes();
    (header[2], header[3]) = (check[0], check[1]);
    frame.resize(at + quoted)?;
    frame.insert(28)?;
    let (length, ends) = (28 + quoted as u16, (&work.speaker, &work.packet.key.src));
    frame.store(at, &reply::ipv4_header(ends, reply::icmp(false), length, 0))?;
    frame.store(at + 20, &header)
}

#[inline(never)]
fn error_v6<F: Frame>(frame: F, work: &Work, trouble: Trouble) -> Option<()> {
    let (at, quoted) = (work.packet.ip_at, quoted(work)?);
    let mut header = trouble.header(true);
    let length = 8 + quoted;
    let mut key = work.packet.key.reversed();
    (key.src, key.protocol) = (work.speaker, reply::icmp(true));
    let start = sum(reply::pseudo(&key, true, length), &header);
    let check = (!fold(sum_of(frame, at, quoted, start)?)).to_ne_bytes();
    (header[2], header[3]) = (check[0], check[1]);
    frame.resize(at + quoted)?;
    frame.insert(48)?;
    frame.store(at, &reply::ipv6_head(key.protocol, length as u16, 0))?;
    frame.store::<16>(at + 8, &bytemuck::must_cast(key.src.words_be))?;
    frame.store::<16>(at + 24, &bytemuck::must_cast(key.dst.words_be))?;
    frame.store(at + 40, &header)
}

/// How many bytes of the packet an error quotes: a multiple of four. `None` if its headers are too long.
#[inline(always)]
const fn quoted(work: &Work) -> Option<u32> {
    let length = work.packet.l4_at - work.packet.ip_at + 8;
    if length > MOST_QUOTED { None } else { Some(length) }
}

/// The sum of `length` bytes, a multiple of four, behind `start`.
#[inline(always)]
fn sum_of<F: Frame>(frame: F, at: u32, length: u32, start: u32) -> Option<u32> {
    let mut total = start;
    for word in 0..MOST_QUOTED / 4 {
        if word * 4 >= length {
            break;
        }
        total = sum(total, &frame.load::<4>(at + word * 4)?);
    }
    Some(total)
}

/// Answers a ping of a Service's address.
#[inline(never)]
pub fn echo<F: Frame>(frame: F, work: &mut Work) -> Result<Reason, Reason> {
    let kind = work.address_kind;
    if kind == 0 {
        return Err(begin::unallocated(&work.packet.key.dst));
    }
    let wanted = CONFIG.get(CONFIG_OPTIONS).is_some_and(|options| options & OPTION_VIP_PING != 0);
    if kind & (ADDRESS_CLUSTER_IP | ADDRESS_VIP) == 0 || !wanted {
        return Err(Reason::NotOurs);
    }
    pong(frame, work).ok_or(Reason::Malformed)?;
    Ok(Reason::EchoAnswered)
}

#[inline(always)]
fn pong<F: Frame>(frame: F, work: &mut Work) -> Option<()> {
    let packet = &work.packet;
    let (src, dst) = (&packet.key.dst, &packet.key.src);
    // The sums over addresses stay the same when the two change places.
    let was: [u8; 2] = frame.load(packet.l4_at)?;
    let now = [if packet.is_v6 { 129 } else { 0 }, was[1]];
    if packet.is_v6 {
        frame.store::<16>(packet.ip_at + 8, &bytemuck::must_cast(src.words_be))?;
        frame.store::<16>(packet.ip_at + 24, &bytemuck::must_cast(dst.words_be))?;
    } else {
        frame.store(packet.ip_at + 12, &v4_pair(src, dst))?;
    }
    let word = |bytes: [u8; 2]| u32::from(u16::from_ne_bytes(bytes));
    let by = Difference::NONE.word(word(was), word(now));
    frame.fix_transport(packet.l4_at + 2, by, Sum::Header, packet.key.protocol, packet.is_v6)?;
    frame.store(packet.l4_at, &now)?;
    turn_round(frame, work)
}

/// Sends the packet back over the link that it came by.
#[inline(always)]
fn turn_round<F: Frame>(frame: F, work: &mut Work) -> Option<()> {
    if !work.packet.is_bare() {
        let macs: [u8; 12] = frame.load(0)?;
        frame.store(
            0,
            &[
                macs[6], macs[7], macs[8], macs[9], macs[10], macs[11], macs[0], macs[1], macs[2], macs[3],
                macs[4], macs[5],
            ],
        )?;
    }
    work.verdict = frame.send_back(work.hook == HOOK_TO_NETWORK);
    Some(())
}

/// Hands the packet to the node as if it had come in by that device.
#[inline(always)]
pub fn to_node<F: Frame>(frame: F, work: &mut Work) -> Result<(), Reason> {
    let ifindex = work.flow.ifindex;
    // Only what is addressed to the device itself is taken for the node's.
    let device = raw::get(&DEVICES, &ifindex).ok_or(Reason::NoRoute)?;
    known::dress(frame, work)?;
    frame.store(0, &device.mac).ok_or(Reason::Malformed)?;
    work.verdict = frame.hand_over(ifindex, true);
    Ok(())
}
